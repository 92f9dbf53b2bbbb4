"""Masks that were made before are found again, each by its case."""

import csv
import itertools
import json
from pathlib import Path

import files
import numpy as np
import pytest
from helpers import some
from torch import nn

from crossd.cli import evaluate
from crossd.cli import predict as predict_command
from crossd.cli.options import EvaluateConfig, PredictConfig
from crossd.data.opening import list_cases
from crossd.data.preprocessing import plan_file
from crossd.data.sources.case_list import Case
from crossd.errors import InputError
from crossd.inference import given_masks, predictor
from crossd.inference.inputs import inputs
from crossd.utils.progress import Progress
from crossd.weights.weights_file import WeightsConfig

QUIET = Progress(quiet=True)


def scan(image: Path, mask: Path | None, seed: int) -> None:
    voxels, labels = files.scan((12, 13, 14), seed=seed)
    files.nifti(image, voxels)
    if mask is not None:
        files.nifti(mask, labels)


def data(root: Path, kind: str, count: int = 10) -> Path:
    """Write a data set for masks; returns what names it."""
    folders = {"pairs": ("images", "labels"), "csv": ("", "masks")}.get(
        kind, ("imagesTr", "labelsTr")
    )
    number = "_0000" if kind in ("nnunet", "numbered pairs") else ""
    lines, entries = ["image,mask"], []
    for i in range(count):
        own = folders[0] or f"p{i}"
        name = f"case{i}" if folders[0] else "t1"
        first, second = f"{own}/{name}{number}.nii.gz", f"{folders[1]}/case{i}.nii.gz"
        scan(root / first, root / second, i)
        lines.append(f"{first},{second}")
        entries.append({"image": f"./{first}", "label": f"./{second}"})
    labels = {"background": 0, "a": 1, "b": 2}
    if kind == "csv":
        (root / "cases.csv").write_text("\n".join(lines))
        return root / "cases.csv"
    if kind == "nnunet":
        for i in range(3):
            image = root / "imagesTs" / f"test{i}_0000.nii.gz"
            scan(image, root / "labelsTs" / f"test{i}.nii.gz", 50 + i)
        content = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": count}
        (root / "dataset.json").write_text(json.dumps(content))
    if kind == "decathlon":
        scan(root / "imagesTs" / "test0.nii.gz", None, 50)
        content = {
            "modality": {"0": "MRI"},
            "labels": {str(value): name for name, value in labels.items()},
            "training": entries,
            "test": ["./imagesTs/test0.nii.gz"],
        }
        (root / "dataset.json").write_text(json.dumps(content))
    return root


KINDS = ["pairs", "numbered pairs", "csv", "nnunet", "decathlon"]


@pytest.mark.parametrize("kind", KINDS)
def test_answers_have_the_names_of_the_cases(tmp_path: Path, kind: str) -> None:
    root = data(tmp_path, kind)
    told: list[str] = []
    asked = {case.name: case.images for case in inputs([str(root)], 1, say=told.append)}
    cases = list_cases(root, QUIET)[0].cases
    assert {case.name: case.images for case in cases}.items() <= asked.items()
    more = {"nnunet": 0, "decathlon": 1}.get(kind, 0)
    assert len(asked) == len(cases) + more
    assert not any("label" in str(path) for images in asked.values() for path in images)
    if kind == "nnunet":
        assert told == [
            f"{root}: is a data set, of which the images are predicted: 10 of imagesTr and 3 of "
            "imagesTs (give one of its folders to predict that alone)"
        ]
        alone = inputs([str(root / "imagesTs")], 1)
        assert [case.name for case in alone] == ["test0", "test1", "test2"]
        assert len(inputs([str(root / "dataset.json")], 1)) == 13


def test_modalities_of_nnunet_are_one_case(tmp_path: Path) -> None:
    for i in range(3):
        for channel in range(2):
            scan(tmp_path / "imagesTs" / f"c{i}_{channel:04}.nii.gz", None, 10 * i + channel)
    (tmp_path / "imagesTr").mkdir()
    content = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "a": 1}}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    assert [(c.name, len(c.images)) for c in inputs([str(tmp_path)], 2)] == [
        (f"c{i}", 2) for i in range(3)
    ]


@pytest.mark.parametrize("content", [{}, {"channel_names": {"0": "T1"}}, {"test": [3]}])
def test_a_dataset_json_that_says_nothing(tmp_path: Path, content: dict[str, object]) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(InputError) as caught:
        inputs([str(tmp_path)], 1)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name weights of a network that is never built: it answers the background everywhere."""
    record = plan_file.to_record(files.PLAN)
    config = WeightsConfig(
        "none",
        "segmentation",
        1,
        ("background", "a", "b"),
        plan=record,
        values=(0, 1, 2),
        size=(16, 16, 16),
    )
    (tmp_path / "w.safetensors").touch()
    monkeypatch.setattr(predict_command, "read_config", lambda path: config)
    monkeypatch.setattr(predict_command, "load", lambda path: nn.Identity())
    monkeypatch.setattr(
        predictor, "segment", lambda net, entry, *more: np.zeros(entry.images[0].size, np.uint8)
    )
    return str(tmp_path / "w.safetensors")


WAYS = ["the source", "its images", "file by file"]
KINDS = ["pairs", "csv", "decathlon"]


@pytest.mark.parametrize(
    "pair",
    some(
        itertools.product(KINDS, WAYS),
        [*zip(KINDS, WAYS, strict=True), ("csv", "file by file"), ("decathlon", "its images")],
    ),
)
def test_what_predict_wrote_is_what_evaluate_scores(
    tmp_path: Path, pair: tuple[str, str], weights: str
) -> None:
    kind, given = pair
    root = data(tmp_path / "data", kind)
    cases = list_cases(root, QUIET)[0].cases
    folder = root.parent if kind == "csv" else cases[0].images[0].parent
    asked = {"the source": [str(root)], "its images": [str(folder)]}.get(
        given, [str(case.images[0]) for case in cases]
    )
    config = PredictConfig(weights, asked, str(tmp_path / "masks"))
    if kind == "csv" and given == "file by file":
        with pytest.raises(InputError, match="would be answered as t1, like"):
            predict_command.predict(config, QUIET)
        return
    predict_command.predict(config, QUIET)
    out = tmp_path / "masks"
    found = given_masks.find(out, cases)
    with (out / "predictions.csv").open(newline="") as file:
        table = dict(list(csv.reader(file))[1:])
    assert [path.relative_to(out).as_posix() for path in found] == [
        table[str(case.images[0])] for case in cases
    ]
    scored = EvaluateConfig(str(root), None, str(out), out=str(tmp_path / "scores"))
    assert "2 test samples: dice 0.000" in evaluate.evaluate(scored, QUIET)


def cases_of(folder: Path, *names: str) -> list[Case]:
    return [Case(name, (folder / f"{name}.nii.gz",)) for name in names]


def mask(path: Path) -> Path:
    return files.nifti(path, np.zeros((4, 4, 4), np.uint8))


def test_masks_of_other_programs_are_found_by_name(tmp_path: Path) -> None:
    wanted = [mask(tmp_path / "a.nii.gz"), mask(tmp_path / "sub" / "b.nii")]
    assert given_masks.find(tmp_path, cases_of(tmp_path / "in", "a", "sub/b")) == wanted
    (tmp_path / "a.json").touch()
    mask(tmp_path / "a.nii")
    said = files.message(lambda: given_masks.find(tmp_path, cases_of(tmp_path / "in", "a")))
    assert "a.nii.gz: shares its name with a.nii; remove one" in said


def test_masks_that_are_missing_are_counted(tmp_path: Path) -> None:
    mask(tmp_path / "a.nii.gz")
    said = files.message(lambda: given_masks.find(tmp_path, cases_of(tmp_path, "a", "b", "c")))
    assert "holds no mask named b, for" in said and "(2 of 3 are missing)" in said
    said = files.message(lambda: given_masks.find(tmp_path / "none", []))
    assert "no such folder of masks" in said


def test_masks_of_nobody_are_spoken_of(tmp_path: Path) -> None:
    for name in "abxy":
        mask(tmp_path / f"{name}.nii.gz")
    told: list[str] = []
    given_masks.find(tmp_path, cases_of(tmp_path / "in", "a"), {"b"}, told.append)
    assert told == [f"{tmp_path}: 2 masks belong to no case (the first is x.nii.gz)"]


def test_a_mask_of_another_file_is_not_taken(tmp_path: Path) -> None:
    for name in "xy":
        mask(tmp_path / name / "t1.nii.gz")
    out = tmp_path / "out"
    mask(out / "t1.nii.gz")
    (out / "predictions.csv").write_text(f"image,mask\n{tmp_path}/x/t1.nii.gz,t1.nii.gz\n")
    assert given_masks.find(out, cases_of(tmp_path / "x", "t1")) == [out / "t1.nii.gz"]
    said = files.message(lambda: given_masks.find(out, cases_of(tmp_path / "y", "t1")))
    assert f"is the mask of {tmp_path}/x/t1.nii.gz, by predictions.csv there" in said
    (tmp_path / "x").rename(tmp_path / "moved")  # with its masks, to another machine, say
    assert given_masks.find(out, cases_of(tmp_path / "moved", "t1")) == [out / "t1.nii.gz"]


def test_nothing_is_written_where_masks_are_missing(tmp_path: Path) -> None:
    root = data(tmp_path / "data", "pairs")
    mask(tmp_path / "masks" / "other.nii.gz")
    config = EvaluateConfig(str(root), None, str(tmp_path / "masks"), out=str(tmp_path / "scores"))
    with pytest.raises(InputError, match="are missing"):
        evaluate.evaluate(config, QUIET)
    assert not (tmp_path / "scores").exists()
