"""Trainings in processes of their own, for tests."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

RUN = [sys.executable, "-m", "crossd", "pretrain", "--seed", "3", "--epochs", "3", "--lr", "0.02"]


RUN += ["--precision", "64-true"]  # in which no rounding turns the sign of what a ReLU gets


TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


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


PATIENCE = 600


posix = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


def written(process: subprocess.Popen[str], path: Path, times: int) -> None:
    """Wait until a process has written a file so many times."""
    deadline = time.monotonic() + PATIENCE
    before = path.stat().st_mtime_ns if path.is_file() else 0
    while times:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.005)
        assert time.monotonic() < deadline
        now = path.stat().st_mtime_ns if path.is_file() else 0
        times -= now != before
        before = now
