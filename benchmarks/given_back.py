"""Memory that was freed, given back to the system before memory is measured."""

import ctypes
import platform


def give_back_memory() -> None:
    """Let glibc return to the system what is freed; nothing happens with other C libraries."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
