"""Answers on a CUDA device that is not there: see `nn/test_fake_cuda.py`."""

import pytest
import torch
from fake_cuda import CUDA, FakeCuda
from torch import Tensor, nn

import crossd
from crossd.inference import sliding_window
from crossd.inference.slice_ensemble import answering
from crossd.nn.kernel_modes import KERNEL_MODES
from crossd.tasks import TASKS, task_of
from crossd.utils.option_values import ANSWERS


def network(task: str, mode: str = "projection") -> nn.Module:
    """Make a small network for images."""
    layers: tuple[nn.Module, ...] = (nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
    if task_of(task).masks:
        layers = (*layers, nn.Conv2d(4, 3, 1))
    else:
        layers = (*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    return crossd.convert(nn.Sequential(*layers), mode, check=False).eval()


@pytest.mark.parametrize("mode", KERNEL_MODES)
@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("task", TASKS)
def test_ways_of_answering(gpu: FakeCuda, task: str, answer: str, mode: str) -> None:
    if answer == "both" and not KERNEL_MODES[mode].has_views:
        return
    net = gpu.moved(answering(network(task, mode), answer, task)).eval()
    for side in (8, 9):  # slices alike in all views, or not
        gpu.step(net, 2, 1, 8, side, 8)


@pytest.mark.parametrize(("answer", "flips"), [("volume", True), ("both", False)])
def test_windows(gpu: FakeCuda, answer: str, flips: bool) -> None:
    """Nothing is read of a window; of a volume the least value, where it is padded."""
    net = gpu.moved(answering(network("segmentation"), answer, "segmentation"))

    def found(height: int) -> list[Tensor]:
        gpu.waits.clear()
        with gpu.running():
            volume = torch.empty(1, 12, height, 8, device=CUDA)
            say = sliding_window.probabilities(net, flips)
            return [part for _, part in sliding_window.slabs(say, volume, (8, 8, 8))]

    few, waits = found(8), [*gpu.waits]
    assert [tuple(part.shape) for part in few] == [(3, 4, 8, 8), (3, 8, 8, 8)]
    assert all(part.device == CUDA for part in few)
    assert found(40)[0].shape == (3, 4, 40, 8)
    assert not waits and not gpu.waits
    assert found(6)[0].shape == (3, 4, 6, 8)
    assert gpu.waits == ["sliding_window.py: slabs"]
