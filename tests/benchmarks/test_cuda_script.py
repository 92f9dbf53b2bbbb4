"""`benchmarks/cuda.sh`, which is for machines with a GPU, on one without."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "cuda.sh"


def run(*words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the script with the python that runs the tests."""
    own = {"VENV": sys.prefix, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        ["bash", str(SCRIPT), *map(str, words)],
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_gpu_that_is_not_there_is_said(tmp_path: Path) -> None:
    found = run(tmp_path / "out")
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.splitlines() == [
        "cuda.sh: error: torch finds no CUDA device: run it on a machine with a GPU"
    ]
    assert not (tmp_path / "out").exists()


def test_a_result_is_not_overwritten(tmp_path: Path) -> None:
    found = run(tmp_path, DEVICE="cpu")
    assert (found.returncode, found.stdout, list(tmp_path.iterdir())) == (2, "", [])
    assert found.stderr.startswith(f"cuda.sh: error: {tmp_path} exists: give another folder")
    found = run(tmp_path / "out", VENV=str(tmp_path))
    assert found.returncode == 2
    assert found.stderr.startswith(f"cuda.sh: error: there is no {tmp_path}/bin/python: run make")


@pytest.mark.slow
def test_every_part_runs(tmp_path: Path) -> None:
    small = (
        "--networks",
        "resnet18",
        "--sizes",
        "32",
        "--batch-sizes",
        "2",
        "--tables",
        "images",
    )
    out = tmp_path / "out"
    found = run(out, *small, "--arms", "plain,projection", DEVICE="cpu", BATCH="1")
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr
    for precision in ("32-true", "bf16-mixed"):
        assert "| resnet18, 32 | 2 |" in (out / precision / "report.md").read_text()
        assert "Self CPU" in (out / f"profile-{precision}.txt").read_text()
    for dtype in ("float32", "bfloat16"):
        lines = (out / f"ways-{dtype}.txt").read_text().splitlines()
        assert sum(line.endswith(("kernels", "patches")) for line in lines) == 13


def test_a_part_that_fails_is_said_and_the_others_run(tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\ncase "$*" in *ways*float32) exit 3;; esac\necho "ran $1"\n')
    python.chmod(0o755)
    found = run(tmp_path / "out", DEVICE="cpu", VENV=str(tmp_path / "venv"))
    assert found.returncode == 1
    expected = f"ways-float32: ended with code 3, see {tmp_path}/out/ways-float32.txt"
    assert found.stderr.splitlines() == [expected]
    parts = [line for line in found.stdout.splitlines() if line.startswith("ran")]
    names = ["cost", "cost", "ways", "profile_step", "profile_step"]
    assert parts == [f"ran benchmarks/{name}.py" for name in names]
