"""Turning networks: 2D into Cross-D, Cross-D into plain 2D or 3D, and the baselines.

Layers that depend on the rank have rules (`crossd.conversion.rules`). Every other module is tried
on what it would meet on volumes, and given another forward where its own is for images. What stays
unclear is an error that names it; nothing is skipped.
"""

import copy
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._pytree import tree_leaves

from crossd import condconv, rules_elsewhere
from crossd.conversion import adapt
from crossd.conversion import depth_stride as depth_strides
from crossd.conversion import verify as checks
from crossd.conversion.report import ConversionReport, account
from crossd.conversion.rules import RULES, Options, find_rule
from crossd.errors import InputError
from crossd.nn import acs as acs_layers
from crossd.nn.checkpointing import checkpoint_activations
from crossd.nn.conv import CrossDConv, CrossDConvTranspose
from crossd.nn.kernel_modes import KERNEL_MODES, VIEWS, view, view_is_set
from crossd.ranks import Analysis, Lifted, analyse, make_lifted
from crossd.recording import named

assert rules_elsewhere and condconv  # their imports register rules

LIFTS = ("center", "inflate", "triplanar")
BATCH_NORM = ("keep", "reset", "recalibrate")


def convert(
    model: nn.Module,
    kernel_mode: str = "projection",
    lift: str | None = "center",
    *,
    example: Any = None,
    check: bool = True,
    depth_stride: int | Sequence[int] | str | None = None,
    depth_kernel: int | None = None,
    size: Sequence[int] | None = None,
    spacing: Sequence[float] | None = None,
    in_channels: int | None = None,
    num_classes: int | None = None,
    batch_norm: str = "keep",
    volumes: Iterable[Tensor] = (),
    **mode_options: Any,
) -> nn.Module:
    """Turn a 2D network into one whose 3D kernels serve images and volumes.

    The network is run once on small images. Modules whose forwards work on volumes as they are
    stay; those that fix the number of axes (means over two axes, permutations, unpacked shapes)
    get a second forward for volumes, and each is held against the consistency law.

    Args:
        model: Any convolutional 2D network. It is not changed.
        kernel_mode: ``"projection"``, ``"slice"`` or ``"fourier"`` (the paper's).
        lift: ``"center"`` and ``"inflate"`` keep the function of `model` on images (in the axial
            view), ``"triplanar"`` does not; None draws new weights as the paper's
            implementation does (Kaiming normal, fan out).
        example: Images ``(N, C, H, W)`` to run it on, or a tuple of arguments; random ones if None.
        check: Run the result on images and on volumes; what is found stands in `conversion`.
        depth_stride: Of the layers that reduce the plane, in the order of their resolution: one
            number for all, one for each stage (1 keeps the depth), ``"auto"`` (from `size` and
            `spacing`), or None to copy the plane's.
        depth_kernel: Depth of kernels larger than one pixel (odd); None copies the plane's.
        size: Of the volumes (depth, height, width) [voxels], for ``depth_stride="auto"``.
        spacing: Of their voxels (z, y, x) [mm], likewise.
        in_channels: Another number of input channels, see `crossd.conversion.adapt.adapted`.
        num_classes: Another number of classes; the classifier is drawn anew.
        batch_norm: ``"keep"`` the running statistics of images, ``"reset"`` them, or
            ``"recalibrate"`` them on `volumes` (see `crossd.recalibrate`).
        volumes: Batches ``(N, C, D, H, W)`` without labels, for ``batch_norm="recalibrate"``.
        **mode_options: Of the kernel mode (`offset` for fourier).

    Returns:
        A network of the same class and attributes that takes ``(N, C, H, W)`` and
        ``(N, C, D, H, W)``; its `conversion` tells what became of every parameter. In training
        on images, modes with views draw one for each forward pass unless `crossd.view` set it.

    Raises:
        InputError: "cannot convert ..." naming the path and type of a module that cannot be used on
            volumes, "cannot run ..." when the network takes no such images, or for an unknown mode,
            lift or option.

    Example:
        >>> net = convert(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU()))
        >>> net(torch.zeros(2, 1, 9, 9)).shape, net(torch.zeros(2, 1, 9, 9, 9)).shape
        (torch.Size([2, 4, 7, 7]), torch.Size([2, 4, 7, 7, 7]))
    """
    if kernel_mode not in KERNEL_MODES:
        raise InputError(f"kernel_mode (={kernel_mode!r}) must be one of {', '.join(KERNEL_MODES)}")
    if lift not in (*LIFTS, None):
        raise InputError(f"lift (={lift!r}) must be one of {', '.join(LIFTS)} or None")
    if not isinstance(model, nn.Module):
        raise InputError(f"model is a {type(model).__name__}: give a torch.nn.Module")
    if batch_norm not in BATCH_NORM:
        raise InputError(f"batch_norm (={batch_norm!r}) must be one of {', '.join(BATCH_NORM)}")
    if batch_norm != "recalibrate" and volumes != ():
        raise InputError(f"volumes are for batch_norm='recalibrate', not for {batch_norm!r}")
    _check_numbers(depth_stride, depth_kernel, size, spacing, in_channels, num_classes)
    model, said = adapt.adapted(model, in_channels, num_classes)
    options = Options(kernel_mode, lift, mode_options, depth_kernel=depth_kernel)
    wish = depth_strides.Wish(depth_stride, size, spacing)
    net, found = _both_ranks(model, options, example, wish)
    if any(getattr(m, "mode", None) is not None and m.mode.has_views for m in _convs(net)):
        net.register_forward_pre_hook(_enter_drawn_view, with_kwargs=True)
        net.register_forward_hook(_leave_drawn_view, always_call=True)
    seen = (*said, *(checks.both_ranks(model, net, found.given, lift) if check else ()))
    _reported(model, net, _weight_reason(kernel_mode, lift), seen)
    given = {
        **mode_options,
        "depth_stride": depth_stride,
        "depth_kernel": depth_kernel,
        "size": size,
        "spacing": spacing,
        "in_channels": in_channels,
        "num_classes": num_classes,
    }
    made: Any = net
    made.recipe = _recipe("cross", kernel_mode, given)
    if batch_norm == "recalibrate":
        adapt.recalibrate(net, volumes)
    elif batch_norm == "reset":
        for module in net.modules():
            if isinstance(module, _BatchNorm):
                module.reset_running_stats()
    return net


def _check_numbers(
    depth_stride: Any, depth_kernel: Any, size: Any, spacing: Any, channels: Any, classes: Any
) -> None:
    """Refuse options that are no numbers, or would have no effect."""

    def whole(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    for name, value in (("in_channels", channels), ("num_classes", classes)):
        if value is not None and not (whole(value) and value > 0):
            raise InputError(f"{name} (={value!r}) must be a positive whole number")
    if depth_kernel is not None and not (
        whole(depth_kernel) and depth_kernel > 0 and depth_kernel % 2
    ):
        raise InputError(f"depth_kernel (={depth_kernel!r}) must be odd and positive")
    strides = depth_stride if isinstance(depth_stride, list | tuple) else (depth_stride,)
    if depth_stride is not None and depth_stride != "auto" and not all(map(whole, strides)):
        raise InputError(
            f"depth_stride (={depth_stride!r}) must be one positive whole number, one a stage, or "
            "'auto'"
        )
    if depth_stride is None and not (size is None and spacing is None):
        raise InputError("size and spacing are for depth_stride='auto', which was not asked for")


def _recipe(form: str, kernel_mode: str, given: dict[str, Any]) -> Any:
    """Return what makes a network of this form of its 2D network, for its weights file."""
    options = {
        name: list(value) if isinstance(value, list | tuple) else value
        for name, value in given.items()
        if value is not None
    }
    return {"form": form, "kernel_mode": kernel_mode, "mode_options": options}


def _same_recipe(net: nn.Module, result: nn.Module, form: str) -> nn.Module:
    made: Any = getattr(net, "recipe", None)
    turned: Any = result
    if made is not None:
        turned.recipe = {**made, "form": form}
    return result


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
    plain = _plain(net, lambda module: module.to_2d(axis))
    return _reported(net, _same_recipe(net, plain, "2d"), f"taken in the {view} view")


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
    modes = {getattr(getattr(conv, "mode", None), "name", "") for conv in _convs(net)}
    if align and "fourier" not in modes:
        raise InputError("align is for the fourier mode, whose kernels are displaced in training")
    plain = _same_recipe(net, _plain(net, lambda module: module.to_3d(align)), "3d")
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


def acs(model: nn.Module, example: Any = None) -> nn.Module:
    """Turn a 2D network into one with ACS convolutions, which takes images and volumes.

    Source: Yang et al. 2021, arXiv 1911.10477.
    """
    net, _ = _both_ranks(model, Options("acs"), example)
    made: Any = net
    made.recipe = _recipe("acs", "projection", {})
    return _reported(model, net, "kept in 2D")


def _lifted(model: nn.Module, how: str) -> nn.Module:
    net = to_3d(convert(model, "projection", lift=how, check=False))
    return _reported(model, net, _weight_reason("projection", how))


def _reported(
    source: nn.Module, result: nn.Module, why: str, checks: tuple[str, ...] = ()
) -> nn.Module:
    report: ConversionReport = account(source, result, why)
    result.conversion = dataclasses.replace(report, checks=checks)  # type: ignore[assignment]
    return result


def _weight_reason(kernel_mode: str, lift: str | None) -> str:
    return f"{kernel_mode}, " + ("drawn anew" if lift is None else f"lifted by {lift!r}")


def _convs(net: nn.Module) -> list[Any]:
    kinds = (CrossDConv, CrossDConvTranspose, acs_layers.ACSConv, acs_layers.ACSConvTranspose)
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


def _both_ranks(
    model: nn.Module, options: Options, example: Any, wish: depth_strides.Wish | None = None
) -> tuple[nn.Module, Analysis]:
    """Copy a network with every layer turned into one that takes images and volumes."""
    net = _without_hooks(_copy(model, share=True))
    for path, module in net.named_modules():
        _require_2d(module, path)
    found = analyse(net, lambda module: find_rule(module) is not None, example)
    _own_tensors(net)
    options = dataclasses.replace(options, cube=found.cube)
    if wish is not None and wish.stride is not None:
        options.depth_strides.update(depth_strides.strides(found, wish))

    def change(module: nn.Module, path: str) -> nn.Module | None:
        rule, forward = find_rule(module), found.forwards.get(module)
        if rule is not None or forward is not None:
            _require_no_hooks(module, path)
        if rule is not None:
            return _layer(rule(module, options), module, path)
        if forward is not None:
            return make_lifted(module, forward)
        if module not in found.forwards:
            _require_known(module, path)
        return None

    result = _turn(net, change)
    _require_ties(model, result)
    return result, found


def _layer(made: Any, module: nn.Module, path: str) -> nn.Module:
    if not isinstance(made, nn.Module):
        raise InputError(
            f"cannot convert {named(module, path)}: its rule returned {type(made).__name__}, "
            "expected a module (the layer itself, to keep it)"
        )
    return made


def _plain(net: nn.Module, change: Callable[[Any], nn.Module]) -> nn.Module:
    """Copy a network with every layer of ours replaced by a plain one."""

    def checked(module: nn.Module, path: str) -> nn.Module | None:
        if not hasattr(module, "to_3d"):
            return None
        _require_no_hooks(module, path)
        return change(module)

    result = _turn(_without_hooks(_copy(net)), checked)
    _require_ties(net, result)
    return result


def _turn(model: nn.Module, change: Callable[[nn.Module, str], nn.Module | None]) -> nn.Module:
    """Replace modules by what `change` gives, in place; shared ones once.

    Where it gives None or the module itself, the module's parts are changed. The parts of a lifted
    one are changed before it.
    """
    done: dict[int, nn.Module] = {}

    def visit(module: nn.Module, path: str) -> nn.Module:
        if id(module) in done:
            return done[id(module)]
        late = isinstance(module, Lifted)
        replaced = None if late else _checked(change, module, path)
        if replaced is None or replaced is module:
            for name, child in module._modules.items():  # named_children gives a shared one once
                if child is not None:
                    module._modules[name] = visit(child, f"{path}.{name}" if path else name)
            replaced = _checked(change, module, path) if late else module
        done[id(module)] = replaced or module
        return done[id(module)]

    return visit(model, "")


def _checked(
    change: Callable[[nn.Module, str], nn.Module | None], module: nn.Module, path: str
) -> nn.Module | None:
    try:
        return change(module, path)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"cannot convert {named(module, path)}: {error}") from error


def _require_no_hooks(module: nn.Module, path: str) -> None:
    if module._forward_hooks or module._forward_pre_hooks:
        raise InputError(
            f"cannot convert {named(module, path)}: it has forward hooks (weight or spectral "
            "norm?) that would be lost; remove them first"
        )


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


def _copy(model: nn.Module, share: bool = False) -> nn.Module:
    """Copy a network, also one that keeps activations of its last forward pass (DynUNet does).

    With `share` its parameters and buffers are those of the model until `_own_tensors`: what is
    refused is refused before the weights are there twice.
    """
    values = tree_leaves([list(vars(module).values()) for module in model.modules()])
    activations = [v for v in values if isinstance(v, Tensor) and not v.is_leaf]
    known = {id(tensor): tensor.detach() for tensor in activations}
    if share:
        known |= {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, known)


def _own_tensors(net: nn.Module) -> None:
    """Replace parameters and buffers by copies; what is one tensor in two places stays one."""
    made: dict[int, Any] = {}
    for module in net.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    made[id(tensor)] = copy.deepcopy(tensor if tensor.is_leaf else tensor.detach())
                held[name] = made[id(tensor)]


def _require_2d(module: nn.Module, path: str) -> None:
    if hasattr(module, "to_3d"):
        raise InputError(
            f"cannot convert {named(module, path)}: it takes images and volumes already"
        )
    kind = type(module)
    if is_parametrized(module) and any(base in RULES for base in kind.__mro__):
        raise InputError(
            f"cannot convert {named(module, path)}: its parameters are parametrized (weight "
            "norm?); call torch.nn.utils.parametrize.remove_parametrizations first"
        )
    if kind.__module__.startswith("torch.nn.") and kind.__name__.endswith("3d"):
        raise InputError(
            f"cannot convert {named(module, path)}: a 3D layer, but convert takes 2D networks"
        )


def _require_known(module: nn.Module, path: str) -> None:
    """Refuse a module that no run has reached and that looks as if made for images."""
    kind = type(module)
    planar = kind.__module__.startswith("torch.nn.") and kind.__name__.endswith("2d")
    if planar or any(p.dim() > 2 for p in (*module.parameters(False), *module.buffers(False))):
        raise InputError(
            f"cannot convert {named(module, path)}: no rule for it, and it was not used on the "
            "images that were tried; register one with crossd.rule"
        )
