"""Whole commands on the layouts of others: masks of a structure each, and BIDS."""

import csv
import json
from pathlib import Path
from typing import Any

import layouts
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from torch import nn

from crossd.cli.command_line import main
from crossd.conversion import registry


@pytest.fixture(autouse=True)
def _small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder of its own, on networks of two layers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_of_monai", lambda name, options, *sizes: masking(*sizes))


def masking(channels: int, classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, classes, 3, padding=1)
    )


def written(kind: str) -> Path:
    root = Path("data")
    if kind == "structures":
        return layouts.totalsegmentator(root)
    columns = {"split": layouts.PARTS}
    if kind == "labels":
        named = {f"manual/label-{n}_mask": k for k, n in enumerate(layouts.STRUCTURES, start=1)}
        return layouts.bids(root, masks=named, columns=columns)
    root = layouts.bids(root, masks={"manual/dseg": 0}, columns=columns)
    names = [f"{k}\t{name}" for k, name in enumerate(layouts.STRUCTURES, start=1)]
    (root / "derivatives/manual/dseg.tsv").write_text("\n".join(["index\tname", *names]))
    return root


def run(*words: str) -> None:
    assert main(list(words)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["structures", "labels", "numbers"])
def test_from_slices_to_scores(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    root = written(kind)
    run("inspect", "--data", str(root), "--out", "look")
    out = capsys.readouterr().out
    name = "folders with a mask of each structure" if kind == "structures" else "BIDS data set"
    assert f"{root}: {name}; 10 volumes" in out
    assert "(3 classes: aorta, liver, spleen), " in out
    assert "6 to train, 2 to val, 2 to test" in out

    quick = ("--epochs", "1", "--lr", "0.01")
    run("pretrain", "--data", str(root), *quick, "--out", "2d")
    run(
        "finetune",
        "--weights",
        "2d/weights.safetensors",
        "--data",
        str(root),
        *quick,
        "--out",
        "3d",
    )
    config = ("--weights", "3d/weights.safetensors")
    run("evaluate", *config, "--data", str(root), "--out", "scores")
    run("predict", *config, "--input", str(root), "--out", "masks")
    run("evaluate", "--predictions", "masks", "--data", str(root), "--out", "again")

    masks = sorted(Path("masks").rglob("*.nii.gz"))
    images = sorted(
        one.relative_to(root)
        for one in root.rglob("*.nii.gz")
        if one.name.endswith(("ct.nii.gz", "T1w.nii.gz"))
    )
    assert [one.relative_to("masks") for one in masks] == images
    for mask, image in zip(masks, images, strict=True):
        own: Any = nib.load(mask)
        first: Any = nib.load(root / image)
        np.testing.assert_array_equal(own.affine, first.affine)
        assert (
            sitk.ReadImage(str(mask)).GetOrigin() == sitk.ReadImage(str(root / image)).GetOrigin()
        )
        assert set(np.unique(own.get_fdata())) <= {0, 1, 2, 3}

    def scores(folder: str) -> list[list[str]]:
        with Path(folder, "cases.csv").open(newline="") as file:
            return list(csv.reader(file))

    assert scores("scores") == scores("again")
    assert {row[1] for row in scores("scores")[1:]} == set(layouts.STRUCTURES)
    assert [row[0] for row in scores("scores")[1::3]] == [
        str(images[i].parent / images[i].name.removesuffix(".nii.gz")) for i in (4, 9)
    ]
    assert json.loads(Path("3d/metrics.json").read_text())["metrics"]


@pytest.mark.slow
def test_ways_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    root = str(written("structures"))
    quick = ("--epochs", "1", "--volume-epochs", "1", "--limit", "2", "--arms", "projection,slices")
    run(
        "transfer", "--images", root, "--volumes", root, *quick, "--protocols", "zero", "--out", "x"
    )
    assert "projection" in capsys.readouterr().out


@pytest.mark.slow
def test_unlabelled_subjects_recalibrate_and_train_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run("pretrain", "--data", str(written("numbers")), "--epochs", "1", "--out", "2d")
    bare = layouts.bids(Path("bare"))
    ready = ("--weights", "2d/weights.safetensors", "--out", "ready.safetensors")
    run("recalibrate", *ready, "--data", str(bare))
    assert main(["pretrain", "--data", str(bare), "--out", "no"]) == 2
    error = capsys.readouterr().err
    assert "bare: has neither masks" in error and "(it has participant_id, age)" in error
    assert not Path("no").exists() and "Traceback" not in error
