"""Making whole networks take both ranks: which modules do, and which need another forward."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from crossd.errors import InputError
from crossd.forwards import Forward, Written
from crossd.lifting import lift_forward
from crossd.recording import Frames, buffers_kept, examples, record, where
from crossd.trial import Mismatch, attempt, axes


@dataclass(frozen=True)
class Analysis:
    """What running a 2D network has shown.

    Attributes:
        forwards: For every module without a rule that ran: its forward for volumes, or None where
            its own does.
        cube: Whether maps of fixed size (of adaptive pools) may become cubes: not where a head
            counts their pixels.
        given: The arguments of the network's run.
        calls: The first call of every module.
    """

    forwards: dict[nn.Module, Forward | None]
    cube: bool
    given: tuple[Any, ...]
    calls: dict[nn.Module, Frames]


def analyse(net: nn.Module, leaf: Callable[[nn.Module], bool], example: Any = None) -> Analysis:
    """Run a 2D network and try its modules; on larger images where its last maps are too small.

    See `_analyse` for the arguments.
    """
    with buffers_kept(net):  # whatever the forwards that are tried do to them
        try:
            return _analyse(net, leaf, examples(net, example))
        except _TooSmall as error:
            larger = [given for given in examples(net, None) if given[0].shape[2] >= LARGE]
            if example is None:
                return _analyse(net, leaf, larger)
            raise InputError(str(error)) from error


class _TooSmall(InputError):
    """A failure that may be due to maps of a few pixels."""


FEW = 3
"""Pixels a side under which averages that count padded zeros cannot keep the law."""

LARGE = 224
"""Side of the images with which networks are tried again."""

FULL = 299
"""Side of the images with which what runs in training only is tried again."""


def _analyse(net: nn.Module, leaf: Callable[[nn.Module], bool], given: Any) -> Analysis:
    """Run a 2D network, and try each of its modules on what it would meet on volumes.

    Args:
        net: A 2D network; left as it was.
        leaf: Tells the modules that a rule replaces.
        given: Arguments to run it with, to be tried in turn.

    Raises:
        InputError: "cannot convert ..." naming the first module that cannot be used on volumes, or
            "cannot run ...".
    """
    modes = {module: module.training for module in net.modules()}
    try:
        calls, args = record(net.eval(), given, leaf)
        idle = [m for m in modes if m not in calls and not leaf(m)]
        if idle:  # what runs in training only, such as auxiliary heads
            for module in modes:
                module.training = bool(list(module.children()))  # not dropout, not norms
            calls = _in_training(net, args, leaf) | calls
            net.eval()
        tried = {module: frames for module, frames in calls.items() if not leaf(module)}
        first: tuple[nn.Module, Mismatch] | None = None
        for cube in (True, False):
            forwards: dict[nn.Module, Forward | None] = {}
            for module, frames in tried.items():
                try:
                    forwards[module] = _verdict(module, frames, cube)
                except Mismatch as error:
                    first = first or (module, error)
                    break
            else:
                return Analysis(forwards, cube, args, calls)
    finally:
        for module, training in modes.items():
            module.training = training
    assert first is not None
    few = _shortest(calls[first[0]][0].args) < FEW and _shortest(args) < LARGE
    raise (_TooSmall if few else InputError)(
        f"cannot convert {where(net, first[0])}: its forward is for images ({first[1]}); "
        "register a rule with crossd.rule"
    )


def _shortest(values: Any) -> int:
    """The shortest side of the images among some values."""
    images = [v for v in tree_leaves(values) if isinstance(v, Tensor) and v.dim() == 4]
    return min((min(image.shape[2:]) for image in images), default=LARGE)


def _in_training(
    net: nn.Module, given: tuple[Any, ...], leaf: Callable[[nn.Module], bool]
) -> dict[nn.Module, Frames]:
    """Record what runs in training only, on larger images where it does not run on those given."""
    for values in (given, tree_map(_full, given)):
        try:
            return record(net, [values], leaf)[0]
        except InputError:
            continue
    return {}  # nothing can be learnt of it


def _full(value: Any) -> Any:
    """Images of the size that the auxiliary heads of Inception are made for."""
    if not isinstance(value, Tensor) or value.dim() != 4:
        return value
    return F.interpolate(value, size=(FULL, FULL))


def _merged(frames: Frames) -> bool:
    return axes([frame.output for frame in frames]).merged is not None


def _verdict(module: nn.Module, frames: Frames, cube: bool) -> Forward | None:
    if isinstance(module, nn.Flatten) and _merged(frames):
        return None  # it flattens pixels and channels, of which only their product is seen
    try:
        attempt(frames, module.forward, cube)
        return None
    except Mismatch as error:
        own = error
    try:
        forward = lift_forward(frames, cube)
        attempt(frames, functools.partial(forward, module), cube)
    except Mismatch as error:
        raise Mismatch(f"{own}; rewritten for volumes: {error}") from error
    return forward


class Lifted(nn.Module):
    """Goes before the class of a module whose own forward is for images.

    Attributes:
        on_volumes: The forward for volumes.
    """

    on_volumes: Forward | Written

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Answer as on images, or, where the first tensor has one axis more, on volumes."""
        first = next((v for v in tree_leaves((args, kwargs)) if isinstance(v, Tensor)), None)
        if first is not None and first.dim() == self.on_volumes.image_axes + 1:
            return self.on_volumes(self, *args, **kwargs)
        return super().forward(*args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copy and pickle as the class it goes before, which can be imported."""
        return _rebuild, (source_type(self),), self.__dict__

    def to_2d(self, view: int = 0) -> nn.Module:
        """Give the module that it was, in place; its parts are plain already."""
        self.__class__ = source_type(self)
        del self.on_volumes
        return self

    def to_3d(self, align: bool = False) -> nn.Module:
        """Give a plain module for volumes, whose parts are plain already."""
        return self.on_volumes.plain(self).train(self.training)


def source_type(module: Any) -> Any:
    """Give the class that a lifted module had."""
    return type(module).__mro__[2]


@functools.cache
def _lifted_type(kind: Any) -> Any:
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (Lifted, kind), names)


def _rebuild(kind: Any) -> nn.Module:
    lifted: Any = _lifted_type(kind)
    return lifted.__new__(lifted)


def make_lifted(module: nn.Module, forward: Forward | Written) -> nn.Module:
    """Give a module a forward for volumes beside its own, in place."""
    kind: Any = type(module)
    module.__class__ = _lifted_type(kind)
    module.on_volumes = forward  # type: ignore[assignment]
    return module
