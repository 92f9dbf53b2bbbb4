"""The study's scripts: planes at any angle, and a whole study of a tiny set."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import close_relative
from torch import nn

from crossd.nn.functional import project

STUDY = Path(__file__).parents[2] / "benchmarks/study"
sys.path.insert(0, str(STUDY))
import modes  # noqa: E402
import trainings  # noqa: E402

AXES = (torch.eye(3), torch.eye(3)[[1, 0, 2]], torch.eye(3)[[1, 2, 0]])
"""Turns of the three views: what is (normal, row, column) becomes (z, y, x)."""


@pytest.mark.parametrize("axis", range(3))
def test_angles_of_the_axes_are_the_views(axis: int) -> None:
    torch.manual_seed(0)
    weight, volumes = torch.randn(4, 2, 3, 3, 3), torch.randn(2, 1, 9, 9, 9)
    turn = AXES[axis]
    with modes.turned(turn):
        kernel = modes.AnyAngle(1, (1, 1, 1)).fixed_kernel(weight, 0)
    close_relative(kernel, project(weight, axis))
    grid = modes.grid_of(turn, (1, 9, 9), 1.0, (9, 9, 9)).expand(2, -1, -1, -1, -1)
    planes = F.grid_sample(volumes, grid, align_corners=True)[:, :, 0]
    close_relative(planes, volumes.select(2 + axis, 5))


def test_penalty_spares_the_centre() -> None:
    conv = nn.Conv3d(1, 1, 3)
    nn.init.ones_(conv.weight)
    pulled = trainings._off_centre(conv.weight, 3.0, torch.zeros_like(conv.weight))[0, 0]
    assert pulled[1, 1, 1] == 0 and pulled[0, 1, 1] == 1 and pulled[0, 0, 0] == 3


@pytest.mark.slow
def test_study_of_a_tiny_set(tmp_path: Path) -> None:
    folder = tmp_path / "data/medmnist3d"
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for part, count in (("train", 24), ("val", 6), ("test", 10)):
        labels = np.arange(count) % 2
        images = draw.integers(0, 60, (count, 12, 12, 12)) + 120 * labels[:, None, None, None]
        arrays[f"{part}_images"] = images.astype(np.uint8)
        arrays[f"{part}_labels"] = labels[:, None]
    np.savez(folder / "organmnist3d.npz", **arrays)

    def run(script: str, *options: str) -> str:
        done = subprocess.run(
            [sys.executable, str(STUDY / script), *options], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    own = ["--data", str(tmp_path / "data"), "--work", str(tmp_path / "work")]
    arms = "projection,projection-drawn,slices,projection oblique,projection joint"
    run(
        "study.py", *own, "--sets", "organ", "--arms", arms, "--protocols", "zero,finetune",
        "--limits", "6", "--seeds", "1", "--results", str(tmp_path / "raw"),
    )  # fmt: skip
    raw = json.loads((tmp_path / "raw/organ.json").read_text())
    assert len(raw["rows"]) == 5 * 2 and len(raw["images"]) == 4
    assert {row["arm"] for row in raw["ways"]} == {"projection", "projection-drawn", "slices"}
    one = json.loads(run("study.py", *own, "--row", "organ,projection,zero,0,0").splitlines()[-1])
    same = next(
        row for row in raw["rows"] if (row["arm"], row["protocol"]) == ("projection", "zero")
    )
    assert one["metrics"]["accuracy"] == pytest.approx(same["metrics"]["accuracy"], abs=1e-3)
    run("write.py", "--results", str(tmp_path / "raw"), "--out", str(tmp_path / "docs"))
    page = (tmp_path / "docs/results.md").read_text()
    assert "OrganMNIST3D" in page and "projection-drawn" in page
    assert (tmp_path / "docs/images/results-organ.png").is_file()
