"""Convolutions of images and of volumes with one set of 3D kernels.

Each is the 3D layer of torch.nn, with its parameter names, which also answers on images. Its
`to_2d` and `to_3d` give plain torch.nn layers. Settings are triples (z, y, x); on images the two
of the axes that stay in the current view are used.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossd.nn.kernel_modes import KernelMode, PosePredictor, make_mode
from crossd.nn.layers import conv_settings, drop_axis, fill, is_volume
from crossd.nn.per_sample import (
    Settings,
    by_axes,
    conv2d_per_sample,
    conv3d_per_sample,
    mapped_conv2d,
    unrounded,
)
from crossd.nn.views import View, current_view, replicated_axes

__all__ = ["CrossDConv", "PosePredictor"]

Size2 = int | tuple[int, int]
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
Margins = Sequence[tuple[int, int]]
"""What padding adds before and after, for each axis."""


def triple(value: Size2, depth: int | None, name: str) -> tuple[int, int, int]:
    """Complete a setting of a 2D layer by the one for depth: the common one, unless given."""
    height, width = (value, value) if isinstance(value, int) else value
    if depth is None and height != width:
        raise ValueError(
            f"{name} (={(height, width)}) differs between height and width: give depth_{name} too"
        )
    return (height if depth is None else depth, height, width)


def pad_ends(
    x: Tensor, margins: Margins, mode: str, replicated: Sequence[int]
) -> tuple[Tensor, tuple[int, ...]]:
    """Pad what a convolution or a pool cannot pad by itself.

    Args:
        x: Images ``(N, C, H, W)`` or volumes ``(N, C, D, H, W)``.
        margins: What is wanted, for each spatial axis.
        mode: ``"zeros"``, or a mode of `torch.nn.functional.pad`.
        replicated: Places (0 for the first spatial axis) of the axes whose ends are continued by
            their last slice in any mode.

    Returns:
        The padded tensor, and the zeros that the layer itself has to add at both ends of each axis.
    """
    own, ends, rest = [], [], []
    for axis, pair in enumerate(margins):
        end = axis in replicated
        known = isinstance(pair[0], int)  # of sizes that a graph leaves free nothing is asked
        alone = known and mode == "zeros" and pair[0] == pair[1] and not end
        own.append(pair[0] if alone else 0)
        ends.append(pair if end else (0, 0))
        rest.append((0, 0) if end or alone else pair)
    for pairs, how in ((ends, "replicate"), (rest, "constant" if mode == "zeros" else mode)):
        if any(map(any, pairs)):
            x = F.pad(x, [margin for pair in reversed(pairs) for margin in pair], how)
    return x, tuple(own)


NARROW = 16
"""Input channels below which `thinned` is used: as many as a register of AVX-512 holds. With AVX2
alone, whose registers hold half of them, fewer than 8 were seen to need it."""


def thinned(images: Tensor, stride: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
    """Leave out the pixels that a strided kernel of one tap does not look at, on a CPU.

    What oneDNN has for such kernels writes past its memory in the backward pass where images have
    channels last and fewer than it takes at a time (its issue 6035; with AVX2 below 8, of two
    images or more): wrong gradients, or the end of the process.

    Args:
        images: Shape ``(N, C, H, W)``.
        stride: Of the kernel in height and width.

    Returns:
        The images, and the stride that is left.
    """
    if images.device.type != "cpu" or max(stride) == 1 or torch.compiler.is_exporting():
        return images, stride
    return images[:, :, :: stride[0], :: stride[1]], (1, 1)


class CrossDConv(nn.Conv3d):
    """A 3D convolution that also convolves images, with 2D kernels taken from its own.

    Args:
        in_channels: Channels of images and volumes.
        out_channels: Channels of the answer.
        kernel_size: A number, or (height, width).
        stride: A number, or (height, width).
        padding: A number, (height, width), ``"same"`` or ``"valid"``.
        dilation: A number, or (height, width).
        groups: Groups of channels that are convolved by themselves.
        bias: Whether the answer has a learnt bias.
        padding_mode: ``"zeros"``, ``"reflect"``, ``"replicate"`` or ``"circular"``.
        device: Where parameters are made.
        dtype: Of the parameters.
        kernel_mode: ``"projection"``, ``"slice"``, ``"fourier"`` or ``"fourier-projection"`` (see
            `crossd.nn.kernel_modes`).
        depth_kernel_size: Size along depth; needed where height and width differ.
        depth_stride: Stride along depth; needed where height and width differ.
        depth_padding: Padding along depth; needed where height and width differ.
        depth_dilation: Dilation along depth; needed where height and width differ.
        **options: Of the kernel mode (`offset` for the fourier modes).

    Attributes:
        weight: Shape ``(out_channels, in_channels / groups, depth, height, width)``.
        bias: Shape ``(out_channels,)`` or None.
        depth_position: Shape ``(out_channels, positions)`` or None: what is added to the answer on
            volumes, interpolated over its depth.

    Raises:
        ValueError: naming the argument, when one cannot be honoured.

    Example:
        >>> conv = CrossDConv(1, 8, 3, padding=1)
        >>> conv(torch.zeros(2, 1, 16, 16)).shape, conv(torch.zeros(2, 1, 9, 16, 16)).shape
        (torch.Size([2, 8, 16, 16]), torch.Size([2, 8, 9, 16, 16]))
    """

    mode: KernelMode
    depth_position: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size2,
        stride: Size2 = 1,
        padding: Size2 | str = 0,
        dilation: Size2 = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        kernel_mode: str = "projection",
        depth_kernel_size: int | None = None,
        depth_stride: int | None = None,
        depth_padding: int | None = None,
        depth_dilation: int | None = None,
        **options: object,
    ) -> None:
        if isinstance(padding, str) and depth_padding is not None:
            raise ValueError(f"depth_padding (={depth_padding}) cannot go with padding {padding!r}")
        size = triple(kernel_size, depth_kernel_size, "kernel_size")
        super().__init__(
            in_channels,
            out_channels,
            size,
            triple(stride, depth_stride, "stride"),
            padding if isinstance(padding, str) else triple(padding, depth_padding, "padding"),
            triple(dilation, depth_dilation, "dilation"),
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )
        self.mode = make_mode(kernel_mode, in_channels, size, device, dtype, **options)
        self.depth_position = None

    def forward(self, x: Tensor, depth_margin: tuple[int, int] = (0, 0)) -> Tensor:
        """Convolve images ``(N, C, H, W)`` or volumes ``(N, C, D, H, W)``.

        Args:
            x: The images or volumes.
            depth_margin: Slices of zeros that volumes get before the first slice and after the
                last, besides the layer's own padding, which must be of zeros then.
        """
        weight = self.kernel()
        if is_volume(x, self):
            return self._volumes(x, weight, depth_margin)
        view = current_view() if self.mode.has_views else 0
        shift = self.mode.displacements(x)

        def convolve(images: Tensor, axis: int, moved: Tensor | None) -> Tensor:
            plane = drop_axis(axis)
            axes = plane((0, 1, 2))
            ends = [i for i, own in enumerate(axes) if own in replicated_axes()]
            margins = self.margins(images, axes)
            images, padding = pad_ends(images, margins, self.padding_mode, ends)
            stride, dilation = plane(self.stride), plane(self.dilation)
            if plane(self.kernel_size) == (1, 1) and weight.shape[1] < NARROW and not any(padding):
                images, stride = thinned(images, stride)
            if moved is None:
                kernel = self.mode.fixed_kernel(weight, axis)
                return F.conv2d(images, kernel, self.bias, stride, padding, dilation, self.groups)
            settings = Settings(stride, (padding[0], padding[1]), dilation, self.groups)
            if by_axes(weight):
                with unrounded(x):
                    kernels = self.mode.kernels(weight, moved, axis)
                return conv2d_per_sample(images, kernels, self.bias, settings)
            maps = self.mode.maps(weight, moved, axis)
            # The axis that is dropped goes first, so that the last two are those of the 2D kernels.
            solid = weight.movedim(2 + axis, 2)
            maps = maps.unflatten(2, weight.shape[2:]).movedim(2 + axis, 2).flatten(2)
            return mapped_conv2d(images, solid, maps, self.bias, settings)

        return by_view(convolve, x, view, shift)

    def _volumes(self, x: Tensor, weight: Tensor, more: tuple[int, int]) -> Tensor:
        shift = self.mode.displacements(x) if self.mode.moves_volumes else None
        depth, *plane = self.margins(x, (0, 1, 2))
        margins = [(depth[0] + more[0], depth[1] + more[1]), *plane]
        zeros = self.padding_mode == "zeros" and 0 not in replicated_axes()
        shallow = type(x.shape[2]) is int and x.shape[2] <= self.kernel_size[0]
        if zeros and shallow and self.stride[0] > 1:  # torch's own padding: wrong gradients on CPUs
            x, margins[0] = F.pad(x, (0, 0, 0, 0, *margins[0])), (0, 0)
        x, padding = pad_ends(x, margins, self.padding_mode, replicated_axes())
        settings = (self.stride, padding, self.dilation, self.groups)
        if shift is None:
            y = F.conv3d(x, weight, self.bias, *settings)
        else:
            with unrounded(x):
                kernels = self.mode.solid_kernels(weight, shift)
            y = conv3d_per_sample(x, kernels, self.bias, *settings)
        if self.depth_position is not None:
            y = y + at_depths(self.depth_position, y.shape[2]).to(y.dtype)
        return y

    def kernel(self) -> Tensor:
        """Give the 3D kernel that both uses take: the weight, or what a subclass makes of it."""
        return self.weight

    def margins(self, x: Tensor | None = None, axes: Sequence[int] = (0, 1, 2)) -> Margins:
        """Give what padding adds before and after some of depth, height and width.

        Args:
            x: Images or volumes of these axes, where padding hangs on their size.
            axes: 0 for depth, 1 for height, 2 for width.
        """
        if self.padding == "valid":
            every = [(0, 0)] * 3
        elif isinstance(self.padding, str):
            totals = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            every = [(total // 2, total - total // 2) for total in totals]
        else:
            every = [(margin, margin) for margin in self.padding]
        return [every[axis] for axis in axes]

    def least_depth(self) -> int:
        """Return how many slices a volume must have at least."""
        margins = self.margins()[0]
        mirrored = {"reflect": 1 + max(margins), "circular": max(margins)}
        reach = self.dilation[0] * (self.kernel_size[0] - 1) + 1 - sum(margins)
        return max(reach, mirrored.get(self.padding_mode, 0))

    @property
    def is_plain_in_3d(self) -> bool:
        """Whether a layer of torch.nn can do what this one does on volumes."""
        return self.depth_position is None

    def to_2d(self, view: int = 0) -> nn.Conv2d:
        """Give the plain 2D layer of this view; the fourier modes are fixed at their mean pose."""
        axis = view if self.mode.has_views else 0
        weight = self.mode.fixed_kernel(self.kernel().detach(), axis)
        return fill(nn.Conv2d(**conv_settings(self, drop_axis(axis))), self, weight=weight)

    def to_3d(self, align: bool = False) -> nn.Conv3d:
        """Give the plain 3D layer; `align` moves a fourier kernel by its mean displacement."""
        weight = self.kernel().detach()
        weight = self.mode.aligned(weight) if align else weight
        return fill(nn.Conv3d(**conv_settings(self, tuple)), self, weight=weight)


def at_depths(positions: Tensor, depth: int) -> Tensor:
    """Interpolate an embedding of depth ``(C, P)`` linearly to ``(C, depth, 1, 1)``."""
    rows = F.interpolate(positions[None], size=depth, mode="linear", align_corners=True)
    return rows[0, :, :, None, None]


def by_view(
    convolve: Callable[[Tensor, int, Tensor | None], Tensor],
    x: Tensor,
    view: View,
    shift: Tensor | None,
) -> Tensor:
    """Convolve the images of each view together: as much work as if they had one.

    Args:
        convolve: Takes images, their view and their displacements.
        x: All images, shape ``(N, C, H, W)``.
        view: The axis that is dropped, or one for each image.
        shift: Displacements ``(N, 3)`` or None.

    Raises:
        ValueError: "view has ..." when there are not as many views as images, "samples of one
            batch ..." when their views make maps of different sizes.
    """
    if isinstance(view, int):
        return convolve(x, view, shift)
    if len(view) != x.shape[0]:
        raise ValueError(f"view has {len(view)} entries for a batch of {x.shape[0]} images")
    axes = sorted(set(view))
    parts = [[i for i, own in enumerate(view) if own == axis] for axis in axes]
    order = [i for part in parts for i in part]
    in_order = order == list(range(len(view)))  # as training sorts them: nothing is copied
    counts = [len(part) for part in parts]
    images = (x if in_order else _taken(x, order)).split(counts)
    moved: Sequence[Tensor | None] = [None] * len(parts)
    if shift is not None:
        moved = (shift if in_order else _taken(shift, order)).split(counts)
    answers = [convolve(*one) for one in zip(images, axes, moved, strict=True)]
    if len({answer.shape[1:] for answer in answers}) > 1:
        shapes = " and ".join(str(tuple(answer.shape[2:])) for answer in answers)
        raise ValueError(
            f"samples of one batch have different views, in which a layer makes maps of {shapes}: "
            "put one view in a batch"
        )
    if in_order:
        return torch.cat(answers)
    back = sorted(range(len(order)), key=order.__getitem__)
    return _taken(torch.cat(answers), back)


def _taken(x: Tensor, places: Sequence[int]) -> Tensor:
    """Take samples by number, without waiting for a GPU, as a list of numbers as index would."""
    return x.index_select(0, torch.tensor(places).to(x.device, non_blocking=True))
