"""Classes of the modules of a converted network: their methods ask its `State` what to do."""

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from crossd.conversion.folding.run import Function, Handler, Run
from crossd.conversion.folding.state import State
from crossd.conversion.folding.torch_private import (
    ConvBase,
)
from crossd.nn.layers import Size
from crossd.nn.views import current_view, view_is_set


class Folded:
    """Goes before the class of each module of a converted network.

    Attributes:
        crossd_state: What the modules of the network share.
        crossd_view: In a replica for another thread, the view that was set where it was made.
    """

    crossd_state: State | None = None
    crossd_view: int | None = None

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copy and pickle by the class that was there before, which can be imported.

        Whatever way of copying that class has of its own, it would make layers as they were before
        conversion.
        """
        kind: Any = type(self)
        own = kind.__mro__[kind.__mro__.index(Folded) + 1]
        return _blank, (own, issubclass(kind, Layer)), self.__getstate__()

    def __deepcopy__(self, memo: dict[int, object]) -> object:
        make, arguments, state = self.__reduce_ex__(4)
        made = memo[id(self)] = make(*arguments)
        made.__setstate__(copy.deepcopy(state, memo))
        return made

    def __getstate__(self) -> object:
        """Add what is ours to what the class keeps in copies, which need not be everything."""
        ours = {name: value for name, value in vars(self).items() if name.startswith("crossd_")}
        return super().__getstate__(), ours

    def __setstate__(self, state: Any) -> None:
        own, ours = state
        super().__setstate__(own)  # type: ignore[misc]
        vars(self).update(ours)

    def _replicate_for_data_parallel(self) -> object:
        """Give a replica for another thread the view of this one."""
        replica: Any = super()._replicate_for_data_parallel()  # type: ignore[misc]
        if view_is_set():
            chosen = current_view()
            if not isinstance(chosen, int):
                raise ValueError("one view a sample is not for DataParallel: use DDP, or one view")
            replica.crossd_view = chosen
        return replica


def state_of(net: nn.Module) -> State:
    """Give what the modules of a converted network share."""
    assert isinstance(net, Folded) and net.crossd_state is not None
    return net.crossd_state


class Layer(Folded):
    """A layer that takes images and volumes by itself, as rules make them."""


def source_class(module: Any) -> Any:
    """Return the class that a module of a converted network had before."""
    kind: Any = type(module)
    return kind.__mro__[kind.__mro__.index(Folded) + 1] if isinstance(module, Folded) else kind


def _blank(kind: object, layer: bool) -> object:
    made: Any = folding_class(kind, layer)
    return made.__new__(made)


def fold_module(module: nn.Module, layer: bool, state: State) -> None:
    """Give a module the class that asks the state of its network, in place.

    Args:
        module: The module.
        layer: Whether it takes images and volumes by itself.
        state: What the modules of the network share.
    """
    folded: Any = module
    kind: object = type(module)
    folded.__class__ = folding_class(kind, layer)
    folded.crossd_state = state
    for name in SETTINGS:
        if isinstance(getattr(type(folded), name, None), property):
            setattr(folded, name, folded.__dict__[name])


@functools.cache
def folding_class(kind: Any, layer: bool) -> Any:
    """Make the class whose methods ask the state of the network.

    Args:
        kind: The module's own class.
        layer: Whether the module takes images and volumes by itself.
    """
    form = _call_layer if layer else FORMS.get(f"{kind.__module__}.{kind.__qualname__}")
    methods: dict[str, object] = {
        name: _asking(function, form if name == "forward" else None)
        for name, function in ({"forward": kind.forward} if layer else _methods(kind)).items()
    }
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, **methods}
    if layer and issubclass(kind, ConvBase):
        names |= {name: _seen_by_its_code(name) for name in SETTINGS}
    bases = (Layer, Folded, kind) if layer else (Folded, kind)
    return type(kind)(kind.__name__, bases, names)


FORMS: dict[str, Handler] = {}
"""What stands for the forward of modules of other libraries on volumes, by their full names."""


def _call_layer(
    run: Run, module: nn.Module, method: Function, *args: object, **kwargs: object
) -> Tensor:
    """Call a layer that takes both ranks by itself; meanwhile nothing is watched."""
    run.paused = True
    try:
        call = functools.partial(method, module)
        if not run.folds:
            return call(*args, **kwargs)
        return State.layers[run.folding.rank](run, module, call, *args, **kwargs)
    finally:
        run.paused = False


SETTINGS = ("kernel_size", "stride", "padding", "dilation", "output_padding")


def _seen_by_its_code(name: str) -> property:
    """A setting of a layer, of which code that was written for images sees the two of the plane."""
    own = f"crossd_{name}"  # a property that reads its own name is endless to a compiler

    def get(self: Folded) -> Size | str:
        value: tuple[int, ...] | str = getattr(self, own)
        state = self.crossd_state
        run = None if state is None else state._local.run
        if run is None or run.paused or run.folding.rank == 3 or len(value) < 3:
            return value
        return value if isinstance(value, str) else value[1:]

    def set_(self: Folded, value: Size | str) -> None:
        self.__dict__[name] = value  # which torch shows
        setattr(self, own, value)

    return property(get, set_)


def _asking(function: Callable[..., Any], form: Handler | None) -> Callable[..., Any]:
    @functools.wraps(function)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        state = self.crossd_state
        if state is None:
            return function(self, *args, **kwargs)
        return state.call(self, function, form, args, kwargs)

    return method


def _methods(kind: Any) -> dict[str, Callable[..., Any]]:
    """List the methods by which code runs a module, or a part of it: none that all modules have.

    Private ones too, as they may be what is recomputed in a backward pass.
    """
    found: dict[str, Callable[..., object]] = {}
    for base in kind.__mro__:
        if base is nn.Module or base.__module__.startswith("torch.nn."):
            break
        for name, value in vars(base).items():
            own = not hasattr(nn.Module, name) and not name.startswith("__")
            if own and inspect.isfunction(value):
                found.setdefault(name, value)
    return {**found, "forward": kind.forward}


def named(module: nn.Module, path: str) -> str:
    """Name a module in a message, by path and type."""
    kind = source_class(module)
    return f"layer {path or '(the network itself)'!r} of type {kind.__module__}.{kind.__qualname__}"
