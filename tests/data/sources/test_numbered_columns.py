"""Columns of findings and of numbers to learn, in csv and in npz."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from files import message
from made import Heard, Made
from PIL import Image

from crossd.data.opening import open_source
from crossd.data.quality.checks import faults
from crossd.data.quality.survey import survey
from crossd.data.source import Given, Source, in_order_of, limit
from crossd.data.sources.case_table import read_table
from crossd.data.sources.numbered_columns import columns_of, numbers_in
from crossd.errors import InputError
from crossd.utils.progress import Progress

RNG = np.random.default_rng(0)


def table(folder: Path, head: str, cells: list[str]) -> Path:
    """Write a csv with as many images, no two alike."""
    for i in range(len(cells)):
        Image.fromarray(RNG.integers(0, 255, (8, 8), dtype=np.uint8)).save(folder / f"{i}.png")
    lines = [f"image,{head}", *(f"{i}.png,{cell}" for i, cell in enumerate(cells))]
    path = folder / "cases.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def labels(source: Source) -> list[Any]:
    """All labels, in the order of the parts."""
    parts = [part.labels for part in (source.train, source.val, source.test)]
    return np.concatenate([np.asarray(one) for one in parts]).tolist()


def test_findings_of_a_csv(tmp_path: Path) -> None:
    cells = ["1,no", "0,", "yes,-1", "0.0,TRUE"] * 5
    source = open_source(str(table(tmp_path, "label_Mass,label_Fluid left", cells)))
    assert source.task == "multilabel" and source.classes == ("Mass", "Fluid left")
    assert source.units == () and source.train.labels is not None
    found = [[None if math.isnan(v) else v for v in row] for row in labels(source)]
    wanted: list[list[Any]] = [[1.0, 0.0], [0.0, None], [1.0, None], [0.0, 1.0]]
    assert all(found.count(row) == 5 for row in wanted)
    sample = source.train[0]["label"]
    assert sample.shape == (2,) and sample.dtype.is_floating_point


def test_numbers_of_a_csv(tmp_path: Path) -> None:
    cells = [f"{i},{3 * i}.5" for i in range(20)]
    cells[3] = "3,n/a"
    source = open_source(str(table(tmp_path, "target_Volume [ml],TARGET_age", cells)))
    assert source.task == "regression"
    assert source.classes == ("Volume", "age") and source.units == ("ml", "")
    found = {int(a): b for a, b in labels(source)}
    assert math.isnan(found.pop(3)) and all(b == 3 * a + 0.5 for a, b in found.items())


def test_one_column_is_enough(tmp_path: Path) -> None:
    source = open_source(str(table(tmp_path, "label_mass", ["0", "1"] * 6)))
    assert source.task == "multilabel" and source.train[0]["label"].shape == (1,)


@pytest.mark.parametrize(
    ("head", "cell", "said"),
    [
        ("label_a", "2", "line 2: label_a is '2'; expected 1 or 0"),
        ("label_a", "maybe", "line 2: label_a is 'maybe'; expected 1 or 0"),
        ("target_a", "large", "line 2: target_a is 'large'; expected a number, or"),
        ("target_a", '"2,5"', "write 2.5, not 2,5"),
        ("target_a", "inf", "line 2: target_a is 'inf'"),
        ("target_a", "1e300", "line 2: target_a is '1e300'"),
        ("target_a", '"1,000"', "write 1000, not 1,000"),
        ("target_a", "1_000", "line 2: target_a is '1_000'"),
        ("label", "n/a", "line 2: the field label is 'n/a', as what is not known"),
        ("label_a,target_b", "1,2", "has both findings .label_a. and numbers .target_b."),
        ("label_a,label", "1,2", "has both label and label_a"),
        ("label_a,label_A", "1,0", "has the column label_a twice"),
        ("label_", "1", "the column 'label_' says no name after 'label_'"),
        ("target_v [ml],target_v [l]", "1,2", "has the column target_v twice"),
    ],
)
def test_what_is_no_finding_or_number_is_refused(
    tmp_path: Path, head: str, cell: str, said: str
) -> None:
    path = table(tmp_path, head, [cell] * 12)
    with pytest.raises(InputError, match=said):
        open_source(str(path))


def test_numbers_of_lines_are_in_the_order_of_the_columns() -> None:
    columns = columns_of(["image", "target_b (mm)", "x", "target_a"], "here")
    assert columns is not None and columns.names == ("b", "a") and columns.units == ("mm", "")
    cells = {"target_b (mm)": "2", "target_a": "1e3"}
    assert numbers_in(cells, columns, "here") == (2.0, 1000.0)
    assert columns_of(["image", "label", "mask"], "here") is None


def test_columns_do_not_matter_where_no_labels_are_wanted(tmp_path: Path) -> None:
    path = table(tmp_path, "label_a,target_b", ["maybe,none"] * 3)
    assert read_table(path, labels=False)[0].columns is None


def test_those_of_weights_come_first_and_others_are_unknown(tmp_path: Path) -> None:
    path = str(table(tmp_path, "label_b,label_a", ["1,0", "0,1"] * 6))
    known = Given(labels=("a", "new", "b"))
    source = open_source(path, given=known)
    assert source.classes == ("a", "new", "b")
    assert all(math.isnan(row[1]) and row[0] + row[2] == 1 for row in labels(source))
    other = open_source(path, given=Given(labels=("a", "c")))
    assert other.classes == ("b", "a")


def test_what_training_samples_cannot_tell_is_said(tmp_path: Path) -> None:
    told = Heard()
    cells = ["1,0,,1", "0,0,,1"] * 8
    path = table(tmp_path, "label_a,label_b,label_c,label_d", cells)
    open_source(str(path), progress=told)
    assert [line.split(": ", 1)[1] for line in told.said] == [
        "b is not there in every training sample",
        "c is not known in every training sample",
        "d is there in every training sample",
    ]


def arrays(path: Path, rank: int = 2, **more: Any) -> str:
    """Write 30 images and what is said of them."""
    images = RNG.integers(0, 255, (30, *(8,) * rank), dtype=np.uint8)
    np.savez(path, images=images, **more)
    return str(path)


@pytest.mark.parametrize("rank", [2, 3])
def test_findings_of_arrays(tmp_path: Path, rank: int) -> None:
    there = RNG.integers(-1, 2, (30, 3))
    spec = arrays(tmp_path / "a.npz", rank, labels=there, names=np.array(["x", "y", "z"]))
    source = open_source(spec)
    assert (source.rank, source.task, source.classes) == (rank, "multilabel", ("x", "y", "z"))
    found = np.array(labels(source))
    assert np.isnan(found).sum() == (there == -1).sum()
    assert np.nansum(found) == (there == 1).sum()


@pytest.mark.parametrize("shape", [(30,), (30, 1), (30, 2)])
def test_numbers_of_arrays(tmp_path: Path, shape: tuple[int, ...]) -> None:
    numbers = RNG.normal(size=shape)
    numbers.reshape(-1)[4] = np.nan
    units = np.array(["ml"] * (shape[1] if len(shape) > 1 else 1))
    source = open_source(arrays(tmp_path / "a.npz", targets=numbers, units=units))
    assert source.task == "regression" and set(source.units) == {"ml"}
    found = np.array(labels(source))
    assert sorted(found[np.isfinite(found)]) == sorted(
        numbers.astype(np.float32)[np.isfinite(numbers)]
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"labels": np.full((30, 2), 3)}, "labels holds 3 in columns of findings; expected 1, 0"),
        ({"labels": np.full((30, 2, 2), 1)}, r"labels has the shape \(30, 2, 2\) for 30 images"),
        ({"labels": np.full(30, 0.5)}, "labels holds 0.5; labels must be whole numbers from 0"),
        ({"targets": np.full(30, np.inf)}, "targets holds infinity, or numbers beyond"),
        ({"targets": np.zeros(29)}, r"targets has the shape \(29,\) for 30 images"),
        ({"targets": np.zeros(30), "labels": np.zeros(30)}, "has both labels and targets"),
        (
            {"targets": np.arange(30.0), "names": np.array(["a", "b"])},
            "names has 2 strings for 1 columns",
        ),
        (
            {"labels": np.eye(3)[np.arange(30) % 3], "names": np.array(["a", "b", "a"])},
            "names holds one name twice",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    tmp_path: Path, more: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        open_source(arrays(tmp_path / "a.npz", **more))


def test_parts_with_labels_of_several_shapes_are_refused(tmp_path: Path) -> None:
    made: dict[str, Any] = {}
    for part, columns in (("train", 2), ("val", 2), ("test", 3)):
        made[f"{part}_images"] = RNG.integers(0, 255, (6, 8, 8), dtype=np.uint8)
        made[f"{part}_labels"] = RNG.integers(0, 2, (6, columns))
    np.savez(tmp_path / "a.npz", **made)
    said = message(lambda: open_source(str(tmp_path / "a.npz")))
    assert "has labels of several shapes" in said and "test_labels (6, 3)" in said


def test_labels_that_look_like_one_class_of_several_are_told(tmp_path: Path) -> None:
    told = Heard()
    source = open_source(
        arrays(tmp_path / "a.npz", labels=np.eye(3, dtype=int)[np.arange(30) % 3]), progress=told
    )
    assert source.task == "multilabel"
    assert "every row of the labels has exactly one 1" in told.said[0]


def test_a_limit_takes_numbers_and_findings_too(tmp_path: Path) -> None:
    source = open_source(arrays(tmp_path / "a.npz", targets=np.arange(30.0)))
    few = limit(source, 8)
    assert len(few.train) == 8 and few.scale_of_numbers() != source.scale_of_numbers()
    many = open_source(arrays(tmp_path / "b.npz", labels=RNG.integers(0, 2, (30, 5))))
    assert len(limit(many, 2).train) == 2


def test_the_same_numbers_in_another_order_are_put_in_that_of_the_images() -> None:
    made = Made([torch.zeros(1, 4, 4)] * 3)
    made.labels = np.arange(6, dtype=np.float32).reshape(3, 2)
    three = (made, made, made)
    source = Source("x", 2, "regression", 1, ("a", "b"), (4, 4), *three, units=("mm", ""))
    turned = in_order_of(source, ("b", "a"))
    assert turned.classes == ("b", "a") and turned.units == ("", "mm")
    assert labels(turned)[:3] == [[1, 0], [3, 2], [5, 4]]
    assert turned.train[1]["label"].tolist() == [3, 2]
    assert in_order_of(source, ("b", "c")) is source and in_order_of(source, ("a", "b")) is source


@pytest.mark.parametrize(
    ("column", "cells", "said", "grave"),
    [
        ("target_x", ["5"] * 20, "the same in every training sample", True),
        ("target_x", [""] * 20, "not known of any training sample", True),
        ("label_x", ["1"] * 20, "the same in every training sample", False),
        ("target_x", [*map(str, range(12)), *["-999"] * 8], "numbers more than 10 times", False),
    ],
)
def test_inspect_finds_numbers_that_teach_nothing(
    tmp_path: Path, column: str, cells: list[str], said: str, grave: bool
) -> None:
    if said.startswith("numbers"):
        cells = [*map(str, range(19)), "-999"]
    path = table(tmp_path, column, cells)
    path.write_text("\n".join(
        f"{line},{'split' if i == 0 else ('train', 'train', 'val', 'test')[i % 4]}"
        for i, line in enumerate(path.read_text().splitlines())
    ).replace("19.png,-999,test", "19.png,-999,train"))  # fmt: skip
    found = faults(survey(str(path), 99, 0, Progress(quiet=True)))
    (one,) = [fault for fault in found if fault.what.startswith(said)]
    assert one.grave is grave and one.which[0].startswith("x")
