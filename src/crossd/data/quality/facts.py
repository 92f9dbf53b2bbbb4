"""What is found in one sample: what plans, data sheets and the search for faults are made of."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from crossd.data.io.agreement import USUAL, may_be_ignored
from crossd.data.shared_arrays import Array
from crossd.errors import InputError

CLIP = (0.5, 99.5)
"""Percentiles between which values are kept."""

ENOUGH = 2**20
"""Values that percentiles are taken from, about."""

SOME = 2000
"""Values of each sample that the histogram is made of, about."""

THUMB = 96
"""Longest side of what is kept to be drawn [pixels]."""

FEW = 16
"""Values that masks may hold whatever their edges are like."""

DARK = 0.25
"""Share of the range of 16 bits up to which images that hold no more, as those of 12 bits, are
nearly black beside images of 8 bits."""

SAME = {1, 255, 65_535}
"""What stands for the foreground in masks of one class."""

NO_PART = "all"
NO_CLASS = ""


@dataclass
class SampleFacts:
    """What was found in one sample.

    Attributes:
        name: Its file, or its number.
        part: "train", "val" or "test"; "all" of a source without labels.
        label: Name of its class, of all its findings, or its numbers; "" with a mask, or without
            labels.
        findings: That it has, where there are any to have.
        group: Its patient, where that is known.
        fault: Why it cannot be read; the rest is as it is by default then.
        size: Voxels as stored in canonical order, ``(D, H, W)`` or ``(H, W)``.
        spacing: Size of a voxel in the order of the axes [mm], where the file says it.
        modality: As DICOM names it, "" where unknown.
        ranges: Least value, the percentiles 0.5 and 99.5, and greatest value of each channel,
            ``(C, 4)``; percentiles within the mask where there is one.
        voxels: How many voxels of the mask hold each value, but for the one that is ignored.
        unknown: How many hold that one.
        ignore: It; None where there is none.
        several: How many voxels several files of the mask claim, where it is a file for each class.
        filled: Values of the mask that fill a square of 3 x 3 pixels somewhere.
        bits: Of the numbers in an image file: 8 or 16; 0 of volumes, arrays and DICOM.
        over_time: Whether its channels are volumes along the axis that NIfTI calls that of time.
        digest: Of all values, equal for equal samples; this and the rest for data sheets only.
        values: Some of the values.
        thumb: The middle slice, or the one with most of a mask, made small.
        mask: The same slice of the mask.
    """

    name: str
    part: str = NO_PART
    label: str = NO_CLASS
    findings: tuple[str, ...] = ()
    group: str = ""
    fault: str = ""
    size: tuple[int, ...] = ()
    spacing: tuple[float, float, float] | None = None
    modality: str = ""
    ranges: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 4)))
    voxels: dict[int, int] = field(default_factory=dict)
    several: int = 0
    filled: set[int] = field(default_factory=set)
    unknown: int = 0
    ignore: int | None = None
    bits: int = 0
    over_time: bool = False
    digest: str = ""
    values: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    thumb: NDArray[np.float32] | None = None
    mask: NDArray[np.uint16] | None = None

    def has(self, name: str) -> bool:
        """Tell whether a sample is of a class, or has a finding."""
        return name == self.label or name in self.findings

    @property
    def channels(self) -> int:
        """Numbers a voxel."""
        return len(self.ranges)

    @property
    def low(self) -> float:
        """Least value."""
        return float(self.ranges[:, 0].min())

    @property
    def high(self) -> float:
        """Greatest value."""
        return float(self.ranges[:, 3].max())

    @property
    def constant(self) -> bool:
        """Whether an image, or a channel of a volume, has one value everywhere."""
        if len(self.size) == 3:
            return bool((self.ranges[:, 0] == self.ranges[:, 3]).any())
        return self.low == self.high


def require_varied(least: float, most: float, where: str) -> None:
    """Refuse a channel of a volume whose least and greatest value are the same."""
    if not least < most:
        raise InputError(f"{where}: every value is {least:g}: it shows nothing")


def thinned(values: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Return every n-th value, so that about `count` remain."""
    flat = values.reshape(-1)
    return flat[:: max(1, len(flat) // count)]


def labelled(mask: Array, ignore: int | None) -> NDArray[np.bool_]:
    """Return where a mask has a label: neither the background nor the value that is ignored."""
    return mask > 0 if ignore is None else (mask > 0) & (mask != ignore)


def ranges_of(
    image: NDArray[np.float32], mask: NDArray[np.uint16] | None, ignore: int | None
) -> NDArray[np.float64]:
    """Return the ranges of the channels of an image ``(C, *spatial)``, see `SampleFacts`."""
    rows = []
    where = None if mask is None else labelled(mask, ignore)
    for channel in image:
        inside = channel[where] if where is not None and where.any() else channel
        low, high = np.percentile(thinned(inside, ENOUGH), CLIP)
        rows.append((channel.min(), low, high, channel.max()))
    return np.array(rows, np.float64)


def count(found: SampleFacts, mask: NDArray[np.uint16] | None) -> None:
    """Write down how many voxels of a mask, if there is one, hold each value."""
    if mask is not None:
        values, counts = np.unique(mask, return_counts=True)
        found.voxels = dict(zip(values.tolist(), counts.tolist(), strict=True))
        found.unknown = 0 if found.ignore is None else found.voxels.pop(found.ignore, 0)
        found.filled = filled_by(mask)


def told(looks: Sequence[SampleFacts]) -> str:
    """Say what of masks is ignored; nothing where nothing is.

    Example:
        >>> told([SampleFacts("a", voxels={0: 10, 1: 5}, unknown=85, ignore=255)])
        '255 is ignored (85% of the voxels)'
    """
    unknown = sum(look.unknown for look in looks)
    every = unknown + sum(sum(look.voxels.values()) for look in looks)
    value = next((look.ignore for look in looks if look.unknown), None)
    return (
        "" if value is None else f"{value} is ignored ({100 * unknown / every:.2g}% of the voxels)"
    )


def hint(looks: Sequence[SampleFacts], named: Collection[int]) -> str:
    """Say that masks may hold a value that should be ignored; nothing where none looks like it.

    Args:
        looks: What was found.
        named: Values that someone gave the name of a class.
    """
    values = {value for look in looks for value in look.voxels}
    if not may_be_ignored(values) or USUAL in named:
        return ""
    return (
        f"its masks hold {USUAL} beside {min(values)} to {sorted(values)[-2]}, which is a class; "
        f"if it says that a voxel is not known, give --ignore {USUAL}"
    )


def filled_by(mask: NDArray[np.uint16] | None) -> set[int]:
    """List the values of a mask that fill a square of 3 x 3 pixels, in any slice."""
    if mask is None:
        return set()
    if mask.ndim == 3:
        return set().union(*map(filled_by, mask))  # slice by slice, for the sake of memory
    if min(mask.shape) < 3:
        return set()
    squares = np.lib.stride_tricks.sliding_window_view(mask, (3, 3))
    alike = np.ones(squares.shape[:2], bool)
    for row, column in np.ndindex(3, 3):
        alike &= squares[..., row, column] == mask[1:-1, 1:-1]
    return set(np.unique(mask[1:-1, 1:-1][alike]).tolist())


def require_labels(looks: Sequence[SampleFacts], name: str) -> None:
    """Refuse masks that hold something else than classes, or one class by two numbers.

    Edges that were smoothed, by scaling or by a lossy file, have many values that fill no area.
    Where each mask holds one value beside 0, and these are 1 in some and the highest of 8 or 16
    bits in others, both stand for the same.

    Raises:
        InputError: Naming the source, and masks of either kind.
    """
    first: dict[int, str] = {}
    for look in looks:
        for value in look.voxels:
            first.setdefault(value, look.name)
    thin = sorted(first.keys() - set().union(*(look.filled for look in looks)))
    if len(first) > FEW and len(thin) > len(first) / 2:
        raise InputError(
            f"{name}: its masks hold {len(first)} values, of which {len(thin)} fill no square of 3 "
            f"x 3 pixels anywhere (as {thin[0]} in {first[thin[0]]}): their edges were smoothed by "
            "scaling, or by a JPEG file in between; save the masks anew with a value for each class"
        )
    seen = first.keys() - {0}
    both = any(len(look.voxels.keys() & seen) > 1 for look in looks)
    if len(seen) > 1 and seen <= SAME and not both:
        one, other = sorted(seen)[:2]
        raise InputError(
            f"{name}: the masks hold 0 and {one} in {first[one]}, but 0 and {other} in "
            f"{first[other]}; where these are one class, save all masks with the same values, else "
            "with others"
        )


def describe(
    found: SampleFacts, image: NDArray[np.float32], mask: NDArray[np.uint16] | None
) -> None:
    """Write down what a data sheet shows of an image ``(C, *spatial)``, and its mask if any."""
    found.size = image.shape[1:]
    found.ranges = ranges_of(image, mask, found.ignore)
    count(found, mask)
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).tobytes())
    found.digest = digest.hexdigest()
    found.values = thinned(image[0], SOME).copy()
    plane = image[0] if len(image) != 3 or image.ndim == 4 else image.mean(0)
    if plane.ndim == 3:
        place = len(plane) // 2
        if mask is not None and (where := labelled(mask, found.ignore)).any():
            place = int(where.sum((1, 2)).argmax())
        plane, mask = plane[place, ::-1], None if mask is None else mask[place, ::-1]
    step = max(1, -(-max(plane.shape) // THUMB))
    found.thumb = plane[::step, ::step].astype(np.float32)
    found.mask = None if mask is None else mask[::step, ::step].copy()
