"""What `crossd transfer` found: a table for the terminal, Markdown for people.

All functions read the same record, `results`: a plain dict with `task`, `images`, `volumes`,
`classes`, `limit`, `seed`, `seconds`, `arms`, `protocols`, `pretraining`, `rows`, `config`,
`versions` and, where known, `test_samples`. A row is one arm under one protocol, with its
`metrics`.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from rich.table import Table
from rich.text import Text

from crossd.evaluation.summary import MISSING, Results
from crossd.reports.markdown import METRICS, ending, grid, joined, number

ARMS = ("scratch", "slices", "center", "center-orientations", "inflate", "acs", "triplanar")
CROSSD = (
    *("fourier", "fourier-aligned", "fourier-projection", "projection"),
    *("projection-orientations", "projection-slices", "projection-both"),
)
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
        parts = [f"{verdict} the best other arm {joined(found[verdict])}" for verdict in found]
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
              f"{number(results.get('seconds'), 0)} s in all."]  # fmt: skip
    lines += ["", "## Results", "", *grid(header, _emphasised(body, best)), ""]
    lines += [f"- {sentence}" for sentence in _explanation(results)]
    lines += _notes(results) + _per_class(results)
    for title, path in (pictures or {}).items():
        lines += ["", f"## {title}", "", f"![{title}]({quote(Path(path).as_posix())})"]
    lines += _pretraining(results) + _cost(results) + ending(results)
    return "\n".join(lines) + "\n"


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
    body = [[arm, *(number(found.get((arm, *column))) for column in columns)] for arm in run]
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
        return f"{joined(tied)} are tied first with {score}."
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
        numbers = [number((run.get("metrics") or {}).get(name)) for name in names]
        epochs = str(len(run.get("history") or []) or MISSING)
        rows.append([run.get("name"), *numbers, epochs, number(run.get("seconds"), 1)])
    return ["", "## Pretraining on images", "", *grid(header, rows)] if rows else []


def _cost(results: Results) -> list[str]:
    """Return the table of parameters and seconds."""
    rows = results.get("rows") or []
    spent = {(row["arm"], row["protocol"]): row.get("seconds") for row in rows}
    size = {row["arm"]: row.get("parameters") for row in rows}
    protocols = results.get("protocols") or []
    body = [
        [arm, f"{size[arm]:,}" if size.get(arm) else MISSING,
         *(number(spent.get((arm, protocol)), 1) for protocol in protocols)]
        for arm in arms(results)
    ]  # fmt: skip
    return ["", "## Cost", "", *grid(["arm", "parameters", *(f"{p}: s" for p in protocols)], body)]


def _emphasised(body: list[list[str]], best: list[list[bool]]) -> list[list[str]]:
    """Return the cells with Markdown's bold where they are the best."""
    pairs = [zip(line, marks, strict=True) for line, marks in zip(body, best, strict=True)]
    return [[f"**{cell}**" if mark else cell for cell, mark in line] for line in pairs]
