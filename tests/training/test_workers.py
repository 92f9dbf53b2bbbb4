from pathlib import Path

import numpy as np
import pytest
import torch
from made import labelled, tiny

from crossd.cli.options import PretrainConfig, RecalibrateConfig, TransferConfig
from crossd.data.dataset import Joined, Samples, Subset
from crossd.data.slicing import slices
from crossd.data.sources.npz import ArraySamples
from crossd.training import loop, workers
from crossd.training.loop import TrainConfig
from crossd.training.workers import MOST, cores


class Read(Samples):
    """Samples that are read from files."""

    def __len__(self) -> int:
        return 4

    def size(self, index: int) -> tuple[int, ...]:
        return (224, 224)


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make it a machine with a GPU, 16 cores and much memory."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr(workers, "available", lambda: 2**40)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 2**40}))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)


def test_what_is_asked_for_is_taken(large: None) -> None:
    assert workers.choose(0, Read(), 8) == 0 and workers.choose(40, Read(), 8) == 40


def test_a_core_each_less_one(large: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert workers.choose(None, Read(), 8) == 15
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert cores() == 4 and workers.choose(None, Read(), 8) == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "32")
    assert workers.choose(None, Read(), 8) == 0
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(200)), raising=False)
    assert workers.choose(None, Read(), 8) == MOST


def test_as_many_as_memory_and_shared_memory_hold(
    large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "available", lambda: 2**32)  # half of it: 4 processes at most
    assert workers.choose(None, Read(), 1) == 3
    monkeypatch.setattr(workers, "available", lambda: 2**40)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 2**26}))
    assert workers.choose(None, Read(), 64) == (1 if Path("/dev/shm").is_dir() else 15)
    assert workers.choose(None, Read(), 640) == (0 if Path("/dev/shm").is_dir() else 15)


def test_none_where_nothing_is_read_or_the_cpu_trains(
    large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.zeros((4, 8, 8, 1), np.uint8)
    arrays = ArraySamples(images, np.arange(4), (0.0, 255.0), (8, 8))
    for samples in (arrays, Subset(arrays, np.arange(2)), Joined([arrays, arrays])):
        assert workers.choose(None, samples, 8) == 0
        assert workers.choose(None, samples, 8, busy=True) == 15
    assert workers.choose(None, Joined([arrays, Read()]), 8) == 15
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert workers.choose(None, Read(), 8) == 0


def test_slices_are_in_memory_as_their_volumes_are() -> None:
    source = labelled(3, 8)
    assert not slices(source, ("axial",)).train.in_memory
    source.train.in_memory = True
    assert slices(source, ("axial",)).train.in_memory


def test_it_is_chosen_by_default() -> None:
    for config in (PretrainConfig(), TransferConfig(), RecalibrateConfig("a", "b"), TrainConfig()):
        assert config.workers is None


def test_what_is_trained_does_not_depend_on_workers() -> None:
    found = []
    for count in (None, 0, 2):
        net = tiny()
        config = TrainConfig(epochs=2, batch_size=4, workers=count, seed=3)
        fit = loop.fit(net, labelled(2, 16), config, validate=False)
        found.append(([record["loss"] for record in fit.history], net.state_dict()))
    for losses, state in found[1:]:
        assert losses == found[0][0]
        assert all(torch.equal(value, found[0][1][name]) for name, value in state.items())
