"""Commands on a CUDA device that is not there, from files to files: see `nn/test_fake_cuda.py`.

What is copied from the device is zeros, so that reports and weights are of zeros. Left out are
checkpoints, which hold the state of CUDA's own generator and tensors as they lie on the device, and
Grad-CAM of `inspect`, which asks torch's engine for gradients.
"""

from collections.abc import Callable
from pathlib import Path

import files
import nibabel as nib
import numpy as np
import pytest
from fake_cuda import FakeCuda, installed
from helpers import some

from crossd.cli.command_line import main
from crossd.training import checkpoints, loop

TRAINING = {"loop.py: _settle", "progress.py: advance"}
SCORES = {"validate.py: score"}
WRITING = {"weights_file.py: <dictcomp>", "weights_file.py: save"}
WINDOWS = {"sliding_window.py: slabs", "sliding_window.py: across"}
"""What reads values, by what it is for."""

Command = Callable[..., set[str]]
"""Runs a command, and tells where the processor waited for the device."""


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setattr(loop, "_generators", lambda device: [])
    monkeypatch.setattr(checkpoints, "keep", lambda folder, state: None)

    def run(*words: object) -> set[str]:
        gpu = FakeCuda()
        with monkeypatch.context() as patch:
            installed(gpu, patch)
            with gpu.running():
                assert main([str(word) for word in words]) == 0
        return {*gpu.waits}

    return run


def arrays(folder: Path, task: str) -> tuple[str, Path, Path]:
    """Write images, volumes that have their labels, and one volume as a file."""
    images = files.shaded(folder / "images.npz", 24, 8, task)
    told = {name: own for name, own in np.load(images).items() if name != "images"}
    volumes = np.random.default_rng(0).integers(0, 255, (24, 8, 8, 8), np.uint8)
    np.savez(folder / "volumes.npz", images=volumes, **told)
    nib.save(nib.Nifti1Image(volumes[0], np.eye(4)), folder / "one.nii.gz")
    return images, folder / "volumes.npz", folder / "one.nii.gz"


TASKS = {
    "classification": "projection",
    "multilabel": "slice",
    "regression": "fourier-projection",
}
"""With the kernel mode of their networks."""

SHORT = ("--epochs", "1", "--batch-size", "8")


@pytest.mark.parametrize("task", some(TASKS, ["multilabel"]))
def test_from_images_to_answers(task: str, command: Command, tmp_path: Path) -> None:
    images, volumes, one = arrays(tmp_path, task)
    start, ready = tmp_path / "2d" / "weights.safetensors", tmp_path / "ready.safetensors"
    new = ("--kernel-mode", TASKS[task])
    found = command("pretrain", "--data", images, "--out", tmp_path / "2d", *new, *SHORT)
    assert found <= TRAINING | SCORES | WRITING
    found = command("recalibrate", "--weights", start, "--data", volumes, "--out", ready)
    assert found <= SCORES | WRITING
    given = ("--weights", ready, "--data", volumes)
    found = command("finetune", *given, "--out", tmp_path / "3d", *SHORT, "--limit", "8")
    assert found <= TRAINING | SCORES | WRITING
    found = command("teach", *given, "--out", tmp_path / "taught", *SHORT)
    assert found <= TRAINING | SCORES | WRITING | {"teach.py: _said"}
    assert command("evaluate", *given, "--out", tmp_path / "scores") <= SCORES
    found = command("predict", "--weights", ready, "--input", one, "--out", tmp_path / "said")
    assert found == {"predictor.py: answer"}
    beside = ("--images", images, "--volumes", volumes)
    found = command("joint", *beside, "--out", tmp_path / "joint", *new, *SHORT)
    assert found <= TRAINING | SCORES | WRITING


@pytest.mark.slow
def test_segmentation(command: Command, tmp_path: Path) -> None:
    data = files.pairs(tmp_path / "data", 6, (16, 16, 16))
    start, ready = tmp_path / "2d" / "weights.safetensors", tmp_path / "ready.safetensors"
    found = command("pretrain", "--data", data, "--out", tmp_path / "2d", *SHORT)
    assert found <= TRAINING | SCORES | WRITING
    found = command("recalibrate", "--weights", start, "--data", data, "--out", ready)
    assert found <= SCORES | WINDOWS | WRITING
    given = ("--weights", ready, "--data", data)
    found = command("finetune", *given, "--out", tmp_path / "3d", "--epochs", "1")
    assert found <= TRAINING | SCORES | WINDOWS | WRITING
    scan = next((tmp_path / "data").rglob("*.nii.gz"))
    found = command("predict", "--weights", ready, "--input", scan, "--out", tmp_path / "masks")
    assert found <= WINDOWS | {"predictor.py: restore"}
    assert any((tmp_path / "masks").rglob("*.nii.gz"))
