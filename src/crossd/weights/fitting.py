"""What becomes of every tensor of a checkpoint in a network: kept, adapted, left over or at fault.

Nothing is changed here. A `Step` says what is to be done with one tensor, and makes its value.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from crossd.conversion.heads import class_axis, classifiers, first_convolution, layers_of
from crossd.conversion.report import Entry
from crossd.conversion.rules import lifted
from crossd.errors import InputError
from crossd.nn.kernel_modes import Fourier, KernelMode
from crossd.weights.key_matching import Match, Shape, join, plane, relation, under

COUNTER = "num_batches_tracked"
"""Counts batches and changes nothing (but for BatchNorm with a momentum of None)."""


@dataclass(frozen=True)
class Step:
    """What is to become of one tensor.

    Attributes:
        entry: For the report.
        make: Its new value in the network; None where the network's stays.
        fault: Whether it does not fit, beyond what may differ.
        differs: Whether it is of a classifier that is another one in the checkpoint.
    """

    entry: Entry
    make: Callable[[], Tensor] | None = None
    fault: bool = False
    differs: bool = False


class _Target:
    """A network, and what of a checkpoint goes into it.

    Attributes:
        own: Its tensors by name.
        given: The tensors of the checkpoint by the network's names for them.
        layers: Its modules by path, but for what is inside of kernel modes.
        modes: Copies of the kernel modes, where the checkpoint knows of none.
        last: Paths of its classifiers.
        channels: Input channels of the first convolution, in the checkpoint and in the network.
        lift: How 2D kernels are lifted.
    """

    def __init__(
        self, net: nn.Module, state: Mapping[str, Tensor], match: Match, lift: str
    ) -> None:
        own = net.state_dict(keep_vars=True)
        self.own = {name: value for name, value in own.items() if isinstance(value, Tensor)}
        self.given = {name: state[key].detach() for key, name in match.names.items()}
        self.layers = layers_of(net, repeated=True)
        self.modes = _fresh_modes(self.layers, self.given)
        self.last = classifiers(net)
        self.lift = lift
        first = first_convolution(net)
        weight = join(first or "", "weight")
        self.channels = 0, 0
        if first is not None and weight in self.given and not self.layers[first].transposed:
            self.channels = self.given[weight].shape[1], self.own[weight].shape[1]


def steps_for(
    net: nn.Module,
    state: Mapping[str, Tensor],
    match: Match,
    lift: str,
    outside_may_be_left: bool = False,
) -> list[Step]:
    """Plan the loading of a checkpoint into a network; `match` says which tensor is which.

    There is a step for every tensor of the network, in its order, then for those left over; their
    values are to be made in this order. It may be no fault to have some outside of the match's
    prefix.

    Raises:
        InputError: "the checkpoint holds 3D kernels ..." for a plain 2D network.
    """
    target = _Target(net, state, match, lift)
    steps = [_present(target, n) if n in target.given else _absent(target, n) for n in target.own]
    left = [key for key in state if key not in match.names]
    theirs = _their_classifier(target, state, left)
    return steps + [
        _left_over(target, key, state[key], match, outside_may_be_left, theirs) for key in left
    ]


def _fresh_modes(
    layers: Mapping[str, nn.Module], given: Mapping[str, Tensor]
) -> dict[str, KernelMode]:
    """Copy the kernel modes; a checkpoint that holds anything of one has to hold the others too."""
    found = {path: getattr(layer, "mode", None) for path, layer in layers.items()}
    modes = {path: mode for path, mode in found.items() if isinstance(mode, KernelMode)}
    own = [join(path, "mode", name) for path, mode in modes.items() for name in mode.state_dict()]
    return {} if any(name in given for name in own) else copy.deepcopy(modes)


def _present(target: _Target, name: str) -> Step:
    """Take a tensor of the checkpoint as it is, lifted, moved, or with other input channels."""
    own, value = target.own[name], target.given[name]
    shape, wanted = tuple(value.shape), tuple(own.shape)
    path, _, rest = name.rpartition(".")
    layer = target.layers.get(path)
    if rest != "weight" or not isinstance(layer, _ConvNd):
        if shape != wanted:
            return _misfit(target, name)
        return Step(Entry(name, "matched", shape, wanted, _cast(value, own)), lambda: value)
    how, reasons = relation(wanted, shape), []
    if how is None and _may_widen(target, layer, shape, wanted):
        before, after = shape[1], wanted[1]
        how = relation(wanted, (shape[0], after, *shape[2:]))
        reasons.append(f"the sum over {before} input channels, shared by {after}")
    if how is None or (how == "deepen" and layer.transposed):
        return _misfit(target, name)
    if how == "flatten":
        raise InputError(
            f"the checkpoint holds 3D kernels ({name!r}), the network plain 2D ones: load it into "
            "crossd.convert(net), which takes 2D kernels out of 3D ones"
        )
    mode = target.modes.get(path)
    kept = ""
    if how == "deepen":
        reasons.append("its one slice stands in the centre, between slices of zeros")
    if how == "lift":
        reasons.append(f"lifted by {target.lift!r}")
    elif mode is not None and mode.state_dict():
        reasons.append(f"3D kernel, moved so that images see its central slice ({mode.name} mode)")
    elif mode is not None and own[0, 0].numel() > 1:
        kept = f"3D kernel kept; images get what the {mode.name} mode takes of it"
    action = "adapted" if reasons else "matched"
    make = partial(_kernel, name, value, own, layer, mode, how == "lift", target.lift)
    why = "; ".join(filter(None, (*reasons, kept, _cast(value, own))))
    return Step(Entry(name, action, shape, wanted, why), make)


def _may_widen(target: _Target, layer: _ConvNd, shape: Shape, wanted: Shape) -> bool:
    """Whether a convolution takes the input: a residual branch beside the first one does too."""
    if layer.transposed or layer.groups != 1 or len(shape) < 2:
        return False
    return (shape[1], wanted[1]) == target.channels


def _cast(value: Tensor, own: Tensor) -> str:
    return "" if value.dtype == own.dtype else f"from {value.dtype}".replace("torch.", "")


def _kernel(
    name: str,
    value: Tensor,
    own: Tensor,
    layer: _ConvNd,
    mode: KernelMode | None,
    lift: bool,
    how: str,
) -> Tensor:
    """Make a convolution's weight; brings the copy of its mode to its start."""
    value = value.to(own.dtype)
    channels = own.shape[1]
    if value.shape[1] != channels:
        shared = value.sum(1, keepdim=True) / channels
        value = shared.expand(-1, channels, *shared.shape[2:])
    if value.dim() == own.dim() and value.shape[2:] != own.shape[2:]:
        beside = (own.shape[2] - value.shape[2]) // 2
        value = F.pad(value, (0, 0, 0, 0, beside, beside))
    if lift:
        try:
            value = lifted(value, layer, how)
        except ValueError as error:
            raise InputError(f"cannot lift {name!r}: {error}") from error
    return value if mode is None else mode.unshifted(value)


def _misfit(target: _Target, name: str) -> Step:
    """A tensor of another shape: of a classifier for other classes, or at fault."""
    shape, wanted = tuple(target.given[name].shape), tuple(target.own[name].shape)
    path = name.rpartition(".")[0]
    if any(under(path, last) for last in target.last):
        axis = class_axis(target.layers[path])
        if _but_for(axis, shape) == _but_for(axis, wanted):
            why = "the classifier has other classes and keeps its new weights"
            return Step(Entry(name, "missing", shape, wanted, why), differs=True)
    return Step(Entry(name, "missing", shape, wanted, "of another shape"), fault=True)


def _but_for(axis: int, shape: Shape) -> Shape:
    """A shape without depth and the axis of the classes."""
    flat = plane(shape)
    return () if len(flat) == 1 else flat[:axis] + flat[axis + 1 :]


def _absent(target: _Target, name: str) -> Step:
    """A tensor of the network that the checkpoint has not: one that may be missing, or a fault."""
    own = target.own[name]
    shape = tuple(own.shape)
    twin = next((n for n in target.given if target.own[n] is own), None)
    if twin is not None:
        return Step(Entry(name, "matched", shape, shape, f"one tensor with {twin}"))
    before, found, inner = f".{name}".rpartition(".mode.")
    path = before.removeprefix(".")
    if found and path in target.modes:
        why, mode = "the kernel mode's own, which starts anew", target.modes[path]
        make = (lambda: mode.state_dict()[inner]) if join(path, "weight") in target.given else None
        return Step(Entry(name, "missing", None, shape, why), make)
    layer_mode = getattr(target.layers.get(path), "mode", None)
    if inner == "mean_displacement" and isinstance(layer_mode, Fourier):
        start = layer_mode.offset
        why = f"the checkpoint does not record it: {start:g} until trained anew"
        return Step(Entry(name, "missing", None, shape, why), lambda: torch.full_like(own, start))
    if name.endswith(COUNTER):
        return Step(Entry(name, "missing", None, shape, "it only counts batches"))
    if any(under(name, last) for last in target.last):
        why = "the classifier keeps its new weights"
        return Step(Entry(name, "missing", None, shape, why), differs=True)
    return Step(Entry(name, "missing", None, shape), fault=True)


def _their_classifier(target: _Target, state: Mapping[str, Tensor], left: list[str]) -> str | None:
    """Path in the checkpoint of the one layer left over that could be its classifier."""
    names = [join(path, "weight") for path in target.last]
    if not names or names[-1] in target.given or names[-1] not in target.own:
        return None
    axis = class_axis(target.layers[target.last[-1]])
    wanted = _but_for(axis, tuple(target.own[names[-1]].shape))
    found = [
        key.rpartition(".")[0]
        for key in left
        if key.endswith("weight") and _but_for(axis, tuple(state[key].shape)) == wanted
    ]
    return found[0] if len(found) == 1 else None


def _left_over(
    target: _Target,
    key: str,
    tensor: Tensor,
    match: Match,
    outside_may_be_left: bool,
    theirs: str | None,
) -> Step:
    """A tensor of the checkpoint that the network has not."""
    name, fault, differs, why = match.here(key), False, False, ""
    if name is not None and _is_of_one_voxel(target, name):
        why = "a kernel of size 1 cannot be moved: its predictor does nothing"
    elif key.endswith(COUNTER):
        why = "it only counts batches"
    elif theirs and under(key, theirs):
        differs, why = True, "the checkpoint's classifier, by another name"
    elif name is not None and any(under(name, last) for last in target.last):
        differs, why = True, "of the classifier"
    elif name is None and outside_may_be_left:
        why = f"outside of {match.where!r}"
    else:
        fault = True
    entry = Entry(key, "unexpected", tuple(tensor.shape), None, why)
    return Step(entry, fault=fault, differs=differs)


def _is_of_one_voxel(target: _Target, name: str) -> bool:
    """Tell whether a name is of the predictor of a kernel that cannot be moved."""
    path, found, _ = f".{name}".rpartition(".mode.predictor.")
    mode = getattr(target.layers.get(path.removeprefix(".")), "mode", None)
    return bool(found) and isinstance(mode, Fourier) and mode.predictor is None
