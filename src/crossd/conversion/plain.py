"""Out of Cross-D again: plain networks of one rank, for deployment.

Where the same code with the layers of the other rank does what the folded network does, the
result is made of torch.nn's layers and needs no crossd. Else it folds: its code stays, and the
modules keep the classes that fold. Which one it is, is found by running both with every weight
moved at random.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from crossd.conversion.building import exchange_modules, require_ties
from crossd.conversion.checking import examples, law, perturbed
from crossd.conversion.checking.answers import TOLERATED, difference
from crossd.conversion.copying import copy_of
from crossd.conversion.folding import modules
from crossd.conversion.folding.containers import tensors_in
from crossd.conversion.folding.modules import Folded, source_class, state_of
from crossd.conversion.report import account
from crossd.conversion.views import known_view
from crossd.errors import InputError
from crossd.nn.checkpointing import checkpoint_activations
from crossd.nn.conv import CrossDConv
from crossd.nn.conv_transpose import CrossDConvTranspose
from crossd.nn.kernel_modes import KernelMode, make_mode
from crossd.nn.layers import depth_axis, drop_axis

PLAIN, FOLDING = (
    "plain: layers of torch.nn, nothing of crossd",
    "it folds: layers of torch.nn alone would answer otherwise",
)


MakesPlain = Callable[[Any], nn.Module]
"""Makes a layer of torch.nn of one of ours."""


def to_2d(net: nn.Module, view: str = "axial") -> nn.Module:
    """Turn a Cross-D network into a 2D network.

    Args:
        net: A network made by `convert` or `acs`, or one that has such networks or our layers in
            it. It is not changed.
        view: The view whose 2D kernels are kept. The fourier mode has none: its kernels are
            fixed at the mean displacement of training.

    Returns:
        The 2D network, with its report at `conversion`: of torch.nn's layers where the network was
        made of a 2D one, or where the code of the 3D one works on images as it is.

    Raises:
        InputError: "the network has no Cross-D layer", "view ..." for an unknown one, or
            "cannot convert ..." for a layer with forward hooks.
    """
    axis = known_view(view)
    why = f"taken in the {view} view"
    result: Any = _turned(net, 2, axis, lambda layer: layer.to_2d(axis), why)
    if hasattr(result, "crossd_recipe"):
        result.crossd_recipe["mode_options"]["view"] = view
    return result


def to_3d(net: nn.Module, align: bool = False) -> nn.Module:
    """Turn a Cross-D network into a 3D network.

    Args:
        net: A network made by `convert` or `acs`, or one that has such networks or our layers in
            it. It is not changed.
        align: Move the kernels of the fourier modes by their mean displacement in training.

    Returns:
        The 3D network, with its report at `conversion`: of torch.nn's layers where the network was
        made of a 3D one, or where the code of the 2D one works on volumes as it is.

    Raises:
        InputError: "the network has no Cross-D layer", or "cannot convert ..." for a layer with
            forward hooks.
    """
    if align and not any(m.displaces for m in net.modules() if isinstance(m, KernelMode)):
        _require_cross(net)
        raise InputError("align is for the fourier modes, whose kernels are displaced in training")
    why = "moved by the mean displacement" if align else "kept"
    return _turned(net, 3, 0, lambda layer: layer.to_3d(align), why, align)


def _turned(
    net: nn.Module,
    rank: int,
    axis: int,
    plain: MakesPlain,
    why: str,
    align: bool = False,
) -> nn.Module:
    """Bring a network into one rank, or what is ours of it."""
    _require_cross(net)
    if _is_converted(net):
        return _turned_network(net, rank, axis, plain, why, align)
    found: list[str] = []

    def change(module: nn.Module, path: str) -> nn.Module | None:
        if _is_converted(module):
            made: Any = _turned_network(module, rank, axis, plain, why, align)
            found.extend(f"{path}: {line}" for line in made.conversion.checks)
            return made
        if hasattr(module, "to_3d"):
            _require_no_hooks(module, path)
            return plain(module)
        return None

    result: Any = exchange_modules(copy_of(net), change)
    require_ties(net, result)
    result.conversion = account(net, result, why, found or [PLAIN])
    return result


def _turned_network(
    net: nn.Module, rank: int, axis: int, plain: MakesPlain, why: str, align: bool
) -> nn.Module:
    """Bring a converted network into one rank: plain if that answers the same, else folding."""
    for path, module in net.named_modules():
        if hasattr(module, "to_3d"):
            _require_no_hooks(module, path)
    state = state_of(net)
    if rank == 2:
        state.folding.require_views({axis})
    recipe = getattr(net, "crossd_recipe", None)
    known = None if recipe is None else recipe["decided"]["plain"]
    moves = rank == 3 and not align and _moves_volumes(net)
    if rank == state.folding.rank:  # the code as it was, unless ends of depth are continued
        known = state.folding.depth_padding == "zeros" or (rank == 2 and axis == 0)
    is_plain = not moves and known
    if not moves and is_plain is None:
        is_plain = _works_as_it_is(net, rank, axis, plain, align)
    result: Any = _plain(net, rank, axis, plain) if is_plain else _settled(net, rank, axis, align)
    if recipe is not None:
        options, decided = dict(recipe["mode_options"]), {**recipe["decided"], "plain": is_plain}
        planes = (recipe["form"], rank) == ("cycle", 3)  # kernels of other shapes than any lift
        result.crossd_recipe = {
            **recipe,
            "form": "3d of cycle" if planes else f"{rank}d",
            "mode_options": options,
            "decided": decided,
        }
    result.conversion = account(net, result, why, (PLAIN if is_plain else FOLDING,))
    return result


def _require_cross(net: nn.Module) -> None:
    if not any(_is_converted(m) or hasattr(m, "to_3d") for m in net.modules()):
        raise InputError("the network has no Cross-D layer: convert it first with crossd.convert")


def _is_converted(module: nn.Module) -> bool:
    return isinstance(module, Folded) and module.crossd_state is not None


def _moves_volumes(net: nn.Module) -> bool:
    """Tell whether volumes choose their own kernels, which no layer of torch.nn can do."""
    return any(module.moves_volumes for module in net.modules() if isinstance(module, KernelMode))


def _works_as_it_is(net: nn.Module, rank: int, axis: int, plain: MakesPlain, align: bool) -> bool:
    """Tell whether the code, with layers of the other rank, does what the folded network does.

    On every input that both take: of several sizes, some odd.
    """
    if rank == 3 and not all(getattr(m, "is_plain_in_3d", True) for m in net.modules()):
        return False
    if len(state_of(net).folding.stages) > 1:  # pools cannot tell theirs
        return False
    folding = state_of(net).folding
    try:
        given = examples.maps_of(examples.example_for(net, folding.rank), folding.rank)
        moved = law.moved(net, folding, (given,))
        attempt = _plain(moved, rank, axis, plain)
    except Exception:  # whatever code that was made for the other rank may raise
        return False
    settled = _settled(moved, rank, axis, align)
    first, *others = _inputs(given, rank, axis)
    same = [_same(settled, attempt, first, (False, True))]
    same += [_same(settled, attempt, x, (False,)) for x in others if False not in same]
    return any(same) and False not in same


def _inputs(given: Tensor, rank: int, axis: int) -> list[Tensor]:
    """Make inputs of the other rank, whose axes differ in size."""
    shape = given.shape
    if rank == 2:
        sides = list(drop_axis(axis)(shape[2:]))
        sizes = [sides, [side + 5 for side in sides]]
    else:
        sides = [*shape[2:]]
        short = min(sides)
        deep = min(3 * short, DEEP)
        sizes = [[16, *sides], [deep, *sides], [short + 7, *(side + 5 for side in sides)]]
    generator = torch.Generator().manual_seed(0)
    counts = (shape[0], 1, 1)
    return [
        torch.randn(count, shape[1], *size, generator=generator).to(given)
        for count, size in zip(counts, sizes, strict=False)
    ]


DEEP = 96
"""Slices of the deepest volume on which plain code is tried; more would take long."""


def _same(net: nn.Module, attempt: nn.Module, x: Tensor, modes: tuple[bool, ...]) -> bool | None:
    """Compare two networks without chance, in training or not; None where one cannot run."""
    for training in modes:
        answers = []
        for one in (attempt, net):
            try:
                with torch.no_grad(), perturbed.Still():
                    answers.append(tensors_in(one.train(training)(x)))
            except Exception:  # too few slices perhaps
                return None
        if [v.shape for v in answers[0]] != [v.shape for v in answers[1]]:
            return False
        if difference(*answers) > TOLERATED / 10:
            return False
    return True


def _plain(net: nn.Module, rank: int, axis: int, plain: MakesPlain) -> nn.Module:
    """Copy a network with every layer of ours replaced, and its own classes given back."""
    stages = state_of(net).folding.stages
    foreign = rank != state_of(net).folding.rank
    depth_stride = stages[0][1] if stages else None

    def change(module: nn.Module, path: str) -> nn.Module | None:
        if hasattr(module, "to_3d"):
            return plain(module)
        if isinstance(module, Folded):
            folded: Any = module
            folded.__class__ = source_class(module)
            del module.__dict__["crossd_state"]
        if foreign and type(module).__module__.startswith("torch.nn.modules"):
            _change_rank(module, rank, axis, depth_stride)
        return None

    result = exchange_modules(_copy(net), change)
    require_ties(net, result)
    return result


def _copy(net: nn.Module) -> nn.Module:
    return checkpoint_activations(copy_of(net), enabled=False)


def _require_no_hooks(module: nn.Module, path: str) -> None:
    if module._forward_hooks or module._forward_pre_hooks:
        raise InputError(
            f"cannot convert {modules.named(module, path)}: it has forward hooks that would be "
            "lost; remove them first"
        )
    if is_parametrized(module):
        raise InputError(
            f"cannot convert {modules.named(module, path)}: its parameters are parametrized; call "
            "torch.nn.utils.parametrize.remove_parametrizations first"
        )


def _change_rank(layer: Any, rank: int, axis: int, depth_stride: int | None) -> None:
    """Make a layer of torch.nn without kernels one of a rank, in place, if it is of the other one.

    Args:
        layer: The layer.
        rank: The rank that is wanted.
        axis: The axis that images lack.
        depth_stride: Of pools that stride; None copies the plane's.
    """
    name, own = type(layer).__name__, "2d" if rank == 3 else "3d"
    if name in ("Upsample", "UpsamplingNearest2d", "UpsamplingBilinear2d"):
        if layer.mode.endswith("linear"):
            layer.mode = "trilinear" if rank == 3 else "bilinear"
    elif not name.endswith(own):
        return
    if type(layer).__module__ == "torch.nn.modules.padding":
        pairs = [layer.padding[i : i + 2] for i in range(0, len(layer.padding), 2)]  # x, y, (z)
        pairs = [*pairs, pairs[1]] if rank == 3 else pairs[: 2 - axis] + pairs[3 - axis :]
        layer.padding = tuple(margin for both in pairs for margin in both)
    else:
        which = depth_axis(getattr(layer, "kernel_size", 0))
        for setting in SETTINGS:
            value = getattr(layer, setting, None)
            if isinstance(value, tuple | list):
                wide = (value[which], *value) if rank == 3 else drop_axis(axis)(value)
                setattr(layer, setting, tuple(wide))
        if rank == 3 and depth_stride is not None and hasattr(layer, "kernel_size"):
            _stride_depth(layer, depth_stride)
    if not name.startswith("Upsampl"):
        layer.__class__ = getattr(nn, name[:-2] + f"{rank}d")


SETTINGS = ("kernel_size", "stride", "padding", "dilation", "output_size", "size", "scale_factor")
"""What layers of torch.nn have a value of for each axis."""


def _stride_depth(pool: Any, wanted: int) -> None:
    """Let a pool stride along depth otherwise than in the plane."""
    kernel, stride, padding = (
        list(value) if isinstance(value, tuple) else [value] * 3
        for value in (pool.kernel_size, pool.stride, pool.padding)
    )
    if stride[0] == 1 or stride[0] == wanted:
        return
    if kernel[0] <= stride[0]:  # patches, as deep as their stride
        kernel[0], padding[0] = min(kernel[0], wanted), 0
    stride[0] = wanted
    pool.kernel_size, pool.stride, pool.padding = tuple(kernel), tuple(stride), tuple(padding)


def _settled(net: nn.Module, rank: int, axis: int, align: bool) -> nn.Module:
    """Copy a network that goes on folding, but takes one rank: its kernels are settled."""
    result = _copy(net)
    for module in result.modules():
        if not isinstance(module, CrossDConv | CrossDConvTranspose):
            continue
        if rank == 2 or align:
            with torch.no_grad():
                module.weight.copy_(module.mode.aligned(module.weight))
        if rank == 2 or align or not module.mode.moves_volumes:
            how = "projection" if module.mode.sums else "slice"
            module.mode = make_mode(how, module.in_channels, module.kernel_size)
    return _restricted(result, rank, axis)


def of_one_rank(net: nn.Module, rank: int, axis: int) -> nn.Module:
    """Copy a network and let what is converted in it take one rank only, its kernels as they are.

    Args:
        net: Made by `convert`, or of our layers.
        rank: 2 or 3.
        axis: The view of images, as the axis that it drops.
    """
    return _restricted(_copy(net), rank, axis)


def _restricted(net: nn.Module, rank: int, axis: int) -> nn.Module:
    """Let what is converted in a network take one rank only, in place."""
    for module in filter(_is_converted, net.modules()):
        state = state_of(module)
        state.folding = dataclasses.replace(state.folding, only=rank, fixed_view=axis)
    return net


def is_plain(net: nn.Module) -> bool:
    """Tell whether a network is of torch.nn's layers alone."""
    return not isinstance(net, Folded)
