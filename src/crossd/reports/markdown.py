"""The reports of trainings and evaluations: Markdown for people, JSON for machines.

The functions read a record, `results`, as it is written to `metrics.json`. What is missing or not
a finite number is shown as a dash, never as a zero.
"""

import dataclasses
import json
import math
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crossd.evaluation.summary import MISSING, Results
from crossd.tasks import task_of
from crossd.utils import memory
from crossd.utils.atomic_files import atomic

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

METRICS = {
    "accuracy": "accuracy",
    "auc": "AUC",
    "average_precision": "average precision",
    "dice": "Dice",
    "r2": "R²",
    "mae": "mean absolute error",
    "spearman": "Spearman correlation",
}
"""What scores are called, each task's main one before others of it."""
LIBRARIES = (
    "crossd",
    "torch",
    "numpy",
    "safetensors",
    "timm",
    "torchvision",
    "monai",
    "lightning-fabric",
    "nibabel",
    "SimpleITK",
    "pydicom",
    "pillow",
    "medmnist",
    "torchmetrics",
    "scikit-learn",
    "scipy",
    "jsonargparse",
    "rich",
    "matplotlib",
    "nilearn",
)


def write(
    results: Results, folder: str | Path, text: str, more: Mapping[str, str] | None = None
) -> None:
    """Write `metrics.json`, `report.md` and other files into a folder, the record last.

    Args:
        results: The record of a run. Numbers that are not finite become null in the JSON.
        folder: Where to write; made when missing.
        text: The report.
        more: Name to content of other files.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write({"seconds": float("nan")}, folder, "# Nothing")
        >>> json.loads((folder / "metrics.json").read_text())
        {'seconds': None}
    """
    record = json.dumps(plain(results), indent=2, allow_nan=False) + "\n"
    for name, content in {"report.md": text, **(more or {}), "metrics.json": record}.items():
        with atomic(Path(folder) / name) as temporary:
            temporary.write_text(content, encoding="utf-8", errors="backslashreplace")


def cost(seconds: float, of: str = "", count: int = 0, spent: float = 0.0) -> list[str]:
    """Return the section of a report that says what a run took.

    Args:
        seconds: Of the whole run.
        of: What was counted, such as "training images".
        count: How many of them.
        spent: In this time [s].
    """
    rows = [["in all [s]", f"{seconds:,.1f}"]]
    if count and spent > 0:
        rows.append([f"{of} a second", f"{count / spent:,.1f}"])
    held = memory.peaks()
    rows.append(["peak memory of a process [GiB]", f"{held['peak_memory_gib']:,.2f}"])
    if "peak_gpu_memory_gib" in held:
        rows.append(["peak memory of the GPU [GiB]", f"{held['peak_gpu_memory_gib']:,.2f}"])
    rows.append(["device", memory.device()])
    return section("Time and memory", grid(["measure", "value"], rows))


def sentence(results: Results) -> str:
    """Return the result of one training or one evaluation in a sentence.

    Example:
        >>> sentence({"command": "evaluate", "metrics": {"mean": {"dice": 0.7}}, "samples": 5,
        ...           "part": "val"})
        'Dice 0.700 on 5 val samples.'
    """
    found = results["metrics"]
    found = found.get("mean", found)  # of masks that were evaluated case by case
    shown = [f"{METRICS[name]} {number(found[name])}" for name in METRICS if name in found]
    count = results.get("samples", results.get("test_samples", 0))
    never = ", never trained on" if "history" in results else ""
    text = f"{join_words(shown)} on {count:,} {results.get('part', 'test')} samples{never}."
    return text[:1].upper() + text[1:]


def training(results: Results, spent: Sequence[str]) -> str:
    """Return the report of one training run, whose curves are in `curves.png`, as Markdown.

    Args:
        results: The record that `crossd pretrain` and `crossd finetune` write to `metrics.json`.
        spent: See `cost`.
    """
    history = results["history"]
    checked = sorted({name for record in history for name in record.get("val") or {}})
    header = ["epoch", "loss", *(f"validation {name}" for name in checked)]
    body = [
        [record["epoch"], number(record["loss"])]
        + [number((record.get("val") or {}).get(name)) for name in checked]
        for record in history
    ]
    lines = [
        f"# crossd {results['command']}: {results['model']} on {results['data']}",
        "",
        f"On {results['test_samples']:,} test samples, never trained on:",
        "",
        *of_scores(results),
        *section("Training", grid(header, body)),
        *section("Curves", ["![Curves](curves.png)"]),
        *spent,
    ]
    return ended(lines, results)


def of_scores(results: Results) -> list[str]:
    """Return the scores of samples without masks: of all, and of each finding or number.

    Args:
        results: With ``metrics``, and ``classes`` and ``units`` where each has scores of its own.
    """
    found, names = results["metrics"], results.get("classes") or []
    units = results.get("units") or [""] * len(names)
    own = {f"{score}_{name}" for score in METRICS for name in names}
    whole = [name for name in found if name not in own]
    each = [score for score in METRICS if any(f"{score}_{name}" in found for name in names)]
    lines = grid([METRICS.get(n, n) for n in whole], [[number(found[n]) for n in whole]])
    rows = [
        [f"{name} [{unit}]" if unit else name, *(number(found.get(f"{s}_{name}")) for s in each)]
        for name, unit in zip(names, units, strict=True)
        if any(f"{score}_{name}" in found for score in each)
    ]
    if rows:
        lines += ["", *grid(["", *(METRICS[score] for score in each)], rows)]
    if results.get("interval"):
        low, high = results["interval"]
        name = METRICS[task_of(results["task"]).main]
        lines += ["", f"95 % interval of {name} over samples: {low:.3f} to {high:.3f}."]
    for title, path in (results.get("drawn") or {}).items():
        lines += section(title, [f"![{title}]({path})"])
    return lines


def evaluation(results: Results, spent: Sequence[str]) -> str:
    """Return the report of `crossd evaluate` as Markdown.

    Args:
        results: The record that it writes to `metrics.json`.
        spent: See `cost`.
    """
    found = results["metrics"]
    lines = [f"# crossd evaluate: {results['data']}", ""]
    lines += [f"{results['samples']:,} {results['part']} samples.", ""]
    if not task_of(results["task"]).masks:
        lines += of_scores(results)
    else:
        columns = ("dice", "dice_sd", "hd95", "nsd", "volume_error_ml")
        counts = ("cases", "missed", "invented")
        body = [
            [
                name,
                *(number(found[name].get(c)) for c in columns),
                *(str(found[name].get(c, MISSING)) for c in counts),
            ]
            for name in (*results["classes"][1:], "mean")
        ]
        header = ["class", "Dice", "sd", "HD95 [mm]", "NSD", "volume error [ml]"]
        lines += grid([*header, "cases with it", "missed", "invented"], body)
        lines += [
            "",
            f"HD95: 95th percentile of the distances between surfaces, where there are two. NSD: "
            f"share of the surfaces within {results['config']['tolerance']:g} mm. Missed: cases "
            "that have the class, but not in the prediction; invented: the reverse. Both count as "
            "Dice 0.",
            *_over(results),
            *section("The worst cases", []),
        ]
        for one in results["worst"]:
            lines += [f"![{one['case']}]({one['picture']})", ""]
            lines += [f"{one['case']}: mean Dice {number(one['dice'])}.", ""]
    return ended([*lines, *spent], results)


def _over(results: Results) -> list[str]:
    """Say of masks that are known in part what was scored."""
    if "known" not in results:
        return []
    return [
        "",
        f"{100 * results['known']:.2g} % of the voxels are known: all scores and volumes are over "
        "these. HD95 and NSD are left out where either mask lies beside what is not known.",
        *([f"No true mask shows a class: {results['hidden']}."] if "hidden" in results else []),
    ]


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed libraries, importing none of them.

    Example:
        >>> sorted(versions())[-1] in LIBRARIES
        True
    """
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def record(config: "DataclassInstance", start: float, **found: object) -> Results:
    """Return the record of what a command `found`; it began at `start`, by `time.perf_counter`."""
    return {
        "command": type(config).__name__.removesuffix("Config").lower(),
        **found,
        "seconds": round(time.perf_counter() - start, 1),
        "config": dataclasses.asdict(config),
        "versions": versions(),
    }


def ended(lines: Sequence[str], results: Results) -> str:
    """Return a report, which ends as all do: the command with its configuration, and versions."""
    told = {k: v for k, v in results["config"].items() if k not in ("resume", "overwrite")}
    block = json.dumps(plain(told), indent=2, allow_nan=False)
    command = f"crossd {results['command']} --config config.yaml --out FOLDER"
    repeat = ["Save this as `config.yaml` (JSON is YAML):", "", "```json", block, "```", ""]
    end = [
        *section("How to repeat", [*repeat, "```", command, "```"]),
        *section("Versions", grid(["library", "version"], (results.get("versions") or {}).items())),
    ]
    return "\n".join([*lines, *end]) + "\n"


def section(title: str, lines: Sequence[str]) -> list[str]:
    """Return the lines of a section of a report, set off from those before it."""
    return ["", f"## {title}", "", *lines]


def grid(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return a Markdown table, its first column to the left and the others to the right."""
    lines = [header, [":--", *["--:"] * (len(header) - 1)], *rows]
    return [
        f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |"
        for line in lines
    ]


def number(value: float | None, decimals: int = 3) -> str:
    """Return a number with fixed decimals, or the sign of a missing one."""
    return f"{value:.{decimals}f}" if value is not None and math.isfinite(value) else MISSING


def join_words(names: Sequence[str]) -> str:
    """Return "a", "a and b" or "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def plain(value: object) -> object:
    """Return what JSON can hold: numpy as Python, paths as text, and null for NaN and infinity."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
