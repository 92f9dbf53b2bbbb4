"""What is known of a volume before its voxels are read, and the kinds of files by their names."""

import functools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import shorten
from typing import TypeVar

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from crossd.errors import InputError

Part = tuple[slice, ...]
Number = TypeVar("Number", int, float)
NIFTI = (".nii", ".nii.gz")
ITK = (".nrrd", ".nhdr", ".mha", ".mhd")
DICOM = (".dcm", ".dicom", ".ima")
SUFFIXES = (*NIFTI, *ITK, *DICOM)
MOST_CHANNELS = 4


@dataclass(frozen=True)
class Header:
    """What is known of a volume before its voxels are read.

    Attributes:
        path: The file, or the folder of a DICOM series.
        shape: Voxels as stored, ``(x, y, z)``.
        affine: From voxels as stored to RAS [mm], ``(4, 4)``.
        channels: Numbers a voxel.
        over_time: Whether these are the fourth axis of a NIfTI file, which is that of time.
        turned: Where the volume is taken along other axes than canonical ones, which of these, and
            in which direction, each of right, anterior and superior becomes.
        modality: As DICOM names it ("CT", "MR"), "" where unknown.
        files: The files of a DICOM series, in order of position.
        frames: The frames of an enhanced DICOM file, in order of position.
    """

    path: Path
    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    channels: int = 1
    modality: str = ""
    files: tuple[Path, ...] = ()
    frames: tuple[int, ...] = ()
    over_time: bool = False
    turned: tuple[tuple[int, int], ...] | None = None

    @functools.cached_property
    def orientation(self) -> NDArray[np.float64]:
        """Nibabel's orientation of the stored axes, ``(3, 2)``: canonical axis and direction.

        Of a header that was `turned`, the axes are those that it was turned to.
        """
        orientation: NDArray[np.float64] = nib.orientations.io_orientation(self.affine)
        if self.turned is not None:
            direction = orientation[:, 1:].copy()
            orientation = np.array(self.turned, np.float64)[orientation[:, 0].astype(int)]
            orientation[:, 1:] *= direction
        orientation.setflags(write=False)
        return orientation

    @property
    def size(self) -> tuple[int, int, int]:
        """Voxels in canonical order, ``(D, H, W)``."""
        return self._canonical(self.shape)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Size of a voxel in canonical order (z, y, x) [mm]."""
        return self._canonical(np.linalg.norm(self.affine[:3, :3], axis=0).tolist())

    @property
    def canonical(self) -> NDArray[np.float64]:
        """Affine to RAS [mm] of voxels (x, y, z) whose axes run to right, anterior, superior."""
        turned: NDArray[np.float64] = self.affine @ nib.orientations.inv_ornt_aff(
            self.orientation, self.shape
        )
        return turned

    def _canonical(self, values: Sequence[Number]) -> tuple[Number, Number, Number]:
        ordered = dict(zip(self.orientation[:, 0].astype(int).tolist(), values, strict=True))
        return ordered[2], ordered[1], ordered[0]


def turned(headers: Sequence[Header], axes: Sequence[int]) -> list[Header]:
    """Take volumes of one place along the axes of the first one's file, as it stores them.

    What is stored in another way, as a mask that is mirrored, is brought to those of the first.

    Args:
        headers: Of the files of a case.
        axes: Which stored axis is depth, height and width.

    Example:
        >>> one = Header(Path("a.nii"), (4, 5, 6), np.diag([-1.0, 1, 1, 1]))
        >>> turned([one], (0, 1, 2))[0].size
        (4, 5, 6)
    """
    first = headers[0]
    own = replace(first, turned=None).orientation
    way = [(0, 0)] * 3
    for place, axis in enumerate(axes):  # depth is canonical axis 2
        way[int(own[axis, 0])] = (2 - place, int(own[axis, 1]))
    return [replace(header, turned=tuple(way)) for header in headers]


def with_spacing(header: Header, spacing: Sequence[float]) -> Header:
    """Give a volume another spacing (z, y, x) [mm] than its file says."""
    z, y, x = spacing
    order = header.orientation[:, 0].astype(int)
    wanted = np.array([x, y, z])[order]
    affine = header.affine.copy()
    affine[:3, :3] *= wanted / np.linalg.norm(affine[:3, :3], axis=0)
    return replace(header, affine=affine)


def require_file(path: Path) -> None:
    """Refuse what is neither a file nor a folder: reading a pipe would wait for ever.

    Raises:
        InputError: Saying what it is: missing, a link that leads nowhere, or a pipe and the like.
    """
    if path.is_file() or path.is_dir():
        return
    what = "is a pipe, a socket or a device; expected a file or folder"
    if not path.exists():
        what = "no such file or folder"
        if path.is_symlink():
            what = "is a link that leads nowhere; mend or remove it"
    raise InputError(f"{path}: {what}")


def is_volume(path: Path) -> bool:
    """Tell by its name, or by its first bytes where it has no suffix, whether a file is one."""
    return path.name.lower().endswith(SUFFIXES) or is_dicom(path)


def is_dicom(path: Path) -> bool:
    """Tell by its name or its preamble whether a file is DICOM; DICOMDIR holds no image."""
    if path.name.lower().endswith(DICOM):
        return path.is_file() or not path.exists()  # no pipe, which could not be opened
    if path.suffix and not path.suffix[1:].isdigit():  # 1.2.840 is a name, not a suffix
        return False
    if path.name.upper() == "DICOMDIR":  # lists the files of a medium
        return False
    try:
        if not path.is_file():
            return False
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
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.name if path.is_dir() or is_dicom(path) else path.stem


def sides_shown(sides: Sequence[float] | NDArray[np.float64]) -> str:
    """Show the sizes of pixels or voxels along the axes.

    Example:
        >>> sides_shown((3.0, 0.75, 0.5))
        '3 x 0.75 x 0.5'
    """
    return " x ".join(f"{side:g}" for side in sides)


def whole(part: Part) -> bool:
    """Tell whether a part is all of a volume."""
    return all(s == slice(None) for s in part)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what readers raise on a damaged file, errors of many kinds, into one line that names it.

    Raises:
        InputError: "... cannot be read, it is damaged or incomplete".
    """
    try:
        yield
    except (InputError, ImportError):
        raise
    except Exception as error:
        why = " ".join(str(error).split()).rpartition("ITK ERROR: ")[2]
        why = re.sub(r"^Exception thrown in SimpleITK \S+ \S+ (sitk::ERROR: )?", "", why)
        why = re.sub(r"\(0x[0-9a-f]+\)|^\w+: ERROR: ", "", why)
        why = f"{type(error).__name__}: {shorten(why, 120)}" if why else type(error).__name__
        line = f"{path}: cannot be read, it is damaged or incomplete ({why})"
        raise InputError(line) from error
