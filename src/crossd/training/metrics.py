"""Scores of predictions, from the libraries that have them."""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossd.data.io.agreement import IGNORED
from crossd.data.source import Source


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


def multilabel(probabilities: Tensor, truth: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Score probabilities of findings, each over the samples of which it is known.

    Args:
        probabilities: Shape ``(N, K)``.
        truth: 1 or 0, NaN where it is not known, the same shape.
        names: Of the K findings.

    Returns:
        ``auc`` and ``average_precision``, means over the findings that some samples have and others
        have not (NaN when there is none); ``accuracy``, the share of what is known that is right at
        a probability of 0.5; and with several findings ``auc_NAME`` and ``average_precision_NAME``.

    Example:
        >>> truth = torch.tensor([[1.0], [0.0], [float("nan")]])
        >>> multilabel(torch.tensor([[0.9], [0.2], [0.1]]), truth, ["mass"])
        {'auc': 1.0, 'average_precision': 1.0, 'accuracy': 1.0}
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    said, true = probabilities.double().numpy(), truth.double().numpy()
    each: dict[str, dict[str, float]] = {"auc": {}, "average_precision": {}}
    for k, name in enumerate(names):
        known = np.isfinite(true[:, k])
        own, guess = true[known, k], said[known, k]
        mixed = len(np.unique(own)) == 2
        each["auc"][name] = float(roc_auc_score(own, guess)) if mixed else np.nan
        each["average_precision"][name] = (
            float(average_precision_score(own, guess)) if mixed else np.nan
        )
    known = np.isfinite(true)
    right = (said > 0.5) == (true > 0.5)
    accuracy = float(right[known].mean()) if known.any() else np.nan
    return _with_each(each, names, {"accuracy": accuracy})


def regression(values: Tensor, truth: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Score numbers, each over the samples of which it is known.

    Args:
        values: In their units, shape ``(N, K)``.
        truth: NaN where one is not known, the same shape.
        names: Of the K numbers.

    Returns:
        ``r2`` (1 is perfect, 0 no better than the mean of the truth) and ``spearman`` (correlation
        of ranks), means over the numbers; NaN for fewer than two different true values. With one
        number ``mae``, the mean absolute error in its unit; with several the three of each.

    Example:
        >>> truth = torch.tensor([[1.0], [2.0], [3.0]])
        >>> regression(truth + 0.5, truth, ["volume"])
        {'r2': 0.625, 'spearman': 1.0, 'mae': 0.5}
    """
    from scipy.stats import spearmanr
    from sklearn.metrics import r2_score

    said, true = values.double().numpy(), truth.double().numpy()
    each: dict[str, dict[str, float]] = {"r2": {}, "spearman": {}, "mae": {}}
    for k, name in enumerate(names):
        known = np.isfinite(true[:, k])
        own, guess = true[known, k], said[known, k]
        varied = len(np.unique(own)) > 1
        ranked = varied and len(np.unique(guess)) > 1
        each["r2"][name] = float(r2_score(own, guess)) if varied else np.nan
        each["spearman"][name] = float(spearmanr(own, guess).statistic) if ranked else np.nan
        each["mae"][name] = float(np.abs(own - guess).mean()) if len(own) else np.nan
    found = _with_each(each, names, {})
    if len(names) > 1:  # numbers of several units have no mean
        del found["mae"]
    return found


def area_by_case(probabilities: Tensor, labels: Tensor) -> NDArray[np.float64]:
    """Share out the mean area under the ROC curve of `classification` among the samples.

    The mean of the values is the area, and their standard deviation over the square root of N its
    standard error; likewise for the differences of two networks on the same samples (DeLong, DeLong
    and Clarke-Pearson 1988, Biometrics 44, 837-845). A single value may be below 0 or above 1.

    Args:
        probabilities: Shape ``(N, K)``.
        labels: Shape ``(N,)``.

    Returns:
        Shape ``(N,)``; NaN where no class is present but not alone.

    Example:
        >>> said = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.6, 0.4], [0.1, 0.9]])
        >>> area_by_case(said, torch.tensor([0, 0, 1, 1]))
        array([1.25, 0.25, 0.25, 1.25])
    """
    from scipy.stats import rankdata

    scores, truth = probabilities.double().numpy(), labels.numpy()
    count = len(truth)
    found = []
    for k in range(scores.shape[1]):
        own = truth == k
        if not 0 < own.sum() < count:
            continue
        ranks = rankdata(scores[:, k])
        worth = np.empty(count)  # of a sample: the share of the other side that lies right of it
        for side, sign in ((own, 1), (~own, -1)):
            above = ranks[side] - rankdata(scores[side, k])
            share = above / (~side).sum()
            worth[side] = share if sign > 0 else 1 - share
        area = worth[own].mean()
        weight = np.where(own, count / own.sum(), count / (~own).sum())
        found.append(area + weight * (worth - area))
    return np.mean(found, 0) if found else np.full(count, np.nan)


def main(task: str, said: Tensor, truth: Tensor) -> float:
    """Give the main score of findings or numbers, quickly: it is asked for of many draws of cases.

    Args:
        task: "multilabel" or "regression".
        said: Shape ``(N, K)``.
        truth: The same shape, NaN where it is not known.

    Returns:
        The ``auc`` of `multilabel`, or the ``r2`` of `regression`.
    """
    from scipy.stats import rankdata

    found = []
    for guess, own in zip(said.double().numpy().T, truth.double().numpy().T, strict=True):
        known = np.isfinite(own)
        guess, own = guess[known], own[known]
        if task == "regression":
            differ = len(np.unique(own)) > 1  # as equal values have a spread by rounding
            spread = ((own - own.mean()) ** 2).sum() if differ else np.nan
            found.append(1 - ((own - guess) ** 2).sum() / spread)
        else:
            there = own == 1
            pairs = there.sum() * (~there).sum()
            above = rankdata(guess)[there].sum() - there.sum() * (there.sum() + 1) / 2
            found.append(above / pairs if pairs else np.nan)
    known_scores = np.array(found)[np.isfinite(found)]
    return float(known_scores.mean()) if len(known_scores) else float("nan")


def _with_each(
    each: dict[str, dict[str, float]], names: Sequence[str], more: dict[str, float]
) -> dict[str, float]:
    """Put the means of scores first, then other scores, then with several names those of each."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice")
        found = {score: float(np.nanmean(list(own.values()))) for score, own in each.items()}
    found |= more
    if len(names) > 1:
        found |= {f"{score}_{n}": value for score, own in each.items() for n, value in own.items()}
    return found


def of_task(source: Source, outputs: Sequence[Tensor]) -> dict[str, float]:
    """Score what a network said of samples of a source.

    Args:
        source: Of the samples.
        outputs: See `crossd.training.validate.score`.
    """
    if source.task == "segmentation":
        return segmentation(outputs[0].numpy(), source.classes)
    if source.task == "classification":
        return classification(outputs[0], outputs[1])
    score = multilabel if source.task == "multilabel" else regression
    return score(outputs[0], outputs[1], source.classes)


def closeness(source: Source, said: Tensor, truth: Tensor) -> NDArray[np.float64]:
    """Tell how close an answer is to the truth, sample by sample; greater is closer.

    Args:
        source: Of the samples, which have no masks.
        said: Probabilities, or numbers in their units, ``(N, K)``.
        truth: Classes ``(N,)``, or findings or numbers ``(N, K)``.

    Returns:
        Shape ``(N,)``: the probability of the true class; 1 less the mean distance from the known
        findings; or the mean distance from the known numbers in standard deviations, below 0. NaN
        where nothing is known.
    """
    if truth.dim() == 1:
        return said.double().numpy()[np.arange(len(truth)), truth.numpy()]
    distance = (said.double() - truth.double()).abs()
    scale = source.scale_of_numbers()
    if scale is not None:
        return (-(distance / distance.new_tensor(scale.std)).nanmean(1)).numpy()
    return (1 - distance.nanmean(1)).numpy()


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
