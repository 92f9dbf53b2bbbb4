"""Tensors in containers: what networks are given, and what they answer.

Tuples, lists and dicts, what torch's pytree knows besides, and classes of users' own: dicts and
lists that were subclassed, dataclasses, and other objects that keep tensors as attributes.
"""

import copy
import functools
from collections.abc import Callable, MutableMapping
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map

__all__ = ["leaves", "mapped"]

PLAIN = (Tensor, nn.Module, str, bytes, int, float, complex, type(None), type)
"""What is no container, though some of it has attributes."""


def mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """Apply a function to everything in containers, and give containers of the same kinds.

    Args:
        function: Takes a tensor, or whatever else there is.
        value: One thing, or containers of any depth.

    Example:
        >>> mapped(lambda number: number + 1, {"one": (1, [2])})
        {'one': (2, [3])}
    """
    return tree_map(functools.partial(_opened, function), value)


def leaves(value: Any) -> list[Any]:
    """List everything in containers, in order.

    Example:
        >>> leaves({"one": (1, [2])})
        [1, 2]
    """
    found: list[Any] = []

    def keep(leaf: Any) -> Any:
        found.append(leaf)
        return leaf

    mapped(keep, value)
    return found


def _opened(function: Callable[[Any], Any], leaf: Any) -> Any:
    """Apply a function to what pytree takes for one thing, or to the parts of it."""
    if isinstance(leaf, PLAIN):
        return function(leaf)
    if isinstance(leaf, (list, tuple)):
        return type(leaf)(mapped(function, list(leaf)))
    keyed = isinstance(leaf, MutableMapping)
    parts = dict(leaf) if keyed else dict(getattr(leaf, "__dict__", {}))
    if not any(isinstance(part, Tensor) for part in leaves(parts)):
        return function(leaf)
    made = copy.copy(leaf)
    for name, part in parts.items():
        if keyed:
            made[name] = mapped(function, part)
        else:
            object.__setattr__(made, name, mapped(function, part))  # also of a frozen dataclass
    return made
