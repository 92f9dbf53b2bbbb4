"""Teaching: a network learns, on samples without labels, what another one says of them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crossd.data.dataset import ChangedSamples, Sample, Samples
from crossd.data.source import Source
from crossd.tasks import task_of
from crossd.training import loop
from crossd.training.config import TrainConfig
from crossd.training.teacher import Teacher


def budget(task: str, batch_size: int | None = None) -> TrainConfig:
    """Give how long and how fast networks are taught where nothing else is asked for.

    Args:
        task: What they answer, see `crossd.tasks`.
        batch_size: Volumes a step; None leaves it open.
    """
    usual = 2 if task_of(task).masks else 8
    return TrainConfig(epochs=1, min_steps=150, batch_size=batch_size or usual, lr=1e-3, workers=0)


def taught(
    net: nn.Module, teacher: Teacher, source: Source, config: TrainConfig, **more: Any
) -> loop.Fit:
    """Teach a network, in place, what another one says of a source's training samples.

    Args:
        net: That learns.
        teacher: What it learns.
        source: Its labels and masks are not looked at.
        config: How long and how fast.
        **more: See `crossd.training.loop.fit`.
    """
    unlabelled = dataclasses.replace(source, task="unlabelled", train=Unlabelled(source.train))
    return loop.fit(net, unlabelled, config, teacher=teacher, validate=False, **more)


class Rescaled(nn.Module):
    """A network that is told samples as it knows them, where another mean and std were taken out.

    Args:
        net: The network.
        given: Mean and standard deviation that the samples were less, and over.
        known: Those that the network was trained with.

    Example:
        >>> net = Rescaled(nn.Identity(), (10.0, 2.0), (8.0, 4.0))
        >>> net(torch.tensor([1.0]))  # 12 in the file
        tensor([1.])
    """

    def __init__(
        self, net: nn.Module, given: tuple[float, float], known: tuple[float, float]
    ) -> None:
        super().__init__()
        self.net, self.given, self.known = net, given, known

    def forward(self, x: Tensor) -> Tensor:
        """Ask the network."""
        (mean, std), (own_mean, own_std) = self.given, self.known
        return self.net((x * std + mean - own_mean) / own_std)


class Unlabelled(ChangedSamples):
    """Samples whose labels and masks nobody is to see."""

    def __init__(self, samples: Samples) -> None:
        super().__init__(samples)
        self.labels = None

    def _changed(self, sample: Sample) -> Sample:
        kept: Sample = {**sample}
        kept.pop("label", None)
        kept.pop("mask", None)
        return kept


def agreement(task: str, taught: Sequence[Tensor], teacher: Sequence[Tensor]) -> list[float]:
    """Give how far two networks agree on each sample: 1 where they say the same.

    For one class of several, one less half the sum of the absolute differences of probabilities;
    for findings, one less their mean; for numbers, one less the mean absolute difference of what
    is standardised, which may be below 0; for masks the mean Dice of the classes but the first
    that one of the two shows, 1 where neither shows any.

    Args:
        task: What they answer, see `crossd.tasks`.
        taught: What one says of each sample: probabilities or numbers ``(K,)``, or classes.
        teacher: What the other says.

    Example:
        >>> agreement("classification", [torch.tensor([0.5, 0.5])], [torch.tensor([1.0, 0.0])])
        [0.5]
        >>> agreement("segmentation", [torch.tensor([0, 1, 1])], [torch.tensor([0, 0, 1])])
        [0.6666666865348816]
    """
    kind = task_of(task)
    found = []
    for one, other in zip(taught, teacher, strict=True):
        if kind.masks:
            found.append(_overlap(one, other))
            continue
        apart = (one - other).abs()
        found.append(float(1 - (apart.sum() / 2 if kind.kind == "one" else apart.mean())))
    return found


def _overlap(one: Tensor, other: Tensor) -> float:
    """Give the mean Dice of the classes that one of two masks shows."""
    seen = {*one.unique().tolist(), *other.unique().tolist()} - {0}
    dice = []
    for value in seen:
        a, b = one == value, other == value
        dice.append(2 * (a & b).sum() / (a.sum() + b.sum()))
    return float(torch.stack(dice).mean()) if dice else 1.0
