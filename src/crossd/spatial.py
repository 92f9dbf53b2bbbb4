"""Functions of images that see neighbours, and what stands for them on volumes.

Each takes the translation of a forward and the node of a call, and gives the node of the call on
the unfolded tensor. Depth is treated like height.
"""

import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor, fx

from crossd.tracing import Untraceable

if TYPE_CHECKING:
    from crossd.lifting import Translation


def indices(index: Any, axes_count: int) -> list[Any]:
    """What an index takes of each axis; `slice(None)` where it takes all."""
    parts = list(index) if isinstance(index, tuple) else [index]
    if any(isinstance(part, fx.Node | Tensor | list) or part is None for part in parts):
        parts = [slice(None) if part is Ellipsis else part for part in parts if part is not None]
    if Ellipsis in parts:
        at = parts.index(Ellipsis)
        parts[at : at + 1] = [slice(None)] * (axes_count - len(parts) + 1)
    return parts + [slice(None)] * (axes_count - len(parts))


def rows(self: "Translation", node: fx.Node) -> fx.Node:
    """Indexing that takes a part of the height takes the same part of the depth."""
    source: Any = node.args[0]
    height = self._axes(source).height
    assert height is not None
    parts = indices(node.args[1], self.values[source][0].dim())
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


def _namesake(name: str) -> Callable[["Translation", fx.Node], fx.Node]:
    function, names, sizes = _NAMESAKES[name]

    def translate(self: "Translation", node: fx.Node) -> fx.Node:
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


def _pad(self: "Translation", node: fx.Node) -> fx.Node:
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


def _shuffle(self: "Translation", node: fx.Node) -> fx.Node:
    """Pixels shuffled in every slice, and slices repeated: what the law demands of depth."""
    source: Any = node.args[0]
    factor = node.args[1] if len(node.args) > 1 else node.kwargs["upscale_factor"]
    x = self._unfold(source)
    slices = self.new.call_method("flatten", (self.new.call_method("transpose", (x, 1, 2)), 0, 1))
    y = self.new.call_function(F.pixel_shuffle, (slices, factor))
    each = self.new.call_method("unflatten", (y, 0, (-1, self._depth(source))))
    back = self.new.call_method("transpose", (each, 1, 2))
    return self.new.call_method("repeat_interleave", (back, factor, 2))


SPATIAL: dict[str, Callable[["Translation", fx.Node], fx.Node]] = {
    **{name: _namesake(name) for name in _NAMESAKES},
    "pad": _pad,
    "pixel_shuffle": _shuffle,
}

REFUSED = frozenset(
    "unfold fold im2col col2im grid_sample affine_grid roll conv2d conv_transpose2d upsample "
    "pixel_unshuffle lp_pool2d fractional_max_pool2d max_unpool2d deform_conv2d".split()
)
