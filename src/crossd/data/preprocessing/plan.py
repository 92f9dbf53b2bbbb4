"""How volumes are prepared: decided by a scan, edited by the user, kept with the weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossd.data.quality.facts import CLIP, ENOUGH, SampleFacts, require_varied, thinned
from crossd.data.shapes import round_up
from crossd.errors import InputError

ISOTROPIC = 3.0
"""Ratio of the longest to the shortest side of a voxel up to which voxels are made cubes."""

LARGEST_PATCH = 128**3
"""Voxels of a patch that is chosen by itself, at most."""

LARGEST_WHOLE = 96**3
"""Voxels of a volume with a label, at most."""

TYPICAL = 90
"""Percentile of the sizes that a patch covers."""

AIR = -500.0
"""Least value [HU] below which a volume counts as CT, where no file says what it is."""

KINDS = ("window", "percentiles", "z-score", "none")

REGIONS = ("volume", "box", "nonzero")


@dataclass(frozen=True)
class Intensity:
    """How the values of one channel are scaled.

    Attributes:
        kind: "window" (the same `low` and `high` for all volumes, as of CT, become 0 and 1),
            "percentiles" (those `low` and `high` of each volume become 0 and 1), or "z-score"
            (clipped to these percentiles, then less the mean and over the standard deviation of
            each volume), or "none" (they stay as they are).
        low: Lower end.
        high: Upper end.
        mean: Of a window, what is subtracted after clipping, in place of `low`.
        std: Of a window, what is divided by then, in place of the difference of the ends.
        region: Where percentiles, or mean and standard deviation, are measured, as nnU-Net does: in
            the "volume", in the "box" around what is not zero, or in what is "nonzero", its holes
            filled; with a z-score all else stays as it is then.
    """

    kind: str
    low: float
    high: float
    mean: float | None = None
    std: float | None = None
    region: str = "volume"


@dataclass(frozen=True)
class Plan:
    """How volumes are prepared, the same in training and in use.

    Attributes:
        spacing: Size of a voxel that volumes are resampled to (z, y, x) [mm].
        patch: Voxels of the training patches and of the window that slides over volumes.
        intensity: How each channel is scaled.
        axes: Which axes of a file (0 is its first) are depth, height and width, whatever their
            anatomical directions; None turns volumes so that they run to superior, anterior, right.
        fill: What is put around volumes smaller than a patch; None takes their least value.
        final: Whether values stay as `intensity` makes them; else the mean and the standard
            deviation of the training samples are taken out once more.
        box: Whether masks are predicted in the box around what is not zero alone, as nnU-Net does;
            all around it is background.
    """

    spacing: tuple[float, float, float]
    patch: tuple[int, int, int]
    intensity: tuple[Intensity, ...]
    axes: tuple[int, int, int] | None = None
    fill: float | None = None
    final: bool = False
    box: bool = False


def decide(facts: Sequence[SampleFacts], masks: bool, size: Sequence[int] | None = None) -> Plan:
    """Make a plan for the volumes of a training set.

    Args:
        facts: What `crossd.data.quality.scan` found in each.
        masks: Whether they have masks. Volumes with a label are seen whole: their spacing is made
            coarser until the typical one fits into `size`, or into 96 x 96 x 96 voxels.
        size: Patch to choose (D, H, W) [voxels]; None chooses one.

    Returns:
        The plan.

    Example:
        >>> one = SampleFacts("a.nii", size=(22, 320, 280), spacing=(5, 0.7, 0.7), modality="MR")
        >>> one.ranges = np.array([[0.0, 3, 900, 1200]])
        >>> plan = decide([one], masks=True)
        >>> plan.spacing, plan.patch, plan.intensity[0].kind
        ((5.0, 0.7, 0.7), (24, 312, 280), 'z-score')
    """
    spacings = np.array([one.spacing for one in facts], np.float64)
    spacing = target_spacing(spacings)
    extent = np.array([one.size for one in facts]) * spacings  # [mm]
    typical = np.percentile(np.maximum(1, (extent / spacing).round()), TYPICAL, axis=0)
    if not masks:
        most = typical / size if size else np.full(3, np.cbrt(typical.prod() / LARGEST_WHOLE))
        coarser = max(1.0, float(most.max()))
        spacing = _three_floats(np.array(spacing) * coarser)
        typical = np.maximum(1, np.floor(typical / coarser))
    patch = choose_patch(typical) if size is None else _three_whole(size)
    scales = tuple(_intensity(facts, channel) for channel in range(len(facts[0].ranges)))
    return Plan(spacing, patch, scales)


def target_spacing(
    spacings: Sequence[Sequence[float]] | NDArray[np.float64],
) -> tuple[float, float, float]:
    """Choose the spacing that volumes are resampled to.

    The median along each axis. Where its longest side is at most three times its shortest, voxels
    are made cubes of the same volume, as 3D kernels that are learnt in three views expect; thicker
    slices stay as they are, as resampling would invent what lies between them.

    Args:
        spacings: Of the volumes (z, y, x) [mm].

    Example:
        >>> target_spacing([(2.0, 1.0, 1.0), (2.0, 1.0, 1.0)]), target_spacing([(5, 0.5, 0.5)])
        ((1.26, 1.26, 1.26), (5.0, 0.5, 0.5))
    """
    median = np.median(np.asarray(spacings, np.float64), axis=0)
    if median.max() <= ISOTROPIC * median.min():
        median = np.full(3, median.prod() ** (1 / 3))
    return _three_floats(median)


def _three_floats(values: NDArray[np.float64]) -> tuple[float, float, float]:
    z, y, x = (float(f"{value:.4g}") for value in values)
    return z, y, x


def _three_whole(values: Sequence[int]) -> tuple[int, int, int]:
    z, y, x = (int(value) for value in values)
    return z, y, x


def choose_patch(typical: NDArray[np.float64]) -> tuple[int, int, int]:
    """Choose a patch that covers the typical size, its longest sides cut until it is not large."""
    sides = list(round_up([int(np.ceil(side)) for side in typical]))
    while np.prod(sides) > LARGEST_PATCH:
        sides[int(np.argmax(sides))] -= 8
    return _three_whole(sides)


def _intensity(facts: Sequence[SampleFacts], channel: int) -> Intensity:
    """Choose how a channel is scaled: CT by a window, all others by z-score."""
    ranges = np.stack([one.ranges[channel] for one in facts])
    modalities = {one.modality for one in facts}
    if modalities == {"CT"} or (modalities == {""} and np.median(ranges[:, 0]) < AIR):
        low, high = float(np.median(ranges[:, 1])), float(np.median(ranges[:, 2]))
        return Intensity("window", round(low), round(max(high, low + 1)))
    return Intensity("z-score", *CLIP)


def limits(
    image: NDArray[np.float32], intensity: Sequence[Intensity], where: str
) -> NDArray[np.float64]:
    """Find what clips, shifts and divides each channel of a volume ``(C, D, H, W)``.

    Returns:
        Lower end, upper end, what is subtracted and what is divided by, ``(C, 4)``.

    Raises:
        InputError: When all values of a channel are equal, or there are more or fewer channels.
    """
    if len(image) != len(intensity):
        found = "1 channel" if len(image) == 1 else f"{len(image)} channels"
        raise InputError(f"{where}: has {found}, expected {len(intensity)}")
    rows = []
    for channel, how in zip(image, intensity, strict=True):
        least, most = float(channel.min()), float(channel.max())
        require_varied(least, most, where)
        if how.kind == "none":
            rows.append((-np.inf, np.inf, 0.0, 1.0))
            continue
        low, high = how.low, how.high
        counted = channel
        if how.region != "volume":
            counted = _counted(image, channel, how.region)
            least, most = float(counted.min()), float(counted.max())
            require_varied(least, most, where)
        if how.kind != "window":
            some = thinned(counted, ENOUGH)
            low, high = (float(value) for value in np.percentile(some, (how.low, how.high)))
            if (how.low, how.high) == (0, 100) or not low < high:
                low, high = least, most  # all, or nearly all values are equal
        shift, width = low, high - low
        if how.kind == "z-score":
            kept = (counted if how.region != "volume" else some).clip(low, high)
            shift, width = _mean_and_deviation(kept)
        if how.mean is not None and how.std is not None:
            shift, width = how.mean, how.std
        rows.append((low, high, shift, max(width, 1e-8)))
    return np.array(rows)


def scale_alone(
    image: NDArray[np.float32], intensity: Sequence[Intensity], where: str
) -> NDArray[np.float32]:
    """Scale a sample that is no file of a volume as a plan scales those.

    So networks that learnt from files can be asked about images, and about volumes of arrays.

    Percentiles, means and standard deviations are those of the sample. One that shows nothing
    becomes zeros.

    Args:
        image: Shape ``(C, H, W)`` or ``(C, D, H, W)``, values in [0, 1]. It is not changed.
        intensity: How each channel is scaled.
        where: Names it, for messages.

    Raises:
        InputError: When the plan takes values as they are, such as those of CT, which samples that
            were scaled to [0, 1] have not.

    Example:
        >>> image = np.array([[[0.0, 0.5, 1.0]]], np.float32)
        >>> scale_alone(image, (Intensity("z-score", 0, 100),), "here").round(2)
        array([[[-1.22,  0.  ,  1.22]]], dtype=float32)
    """
    require_relative(intensity, where)
    if image.min() == image.max():
        return np.zeros_like(image)
    flat = image.ndim == 3
    x = (image[:, None] if flat else image).copy()
    scale(x, limits(x, intensity, where), intensity)
    return x[:, 0] if flat else x


def is_relative(intensity: Sequence[Intensity]) -> bool:
    """Tell whether a plan scales by what a sample holds alone, which images can be too."""
    return all(how.kind in ("percentiles", "z-score") for how in intensity)


def require_relative(intensity: Sequence[Intensity], where: str) -> None:
    """Refuse samples with values in [0, 1] where a plan takes those of files as they are.

    Raises:
        InputError: As `scale_alone` says.
    """
    for how in intensity:
        if not is_relative((how,)):
            ends = f" (from {how.low:g} to {how.high:g})" if how.kind == "window" else ""
            raise InputError(
                f"{where}: holds values from 0 to 1, but the plan takes those of volumes as they "
                f"are{ends}; give files of volumes, such as a NIfTI file of one slice for an image"
            )


PART = 2**20
"""Values whose deviations are added up at a time."""


def _mean_and_deviation(values: NDArray[np.float32]) -> tuple[float, float]:
    """Return the mean and the standard deviation of values of any shape.

    By parts, as numpy's takes three times the values' memory.
    """
    mean = float(values.mean(dtype=np.float64))
    flat = values.reshape(-1)
    squares = 0.0
    for start in range(0, len(flat), PART):
        away = np.subtract(flat[start : start + PART], mean, dtype=np.float64)
        squares += float(away @ away)
    return mean, (squares / len(flat)) ** 0.5


def _counted(
    image: NDArray[np.float32], channel: NDArray[np.float32], region: str
) -> NDArray[np.float32]:
    """Give the values of a channel of which the mean and the standard deviation are measured.

    As nnU-Net's ``create_nonzero_mask`` and ``crop_to_nonzero``: those in what is not zero in some
    channel, its holes filled, or in the box around it.
    """
    return channel[box_around(image)] if region == "box" else channel[_filled(image)]


def _filled(image: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Tell what is not zero in some channel of a volume, its holes filled, ``(D, H, W)``."""
    from scipy.ndimage import binary_fill_holes

    filled: NDArray[np.bool_] = binary_fill_holes((image != 0).any(0))
    return filled


def box_around(image: NDArray[np.float32]) -> tuple[slice, ...]:
    """Give the box around what is not zero in some channel of a volume ``(C, D, H, W)``.

    Raises:
        ValueError: When all is zero.

    Example:
        >>> image = np.zeros((1, 3, 3, 3), np.float32)
        >>> image[0, 1, :2, 1] = 1
        >>> box_around(image)
        (slice(1, 2, None), slice(0, 2, None), slice(1, 2, None))
    """
    there = (image != 0).any(0)
    found = []
    for axis in range(there.ndim):
        others = tuple(other for other in range(there.ndim) if other != axis)
        places = np.flatnonzero(there.any(others))
        found.append(slice(int(places.min()), int(places.max()) + 1))
    return tuple(found)


def scale(
    image: NDArray[np.float32], found: NDArray[np.float64], intensity: Sequence[Intensity]
) -> None:
    """Clip, shift and divide the channels of a volume in place by what `limits` found."""
    part = [how.region == "nonzero" and how.kind == "z-score" for how in intensity]
    outside = ~_filled(image) if any(part) else None
    rows = found.astype(np.float32)
    for channel, (low, high, shift, width), partial in zip(image, rows, part, strict=True):
        kept = channel[outside] if partial else None
        np.clip(channel, low, high, out=channel)
        channel -= shift
        channel /= width
        if kept is not None:
            channel[outside] = kept
