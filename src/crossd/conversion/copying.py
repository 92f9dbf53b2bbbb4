"""Copying a network whole: no function of the copy goes on using what belongs to the source.

`copy.deepcopy` copies objects, and methods that are bound to them, but no functions: one that holds
a module, as a closure or a default, goes on calling that of the source.
"""

import copy
import dis
import functools
import gc
import pickle
import types
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from crossd.conversion.checking import examples
from crossd.conversion.folding import modules
from crossd.conversion.folding.containers import tensors_in
from crossd.errors import InputError


def copy_of(model: nn.Module) -> nn.Module:
    """Copy a network, also one that keeps activations of its last forward pass (DynUNet does).

    Raises:
        InputError: "cannot copy ..." for what it keeps that has no copies, and "cannot convert ..."
            for a function that would be shared with the copy, and holds what it has copies of.
    """
    values = tensors_in([list(vars(module).values()) for module in model.modules()])
    copies: dict[int, object] = {id(v): v.detach() for v in values if not v.is_leaf}
    try:
        made = copy.deepcopy(model, copies)
    except (TypeError, ValueError, RecursionError, pickle.PickleError) as error:  # a lock, a file
        kind = type(model)
        raise InputError(
            f"cannot copy {kind.__module__}.{kind.__qualname__}: {examples.one_line(error)}"
        ) from error
    _require_apart(made, copies)
    return made


SHARED = (types.FunctionType, types.BuiltinFunctionType, weakref.ref)
"""What `copy.deepcopy` leaves as it is, and holds other things."""


def _require_apart(made: nn.Module, copies: dict[int, object]) -> None:
    """Refuse a copy of which a function holds something of its source.

    Args:
        made: The copy.
        copies: What was copied, by the identities of the originals.
    """
    own = {id(value) for value in copies.values()}
    seen = {id(module) for module in made.modules()}
    looked = {*seen}
    for path, module in made.named_modules():
        parts = ("_parameters", "_buffers", "_modules")
        kept = [(k, v) for k, v in vars(module).items() if k not in parts]
        for name, value in (*kept, *((None, method) for method in _methods(type(module)))):
            shared = [one for one in _reached(value, seen) if isinstance(one, SHARED)]
            reached = (held for one in shared for held in _reached(one, looked))
            for held in reached:
                if not _is_shared(held, copies, own):
                    continue
                whose = f"a function in its {name!r}"
                if name is None:
                    whose = f"{value.__name__!r} of its class"
                elif isinstance(value, types.FunctionType):
                    whose = f"the function {name!r} that it keeps"
                what = "modules" if isinstance(held, nn.Module) else f"a {type(held).__name__}"
                raise InputError(
                    f"cannot convert {modules.named(module, path)}: {whose} holds {what}, which a "
                    "copy of the network would share with this one; write a method"
                )


def _is_shared(value: Any, copies: dict[int, Any], own: set[int]) -> bool:
    """Tell whether something is the source's, or a module with weights that is in no network."""
    if copies.get(id(value), value) is not value:
        return not _is_constant(value)
    outside = isinstance(value, nn.Module) and id(value) not in own
    return outside and bool([*value.parameters(), *value.buffers()])


def _is_constant(value: object) -> bool:
    """Tell settings, as numbers and words in containers, from what changes or will be filled."""
    if isinstance(value, Tensor | nn.Module):
        return False
    if isinstance(value, dict | list | set | tuple):
        parts = value.values() if isinstance(value, dict) else value
        filled = bool(value) or isinstance(value, tuple)
        return filled and all(map(_is_constant, parts))
    return all(map(_is_constant, getattr(value, "__dict__", {}).values()))


def _methods(kind: type) -> list[types.FunctionType]:
    """List the functions of a module's class, but those of torch, and those that made it."""
    own = [base for base in kind.__mro__ if not base.__module__.startswith("torch.")]
    found = [v for base in own for name, v in vars(base).items() if name != "__init__"]
    return [v for v in found if isinstance(v, types.FunctionType)]


def _reached(value: object, seen: set[int]) -> Iterator[object]:
    """Give what is reached from a value, through containers, objects and functions.

    Args:
        value: Anything.
        seen: Identities of what was looked at before, which is left out and added to.
    """
    left = [value]
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        left.extend(_held(one))


def _held(value: object) -> Iterable[object]:
    """List what a value holds; of a function's globals the modules and tensors that it names."""
    if isinstance(value, weakref.ref):
        return (value(),)
    if isinstance(value, type | types.ModuleType | Tensor):
        return ()
    if not isinstance(value, types.FunctionType):
        return gc.get_referents(value)
    named = [value.__globals__.get(name) for name in _globals_of(value.__code__)]
    named = [one for one in named if isinstance(one, nn.Module | Tensor)]
    return (
        *(value.__closure__ or ()),
        *(value.__defaults__ or ()),
        *(value.__kwdefaults__ or {}).values(),
        *vars(value).values(),
        *named,
    )


@functools.cache
def _globals_of(code: types.CodeType) -> frozenset[str]:
    """List the globals that code names, and code within it."""
    found = {one.argval for one in dis.get_instructions(code) if one.opname == "LOAD_GLOBAL"}
    inner = [_globals_of(part) for part in code.co_consts if isinstance(part, types.CodeType)]
    return frozenset(found).union(*inner)
