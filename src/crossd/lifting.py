"""Rewriting a forward that fixes the number of axes into one for volumes.

A forward is traced with torch.fx, the modules that it calls being leaves. Between them volumes are
*folded*: depth and height share one axis, so that whatever a 2D forward does to single pixels, to
channels or to the whole plane (means, views, permutations, unpacked shapes) it does to volumes,
word for word. Tensors are unfolded where a module takes them, and around functions that see
neighbours (pools, padding, interpolation), which are replaced by their 3D namesakes.
"""

import builtins
import operator
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves

from crossd.forwards import Forward, code_of
from crossd.recording import Frames
from crossd.spatial import REFUSED, SPATIAL, indices, rows
from crossd.tracing import RunTracer, Untraceable
from crossd.trial import Axes, Mismatch, axes


def lift_forward(frames: Frames) -> Forward:
    """Translate the forward of a module, recorded in `frames`, to volumes.

    Returns:
        A forward with the same parameters, which uses torch and the module alone.

    Raises:
        Untraceable: saying why.
    """
    graph, branches = _lift(frames, False)
    source, names = code_of(graph)
    texts = {False: source, True: source}
    if branches:  # on `self.training`: what it does in training is traced for itself
        texts[True], more = code_of(_lift(frames, True)[0])
        names = names | more
    tensors = [v for v in tree_leaves((frames[0].args, frames[0].kwargs)) if isinstance(v, Tensor)]
    if not tensors:
        raise Untraceable("it takes no tensor")
    return Forward(texts, names, tensors[0].dim())


def _lift(frames: Frames, training: bool) -> tuple[fx.Graph, bool]:
    module = frames[0].module
    tracer, kept = RunTracer(frames, training), module.training
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
    return Translation(graph, tracer.values).run(), tracer.branches


class Translation:
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
        """Write the whole graph."""
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
            translate = SPATIAL.get(name, rows)
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
        part = indices(node.args[1], self.values[source][0].dim())[height]
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


def _without_dead_sizes(graph: fx.Graph) -> fx.Graph:
    """Drop views and sizes that nothing uses; what may act in place stays."""
    idle = ("size", "flatten", "unflatten", "unsqueeze", "training")
    for node in reversed(graph.nodes):
        plain = node.op in ("call_method", "get_attr") and node.target in idle
        if not node.users and (plain or node.target in (getattr, operator.getitem)):
            graph.erase_node(node)
    return graph
