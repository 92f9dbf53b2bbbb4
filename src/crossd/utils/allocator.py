"""The memory allocator of the C library."""

import ctypes
import platform

_TRIM, _MMAP = -1, -3  # the codes of M_TRIM_THRESHOLD and M_MMAP_THRESHOLD in glibc's malloc.h
_KEEP = 2**31 - 1
_LARGEST = 32 * 2**20


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for the next step instead of returning it to the system.

    A training step frees and takes the same blocks again and again; fresh pages are zeroed by the
    kernel at about 4 GB/s, ten times slower than they are read. The peak does not change. Acts on
    the whole process, so crossd's commands call it, and importing crossd does not.

    Returns:
        Whether the C library is glibc and took the settings.

    Example:
        >>> isinstance(keep_freed_memory(), bool)
        True
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    return bool(library.mallopt(_MMAP, _LARGEST) and library.mallopt(_TRIM, _KEEP))
