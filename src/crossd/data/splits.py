"""Seeded choices of samples that keep the share of every class."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossd.errors import InputError

Indices = NDArray[np.int64]
SPLITS = ("train", "val", "test")
FRACTIONS = (0.7, 0.1, 0.2)
"""Shares of the splits where the data have none."""


def spread(count: int, most: int) -> Indices:
    """Choose up to `most` of `count` places, evenly.

    Example:
        >>> spread(9, 3), spread(2, 3)
        (array([0, 4, 8]), array([0, 1]))
    """
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def pick(labels: Indices, count: int, seed: int) -> Indices:
    """Choose `count` samples, every class by its share and at least once.

    Args:
        labels: Class of every sample, ``(N,)``.
        count: How many; not fewer than there are classes, not more than there are samples.
        seed: Decides which.

    Returns:
        Ascending indices, ``(count,)``.

    Example:
        >>> labels = np.repeat([0, 1, 2], [80, 15, 5])
        >>> np.bincount(labels[pick(labels, 20, seed=0)]).tolist()
        [16, 3, 1]
    """
    rng = np.random.default_rng(seed)
    groups = [np.flatnonzero(labels == value) for value in np.unique(labels)]
    sizes = np.array([len(group) for group in groups])
    share = count * sizes / sizes.sum()
    take = np.maximum(1, np.floor(share)).astype(np.int64)
    while take.sum() < count:
        take[np.argmax(np.where(take < sizes, share - take, -np.inf))] += 1
    while take.sum() > count:
        take[np.argmax(np.where(take > 1, take - share, -np.inf))] -= 1
    chosen = [rng.permutation(group)[:n] for group, n in zip(groups, take, strict=True)]
    return np.sort(np.concatenate(chosen))


def split(
    labels: Indices, fractions: tuple[float, ...], seed: int, where: str
) -> tuple[Indices, ...]:
    """Split samples into parts, every class by the same fractions.

    A class of at least as many samples as there are parts is in every part; a smaller one is in
    the first part only, so that a class that is tested was also trained.

    Args:
        labels: Class of every sample, ``(N,)``.
        fractions: Fractions of the parts, adding up to 1.
        seed: Decides which sample goes where.
        where: File or folder, for the message.

    Returns:
        Ascending indices of every part.

    Raises:
        InputError: When a part stays empty.

    Example:
        >>> [len(part) for part in split(np.arange(100) % 4, (0.7, 0.1, 0.2), 0, "here")]
        [72, 8, 20]
    """
    rng = np.random.default_rng(seed)
    parts: list[list[Indices]] = [[] for _ in fractions]
    for value in np.unique(labels):
        group = rng.permutation(np.flatnonzero(labels == value))
        enough = len(group) >= len(fractions)
        sizes = [max(1, round(len(group) * f)) if enough else 0 for f in fractions[1:]]
        cuts = np.cumsum([len(group) - sum(sizes), *sizes])[:-1]
        for part, indices in zip(parts, np.split(group, cuts), strict=True):
            part.append(indices)
    joined = tuple(np.sort(np.concatenate(part)) for part in parts)
    if not all(len(part) for part in joined):
        raise InputError(
            f"{where}: {len(labels)} samples are too few to split into {len(fractions)} parts; "
            f"give at least {len(fractions)} of a class"
        )
    return joined


def halves(labels: Indices, seed: int, where: str) -> tuple[Indices, ...]:
    """Halve the validation images of a source that has none to test on.

    Args:
        labels: Class of every validation image, ``(N,)``.
        seed: Decides which stay.
        where: The source, for the message.

    Returns:
        Those that validate, and those that test.

    Raises:
        InputError: When there are too few.
    """
    return split(labels, (0.5, 0.5), seed, str(Path(where) / "val"))
