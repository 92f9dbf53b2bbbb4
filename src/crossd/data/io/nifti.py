"""NIfTI files, read by nibabel."""

import gzip
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from crossd.data.io.header import MOST_CHANNELS, Header, Part, reading, whole
from crossd.errors import InputError

CHUNK = 1 << 20
MM = {1: 1000.0, 3: 0.001}
"""Millimetres in a unit of length, by its code in a header: metres and micrometres. Files that name
no unit, or another one, are taken to be in millimetres, as ITK takes them."""


ROUNDED = np.float64(-1e-5)
"""Least 1 - b^2 - c^2 - d^2 of a quaternion: programs round in 32 bits, to 1 + 4e-7 for example."""


class _Header1(nib.Nifti1Header):
    quaternion_threshold = ROUNDED


class _Header2(nib.Nifti2Header):
    quaternion_threshold = ROUNDED


class _Image1(nib.Nifti1Image):
    header_class = _Header1


class _Image2(nib.Nifti2Image):
    header_class = _Header2


def load(path: Path) -> Any:
    """Open a NIfTI file of either version."""
    with reading(path), quietly():
        for kind in (_Image1, _Image2):
            if kind.path_maybe_image(path)[0]:
                return kind.from_filename(path)
        return nib.load(path)


@contextmanager
def quietly() -> Iterator[None]:
    """Keep back what nibabel logs of headers that it mends, and what it warns of."""
    logger = logging.getLogger("nibabel.global")
    before = logger.disabled
    logger.disabled = True  # another level would empty the caches of all loggers, file by file
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


def read_header(path: Path) -> Header:
    """Read what a NIfTI file says of its volume."""
    image = load(path)
    with reading(path), quietly():
        kind = image.get_data_dtype()
        zero = _zero_spacing(path, image)
        shape = tuple(int(n) for n in image.shape)
        affine = np.asarray(_affine(image), np.float64)
        affine[:3] *= MM.get(int(image.header["xyzt_units"]) & 7, 1.0)
        needed = image.dataobj.offset + float(np.prod([float(n) for n in shape])) * kind.itemsize
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
    several = sum(n > 1 for n in shape[3:]) > 1  # numbers a voxel, at several times
    if len(shape) < 2 or channels > MOST_CHANNELS or channels < 1 or several:
        raise InputError(
            f"{path}: has the shape {shape}; expected a volume of 3 axes, or a fourth of up to "
            f"{MOST_CHANNELS} channels (split time series into files)"
        )
    x, y, z = (*shape, 1)[:3]
    over_time = len(shape) > 3 and shape[3] > 1
    return Header(path, (x, y, z), affine, channels, over_time=over_time)


def _affine(image: Any) -> Any:
    """Return the affine: the sform, unless that is left empty; the qform; or nibabel's default.

    A file with neither form is taken, as nibabel takes it, to run to the left, to the front and
    upwards from its middle.
    """
    return image.header.get_qform() if _empty_sform(image.header) else image.affine


def _empty_sform(header: Any) -> bool:
    """Tell whether the sform is all zeros beside a qform, which readers by ITK take instead."""
    rows = [header[f"srow_{axis}"][:3] for axis in "xyz"]
    return not np.any(rows) and int(header["sform_code"]) > 0 and int(header["qform_code"]) > 0


def _zero_spacing(path: Path, image: Any) -> bool:
    """Tell whether a header without an affine says 0 mm, of which nibabel makes 1."""
    if int(image.header["sform_code"]) > 0 and not _empty_sform(image.header):
        return False
    opened: Any = gzip.open if path.name.lower().endswith(".gz") else open
    with opened(path, "rb") as stream:
        raw = type(image.header).from_fileobj(stream, check=False)
    return bool((raw["pixdim"][1:4] == 0).any())


@quietly()
def voxels(path: Path, part: Part) -> NDArray[np.float32]:
    """Read a part as ``(x, y, z, c)``, as stored; of a compressed file all is unpacked."""
    image = load(path)
    axes = len(image.shape)
    if whole(part) and path.name.lower().endswith(".gz"):
        array = _to_the_end(path, type(image))
    else:
        where = (*part, *[slice(None)] * max(0, axes - 3))[:axes]
        array = np.asarray(image.dataobj if whole(part) else image.dataobj[where], np.float32)
    return array.reshape(*(*array.shape[:3], 1, 1, 1)[:3], -1)


def _to_the_end(path: Path, kind: Any) -> NDArray[np.float32]:
    """Read a compressed file up to its checksum, which tells of damage that still unpacks."""
    with gzip.open(path) as stream:
        array = np.asarray(kind.from_stream(stream).dataobj, np.float32)
        while stream.read(CHUNK):
            pass
    return array
