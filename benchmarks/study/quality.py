"""Does what a network is worth on images tell what it is worth on volumes?"""

from pathlib import Path
from typing import Any

import numpy as np
from arms import ARMS, moving, solid
from scipy.stats import spearmanr

from crossd.evaluation import summary
from crossd.evaluation.summary import MISSING
from crossd.reports import markdown, pictures
from crossd.reports.slice_viewer import LABELS

PICTURE = "images/results-quality.png"
TEXT = """\
Each point is one 2D training: its score on test images, and that of its 3D kernels on test volumes
before any of these is labelled. ρ is Spearman's rank correlation, over all of them and over the
ways' means. Within one way, where seeds alone differ, there are too few to tell. Between modes it
tells little: on the organs `fourier`, `slice` and `fourier` without offset have 0.77, 0.76 and 0.79
on images, nearly what `projection` has (0.80), and fail on volumes."""
ENOUGH = 3
"""Seeds of a way that a correlation within it wants; ways that one over them wants."""


def pairs(results: dict[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """Return by arm, of those whose 3D kernels answer, the scores in 2D and 3D of every seed."""
    flat = {(r["way"], r["seed"]): r["metrics"][results["metric"]] for r in results["images"]}
    found: dict[str, list[tuple[float, float]]] = {}
    for arm, kind in ARMS.items():
        if kind.make not in (solid, moving):
            continue
        scores = summary.scores(results, ("zero", 0), arm)
        both = [(flat[kind.way, seed], score)
                for (_, seed), score in scores.items() if (kind.way, seed) in flat]  # fmt: skip
        if both:
            found[arm] = both
    return found


def section(sets: dict[str, dict[str, Any]], out: Path) -> list[str]:
    """Write the section, and draw its picture."""
    found = {name: pairs(results) for name, results in sets.items() if "-" not in name}
    found = {name: ways for name, ways in found.items() if ways}
    body = []
    for name, ways in found.items():
        every = [pair for both in ways.values() for pair in both]
        means = [tuple(np.mean(both, 0)) for both in ways.values()]
        body.append(
            [name, f"{len(every)} of {len(ways)} ways", shown(rho(every)), shown(rho(means))]
        )  # fmt: skip
    draw(found, {name: sets[name]["metric"] for name in found}, out / PICTURE)
    header = ["set", "trainings", "ρ of all", "ρ of the ways' means"]
    return [
        "", "## Does quality in 2D tell quality in 3D?", "", TEXT, "", *markdown.grid(header, body),
        "", f"![Score on images against score on volumes]({PICTURE})",
    ]  # fmt: skip


def rho(points: Any) -> float | None:
    """Return the rank correlation of pairs, None of too few."""
    return float(spearmanr(*zip(*points, strict=True))[0]) if len(points) >= ENOUGH else None


def shown(value: float | None) -> str:
    """Write a correlation."""
    return MISSING if value is None else f"{value:+.2f}"


def draw(found: dict[str, dict[str, Any]], metrics: dict[str, str], path: Path) -> None:
    """Draw a panel a set, a colour a way."""
    drawn, axes = pictures.figure(1, len(found), (3.6 * len(found), 3.9))
    order = list(dict.fromkeys(arm for ways in found.values() for arm in ways))
    handles = {}
    for ax, (name, ways) in zip(axes[0], found.items(), strict=True):
        metric = markdown.METRICS[metrics[name]]
        pictures.dress(ax, name, f"{metric} on images", f"{metric} on volumes")
        for arm, both in ways.items():
            at = order.index(arm)
            colour, mark = LABELS[at % len(LABELS)], "os^Dv"[at % 5]
            (handles[arm],) = ax.plot(*zip(*both, strict=True), mark, color=colour, ms=6)
    drawn.legend(list(handles.values()), list(handles), frameon=False, fontsize=8,
                 loc="outside lower center", ncols=4)  # fmt: skip
    pictures.save(drawn, path)
