"""Turning networks: 2D into Cross-D, Cross-D into plain 2D or 3D, and the baselines.

Every layer type that depends on the rank has a rule. A layer that depends on the rank and has
none is an error that names it; nothing is skipped.
"""

import copy
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from crossd import acsconv, layers
from crossd.account import ConversionReport, account
from crossd.activations import checkpoint_activations
from crossd.errors import InputError
from crossd.functional import lift as lift_kernel
from crossd.kernels import KERNEL_MODES, VIEWS, view, view_is_set
from crossd.nn import CrossDConv, CrossDConvTranspose


@dataclass(frozen=True)
class Options:
    """What a rule may need to know.

    Attributes:
        kernel_mode: A name in `crossd.kernels.KERNEL_MODES`, or ``"acs"``.
        lift: ``"center"``, ``"inflate"``, ``"triplanar"`` or None for new weights.
        mode_options: Further arguments of the kernel mode.
    """

    kernel_mode: str = "projection"
    lift: str | None = "center"
    mode_options: dict[str, Any] = field(default_factory=dict)


LIFTS = ("center", "inflate", "triplanar")

Rule = Callable[[Any, Options], nn.Module]
Function = TypeVar("Function", bound=Rule)
RULES: dict[type[nn.Module], Rule] = {}


def rule(*types: type[nn.Module]) -> Callable[[Function], Function]:
    """Register how a 2D layer becomes one that takes images and volumes.

    The function receives the layer and the `Options` and returns the new layer, which needs
    ``to_2d(view)`` and ``to_3d(align)`` methods where `to_2d` and `to_3d` shall replace it.

    Args:
        *types: The exact types the rule is for; subclasses need their own.

    Example:
        >>> class Scale2d(nn.Module):
        ...     def forward(self, x):
        ...         return 2 * x
        >>> @rule(Scale2d)
        ... def _(layer, options):
        ...     return layer
        >>> type(convert(nn.Sequential(Scale2d()))[0]).__name__
        'Scale2d'
    """

    def register(function: Function) -> Function:
        RULES.update(dict.fromkeys(types, function))
        return function

    return register


def convert(
    model: nn.Module,
    kernel_mode: str = "projection",
    lift: str | None = "center",
    **mode_options: Any,
) -> nn.Module:
    """Turn a 2D network into one whose 3D kernels serve images and volumes.

    Args:
        model: Any 2D network of known layers. It is not changed.
        kernel_mode: ``"projection"``, ``"slice"`` or ``"fourier"`` (the paper's).
        lift: ``"center"`` and ``"inflate"`` keep the function of `model` on images (in the axial
            view), ``"triplanar"`` does not; None draws new weights as the paper's
            implementation does (Kaiming normal, fan out).
        **mode_options: Of the kernel mode (`offset` for fourier).

    Returns:
        A network of the same class and attributes that takes ``(N, C, H, W)`` and
        ``(N, C, D, H, W)``; its `conversion` tells what became of every parameter. In training
        on images, modes with views draw one for each forward pass unless `crossd.view` set it.

    Raises:
        InputError: "cannot convert ..." naming the path and type of a layer without a rule, or for
            an unknown mode, lift or option.

    Example:
        >>> net = convert(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU()))
        >>> net(torch.zeros(2, 1, 9, 9)).shape, net(torch.zeros(2, 1, 9, 9, 9)).shape
        (torch.Size([2, 4, 7, 7]), torch.Size([2, 4, 7, 7, 7]))
    """
    if kernel_mode not in KERNEL_MODES:
        raise InputError(f"kernel_mode (={kernel_mode!r}) must be one of {', '.join(KERNEL_MODES)}")
    if lift not in (*LIFTS, None):
        raise InputError(f"lift (={lift!r}) must be one of {', '.join(LIFTS)} or None")
    net = _transform(model, _both_ranks, Options(kernel_mode, lift, mode_options))
    if any(getattr(m, "mode", None) is not None and m.mode.has_views for m in _convs(net)):
        net.register_forward_pre_hook(_enter_drawn_view, with_kwargs=True)
        net.register_forward_hook(_leave_drawn_view, always_call=True)
    return _reported(model, net, _weight_reason(kernel_mode, lift))


def to_2d(net: nn.Module, view: str = "axial") -> nn.Module:
    """Turn a Cross-D network into a plain 2D network of torch.nn layers.

    Args:
        net: A network made by `convert` or `acs`. It is not changed.
        view: The view whose 2D kernels are kept. The fourier mode has none: its kernels are
            fixed at the mean displacement of training.

    Returns:
        The 2D network, with its report at `conversion`.

    Raises:
        InputError: "the network has no Cross-D layer", "view ..." for an unknown one, or
            "cannot convert ..." for a layer with forward hooks.
    """
    axis = _known_view(view)
    _require_cross(net)
    plain = _transform(net, lambda m, _: m.to_2d(axis), None)
    return _reported(net, plain, f"taken in the {view} view")


def to_3d(net: nn.Module, align: bool = False) -> nn.Module:
    """Turn a Cross-D network into a plain 3D network of torch.nn layers.

    Args:
        net: A network made by `convert` or `acs`. It is not changed.
        align: Move the kernels of the fourier mode by their mean displacement in training.

    Returns:
        The 3D network, with its report at `conversion`.

    Raises:
        InputError: "the network has no Cross-D layer", or "cannot convert ..." for a layer with
            forward hooks.
    """
    _require_cross(net)
    plain = _transform(net, lambda m, _: m.to_3d(align), None)
    return _reported(net, plain, "moved by the mean displacement" if align else "kept")


def inflate(model: nn.Module) -> nn.Module:
    """Lift a 2D network to a plain 3D one, its kernels spread evenly over depth (I3D).

    Source: Carreira & Zisserman 2017, arXiv 1705.07750.
    """
    return _lifted(model, "inflate")


def center(model: nn.Module) -> nn.Module:
    """Lift a 2D network to a plain 3D one, its kernels at the central slice."""
    return _lifted(model, "center")


def triplanar(model: nn.Module) -> nn.Module:
    """Lift a 2D network to a plain 3D one: the mean of the central placement in three planes."""
    return _lifted(model, "triplanar")


def acs(model: nn.Module) -> nn.Module:
    """Turn a 2D network into one with ACS convolutions, which takes images and volumes.

    Source: Yang et al. 2021, arXiv 1911.10477.
    """
    net = _transform(model, _both_ranks, Options("acs"))
    return _reported(model, net, "kept in 2D")


def _lifted(model: nn.Module, how: str) -> nn.Module:
    net = to_3d(convert(model, "projection", lift=how))
    return _reported(model, net, _weight_reason("projection", how))


def _reported(source: nn.Module, result: nn.Module, why: str) -> nn.Module:
    report: ConversionReport = account(source, result, why)
    result.conversion = report  # type: ignore[assignment]
    return result


def _weight_reason(kernel_mode: str, lift: str | None) -> str:
    return f"{kernel_mode}, " + ("drawn anew" if lift is None else f"lifted by {lift!r}")


def _convs(net: nn.Module) -> list[Any]:
    kinds = (CrossDConv, CrossDConvTranspose, acsconv.ACSConv, acsconv.ACSConvTranspose)
    return [module for module in net.modules() if isinstance(module, kinds)]


def _known_view(name: str) -> int:
    if name not in VIEWS:
        raise InputError(f"view (={name!r}) must be one of {', '.join(VIEWS)}")
    return VIEWS.index(name)


def _require_cross(net: nn.Module) -> None:
    if not _convs(net):
        raise InputError("the network has no Cross-D layer: convert it first with crossd.convert")


def _enter_drawn_view(net: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
    """Draw a view for a forward pass on images in training, unless one is set."""
    first = next(iter((*given, *named.values())), None)
    images = isinstance(first, Tensor) and first.dim() == 4
    if not (net.training and images) or view_is_set():
        return
    if torch.compiler.is_compiling():
        raise RuntimeError("a compiled network cannot draw views: use `with crossd.view('random')`")
    net.__dict__["_drawn_view"] = context = view("random")
    context.__enter__()


def _leave_drawn_view(net: nn.Module, arguments: Any, output: Any) -> None:
    context = net.__dict__.pop("_drawn_view", None)
    if context is not None:
        context.__exit__(None, None, None)


def _without_hooks(net: nn.Module) -> nn.Module:
    checkpoint_activations(net, enabled=False)
    for hooks, hook in (
        (net._forward_pre_hooks, _enter_drawn_view),
        (net._forward_hooks, _leave_drawn_view),
    ):
        for key in [key for key, value in hooks.items() if value is hook]:
            del hooks[key]
            net._forward_hooks_always_called.pop(key, None)
            net._forward_pre_hooks_with_kwargs.pop(key, None)
    return net


def _transform(
    model: nn.Module, change: Callable[[Any, Any], nn.Module], options: Any
) -> nn.Module:
    """Copy a network with every layer that `change` is for replaced, shared ones once."""
    done: dict[int, nn.Module] = {}

    def visit(module: nn.Module, path: str) -> nn.Module:
        if id(module) in done:
            return done[id(module)]
        known = hasattr(module, "to_3d") if options is None else type(module) in RULES
        if options is not None and not known:
            _refuse(module, path)
        replaced = _apply(change, module, path, options) if known else None
        if replaced is None:
            for name, child in module._modules.items():  # named_children gives a shared one once
                if child is not None:
                    module._modules[name] = visit(child, f"{path}.{name}" if path else name)
            replaced = module
        done[id(module)] = replaced
        return replaced

    result = visit(_without_hooks(_copy(model)), "")
    _require_ties(model, result)
    return result


def _require_ties(source: nn.Module, result: nn.Module) -> None:
    """Refuse what would quietly untie two layers that have one parameter between them."""
    before = dict(source.named_parameters(remove_duplicate=False))
    after = dict(result.named_parameters(remove_duplicate=False))
    first: dict[int, str] = {}
    for name in (name for name in before if name in after):
        other = first.setdefault(id(before[name]), name)
        if after[name] is not after[other]:
            raise InputError(
                f"cannot convert: {other!r} and {name!r} are one parameter in two layers, which "
                "would become two; use one layer twice, or give each its own"
            )


def _copy(model: nn.Module) -> nn.Module:
    """Copy a network, also one that keeps activations of its last forward pass (DynUNet does)."""
    values = tree_leaves([list(vars(module).values()) for module in model.modules()])
    activations = [v for v in values if isinstance(v, Tensor) and not v.is_leaf]
    return copy.deepcopy(model, {id(tensor): tensor.detach() for tensor in activations})


def _both_ranks(module: nn.Module, options: Options) -> nn.Module:
    return RULES[type(module)](module, options)


def _where(module: nn.Module, path: str) -> str:
    kind = type(module)
    return f"layer {path or '(the network itself)'!r} of type {kind.__module__}.{kind.__qualname__}"


def _apply(
    change: Callable[..., nn.Module], module: nn.Module, path: str, options: Any
) -> nn.Module:
    if module._forward_hooks or module._forward_pre_hooks:
        raise InputError(
            f"cannot convert {_where(module, path)}: it has forward hooks (weight or spectral "
            "norm?) that would be lost; remove them first"
        )
    try:
        return change(module, options)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"cannot convert {_where(module, path)}: {error}") from error


_FREE = (
    nn.Identity,
    nn.Linear,
    nn.Dropout,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
    nn.GroupNorm,
    nn.Flatten,
    nn.Sequential,
    nn.ModuleList,
    nn.ModuleDict,
    nn.ParameterList,
    nn.ParameterDict,
    nn.ChannelShuffle,
)
_FIXES_RANK = re.compile(
    r"\w+, ?\w+, ?\w+, ?\w+ = \w+\.(?:shape|size\(\))|"
    r"mean\(\s*\(?\[?-?[23],|(conv|pool|dropout)2d\(|bilinear|shape\[-2:\]|pixel_shuffle\(|unfold\("
    r"|permute\(0, ?[23], ?[123], ?[123]\)|dim=[\(\[](2, ?3|-2, ?-1|-1, ?-2)"
)


def _refuse(module: nn.Module, path: str) -> None:
    """Raise for a module without a rule whose work depends on the rank, as far as one can see."""
    kind = type(module)
    if hasattr(module, "to_3d"):
        raise InputError(
            f"cannot convert {_where(module, path)}: it takes images and volumes already"
        )
    why = ""
    if kind.__module__.startswith("torch.nn.") and kind.__name__.endswith("3d"):
        why = "a 3D layer, but convert takes 2D networks"
    elif kind.__module__.startswith("torch.nn."):
        if kind not in _FREE and not kind.__module__.endswith((".activation", ".container")):
            why = "no rule for it"
        elif isinstance(module, nn.MultiheadAttention | nn.Softmax2d):
            why = "no rule for it"
    elif any(
        re.search("[123]d$", base.__name__)
        for base in kind.__mro__
        if base.__module__.startswith("torch.nn.") or not list(module.children())
    ):
        why = "no rule for it"
    elif any(p.dim() > 2 for p in (*module.parameters(recurse=False), *module.buffers(False))):
        why = "it has a parameter of more than two axes of its own and no rule"
    else:
        found = _FIXES_RANK.search(_forward_source(kind))
        why = f"its forward fixes the number of axes ({found.group()!r})" if found else ""
    if why:
        raise InputError(
            f"cannot convert {_where(module, path)}: {why}; register one with crossd.rule"
        )


def _forward_source(kind: type[nn.Module]) -> str:
    """The source of `forward` and of the methods like `_forward_impl` that it calls."""
    try:
        text = inspect.getsource(kind.forward)
        names = sorted(set(re.findall(r"self\.(_?forward_\w+)\(", text)))
        return "".join([text, *(inspect.getsource(getattr(kind, name)) for name in names)])
    except (OSError, TypeError, AttributeError):  # made at run time: nothing to read
        return ""


def _axis_settings(conv: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Settings of a 2D convolution, with those for depth copied from the smaller kernel's axis."""
    which = layers.depth_axis(conv.kernel_size)
    settings: dict[str, Any] = {}
    for name in names:
        value = getattr(conv, name)
        settings[name] = value
        if not isinstance(value, str):
            settings[f"depth_{name}"] = value[which]
    return settings


@rule(nn.Conv2d, nn.ConvTranspose2d)
def _conv(conv: Any, options: Options) -> nn.Module:
    sizes = ("kernel_size", "stride", "padding", "dilation")
    if options.kernel_mode == "acs":
        for name in sizes:
            value = getattr(conv, name)
            if not isinstance(value, str) and len(set(value)) > 1:
                raise ValueError(f"ACS needs the same {name} in height and width, got {value}")
        planar = acsconv.ACSConvTranspose if conv.transposed else acsconv.ACSConv
        return layers.fill(planar(**layers.conv_settings(conv, tuple)), conv)
    new: Any = (CrossDConvTranspose if conv.transposed else CrossDConv)(
        conv.in_channels,
        conv.out_channels,
        groups=conv.groups,
        bias=conv.bias is not None,
        padding_mode=conv.padding_mode,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
        kernel_mode=options.kernel_mode,
        **_axis_settings(conv, (*sizes, "output_padding") if conv.transposed else sizes),
        **options.mode_options,
    )
    with torch.no_grad():
        if options.lift is None:
            nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
        else:
            new.weight.copy_(new.mode.unshifted(lifted(conv.weight, new, options.lift)))
        if conv.bias is not None:
            new.bias.copy_(conv.bias)
    for name, parameter in conv.named_parameters():
        getattr(new, name).requires_grad_(parameter.requires_grad)
    return new.train(conv.training)


def lifted(weight: Tensor, layer: Any, how: str) -> Tensor:
    """Lift a 2D kernel to a layer's 3D one; `layer.mode.unshifted` then makes it a start.

    Args:
        weight: The 2D kernel, shape ``(O, I, K, K)``.
        layer: A Cross-D layer, or a 3D one of torch.nn.
        how: A name in `LIFTS`.

    Returns:
        The 3D kernel, of the shape of the layer's weight.
    """
    depth, stride = layer.kernel_size[0], layer.stride[0] if layer.transposed else 1
    if how == "inflate" and hasattr(layer, "mode") and not layer.mode.sums:
        # These modes take one slice, so every slice is the whole 2D kernel.
        return weight.unsqueeze(2).expand_as(layer.weight)
    return lift_kernel(weight, depth, how, stride)


@rule(nn.BatchNorm2d)
def _batch_norm(norm: nn.BatchNorm2d, options: Options) -> nn.Module:
    return layers.fill(layers.BatchNorm(**layers.norm_settings(norm)), norm)


@rule(nn.InstanceNorm2d)
def _instance_norm(norm: nn.InstanceNorm2d, options: Options) -> nn.Module:
    return layers.fill(layers.InstanceNorm(**layers.norm_settings(norm)), norm)


@rule(nn.MaxPool2d)
def _max_pool(pool: nn.MaxPool2d, options: Options) -> nn.Module:
    return layers.MaxPool.from_2d(pool)


@rule(nn.AvgPool2d)
def _avg_pool(pool: nn.AvgPool2d, options: Options) -> nn.Module:
    if pool.divisor_override is not None:
        raise ValueError("divisor_override has no meaning that fits both ranks")
    return layers.AvgPool.from_2d(pool)


@rule(nn.AdaptiveAvgPool2d)
def _adaptive_avg_pool(pool: nn.AdaptiveAvgPool2d, options: Options) -> nn.Module:
    return layers.AdaptiveAvgPool.from_2d(pool)


@rule(nn.AdaptiveMaxPool2d)
def _adaptive_max_pool(pool: nn.AdaptiveMaxPool2d, options: Options) -> nn.Module:
    return layers.AdaptiveMaxPool.from_2d(pool)


@rule(nn.Upsample, nn.UpsamplingBilinear2d, nn.UpsamplingNearest2d)
def _upsample(layer: nn.Upsample, options: Options) -> nn.Module:
    if layer.mode == "bicubic":
        raise ValueError("mode 'bicubic' has no counterpart for volumes: use 'bilinear'")
    return layers.Upsample.from_2d(layer)


@rule(nn.Dropout2d)
def _dropout(layer: nn.Dropout2d, options: Options) -> nn.Module:
    return layers.ChannelDropout(layer.p, layer.inplace).train(layer.training)
