"""Names of files: of very many, of those that are passed over, and for people to read."""

import os
from array import array
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from crossd.data.shared_arrays import Array, share
from crossd.utils.printable import printable

DEBRIS = (
    *("__macosx", "@eadir", "#recycle", "@recycle", "$recycle.bin", "lost+found", "__pycache__"),
    *("system volume information", "thumbs.db", "desktop.ini", "@recently-snapshot"),
)
"""What systems, archives and notebooks leave in folders, beside hidden files; in small letters."""


class Names:
    """Names of files in two arrays, which cost their bytes and eight more each.

    A list of a million paths takes ten times as much, is copied into every worker of a loader,
    and a fixed width makes one long name cost memory for all.

    Args:
        blob: The bytes of all names, uint8; those that are no UTF-8 are kept as they are.
        ends: Where each name ends, int64, ``(N,)``.

    Example:
        >>> names = Names.of(["a/1.png", "b/2.png", "c/3.png"])
        >>> names[1], len(names), list(names)
        ('b/2.png', 3, ['a/1.png', 'b/2.png', 'c/3.png'])
    """

    def __init__(self, blob: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        self.blob = share(blob)
        self.ends = share(ends)

    @classmethod
    def of(cls, names: Iterable[str]) -> "Names":
        """Take over the names of a list."""
        writer = Writer()
        writer.extend(names)
        return writer.names()

    @classmethod
    def kept(cls, arrays: Mapping[str, Array], what: str) -> "Names":
        """Take over what `arrays` gave of names that are called `what`."""
        return cls(arrays[f"{what}/blob"], arrays[f"{what}/ends"])

    def arrays(self, what: str) -> dict[str, Array]:
        """Return the arrays, to be kept under names that begin with `what`."""
        return {f"{what}/blob": self.blob, f"{what}/ends": self.ends}

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(f"name {index} of {len(self)}")
        start = int(self.ends[index - 1]) if index else 0
        return os.fsdecode(self.blob[start : int(self.ends[index])].tobytes())

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))


def is_debris(name: str) -> bool:
    """Tell whether a file or folder is hidden, or was left by a system: it is passed over."""
    return name.startswith(".") or name.lower() in DEBRIS


def shown(name: str) -> str:
    r"""Give a name on one line, with what is no UTF-8, or obeyed by terminals, escaped.

    Example:
        >>> print(shown("b\udcf6se\n"))
        b\xf6se\n
    """
    return printable(name, kept="")


class Writer:
    """Names that are found one by one."""

    def __init__(self) -> None:
        self.blob = bytearray()
        self.ends = array("q")

    def add(self, name: str) -> None:
        """Append a name."""
        self.blob += os.fsencode(name)
        self.ends.append(len(self.blob))

    def extend(self, names: Iterable[str]) -> None:
        """Append several names."""
        for name in names:
            self.add(name)

    def __len__(self) -> int:
        return len(self.ends)

    def names(self) -> Names:
        """Return what was added."""
        return Names(np.array(self.blob, np.uint8), np.array(self.ends, np.int64))
