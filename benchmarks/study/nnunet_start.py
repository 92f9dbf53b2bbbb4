"""Whether nnU-Net's own training gains by a start from crossd: see `benchmarks/nnunet/helps.py`."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from crossd.evaluation import statistics
from crossd.reports import markdown, pictures
from crossd.reports.slice_viewer import LABELS

RAW = Path(__file__).parents[1] / "results" / "nnunet-helps.json"
PICTURE = "images/results-nnunet.png"
ARMS = {"scratch": "nnU-Net from new weights", "crossd": "nnU-Net from crossd's weights"}
TEXT = """\
{labelled} labelled volumes of the hippocampus in nnU-Net's format; the 2D data are slices, in three
views, of {images_of} other volumes with their masks. nnU-Net's own trainer takes {steps} steps (its
learning rate falls to 0 over them) from new weights and from those of
`crossd pretrain --model nnunet:PLANS.json`; mean Dice on {tested} further volumes, seeds: {seeds}.
nnU-Net takes 250,000 steps by itself: this says what a start is worth where there is little time,
not what is left of it at the end."""
SMOOTH = 10
"""Steps over which the curve is averaged."""


def section(path: Path, out: Path) -> list[str]:
    """Write the section, and draw the curves of the losses; nothing where there are no results."""
    if not path.is_file():
        return []
    raw = json.loads(path.read_text())
    runs = {arm: [run for run in raw["runs"] if run["arm"] == arm] for arm in ARMS}
    seeds = [run["seed"] for run in runs["crossd"]]
    if not seeds:
        return []
    runs["scratch"] = [run for run in runs["scratch"] if run["seed"] in seeds]
    dice = {arm: np.array([run["dice"] for run in own]) for arm, own in runs.items()}
    cases = {arm: np.mean([run["cases"] for run in own], 0) for arm, own in runs.items()}
    body = []
    for arm, name in ARMS.items():
        interval = statistics.interval_over_cases(cases[arm])
        each = ", ".join(f"{value:.3f}" for value in dice[arm])
        body.append([name, f"{dice[arm].mean():.3f}", span(interval), each])
    gain = float(dice["crossd"].mean() - dice["scratch"].mean())
    over_cases = statistics.case_interval(cases["crossd"], cases["scratch"])
    over_seeds = statistics.paired(dice["crossd"], dice["scratch"]).interval
    draw(runs, out / PICTURE)
    header = ["way", "mean Dice", "95 % over test volumes", "each seed"]
    return [
        "",
        "## A start for nnU-Net",
        "",
        TEXT.format(**raw, seeds=len(seeds)),
        "",
        *markdown.grid(header, body),
        "",
        f"The start gains {gain:+.3f} ({span(over_cases)} over test volumes, "
        f"{span(over_seeds)} over seeds): {verdict(gain, over_cases, over_seeds)}.",
        "",
        f"![Loss of nnU-Net's training, step by step]({PICTURE})",
    ]


def verdict(gain: float, *intervals: Any) -> str:
    """Say whether a difference is one: where both intervals leave zero out."""
    if any(one is None or one[0] <= 0 <= one[1] for one in intervals):
        return "level, as an interval holds zero or is not known"
    return "better" if gain > 0 else "worse"


def span(interval: Any) -> str:
    """Write an interval."""
    return "not known" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


def draw(runs: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draw the loss of every run, averaged over some steps."""
    drawn, axes = pictures.figure(1, 1, (6.0, 3.6))
    ax = axes[0][0]
    pictures.dress(ax, "Eight labelled volumes", "step of nnU-Net's trainer", "its loss")
    for (arm, own), colour in zip(runs.items(), LABELS, strict=False):
        for number, run in enumerate(own):
            losses = np.convolve(run["losses"], np.ones(SMOOTH) / SMOOTH, "valid")
            steps = np.arange(len(losses)) + SMOOTH
            ax.plot(steps, losses, color=colour, label=ARMS[arm] if number == 0 else None)
    ax.legend(frameon=False, fontsize=8)
    pictures.save(drawn, path)
