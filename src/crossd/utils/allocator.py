"""The memory allocator of the C library."""

import ctypes
import platform

# The codes of M_TRIM_THRESHOLD, M_MMAP_THRESHOLD and M_MMAP_MAX in glibc's malloc.h.
_TRIM, _MMAP, _MOST_MMAPS = -1, -3, -4
_KEEP = 2**31 - 1
_LARGEST = 32 * 2**20


def keep_freed_memory(large: bool = False) -> bool:
    """Let glibc keep freed memory for the next step instead of returning it to the system.

    A training step frees and takes the same blocks again and again; fresh pages are zeroed by the
    kernel at about 4 GB/s, ten times slower than they are read. The peak does not change. Acts on
    the whole process, so crossd's commands call it, and importing crossd does not.

    Args:
        large: Keep blocks of more than 32 MiB too, which glibc maps one by one otherwise. What is
            too small a gap for the next block stays free, so that the peak may rise: by a tenth
            when masks of large volumes are predicted, which then takes half the time beside the
            network's, but by a fifth when small networks are trained on volumes.

    Returns:
        Whether the C library is glibc and took the settings.

    Example:
        >>> isinstance(keep_freed_memory(), bool)
        True
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    if large and not library.mallopt(_MOST_MMAPS, 0):
        return False
    return bool(library.mallopt(_MMAP, _LARGEST) and library.mallopt(_TRIM, _KEEP))
