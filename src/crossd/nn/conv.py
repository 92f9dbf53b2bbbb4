"""Convolutions of images and of volumes with one set of 3D kernels.

Each is the 3D layer of torch.nn, with its parameter names, which also answers on images. Its
`to_2d` and `to_3d` give plain torch.nn layers. Settings are triples (z, y, x); on images the two
of the axes that stay in the current view are used. `crossd.nn.layers` has the layers around them.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossd.nn.functional import conv_transpose2d_per_sample
from crossd.nn.kernel_modes import (
    KernelMode,
    OneOfThree,
    PosePredictor,
    current_view,
    in_plane,
    make_mode,
    shared,
)
from crossd.nn.layers import conv_settings, fill, is_volume, kept
from crossd.nn.per_sample import Settings, mapped_conv2d

__all__ = ["CrossDConv", "CrossDConvTranspose", "PosePredictor", "has_views", "mixes_views"]

Size2 = int | tuple[int, int]
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


def _triple(value: Size2, depth: int | None, name: str) -> tuple[int, int, int]:
    """Complete a setting of a 2D layer by the one for depth: the common one, unless given."""
    height, width = (value, value) if isinstance(value, int) else value
    if depth is None and height != width:
        raise ValueError(
            f"{name} (={(height, width)}) differs between height and width: give depth_{name} too"
        )
    return (height if depth is None else depth, height, width)


class CrossDConv(nn.Conv3d):
    """A 3D convolution that also convolves images, with 2D kernels taken from its own.

    Args:
        in_channels: As in `torch.nn.Conv2d`, like all up to `dtype`.
        out_channels: See there.
        kernel_size: A number, or (height, width).
        stride: A number, or (height, width).
        padding: A number, (height, width), ``"same"`` or ``"valid"``.
        dilation: A number, or (height, width).
        groups: See there.
        bias: See there.
        padding_mode: ``"zeros"``, ``"reflect"``, ``"replicate"`` or ``"circular"``.
        device: See there.
        dtype: See there.
        kernel_mode: ``"projection"``, ``"slice"`` or ``"fourier"`` (see `crossd.nn.kernel_modes`).
        depth_kernel_size: Size along depth; needed where height and width differ.
        depth_stride: Likewise.
        depth_padding: Likewise.
        depth_dilation: Likewise.
        **options: Of the kernel mode (`offset` for fourier).

    Attributes:
        weight: Shape ``(out_channels, in_channels / groups, depth, height, width)``.
        bias: Shape ``(out_channels,)`` or None.

    Raises:
        ValueError: naming the argument, when one cannot be honoured.

    Example:
        >>> conv = CrossDConv(1, 8, 3, padding=1)
        >>> conv(torch.zeros(2, 1, 16, 16)).shape, conv(torch.zeros(2, 1, 9, 16, 16)).shape
        (torch.Size([2, 8, 16, 16]), torch.Size([2, 8, 9, 16, 16]))
    """

    mode: KernelMode

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
        **options: Any,
    ) -> None:
        if isinstance(padding, str) and depth_padding is not None:
            raise ValueError(f"depth_padding (={depth_padding}) cannot go with padding {padding!r}")
        size = _triple(kernel_size, depth_kernel_size, "kernel_size")
        super().__init__(
            in_channels,
            out_channels,
            size,
            _triple(stride, depth_stride, "stride"),
            padding if isinstance(padding, str) else _triple(padding, depth_padding, "padding"),
            _triple(dilation, depth_dilation, "dilation"),
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )
        self.mode = make_mode(kernel_mode, in_channels, size, device, dtype, **options)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve images ``(N, C, H, W)`` or volumes ``(N, C, D, H, W)``."""
        weight = self.kernel()
        if is_volume(x, self):
            return self._conv_forward(x, weight, self.bias)
        view = current_view()
        views = maps = None
        if isinstance(view, tuple) and isinstance(self.mode, OneOfThree):
            views = self.mode.check(weight, x, view)
        else:
            maps = self.mode.maps(weight, x, view)
        left, right, top, bottom = margins = self._plane_margins()
        padding = (top, left)
        if self.padding_mode != "zeros" or (left, top) != (right, bottom):
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            x, padding = F.pad(x, margins, mode), (0, 0)
        stride, dilation = self._plane(self.stride), self._plane(self.dilation)

        def convolve(images: Tensor, axis: int) -> Tensor:
            kernel = self.mode.fixed_kernel(weight, axis)
            return F.conv2d(images, kernel, self.bias, stride, padding, dilation, self.groups)

        if views is not None:
            return _by_view(convolve, x, views)
        if maps is None:
            return convolve(x, shared(view))
        settings = Settings(stride, padding, dilation, self.groups)
        return mapped_conv2d(x, weight, maps, self.bias, settings)

    def kernel(self) -> Tensor:
        """Give the 3D kernel that both uses take: the weight, or what a subclass makes of it."""
        return self.weight

    def _plane(self, values: Sequence[int]) -> tuple[int, int]:
        return in_plane(values) if self.mode.has_views else (values[1], values[2])

    def _plane_margins(self) -> list[int]:
        """Margins for `torch.nn.functional.pad`: last axis first, before and after."""
        margins = self._reversed_padding_repeated_twice
        before, after = margins[4::-2], margins[5::-2]  # (z, y, x)
        (top, left), (bottom, right) = self._plane(before), self._plane(after)
        return [left, right, top, bottom]

    def to_2d(self, view: int = 0) -> nn.Conv2d:
        """Give the plain 2D layer of this view; the fourier mode is fixed at its mean pose."""
        plane = kept(view if self.mode.has_views else 0)
        weight = self.mode.fixed_kernel(self.kernel().detach(), view)
        return fill(nn.Conv2d(**conv_settings(self, plane)), self, weight=weight)

    def to_3d(self, align: bool = False) -> nn.Conv3d:
        """Give the plain 3D layer; `align` moves a fourier kernel by its mean displacement."""
        weight = self.kernel().detach()
        weight = self.mode.aligned(weight) if align else weight
        return fill(nn.Conv3d(**conv_settings(self, tuple)), self, weight=weight)


def _by_view(
    convolve: Callable[[Tensor, int], Tensor], x: Tensor, views: tuple[int, ...]
) -> Tensor:
    """Convolve the images of each view together: as much work as if they had one."""
    axes = sorted(set(views))
    parts = [[i for i, view in enumerate(views) if view == axis] for axis in axes]
    order = [i for part in parts for i in part]
    if order == list(range(len(views))):  # as training sorts them: nothing is copied
        images = x.split([len(part) for part in parts])
        answers = [convolve(one, axis) for one, axis in zip(images, axes, strict=True)]
        return torch.cat(answers)
    answers = [convolve(x[part], axis) for part, axis in zip(parts, axes, strict=True)]
    back = sorted(range(len(order)), key=order.__getitem__)
    return torch.cat(answers)[back]


class CrossDConvTranspose(nn.ConvTranspose3d):
    """A transposed 3D convolution that also takes images, see `CrossDConv`.

    With a stride s along depth, outputs at different depths meet different taps. The projection
    mode therefore takes the mean over the s classes of taps: the 2D layer is the average over
    depth of the 3D one, and equals it everywhere when the classes have equal sums.

    Args:
        in_channels: As in `torch.nn.ConvTranspose2d`, like all up to `dtype`.
        out_channels: See there.
        kernel_size: A number, or (height, width).
        stride: Likewise.
        padding: Likewise.
        output_padding: Likewise.
        groups: See there.
        bias: See there.
        dilation: A number, or (height, width).
        padding_mode: Only ``"zeros"``, as in torch.
        device: See there.
        dtype: See there.
        kernel_mode: ``"projection"``, ``"slice"`` or ``"fourier"``.
        depth_kernel_size: Size along depth; needed where height and width differ.
        depth_stride: Likewise.
        depth_padding: Likewise.
        depth_output_padding: Likewise.
        depth_dilation: Likewise.
        **options: Of the kernel mode.

    Attributes:
        weight: Shape ``(in_channels, out_channels / groups, depth, height, width)``.
        bias: Shape ``(out_channels,)`` or None.

    Raises:
        ValueError: naming the argument, when one cannot be honoured.

    Example:
        >>> up = CrossDConvTranspose(4, 2, 2, stride=2)
        >>> up(torch.zeros(1, 4, 8, 8)).shape
        torch.Size([1, 2, 16, 16])
    """

    mode: KernelMode

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size2,
        stride: Size2 = 1,
        padding: Size2 = 0,
        output_padding: Size2 = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size2 = 1,
        padding_mode: PaddingMode = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        kernel_mode: str = "projection",
        depth_kernel_size: int | None = None,
        depth_stride: int | None = None,
        depth_padding: int | None = None,
        depth_output_padding: int | None = None,
        depth_dilation: int | None = None,
        **options: Any,
    ) -> None:
        size = _triple(kernel_size, depth_kernel_size, "kernel_size")
        super().__init__(
            in_channels,
            out_channels,
            size,
            _triple(stride, depth_stride, "stride"),
            _triple(padding, depth_padding, "padding"),
            _triple(output_padding, depth_output_padding, "output_padding"),
            groups,
            bias,
            _triple(dilation, depth_dilation, "dilation"),
            padding_mode,
            device,
            dtype,
        )
        self.mode = make_mode(kernel_mode, in_channels, size, device, dtype, **options)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Upsample images ``(N, C, H, W)`` or volumes ``(N, C, D, H, W)``."""
        if is_volume(x, self):
            return super().forward(x, output_size)
        plane = in_plane if self.mode.has_views else (lambda values: (values[1], values[2]))
        stride, padding = plane(self.stride), plane(cast(tuple[int, ...], self.padding))
        size, dilation = plane(self.kernel_size), plane(self.dilation)
        extra: Any = plane(self.output_padding)
        if output_size is not None:
            extra = self._output_padding(
                x, output_size, list(stride), list(padding), list(size), 2, list(dilation)
            )
        view = current_view()

        def upsample(images: Tensor, axis: int) -> Tensor:
            kernel = self._planar(axis)
            return F.conv_transpose2d(
                images, kernel, self.bias, stride, padding, extra, self.groups, dilation
            )

        if isinstance(self.mode, OneOfThree):
            if isinstance(view, int):
                return upsample(x, view)
            return _by_view(upsample, x, self.mode.check(self.weight, x, view))
        kernels = self.mode.kernels(self.weight, x, view)
        return conv_transpose2d_per_sample(
            x, kernels, self.bias, stride, padding, (extra[0], extra[1]), self.groups, dilation
        )

    def _planar(self, axis: int) -> Tensor:
        """The 2D kernel of a view, over the classes of taps where it is their sum."""
        kernel = self.mode.fixed_kernel(self.weight, axis)
        phases = min(self.stride[axis], self.kernel_size[axis]) if self.mode.sums else 1
        return kernel / phases

    def to_2d(self, view: int = 0) -> nn.ConvTranspose2d:
        """Give the plain 2D layer of this view, see `CrossDConv.to_2d`."""
        plane = kept(view if self.mode.has_views else 0)
        weight = self._planar(view).detach()
        return fill(nn.ConvTranspose2d(**conv_settings(self, plane)), self, weight=weight)

    def to_3d(self, align: bool = False) -> nn.ConvTranspose3d:
        """Give the plain 3D layer, see `CrossDConv.to_3d`."""
        weight = self.weight.detach()
        weight = self.mode.aligned(weight) if align else weight
        return fill(nn.ConvTranspose3d(**conv_settings(self, tuple)), self, weight=weight)


def has_views(net: nn.Module) -> bool:
    """Tell whether the view matters to a network."""
    return any(isinstance(m, CrossDConv) and m.mode.has_views for m in net.modules())


def mixes_views(net: nn.Module) -> bool:
    """Tell whether images of one batch may differ in view: all that a layer does is a cube."""
    names = ("kernel_size", "stride", "padding", "dilation", "output_padding")
    found = [getattr(m, name, None) for m in net.modules() for name in names]
    cubes = all(len(set(sides)) == 1 for sides in found if isinstance(sides, tuple) and sides)
    return cubes and all(getattr(m, "mixes_views", True) for m in net.modules())
