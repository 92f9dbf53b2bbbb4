"""What a training makes small, for each task."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from crossd.tasks import Scale
from crossd.training.partial_loss import dice_and_cross_entropy

Logits = Tensor | Sequence[Tensor]
"""What a network says of a batch; with deep supervision, that of several of its heads."""

Loss = Callable[[Any, Tensor], Tensor]
"""Of logits and of what is true."""


def loss_of(task: str, scale: Scale | None = None, partial: bool = False) -> Loss:
    """Make the loss of a task.

    Classes have cross-entropy; masks add Dice to it, and logits of deep supervision are weighted by
    halves. Findings have binary cross-entropy, numbers Huber's loss of what is standardised, both
    over what is known.

    Args:
        task: Its name.
        scale: By which numbers are standardised.
        partial: Whether masks may be known in part: the loss is that over known voxels then.
    """
    if task == "classification":
        return F.cross_entropy
    if task == "multilabel":
        return findings
    if task == "regression":
        assert scale is not None
        return lambda said, truth: numbers(said, scale.standardised(truth))
    return masks(partial)


def findings(logits: Tensor, truth: Tensor) -> Tensor:
    """Give the mean binary cross-entropy over what is known.

    Args:
        logits: Shape ``(N, K)``.
        truth: 1 or 0, NaN where it is not known, the same shape.

    Returns:
        Shape ``()``; 0 where nothing is known.

    Example:
        >>> nan = float("nan")
        >>> findings(torch.zeros(1, 2), torch.tensor([[1.0, nan]]))
        tensor(0.6931)
    """
    known, truth = _known(truth)
    each = F.binary_cross_entropy_with_logits(logits, truth.to(logits.dtype), reduction="none")
    return (each * known).sum() / known.sum().clamp_min(1)


def numbers(said: Tensor, truth: Tensor) -> Tensor:
    """Give the mean of Huber's loss over what is known.

    Args:
        said: Standardised numbers, shape ``(N, K)``.
        truth: Likewise, NaN where one is not known.

    Returns:
        Shape ``()``; 0 where nothing is known.

    Example:
        >>> numbers(torch.tensor([[1.0, 5.0]]), torch.tensor([[0.0, float("nan")]]))
        tensor(0.5000)
    """
    known, truth = _known(truth)
    each = F.huber_loss(said, truth.to(said.dtype), reduction="none")
    return (each * known).sum() / known.sum().clamp_min(1)


def _known(truth: Tensor) -> tuple[Tensor, Tensor]:
    """Tell what is known, and put zeros where nothing is."""
    known = torch.isfinite(truth)
    return known, torch.where(known, truth, 0.0)


def masks(partial: bool = False) -> Callable[[Logits, Tensor], Tensor]:
    """Make the sum of Dice loss and cross-entropy of masks; see `loss_of`."""
    from monai.losses.dice import DiceCELoss

    whole = DiceCELoss(to_onehot_y=True, softmax=True)

    def loss(logits: Logits, mask: Tensor) -> Tensor:
        if isinstance(logits, Tensor) and logits.dim() == mask.dim() + 2:
            logits = logits.unbind(1)  # (n, heads, classes, ...)
        if isinstance(logits, Tensor):
            if logits.shape[2:] != mask.shape[1:]:  # a head of coarser resolution
                mode = "bilinear" if mask.dim() == 3 else "trilinear"
                logits = F.interpolate(logits, size=mask.shape[1:], mode=mode)
            if partial:
                return dice_and_cross_entropy(logits, mask)
            value: Tensor = whole(logits, mask.unsqueeze(1))
            return value
        parts = [loss(part, mask) * 0.5**i for i, part in enumerate(logits)]
        return torch.stack(parts).sum() / sum(0.5**i for i in range(len(parts)))

    return loss
