"""Dice and cross-entropy over the voxels that are known."""

import torch
import torch.nn.functional as F
from torch import Tensor

from crossd.data.io.agreement import IGNORED


def dice_and_cross_entropy(logits: Tensor, mask: Tensor) -> Tensor:
    """Return what MONAI's DiceCELoss would be if there were no other voxels than the known ones.

    Dice is averaged over classes and over the samples of which anything is known, cross-entropy
    over all known voxels. What is not known has no gradient.

    Args:
        logits: Shape ``(N, K, ...)``.
        mask: Classes, int64, ``(N, ...)``; `IGNORED` where they are not known.

    Returns:
        The loss, ``()``; 0 where nothing is known.

    Example:
        >>> logits = torch.zeros(1, 2, 2, 2)
        >>> float(dice_and_cross_entropy(logits, torch.full((1, 2, 2), IGNORED)))
        0.0
    """
    from monai.losses.dice import DiceLoss

    known = mask != IGNORED
    p = logits.softmax(1) * known[:, None]
    every = F.one_hot(torch.where(known, mask, 0), logits.shape[1]).movedim(-1, 1)
    dices: Tensor = DiceLoss(reduction="none")(p, (every * known[:, None]).to(p.dtype))
    has_any = known.flatten(1).any(1)
    dice = (dices.flatten(1).mean(1) * has_any).sum() / has_any.sum().clamp(min=1)
    total = F.cross_entropy(logits, mask, ignore_index=IGNORED, reduction="sum")
    return dice + total / known.sum().clamp(min=1)
