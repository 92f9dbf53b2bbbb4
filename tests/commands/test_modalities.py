"""How many files a case has is kept with the weights, and held to wherever they are used."""

import csv
from pathlib import Path

import files
import numpy as np
import pytest
from helpers import some
from PIL import Image

from crossd.cli.command_line import main
from crossd.data.preprocessing import plan_file
from crossd.data.preprocessing.plan import Intensity, Plan
from crossd.weights.weights_file import WeightsConfig, read_config, save

RNG = np.random.default_rng(0)


def weights(path: Path, channels: int, modalities: int, rank: int = 2, planned: bool = True) -> str:
    """Save an untrained network that gives labels."""
    plan = None
    if rank == 3 and planned:
        intensity = (Intensity("z-score", 0.5, 99.5),) * channels
        plan = plan_file.to_record(Plan((1.0, 1.0, 1.0), (8, 8, 8), intensity))
    config = WeightsConfig(
        "resnet-small",
        "classification",
        channels,
        ("a", "b"),
        size=(8,) * rank,
        plan=plan,
        modalities=modalities,
    )
    save(config.build(), path, config)
    return str(path)


def photo(path: Path, colours: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 255, (9, 9, 3)[: 2 + colours], np.uint8)).save(path)
    return path


def predicted(tmp_path: Path, net: str, *given: Path) -> tuple[int, list[str]]:
    """Predict; returns the exit code and the files that answers are of."""
    out = tmp_path / "out"
    code = main(["predict", "--weights", net, "--out", str(out), "--input", *map(str, given)])
    if not (out / "predictions.csv").is_file():
        return code, []
    with (out / "predictions.csv").open(newline="") as table:
        return code, [Path(row[0]).name for row in list(csv.reader(table))[1:]]


@pytest.mark.parametrize(
    ("modalities", "answers"),
    [(1, ["p_0000.png", "p_0001.png", "p_0002.png"]), (3, ["p_0000.png"]), (0, ["p_0000.png"])],
)
def test_numbered_grey_photos_and_weights_of_three_channels(
    tmp_path: Path, modalities: int, answers: list[str]
) -> None:
    net = weights(tmp_path / "w.safetensors", 3, modalities)
    for number in range(3):
        photo(tmp_path / "in" / f"p_{number:04}.png")
    assert predicted(tmp_path, net, tmp_path / "in") == (0, answers)


def test_coloured_modalities_are_grouped_too(tmp_path: Path) -> None:
    net = weights(tmp_path / "w.safetensors", 6, 2)
    for name in ("p_0000", "p_0001"):
        photo(tmp_path / "in" / f"{name}.png", colours=True)
    assert predicted(tmp_path, net, tmp_path / "in") == (0, ["p_0000.png"])


@pytest.mark.parametrize("kept", ["p_0000.png", "p_0001.png", "p.png"])
def test_a_missing_modality(tmp_path: Path, kept: str, capsys: pytest.CaptureFixture[str]) -> None:
    net = weights(tmp_path / "w.safetensors", 2, 2)
    photo(tmp_path / "in" / kept)
    for name in ("q_0000.png", "q_0001.png"):
        photo(tmp_path / "in" / name)
    code, answers = predicted(tmp_path, net, tmp_path / "in")
    assert code == 2 and kept not in answers
    said = capsys.readouterr().err
    assert kept in said and ("0000 to 0001" in said or "NAME_0000 to NAME_0001" in said)


@pytest.mark.parametrize("suffix", [".png", ".nii"])
def test_one_file_for_weights_of_two(
    tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    net = weights(tmp_path / "w.safetensors", 2, 2, 2 if suffix == ".png" else 3)
    one = tmp_path / f"one{suffix}"
    if suffix == ".png":
        photo(one)
    else:
        files.nifti(one, RNG.normal(size=(9, 9, 9)).astype(np.float32))
    assert predicted(tmp_path, net, one) == (2, [])
    assert "has 1 file a case, but the weights were trained on 2 files" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("modalities", "planned", "right"),
    [(1, True, True), (0, True, True), (3, True, False), (0, False, False), (1, False, False)],
)
@pytest.mark.parametrize("unit", some(["sec", "unknown"], ["sec"]))
def test_a_fourth_axis_is_channels_only_for_weights_of_such_files(
    tmp_path: Path, modalities: int, planned: bool, right: bool, unit: str
) -> None:
    import nibabel as nib

    net = weights(tmp_path / "w.safetensors", 3, modalities, 3, planned)
    image = nib.Nifti1Image(RNG.normal(size=(9, 9, 9, 3)).astype(np.float32), np.eye(4))
    image.header.set_xyzt_units("mm", unit)
    image.to_filename(tmp_path / "series.nii.gz")
    code, answers = predicted(tmp_path, net, tmp_path / "series.nii.gz")
    assert (code, bool(answers)) == (0 if right else 2, right)


def test_a_fifth_axis_holds_numbers_of_a_voxel(tmp_path: Path) -> None:
    net = weights(tmp_path / "w.safetensors", 3, 0, 3, planned=False)
    vectors = files.nifti(tmp_path / "v.nii", RNG.normal(size=(9, 9, 9, 1, 3)).astype(np.float32))
    assert predicted(tmp_path, net, vectors) == (0, ["v.nii"])


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_training_keeps_the_number_and_evaluation_holds_to_it(
    tmp_path: Path, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    for each in (1, 2):
        for number in range(12):
            named = [photo(tmp_path / f"{each}/{number}_{i:04}.png") for i in range(each)]
            rows = [*(path.name for path in named), "ab"[number % 2]]
            with (tmp_path / f"{each}/cases.csv").open("a", newline="") as table:
                if not number:
                    heads = ["image", "image_2"][:each]
                    csv.writer(table).writerow([*heads, "label"])
                csv.writer(table).writerow(rows)
    data = str(tmp_path / str(count) / "cases.csv")
    training = ["--size", "8", "--epochs", "1", "--workers", "0", "--out", str(tmp_path / "run")]
    assert main(["pretrain", "--data", data, *training]) == 0
    net = str(tmp_path / "run" / "weights.safetensors")
    assert read_config(net).modalities == count
    scoring = ["evaluate", "--weights", net, "--out", str(tmp_path / "scores"), "--data"]
    other = str(tmp_path / str(3 - count) / "cases.csv")
    assert main([*scoring, other]) == 2
    said = capsys.readouterr().err
    assert other in said and ("file" in said or "channels" in said)
    assert main([*scoring, data]) == 0
