"""DICOM series: files and frames found, sorted by position and checked."""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from crossd.data.file_names import is_debris
from crossd.data.io.dicom_file import MARKS, Slice, slices_of
from crossd.data.io.header import Header, is_dicom, sides_shown
from crossd.data.io.itk import affine_of
from crossd.data.shared_arrays import Array
from crossd.errors import InputError

PLACE = [
    *("ImagePositionPatient", "NumberOfFrames", "SeriesInstanceUID"),
    "PerFrameFunctionalGroupsSequence",
]

UNEVEN = 0.1
"""Share of the median distance by which slices may be displaced."""


def read_header(path: Path) -> Header:
    """Read what a DICOM file, or a folder with one series, says of its volume.

    Slices, or the frames of an enhanced file, are sorted by their position. Rescale slope and
    intercept are applied by the reader.

    Args:
        path: The file or the folder.

    Returns:
        The header, with the files of a series, or the frames of a file, in order.

    Raises:
        InputError: When there is no image, there are two series, slices are missing or there twice,
            or a file is damaged.
    """
    files = series_files(path) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{path}: holds no DICOM files")
    slices = [one for file in files for one in slices_of(file)]
    _one_series(path, slices)
    if len(slices) == 1:
        return replace(slices[0].header, path=path)
    return _volume(path, slices)


def series_files(folder: Path) -> list[Path]:
    """List the DICOM files of a folder, but for hidden ones and what systems leave behind.

    Raises:
        InputError: When the folder cannot be read.
    """
    try:
        inside = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(
            f"{folder}: this folder cannot be read ({error.strerror}); let it be read, or move it"
        ) from error
    return [
        file for file in inside if file.is_file() and not is_debris(file.name) and is_dicom(file)
    ]


def is_stack(files: Sequence[Path]) -> bool:
    """Tell whether the DICOM files of a folder are slices of a volume, not images of their own.

    A slice says where it lies in the patient. Radiographs, photographs and ultrasound do not: each
    of their files is a case. So is each slice that is alone in its series. What cannot be read is
    left to `read_header` to complain about.

    Args:
        files: Those of the folder, one or more. Three of them are looked at, and all where these
            are of several series.
    """
    some = _said([files[0], files[len(files) // 2], files[-1]])
    if not some:
        return True
    if len(files) == 1 and some[0][1] > 1:
        return True
    if not any(place for place, _, _ in some):
        return False
    if len({series for _, _, series in some}) > 1:
        return max(Counter(series for _, _, series in _said(files)).values()) > 1
    return True


def _said(files: Sequence[Path]) -> list[tuple[bool, int, str]]:
    """Read of files whether they say their position, their number of frames, and their series."""
    import pydicom

    found = []
    for file in dict.fromkeys(files):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                said = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=PLACE)
                frames = int(said.get("NumberOfFrames") or 1)
        except Exception:  # pydicom raises many kinds on damaged files
            continue
        groups = said.get("PerFrameFunctionalGroupsSequence") or ()
        place = bool(said.get("ImagePositionPatient")) or any(
            "PlanePositionSequence" in group for group in groups
        )
        found.append((place, frames, str(said.get("SeriesInstanceUID"))))
    return found


def _one_series(path: Path, slices: Sequence[Slice]) -> None:
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
                f"{one.header.path}: has the shape {one.header.shape}, others of its series "
                f"{first.header.shape}; remove it, or the scout image among them"
            )
        if not np.allclose(one.sides, first.sides, rtol=1e-3):
            raise InputError(
                f"{path}: the pixel spacing of {one.name} is {sides_shown(one.sides)} mm, that of "
                f"{first.name} {sides_shown(first.sides)} mm; keep the slices of one reconstruction"
            )
    if len({one.header.path for one in slices}) > 1 and first.header.shape[2] > 1:
        raise InputError(f"{path}: holds several DICOM volumes; put each into a folder of its own")


def _volume(path: Path, slices: Sequence[Slice]) -> Header:
    """Sort slices by position, check that none is missing, and make one header of them."""
    first = slices[0]
    rows, places = first.orientation, []
    for one in slices:
        if one.position is None or one.orientation is None or rows is None:
            raise InputError(f"{one.header.path}: {_own(one)}lacks its position or orientation")
        if np.abs(one.orientation - rows).max() > 1e-3:
            raise InputError(
                f"{one.header.path}: {_own(one)}is turned against others of its series; remove it"
            )
        places.append(one.position)
    assert rows is not None
    normal = np.cross(rows[:3], rows[3:])
    order = np.argsort(np.array(places) @ normal, kind="stable")
    ordered, positions = [slices[i] for i in order], np.array(places)[order]
    steps = np.diff(positions @ normal)
    typical = float(np.median(steps))
    twice = np.flatnonzero(steps < max(1e-3, UNEVEN * typical))
    if len(twice):
        raise _at_one_place(path, ordered, len(twice), int(twice[0]))
    uneven = np.flatnonzero(np.abs(steps - typical) > UNEVEN * typical)
    if len(uneven):
        before, gap = ordered[uneven[0]].name, steps[uneven[0]]
        raise InputError(
            f"{path}: a slice is missing after {before} (the next lies {gap:g} mm on, "
            f"others {typical:g} mm); complete the series"
        )
    step = (positions[-1] - positions[0]) / len(steps)
    sideways = positions - positions[0] - np.arange(len(positions))[:, None] * step
    sideways -= (sideways @ normal)[:, None] * normal
    off = np.linalg.norm(sideways, axis=1)
    if off.max() > UNEVEN * typical:
        raise InputError(
            f"{path}: {ordered[int(off.argmax())].name} lies {off.max():.3g} mm beside the line "
            "of the others; remove it, or resample the series to a straight grid"
        )
    direction: Array = np.column_stack((rows[:3], rows[3:], step / np.linalg.norm(step)))
    spacing = (*first.sides, float(np.linalg.norm(step)))
    return replace(
        first.header,
        path=path,
        shape=(*first.header.shape[:2], len(ordered)),
        affine=affine_of(direction, spacing, positions[0].tolist()),
        files=tuple(dict.fromkeys(one.header.path for one in ordered)),
        frames=tuple(one.frame for one in ordered if one.frame is not None),
    )


def _at_one_place(path: Path, ordered: Sequence[Slice], count: int, where: int) -> InputError:
    """Say why slices lie where others do: they are of several kinds, or there twice."""
    one, other = ordered[where : where + 2]
    for mark in MARKS:
        if one.marks.get(mark) != other.marks.get(mark):
            values = sorted({each.marks.get(mark, "none") for each in ordered})
            return InputError(
                f"{path}: holds images of several {mark} at each place ({', '.join(values[:5])}); "
                "put those of each into a folder of its own"
            )
    return InputError(
        f"{path}: {other.name} lies where {one.name} does; remove one of the duplicate slices "
        f"({count} such pairs)"
    )


def _own(one: Slice) -> str:
    """Name a frame in a message that names its file."""
    return "" if one.frame is None else f"frame {one.frame + 1} "
