"""Arrays that the workers of a loader map into memory instead of copying."""

import os
import tempfile
from collections.abc import Sequence
from io import FileIO
from multiprocessing import context, reduction
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGE = 1 << 16
"""Bytes from which an array is put into a file to be shared."""


class Shared(np.ndarray[Any, Any]):
    """An array in a file that processes map.

    A process that is being started takes over the open file, so that nothing is copied and a file
    that was replaced or removed meanwhile does no harm. Anything else that pickles one, and every
    array that is computed from one, holds the numbers themselves.
    """

    file: FileIO | None = None
    offset = 0

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self.file is None or context.get_spawning_popen() is None:
            return np.asarray(self).__reduce_ex__(protocol)
        handle = reduction.DupFd(self.file.fileno())
        return _taken_over, (handle, self.dtype, self.shape, self.offset)


def share(array: NDArray[Any]) -> NDArray[Any]:
    """Put a large array into a file without a name, to be mapped by this process and others.

    Args:
        array: Any; it is given back as it is when it is small, shared already, or there is no
            room on the disk.

    Example:
        >>> numbers = share(np.arange(100_000))
        >>> type(numbers).__name__, int(numbers[-1])
        ('Shared', 99999)
    """
    if array.nbytes < LARGE or array.dtype.hasobject or os.name != "posix":
        return array
    if isinstance(array, Shared) and array.file is not None:
        return array
    try:
        # It is open for as long as the array is, and gone from the disk already.
        with tempfile.TemporaryFile(buffering=0) as file:
            np.ascontiguousarray(array).tofile(file)
            return mapped(FileIO(os.dup(file.fileno())), array.dtype, array.shape)
    except OSError:
        return array


def mapped(
    file: FileIO, dtype: np.dtype[Any], shape: Sequence[int], offset: int = 0
) -> NDArray[Any]:
    """Map an array out of an open file; what is written to it stays in this process."""
    if not np.prod(shape):
        return np.empty(shape, dtype)
    array = np.memmap(file, dtype, "c", offset, tuple(shape)).view(Shared)
    array.file, array.offset = file, offset
    return array


def _taken_over(
    handle: Any, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int
) -> NDArray[Any]:
    return mapped(FileIO(handle.detach()), dtype, shape, offset)
