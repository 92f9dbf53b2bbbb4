"""Files of volumes: NIfTI by nibabel; NRRD, MetaImage and DICOM by SimpleITK.

Whatever the file, a volume is an array ``(x, y, z)`` as it is stored, with an affine that leads to
millimetres towards right, anterior, superior (RAS). What crossd computes on is the *canonical*
order: axes (z, y, x) that run to superior, anterior and right.
"""

import os
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from crossd.data.io import dicom, itk, nifti
from crossd.data.io.header import (
    ITK,
    NIFTI,
    SUFFIXES,
    Header,
    Part,
    is_dicom,
    is_volume,
    reading,
    require_file,
    sides_shown,
)
from crossd.errors import InputError
from crossd.utils.memory import require

SHEAR = 0.02
"""Cosine of the angle between two axes from which an affine counts as sheared."""


def holds_volume(path: Path) -> bool:
    """Tell whether a path is a volume, not an image; of a DICOM file, by its number of planes.

    Raises:
        InputError: When a DICOM file is damaged.
    """
    if path.is_dir():
        return True
    return read_header(path).shape[2] > 1 if is_dicom(path) else is_volume(path)


def read_header(path: Path) -> Header:
    """Read what a file says of its volume, and check it.

    Args:
        path: A NIfTI, NRRD, MetaImage or DICOM file, or a folder that holds one DICOM series.

    Returns:
        The header.

    Raises:
        InputError: With the file and what is wrong with it.
    """
    require_file(path)
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: may not be read (permission denied); change its permissions")
    name = path.name.lower()
    if path.is_dir() or is_dicom(path):
        header = dicom.read_header(path)
    elif name.endswith(NIFTI):
        header = nifti.read_header(path)
    elif name.endswith(ITK):
        header = itk.read_header(path)
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
            f"{path}: its spacing is {sides_shown(spacing)} mm; expected "
            "more than 0 along every axis"
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
    array = _voxels(header, tuple(stored))
    if array.shape != (*voxels, header.channels):
        raise InputError(f"{header.path}: holds {array.shape} voxels, its header says {voxels}")
    turned = nib.orientations.apply_orientation(array, header.orientation)
    # (x, y, z, c) -> (c, z, y, x), a copy where the file itself is mapped into memory
    return np.require(turned.T, np.float32, ["C", "W"])


def flat(path: Path) -> NDArray[np.float32]:
    """Read a DICOM file of one image as it is displayed, ``(H, W)``.

    Returns:
        Values in [0, 1]: clipped to the percentiles 0.5 and 99.5, high values bright.

    Raises:
        InputError: When it is damaged, or a volume.
    """
    header = read_header(path)
    if header.shape[2] != 1 or header.channels != 1:
        raise InputError(
            f"{path}: has the shape {header.shape} and {header.channels} numbers a pixel; expected "
            "one grey image (save colours as PNG)"
        )
    plane = _voxels(header, (slice(None),) * 3)[:, :, 0, 0].T
    low, high = np.percentile(plane, (0.5, 99.5))
    scaled = (plane.clip(low, high) - low) / max(high - low, 1e-6)
    return np.ascontiguousarray(scaled, np.float32)


def _voxels(header: Header, part: Part) -> NDArray[np.float32]:
    """Read a part as ``(x, y, z, c)``, as stored; refuse what is no number."""
    with reading(header.path), np.errstate(over="ignore"):
        if header.path.name.lower().endswith(NIFTI):
            array = nifti.voxels(header.path, part)
        else:
            array = itk.voxels(header, part)
    finite = np.isfinite(array)
    if not finite.all():
        count = finite.size - int(finite.sum())
        raise InputError(
            f"{header.path}: holds NaN or infinity in {count:,} voxels; replace them first"
        )
    return array
