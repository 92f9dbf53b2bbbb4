"""What arrays in a file are labelled with: classes, findings or numbers, and their names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crossd.data.dataset import Labels, Samples
from crossd.data.io.agreement import HIGHEST
from crossd.data.shared_arrays import Array
from crossd.data.source import TaskName
from crossd.data.splits import SPLITS
from crossd.errors import InputError
from crossd.tasks import task_of
from crossd.utils.progress import Progress


@dataclass(frozen=True)
class ArrayLabels:
    """Labels of all arrays of a file.

    Attributes:
        task: What is learnt.
        parts: Of each array of images: classes ``(N,)``, or findings or numbers ``(N, K)``.
        names: Of the classes, findings or numbers, where the file says them.
        units: Of numbers, "" where it is not said; empty for other tasks.
    """

    task: TaskName
    parts: tuple[Labels, ...]
    names: tuple[str, ...]
    units: tuple[str, ...]

    def names_in(self, parts: Sequence[Samples], path: Path, progress: Progress) -> tuple[str, ...]:
        """Return the names; of classes, check that the training part has those of the others.

        Args:
            parts: For training, validation and test.
            path: The file.
            progress: Told of numbers of classes that no sample has.

        Raises:
            InputError: When it has one class alone, or lacks one of the others.
        """
        known = [part.labels for part in parts if part.labels is not None]
        if self.task == "classification":
            count = _classes(known, path, progress)
        else:
            count = known[0].shape[1]
        if self.names and len(self.names) != count:
            things = task_of(self.task).outputs
            raise InputError(f"{path}: names has {len(self.names)} for {count} {things}")
        return self.names or tuple(str(number) for number in range(count))


def known_labels(
    arrays: Mapping[str, Array],
    counted: Sequence[tuple[str, int]],
    path: Path,
    progress: Progress,
) -> ArrayLabels:
    """Read the labels of arrays of images.

    Args:
        arrays: Those of the file.
        counted: Name of each array of labels, or of targets, and how many images it is for.
        path: The file.
        progress: Told what looks as if it were meant otherwise.

    Raises:
        InputError: When they do not fit the images, or each other.
    """
    numbers = counted[0][0].endswith("targets")
    parts = tuple(_labels(arrays[key], count, key, path, numbers) for key, count in counted)
    if len({x.shape[1:] for x in parts}) > 1:
        found = ", ".join(f"{key} {x.shape}" for (key, _), x in zip(counted, parts, strict=True))
        raise InputError(f"{path}: has labels of several shapes ({found}); all parts must agree")
    task: TaskName = "classification" if parts[0].ndim == 1 else "multilabel"
    task = "regression" if numbers else task
    if task == "multilabel" and all((x.sum(1) == 1).all() for x in parts):
        progress.say(
            f"{path}: every row of the labels has exactly one 1. Each column is learnt as a "
            "finding by itself; for one class of several give labels (N,), their numbers"
        )
    names = _texts(arrays, "names", path)
    units = _texts(arrays, "units", path) if numbers else ()
    for key, told in (("names", names), ("units", units)):
        if told and parts[0].ndim == 2 and len(told) != parts[0].shape[1]:
            raise InputError(
                f"{path}: {key} has {len(told)} strings for {parts[0].shape[1]} columns"
            )
    return ArrayLabels(task, parts, names, units or ("",) * (parts[0].shape[1] if numbers else 0))


def _texts(arrays: Mapping[str, Array], key: str, path: Path) -> tuple[str, ...]:
    """Return the names (or units) that the file gives; none where it gives none."""
    if key not in arrays:
        return ()
    names = arrays[key]
    if names.dtype.kind not in "US" or names.ndim != 1:
        raise InputError(
            f"{path}: {key} holds {names.dtype} of shape {names.shape}; expected strings, (K,)"
        )
    told = tuple(str(name) for name in names.astype(str))
    if key == "names" and len(set(told)) < len(told):
        raise InputError(f"{path}: names holds one name twice; each needs one of its own")
    return told


def _labels(labels: Array, count: int, key: str, path: Path, numbers: bool) -> Labels:
    """Check labels, and return numbers of classes ``(N,)``, or findings or numbers ``(N, K)``."""
    if labels.dtype.kind not in "buif":
        raise InputError(f"{path}: {key} holds {labels.dtype}; expected numbers")
    if labels.shape[:1] != (count,) or labels.ndim > 2 or labels.size == 0:
        raise InputError(
            f"{path}: {key} has the shape {labels.shape} for {count} images; expected one number "
            f"an image, ({count},), or several, ({count}, K)"
        )
    if numbers:
        with np.errstate(over="ignore"):
            found = labels.reshape(count, -1).astype(np.float32)
        if np.isinf(found).any():
            raise InputError(
                f"{path}: {key} holds infinity, or numbers beyond those of 32 bits; write NaN "
                "where a number is not known"
            )
        return found
    if labels.ndim == 2 and labels.shape[1] > 1:
        known = np.isin(labels, (0, 1, -1)) | np.isnan(labels.astype(np.float64))
        if not known.all():
            raise InputError(
                f"{path}: {key} holds {labels[~known][0]} in columns of findings; expected 1, 0, "
                "or -1 where it is not known (numbers to learn are called targets)"
            )
        found = labels.astype(np.float32)
        found[found == -1] = np.nan
        return found
    labels = labels.reshape(-1)
    wrong = labels[~((labels >= 0) & (labels <= HIGHEST) & (labels == np.floor(labels)))]
    if len(wrong):
        raise InputError(
            f"{path}: {key} holds {wrong[0]}; labels must be whole numbers from 0 to {HIGHEST:,} "
            "(numbers to learn are called targets)"
        )
    return labels.astype(np.int64)


def _classes(known: Sequence[Labels], path: Path, progress: Progress) -> int:
    """Count the classes of the training part and check that the others know no more."""
    top = int(known[0].max())
    if top < 1:
        raise InputError(f"{path}: all training labels are 0; expected two classes or more")
    for name, own in zip(SPLITS, known, strict=True):
        new = np.setdiff1d(own, known[0])
        if len(new):
            raise InputError(
                f"{path}: a {name} label is {new[0]}, but no training label is; labels must be "
                "within the classes of the training part"
            )
    gaps = np.setdiff1d(np.arange(top), known[0]).tolist()
    if gaps:
        some = ", ".join(map(str, gaps[:5])) + ", ..." * (len(gaps) > 5)
        progress.say(
            f"{path}: no image has the label {some}: {len(gaps):,} of the {top + 1:,} classes are "
            "not trained; labels without gaps have no such classes"
        )
    return top + 1
