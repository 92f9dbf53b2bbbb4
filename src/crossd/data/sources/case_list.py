"""Lists of labelled files: a csv, two folders with equal names, or class folders of volumes."""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
from numpy.typing import NDArray

from crossd.data.io.header import is_dicom, is_volume, stem
from crossd.data.sources.folder_index import Part, scan, suffixes
from crossd.data.splits import FRACTIONS, SPLITS, split
from crossd.errors import InputError
from crossd.utils.progress import Progress

IMAGE_FOLDERS = ("images", "imagesTr")
MASK_FOLDERS = ("labels", "masks", "labelsTr")
MODALITY = re.compile(r"(.+)_\d{4}")
"""How nnU-Net numbers the modalities of a case: case_0000, case_0001."""


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
    """

    name: str
    images: tuple[Path, ...]
    mask: Path | None = None
    label: str | None = None
    split: str = ""
    group: str = ""
    spacing: tuple[float, float, float] | None = None


def read_table(path: Path, labels: bool = True, strict: bool = True) -> list[Case]:
    """Read a csv with the columns ``image`` and ``label`` or ``mask``.

    Further columns whose names begin with ``image`` are further modalities, each one channel.
    ``split`` (train, val, test), ``group`` (patient) and ``spacing`` ("z y x" in mm) are optional.
    Paths are relative to the csv.

    Args:
        path: The file.
        labels: Whether a column of labels or masks is needed; else there need be none.
        strict: Refuse files that do not exist, and patients in two splits.

    Returns:
        The cases, in the order of the lines.

    Raises:
        InputError: With file and line, when a column is missing, a path is absolute or leads out
            of the folder, or a patient is in two splits.
    """
    heads, rows = _lines(path)
    names = [name for name in heads if name]
    columns = [name for name in names if name.startswith("image")]
    if not rows or "image" not in names:
        lack = f"lacks the column image (it has {','.join(heads)[:100]})"
        lack = lack if rows else "holds no lines below the names of the columns"
        raise InputError(f"{path}: {lack}; expected image and label or mask")
    kinds = [name for name in ("label", "mask") if name in names]
    if labels and len(kinds) != 1:
        what = "has both label and mask" if kinds else "has neither label nor mask"
        raise InputError(
            f"{path}: {what}; expected the column image and one of them, found {', '.join(names)}"
        )
    cases = []
    for number, row in rows:
        where = f"{path}, line {number}"
        if len(row) > len(heads):
            raise InputError(f"{where}: has more fields than the first line")
        cells = dict.fromkeys(names, "") | dict(zip(heads, map(str.strip, row), strict=False))
        files = tuple(_path(path, cells[name], where, name, strict) for name in columns)
        if labels and not cells[kinds[0]]:
            raise InputError(f"{where}: the field {kinds[0]} is empty")
        masks = labels and kinds == ["mask"]
        mask = _path(path, cells["mask"], where, "mask", strict) if masks else None
        part = cells.get("split", "")
        if part not in (*SPLITS, ""):
            raise InputError(f"{where}: split is {part!r}; expected train, val or test")
        cases.append(
            Case(
                cells["image"],
                files,
                mask,
                cells.get("label"),
                part,
                cells.get("group", ""),
                _spacing(cells.get("spacing", ""), where),
            )
        )
    if strict and labels:
        _check_splits(path, cases, [number for number, _ in rows])
    return _named(cases)


def _lines(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Read a csv: the names of its columns, then each row with the line where it begins.

    Blank lines do not count as rows, and a quoted field may hold line breaks.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        start, rows = 1, []
        for row in reader:
            if row:
                rows.append((start, row))
            start = reader.line_num + 1
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as csv ({error}); write it in UTF-8") from error
    heads = [name.strip() for name in rows[0][1]] if rows else []
    return heads, rows[1:]


def _path(table: Path, text: str, where: str, column: str, strict: bool) -> Path:
    """Return the file that a cell names, which must lie at or below the folder of the csv."""
    absolute = PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute()
    if absolute or ".." in Path(text).parts:
        raise InputError(
            f"{where}: the {column} {text} leads out of the folder of the csv; "
            "write paths relative to it, and put it above the files"
        )
    found = table.parent / text
    if "\0" in text or not text or (strict and not found.exists()):
        raise InputError(f"{where}: the {column} {text!r} does not exist in {table.parent}")
    return found


def _spacing(text: str, where: str) -> tuple[float, float, float] | None:
    if not text:
        return None
    try:
        z, y, x = (float(part) for part in re.split(r"[\s,;x]+", text))
    except ValueError:
        z = y = x = float("nan")
    if not all(0 < side < float("inf") for side in (z, y, x)):
        raise InputError(f"{where}: spacing is {text!r}; expected three numbers above 0 (z y x)")
    return z, y, x


def _check_splits(path: Path, cases: Sequence[Case], lines: Sequence[int]) -> None:
    said = [bool(case.split) for case in cases]
    if any(said) and not all(said):
        raise InputError(
            f"{path}, line {lines[said.index(False)]}: its split is empty, others are not; "
            "fill in every split, or none"
        )
    parts: dict[str, str] = {}
    for number, case in zip(lines, cases, strict=True):
        group = case.group or str(case.images[0])
        what = f"group {case.group}" if case.group else f"image {case.images[0].name}"
        if parts.setdefault(group, case.split) != case.split:
            raise InputError(
                f"{path}, line {number}: the {what} is in {case.split} and in {parts[group]}; "
                "a patient belongs to one split"
            )
    if any(said) and not any(case.split == "train" for case in cases):
        raise InputError(f"{path}: no line has the split train")


def pair_folders(root: Path) -> tuple[Path, Path] | None:
    """Find the folder of images and the folder of masks in `root`."""
    left = next((root / name for name in IMAGE_FOLDERS if (root / name).is_dir()), None)
    right = next((root / name for name in MASK_FOLDERS if (root / name).is_dir()), None)
    return (left, right) if left and right else None


def read_pairs(left: Path, right: Path) -> list[Case]:
    """Pair the files of a folder of images with the masks of equal names in another.

    Modalities of one case are numbered as nnU-Net does: ``case_0000``, ``case_0001``.

    Args:
        left: Folder of images: files, or folders that hold a DICOM series.
        right: Folder of masks.

    Returns:
        The cases, by name.

    Raises:
        InputError: When a name has no partner.
    """
    found, masks = entries(left), entries(right)
    if not found:
        raise InputError(f"{left}: holds no images or volumes that can be read")
    groups: dict[str, list[Path]] = {}
    for name, path in found.items():
        numbered = MODALITY.fullmatch(name)
        own = numbered[1] if numbered and name not in masks else name
        groups.setdefault(own, []).append(path)
    alone = sorted(groups.keys() ^ masks.keys())
    if alone:
        path = groups[alone[0]][0] if alone[0] in groups else masks[alone[0]]
        other = right if alone[0] in groups else left
        raise InputError(
            f"{path}: has no partner of the same name in {other} "
            f"({len(alone)} such files); add or remove it"
        )
    return [Case(name, tuple(groups[name]), masks[name]) for name in sorted(groups)]


def entries(folder: Path) -> dict[str, Path]:
    """List the images and volumes of a folder by their stem; hidden files do not count.

    Raises:
        InputError: When two files differ in their suffix only.
    """
    readable = suffixes()
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        series = path.is_dir() and any(is_dicom(file) for file in path.iterdir() if file.is_file())
        if series or (path.is_file() and (is_volume(path) or path.suffix.lower() in readable)):
            name = stem(path)
            if name in found:
                raise InputError(f"{path}: shares its name with {found[name].name}; remove one")
            found[name] = path
    return found


def read_classes(root: Path, found: Mapping[str, Part] | None = None) -> list[Case] | None:
    """List the volumes of class folders, or of ``train/``, ``val/`` and ``test/`` of such.

    Args:
        root: The folder.
        found: What lies in the class folders, where it is known already.

    Returns:
        The cases, by name; None where the class folders hold no volumes.
    """
    found = scan(root, Progress(quiet=True)) if found is None else found
    cases = []
    for split_name, part in found.items():
        for label, name in zip(part.volumes.labels.tolist(), part.volumes.names, strict=True):
            inside = Path(split_name, name)
            folder = part.folders[label]
            cases.append(Case(str(inside), (root / inside,), label=folder, split=split_name))
    return _named(cases) if cases else None


def _named(cases: Iterable[Case]) -> list[Case]:
    """Name cases by the path of their image, without its suffix."""
    named = []
    for case in cases:
        parent = PurePosixPath(Path(case.name).as_posix()).parent
        named.append(replace(case, name=str(parent / stem(case.images[0]))))
    counts = Counter(case.name for case in named)
    return [
        replace(case, name=f"{case.name}_{index}") if counts[case.name] > 1 else case
        for index, case in enumerate(named)
    ]


def in_order(classes: Iterable[str]) -> list[str]:
    """Sort names of classes: numbers by their value, then other names by the alphabet.

    Example:
        >>> in_order({"10", "9", "cat"})
        ['9', '10', 'cat']
    """
    return sorted(classes, key=lambda t: (not t.isdecimal(), int(t) if t.isdecimal() else 0, t))


def groups_of(cases: Sequence[Case]) -> NDArray[np.str_] | None:
    """Return the group of every case, alone where it has none; None where none is said."""
    if not any(case.group for case in cases):
        return None
    return np.array([case.group or f"\0{case.name}" for case in cases])


def parts(
    cases: Sequence[Case], labels: NDArray[np.int64], seed: int, where: str
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Divide cases into training, validation and test ones.

    What the cases say is kept. Without, they are split 70/10/20 by `seed`, groups whole; what is
    missing of validation and test is taken of the training cases in these shares.

    Args:
        cases: The cases.
        labels: Class of every case, ``(N,)``; zeros for masks.
        seed: Decides.
        where: The source, for messages.

    Returns:
        Ascending indices of each part.

    Raises:
        InputError: When there are too few cases or groups.
    """
    said = np.array([case.split for case in cases])
    found = {part: np.flatnonzero(said == part) for part in SPLITS}
    free = np.flatnonzero((said == "") | (said == "train"))
    missing = [part for part in ("val", "test") if not len(found[part])]
    if not missing:
        return found["train"], found["val"], found["test"]
    wanted = ("train", *missing)
    shares = [FRACTIONS[SPLITS.index(part)] for part in wanted]
    fractions = tuple(share / sum(shares) for share in shares)
    groups = np.array([cases[int(i)].group or f"\0{i}" for i in free])
    _, first, member = np.unique(groups, return_index=True, return_inverse=True)
    chosen = split(labels[free][first], fractions, seed, where)
    for part, indices in zip(wanted, chosen, strict=True):
        found[part] = free[np.isin(member, indices)]
    return found["train"], found["val"], found["test"]
