"""Tensors in containers: what networks are given, and what they answer.

Tuples, lists and dicts, what torch's pytree knows besides, and classes of users' own: dicts and
lists that were subclassed, dataclasses, and other objects that keep tensors as attributes.
"""

import copy
import dataclasses
import functools
import types
from collections.abc import Callable, MutableMapping
from typing import Any

from torch import Tensor, nn
from torch.distributions import Distribution
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["mapped", "tensors_in"]


PLAIN = (Tensor, nn.Module, Distribution, str, bytes, int, float, complex, type(None), type)
"""What is no container, though some of it has attributes."""


def mapped(function: Callable[[Tensor], Tensor], value: object) -> Any:
    """Apply a function to the tensors in containers, and give containers of the same kinds.

    Args:
        function: Takes a tensor.
        value: One thing, or containers of any depth.

    Example:
        >>> mapped(lambda tensor: tensor + 1, {"one": (Tensor([1.0]), ["two"])})
        {'one': (tensor([2.]), ['two'])}
    """
    return _mapped(function, {}, value)


def tensors_in(value: object) -> list[Tensor]:
    """List the tensors in containers, in order.

    Example:
        >>> tensors_in({"one": (Tensor([1.0]), ["two"])})
        [tensor([1.])]
    """
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    mapped(keep, value)
    return found


def _mapped(function: Callable[[Tensor], Tensor], made: dict[int, object], value: object) -> Any:
    return tree_map(functools.partial(_opened, function, made), value)


def _opened(function: Callable[[Tensor], Tensor], made: dict[int, object], leaf: object) -> object:
    """Apply a function to what pytree takes for one thing, if a tensor, or to the parts of it.

    Args:
        function: See `mapped`.
        made: Containers that were made, by the identities of those they stand for, which may hold
            each other.
        leaf: The thing.
    """
    if isinstance(leaf, Tensor):
        return function(leaf)
    if isinstance(leaf, PLAIN):
        return leaf
    if id(leaf) in made:
        return made[id(leaf)]
    parts = _parts(leaf)
    if not parts or not _holds_a_tensor(parts, {id(leaf)}):
        return leaf
    if isinstance(leaf, (list, tuple)):
        made[id(leaf)] = type(leaf)(_mapped(function, made, parts))
        return made[id(leaf)]
    made[id(leaf)] = new = copy.copy(leaf)
    for name, part in parts.items():
        if isinstance(new, MutableMapping):
            new[name] = _mapped(function, made, part)
        else:
            object.__setattr__(new, name, _mapped(function, made, part))  # a frozen one too
    return new


def _parts(leaf: object) -> Any:
    """Give what a container of users' own holds, as a list or by names; nothing for other things.

    Objects that are neither dataclasses nor namespaces are containers if a tensor is among their
    attributes: nobody looks further into them.
    """
    if isinstance(leaf, (list, tuple)):
        return list(leaf)
    if isinstance(leaf, MutableMapping):
        return dict(leaf)
    own = dict(getattr(leaf, "__dict__", {}))
    if dataclasses.is_dataclass(leaf):
        names = [field.name for field in dataclasses.fields(leaf)]
        return own | {name: getattr(leaf, name) for name in names if hasattr(leaf, name)}
    known = isinstance(leaf, types.SimpleNamespace)
    return own if known or any(isinstance(part, Tensor) for part in own.values()) else {}


def _holds_a_tensor(value: object, seen: set[int]) -> bool:
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor):
            return True
        if isinstance(leaf, PLAIN) or id(leaf) in seen:
            continue
        seen.add(id(leaf))
        if _holds_a_tensor(_parts(leaf), seen):
            return True
    return False


def is_measured(x: Tensor) -> bool:
    """Tell numbers from labels."""
    return x.is_floating_point() or x.is_complex()
