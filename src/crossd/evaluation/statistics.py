"""Statistics of repeated comparisons: intervals, paired tests, their correction, ranks."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.95
"""Of intervals."""

ALPHA = 0.05
"""The p below which a test finds a difference."""

EXACT = 50
"""Differences up to which Wilcoxon's p is exact."""

DRAWS = 500
"""Of cases, for an interval by drawing them anew."""

Indices = NDArray[np.int64]

Interval = tuple[float, float]
"""Lower and upper end, of the level `LEVEL`."""


@dataclasses.dataclass(frozen=True)
class Summary:
    """Repeated values in short.

    Attributes:
        mean: Their mean.
        sd: Standard deviation of one value; None for a single one.
        interval: Of the mean; None for a single value.
        count: How many values there are.
    """

    mean: float
    sd: float | None
    interval: Interval | None
    count: int


@dataclasses.dataclass(frozen=True)
class Paired:
    """Two arms compared over the same repetitions.

    Attributes:
        difference: Mean of the first minus the second.
        interval: Of the difference; None for a single repetition.
        p: Of the corrected resampled t-test, two-sided; None for a single repetition, or where all
            differ by the same: there is no spread to test against.
        wilcoxon: p of Wilcoxon's signed-rank test; None for a single repetition.
        wins: Repetitions in which the first is better.
        ties: In which both are equal.
        losses: In which the second is better.
        holm: p adjusted for the number of such comparisons; None where there is no p,
            and before that was done.
        over_cases: Interval of the difference over test cases; None where the repetitions have not
            the same ones, or they are not known.
    """

    difference: float
    interval: Interval | None
    p: float | None
    wilcoxon: float | None
    wins: int
    ties: int
    losses: int
    holm: float | None = None
    over_cases: Interval | None = None

    def is_sure(self, level: float = ALPHA) -> bool:
        """Tell whether the test finds a difference, the number of comparisons being regarded."""
        return self.holm is not None and self.holm < level


def summarise(values: ArrayLike, ratio: float = 0.0) -> Summary:
    """Give mean, standard deviation and the interval of the mean by Student's t.

    Args:
        values: ``(n,)``.
        ratio: See `paired`.

    Example:
        >>> s = summarise([0.8, 0.9, 1.0])
        >>> round(s.mean, 3), round(s.sd, 3), [round(end, 3) for end in s.interval]
        (0.9, 0.1, [0.652, 1.148])
    """
    x = _finite(values)
    sd = float(x.std(ddof=1)) if len(x) > 1 else None
    return Summary(float(x.mean()), sd, _t(x, ratio)[0], len(x))


def paired(first: ArrayLike, second: ArrayLike, ratio: float = 0.0) -> Paired:
    """Compare two arms by the corrected resampled t-test and by Wilcoxon's signed-rank test.

    Repetitions over folds share training samples, so that their differences are not independent:
    Nadeau and Bengio (2003, Machine Learning 52, 239-281) put ``1/n + ratio`` in place of ``1/n``
    in the variance of the mean. Where the test samples are the same in all repetitions and only
    seeds and labelled samples are drawn, a ratio of 0 makes the statement one on these samples.

    Args:
        first: Scores ``(n,)``.
        second: Scores of the other arm in the same repetitions.
        ratio: Test samples divided by training samples of a repetition; 0 for Student's t-test.

    Raises:
        ValueError: for scores of different number, or that are not finite.

    Example:
        >>> p = paired([0.9, 0.8, 0.9], [0.7, 0.7, 0.9])
        >>> round(p.difference, 3), round(p.p, 3), p.wins, p.ties, p.losses
        (0.1, 0.225, 2, 1, 0)
    """
    a, b = _finite(first), _finite(second)
    if a.shape != b.shape:
        raise ValueError(f"{len(a)} and {len(b)} scores cannot be paired")
    x = a - b
    x[np.isclose(x, 0, atol=1e-12)] = 0
    interval, p = _t(x, ratio)
    return Paired(
        difference=float(x.mean()),
        interval=interval,
        p=p,
        wilcoxon=_wilcoxon(x) if len(x) > 1 else None,
        wins=int((x > 0).sum()),
        ties=int((x == 0).sum()),
        losses=int((x < 0).sum()),
    )


def holm(ps: Sequence[float]) -> list[float]:
    """Adjust the p of several tests for their number (Holm 1979).

    Example:
        >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    order = np.argsort(ps, kind="stable")
    adjusted, least = [0.0] * len(ps), 0.0
    for rank, at in enumerate(order):
        least = max(least, min(1.0, (len(ps) - rank) * ps[at]))
        adjusted[at] = least
    return adjusted


def interval_over_cases(scores: ArrayLike) -> Interval | None:
    """Give the interval of a mean over test cases: Wilson's of shares, Student's t of others.

    Args:
        scores: A score a case ``(cases,)``; NaN for a case without one, which is left out.

    Returns:
        Its ends; None for fewer than two cases.

    Example:
        >>> low, high = interval_over_cases([1.0] * 9)
        >>> round(low, 3), high
        (0.701, 1.0)
    """
    x = np.asarray(scores, float)
    x = x[~np.isnan(x)]
    if len(x) > 1 and np.isin(x, (0.0, 1.0)).all():
        from scipy import stats

        found = stats.binomtest(int(x.sum()), len(x)).proportion_ci(LEVEL, "wilson")
        return float(found.low), float(found.high)
    return _t(x)[0]


def within(ends: Interval | None, metric: str) -> Interval | None:
    """Cut an interval to the values that a score can have.

    Args:
        ends: Of the mean of scores.
        metric: Their name: an ``"r2"`` is 1 at most, all others lie between 0 and 1.

    Returns:
        Its ends; None for an interval of one value: few scores that happen to be the same say
        nothing of how far others may lie.

    Example:
        >>> within((0.9, 1.1), "auc"), within((1.0, 1.0), "auc"), within((-0.5, 1.1), "r2")
        ((0.9, 1.0), None, (-0.5, 1.0))
    """
    if ends is None or ends[0] == ends[1]:
        return None
    least = -math.inf if metric == "r2" else 0.0
    return max(least, ends[0]), min(1.0, ends[1])


def case_interval(first: ArrayLike, second: ArrayLike) -> Interval | None:
    """Give the interval of the mean difference of two arms over test cases, by Student's t.

    Args:
        first: A score a case ``(cases,)``, averaged over repetitions; NaN for a case without one.
        second: Those of the other arm, of the same cases. Where either has none, both are left out.

    Returns:
        Its ends; None for fewer than two cases, or where the cases are not the same ones.
    """
    a, b = np.asarray(first, float), np.asarray(second, float)
    if a.shape != b.shape:
        return None
    x = a - b
    return _t(x[~np.isnan(x)])[0]


def bootstrap(score: Callable[[Indices], float], cases: int, draws: int = DRAWS) -> Interval | None:
    """Give the interval of a score that is no mean over cases, by drawing cases anew (Efron 1979).

    Args:
        score: Of some cases, given by their places ``(cases,)``, one of them perhaps several times;
            NaN where they tell none.
        cases: How many there are.
        draws: How often they are drawn.

    Returns:
        The ends between which the middle 95 % of the scores lie; None for fewer than two cases, or
        where most draws tell no score.

    Example:
        >>> values = np.arange(100.0)
        >>> low, high = bootstrap(lambda places: values[places].mean(), 100)
        >>> 43 < low < 46, 53 < high < 57
        (True, True)
    """
    if cases < 2:
        return None
    rng = np.random.default_rng(0)
    found = np.array([score(rng.integers(cases, size=cases)) for _ in range(draws)])
    found = found[np.isfinite(found)]
    if 2 * len(found) < draws:
        return None
    low, high = np.percentile(found, (100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2))
    return float(low), float(high)


def mean_ranks(scores: ArrayLike) -> NDArray[np.float64]:
    """Rank arms in every block, the best as 1, ties shared, and average.

    Args:
        scores: ``(blocks, arms)``, higher is better.
    """
    from scipy import stats

    ranks = stats.rankdata(-np.asarray(scores, float), axis=1)
    return np.asarray(ranks.mean(0), float)


def critical_difference(arms: int, blocks: int) -> float:
    """Give the least difference of mean ranks that is significant (Nemenyi; Demšar 2006).

    Example:
        >>> round(critical_difference(arms=4, blocks=14), 2)
        1.25
    """
    from scipy import stats

    q = stats.studentized_range.ppf(LEVEL, arms, np.inf) / math.sqrt(2)
    return float(q * math.sqrt(arms * (arms + 1) / (6 * blocks)))


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    x = np.array(values, float).ravel()
    if not len(x) or not np.isfinite(x).all():
        raise ValueError("scores must be finite numbers, and at least one")
    return x


def _t(x: NDArray[np.float64], ratio: float = 0.0) -> tuple[Interval | None, float | None]:
    """Give the interval of the mean and p of its being 0; neither of fewer than two values."""
    from scipy import stats

    n = len(x)
    if n < 2:
        return None, None
    mean = float(x.mean())
    error = math.sqrt((1 / n + ratio) * float(x.var(ddof=1)))
    if error <= 1e-12 * abs(mean):
        return (mean, mean), 1.0 if mean == 0 else None
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * error
    return (mean - half, mean + half), float(2 * stats.t.sf(abs(mean) / error, n - 1))


def _wilcoxon(x: NDArray[np.float64]) -> float:
    """Give the exact p of few differences, also where some are equal; zeros do not count."""
    from scipy import stats

    x = x[x != 0]
    if not len(x):
        return 1.0
    if len(x) > EXACT:
        return float(stats.wilcoxon(x, method="approx").pvalue)
    doubled = np.rint(2 * stats.rankdata(np.abs(x).round(12))).astype(int)
    chances = np.ones(1)  # of every sum of the ranks of those above zero, if signs were drawn
    for rank in doubled:
        chances = (np.pad(chances, (0, rank)) + np.pad(chances, (rank, 0))) / 2
    found = int(doubled[x > 0].sum())
    return min(1.0, 2 * float(min(chances[: found + 1].sum(), chances[found:].sum())))
