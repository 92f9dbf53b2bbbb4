"""Transposed convolutions of images and of volumes with one set of 3D kernels."""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossd.nn.conv import PaddingMode, Size2, by_view, pad_ends, triple
from crossd.nn.functional import conv_transpose2d_per_sample, map_kernel
from crossd.nn.kernel_modes import KernelMode, make_mode
from crossd.nn.layers import conv_settings, drop_axis, fill, is_volume
from crossd.nn.per_sample import conv3d_per_sample, unrounded
from crossd.nn.views import current_view, replicated_axes

__all__ = ["CrossDConvTranspose"]


class CrossDConvTranspose(nn.ConvTranspose3d):
    """A transposed 3D convolution that also takes images, see `CrossDConv`.

    With a stride s along depth, outputs at different depths meet different taps. The modes that sum
    therefore take the mean over the s classes of taps: the 2D layer is the average over
    depth of the 3D one, and equals it everywhere when the classes have equal sums.

    Args:
        in_channels: Channels of images and volumes.
        out_channels: Channels of the answer.
        kernel_size: A number, or (height, width).
        stride: A number, or (height, width).
        padding: A number, or (height, width).
        output_padding: A number, or (height, width).
        groups: Groups of channels that are convolved by themselves.
        bias: Whether the answer has a learnt bias.
        dilation: A number, or (height, width).
        padding_mode: Only ``"zeros"``, as in torch.
        device: Where parameters are made.
        dtype: Of the parameters.
        kernel_mode: ``"projection"``, ``"slice"``, ``"fourier"`` or ``"fourier-projection"``.
        depth_kernel_size: Size along depth; needed where height and width differ.
        depth_stride: Stride along depth; needed where height and width differ.
        depth_padding: Padding along depth; needed where height and width differ.
        depth_output_padding: Output padding along depth; needed where height and width differ.
        depth_dilation: Dilation along depth; needed where height and width differ.
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
        **options: object,
    ) -> None:
        size = triple(kernel_size, depth_kernel_size, "kernel_size")
        super().__init__(
            in_channels,
            out_channels,
            size,
            triple(stride, depth_stride, "stride"),
            triple(padding, depth_padding, "padding"),
            triple(output_padding, depth_output_padding, "output_padding"),
            groups,
            bias,
            triple(dilation, depth_dilation, "dilation"),
            padding_mode,
            device,
            dtype,
        )
        self.mode = make_mode(kernel_mode, in_channels, size, device, dtype, **options)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Upsample images ``(N, C, H, W)`` or volumes ``(N, C, D, H, W)``."""
        if is_volume(x, self):
            return self._volumes(x, output_size)
        view = current_view() if self.mode.has_views else 0
        shift = self.mode.displacements(x)

        def upsample(images: Tensor, axis: int, moved: Tensor | None) -> Tensor:
            drop = drop_axis(axis)
            images, settings = self._settings(images, output_size, drop(range(3)))
            stride, padding, extra, dilation = settings
            if moved is None:
                kernels = self.planar(axis).unsqueeze(0)
            else:
                maps = self.mode.maps(self.weight, moved, axis)
                flat = map_kernel(self.weight, maps)
                kernels = flat.unflatten(-1, drop(self.kernel_size)) / self._phases(axis)
            return conv_transpose2d_per_sample(
                images, kernels, self.bias, stride, padding, extra, self.groups, dilation
            )

        return by_view(upsample, x, view, shift)

    def _volumes(self, x: Tensor, output_size: list[int] | None) -> Tensor:
        shift = self.mode.displacements(x) if self.mode.moves_volumes else None
        x, (stride, padding, extra, dilation) = self._settings(x, output_size, range(3))
        settings = (stride, padding, extra, self.groups, dilation)
        if shift is None:
            return F.conv_transpose3d(x, self.weight, self.bias, *settings)
        with unrounded(x):
            kernels = self.mode.solid_kernels(self.weight, shift)
        return conv3d_per_sample(x, kernels, self.bias, *settings, convolve=F.conv_transpose3d)

    def _settings(self, x: Tensor, output_size: list[int] | None, axes: Sequence[int]) -> Any:
        """Give (stride, padding, output padding, dilation) of some axes, and the input for them.

        Where ends are continued, as many slices are added as reach the answer, and cut off again.
        """
        stride, padding, size, dilation, extra = (
            [cast(tuple[int, ...], value)[axis] for axis in axes]
            for value in (
                *(self.stride, self.padding, self.kernel_size, self.dilation, self.output_padding),
            )
        )
        if output_size is not None:
            extra = self._output_padding(x, output_size, stride, padding, size, len(axes), dilation)
        reach = [-(-d * (k - 1) // s) for d, k, s in zip(dilation, size, stride, strict=True)]
        ends = [i for i, axis in enumerate(axes) if axis in replicated_axes() and reach[i]]
        x, _ = pad_ends(x, [(reach[i] * (i in ends),) * 2 for i in range(len(axes))], "zeros", ends)
        padding = [p + (i in ends) * reach[i] * stride[i] for i, p in enumerate(padding)]
        return x, (tuple(stride), tuple(padding), tuple(extra), tuple(dilation))

    def planar(self, axis: int) -> Tensor:
        """The 2D kernel of a view, over the classes of taps where it is their sum."""
        return self.mode.fixed_kernel(self.weight, axis) / self._phases(axis)

    def _phases(self, axis: int) -> int:
        return min(self.stride[axis], self.kernel_size[axis]) if self.mode.sums else 1

    def to_2d(self, view: int = 0) -> nn.ConvTranspose2d:
        """Give the plain 2D layer of this view, see `CrossDConv.to_2d`."""
        axis = view if self.mode.has_views else 0
        weight = self.planar(axis).detach()
        return fill(nn.ConvTranspose2d(**conv_settings(self, drop_axis(axis))), self, weight=weight)

    def to_3d(self, align: bool = False) -> nn.ConvTranspose3d:
        """Give the plain 3D layer, see `CrossDConv.to_3d`."""
        weight = self.weight.detach()
        weight = self.mode.aligned(weight) if align else weight
        return fill(nn.ConvTranspose3d(**conv_settings(self, tuple)), self, weight=weight)
