"""Sources as weights need them: opened once, with the classes that the weights know."""

import dataclasses
from pathlib import Path
from typing import Any

import files
import numpy as np
import pytest

from crossd.cli.opening import as_trained, fitting, images_and_volumes, known
from crossd.cli.options import EvaluateConfig, FinetuneConfig, JointConfig
from crossd.cli.runs import write_plan
from crossd.data.opening import open_source
from crossd.data.preprocessing import plan_file
from crossd.data.quality.scan import scan
from crossd.utils.progress import Progress
from crossd.weights.weights_file import WeightsConfig

QUIET = Progress(quiet=True)
NAMES = ("background", "one", "two", "three")
WEIGHTS = WeightsConfig(
    "unet-small",
    "segmentation",
    1,
    NAMES,
    plan=plan_file.to_record(files.PLAN),
    values=(0, 1, 2, 9),
)


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is looked at."""
    done: list[str] = []

    def noted(what: str, *rest: Any) -> Any:
        done.append(what)
        return scan(what, *rest)

    monkeypatch.setattr("crossd.data.sources.case_source.scan", noted)
    return done


def test_masks_of_fewer_classes_than_the_weights_know(tmp_path: Path, scans: list[str]) -> None:
    root = str(files.pairs(tmp_path, 10, (8, 9, 10)))
    source = fitting(FinetuneConfig("w", root), WEIGHTS, QUIET)
    assert (source.values, source.classes) == ((0, 1, 2, 9), NAMES)
    assert scans == ["scanning volumes"]


def test_masks_of_classes_that_the_weights_do_not_know(tmp_path: Path) -> None:
    root = files.pairs(tmp_path, 10, (8, 9, 10))
    for path in (root / "labels").iterdir():
        files.nifti(path, np.full((8, 9, 10), 5, np.uint8))
    source = fitting(FinetuneConfig("w", str(root)), WEIGHTS, QUIET)
    assert (source.values, source.classes) == ((0, 5), ("background", "5"))


def partly(root: Path) -> str:
    """Write volumes whose masks say 255 where nothing is known."""
    files.pairs(root, 10, (8, 9, 10))
    for path in (root / "labels").iterdir():
        mask = files.scan((8, 9, 10), int(path.name[5]))[1]
        mask[::2] = 255
        files.nifti(path, mask)
    return str(root)


def test_joint_training_ignores_what_its_weights_ignored(tmp_path: Path) -> None:
    root = partly(tmp_path)
    asked = JointConfig(root, root, "w")
    for value, ignored in ((255, 255), (None, None)):
        start = dataclasses.replace(WEIGHTS, ignore=value)
        volumes, images = images_and_volumes(asked, QUIET, start)
        assert volumes.ignore == images.ignore == ignored
        assert volumes.classes == (NAMES if ignored else ("background", "1", "2", "255"))


def test_a_plan_says_what_is_ignored(tmp_path: Path) -> None:
    root, plan = partly(tmp_path / "data"), tmp_path / "plan.yaml"
    plan_file.write(files.PLAN, plan, (0, 1, 2), NAMES[:3], ignore=255)
    asked = FinetuneConfig("w", root, plan=str(plan))
    source = fitting(asked, WEIGHTS, QUIET)
    assert (source.ignore, source.classes) == (255, NAMES)
    said = files.message(lambda: known(dataclasses.replace(asked, ignore=9)))
    assert said == f"--ignore 9: but {plan} says that 255 is ignored; leave one out"
    write_plan(source, tmp_path / "again.yaml")
    assert plan_file.read(tmp_path / "again.yaml")[2] == 255


@pytest.mark.parametrize("kind", ["csv", "folders", "volumes"])
def test_classes_that_are_one_number_are_those_of_the_weights(tmp_path: Path, kind: str) -> None:
    rows = ["image,label"]
    for i in range(24):
        folder = f"{i % 2}.0" if kind != "csv" else "all"
        name = f"{folder}/{i}.{'nii' if kind == 'volumes' else 'png'}"
        if kind == "volumes":
            files.nifti(tmp_path / name, files.scan((6, 7, 8), i)[0])
        else:
            files.picture(tmp_path / name, i)
        rows.append(f"{name},{i % 2}.0")
    (tmp_path / "cases.csv").write_text("\n".join(rows))
    root = str(tmp_path / "cases.csv") if kind == "csv" else str(tmp_path)
    classes = ("1", "0", "2.50")
    own = open_source(root)
    weights = WeightsConfig("resnet-small", "classification", 1, classes, spacing=(1, 1, 1))
    source = as_trained(EvaluateConfig(root, "w"), weights, QUIET)
    assert (own.classes, source.classes) == (("0.0", "1.0"), classes)
    labels: Any = source.test.labels
    cases = [source.test.case(i) for i in range(len(source.test))]
    assert [classes[one] for one in labels] == [str(int(Path(one).stem) % 2) for one in cases]


def test_numbers_of_another_name_are_called_numbers(tmp_path: Path) -> None:
    rows = [f"{files.picture(tmp_path / f'{i}.png', i).name},{i}" for i in range(24)]
    (tmp_path / "cases.csv").write_text("\n".join(["image,target_age", *rows]))
    weights = WeightsConfig("resnet-small", "regression", 1, ("volume",))
    asked = EvaluateConfig(str(tmp_path / "cases.csv"), "w")
    said = files.message(lambda: as_trained(asked, weights, QUIET))
    assert said.endswith("has the numbers age, but w volume")


def test_unlabelled_volumes_for_weights_of_masks(tmp_path: Path) -> None:
    for i in range(3):
        files.nifti(tmp_path / f"{i}.nii", files.scan((8, 9, 10), i)[0])
    source = fitting(FinetuneConfig("w", str(tmp_path)), WEIGHTS, QUIET, labels=False)
    assert source.task == "unlabelled" and len(source.train) == 3
