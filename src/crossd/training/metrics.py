"""Scores of predictions, from the libraries that have them."""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossd.data.io.agreement import IGNORED

MAIN = {"classification": "accuracy", "segmentation": "dice"}
"""The score a model is chosen by."""


def classification(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Score class probabilities.

    Args:
        probabilities: Shape ``(N, K)``.
        labels: Shape ``(N,)``.

    Returns:
        ``accuracy``; ``precision``, ``recall`` and ``f1``, means over the classes that are present;
        ``balanced_accuracy``, another name of that recall; and ``auc``, the mean area under the ROC
        curve of each class against the others, over the classes that are present but not alone (NaN
        when there is none).

    Example:
        >>> scores = classification(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([0, 1]))
        >>> scores["accuracy"], scores["f1"], scores["auc"]
        (1.0, 1.0, 1.0)
    """
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support, roc_auc_score

    scores, truth = probabilities.double().numpy(), labels.numpy()
    areas = [
        roc_auc_score(truth == k, scores[:, k])
        for k in range(scores.shape[1])
        if 0 < (truth == k).sum() < len(truth)
    ]
    guesses = scores.argmax(1)
    precision, recall, f1, _ = precision_recall_fscore_support(
        truth, guesses, labels=np.unique(truth), average="macro", zero_division=0.0
    )
    return {
        "accuracy": float(accuracy_score(truth, guesses)),
        "balanced_accuracy": float(recall),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
        "auc": float(np.mean(areas)) if areas else float("nan"),
    }


def confusion(probabilities: Tensor, labels: Tensor) -> NDArray[np.int64]:
    """Count true classes (rows) against predicted ones (columns), shape ``(K, K)``."""
    from sklearn.metrics import confusion_matrix

    names = range(probabilities.shape[1])
    matrix: NDArray[np.int64] = confusion_matrix(
        labels.numpy(), probabilities.argmax(1).numpy(), labels=names
    )
    return matrix


def dice(answer: Tensor, mask: Tensor, classes: int) -> NDArray[np.float64]:
    """Dice of one mask for every class but the background.

    Args:
        answer: Predicted classes, shape ``(...)``.
        mask: True classes, the same shape; what it does not know is left out of both.
        classes: Number of classes K, background included.

    Returns:
        Shape ``(K - 1,)``; NaN where a class is in neither, 0 where it is in one alone.

    Example:
        >>> dice(torch.tensor([[0, 1], [1, 1]]), torch.tensor([[0, 1], [1, 0]]), 2)
        array([0.8])
    """
    values = np.full(classes - 1, np.nan)
    known = mask != IGNORED
    for k in range(1, classes):
        guess, truth = (answer == k) & known, mask == k
        total = int(guess.sum() + truth.sum())
        if total:
            values[k - 1] = round(2 * int((guess & truth).sum()) / total, 6)
    return values


def surfaces(
    guess: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    spacing: Sequence[float],
    tolerance: float,
    known: NDArray[np.bool_] | None = None,
) -> dict[str, float | None]:
    """Compare two masks of one class by their volumes and their surfaces.

    Args:
        guess: Shape ``(D, H, W)`` or ``(H, W)``.
        truth: The same shape.
        spacing: Size of a voxel in the order of the axes [mm].
        tolerance: Distance that counts as none [mm].
        known: Where the truth is known; None where it is everywhere. The rest is in neither mask.

    Returns:
        ``dice``, ``hd95`` (95th percentile of the distances between the surfaces [mm]) and ``nsd``
        (share of the surfaces within the tolerance). With one mask empty dice and nsd are 0 and
        hd95 is None; with both, all are None. Where a mask has a voxel beside one that is not
        known, its surface there is not known either: hd95 and nsd are None.

    Example:
        >>> mask = np.zeros((8, 8), bool)
        >>> mask[2:5, 2:5] = True
        >>> surfaces(mask, np.roll(mask, 1, 0), (2.0, 1.0), 1.0)["hd95"]
        2.0
    """
    if known is not None:
        guess, truth = guess & known, truth & known
        if _touch(guess | truth, ~known):
            total = int(guess.sum() + truth.sum())
            return {"dice": 2 * int((guess & truth).sum()) / total, "hd95": None, "nsd": None}
    if not (guess.any() and truth.any()):
        none = None if not (guess.any() or truth.any()) else 0.0
        return {"dice": none, "hd95": None, "nsd": none}
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.surface_dice import compute_surface_dice

    both = np.stack(np.nonzero(guess | truth))
    box = tuple(
        slice(max(0, int(low) - 1), int(high) + 2)
        for low, high in zip(both.min(1), both.max(1), strict=True)
    )
    a, b = (torch.from_numpy(np.ascontiguousarray(m[box]))[None, None] for m in (guess, truth))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI says what is handled above
        far = compute_hausdorff_distance(
            a, b, include_background=True, percentile=95, spacing=list(spacing)
        )
        near = compute_surface_dice(
            a, b, [tolerance], include_background=True, spacing=list(spacing)
        )
    overlap = 2 * float((guess & truth).sum()) / float(guess.sum() + truth.sum())
    return {"dice": overlap, "hd95": float(far), "nsd": float(near)}


def _touch(mask: NDArray[np.bool_], other: NDArray[np.bool_]) -> bool:
    """Tell whether two masks that share no voxel have neighbouring ones."""
    from scipy import ndimage

    return bool((ndimage.binary_dilation(other) & mask).any())


def segmentation(scores: NDArray[np.float64], classes: tuple[str, ...]) -> dict[str, float]:
    """Average the Dice of many masks.

    Args:
        scores: Shape ``(N, K - 1)``, NaN where a class is absent.
        classes: The K names, the background first.

    Returns:
        ``dice``, the mean over classes of their mean over masks, and ``dice_NAME`` of each.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice")  # a class that no mask has
        each = np.nanmean(scores, axis=0)
        mean = float(np.nanmean(each))
    return {"dice": mean, **{f"dice_{n}": float(v) for n, v in zip(classes[1:], each, strict=True)}}
