"""Cases in folders: two with equal names, class folders, or files side by side."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from crossd.data.io.header import stem
from crossd.data.sources.case_list import Case, named
from crossd.data.sources.folder_index import Part
from crossd.data.sources.folder_walk import below, listed
from crossd.errors import InputError

IMAGE_FOLDERS = ("images", "imagesTr")
MASK_FOLDERS = ("labels", "masks", "labelsTr")
MODALITY = re.compile(r"(.+)_(\d{4})")
"""How nnU-Net numbers the modalities of a case: case_0000, case_0001."""


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
        InputError: When a name has no partner, or cases have other modalities than others.
    """
    found, masks = by_name(listed(left)), by_name(listed(right))
    if not found:
        raise InputError(f"{left}: holds no images or volumes that can be read")
    groups: dict[str, list[Path]] = {}
    numbers: dict[str, list[str]] = {}
    for name, path in found.items():
        numbered = MODALITY.fullmatch(name)
        own, number = numbered.groups() if numbered and name not in masks else (name, "")
        groups.setdefault(own, []).append(path)
        numbers.setdefault(own, []).append(number)
    alone = sorted(groups.keys() ^ masks.keys())
    if alone:
        path = groups[alone[0]][0] if alone[0] in groups else masks[alone[0]]
        other = right if alone[0] in groups else left
        raise InputError(
            f"{path}: has no partner of the same name in {other} "
            f"({len(alone)} such files); add or remove it"
        )
    names = sorted(groups)
    for name in names:
        if numbers[name] != numbers[names[0]]:
            raise InputError(
                f"{groups[name][0]}: its case has {_shown(numbers[name])}, but {names[0]} "
                f"{_shown(numbers[names[0]])}; all cases must have the same modalities"
            )
    return [Case(name, tuple(groups[name]), masks[name]) for name in names]


def _shown(numbers: Iterable[str]) -> str:
    return f"the modalities {', '.join(numbers)}" if any(numbers) else "one without a number"


def by_name(paths: Iterable[Path]) -> dict[str, Path]:
    """Return files by their stem.

    Raises:
        InputError: When two files differ in their suffix only.
    """
    found: dict[str, Path] = {}
    for path in paths:
        name = stem(path)
        if name in found:
            raise InputError(f"{path}: shares its name with {found[name].name}; remove one")
        found[name] = path
    return found


def read_classes(root: Path, found: Mapping[str, Part]) -> list[Case]:
    """List the volumes of class folders, or of ``train/``, ``val/`` and ``test/`` of such.

    Args:
        root: The folder.
        found: What lies in the class folders, by `crossd.data.sources.folder_index.scan`.

    Returns:
        The cases, by name; none where the class folders hold no volumes.
    """
    return named(_of_classes(root, found, "volumes"))


def image_classes(root: Path, found: Mapping[str, Part]) -> list[Case]:
    """List the images of class folders, as `read_classes` lists volumes."""
    return _of_classes(root, found, "images")


def loose_cases(folder: Path) -> list[Case]:
    """List the images and volumes of a folder without class folders, each a case."""
    images, volumes = below(folder)
    return [Case(stem(path), (path,)) for path in sorted([*images, *volumes])]


def check_classes(root: Path, found: Mapping[str, Part], kind: str) -> None:
    """Check that every class has training samples, and every part has some.

    Args:
        root: The folder.
        found: What lies in its class folders.
        kind: "images" or "volumes".

    Raises:
        InputError: With the folder that is empty, or is of a class that is not trained.
    """
    if "" not in found and "train" not in found:
        raise InputError(f"{root}: has {next(iter(found))}/ but no train/; add it")
    first = found["train" if "train" in found else ""]
    for name, part in found.items():
        unknown = sorted(set(part.folders) - set(first.folders))
        if unknown:
            raise InputError(
                f"{root / name / unknown[0]}: this class is not in train/; remove or add it"
            )
        counts = (part.images if kind == "images" else part.volumes).counts
        empty = [own for own, n in zip(part.folders, counts, strict=True) if not n]
        if empty and part is first:
            raise InputError(
                f"{root / name / empty[0]}: no {kind} in this class folder; fill or remove it"
            )
        if not counts.sum():
            raise InputError(f"{root / name}: no {kind} in its class folders")


def _of_classes(root: Path, found: Mapping[str, Part], kind: str) -> list[Case]:
    cases = []
    for split_name, part in found.items():
        files = part.volumes if kind == "volumes" else part.images
        for label, name in zip(files.labels.tolist(), files.names, strict=True):
            inside = Path(split_name, name)
            folder = part.folders[label]
            cases.append(Case(str(inside), (root / inside,), label=folder, split=split_name))
    return cases
