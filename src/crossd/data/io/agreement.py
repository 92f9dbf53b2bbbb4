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
    """Check that two files of a case have as many pixels or voxels along each axis.

    Args:
        first: The first file of the case.
        shape: Its shape.
        other: Another file of it.
        own: The shape of that one.
        what: What the two are, for the message.

    Raises:
        InputError: "... must agree".
    """
    if own != shape:
        raise InputError(f"{other}: has the shape {own}, but {first} {shape}; {what} must agree")


def require_same_count(counts: Sequence[tuple[Path, int]], what: str, of: str) -> None:
    """Check that all cases have as many channels, or files.

    Args:
        counts: The first file of each case, and how many it has.
        what: What is counted.
        of: What the cases are.

    Raises:
        InputError: "... must agree".
    """
    for path, count in counts:
        if count != counts[0][1]:
            raise InputError(
                f"{path}: has {count} {what}, but {counts[0][0]} has {counts[0][1]}; "
                f"all {of} must agree"
            )


def whole_numbers(mask: Array, path: Path) -> NDArray[np.uint8]:
    """Return the values of a mask, of any shape, as they are.

    Raises:
        InputError: When one is no whole number from 0 to 255.
    """
    numbers: Array = mask.astype(np.float32 if mask.dtype.kind == "f" else np.int64)
    valid = (numbers >= 0) & (numbers < MOST_CLASSES) & (numbers == np.floor(numbers))
    if not valid.all():
        raise InputError(
            f"{path}: holds {numbers[~valid].flat[0]:g}; a mask holds whole numbers from 0 to "
            f"{MOST_CLASSES - 1}"
        )
    return numbers.astype(np.uint8)


def as_classes(mask: NDArray[np.uint8], values: Sequence[int], path: Path) -> NDArray[np.uint8]:
    """Number the classes of a mask.

    Args:
        mask: Its values, of any shape.
        values: What stands for each class.
        path: Its file, for messages.

    Raises:
        InputError: When it holds another value.

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
    """Check that a mask holds no values but those of the classes.

    Args:
        found: The values that it holds.
        values: What stands for each class.
        path: Its file, for messages.

    Raises:
        InputError: "... but the classes have the values ...".
    """
    odd = sorted(set(found) - set(values))
    if odd:
        raise InputError(
            f"{path}: holds {odd[0]}, but the classes have the values {', '.join(map(str, values))}"
        )
