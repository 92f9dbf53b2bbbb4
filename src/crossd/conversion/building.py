"""Building the network that takes both ranks: layers exchanged in place, modules folded."""

import dataclasses
from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from crossd.conversion.copying import copy_of
from crossd.conversion.decisions import Decisions
from crossd.conversion.folding import (
    attention,
    chance,
    modules,
    order,
    planes,
    sizes,
    statistics,
    turns,
    windows,
)
from crossd.conversion.folding.modules import Folded, fold_module
from crossd.conversion.folding.state import State
from crossd.conversion.folding.torch_private import ConvBase
from crossd.conversion.rules import RULES, Options, find_rule
from crossd.conversion.views import has_views
from crossd.errors import InputError
from crossd.nn.conv import CrossDConv
from crossd.nn.layers import channels_last

HANDLED = (chance, order, planes, sizes, statistics, turns, windows)
"""Their imports tell the state how code of each rank is watched."""


# Which network it is


def rank_of(net: nn.Module) -> int:
    """Tell 2D networks from 3D ones by their convolutions, or their other layers of torch.nn.

    Raises:
        InputError: "cannot convert ..." for a network with layers of both ranks, or one that takes
            both ranks already.
    """
    found: dict[str, str] = {}
    others: dict[str, str] = {}
    for path, module in net.named_modules():
        _require_whole(module, path)
        if isinstance(module, Folded) or hasattr(module, "to_3d"):
            raise InputError(
                f"cannot convert {modules.named(module, path)}: it takes images and volumes already"
            )
        for kind in type(module).__mro__:
            rank = kind.__name__[-2:]
            if kind.__module__.startswith("torch.nn.modules") and rank in ("2d", "3d"):
                kinds = found if issubclass(kind, ConvBase) else others
                kinds.setdefault(rank, modules.named(module, path))
                break
    found = found or others
    if len(found) > 1:
        raise InputError(
            f"cannot convert a network of both ranks: {found['2d']} is for images, {found['3d']} "
            "for volumes; give a network of 2D layers, or one of 3D layers"
        )
    return 3 if "3d" in found else 2


def built(model: nn.Module, rank: int, options: Options, choice: Decisions) -> nn.Module:
    """Copy a network, give its layers with kernels both ranks, and let its code be folded."""
    options = dataclasses.replace(
        options,
        depth_strides=choice.layers,
        depth_stride=choice.stages[0][1] if len(choice.stages) == 1 and not choice.layers else None,
    )
    made: set[nn.Module] = set()

    def change(module: nn.Module, path: str) -> nn.Module | None:
        _require_plain(module, path)
        rule = find_rule(module)
        if rule is None:
            return None
        _require_no_hooks(module, path)
        try:
            new = rule(module, dataclasses.replace(options, path=path))
        except AttributeError as error:
            raise InputError(
                f"cannot convert {modules.named(module, path)}: its rule does not know all of it "
                f"({error}); register one of its own with crossd.rule"
            ) from error
        if not isinstance(new, nn.Module):
            raise InputError(
                f"cannot convert {modules.named(module, path)}: its rule returned "
                f"{type(new).__name__}, expected a module (the layer itself, to keep it)"
            )
        if new is not module:
            _require_known(module, new, path)
            made.add(module)  # which becomes the new one
        return new

    net = exchange_modules(copy_of(model), change)
    require_ties(model, net)
    if choice.laid_last:
        for layer in made:
            channels_last(layer)
    if choice.position:
        try:
            layer = net.get_submodule(choice.position)
        except AttributeError as error:
            raise InputError(
                f"the network has no layer {choice.position!r}: another one?"
            ) from error
        if isinstance(layer, CrossDConv):
            shape = (layer.out_channels, choice.positions)
            layer.depth_position = nn.Parameter(layer.weight.new_zeros(shape))
    if rank == 2 and choice.attention == "volume":
        attention.use_fused_attention(net)
    fold(net, made, State(choice.folding(rank, has_views(net))))
    return net


def fold(net: nn.Module, made: Iterable[nn.Module], state: State) -> None:
    """Give the modules of a network the classes that ask its state, in place.

    Args:
        net: The network.
        made: Its layers that take both ranks by themselves.
        state: What all of them share.
    """
    own = set(made)
    inside = {id(part) for layer in own for part in layer.modules() if part is not layer}
    for module in net.modules():
        stays = module not in own and module is not net and _is_pointwise(module)
        if id(module) in inside or stays:
            continue
        fold_module(module, module in own, state)


AROUND = (
    *(
        "activation",
        "batchnorm",
        "container",
        "conv",
        "dropout",
        "fold",
        "instancenorm",
        "normalization",
    ),
    *("padding", "pixelshuffle", "pooling", "rnn", "transformer", "upsampling"),
)
"""Files of torch.nn whose layers may look beyond a pixel, hold others, or ask for a rank."""


ALONE = ("Linear", "Dropout", "LayerNorm", "RMSNorm", "Identity")


def _is_pointwise(module: nn.Module) -> bool:
    """Tell layers of torch.nn that look at single pixels: they keep their class."""
    kind = type(module)
    place, _, file = kind.__module__.rpartition(".")
    if place != "torch.nn.modules" or list(module.children()):
        return False
    attends = kind.__name__ == "MultiheadAttention"
    return file not in AROUND or kind.__name__ in ALONE or (file == "activation" and not attends)


def _require_whole(module: nn.Module, path: str) -> None:
    """Refuse modules whose code a class does not tell."""
    name = modules.named(module, path)
    if isinstance(module, torch.jit.ScriptModule | torch.fx.GraphModule):
        raise InputError(f"cannot convert {name}: a graph; give the network it was made of")
    if any(map(nn.parameter.is_lazy, module.parameters(recurse=False))):
        raise InputError(f"cannot convert {name}: call the network once, so that it has its sizes")
    if hasattr(module, "_orig_mod"):
        raise InputError(f"cannot convert {name}: it is compiled; compile what convert gives")
    forward: object = vars(module).get("forward")
    chosen = path and getattr(forward, "__self__", None) is module  # of its own, as in FasterNet
    if forward is not None and (find_rule(module) is not None or not chosen):
        raise InputError(
            f"cannot convert {name}: its forward was replaced on this object; write a class for it"
        )


def _require_plain(module: nn.Module, path: str) -> None:
    """Refuse convolutions whose weight is computed anew for each call."""
    if is_parametrized(module) and any(base in RULES for base in type(module).__mro__):
        raise InputError(
            f"cannot convert {modules.named(module, path)}: its parameters are parametrized "
            "(weight norm?); call torch.nn.utils.parametrize.remove_parametrizations first, and "
            "parametrize the converted network"
        )


def _require_known(module: nn.Module, new: nn.Module, path: str) -> None:
    """Refuse a subclass with buffers or parts that the rule of its base knows nothing of."""
    kind = type(module)
    lost = sorted({*module._buffers, *module._modules} - {*new._buffers, *new._modules})
    if lost and kind not in RULES and f"{kind.__module__}.{kind.__qualname__}" not in RULES:
        raise InputError(
            f"cannot convert {modules.named(module, path)}: the rule of its base would lose "
            f"{', '.join(lost)}; register one of its own with crossd.rule"
        )


def _require_no_hooks(module: nn.Module, path: str) -> None:
    if module._forward_hooks or module._forward_pre_hooks:
        raise InputError(
            f"cannot convert {modules.named(module, path)}: it has forward hooks (weight or "
            "spectral norm?) that would be lost; remove them first"
        )


# Changing


def exchange_modules(
    model: nn.Module, change: Callable[[nn.Module, str], nn.Module | None]
) -> nn.Module:
    """Let modules become what `change` gives, in place; shared ones once.

    They stay the same objects, so that lists and methods that hold them hold what they became.
    Where `change` gives None or the module itself, the module's parts are changed.
    """
    done: set[nn.Module] = set()

    def visit(module: nn.Module, path: str) -> None:
        if module in done:
            return
        done.add(module)
        try:
            new = change(module, path)
        except InputError:
            raise
        except ValueError as error:
            raise InputError(f"cannot convert {modules.named(module, path)}: {error}") from error
        if new is None or new is module:
            for name, child in list(module.named_children()):
                visit(child, f"{path}.{name}" if path else name)
        else:
            module.__class__ = new.__class__
            own = {k: v for k, v in vars(module).items() if not k.startswith("crossd_")}
            kept = {k: v for k, v in own.items() if not isinstance(v, nn.Module)}
            module.__dict__ = {**kept, **vars(new)}  # what else it keeps, others may read

    visit(model, "")
    return model


def require_ties(source: nn.Module, result: nn.Module) -> None:
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
