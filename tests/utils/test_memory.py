from pathlib import Path

import pytest

from crossd.errors import InputError
from crossd.utils import memory


def group(root: Path, limit: str, used: int, cache: int) -> Path:
    (root / "memory.max").write_text(limit)
    (root / "memory.current").write_text(str(used))
    (root / "memory.stat").write_text(f"anon 1\ninactive_file {cache}\n")
    return root


def test_limits_of_the_control_group_count(tmp_path: Path) -> None:
    free = memory.available(tmp_path)
    assert memory.available(group(tmp_path, "max", 0, 0)) > free / 2
    assert memory.available(group(tmp_path, "5000", 3000, 700)) == 2700
    assert memory.available(group(tmp_path, "5000", 9000, 0)) == 0


def test_what_does_not_fit_is_refused() -> None:
    memory.require(2**20, "small")
    with pytest.raises(InputError, match=r"a.nii: needs 1,048,576.0 GiB of memory, but .* free"):
        memory.require(2**50, "a.nii")


def test_the_peak_is_of_this_process() -> None:
    import psutil

    peak = memory.peaks()["peak_memory_gib"] * 2**30
    now = psutil.Process().memory_info().rss
    assert 0.5 * now < peak < psutil.virtual_memory().total
