"""Sizes of images and volumes."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from crossd.errors import InputError

MULTIPLE = 8
"""Networks halve the resolution three times, so that sides are made multiples of this."""


def round_up(sides: Sequence[int]) -> tuple[int, ...]:
    """Round every side up to a multiple of 8.

    Example:
        >>> round_up((35, 48, 1))
        (40, 48, 8)
    """
    return tuple(-(-side // MULTIPLE) * MULTIPLE for side in sides)


def full_size(size: tuple[int, ...], rank: int, name: str) -> tuple[int, ...]:
    """Repeat a single number for all axes and check that there is one number an axis.

    Args:
        size: One number, or one an axis.
        rank: Number of axes.
        name: The source, for the message.

    Returns:
        One number an axis.

    Raises:
        InputError: When the count is neither 1 nor `rank`.

    Example:
        >>> full_size((64,), 3, "organs.npz")
        (64, 64, 64)
    """
    if len(size) not in (1, rank):
        raise InputError(
            f"--size {','.join(map(str, size))}: {name} has {rank} spatial axes; "
            f"give one number or {rank}"
        )
    return size if len(size) == rank else size * rank


def fit(x: Tensor, size: Sequence[int], value: float = 0.0) -> Tensor:
    """Pad or crop the last axes about their centre.

    Args:
        x: Shape ``(..., *spatial)``.
        size: The spatial shape wanted.
        value: What is padded.

    Returns:
        Shape ``(..., *size)``.

    Example:
        >>> import torch
        >>> fit(torch.tensor([[1, 2, 3]]), (2, 2))
        tensor([[1, 2],
                [0, 0]])
    """
    pads: list[int] = []
    for have, want in zip(reversed(x.shape), reversed(size), strict=False):
        before = (want - have) // 2 if want > have else -((have - want) // 2)
        pads += [before, want - have - before]
    return F.pad(x, pads, value=value)
