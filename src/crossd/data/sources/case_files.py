"""Cases of volumes: their headers, which must agree, and their voxels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from crossd.data.disk_cache import key_of, state_of
from crossd.data.io import read
from crossd.data.io.agreement import (
    as_classes,
    in_same_place,
    require_one_number,
    require_same_count,
    whole_numbers,
)
from crossd.data.io.header import Header, is_volume, turned, with_spacing
from crossd.data.io.itk import data_files
from crossd.data.io.read import holds_volume
from crossd.data.sources.case_list import Case
from crossd.data.sources.structures import inside_of, joined
from crossd.errors import InputError
from crossd.utils.progress import Progress

SHOWN_FROM = 2_000
"""Files from which it is shown how many headers were read: fewer take a second or two."""

PREPARATION = 3
"""To be raised when volumes are prepared in another way: what was kept before is not used."""


@dataclass(frozen=True)
class Entry:
    """A case whose headers were read.

    Attributes:
        case: The case.
        images: One header a modality.
        mask: Of the mask. Where that is a file for each class, of the folder, with the grid of the
            image as its file says it.
    """

    case: Case
    images: tuple[Header, ...]
    mask: Header | None = None

    @property
    def where(self) -> str:
        """The first file, for messages."""
        return str(self.case.images[0])

    @property
    def channels(self) -> int:
        """Numbers a voxel, of all modalities."""
        return sum(header.channels for header in self.images)

    def along(self, axes: Sequence[int] | None) -> "Entry":
        """Take the case along the axes of its first file, see `Plan.axes`; None changes nothing."""
        if axes is None:
            return self
        own = [*self.images, *([] if self.mask is None else [self.mask])]
        headers = turned(own, axes)
        mask = None if self.mask is None else headers.pop()
        return replace(self, images=tuple(headers), mask=mask)

    def key(self, kind: str, *options: object) -> str:
        """Return the key of what is made of the files with some options.

        Another place, size or time of change of a file or another option give another key.
        """
        parts = [part for header in self.images for part in header.files or (header.path,)]
        if self.mask is not None:
            parts += self.mask.files or self.case.mask_files
        files = [file for part in parts for file in (part, *data_files(part))]
        states = [(str(file.absolute()), *state_of(file)) for file in files]
        versions = (PREPARATION, torch.__version__, np.__version__)
        own = (len(self.images), self.case.spacing, self.case.ignore, self.images[0].turned)
        return key_of(kind, states, own, options, versions)


def all_volumes(cases: Sequence[Case], name: str) -> bool:
    """Tell whether the cases of a source are volumes, not images; refuse both at once."""
    solid = [holds_volume(case.images[0]) for case in cases]
    if any(solid) and not all(solid):
        volume, flat = (cases[solid.index(kind)].images[0].name for kind in (True, False))
        raise InputError(
            f"{name}: mixes volumes ({volume}) and images ({flat}); put them into sources of their "
            "own"
        )
    return all(solid)


def read_entries(cases: Sequence[Case], progress: Progress | None = None) -> list[Entry]:
    """Read the headers of all cases and check that they agree, in their channels too.

    Of many files, it is shown how far that is.
    """
    files = sum(len(case.images) + len(case.mask_files) for case in cases)
    shown = progress if progress and files >= SHOWN_FROM else Progress(quiet=True)
    entries = []
    with shown.task("reading headers", total=len(cases)) as bar:
        for case in cases:
            entries.append(read_entry(case))
            bar.advance(1)
    counts = [(entry.case.images[0], entry.channels) for entry in entries]
    require_same_count(counts, "channels", "volumes")
    return entries


def read_entry(case: Case) -> Entry:
    """Read the headers of a case and check that they agree.

    Raises:
        InputError: When a file is damaged, or lies elsewhere than the first.
    """
    headers = [read.read_header(path) for path in case.images]
    first = headers[0]
    headers = [first, *(in_same_place(first, other, "modalities") for other in headers[1:])]
    mask = None
    if case.mask is not None and not case.mask.is_dir() and not is_volume(case.mask):
        raise InputError(
            f"{case.mask}: is no volume, but the mask of one ({case.images[0].name}); save it "
            "as NIfTI, NRRD or MetaImage in the grid of its volume"
        )
    for file in case.mask_files:
        mask = _mask_header(first, file)
    if case.mask is not None and case.structures:
        mask = Header(case.mask, first.shape, first.affine)
    if case.spacing is not None:
        headers = [with_spacing(header, case.spacing) for header in headers]
    return Entry(case, tuple(headers), mask)


def along_time(entries: Sequence[Entry]) -> str:
    """Say which files hold volumes along their fourth axis, taken as channels; "" where none does.

    NIfTI calls that axis the one of time, but many tools store channels along it, and nothing in a
    file tells the two apart.
    """
    found = [header for entry in entries for header in entry.images if header.over_time]
    if not found:
        return ""
    return (
        f"the {found[0].channels} volumes along the fourth axis of {found[0].path.name} "
        f"({len(found):,} such files) are taken as channels; where they are points in time, write "
        "each into a file of its own, with a line of its own in a csv"
    )


def read_image(entry: Entry, planes: tuple[int, slice] | None = None) -> NDArray[np.float32]:
    """Read the modalities of a case as channels, ``(C, D, H, W)``."""
    arrays = [read.read(header, planes) for header in entry.images]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def read_mask(
    entry: Entry, values: Sequence[int], planes: tuple[int, slice] | None = None
) -> NDArray[np.uint8]:
    """Read the mask of a case as numbers of classes, ``(D, H, W)``.

    Args:
        entry: The case.
        values: What stands for each class in the file; another value than these and the one that
            the case ignores is refused.
        planes: As `crossd.data.io.read.read` takes it.
    """
    assert entry.mask is not None
    values_there = raw_mask(entry, planes)[0]
    return as_classes(values_there, values, entry.mask.path, entry.case.ignore)


def raw_mask(
    entry: Entry, planes: tuple[int, slice] | None = None
) -> tuple[NDArray[np.uint16], int]:
    """Read the values of the mask of a case.

    Returns:
        The values, ``(D, H, W)``, and how many voxels several files of it claim, where it is a file
        for each class.
    """
    assert entry.mask is not None
    if not entry.case.structures:
        return values_of(entry.mask, planes), 0
    grid = entry.mask
    headers = (
        replace(_mask_header(replace(grid, turned=None), file), turned=grid.turned)
        for file in entry.case.mask_files
    )
    inside = ((header.path, inside_of(values_of(header), header.path)) for header in headers)
    mask, claimed = joined(inside, grid.size)
    if planes is not None:
        axis, part = planes
        mask = mask[(slice(None),) * axis + (part,)]
    return mask, claimed


def values_of(header: Header, planes: tuple[int, slice] | None = None) -> NDArray[np.uint16]:
    """Read the whole numbers in a file of a mask, ``(D, H, W)``."""
    return whole_numbers(read.read(header, planes)[0], header.path)


def _mask_header(first: Header, path: Path) -> Header:
    """Read the header of a file of a mask, which must lie where the image does."""
    header = in_same_place(first, read.read_header(path), "image and mask")
    require_one_number(header)
    return header
