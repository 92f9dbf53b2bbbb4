"""Conditionally parametrised convolutions: each sample's kernel is its own mixture of experts.

Source: Yang et al. 2019, arXiv 1904.04971; timm's `CondConv2d`. The experts become 3D kernels; on
images their 2D kernels are mixed, on volumes the 3D ones: the same thing, as the modes are linear.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossd.conversion.rules import Options, rule
from crossd.forwards import plain_module
from crossd.nn.functional import lift
from crossd.nn.kernel_modes import current_view, in_plane, make_mode
from crossd.nn.layers import fill, is_volume
from crossd.rules_elsewhere import pad_same

__all__ = ["CondConv"]


class CondConv(nn.Module):
    """A mixture of Cross-D convolutions, with timm's names of parameters.

    Args:
        conv: The 2D layer of timm.
        options: Of the conversion.

    Attributes:
        weight: Shape ``(experts, O * I / groups * K^3)``.
        bias: Shape ``(experts, O)`` or None.
    """

    kernel_size: tuple[int, int, int]
    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, conv: Any, options: Options) -> None:
        super().__init__()
        if options.kernel_mode not in ("projection", "slice"):
            raise ValueError(f"{options.kernel_mode!r} has no mixtures of kernels")
        if options.depth_kernel is not None:
            raise ValueError("depth_kernel is not for mixtures of kernels")
        depth = conv.kernel_size[0]
        names = ("kernel_size", "stride", "padding", "dilation")
        for name in names:
            pair = getattr(conv, name)
            setattr(self, name, (pair[0], *pair))
        self.out_channels, self.groups = conv.out_channels, conv.groups
        self.dynamic_padding = conv.dynamic_padding
        self.shape = (conv.out_channels, conv.in_channels // conv.groups)
        self.mode = make_mode(options.kernel_mode, conv.in_channels, self.kernel_size)
        flat = conv.weight.detach().view(-1, *conv.weight_shape[1:])  # (experts * O, I, y, x)
        solid = flat.new_empty(len(flat), flat.shape[1], *self.kernel_size)
        if options.lift is None:
            nn.init.kaiming_normal_(solid, mode="fan_out", nonlinearity="relu")
        elif options.lift == "inflate" and not self.mode.sums:
            solid.copy_(flat.unsqueeze(2).expand_as(solid))
        else:
            solid.copy_(lift(flat, depth, options.lift))
        self.weight = nn.Parameter(solid.view(len(conv.weight), -1), conv.weight.requires_grad)
        bias = conv.bias
        self.register_parameter(
            "bias", None if bias is None else nn.Parameter(bias.detach().clone())
        )
        self.__dict__["source"] = copy.deepcopy(conv).to("meta")
        self.train(conv.training)

    def forward(self, x: Tensor, routing_weights: Tensor) -> Tensor:
        """Convolve images or volumes, each with its mixture ``(N, experts)``."""
        if is_volume(x, self):
            return _mixed(self, x, routing_weights)
        view = current_view()
        if not isinstance(view, int):
            raise ValueError("mixtures of kernels need one view for the whole batch")
        return _convolved(self, x, routing_weights, self._planar(view), in_plane)

    def _planar(self, view: int) -> Tensor:
        solid = self.weight.view(-1, self.shape[1], *self.kernel_size)
        return self.mode.fixed_kernel(solid, view).reshape(len(self.weight), -1)

    def to_2d(self, view: int = 0) -> nn.Module:
        """Give timm's layer back."""
        values = {"weight": self._planar(view).detach()}
        return fill(copy.deepcopy(self.__dict__["source"]), self, **values)

    def to_3d(self, align: bool = False) -> nn.Module:
        """Give a module of torch.fx: torch.nn has no such convolution."""
        return plain_module(self, _mixed).train(self.training)


def _mixed(self: Any, x: Tensor, routing_weights: Tensor) -> Tensor:
    return _convolved(self, x, routing_weights, self.weight, tuple)


def _convolved(conv: Any, x: Tensor, routing: Tensor, experts: Tensor, pick: Any) -> Tensor:
    """One convolution with a group of channels a sample."""
    n, size = x.shape[0], pick(conv.kernel_size)
    stride, dilation, padding = map(pick, (conv.stride, conv.dilation, conv.padding))
    if conv.dynamic_padding:
        x, padding = pad_same(x, size, stride, dilation), (0,) * len(size)
    kernels = torch.matmul(routing, experts).view(-1, conv.shape[1], *size)
    bias = None if conv.bias is None else torch.matmul(routing, conv.bias).view(-1)
    convolve = F.conv2d if len(size) == 2 else F.conv3d
    rows = x.flatten(0, 1).unsqueeze(0)
    y = convolve(rows, kernels, bias, stride, padding, dilation, conv.groups * n)
    return y.squeeze(0).unflatten(0, (-1, conv.out_channels))


@rule("timm.layers.cond_conv2d.CondConv2d")
def _cond_conv(conv: Any, options: Options) -> nn.Module:
    return CondConv(conv, options)
