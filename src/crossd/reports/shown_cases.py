"""The cases that a report shows: the worst and the best, to leaf through."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from crossd.data.dataset import Samples, Subset
from crossd.data.source import Source
from crossd.evaluation import summary
from crossd.evaluation.summary import Results
from crossd.reports.markdown import number
from crossd.reports.slice_viewer import Case, sheets
from crossd.tasks import task_of, with_units
from crossd.training import devices, metrics, validate
from crossd.training.config import TrainConfig

COUNT = 3
"""Cases of the worst, and of the best."""

CLASSES = 5
"""Classes whose probabilities are told."""

FINDINGS = 15
"""Findings or numbers that are told, those that are furthest off first."""

WORST, BEST = "The worst", "The best"


def case_name(samples: Samples, index: int) -> str:
    """Return what a sample is called; a number alone says too little."""
    name = samples.case(index)
    return f"sample {name}" if name.isdecimal() else name


def extremes(values: ArrayLike, count: int = COUNT) -> list[tuple[int, str]]:
    """Choose the worst and the best, each sample once.

    Args:
        values: Scores; what is not a number is left out.
        count: Of either.

    Returns:
        Places, the worst first, then the best first, each with its group.

    Example:
        >>> extremes([0.9, 0.1, float("nan"), 0.5], count=1)
        [(1, 'The worst'), (0, 'The best')]
    """
    scores = np.asarray(values, float)
    order = [int(i) for i in np.argsort(scores, kind="stable") if np.isfinite(scores[i])]
    low = order[: min(count, -(-len(order) // 2))]
    high = order[len(low) :][::-1][:count]
    return [(i, WORST) for i in low] + [(i, BEST) for i in high]


def of_scored(
    net: nn.Module,
    source: Source,
    samples: Samples,
    outputs: Sequence[Tensor],
    options: TrainConfig,
) -> list[Case]:
    """Show the worst and the best of samples that were scored; every process must ask.

    Args:
        net: That was scored.
        source: What the samples are from.
        samples: That were scored.
        outputs: As `crossd.training.validate.score` gave them.
        options: As it was given.
    """
    if source.task == "segmentation":
        with np.errstate(invalid="ignore"):
            dices = outputs[0].numpy()
            known = np.isfinite(dices)
            means = np.where(known, dices, 0).sum(1) / known.sum(1)
        found = _masks(net, samples, [index for index, _ in extremes(means)], options)
        return [
            _segmented_sample(source, samples, index, group, {"network": found[index]})
            for index, group in extremes(means)
        ]
    close = metrics.closeness(source, *outputs)
    show = labelled if source.task == "classification" else told
    return [
        show(
            case_name(samples, i),
            group,
            samples[i]["image"][0].numpy(),
            outputs[0][i].numpy(),
            outputs[1][i].numpy(),
            source,
        )
        for i, group in extremes(close)
    ]


def labelled(
    name: str,
    group: str,
    image: NDArray[np.floating],
    probabilities: NDArray[np.floating],
    true: NDArray[np.integer],
    source: Source,
) -> Case:
    """Show a sample with the probabilities that a network gives the classes."""
    classes, best, truth = source.classes, int(probabilities.argmax()), int(true)
    verdict = "Right" if best == truth else f"Wrong: the truth is {classes[truth]}"
    said = f"{verdict}. Answer {classes[best]}, probability {probabilities[best]:.3f}."
    listed = dict.fromkeys([*np.argsort(-probabilities)[:CLASSES].tolist(), truth])
    rows = [
        (classes[k] + (" (truth)" if k == truth else ""), f"{probabilities[k]:.3f}") for k in listed
    ]
    made = sheets(image, spacing=source.spacing)
    return Case(name, said, group, made, header=("class", "probability"), rows=rows)


def told(
    name: str,
    group: str,
    image: NDArray[np.floating],
    said: NDArray[np.floating],
    true: NDArray[np.floating],
    source: Source,
) -> Case:
    """Show a sample with what a network says of its findings, or of its numbers, and the truth."""
    numbers = source.task == "regression"
    names = with_units(source.classes, source.units) if numbers else source.classes
    distance = np.nan_to_num(np.abs(said - true), nan=-1.0)
    scale = source.scale_of_numbers()
    if scale is not None:
        distance = distance / np.array(scale.std)
    order = np.argsort(-distance, kind="stable")
    rows = [
        (names[k], "not known" if np.isnan(true[k]) else f"{true[k]:.4g}", f"{said[k]:.4g}")
        for k in order[:FINDINGS]
    ]
    worst = int(order[0])
    truth = "not known" if np.isnan(true[worst]) else f"{true[worst]:.4g}"
    verdict = f"{names[worst]}: answer {said[worst]:.4g}, truth {truth}."
    made = sheets(image, spacing=source.spacing)
    header = ("number", "truth", "answer") if numbers else ("finding", "truth", "probability")
    return Case(name, verdict, group, made, header=header, rows=rows)


def segmented(
    name: str,
    group: str,
    image: NDArray[np.floating],
    truth: NDArray[np.integer],
    answers: Mapping[str, NDArray[np.integer]],
    classes: Sequence[str],
    spacing: Sequence[float] | None,
    scores: Mapping[str, NDArray[np.float64]] | None = None,
) -> Case:
    """Show a sample with its true mask and those of one network or several, with their Dice.

    Args:
        name: Of the sample.
        group: The heading it stands under.
        image: ``(D, H, W)`` or ``(H, W)``.
        truth: Labels of the same shape.
        answers: Arm to labels.
        classes: Names, the background first.
        spacing: Size of a voxel in the order of the axes [mm].
        scores: Arm to the Dice of the classes, where they are known.
    """
    scores = scores or {
        arm: metrics.dice(torch.from_numpy(mask), torch.from_numpy(truth), len(classes))
        for arm, mask in answers.items()
    }
    means = {arm: _mean(dices) for arm, dices in scores.items()}
    ranked = sorted(answers, key=lambda arm: -np.nan_to_num(means[arm]))  # the best is shown first
    made = sheets(image, truth, {arm: answers[arm] for arm in ranked}, spacing)
    if len(answers) == 1:
        (arm,) = answers
        rows = [(n, number(d)) for n, d in zip(classes[1:], scores[arm], strict=True)]
        said = f"Mean Dice {number(means[arm])}."
        return Case(name, said, group, made, classes, ("class", "Dice"), rows)
    best, last = ranked[0], ranked[-1]
    said = f"Mean Dice from {number(means[last])} ({last}) to {number(means[best])} ({best})."
    rows = [(arm, number(means[arm])) for arm in ranked]
    return Case(name, said, group, made, classes, ("arm", "mean Dice"), rows)


def comparison_cases(
    results: Results,
    source: Source,
    masks: Mapping[str, Sequence[NDArray[np.uint8]]] | None = None,
) -> list[Case]:
    """Show the first test volumes with the masks of all arms, and where the first arm is worst.

    That is where it is furthest behind its best rival, and where it is furthest ahead. Nothing is
    shown of folds, whose test samples differ.

    Args:
        results: The record of a comparison.
        source: What was compared on.
        masks: Arm to what it says of the first test volumes.
    """
    if results["folds"]:
        return []
    if task_of(source.task).kind != "one":
        return []
    key = summary.keys(results)[0]
    first, *others = (a for a in results["arms"] if summary.scores(results, key, a))
    scores = {arm: summary.case_scores(results, key, arm) for arm in (first, *others)}
    rival = summary.best(results, key, others)
    values = scores[first] - scores[rival] if rival else scores[first]
    title = summary.title(key)
    header = ("arm", "mean Dice" if task_of(source.task).masks else "share in the AUC")
    kept = {arm: found for arm, found in (masks or {}).items() if found}
    cases = [
        _segmented_sample(
            source,
            source.test,
            i,
            f"The first test volumes: {title}",
            {arm: found[i] for arm, found in kept.items()},
        )
        for i in range(min(map(len, kept.values()), default=0))
    ]
    for i, group in extremes(values):
        sample = source.test[i]
        truth = sample["mask"].numpy() if "mask" in sample else None
        said = f"{first} {scores[first][i]:.3f}"
        group += f" for {first}"
        if rival:
            said += f", {rival} {scores[rival][i]:.3f}"
            group += f" against {rival}"
        if truth is None:
            said += f"; truth {source.classes[int(sample['label'])]}"
        made = sheets(sample["image"][0].numpy(), truth, spacing=source.spacing)
        rows = [(arm, f"{own[i]:.3f}") for arm, own in scores.items()]
        name = case_name(source.test, i)
        cases.append(
            Case(name, f"{said}.", f"{group}: {title}", made, source.classes, header, rows)
        )
    return cases


def _segmented_sample(
    source: Source,
    samples: Samples,
    index: int,
    group: str,
    answers: Mapping[str, NDArray[np.integer]],
) -> Case:
    sample = samples[index]
    return segmented(
        case_name(samples, index),
        group,
        sample["image"][0].numpy(),
        sample["mask"].to(torch.uint8).numpy(),
        answers,
        source.classes,
        source.spacing,
    )


def _masks(
    net: nn.Module, samples: Samples, indices: Sequence[int], options: TrainConfig
) -> dict[int, NDArray[np.uint8]]:
    """Let a network answer again on a few samples, to show its masks."""
    part = Subset(samples, np.array(indices, np.int64))
    one = dataclasses.replace(options, batch_size=1, workers=0)
    mine = [
        (int(batch["place"]), answer[0].to(torch.uint8).cpu().numpy())
        for answer, batch in validate.answers(net, part, one, "segmentation")
    ]
    return {indices[place]: guess for place, guess in devices.gather_lists(mine)}


def _mean(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")
