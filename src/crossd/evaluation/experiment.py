"""Arms against each other, again and again: folds, trials, protocols, numbers of labelled volumes.

A run is one arm under one protocol on one choice of labelled volumes. Each is written to a file of
its own when it ends, so that an interrupted comparison goes on, and runs are spread over processes.
All arms of a repetition see the same labelled volumes, seeds, augmentation and budget, and have
BatchNorm recalibrated on the same unlabelled training volumes.
"""

import dataclasses
import functools
import itertools
import json
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from crossd.data.dataset import Joined, Subset
from crossd.data.disk_cache import DiskCache
from crossd.data.source import Source, limit
from crossd.errors import InputError
from crossd.evaluation import protocols
from crossd.evaluation.features import Kept, features
from crossd.evaluation.jobs import spread
from crossd.tasks import strata, task_of
from crossd.training import devices, metrics, validate
from crossd.training.loggers import Epoch
from crossd.training.loop import TrainConfig
from crossd.utils.atomic_files import atomic
from crossd.utils.progress import Progress

FREE = ("zero",)
"""Protocols that need no labelled volume."""

VALIDATION = 8
"""One in so many training samples of a fold validates."""

SHOWN = 3
"""Test volumes whose masks are kept."""


@dataclasses.dataclass(frozen=True)
class Arm:
    """A contestant.

    Attributes:
        make: From a seed to a network for the source's samples, with logits of its classes.
        answers: Whether it can answer before it has seen a labelled volume.
        drawn: Whether another seed makes another network.
        learn: Fits the network, in place, to the labelled samples of a source within a budget,
            where the protocol is ``finetune`` and the arm has a way of its own to do so.
        fitted: Makes the network that is fitted to labelled volumes, where that is another than
            the one that answers without them.
    """

    make: Callable[[int], nn.Module]
    answers: bool = True
    drawn: bool = False
    learn: protocols.Learn | None = None
    fitted: Callable[[int], nn.Module] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Contest:
    """What is compared.

    Attributes:
        source: Volumes (or images) with labels or masks.
        arms: By name; the first is compared with each other one.
        budget: Of training on the labelled volumes; its seed is that of the first trial.
        folds: Of a cross-validation over all samples; 0 for the source's own split.
        warm: Whether BatchNorm is recalibrated on the unlabelled training samples first.
        keep: Folder where masks of the first test volumes are kept for the report; None for none.
        features: Where features are kept, from run to run and for runs that go on; None for
            nowhere.
        model: Name of the network, with its arguments.
        notes: What a reader of the report must know of the arms and the source.
    """

    source: Source
    arms: Mapping[str, Arm]
    budget: TrainConfig
    folds: int = 0
    warm: bool = True
    keep: Path | None = None
    features: DiskCache | None = None
    model: str = ""
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        arm: Its name.
        protocol: See `crossd.evaluation.protocols.apply`.
        limit: Labelled volumes; 0 where none is used.
        fold: Number of the fold.
        trial: Number of the trial.
    """

    arm: str
    protocol: str
    limit: int
    fold: int
    trial: int

    @property
    def file(self) -> str:
        """Where its record is kept."""
        return f"run-{self}.json"

    @property
    def masks(self) -> str:
        """Where masks that it made are kept."""
        return f"answer-{self}.npz"

    def __str__(self) -> str:
        """Name it."""
        return f"{self.protocol}-{self.limit}-{self.fold}-{self.trial}-{self.arm}"


class RunRecord(TypedDict):
    """What a run gave, as JSON holds it.

    Attributes:
        arm: As of `Run`, like those up to `trial`.
        metrics: Scores on the test samples.
        confusion: Test samples by true and by answered class, where they have one of several.
        cases: The score of every test sample; None where it has none. Without any for findings and
            numbers, whose scores are not means over samples.
        said: Of findings and numbers, what was answered to every test sample.
        train: Samples that were learnt from.
        test: Samples that were scored.
        history: Of training.
    """

    arm: str
    protocol: str
    limit: int
    fold: int
    trial: int
    metrics: dict[str, float]
    confusion: NotRequired[list[list[int]]]
    cases: list[float | None]
    said: NotRequired[list[list[float]]]
    train: int
    test: int
    precision: str
    parameters: int
    history: list[Epoch]
    seconds: float


def plan(contest: Contest, names: Sequence[str], limits: Sequence[int], trials: int) -> list[Run]:
    """List the runs, arm by arm and trial by trial, so that few networks are made anew.

    Without labelled volumes only arms that can answer are run, once a fold if nothing is drawn.
    """
    runs = []
    for arm, one in contest.arms.items():
        for fold, trial, name in itertools.product(
            range(max(1, contest.folds)), range(trials), names
        ):
            if name not in FREE:
                runs += [Run(arm, name, n, fold, trial) for n in limits]
            elif one.answers and (one.drawn or trial == 0):
                runs.append(Run(arm, name, 0, fold, trial))
    return runs


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
    return dataclasses.replace(source, train=parts[0], val=parts[1], test=parts[2])


@functools.lru_cache(maxsize=2)
def _start(contest: Contest, arm: str, fold: int, seed: int, fitted: bool) -> nn.Module:
    """Make an arm's network, its BatchNorm recalibrated like every arm's."""
    devices.seed_everything(seed)
    one = contest.arms[arm]
    net = one.fitted(seed) if fitted and one.fitted is not None else one.make(seed)
    if contest.warm:
        validate.recalibrate(net, part(contest, fold).train, contest.budget)
    return net


def perform(contest: Contest, run: Run, progress: Progress | None = None) -> RunRecord:
    """Do one run; returns its record."""
    start = time.perf_counter()
    seed = contest.budget.seed + run.trial
    arm = contest.arms[run.arm]
    fitted = arm.fitted is not None and run.protocol not in FREE
    net = _start(contest, run.arm, run.fold, seed if arm.drawn else contest.budget.seed, fitted)
    source = part(contest, run.fold)
    if run.limit:
        source = limit(source, run.limit, seed)
    budget = dataclasses.replace(contest.budget, seed=seed)
    name = f"{run.protocol}, {run.arm}"
    kept = None if arm.drawn else _kept(contest, run.arm)
    outcome = protocols.apply(run.protocol, net, source, budget, progress, name, arm.learn, kept)
    record: RunRecord = {
        "arm": run.arm,
        "protocol": run.protocol,
        "limit": run.limit,
        "fold": run.fold,
        "trial": run.trial,
        "metrics": outcome.scores,
        "cases": [],
        "train": len(source.train),
        "test": len(source.test),
        "precision": budget.precision,
        "parameters": sum(p.numel() for p in net.parameters()),
        "history": outcome.history,
        "seconds": round(time.perf_counter() - start, 2),
    }
    task = task_of(source.task)
    if task.masks:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Mean of empty slice")  # neither in truth nor answer
            cases = np.nanmean(outcome.outputs[0].numpy(), 1)
        record["cases"] = [None if np.isnan(one) else round(float(one), 4) for one in cases]
        if contest.keep is not None and run.fold == run.trial == 0:
            _keep_masks(contest, run, outcome.net, budget)
    elif task.kind == "one":
        probabilities, truth = outcome.outputs
        record["cases"] = (probabilities.argmax(1) == truth).double().tolist()
        record["confusion"] = metrics.confusion(probabilities, truth).tolist()
    else:
        record["said"] = [[float(f"{v:.5g}") for v in row] for row in outcome.outputs[0].tolist()]
    return record


def _kept(contest: Contest, arm: str) -> Kept | None:
    store = contest.features
    return None if store is None else Kept(store, arm, contest.model)


def extract(contest: Contest, run: Run, progress: Progress) -> None:
    """Compute the features of all samples of a run's fold, for every run of its arm to find."""
    arm, budget = contest.arms[run.arm], contest.budget
    net = _start(contest, run.arm, run.fold, budget.seed, arm.fitted is not None)
    source = part(contest, run.fold)
    whole = Joined((source.train, source.val, source.test))
    features(net, whole, len(source.classes), budget, _kept(contest, run.arm), progress)


def _keep_masks(contest: Contest, run: Run, net: nn.Module, budget: TrainConfig) -> None:
    """Write what a network says of the first test volumes, for the report."""
    assert contest.keep is not None
    test = part(contest, run.fold).test
    first = Subset(test, np.arange(min(SHOWN, len(test))))
    found = validate.answers(net, first, dataclasses.replace(budget, batch_size=1), "segmentation")
    masks = [classes[0].to(torch.uint8).cpu().numpy() for classes, _ in found]
    with atomic(contest.keep / run.masks) as temporary:
        np.savez_compressed(temporary, *masks)


def masks_of(run: Run, folder: Path) -> list[NDArray[np.uint8]]:
    """Read what an arm said of the first test volumes; nothing where that was not kept."""
    path = folder / run.masks
    if not path.is_file():
        return []
    with np.load(path) as kept:
        return [kept[name] for name in kept.files]


def _asked(contest: Contest, runs: Iterable[Run]) -> list[Run]:
    """List a run of every arm and fold that asks for features which others ask for too."""
    found: dict[tuple[str, int], Run] = {}
    for run in runs:
        if run.protocol in protocols.ON_FEATURES and not contest.arms[run.arm].drawn:
            found.setdefault((run.arm, run.fold), run)
    return list(found.values())


def contest_all(
    make: Callable[[], Contest],
    runs: Iterable[Run],
    folder: Path | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
    contest: Contest | None = None,
) -> list[RunRecord]:
    """Do runs that have no record yet, and return the records of all.

    Args:
        make: Makes the contest; with several processes each calls it, so it must be picklable.
        runs: See `plan`.
        folder: Where records are kept and looked for; None keeps none.
        jobs: Processes, one thread each; 1 works in this one.
        progress: Where to show how far it is.
        contest: What `make` gives, where it is at hand already.

    Raises:
        InputError: Of a run that could not be done.
    """
    runs = list(runs)
    done: dict[Run, RunRecord] = {}
    for run in runs:
        if folder is not None and (folder / run.file).is_file():
            done[run] = json.loads((folder / run.file).read_text())
    progress = progress or Progress(quiet=True)
    todo = [run for run in runs if run not in done]
    if contest is not None and contest.features is not None:
        list(spread(make, extract, _asked(contest, todo), jobs, progress, contest))
    with progress.task("comparing", total=len(runs), done=len(done)) as bar:
        for run, record in spread(make, perform, todo, jobs, progress, contest):
            if folder is not None:
                with atomic(folder / run.file) as temporary:
                    temporary.write_text(json.dumps(record))
            done[run] = record
            bar.advance(1)
    return [done[run] for run in runs]
