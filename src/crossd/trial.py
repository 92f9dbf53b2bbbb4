"""Trying whether a module does on volumes what it does on images.

A module is right on volumes when it keeps the consistency law: on volumes that repeat an image
along depth it must give what it gives on the image. Every module is tried alone: the modules it
calls are replaced by stand-ins that answer what they must, and check what they are given.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.pooling import (
    _AdaptiveAvgPoolNd,
    _AdaptiveMaxPoolNd,
    _AvgPoolNd,
    _MaxPoolNd,
)
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_flatten, tree_unflatten

from crossd.recording import Frames, one_line, replaced

EXACT = (torch.float32, torch.float64)
TOLERANCE, ROUGH = 1e-3, 5e-2
"""Relative to the largest number, for sums in another order: exact types, and half precision."""


class Mismatch(Exception):
    """A module does not keep the consistency law, or cannot be tried."""


class _Failed(Mismatch):
    """A forward raised."""


# What an axis is


@dataclass(frozen=True)
class Axes:
    """Where a tensor of the 2D network carries the plane.

    Attributes:
        height: The axis of height, before which depth comes in; None where there is none.
        merged: The axis that height and width share, as after a flatten.
    """

    height: int | None = None
    merged: int | None = None


def axes(tensors: Sequence[Tensor]) -> Axes:
    """Find the axes whose lengths follow the height of the image, from the tensors of the runs."""
    if len({tensor.dim() for tensor in tensors}) > 1:
        raise Mismatch("the number of its axes depends on the size of the image")
    base, high, wide = (tensor.shape for tensor in tensors)
    taller = [a for a in range(len(base)) if base[a] != high[a]]
    wider = [a for a in range(len(base)) if base[a] != wide[a]]
    both = [a for a in taller if a in wider]
    rows = [a for a in taller if a not in wider]
    if len(both) + len(rows) > 1:
        raise Mismatch(f"a tensor of shape {tuple(base)} has several axes that follow the height")
    return Axes(rows[0] if rows else None, both[0] if both else None)


def alike(values: Sequence[Any]) -> tuple[list[list[Any]], Any]:
    """Flatten the values of the runs; each leaf becomes the list of its values."""
    flat = [tree_flatten(value) for value in values]
    if any(spec != flat[0][1] for _, spec in flat):
        raise Mismatch("the structure of its answer depends on the size of the image")
    return [list(leaves) for leaves in zip(*(leaves for leaves, _ in flat), strict=True)], flat[0][
        1
    ]


def expand(values: Sequence[Any], cube: bool = True, shared: bool = False) -> Any:
    """Make of what the 2D network has on an image what it must have on the repeated volume.

    Args:
        values: One a run.
        cube: Tensors of fixed size, as of adaptive pools, become cubes; else they are one deep.
        shared: Let the slices of a volume share their memory, which is faster; then torch refuses
            to change them in place.

    Returns:
        The value for volumes as deep as high.
    """
    leaves, spec = alike(values)
    spread = [_spread(leaf, cube) for leaf in leaves]
    return tree_unflatten([_own(value, shared) for value in spread], spec)


def _own(value: Any, shared: bool) -> Any:
    """Copy a tensor that may be changed in place."""
    if not isinstance(value, Tensor):
        return value
    strides = zip(value.stride(), value.shape, strict=True)
    if shared and any(step == 0 and count > 1 for step, count in strides):
        return value
    return value.clone(memory_format=torch.contiguous_format)


def _spread(leaf: Sequence[Any], cube: bool) -> Any:
    """Repeat what one has on an image along depth, without a copy where that can be."""
    base = leaf[0]
    if not isinstance(base, Tensor):
        follows = [value != base for value in leaf]
        if any(follows) and not (isinstance(base, int) and sum(follows) == 1):
            raise Mismatch("it hands on what depends on the size of the image")
        return base  # a height or a width stays what it is
    at = axes(leaf)
    if at.merged is not None:
        return torch.cat([base] * max(1, math.isqrt(base.shape[at.merged])), at.merged)
    if at.height is None and base.dim() != 4:
        return base
    axis, deep = 2 if at.height is None else at.height, 1
    if at.height is not None or (cube and base.shape[2] == base.shape[3]):
        deep = base.shape[axis]
    return base.unsqueeze(axis).expand(*base.shape[:axis], deep, *base.shape[axis:])


def compare(actual: Any, values: Sequence[Any], cube: bool, what: str) -> None:
    """Hold what a module has on a volume against what the law demands.

    Along depth only the middle counts: zeros that a layer pads with are not repeated images.

    Raises:
        Mismatch: saying what differs.
    """
    leaves, _ = alike(values)
    flat, _ = tree_flatten(actual)
    if len(flat) != len(leaves):
        raise Mismatch(f"{what} has {len(flat)} parts instead of {len(leaves)}")
    for mine, leaf in zip(flat, leaves, strict=True):
        base = leaf[0]
        if not isinstance(base, Tensor):
            if isinstance(mine, Tensor) or mine != _spread(leaf, cube):
                raise Mismatch(f"{what} is {mine!r} instead of {base!r}")
            continue
        expected, at = _spread(leaf, cube), axes(leaf)
        if not isinstance(mine, Tensor) or mine.dim() != expected.dim():
            shape = tuple(mine.shape) if isinstance(mine, Tensor) else type(mine).__name__
            raise Mismatch(f"{what} has shape {shape} instead of {tuple(expected.shape)}")
        if at.height is not None:
            deep, high = mine.shape[at.height], base.shape[at.height]
            if deep != high:
                raise Mismatch(f"{what} is {deep} deep and not {high}, as it is high")
            mine, expected = mine.select(at.height, deep // 2), base
        elif at.merged is not None and mine.shape != expected.shape:
            raise Mismatch(f"{what} has shape {tuple(mine.shape)}, not {tuple(expected.shape)}")
        elif at.merged is not None:
            depth = expected.shape[at.merged] // base.shape[at.merged]
            mine, expected = mine.chunk(depth, at.merged)[depth // 2], base
        if mine.shape != expected.shape:
            raise Mismatch(f"{what} has shape {tuple(mine.shape)}, not {tuple(expected.shape)}")
        if expected.is_floating_point():
            scale = expected.abs().max() if expected.numel() else expected.new_ones(())
            tolerance = TOLERANCE if expected.dtype in EXACT else ROUGH
            near = torch.isclose(mine, expected, 1e-3, float(tolerance * scale), equal_nan=True)
            if not near.all():
                raise Mismatch(f"{what} is not what it is on images")


PRODUCTS = ("matmul", "bmm", "__matmul__")
LARGEST = 2**28
"""Numbers of a product that is still tried."""


PLANAR = (_ConvNd, _BatchNorm, _MaxPoolNd, _AvgPoolNd, _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd)
"""Layers that take images (N, C, H, W) and nothing else."""


def _require_height_third(values: Sequence[Any], name: str) -> None:
    """Refuse images whose axes are exchanged: on volumes the layer would mistake them."""
    for leaf in alike(values)[0]:
        planar = isinstance(leaf[0], Tensor) and leaf[0].dim() == 4
        if planar and axes(leaf).height not in (2, None):
            raise Mismatch(f"it gives {name} images whose height and width are exchanged")


class _Watch(TorchFunctionMode):
    """Remembers the last function of torch that was called."""

    last = ""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = resolve_name(func) or getattr(func, "__name__", str(func))
        if name.rpartition(".")[2] in PRODUCTS and len(args) > 1:
            size = math.prod(args[0].shape[:-1]) * args[1].shape[-1]
            if size > LARGEST:
                raise Mismatch(f"{name} compares every voxel with every other: too many numbers")
        if not name.endswith("__get__"):
            self.last = name
        return func(*args, **(kwargs or {}))


def attempt(frames: Frames, forward: Callable[..., Any], cube: bool) -> None:
    """Try a forward of a module on the volume that repeats its image.

    Args:
        frames: Its call in the runs.
        forward: Takes the arguments of the module.
        cube: See `expand`.

    Raises:
        Mismatch: when it fails or does not keep the law.
    """
    try:
        _attempt(frames, forward, cube, shared=True)
    except _Failed:  # it changes what it is given, perhaps, or views it in another shape
        _attempt(frames, forward, cube, shared=False)


def _attempt(frames: Frames, forward: Callable[..., Any], cube: bool, shared: bool) -> None:
    calls = list(zip(*(frame.inner for frame in frames), strict=False))
    if any(len(frame.inner) != len(calls) for frame in frames):
        raise Mismatch("which modules it calls depends on the size of the image")
    ahead = iter(calls)

    def stand_in(module: nn.Module) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            inner = next(ahead, None)
            if inner is None or inner[0].module is not module:
                raise Mismatch("it calls other modules than on images")
            name = type(module).__name__
            if isinstance(module, PLANAR):
                _require_height_third([frame.args for frame in inner], name)
            for given, theirs in (
                (args, [frame.args for frame in inner]),
                (kwargs, [frame.kwargs for frame in inner]),
            ):
                compare(given, theirs, cube, f"what it gives to {name}")
            return expand([frame.output for frame in inner], cube, shared)

        return call

    stand_ins = {frame.module: stand_in(frame.module) for frame in frames[0].inner}
    args = expand([frame.args for frame in frames], cube, shared)
    kwargs = expand([frame.kwargs for frame in frames], cube, shared)
    watch = _Watch()
    try:
        with replaced(stand_ins), torch.no_grad(), torch.random.fork_rng(devices=[]), watch:
            answer = forward(*args, **kwargs)
    except Mismatch:
        raise
    except Exception as error:
        where = f"{watch.last} fails: " if watch.last else ""
        raise _Failed(f"{where}{one_line(error)}") from error
    try:
        compare(answer, [frame.output for frame in frames], cube, "its answer")
    except Mismatch as error:
        where = f" (the last call was {watch.last})" if watch.last else ""
        raise Mismatch(f"{error}{where}") from error
