"""What files of a case must agree in, and what its mask may hold: of images and of volumes."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossd.data.io.header import Header, sides_shown
from crossd.data.shared_arrays import Array
from crossd.errors import InputError

HIGHEST = 65_535
"""The highest value of a mask."""

IGNORED = 255
"""Stands among the numbers of classes for what is not known, whatever its value in files is."""

USUAL = 255
"""The value that many tools give to voxels that are not known."""

ROUNDED = 1e-3
"""Distance to a whole number that comes from storing masks as numbers with a slope."""

BESIDE = 0.1
"""Share of a voxel by which grids in one place may lie apart."""


def require_same_shape(
    first: Path, shape: tuple[int, ...], other: Path, own: tuple[int, ...], what: str
) -> None:
    """Check that the first file of a case and another have equal shapes; `what` the two are."""
    if own != shape:
        raise InputError(f"{other}: has the shape {own}, but {first} {shape}; {what} must agree")


def in_same_place(first: Header, other: Header, what: str) -> Header:
    """Check that the voxels of two files of a case lie in the same places, in any order of storage.

    Args:
        first: Of the first file of the case.
        other: Of another file.
        what: What the two are, for the message.

    Returns:
        The header of the other file; with the affine of the first where both are stored alike, so
        that rounding does not tell their axes apart where these point between two directions.

    Raises:
        InputError: Saying in what their grids differ, and by how much.
    """
    if other.shape == first.shape and _apart(first, first.affine, other.affine) <= _allowed(first):
        return replace(other, affine=first.affine)
    alike = np.array_equal(first.orientation, other.orientation)
    if other.size != first.size:
        shapes = [h.shape if alike else h.size for h in (first, other)]
        require_same_shape(first.path, shapes[0], other.path, shapes[1], what)
    apart = _apart(first, first.canonical, other.canonical)
    if apart <= _allowed(first):
        return other
    axes, own = (h.canonical[:3, :3] / h.spacing[::-1] for h in (first, other))
    angle = np.degrees(np.arccos(np.clip((np.trace(axes.T @ own) - 1) / 2, -1, 1)))
    if not alike:
        how, shown = "their axes are stored in other directions", ""
    elif not np.allclose(first.spacing, other.spacing, rtol=1e-3):
        how, shown = (
            "their spacing (z, y, x) differs",
            f": {sides_shown(other.spacing)}, not {sides_shown(first.spacing)} mm",
        )
    elif angle > 0.1:
        how, shown = "their axes point elsewhere", f": they are turned by {angle:.2g} degrees"
    else:
        how, shown = "their origin differs", ""
    raise InputError(
        f"{other.path}: lies up to {apart:.3g} mm from {first.path}, because {how}{shown}; {what} "
        "must lie in the same place (copy the header where the voxels match, else resample one to "
        "the other)"
    )


def _apart(first: Header, affine: Array, other: Array) -> float:
    """Return how far two affines put the corners of a grid apart, at most [mm]."""
    sizes = first.shape if affine is first.affine else first.size[::-1]
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in sizes])).reshape(3, -1)
    ones = np.vstack((corners, np.ones(corners.shape[1])))
    return float(np.linalg.norm(((other - affine) @ ones)[:3], axis=0).max())


def _allowed(header: Header) -> float:
    return BESIDE * min(header.spacing)


def require_one_number(mask: Header) -> None:
    """Refuse a mask of several numbers a voxel."""
    if mask.channels != 1:
        raise InputError(f"{mask.path}: holds {mask.channels} numbers a voxel; a mask holds one")


def require_same_count(counts: Sequence[tuple[Path, int]], what: str, of: str) -> None:
    """Check that cases, each named by its first file, have equally many channels, or files.

    Args:
        counts: The first file of each case, and how many it has.
        what: What is counted.
        of: What the cases are.
    """
    for path, count in counts:
        if count != counts[0][1]:
            raise InputError(
                f"{path}: has {count} {what}, but {counts[0][0]} has {counts[0][1]}; "
                f"all {of} must agree"
            )


def whole_numbers(mask: Array, path: Path) -> NDArray[np.uint16]:
    """Return the values of a mask, and refuse any that is no whole number from 0 to 65,535.

    Numbers within a thousandth of a whole one are rounded: files that store whole numbers with a
    slope give them back so.
    """
    numbers: Array = np.rint(mask) if mask.dtype.kind == "f" else mask.astype(np.int64)
    valid = (numbers >= 0) & (numbers <= HIGHEST)
    if mask.dtype.kind == "f":
        valid &= np.abs(mask - numbers) <= ROUNDED
    if not valid.all():
        raise InputError(
            f"{path}: holds {mask[~valid].flat[0]:g}; a mask holds whole numbers from 0 to "
            f"{HIGHEST:,}"
        )
    return numbers.astype(np.uint16)


def as_classes(
    mask: NDArray[np.uint16], values: Sequence[int], path: Path, ignore: int | None = None
) -> NDArray[np.uint8]:
    """Number the classes of a mask by what stands for each in its file; refuse other values.

    Args:
        mask: The values.
        values: What stands for each class.
        path: The file, for the message.
        ignore: What stands for voxels that are not known, which become `IGNORED`.

    Example:
        >>> as_classes(np.array([4, 0, 1, 9], np.uint16), (0, 1, 4), Path("mask.png"), 9)
        array([  2,   0,   1, 255], dtype=uint8)
    """
    table = np.full(HIGHEST + 1, -1, np.int16)
    if ignore is not None:
        table[ignore] = IGNORED
    table[list(values)] = np.arange(len(values))
    classes = table[mask]
    if (classes < 0).any():
        require_known([int(mask[classes < 0].flat[0])], values, path)
    return classes.astype(np.uint8)


def require_known(found: Sequence[int], values: Sequence[int], path: Path) -> None:
    """Check that the values found in a mask are those of the classes."""
    odd = sorted(set(found) - set(values))
    if odd:
        hint = f"; if {USUAL} says that a voxel is not known, give --ignore {USUAL}"
        raise InputError(
            f"{path}: holds {odd[0]}, but the classes have the values "
            f"{', '.join(map(str, values))}{hint if odd[0] == USUAL else ''}"
        )


def may_be_ignored(values: Collection[int]) -> bool:
    """Tell whether values of masks look as if `USUAL` marked what is not known.

    That is where it stands beside 0 or 1 up to a small number, with none left out.

    Example:
        >>> may_be_ignored({0, 1, 2, 255}), may_be_ignored({0, 255}), may_be_ignored({0, 7, 255})
        (True, False, False)
    """
    others = sorted(set(values) - {USUAL})
    counted = others in (list(range(len(others))), list(range(1, len(others) + 1)))
    return USUAL in values and counted and others[-1:] > [0]
