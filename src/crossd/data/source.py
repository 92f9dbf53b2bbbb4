"""What a source of data is, what may be known before it is opened, and how it is cut."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from crossd.data.dataset import Reordered, Samples, Subset
from crossd.data.disk_cache import DiskCache
from crossd.data.preprocessing.plan import Plan
from crossd.data.splits import pick
from crossd.errors import InputError
from crossd.tasks import Scale, scale_of, strata, task_of
from crossd.utils.progress import Progress

TaskName = Literal["classification", "multilabel", "regression", "segmentation", "unlabelled"]
RANKS = {2: "images", 3: "volumes"}


@dataclass(frozen=True)
class Source:
    """Three splits of one set of data and what a network must know about it.

    Attributes:
        name: The string it was opened by.
        rank: 2 for images, 3 for volumes.
        task: What is learnt: one of `crossd.tasks.TASKS`, or "unlabelled".
        channels: Channels of every image.
        classes: Names of the classes, findings or numbers; the first is the background in
            segmentation.
        size: Spatial size of the training samples, ``(H, W)`` or ``(D, H, W)``.
        train: Training samples. Volumes that come as files, or with masks, may differ in size.
        val: Validation samples, likewise.
        test: Test samples, likewise.
        mean: Subtracted from every image.
        std: Divided by, after `mean` was subtracted.
        spacing: Size of a voxel in the order of the axes [mm], where it is known.
        plan: How volumes that come as files are prepared.
        values: What stands for each class in the files of masks.
        units: Of the numbers to learn, "" where it is not said; empty for other tasks.
        scale: By which these numbers are standardised; None takes that of the training samples.
        modalities: Files of each case, whose channels are put together; 0 where samples are no
            files, or cases have other numbers of them than others.
        ignore: What stands there for voxels that are not known; None where all are.
    """

    name: str
    rank: int
    task: TaskName
    channels: int
    classes: tuple[str, ...]
    size: tuple[int, ...]
    train: Samples
    val: Samples
    test: Samples
    mean: float = 0.0
    std: float = 1.0
    spacing: tuple[float, float, float] | None = None
    plan: Plan | None = None
    values: tuple[int, ...] = ()
    units: tuple[str, ...] = ()
    scale: Scale | None = None
    modalities: int = 0
    ignore: int | None = None

    def scale_of_numbers(self) -> Scale | None:
        """Return by what numbers to learn are standardised; None where there are none.

        Raises:
            InputError: When the training samples tell no scale.
        """
        if self.scale is not None or self.task != "regression":
            return self.scale
        assert self.train.labels is not None
        return scale_of(self.train.labels, self.classes, self.name)


ACCEPTABLE = {
    "parts": "a patient, or what is the same, in two parts",
    "labels": "the same sample with two labels",
    "constant": "images that show nothing",
    "depths": "images of 16 bits that are nearly black beside those of 8",
}
"""Grave faults of data that a user may go on with, by their names for ``--accept``."""


@dataclass(frozen=True)
class Given:
    """What is known before a source is opened: of a plan that the user edited, or of weights.

    Attributes:
        plan: How volumes are prepared; None makes a plan of the data.
        classes: Names of the classes by their values in masks; empty takes those that are found.
        known_classes: The same, of weights: taken where the masks hold no other values.
        labels: Names of the classes of labels, of findings or of numbers; empty takes those that
            are found.
        statistics: Mean and standard deviation to normalise by; None measures them.
        stored: Where prepared volumes are kept between runs; None keeps them nowhere.
        accepted: Of the grave faults in `ACCEPTABLE` those that are gone on with, and what to say
            of each then; others are refused.
        ignore: Value of masks that says that a voxel is not known, as an option says.
        known_ignore: The same, of weights: taken where the data and no option say it.
        multiple: What the sides of images that are chosen are multiples of; 0 leaves it open.
    """

    plan: Plan | None = None
    classes: dict[int, str] | None = None
    known_classes: dict[int, str] | None = None
    labels: tuple[str, ...] = ()
    statistics: tuple[float, float] | None = None
    stored: DiskCache | None = None
    ignore: int | None = None
    known_ignore: int | None = None
    multiple: int = 0
    accepted: Mapping[str, str] = field(default_factory=dict)

    def judge(self, fault: str, text: str, remedy: str, say: Callable[[str], None]) -> None:
        """Refuse a grave fault of the data, or say it where it is accepted.

        Args:
            fault: One of `ACCEPTABLE`.
            text: What is wrong, and where.
            remedy: What to do.
            say: Told where it is accepted.

        Raises:
            InputError: Where it is not.

        Example:
            >>> known = Given(accepted={"parts": "which is accepted"})
            >>> known.judge("parts", "x: a.png is in two parts", "remove one", print)
            x: a.png is in two parts; which is accepted
        """
        if fault not in self.accepted:
            raise InputError(f"{text}: {remedy}; or go on with --accept {fault}")
        say(f"{text}; {self.accepted[fault]}")


@dataclass(frozen=True)
class Request:
    """What `crossd.data.open_source` is asked for.

    Attributes:
        name: The source.
        size: Spatial size of training samples, one number for all axes or one an axis; None
            chooses one.
        seed: Decides on splits that the source does not fix, and on what `brain` draws.
        given: What is known already.
        progress: Where to show a scan.
    """

    name: str
    size: tuple[int, ...] | None
    seed: int
    given: Given
    progress: Progress

    def shape(self, rank: int, default: Sequence[int]) -> tuple[int, ...]:
        """Return the size with one number for each of `rank` axes, `default` if none is wanted.

        Raises:
            InputError: When it has neither one number nor `rank`.
        """
        if self.size is None:
            return tuple(default)
        if len(self.size) not in (1, rank):
            raise InputError(
                f"--size {','.join(map(str, self.size))}: {self.name} has {rank} spatial axes; "
                f"give one number or {rank}"
            )
        return self.size if len(self.size) == rank else self.size * rank


def limit(source: Source, count: int, seed: int = 0, labelled: bool = True) -> Source:
    """Cut the training part to `count` samples; validation and test stay.

    Where there are labels every class keeps its share, and at least one sample; of findings and
    numbers see `crossd.tasks.strata`.

    Args:
        source: The source to cut.
        count: Number of training samples to keep.
        seed: Decides which.
        labelled: Whether labels are looked at; without, any samples are taken.

    Returns:
        A source that shares its data with the one given.

    Raises:
        InputError: When there are fewer than `count` samples or more classes than `count`.

    Example:
        >>> class Three(Samples):
        ...     labels = np.array([0, 0, 1])
        >>> three = Three()
        >>> cut = limit(Source("x", 2, "classification", 1, ("a", "b"), (8, 8), *[three] * 3), 2)
        >>> cut.train.labels.tolist()
        [0, 1]
    """
    labels = source.train.labels
    total = len(source.train) if labels is None else len(labels)
    if not 1 <= count <= total:
        raise InputError(
            f"--limit {count}: {source.name} has {total} training samples; give 1 to {total}"
        )
    groups = strata(source.task, labels, total) if labelled else np.zeros(total, np.int64)
    present = len(np.unique(groups))
    if count < present and task_of(source.task).kind != "one":
        groups, present = np.zeros(total, np.int64), 1
    if count < present:
        raise InputError(
            f"--limit {count}: {source.name} has {present} classes and each needs a sample; "
            f"give {present} to {total}"
        )
    return replace(source, train=Subset(source.train, pick(groups, count, seed)))


def in_order_of(source: Source, names: tuple[str, ...]) -> Source:
    """Put the findings or numbers of a source into another order, where they are the same ones.

    Args:
        source: Any source.
        names: The order; a source with others, or of another task, stays as it is.
    """
    own = source.classes
    if task_of_numbers(source) and own != names and sorted(own) == sorted(names):
        order = [own.index(name) for name in names]
        train, val, test = (
            Reordered(part, order) for part in (source.train, source.val, source.test)
        )
        units = tuple(source.units[place] for place in order) if source.units else ()
        return replace(source, classes=names, units=units, train=train, val=val, test=test)
    return source


def task_of_numbers(source: Source) -> bool:
    """Tell whether a source has findings, or numbers to learn."""
    return source.task in ("multilabel", "regression")


def require_rank(source: Source, rank: int, option: str) -> Source:
    """Return `source`, or raise when it holds images where volumes are needed or the reverse.

    Args:
        source: The source to check.
        rank: 2 for images, 3 for volumes.
        option: The option that it was given to, for the message.

    Returns:
        `source` itself.

    Raises:
        InputError: When the rank differs, naming the option and the source.

    Example:
        >>> source = Source("x.npz", 2, "classification", 1, ("a", "b"), (8, 8), *[Samples()] * 3)
        >>> require_rank(source, 3, "--volumes")
        Traceback (most recent call last):
        crossd.errors.InputError: --volumes x.npz: holds 2D images, but 3D volumes are needed
    """
    if source.rank != rank:
        hint = "; --slices makes images of volumes" if rank == 2 else ""
        raise InputError(
            f"{option} {source.name}: holds {source.rank}D {RANKS[source.rank]}, "
            f"but {rank}D {RANKS[rank]} are needed{hint}"
        )
    return source
