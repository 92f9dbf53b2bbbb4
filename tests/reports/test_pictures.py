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

from crossd.data.io.agreement import IGNORED
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


@pytest.mark.parametrize("background", ["background", "air"])
def test_the_answer_is_shown_at_the_slice_with_most_foreground(
    background: str, tmp_path: Path, drawn: list[Figure]
) -> None:
    truth = np.zeros((6, 8, 10), int)
    truth[4, 2:7, 3:9] = 1
    truth[2:5, 3, 4] = 2
    image = np.random.default_rng(0).normal(size=truth.shape)
    path = tmp_path / "answers.png"
    pictures.answer(image, truth, truth, [background, "x", "y"], path, 0.9, title="case")
    pictures.answer(image, truth, 0 * truth, [background, "x", "y"], path)
    panels, others = (np.array(figure.axes).reshape(3, 3) for figure in drawn)
    assert [ax.get_ylabel() for ax in panels[:, 0]] == ["axial 4", "coronal 3", "sagittal 4"]
    assert [ax.get_title() for ax in panels[0]] == ["image", "truth", "prediction\nDice 0.900"]
    assert others[0, 2].get_title() == "prediction"
    np.testing.assert_array_equal(panels[0, 0].images[0].get_array(), image[4])
    assert len(others[0, 2].images) == 1, "an empty answer colours nothing"
    filled = np.asarray(panels[0, 2].images[1].get_array())[..., 3] > 0
    np.testing.assert_array_equal(filled, truth[4] == 1)
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["x", "y"]
    assert pixels(path).std() > 10


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("shape", [(4, 4, 4), (1, 5, 5), (5, 5)])
def test_answers_of_constant_samples(label: int, shape: tuple[int, ...], tmp_path: Path) -> None:
    image, truth = np.full(shape, np.nan), np.full(shape, label)
    pictures.answer(image, truth, truth, ["background", "grey"], tmp_path / "answers.png")
    pixels(tmp_path / "answers.png")


def test_answers_of_another_shape_are_refused(tmp_path: Path) -> None:
    cube = np.zeros((4, 4, 4))
    with pytest.raises(ValueError, match=r"the mask must be \(4, 4, 4\), not \(4, 4, 5\)"):
        pictures.answer(cube, cube, np.zeros((4, 4, 5)), [], tmp_path / "answers.png")


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
        pictures.confusions({}, [], path)
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_a_path_without_a_suffix_gets_a_png(tmp_path: Path) -> None:
    pictures.confusions({}, [], tmp_path / "matrix")
    pixels(tmp_path / "matrix")


def test_pyplot_is_never_imported() -> None:
    code = "import sys, crossd.reports.pictures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_is_not_known_is_grey_and_no_class(tmp_path: Path, drawn: list[Figure]) -> None:
    truth = np.full((6, 8, 10), IGNORED)
    truth[2, 2:7, 3:9] = 1
    guess = np.where(truth == IGNORED, 0, truth)
    image = np.random.default_rng(0).normal(size=truth.shape)
    pictures.answer(image, truth, guess, ["background", "x"], tmp_path / "answers.png")
    panels = np.array(drawn[0].axes).reshape(3, 3)
    assert panels[0, 0].get_ylabel() == "axial 2"
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["x", "not known"]
    filled = [np.asarray(one.get_array())[..., 3] > 0 for one in panels[0, 1].images[1:]]
    np.testing.assert_array_equal(filled[0], truth[2] == 1)
    np.testing.assert_array_equal(filled[1], truth[2] == IGNORED)
    assert len(panels[0, 2].images) == 2, "the answer says something everywhere"
