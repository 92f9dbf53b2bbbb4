"""DICOM files and series: found, sorted by position and checked, read by SimpleITK."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossd.data.formats import (
    UNREADABLE,
    Array,
    Header,
    affine_of,
    damaged,
    is_dicom,
    itk_header,
    open_itk,
)
from crossd.errors import InputError

SERIES, ORIENTATION, POSITION = "0020|000e", "0020|0037", "0020|0032"
MODALITY = "0008|0060"
UNEVEN = 0.1
"""Share of the median distance by which slices may be displaced."""


@dataclass(frozen=True)
class _Slice:
    file: Path
    header: Header
    series: str
    orientation: NDArray[np.float64] | None
    position: NDArray[np.float64] | None


def read_header(path: Path) -> Header:
    """Read what a DICOM file, or a folder with one series, says of its volume.

    Slices are sorted by their position. Rescale slope and intercept are applied by the reader.

    Args:
        path: The file or the folder.

    Returns:
        The header, with the files of a series in order.

    Raises:
        InputError: When there is no image, there are two series, slices are missing or there twice,
            or a file is damaged.
    """
    if not path.is_dir():
        one = _read(path)
        return replace(one.header, path=path)
    files = series_files(path)
    if not files:
        raise InputError(f"{path}: holds no DICOM files")
    slices = [_read(file) for file in files]
    _one_series(path, slices)
    if len(slices) == 1:
        return replace(slices[0].header, path=path)
    return _volume(path, slices)


def series_files(folder: Path) -> list[Path]:
    """List the DICOM files of a folder, but for hidden ones and DICOMDIR."""
    return sorted(
        file
        for file in folder.iterdir()
        if file.is_file()
        and not file.name.startswith(".")
        and file.name.upper() != "DICOMDIR"
        and is_dicom(file)
    )


def series_folders(root: Path) -> Iterator[Path]:
    """Yield the folders at or below `root` that hold DICOM files."""
    for folder in sorted({root, *(p for p in root.rglob("*") if p.is_dir())}):
        if any(is_dicom(file) for file in folder.iterdir() if file.is_file()):
            yield folder


def _read(file: Path) -> _Slice:
    try:
        reader = open_itk(file)
        header = itk_header(file, reader)
    except InputError:
        raise
    except UNREADABLE as error:
        message = " ".join(str(error).split())
        if "ixel" in message or "size" in message.lower():
            raise InputError(f"{file}: holds no pixel data that can be read") from error
        raise damaged(file, error) from error

    def tag(name: str) -> str:
        return reader.GetMetaData(name).strip() if reader.HasMetaDataKey(name) else ""

    header = replace(
        header,
        files=(file,),
        modality=tag(MODALITY),
    )
    return _Slice(
        file, header, tag(SERIES), _numbers(tag(ORIENTATION), 6), _numbers(tag(POSITION), 3)
    )


def _numbers(text: str, count: int) -> NDArray[np.float64] | None:
    try:
        values = np.array([float(part) for part in text.split("\\")])
    except ValueError:
        return None
    return values if len(values) == count and np.isfinite(values).all() else None


def _one_series(path: Path, slices: list[_Slice]) -> None:
    """Refuse folders of two series, and of slices that differ."""
    series = {one.series for one in slices}
    if len(series) > 1:
        raise InputError(
            f"{path}: holds {len(series)} DICOM series; put each into a folder of its own"
        )
    first = slices[0]
    for one in slices:
        if one.header.shape != first.header.shape or one.header.channels != first.header.channels:
            raise InputError(
                f"{one.file}: has the shape {one.header.shape}, others of its series "
                f"{first.header.shape}; remove it, or the scout image among them"
            )


def _volume(path: Path, slices: list[_Slice]) -> Header:
    """Sort slices by position, check that none is missing, and make one header of them."""
    first = slices[0]
    if first.header.shape[2] > 1:
        raise InputError(f"{path}: holds several DICOM volumes; put each into a folder of its own")
    rows = first.orientation
    for one in slices:
        if one.position is None or one.orientation is None or rows is None:
            raise InputError(f"{one.file}: lacks its position or orientation in the patient")
        if np.abs(one.orientation - rows).max() > 1e-3:
            raise InputError(f"{one.file}: is turned against others of its series; remove it")
    assert rows is not None
    normal = np.cross(rows[:3], rows[3:])
    along = np.array([_position(one) @ normal for one in slices])
    order = np.argsort(along, kind="stable")
    ordered = [slices[i] for i in order]
    steps = np.diff(along[order])
    typical = float(np.median(steps))
    twice = np.flatnonzero(steps < max(1e-3, UNEVEN * typical))
    if len(twice):
        one, other = (ordered[twice[0] + i].file for i in (0, 1))
        raise InputError(f"{other}: lies where {one.name} does; remove one of the duplicate slices")
    uneven = np.flatnonzero(np.abs(steps - typical) > UNEVEN * typical)
    if len(uneven):
        one, gap = ordered[uneven[0]].file, steps[uneven[0]]
        raise InputError(
            f"{path}: a slice is missing after {one.name} (the next lies {gap:g} mm on, "
            f"others {typical:g} mm); complete the series"
        )
    start, end = _position(ordered[0]), _position(ordered[-1])
    step = (end - start) / (len(ordered) - 1)
    spacing = first.header.affine
    sides = np.linalg.norm(spacing[:3, :2], axis=0)
    direction: Array = np.column_stack((rows[:3], rows[3:], step / np.linalg.norm(step)))
    affine = affine_of(direction, (*sides, float(np.linalg.norm(step))), start)
    columns, lines, _ = first.header.shape
    return replace(
        first.header,
        path=path,
        shape=(columns, lines, len(ordered)),
        affine=affine,
        files=tuple(one.file for one in ordered),
    )


def _position(one: _Slice) -> Any:
    assert one.position is not None
    return one.position
