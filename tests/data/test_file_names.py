import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from crossd.data.file_names import Names
from crossd.data.shared_arrays import LARGE, Handle, MappedArray, share

raw = st.lists(st.binary(max_size=40))


@given(raw)
def test_names_come_back_whatever_their_bytes(names: list[bytes]) -> None:
    texts = [os.fsdecode(name) for name in names]
    assert list(Names.of(texts)) == texts


def test_places_of_names() -> None:
    names = Names.of(["a", "", "b/ü.png"])
    assert names[2] == "b/ü.png" and names[1] == ""
    assert "" in names and len(names) == 3
    for place in (3, -1):
        with pytest.raises(IndexError, match=f"name {place} of 3"):
            names[place]


def test_one_long_name_costs_its_own_length_only() -> None:
    names = Names.of(["x" * 4000, *["y"] * 1000])
    assert names.blob.nbytes + names.ends.nbytes == 4000 + 1000 + 8 * 1001


def test_small_arrays_stay_and_large_ones_are_put_into_a_file() -> None:
    small, large = np.arange(10), np.arange(LARGE)
    assert share(small) is small
    shared = share(large)
    assert isinstance(shared, MappedArray) and np.array_equal(shared, large)
    assert share(shared) is shared


def test_what_is_pickled_or_computed_is_whole() -> None:
    shared = share(np.arange(LARGE))
    for other in (pickle.loads(pickle.dumps(shared)), shared[::2], shared + 1):
        again = pickle.loads(pickle.dumps(other))
        assert np.array_equal(again, other) and getattr(again, "file", None) is None
    shared[0] = 7  # in this process alone
    assert shared[0] == 7


class Numbers(Dataset[torch.Tensor]):
    def __init__(self) -> None:
        self.numbers = share(np.arange(LARGE))
        self.names = Names.of(f"{i}.png" for i in range(LARGE))

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        mapped = [a for a in (self.numbers, self.names.ends) if getattr(a, "file", None)]
        name = int(self.names[index * 1000].removesuffix(".png"))
        return torch.tensor([int(self.numbers[index * 1000]), name, len(mapped)])


@pytest.mark.parametrize("way", ["fork", "spawn", "forkserver"])
def test_workers_map_the_same_file(way: str) -> None:
    loader = DataLoader(Numbers(), batch_size=4, num_workers=1, multiprocessing_context=way)
    found = next(iter(loader)).tolist()
    assert found == [[i * 1000, i * 1000, 2] for i in range(4)]


def test_files_are_closed_when_they_are_no_longer_needed(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"0123456789")
    file = Handle.of(tmp_path / "x")
    assert file.read(3, 4) == b"3456" and file.read(8, 4) == b"89"
    number = file.number
    del file
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_without_room_on_the_disk_an_array_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    large = np.arange(LARGE)
    assert share(large) is large
