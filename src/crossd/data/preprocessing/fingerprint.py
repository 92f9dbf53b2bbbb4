"""What a plan is made of: a look at every volume."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crossd.data.disk_cache import DiskCache
from crossd.data.preprocessing import plan, volume_dataset
from crossd.data.preprocessing.plan import Facts
from crossd.data.preprocessing.volume_dataset import Entry
from crossd.errors import InputError
from crossd.utils.progress import Progress


def scan(
    entries: Sequence[Entry], progress: Progress, stored: DiskCache | None = None
) -> list[Facts]:
    """Look at every volume of a training set.

    Args:
        entries: The volumes.
        progress: Where to show how far it is.
        stored: Where it is kept what was found.

    Raises:
        InputError: When a file is damaged, shows nothing, or the channels differ.
    """
    facts: list[Facts] = []
    with progress.task("scanning volumes", total=len(entries)) as bar:
        for entry in entries:
            ranges, values = _seen(entry, stored)
            if facts and len(ranges) != len(facts[0].ranges):
                raise InputError(
                    f"{entry.where}: has {len(ranges)} channels, but {entries[0].where} has "
                    f"{len(facts[0].ranges)}; all volumes must agree"
                )
            first = entry.images[0]
            facts.append(Facts(first.spacing, first.size, first.modality, ranges, values))
            bar.advance(1)
    return facts


def _seen(entry: Entry, stored: DiskCache | None) -> tuple[NDArray[np.float64], tuple[int, ...]]:
    """Return the ranges of the values of a volume, and the values of its mask."""
    name = "" if stored is None else entry.key("scan", plan.CLIP, plan.ENOUGH)
    kept = None if stored is None else stored.get(name)
    if kept is not None:
        return kept["ranges"].copy(), tuple(kept["values"].tolist())
    mask = None if entry.mask is None else volume_dataset.whole_mask(entry.mask)
    ranges = _ranges(entry, volume_dataset.read_image(entry), mask)
    values = () if mask is None else tuple(int(value) for value in np.unique(mask))
    if stored is not None:
        stored.keep(name, {"ranges": ranges, "values": np.array(values, np.int64)})
    return ranges, values


def _ranges(
    entry: Entry, image: NDArray[np.float32], mask: NDArray[np.uint8] | None
) -> NDArray[np.float64]:
    ranges = []
    for channel in image:
        least, most = float(channel.min()), float(channel.max())
        if not least < most:
            raise InputError(f"{entry.where}: every value is {least:g}: it shows nothing")
        inside = channel[mask > 0] if mask is not None and mask.any() else channel
        low, high = np.percentile(plan.every_nth_value(inside), plan.CLIP)
        ranges.append((least, low, high))
    return np.array(ranges, np.float64)
