"""A contact sheet of data: samples of each class, counts, intensities, sizes, and faults."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from crossd.data.file_names import shown
from crossd.data.quality.checks import Fault
from crossd.data.quality.facts import NO_PART, SampleFacts
from crossd.data.quality.survey import Survey
from crossd.data.sources.numbered_columns import Columns
from crossd.data.splits import SPLITS, spread
from crossd.reports.markdown import grid, section
from crossd.reports.pictures import (
    COOL,
    GREY,
    INK,
    SOFT,
    WARM,
    dress,
    grey,
    legend,
    region,
    save,
    shortened,
)
from crossd.reports.slice_viewer import LABELS, NOT_KNOWN, UNKNOWN, colour_of
from crossd.tasks import with_units

ROWS, COLUMNS = 8, 6
"""Classes, and samples of each, that are drawn."""

MOST_BARS = 24
NAMED = 3
"""Samples that the table of faults names; `metrics.json` names all."""

COLOURS = {"train": COOL, "val": "#56b4e9", "test": WARM, NO_PART: COOL}


def draw(found: Survey, path: str | Path) -> None:
    """Draw the contact sheet.

    Args:
        found: What `crossd.data.quality.survey.survey` returned.
        path: The picture to write.
    """
    rows = _rows(found)
    heights = [1.67 * max(1, len(rows)), 3.1]
    size = (10.8, sum(heights) + 0.75)
    drawn = Figure(figsize=size, dpi=130, facecolor="white", layout="constrained")
    more = "" if len(found.looks) == found.total else f", {len(found.looks):,} of them looked at"
    title = f"{shortened(shown(Path(found.name).name), 70)}: {found.total:,} samples{more}"
    drawn.suptitle(title, fontsize=12, color=INK)
    above, below = drawn.subfigures(2, squeeze=False, height_ratios=heights)[:, 0]
    axes = above.subplots(max(1, len(rows)), COLUMNS, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for line, (name, looks) in zip(axes, rows, strict=False):
        for ax, look in zip(line, looks, strict=False):
            _tile(ax, look)
        line[0].set_ylabel(_wrapped(name), fontsize=9, color=INK)
        line[0].yaxis.label.set(rotation=0, ha="right", va="center")
    panels = below.subplots(1, 3)
    keys = {part: Patch(color=COLOURS[part]) for part in found.counts}
    legend(below, keys, 3, "outside upper center")
    _counts(panels[0], found)
    _intensities(panels[1], found.looks)
    _sizes(panels[2], found.looks)
    save(drawn, path)


def _rows(found: Survey) -> list[tuple[str, list[SampleFacts]]]:
    """Choose the rows of the sheet: classes, or the parts where there are none."""
    drawn = [look for look in found.looks if look.thumb is not None]
    classes = found.classes([one for look in drawn for one in look.findings or (look.label,)])
    if classes:
        picked = [classes[i] for i in spread(len(classes), ROWS)]
        return [(name, _spread([x for x in drawn if x.has(name)])) for name in picked]
    parts = [part for part in (*SPLITS, NO_PART) if any(look.part == part for look in drawn)]
    return [(part, _spread([x for x in drawn if x.part == part])) for part in parts]


def _spread(looks: list[SampleFacts]) -> list[SampleFacts]:
    """Take a few evenly, so that not all are of the first patient."""
    return [looks[i] for i in spread(len(looks), COLUMNS)]


def _tile(ax: Axes, look: SampleFacts) -> None:
    assert look.thumb is not None
    ax.set_axis_on()
    low, high = np.percentile(look.thumb, (1, 99))
    ratio = 1.0 if look.spacing is None else look.spacing[-2] / look.spacing[-1]
    grey(ax, look.thumb, low, high, "upper", ratio)
    if look.mask is not None:
        for place, value in enumerate(sorted(set(np.unique(look.mask).tolist()) - {0})):
            colour = colour_of(value if value <= len(LABELS) else place + 1)
            colour = UNKNOWN if value == look.ignore else colour
            region(ax, look.mask == value, colour, origin="upper")
    text = "x".join(map(str, look.size))
    if look.spacing is not None:
        text += "  " + " x ".join(f"{s:.2g}" for s in look.spacing) + " mm"
    ax.set_title(text, fontsize=6.5, color=SOFT, pad=2)


def _counts(ax: Axes, found: Survey) -> None:
    """Draw how many samples each class has, or voxels each value of masks, or numbers to learn."""
    if found.columns is not None and found.columns.task == "regression":
        _histogram(ax, found, found.columns)
        return
    voxels = _voxels(found.looks)
    unknown = sum(look.unknown for look in found.looks)
    if voxels or unknown:
        total = sum(voxels.values()) + unknown
        names = [str(value) for value in voxels]
        dress(ax, "values of the masks", "share of the voxels", "")
        ax.grid(axis="y", visible=False)
        shares = [count / total for count in voxels.values()]
        colours = [GREY if value == 0 else colour_of(value) for value in voxels]
        if unknown:
            names.append(NOT_KNOWN)
            shares.append(unknown / total)
            colours.append(UNKNOWN)
        ax.barh(range(len(names)), shares, color=colours, height=0.75)
        for line, share in enumerate(shares):
            ax.text(share, line, f" {100 * share:.2g} %", va="center", fontsize=8, color=INK)
        ax.set_xlim(0, 1.2 * max(shares))
    else:
        names = found.classes() or [""]
        names = sorted(names, key=lambda n: -found.counts.get("train", {}).get(n, 0))[:MOST_BARS]
        title = "samples of each class" if names != [""] else "samples"
        dress(ax, title, "samples", "")
        ax.grid(axis="y", visible=False)
        left = np.zeros(len(names))
        for part, counts in found.counts.items():
            values = np.array([counts.get(name, 0) for name in names])
            ax.barh(range(len(names)), values, left=left, color=COLOURS[part], height=0.78)
            left += values
    shown = [shortened(name, 14) for name in names]
    ax.set_yticks(range(len(names)), shown, fontsize=8 if len(names) < 14 else 5.5)
    ax.set_ylim(len(names) - 0.4, -0.6)


def _histogram(ax: Axes, found: Survey, columns: Columns) -> None:
    """Draw how often the first number to learn has which value, in each part."""
    (name,) = with_units(columns.names[:1], columns.units[:1])
    dress(ax, f"{shortened(name, 24)}", "", "samples")
    first, parts = found.numbers[:, 0], np.array(found.parts)
    known = np.isfinite(first)
    if known.any():
        edges = np.histogram_bin_edges(first[known], bins=20)
        for part in found.counts:
            counts = np.histogram(first[known & (parts == part)], edges)[0]
            ax.stairs(counts, edges, color=COLOURS[part], lw=1.6)


def _voxels(looks: Sequence[SampleFacts]) -> dict[int, int]:
    counts: Counter[int] = Counter()
    for look in looks:
        counts.update(look.voxels)
    return dict(sorted(counts.items()))


def _intensities(ax: Axes, looks: Sequence[SampleFacts]) -> None:
    dress(ax, "intensities as stored", "value", "share of the voxels")
    readable = [look for look in looks if len(look.values)]
    if not readable:
        return
    # The axis is that of most samples: what a few have beyond it is in the bins at its ends.
    ends = np.array([np.percentile(look.values, (0.2, 99.8)) for look in readable])
    low = np.percentile(ends[:, 0], 10, method="higher")
    high = np.percentile(ends[:, 1], 90, method="lower")
    edges = np.linspace(low, max(high, low + 1e-6), 61)
    for part in [p for p in COLOURS if any(look.part == p for look in readable)]:
        own = np.concatenate([look.values for look in readable if look.part == part])
        share = np.histogram(own.clip(low, high), edges)[0] / len(own)
        ax.stairs(share, edges, color=COLOURS[part], lw=1.6)
    ax.set_yscale("log")


def _sizes(ax: Axes, looks: Sequence[SampleFacts]) -> None:
    """Draw the lengths of the sides: in mm where the files say it, else in pixels."""
    readable = [look for look in looks if look.size]
    mm = bool(readable) and all(look.spacing is not None for look in readable)
    dress(ax, "sizes", "mm" if mm else "voxels", "")
    ax.grid(axis="y", visible=False)
    rank = max((len(look.size) for look in readable), default=0)
    names = ("depth", "height", "width")[3 - rank :]
    rng = np.random.default_rng(0)
    for line, name in enumerate(names):
        values = np.array([_sides(look, mm)[line] for look in readable if len(look.size) == rank])
        jitter = rng.uniform(-0.25, 0.25, len(values)) if len(np.unique(values)) > 1 else 0.0
        ax.plot(
            values, line + jitter * np.ones(len(values)), "o", color=COOL, ms=3.5, alpha=0.35, mew=0
        )
        ax.annotate(
            f"{name}: {_range(values)}",
            (0.02, line - 0.36),
            xycoords=ax.get_yaxis_transform(),
            fontsize=8,
            color=INK,
        )
    ax.set_yticks([])
    ax.set_ylim(max(rank, 1) - 0.5, -0.7)
    ax.set_xlim(left=0)
    ax.margins(x=0.1)


def _sides(look: SampleFacts, mm: bool) -> NDArray[np.float64]:
    return np.array(look.size) * (np.array(look.spacing) if mm else 1.0)


def _range(values: NDArray[np.float64]) -> str:
    low, high = float(values.min()), float(values.max())
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


def _wrapped(name: str) -> str:
    return "\n".join(shortened(word, 16) for word in name.replace("_", " ").split()) or name


def markdown(found: Survey, listed: Sequence[Fault]) -> list[str]:
    """Return the lines of a report on data: what there is, and what is wrong with it.

    Args:
        found: What `crossd.data.quality.survey.survey` returned.
        listed: What `crossd.data.quality.checks.faults` returned.
    """
    lines = ["![A contact sheet of the data](data.png)", "", reading(found, listed)]
    if listed:
        header = ["what", "grave", "to go on", "how many", "the first"]
        body = [
            [
                one.what,
                "yes" if one.grave else "no",
                f"`--accept {one.accept}`" if one.accept else "",
                f"{one.count:,}",
                _first(one.which),
            ]
            for one in listed
        ]
        lines += section("What is wrong or odd", grid(header, body))
    labels = found.classes() or [""]
    counts = [
        [label or "samples", *(f"{own.get(label, 0):,}" for own in found.counts.values())]
        for label in labels
    ]
    header = ["class" if labels != [""] else "", *found.counts]
    lines += [*section("Samples", grid(header, counts)), ""]
    return [*lines, *(f"- {note}." for note in found.notes)]


def _first(which: Sequence[str]) -> str:
    return "; ".join(which[:NAMED]) + ("; ..." if len(which) > NAMED else "")


def reading(found: Survey, listed: Sequence[Fault]) -> str:
    """Say in a sentence or two whether the data can be trained on.

    Args:
        found: The data.
        listed: Their faults.
    """
    grave = [one for one in listed if one.grave]
    seen = f"{len(found.looks):,} of {found.total:,} samples were looked at"
    if not listed:
        return f"{seen}: nothing is wrong or odd."
    worst = "; ".join(f"{one.what} ({one.count:,})" for one in grave)
    if grave:
        return f"{seen}. Mend this before a training: {worst}."
    odd = "; ".join(f"{one.what} ({one.count:,})" for one in listed)
    return f"{seen}: nothing that stops a training. Odd: {odd}."


def record(found: Survey, listed: Sequence[Fault]) -> dict[str, object]:
    """Return what was found as JSON can hold it."""
    readable = [look for look in found.looks if look.size]
    sizes = np.array([look.size for look in readable if len(look.size) == len(readable[0].size)])
    spaced = [look.spacing for look in readable if look.spacing is not None]
    return {
        "samples": found.total,
        "looked_at": len(found.looks),
        "counts": found.counts,
        "faults": [
            {"what": one.what, "count": one.count, "grave": one.grave, "which": list(one.which)}
            for one in listed
        ],
        "median_size": np.median(sizes, axis=0).tolist() if len(sizes) else None,
        "median_spacing": np.median(spaced, axis=0).tolist() if spaced else None,
        "mask_voxels": {str(value): n for value, n in _voxels(found.looks).items()},
        "ignored_voxels": sum(look.unknown for look in found.looks),
        "notes": found.notes,
    }
