"""Tables and a picture of what `cost.py` measured."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from costs.arms import NAMES
from crossd.utils.atomic_files import atomic

TITLES = {
    "layers": "Layers of a ResNet18, 224 x 224",
    "images": "Images",
    "volumes": "Volumes",
    "growth": "Growth with batch, size, depth and classes",
}
PASSES = (
    *("inference", "training step"),
    *("peak memory, inference", "peak memory, training step"),
)
Row = Mapping[str, Any]


def markdown(results: Mapping[str, Any]) -> str:
    """Write all tables, with what they depend on."""
    about = results["about"]
    device = about["gpu"] or about["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines = [
        "# Cost",
        "",
        f"{device}, {about['config']['precision']}, {about['date']}. {versions}.",
        "",
        "Times the plain network of the same row, round and run: below 1 is faster. Median and, in "
        "brackets, quartiles over the rounds. A training step is forward, backward and SGD. Every "
        "network is as its library makes it; only columns that say how kernels lie are tuned. "
        "Of memory, the peak beside the plain network's, and in brackets without what the process "
        "held before the network was built. On volumes all kernel modes are the same convolution, "
        "named projection.",
        "",
    ]
    for table, title in TITLES.items():
        rows = [row for row in results["rows"] if row["table"] == table]
        absent = [row for row in results["absent"] if row["table"] == table]
        if not rows and not absent:
            continue
        lines += [f"## {title}", ""]
        for what in PASSES:
            chosen = [row for row in rows if row["pass"] == what]
            if chosen:
                lines += [f"### {what.capitalize()}", "", *_table(chosen), ""]
        if absent:
            lines += ["### Not measured", "", *_reasons(absent), ""]
    return "\n".join(lines)


def _table(rows: Sequence[Row]) -> list[str]:
    """One row for each case and batch: the plain network's amount, the others' ratios."""
    arms = [name for name in NAMES if any(row["arm"] == name for row in rows)]
    cells = {(row["case"], row["batch"], row["arm"]): row for row in rows}
    shown = [name for name in arms if name != "plain"]
    unit = "MiB" if "mib" in rows[0] else "ms"
    lines = [
        f"| | batch | plain [{unit}] | " + " | ".join(NAMES[name] for name in shown) + " |",
        "|---|---:|---:|" + "---:|" * len(shown),
    ]
    for case, batch in _cases(rows):
        plain = cells.get((case, batch, "plain"))
        numbers = [_cell(cells.get((case, batch, name)), unit) for name in shown]
        amount = f"{plain[unit.lower()]:,.1f}" if plain else "–"
        lines.append(f"| {case} | {batch} | {amount} | " + " | ".join(numbers) + " |")
    return lines


def _cases(rows: Iterable[Row]) -> list[tuple[str, int]]:
    return list(dict.fromkeys((row["case"], row["batch"]) for row in rows))


def _cell(row: Row | None, unit: str) -> str:
    """The ratio with its spread; the amount where there is no plain network to compare with."""
    if row is None:
        return "–"
    if row.get("ratio") is None:
        return f"{row[unit.lower()]:,.1f} {unit}"
    if unit == "MiB":
        return f"{row['ratio']:.2f} ({row['network_ratio']:.2f})"
    return f"{row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})"


def _reasons(absent: Sequence[Row]) -> list[str]:
    """Say of every arm on which cases there is nothing, and why; equal reasons in one line."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in absent:
        found.setdefault((row["arm"], row["why"]), []).append(f"{row['case']} ({row['batch']})")
    return [
        f"- {NAMES[arm]}, on {'; '.join(dict.fromkeys(cases))}: {why}"
        for (arm, why), cases in found.items()
    ]


def picture(results: Mapping[str, Any], path: str | Path) -> bool:
    """Draw the ratios of training steps, a group of bars for each case, on a logarithmic axis.

    Of single layers only where nothing else was measured.

    Returns:
        Whether there was anything to draw.
    """
    import matplotlib
    from matplotlib.figure import Figure

    steps = [row for row in results["rows"] if row["pass"] == "training step"]
    rows = [row for row in steps if row["table"] != "growth" and row["ratio"] is not None]
    rows = [row for row in rows if row["table"] != "layers"] or rows
    arms = [n for n in NAMES if n != "plain" and any(row["arm"] == n for row in rows)]
    if not arms:
        return False
    colours = {name: matplotlib.colormaps["tab20"](i) for i, name in enumerate(arms)}
    ratios = {(row["case"], row["batch"], row["arm"]): row["ratio"] for row in rows}
    bars: list[tuple[float, str, float]] = []
    ticks: dict[float, str] = {}
    place = 0.0
    for case, batch in _cases(rows):
        own = [name for name in arms if (case, batch, name) in ratios]
        if own:
            bars += [(place + i, name, ratios[case, batch, name]) for i, name in enumerate(own)]
            ticks[place + (len(own) - 1) / 2] = f"{case}, batch {batch}"
            place += len(own) + 0.7
    figure = Figure(figsize=(8, 1.2 + 0.14 * place), layout="constrained")
    axes = figure.add_subplot()
    for name in arms:
        places, values = zip(*((p, v) for p, one, v in bars if one == name), strict=True)
        drawn = axes.barh(places, values, 1, left=0, label=NAMES[name], color=colours[name])
        axes.bar_label(drawn, [f"{value:.2f}" for value in values], padding=2, fontsize=6)
    axes.set_xscale("log")
    for which in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        which(lambda value, _: f"{value:g}")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks([*ticks], [*ticks.values()], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("time of a training step, times the plain network's")
    axes.margins(x=0.12, y=0.01)
    figure.legend(fontsize=7, loc="outside upper center", ncols=4, frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    return True
