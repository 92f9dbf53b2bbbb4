"""What lies beside images and volumes in their folders and is no sample: masks, notes, the rest."""

import re
from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from pathlib import PurePath

from crossd.data.file_names import Names
from crossd.data.io.header import SUFFIXES

MASK = re.compile(
    r"(?P<base>.*?)(?:^|[ _.-])(?:seg|segmentation|masks?|labels?|labelmap|gt|ground[ _-]?truth)"
    r"(?P<number>[ _-]?\d+)?",
    re.IGNORECASE,
)
"""How the mask of a file is called: case_seg, case-label, case_mask_1, or mask alone."""

SIDECARS = (
    *(".json", ".csv", ".tsv", ".txt", ".md", ".rst", ".yaml", ".yml", ".xml", ".html", ".htm"),
    *(".pdf", ".doc", ".docx", ".xls", ".xlsx", ".log", ".bval", ".bvec", ".py", ".ipynb", ".sh"),
    *(".toml", ".ini", ".md5", ".sha256"),
)
"""Suffixes of notes beside images, of which nothing is said."""

NOTES = ("readme", "license", "licence", "changes", "version", "dicomdir", "makefile")
"""Names without a suffix that are notes, in small letters."""

HEADERS = (".mhd", ".nhdr")
"""Suffixes of headers whose voxels lie in another file."""


def bare(name: str) -> str:
    """Return the name of an image or a volume without its suffix, by the name alone.

    Example:
        >>> bare("case.1.nii.gz"), bare("a.b.png")
        ('case.1', 'a.b')
    """
    ending = next((end for end in SUFFIXES if name.lower().endswith(end)), None)
    return PurePath(name).stem if ending is None else name[: -len(ending)]


def masks_among(files: Sequence[str], folders: Iterable[str] = ()) -> set[str]:
    """Find the masks among the images and volumes of a folder, by their names.

    A mask is called as a file or a folder beside it with ``_seg``, ``-label``, ``.mask`` or the
    like behind it, or as what begins the name of one (``P1_seg`` beside ``P1_t1``); or it is called
    so alone, beside other files (``segmentation`` beside ``imaging``).

    Args:
        files: Names of the images and volumes.
        folders: Names of the folders beside them, which may be DICOM series.

    Example:
        >>> sorted(masks_among(["a.nii.gz", "a_seg.nii.gz", "b_mask.png"]))
        ['a_seg.nii.gz']
        >>> masks_among(["P1_t1.nii", "P1_seg.nii"]), masks_among(["imaging.nii", "mask.nii"])
        ({'P1_seg.nii'}, {'mask.nii'})
    """
    stems = {name: bare(name) for name in files}
    called = {name: found for name, one in stems.items() if (found := MASK.fullmatch(one))}
    if not called:
        return set()
    others = sorted(one for name, one in stems.items() if name not in called)
    exact = {*others, *folders}
    masks = set()
    for name, parts in called.items():
        base, number = parts["base"], parts["number"]
        begun = any(_begins(others, base + mark) for mark in " _.-") if base else bool(others)
        if base in exact or (begun and not number):
            masks.add(name)
    return masks


def _begins(ordered: Sequence[str], text: str) -> bool:
    """Tell whether one of sorted names begins with a text."""
    place = bisect_left(ordered, text)
    return place < len(ordered) and ordered[place].startswith(text)


def is_note(name: str, beside: Collection[str]) -> bool:
    """Tell whether a file that is no image is a note, or holds the voxels of a header beside it."""
    path = PurePath(name)
    if path.suffix.lower() in SIDECARS or name.lower() in NOTES:
        return True
    return any(name.partition(".")[0] + header in beside for header in HEADERS)


def left_aside(
    masks: Sequence[str] | Names,
    others: Sequence[str] | Names,
    loose: Sequence[str] | Names = (),
) -> list[str]:
    """Say what was passed over in a folder.

    Args:
        masks: Files that are masks of others.
        others: Files of which nobody knows what they are.
        loose: Images and volumes beside class folders.

    Example:
        >>> left_aside([], ["a.mgz", "b.mgz", "c.xyz"])
        ['3 files of unknown kinds (.mgz, .xyz) are passed over (the first is a.mgz)']
    """
    said = []
    if len(masks):
        said.append(
            f"{len(masks):,} masks beside their images are left out (the first is {masks[0]})"
        )
    if len(loose):
        said.append(
            f"{len(loose):,} images or volumes beside the class folders are left out (the first is "
            f"{loose[0]})"
        )
    if len(others):
        kinds = sorted({PurePath(name).suffix.lower() or "no suffix" for name in others})
        shown = ", ".join(kinds[:5]) + ", ..." * (len(kinds) > 5)
        said.append(
            f"{len(others):,} files of unknown kinds ({shown}) are passed over (the first is "
            f"{others[0]})"
        )
    return said
