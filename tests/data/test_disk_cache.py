"""Prepared volumes on disk: never a wrong one, never more than fit, whoever else is there."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import files
import numpy as np
import pytest
import torch
from files import PLAN, message
from safetensors.torch import save

from crossd.data.disk_cache import SUFFIX, DiskCache, option_cache
from crossd.data.opening import open_source
from crossd.data.preprocessing.plan import Intensity, Plan
from crossd.data.preprocessing.volume_dataset import Cache, VolumeSamples
from crossd.data.source import Given
from crossd.data.sources import case_files
from crossd.data.sources.case_files import read_entry
from crossd.data.sources.case_list import Case

SIZE = 4000
"""Bytes of what `arrays` gives, about."""


def arrays(value: int) -> dict[str, np.ndarray[Any, Any]]:
    return {
        "image": np.full((1, 10, 10, 8), value, np.float32),
        "mask": np.full((10, 10, 8), value, np.uint8),
    }


def holds(cache: DiskCache, key: str, value: int) -> bool:
    """Tell whether a cache gives what `arrays` gave."""
    found = cache.get(key)
    return found is not None and all((array == value).all() for array in found.values())


def entry_file(folder: Path, name: str) -> Path:
    return folder / f"{name}{SUFFIX}"


def aged(folder: Path, name: str, seconds: float) -> None:
    """Let something have been used so long before this run."""
    stamp = folder.stat().st_ctime - 1000 - seconds
    os.utime(entry_file(folder, name), (stamp, stamp))


def samples(folder: Path, stored: DiskCache, plan: Plan = PLAN, **case: Any) -> VolumeSamples:
    """Two volumes with masks, which nothing keeps in memory."""
    found = [Case(n, (folder / f"{n}.nii",), folder / f"{n}-mask.nii", **case) for n in "ab"]
    return VolumeSamples([read_entry(c) for c in found], plan, (0, 1, 2), None, Cache(0), stored)


@pytest.fixture
def volume_folder(tmp_path: Path) -> Path:
    for seed, name in enumerate("ab"):
        image, mask = files.scan((9, 10, 12), seed=seed)
        files.nifti(tmp_path / f"{name}.nii", image)
        files.nifti(tmp_path / f"{name}-mask.nii", mask)
    return tmp_path


@pytest.fixture
def preparations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The volumes that are prepared from their files."""
    done: list[int] = []
    prepare = VolumeSamples._prepare

    def noted(self: VolumeSamples, index: int) -> Any:
        done.append(index)
        return prepare(self, index)

    monkeypatch.setattr(VolumeSamples, "_prepare", noted)
    return done


def test_another_run_reads_what_was_prepared(volume_folder: Path, preparations: list[int]) -> None:
    first = samples(volume_folder, DiskCache(volume_folder / "cache", 1e9))
    expected = [first[0], first[1]]
    again = samples(volume_folder, DiskCache(volume_folder / "cache", 1e9))
    for index, sample in enumerate(expected):
        assert torch.equal(again[index]["image"], sample["image"])
        assert torch.equal(again[index]["mask"], sample["mask"])
        for axis in range(3):
            plane = again.plane(index, axis, 3)
            assert torch.equal(plane["image"], sample["image"].select(axis + 1, 3))
            assert torch.equal(plane["mask"], sample["mask"].select(axis, 3))
    assert preparations == [0, 1]


@pytest.mark.parametrize("change", ["image", "mask", "plan", "spacing", "values"])
def test_what_was_prepared_otherwise_is_not_used(
    volume_folder: Path, preparations: list[int], change: str
) -> None:
    stored = DiskCache(volume_folder / "cache", 1e9)
    before: dict[str, Any] = {**samples(volume_folder, stored)[0]}
    changed = samples(volume_folder, stored)
    if change in ("image", "mask"):
        image, mask = files.scan((9, 10, 12), seed=5)
        name, array = ("a", image) if change == "image" else ("a-mask", mask)
        files.nifti(volume_folder / f"{name}.nii", array)
    elif change == "plan":
        plan = Plan((1.5, 1.5, 1.5), PLAN.patch, (Intensity("window", 0, 1),))
        changed = samples(volume_folder, stored, plan)
    elif change == "spacing":
        changed = samples(volume_folder, stored, spacing=(2.0, 1.0, 1.0))
    else:
        changed.values = (0, 2, 1)
    after: dict[str, Any] = {**changed[0]}
    assert preparations == [0, 0]
    if change in ("mask", "values"):
        assert not torch.equal(after["mask"], before["mask"])
    else:
        assert not torch.equal(after["image"], before["image"])


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "foreign", "moved"])
def test_what_is_damaged_is_made_again(tmp_path: Path, damage: str) -> None:
    DiskCache(tmp_path, 1e9).keep("one", arrays(1))
    path = entry_file(tmp_path, "one")
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    made = {"flip": content, "cut": content[:-50], "empty": b"", "foreign": b"PK" + content}
    if damage == "moved":
        DiskCache(tmp_path, 1e9).keep("two", arrays(2))
        entry_file(tmp_path, "two").replace(path)
    else:
        path.write_bytes(bytes(made[damage]))
    stored = DiskCache(tmp_path, 1e9)
    assert stored.get("one") is None
    assert stored.keep("one", arrays(1))
    assert holds(stored, "one", 1)


def test_what_was_used_longest_ago_makes_room(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x" * 10 * SIZE)  # of somebody else
    stored = DiskCache(tmp_path, 3.5 * SIZE)
    for age, name in enumerate("cab"):
        assert stored.keep(name, arrays(age))
        aged(tmp_path, name, 10 - age)
    assert stored.get("c") is not None  # used now, so that a is the oldest
    assert stored.keep("d", arrays(4))
    assert [name for name in "abcd" if stored.get(name) is not None] == ["b", "c", "d"]
    assert (tmp_path / "notes.txt").is_file()


def test_what_this_run_uses_stays_and_the_bound_too(tmp_path: Path) -> None:
    stored = DiskCache(tmp_path, 2.5 * SIZE)
    assert [stored.keep(str(i), arrays(i)) for i in range(4)] == [True, True, False, False]
    assert [stored.get(str(i)) is not None for i in range(4)] == [True, True, False, False]
    assert not DiskCache(tmp_path / "small", 10).keep("x", arrays(0))


def test_a_full_disk_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = DiskCache(tmp_path, 1e9)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("crossd.utils.atomic_files.os.fsync", full)
    assert not stored.keep("x", arrays(0))
    assert stored.get("x") is None and not list(tmp_path.glob(f"*{SUFFIX}"))


def test_what_a_killed_writer_left_goes(tmp_path: Path) -> None:
    stored = DiskCache(tmp_path, 1e9)
    for name, age in (("old", 7200), ("new", 0)):
        path = tmp_path / f".{name}.abc{SUFFIX}"
        path.write_bytes(b"half")
        stamp = path.stat().st_mtime - age
        os.utime(path, (stamp, stamp))
    stored.keep("x", arrays(0))
    assert {path.name for path in tmp_path.glob(f".*{SUFFIX}")} == {f".new.abc{SUFFIX}"}


def test_reading_maps_and_writes_nothing_back(tmp_path: Path) -> None:
    stored = DiskCache(tmp_path, 1e9)
    stored.keep("x", arrays(3))
    found = stored.get("x")
    assert found is not None
    found["image"][:] = 0
    assert holds(stored, "x", 3)
    entry_file(tmp_path, "x").unlink()  # by another process: what is mapped stays
    assert (found["mask"] == 3).all() and stored.get("x") is None


def test_what_earlier_versions_kept_is_not_read_but_makes_room(tmp_path: Path) -> None:
    tensors = {"0": torch.ones(1, 10, 10, 8), "1": torch.ones(10, 10, 8, dtype=torch.uint8)}
    (tmp_path / f"one{SUFFIX}").write_bytes(save(tensors, {"name": "one", "crc": "0"}))
    aged(tmp_path, "one", 10)
    stored = DiskCache(tmp_path, 1.5 * SIZE)
    assert stored.get("one") is None
    assert stored.keep("two", arrays(2)) and not entry_file(tmp_path, "one").exists()


def test_a_folder_that_may_only_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    DiskCache(tmp_path).keep("x", arrays(1))

    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("crossd.data.disk_cache.os.utime", refuse)
    assert holds(DiskCache(tmp_path), "x", 1)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot write to --cache" in message(
        lambda: option_cache(str(tmp_path / "file" / "x"), 1)
    )


MANY = """
import sys
from pathlib import Path
from test_disk_cache import SIZE, arrays
from crossd.data.disk_cache import LOCK, SUFFIX, DiskCache
from crossd.utils.atomic_files import locked
folder, first = Path(sys.argv[1]), int(sys.argv[2])
for turn in range(first, first + 60):
    stored = DiskCache(folder, 5.5 * SIZE)  # a run of its own: the others' may go
    for number in range(turn % 8, 8):
        kept = stored.get(str(number))
        if kept is None:
            stored.keep(str(number), arrays(number))
        else:
            assert all((array == number).all() for array in kept.values()), number
    with locked(folder / LOCK):
        used = sum(path.stat().st_size for path in folder.glob(f"*{SUFFIX}"))
    assert used <= 5.5 * SIZE, used
"""


@pytest.mark.slow
def test_two_processes_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MANY, str(tmp_path)]
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)]),
    }
    both = [
        subprocess.Popen([*command, first], env=env, stderr=subprocess.PIPE, text=True)
        for first in ("0", "4")
    ]
    told = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert 0 < len(list(tmp_path.glob(f"*{SUFFIX}"))) <= 5


def test_a_source_with_a_cache_is_the_same_and_its_scan_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(files.pairs(tmp_path / "data", 10, (8, 9, 10)))
    plain = open_source(root)
    given = Given(stored=DiskCache(tmp_path / "cache", 1e9))
    first = open_source(root, given=given)
    monkeypatch.setattr(case_files, "read_image", None)  # nothing is read any more
    again = open_source(root, given=Given(stored=DiskCache(tmp_path / "cache", 1e9)))
    for source in (first, again):
        assert (source.plan, source.values, source.mean) == (plain.plan, plain.values, plain.mean)
        assert np.array_equal(source.train[2]["image"], plain.train[2]["image"])
        assert torch.equal(source.train[2]["mask"], plain.train[2]["mask"])
