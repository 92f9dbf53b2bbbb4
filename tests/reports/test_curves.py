"""Learning curves: every history is drawn, whatever is missing in it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from crossd.reports import curves, pictures


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    figures: list[Figure] = []

    def spy(figure: Figure, path: Path) -> None:
        figures.append(figure)
        pictures.save(figure, path)

    monkeypatch.setattr(curves, "save", spy)
    return figures


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
    "not a number": {
        "arms": ["acs"],
        "protocols": ["zero"],
        "pretraining": [{"name": "plain", "history": [{"epoch": 1, "loss": None}]}],
        "rows": [{"arm": "acs", "protocol": "zero", "metrics": {"dice": float("nan")}}],
    },
    "validation missing": {
        **RESULTS,
        "pretraining": [{"name": "x", "history": [{"epoch": 1, "loss": 1.0}]}],
    },
}


@pytest.mark.parametrize("name", ODD)
def test_odd_results_still_give_a_picture(name: str, tmp_path: Path) -> None:
    curves.comparison(ODD[name], tmp_path / "new" / "picture.png")
    assert (tmp_path / "new" / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_learning_curves_draw_each_history(tmp_path: Path, drawn: list[Figure]) -> None:
    curves.comparison(RESULTS, tmp_path / "curves.png")
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
    curves.comparison({**RESULTS, "rows": rows}, tmp_path / "curves.png")
    panel = drawn[0].axes[2]
    assert panel.get_title() == "probe on volumes: loss" and panel.get_ylabel() == "loss"
    same(panel.lines[0].get_xydata(), [[1, 0.7]])


def test_the_curves_of_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(curves, "save", lambda figure, path: drawn.append(figure))
    history: list[dict[str, Any]] = [
        {"epoch": 1, "loss": 2.0, "loss_2d": 3.0, "val": {"f1": 0.1, "dice": 0.2}},
        {"epoch": 2, "loss": 1.0, "loss_2d": None},
        {"epoch": 3, "loss": 0.5, "loss_2d": 1.0, "val": {"f1": 0.1, "dice": 0.6}},
    ]
    curves.training({"history": history}, tmp_path / "a.png")
    losses, scores = drawn[0].axes
    assert [line.get_label() for line in losses.lines] == ["loss", "loss_2d"]
    assert np.isnan(np.asarray(losses.lines[1].get_ydata(), float)).tolist() == [False, True, False]
    assert np.asarray(scores.lines[0].get_xydata()).tolist() == [[1, 0.2], [3, 0.6]]
    curves.training({"history": [{"epoch": 1, "loss": 2.0}]}, tmp_path / "b.png")
    assert len(drawn[1].axes) == 1
