"""Files of volumes: NIfTI by nibabel; NRRD, MetaImage and DICOM by SimpleITK.

Whatever the file, a volume is an array ``(x, y, z)`` as it is stored, with an affine that leads to
millimetres towards right, anterior, superior (RAS). What crossd computes on is the *canonical*
order: axes (z, y, x) that run to superior, anterior and right.
"""

import functools
import gzip
import logging
import re
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import shorten
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import OrientationError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from crossd.errors import InputError
from crossd.memory import require

Array = NDArray[Any]
NIFTI = (".nii", ".nii.gz")
ITK = (".nrrd", ".nhdr", ".mha", ".mhd")
DICOM = (".dcm", ".dicom", ".ima")
DIRECTORY = "DICOMDIR"
"""Lists the files of a medium; a DICOM file without an image."""

SUFFIXES = (*NIFTI, *ITK, *DICOM)
UNREADABLE = (
    *(OSError, EOFError, ValueError, TypeError, OverflowError, RuntimeError, KeyError, IndexError),
    *(zlib.error, ImageFileError, HeaderDataError, OrientationError, NotImplementedError),
    *(AssertionError, AttributeError, MemoryError, ArithmeticError),
)
"""What readers raise on damaged files."""

CHUNK = 1 << 20
MOST_CHANNELS = 4
SHEAR = 0.02
"""Cosine of the angle between two axes from which an affine counts as sheared."""


@dataclass(frozen=True)
class Header:
    """What is known of a volume before its voxels are read.

    Attributes:
        path: The file, or the folder of a DICOM series.
        shape: Voxels as stored, ``(x, y, z)``.
        affine: From voxels as stored to RAS [mm], ``(4, 4)``.
        channels: Numbers a voxel.
        modality: As DICOM names it ("CT", "MR"), "" where unknown.
        files: The files of a DICOM series, in order of position.
    """

    path: Path
    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    channels: int = 1
    modality: str = ""
    files: tuple[Path, ...] = ()

    @property
    def orientation(self) -> NDArray[np.float64]:
        """Nibabel's orientation of the stored axes, ``(3, 2)``: canonical axis and direction."""
        orientation: NDArray[np.float64] = nib.orientations.io_orientation(self.affine)
        return orientation

    @property
    def size(self) -> tuple[int, int, int]:
        """Voxels in canonical order, ``(D, H, W)``."""
        x, y, z = self._canonical(self.shape)
        return z, y, x

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Size of a voxel in canonical order (z, y, x) [mm]."""
        x, y, z = self._canonical(np.linalg.norm(self.affine[:3, :3], axis=0).tolist())
        return z, y, x

    def _canonical(self, values: Sequence[Any]) -> tuple[Any, Any, Any]:
        ordered = dict(zip(self.orientation[:, 0].astype(int).tolist(), values, strict=True))
        return ordered[0], ordered[1], ordered[2]


def is_volume(path: Path) -> bool:
    """Tell by its name, or by its first bytes where it has no suffix, whether a file is one."""
    return path.name.lower().endswith(SUFFIXES) or is_dicom(path)


def is_dicom(path: Path) -> bool:
    """Tell by its name or its preamble whether a file is DICOM."""
    if path.name.lower().endswith(DICOM):
        return True
    if path.suffix and not path.suffix[1:].isdigit():  # 1.2.840 is a name, not a suffix
        return False
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def stem(path: Path) -> str:
    """Return the name of a file without the suffix of its kind.

    Example:
        >>> stem(Path("images/case_01.nii.gz")), stem(Path("series"))
        ('case_01', 'series')
    """
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.name if path.is_dir() or is_dicom(path) else path.stem


def read_header(path: Path) -> Header:
    """Read what a file says of its volume, and check it.

    Args:
        path: A NIfTI, NRRD, MetaImage or DICOM file, or a folder that holds one DICOM series.

    Returns:
        The header.

    Raises:
        InputError: With the file and what is wrong with it.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    name = path.name.lower()
    if path.is_dir() or is_dicom(path):
        from crossd.data.dicom import read_header as read_dicom_header

        header = read_dicom_header(path)
    elif name.endswith(NIFTI):
        header = _nifti_header(path)
    elif name.endswith(ITK):
        header = _itk_header(path)
    else:
        raise InputError(f"{path}: is no volume; expected {', '.join(SUFFIXES)} or a DICOM folder")
    _check(header)
    return header


def _check(header: Header) -> None:
    path, matrix = header.path, header.affine[:3, :3]
    if min(header.shape) < 1:
        raise InputError(f"{path}: holds no voxels, its shape is {header.shape}")
    if not np.isfinite(header.affine).all():
        raise InputError(f"{path}: its affine holds NaN or infinity; write the file again")
    spacing = np.linalg.norm(matrix, axis=0)
    if not (spacing > 1e-6).all():
        raise InputError(
            f"{path}: its spacing is {_show(spacing)} mm; expected more than 0 along every axis"
        )
    cosines = matrix.T @ matrix / np.outer(spacing, spacing)
    if abs(np.linalg.det(matrix / spacing)) < 1e-3:
        raise InputError(f"{path}: its affine is singular (two axes point the same way)")
    if np.abs(cosines - np.eye(3)).max() > SHEAR:
        raise InputError(
            f"{path}: its affine is sheared (axes are not perpendicular, as with a tilted gantry); "
            "resample it to a straight grid first"
        )


def read(header: Header, planes: tuple[int, slice] | None = None) -> NDArray[np.float32]:
    """Read the voxels of a volume in canonical order.

    Args:
        header: What `read_header` returned. Of DICOM, slope and intercept are applied, and low
            values that are bright (MONOCHROME1) turned, by SimpleITK.
        planes: A canonical axis (0 is z) and a range along it, to have these planes only. Of an
            uncompressed NIfTI file, of MetaImage and of DICOM no more than them is read.

    Returns:
        Shape ``(C, D, H, W)``.

    Raises:
        InputError: When the file is damaged, holds NaN or infinity, or does not fit into memory.
    """
    stored = [slice(None)] * 3
    if planes is not None:
        axis, part = planes
        which = header.orientation[:, 0].astype(int).tolist().index(2 - axis)
        length = header.shape[which]
        start, stop, _ = part.indices(length)
        flipped = header.orientation[which, 1] < 0
        stored[which] = slice(length - stop, length - start) if flipped else slice(start, stop)
    voxels = [len(range(*s.indices(n))) for s, n in zip(stored, header.shape, strict=True)]
    require(4 * float(np.prod(voxels)) * header.channels, str(header.path))
    try:
        array = _voxels(header, tuple(stored))
    except InputError:
        raise
    except UNREADABLE as error:
        raise damaged(header.path, error) from error
    if array.shape != (*voxels, header.channels):
        raise InputError(f"{header.path}: holds {array.shape} voxels, its header says {voxels}")
    if not np.isfinite(array).all():
        count = int((~np.isfinite(array)).sum())
        raise InputError(
            f"{header.path}: holds NaN or infinity in {count:,} voxels; replace them first"
        )
    turned = nib.orientations.apply_orientation(array, header.orientation)
    # (x, y, z, c) -> (c, z, y, x), a copy where the file itself is mapped into memory
    return np.require(turned.T, np.float32, ["C", "W"])


def _voxels(header: Header, part: tuple[slice, ...]) -> NDArray[np.float32]:
    """Read a part as ``(x, y, z, c)``, as stored."""
    if header.path.name.lower().endswith(NIFTI):
        image: Any = nib.load(header.path)
        axes = len(image.shape)
        if _whole(part) and header.path.name.lower().endswith(".gz"):
            array = _to_the_end(header.path, type(image))
            return array.reshape(*(*array.shape[:3], 1, 1, 1)[:3], -1)
        where = (*part, *[slice(None)] * max(0, axes - 3))[:axes]
        array = np.asarray(image.dataobj if _whole(part) else image.dataobj[where], np.float32)
        return array.reshape(*(*array.shape[:3], 1, 1, 1)[:3], -1)
    import SimpleITK as sitk

    if len(header.files) > 1:
        return _series(header, part)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(header.files[0] if header.files else header.path))
    if not _whole(part):
        reader.ReadImageInformation()
        size = list(reader.GetSize())
        index = [0] * len(size)
        for axis, (s, n) in enumerate(zip(part, header.shape, strict=True)):
            if axis < len(size):
                start, stop, _ = s.indices(n)
                index[axis], size[axis] = start, stop - start
        reader.SetExtractIndex(index)
        reader.SetExtractSize(size)
    return from_itk(reader.Execute())


def _to_the_end(path: Path, kind: Any) -> NDArray[np.float32]:
    """Read a compressed file up to its checksum, which tells of damage that still unpacks."""
    with gzip.open(path) as stream:
        array = np.asarray(kind.from_stream(stream).dataobj, np.float32)
        while stream.read(CHUNK):
            pass
    return array


def _series(header: Header, part: tuple[slice, ...]) -> NDArray[np.float32]:
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


def flat(path: Path) -> NDArray[np.float32]:
    """Read a DICOM file of one image as it is displayed, ``(H, W)``.

    Returns:
        Values in [0, 1]: clipped to the percentiles 0.5 and 99.5, high values bright.

    Raises:
        InputError: When it is damaged, or a volume.
    """
    header = read_header(path)
    if header.shape[2] != 1 or header.channels != 1:
        raise InputError(f"{path}: has the shape {header.shape}; expected one grey image")
    try:
        plane = _voxels(header, (slice(None),) * 3)[:, :, 0, 0].T
    except UNREADABLE as error:
        raise damaged(path, error) from error
    low, high = np.percentile(plane, (0.5, 99.5))
    scaled = (plane.clip(low, high) - low) / max(high - low, 1e-6)
    return np.ascontiguousarray(scaled, np.float32)


def _whole(part: tuple[slice, ...]) -> bool:
    return all(s == slice(None) for s in part)


def _nifti_header(path: Path) -> Header:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image: Any = _loaded(path)
            kind = image.get_data_dtype()
            zero = _zero_spacing(path, image)
            shape = tuple(int(n) for n in image.shape)
            affine = np.asarray(image.affine, np.float64)
            needed = (
                image.dataobj.offset + float(np.prod([float(n) for n in shape])) * kind.itemsize
            )
    except UNREADABLE as error:
        raise damaged(path, error) from error
    if not path.name.lower().endswith(".gz") and path.stat().st_size < needed:
        raise InputError(
            f"{path}: is shorter than its header says (a shape of {shape}): it is damaged or "
            "incomplete"
        )
    if zero:
        raise InputError(f"{path}: its spacing is 0 mm; expected more than 0 along every axis")
    if kind.kind not in "iuf":
        raise InputError(f"{path}: holds {kind}, expected one number a voxel")
    channels = int(np.prod(shape[3:])) if len(shape) > 3 else 1
    if len(shape) < 2 or channels > MOST_CHANNELS or channels < 1:
        raise InputError(
            f"{path}: has the shape {shape}; expected a volume of 3 axes, or a fourth of up to "
            f"{MOST_CHANNELS} channels (split time series into files)"
        )
    x, y, z = (*shape, 1)[:3]
    return Header(path, (x, y, z), affine, channels)


def _loaded(path: Path) -> Any:
    """Open a NIfTI file without what nibabel logs of headers that it mends."""
    logger = logging.getLogger("nibabel.global")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        return nib.load(path)
    finally:
        logger.setLevel(level)


def _zero_spacing(path: Path, image: Any) -> bool:
    """Tell whether a header without an affine says 0 mm, of which nibabel makes 1."""
    if int(image.header["sform_code"]) > 0:
        return False
    opened: Any = gzip.open if path.name.lower().endswith(".gz") else open
    with opened(path, "rb") as stream:
        raw = type(image.header).from_fileobj(stream, check=False)
    return bool((raw["pixdim"][1:4] == 0).any())


def _itk_header(path: Path) -> Header:
    try:
        reader = open_itk(path)
    except UNREADABLE as error:
        raise damaged(path, error) from error
    return itk_header(path, reader)


def open_itk(path: Path) -> Any:
    """Open a file with SimpleITK and read what it says of its volume."""
    import SimpleITK as sitk

    quiet()
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


@functools.cache
def quiet() -> None:
    """Let SimpleITK report faults as exceptions only."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)


def with_spacing(header: Header, spacing: Sequence[float]) -> Header:
    """Give a volume another spacing (z, y, x) [mm] than its file says."""
    z, y, x = spacing
    order = header.orientation[:, 0].astype(int)
    wanted = np.array([x, y, z])[order]
    affine = header.affine.copy()
    affine[:3, :3] *= wanted / np.linalg.norm(affine[:3, :3], axis=0)
    return replace(header, affine=affine)


def damaged(path: Path, error: BaseException) -> InputError:
    """Return the line for a file that cannot be read."""
    why = " ".join(str(error).split()).rpartition("ITK ERROR: ")[2]
    why = re.sub(r"^Exception thrown in SimpleITK \S+ \S+ (sitk::ERROR: )?", "", why)
    why = re.sub(r"\(0x[0-9a-f]+\)|^\w+: ERROR: ", "", why)
    why = f"{type(error).__name__}: {shorten(why, 120)}" if why else type(error).__name__
    return InputError(f"{path}: cannot be read, it is damaged or incomplete ({why})")


def _show(values: Sequence[float] | Array) -> str:
    return " x ".join(f"{value:g}" for value in values)
