"""What `crossd evaluate --protocol` found: who won, by how much, and how sure that is."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from crossd.evaluation import summary
from crossd.evaluation.summary import MISSING, Results
from crossd.reports.markdown import METRICS, ending, grid, joined, number


def markdown(results: Results, pictures: Mapping[str, str]) -> str:
    """Return the report of `crossd evaluate --protocol` as Markdown.

    Args:
        results: The record that it writes to `metrics.json`; see `crossd.evaluation.summary`.
        pictures: Title to file name.
    """
    first, keys = results["arms"][0], summary.keys(results)
    fixed = not results["folds"]
    lines = [
        f"# {first} against {joined(results['arms'][1:] or ['nothing'])} on {results['data']}",
        "",
    ]
    lines += [f"- {summary.verdict(results, key)}" for key in keys]
    lines += [f"- Note: {note}." for note in results["notes"]]
    header, body = summary.table(results)
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
        found = summary.comparisons(results, key)
        if found:
            lines += ["", f"## {first} less the others: {summary.title(key)}", ""]
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
        [arm, summary.title(key),
         *(number(_mean_of(summary.scores(results, key, arm, name))) for name in scores)]
        for key in keys for arm in results["arms"] if summary.scores(results, key, arm)
    ]  # fmt: skip
    lines += grid(["arm", "protocol", *(METRICS.get(n, n) for n in scores)], means)
    for name, path in pictures.items():
        lines += ["", f"## {name}", "", f"![{name}]({path})"]
    lines += ending(results)
    return "\n".join(lines) + "\n"


def _interval(low: float | None, high: float | None) -> str:
    return MISSING if low is None or high is None else f"{low:+.3f} to {high:+.3f}"


def _small(p: float | None) -> str:
    return MISSING if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def _mean_of(values: Mapping[Any, float]) -> float | None:
    return float(np.mean(list(values.values()))) if values else None
