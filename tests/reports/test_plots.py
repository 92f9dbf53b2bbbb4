"""Plots of a comparison: what is drawn, not how it looks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from crossd.reports import pictures, plots


def record(trials: int = 4, arms: tuple[str, ...] = ("projection", "acs", "scratch")) -> Any:
    rows = [
        {"arm": arm, "protocol": "probe", "limit": n, "fold": 0, "trial": t, "train": n, "test": 9,
         "metrics": {"accuracy": 0.9 - 0.1 * place + 0.01 * t * (place + 1) + n / 1000},
         "cases": [1.0, 0.0, 1.0]}
        for place, arm in enumerate(arms) for n in (10, 100) for t in range(trials)
    ]  # fmt: skip
    rows += [
        {**rows[0], "protocol": "zero", "limit": 0, "arm": arm, "metrics": {"accuracy": 0.5}}
        for arm in arms[:2]
    ]
    return {"arms": list(arms), "metric": "accuracy", "folds": 0, "rows": rows}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    figures: list[Figure] = []
    keep = pictures.save

    def spy(figure: Figure, path: Path) -> None:
        figures.append(figure)
        keep(figure, path)

    monkeypatch.setattr(plots, "save", spy)
    return figures


def test_scores_have_a_dot_and_an_interval_an_arm(tmp_path: Path, drawn: list[Figure]) -> None:
    plots.scores(record(), tmp_path / "s.png")
    first, _, zero = drawn[0].axes
    assert [text.get_text() for text in first.get_yticklabels()] == ["projection", "acs", "scratch"]
    assert [text.get_text() for text in first.texts] == ["0.925", "0.840", "0.755"]
    spans = [np.asarray(line.get_xdata(), float) for line in first.lines]
    ends = [span for span in spans if len(span) > 1]
    assert all(a < mean < b for (a, b), mean in zip(ends, (0.925, 0.84, 0.755), strict=True))
    assert len(zero.texts) == 2, "scratch has no answer without labels"
    assert {line.get_color() for line in first.lines} == {pictures.WARM, pictures.SOFT}


def test_efficiency_has_a_line_an_arm_and_the_answers_without_labels(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    plots.efficiency(record(), tmp_path / "a.png")
    (ax,) = drawn[0].axes
    lines = {
        str(line.get_label()): line for line in ax.lines if not str(line.get_label())[0] == "_"
    }
    assert list(lines) == ["projection", "acs", "scratch"]
    assert np.asarray(lines["projection"].get_xdata()).tolist() == [10, 100]
    assert np.asarray(lines["projection"].get_ydata())[0] == pytest.approx(0.925)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "10", "100"]
    assert len(ax.lines) == 3 + 2 * 2
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_two_repetitions_have_no_band(tmp_path: Path, drawn: list[Figure]) -> None:
    for trials, has in ((2, False), (3, True)):
        plots.efficiency(record(trials=trials), tmp_path / f"{trials}.png")
        bands = [band.get_paths()[0].vertices for band in drawn[-1].axes[0].collections]
        at_10 = [np.ptp(np.asarray(band)[np.asarray(band)[:, 0] == 10, 1]) for band in bands]
        assert len(at_10) == 3 and all((height > 0) == has for height in at_10)


def test_folds_without_answers_before_labels_are_drawn(tmp_path: Path) -> None:
    """Nothing is averaged over no run, of which numpy would warn."""
    results = {**record(), "folds": 2}
    results["rows"] = [row for row in results["rows"] if row["protocol"] != "zero"]
    plots.efficiency(results, tmp_path / "a.png")
    assert (tmp_path / "a.png").exists()


def test_differences_draw_intervals(tmp_path: Path, drawn: list[Figure]) -> None:
    plots.differences(record(), tmp_path / "b.png")
    first, second, zero = drawn[0].axes
    assert first.get_title() == "probe, 10 labelled" and zero.get_title() == "zero"
    texts = [text.get_text() for text in second.texts]
    assert texts == ["+0.085", "+0.170"]
    assert [text.get_text() for text in zero.texts] == ["+0.000"]
    plots.differences(record(trials=1), tmp_path / "c.png")


def test_ranks_need_three_arms_and_two_repetitions(tmp_path: Path, drawn: list[Figure]) -> None:
    assert plots.ranks(record(), tmp_path / "d.png")
    texts = [text.get_text() for text in drawn[0].axes[0].texts]
    assert texts[:3] == ["projection  1.00", "acs  2.00", "scratch  3.00"]
    assert not plots.ranks(record(arms=("projection", "acs")), tmp_path / "e.png")
    assert not (tmp_path / "e.png").exists()
