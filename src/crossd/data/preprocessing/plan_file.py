"""Plans as YAML that users edit, and as records that weights files keep: written, read, checked."""

import dataclasses
import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from crossd.data.io.agreement import HIGHEST
from crossd.data.preprocessing.plan import KINDS, REGIONS, Intensity, Plan
from crossd.errors import InputError
from crossd.utils.atomic_files import atomic

LONGEST = 1e4
"""Side of a voxel [mm] from which it is taken for a mistake."""


def write(
    plan: Plan,
    path: Path,
    values: Sequence[int] = (),
    classes: Sequence[str] = (),
    notes: Sequence[str] = (),
    ignore: int | None = None,
) -> None:
    """Write a plan as YAML that can be edited.

    Args:
        plan: The plan.
        path: The file; it appears whole or not at all.
        values: What stands for each class in masks.
        classes: Their names.
        notes: Lines of comment at its beginning.
        ignore: Value of masks that says that a voxel is not known, if there is one.
    """
    import yaml

    record = to_record(plan)
    assert record is not None
    if values:
        record["classes"] = dict(zip(values, classes, strict=True))
    if ignore is not None:
        record["ignore"] = ignore
    head = [
        *notes,
        "spacing: voxels after resampling, z y x [mm]; patch: training patch and sliding window.",
        "intensity, for each channel: window (low, high: values), percentiles or z-score (low,",
        "high: percentiles of each volume) or none. classes: value in masks: name. ignore: value",
        "in masks of voxels that are not known.",
    ]
    body = yaml.safe_dump(record, sort_keys=False, default_flow_style=None)
    with atomic(path) as temporary:
        temporary.write_text("".join(f"# {line}\n" for line in head) + body, encoding="utf-8")


def read(path: Path) -> tuple[Plan, dict[int, str], int | None]:
    """Read a plan, the names of its classes by their values in masks, and which value is ignored.

    Raises:
        InputError: With the file and the entry that is wrong.
    """
    import yaml

    try:
        record = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        line = " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read as a plan ({line})") from error
    known = {"spacing", "patch", "intensity", "classes", "ignore", "axes", "fill", "final", "box"}
    if isinstance(record, dict) and set(record) - known:
        odd = ", ".join(sorted(map(str, set(record) - known)))
        raise InputError(f"{path}: does not know {odd}; expected {', '.join(sorted(known))}")
    if not isinstance(record, dict) or not {"spacing", "patch", "intensity"} <= set(record):
        raise InputError(f"{path}: is no plan; expected spacing, patch, intensity and classes")
    classes = record.get("classes") or {}
    if not isinstance(classes, dict) or not all(type(v) is int and 0 <= v < 256 for v in classes):
        raise InputError(f"{path}: classes must be lines such as `1: liver`, values from 0 to 255")
    if classes and (0 not in classes or len(classes) < 2):
        raise InputError(f"{path}: classes must hold 0 (the background) and one more")
    ignore = record.get("ignore")
    if ignore is not None and (type(ignore) is not int or not 1 <= ignore <= HIGHEST):
        raise InputError(
            f"{path}: ignore is {ignore!r}; expected a value of masks from 1 to {HIGHEST:,}, or no "
            "such line"
        )
    if ignore in classes:
        raise InputError(f"{path}: {ignore} is to be ignored, but is also a class; remove one line")
    named = {value: str(classes[value]) for value in sorted(classes)}
    return from_record(record, str(path)), named, ignore


def to_record(plan: Plan | None) -> dict[str, object] | None:
    """Return a plan as JSON can hold it, as weights files keep it; None for none."""
    if plan is None:
        return None
    record: dict[str, object] = json.loads(json.dumps(dataclasses.asdict(plan, dict_factory=_said)))
    return record


_DEFAULTS = {
    f.name: f.default
    for kind in (Plan, Intensity)
    for f in dataclasses.fields(kind)
    if f.default is not dataclasses.MISSING
}


def _said(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    """Leave out what is as it is by itself."""
    return {name: v for name, v in pairs if name not in _DEFAULTS or v != _DEFAULTS[name]}


def from_record(record: Mapping[str, object], where: str) -> Plan:
    """Return the plan of a record, as `to_record` gives it, checked.

    Raises:
        InputError: With the entry that is wrong.
    """
    spacing = _three(record, "spacing", where, (int, float), LONGEST)
    depth, height, width = (int(n) for n in _three(record, "patch", where, (int,), math.inf))
    intensity = record.get("intensity")
    if not isinstance(intensity, list) or not intensity:
        raise InputError(f"{where}: intensity must be a list with one entry a channel")
    scales = []
    for one in intensity:
        names, more = {"kind", "low", "high"}, {"mean", "std", "region"}
        own = set(one) if isinstance(one, dict) else set()
        if not names <= own <= names | more or one["kind"] not in KINDS:
            raise InputError(
                f"{where}: an intensity must have kind ({', '.join(KINDS)}), low and high, and may "
                "have mean and std (of a window) or region (of a z-score)"
            )
        low, high = one["low"], one["high"]
        if not all(_is_number(v) for v in (low, high)) or not low < high:
            raise InputError(f"{where}: intensity low (={low}) must be a number below high")
        if one["kind"] not in ("window", "none") and not (low >= 0 and high <= 100):
            raise InputError(f"{where}: {one['kind']} takes percentiles from 0 to 100")
        mean, std, region = one.get("mean"), one.get("std"), one.get("region", REGIONS[0])
        both = mean is None and std is None
        if not both and not (_is_number(mean) and _is_number(std) and std > 0):
            raise InputError(f"{where}: mean and std must both be numbers, std above 0")
        if not both and one["kind"] != "window":
            raise InputError(f"{where}: mean and std are for a window, not for {one['kind']}")
        if region not in REGIONS or (region != REGIONS[0] and one["kind"] in ("window", "none")):
            raise InputError(
                f"{where}: region (={region}) must be one of {', '.join(REGIONS)}, for percentiles "
                "or a z-score"
            )
        scales.append(Intensity(one["kind"], float(low), float(high), mean, std, region))
    axes = record.get("axes")
    fill: Any = record.get("fill")
    if axes is not None and not (isinstance(axes, list | tuple) and sorted(axes) == [0, 1, 2]):
        raise InputError(f"{where}: axes is {axes}; expected 0, 1 and 2 in some order")
    if fill is not None and not _is_number(fill):
        raise InputError(f"{where}: fill is {fill}; expected a number")
    for name in ("final", "box"):
        if record.get(name) not in (None, True, False):
            raise InputError(f"{where}: {name} is {record[name]}; expected true or false")
    return Plan(
        spacing,
        (depth, height, width),
        tuple(scales),
        None if axes is None else (axes[0], axes[1], axes[2]),
        fill,
        bool(record.get("final")),
        bool(record.get("box")),
    )


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(float(str(value)))


def _three(
    record: Mapping[str, object], name: str, where: str, kinds: Collection[type], most: float
) -> tuple[float, float, float]:
    """Return the three numbers of an entry: of these kinds, above 0 and below `most`."""
    value = record.get(name)
    given = value if isinstance(value, list | tuple) else ()
    if len(given) != 3 or not all(type(one) in kinds and 0 < one < most for one in given):
        raise InputError(f"{where}: {name} is {value}; expected three numbers above 0 (z, y, x)")
    z, y, x = given
    return z, y, x
