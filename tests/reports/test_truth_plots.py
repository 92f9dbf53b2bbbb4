"""ROC curves and scatter plots: what is drawn, not how it looks."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from made import labelled, masked
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score

from crossd.reports import pictures, truth_plots

RNG = np.random.default_rng(0)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    figures: list[Figure] = []
    keep = pictures.save

    def spy(figure: Figure, path: Path) -> None:
        figures.append(figure)
        keep(figure, path)

    monkeypatch.setattr(truth_plots, "save", spy)
    return figures


def test_a_curve_each_finding_with_the_area_of_what_is_known(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    truth = (RNG.random((50, 3)) > 0.5).astype(float)
    truth[:, 2] = 1  # no curve
    truth[::4, 0] = np.nan
    said = RNG.random((50, 3))
    truth_plots.roc({"one": (said, truth)}, ("a", "b", "c"), tmp_path / "roc.png")
    (ax,) = drawn[0].axes
    texts = [text.get_text() for text in ax.get_legend().get_texts()]  # type: ignore[union-attr]
    known = np.isfinite(truth[:, 0])
    area = roc_auc_score(truth[known, 0], said[known, 0])
    assert texts[0] == f"a {area:.3f} ({int(np.nansum(truth[:, 0]))})" and len(texts) == 2


def test_classes_have_curves_too(tmp_path: Path, drawn: list[Figure]) -> None:
    source = labelled(2)
    outputs = [torch.tensor([[0.9, 0.1], [0.3, 0.7], [0.6, 0.4]]), torch.tensor([0, 1, 1])]
    assert truth_plots.draw(source, outputs, tmp_path) == {"ROC curves": "roc.png"}
    assert (tmp_path / "roc.png").is_file() and len(drawn[0].axes[0].lines) == 3


def test_numbers_over_numbers_a_panel_each(tmp_path: Path, drawn: list[Figure]) -> None:
    source = dataclasses.replace(labelled(2), task="regression", units=("ml", ""))
    truth = torch.tensor([[1.0, 2.0], [float("nan"), 3.0]])
    found = truth_plots.draw(source, [truth + 1, truth], tmp_path)
    assert found == {"Answers by truth": "scatter.png"}
    labels = [ax.get_xlabel() for ax in drawn[0].axes]
    assert labels == ["truth: a [ml]", "truth: b"]
    assert [np.size(ax.lines[-1].get_xdata()) for ax in drawn[0].axes] == [1, 2]


def test_nothing_of_masks(tmp_path: Path) -> None:
    assert truth_plots.draw(masked(2), [torch.zeros(1, 1)], tmp_path) == {}
