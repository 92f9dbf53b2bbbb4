"""Folders of cases with a mask of each structure, as TotalSegmentator lays out its data."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from crossd.data.io.header import is_volume, stem
from crossd.data.sources.case_list import Listed, first_few, require_distinct
from crossd.data.sources.case_table import cases_of, lines_of
from crossd.data.sources.folder_walk import STRUCTURES, folders_in, listed
from crossd.data.sources.structures import require_all
from crossd.errors import InputError

META = "meta.csv"
Rows = list[tuple[int, list[str]]]


def find(root: Path) -> list[Path]:
    """Find the folders of cases in a folder, or the folder itself where it is one; none if none.

    Such a folder holds an image, and beside it a folder with one of the names `STRUCTURES`.
    """
    if _mask_folders(root) and _images(root):
        return [root]
    return [one for one in folders_in(root) if _mask_folders(one) and _images(one)]


def read(root: Path, folders: Sequence[Path], strict: bool = True) -> Listed:
    """Read cases whose masks are a file for each structure.

    The classes are the structures of all cases, by the alphabet. A ``meta.csv`` in `root` says in
    its columns ``image_id`` and ``split`` which part a folder is for.

    Args:
        root: The folder.
        folders: What `find` found.
        strict: Refuse cases that lack a structure which others have.

    Returns:
        The cases, and the names of their classes.

    Raises:
        InputError: When a case has no image, or several, or a structure is missing or there twice.
    """
    alone = [one for one in folders_in(root) if one not in folders] if root not in folders else []
    for one in alone:
        masks, images = _mask_folders(one), _images(one)
        if masks or images:
            lack = (
                f"{STRUCTURES[0]}/ beside {images[0].name}" if images else "image beside its masks"
            )
            raise InputError(
                f"{one}: holds no {lack}, as {folders[0].name} does; complete or remove it"
            )
    images = [_image(folder) for folder in folders]
    masks = [_mask_folder(folder) for folder in folders]
    found = [_structures(folder) for folder in masks]
    names = sorted(set().union(*found))
    if not names:
        raise InputError(f"{masks[0]}: holds no volume that is the mask of a structure")
    require_distinct(names, str(root))
    usual = {name: own[name] for own in found for name in own}
    if strict:
        require_all(dict(zip(map(str, masks), found, strict=True)), names)
    heads, rows, notes = _table(root, folders, images, masks)
    files = [tuple({**usual, **own}[name] for name in names) for own in found]
    once = {own: own for own in files}  # of a thousand cases all names are the same
    cases = [
        replace(case, structures=once[own])
        for case, own in zip(cases_of(root / META, heads, rows, True, strict), files, strict=True)
    ]
    if alone:
        notes.append(f"{first_few([one.name for one in alone])} beside the cases are left out")
    classes = {0: "background", **dict(enumerate(names, start=1))}
    return Listed("folders with a mask of each structure", cases, classes, "; ".join(notes))


def _mask_folders(folder: Path) -> list[Path]:
    return [folder / name for name in STRUCTURES if (folder / name).is_dir()]


def _mask_folder(folder: Path) -> Path:
    found = _mask_folders(folder)
    if len(found) > 1:
        names = " and ".join(one.name for one in found)
        raise InputError(f"{folder}: {names} are both there; keep one of them")
    return found[0]


def _images(folder: Path) -> list[Path]:
    return [path for path in listed(folder) if path.name not in STRUCTURES]


def _image(folder: Path) -> Path:
    """Return the one image of a case.

    Raises:
        InputError: When there are several, or it is no volume.
    """
    found = _images(folder)
    if len(found) > 1:
        raise InputError(
            f"{folder}: holds {first_few([one.name for one in found])}; expected one image beside "
            "the masks of its structures: move the others elsewhere"
        )
    image = found[0]
    if not (image.is_dir() or is_volume(image)):
        raise InputError(
            f"{image}: is an image, while masks of a structure each are read of volumes only; draw "
            "them into one mask of numbers"
        )
    return image


def _structures(folder: Path) -> dict[str, str]:
    """List the masks in a folder: the names of their structures, and their files."""
    found: dict[str, str] = {}
    for path in listed(folder):
        if not path.is_dir() and is_volume(path):  # pictures of what was found may lie there too
            other = found.setdefault(stem(path), path.name)
            if other != path.name:
                raise InputError(f"{path}: shares its name with {other}; remove one")
    return found


def _table(
    root: Path, folders: Sequence[Path], images: Sequence[Path], masks: Sequence[Path]
) -> tuple[list[str], Rows, list[str]]:
    """Write what is found as the rows of a table, with the parts that a ``meta.csv`` says.

    Returns:
        The names of the columns, the rows, and what there is to say.
    """
    files = [
        [str(path.relative_to(root)) for path in pair] for pair in zip(images, masks, strict=True)
    ]
    heads, meta = ["image", "mask"], root / META
    plain = [(1, pair) for pair in files]
    if not meta.is_file():
        return heads, plain, []
    columns, lines = lines_of(meta, ";")
    if len(columns) == 1:  # which spreadsheets write
        columns, lines = lines_of(meta)
    if not {"image_id", "split"} <= set(columns):
        return heads, plain, [f"{META} lacks the columns image_id and split, and is not read"]
    said: dict[str, tuple[int, str]] = {}
    for number, row in lines:
        cells = dict(zip(columns, map(str.strip, row), strict=False))
        name, part = cells["image_id"], cells.get("split", "")
        if said.setdefault(name, (number, part))[1] != part:
            raise InputError(f"{meta}, line {number}: has {name} a second time, for another part")
    lost = [one.name for one in folders if one.name not in said]
    if lost:
        raise InputError(
            f"{meta}: lacks {lost[0]} ({len(lost):,} such folders); add a line, or remove it"
        )
    gone = len(said.keys() - {one.name for one in folders})
    notes = [f"{gone:,} lines of {META} name no folder"] if gone else []
    rows = [
        (said[one.name][0], [*pair, said[one.name][1]])
        for one, pair in zip(folders, files, strict=True)
    ]
    return [*heads, "split"], rows, notes
