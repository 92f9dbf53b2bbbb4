"""Files that SimpleITK reads: NRRD, MetaImage and DICOM."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossd.data.io.header import MOST_CHANNELS, Header, Part, reading, whole
from crossd.data.shared_arrays import Array
from crossd.errors import InputError

LONGEST = 1 << 16
"""Bytes of a line in the header of a NRRD file, at most."""

MILLIMETRES = {"mm", "millimeter", "millimeters", "millimetre", "millimetres", "", "???", "none"}
"""How NRRD files name the unit, or say that they do not know one."""


def read_header(path: Path) -> Header:
    """Read what a NRRD or MetaImage file says of its volume.

    Raises:
        InputError: When it is damaged, or a NRRD file in other units than millimetres.
    """
    with reading(path):
        _require_millimetres(path)
        return itk_header(path, open_itk(path))


def _require_millimetres(path: Path) -> None:
    """Refuse other units of a NRRD file: SimpleITK takes its numbers for millimetres all the same.

    To convert them would lay the volume elsewhere than where every other reader by ITK has it, the
    mask that is written beside it included.
    """
    if path.suffix.lower() not in (".nrrd", ".nhdr"):
        return
    with path.open("rb") as file:
        while line := file.readline(LONGEST).decode("latin-1").strip():
            name, _, value = line.partition(":")
            if name.strip().lower() not in ("space units", "units"):
                continue
            for unit in re.findall(r'"([^"]*)"', value):
                if unit.strip().lower() not in MILLIMETRES:
                    raise InputError(
                        f"{path}: its {name.strip()} say {unit!r}, which readers take for "
                        "millimetres; write its spacing, directions and origin in mm"
                    )


def open_itk(path: Path) -> Any:
    """Open a file with SimpleITK and read what it says of its volume."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # faults are exceptions
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.LoadPrivateTagsOff()
    reader.ReadImageInformation()
    return reader


def itk_header(path: Path, reader: Any) -> Header:
    """Make a header of what SimpleITK read."""
    size, axes = reader.GetSize(), reader.GetDimension()
    channels = reader.GetNumberOfComponents()
    if axes not in (2, 3) or channels > MOST_CHANNELS:
        raise InputError(
            f"{path}: has the shape {size} of {channels} numbers; expected a volume of 3 axes and "
            f"up to {MOST_CHANNELS} channels"
        )
    direction = np.eye(3)
    direction[:axes, :axes] = np.reshape(reader.GetDirection(), (axes, axes))
    spacing = (*reader.GetSpacing(), 1.0)[:3]
    origin = (*reader.GetOrigin(), 0.0)[:3]
    x, y, z = (*size, 1)[:3]
    return Header(path, (x, y, z), affine_of(direction, spacing, origin), channels)


def affine_of(direction: Array, spacing: Sequence[float], origin: Sequence[float]) -> Array:
    """Return the affine to RAS of a direction, a spacing and an origin in ITK's LPS."""
    affine = np.eye(4)
    affine[:3, :3] = direction * np.asarray(spacing)
    affine[:3, 3] = origin
    flip: Array = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    return flip


def voxels(header: Header, part: Part) -> NDArray[np.float32]:
    """Read a part of a file, or of a DICOM series, as ``(x, y, z, c)``, as stored."""
    if len(header.files) > 1:
        return _series(header, part)
    reader = open_itk(header.files[0] if header.files else header.path)
    if header.frames != tuple(range(len(header.frames))):  # stored in another order
        columns, rows, wanted = part
        return from_itk(reader.Execute())[columns, rows][:, :, list(header.frames[wanted])]
    if not whole(part):
        sides = reader.GetSize()  # two of a file of one plane
        ends = [s.indices(n) for s, n in zip(part, sides, strict=False)]
        reader.SetExtractIndex([start for start, _, _ in ends])
        reader.SetExtractSize([stop - start for start, stop, _ in ends])
    return from_itk(reader.Execute())


def _series(header: Header, part: Part) -> NDArray[np.float32]:
    """Read the slices of a DICOM series one by one, as they lie in order of position."""
    import SimpleITK as sitk

    columns, rows, wanted = part
    slices = []
    for file in header.files[wanted]:
        image = from_itk(sitk.ReadImage(str(file)))
        if image.shape[:2] != header.shape[:2]:
            raise InputError(f"{file}: holds {image.shape[:2]} pixels, others {header.shape[:2]}")
        slices.append(image[columns, rows])
    return np.concatenate(slices, axis=2)


def from_itk(image: Any) -> NDArray[np.float32]:
    """Return the voxels of a SimpleITK image as ``(x, y, z, c)``."""
    import SimpleITK as sitk

    array = sitk.GetArrayFromImage(image)
    components = image.GetNumberOfComponentsPerPixel()
    array = array if components > 1 else array[..., None]
    if image.GetDimension() == 2:
        array = array[None]
    return np.asarray(array, np.float32).transpose(2, 1, 0, 3)


def data_files(path: Path) -> list[Path]:
    """List the files that hold the voxels of a MetaImage or NRRD header which holds none itself.

    Where the header names several, by a list or a pattern, they are taken to be all of its folder.
    """
    if path.suffix.lower() not in (".mhd", ".nhdr"):
        return []
    for line in path.read_text("latin-1").splitlines():
        name, _, value = line.replace("=", ":", 1).partition(":")
        if name.strip().lower() in ("elementdatafile", "data file", "datafile"):
            named = path.parent / value.strip()
            if value.strip().upper() == "LOCAL":
                return []
            return (
                [named] if named.is_file() else sorted(filter(Path.is_file, path.parent.iterdir()))
            )
    return []
