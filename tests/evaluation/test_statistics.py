"""Statistics, against scipy and against numbers worked by hand or printed in papers."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from crossd.evaluation import statistics


@pytest.fixture
def scores() -> np.ndarray:
    return np.random.default_rng(0).normal(0.8, 0.1, (4, 12))


def test_intervals_and_tests_without_correction_are_those_of_scipy(scores: np.ndarray) -> None:
    a, b = scores[:2]
    one = statistics.summarise(a)
    low, high = scipy_stats.t.interval(0.95, 11, a.mean(), scipy_stats.sem(a))
    assert (one.mean, one.sd, one.count) == pytest.approx((a.mean(), a.std(ddof=1), 12))
    assert one.interval == pytest.approx((low, high))
    both, theirs = statistics.paired(a, b), scipy_stats.ttest_rel(a, b)
    interval = theirs.confidence_interval(0.95)
    assert both.p == pytest.approx(theirs.pvalue) and both.interval == pytest.approx(interval)
    assert both.wilcoxon == pytest.approx(scipy_stats.wilcoxon(a, b).pvalue)
    assert both.wins == (a > b).sum() and both.losses == (a < b).sum() and both.ties == 0


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([0.2, 0.2, 0.1], 0.25),  # all above zero: one of the eight ways to draw signs, twice
        ([0.2, 0.2, -0.2], 1.0),  # ranks 2, 2, 2: a sum of 4 or more in four of eight ways
        ([0.3, 0.1, -0.1], 0.75),  # ranks 3, 1.5, 1.5: 4.5 or more in three of eight, twice
        ([0.3, 0.1, 0.0], 0.5),  # zeros do not count: one of four ways, twice
        ([0.1] * 4 + [-0.1], 0.375),  # ranks 3 each: four or five up in six of 32 ways, twice
    ],
)
def test_wilcoxon_is_exact_with_ties_too(differences: list[float], p: float) -> None:
    found = statistics.paired(differences, [0.0] * len(differences)).wilcoxon
    assert found == pytest.approx(p)


def test_wilcoxon_of_many_is_scipys() -> None:
    x = np.random.default_rng(1).normal(0.2, 1, 60)
    zeros = np.zeros_like(x)
    assert statistics.paired(x, zeros).wilcoxon == pytest.approx(
        scipy_stats.wilcoxon(x, method="approx").pvalue
    )
    few = x[:40]
    assert statistics.paired(few, zeros[:40]).wilcoxon == pytest.approx(
        scipy_stats.wilcoxon(few, method="exact").pvalue
    )


def test_the_correction_by_hand() -> None:
    # Differences 1, 2, 3, 4 with a ratio of 1/9 (ten folds): mean 2.5, variance 5/3.
    found = statistics.paired([1.0, 2, 3, 4], [0.0] * 4, ratio=1 / 9)
    error = math.sqrt((1 / 4 + 1 / 9) * 5 / 3)
    assert error == pytest.approx(0.775791, abs=1e-6)
    assert found.p == pytest.approx(2 * scipy_stats.t.sf(2.5 / error, 3))
    half = 3.182446 * error
    assert found.interval == pytest.approx((2.5 - half, 2.5 + half), abs=1e-6)
    plain = statistics.paired([1.0, 2, 3, 4], [0.0] * 4)
    assert plain.p is not None and found.p is not None and plain.p < found.p


def test_holm_by_hand() -> None:
    assert statistics.holm([]) == []
    assert statistics.holm([0.2]) == [0.2]
    # ordered 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, never falling
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])


def test_one_repetition_has_no_interval_and_equal_ones_no_difference() -> None:
    one = statistics.paired([0.9], [0.8])
    assert (one.interval, one.p, one.wilcoxon, one.wins) == (None, None, None, 1)
    assert statistics.summarise([0.5]) == statistics.Summary(0.5, None, None, 1)
    same = statistics.paired([0.9, 0.8], [0.9, 0.8])
    assert (same.difference, same.p, same.wilcoxon, same.ties) == (0, 1, 1, 2)
    shifted = statistics.paired([0.9, 0.8], [0.8, 0.7])
    assert shifted.p is None and shifted.interval == pytest.approx((0.1, 0.1))


@pytest.mark.parametrize(
    ("first", "second"), [([], []), ([1.0], [1.0, 2.0]), ([np.nan, 1], [0, 1])]
)
def test_scores_that_cannot_be_compared_are_refused(
    first: list[float], second: list[float]
) -> None:
    with pytest.raises(ValueError, match="scores"):
        statistics.paired(first, second)


def test_ranks_and_the_critical_difference() -> None:
    ranks = statistics.mean_ranks([[0.9, 0.8, 0.7], [0.9, 0.9, 0.1]])
    assert ranks.tolist() == [1.25, 1.75, 3.0]
    # Demsar 2006, section 3.2.2: q of 5 classifiers 2.728, of 30 data sets: 1.102
    assert statistics.critical_difference(5, 30) == pytest.approx(
        2.728 * math.sqrt(30 / 180), abs=2e-3
    )


def test_the_interval_over_cases_covers_the_standard_error() -> None:
    right = (np.random.default_rng(1).random((2, 400)) < [[0.9], [0.8]]).astype(float)
    found = statistics.case_interval(*right)
    assert found is not None
    difference = right[0] - right[1]
    error = scipy_stats.t.ppf(0.975, 399) * difference.std(ddof=1) / 20
    assert found == pytest.approx((difference.mean() - error, difference.mean() + error))
    assert statistics.case_interval([0.5], [0.4]) is None


def test_the_interval_of_shares_is_wilsons() -> None:
    found = statistics.interval_over_cases([1.0] * 7 + [0.0] * 3)
    assert found == pytest.approx((0.397, 0.892), abs=1e-3)  # Wilson 1927, 7 of 10
    none_right = statistics.interval_over_cases([0.0] * 4)
    assert none_right is not None and none_right[0] == 0.0
    assert statistics.interval_over_cases([1.0]) is None


def test_cases_without_a_score_are_left_out() -> None:
    """A class that is in neither truth nor answer has no Dice."""
    first, second = [0.9, np.nan, 0.7, 0.8], [0.8, 0.0, np.nan, 0.6]
    assert statistics.interval_over_cases(first) == statistics.interval_over_cases([0.9, 0.7, 0.8])
    assert statistics.case_interval(first, second) == statistics.case_interval(
        [0.9, 0.8], [0.8, 0.6]
    )
    assert statistics.case_interval([0.9, 0.8], [0.8]) is None
