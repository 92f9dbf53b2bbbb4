"""What a comparison of arms found: who won, by how much, and how sure that is."""

import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossd.data.source import Source
from crossd.evaluation import summary
from crossd.evaluation.experiment import Run, masks_of
from crossd.evaluation.statistics import Interval
from crossd.evaluation.summary import MISSING, Results
from crossd.evaluation.ways import ENOUGH
from crossd.reports import curves, html, pictures, plots, shown_cases, truth_plots
from crossd.reports import markdown as reports
from crossd.reports.markdown import METRICS, ended, grid, join_words, number, section
from crossd.tasks import task_of

FEW = 5
"""Repetitions below which a comparison says little."""

MANY = 12
"""Test samples up to which each of them has a line in a table."""

INTERVAL = (
    "In brackets: 95 % interval of the mean over repetitions or, of a single one, over its test "
    "samples"
)


def notes(source: Source, repetitions: int, folds: int = 0) -> list[str]:
    """Say what a reader must know of how sure a comparison can be.

    Args:
        source: What is compared on.
        repetitions: Of every run.
        folds: Of a cross-validation; 0 for none.
    """
    found = []
    if folds:
        found.append(
            "folds are made of all samples: the weights must not have been trained on any of them"
        )
    if repetitions < FEW:
        found.append(
            f"{repetitions} repetition{'s' * (repetitions > 1)} of each training: other labelled "
            f"volumes and seeds may say otherwise; give --trials {FEW} or more"
        )
    seen, masks = source.val.labels, task_of(source.task).masks
    if not folds and len(source.val) < ENOUGH[masks]:
        found.append(
            f"{len(source.val)} validation samples are too few to choose by, which takes "
            f"{ENOUGH[masks]}: each arm was used in its first way"
        )
    elif source.task == "classification" and seen is not None and not folds:
        lost = [name for k, name in enumerate(source.classes) if k not in seen]
        if lost:
            found.append(
                f"no validation sample is of {join_words(lost)}: what these samples choose is "
                "chosen by the other classes"
            )
    if masks and source.plan is not None:
        spacing = " x ".join(f"{mm:g}" for mm in source.plan.spacing)
        found.append(
            f"masks are scored in the grid that volumes are resampled to ({spacing} mm); crossd "
            "evaluate without --protocol scores them in the grid of each file"
        )
    labels = source.test.labels
    if source.task == "classification" and labels is not None and not folds:
        share = np.bincount(labels).max() / len(labels)
        found.append(f"to name the largest class of all test samples is right for {share:.3f}")
    return found


def write(results: Results, folder: Path, source: Source) -> None:
    """Write `metrics.json`, the reports, the tables and the plots of a comparison.

    Args:
        results: The record; see `crossd.evaluation.summary`.
        folder: Where to write, and where masks of the first test volumes are kept.
        source: What was compared on, to show cases of it.
    """
    key = summary.keys(results)[0]
    drawn = {"Scores": "scores.png"}
    plots.scores(results, folder / "scores.png")
    if len(results["arms"]) > 1:
        drawn["Differences"] = "differences.png"
        plots.differences(results, folder / "differences.png")
    if any(len(summary.limits(results, name)) > 1 for name, _ in summary.keys(results)):
        plots.efficiency(results, folder / "efficiency.png")
        drawn["Over labelled volumes"] = "efficiency.png"
    if plots.ranks(results, folder / "ranks.png"):
        drawn["Mean ranks"] = "ranks.png"
    if results.get("pretraining") or any(row.get("history") for row in results["rows"]):
        curves.comparison(results, folder / "curves.png")
        drawn["Learning curves"] = "curves.png"
    counts = _confusions(results, key)
    if counts:
        pictures.confusions(counts, source.classes, folder / "confusion.png")
        drawn[f"Confusion of classes: {summary.title(key)}"] = "confusion.png"
    drawn |= _against_truth(results, key, folder)
    text = markdown(results, drawn, reports.cost(results["seconds"]))
    masks = {arm: masks_of(Run(arm, *key, 0, 0), folder) for arm in results["arms"]}
    cases = shown_cases.comparison_cases(results, source, masks)
    more = {
        "report.html": html.render(text, summary.verdict(results, key), folder, cases),
        "runs.csv": summary.runs_csv(results),
        "table.tex": summary.latex(results),
    }
    reports.write(results, folder, text, more)


def printed(results: Results, folder: Path) -> str:
    """Return what to print: which arm to take, the table, scores of few samples, what they say.

    Args:
        results: The record.
        folder: Where the reports are.
    """
    from rich.console import Console
    from rich.table import Table

    metric = METRICS.get(results["metric"], results["metric"])
    tables = [(f"Mean {metric}", summary.table(results)), *list(_each_sample(results).items())[:1]]
    text = io.StringIO()
    console = Console(file=text, width=120)
    for title, (header, body) in tables:
        drawn = Table(title=title, title_justify="left")
        for name in header:
            drawn.add_column(name, justify="left" if name == header[0] else "right")
        for line in body:
            drawn.add_row(*line)
        console.print(drawn)
    console.print(f"{INTERVAL}.", highlight=False)
    verdicts = _used(results, results["arms"][:1])
    verdicts += [summary.verdict(results, key) for key in summary.keys(results)]
    written = f"written: {folder}/report.html, report.md, runs.csv, table.tex, metrics.json, plots"
    if "use" in results:
        told = results["use"] or [no_command(results)]
        verdicts += ["To use it without labels:", *(f"  {line}" for line in told)]
    return "\n".join([summary.advice(results), "", text.getvalue(), *verdicts, written])


def no_command(results: Results) -> str:
    """Say where to look for an arm, as it was used without labels, that no command makes."""
    key = ("zero", 0)
    arm = summary.taken(results, key)
    used = join_words([*summary.ways_of(results, key, arm or "")])
    how = f" ({used})" if used else ""
    return (
        f"No command makes {arm} as it was used{how}; crossd.evaluation.arms.ARMS[{arm!r}] makes "
        "it in Python."
    )


def markdown(results: Results, drawn: Mapping[str, str], spent: Sequence[str]) -> str:
    """Return the report as Markdown.

    Args:
        results: The record.
        drawn: Title to file name of pictures.
        spent: See `crossd.reports.markdown.cost`.
    """
    first, keys = results["arms"][0], summary.keys(results)
    lines = [
        f"# {first} against {join_words(results['arms'][1:] or ['nothing'])} on {results['data']}",
        "",
    ]
    lines += [summary.advice(results), ""]
    lines += [f"- {summary.verdict(results, key)}" for key in keys]
    lines += [f"- {text}" for text in _used(results, results["arms"][:1])]
    lines += [f"- Note: {note}." for note in results["notes"]]
    if "use" in results:
        told = ["```console", *results["use"], "```"] if results["use"] else [no_command(results)]
        lines += section("To use it without labels", told)
    metric = METRICS.get(results["metric"], results["metric"])
    lines += [*section(f"Mean {metric}", grid(*summary.table(results))), ""]
    sizes = sorted({row["test"] for row in results["rows"]})
    lines += [
        f"{results['trials']} trial{'s' * (results['trials'] > 1)}"
        + (f" of {results['folds']} folds" if results["folds"] else "")
        + f", {' or '.join(f'{n:,}' for n in sizes)} test samples. {INTERVAL}. "
        f"†: differs from {first}, p < 0.05 after Holm's correction over arms. "
        + (
            "Tests and intervals are corrected for folds that share training samples (Nadeau and "
            "Bengio 2003)."
            if results["folds"]
            else "The test samples are the same in all trials: intervals and tests over trials "
            "speak of labelled volumes and seeds, on these test samples; the interval over cases "
            "speaks of other test samples."
        )
    ]
    for title, (header, body) in _each_sample(results).items():
        lines += section(title, grid(header, body))
    for key in keys:
        found = summary.comparisons(results, key)
        if found:
            table = grid(
                [
                    "arm",
                    "difference",
                    "interval",
                    "p",
                    "Holm",
                    "Wilcoxon",
                    "won/tied/lost",
                    "interval over cases",
                ],
                [
                    [
                        arm,
                        f"{one.difference:+.3f}",
                        _interval(one.interval),
                        *map(_small, (one.p, one.holm, one.wilcoxon)),
                        f"{one.wins}/{one.ties}/{one.losses}",
                        _interval(one.over_cases),
                    ]
                    for arm, one in found.items()
                ],
            )
            lines += section(f"{first} less the others: {summary.title(key)}", table)
    lines += _ways(results)
    scores = list(dict.fromkeys(n for row in results["rows"] for n in row["metrics"]))
    means = [
        [
            arm,
            summary.title(key),
            *(number(_mean(summary.scores(results, key, arm, name).values())) for name in scores),
        ]
        for key in keys
        for arm in results["arms"]
        if summary.scores(results, key, arm)
    ]
    header = ["arm", "protocol", *(METRICS.get(n, n) for n in scores)]
    lines += section("Every score", grid(header, means))
    for name, path in drawn.items():
        lines += section(name, [f"![{name}]({path})"])
    return ended([*lines, *_pretraining(results), *_cost(results), *spent], results)


def _used(results: Results, arms: Sequence[str]) -> list[str]:
    """Say in which way arms were used, and how that was chosen; once for all that had the same."""
    found: dict[str, list[str]] = {}
    for key in summary.keys(results):
        for arm in arms:
            used = summary.ways_of(results, key, arm)
            rows = [row for row in summary.runs(results, key, arm) if row.get("way")]
            if not rows:
                continue
            often = [f"{way} ({n} of {len(rows)})" if len(used) > 1 else way
                     for way, n in used.items()]  # fmt: skip
            count = len(rows[0].get("considered") or ())
            best = f", the best of {count} ways on the validation samples" if count else ""
            text = f"{arm} was used as {join_words(often)}{best}"
            found.setdefault(text, []).append(summary.title(key))
    return [f"{'; '.join(titles)}: {text}." for text, titles in found.items()]


def _ways(results: Results) -> list[str]:
    """Return the tables of what each way of using an arm was worth on the validation samples.

    Protocols for which the same was chosen by the same scores share a table.
    """
    tables: dict[str, tuple[list[str], list[str]]] = {}
    for key in summary.keys(results):
        rows = [row for row in summary.runs(results, key) if row.get("considered")]
        arms = [arm for arm in results["arms"] if any(row["arm"] == arm for row in rows)]
        if not arms:
            continue
        names = list(dict.fromkeys(way for row in rows for way in row["considered"]))
        body = []
        for way in names:
            cells = []
            for arm in arms:
                own = [row for row in rows if row["arm"] == arm]
                known = [v for row in own if (v := row["considered"].get(way)) is not None]
                times = sum(row["way"] == way for row in own)
                mark = "" if not times else " ✓" if len(own) == 1 else f" ✓ {times} of {len(own)}"
                cells.append(f"{number(_mean(known))}{mark}" if known else MISSING)
            body.append([way, *cells])
        table = grid(["way", *arms], body)
        tables.setdefault("\n".join(table), (table, []))[1].append(summary.title(key))
    said = (
        "Scores on the validation samples, the mean over repetitions. ✓: the way that was "
        "chosen, and scored on the test samples."
    )
    lines: list[str] = []
    for table, titles in tables.values():
        title = f"What the validation samples chose: {'; '.join(titles)}"
        lines += section(title, [said, "", *table])
    return lines


def _each_sample(results: Results) -> dict[str, tuple[list[str], list[list[str]]]]:
    """Give the scores of every test sample as tables by title, where there are few samples."""
    names = results.get("cases") or []
    if results["folds"] or results["metric"] != "dice" or not 1 < len(names) <= MANY:
        return {}
    found = {}
    for key in summary.keys(results):
        arms = [arm for arm in results["arms"] if summary.scores(results, key, arm)]
        columns = [summary.case_scores(results, key, arm) for arm in arms]
        lines = [[name, *map(number, row)] for name, *row in zip(names, *columns, strict=True)]
        found[f"Every test sample: {summary.title(key)}"] = (["sample", *arms], lines)
    return found


def _against_truth(results: Results, key: summary.Key, folder: Path) -> dict[str, str]:
    """Draw what each arm said of findings or numbers in its first run; title to file name."""
    if "truth" not in results:
        return {}
    truth = np.array([[np.nan if v is None else v for v in row] for row in results["truth"]])
    rows = summary.runs(results, key)
    first = {row["arm"]: np.array(row["said"]) for row in reversed(rows) if "said" in row}
    answers = {arm: (first[arm], truth) for arm in results["arms"] if arm in first}
    found = truth_plots.draw_all(
        answers, results["task"], results["classes"], results["units"], folder
    )
    return {f"{title}: {summary.title(key)}": name for title, name in found.items()}


def _confusions(results: Results, key: summary.Key) -> dict[str, NDArray[np.int64]]:
    """Add up the confusion of classes of every arm over its runs."""
    found: dict[str, NDArray[np.int64]] = {}
    for row in summary.runs(results, key):
        if "confusion" in row:
            found[row["arm"]] = found.get(row["arm"], 0) + np.array(row["confusion"])
    return found


def _pretraining(results: Results) -> list[str]:
    """Return the table of the 2D networks."""
    runs = results.get("pretraining") or []
    names = [name for name in METRICS if any(name in run["metrics"] for run in runs)]
    header = ["network", *(f"2D {METRICS[name]}" for name in names), "epochs", "seconds"]
    rows = [
        [
            run["name"],
            *(number(run["metrics"].get(name)) for name in names),
            str(len(run["history"])),
            number(run["seconds"], 1),
        ]
        for run in runs
    ]
    images = f"On slices or images of {results.get('images')}, scored on those held out."
    return section("Pretraining on images", [images, "", *grid(header, rows)]) if rows else []


def _cost(results: Results) -> list[str]:
    """Return the table of parameters, and of the mean seconds of a run."""
    keys = summary.keys(results)
    size = {row["arm"]: row.get("parameters") for row in results["rows"]}
    body = []
    for arm in results["arms"]:
        spent = [[run["seconds"] for run in summary.runs(results, key, arm)] for key in keys]
        means = [number(_mean(one), 1) for one in spent]
        body.append([arm, f"{size[arm]:,}" if size.get(arm) else MISSING, *means])
    header = ["arm", "parameters", *(f"{summary.title(key)}: s" for key in keys)]
    return section("Cost", grid(header, body))


def _interval(ends: Interval | None) -> str:
    return MISSING if ends is None else "{:+.3f} to {:+.3f}".format(*ends)


def _small(p: float | None) -> str:
    return MISSING if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def _mean(values: Collection[float]) -> float | None:
    return float(np.mean(list(values))) if values else None
