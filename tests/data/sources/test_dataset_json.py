"""Lists of cases in JSON, as nnU-Net, the Decathlon and MONAI write them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import files
import numpy as np
import pytest

from crossd.data.opening import open_source
from crossd.data.quality.survey import survey
from crossd.utils.progress import Progress

QUIET = Progress(quiet=True)
RNG = np.random.default_rng(0)
LABELS = {"background": 0, "tumour": 2, "liver": 5}


def volume(path: Path, channels: int = 1) -> str:
    shape = (8, 9, 10) if channels == 1 else (8, 9, 10, channels)
    files.nifti(path, RNG.normal(size=shape).astype(np.float32))
    return f"./{path.parent.name}/{path.name}"


def mask(path: Path) -> str:
    files.nifti(path, RNG.choice([0, 2, 5], (8, 9, 10)).astype(np.uint8))
    return f"./{path.parent.name}/{path.name}"


def nnunet(root: Path, count: int = 12, channels: int = 2, tests: int = 0, **more: Any) -> Path:
    for which, number in (("Tr", count), ("Ts", tests)):
        for i in range(number):
            for c in range(channels):
                volume(root / f"images{which}" / f"case{which}_{i:03}_{c:04}.nii.gz")
            mask(root / f"labels{which}" / f"case{which}_{i:03}.nii.gz")
    content = {
        "channel_names": {str(c): "MRI" for c in range(channels)},
        "labels": LABELS,
        "numTraining": count,
        "file_ending": ".nii.gz",
        **more,
    }
    (root / "dataset.json").write_text(json.dumps(content))
    return root


@pytest.mark.parametrize("given", [".", "dataset.json"])
def test_a_data_set_of_nnunet(tmp_path: Path, given: str) -> None:
    source = open_source(str(nnunet(tmp_path) / given))
    assert (source.rank, source.task, source.channels) == (3, "segmentation", 2)
    assert source.classes == ("background", "tumour", "liver") and source.values == (0, 2, 5)
    assert len(source.train) + len(source.val) + len(source.test) == 12
    said = survey(str(tmp_path), 100, 0, QUIET).sentence()
    assert said.startswith(f"{tmp_path}: nnU-Net data set; 12 volumes, masks of the values 0, 2, 5")


def test_splits_and_tests_of_nnunet(tmp_path: Path) -> None:
    nnunet(tmp_path, channels=1, tests=3)
    names = [f"caseTr_{i:03}" for i in range(12)]
    folds = [{"train": names[k:] + names[: k - 2], "val": names[k - 2 : k]} for k in (2, 4)]
    (tmp_path / "splits_final.json").write_text(json.dumps(folds))
    source = open_source(str(tmp_path))
    assert [source.val.name(i) for i in range(2)] == names[:2]
    assert [source.test.name(i) for i in range(3)] == [f"caseTs_{i:03}" for i in range(3)]
    assert len(source.train) == 10
    (tmp_path / "splits_final.json").write_text(json.dumps([{"train": names[2:], "val": []}]))
    said = files.message(lambda: open_source(str(tmp_path)))
    assert "its first fold lacks caseTr_000 (2 such cases)" in said
    both = [{"train": names, "val": names[:1]}]
    (tmp_path / "splits_final.json").write_text(json.dumps(both))
    said = files.message(lambda: open_source(str(tmp_path)))
    assert "its first fold trains and validates on caseTr_000" in said
    (tmp_path / "splits_final.json").write_text("[]")
    assert "is no list of folds" in files.message(lambda: open_source(str(tmp_path)))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"numTraining": 13}, "says that there are 13 cases to train on"),
        ({"channel_names": {"0": "CT"}}, "has 2 files, but"),
        ({"channel_names": {}}, "expected a name for each channel"),
        ({"labels": {"background": 0, "whole": [1, 2]}}, "the class whole is a region"),
        ({"labels": {"a": 1, "b": 2}}, "0 for the background"),
        ({"labels": None}, "expected a value for each name"),
        ({"labels": {"background": 0, "a": 70_000}}, "gives 'a' the value 70000"),
        ({"labels": {"background": 0, "a": 1, "z": -1}}, "gives 'z' the value -1"),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, "gives 'b' the value 1"),
        ({"labels": {"background": 0, "a": 1, "A": 2}}, "differ in capitals"),
        ({"labels": {**LABELS, "liver": 4}}, "holds 5, but the classes have the values 0, 2, 4"),
    ],
)
def test_what_nnunet_cannot_mean(tmp_path: Path, more: dict[str, Any], words: str) -> None:
    root = nnunet(tmp_path, **more)
    said = files.message(lambda: open_source(str(root)))
    assert words in said and "\n" not in said


def decathlon(root: Path, channels: int = 1) -> Path:
    entries = [
        {
            "image": volume(root / "imagesTr" / f"x_{i:02}.nii.gz", channels),
            "label": mask(root / "labelsTr" / f"x_{i:02}.nii.gz"),
        }
        for i in range(12)
    ]
    content = {
        "name": "X",
        "modality": {str(c): "MRI" for c in range(channels)},
        "labels": {"0": "background", "2": "Anterior", "5": "Posterior"},
        "numTraining": 12,
        "training": entries,
        "test": [volume(root / "imagesTs" / "x_99.nii.gz", channels)],
    }
    (root / "dataset.json").write_text(json.dumps(content))
    return root


@pytest.mark.parametrize("channels", [1, 3])
def test_a_data_set_of_the_decathlon(tmp_path: Path, channels: int) -> None:
    source = open_source(str(decathlon(tmp_path, channels)))
    assert source.classes == ("background", "Anterior", "Posterior")
    assert source.channels == channels
    assert len(source.train) + len(source.val) + len(source.test) == 12
    said = survey(str(tmp_path), 100, 0, QUIET).sentence()
    assert "Decathlon data set; 12 volumes" in said


@pytest.mark.parametrize("folds", [True, False])
def test_a_datalist_of_monai(tmp_path: Path, folds: bool) -> None:
    entries: list[dict[str, Any]] = [
        {"image": volume(tmp_path / "scans" / f"{i}.nii.gz"), "label": i % 2} for i in range(20)
    ]
    content = {"training": entries[:14], "validation": entries[14:16], "testing": entries[16:]}
    if folds:
        content = {"training": [{**one, "fold": i % 5} for i, one in enumerate(entries)]}
    (tmp_path / "list.json").write_text(json.dumps(content))
    source = open_source(str(tmp_path / "list.json"))
    assert source.classes == ("0", "1") and source.task == "classification"
    validated = {source.val.name(i) for i in range(len(source.val))}
    if folds:
        assert validated == {f"scans/{i}" for i in (0, 5, 10, 15)}
    else:
        assert validated == {"scans/14", "scans/15"} and len(source.test) == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(training=[]), "lists no case to train on"),
        (lambda c: c["training"].append({"image": "a.nii"}), "training 13: has no label"),
        (lambda c: c["training"].append({"image": "a.nii", "label": 1}), "'a.nii' does not exist"),
        (lambda c: c["training"].append({"image": [], "label": 1}), "expected paths of files"),
        (
            lambda c: c["training"].append({"image": "/etc/x", "label": 1}),
            "leads out of the folder",
        ),
        (lambda c: c["training"][0].update(label=1), "some labels are files of masks"),
        (lambda c: c["training"][0].update(label=None), "its label is None"),
        (lambda c: c.pop("training"), "is no list of cases that is known"),
    ],
)
def test_lists_that_are_wrong(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    file = decathlon(tmp_path) / "dataset.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    said = files.message(lambda: open_source(str(file)))
    assert words in said and str(file) in said


@pytest.mark.parametrize("text", ["", "[1]", "{", "\xff"])
def test_files_that_are_no_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset.json").write_text(text, encoding="latin-1")
    said = files.message(lambda: open_source(str(tmp_path)))
    assert f"{tmp_path / 'dataset.json'}: " in said
