"""Interpolation, padding and cutting of slices: depth changes as height does."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from crossd.conversion.folding.run import Function, Run, TooShallow
from crossd.conversion.folding.volumes import on_slices
from crossd.nn.layers import Size, pair

# Sizes


@on_slices(F.interpolate)
def _interpolate(
    run: Run,
    func: Function,
    depth: int,
    input: Tensor,
    size: Size | None = None,
    scale_factor: float | tuple[float, ...] | list[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    mine = {"bilinear": "trilinear", "nearest": "nearest", "nearest-exact": "nearest-exact"}
    scale = None if scale_factor is None else pair(scale_factor)
    if size is not None:
        height, width = pair(size)
    else:
        assert scale is not None
        sides = zip(input.shape[2:], scale, strict=True)
        height, width = (math.floor(length * factor) for length, factor in sides)
    deep = depth_for(run, input, height, width, depth)
    follows = scale is not None and math.floor(depth * scale[0]) == deep
    if mode in mine and not antialias and (size is not None or follows) and deep != depth:
        volume = func(
            run.unfold(input, depth),
            None if size is None else (deep, height, width),
            None if size is not None or scale is None else (scale[0], *scale),
            mine[mode],
            align_corners,
            recompute_scale_factor,
        )
        return run.fold(volume, True)
    plane = func(input, size, scale_factor, mode, align_corners, recompute_scale_factor, antialias)
    return resize_depth(run, input, plane, depth, mode)


def depth_for(run: Run, x: Tensor, height: int, width: int, depth: int) -> int:
    """Choose the depth of slices that are brought to another size of the plane.

    That which slices of this size had on the way down; else depth changes as height does.

    Args:
        run: The run that is under way.
        x: The slices as they are.
        height: Of what they become.
        width: Of what they become.
        depth: Of the slices as they are.
    """
    known = run.depth_at(height, width)
    if known is not None:
        return known
    if height == x.shape[2]:
        return depth
    if run.folding.stages:
        larger = max(height, x.shape[2])
        factor = run.depth_stride(larger // 2, 2)
        if factor == 1:
            return depth
    return max(1, round(depth * height / x.shape[2]))


def resize_depth(run: Run, before: Tensor, after: Tensor, depth: int, mode: str) -> Tensor:
    """Bring slices whose plane has another size to the depth that goes with it.

    Args:
        run: The run that is under way.
        before: The slices as they were.
        after: The same slices, in the new size.
        depth: Of both.
        mode: How slices are interpolated; nearest or, for every other mode, linear.
    """
    deep = depth_for(run, before, after.shape[2], after.shape[3], depth)
    if deep == depth:
        run.note(after.shape[2], after.shape[3], depth)
        return run.mark(after, depth)
    how = mode if mode.startswith("nearest") else "trilinear"
    volume = run.unfold(after, depth)
    return run.fold(F.interpolate(volume, size=(deep, *volume.shape[3:]), mode=how), True)


@on_slices(F.pad)
def _pad(
    run: Run,
    func: Function,
    depth: int,
    input: Tensor,
    pad: Sequence[int],
    mode: str = "constant",
    value: float | None = None,
) -> Tensor:
    """Pad depth as height, when something looks along it; maps with channels last not at all."""
    if len(pad) != 4:
        return func(input, pad, mode, value)
    if run.margin_of(input) is not None:
        input = run.fold(run.unfold(input, depth))
        depth = run.depth_of(input) or depth
    plane, rest = input, list(pad)
    for axis in set(run.replicated) & {1, 2}:
        sides = [side if 2 - i // 2 == axis else 0 for i, side in enumerate(pad)]
        if any(sides) and min(sides) >= 0:
            plane = func(plane, sides, "replicate")
            rest = [a - b for a, b in zip(rest, sides, strict=True)]
    if any(rest):
        plane = func(plane, rest, mode, value)
    return run.mark(plane, depth, (pad[2], pad[3], mode, value))


@on_slices(torch.pixel_shuffle)
def _pixel_shuffle(
    run: Run, func: Function, depth: int, input: Tensor, upscale_factor: int
) -> Tensor:
    """Shuffle within slices, and repeat slices."""
    return resize_depth(run, input, func(input, upscale_factor), depth, "nearest")


@on_slices(torch.pixel_unshuffle)
def _pixel_unshuffle(
    run: Run, func: Function, depth: int, input: Tensor, downscale_factor: int
) -> Tensor:
    """Unshuffle within slices, and average slices."""
    answer = func(input, downscale_factor)
    factor = run.depth_stride(answer.shape[2], downscale_factor)
    if depth < factor:
        raise TooShallow(run, factor, depth)
    volume = run.unfold(answer, depth)
    return run.fold(F.avg_pool3d(volume, (factor, 1, 1), ceil_mode=True))


@on_slices(Tensor.__getitem__)
def _cut(run: Run, func: Function, depth: int, input: Tensor, index: object) -> Tensor:
    """Cut depth as height where a forward cuts both axes of the plane.

    Offsets and steps are height's, and ends that count from the back. Where slices of the size
    that is left were met before, depth becomes what it was there.
    """
    answer: Tensor = func(input, index)
    cut = _height_slice(index)
    if run.depth_at(*input.shape[2:]) is None and run.margin_of(input) is None:
        return answer  # windows, or how tokens attend to each other: no maps
    if cut is None or answer.dim() != 4 or answer.shape[2:] == input.shape[2:]:
        return answer
    known = run.depth_at(*answer.shape[2:])
    volume = run.unfold(answer, depth)
    depth = volume.shape[2]
    stride = cut.step or 1
    if stride > 1:
        step = run.depth_stride(answer.shape[2], stride)
        count = -(-depth // step)
        count = count if known is None else min(known, count)
        first = (cut.start or 0) % stride if step == stride else 0
        # As many slices from every start, though depth may be odd where height is not.
        places = [min(first + step * place, depth - 1) for place in range(count)]
        return run.fold(volume[:, :, places])
    if known is not None and known <= depth:
        first = (depth - known) // 2 if cut.start else 0
        return run.fold(volume[:, :, first : first + known])
    if (cut.start or 0) < 0 or (cut.stop or 0) > 0:
        return answer
    left = volume[:, :, cut.start : cut.stop]
    if not left.shape[2]:
        raise TooShallow(run, 1 + (cut.start or 0) - (cut.stop or 0), depth)
    return run.fold(left)


def _height_slice(index: Any) -> slice | None:
    """Give the slice of height, where height and width are cut and nothing else but channels is."""
    parts = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in [part for part in parts if part is Ellipsis]:
        place = next(i for i, part in enumerate(parts) if part is Ellipsis)
        parts[place : place + 1] = [slice(None)] * (4 - len(parts) + 1)
    if len(parts) != 4 or not all(isinstance(part, slice) for part in parts):
        return None
    whole = [part == slice(None) for part in parts]
    if not whole[0] or whole[2] or whole[3] or (parts[1].step or 1) > 1:
        return None
    height: slice = parts[2]
    return height
