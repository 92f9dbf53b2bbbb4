"""Rules: how a layer with kernels becomes one that takes images and volumes by itself.

Only what has 3D weights needs a rule: convolutions and transposed ones, and those of other
libraries that pad or standardise before they convolve. Everything else stays as it is. A rule is
for one type of layer, or for a type by its full name, so that libraries that are not installed
need not be.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from crossd.conversion.depth_stride import depth_settings
from crossd.conversion.folding.torch_private import ConvBase
from crossd.errors import InputError
from crossd.nn import acs, layers
from crossd.nn.conv import CrossDConv
from crossd.nn.conv_transpose import CrossDConvTranspose
from crossd.nn.conv_variants import SameConv, SameStdConv, StdConv
from crossd.nn.functional import depth_taps
from crossd.nn.functional import lift as lift_kernel
from crossd.nn.kernel_modes import KERNEL_MODES
from crossd.nn.planar import PlanarConv


@dataclass(frozen=True)
class Options:
    """What a rule may need to know.

    Attributes:
        kernel_mode: A name in `crossd.nn.kernel_modes.KERNEL_MODES`, ``"acs"`` or ``"cycle"``.
        lift: ``"center"``, ``"inflate"``, ``"triplanar"`` or None for new weights.
        mode_options: Further arguments of the kernel mode.
        depth_kernel: Depth of kernels that are larger than one pixel; None copies the plane's.
        depth_strides: Depth strides of layers, by their paths, for which it is not the plane's.
        depth_stride: The depth stride of all strided layers; None copies the plane's.
        spread: Whether strided layers spread their start over depth, so that no slice is dropped.
        planes: Of ``"cycle"``: the planes of convolutions (`crossd.nn.planar.PLANES`), by their
            paths; others work within slices.
        path: Of the layer in the network.
    """

    kernel_mode: str = "projection"
    lift: str | None = "center"
    mode_options: dict[str, object] = field(default_factory=dict)
    depth_kernel: int | None = None
    depth_strides: dict[str, int] = field(default_factory=dict)
    depth_stride: int | None = None
    spread: bool = True
    planes: dict[str, str] = field(default_factory=dict)
    path: str = ""

    @property
    def stride(self) -> int | None:
        """The depth stride that is wanted of the layer; None for that of the plane."""
        return self.depth_strides.get(self.path, self.depth_stride)


Rule = Callable[[Any, Options], nn.Module]
Function = TypeVar("Function", bound=Rule)
RULES: dict[type[nn.Module] | str, Rule] = {}


def rule(*types: type[nn.Module] | str) -> Callable[[Function], Function]:
    """Register how a layer becomes one that takes images and volumes by itself.

    The function receives the layer and the `Options` and returns what stands for it: another
    module, which is called with images ``(N, C, H, W)`` and with volumes ``(N, C, D, H, W)``, never
    with folded slices. Give it ``to_2d(view)`` and ``to_3d(align)`` methods where `crossd.to_2d`
    and `crossd.to_3d` shall replace it by a plain layer. A layer that the function returns as it is
    stays: on volumes it works within slices where it looks at neighbours, and its children are
    converted.

    Args:
        *types: The types the rule is for, or their full names; subclasses that have a forward of
            their own need their own.

    Example:
        >>> class Scale2d(nn.Module):
        ...     def forward(self, x):
        ...         return 2 * x
        >>> @rule(Scale2d)
        ... def _(layer, options):
        ...     return layer
        >>> find_rule(Scale2d()) is not None
        True
    """
    for kind in types or (None,):
        if not isinstance(kind, str) and not (
            isinstance(kind, type) and issubclass(kind, nn.Module)
        ):
            raise InputError(f"crossd.rule takes types of layers or their names, not {kind!r}")

    def register(function: Function) -> Function:
        if not callable(function):
            raise InputError("crossd.rule is for a function of a layer and the options")
        RULES.update(dict.fromkeys(types, function))
        return function

    return register


def find_rule(module: nn.Module) -> Rule | None:
    """Give the rule for a layer, if there is one: for its type, or a base that does its work."""
    kind = type(module)
    own = RULES.get(kind) or RULES.get(f"{kind.__module__}.{kind.__qualname__}")
    if own is not None or is_parametrized(module):
        return own
    for base in kind.__mro__[1:]:
        same = all(getattr(kind, name, None) is getattr(base, name, None) for name in METHODS)
        if base in RULES and same:
            return RULES[base]
    return None


METHODS = ("forward", "_conv_forward")
"""What a subclass must have from its base for the base's rule to be its own."""


# Convolutions of two dimensions

SIZES = ("kernel_size", "stride", "padding", "dilation")


@rule(nn.Conv2d, nn.ConvTranspose2d)
def _conv(conv: ConvBase, options: Options) -> nn.Module:
    if options.kernel_mode == "acs":
        for name in SIZES:
            value = getattr(conv, name)
            if not isinstance(value, str) and len(set(value)) > 1:
                raise ValueError(f"ACS needs the same {name} in height and width, got {value}")
        planar = acs.ACSConvTranspose if conv.transposed else acs.ACSConv
        return layers.fill(planar(**layers.conv_settings(conv, tuple)), conv)
    if options.kernel_mode == "cycle":
        plane = options.planes.get(options.path)
        if plane is None:
            return conv
        if conv.transposed:
            raise ValueError(f"cycle has no {type(conv).__name__}")
        return layers.fill(PlanarConv(plane=plane, **layers.conv_settings(conv, tuple)), conv)
    return cross(conv, options, CrossDConvTranspose if conv.transposed else CrossDConv)


def cross(conv: ConvBase, options: Options, kind: Any, **more: Any) -> nn.Module:
    """Make a Cross-D layer of `kind` that starts as the 2D convolution `conv`.

    Args:
        conv: A 2D convolution, plain or transposed.
        options: Of the conversion.
        kind: The class of the new layer, with the arguments of `CrossDConv`.
        **more: Further arguments, or others than those of `conv`.
    """
    if options.kernel_mode in ("acs", "cycle"):
        name = "ACS" if options.kernel_mode == "acs" else "cycle"
        raise ValueError(f"{name} has no {type(conv).__name__}")
    if options.spread:
        _require_no_gaps(conv)
    names = (*SIZES, "output_padding") if conv.transposed else SIZES
    settings = axis_settings(conv, names, options) | more
    new: Any = kind(
        conv.in_channels,
        conv.out_channels,
        groups=conv.groups,
        bias=conv.bias is not None,
        padding_mode=conv.padding_mode,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
        kernel_mode=options.kernel_mode,
        **settings,
        **options.mode_options,
    )
    with torch.no_grad():
        if options.lift is None:
            kernel = nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
        else:
            start = lifted(conv.weight, new, options.lift, options.spread)
            kernel = new.mode.unshifted(start)
    return _taking(new, conv, kernel)


def _taking(new: nn.Module, conv: nn.Module, kernel: Tensor) -> nn.Module:
    """Give a layer a kernel, and what else a convolution has learnt."""
    for name, parameter in conv.named_parameters(recurse=False):
        own = new.get_parameter(name)
        with torch.no_grad():
            own.copy_(kernel if name == "weight" else parameter)
        own.requires_grad_(parameter.requires_grad)
    return new.train(conv.training)


def _require_no_gaps(conv: ConvBase) -> None:
    """Refuse what leaves voxels that no tap reaches: no image says what a volume says on average.

    Version 0.1 took such layers (`Options.spread` is False for its files).
    """
    if conv.transposed and any(k < s for k, s in zip(conv.kernel_size, conv.stride, strict=True)):
        raise ValueError(
            f"a transposed kernel of {tuple(conv.kernel_size)} leaves gaps at a stride of "
            f"{tuple(conv.stride)}"
        )


def axis_settings(conv: ConvBase, names: Sequence[str], options: Options) -> dict[str, Any]:
    """Settings of a 2D convolution, and those for depth.

    Depth copies the axis of the smaller kernel, or else of the smaller padding, unless another
    stride or kernel is wanted. A kernel that is smaller than its stride gets as much depth as makes
    it look at every slice.
    """
    which = layers.depth_axis(conv.kernel_size)
    deep = {n: getattr(conv, n)[which] for n in names if not isinstance(getattr(conv, n), str)}
    planar = options.spread and not conv.transposed and not isinstance(conv.padding, str)
    if planar and all(len(set(getattr(conv, n))) == 1 for n in SIZES if n != "padding"):
        deep["padding"] = min(conv.padding)
    deep |= depth_settings(conv, options.stride, options.depth_kernel)
    sums = KERNEL_MODES[options.kernel_mode].sums
    if sums and options.spread and not conv.transposed and "padding" in deep:
        size, padding = depth_taps(deep["kernel_size"], deep["stride"], deep["padding"])
        deep |= {"kernel_size": size, "padding": padding}
    settings = {name: getattr(conv, name) for name in names}
    return settings | {f"depth_{name}": value for name, value in deep.items()}


def lifted(weight: Tensor, layer: Any, how: str, spread: bool = True) -> Tensor:
    """Lift a 2D kernel to a layer's 3D one; `layer.mode.unshifted` then makes it a start.

    Args:
        weight: 2D kernel, shape ``(O, I, y, x)``.
        layer: A Cross-D layer, or a 3D one of torch.nn.
        how: See `crossd.nn.functional.lift`.
        spread: See `crossd.nn.functional.lift`.

    Returns:
        Shape ``(O, I, z, y, x)``.
    """
    sums = not hasattr(layer, "mode") or layer.mode.sums
    if how == "inflate" and not sums:
        # These modes take one slice, so every slice is the whole 2D kernel.
        return weight.unsqueeze(2).expand_as(layer.weight)
    depth, stride = layer.kernel_size[0], layer.stride[0]
    spread = spread and sums
    if spread and how == "center" and depth % 2 == 0 and layer.padding == "same":
        return F.pad(lift_kernel(weight, depth - 1), (0, 0, 0, 0, 0, 1))  # it pads the end by more
    return lift_kernel(weight, depth, how, stride, layer.transposed, spread)


# Convolutions that pad or standardise first


_STANDARDISED = "timm.layers.std_conv."


@rule(
    "timm.layers.conv2d_same.Conv2dSame",
    *(f"{_STANDARDISED}{name}" for name in ("StdConv2d", "StdConv2dSame")),
    *(f"{_STANDARDISED}{name}" for name in ("ScaledStdConv2d", "ScaledStdConv2dSame")),
)
def _special_conv(conv: Any, options: Options) -> nn.Module:
    name = type(conv).__name__
    more: dict[str, object] = {}
    if name == "Conv2dSame" or getattr(conv, "same_pad", False):
        more = {"padding": 0, "depth_padding": 0, "planar": _same_conv(conv)}
    if name == "Conv2dSame":
        return cross(conv, options, SameConv, **more)
    kind = SameStdConv if more else StdConv
    return cross(conv, options, kind, eps=conv.eps, scale=getattr(conv, "scale", None), **more)


def _same_conv(conv: ConvBase) -> nn.Conv2d:
    """Make timm's convolution that pads as TF does, of another one that does so too."""
    from timm.layers.conv2d_same import Conv2dSame

    settings = layers.conv_settings(conv, tuple)
    del settings["padding_mode"]
    made: nn.Conv2d = Conv2dSame(**settings)
    return made


@rule(
    "segmentation_models_pytorch.encoders._efficientnet.Conv2dStaticSamePadding",
    "efficientnet_pytorch.utils.Conv2dStaticSamePadding",
)
def _static_same_conv(conv: Any, options: Options) -> nn.Module:
    left, right, top, bottom = getattr(conv.static_padding, "padding", (0, 0, 0, 0))
    settings = axis_settings(conv, SIZES, options)
    # Its own padding comes on top: of dilated ones, and what a kernel smaller than its stride gets.
    deep, (high, wide) = settings["depth_padding"], settings["padding"]
    margins = (
        (top + deep, bottom + deep),
        (top + high, bottom + high),
        (left + wide, right + wide),
    )
    padding = {"padding": 0, "depth_padding": 0}
    return cross(conv, options, SameConv, fixed_margins=margins, planar=conv, **padding)


# Convolutions of three dimensions


@rule(nn.Conv3d, nn.ConvTranspose3d)
def _solid_conv(conv: ConvBase, options: Options) -> nn.Module:
    """Take the layer's own kernels and settings; only the use on images is new."""
    _require_no_gaps(conv)
    kind: Any = CrossDConvTranspose if conv.transposed else CrossDConv
    settings = layers.conv_settings(conv, lambda values: tuple(values[1:]))
    names = [*SIZES, *(["output_padding"] if conv.transposed else [])]
    deep = {
        f"depth_{name}": getattr(conv, name)[0]
        for name in names
        if not isinstance(getattr(conv, name), str)
    }
    new = kind(
        **{**settings, "device": conv.weight.device},
        **deep,
        dtype=conv.weight.dtype,
        kernel_mode=options.kernel_mode,
        **options.mode_options,
    )
    return _taking(new, conv, conv.weight)
