"""Cross-D forms of convolutions that pad as TensorFlow does, or that standardise their kernels."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crossd.nn.conv import CrossDConv, Margins
from crossd.nn.layers import drop_axis, fill

__all__ = ["SameConv", "SameStdConv", "StdConv", "same_margins"]


def same_margins(length: int, size: int, stride: int, dilation: int) -> tuple[int, int]:
    """Margins before and after an axis so that its size shrinks by the stride alone, as in TF.

    Args:
        length: Size of the axis.
        size: Of the kernel along it.
        stride: Along it.
        dilation: Along it.

    Example:
        >>> same_margins(6, 3, 2, 1), same_margins(7, 3, 2, 1)
        ((0, 1), (1, 1))
    """
    reach = (size - 1) * dilation + 1
    if reach == 1:
        return 0, 0
    total = (-(-length // stride) - 1) * stride + reach - length
    if reach < stride:  # negative where the stride skips pixels; not asked of free sizes elsewhere
        total = max(total, 0)
    return total // 2, total - total // 2


class SameConv(CrossDConv):
    """A Cross-D convolution with other margins before than behind.

    Args:
        *args: As those of `CrossDConv`.
        fixed_margins: (before, behind) for each of depth, height and width; None pads as TF does,
            by an amount that depends on the size of the input.
        planar: The 2D convolution that this one stands for; `to_2d` gives one of its class.
        **settings: As those of `CrossDConv`.
    """

    planar: nn.Conv2d

    def __init__(
        self,
        *args: Any,
        fixed_margins: Sequence[tuple[int, int]] | None = None,
        planar: nn.Conv2d,
        **settings: Any,
    ) -> None:
        super().__init__(*args, **settings)
        self.fixed_margins = fixed_margins
        # Not a part of this network: without tensors, and out of sight of `modules`.
        self.__dict__["planar"] = copy.deepcopy(planar).to("meta")

    def margins(self, x: Tensor | None = None, axes: Sequence[int] = (0, 1, 2)) -> Margins:
        """See `CrossDConv.margins`."""
        if self.fixed_margins is not None:
            return [self.fixed_margins[axis] for axis in axes]
        if x is None:
            return super().margins(x, axes)
        return [
            same_margins(length, self.kernel_size[axis], self.stride[axis], self.dilation[axis])
            for length, axis in zip(x.shape[2:], axes, strict=True)
        ]

    @property
    def is_plain_in_3d(self) -> bool:
        """Torch has no 3D convolution with margins that depend on the size."""
        return False

    def least_depth(self) -> int:
        """Return how many slices a volume must have at least: what lacks is padded."""
        return 1

    def to_2d(self, view: int = 0) -> nn.Conv2d:
        """Give a layer of the class that it was made from, with the settings of this view."""
        plane = drop_axis(view if self.mode.has_views else 0)
        conv = copy.deepcopy(self.planar)
        for name in ("kernel_size", "stride", "dilation"):
            setattr(conv, name, plane(getattr(self, name)))
        return fill(conv, super().to_2d(view))


class StdConv(CrossDConv):
    """A Cross-D convolution whose 2D kernel has mean 0 and variance 1 for each output channel.

    What is standardised is the 2D kernel in the axial view: from each tap of the 3D kernel its
    share of the mean is taken, and all are divided by the 2D kernel's standard deviation. So both
    uses have one and the same kernel, and the consistency law holds in all views.

    Args:
        *args: As those of `CrossDConv`.
        eps: Added to the variance.
        scale: The standard deviation to have; None for 1 without a learnt gain.
        **settings: As those of `CrossDConv`.
    """

    gain: nn.Parameter | None

    def __init__(self, *args: Any, eps: float, scale: float | None, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.eps, self.scale = eps, scale
        new = self.weight.new_ones(self.out_channels, 1, 1, 1)
        self.register_parameter("gain", None if scale is None else nn.Parameter(new))

    def kernel(self) -> Tensor:
        """Standardise the weight."""
        flat = self.mode.fixed_kernel(self.weight, 0).flatten(1)
        variance, mean = torch.var_mean(flat, 1, correction=0)
        factor = (variance + self.eps).rsqrt()
        if self.gain is not None and self.scale is not None:
            factor = factor * self.gain.flatten() * self.scale
        share = self.weight.shape[2] if self.mode.sums else 1
        shape = (-1, 1, 1, 1, 1)
        return (self.weight - (mean / share).view(shape)) * factor.view(shape)


class SameStdConv(StdConv, SameConv):
    """Both: padded as in TF, with a standardised kernel."""
