"""Keeping freed memory."""

import platform
import subprocess
import sys

import pytest

from crossd.utils.allocator import keep_freed_memory

FAULTS = """
import resource, torch
from crossd.utils.allocator import keep_freed_memory
assert keep_freed_memory(LARGE)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        blocks = [torch.ones(SIZE) for _ in range(4)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
@pytest.mark.parametrize(("size", "large"), [(7_000_000, False), (20_000_000, True)])
def test_pages_are_not_taken_from_the_system_again_and_again(size: int, large: bool) -> None:
    code = FAULTS.replace("SIZE", str(size)).replace("LARGE", str(large))
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    pages = 4 * 4 * size * 4 // 4096
    assert int(out.stdout) < pages / 20


def test_other_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    monkeypatch.setattr("ctypes.CDLL", None)
    assert keep_freed_memory() is False
