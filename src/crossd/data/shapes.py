"""Sizes of images and volumes."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

MULTIPLE = 8
"""Networks halve the resolution three times, so that sides are made multiples of this."""


def round_up(sides: Sequence[int], multiple: int = MULTIPLE) -> tuple[int, ...]:
    """Round every side up to a multiple.

    Example:
        >>> round_up((35, 48, 1))
        (40, 48, 8)
    """
    return tuple(-(-side // multiple) * multiple for side in sides)


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
