"""Grave faults of data: found by inspect and by a training, and gone on with only by name."""

import os
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from made import Heard
from PIL import Image

from crossd.cli import command_line as cli
from crossd.data.opening import open_source
from crossd.data.preprocessing import normalise
from crossd.data.quality.checks import faults
from crossd.data.quality.survey import survey
from crossd.data.source import ACCEPTABLE, Given
from crossd.errors import InputError
from crossd.utils.progress import Progress

QUIET = Progress(quiet=True)
RNG = np.random.default_rng(0)


def pictures(folder: Path, count: int) -> list[Any]:
    """Draw pictures, no two alike."""
    folder.mkdir(exist_ok=True)
    return [RNG.integers(0, 255, (12, 12), dtype=np.uint8) for _ in range(count)]


def table(folder: Path, fault: str, column: str = "label") -> str:
    """Write a csv of images with one of the faults."""
    drawn = pictures(folder, 24)
    labels, parts = [str(i % 2) for i in range(24)], ["train"] * 14 + ["val"] * 4 + ["test"] * 6
    if fault == "parts":
        drawn[20] = drawn[2]
    elif fault == "labels":
        drawn[3] = drawn[2]
    elif fault == "depths":
        drawn[5] = drawn[5].astype(np.uint16) * 16
    else:
        drawn[5] = np.full_like(drawn[5], 7)
    for i, one in enumerate(drawn):
        Image.fromarray(one).save(folder / f"{i}.png")
    lines = [f"{i}.png,{labels[i]},{parts[i]}" for i in range(24)]
    path = folder / "cases.csv"
    path.write_text("\n".join([f"image,{column},split", *lines]) + "\n")
    return str(path)


def arrays(folder: Path, fault: str) -> str:
    """Write the same into an npz."""
    drawn = np.stack(pictures(folder, 24))
    if fault == "parts":
        drawn[20] = drawn[2]
    elif fault == "labels":
        drawn[3] = drawn[2]
    else:
        drawn[5] = 7
    made: dict[str, Any] = {}
    for part, own in (("train", slice(14)), ("val", slice(14, 18)), ("test", slice(18, 24))):
        made |= {f"{part}_images": drawn[own], f"{part}_labels": (np.arange(24) % 2)[own]}
    np.savez(folder / "cases.npz", **made)
    return str(folder / "cases.npz")


@pytest.mark.parametrize(
    ("write", "fault"),
    [(write, name) for write in (table, arrays) for name in ACCEPTABLE if name != "depths"]
    + [(table, "depths")],  # an array has one depth
)
def test_a_fault_is_refused_unless_it_is_accepted(tmp_path: Path, fault: str, write: Any) -> None:
    spec = write(tmp_path / "data", fault)
    with pytest.raises(InputError, match=f"or go on with --accept {fault}$"):
        open_source(spec)
    found = faults(survey(spec, 100, 0, QUIET))
    assert [one.accept for one in found if one.grave] == [fault]
    heard = Heard()
    source = open_source(spec, given=Given(accepted={fault: "accepted"}), progress=heard)
    assert (len(source.train), len(source.val), len(source.test)) == (14, 4, 6)
    assert sum(line.endswith("; accepted") for line in heard.said) == 1


@pytest.mark.parametrize("column", ["label_a", "target_a"])
def test_findings_and_numbers_of_one_image_that_differ(tmp_path: Path, column: str) -> None:
    spec = table(tmp_path / "data", "labels", column)
    with pytest.raises(InputError, match=r"2\.png and .*3\.png hold the same but have two labels"):
        open_source(spec)


def test_other_depths_are_spoken_of_only(tmp_path: Path) -> None:
    spec = table(tmp_path, "depths")
    for number in (3, 5):  # of the whole range, and an even one that is dark
        deep = np.full((12, 12), 900, np.uint16)
        deep[number] = 60_000
        Image.fromarray(deep).save(tmp_path / f"{number}.png")
    heard = Heard()
    open_source(spec, progress=heard)
    assert any("2 of 14 training images have 16 bits (the first is" in one for one in heard.said)
    assert not [one for one in faults(survey(spec, 100, 0, QUIET)) if one.grave]


def test_images_of_12_bits_alone_are_no_mix(tmp_path: Path) -> None:
    spec = table(tmp_path, "none of them")
    for number in range(24):
        deep = RNG.integers(0, 4096, (12, 12)).astype(np.uint16)
        Image.fromarray(deep).save(tmp_path / f"{number}.png")
    heard = Heard()
    open_source(spec, progress=heard)
    assert not any("bits" in one for one in heard.said)
    assert not [one for one in faults(survey(spec, 100, 0, QUIET)) if one.grave]


def test_the_command_takes_the_names(tmp_path: Path, capsys: Any) -> None:
    spec = table(tmp_path / "data", "parts")
    given = ["pretrain", "--data", spec, "--out", str(tmp_path / "out"), "--epochs", "1"]
    assert cli.main(given) == 2
    assert "go on with --accept parts" in capsys.readouterr().err
    assert cli.main([*given, "--accept", "patients"]) == 2
    said = capsys.readouterr().err
    assert "--accept: unknown 'patients'; known are parts, labels, constant, depths" in said
    assert not (tmp_path / "out").exists()
    assert cli.main([*given, "--accept", "constant,parts"]) == 0
    assert "gone on with, as --accept parts says" in capsys.readouterr().err


def test_what_was_remembered_of_the_images_accepts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(normalise, "ENOUGH", 12)
    rng = np.random.default_rng(0)
    for number in range(24):
        values = rng.integers(0, 255, (8, 8)) if number % 2 else np.full((8, 8), number)
        path = tmp_path / "data" / "ab"[number // 2 % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values.astype(np.uint8)).save(path)
        os.utime(path, (0, 1e9))
    measure = mock.Mock(wraps=normalise._measured)
    monkeypatch.setattr(normalise, "_measured", measure)
    for _ in range(2):
        open_source(str(tmp_path / "data"), given=Given(accepted={"constant": "accepted"}))
        with pytest.raises(InputError, match="training samples show nothing"):
            open_source(str(tmp_path / "data"))
    assert measure.call_count == 1
