"""Rewriting a forward that fixes the number of axes into one for volumes.

A forward is traced with torch.fx, the modules that it calls being leaves. Between them volumes are
*folded*: depth and height share one axis, so that whatever a 2D forward does to single pixels, to
channels or to the whole plane (means, views, permutations, unpacked shapes) it does to volumes,
word for word. Tensors are unfolded where a module takes them, and around functions that see
neighbours (pools, padding, interpolation), which are replaced by their 3D namesakes.
"""

import builtins
import inspect
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves

from crossd.trial import Axes, Frames, Mismatch, axes

SIMPLE = (bool, int, float, str, type(None))


class Untraceable(Mismatch):
    """A forward that cannot be traced or translated."""


class _Proxy(fx.Proxy):
    """A proxy that knows what it stands for in each of the runs."""

    tracer: "_Tracer"

    def __len__(self) -> int:
        return int(self.tracer.agreed(self, len))

    def __index__(self) -> int:
        return int(self.tracer.agreed(self, operator.index))

    def __getattr__(self, k: str) -> "_Attribute":
        return _Attribute(self, k)


class _Attribute(fx.proxy.Attribute, _Proxy):
    """An attribute or method of a proxy."""


class _Tracer(fx.Tracer):
    """Traces a module in the course of its recorded call, so that it knows every value."""

    proxy_buffer_attributes = True

    def __init__(self, frames: Frames, training: bool) -> None:
        super().__init__()
        self.frames = frames
        self.training, self.branches = training, False
        module = frames[0].module  # looked up here: asking a module that is traced gives a proxy
        self.state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        self.values: dict[fx.Node, list[Any]] = {}
        self.ahead = [iter(frame.inner) for frame in frames]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_proxy(self, kind: str, target: Any, *args: Any, **kwargs: Any) -> Any:
        proxy = super().create_proxy(kind, target, *args, **kwargs)
        if proxy.node not in self.values:
            with torch.no_grad():
                self.values[proxy.node] = [
                    self._value(proxy.node, run) for run in range(len(self.frames))
                ]
        return proxy

    def _value(self, node: fx.Node, run: int) -> Any:
        args, kwargs = map_arg((node.args, node.kwargs), lambda n: self.values[n][run])
        if node.target == "training":
            return self.training
        if node.op == "get_attr":
            return self.state[str(node.target)]
        if node.op == "call_module":
            inner = next(self.ahead[run], None)
            if inner is None or inner.module is not self.root.get_submodule(str(node.target)):
                raise Untraceable("it calls other modules when traced")
            return inner.output
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        if node.op == "call_function":
            return node.target(*args, **kwargs)  # type: ignore[operator]
        raise Untraceable(f"unexpected {node.op}")

    def agreed(self, proxy: fx.Proxy, of: Callable[[Any], Any]) -> Any:
        """Give something of a value that does not depend on the size of the images."""
        found = [of(value) for value in self.values[proxy.node]]
        if any(value != found[0] for value in found) or self._sized(proxy.node):
            raise Untraceable("it branches on the size of the image")
        return found[0]

    def _sized(self, node: fx.Node) -> bool:
        """Tell whether a value was computed from a size that changes with the image."""
        own = self.values[node]
        if isinstance(own[0], Tensor) or (
            len(tree_leaves(own[0])) and isinstance(tree_leaves(own[0])[0], Tensor)
        ):
            return False
        if any(value != own[0] for value in own):
            return True
        return any(self._sized(parent) for parent in node.all_input_nodes)

    def to_bool(self, obj: fx.Proxy) -> bool:
        self.branches = self.branches or obj.node.target == "training"
        return bool(self.agreed(obj, bool))

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        proxy: Any = obj
        return iter([proxy[index] for index in range(self.agreed(obj, len))])

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        signature = inspect.signature(root_fn)
        bound = [signature.bind(self.root, *f.args, **f.kwargs) for f in self.frames]
        for one in bound:
            one.apply_defaults()
        asked: Any = self.create_proxy("get_attr", "training", (), {})
        self.root.training = asked
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for name, parameter in list(signature.parameters.items())[1:]:
            values = [one.arguments[name] for one in bound]
            variable = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            if variable and not values[0]:
                continue
            if parameter.kind is parameter.VAR_KEYWORD:
                raise Untraceable(f"it takes arguments by keywords that it does not name: **{name}")
            target = f"*{name}" if variable else name
            default: tuple[Any, ...] = ()
            if parameter.default is not parameter.empty:
                default = (parameter.default if isinstance(parameter.default, SIMPLE) else None,)
            node = self.create_node("placeholder", target, default, {})
            self.values[node] = values
            known: Any = self.proxy(node)
            if not any(isinstance(leaf, Tensor) for leaf in tree_leaves(values[0])):
                if not isinstance(values[0], SIMPLE):
                    raise Untraceable(f"it takes {type(values[0]).__name__} as {name!r}")
                node.meta["constant"], known = values[0], values[0]
            if variable:
                args += list(known)
            elif parameter.kind is parameter.KEYWORD_ONLY:
                kwargs[name] = known
            else:
                args.append(known)
        return (lambda: root_fn(self.root, *args, **kwargs)), []


def lift_forward(frames: Frames) -> "Forward":
    """Translate the forward of a module, recorded in `frames`, to volumes.

    Returns:
        A forward with the same parameters, which uses torch and the module alone.

    Raises:
        Untraceable: saying why.
    """
    graph, branches = _lift(frames, False)
    source, names = _code(graph)
    texts = {False: source, True: source}
    if branches:  # on `self.training`: what it does in training is traced for itself
        texts[True], more = _code(_lift(frames, True)[0])
        names = names | more
    tensors = [v for v in tree_leaves((frames[0].args, frames[0].kwargs)) if isinstance(v, Tensor)]
    if not tensors:
        raise Untraceable("it takes no tensor")
    return Forward(texts, names, tensors[0].dim())


def _lift(frames: Frames, training: bool) -> tuple[fx.Graph, bool]:
    module = frames[0].module
    tracer, kept = _Tracer(frames, training), module.training
    try:
        graph = tracer.trace(module)
    except Mismatch:
        raise
    except Exception as error:  # fx raises many kinds for what it cannot follow
        text = " ".join(str(error).split())
        raise Untraceable(f"torch.fx cannot trace it ({text[:160]})") from error
    finally:
        module.training = kept
    constants = [name for name in vars(module) if name.startswith("_tensor_constant")]
    for name in constants:
        delattr(module, name)
    if constants:
        raise Untraceable("it makes a tensor out of nothing, which would not follow the device")
    return _Translation(graph, tracer.values).run(), tracer.branches


class _Translation:
    """Writes the graph for volumes, node by node.

    Attributes:
        env: The new node for each old one: of tensors, the folded form.
        depths: A node that gives the depth for each old node whose value carries height.
        raw: Old nodes whose new ones hold unfolded tensors, as modules give and take them.
        unfolded: The unfolded form of old nodes where it is at hand.
        parts: Old nodes for single elements of containers.
    """

    def __init__(self, graph: fx.Graph, values: dict[fx.Node, list[Any]]) -> None:
        self.old, self.values = graph, values
        self.new = fx.Graph()
        self.env: dict[fx.Node, Any] = {}
        self.depths: dict[fx.Node, fx.Node] = {}
        self.raw: set[fx.Node] = set()
        self.unfolded: dict[fx.Node, fx.Node] = {}
        self.parts: dict[tuple[fx.Node, int], fx.Node] = {}

    def run(self) -> fx.Graph:
        for node in self.old.nodes:
            getattr(self, f"_{node.op}")(node)
        return _without_dead_sizes(self.new)

    # Folding

    def _axes(self, node: fx.Node) -> Axes:
        return axes(self.values[node])

    def _is_tensor(self, node: fx.Node) -> bool:
        return isinstance(self.values[node][0], Tensor)

    def _place(self, node: fx.Node) -> int | None:
        """The axis before which depth stands in the unfolded form, if it does."""
        at = self._axes(node)
        if at.height is not None:
            return at.height
        return 2 if at.merged is None and self.values[node][0].dim() == 4 else None

    def _keep(self, node: fx.Node, unfolded: fx.Node) -> None:
        """Note what stands for an old node, given in unfolded form."""
        if not self._is_tensor(node):
            self.env[node] = unfolded
            if any(isinstance(leaf, Tensor) for leaf in tree_leaves(self.values[node][0])):
                self.raw.add(node)
            return
        place = self._place(node)
        if place is None:
            self.env[node] = unfolded
            self._inherit(node)
            return
        self.unfolded[node] = unfolded
        if self._axes(node).height is not None:
            self.depths[node] = self.new.call_method("size", (unfolded, place))
        self.env[node] = self.new.call_method("flatten", (unfolded, place, place + 1))

    def _unfold(self, node: fx.Node) -> Any:
        """Give the unfolded form, as modules take it."""
        value = self.values[node][0]
        if node in self.raw:
            return self.env[node]
        if node in self.unfolded:
            return self.unfolded[node]
        if isinstance(value, tuple | list) and any(isinstance(v, Tensor) for v in value):
            return [self._unfold(self._part(node, i)) for i in range(len(value))]
        if not isinstance(value, Tensor):
            return self.env[node]
        place = self._place(node)
        if place is None:
            return self.env[node]
        if self._axes(node).height is None:
            return self.new.call_method("unsqueeze", (self.env[node], place))
        return self.new.call_method("unflatten", (self.env[node], place, (self._depth(node), -1)))

    def _part(self, node: fx.Node, index: int) -> fx.Node:
        """An old node for one element of a container."""
        if (node, index) in self.parts:
            return self.parts[node, index]
        with self.old.inserting_after(node):
            part = self.old.call_function(operator.getitem, (node, index))
        self.values[part] = [value[index] for value in self.values[node]]
        self.parts[node, index] = part
        self._call_function(part)
        return part

    def _depth(self, node: fx.Node) -> fx.Node:
        if node not in self.depths:
            raise Untraceable(f"the depth of {node.name!r} is not known")
        return self.depths[node]

    def _inherit(self, node: fx.Node) -> None:
        """Take the depth from what a value was made of: tensors that carry height come first."""
        given = node.all_input_nodes
        given += [part for (whole, _), part in self.parts.items() if whole in given]
        for parent in sorted(given, key=lambda parent: not self._is_tensor(parent)):
            if parent in self.depths:
                self.depths[node] = self.depths[parent]
                return

    def _folded(self, value: Any) -> Any:
        """Old arguments as new ones, in folded form."""

        def of(node: fx.Node) -> Any:
            if node not in self.raw:
                return self.env[node]
            return [self.env[self._part(node, i)] for i in range(len(self.values[node][0]))]

        return map_arg(value, of)

    # Nodes

    def _placeholder(self, node: fx.Node) -> None:
        new = self.new.create_node("placeholder", node.target, node.args, {})
        if "constant" in node.meta:
            constant = node.meta["constant"]
            same = self.new.call_function(operator.eq, (new, constant))
            text = f"on volumes {node.name} must be {constant!r}, as it was when converted"
            self.new.call_function(torch._assert, (same, text))
            self.env[node] = new
            return
        self._keep(node, new)

    def _get_attr(self, node: fx.Node) -> None:
        self.env[node] = self.new.get_attr(str(node.target))

    def _call_module(self, node: fx.Node) -> None:
        args, kwargs = map_arg((node.args, node.kwargs), self._unfold)
        self._keep(node, self.new.call_module(str(node.target), args, kwargs))

    def _output(self, node: fx.Node) -> None:
        self.new.output(map_arg(node.args[0], self._unfold))

    def _call_method(self, node: fx.Node) -> None:
        self._call(node, str(node.target))

    def _call_function(self, node: fx.Node) -> None:
        self._call(node, getattr(node.target, "__name__", str(node.target)))

    def _call(self, node: fx.Node, name: str) -> None:
        if node.target in (torch._assert, builtins.print):
            return
        first: Any = node.args[0] if node.args else None
        if name == "getitem" and first in self.raw:
            part = (self.env[first], node.args[1])
            self._keep(node, self.new.call_function(operator.getitem, part))
            return
        if name in REFUSED and any(self._is_tensor(n) for n in node.all_input_nodes):
            raise Untraceable(f"{name} has no counterpart for volumes")
        if name in SPATIAL or (name == "getitem" and self._cuts_rows(node)):
            translate = SPATIAL.get(name, _rows)
            self._keep(node, translate(self, node))
            return
        args, kwargs = self._folded(node.args), self._folded(node.kwargs)
        self.env[node] = self.new.create_node(node.op, node.target, args, kwargs)
        self._inherit(node)

    def _cuts_rows(self, node: fx.Node) -> bool:
        """Tell whether indexing takes a part of the height."""
        source: Any = node.args[0]
        if not isinstance(source, fx.Node) or not self._is_tensor(source):
            return False
        height = self._axes(source).height
        if height is None:
            return False
        part = _indices(node.args[1], self.values[source][0].dim())[height]
        return part != slice(None)

    # Sizes

    def size(self, value: Any) -> Any:
        """Turn sizes of the plane, (height, width) or one number, into sizes of volumes."""
        if isinstance(value, fx.Node) and isinstance(self.values[value][0], tuple | list):
            value = [(value, index) for index in range(len(self.values[value][0]))]
        if not isinstance(value, tuple | list):
            return self._folded(value) if not self._measured(value) else self._pair(value, value)
        if len(value) != 2:
            raise Untraceable(f"it gives {len(value)} sizes to a function of the plane")
        return self._pair(*value)

    def _measured(self, value: Any) -> bool:
        return isinstance(value, fx.Node) and value in self.depths

    def _pair(self, height: Any, width: Any) -> tuple[Any, Any, Any]:
        def resolve(value: Any) -> tuple[Any, fx.Node | None]:
            if isinstance(value, tuple):  # an element of a node that holds a shape
                node, index = value
                new = self.new.call_function(operator.getitem, (self.env[node], index))
                changes = len({v[index] for v in self.values[node]}) > 1
                return new, self.depths.get(node) if changes else None
            if self._measured(value):
                return self.env[value], self.depths[value]
            return self._folded(value), None

        (tall, depth), (wide, _) = resolve(height), resolve(width)
        if depth is None:
            return (tall, tall, wide)
        return (depth, self.new.call_function(operator.floordiv, (tall, depth)), wide)


def _indices(index: Any, axes_count: int) -> list[Any]:
    """What an index takes of each axis; `slice(None)` where it takes all."""
    parts = list(index) if isinstance(index, tuple) else [index]
    if any(isinstance(part, fx.Node | Tensor | list) or part is None for part in parts):
        parts = [slice(None) if part is Ellipsis else part for part in parts if part is not None]
    if Ellipsis in parts:
        at = parts.index(Ellipsis)
        parts[at : at + 1] = [slice(None)] * (axes_count - len(parts) + 1)
    return parts + [slice(None)] * (axes_count - len(parts))


def _rows(self: _Translation, node: fx.Node) -> fx.Node:
    """Indexing that takes a part of the height takes the same part of the depth."""
    source: Any = node.args[0]
    height = self._axes(source).height
    assert height is not None
    parts = _indices(node.args[1], self.values[source][0].dim())
    part = parts[height]
    bounds = (part.start, part.stop, part.step) if isinstance(part, slice) else (part,)
    if not isinstance(part, slice) or any(isinstance(bound, fx.Node) for bound in bounds):
        raise Untraceable("it takes rows of the image by number")
    parts.insert(height, part)
    return self.new.call_function(operator.getitem, (self._unfold(source), tuple(parts)))


# Functions that see neighbours: the namesake for volumes, the parameters in order, the sizes.

_POOL = ("kernel_size", "stride", "padding")
_NAMESAKES: dict[str, tuple[Any, tuple[str, ...], tuple[str, ...]]] = {
    "avg_pool2d": (
        F.avg_pool3d,
        (*_POOL, "ceil_mode", "count_include_pad", "divisor_override"),
        _POOL,
    ),
    "max_pool2d": (
        F.max_pool3d,
        (*_POOL, "dilation", "ceil_mode", "return_indices"),
        (*_POOL, "dilation"),
    ),
    "adaptive_avg_pool2d": (F.adaptive_avg_pool3d, ("output_size",), ("output_size",)),
    "adaptive_max_pool2d": (
        F.adaptive_max_pool3d,
        ("output_size", "return_indices"),
        ("output_size",),
    ),
    "interpolate": (
        F.interpolate,
        ("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor", "antialias"),
        ("size", "scale_factor"),
    ),
}


def _arguments(node: fx.Node, names: Sequence[str]) -> dict[str, Any]:
    given = dict(zip(("input", *names), node.args, strict=False)) | dict(node.kwargs)
    return {key: value for key, value in given.items() if key != "input"}


def _namesake(name: str) -> Callable[[_Translation, fx.Node], fx.Node]:
    function, names, sizes = _NAMESAKES[name]

    def translate(self: _Translation, node: fx.Node) -> fx.Node:
        source: Any = node.args[0] if node.args else node.kwargs["input"]
        given = _arguments(node, names)
        for key, value in given.items():
            given[key] = self.size(value) if key in sizes and value is not None else value
        given = {key: value for key, value in given.items() if value is not None}
        if name == "interpolate" and str(given.get("mode", "")).endswith(("linear", "cubic")):
            if given["mode"] == "bicubic":
                raise Untraceable("interpolation 'bicubic' has no counterpart for volumes")
            given["mode"] = "trilinear"
        if name == "interpolate" and given.get("antialias"):
            raise Untraceable("interpolation with antialias has no counterpart for volumes")
        given.pop("antialias", None)
        given = {k: self._folded(v) if k not in sizes else v for k, v in given.items()}
        x = self._unfold(source)
        if name == "avg_pool2d" and not given.get("ceil_mode") and _padded(given):
            # torch.avg_pool3d wants maps as large as its kernel before it pads them.
            x = self.new.call_function(F.pad, (x, _padded(given)))
            given["padding"] = 0
        return self.new.call_function(function, (x,), given)

    return translate


def _padded(given: dict[str, Any]) -> tuple[int, ...]:
    """The zeros of an average pool that counts them, as `torch.nn.functional.pad` takes them."""
    value = given.get("padding", 0)
    depth, height, width = value if isinstance(value, tuple) else (value,) * 3
    counts = given.get("count_include_pad", True) is True
    same = all(isinstance(part, int) for part in (depth, height, width))
    margins = (width, width, height, height, depth, depth)
    return margins if counts and same and any(margins) else ()


def _pad(self: _Translation, node: fx.Node) -> fx.Node:
    source: Any = node.args[0] if node.args else node.kwargs["input"]
    given = _arguments(node, ("pad", "mode", "value"))
    margins = given.pop("pad")
    if isinstance(margins, fx.Node) or any(isinstance(m, fx.Node) for m in margins):
        raise Untraceable("it pads by an amount that depends on the size of the image")
    value, height = self.values[source][0], self._axes(source).height
    if height is None or value.dim() != 4:
        raise Untraceable("it pads a tensor without height")
    parts = list(margins) + [0] * (8 - len(margins))  # from the last axis
    at = 2 * (value.dim() - 1 - height)
    own = parts[at : at + 2]
    rest = parts[: at + 2] + own + parts[at + 2 :]
    while rest[-2:] == [0, 0] and len(rest) > 6:
        rest = rest[:-2]
    return self.new.call_function(F.pad, (self._unfold(source), tuple(rest)), given)


def _shuffle(self: _Translation, node: fx.Node) -> fx.Node:
    """Pixels shuffled in every slice, and slices repeated: what the law demands of depth."""
    source: Any = node.args[0]
    factor = node.args[1] if len(node.args) > 1 else node.kwargs["upscale_factor"]
    x = self._unfold(source)
    slices = self.new.call_method("flatten", (self.new.call_method("transpose", (x, 1, 2)), 0, 1))
    y = self.new.call_function(F.pixel_shuffle, (slices, factor))
    each = self.new.call_method("unflatten", (y, 0, (-1, self._depth(source))))
    back = self.new.call_method("transpose", (each, 1, 2))
    return self.new.call_method("repeat_interleave", (back, factor, 2))


SPATIAL: dict[str, Callable[[_Translation, fx.Node], fx.Node]] = {
    **{name: _namesake(name) for name in _NAMESAKES},
    "pad": _pad,
    "pixel_shuffle": _shuffle,
}

REFUSED = frozenset(
    "unfold fold im2col col2im grid_sample affine_grid roll conv2d conv_transpose2d upsample "
    "pixel_unshuffle lp_pool2d fractional_max_pool2d max_unpool2d deform_conv2d".split()
)


def _without_dead_sizes(graph: fx.Graph) -> fx.Graph:
    """Drop views and sizes that nothing uses; what may act in place stays."""
    idle = ("size", "flatten", "unflatten", "unsqueeze", "training")
    for node in reversed(graph.nodes):
        plain = node.op in ("call_method", "get_attr") and node.target in idle
        if not node.users and (plain or node.target in (getattr, operator.getitem)):
            graph.erase_node(node)
    return graph


# Code


def _code(graph: fx.Graph) -> tuple[str, dict[str, Any]]:
    """The text of a graph's forward, and what it names that is not a module."""
    code = graph.python_code("self")
    names = {name: v for name, v in code.globals.items() if not inspect.ismodule(v)}
    return code.src, names


class Forward:
    """A forward for volumes as text, so that networks can be copied and pickled.

    Args:
        texts: The code in evaluation (False) and in training (True).
        names: Functions that it calls by names of their own.
        image_axes: The number of axes that the module's first tensor has on images.
    """

    def __init__(self, texts: dict[bool, str], names: dict[str, Any], image_axes: int = 4) -> None:
        self.texts, self.names, self.image_axes = texts, names, image_axes
        self._compile()

    def _compile(self) -> None:
        self.functions = {}
        for training, text in self.texts.items():
            space: dict[str, Any] = {"torch": torch, "math": math, "operator": operator}
            space.update(self.names)
            exec(text, space)
            self.functions[training] = space["forward"]

    def __call__(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Run it as the forward of a module."""
        return self.functions[module.training](module, *args, **kwargs)

    def plain(self, module: nn.Module) -> nn.Module:
        """Make a module of torch alone that does on volumes what `module` does."""
        if self.texts[False] != self.texts[True]:
            raise ValueError("its forward in training is another one: register a rule for it")
        return plain_module(module, self.functions[False])

    def __deepcopy__(self, memo: Any) -> "Forward":
        return self

    def __reduce__(self) -> Any:
        return Forward, (self.texts, self.names, self.image_axes)


class Written:
    """A forward for volumes that a rule gives as a function of the module and its arguments.

    Args:
        function: Importable by its name, and traceable by torch.fx.
        image_axes: As in `Forward`.
    """

    def __init__(self, function: Callable[..., Any], image_axes: int = 4) -> None:
        self.function, self.image_axes = function, image_axes

    def __call__(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Run it as the forward of a module."""
        return self.function(module, *args, **kwargs)

    def plain(self, module: nn.Module) -> nn.Module:
        """Make a module of torch alone that does on volumes what `module` does."""
        return plain_module(module, self.function)


class _Plain(fx.Tracer):
    """Traces a forward for volumes, whose control flow is settled."""

    proxy_buffer_attributes = True

    def __init__(self, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.forward = forward

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        known = []
        for name, parameter in list(inspect.signature(self.forward).parameters.items())[1:]:
            default = () if parameter.default is parameter.empty else (parameter.default,)
            star = "*" if parameter.kind is parameter.VAR_POSITIONAL else ""
            known.append(self.create_proxy("placeholder", star + name, default, {}))
        asked: Any = self.create_proxy("get_attr", "training", (), {})
        self.root.training = asked
        return (lambda: self.forward(self.root, *known)), []


def plain_module(module: nn.Module, forward: Callable[..., Any]) -> fx.GraphModule:
    """Make a torch.fx module that has what `module` has and does what `forward` says.

    Args:
        module: Gives the modules, parameters and buffers, under their names.
        forward: A function of the module and its arguments that torch.fx can trace. It may hand
            on `self.training`, but not branch on it.
    """
    training = module.training
    try:
        graph = _Plain(forward).trace(module)
    finally:
        module.training = training
    for node in graph.nodes:
        if node.target == "training" and not node.users:
            graph.erase_node(node)
    return fx.GraphModule(module, graph, type(module).__name__)
