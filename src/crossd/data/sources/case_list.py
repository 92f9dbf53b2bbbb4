"""Lists of cases: what is known of each, their names, classes, groups and parts."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from crossd.data.dataset import Labels
from crossd.data.io.header import stem
from crossd.data.source import TaskName
from crossd.data.sources.folder_walk import Say, below
from crossd.data.sources.numbered_columns import Columns
from crossd.data.sources.spellings import plain, same_patient
from crossd.data.splits import Parts, divide
from crossd.errors import InputError
from crossd.tasks import strata


@dataclass(frozen=True)
class Case:
    """One image or volume and what is known of it.

    Attributes:
        name: By which its answer is named; no two cases share it.
        images: Its files (or folders of DICOM series), one a modality.
        mask: File of its mask, or the folder that holds a file for each class.
        label: Name of its class.
        columns: What its numbers are, where it has some: findings, or numbers to learn.
        numbers: These, NaN where one is not known.
        split: "train", "val" or "test"; "" where it is not said.
        group: Of the patient, say: cases of one group stay in one split. "" where it is not said.
        spacing: Size of a voxel (z, y, x) [mm] that replaces what the file says.
        same: Names the cases that hold the same files, and all of the patients of these; "" where
            none does.
        structures: Names of the files in the folder `mask`, one for each class but the background,
            whose values are 1, 2, ...; none where the mask is one file.
        ignore: Value of its mask that says that a voxel is not known; None where there is none.
    """

    name: str
    images: tuple[Path, ...]
    mask: Path | None = None
    label: str | None = None
    split: str = ""
    group: str = ""
    spacing: tuple[float, float, float] | None = None
    same: str = ""
    ignore: int | None = None
    columns: Columns | None = None
    numbers: tuple[float, ...] = ()
    structures: tuple[str, ...] = ()

    @property
    def mask_files(self) -> list[Path]:
        """The files that the mask is made of; none without a mask."""
        if self.mask is None:
            return []
        return [self.mask / name for name in self.structures] or [self.mask]

    @property
    def inseparable(self) -> str:
        """Names the cases that must be in one part with this one; "" where it is alone."""
        return self.same or self.group


@dataclass(frozen=True)
class Listed:
    """What a list of files holds.

    Attributes:
        kind: What it is, for people.
        cases: Its cases; none of class folders that hold nothing but images, which may be a
            million.
        classes: Names of the classes of masks by their values, where it says them.
        note: What else there is to say.
        unlabelled: Why there are neither masks nor labels; "" where there are.
    """

    kind: str
    cases: list[Case]
    classes: dict[int, str] = field(default_factory=dict)
    note: str = ""
    unlabelled: str = ""


def named(cases: Iterable[Case]) -> list[Case]:
    """Name cases by the path of their image, without its suffix; no two alike.

    Example:
        >>> paths = [Path("a.png"), Path("a.nii"), Path("a_1.png")]
        >>> [case.name for case in named(Case(str(path), (path,)) for path in paths)]
        ['a_2', 'a_3', 'a_1']
    """
    bare = []
    for case in cases:
        parent = PurePosixPath(Path(case.name).as_posix()).parent
        bare.append(replace(case, name=str(parent / stem(case.images[0]))))
    counts = Counter(case.name for case in bare)
    taken = {name for name, count in counts.items() if count == 1}
    numbers: Counter[str] = Counter()
    found = []
    for case in bare:
        name = case.name
        while counts[case.name] > 1 and (name == case.name or name in taken):
            numbers[case.name] += 1
            name = f"{case.name}_{numbers[case.name]}"
        found.append(replace(case, name=name))
    return found


def require_distinct(classes: Iterable[str], where: str) -> None:
    """Refuse classes whose names differ in their spelling only: they are one, by mistake.

    Args:
        classes: Their names.
        where: The source, for the message.

    Raises:
        InputError: Naming two such.
    """
    found: dict[str, str] = {}
    for name in classes:
        other = found.setdefault(plain(name), name)
        if other != name:
            raise InputError(
                f"{where}: the classes {other!a} and {name!a} differ in capitals, "
                "spaces, dashes or the way that accents are stored only; give both one name, or "
                "names that differ"
            )


def with_groups_alike(cases: Iterable[Case]) -> list[Case]:
    """Give groups whose names are one, but for their spelling, that name."""
    names: dict[object, str] = {}
    return [
        replace(case, group=names.setdefault(same_patient(case.group), case.group))
        for case in cases
    ]


def first_few(names: Sequence[str], most: int = 5) -> str:
    """Join the first of some names, and say that there are more.

    Example:
        >>> first_few(["a", "b", "c"], 2)
        'a, b, ...'
    """
    return ", ".join(names[:most]) + ", ..." * (len(names) > most)


def in_order(classes: Iterable[str]) -> list[str]:
    """Sort names of classes: numbers by their value, then other names by the alphabet.

    Example:
        >>> in_order({"10", "9", "cat"})
        ['9', '10', 'cat']
    """

    def key(name: str) -> tuple[bool, int, str]:
        whole = name.removeprefix("-").isdecimal()
        return not whole, int(name) if whole else 0, name

    return sorted(classes, key=key)


def labels_of(cases: Sequence[Case], names: Sequence[str]) -> tuple[TaskName, Labels | None]:
    """Tell the task of cases and what of them is learnt.

    Args:
        cases: All with masks, with classes, with the same columns of numbers, or with none.
        names: Of the classes, or of the columns, in the order that is wanted; of a column that
            there is not nothing is known.

    Returns:
        The task; and classes ``(N,)``, or findings or numbers ``(N, K)``, NaN where one is not
        known; None for masks, and without labels.
    """
    first = cases[0]
    if first.mask is not None:
        return "segmentation", None
    if first.columns is not None:
        known = np.array([case.numbers for case in cases], np.float32)
        found = np.full((len(cases), len(names)), np.nan, np.float32)
        for place, name in enumerate(names):
            if name in first.columns.names:
                found[:, place] = known[:, first.columns.names.index(name)]
        return first.columns.task, found
    if first.label is None:
        return "unlabelled", None
    number = {name: index for index, name in enumerate(names)}
    return "classification", np.array([number[str(case.label)] for case in cases], np.int64)


def groups_of(cases: Sequence[Case]) -> NDArray[np.str_] | None:
    """Return the group of every case, alone where it has none; None where none is said."""
    if not any(case.inseparable for case in cases):
        return None
    return np.array([case.inseparable or f"\0{case.name}" for case in cases])


def parts(
    cases: Sequence[Case],
    task: str,
    labels: Labels | None,
    seed: int,
    where: str,
    say: Say = lambda text: None,
) -> Parts:
    """Divide cases into training, validation and test ones, as `crossd.data.splits.divide`."""
    shares = strata(task, labels, len(cases))
    groups = np.array([case.inseparable or f"\0{index}" for index, case in enumerate(cases)])
    return divide(np.array([case.split for case in cases]), shares, seed, where, groups, say)


def loose_cases(folder: Path, say: Say = lambda text: None) -> list[Case]:
    """List the images and volumes of a folder without class folders, each a case.

    What else is there, `say` is told of.
    """
    images, volumes = below(folder, say)
    return [Case(stem(path), (path,)) for path in sorted([*images, *volumes])]
