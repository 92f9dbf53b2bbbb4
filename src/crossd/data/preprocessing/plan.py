"""How volumes are prepared: decided by a scan, edited by the user, kept with the weights."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossd.data.quality.facts import CLIP, ENOUGH, SampleFacts, require_varied, thinned
from crossd.data.shapes import round_up
from crossd.errors import InputError
from crossd.utils.atomic_files import atomic

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

KINDS = ("window", "percentiles", "z-score")


@dataclass(frozen=True)
class Intensity:
    """How the values of one channel are scaled.

    Attributes:
        kind: "window" (the same `low` and `high` for all volumes, as of CT, become 0 and 1),
            "percentiles" (those `low` and `high` of each volume become 0 and 1), or "z-score"
            (clipped to these percentiles, then less the mean and over the standard deviation of
            each volume).
        low: Lower end.
        high: Upper end.
    """

    kind: str
    low: float
    high: float


@dataclass(frozen=True)
class Plan:
    """How volumes are prepared, the same in training and in use.

    Attributes:
        spacing: Size of a voxel that volumes are resampled to (z, y, x) [mm].
        patch: Voxels of the training patches and of the window that slides over volumes.
        intensity: How each channel is scaled.
    """

    spacing: tuple[float, float, float]
    patch: tuple[int, int, int]
    intensity: tuple[Intensity, ...]


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
    """Choose a patch that covers the typical size, its longest sides cut until it is small enough.

    Args:
        typical: Voxels at the spacing of the plan.
    """
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
    """Find what clips, shifts and divides each channel of a volume.

    Args:
        image: Shape ``(C, D, H, W)``, as the file has it.
        intensity: How each channel is scaled.
        where: The file, for messages.

    Returns:
        Lower end, upper end, what is subtracted and what is divided by, ``(C, 4)``.

    Raises:
        InputError: When all values of a channel are equal, or there are more or fewer channels.
    """
    if len(image) != len(intensity):
        raise InputError(f"{where}: has {len(image)} channels, expected {len(intensity)}")
    rows = []
    for channel, how in zip(image, intensity, strict=True):
        least, most = float(channel.min()), float(channel.max())
        require_varied(least, most, where)
        low, high = how.low, how.high
        if how.kind != "window":
            some = thinned(channel, ENOUGH)
            low, high = (float(value) for value in np.percentile(some, (how.low, how.high)))
            if not low < high:  # nearly all values are equal, as around a small bright thing
                low, high = least, most
        shift, width = low, high - low
        if how.kind == "z-score":
            kept = some.clip(low, high)
            shift, width = float(kept.mean()), float(kept.std())
        rows.append((low, high, shift, width))
    return np.array(rows)


def scale(image: NDArray[np.float32], found: NDArray[np.float64]) -> None:
    """Clip, shift and divide the channels of a volume in place by what `limits` found.

    Args:
        image: Shape ``(C, ...)``.
        found: Shape ``(C, 4)``.
    """
    for channel, (low, high, shift, width) in zip(image, found.astype(np.float32), strict=True):
        np.clip(channel, low, high, out=channel)
        channel -= shift
        channel /= width


def write(
    plan: Plan,
    path: Path,
    values: Sequence[int] = (),
    classes: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> None:
    """Write a plan as YAML that can be edited.

    Args:
        plan: The plan.
        path: The file; it appears whole or not at all.
        values: Values of masks, one a class.
        classes: Names of the classes.
        notes: Lines of comment at its beginning.
    """
    import yaml

    record: dict[str, Any] = {
        "spacing": list(plan.spacing),
        "patch": list(plan.patch),
        "intensity": [dataclasses.asdict(one) for one in plan.intensity],
    }
    if values:
        record["classes"] = dict(zip(values, classes, strict=True))
    head = [
        *notes,
        "spacing: voxels after resampling, z y x [mm]; patch: training patch and sliding window.",
        "intensity, for each channel: window (low, high: values), percentiles or z-score (low,",
        "high: percentiles of each volume). classes: value in masks: name.",
    ]
    body = yaml.safe_dump(record, sort_keys=False, default_flow_style=None)
    with atomic(path) as temporary:
        temporary.write_text("".join(f"# {line}\n" for line in head) + body, encoding="utf-8")


def read(path: Path) -> tuple[Plan, dict[int, str]]:
    """Read a plan, and the names of its classes by their values in masks.

    Raises:
        InputError: With the file and the entry that is wrong.
    """
    import yaml

    try:
        record = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        line = " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read as a plan ({line})") from error
    known = {"spacing", "patch", "intensity", "classes"}
    if isinstance(record, dict) and set(record) - known:
        odd = ", ".join(sorted(map(str, set(record) - known)))
        raise InputError(f"{path}: does not know {odd}; expected {', '.join(sorted(known))}")
    if not isinstance(record, dict) or not {"spacing", "patch", "intensity"} <= set(record):
        raise InputError(f"{path}: is no plan; expected spacing, patch, intensity and classes")
    classes = record.get("classes") or {}
    if not isinstance(classes, dict) or not all(_whole(v) and 0 <= v < 256 for v in classes):
        raise InputError(f"{path}: classes must be lines such as `1: liver`, values from 0 to 255")
    if classes and (0 not in classes or len(classes) < 2):
        raise InputError(f"{path}: classes must hold 0 (the background) and one more")
    named = {value: str(classes[value]) for value in sorted(classes)}
    return from_record(record, str(path)), named


def to_record(plan: Plan | None) -> dict[str, Any] | None:
    """Return a plan as JSON can hold it, as weights files keep it; None for none."""
    if plan is None:
        return None
    record: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(plan)))
    return record


def from_record(record: dict[str, Any], where: str) -> Plan:
    """Return the plan of a record, as `to_record` gives it, checked.

    Raises:
        InputError: With the entry that is wrong.
    """
    spacing = _three(record, "spacing", where, lambda v: isinstance(v, int | float) and 0 < v < 1e4)
    patch = _three(record, "patch", where, lambda v: _whole(v) and v >= 1)
    intensity = record.get("intensity")
    if not isinstance(intensity, list) or not intensity:
        raise InputError(f"{where}: intensity must be a list with one entry a channel")
    scales = []
    for one in intensity:
        names = ("kind", "low", "high")
        if not isinstance(one, dict) or set(one) != set(names) or one["kind"] not in KINDS:
            raise InputError(
                f"{where}: an intensity must have kind ({', '.join(KINDS)}), low and high"
            )
        low, high = one["low"], one["high"]
        numbers = all(isinstance(v, int | float) and np.isfinite(v) for v in (low, high))
        if not numbers or not low < high:
            raise InputError(f"{where}: intensity low (={low}) must be a number below high")
        if one["kind"] != "window" and not (low >= 0 and high <= 100):
            raise InputError(f"{where}: {one['kind']} takes percentiles from 0 to 100")
        scales.append(Intensity(one["kind"], float(low), float(high)))
    return Plan(spacing, patch, tuple(scales))


def _three(
    record: dict[str, Any], name: str, where: str, valid: Callable[[Any], bool]
) -> tuple[Any, Any, Any]:
    value = record.get(name)
    if not isinstance(value, list | tuple) or len(value) != 3 or not all(map(valid, value)):
        raise InputError(f"{where}: {name} is {value}; expected three numbers above 0 (z, y, x)")
    z, y, x = value
    return z, y, x


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
