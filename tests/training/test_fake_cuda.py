"""Trainings on a CUDA device that is not there: see `nn/test_fake_cuda.py`.

The whole of `fit` runs: reading, augmentation, forward and backward passes, clipping and AdamW. In
a step the processor waits for the device in the places of `ALLOWED` alone.
"""

from typing import Any

import numpy as np
import pytest
import torch
from fake_cuda import CUDA, FakeCuda, installed
from helpers import some
from made import Made, labelled, masked, tiny
from torch import nn

import crossd
from crossd.data.source import Source
from crossd.nn.kernel_modes import KERNEL_MODES
from crossd.tasks import TASKS
from crossd.training import devices, loop, validate
from crossd.training.batches import Feed
from crossd.training.config import TrainConfig
from crossd.training.teacher import Teacher

ALLOWED = {
    "loop.py: _settle",  # the losses of ten batches, together
    "progress.py: advance",  # the loss that is shown, four times a second
}
"""What reads values in a training."""


def source(task: str, rank: int) -> Source:
    """Make samples of a task; of findings and numbers one is not known."""
    if task == "segmentation":
        return masked(rank)
    made = labelled(rank, views=rank == 2)
    if task == "classification":
        return made
    values = np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32)
    if task == "multilabel":
        values = (values > 0).astype(np.float32)
    values[3, 1] = np.nan

    class Told(Made):
        def __getitem__(self, index: int) -> Any:
            return {**super().__getitem__(index), "label": torch.tensor(values[index])}

    told = Told(made.train.images, views=[i % 3 for i in range(12)] if rank == 2 else None)  # type: ignore[attr-defined]
    told.labels = values
    return Source("made", rank, task, 1, ("a", "b"), made.size, told, told, told)  # type: ignore[arg-type]


def network(task: str, mode: str = "projection", rank: int = 2) -> nn.Module:
    """Make a small network of both ranks, for images or for volumes."""
    if task != "segmentation":
        return tiny(mode)
    kinds = (nn.Conv2d, nn.BatchNorm2d, nn.ConvTranspose2d)
    conv, norm, up = kinds if rank == 2 else (nn.Conv3d, nn.BatchNorm3d, nn.ConvTranspose3d)
    layers = (conv(1, 4, 3, 2, 1), norm(4), nn.ReLU(), conv(4, 4, 1), up(4, 2, 2, 2))
    return crossd.convert(nn.Sequential(*layers), mode)


def trained(
    gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch, net: nn.Module, *given: Any, **named: Any
) -> None:
    """Train, and see that everything is on the device, and nobody waits for it."""
    installed(gpu, monkeypatch, named.pop("precision", "32-true"))
    with gpu.running():
        fit = loop.fit(net, *given, validate=False, **named)
    assert fit.samples > 0 and np.isfinite(fit.history[-1]["loss"])
    tensors = [*net.parameters(), *net.buffers()]
    assert tensors and all(tensor.device == CUDA for tensor in tensors)
    assert set(gpu.waits) - ALLOWED == set()


def config(**options: Any) -> TrainConfig:
    return TrainConfig(**{"epochs": 1, "batch_size": 4, **options})


PAIRS = [(mode, task) for mode in KERNEL_MODES for task in TASKS]
QUICK = [pair for pair in PAIRS if "projection" in pair or "classification" in pair]


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("pair", some(PAIRS, QUICK), ids="-".join)
def test_every_task_in_every_mode(
    gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch, pair: tuple[str, str], rank: int
) -> None:
    mode, task = pair
    trained(gpu, monkeypatch, network(task, mode), source(task, rank), config())


@pytest.mark.parametrize("rank", [2, 3])
def test_networks_for_volumes(gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    net = network("segmentation", "fourier-projection", 3)
    trained(gpu, monkeypatch, net, masked(rank), config())


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_mixed_precision(gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch, task: str) -> None:
    net = network(task, "fourier")
    seen: set[torch.dtype] = set()
    net[0].register_forward_hook(lambda *given: seen.add(given[2].dtype))  # type: ignore[index]
    trained(gpu, monkeypatch, net, source(task, 2), config(), precision="bf16-mixed")
    assert seen == {torch.bfloat16}


WAYS: dict[str, dict[str, Any]] = {
    "views": {"views": "drawn"},
    "one view": {"one_view": True},
    "accumulate": {"accumulate": 2},
    "full": {"augment": "full"},
    "none": {"augment": "none"},
    "bad samples": {"on_bad_sample": "skip"},
    "longer": {"epochs": 4},
}


@pytest.mark.parametrize("way", some(WAYS, ["views", "accumulate"]))
def test_ways_of_training(gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    given = labelled(2, views=True)
    trained(gpu, monkeypatch, tiny(dropout=0.1), given, config(**WAYS[way]))


def test_recomputed_activations(gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    block = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3))
    layers = (block, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    net = crossd.convert(nn.Sequential(*layers))
    trained(gpu, monkeypatch, net, labelled(3), config(checkpointing=True))


def test_images_and_volumes_in_turn(gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    beside = [(labelled(2, views=True), config())]
    rows = [slice(None), slice(0, 2)]
    trained(gpu, monkeypatch, tiny(), labelled(3), config(), beside=beside, rows=rows)


@pytest.mark.parametrize("task", TASKS)
def test_teaching(gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch, task: str) -> None:
    teacher = Teacher(network(task), task, 2.0)
    trained(gpu, monkeypatch, network(task), source(task, 3), config(), teacher=teacher)


def test_steps_that_may_be_skipped_read_their_losses(
    gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a step is taken, it must be known whether it is."""
    with pytest.raises(AssertionError, match=r"loop\.py: (_left_out|<listcomp>)"):
        trained(gpu, monkeypatch, tiny(), labelled(3), config(on_nan="skip"))
    assert {*gpu.waits} - ALLOWED <= {"loop.py: _left_out", "loop.py: <listcomp>"}


@pytest.mark.parametrize("task", TASKS)
def test_scores(gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch, task: str) -> None:
    """What is said, and what is true, is copied once a batch: scores are of the processor."""
    installed(gpu, monkeypatch)
    made = source(task, 3)
    with gpu.running():
        validate.score(network(task, "fourier-projection"), made, made.val, config())
    assert {*gpu.waits} - {"sliding_window.py: slabs"} == {"validate.py: score"}
    count = -(-len(made.val) // (1 if task == "segmentation" else 4))
    assert gpu.waits.count("validate.py: score") == 2 * count


@pytest.mark.parametrize("rank", [2, 3])
def test_recalibration(gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    installed(gpu, monkeypatch)
    samples = labelled(rank, views=rank == 2).train
    with gpu.running():
        count = validate.recalibrate(tiny("fourier"), samples, config())
    assert count == 4 and not gpu.waits


# That this finds what it is to find


def test_a_training_that_waits_is_found(gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = nn.ReLU.forward

    def reads(self: nn.ReLU, x: torch.Tensor) -> torch.Tensor:
        return forward(self, x) * (1 if x.sum().item() else 0)

    monkeypatch.setattr(nn.ReLU, "forward", reads)
    with pytest.raises(AssertionError, match=r"test_fake_cuda\.py: reads"):
        trained(gpu, monkeypatch, tiny(), labelled(2), config())


def test_samples_that_stay_on_the_processor_are_found(
    gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "feeding", lambda fabric, loader: loader)
    with pytest.raises(crossd.InputError, match="same device"):
        trained(gpu, monkeypatch, tiny(), labelled(2), config())


def test_views_that_go_to_the_device_are_found(
    gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read in every step, so that they stay."""
    take = Feed.take

    def moved(self: Feed, *given: Any) -> Any:
        for piece in take(self, *given):
            piece.batch["view"] = torch.as_tensor(piece.batch["view"]).to(CUDA)
            yield piece

    monkeypatch.setattr(Feed, "take", moved)
    with pytest.raises(AssertionError, match=r"batches\.py: view_of"):
        trained(gpu, monkeypatch, tiny(), labelled(2, views=True), config())
