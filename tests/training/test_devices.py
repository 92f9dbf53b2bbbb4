"""Several processes that train together equal one, however they were started."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from files import SHARED, real_data, shaded
from PIL import Image
from processes import RUN, TWO, assert_alike, trained

from crossd.utils.run_folder import STATUS


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of small images; the last batch is smaller, and its halves differ in size."""
    return shaded(tmp_path_factory.mktemp("data") / "images.npz", 61, 12)


@pytest.mark.slow
@pytest.mark.parametrize("augment", ["light", pytest.param("full", marks=pytest.mark.slow)])
def test_two_processes_equal_one_with_the_batch_of_both(
    tmp_path: Path, data: str, augment: str
) -> None:
    how = ["--sync-bn", "--augment", augment]
    one = trained(RUN, tmp_path / "one", data, "--batch-size", "16", "--augment", augment)
    torchrun = [*TWO, *RUN[1:]]
    two = trained(torchrun, tmp_path / "two", data, "--batch-size", "8", *how)
    assert_alike(two, one, 1e-5)
    own = trained(RUN, tmp_path / "own", data, "--batch-size", "8", "--devices", "2", *how)
    assert_alike(own, two, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_two_processes_weigh_what_is_known(tmp_path: Path, task: str) -> None:
    data = shaded(tmp_path / "images.npz", 61, 12, task)
    one = trained(RUN, tmp_path / "one", data, "--batch-size", "16")
    two = trained([*TWO, *RUN[1:]], tmp_path / "two", data, "--batch-size", "8", "--sync-bn")
    assert_alike(two, one, 1e-4)  # weighted by samples, variances of 300 differ by 200


@pytest.mark.slow
def test_shared_parameters_equal_whole_ones(tmp_path: Path, data: str) -> None:
    how = ["--sync-bn", "--batch-size", "8", "--devices", "2", "--precision", "32-true"]
    how += ["--lr", "0.001", "--limit", "16", "--epochs", "1"]  # few chances for a ReLU to turn
    whole = trained(RUN, tmp_path / "ddp", data, *how)
    shared = trained(RUN, tmp_path / "fsdp", data, *how, "--strategy", "fsdp")
    # Adam's first step is the sign of the gradient: where that is zero but for rounding, which
    # machines do differently, a weight may go the other way by twice the learning rate.
    assert_alike(shared, whole, 2.1e-3)
    apart = torch.cat([(shared[n] - v).abs().flatten().float() for n, v in whole.items()]) > 1e-5
    assert apart.float().mean() < 1e-3


def class_folders(root: Path, train: int, val: int) -> str:
    """Write so many real images of each class as PNG."""
    with np.load(SHARED / "mednist" / "mednist_64.npz") as arrays:
        for part, count in (("train", train), ("val", val)):
            images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"].ravel()
            for label in np.unique(labels):
                folder = root / part / str(label)
                folder.mkdir(parents=True)
                for number in np.flatnonzero(labels == label)[:count]:
                    Image.fromarray(images[number]).save(folder / f"{number}.png")
    return str(root)


@real_data
@pytest.mark.slow
def test_torchrun_equals_one_process_after_twenty_steps_on_real_images(tmp_path: Path) -> None:
    data = class_folders(tmp_path / "data", 110, 5)
    how = ["--size", "64", "--limit", "640", "--epochs", "1"]  # 20 batches of 32
    one = trained(RUN, tmp_path / "one", data, *how, "--batch-size", "32")
    torchrun = [*TWO, *RUN[1:]]
    two = trained(torchrun, tmp_path / "two", data, *how, "--batch-size", "16", "--sync-bn")
    for folder in (tmp_path / "one", tmp_path / "two"):
        assert json.loads((folder / STATUS).read_text())["done"] == 20
    assert_alike(two, one, 1e-5)
