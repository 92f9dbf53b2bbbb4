"""Plots of a comparison: curves over labelled volumes, differences with intervals, mean ranks."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from crossd.evaluation import statistics, summary
from crossd.evaluation.arms import CROSSD
from crossd.evaluation.summary import Results
from crossd.reports.markdown import METRICS
from crossd.reports.pictures import (
    COOL,
    INK,
    SOFT,
    WARM,
    dress,
    figure,
    legend,
    save,
    style,
)


def scores(results: Results, path: str | Path) -> None:
    """Draw the mean score of every arm with its interval, a panel a protocol and number of volumes.

    Args:
        results: The record of a comparison; see `crossd.evaluation.summary`.
        path: The picture to write.
    """
    keys, arms = summary.keys(results), results["arms"]
    shape = (3.2 * len(keys) + 1.2, 0.34 * len(arms) + 1.3)
    drawn, axes = figure(1, len(keys), shape, sharex=True, sharey=True)
    for ax, key in zip(axes[0], keys, strict=True):
        dress(ax, summary.title(key), _metric(results), "")
        ax.grid(axis="y", visible=False)
        for arm, one in summary.summaries(results, key).items():
            line, colour = arms.index(arm), WARM if arm in CROSSD else SOFT
            if one.interval is not None:
                ax.plot(one.interval, [line, line], "-", color=colour, lw=2)
            ax.plot(one.mean, line, "o", color=colour, ms=6)
            _number(ax, f"{one.mean:.3f}", one.mean, line)
    axes[0, 0].margins(x=0.15)
    axes[0, 0].set_yticks(range(len(arms)), arms)
    axes[0, 0].set_ylim(len(arms) - 0.4, -0.8)
    save(drawn, path)


def _number(ax: Axes, text: str, x: float, y: float) -> None:
    """Write a number above its point."""
    above = (0, 5)
    ax.annotate(text, (x, y), above, textcoords="offset points", ha="center", fontsize=8, color=INK)


def efficiency(results: Results, path: str | Path) -> None:
    """Draw the mean score over the number of labelled volumes, a panel a protocol, with bands.

    What arms say without labelled volumes (zero) is drawn at the left end of every panel. Two
    repetitions have no band: theirs, of one degree of freedom, would make the others flat.

    Args:
        results: The record of a comparison; see `crossd.evaluation.summary`.
        path: The picture to write.
    """
    names = [n for n in dict.fromkeys(k[0] for k in summary.keys(results)) if n != "zero"]
    free = summary.summaries(results, ("zero", 0))
    drawn, axes = figure(1, max(1, len(names)), (4.6 * max(1, len(names)), 3.8), sharey=True)
    handles: dict[str, Line2D] = {}
    for ax, protocol in zip(axes[0], names, strict=False):
        numbers = summary.limits(results, protocol)
        found = {n: summary.summaries(results, (protocol, n)) for n in numbers}
        dress(ax, protocol, "labelled volumes", _metric(results))
        ax.set_xscale("log")
        left = min(numbers) / 2
        for position, arm in enumerate(results["arms"]):
            colour, dash = style(arm, position)
            known = [(n, found[n][arm]) for n in numbers if arm in found[n]]
            if not known:
                continue
            x = np.array([n for n, _ in known])
            means = np.array([s.mean for _, s in known])
            low, high = np.transpose(
                [s.interval if s.interval and s.count != 2 else (s.mean, s.mean) for _, s in known]
            )
            (line,) = ax.plot(x, means, dash, color=colour, marker="o", ms=4, label=arm)
            ax.fill_between(x, low, high, color=colour, alpha=0.13, lw=0)
            handles.setdefault(arm, line)
            if arm in free:
                ax.plot([left, x[0]], [free[arm].mean, means[0]], ":", color=colour, lw=1)
                ax.plot(left, free[arm].mean, "D", color=colour, ms=5)
        shown = [left, *numbers] if free else numbers
        ax.set_xticks(shown, ["0", *map(str, numbers)] if free else list(map(str, numbers)))
        ax.minorticks_off()
    if handles:
        legend(drawn, handles, 3 * max(1, len(names)))
    save(drawn, path)


def differences(results: Results, path: str | Path) -> None:
    """Draw how far the first arm is ahead of each other one, with the interval of the difference.

    Args:
        results: The record of a comparison.
        path: The picture to write.
    """
    keys = summary.keys(results)
    first, *others = results["arms"]
    shape = (3.0 * len(keys) + 1.4, 0.36 * len(others) + 1.5)
    drawn, axes = figure(1, len(keys), shape, sharex=True, sharey=True)
    for ax, key in zip(axes[0], keys, strict=True):
        dress(ax, summary.title(key), f"{_metric(results)}: {first} less the other", "")
        ax.grid(axis="y", visible=False)
        ax.axvline(0, color=INK, lw=1)
        for arm, one in summary.comparisons(results, key).items():
            line, gap = others.index(arm), one.difference
            colour = (WARM if gap > 0 else COOL) if one.is_sure() else SOFT
            ends = one.interval or one.over_cases or (gap, gap)
            ax.plot(ends, [line, line], "-", color=colour, lw=2)
            ax.plot(gap, line, "o", color=colour, ms=6)
            _number(ax, f"{gap:+.3f}", gap, line)
    axes[0, 0].margins(x=0.15)
    axes[0, 0].set_yticks(range(len(others)), others)
    axes[0, 0].set_ylim(len(others) - 0.4, -0.8)
    save(drawn, path)


def ranks(results: Results, path: str | Path) -> bool:
    """Draw mean ranks with bars over arms that do not differ significantly (Demšar 2006).

    Args:
        results: The record of a comparison.
        path: The picture to write.

    Returns:
        Whether there was enough to draw: three arms and two repetitions.
    """
    arms, scores = summary.blocks(results)
    if len(arms) < 3 or len(scores) < 2:
        return False
    means = statistics.mean_ranks(scores)
    order = np.argsort(means, kind="stable")
    least = statistics.critical_difference(len(arms), len(scores))
    drawn, axes = figure(1, 1, (6.4, 0.3 * len(arms) + 1.9))
    ax = axes[0, 0]
    dress(ax, f"mean rank over {len(scores)} repetitions", "", "")
    ax.grid(axis="y", visible=False)
    ax.set_yticks([])
    for place, at in enumerate(order):
        arm, rank = arms[at], means[at]
        colour, _ = style(arm, int(at))
        ax.plot([rank, rank], [0, place + 1], color=colour, lw=1)
        ax.plot(rank, 0, "o", color=colour, ms=6)
        ax.annotate(
            f"{arm}  {rank:.2f}",
            (rank, place + 1),
            (4, 0),
            color=INK,
            va="center",
            textcoords="offset points",
            fontsize=9,
        )
    sorted_ranks = means[order].tolist()
    for level, (i, j) in enumerate(summary.groups(sorted_ranks, least)):
        y = -0.5 - 0.4 * level
        ax.plot([sorted_ranks[i] - 0.05, sorted_ranks[j] + 0.05], [y, y], color=INK, lw=3)
    note = f"1 is best; bars join what differs by less than {least:.2f} (Nemenyi)"
    ax.set_xlabel(note, fontsize=8)
    ax.set_xlim(0.8, len(arms) + 0.9)
    ax.set_ylim(len(arms) + 0.8, -2.4)
    save(drawn, path)
    return True


def _metric(results: Results) -> str:
    name = str(results["metric"])
    return METRICS.get(name, name)
