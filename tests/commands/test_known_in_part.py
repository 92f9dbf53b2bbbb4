"""Volumes with labels on a few slices serve 2D training and 3D training, and are scored whole."""

import csv
import json
from pathlib import Path
from typing import Any

import files
import nibabel as nib
import numpy as np
import pytest

import crossd
from crossd.cli.command_line import main


def table(root: Path, count: int = 16) -> str:
    """Write volumes of which one of eight slices is labelled, and whole ones to test on."""
    rows = []
    for i in range(count):
        image, mask = files.scan((20, 24, 28), seed=i)
        part = "test" if i >= count - 4 else "val" if i >= count - 6 else "train"
        if part != "test":
            known = np.full_like(mask, 255)
            known[:, i % 8 :: 8] = mask[:, i % 8 :: 8]
            mask = known
        files.nifti(root / f"{i}.nii.gz", image)
        files.nifti(root / f"m{i}.nii.gz", mask)
        rows.append((f"{i}.nii.gz", f"m{i}.nii.gz", part))
    with (root / "cases.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "mask", "split"), *rows])
    return str(root / "cases.csv")


def record(folder: Path) -> Any:
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.slow
def test_slices_and_volumes_that_are_known_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data = table(tmp_path / "data")

    def run(*given: str) -> str:
        assert main(list(given)) == 0
        return "".join(capsys.readouterr())

    said = run("inspect", "--data", data, "--ignore", "255", "--out", "seen")
    assert "masks of the values 0, 1, 2; 255 is ignored (6" in said
    assert "255" in (tmp_path / "seen" / "report.md").read_text()
    run("plan", "--data", data, "--ignore", "255")
    assert "classes: {0: background, 1: '1', 2: '2'}" in (tmp_path / "plan.yaml").read_text()
    small = ["--batch-size", "8", "--epochs", "8"]
    said = run("pretrain", "--data", data, "--ignore", "255", "--out", "2d", *small)
    assert "sagittal slices with labels" in said and "give 0 " not in said
    weights = "2d/weights.safetensors"
    config: Any = crossd.load(weights).config
    assert (config.ignore, config.values) == (255, (0, 1, 2))
    # From now on the weights know it.
    said = run("finetune", "--weights", weights, "--data", data, "--out", "3d", "--steps", "60")
    assert "255 is ignored (6" in said
    assert record(tmp_path / "3d")["metrics"]["dice"] > 0.8
    trained = ["--weights", "3d/weights.safetensors"]
    run("evaluate", *trained, "--data", data, "--out", "whole")
    assert record(tmp_path / "whole")["metrics"]["mean"]["hd95"] is not None
    assert "known" not in record(tmp_path / "whole")
    said = run("evaluate", *trained, "--data", data, "--part", "val", "--out", "partly")
    assert "over the 12% of the voxels that are known" in said or "over the 13%" in said
    assert record(tmp_path / "partly")["metrics"]["mean"]["dice"] > 0.8
    run("predict", *trained, "--input", "data/0.nii.gz", "--out", "masks")
    (answer,) = (tmp_path / "masks").glob("*.nii.gz")
    image: Any = nib.load(answer)
    assert set(np.unique(image.dataobj)) <= {0, 1, 2}
    run("inspect", *trained, "--data", data, "--part", "val", "--out", "looked")
    run("recalibrate", "--weights", weights, "--data", data, "--out", "r.safetensors")
    twice = ["--images", data, "--volumes", data, "--ignore", "255", "--epochs", "1"]
    run("joint", *twice, "--steps", "4", "--out", "joint")
    arms = ["--arms", "projection,scratch", "--protocols", "finetune", "--limit", "2"]
    run("transfer", *twice, *arms, "--volume-epochs", "1", "--jobs", "1", "--out", "transfer")
    assert main(["evaluate", *trained, "--data", data, "--ignore", "2", "--out", "none"]) == 2
    assert "2 is to be ignored in masks, but is also the class" in capsys.readouterr().err
