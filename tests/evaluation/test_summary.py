"""Tables, verdicts and groups of a comparison whose numbers are known."""

import csv
import dataclasses
import io
from typing import Any

import numpy as np
import pytest
import torch
from helpers import some

from crossd.evaluation import statistics, summary
from crossd.evaluation.summary import MISSING
from crossd.tasks import task_of
from crossd.training import metrics

SCORES = {"ours": [0.9, 0.92, 0.91, 0.93], "acs": [0.8, 0.83, 0.8, 0.84], "scratch": [0.9] * 4}


def record(**more: Any) -> dict[str, Any]:
    rows = [
        {"arm": arm, "protocol": "probe", "limit": 10, "fold": 0, "trial": t, "train": 10,
         "test": 20, "seconds": 1.0, "metrics": {"auc": v, "accuracy": v / 2},
         "cases": [float(i < 20 * v) for i in range(20)]}
        for arm, values in SCORES.items() for t, v in enumerate(values)
    ]  # fmt: skip
    rows += [{**rows[0], "protocol": "zero", "limit": 0, "metrics": {"auc": 0.7}}]
    return {"arms": list(SCORES), "metric": "auc", "folds": 0, "rows": rows} | more


def test_summaries_and_comparisons_are_those_of_stats() -> None:
    results, key = record(), ("probe", 10)
    assert summary.keys(results) == [key, ("zero", 0)]
    assert summary.summaries(results, key)["acs"] == statistics.summarise(SCORES["acs"])
    acs, scratch = summary.comparisons(results, key).values()
    expected = statistics.paired(SCORES["ours"], SCORES["acs"])
    assert dataclasses.replace(acs, holm=None, over_cases=None) == expected
    assert acs.p is not None and scratch.p is not None
    assert [acs.holm, scratch.holm] == statistics.holm([acs.p, scratch.p])
    assert acs.over_cases is not None
    assert acs.over_cases[0] < acs.difference < acs.over_cases[1]
    assert summary.comparisons(results, ("zero", 0)) == {}


def test_folds_are_corrected() -> None:
    key = ("probe", 10)
    plain = summary.comparisons(record(), key)["acs"]
    folded = summary.comparisons(record(folds=5), key)["acs"]
    expected = statistics.paired(SCORES["ours"], SCORES["acs"], ratio=2.0)
    assert folded.p == expected.p and expected.p is not None and plain.p is not None
    assert expected.p > plain.p
    assert folded.over_cases is None


def test_the_table_marks_what_differs() -> None:
    header, body = summary.table(record())
    assert header == ["arm", "probe, 10 labelled", "zero"]
    lines = {line[0]: line[1:] for line in body}
    own = statistics.summarise(SCORES["ours"])
    ends = statistics.interval_over_cases([1.0] * 18 + [0.0] * 2)
    assert ends is not None
    assert own.interval is not None
    assert lines["ours"] == [
        "0.915 ({:.3f} to {:.3f})".format(*own.interval),
        "0.700 ({:.3f} to {:.3f})".format(*ends),  # of a single run: over its test samples
    ]
    assert lines["acs"][0].endswith("†") and lines["acs"][1] == MISSING
    assert not lines["scratch"][0].endswith("†")
    text = summary.latex(record())
    assert text.count(r"\\") == 4 and r"$^\dagger$" in text


def test_the_verdict_names_the_best_rival_and_says_lost() -> None:
    assert summary.best(record(), ("probe", 10), list(SCORES)) == "ours"
    text = summary.verdict(record(), ("probe", 10))
    assert (
        "ours (0.915) is level with scratch (0.900), the best other arm (difference +0.015" in text
    )
    assert "over repetitions -" in text and "over test samples" in text and "by Holm" in text
    lost = record(arms=["acs", "ours", "scratch"])
    text = summary.verdict(lost, ("probe", 10))
    assert "acs (0.817) is level with ours (0.915)" in text  # other test samples may say otherwise
    for row in lost["rows"]:
        row["cases"] = []
    text = summary.verdict(lost, ("probe", 10))
    assert "acs (0.817) is 0.098 behind ours (0.915)" in text
    assert "nothing to be compared with" in summary.verdict(lost, ("zero", 0))


@pytest.mark.parametrize(
    ("gain", "cases", "words"),
    [
        (0.1, [0.8, 0.7, 0.9, 0.8, 0.85], "ours (0.910) is 0.100 ahead of acs"),
        (-0.1, [0.8, 0.7, 0.9, 0.8, 0.85], "ours (0.710) is 0.100 behind acs"),
        (0.002, [0.8, 0.7, 0.9, 0.8, 0.85], "ours (0.812) is level with acs"),
        (0.1, [0.8], "ours (0.910) is level with acs"),
    ],
)
def test_nothing_is_ahead_within_its_interval(gain: float, cases: list[float], words: str) -> None:
    """One run of each: what is known of the difference is its interval over test samples."""
    noise = np.array([0.01, -0.01, 0.02, -0.02, 0.0])[: len(cases)]
    pairs = {"ours": np.array(cases) + gain + noise, "acs": np.array(cases)}
    rows = [
        {"arm": arm, "protocol": "zero", "limit": 0, "fold": 0, "trial": 0, "train": 1, "test": 5,
         "metrics": {"dice": 0.81 + (arm == "ours") * gain}, "cases": own.tolist()}
        for arm, own in pairs.items()
    ]  # fmt: skip
    results = {"arms": list(pairs), "metric": "dice", "folds": 0, "rows": rows}
    assert words in summary.verdict(results, ("zero", 0))


def test_a_case_without_a_score_is_none() -> None:
    """It must not count as zero: the interval would not hold the mean."""
    results = {"arms": ["ours"], "metric": "dice", "folds": 0, "rows": [
        {"arm": "ours", "protocol": "zero", "limit": 0, "fold": 0, "trial": 0,
         "metrics": {"dice": 0.9}, "cases": [0.89, None, 0.91]}]}  # fmt: skip
    one = summary.summaries(results, ("zero", 0))["ours"]
    assert one.interval is not None and 0.75 < one.interval[0] < 0.9 < one.interval[1] < 1.05
    assert np.isnan(summary.case_scores(results, ("zero", 0), "ours")).tolist() == [
        False,
        True,
        False,
    ]


def test_the_csv_has_a_line_a_run() -> None:
    lines = list(csv.DictReader(io.StringIO(summary.runs_csv(record()))))
    assert len(lines) == 13
    assert lines[0]["auc"] == "0.9" and lines[0]["accuracy"] == "0.45"
    assert lines[-1]["accuracy"] == ""


def test_ranks_are_of_repetitions_that_all_have() -> None:
    arms, scores = summary.blocks(record())
    assert arms == list(SCORES)
    assert np.array_equal(scores, np.array(list(SCORES.values())).T)


@pytest.mark.parametrize(
    ("ranks", "least", "expected"),
    [
        ([1.0, 2.0, 3.0], 0.5, []),
        ([1.0, 2.0, 3.0], 1.0, [(0, 1), (1, 2)]),
        ([1.0, 2.0, 3.0], 2.0, [(0, 2)]),
        ([1.0], 2.0, []),
    ],
)
def test_groups(ranks: list[float], least: float, expected: list[tuple[int, int]]) -> None:
    assert summary.groups(ranks, least) == expected


def told(task: str) -> dict[str, Any]:
    """Two arms, the first of which is nearer to the truth."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(60, 2))
    if task == "multilabel":
        truth = (truth > 0).astype(float)
    rows = []
    for trial in range(3):
        for arm, noise in (("ours", 0.3), ("other", 1.5)):
            said = truth + noise * rng.normal(size=truth.shape)
            score = metrics.main(task, torch.from_numpy(said), torch.from_numpy(truth))
            rows.append({"arm": arm, "protocol": "zero", "limit": 0, "fold": 0, "trial": trial,
                         "metrics": {task_of(task).main: score}, "cases": [], "said": said.tolist(),
                         "train": 9, "test": 60})  # fmt: skip
    known = [[None if i % 9 == 0 else v for v in row] for i, row in enumerate(truth.tolist())]
    return {"arms": ["ours", "other"], "metric": task_of(task).main, "folds": 0, "task": task,
            "rows": rows, "truth": known}  # fmt: skip


@pytest.mark.parametrize("task", some(["multilabel", "regression"], ["regression"]))
def test_scores_that_are_no_means_have_intervals_of_drawn_cases(task: str) -> None:
    results, key = told(task), ("zero", 0)
    (one,) = summary.comparisons(results, key).values()
    assert one.over_cases is not None
    low, high = one.over_cases
    assert 0 < low < one.difference < high
    assert "ahead of other" in summary.verdict(results, key)
    ends = summary.over_cases(results, key, "ours")
    assert ends is not None and ends[0] < 1 and ends[1] <= 1.0
    assert summary.over_cases(results, key, "ours", "ours") == (0.0, 0.0)


def test_whole_numbers_are_the_truth_as_decimal_ones_are() -> None:
    whole, key = told("regression"), ("zero", 0)
    whole["truth"] = [[round(10 * (value or 0)) for value in row] for row in whole["truth"]]
    decimal = {**whole, "truth": [[float(value) for value in row] for row in whole["truth"]]}
    asked = (key, "ours", "other")
    ends = summary.over_cases(whole, *asked)
    assert ends is not None and ends == summary.over_cases(decimal, *asked)
    none = [{**row, "said": []} for row in whole["rows"]]
    assert summary.over_cases({**whole, "truth": [], "rows": none}, *asked) is None


def test_scores_that_could_not_be_told_are_left_out() -> None:
    results = told("multilabel")
    results["rows"][0]["metrics"]["auc"] = float("nan")
    assert len(summary.scores(results, ("zero", 0), "ours")) == 2


def test_the_first_arm_is_taken_where_it_is_as_good_as_the_best() -> None:
    results = record()
    assert summary.taken(results, ("probe", 10)) == "ours"
    close = {**results, "arms": ["scratch", "ours", "acs"]}  # 0.015 behind ours
    assert summary.taken(close, ("probe", 10)) == "ours"
    assert summary.advice(close) == (
        "Take ours (probe, 10 labelled: 0.915, level with the 0.900 of scratch; zero: 0.700)."
    )
    for row in close["rows"]:
        row["metrics"]["auc"] = min(row["metrics"]["auc"], 0.905)
    assert summary.taken(close, ("probe", 10)) == "scratch"
    assert summary.taken(close, ("zero", 0)) == "ours"
    assert summary.advice({**close, "rows": []}) == "There is nothing to take: no score is known."


def test_a_training_that_left_every_arm_worse_than_without_it_is_named() -> None:
    def row(arm: str, protocol: str, limit: int, auc: float) -> dict[str, Any]:
        place = {"fold": 0, "trial": 0, "metrics": {"auc": auc}}
        return {"arm": arm, "protocol": protocol, "limit": limit, **place}

    rows = [row("a", "zero", 0, 0.8), row("b", "zero", 0, 0.9)]
    rows += [row("a", "linear", 10, 0.85), row("b", "linear", 10, 0.7)]  # better than a, not than b
    rows += [row("a", "linear", 50, 0.91), row("b", "linear", 50, 0.7)]
    results = {"arms": ["a", "b"], "metric": "auc", "folds": 0, "rows": rows}
    assert summary.advice(results).endswith(
        "). Labelled volumes did not help in linear, 10 labelled (0.850): b has 0.900 without any."
    )
    labelled = {**results, "rows": rows[2:]}
    assert "did not help" not in summary.advice(labelled)
    assert "did not help" not in summary.advice({**results, "rows": [*rows[:2], *rows[4:]]})


def test_ways_are_counted_the_most_frequent_first() -> None:
    results = record()
    for row, way in zip(results["rows"], ["volume", "both", "both", "both"], strict=False):
        row["way"] = way
    assert summary.ways_of(results, ("probe", 10), "ours") == {"both": 3, "volume": 1}
    assert summary.ways_of(results, ("probe", 10), "acs") == {}
