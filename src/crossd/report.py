"""What `crossd transfer` found: a table for the terminal, Markdown for people, JSON for machines.

All functions read the same record, `results`: a plain dict with `task`, `images`, `volumes`,
`classes`, `limit`, `seed`, `seconds`, `arms`, `protocols`, `pretraining`, `rows`, `config`,
`versions` and, where known, `test_samples`. A row is one arm under one protocol, with its
`metrics`. What is missing or not a finite number is shown as a dash, never as a zero.
"""

import json
import math
import platform
import shlex
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from rich.table import Table
from rich.text import Text

from crossd import memory
from crossd.files import atomic

Results = Mapping[str, Any]

ARMS = ("scratch", "slices", "center", "inflate", "acs", "triplanar")
CROSSD = (*("fourier", "fourier-aligned", "projection", "projection-slices", "projection-both"),)
METRICS = {"accuracy": "accuracy", "auc": "AUC", "dice": "Dice"}
WHEN = {
    "zero": "with no labelled volume",
    "probe": "with frozen convolutions",
    "finetune": "after fine-tuning",
}
PROTOCOLS = {
    "zero": "no labelled volume; the 2D head is kept, BatchNorm statistics are recalibrated on "
    "the unlabelled training volumes",
    "probe": "convolutions frozen; the BatchNorm scales and shifts and the head are trained on {}",
    "finetune": "everything is trained on {}",
}
LIBRARIES = (
    *("crossd", "torch", "numpy", "safetensors", "timm", "torchvision", "monai"),
    *("lightning-fabric", "nibabel", "SimpleITK", "medmnist", "torchmetrics", "scikit-learn"),
    *("jsonargparse", "rich", "matplotlib", "nilearn"),
)
MISSING = "\u2013"  # an en dash


def arms(results: Results) -> list[str]:
    """Return the arms that were run: rivals first, Cross-D last, unknown names in between."""
    order = {name: position for position, name in enumerate(ARMS)}
    order |= {name: len(ARMS) + 1 + position for position, name in enumerate(CROSSD)}
    return sorted(results.get("arms") or [], key=lambda name: order.get(name, len(ARMS)))


def metric_names(results: Results) -> list[str]:
    """Return the names of the metrics of the rows, the main ones first.

    Args:
        results: The record of a run.

    Returns:
        Those of "accuracy", "auc" and "dice" that some row has, in this order, then
        "dice_<class>" in the order of the classes. All of them are better when larger.

    Example:
        >>> metric_names({"classes": ["b", "a"], "rows": [
        ...     {"metrics": {"dice_a": 0.7, "dice_b": 0.9, "dice": 0.8}}]})
        ['dice', 'dice_b', 'dice_a']
    """
    present = {name for row in results.get("rows") or [] for name in row.get("metrics") or {}}
    known = [*METRICS, *(f"dice_{name}" for name in results.get("classes") or [])]
    return [name for name in known if name in present]


def cells(results: Results) -> dict[tuple[str, str, str], float]:
    """Return the finite numbers of the rows by (arm, protocol, metric)."""
    return {
        (row["arm"], row["protocol"], name): float(value)
        for row in results.get("rows") or []
        for name, value in (row.get("metrics") or {}).items()
        if value is not None and math.isfinite(value)
    }


def ranking(results: Results, protocol: str) -> list[tuple[str, float]]:
    """Return (arm, main metric) under a protocol, best first.

    The numbers are rounded to the three decimals that are shown, so that what looks equal is
    called equal; equal arms stay in the order of `arms`.
    """
    main, found = metric_names(results)[:1], cells(results)
    keys = [(arm, protocol, name) for arm in arms(results) for name in main]
    scores = [(key[0], round(found[key], 3)) for key in keys if key in found]
    return sorted(scores, key=lambda score: -score[1])


def table(results: Results) -> Table:
    """Return the terminal's table: a row an arm, a column each protocol and main metric.

    The best number of a column is bold; numbers that are equal as shown are bold together.

    Args:
        results: The record of a run.

    Example:
        >>> shown = table({"arms": ["scratch"], "protocols": ["finetune"], "rows": [
        ...     {"arm": "scratch", "protocol": "finetune", "metrics": {"accuracy": 0.5}}]})
        >>> [column.header for column in shown.columns]
        ['arm', 'finetune: accuracy']
    """
    header, body, best = _scores(results)
    caption = Text("\n".join(_explanation(results)))
    drawn = Table(title="Transfer from images to volumes", caption=caption, caption_justify="left")
    for name in header:
        left = name == "arm"
        drawn.add_column(name, justify="left" if left else "right", no_wrap=left)
    for line, marks in zip(body, best, strict=True):
        styles = ["bold" if mark else "" for mark in marks]
        drawn.add_row(*(Text(cell, style) for cell, style in zip(line, styles, strict=True)))
    return drawn


def headline(results: Results) -> list[str]:
    """Return what the numbers say: one sentence on Cross-D, then one a protocol.

    Every comparison is of the main metric, as rounded in the table.

    Args:
        results: The record of a run.

    Returns:
        Sentences; the first says under which protocols Cross-D is ahead, level or behind.

    Example:
        >>> for sentence in headline({"arms": ["slices", "projection"], "protocols": ["zero"],
        ...         "rows": [{"arm": "slices", "protocol": "zero", "metrics": {"dice": 0.9}},
        ...                  {"arm": "projection", "protocol": "zero", "metrics": {"dice": 0.8}}]}):
        ...     print(sentence)
        Cross-D is behind the best other arm with no labelled volume.
        zero: slices is first with Dice 0.900, 0.100 ahead of the second, projection. \
Cross-D's best arm, projection, is 0.100 behind slices, the best other arm.
    """
    verdicts: dict[str, list[str]] = {"ahead of": [], "level with": [], "behind": []}
    sentences = []
    for protocol in results.get("protocols") or []:
        order = ranking(results, protocol)
        ours = [score for score in order if score[0] in CROSSD][:1]
        others = [score for score in order if score[0] not in CROSSD][:1]
        sentence = f"{protocol}: {_leader(results, order)}"
        for (arm, value), (rival, other) in zip(ours, others, strict=False):
            gap = round(value - other, 3)
            verdict = "ahead of" if gap > 0 else "behind" if gap < 0 else "level with"
            verdicts[verdict].append(WHEN.get(protocol, f"under {protocol}"))
            size = f"{abs(gap):.3f} " if gap else ""
            if order[:2] != [*ours, *others] or not gap:  # else it has just been said
                sentence += f" Cross-D's best arm, {arm}, is {size}{verdict} {rival}"
                sentence += ", the best other arm."
        sentences.append(sentence)
    found = {verdict: names for verdict, names in verdicts.items() if names}
    first = "Cross-D was not compared with other arms."
    if found:
        parts = [f"{verdict} the best other arm {_and(found[verdict])}" for verdict in found]
        first = f"Cross-D is {'; '.join(parts)}."
    return [first, *sentences]


def markdown(results: Results, pictures: Mapping[str, str | Path] | None = None) -> str:
    """Return the report for people.

    Args:
        results: The record of a run.
        pictures: Title to path, as seen from the report's folder.

    Example:
        >>> print(markdown({"arms": [], "protocols": [], "rows": []}).splitlines()[0])
        # Transfer from images to volumes
    """
    first, *sentences = headline(results)
    header, body, best = _scores(results)
    lines = ["# Transfer from images to volumes", "", f"**{first}**", ""]
    lines += [f"- {sentence}" for sentence in sentences]
    lines += ["", f"Images: `{results.get('images')}`. Volumes: `{results.get('volumes')}`. "
              f"Task: {results.get('task')}. Seed {results.get('seed')}. "
              f"{_number(results.get('seconds'), 0)} s in all."]  # fmt: skip
    lines += ["", "## Results", "", *grid(header, _emphasised(body, best)), ""]
    lines += [f"- {sentence}" for sentence in _explanation(results)]
    lines += _notes(results) + _per_class(results)
    for title, path in (pictures or {}).items():
        lines += ["", f"## {title}", "", f"![{title}]({quote(Path(path).as_posix())})"]
    lines += _pretraining(results) + _cost(results) + repeat(results)
    lines += ["", "## Versions", ""]
    lines += grid(["library", "version"], list((results.get("versions") or {}).items()))
    return "\n".join(lines) + "\n"


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
            temporary.write_text(content, encoding="utf-8")


def cost(seconds: float, of: str = "", count: int = 0, spent: float = 0.0) -> dict[str, Any]:
    """Return what a run took, as the page of its report shows it.

    Args:
        seconds: Of the whole run.
        of: What was counted, such as "training images".
        count: How many of them.
        spent: In this time [s].
    """
    found = {"seconds": round(seconds, 1), **memory.peaks(), "device": memory.device()}
    if count and spent > 0:
        found |= {"of": of, "images_per_second": round(count / spent, 2)}
    return found


def sentence(results: Results) -> str:
    """Return the result of one training or one evaluation in a sentence.

    Example:
        >>> sentence({"command": "evaluate", "metrics": {"mean": {"dice": 0.7}}, "samples": 5,
        ...           "part": "val"})
        'Dice 0.700 on 5 val samples.'
    """
    found = results["metrics"]
    found = found.get("mean", found)  # of masks that were evaluated case by case
    shown = [f"{METRICS[name]} {_number(found[name])}" for name in METRICS if name in found]
    count = results.get("samples", results.get("test_samples", 0))
    never = ", never trained on" if "history" in results else ""
    text = f"{_and(shown)} on {count:,} {results.get('part', 'test')} samples{never}."
    return text[:1].upper() + text[1:]


def training(results: Results) -> str:
    """Return the report of one training run as Markdown.

    Args:
        results: The record that `crossd pretrain` and `crossd finetune` write to `metrics.json`.
    """
    scores = {name: _number(value) for name, value in results["metrics"].items()}
    history = results["history"]
    checked = sorted({name for record in history for name in record.get("val") or {}})
    body = [
        [record["epoch"], _number(record["loss"])]
        + [_number((record.get("val") or {}).get(name)) for name in checked]
        for record in history
    ]
    lines = [
        f"# crossd {results['command']}: {results['model']} on {results['data']}",
        "",
        f"On {results['test_samples']:,} test samples, never trained on:",
        "",
        *grid(list(scores), [list(scores.values())]),
        "",
        "## Training",
        "",
        *grid(["epoch", "loss", *(f"validation {name}" for name in checked)], body),
        *repeat(results),
        "",
        "## Versions",
        "",
        *grid(["library", "version"], list(results["versions"].items())),
    ]
    return "\n".join(lines) + "\n"


def evaluation(results: Results) -> str:
    """Return the report of `crossd evaluate` as Markdown.

    Args:
        results: The record that it writes to `metrics.json`.
    """
    found = results["metrics"]
    lines = [f"# crossd evaluate: {results['data']}", ""]
    lines += [f"{results['samples']:,} {results['part']} samples.", ""]
    if results["task"] == "classification":
        lines += grid(list(found), [[_number(value) for value in found.values()]])
    else:
        columns = ("dice", "dice_sd", "hd95", "nsd", "volume_error_ml")
        counts = ("cases", "missed", "invented")
        body = [
            [name, *(_number(found[name].get(c)) for c in columns),
             *(str(found[name].get(c, MISSING)) for c in counts)]
            for name in (*results["classes"][1:], "mean")
        ]  # fmt: skip
        header = ["class", "Dice", "sd", "HD95 [mm]", "NSD", "volume error [ml]"]
        lines += grid([*header, "cases with it", "missed", "invented"], body)
        lines += [
            "",
            f"HD95: 95th percentile of the distances between surfaces, where there are two. NSD: "
            f"share of the surfaces within {results['config']['tolerance']:g} mm. Missed: cases "
            "that have the class, but not in the prediction; invented: the reverse. Both count as "
            "Dice 0.",
            "",
            "## The worst cases",
            "",
        ]
        for one in results["worst"]:
            lines += [f"![{one['case']}]({one['picture']})", ""]
            lines += [f"{one['case']}: mean Dice {_number(one['dice'])}.", ""]
    lines += [*repeat(results), "", "## Versions", ""]
    lines += grid(["library", "version"], list(results["versions"].items()))
    return "\n".join(lines) + "\n"


def comparison(results: Results, pictures: Mapping[str, str]) -> str:
    """Return the report of `crossd evaluate --protocol` as Markdown.

    Args:
        results: The record that it writes to `metrics.json`; see `crossd.standings`.
        pictures: Title to file name.
    """
    from crossd import standings

    first, keys = results["arms"][0], standings.keys(results)
    fixed = not results["folds"]
    lines = [
        f"# {first} against {_and(results['arms'][1:] or ['nothing'])} on {results['data']}",
        "",
    ]
    lines += [f"- {standings.verdict(results, key)}" for key in keys]
    lines += [f"- Note: {note}." for note in results["notes"]]
    header, body = standings.table(results)
    metric = METRICS.get(results["metric"], results["metric"])
    lines += ["", f"## Mean {metric}", "", *grid(header, body), ""]
    sizes = sorted({row["test"] for row in results["rows"]})
    lines += [
        f"{results['trials']} trials" + ("" if fixed else f" of {results['folds']} folds")
        + f", {' or '.join(f'{n:,}' for n in sizes)} test samples. ±: 95 % interval of the mean. "
        f"†: differs from {first}, p < 0.05 after Holm's correction over arms. "
        + ("The test samples are the same in all trials: intervals and tests speak of labelled "
           "volumes and seeds, on these test samples; the interval over cases speaks of other "
           "test samples." if fixed else "Tests and intervals are corrected for folds that share "
           "training samples (Nadeau and Bengio 2003).")
    ]  # fmt: skip
    for key in keys:
        found = standings.comparisons(results, key)
        if found:
            lines += ["", f"## {first} less the others: {standings.title(key)}", ""]
            lines += grid(
                ["arm", "difference", "interval", "p", "Holm", "Wilcoxon", "won/tied/lost",
                 "interval over cases"],
                [[one["arm"], f"{one['difference']:+.3f}", _interval(one["low"], one["high"]),
                  *(_small(one.get(name)) for name in ("p", "holm", "wilcoxon")),
                  f"{one['wins']}/{one['ties']}/{one['losses']}",
                  _interval(one.get("case_low"), one.get("case_high"))] for one in found],
            )  # fmt: skip
    lines += ["", "## Every score", ""]
    scores = list(dict.fromkeys(n for row in results["rows"] for n in row["metrics"]))
    means = [
        [arm, standings.title(key),
         *(_number(_mean_of(standings.scores(results, key, arm, name))) for name in scores)]
        for key in keys for arm in results["arms"] if standings.scores(results, key, arm)
    ]  # fmt: skip
    lines += grid(["arm", "protocol", *(METRICS.get(n, n) for n in scores)], means)
    for name, path in pictures.items():
        lines += ["", f"## {name}", "", f"![{name}]({path})"]
    lines += [*repeat(results), "", "## Versions", ""]
    lines += grid(["library", "version"], list(results["versions"].items()))
    return "\n".join(lines) + "\n"


def _interval(low: float | None, high: float | None) -> str:
    return MISSING if low is None or high is None else f"{low:+.3f} to {high:+.3f}"


def _small(p: float | None) -> str:
    return MISSING if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def _mean_of(values: Mapping[Any, float]) -> float | None:
    return float(np.mean(list(values.values()))) if values else None


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


def _scores(
    results: Results, names: Sequence[str] | None = None, protocols: Sequence[str] | None = None
) -> tuple[list[str], list[list[str]], list[list[bool]]]:
    """Return header, lines and, cell for cell, whether it is its column's best.

    Where several arms are all equal, none is.
    """
    names = [n for n in metric_names(results) if n in METRICS] if names is None else names
    protocols = results.get("protocols") or [] if protocols is None else protocols
    columns = [(protocol, name) for protocol in protocols for name in names]
    found, run = cells(results), arms(results)
    body = [[arm, *(_number(found.get((arm, *column))) for column in columns)] for arm in run]
    tops = [max((line[1 + i] for line in body if line[1 + i] != MISSING), key=float, default=None)
            for i in range(len(columns))]  # fmt: skip
    for i in range(len(columns)):
        if len(body) > 1 and {line[1 + i] for line in body} == {tops[i]}:
            tops[i] = None
    best = [[False, *(c == top for c, top in zip(line[1:], tops, strict=True))] for line in body]
    labels = [f"{protocol}: {METRICS.get(name, name)}" for protocol, name in columns]
    return ["arm", *labels], body, best


def _explanation(results: Results) -> list[str]:
    """Return a line for each protocol, then the size of the test set and the warning."""
    limit = results.get("limit")
    volumes = f"{limit} labelled volumes" if limit else "all labelled training volumes"
    run = results.get("protocols") or []
    lines = [f"{name}: {PROTOCOLS[name].format(volumes)}." for name in run if name in PROTOCOLS]
    count = results.get("test_samples")
    tested = f"{count} test volume{'s' if count > 1 else ''}; one" if count else "One"
    return [*lines, f"{tested} seed, so the spread between seeds is not shown. Bold: best."]


def _leader(results: Results, order: Sequence[tuple[str, float]]) -> str:
    """Return who is first and by how much, or who shares the first place."""
    if not order:
        return "no arm has a result."
    name, top, count = metric_names(results)[0], order[0][1], results.get("test_samples")
    score = f"{METRICS.get(name, name)} {top:.3f}"
    if name == "accuracy" and count:  # a share of independent samples: binomial
        error = math.sqrt(max(0.0, top * (1 - top)) / count)
        score += f" (standard error {error:.3f} on {count} volumes)"
    tied = [arm for arm, value in order if value == top]
    if len(tied) > 1:
        return f"{_and(tied)} are tied first with {score}."
    if len(order) == 1:
        return f"{tied[0]} is first with {score}, the only arm with a result."
    second, value = order[1]
    return f"{tied[0]} is first with {score}, {top - value:.3f} ahead of the second, {second}."


def _notes(results: Results) -> list[str]:
    """Return the notes of the rows as a list."""
    rows = [row for row in results.get("rows") or [] if row.get("note")]
    return [f"- {row['arm']}, {row['protocol']}: {row['note']}" for row in rows]


def _per_class(results: Results) -> list[str]:
    """Return, for each protocol, the Dice of every class."""
    names = [name for name in metric_names(results) if name not in METRICS]
    lines: list[str] = []
    for protocol in (results.get("protocols") or []) if names else []:
        _, body, best = _scores(results, names, [protocol])
        header = ["arm", *(name.removeprefix("dice_") for name in names)]
        lines += ["", f"## Dice of each class: {protocol}", ""]
        lines += grid(header, _emphasised(body, best))
    return lines


def _pretraining(results: Results) -> list[str]:
    """Return the table of the 2D networks."""
    runs = results.get("pretraining") or []
    names = [name for name in METRICS if any(name in (run.get("metrics") or {}) for run in runs)]
    header = ["network", *(f"2D {METRICS[name]}" for name in names), "epochs", "seconds"]
    rows = []
    for run in runs:
        numbers = [_number((run.get("metrics") or {}).get(name)) for name in names]
        epochs = str(len(run.get("history") or []) or MISSING)
        rows.append([run.get("name"), *numbers, epochs, _number(run.get("seconds"), 1)])
    return ["", "## Pretraining on images", "", *grid(header, rows)] if rows else []


def _cost(results: Results) -> list[str]:
    """Return the table of parameters and seconds."""
    rows = results.get("rows") or []
    spent = {(row["arm"], row["protocol"]): row.get("seconds") for row in rows}
    size = {row["arm"]: row.get("parameters") for row in rows}
    protocols = results.get("protocols") or []
    body = [
        [arm, f"{size[arm]:,}" if size.get(arm) else MISSING,
         *(_number(spent.get((arm, protocol)), 1) for protocol in protocols)]
        for arm in arms(results)
    ]  # fmt: skip
    return ["", "## Cost", "", *grid(["arm", "parameters", *(f"{p}: s" for p in protocols)], body)]


def repeat(results: Results) -> list[str]:
    """Return the configuration and the command that repeats the run."""
    lines = ["", "## How to repeat", ""]
    if results.get("config"):
        block = json.dumps(plain(results["config"]), indent=2, allow_nan=False)
        command = f"crossd {results.get('command', 'transfer')} --config config.yaml --out FOLDER"
        lines += ["Save this as `config.yaml` (JSON is YAML):", "", "```json", block, "```", ""]
    else:
        given = [(name, results.get(name)) for name in ("images", "volumes", "limit", "seed")]
        options = [f"--{name} {shlex.quote(str(v))}" for name, v in given if v is not None]
        command = " ".join(["crossd transfer", *options, "--out FOLDER"])
    return [*lines, "```", command, "```"]


def grid(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Return a Markdown table, its first column to the left and the others to the right."""
    lines = [header, [":--", *["--:"] * (len(header) - 1)], *rows]
    return [
        f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |"
        for line in lines
    ]


def _emphasised(body: list[list[str]], best: list[list[bool]]) -> list[list[str]]:
    """Return the cells with Markdown's bold where they are the best."""
    pairs = [zip(line, marks, strict=True) for line, marks in zip(body, best, strict=True)]
    return [[f"**{cell}**" if mark else cell for cell, mark in line] for line in pairs]


def _number(value: float | None, decimals: int = 3) -> str:
    """Return a number with fixed decimals, or the sign of a missing one."""
    return f"{value:.{decimals}f}" if value is not None and math.isfinite(value) else MISSING


def _and(names: Sequence[str]) -> str:
    """Return "a", "a and b" or "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def plain(value: Any) -> Any:
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
