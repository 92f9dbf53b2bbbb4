"""`crossd inspect` on tiny networks: every kernel mode, form and task."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from torch import nn

import crossd
from crossd import WeightsConfig
from crossd.cli.command_line import main
from crossd.conversion import registry
from crossd.reports import kernels
from crossd.training import metrics
from crossd.weights.weights_file import save


@pytest.fixture(autouse=True)
def _small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder of its own, on networks of two layers, with a GIF of three frames."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kernels, "FRAMES", 3)
    monkeypatch.setattr(registry, "small_resnet", labelling)
    monkeypatch.setattr(registry, "_of_monai", lambda name, options, *sizes: masking(*sizes))


def labelling(channels: int, classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 6, 3, 2, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(6, classes),
    )  # fmt: skip


def masking(channels: int, classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, classes, 3, padding=1)
    )


def weights(
    mode: str = "projection", form: str = "cross", path: str = "net.safetensors", **change: Any
) -> list[str]:
    """Write new weights; returns the option."""
    given = {"model": "resnet-small", "task": "classification", "classes": ("0", "1")} | change
    config = WeightsConfig(in_channels=1, form=form, kernel_mode=mode, size=(8, 8), **given)
    save(config.build(), path, config)
    return ["--weights", path]


def labelled(rank: int) -> list[str]:
    """Write images or volumes with labels; returns the option."""
    labels = np.arange(30) % 2
    images = np.random.default_rng(0).integers(0, 200, (30, *(12,) * rank), dtype=np.uint8)
    np.savez("data.npz", images=images + 50 * labels.reshape(-1, *(1,) * rank), labels=labels)
    return ["--data", "data.npz"]


def masked() -> list[str]:
    """Write volumes with masks; returns the option."""
    image_type: Any = nib.Nifti1Image
    for i in range(6):
        mask = np.zeros((8, 8, 8), np.uint8)
        mask[2:6, 2:6, 2:6] = 1
        image = np.random.default_rng(i).random((8, 8, 8)).astype(np.float32)
        for kind, array in (("images", image), ("labels", mask)):
            path = Path("pairs") / kind / f"{i}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            image_type(array, np.eye(4)).to_filename(path)
    return ["--data", "pairs"]


def seen(*options: str) -> tuple[dict[str, Any], str, set[str]]:
    """Inspect; returns the results, the report, and the names of the pictures it shows."""
    assert main(["inspect", *options, "--out", "out"]) == 0
    text = Path("out/report.md").read_text()
    shown = {line.rpartition("(")[2][:-1] for line in text.splitlines() if line.startswith("![")}
    files = {path.name for path in Path("out").iterdir()}
    assert files == shown | {"report.html", "report.md", "metrics.json", "config.yaml"}
    page = Path("out/report.html").read_text()
    assert page.count("<img") == page.count('src="data:image/') == len(shown)
    for name in shown:
        with Image.open(Path("out") / name) as image:
            assert image.format == ("GIF" if name.endswith("gif") else "PNG")
            assert np.ptp(np.asarray(image.convert("L"))) > 100, name
    return json.loads(Path("out/metrics.json").read_text()), text, shown


KERNELS = {"kernels.png", "energy.png", "similarity.png"}


def test_projection_on_volumes() -> None:
    found, text, shown = seen(*weights(), *labelled(3))
    assert shown == KERNELS | {"grad-cam.png"}
    assert [one["layer"] for one in found["layers"]] == ["0", "3"]
    assert found["layers"][0]["energy"]["z"] == pytest.approx([0, 1, 0])
    assert "100 % of the energy lies in the central slice" in text and "hardly used" in text
    page = Path("out/report.html").read_text()  # the second layer strides, and sees each slice
    assert found["layers"][1]["energy"]["z"] == pytest.approx([1 / 6, 2 / 3, 1 / 6])
    assert re.search('<p class="headline">83 % of .*: the depth is used a little.</p>', page)
    assert page.count('<img class="scan"') == 2  # kernels and Grad-CAM keep their colours
    cam = found["grad_cam"]
    assert cam["layer"] == "4" and [one["truth"] for one in cam["samples"]] == ["0", "1"]
    assert all(len(one["maximum"]) == 3 for one in cam["samples"])


def test_slice_of_another_layer_on_images() -> None:
    found, text, shown = seen(*weights("slice"), *labelled(2), "--layer", "3", "--part", "val")
    assert shown == KERNELS | {"grad-cam.png"} and "## The kernels of layer 3" in text
    assert len(found["grad_cam"]["samples"][0]["maximum"]) == 2


@pytest.mark.slow
def test_fourier_with_masks() -> None:
    change: dict[str, Any] = {
        "model": "segresnet-small",
        "task": "segmentation",
        "classes": ("background", "1"),
    }
    found, text, shown = seen(*weights("fourier", **change, values=(0, 1)), *masked())
    assert shown == KERNELS | {"kernels.gif", "poses.png", "poses-classes.png", "answer.png"}
    assert found["poses"]["groups"] == "views" and len(found["poses"]["layers"]) == 2
    assert set(found["answer"]["dice"]) == {"1"} and "hardly depend on the image" in text
    with Image.open("out/kernels.gif") as image:
        assert getattr(image, "n_frames", 1) == 3


def test_where_no_label_is_there_is_no_dice(monkeypatch: pytest.MonkeyPatch) -> None:
    def undefined(*given: Any) -> Any:
        return np.array([np.nan])

    monkeypatch.setattr(metrics, "dice", undefined)
    change: dict[str, Any] = {
        "model": "segresnet-small",
        "task": "segmentation",
        "classes": ("background", "1"),
    }
    found, text, _ = seen(*weights(**change, values=(0, 1)), *masked())
    assert "no Dice, as no label is in it" in text and "Dice 0.00" not in text
    assert (
        found["answer"]["dice"] == {"1": None} and "NaN" not in Path("out/metrics.json").read_text()
    )


@pytest.mark.parametrize(("form", "rank"), [("3d", 3), ("2d", 3), ("acs", 2)])
def test_other_forms_say_what_is_not_there(form: str, rank: int) -> None:
    found, text, shown = seen(*weights(form=form), *labelled(rank))
    assert shown == {"kernels.png", "grad-cam.png"} | (KERNELS if form == "3d" else set())
    assert ("Its kernels have no depth" in text) == (form != "3d")
    assert ("It takes no images any more" in text) == (form == "3d")
    assert all(("energy" in one) == (form == "3d") for one in found["layers"])


@pytest.mark.slow
def test_as_processes_without_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real network in the fourier mode, then data alone."""
    source = str(Path(crossd.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1"}

    def run(*options: str) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "crossd", "inspect", *options],
            env=environment, capture_output=True, text=True, check=True, cwd=tmp_path,
        )  # fmt: skip
        return done.stdout

    monkeypatch.undo()
    said = run(*weights("fourier", path=str(tmp_path / "net.safetensors")), "--out", "a")
    assert "a shift, not a rotation" in said and said.endswith("metrics.json and pictures\n")
    with Image.open(tmp_path / "a" / "kernels.gif") as image:
        assert getattr(image, "n_frames", 1) == kernels.FRAMES
    monkeypatch.chdir(tmp_path)
    said = run(*labelled(3), "--out", "b")
    first, second, *_ = said.splitlines()
    assert first.startswith("data.npz: arrays; 30 volumes, 2 classes (0, 1), 2")
    assert second == "30 of 30 samples were looked at: nothing is wrong or odd."
    assert {path.name for path in Path("b").iterdir()} == {
        *("data.png", "report.html", "report.md", "metrics.json", "config.yaml")
    }
    assert json.loads(Path("b/metrics.json").read_text())["data_sheet"]["samples"] == 30
    assert Path("b/report.html").read_text().count("nothing is wrong or odd") == 1


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ([], "give --weights, --data or both"),
        (["--data", "data.npz", "--layer", "0"], "--layer is for --weights"),
        (["--data", "data.npz", "--ignore", "255"], "--ignore 255: is for masks"),
        (["--weights", "net.safetensors", "--ignore", "255"], "--ignore is for --data"),
        (["--weights", "net.safetensors", "--layer", "9"], "--layer 9: no such layer; there are 0"),
        (["--weights", "data.npz"], "data.npz is not a crossd weights file"),
        (["--weights", "net.safetensors", "--data", "pairs"], "net.safetensors is for classif"),
        (["--weights", "3d.safetensors", "--data", "data.npz"], "cannot take images"),
    ],
)
def test_what_cannot_be_looked_at(
    options: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    weights(form="3d")
    Path("net.safetensors").rename("3d.safetensors")
    weights()
    labelled(2)
    masked()
    capsys.readouterr()
    assert main(["inspect", *options, "--out", "out"]) == 2
    shown = capsys.readouterr()
    assert why in shown.err.splitlines()[-1] and not Path("out").exists()


def test_nothing_is_overwritten_unasked(capsys: pytest.CaptureFixture[str]) -> None:
    data = labelled(2)
    command = ["inspect", *data, "--out", "out"]
    assert main(command) == 0 and main(command) == 2
    assert "already holds a result" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
