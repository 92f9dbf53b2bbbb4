"""Rules for layers of torch, timm and torchvision that need another forward on volumes.

Most are only a function of the layer and of volumes ``(N, C, D, H, W)``, traceable by torch.fx: on
images the layer does what it did. Depth is treated like height. The libraries are not imported:
their layers are known by name.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossd.conversion.rules import Options, cross, rule
from crossd.forwards import Written, plain_module
from crossd.nn.conv import CrossDConv
from crossd.nn.kernel_modes import in_plane
from crossd.nn.layers import is_volume, kept
from crossd.ranks import make_lifted

__all__: list[str] = []


def on_volumes(
    *types: type[nn.Module] | str, plain: Callable[[Any], nn.Module] | None = None
) -> Callable[[Callable[..., Any]], Any]:
    """Register a function as what layers of these types do on volumes.

    Args:
        *types: See `crossd.rule`.
        plain: Makes the plain layer for volumes, where torch.fx cannot trace the function.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        def lift(layer: nn.Module, options: Options) -> nn.Module:
            return make_lifted(layer, Written(function, plain))

        rule(*types)(lift)
        return function

    return register


def _depth(pair: Any) -> tuple[int, int, int]:
    height, width = pair if isinstance(pair, tuple | list) else (pair, pair)
    return (height, height, width)


# Padding


@on_volumes(
    *(nn.ZeroPad2d, nn.ConstantPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.CircularPad2d)
)
def _padding(self: Any, x: Tensor) -> Tensor:
    names = {"Reflection": "reflect", "Replication": "replicate", "Circular": "circular"}
    mode = next((m for n, m in names.items() if type(self).__name__.startswith(n)), "constant")
    left, right, top, bottom = self.padding
    margins = (left, right, top, bottom, top, bottom)
    return F.pad(x, margins, mode, getattr(self, "value", None))


def same_margins(shape: Sequence[Any], sizes: Any, strides: Any, dilations: Any) -> list[Any]:
    """Margins for `torch.nn.functional.pad` so that sizes shrink by the stride alone, as in TF.

    Args:
        shape: Spatial shape.
        sizes: Of the kernel, like all that follow one an axis.
        strides: Likewise.
        dilations: Likewise.
    """
    margins: list[Any] = []
    for length, size, stride, dilation in zip(shape, sizes, strides, dilations, strict=True):
        reach = (size - 1) * dilation + 1
        total: Any = 0
        if reach > stride or reach > 1:
            total = (-(-length // stride) - 1) * stride + reach - length
        if 1 < reach < stride:  # negative where the stride skips pixels
            total = max(total, 0)
        margins = [total // 2, total - total // 2, *margins]
    return margins


def pad_same(x: Tensor, sizes: Any, strides: Any, dilations: Any, value: float = 0.0) -> Tensor:
    """Pad images or volumes as TF does; see `same_margins`."""
    shape = [x.shape[axis - len(sizes)] for axis in range(len(sizes))]
    return F.pad(x, same_margins(shape, sizes, strides, dilations), "constant", value)


@on_volumes("timm.layers.pool2d_same.AvgPool2dSame")
def _avg_pool_same(self: Any, x: Tensor) -> Tensor:
    size, stride = _depth(self.kernel_size), _depth(self.stride)
    x = pad_same(x, size, stride, (1, 1, 1))
    return F.avg_pool3d(x, size, stride, 0, self.ceil_mode, self.count_include_pad)


@on_volumes("timm.layers.pool2d_same.MaxPool2dSame")
def _max_pool_same(self: Any, x: Tensor) -> Tensor:
    size, stride, dilation = map(_depth, (self.kernel_size, self.stride, self.dilation))
    x = pad_same(x, size, stride, dilation, -float("inf"))
    return F.max_pool3d(x, size, stride, 0, dilation, self.ceil_mode)


# Convolutions with something before them


class _SameConv(CrossDConv):
    """A Cross-D convolution with other margins before than behind.

    Args:
        margins: (before, behind) for each axis; None pads as TF does, by an amount that depends on
            the size of the input.
        **settings: As those of `CrossDConv`.
    """

    def __init__(
        self, *args: Any, margins: Sequence[tuple[int, int]] | None = None, **settings: Any
    ) -> None:
        super().__init__(*args, **settings)
        self.margins = margins

    def forward(self, x: Tensor) -> Tensor:
        """Pad and convolve images or volumes."""
        return super().forward(_padded(self, x, tuple if is_volume(x, self) else in_plane))

    def to_2d(self, view: int = 0) -> Any:
        """Give a module of torch.fx: torch.nn has no such convolution."""
        return self._plain(super().to_2d(view), kept(view if self.mode.has_views else 0))

    def to_3d(self, align: bool = False) -> Any:
        """Give a module of torch.fx: torch.nn has no such convolution."""
        return self._plain(super().to_3d(align), tuple)

    def _plain(self, conv: Any, pick: Any) -> nn.Module:
        conv.margins = None if self.margins is None else pick(self.margins)
        return plain_module(conv, _padded_conv)


def _padded(conv: Any, x: Tensor, pick: Any) -> Tensor:
    if conv.margins is not None:
        pairs = reversed(pick(conv.margins))
        return F.pad(x, [margin for pair in pairs for margin in pair])
    return pad_same(x, pick(conv.kernel_size), pick(conv.stride), pick(conv.dilation))


def _padded_conv(self: Any, x: Tensor) -> Tensor:
    x = _padded(self, x, tuple)
    convolve = F.conv2d if len(self.kernel_size) == 2 else F.conv3d
    return convolve(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class _StdConv(CrossDConv):
    """A Cross-D convolution whose 2D kernel has mean 0 and variance 1 for each output channel.

    What is standardised is the 2D kernel in the axial view: from each tap of the 3D kernel its
    share of the mean is taken, and all are divided by the 2D kernel's standard deviation. So both
    uses have one and the same kernel, and the consistency law holds in all views.

    Args:
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
        share = self.weight.shape[2] if self.mode.sums else 1
        variance, mean = torch.var_mean(flat, 1, correction=0)
        factor = (variance + self.eps).rsqrt()
        if self.gain is not None and self.scale is not None:
            factor = factor * self.gain.flatten() * self.scale
        shape = (-1, 1, 1, 1, 1)
        return (self.weight - (mean / share).view(shape)) * factor.view(shape)


class _SameStdConv(_StdConv, _SameConv):
    """Both: padded as in TF, with a standardised kernel."""


_STANDARDISED = "timm.layers.std_conv."


@rule(
    "timm.layers.conv2d_same.Conv2dSame",
    *(f"{_STANDARDISED}{name}" for name in ("StdConv2d", "StdConv2dSame")),
    *(f"{_STANDARDISED}{name}" for name in ("ScaledStdConv2d", "ScaledStdConv2dSame")),
)
def _special_conv(conv: Any, options: Options) -> nn.Module:
    name = type(conv).__name__
    dynamic = name == "Conv2dSame" or getattr(conv, "same_pad", False)
    more: dict[str, Any] = {"padding": 0, "depth_padding": 0} if dynamic else {}
    if name == "Conv2dSame":
        return cross(conv, options, _SameConv, **more)
    more |= {"eps": conv.eps, "scale": getattr(conv, "scale", None)}
    return cross(conv, options, _SameStdConv if dynamic else _StdConv, **more)


@rule(
    *("segmentation_models_pytorch.encoders._efficientnet.Conv2dStaticSamePadding",),
    "efficientnet_pytorch.utils.Conv2dStaticSamePadding",
)
def _static_same_conv(conv: Any, options: Options) -> nn.Module:
    left, right, top, bottom = getattr(conv.static_padding, "padding", (0, 0, 0, 0))
    margins = ((top, bottom), (top, bottom), (left, right))
    return cross(conv, options, _SameConv, margins=margins)


# Norms, pools and others


@on_volumes("timm.layers.norm_act.BatchNormAct2d")
def _batch_norm_act(self: Any, x: Tensor) -> Tensor:
    tracked = self.track_running_stats and self.running_mean is not None
    if tracked and self.num_batches_tracked is not None:
        self.num_batches_tracked.add_(self.training)
    training = self.training if tracked else True
    statistics = (self.running_mean, self.running_var)
    x = F.batch_norm(x, *statistics, self.weight, self.bias, training, self.momentum, self.eps)
    return self.act(self.drop(x))


@on_volumes("timm.layers.blur_pool.BlurPool2d")
def _blur_pool(self: Any, x: Tensor) -> Tensor:
    margin, mode = self.padding[0], self.pad_mode
    x = F.pad(x, (margin, margin, margin, margin, 0, 0), mode)
    x = F.pad(x, (0, 0, 0, 0, margin, margin), "constant" if mode == "constant" else "replicate")
    along = self.filt[0, 0].sum(1)  # the filter is the product of one along each axis
    solid = self.filt.unsqueeze(2) * along.view(-1, 1, 1)
    channels = x.shape[1]
    solid = solid[:1].expand(channels, -1, -1, -1, -1)
    return F.conv3d(x, solid, None, self.stride, 0, 1, channels)


def _slices(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(0, 1)


def _stacked(slices: Tensor, depth: Any) -> Tensor:
    return slices.unflatten(0, (-1, depth)).transpose(1, 2)


@on_volumes(nn.PixelShuffle)
def _pixel_shuffle(self: Any, x: Tensor) -> Tensor:
    """Shuffle in every slice, and repeat slices."""
    factor = self.upscale_factor
    y = _stacked(F.pixel_shuffle(_slices(x), factor), x.shape[2])
    return y.repeat_interleave(factor, 2)


@on_volumes(nn.PixelUnshuffle)
def _pixel_unshuffle(self: Any, x: Tensor) -> Tensor:
    """Unshuffle in every slice, and average slices."""
    factor = self.downscale_factor
    y = _stacked(F.pixel_unshuffle(_slices(x), factor), x.shape[2])
    return F.avg_pool3d(y, (factor, 1, 1), ceil_mode=True)


@on_volumes("timm.layers.space_to_depth.SpaceToDepth")
def _space_to_depth(self: Any, x: Tensor) -> Tensor:
    """Move blocks of pixels into channels in every slice, and average slices."""
    size = self.bs
    y = _slices(x).unflatten(3, (-1, size)).unflatten(2, (-1, size))  # (nd, c, h, s, w, s)
    y = y.permute(0, 3, 5, 1, 2, 4).flatten(1, 3)
    return F.avg_pool3d(_stacked(y, x.shape[2]), (size, 1, 1), ceil_mode=True)


@on_volumes(nn.Softmax2d)
def _softmax(self: Any, x: Tensor) -> Tensor:
    return x.softmax(1)


def _drop_blocks(self: Any) -> Any:
    from torchvision.ops import DropBlock3d

    p = self.drop_prob if hasattr(self, "drop_prob") else self.p
    return DropBlock3d(p, self.block_size, self.inplace)


@on_volumes(
    *("timm.layers.drop.DropBlock2d", "torchvision.ops.drop_block.DropBlock2d"), plain=_drop_blocks
)
def _drop_block(self: Any, x: Tensor) -> Tensor:
    return _drop_blocks(self).train(self.training)(x)


@on_volumes("segmentation_models_pytorch.decoders.manet.decoder.PABBlock")
def _position_attention(self: Any, x: Tensor) -> Tensor:
    """Let weights over all pairs of pixels sum to 1 in each slice, as they do on images."""
    top = self.top_conv(x).flatten(2)
    center = self.center_conv(x).flatten(2).transpose(1, 2)
    bottom = self.bottom_conv(x)
    pairs = torch.matmul(center, top)
    weights = pairs.flatten(1).softmax(1).view_as(pairs) * x.shape[2]
    mixed = torch.matmul(weights, bottom.flatten(2).transpose(1, 2))
    return self.out_conv(x + mixed.reshape(bottom.shape))


@on_volumes("timm.models.vgg.ConvMlp")
def _conv_mlp(self: Any, x: Tensor) -> Tensor:
    """Give the kernel, as large as the last maps, the maps that it was made for."""
    x = F.adaptive_avg_pool3d(x, self.input_kernel_size)
    return self.act2(self.fc2(self.drop(self.act1(self.fc1(x)))))
