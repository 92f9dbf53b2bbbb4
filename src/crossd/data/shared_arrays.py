"""Arrays that the workers of a loader map into memory instead of copying."""

import os
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing import context, reduction
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
"""Numbers whose kind is known when they are read only."""

LARGE = 1 << 16
"""Bytes from which an array is put into a file to be shared."""


class Handle:
    """An open file, to be read by its number and closed when nobody needs it any longer."""

    def __init__(self, number: int) -> None:
        self.number = number

    @classmethod
    def of(cls, path: Path) -> "Handle":
        """Open a file to read."""
        return cls(os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0)))

    def read(self, start: int, size: int) -> bytes:
        """Read `size` bytes, fewer where the file ends."""
        if hasattr(os, "pread"):  # does not disturb other processes that share the open file
            return os.pread(self.number, size, start)
        os.lseek(self.number, start, os.SEEK_SET)
        return os.read(self.number, size)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self.number)


class MappedArray(np.ndarray[Any, Any]):
    """An array in a file that processes map.

    A process that is being started takes over the open file, so that nothing is copied and a file
    that was replaced or removed meanwhile does no harm. Anything else that pickles one, and every
    array that is computed from one, holds the numbers themselves.
    """

    file: Handle | None = None
    offset = 0

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[object, ...]:
        if self.file is None or context.get_spawning_popen() is None:
            return np.asarray(self).__reduce_ex__(protocol)
        handle = reduction.DupFd(self.file.number)
        return _taken_over, (handle, self.dtype, self.shape, self.offset)


def share(array: Array) -> Array:
    """Put a large array into a file without a name, to be mapped by this process and others.

    Args:
        array: object; it is given back as it is when it is small, shared already, or there is no
            room on the disk.

    Example:
        >>> numbers = share(np.arange(100_000))
        >>> type(numbers).__name__, int(numbers[-1])
        ('MappedArray', 99999)
    """
    if array.nbytes < LARGE or array.dtype.hasobject or os.name != "posix":
        return array
    if isinstance(array, MappedArray) and array.file is not None:
        return array
    try:
        # It is open for as long as the array is, and gone from the disk already.
        with tempfile.TemporaryFile(buffering=0) as file:
            np.ascontiguousarray(array).tofile(file)
            return mapped(Handle(os.dup(file.fileno())), array.dtype, array.shape)
    except OSError:
        return array


def mapped(file: Handle, dtype: np.dtype[Any], shape: Sequence[int], offset: int = 0) -> Array:
    """Map an array out of an open file; what is written to it stays in this process."""
    if not np.prod(shape):
        return np.empty(shape, dtype)
    with os.fdopen(os.dup(file.number), "rb", buffering=0) as stream:
        array = np.memmap(stream, dtype, "c", offset, tuple(shape)).view(MappedArray)
    array.file, array.offset = file, offset
    return array


def _taken_over(handle: Any, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int) -> Array:
    return mapped(Handle(handle.detach()), dtype, shape, offset)
