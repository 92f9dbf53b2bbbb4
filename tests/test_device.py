"""Several processes that train together equal one, however they were started."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from files import shaded
from safetensors.torch import load_file
from torch import Tensor

RUN = [sys.executable, "-m", "crossd", "pretrain", "--seed", "3", "--epochs", "3", "--lr", "0.02"]
RUN += ["--precision", "64-true"]  # in which no rounding turns the sign of what a ReLU gets
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of small images; the last batch is smaller, and its halves differ in size."""
    return shaded(tmp_path_factory.mktemp("data") / "images.npz", 61, 12)


def trained(command: list[str], out: Path, data: str, *options: str) -> dict[str, Tensor]:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--data", data, "--out", str(out), *options],
        env=env, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("written:") == 1, done.stdout
    return dict(load_file(out / "weights.safetensors"))


def assert_alike(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=0, atol=tolerance, msg=name)


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


def test_shared_parameters_equal_whole_ones(tmp_path: Path, data: str) -> None:
    how = ["--sync-bn", "--batch-size", "8", "--devices", "2", "--precision", "32-true"]
    how += ["--lr", "0.001", "--limit", "16", "--epochs", "1"]  # few chances for a ReLU to turn
    whole = trained(RUN, tmp_path / "ddp", data, *how)
    shared = trained(RUN, tmp_path / "fsdp", data, *how, "--strategy", "fsdp")
    assert_alike(shared, whole, 1e-5)
