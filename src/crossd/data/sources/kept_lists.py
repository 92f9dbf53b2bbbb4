"""Lists of very many files, made once and kept until a folder or an archive changes."""

import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from crossd.data.disk_cache import CLOCK, key_of, state_of, user_cache
from crossd.data.file_names import Names
from crossd.data.io.images import suffixes
from crossd.data.shared_arrays import Array
from crossd.utils.progress import Progress

KEEP_FROM = 5_000
"""Files from which a list is kept: fewer are found as fast as the list is read."""

FORM = 8
"""Of all lists, to be counted up when one changes."""


@dataclass(frozen=True)
class Listing:
    """A list of files; what subclasses add to it are `Names` and arrays, too.

    Attributes:
        visited: The folders or archives that were looked through.
        states: Of each, the size and the time of change [ns] before that, int64, ``(N, 2)``.
    """

    visited: Names
    states: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of files."""
        raise NotImplementedError

    def arrays(self) -> dict[str, Array]:
        """Return all that is in the list, to be kept."""
        found: dict[str, Array] = {}
        for name, value in vars(self).items():
            found |= value.arrays(name) if isinstance(value, Names) else {name: value}
        return found

    @classmethod
    def kept(cls, arrays: dict[str, Array]) -> Self:
        """Take over what `arrays` gave."""
        found: dict[str, Any] = {}
        for own in fields(cls):
            is_names = own.type is Names
            found[own.name] = Names.kept(arrays, own.name) if is_names else arrays[own.name]
        return cls(**found)

    def current(self) -> bool:
        """Tell whether no folder or archive has changed since it was looked through."""
        pairs = zip(self.visited, self.states.tolist(), strict=True)
        try:
            return all([*state_of(Path(name))] == state for name, state in pairs)
        except OSError:
            return False


One = TypeVar("One", bound=Listing)


def kept_or_made(
    kind: type[One], make: Callable[[], One], what: str, progress: Progress, *key: object
) -> One:
    """Take a list from the cache folder of the user, or make it and keep it there if it is long.

    Args:
        kind: The kind of list.
        make: Makes it.
        what: What is looked through, for the line that says that it was not.
        progress: Where to say it.
        *key: On what the list depends, but for the suffixes that PIL reads.
    """
    cache, key_text = user_cache(), key_of("index", FORM, kind.__name__, sorted(suffixes()), key)
    with cache.one_process_at_a_time(key_text):
        arrays = cache.get(key_text)
        kept = None if arrays is None else kind.kept(arrays)
        if kept is not None and kept.current():
            progress.say(f"{what}: {len(kept):,} files, as scanned before")
            return kept
        start = time.time_ns()
        made = make()
        if len(made) >= KEEP_FROM and made.states[:, 1].max() < start - CLOCK:
            cache.keep(key_text, made.arrays())
        return made
