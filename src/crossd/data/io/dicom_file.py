"""One DICOM file: the slices that it holds, where they lie, and what tells them apart."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from crossd.data.io.header import Header, reading
from crossd.data.io.itk import itk_header, open_itk
from crossd.errors import InputError

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.dataelem import DataElement, RawDataElement
    from pydicom.tag import BaseTag

SERIES, ORIENTATION, POSITION = "0020|000e", "0020|0037", "0020|0032"
MODALITY, SPACING = "0008|0060", "0028|0030"
SYNTAX, BITS = "0002|0010", "0028|0100"
IMPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
UNDEFINED = 0xFFFFFFFF
PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
PLAIN = {IMPLICIT, "1.2.840.10008.1.2.1", BIG_ENDIAN}
"""Transfer syntaxes in which pixels are not compressed."""

MOST_COMPRESSED = 1000
"""Times that compressed pixels may be larger than their file."""

MARKS = {
    "echo times [ms]": ("0018|0081", "EffectiveEchoTime"),
    "times after the trigger [ms]": ("0018|1060", "NominalCardiacTriggerDelayTime"),
    "inversion times [ms]": ("0018|0082", "InversionTimes"),
    "b-values": ("0018|9087", "DiffusionBValue"),
    "time points": ("0020|0100", "TemporalPositionIndex"),
    "stacks": ("0020|9056", "StackID"),
    "kinds of image": ("0008|0008", "FrameType"),
    "segments": ("", "ReferencedSegmentNumber"),
    "acquisitions": ("0020|0012", "FrameAcquisitionNumber"),
    "times of acquisition": ("0008|0032", "FrameAcquisitionDateTime"),
}
"""What may differ between images at one place: its name, its tag in a file of one frame, and its
keyword in the groups of a frame."""

FILM = ("FrameTime", "FrameTimeVector", "CineRate", "RecommendedDisplayFrameRate")


@dataclass(frozen=True)
class Slice:
    """One slice: a file, or a frame of one.

    Attributes:
        header: Of the file.
        series: Identifies its series.
        orientation: Directions of its rows and columns, (6,), where it says them.
        position: Of its first pixel in the patient [mm], where it says it.
        sides: Size of a pixel (x, y) [mm].
        marks: Values of `MARKS` that it says.
        frame: Its number in the file, from 0; None for a file of one slice.
    """

    header: Header
    series: str
    orientation: NDArray[np.float64] | None
    position: NDArray[np.float64] | None
    sides: tuple[float, float]
    marks: Mapping[str, str]
    frame: int | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        name = self.header.path.name
        return name if self.frame is None else f"frame {self.frame + 1} of {name}"


def slices_of(file: Path) -> list[Slice]:
    """Read what a DICOM file says of its slices: one, or its frames as they are stored.

    Frames that say no position are no slices of their own: their header is that of a volume, if
    the file says how far apart they are.

    Raises:
        InputError: When the file is damaged, or its frames are a film.
    """
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
    sides = _numbers(tag(SPACING).split("\\"), 2)
    if sides is not None and not (sides > 0).all():
        raise InputError(f"{file}: its pixel spacing is {tag(SPACING)} mm; expected more than 0")
    header = replace(header, files=(file,), modality=tag(MODALITY))
    x, y = np.linalg.norm(header.affine[:3, :2], axis=0).tolist()
    one = Slice(
        header,
        tag(SERIES),
        _numbers(tag(ORIENTATION).split("\\"), 6),
        _numbers(tag(POSITION).split("\\"), 3),
        (x, y),
        {name: tag(number) for name, (number, _) in MARKS.items() if number and tag(number)},
    )
    if header.shape[2] == 1 and one.position is not None:
        return [one]
    with reading(file), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _frames(one) or [_undivided(one)]


def _frames(one: Slice) -> list[Slice]:
    """Read where the frames of an enhanced file lie; none where they do not say it.

    Raises:
        InputError: When there are more or fewer frames than places, or each has its own scale.
    """
    import pydicom

    file, count = one.header.path, one.header.shape[2]
    said = pydicom.dcmread(file, stop_before_pixels=True)
    shared = _elements(said.get("SharedFunctionalGroupsSequence") or ())
    groups = said.get("PerFrameFunctionalGroupsSequence") or ()
    found, scales = [], set()
    for number, group in enumerate(groups):
        values = shared | _elements([group])
        position = values.get("ImagePositionPatient") or values.get("ImagePositionVolume")
        turn = values.get("ImageOrientationPatient") or values.get("ImageOrientationVolume")
        spacing = _numbers(values.get("PixelSpacing"), 2)
        scales.add((str(values.get("RescaleSlope", "")), str(values.get("RescaleIntercept", ""))))
        found.append(
            replace(
                one,
                orientation=_numbers(turn, 6),
                position=_numbers(position, 3),
                sides=one.sides if spacing is None else (float(spacing[1]), float(spacing[0])),
                marks={m: str(values[key]) for m, (_, key) in MARKS.items() if key in values},
                frame=number if count > 1 else None,
            )
        )
    if all(frame.position is None for frame in found):
        return []
    if len(found) != count:
        raise InputError(f"{file}: holds {count} frames, but says of {len(found)} where they lie")
    if len(scales) > 1:
        raise InputError(
            f"{file}: its frames have {len(scales)} different rescale slopes or intercepts, which "
            "readers apply to the first alone; write the frames as files of their own"
        )
    return found


def _elements(sequence: Sequence["Dataset"]) -> dict[str, object]:
    """Give the elements of functional groups by their keywords, those inside of sequences too."""
    found: dict[str, object] = {}
    for group in sequence:
        for element in group:
            if element.VR == "SQ":
                found |= _elements(element.value[:1])
            elif element.value not in (None, ""):
                found[element.keyword] = element.value
    return found


def _undivided(one: Slice) -> Slice:
    """Take frames that say no position as they are stored, as far apart as the file says.

    Raises:
        InputError: When they are a film, or the file does not say how far apart they are.
    """
    import pydicom

    header, file = one.header, one.header.path
    if header.shape[2] == 1:
        return one
    tags = ["SpacingBetweenSlices", "GridFrameOffsetVector", *FILM]
    said = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=tags)
    steps = np.diff(np.asarray(said.get("GridFrameOffsetVector") or (), np.float64))
    step = float(said.get("SpacingBetweenSlices") or (steps[0] if len(steps) else 0))
    film = [name for name in FILM if said.get(name)]
    if film or not step > 0 or (len(steps) and np.abs(steps - step).max() > 1e-3):
        what = "are a film" if film else "do not say where they lie"
        raise InputError(
            f"{file}: its {header.shape[2]} frames {what}; save them as images, or as a volume "
            "in NIfTI, NRRD or MetaImage"
        )
    affine = header.affine.copy()
    affine[:3, 2] *= step / np.linalg.norm(affine[:3, 2])
    return replace(one, header=replace(header, affine=affine))


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


def _numbers(values: object, count: int) -> NDArray[np.float64] | None:
    """Give so many finite numbers; None where the values are not that."""
    if not isinstance(values, Sequence):
        return None
    try:
        numbers = np.array([float(str(value)) for value in values])
    except ValueError:
        return None
    return numbers if len(numbers) == count and np.isfinite(numbers).all() else None
