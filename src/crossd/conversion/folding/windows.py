"""Convolutions and pools of code for images, on slices of volumes: they look along depth too."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from crossd.conversion.folding.run import Function, Run, TooShallow
from crossd.conversion.folding.sizes import resize_depth
from crossd.conversion.folding.statistics import over_depth
from crossd.conversion.folding.volumes import on_slices
from crossd.errors import InputError
from crossd.nn.conv import pad_ends
from crossd.nn.functional import depth_profile, depth_taps
from crossd.nn.layers import Size, depth_axis, pair

# Convolutions that have no 3D kernel of their own


@on_slices(F.conv2d)
def _conv(
    run: Run,
    func: Function,
    depth: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve within slices; where the plane is reduced, depth is too, by fixed weights."""
    if weight.dim() == 5:
        raise InputError(
            "the kernel of a converted convolution is used outside of its layer, where nothing "
            "says which part of a 3D kernel is meant: call the layer"
        )
    which = depth_axis(tuple(weight.shape[2:]))
    size, gap = weight.shape[2 + which], pair(dilation)[which]
    margin = 0 if isinstance(padding, str) else pair(padding)[which]
    high = _answered(input.shape[2], size, pair(stride)[which], margin, gap)
    wanted = run.depth_stride(high, pair(stride)[which])
    if wanted > 1 or max(weight.shape[2:]) > 1:
        run.seen.convolutions += wanted > 1
        run.seen.flat_convolutions += wanted == 1
    if wanted > 1:
        input = _reduced(run, run.unfold(input, depth), size, wanted, margin, gap)
        depth = run.depth_of(input) or depth
    answer = func(input, weight, bias, stride, padding, dilation, groups)
    run.note(answer.shape[2], answer.shape[3], depth)
    return run.mark(answer, depth)


def _answered(length: int, size: int, stride: int, padding: int, dilation: int) -> int:
    """How many pixels a window makes of a row of pixels, at least one."""
    return max(1, (length + 2 * padding - dilation * (size - 1) - 1) // stride + 1)


def _reduced(run: Run, volume: Tensor, size: int, stride: int, margin: int, gap: int) -> Tensor:
    """Let weights that sum to one stride along depth, as a lifted kernel of this size does."""
    size, margin = depth_taps(size, stride, margin)
    reach = gap * (size - 1) + 1
    if volume.shape[2] + 2 * margin < reach:
        raise TooShallow(run, reach - 2 * margin, volume.shape[2])
    volume = run.pad_depth(volume, (margin, margin, "constant", None))
    last = (volume.shape[2] - reach) // stride * stride
    total: Any = 0
    for place, share in enumerate(depth_profile(size, stride).tolist()):
        start = place * gap
        total = total + share * volume[:, :, start : start + last + 1 : stride]
    return run.fold(total)


@on_slices(F.conv_transpose2d)
def _conv_transpose(
    run: Run,
    func: Function,
    depth: int,
    input: Tensor,
    weight: Tensor,
    *args: object,
    **kwargs: object,
) -> Tensor:
    """Enlarge within slices, and repeat slices."""
    run.seen.flat_convolutions += 1
    answer = func(input, weight, *args, **kwargs)
    return resize_depth(run, input, answer, depth, "nearest")


# Pools


def _window(
    run: Run, x: Tensor, kernel_size: Size, stride: Size | None, padding: Size, dilation: Size = 1
) -> tuple[tuple[int, ...], ...]:
    """Complete the window of a pool by depth: (kernel, stride, padding, dilation) for each axis."""
    kernel, pad, step = pair(kernel_size), pair(padding), pair(dilation)
    own = kernel if stride is None or stride == [] or stride == () else pair(stride)
    which = depth_axis(kernel)
    size, margin = kernel[which], pad[which]
    high = _answered(x.shape[2], size, own[which], margin, step[which])
    wanted = run.depth_stride(high, own[which])
    if wanted != own[which] and size <= own[which]:  # patches, as deep as their stride
        size, margin = min(size, wanted), 0
    deep = (size, wanted, margin, step[which])
    flat = zip(kernel, own, pad, step, strict=True)
    return tuple(zip(deep, *flat, strict=True))


def _is_global(
    run: Run, x: Tensor, depth: int, kernel_size: Size, stride: Size | None, padding: Size
) -> bool:
    """Tell whether a pool is over the whole plane, and so over the whole volume.

    Its window covers the maps, and code gives their size; or it is deeper than the volume. The
    `kernel_size` of a layer is no size of maps, nor is a window of two pixels, which halves, or one
    that moves on by a part of itself.
    """
    height, width = pair(kernel_size)
    if (height, width) != tuple(x.shape[2:]) or pair(padding) != (0, 0):
        return False
    if isinstance(kernel_size, torch.Size) or depth < height:
        return True
    moves = bool(stride and pair(stride) not in ((1, 1), (height, width)))
    own = getattr(run.module, "kernel_size", None) == kernel_size
    return max(height, width) > 2 and not moves and not own


@on_slices(F.max_pool2d, torch.max_pool2d)
def _max_pool(
    run: Run,
    func: Function,
    depth: int,
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    if return_indices:  # of pixels within slices, which unpooling takes
        return func(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)
    if _is_global(run, input, depth, kernel_size, stride, padding):
        return over_depth(run, func(input, kernel_size), depth, torch.amax)
    kernel, step, margin, gap = _window(run, input, kernel_size, stride, padding, dilation)
    volume = run.unfold(input, depth)
    kernel = _fitting(run, volume, kernel, margin[0], gap[0], ceil_mode)
    return run.fold(F.max_pool3d(volume, kernel, step, margin, gap, ceil_mode), True)


def _fitting(
    run: Run, volume: Tensor, kernel: tuple[int, ...], padding: int, gap: int, ceil_mode: bool
) -> tuple[int, ...]:
    """Refuse volumes that are shallower than the window of a pool, unless it may lack some."""
    reach, deep = gap * (kernel[0] - 1) + 1, volume.shape[2] + 2 * padding
    if deep >= reach:
        return kernel
    if not ceil_mode:
        raise TooShallow(run, reach - 2 * padding, volume.shape[2])
    return ((deep - 1) // gap + 1, *kernel[1:])


@on_slices(F.avg_pool2d)
def _avg_pool(
    run: Run,
    func: Function,
    depth: int,
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    if _is_global(run, input, depth, kernel_size, stride, padding):
        pooled = func(input, kernel_size, None, 0, False, True, divisor_override)
        return over_depth(run, pooled, depth, torch.mean)
    window = _window(run, input, kernel_size, stride, padding)
    kernel, step, margin = window[:3]
    volume = run.unfold(input, depth)
    kernel = _fitting(run, volume, kernel, margin[0], 1, ceil_mode)
    if divisor_override is not None:
        divisor_override *= kernel[0]
    volume, margin = pad_ends(volume, [(m, m) for m in margin], "zeros", run.replicated)
    settings = (kernel, step, margin, ceil_mode, count_include_pad, divisor_override)
    return run.fold(avg_pool3d(volume, *settings))


def avg_pool3d(
    x: Tensor,
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """`torch.nn.functional.avg_pool3d` for maps that are smaller than the kernel, too.

    Torch wants them as large before it pads them, in 3D alone: few slices would be too few.
    """
    small = any(n < k for n, k in zip(x.shape[2:], kernel_size, strict=True))
    if not small or not (ceil_mode or any(padding)):
        return F.avg_pool3d(
            x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
        )
    sides = zip(x.shape[2:], kernel_size, stride, padding, strict=True)
    over = [_overhang(*side) if ceil_mode else 0 for side in sides]
    margins = [n for pad in reversed(padding) for n in (pad, pad)]
    beyond = [n for one in reversed(over) for n in (0, one)]

    def summed(value: Tensor, rest: float = 0.0) -> Tensor:
        whole = F.pad(F.pad(value, margins, value=rest), beyond)
        return F.avg_pool3d(whole, kernel_size, stride, divisor_override=1)

    total = summed(x)
    if divisor_override:
        return total / divisor_override
    return total / summed(torch.ones_like(x[:1, :1]), float(count_include_pad))


def _overhang(side: int, kernel: int, step: int, margin: int) -> int:
    """Give by how much the last window hangs over the end, where sizes are rounded up."""
    whole = side + 2 * margin
    last = -(-(whole - kernel) // step) * step
    if last >= side + margin:  # torch drops windows of margin alone
        last -= step
    return max(0, last + kernel - whole)


@on_slices(F.lp_pool2d)
def _lp_pool(
    run: Run,
    func: Function,
    depth: int,
    input: Tensor,
    norm_type: float,
    kernel_size: Size,
    stride: Size | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """A root of a mean of powers, times the size of the window in the plane."""
    kernel, step, margin, _ = _window(run, input, kernel_size, stride, 0)
    powers = run.unfold(input, depth).pow(norm_type)
    kernel = _fitting(run, powers, kernel, 0, 1, ceil_mode)
    mean = avg_pool3d(powers, kernel, step, margin, ceil_mode)
    root = (torch.sign(mean) * F.relu(torch.abs(mean))) * (kernel[1] * kernel[2])
    return run.fold(root.pow(1.0 / norm_type))


@on_slices(F.adaptive_avg_pool2d, F.adaptive_max_pool2d)
def _adaptive_pool(
    run: Run,
    func: Function,
    depth: int,
    input: Tensor,
    output_size: Size,
    return_indices: bool = False,
) -> Tensor:
    if return_indices:
        return func(input, output_size, return_indices)
    average = func is F.adaptive_avg_pool2d
    height, width = pair(output_size)
    if (height, width) == (1, 1):
        pooled = func(input, output_size)
        return over_depth(run, pooled, depth, torch.mean if average else torch.amax)
    if height is None or width is None or 1 in (height, width):  # strips
        return func(input, output_size)
    pool = F.adaptive_avg_pool3d if average else F.adaptive_max_pool3d
    return run.fold(pool(run.unfold(input, depth), (height, height, width)))
