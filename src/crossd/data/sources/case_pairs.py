"""Cases of two folders with equal names: images and masks."""

import re
from collections.abc import Iterable
from pathlib import Path

from crossd.data.io.header import stem
from crossd.data.sources.case_list import Case
from crossd.data.sources.folder_walk import Say, folders_in, listed
from crossd.errors import InputError

IMAGE_FOLDERS = ("images", "image", "imagestr", "imgs", "img")
MASK_FOLDERS = ("labels", "label", "masks", "mask", "labelstr", "annotations", "segmentations")
"""Names of the folders of pairs, in small letters."""

MODALITY = re.compile(r"(.+)_(\d{4})")
"""How nnU-Net numbers the modalities of a case: case_0000, case_0001."""


def pair_folders(root: Path) -> tuple[Path, Path] | None:
    """Find the folder of images and the folder of masks in `root`.

    Raises:
        InputError: When there are two of one kind.
    """
    inside = folders_in(root)
    left, right = (
        [one for one in inside if one.name.lower() in names]
        for names in (IMAGE_FOLDERS, MASK_FOLDERS)
    )
    for found in (left, right):
        if left and right and len(found) > 1:
            raise InputError(
                f"{root}: {' and '.join(one.name for one in found)} are both there; keep one of "
                "them, or name the files in a csv"
            )
    return (left[0], right[0]) if left and right else None


def beside_pairs(images: Path, masks: Path) -> list[str]:
    """List the folders beside those of images and masks, which are passed over."""
    return [one.name for one in folders_in(images.parent) if one not in (images, masks)]


def read_pairs(left: Path, right: Path, say: Say = lambda text: None) -> list[Case]:
    """Pair the files of a folder of images with the masks of equal names in another.

    Images are files, or folders that hold a DICOM series. Modalities of one case are numbered as
    nnU-Net does: ``case_0000``, ``case_0001``. What else is there, `say` is told of.

    Raises:
        InputError: When a name has no partner, or cases have other modalities than others.
    """
    found, masks = _by_name(listed(left, say)), _by_name(listed(right, say))
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


def _by_name(paths: Iterable[Path]) -> dict[str, Path]:
    """Return files by their stem; refuse two that differ in their suffix only."""
    found: dict[str, Path] = {}
    for path in paths:
        name = stem(path)
        if name in found:
            raise InputError(f"{path}: shares its name with {found[name].name}; remove one")
        found[name] = path
    return found
