"""Pictures are whole files, and show what they were given."""

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from crossd.reports import pictures


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Collect the figures that are saved, to look into them."""
    figures: list[Figure] = []
    save = pictures.save

    def keep(figure: Figure, path: str | Path) -> None:
        figures.append(figure)
        save(figure, path)

    monkeypatch.setattr(pictures, "save", keep)
    return figures


def pixels(path: Path) -> np.ndarray:
    """Return the picture as an array, after checking that it is a PNG."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def words(figure: Figure) -> set[str]:
    """Return all the texts in the panels of a figure."""
    return {text.get_text() for ax in figure.axes for text in ax.texts}


def same(actual: Any, expected: Any) -> None:
    """Compare what matplotlib holds with numbers."""
    np.testing.assert_allclose(np.asarray(actual, float), np.asarray(expected, float))


def history(*values: float) -> list[dict[str, Any]]:
    """Return epochs with these validation accuracies."""
    return [
        {"epoch": 1 + i, "loss": 1 - value, "val": {"accuracy": value}}
        for i, value in enumerate(values)
    ]


RESULTS: dict[str, Any] = {
    "arms": ["projection", "slices"],
    "protocols": ["zero", "probe"],
    "pretraining": [{"name": "plain", "history": history(0.2, 0.4, 0.5)}],
    "rows": [
        {"arm": "projection", "protocol": "zero", "metrics": {"accuracy": 0.9}, "history": []},
        {
            "arm": "projection",
            "protocol": "probe",
            "metrics": {"accuracy": 0.8},
            "history": history(0.3, 0.8),
        },
        {
            "arm": "slices",
            "protocol": "probe",
            "metrics": {"accuracy": 0.85},
            "history": history(0.6, 0.85),
        },
    ],
}
ODD: dict[str, dict[str, Any]] = {
    "one arm": {**RESULTS, "arms": ["projection"]},
    "no rows": {**RESULTS, "rows": []},
    "no arms": {**RESULTS, "arms": []},
    "no epochs": {**RESULTS, "pretraining": [{"name": "plain", "history": []}], "rows": []},
    "not a number": {
        "arms": ["acs"],
        "protocols": ["zero"],
        "pretraining": [{"name": "plain", "history": [{"epoch": 1, "loss": None}]}],
        "rows": [{"arm": "acs", "protocol": "zero", "metrics": {"dice": float("nan")}}],
    },
    "validation missing": {**RESULTS, "pretraining": [{"name": "x", "history": [{"loss": 1.0}]}]},
}


@pytest.mark.parametrize("name", ODD)
def test_odd_results_still_give_a_picture(name: str, tmp_path: Path) -> None:
    pictures.learning_curves(ODD[name], tmp_path / "new" / "picture.png")
    assert pixels(tmp_path / "new" / "picture.png").ndim == 3


def test_learning_curves_draw_each_history(tmp_path: Path, drawn: list[Figure]) -> None:
    pictures.learning_curves(RESULTS, tmp_path / "curves.png")
    loss, validation, probe = drawn[0].axes[:3]
    same(loss.lines[0].get_xydata(), [[1, 0.8], [2, 0.6], [3, 0.5]])
    same(validation.lines[0].get_ydata(), [0.2, 0.4, 0.5])
    assert probe.get_title() == "probe on volumes: loss"
    same([line.get_ydata() for line in probe.lines], [[0.7, 0.2], [0.4, 0.15]])
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == [
        "plain",
        "projection",
        "slices",
    ]


def test_learning_curves_fall_back_to_the_loss(tmp_path: Path, drawn: list[Figure]) -> None:
    rows = [{"arm": "acs", "protocol": "probe", "history": [{"epoch": 1, "loss": 0.7}]}]
    pictures.learning_curves({**RESULTS, "rows": rows}, tmp_path / "curves.png")
    panel = drawn[0].axes[2]
    assert panel.get_title() == "probe on volumes: loss" and panel.get_ylabel() == "loss"
    same(panel.lines[0].get_xydata(), [[1, 0.7]])


def test_confusion_shows_counts_and_accuracy(tmp_path: Path, drawn: list[Figure]) -> None:
    counts = np.array([[30, 3, 0], [2, 10, 5], [0, 0, 0]])
    pictures.confusions({"acs": counts}, ["a", "b", "c"], tmp_path / "matrix.png")
    panel = drawn[0].axes[0]
    assert panel.get_title() == "acs: accuracy 0.800"
    assert words(drawn[0]) == {"30", "3", "2", "10", "5"}
    shares = np.asarray(panel.images[0].get_array())
    same(shares.sum(1), [1, 1, 0])
    same(shares[1], [2 / 17, 10 / 17, 5 / 17])


def test_confusions_draw_several_and_nothing(tmp_path: Path, drawn: list[Figure]) -> None:
    many = {f"arm {i}": np.eye(25, dtype=int) for i in range(4)}
    pictures.confusions(many, [str(i) for i in range(25)], tmp_path / "many.png")
    pictures.confusions({}, [], tmp_path / "none.png")
    assert [ax.axison for ax in drawn[0].axes] == [True] * 4 + [False] * 2
    assert not words(drawn[0]), "the counts of 25 classes cannot be read"


def test_confusion_of_the_wrong_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a confusion matrix \(acs\) must be \(3, 3\)"):
        pictures.confusions({"acs": np.eye(2)}, ["a", "b", "c"], tmp_path / "matrix.png")
    assert not list(tmp_path.iterdir())


def test_answers_show_the_slice_with_most_foreground(tmp_path: Path, drawn: list[Figure]) -> None:
    truth = np.zeros((6, 8, 10), int)
    truth[4, 2:7, 3:9] = 1
    truth[2:5, 3, 4] = 2
    image = np.random.default_rng(0).normal(size=truth.shape)
    given = {"acs": np.zeros_like(truth), "projection": truth}
    path = tmp_path / "answers.png"
    pictures.answers(image, truth, given, ["background", "x", "y"], path, {"projection": 0.9})
    panels = np.array(drawn[0].axes).reshape(3, 4)
    assert [ax.get_ylabel() for ax in panels[:, 0]] == ["axial 4", "coronal 3", "sagittal 4"]
    assert [ax.get_title() for ax in panels[0]] == [
        "image",
        "truth",
        "acs",
        "projection\nDice 0.900",
    ]
    np.testing.assert_array_equal(panels[0, 0].images[0].get_array(), image[4])
    assert len(panels[0, 2].images) == 1, "an empty answer colours nothing"
    filled = np.asarray(panels[0, 3].images[1].get_array())[..., 3] > 0
    np.testing.assert_array_equal(filled, truth[4] == 1)
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["x", "y"]
    assert pixels(path).std() > 10


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("shape", [(4, 4, 4), (1, 5, 5)])
def test_answers_of_constant_volumes(label: int, shape: tuple[int, ...], tmp_path: Path) -> None:
    image, truth = np.full(shape, np.nan), np.full(shape, label)
    pictures.answers(image, truth, {"acs": truth}, ["grey"], tmp_path / "answers.png")
    pixels(tmp_path / "answers.png")


def test_answers_of_another_shape_are_refused(tmp_path: Path) -> None:
    cube = np.zeros((4, 4, 4))
    with pytest.raises(ValueError, match=r"the answer of acs must be \(4, 4, 4\), not \(4, 4, 5\)"):
        pictures.answers(cube, cube, {"acs": np.zeros((4, 4, 5))}, [], tmp_path / "answers.png")


def test_the_idea_is_as_wide_as_a_readme_and_small(tmp_path: Path) -> None:
    path = tmp_path / "idea.png"
    script = Path(__file__).parents[2] / "docs" / "idea.py"
    runpy.run_path(str(script))["idea"](path)
    assert pixels(path).shape == (600, 1600, 3)
    assert path.stat().st_size < 200_000


def test_a_failing_write_leaves_the_old_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "curves.png"
    path.write_bytes(b"old")

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        pictures.learning_curves(RESULTS, path)
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_a_path_without_a_suffix_gets_a_png(tmp_path: Path) -> None:
    pictures.learning_curves(RESULTS, tmp_path / "curves")
    pixels(tmp_path / "curves")


def test_pyplot_is_never_imported() -> None:
    code = "import sys, crossd.reports.pictures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
