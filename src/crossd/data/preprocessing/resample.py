"""Resampling between the grid of a file and that of a plan, whole or plane by plane.

The field of view stays: voxel i of n lies at (i + 1/2) / n of it, in both grids.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from crossd.data.io.agreement import IGNORED
from crossd.data.io.header import Header
from crossd.utils.memory import require

SAME_SPACING = 0.01
"""Relative difference of spacing up to which a volume is not resampled."""

COARSER = 1.5
"""Ratio from which voxels are averaged, as linear interpolation would leave some out."""


def target_size(
    header: Header, spacing: Sequence[float], size: Sequence[int] | None = None
) -> tuple[int, int, int]:
    """Return how many voxels a volume, or a box of a size in it, has at another spacing [mm]."""
    sides = [
        n if abs(own / wanted - 1) <= SAME_SPACING else max(1, round(n * own / wanted))
        for n, own, wanted in zip(size or header.size, header.spacing, spacing, strict=True)
    ]
    return sides[0], sides[1], sides[2]


def checked_size(header: Header, spacing: Sequence[float]) -> tuple[int, int, int]:
    """Return what `target_size` does, or refuse what would not fit into memory.

    A file that says centimetres for millimetres has a thousand times as many voxels.

    Raises:
        InputError: With the spacing of the file.
    """
    sides = target_size(header, spacing)
    own, wanted, voxels = (
        " x ".join(f"{value:g}" for value in values) for values in (header.spacing, spacing, sides)
    )
    what = f"{header.path} (voxels of {own} mm, resampled to {wanted} mm: {voxels} voxels)"
    require(2 * 4 * float(np.prod(sides, dtype=np.float64)) * header.channels, what)
    return sides


def image(x: Tensor, sides: Sequence[int]) -> Tensor:
    """Resample by linear interpolation, or by averages along axes that become much coarser.

    Args:
        x: Shape ``(C, *spatial)``, float32.
        sides: The spatial shape wanted.

    Returns:
        Shape ``(C, *sides)``.

    Example:
        >>> image(torch.tensor([[[0.0, 1.0]]]), (1, 4))
        tensor([[[0.0000, 0.2500, 0.7500, 1.0000]]])
    """
    for axis, side in enumerate(sides, start=1):
        x = along(x, axis, matrix(x.shape[axis], side))
    return x.contiguous()


def along(x: Tensor, axis: int, rows: Tensor) -> Tensor:
    """Apply a matrix ``(target, source)`` along an axis."""
    if rows.shape[0] == rows.shape[1] == x.shape[axis]:  # a square matrix is the identity
        return x
    return torch.tensordot(rows, x, ([1], [axis])).movedim(0, axis)


def mask(
    x: Tensor, sides: Sequence[int], across: tuple[int, Sequence[int]] | None = None
) -> Tensor:
    """Resample numbers of classes ``(*spatial)`` by the nearest voxel.

    Where that is not known, `IGNORED`, the nearest known one is taken of those that a coarser voxel
    covers: else single slices with labels might all lie between those that are taken.

    Args:
        x: The classes.
        sides: The shape wanted.
        across: For one slice alone the axis that it lies across, and what `covered` says that it
            may be taken from, as places in `x`.

    Example:
        >>> mask(torch.tensor([1, 255, 255, 2], dtype=torch.uint8), (2,))
        tensor([1, 2], dtype=torch.uint8)
    """
    for axis, (source, target) in enumerate(zip(x.shape, sides, strict=True)):
        if across is not None and axis == across[0]:
            x = _first_known(x, axis, [across[1]])
        elif source != target:
            x = _first_known(x, axis, [covered(source, target, p) for p in range(target)])
    return x


def _first_known(x: Tensor, axis: int, rows: Sequence[Sequence[int]]) -> Tensor:
    """Take along an axis, for each position, the first of its rows, or the first known of them."""
    taken = x.index_select(axis, torch.tensor([row[0] for row in rows]))
    for place in range(1, max(map(len, rows))):
        unknown = taken == IGNORED
        if not unknown.any():
            break
        other = x.index_select(axis, torch.tensor([row[min(place, len(row) - 1)] for row in rows]))
        taken = torch.where(unknown, other, taken)
    return taken


def taps(source: int, target: int, position: int) -> tuple[int, list[float]]:
    """Return where along an axis, and with which weights, `image` reads for one position.

    Args:
        source: Voxels that the axis has.
        target: Voxels that it is resampled to.
        position: One of them.

    Returns:
        The first voxel, and the weights of it and those after it.

    Example:
        >>> taps(2, 4, 1), taps(8, 2, 1), taps(5, 5, 3)
        ((0, [0.75, 0.25]), (4, [0.25, 0.25, 0.25, 0.25]), (3, [1.0]))
    """
    if source == target:
        return position, [1.0]
    if source >= COARSER * target:
        start = position * source // target
        stop = -(-(position + 1) * source // target)
        return start, [1 / (stop - start)] * (stop - start)
    where = max(0.0, (position + 0.5) * source / target - 0.5)
    start = min(int(where), source - 1)
    part = where - start
    if part == 0 or start + 1 == source:
        return start, [1.0]
    return start, [1 - part, part]


def nearest(source: int, target: int, position: int) -> int:
    """Return the voxel that `mask` reads for one position along an axis."""
    return (2 * position + 1) * source // (2 * target)


def covered(source: int, target: int, position: int) -> list[int]:
    """Return the voxels that `mask` may read for one position along an axis, the nearest first.

    They are those whose centres lie in the coarser voxel, so that each is in one alone.

    Example:
        >>> covered(8, 2, 1), covered(2, 4, 1)
        ([6, 5, 7, 4], [0])
    """
    center = nearest(source, target, position)
    if source <= target:
        return [center]
    start, stop = (-((target - 2 * source * p) // (2 * target)) for p in (position, position + 1))
    return sorted(range(start, stop), key=lambda voxel: (abs(voxel - center), voxel))


def matrix(source: int, target: int) -> Tensor:
    """Return `taps` of all positions as a matrix, ``(target, source)``."""
    rows = torch.zeros(target, source)
    for position in range(target):
        start, weights = taps(source, target, position)
        rows[position, start : start + len(weights)] = torch.tensor(weights)
    return rows
