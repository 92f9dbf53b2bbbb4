"""The one loop over all cases of a source: for plans, for the values of masks, and for sheets."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from crossd.data.disk_cache import DiskCache
from crossd.data.io.agreement import require_same_shape
from crossd.data.io.images import DEEP, load_case, pixels, raw_mask, shape_of
from crossd.data.io.read import holds_volume
from crossd.data.quality.facts import (
    CLIP,
    ENOUGH,
    NO_CLASS,
    SampleFacts,
    count,
    describe,
    ranges_of,
    require_varied,
)
from crossd.data.sources import case_files
from crossd.data.sources.case_files import Entry
from crossd.data.sources.case_list import Case
from crossd.data.sources.numbered_columns import Columns
from crossd.errors import InputError
from crossd.utils.progress import Progress

One = TypeVar("One")
Read = tuple[NDArray[np.float32], NDArray[np.uint16] | None]
"""An image ``(C, *spatial)``, and the values of its mask if there is one."""


def scan(
    what: str, each: Sequence[One], look: Callable[[One], SampleFacts], progress: Progress
) -> list[SampleFacts]:
    """Look at cases, one after the other, and show under a name how far that is.

    What is looked for is that of `look`: `of_volume` and `of_mask` find what a training must know
    before it begins, and `for_sheet` all that is drawn of a case.
    """
    found = []
    with progress.task(what, total=len(each)) as bar:
        for one in each:
            found.append(look(one))
            bar.advance(1)
    return found


def of_volume(entry: Entry, cache: DiskCache | None = None) -> SampleFacts:
    """Find what a plan is made of in a volume, or in a cache of what was found before.

    Raises:
        InputError: When a file is damaged or shows nothing.
    """
    found, header = _begun(entry.case), entry.images[0]
    found.size, found.spacing, found.modality = header.size, header.spacing, header.modality
    key = "" if cache is None else entry.key("scan with areas", CLIP, ENOUGH)
    kept = None if cache is None else cache.get(key)
    if kept is not None:
        found.ranges, found.voxels = kept["ranges"].copy(), dict(kept["voxels"].tolist())
        found.several, found.unknown = int(kept["several"][0]), int(kept["unknown"][0])
        found.filled = set(kept["filled"].tolist())
        return found
    image, mask = _read_volume(found, entry)
    found.ranges = ranges_of(image, mask, found.ignore)
    count(found, mask)
    for least, *_, most in found.ranges.tolist():
        require_varied(least, most, entry.where)
    if cache is not None:
        voxels = np.array(list(found.voxels.items()), np.int64).reshape(-1, 2)
        kept = {
            "ranges": found.ranges,
            "voxels": voxels,
            "several": np.array([found.several]),
            "filled": np.array(sorted(found.filled), np.int64),
            "unknown": np.array([found.unknown], np.int64),
        }
        cache.keep(key, kept)
    return found


def of_mask(case: Case) -> SampleFacts:
    """Count the values of the mask of an image; of the image itself its shape is looked at.

    Raises:
        InputError: When a file is damaged, or the shapes differ.
    """
    assert case.mask is not None
    found = _begun(case)
    found.size = shape_of(case.images[0])
    for path in case.images[1:]:
        require_same_shape(case.images[0], found.size, path, shape_of(path), "modalities")
    mask = raw_mask(case.mask)
    require_same_shape(case.images[0], found.size, case.mask, mask.shape, "image and mask")
    count(found, mask)
    return found


def for_sheet(case: Case) -> SampleFacts:
    """Find all that is drawn of a case, or its fault."""
    return noted(_begun(case), lambda found: _read_case(found, case))


def noted(begun: SampleFacts, read: Callable[[SampleFacts], Read]) -> SampleFacts:
    """Write down what is in a sample that is read, or why it cannot be."""
    found = replace(begun)
    try:
        describe(found, *read(found))
    except (InputError, OSError, ValueError) as error:
        return replace(begun, fault=" ".join(str(error).split()))
    return found


def _read_case(found: SampleFacts, case: Case) -> Read:
    file = case.images[0]
    if holds_volume(file):
        entry = case_files.read_entry(case)
        found.spacing = entry.images[0].spacing
        found.over_time = any(header.over_time for header in entry.images)
        image, mask = _read_volume(found, entry)
    else:
        images, mask = load_case(case.images, case.mask)
        depths = {16 if one.mode in DEEP else 8 for one in images if one.mode != "F"}
        found.bits = depths.pop() if len(depths) == 1 else 0
        image = np.concatenate([pixels(one) for one in images])
    return image, mask


def _begun(case: Case) -> SampleFacts:
    label, findings = in_words(case.label or NO_CLASS, case.columns, case.numbers)
    return SampleFacts(
        case.name, label=label, findings=findings, group=case.group, ignore=case.ignore
    )


def in_words(
    label: str, columns: Columns | None, numbers: Sequence[float]
) -> tuple[str, tuple[str, ...]]:
    """Put what is known of a sample in words, and name the findings that it has.

    Args:
        label: Its class.
        columns: What its numbers are, where it has some instead.
        numbers: These.
    """
    if columns is None:
        return label, ()
    if columns.task == "multilabel":
        own = tuple(n for n, value in zip(columns.names, numbers, strict=True) if value == 1)
        return ", ".join(own), own
    parts = zip(columns.names, numbers, columns.units, strict=True)
    return ", ".join(f"{name} {value:.4g} {unit}".strip() for name, value, unit in parts), ()


def _read_volume(found: SampleFacts, entry: Entry) -> Read:
    mask = None
    if entry.mask is not None:
        mask, found.several = case_files.raw_mask(entry)
    return case_files.read_image(entry), mask
