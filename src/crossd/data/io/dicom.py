"""DICOM files and series: found, sorted by position and checked, read by SimpleITK."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from crossd.data.io.header import Header, is_dicom, reading
from crossd.data.io.itk import affine_of, itk_header, open_itk
from crossd.data.shared_arrays import Array
from crossd.errors import InputError

if TYPE_CHECKING:
    from pydicom.dataelem import DataElement, RawDataElement
    from pydicom.tag import BaseTag

SERIES, ORIENTATION, POSITION = "0020|000e", "0020|0037", "0020|0032"
MODALITY, SPACING = "0008|0060", "0028|0030"
PLACE = ["ImagePositionPatient", "NumberOfFrames"]
SYNTAX, BITS = "0002|0010", "0028|0100"
IMPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
UNDEFINED = 0xFFFFFFFF
PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
PLAIN = {IMPLICIT, "1.2.840.10008.1.2.1", BIG_ENDIAN}
"""Transfer syntaxes in which pixels are not compressed."""

MOST_COMPRESSED = 1000
"""Times that compressed pixels may be larger than their file."""

UNEVEN = 0.1
"""Share of the median distance by which slices may be displaced."""


@dataclass(frozen=True)
class _Slice:
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
        return _read(path).header
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
        if file.is_file() and not file.name.startswith(".") and is_dicom(file)
    )


def is_stack(files: Sequence[Path]) -> bool:
    """Tell whether the DICOM files of a folder are slices of a volume, not images of their own.

    A slice says where it lies in the patient. Radiographs, photographs and ultrasound do not: each
    of their files is a case. What cannot be read is left to `read_header` to complain about.

    Args:
        files: Those of the folder, one or more; three of them are looked at.
    """
    import pydicom

    read = False
    for file in {files[0], files[len(files) // 2], files[-1]}:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                said = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=PLACE)
                frames = int(said.get("NumberOfFrames") or 1)
        except Exception:  # pydicom raises many kinds on damaged files
            continue
        read = True
        if said.get("ImagePositionPatient") or (len(files) == 1 and frames > 1):
            return True
    return not read


def _read(file: Path) -> _Slice:
    check_lengths(file)
    with reading(file):
        reader = open_itk(file)
        header = itk_header(file, reader)

    def tag(name: str) -> str:
        return reader.GetMetaData(name).strip() if reader.HasMetaDataKey(name) else ""

    bits = tag(BITS)
    held = file.stat().st_size * (1 if tag(SYNTAX) in PLAIN else MOST_COMPRESSED)
    claimed = np.prod([float(n) for n in header.shape]) * header.channels
    if claimed * (int(bits) // 8 if bits.isdecimal() else 1) > held:
        raise InputError(
            f"{file}: claims {' x '.join(map(str, header.shape))} pixels, more than it can hold; "
            "it is damaged or incomplete"
        )
    sides = _numbers(tag(SPACING), 2)
    if sides is not None and not (sides > 0).all():
        raise InputError(f"{file}: its pixel spacing is {tag(SPACING)} mm; expected more than 0")
    header = replace(header, files=(file,), modality=tag(MODALITY))
    return _Slice(header, tag(SERIES), _numbers(tag(ORIENTATION), 6), _numbers(tag(POSITION), 3))


def check_lengths(file: Path) -> None:
    """Check that no element of a DICOM file claims to be longer than the file.

    GDCM, which reads files for SimpleITK, would allocate what a damaged length claims: gigabytes.

    Raises:
        InputError: When the file is damaged, or no DICOM file.
    """
    from pydicom.dataelem import RawDataElement
    from pydicom.filereader import data_element_generator

    size = file.stat().st_size
    with reading(file), file.open("rb") as stream:
        if stream.read(132)[128:] != b"DICM":
            raise InputError(f"{file}: is no DICOM file (DICM at byte 128 is missing)")
        syntax, start = "", 132
        for raw in data_element_generator(stream, False, True, _after_meta, defer_size=0):
            start = _end(raw, size)
            if raw.tag == 0x00020010 and isinstance(raw, RawDataElement):
                stream.seek(raw.value_tell)
                syntax = stream.read(raw.length).decode("ascii").strip(" \0")
        if syntax == DEFLATED:
            return
        stream.seek(start)
        ways = (syntax == IMPLICIT, syntax != BIG_ENDIAN)
        pixels = False
        for raw in data_element_generator(stream, *ways, defer_size=0):
            _end(raw, size)
            pixels |= int(raw.tag) in PIXELS
    if not pixels:
        raise InputError(f"{file}: holds no pixel data (a report or a plan?); remove it")


def _end(raw: "RawDataElement | DataElement", size: int) -> int:
    """Return where the value of an element ends, which must be within the file."""
    from pydicom.dataelem import RawDataElement
    from pydicom.valuerep import VR

    if raw.VR is not None and raw.VR not in list(VR):
        raise ValueError(f"element {raw.tag} is of the unknown kind {raw.VR!r}")
    if not isinstance(raw, RawDataElement) or raw.length == UNDEFINED:
        return 0  # a sequence, whose elements were read
    end = int(raw.value_tell + raw.length)
    if end > size:
        raise EOFError(f"element {raw.tag} is longer than the file")
    return end


def _after_meta(tag: "BaseTag", vr: str | None, length: int) -> bool:
    return int(tag) >> 16 != 2


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
                f"{one.header.path}: has the shape {one.header.shape}, others of its series "
                f"{first.header.shape}; remove it, or the scout image among them"
            )


def _volume(path: Path, slices: list[_Slice]) -> Header:
    """Sort slices by position, check that none is missing, and make one header of them."""
    first = slices[0]
    if first.header.shape[2] > 1:
        raise InputError(f"{path}: holds several DICOM volumes; put each into a folder of its own")
    rows, positions = first.orientation, []
    for one in slices:
        if one.position is None or one.orientation is None or rows is None:
            raise InputError(f"{one.header.path}: lacks its position or orientation in the patient")
        if np.abs(one.orientation - rows).max() > 1e-3:
            raise InputError(
                f"{one.header.path}: is turned against others of its series; remove it"
            )
        positions.append(one.position)
    assert rows is not None
    along = np.array(positions) @ np.cross(rows[:3], rows[3:])
    order = np.argsort(along, kind="stable")
    files = tuple(slices[i].header.path for i in order)
    steps = np.diff(along[order])
    typical = float(np.median(steps))
    twice = np.flatnonzero(steps < max(1e-3, UNEVEN * typical))
    if len(twice):
        kept, other = files[twice[0]], files[twice[0] + 1]
        raise InputError(
            f"{other}: lies where {kept.name} does; remove one of the duplicate slices"
        )
    uneven = np.flatnonzero(np.abs(steps - typical) > UNEVEN * typical)
    if len(uneven):
        before, gap = files[uneven[0]], steps[uneven[0]]
        raise InputError(
            f"{path}: a slice is missing after {before.name} (the next lies {gap:g} mm on, "
            f"others {typical:g} mm); complete the series"
        )
    start, end = positions[order[0]], positions[order[-1]]
    step = (end - start) / len(steps)
    sides = np.linalg.norm(first.header.affine[:3, :2], axis=0)
    direction: Array = np.column_stack((rows[:3], rows[3:], step / np.linalg.norm(step)))
    affine = affine_of(direction, (*sides, float(np.linalg.norm(step))), start.tolist())
    shape = (*first.header.shape[:2], len(files))
    return replace(first.header, path=path, shape=shape, affine=affine, files=files)
