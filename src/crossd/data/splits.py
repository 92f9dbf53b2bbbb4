"""Seeded choices of samples that keep the share of every class."""

import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from crossd.errors import InputError

Indices = NDArray[np.int64]
Parts = tuple[Indices, Indices, Indices]
SPLITS = ("train", "val", "test")
WHAT = {"val": "validate", "test": "test"}
FRACTIONS = (0.7, 0.1, 0.2)
"""Shares of the splits where the data have none."""

SPELLINGS = {
    "train": ("train", "training", "tr"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "ts"),
}


WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
"""Words of a name, as in seg_train and TrainingSet."""


def part_of(name: str) -> str:
    """Tell which part of a data set a folder or a cell names, in any usual spelling; "" for none.

    Example:
        >>> part_of("Training"), part_of("Ts"), part_of("glioma")
        ('train', 'test', '')
    """
    return next((part for part, known in SPELLINGS.items() if name.strip().lower() in known), "")


def parts_in(name: str) -> list[str]:
    """List the parts of a data set that the words of a name are, each once.

    Example:
        >>> parts_in("imagenet-Val_000"), parts_in("trainer"), parts_in("TrainTestSplit")
        (['val'], [], ['train', 'test'])
    """
    return list(dict.fromkeys(filter(None, map(part_of, WORD.findall(name)))))


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
    labels: Indices,
    fractions: tuple[float, ...],
    seed: int,
    where: str,
    groups: NDArray[np.str_] | None = None,
) -> tuple[Indices, ...]:
    """Split samples into parts, every class by the same fractions.

    A class of at least as many samples as there are parts is in every part; a smaller one is in
    the first part only, so that a class that is tested was also trained. Groups stay whole: each
    counts as one sample, of the class of its first.

    Args:
        labels: Class of every sample, ``(N,)``.
        fractions: Fractions of the parts, adding up to 1.
        seed: Decides which sample goes where.
        where: File or folder, for the message.
        groups: Patient of every sample, ``(N,)``.

    Returns:
        Ascending indices of every part.

    Raises:
        InputError: When a part stays empty.

    Example:
        >>> [len(part) for part in split(np.arange(100) % 4, (0.7, 0.1, 0.2), 0, "here")]
        [72, 8, 20]
    """
    own = np.arange(len(labels)) if groups is None else groups
    _, first, member = np.unique(own, return_index=True, return_inverse=True)
    what = "samples" if len(first) == len(labels) else "patients or different files"
    labels = labels[first]
    rng = np.random.default_rng(seed)
    parts: list[list[Indices]] = [[] for _ in fractions]
    for value in np.unique(labels):
        group = rng.permutation(np.flatnonzero(labels == value))
        enough = len(group) >= len(fractions)
        sizes = [max(1, round(len(group) * f)) if enough else 0 for f in fractions[1:]]
        cuts = np.cumsum([len(group) - sum(sizes), *sizes])[:-1]
        for part, indices in zip(parts, np.split(group, cuts), strict=True):
            part.append(indices)
    joined = [np.concatenate(part) for part in parts]
    if not all(len(part) for part in joined):
        raise InputError(
            f"{where}: {len(labels)} {what} are too few to split into {len(fractions)} parts; "
            f"give at least {len(fractions)} of a class"
        )
    return tuple(np.flatnonzero(np.isin(member, part)) for part in joined)


def divide(
    said: NDArray[np.str_],
    labels: Indices,
    seed: int,
    where: str,
    groups: NDArray[np.str_] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Parts:
    """Divide samples into training, validation and test ones.

    What is said is kept. Without, they are split 70/10/20 by `seed`, groups whole; what is
    missing of validation and test is taken of the training samples in these shares.

    Args:
        said: "train", "val" or "test" of every sample, "" where it is not said, ``(N,)``.
        labels: Class of every sample, ``(N,)``; zeros for masks.
        seed: Decides.
        where: The source, for messages.
        groups: Patient of every sample, ``(N,)``.
        say: Told which parts were drawn of the training samples though others are said.

    Returns:
        Ascending indices of each part.

    Raises:
        InputError: When there are too few samples or groups.

    Example:
        >>> said = np.repeat(["train", "val"], [9, 4])
        >>> [len(part) for part in divide(said, np.zeros(13, np.int64), 0, "here", say=print)]
        here: no case is said to be for test: 2 test, drawn of the training cases by --seed 0
        [7, 4, 2]
    """
    found = {part: np.flatnonzero(said == part) for part in SPLITS}
    missing = [part for part in ("val", "test") if not len(found[part])]
    if missing:
        free = np.flatnonzero((said == "") | (said == "train"))
        wanted = ("train", *missing)
        shares = [FRACTIONS[SPLITS.index(part)] for part in wanted]
        fractions = tuple(share / sum(shares) for share in shares)
        own = None if groups is None else groups[free]
        for part, chosen in zip(
            wanted, split(labels[free], fractions, seed, where, own), strict=True
        ):
            found[part] = free[chosen]
        if "train" in said:
            counts = " and ".join(f"{len(found[part]):,} {WHAT[part]}" for part in missing)
            say(
                f"{where}: no case is said to be for {' or '.join(missing)}: {counts}, drawn of "
                f"the training cases by --seed {seed}"
            )
    return found["train"], found["val"], found["test"]
