"""What was answered against what is true: ROC curves, and numbers over numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from crossd.data.source import Source
from crossd.reports.pictures import COOL, INK, SOFT, dress, figure, save, shortened
from crossd.tasks import with_units

CURVES = 12
"""Classes whose curves are drawn: those of which most samples are known to have them."""

COLUMNS = 3
"""Panels side by side."""

COLOURS = (
    "#d55e00",
    "#0072b2",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#6a51a3",
    "#22303c",
    "#7a9a01",
    "#b07aa1",
    "#8c564b",
    "#8a949e",
)

Answers = Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
"""Title of a panel to what was said ``(N, K)`` and what is true ``(N, K)``, NaN where unknown."""


def draw(source: Source, outputs: Sequence[Tensor], folder: Path) -> dict[str, str]:
    """Draw the answers to samples of a source without masks into a folder.

    Args:
        source: Of the samples.
        outputs: What was said and what is true, see `crossd.training.validate.score`.
        folder: Where to draw.

    Returns:
        Title to file name of what was drawn; nothing for masks.
    """
    if source.task == "segmentation":
        return {}
    said, truth = (one.double().numpy() for one in outputs)
    if source.task == "classification":
        truth = np.eye(said.shape[1])[truth.astype(int)]
    return draw_all({"": (said, truth)}, source.task, source.classes, source.units, folder)


def draw_all(
    answers: Answers, task: str, names: Sequence[str], units: Sequence[str], folder: Path
) -> dict[str, str]:
    """Draw a panel each of several networks, see `draw`.

    Args:
        answers: Of each network.
        task: Its name.
        names: Of the K classes, findings or numbers.
        units: Of numbers.
        folder: Where to draw.
    """
    if task == "regression":
        scatter(answers, with_units(names, units), folder / "scatter.png")
        return {"Answers by truth": "scatter.png"}
    roc(answers, names, folder / "roc.png")
    return {"ROC curves": "roc.png"}


def roc(answers: Answers, names: Sequence[str], path: str | Path) -> None:
    """Draw the ROC curve of each class against all others, or of each finding where it is known.

    Args:
        answers: A panel each; probabilities, and 1 or 0.
        names: Of the classes.
        path: The picture to write.
    """
    from sklearn.metrics import auc, roc_curve

    drawn, panels = _panels(len(answers), side=4.4)
    for ax, (title, (said, truth)) in zip(panels, answers.items(), strict=False):
        dress(ax, title, "share of those without it that are found", "share of those with it")
        ax.plot([0, 1], [0, 1], "--", color=SOFT, lw=1)
        counts = np.nansum(truth, 0)
        most = sorted(np.argsort(-counts, kind="stable")[:CURVES].tolist())
        for place, k in enumerate(most):
            known = np.isfinite(truth[:, k])
            own = truth[known, k]
            if len(np.unique(own)) < 2:
                continue
            x, y, _ = roc_curve(own, said[known, k])
            label = f"{shortened(names[k], 22)} {auc(x, y):.3f} ({int(own.sum()):,})"
            ax.plot(x, y, "-", color=COLOURS[place % len(COLOURS)], lw=1.6, label=label)
        ax.set_xlim(-0.02, 1.02)
        ax.set_ylim(-0.02, 1.02)
        if ax.get_legend_handles_labels()[0]:
            ax.legend(
                fontsize=7, loc="lower right", title="area (samples with it)", title_fontsize=7
            )
    save(drawn, path)


def scatter(answers: Answers, names: Sequence[str], path: str | Path) -> None:
    """Draw what was said over what is true, a panel for each number of each network.

    Args:
        answers: Of each network, in the units.
        names: Of the numbers, with their units.
        path: The picture to write.
    """
    pairs = [(title, k) for title in answers for k in range(len(names))]
    drawn, panels = _panels(len(pairs), side=3.8)
    for ax, (title, k) in zip(panels, pairs, strict=False):
        said, truth = (one[:, k] for one in answers[title])
        known = np.isfinite(truth)
        dress(ax, title, f"truth: {names[k]}", "answer")
        if known.any():
            both = np.concatenate([said[known], truth[known]])
            ends = [float(both.min()), float(both.max())]
            ax.plot(ends, ends, "--", color=INK, lw=1)
            ax.plot(truth[known], said[known], "o", color=COOL, ms=4, alpha=0.5, mew=0)
    save(drawn, path)


def _panels(count: int, side: float) -> tuple[Figure, list[Axes]]:
    columns = min(COLUMNS, max(1, count))
    rows = -(-max(1, count) // columns)
    drawn, axes = figure(rows, columns, (side * columns, 0.92 * side * rows))
    listed = list(axes.flat)
    for ax in listed[count:]:
        ax.set_axis_off()
    return drawn, listed
