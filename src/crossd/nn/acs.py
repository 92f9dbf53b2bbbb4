"""ACS convolutions, a baseline: 2D kernels used in the three planes of a volume.

Source: Yang et al. 2021, "Reinventing 2D Convolutions for 3D Images", arXiv 1911.10477. A third
of the output channels uses its 2D kernel in the axial plane, a third in the coronal and a third
in the sagittal one; earlier planes receive the channels left over.
"""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossd.nn.functional import lift
from crossd.nn.layers import conv_settings, fill, is_volume


def split(channels: int) -> tuple[int, int, int]:
    """Return how many output channels use the axial, coronal and sagittal plane.

    Example:
        >>> split(8)
        (3, 3, 2)
    """
    return ((channels + 2) // 3, (channels + 1) // 3, channels // 3)


def _solid(weight: Tensor, channel_dim: int, stride: int) -> Tensor:
    """The dense 3D kernel that an ACS layer amounts to, from a square 2D one."""
    depth = _cube(weight.shape[2:])
    axial = lift(weight, depth, "center", stride, transposed=True, spread=False)  # (o, i, z, y, x)
    planes = (axial, axial.transpose(2, 3), axial.permute(0, 1, 3, 4, 2))
    parts = split(weight.shape[channel_dim])
    chunks = [p.split(parts, dim=channel_dim)[i] for i, p in enumerate(planes)]
    return torch.cat(chunks, dim=channel_dim)


def _cube(pair: Sequence[int]) -> int:
    if len(set(pair)) > 1:
        raise ValueError(f"ACS needs the same setting in height and width, got {tuple(pair)}")
    return pair[0]


class ACSConv(nn.Conv2d):
    """`torch.nn.Conv2d` that also convolves volumes, in three planes.

    Example:
        >>> ACSConv(1, 6, 3, padding=1)(torch.zeros(1, 1, 5, 6, 7)).shape
        torch.Size([1, 6, 5, 6, 7])
    """

    def forward(self, input: Tensor) -> Tensor:
        """Convolve images ``(N, C, H, W)`` or volumes ``(N, C, D, H, W)``."""
        if not is_volume(input, self):
            return super().forward(input)
        stride, dilation = _cube(self.stride), _cube(self.dilation)
        reach = dilation * (_cube(self.kernel_size) - 1)
        if isinstance(self.padding, str):
            total = reach if self.padding == "same" else 0
            margins = [total // 2, total - total // 2]
        else:
            margins = [_cube(self.padding)] * 2
        pad_mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        x = F.pad(input, margins * 3, pad_mode)
        if self.groups > 1:  # a third of the outputs cuts through the groups
            solid = _solid(self.weight, 0, 1)
            return F.conv3d(x, solid, self.bias, stride, 0, dilation, self.groups)
        middle = self.kernel_size[0] // 2 * dilation
        parts = split(self.out_channels)
        biases = [None] * 3 if self.bias is None else self.bias.split(parts)
        outputs = []
        for axis, (weight, bias) in enumerate(zip(self.weight.split(parts), biases, strict=True)):
            if weight.shape[0] == 0:
                continue
            plane = x.narrow(2 + axis, middle, x.shape[2 + axis] - reach)
            outputs.append(F.conv3d(plane, weight.unsqueeze(2 + axis), bias, stride, 0, dilation))
        return torch.cat(outputs, dim=1)

    def to_2d(self, view: int = 0) -> nn.Conv2d:
        """Give the 2D layer it was made from."""
        return fill(nn.Conv2d(**conv_settings(self, tuple)), self)

    def to_3d(self, align: bool = False) -> nn.Conv3d:
        """Give the dense 3D layer that does the same (with the zeros as weights of their own)."""
        weight = _solid(self.weight.detach(), 0, 1)
        return fill(nn.Conv3d(**conv_settings(self, _cube)), self, weight=weight)


class ACSConvTranspose(nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d` that also takes volumes, in three planes."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Upsample images ``(N, C, H, W)`` or volumes ``(N, C, D, H, W)``."""
        if not is_volume(input, self):
            return super().forward(input, output_size)
        size, stride, dilation = map(_cube, (self.kernel_size, self.stride, self.dilation))
        padding = _cube(cast(tuple[int, ...], self.padding))
        extra = [_cube(self.output_padding)] * 3
        if output_size is not None:
            strides, paddings, sizes, dilations = (
                [value] * 3 for value in (stride, padding, size, dilation)
            )
            extra = self._output_padding(input, output_size, strides, paddings, sizes, 3, dilations)
        solid = _solid(self.weight, 1, stride)
        return F.conv_transpose3d(
            input, solid, self.bias, stride, padding, extra, self.groups, dilation
        )

    def to_2d(self, view: int = 0) -> nn.ConvTranspose2d:
        """Give the 2D layer it was made from."""
        return fill(nn.ConvTranspose2d(**conv_settings(self, tuple)), self)

    def to_3d(self, align: bool = False) -> nn.ConvTranspose3d:
        """Give the dense 3D layer that does the same."""
        weight = _solid(self.weight.detach(), 1, _cube(self.stride))
        return fill(nn.ConvTranspose3d(**conv_settings(self, _cube)), self, weight=weight)
