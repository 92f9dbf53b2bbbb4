"""Rules: how a 2D layer becomes one that takes images and volumes.

A rule is for one type of layer, or for a type by its full name, so that libraries that are not
installed need not be. Layers without parameters of the plane, which need only another forward on
volumes, are in `crossd.rules_elsewhere`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from crossd.errors import InputError
from crossd.nn import acs, layers
from crossd.nn.conv import CrossDConv, CrossDConvTranspose
from crossd.nn.functional import lift as lift_kernel


@dataclass(frozen=True)
class Options:
    """What a rule may need to know.

    Attributes:
        kernel_mode: A name in `crossd.nn.kernel_modes.KERNEL_MODES`, or ``"acs"``.
        lift: ``"center"``, ``"inflate"``, ``"triplanar"`` or None for new weights.
        mode_options: Further arguments of the kernel mode.
        cube: Whether adaptive pools of a fixed size make cubes of volumes; else maps one deep.
        depth_kernel: Depth of kernels that are larger than one pixel; None copies the plane's.
        depth_strides: Depth strides of layers for which it is not the plane's.
    """

    kernel_mode: str = "projection"
    lift: str | None = "center"
    mode_options: dict[str, Any] = field(default_factory=dict)
    cube: bool = True
    depth_kernel: int | None = None
    depth_strides: dict[nn.Module, int] = field(default_factory=dict)


Rule = Callable[[Any, Options], nn.Module]
Function = TypeVar("Function", bound=Rule)
RULES: dict[type[nn.Module] | str, Rule] = {}


def rule(*types: type[nn.Module] | str) -> Callable[[Function], Function]:
    """Register how a 2D layer becomes one that takes images and volumes.

    The function receives the layer and the `Options` and returns the new layer, which needs
    ``to_2d(view)`` and ``to_3d(align)`` methods where `to_2d` and `to_3d` shall replace it. A layer
    that it returns as it is stays, and its children are converted.

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


METHODS = ("forward", "_conv_forward", "_check_input_dim")
"""What a subclass must have from its base for the base's rule to be its own."""


# Depth


def _pair(value: Any) -> tuple[Any, Any]:
    return tuple(value) if isinstance(value, tuple | list) else (value, value)


def depth_settings(layer: Any, options: Options) -> dict[str, int]:
    """Give the settings along depth that are not to be copied from the plane.

    Args:
        layer: A 2D convolution, pool or upsampling layer.
        options: Its `depth_strides` and `depth_kernel` tell what is wanted.

    Returns:
        Values by the names of `torch.nn`; empty where the plane's are copied.
    """
    which = layers.depth_axis(getattr(layer, "kernel_size", 0))
    wanted = options.depth_strides.get(layer)
    if isinstance(layer, nn.Upsample):
        return {} if wanted is None or layer.scale_factor is None else {"scale_factor": wanted}
    size, stride = _pair(layer.kernel_size)[which], _pair(layer.stride)[which]
    found: dict[str, int] = {}
    if wanted is not None and wanted != stride:
        found["stride"] = wanted
        if size <= stride:  # each voxel is met once: a patch as deep as the stride
            found |= {"kernel_size": min(size, wanted), "padding": 0}
        elif getattr(layer, "transposed", False):
            size -= 1 - size % 2
            found |= {"kernel_size": size, "padding": (size - 1) // 2, "output_padding": 0}
        return found
    convolves = isinstance(layer, nn.Conv2d) and not isinstance(layer.padding, str)
    if options.depth_kernel is not None and convolves and size > 1 and stride < size:
        dilation, padding = _pair(layer.dilation)[which], _pair(layer.padding)[which]
        around = size // 2 * dilation
        if padding not in (0, around):
            raise ValueError(f"depth_kernel cannot go with padding {padding} of a kernel of {size}")
        found["kernel_size"] = options.depth_kernel
        found["padding"] = options.depth_kernel // 2 * dilation if padding else 0
    return found


def axis_settings(conv: Any, names: Sequence[str], options: Options) -> dict[str, Any]:
    """Settings of a 2D convolution, and those for depth: the smaller kernel's axis', or wanted."""
    which = layers.depth_axis(conv.kernel_size)
    wanted = depth_settings(conv, options)
    settings: dict[str, Any] = {}
    for name in names:
        value = getattr(conv, name)
        settings[name] = value
        if not isinstance(value, str):
            settings[f"depth_{name}"] = wanted.get(name, value[which])
    return settings


# Convolutions

SIZES = ("kernel_size", "stride", "padding", "dilation")


@rule(nn.Conv2d, nn.ConvTranspose2d)
def _conv(conv: Any, options: Options) -> nn.Module:
    if options.kernel_mode == "acs":
        for name in SIZES:
            value = getattr(conv, name)
            if not isinstance(value, str) and len(set(value)) > 1:
                raise ValueError(f"ACS needs the same {name} in height and width, got {value}")
        planar = acs.ACSConvTranspose if conv.transposed else acs.ACSConv
        return layers.fill(planar(**layers.conv_settings(conv, tuple)), conv)
    return cross(conv, options, CrossDConvTranspose if conv.transposed else CrossDConv)


def cross(conv: Any, options: Options, kind: Any, **more: Any) -> nn.Module:
    """Make a Cross-D layer of `kind` that starts as the 2D convolution `conv`.

    Args:
        conv: A 2D convolution, plain or transposed.
        options: Of the conversion.
        kind: The class of the new layer, with the arguments of `CrossDConv`.
        **more: Further arguments, or others than those of `conv`.
    """
    if options.kernel_mode == "acs":
        raise ValueError(f"ACS has no {type(conv).__name__}")
    names = (*SIZES, "output_padding") if conv.transposed else SIZES
    settings = axis_settings(conv, names, options) | options.mode_options | more
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
    )
    with torch.no_grad():
        if options.lift is None:
            nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
        else:
            new.weight.copy_(new.mode.unshifted(lifted(conv.weight, new, options.lift)))
        for name, parameter in conv.named_parameters(recurse=False):
            if name != "weight":
                getattr(new, name).copy_(parameter)
    for name, parameter in conv.named_parameters(recurse=False):
        getattr(new, name).requires_grad_(parameter.requires_grad)
    return new.train(conv.training)


def lifted(weight: Tensor, layer: Any, how: str) -> Tensor:
    """Lift a 2D kernel to a layer's 3D one; `layer.mode.unshifted` then makes it a start.

    Args:
        weight: 2D kernel, shape ``(O, I, y, x)``.
        layer: A Cross-D layer, or a 3D one of torch.nn.
        how: See `crossd.nn.functional.lift`.

    Returns:
        Shape ``(O, I, z, y, x)``.
    """
    depth, stride = layer.kernel_size[0], layer.stride[0] if layer.transposed else 1
    if how == "inflate" and hasattr(layer, "mode") and not layer.mode.sums:
        # These modes take one slice, so every slice is the whole 2D kernel.
        return weight.unsqueeze(2).expand_as(layer.weight)
    return lift_kernel(weight, depth, how, stride)


# Norms


@rule(nn.BatchNorm2d)
def _batch_norm(norm: nn.BatchNorm2d, options: Options) -> nn.Module:
    return layers.fill(layers.BatchNorm(**layers.norm_settings(norm)), norm)


@rule(nn.InstanceNorm2d)
def _instance_norm(norm: nn.InstanceNorm2d, options: Options) -> nn.Module:
    return layers.fill(layers.InstanceNorm(**layers.norm_settings(norm)), norm)


# Pools and other layers without parameters


@rule(nn.MaxPool2d, nn.AvgPool2d)
def _pool(pool: Any, options: Options) -> nn.Module:
    if getattr(pool, "divisor_override", None) is not None:
        raise ValueError("divisor_override has no meaning that fits both ranks")
    kind = layers.MaxPool if isinstance(pool, nn.MaxPool2d) else layers.AvgPool
    return kind.from_2d(pool, depth_settings(pool, options))


@rule(nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
def _adaptive_pool(pool: Any, options: Options) -> nn.Module:
    average = isinstance(pool, nn.AdaptiveAvgPool2d)
    kind: Any = layers.AdaptiveAvgPool if average else layers.AdaptiveMaxPool
    fixed = all(isinstance(size, int) and size > 1 for size in _pair(pool.output_size))
    new: layers.AdaptiveAvgPool = kind.from_2d(pool)
    new.flat = fixed and not options.cube
    return new


@rule(nn.Upsample, nn.UpsamplingBilinear2d, nn.UpsamplingNearest2d)
def _upsample(layer: nn.Upsample, options: Options) -> nn.Module:
    if layer.mode == "bicubic":
        raise ValueError("mode 'bicubic' has no counterpart for volumes: use 'bilinear'")
    return layers.Upsample.from_2d(layer, depth_settings(layer, options))


@rule(nn.Dropout2d)
def _dropout(layer: nn.Dropout2d, options: Options) -> nn.Module:
    return layers.ChannelDropout(layer.p, layer.inplace).train(layer.training)
