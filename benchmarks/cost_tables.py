"""Tables and a picture of what `cost.py` measured."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crossd.utils.atomic_files import atomic

NAMES = {
    "plain": "plain",
    "plain-nhwc": "plain, channels last",
    "projection": "projection",
    "slice": "slice",
    "fourier": "fourier",
    "fourier-projection": "fourier-projection",
    "acs": "ACS",
    "i3d": "I3D on one slice",
    "fft": "fourier by FFT",
    "folded": "converted",
}
UNITS = {"forward": "ms", "training step": "ms", "peak memory": "MiB"}


def markdown(results: Mapping[str, Any]) -> str:
    """Write all tables, with what they depend on."""
    about = results["about"]
    device = about["gpu"] or about["machine"]
    lines = [
        "# Benchmark",
        "",
        f"{device}, torch {about['versions'].get('torch', '?')}, "
        f"{about['config']['precision']}, {about['date']}.",
        "",
        "Times the plain network of the same row and run: below 1 is faster. A training step is "
        "forward, backward and SGD. The median over the rounds of the ratio within a round.",
        "",
    ]
    for title, key in (
        ("Layers of a ResNet18, 224 x 224", "layers"),
        ("Networks", "networks"),
        ("Volumes, beside the network of torch.nn's 3D layers", "volumes"),
    ):
        rows = results.get(key, [])
        if rows:
            lines += [f"## {title}", ""]
        for what in UNITS:
            chosen = [row for row in rows if row["pass"] == what]
            if chosen:
                lines += [f"### {what.capitalize()}", "", *_table(chosen, UNITS[what]), ""]
    if any("network_ratio" in row for row in results["networks"]):
        lines += [
            "### Peak memory without the process's libraries",
            "",
            "The same peaks less what the process held before the network was built.",
            "",
            *_table([_own(row) for row in results["networks"] if "network_ratio" in row], "MiB"),
            "",
        ]
    return "\n".join(lines)


def _own(row: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**row, "mib": row["network_mib"], "ratio": row["network_ratio"]}


def _table(rows: Sequence[Mapping[str, Any]], unit: str) -> list[str]:
    """One row for each case and batch size: the plain network's amount, the others' ratios."""
    arms = [name for name in NAMES if any(row["arm"] == name for row in rows)]
    cases = list(dict.fromkeys((row["case"], row["batch"]) for row in rows))
    cells = {(row["case"], row["batch"], row["arm"]): row for row in rows}
    shown = [name for name in arms if name != "plain"]
    lines = [
        f"| | batch | plain [{unit}] | " + " | ".join(NAMES[name] for name in shown) + " |",
        "|---|---:|---:|" + "---:|" * len(shown),
    ]
    for case, batch in cases:
        plain = cells[case, batch, "plain"]
        amount = plain["mib" if unit == "MiB" else "ms"]
        numbers = [cells.get((case, batch, name)) for name in shown]
        row = [f"{cell['ratio']:.2f}" if cell else "" for cell in numbers]
        lines.append(f"| {case} | {batch} | {amount:,.1f} | " + " | ".join(row) + " |")
    return lines


def picture(results: Mapping[str, Any], path: str | Path) -> bool:
    """Draw the ratios of training steps, a group of bars for each case, on a logarithmic axis.

    Returns:
        Whether there was anything to draw.
    """
    import matplotlib
    from matplotlib.figure import Figure

    rows = [r for r in results["networks"] + results["layers"] if r["pass"] == "training step"]
    cases = list(dict.fromkeys((row["case"], row["batch"]) for row in rows))
    arms = [n for n in NAMES if n != "plain" and any(row["arm"] == n for row in rows)]
    if not arms:
        return False
    figure = Figure(figsize=(8, 1.4 + 0.15 * len(cases) * (len(arms) + 1)), layout="constrained")
    axes = figure.add_subplot()
    colours = matplotlib.colormaps["tab10"]
    height = 1 / (len(arms) + 1)
    for index, name in enumerate(arms):
        own = {(row["case"], row["batch"]): row["ratio"] for row in rows if row["arm"] == name}
        places = [p + index * height for p, case in enumerate(cases) if case in own]
        values = [own[case] for case in cases if case in own]
        bars = axes.barh(places, values, height, left=0, label=NAMES[name], color=colours(index))
        axes.bar_label(bars, [f"{value:.2f}" for value in values], padding=2, fontsize=6)
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(
        [p + height * (len(arms) - 1) / 2 for p in range(len(cases))],
        [f"{case}\nbatch {batch}" for case, batch in cases],
    )
    axes.invert_yaxis()
    axes.set_xlabel("time of a training step, times the plain network's")
    axes.margins(x=0.12, y=0.01)
    figure.legend(fontsize=7, loc="outside upper center", ncols=4, frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    return True
