"""Findings and numbers through every command, on images and on volumes."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from helpers import some

from crossd.cli import command_line as cli
from crossd.data.opening import open_source
from crossd.weights.weights_file import read_config

TASKS = ("multilabel", "regression")
RNG = np.random.default_rng(0)


def made(task: str, count: int, rank: int) -> tuple[Any, Any]:
    """Make noise with a bright box of some size, beside a dark one in half of the samples."""
    images = RNG.normal(100, 8, (count, *(16,) * rank))
    size = RNG.integers(3, 9, count)
    dark = RNG.random(count) < 0.5
    for i in range(count):
        images[i][(slice(1, 1 + size[i]),) * rank] += 80
        if dark[i]:
            images[i][(slice(10, 14),) * rank] -= 80
    values = np.stack([dark, size > 5], 1) if task == "multilabel" else np.stack([size], 1)
    return images.clip(0, 255).astype(np.uint8), values.astype(float)


def arrays(path: Path, task: str, rank: int) -> str:
    """Write an npz of them, of which one value is not known."""
    images, values = made(task, 48, rank)
    kept: dict[str, Any] = {"images": images}
    if task == "multilabel":
        values[5, 0] = -1
        kept |= {"labels": values, "names": np.array(["dark", "large"])}
    else:
        values[5, 0] = np.nan
        kept |= {"targets": values, "names": np.array(["side"]), "units": np.array(["mm"])}
    np.savez(path, **kept)
    return str(path)


def run(*words: str | Path) -> str:
    """Run a command that must end well."""
    assert cli.main([str(word) for word in words]) == 0
    return ""


def rows(path: Path) -> list[dict[str, str]]:
    """Read a table."""
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def columns(task: str) -> Sequence[str]:
    """Columns of `predict`."""
    return ["image", "p_dark", "p_large"] if task == "multilabel" else ["image", "side [mm]"]


@pytest.mark.parametrize("task", some(TASKS, ["multilabel"]))
def test_from_images_to_answers(task: str, tmp_path: Path, capsys: Any) -> None:
    flat, solid = (arrays(tmp_path / f"{rank}.npz", task, rank) for rank in (2, 3))
    run("pretrain", "--data", flat, "--out", tmp_path / "2d", "--epochs", "1", "--batch-size", "8")
    weights = tmp_path / "2d" / "weights.safetensors"
    config = read_config(weights)
    assert config.task == task and len(config.number_mean) == (task == "regression")
    report = (tmp_path / "2d" / "report.md").read_text()
    drawn = "roc.png" if task == "multilabel" else "scatter.png"
    assert drawn in report and (tmp_path / "2d" / drawn).is_file()

    ready = tmp_path / "ready.safetensors"
    run("recalibrate", "--weights", weights, "--data", solid, "--out", ready)
    assert read_config(ready).scale == config.scale

    out = tmp_path / "3d"
    steps = ("--steps", "2", "--epochs", "1", "--batch-size", "8", "--limit", "16")
    run("finetune", "--weights", ready, "--data", solid, "--out", out, *steps)
    tuned = out / "weights.safetensors"
    assert read_config(tuned).scale == config.scale  # the head that it has goes on

    run("evaluate", "--weights", tuned, "--data", solid, "--out", tmp_path / "scores")
    scores = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    main = "auc" if task == "multilabel" else "r2"
    assert scores["task"] == task and isinstance(scores["metrics"][main], float)
    if scores["interval"] is None:  # every draw of samples was answered rightly
        assert scores["metrics"][main] == 1.0
    else:
        low, high = scores["interval"]
        assert low <= high and low <= scores["metrics"][main] + 1e-9
    lines = rows(tmp_path / "scores" / "cases.csv")
    test = open_source(solid).test
    assert test.labels is not None and len(lines) == len(test)
    head = "dark" if task == "multilabel" else "side [mm]"
    told = [float(line[head] or "nan") for line in lines]
    assert told == pytest.approx(test.labels[:, 0].tolist(), nan_ok=True)

    image = made(task, 1, 3)[0][0]
    nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / "one.nii.gz")
    run("predict", "--weights", tuned, "--input", tmp_path / "one.nii.gz", "--out", tmp_path / "p")
    (line,) = rows(tmp_path / "p" / "predictions.csv")
    assert list(line) == columns(task)
    values = [float(line[name]) for name in columns(task)[1:]]
    low, high = (0, 1) if task == "multilabel" else (-50, 50)
    assert all(low <= value <= high for value in values)

    run("inspect", "--weights", tuned, "--data", solid, "--out", tmp_path / "look")
    assert "Grad-CAM" in (tmp_path / "look" / "report.md").read_text()
    capsys.readouterr()
    run("inspect", "--data", solid, "--out", tmp_path / "sheet")
    said = capsys.readouterr().out
    expected = "2 findings (dark, large)" if task == "multilabel" else "to learn side (3 to 8 mm)"
    assert f"48 volumes, {expected}, " in said


@pytest.mark.parametrize("task", some(TASKS, ["regression"]))
def test_comparisons(task: str, tmp_path: Path) -> None:
    flat, solid = (arrays(tmp_path / f"{rank}.npz", task, rank) for rank in (2, 3))
    run(
        *("transfer", "--images", flat, "--volumes", solid, "--out", tmp_path / "out"),
        *("--arms", "projection,slices", "--protocols", "zero,linear,knn", "--limit", "20"),
        *("--epochs", "1", "--batch-size", "16", "--jobs", "1", "--trials", "1"),
    )
    results = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert results["metric"] == ("auc" if task == "multilabel" else "r2")
    assert len(results["truth"]) == len(results["rows"][0]["said"])
    report = (tmp_path / "out" / "report.md").read_text()
    assert "over test samples" in report  # there is an interval though there is one repetition
    assert ("roc.png" if task == "multilabel" else "scatter.png") in report


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_images_and_volumes_in_turn(task: str, tmp_path: Path) -> None:
    flat, solid = (arrays(tmp_path / f"{rank}.npz", task, rank) for rank in (2, 3))
    run(
        *("joint", "--images", flat, "--volumes", solid, "--out", tmp_path / "out"),
        *("--epochs", "1", "--batch-size", "16"),
    )
    config = read_config(tmp_path / "out" / "weights.safetensors")
    assert config.task == task


def test_units_that_differ_are_refused(tmp_path: Path, capsys: Any) -> None:
    images, values = made("regression", 30, 2)
    for unit in ("mm", "cm"):
        names: dict[str, Any] = {"names": np.array(["side"]), "units": np.array([unit])}
        np.savez(tmp_path / f"{unit}.npz", images=images, targets=values, **names)
    run("pretrain", "--data", tmp_path / "mm.npz", "--out", tmp_path / "2d", "--epochs", "1")
    weights = str(tmp_path / "2d" / "weights.safetensors")
    other = ["evaluate", "--weights", weights, "--data", str(tmp_path / "cm.npz")]
    assert cli.main([*other, "--out", str(tmp_path / "out")]) == 2
    assert "side is in cm, but" in capsys.readouterr().err and not (tmp_path / "out").exists()
    np.savez(tmp_path / "none.npz", images=images, targets=values, names=np.array(["side"]))
    run(*other[:-1], tmp_path / "none.npz", "--out", tmp_path / "out")
    said = capsys.readouterr().err
    assert "none.npz: says no unit of side, which is taken to be in mm" in said


@pytest.mark.slow
@pytest.mark.parametrize("names", [("large", "dark"), ("large", "round")])
def test_findings_in_another_order_or_of_other_names(tmp_path: Path, names: Any) -> None:
    flat = arrays(tmp_path / "2.npz", "multilabel", 2)
    images, values = made("multilabel", 48, 3)
    np.savez(tmp_path / "3.npz", images=images, labels=values[:, ::-1], names=np.array(names))
    run(
        *("joint", "--images", flat, "--volumes", tmp_path / "3.npz", "--out", tmp_path / "out"),
        *("--epochs", "1", "--batch-size", "16"),
    )
    assert read_config(tmp_path / "out" / "weights.safetensors").classes == names
