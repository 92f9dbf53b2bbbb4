"""Masks of one structure each, made one mask of numbers."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossd.errors import InputError

LOST = 0.5
"""Share of its voxels that a structure may lose to smaller ones."""

FEW = 100
"""Voxels that any structure may lose, as small ones at the border of an image overlap by chance."""


def require_all(found: Mapping[str, Collection[str]], names: Sequence[str]) -> None:
    """Refuse cases that lack the mask of a structure which others have.

    Args:
        found: Of each case, by where it is, the structures that it has masks of.
        names: All structures.

    Raises:
        InputError: Naming the first that is missing.

    Example:
        >>> require_all({"a": ["liver"], "b": []}, ["liver"])
        Traceback (most recent call last):
        crossd.errors.InputError: b: has no mask of liver, which others have (1 such files); a ...
    """
    lacking = [(where, name) for where, own in found.items() for name in names if name not in own]
    if lacking:
        where, name = lacking[0]
        raise InputError(
            f"{where}: has no mask of {name}, which others have ({len(lacking):,} such files); a "
            "missing file does not say that the structure is not there: add it (with 0 everywhere "
            "if it is not), or remove it from all cases"
        )


def inside_of(values: NDArray[np.uint16], path: Path) -> NDArray[np.bool_]:
    """Tell which voxels lie in a structure, of a mask that holds 0 and one other value.

    Example:
        >>> inside_of(np.array([0, 255, 0], np.uint16), Path("liver.nii.gz")).tolist()
        [False, True, False]
    """
    highest = values.max()
    inside: NDArray[np.bool_] = values > 0
    other = inside & (values != highest)
    if other.any():
        raise InputError(
            f"{path}: holds {values[other].flat[0]} and {highest}; the mask of one structure holds "
            "0 and one other value"
        )
    return inside


def joined(
    masks: Iterable[tuple[Path, NDArray[np.bool_]]], shape: tuple[int, ...]
) -> tuple[NDArray[np.uint16], int]:
    """Make one mask of those of structures, which are taken one after the other.

    A voxel in several of them goes to the smallest, so that none vanishes within a larger one; of
    equal sizes, to the first.

    Args:
        masks: The file and the mask of each, in the order of their values 1, 2, ...
        shape: Of all masks.

    Returns:
        The values, and how many voxels are in several structures.

    Raises:
        InputError: When a structure loses more than half of its voxels (and more than 100), so that
            it is no class beside the others: one that is made of others, or there twice.

    Example:
        >>> organ, tumour = np.ones(300, bool), np.arange(300) < 2
        >>> mask, several = joined([(Path("a"), organ), (Path("b"), tumour)], (300,))
        >>> mask[:4].tolist(), several
        ([2, 2, 1, 1], 2)
    """
    mask = np.zeros(shape, np.uint16)
    several = np.zeros(shape, bool)
    paths: list[Path] = []
    sizes: list[float] = [np.inf]
    left = [0]
    for path, inside in masks:
        before = mask[inside]
        size = len(before)
        won = np.array(sizes)[before] > size
        several[inside] |= before > 0
        for value, count in enumerate(np.bincount(before[won], minlength=1)[1:].tolist(), start=1):
            left[value] -= count
        before[won] = len(sizes)
        mask[inside] = before
        paths.append(path)
        sizes.append(size)
        left.append(int(won.sum()))
    for path, whole, own in zip(paths, sizes[1:], left[1:], strict=True):
        if whole - own > max(FEW, LOST * whole):
            raise InputError(
                f"{path}: {whole - own:,.0f} of its {whole:,.0f} voxels lie in smaller structures "
                "beside it, while classes must not overlap: remove it, or those that it is made "
                "of, from all cases"
            )
    return mask, int(several.sum())
