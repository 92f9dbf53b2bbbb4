"""What is compared: the arms, the samples, and the budgets that all arms share."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from crossd.data.dataset import Joined, Subset
from crossd.data.disk_cache import DiskCache
from crossd.data.source import Source
from crossd.errors import InputError
from crossd.evaluation.arms import Make
from crossd.evaluation.protocols import Learn
from crossd.tasks import strata
from crossd.training.loop import TrainConfig

VALIDATION = 8
"""One in so many training samples of a fold validates."""

STATISTICS = ("anew", "kept")
"""Of BatchNorm: measured anew on the unlabelled training samples, or kept as they were learnt."""


def as_it_is(net: nn.Module, task: str) -> nn.Module:
    """Ask a network itself."""
    return net


@dataclass(frozen=True, eq=False)
class Arm:
    """A contestant.

    Attributes:
        make: From a seed to a network with logits of the source's classes.
        answers: Whether it can answer before it has seen a labelled volume.
        drawn: Whether another seed makes another network.
        learn: Fits the network, in place, to the labelled samples of a source within a budget,
            where the protocol is ``finetune`` and the arm has a way of its own to do so.
        asked: The ways in which it can be asked about the source's samples, by name: each makes of
            the network and its task what is asked. The first is taken where nothing tells them
            apart.
        learns: Whether its 3D kernels can be taught what the same network says of slices.
    """

    make: Callable[[int], nn.Module]
    answers: bool = True
    drawn: bool = False
    learn: Learn | None = None
    asked: Mapping[str, Make] = field(default_factory=lambda: {"volume": as_it_is})
    learns: bool = False


@dataclass(frozen=True, eq=False)
class Contest:
    """What is compared.

    Attributes:
        source: Volumes (or images) with labels or masks.
        arms: By name; the first is compared with each other one.
        budget: Of training on the labelled volumes; its seed is that of the first trial.
        folds: Of a cross-validation over all samples; 0 for the source's own split.
        statistics: Which of `STATISTICS` an arm may have; the first is taken where nothing tells
            them apart.
        teaching: The budget with which arms are taught; None for arms as they are alone.
        always: Whether what can be taught is used in no other way.
        keep: Folder where masks of the first test volumes are kept for the report, and weights that
            were taught; None for none.
        features: Where features are kept, from run to run and for runs that go on; None for
            nowhere.
        model: Name of the network, with its arguments.
        notes: What a reader of the report must know of the arms and the source.
        made: Networks and scores that are at hand, see `crossd.evaluation.ways`.
    """

    source: Source
    arms: Mapping[str, Arm]
    budget: TrainConfig
    folds: int = 0
    statistics: tuple[str, ...] = STATISTICS
    teaching: TrainConfig | None = None
    always: bool = False
    keep: Path | None = None
    features: DiskCache | None = None
    model: str = ""
    notes: tuple[str, ...] = ()
    made: dict[object, Any] = field(default_factory=dict, init=False, repr=False)


def part(contest: Contest, fold: int) -> Source:
    """Return the source of one fold: stratified, groups whole; its own split without folds.

    Raises:
        InputError: "--folds ..." where no class has as many samples.
    """
    source = contest.source
    if not contest.folds:
        return source
    from sklearn.model_selection import StratifiedGroupKFold

    whole = Joined((source.train, source.val, source.test))
    count = len(whole)
    labels = strata(source.task, whole.labels, count)
    groups = np.arange(count) if whole.groups is None else whole.groups

    def cut(indices: NDArray[np.int64], folds: int, which: int) -> list[NDArray[np.int64]]:
        split = StratifiedGroupKFold(folds, shuffle=True, random_state=contest.budget.seed)
        most = np.unique_counts(labels[indices]).counts.max()
        if folds > most:
            raise InputError(
                f"--folds {folds}: {source.name} has {most} samples of a class at most"
            )
        with warnings.catch_warnings():  # classes of fewer samples are in some folds only
            warnings.filterwarnings("ignore", "The least populated class")
            pairs = list(split.split(indices, labels[indices], groups[indices]))
        return [indices[one] for one in pairs[which]]

    rest, test = cut(np.arange(count), contest.folds, fold)
    most = int(np.unique_counts(labels[rest]).counts.max())
    training, val = cut(rest, max(2, min(VALIDATION, most)), 0)
    parts = [Subset(whole, indices) for indices in (training, val, test)]
    return replace(source, train=parts[0], val=parts[1], test=parts[2])
