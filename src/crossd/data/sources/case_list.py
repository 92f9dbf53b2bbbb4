"""Lists of cases: what is known of each, their names, classes, groups and parts."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from crossd.data.io.header import stem
from crossd.data.sources.folder_walk import below
from crossd.data.splits import Parts, divide
from crossd.errors import InputError


@dataclass(frozen=True)
class Case:
    """One image or volume and what is known of it.

    Attributes:
        name: By which its answer is named; no two cases share it.
        images: Its files (or folders of DICOM series), one a modality.
        mask: File of its mask.
        label: Name of its class.
        split: "train", "val" or "test"; "" where it is not said.
        group: Of the patient, say: cases of one group stay in one split. "" where it is not said.
        spacing: Size of a voxel (z, y, x) [mm] that replaces what the file says.
        same: Names the cases that hold the same files, and all of the patients of these; "" where
            none does.
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
    """

    kind: str
    cases: list[Case]
    classes: dict[int, str] = field(default_factory=dict)
    note: str = ""


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
    """Refuse classes whose names differ in capitals or spaces only: they are one, by mistake.

    Args:
        classes: Their names.
        where: The source, for the message.

    Raises:
        InputError: Naming two such.
    """
    found: dict[str, str] = {}
    for name in classes:
        other = found.setdefault(" ".join(name.split()).casefold(), name)
        if other != name:
            raise InputError(
                f"{where}: the classes {other!r} and {name!r} differ in capitals or spaces only; "
                "give both one name, or names that differ"
            )


def in_order(classes: Iterable[str]) -> list[str]:
    """Sort names of classes: numbers by their value, then other names by the alphabet.

    Example:
        >>> in_order({"10", "9", "cat"})
        ['9', '10', 'cat']
    """
    return sorted(classes, key=lambda t: (not t.isdecimal(), int(t) if t.isdecimal() else 0, t))


def groups_of(cases: Sequence[Case]) -> NDArray[np.str_] | None:
    """Return the group of every case, alone where it has none; None where none is said."""
    if not any(case.inseparable for case in cases):
        return None
    return np.array([case.inseparable or f"\0{case.name}" for case in cases])


def parts(cases: Sequence[Case], labels: NDArray[np.int64], seed: int, where: str) -> Parts:
    """Divide cases into training, validation and test ones, as `crossd.data.splits.divide`."""
    groups = np.array([case.inseparable or f"\0{index}" for index, case in enumerate(cases)])
    return divide(np.array([case.split for case in cases]), labels, seed, where, groups)


def loose_cases(folder: Path) -> list[Case]:
    """List the images and volumes of a folder without class folders, each a case."""
    images, volumes = below(folder)
    return [Case(stem(path), (path,)) for path in sorted([*images, *volumes])]
