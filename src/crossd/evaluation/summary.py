"""What a comparison found: intervals, tests, and the tables that show them.

The record that all functions read, `results`, is what `crossd evaluate --protocol` writes to
`metrics.json`: ``arms`` in order, ``metric``, ``ratio`` (see `statistics.paired`) and ``rows``,
the records of the runs.
"""

import csv
import dataclasses
import functools
import io
import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from crossd.evaluation import statistics
from crossd.evaluation.statistics import ALPHA, Paired, Summary
from crossd.training.metrics import main

Results = Mapping[str, Any]
"""The record of `metrics.json`."""

MISSING = "\u2013"
"""The dash that stands where there is no number."""

Key = tuple[str, int]
"""Protocol, and number of labelled volumes."""


def keys(results: Results) -> list[Key]:
    """Return the pairs of protocol and number of labelled volumes, in the order of the runs."""
    return list(dict.fromkeys((row["protocol"], row["limit"]) for row in results["rows"]))


def runs(results: Results, key: Key, arm: str | None = None) -> list[Mapping[str, Any]]:
    """Return the records of the runs of an arm, or of all of them."""
    return [
        row
        for row in results["rows"]
        if (row["protocol"], row["limit"]) == key and arm in (None, row["arm"])
    ]


def scores(
    results: Results, key: Key, arm: str, metric: str | None = None
) -> dict[tuple[int, int], float]:
    """Return an arm's scores by (fold, trial)."""
    name = metric or results["metric"]
    return {
        (row["fold"], row["trial"]): row["metrics"][name]
        for row in runs(results, key, arm)
        if row["metrics"].get(name) is not None and math.isfinite(row["metrics"][name])
    }


def case_scores(results: Results, key: Key, arm: str) -> NDArray[np.float64]:
    """Return an arm's score of every test case, the mean over its runs; NaN where none has one.

    There are none of folds, which have other cases each, nor of a metric that no case has a share
    in. The area under the ROC curve is shared out, see `crossd.training.metrics.area_by_case`.
    """
    if results.get("folds") or results["metric"] not in ("auc", "dice"):
        return np.zeros(0)
    rows = [row.get("cases", ()) for row in runs(results, key, arm)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice")
        return np.nanmean(np.array(rows, float), 0)


def over_cases(
    results: Results, key: Key, arm: str, other: str | None = None
) -> statistics.Interval | None:
    """Give the interval of an arm's score, or of its difference to another's, over test cases.

    Of a score in which every case has a share, by Student's t; of another one by drawing cases
    anew. Scores are means over the runs of an arm.
    """
    if "truth" not in results or results.get("folds"):
        own = case_scores(results, key, arm)
        if other is None:
            return statistics.interval_over_cases(own)
        return statistics.case_interval(own, case_scores(results, key, other))
    rows = [[math.nan if v is None else v for v in row] for row in results["truth"]]
    truth = torch.tensor(rows, dtype=torch.float32)
    both = [_said(results, key, name) for name in (arm, other) if name is not None]
    if not rows or any(said.shape[1:] != truth.shape or not len(said) for said in both):
        return None
    told = (one.numpy().tobytes() for one in (truth, *both))
    return _by_drawing(results["task"], tuple(truth.shape), *told)


@functools.lru_cache(maxsize=1024)
def _by_drawing(
    task: str, shape: tuple[int, ...], truth: bytes, *told: bytes
) -> statistics.Interval | None:
    """Draw cases anew for the score of one arm, or the difference of two.

    Every table, picture and sentence of a report asks for the same intervals, which take seconds.

    Args:
        task: See `crossd.training.metrics.main`.
        shape: Of the truth, ``(cases, K)``.
        truth: Its float32 values, NaN where it is not known.
        *told: Those of what each arm said in all of its runs, ``(runs, cases, K)``.
    """
    known, *both = (
        torch.frombuffer(bytearray(one), dtype=torch.float32).view(-1, *shape)
        for one in (truth, *told)
    )

    def score(places: NDArray[np.int64]) -> float:
        means = [
            float(np.mean([main(task, said[places], known[0, places]) for said in one]))
            for one in both
        ]
        return means[0] - sum(means[1:])

    return statistics.bootstrap(score, shape[0])


def _said(results: Results, key: Key, arm: str) -> torch.Tensor:
    """Return what an arm said of every test case in each of its runs, ``(runs, cases, K)``."""
    rows = [row["said"] for row in runs(results, key, arm) if "said" in row]
    return torch.tensor(rows, dtype=torch.float32)


def summaries(results: Results, key: Key) -> dict[str, Summary]:
    """Return mean, standard deviation and interval of every arm that was run.

    The interval is over repetitions or, where there is one alone, over its test samples; it is cut
    to what the score can be.
    """
    found = {}
    for arm in results["arms"]:
        values = scores(results, key, arm)
        if not values:
            continue
        one = statistics.summarise(list(values.values()), _ratio(results, key))
        if one.count == 1:
            one = dataclasses.replace(one, interval=over_cases(results, key, arm))
        cut = statistics.within(one.interval, results["metric"])
        found[arm] = dataclasses.replace(one, interval=cut)
    return found


def comparisons(results: Results, key: Key) -> dict[str, Paired]:
    """Compare the first arm with each other one over the repetitions that both have."""
    first, *others = results["arms"]
    own = scores(results, key, first)
    found = {}
    for arm in others:
        other = scores(results, key, arm)
        both = sorted(own.keys() & other.keys())
        if both:
            pairs = [own[k] for k in both], [other[k] for k in both]
            found[arm] = dataclasses.replace(
                statistics.paired(*pairs, _ratio(results, key)),
                over_cases=over_cases(results, key, first, arm),
            )
    tested = {arm: one.p for arm, one in found.items() if one.p is not None}
    adjusted = dict(zip(tested, statistics.holm(list(tested.values())), strict=True))
    return {arm: dataclasses.replace(one, holm=adjusted.get(arm)) for arm, one in found.items()}


def _ratio(results: Results, key: Key) -> float:
    """Test samples over training samples, where folds share them."""
    if not results.get("folds"):
        return 0.0
    return float(np.mean([row["test"] / row["train"] for row in runs(results, key)]))


def title(key: Key) -> str:
    """Put a protocol and a number of labelled volumes in words.

    Example:
        >>> title(("probe", 110)), title(("zero", 0))
        ('probe, 110 labelled', 'zero')
    """
    return f"{key[0]}, {key[1]:,} labelled" if key[1] else key[0]


def table(results: Results, level: float = ALPHA) -> tuple[list[str], list[list[str]]]:
    """Return header and lines: an arm a line, a column each protocol and number of volumes.

    A cell holds the mean and its 95 % interval (see `summaries`); a dagger marks a mean that
    differs from the first arm's (corrected test, p adjusted by Holm, below the level).
    """
    columns = keys(results)
    body = [[arm] for arm in results["arms"]]
    for key in columns:
        found = summaries(results, key)
        marked = {arm for arm, one in comparisons(results, key).items() if one.is_sure(level)}
        for line in body:
            one = found.get(line[0])
            if one is None:
                line.append(MISSING)
                continue
            ends = "" if one.interval is None else " ({:.3f} to {:.3f})".format(*one.interval)
            line.append(f"{one.mean:.3f}{ends}{'†' if line[0] in marked else ''}")
    return ["arm", *map(title, columns)], body


def best(results: Results, key: Key, among: Sequence[str]) -> str | None:
    """Return the arm of the highest mean among those given; None where none was run."""
    found = summaries(results, key)
    known = [arm for arm in found if arm in among]
    return max(known, key=lambda arm: found[arm].mean) if known else None


NEAR = 0.01
"""A difference of means up to which the first arm is as good a choice as the best."""


def advice(results: Results) -> str:
    """Say which arm to take, by protocol and number of labelled volumes.

    The first arm, where it is within `NEAR` of the best one; else the best one, and whether its
    lead is sure, as `verdict` tells it. A second sentence names the trainings on labelled volumes
    after which no arm was better than the best one without them.

    Example:
        >>> row = {"arm": "a", "protocol": "zero", "limit": 0, "fold": 0, "trial": 0}
        >>> rows = [{**row, "metrics": {"auc": 0.8}}, {**row, "arm": "b", "metrics": {"auc": 0.9}}]
        >>> advice({"arms": ["a", "b"], "metric": "auc", "folds": 0, "rows": rows})
        'Take b (zero: 0.900, level with the 0.800 of a).'
    """
    first = results["arms"][0]
    told: dict[str, list[str]] = {}
    for key in keys(results):
        found, best = _means(results, key), taken(results, key)
        if best is None:
            continue
        text = f"{title(key)}: {found[best]:.3f}"
        if best != first and first in found:
            sure = _is_sure(comparisons(results, key)[best])
            how = "ahead of" if sure else "level with"
            text += f", {how} the {found[first]:.3f} of {first}"
        told.setdefault(best, []).append(text)
    if not told:
        return "There is nothing to take: no score is known."
    takes = [f"{arm} ({'; '.join(texts)})" for arm, texts in told.items()]
    return " ".join([f"Take {', '.join(takes)}.", *_in_vain(results)])


def _in_vain(results: Results) -> list[str]:
    """Say which trainings on labelled volumes left every arm below the best one without any."""
    without = _means(results, ("zero", 0))
    if not without:
        return []
    best = max(without, key=without.__getitem__)
    found = {key: means for key in keys(results) if (means := _means(results, key))}
    tops = {key: max(means.values()) for key, means in found.items()}
    worse = [f"{title(key)} ({tops[key]:.3f})" for key in below_unlabelled(tops)]
    if not worse:
        return []
    return [
        f"Labelled volumes did not help in {'; '.join(worse)}: {best} has {without[best]:.3f} "
        "without any."
    ]


def below_unlabelled(scores: Mapping[Key, float]) -> list[Key]:
    """List the trainings on labelled volumes whose score is below that without any.

    Example:
        >>> below_unlabelled({("zero", 0): 0.9, ("linear", 10): 0.8, ("linear", 50): 0.95})
        [('linear', 10)]
    """
    without = scores.get(("zero", 0), -math.inf)
    return [key for key, score in scores.items() if score < without]


def _means(results: Results, key: Key) -> dict[str, float]:
    known = {arm: [*scores(results, key, arm).values()] for arm in results["arms"]}
    return {arm: float(np.mean(values)) for arm, values in known.items() if values}


def taken(results: Results, key: Key) -> str | None:
    """Choose the arm that `advice` says to take; None where no score is known."""
    found, first = _means(results, key), results["arms"][0]
    if not found:
        return None
    best = max(found, key=found.__getitem__)
    return first if first in found and found[best] - found[first] <= NEAR else best


def ways_of(results: Results, key: Key, arm: str) -> dict[str, int]:
    """Count the ways in which an arm was used over its runs, the most frequent first."""
    found = Counter(row["way"] for row in runs(results, key, arm) if "way" in row)
    return dict(found.most_common())


def verdict(results: Results, key: Key, level: float = ALPHA) -> str:
    """Say how the first arm stands against the best of the others.

    It is ahead or behind where no interval of the difference, over repetitions or over test
    samples, holds zero, and a test that could be made finds it; else both are called level.
    """
    first = results["arms"][0]
    rival = best(results, key, results["arms"][1:])
    found = summaries(results, key)
    if first not in found or rival is None:
        return f"{title(key)}: {first} has nothing to be compared with."
    one = comparisons(results, key)[rival]
    gap = one.difference
    spans = _spans(one)
    sure = _is_sure(one, level)
    way = f"{abs(gap):.3f} {'ahead of' if gap > 0 else 'behind'}" if sure else "level with"
    text = f"{title(key)}: {first} ({found[first].mean:.3f}) is {way} {rival}"
    text += f" ({found[rival].mean:.3f}), the best other arm"
    told = [f"over {over} {a:+.3f} to {b:+.3f}" for over, (a, b) in spans.items()]
    if one.holm is not None:
        told.append(f"p {one.p:.2g}, by Holm {one.holm:.2g}")
    if not told:
        return f"{text}: one repetition says nothing of a difference of {gap:+.3f}."
    return f"{text} (difference {gap:+.3f}; {'; '.join(told)})."


def _spans(one: Paired) -> dict[str, statistics.Interval]:
    """Name the intervals of a difference that are known."""
    known = {"repetitions": one.interval, "test samples": one.over_cases}
    return {over: ends for over, ends in known.items() if ends is not None}


def _is_sure(one: Paired, level: float = ALPHA) -> bool:
    """Tell whether an arm is ahead or behind, and not level; see `verdict`."""
    spans = _spans(one).values()
    clear = bool(spans) and all(a > 0 or b < 0 for a, b in spans)
    return clear and (one.holm is None or one.is_sure(level))


def runs_csv(results: Results) -> str:
    """Write every run as a line of a csv."""
    names = list(dict.fromkeys(n for row in results["rows"] for n in row["metrics"]))
    fields = ["arm", "protocol", "limit", "fold", "trial", "train", "test", "seconds"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*fields, *names])
    for row in results["rows"]:
        values = [row["metrics"].get(name) for name in names]
        shown = ["" if v is None else f"{v:.6g}" for v in values]
        writer.writerow([*(row[field] for field in fields), *shown])
    return text.getvalue()


def latex(results: Results) -> str:
    """Write the table for LaTeX (package booktabs)."""
    header, body = table(results)
    known = {"†": r"$^\dagger$", MISSING: "--", "_": r"\_", "%": r"\%"}

    def line(cells: Sequence[str]) -> str:
        text = " & ".join(cells)
        for sign, written in known.items():
            text = text.replace(sign, written)
        return rf"{text} \\"

    rows = [line(header), r"\midrule", *map(line, body)]
    begin = rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}"
    return "\n".join([begin, r"\toprule", *rows, r"\bottomrule", r"\end{tabular}"]) + "\n"


def blocks(results: Results) -> tuple[list[str], NDArray[np.float64]]:
    """Return the arms that were run everywhere else than under zero, and their scores.

    Returns:
        Names, and scores ``(blocks, arms)``; a block is a repetition under a protocol and a number
        of labelled volumes.
    """
    wanted = [key for key in keys(results) if key[1]] or keys(results)
    arms = [a for a in results["arms"] if all(scores(results, key, a) for key in wanted)]
    rows = []
    for key in wanted:
        each = [scores(results, key, arm) for arm in arms]
        shared = sorted(set.intersection(*(set(one) for one in each))) if each else []
        rows += [[one[k] for one in each] for k in shared]
    return arms, np.array(rows)


def groups(ranks: Sequence[float], difference: float) -> list[tuple[int, int]]:
    """Find the longest runs of arms, sorted by rank, that do not differ significantly.

    Example:
        >>> groups([1.0, 1.5, 3.0, 3.2], 1.0)
        [(0, 1), (2, 3)]
    """
    found: list[tuple[int, int]] = []
    for i in range(len(ranks)):
        j = max(k for k in range(i, len(ranks)) if ranks[k] - ranks[i] <= difference)
        if j > i and not (found and found[-1][1] >= j):
            found.append((i, j))
    return found


def limits(results: Results, protocol: str) -> list[int]:
    """Return the numbers of labelled volumes under a protocol, ascending."""
    return sorted({n for name, n in keys(results) if name == protocol and n})
