"""Sources as weights need them: opened once, with the classes that the weights know."""

from pathlib import Path
from typing import Any

import files
import numpy as np
import pytest

from crossd.cli.opening import fitting
from crossd.cli.options import FinetuneConfig
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


def test_unlabelled_volumes_for_weights_of_masks(tmp_path: Path) -> None:
    for i in range(3):
        files.nifti(tmp_path / f"{i}.nii", files.scan((8, 9, 10), i)[0])
    source = fitting(FinetuneConfig("w", str(tmp_path)), WEIGHTS, QUIET, labels=False)
    assert source.task == "unlabelled" and len(source.train) == 3
