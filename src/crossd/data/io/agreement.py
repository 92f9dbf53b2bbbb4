"""What files of a case must agree in, and what its mask may hold: of images and of volumes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossd.data.shared_arrays import Array
from crossd.errors import InputError

MOST_CLASSES = 256


def require_same_shape(
    first: Path, shape: tuple[int, ...], other: Path, own: tuple[int, ...], what: str
) -> None:
    """Check that the first file of a case and another have equal shapes; `what` the two are."""
    if own != shape:
        raise InputError(f"{other}: has the shape {own}, but {first} {shape}; {what} must agree")


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


def whole_numbers(mask: Array, path: Path) -> NDArray[np.uint8]:
    """Return the values of a mask, and refuse any that is no whole number from 0 to 255."""
    numbers: Array = mask.astype(np.float32 if mask.dtype.kind == "f" else np.int64)
    valid = (numbers >= 0) & (numbers < MOST_CLASSES) & (numbers == np.floor(numbers))
    if not valid.all():
        raise InputError(
            f"{path}: holds {numbers[~valid].flat[0]:g}; a mask holds whole numbers from 0 to "
            f"{MOST_CLASSES - 1}"
        )
    return numbers.astype(np.uint8)


def as_classes(mask: NDArray[np.uint8], values: Sequence[int], path: Path) -> NDArray[np.uint8]:
    """Number the classes of a mask by what stands for each in its file; refuse other values.

    Example:
        >>> as_classes(np.array([4, 0, 1], np.uint8), (0, 1, 4), Path("mask.png"))
        array([2, 0, 1], dtype=uint8)
    """
    table = np.full(MOST_CLASSES, -1, np.int16)
    table[list(values)] = np.arange(len(values))
    classes = table[mask]
    if (classes < 0).any():
        require_known([int(mask[classes < 0].flat[0])], values, path)
    return classes.astype(np.uint8)


def require_known(found: Sequence[int], values: Sequence[int], path: Path) -> None:
    """Check that the values found in a mask are those of the classes."""
    odd = sorted(set(found) - set(values))
    if odd:
        raise InputError(
            f"{path}: holds {odd[0]}, but the classes have the values {', '.join(map(str, values))}"
        )
