"""`crossd teach` through the command line: every task, its teachers, and what it refuses."""

import csv
import json
from pathlib import Path

import files
import numpy as np
import pytest
import torch
from helpers import randomize

from crossd.cli.command_line import main
from crossd.conversion.adapt import measuring
from crossd.inference.slice_ensemble import answering
from crossd.weights.weights_file import WeightsConfig, load, read_config, save

TASKS = ["classification", "multilabel", "regression"]


def weights(path: Path, task: str = "classification", **more: object) -> Path:
    """Write weights that were trained on images of 8 x 8, as far as their file says."""
    numbers = {"number_mean": (0.0, 0.0), "number_std": (1.0, 1.0)} if task == "regression" else {}
    given = {"size": (8, 8), "recalibrated": False, **numbers, **more}
    given = {"classes": ("a", "b"), **given}
    config = WeightsConfig("resnet-small", task, 1, **given)  # type: ignore[arg-type]
    torch.manual_seed(0)
    save(config.build(), path, config)
    return path


def volumes(path: Path, count: int = 12) -> Path:
    images = np.random.default_rng(0).integers(0, 255, (count, 8, 8, 8), dtype=np.uint8)
    np.savez(path, images=images)
    return path


def taught(start: Path, data: Path, out: Path, *options: str) -> int:
    command = ["teach", "--weights", str(start), "--data", str(data), "--out", str(out), *options]
    return main(command)


@pytest.mark.parametrize("task", TASKS)
def test_volumes_without_labels_teach(task: str, tmp_path: Path) -> None:
    start, out = weights(tmp_path / "w.safetensors", task), tmp_path / "out"
    data = volumes(tmp_path / "v.npz")
    assert taught(start, data, out, "--epochs", "12", "--batch-size", "4", "--lr", "0.01") == 0
    config = read_config(out / "weights.safetensors")
    assert config.recalibrated and config.answer == "volume" and config.classes == ("a", "b")
    found = json.loads((out / "metrics.json").read_text())
    assert found["agreement"]["after"] > found["agreement"]["before"]
    with (out / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    values = [float(row["agreement after"]) for row in rows]
    assert np.mean(values) == pytest.approx(found["agreement"]["after"], abs=1e-4)
    assert "What" not in (out / "report.md").read_text().splitlines()[0]
    assert taught(start, data, out) == 2  # a result is there
    assert taught(start, data, out, "--epochs", "12", "--batch-size", "4", "--lr", "0.01",
                  "--resume") == 0  # fmt: skip


def test_the_agreement_is_that_of_slices(tmp_path: Path) -> None:
    """What the report says before teaching is recomputed from the weights."""
    start, out = weights(tmp_path / "w.safetensors", recalibrated=True), tmp_path / "out"
    net = load(start)
    data = volumes(tmp_path / "v.npz", 4)
    assert taught(start, data, out, "--epochs", "1", "--lr", "1e-9", "--augment", "none") == 0
    images = torch.from_numpy(np.load(data)["images"]).float()[:, None] / 255
    x = (images - images.mean()) / images.std(unbiased=False)
    teacher = answering(load(start), "slices", "classification")
    with torch.no_grad(), measuring(teacher):
        teacher(x)
    with torch.no_grad():
        said, wanted = net(x).softmax(1), teacher.eval()(x).softmax(1)
    expected = 1 - (said - wanted).abs().sum(1).div(2).mean()
    found = json.loads((out / "metrics.json").read_text())["agreement"]["before"]
    assert found == pytest.approx(float(expected), abs=2e-3)


def test_masks_of_files_teach(tmp_path: Path) -> None:
    data = files.pairs(tmp_path / "data", 5, (14, 18, 10))
    run = ["pretrain", "--data", str(data), "--epochs", "1", "--batch-size", "8"]
    assert main([*run, "--out", str(tmp_path / "2d")]) == 0
    start, out = tmp_path / "2d" / "weights.safetensors", tmp_path / "out"
    assert taught(start, data / "images", out, "--epochs", "1") == 0
    before, after = read_config(start), read_config(out / "weights.safetensors")
    assert after.plan == before.plan and after.values == before.values == (0, 1, 2)
    found = json.loads((out / "metrics.json").read_text())["agreement"]
    assert 0 <= found["before"] <= 1 and found["after"] > found["before"] - 0.05


def test_another_network_teaches(tmp_path: Path) -> None:
    """A plain 2D network, which knows values that were scaled otherwise."""
    start = weights(tmp_path / "w.safetensors", recalibrated=True)
    config = WeightsConfig(
        "resnet-small", "classification", 1, ("a", "b"), form="2d", mean=0.3, std=0.1, size=(8, 8)
    )
    net = config.build()
    randomize(net)
    save(net, tmp_path / "2d.safetensors", config)
    data, out = volumes(tmp_path / "v.npz"), tmp_path / "out"
    told = ["--teacher", str(tmp_path / "2d.safetensors"), "--epochs", "10", "--lr", "0.01"]
    assert taught(start, data, out, *told) == 0
    found = json.loads((out / "metrics.json").read_text())["agreement"]
    assert found["after"] > found["before"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--teacher", "sagittal"], "is neither slices, orientations, both nor a weights file"),
        (["--temperature", "0"], "must be above 0"),
        (["--augment", "some"], "--augment"),
    ],
)
def test_odd_options_are_one_line(
    options: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = weights(tmp_path / "w.safetensors")
    assert taught(start, volumes(tmp_path / "v.npz"), tmp_path / "out", *options) == 2
    assert text in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_teacher_of_other_classes_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = weights(tmp_path / "w.safetensors")
    other = WeightsConfig("resnet-small", "classification", 1, ("b", "a"), size=(8, 8))
    save(other.build(), tmp_path / "t.safetensors", other)
    told = ["--teacher", str(tmp_path / "t.safetensors")]
    assert taught(start, volumes(tmp_path / "v.npz"), tmp_path / "out", *told) == 2
    assert "must be the same, in the same order" in capsys.readouterr().err
    images = np.zeros((6, 8, 8), np.uint8)
    images[:, 2:5] = 90
    np.savez(tmp_path / "i.npz", images=images)
    assert taught(start, tmp_path / "i.npz", tmp_path / "out") == 2
    assert "3D volumes are needed" in capsys.readouterr().err


@pytest.mark.parametrize("protocol", ["finetune", pytest.param("probe", marks=pytest.mark.slow)])
def test_finetune_teaches_first(protocol: str, tmp_path: Path) -> None:
    data = files.npz(tmp_path / "v.npz", (8, 8, 8))
    start = weights(tmp_path / "w.safetensors", classes=("0", "1"))
    command = ["finetune", "--weights", str(start), "--data", data, "--epochs", "1",
               "--protocol", protocol]  # fmt: skip
    outs = [tmp_path / "plain", tmp_path / "taught"]
    assert main([*command, "--out", str(outs[0])]) == 0
    assert main([*command, "--out", str(outs[1]), "--teach"]) == 0
    before, plain, after = (
        load(str(path)).state_dict()
        for path in (start, *(out / "weights.safetensors" for out in outs))
    )
    kernels = [name for name, value in before.items() if value.dim() == 5]
    moved = [name for name in kernels if not torch.equal(before[name], after[name])]
    assert moved == kernels  # by teaching, where the probe leaves them
    still = [name for name in kernels if torch.equal(before[name], plain[name])]
    assert still == (kernels if protocol == "probe" else [])
    assert main([*command, "--out", str(outs[1]), "--teach"]) == 2  # a result is there


def test_finetune_cannot_teach_what_weights_do_not_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = weights(tmp_path / "w.safetensors")
    data = files.npz(tmp_path / "v.npz", (8, 8, 8), classes=3)
    out = tmp_path / "out"
    command = ["finetune", "--weights", str(start), "--data", data, "--teach", "--out", str(out)]
    assert main(command) == 2 and not out.exists()
    assert "--teach: " in capsys.readouterr().err


def test_teaching_looks_at_no_label(tmp_path: Path) -> None:
    start = weights(tmp_path / "w.safetensors", classes=("0", "1"))
    data, out = files.npz(tmp_path / "v.npz", (8, 8, 8)), tmp_path / "out"
    assert taught(start, Path(data), out, "--epochs", "1", "--limit", "1") == 0
    assert len((out / "cases.csv").read_text().splitlines()) == 2


@pytest.mark.parametrize(("form", "teacher"), [("3d", "slices"), ("3d", "both"), ("acs", "both")])
def test_a_network_that_cannot_be_asked_so_is_refused_by_the_name_of_the_option(
    form: str, teacher: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = weights(tmp_path / "w.safetensors", form=form)
    told = ["--teacher", teacher]
    assert taught(start, volumes(tmp_path / "v.npz"), tmp_path / "out", *told) == 2
    assert f"--teacher {teacher} is for" in capsys.readouterr().err


def test_finetune_teaches_kernels_of_planes(tmp_path: Path) -> None:
    start = weights(tmp_path / "w.safetensors", classes=("0", "1"), form="acs")
    data, out = files.npz(tmp_path / "v.npz", (8, 8, 8)), tmp_path / "out"
    command = ["finetune", "--weights", str(start), "--data", data, "--epochs", "1",
               "--protocol", "probe", "--teach", "--out", str(out)]  # fmt: skip
    assert main(command) == 0
    before, after = load(start).state_dict(), load(out / "weights.safetensors").state_dict()
    kernels = [name for name, value in before.items() if value.dim() == 4]
    assert kernels and not any(torch.equal(before[name], after[name]) for name in kernels)
