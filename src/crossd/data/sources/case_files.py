"""Cases of volumes: their headers, which must agree, and their voxels."""

from collections.abc import Sequence
from dataclasses import dataclass

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
from crossd.data.io.header import Header, with_spacing
from crossd.data.io.itk import data_files
from crossd.data.io.read import holds_volume
from crossd.data.sources.case_list import Case
from crossd.errors import InputError

PREPARATION = 2
"""To be raised when volumes are prepared in another way: what was kept before is not used."""


@dataclass(frozen=True)
class Entry:
    """A case whose headers were read.

    Attributes:
        case: The case.
        images: One header a modality.
        mask: Of the mask.
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

    def key(self, kind: str, *options: object) -> str:
        """Return the key of what is made of the files with some options.

        Another place, size or time of change of a file or another option give another key.
        """
        headers = [*self.images, *([self.mask] if self.mask else [])]
        files = [
            file
            for header in headers
            for file in header.files or (header.path, *data_files(header.path))
        ]
        states = [(str(file.absolute()), *state_of(file)) for file in files]
        versions = (PREPARATION, torch.__version__, np.__version__)
        own = (len(self.images), self.case.spacing, self.case.ignore)
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


def read_entries(cases: Sequence[Case]) -> list[Entry]:
    """Read the headers of all cases and check that they agree, in their channels too."""
    entries = [read_entry(case) for case in cases]
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
    if case.mask is not None:
        mask = in_same_place(first, read.read_header(case.mask), "image and mask")
        require_one_number(mask)
    if case.spacing is not None:
        headers = [with_spacing(header, case.spacing) for header in headers]
    return Entry(case, tuple(headers), mask)


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
    return as_classes(raw_mask(entry.mask, planes), values, entry.mask.path, entry.case.ignore)


def raw_mask(header: Header, planes: tuple[int, slice] | None = None) -> NDArray[np.uint16]:
    """Read the values of a mask, ``(D, H, W)``."""
    return whole_numbers(read.read(header, planes)[0], header.path)
