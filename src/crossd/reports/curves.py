"""Learning curves: of one training, and of all trainings of a comparison."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from crossd.evaluation.arms import CROSSD
from crossd.evaluation.summary import Results
from crossd.reports.markdown import METRICS
from crossd.reports.pictures import dress, figure, legend, save, style
from crossd.tasks import task_of
from crossd.training.loggers import Epoch

Curve = tuple[str, Sequence[Epoch], str]
"""What it is called, its epochs, and what of these is drawn: a loss, or a score in validation."""


def training(results: Results, path: str | Path) -> None:
    """Draw the losses of one training by epoch and, where there was validation, its main score.

    Args:
        results: The record that `crossd pretrain` and its like write to `metrics.json`.
        path: The picture to write.
    """
    history = results["history"]
    losses = [name for name in history[-1] if name.startswith("loss")]
    panels: dict[str, list[Curve]] = {"Loss in training": [(one, history, one) for one in losses]}
    if main := _main_score(results, [history]):
        panels["On validation samples"] = [("validation", history, main)]
    _draw(panels, path)


def comparison(results: Results, path: str | Path) -> None:
    """Draw the pretraining by epoch and, by arm, the first training of every protocol.

    Args:
        results: The record of a comparison; see `crossd.evaluation.summary`.
        path: The picture to write.
    """
    runs = {run["name"]: run["history"] for run in results.get("pretraining") or []}
    panels: dict[str, list[Curve]] = {}
    if runs:
        panels["Pretraining on images: loss"] = [(arm, one, "loss") for arm, one in runs.items()]
    if main := _main_score(results, runs.values()):
        panels["Pretraining on images: validation"] = [
            (arm, history, main) for arm, history in runs.items()
        ]
    drawn = set()
    for row in results["rows"]:
        arm, protocol = row["arm"], row["protocol"]
        if row.get("history") and (arm, protocol) not in drawn:
            drawn.add((arm, protocol))
            curves = panels.setdefault(f"{protocol} on volumes: loss", [])
            curves.append((arm, row["history"], "loss"))
    _draw(panels, path)


def _main_score(results: Results, histories: Iterable[Sequence[Epoch]]) -> str | None:
    """Return the task's main score, if some epoch was validated; else the first that is known."""
    names = {name for history in histories for one in history for name in one.get("val") or {}}
    main = [task_of(results["task"]).main] if "task" in results else []
    return next((name for name in (*main, *METRICS) if name in names), None)


def _draw(panels: dict[str, list[Curve]], path: str | Path) -> None:
    rows, columns = -(-len(panels) // 2), min(2, len(panels))
    drawn, axes = figure(rows, columns, (4.6 * columns, 3.1 * rows + 0.6))
    handles: dict[str, Line2D] = {}
    for ax, (title, curves) in zip(axes.flat, panels.items(), strict=False):
        dress(ax, title, "epoch", METRICS.get(curves[0][2], "loss"))
        for position, (label, history, name) in enumerate(curves):
            colour, dash = style(label, position)
            (line,) = ax.plot(*_values(history, name), dash, color=colour, marker="o", ms=3)
            line.set(label=label, linewidth=2.2 if label in CROSSD else 1.5)
            handles.setdefault(label, line)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    if any(len(curves) > 1 for curves in panels.values()):
        legend(drawn, handles, 5)
    save(drawn, path)


def _values(history: Sequence[Epoch], name: str) -> tuple[list[int], np.ndarray]:
    """Return epochs and a number of each: of scores those validated, of losses NaN for none."""
    if name in METRICS:
        history = [one for one in history if name in (one.get("val") or {})]
    values = [one["val"][name] if name in METRICS else one.get(name) for one in history]
    return [one["epoch"] for one in history], np.array(values, float)
