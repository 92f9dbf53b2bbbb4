"""Arms against each other, again and again: folds, trials, protocols, numbers of labelled volumes.

A run is one arm under one protocol on one choice of labelled volumes. Each is written to a file of
its own when it ends, so that an interrupted comparison goes on, and runs are spread over processes.
All arms of a repetition see the same labelled volumes, seeds, augmentation and budget; each may be
used in several ways, of which the validation samples choose one (see `crossd.evaluation.ways`).
"""

import functools
import itertools
import json
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from crossd.data.dataset import Subset
from crossd.data.source import limit
from crossd.evaluation import protocols, ways
from crossd.evaluation.contest import Arm, Contest, part
from crossd.evaluation.jobs import spread
from crossd.evaluation.ways import Place
from crossd.tasks import task_of
from crossd.training import metrics, validate
from crossd.training.loggers import Epoch
from crossd.training.loop import TrainConfig
from crossd.utils.atomic_files import atomic
from crossd.utils.progress import Progress

__all__ = ["Arm", "Contest", "Run", "RunRecord", "contest_all", "part", "perform", "plan"]

FREE = ("zero",)
"""Protocols that need no labelled volume."""

SHOWN = 3
"""Test volumes whose masks are kept."""


@dataclass(frozen=True)
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
        way: In which the arm was used, see `crossd.evaluation.ways`.
        teacher: BatchNorm of what taught the arm, where it was taught.
        considered: What each way is worth on the validation samples; empty where there is one.
        metrics: Scores on the test samples.
        confusion: Test samples by true and by answered class, where they have one of several.
        cases: The share of every test sample in the score; None where it has none. Without any for
            findings and numbers, whose scores are not means over samples.
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
    way: str
    teacher: NotRequired[str]
    considered: dict[str, float | None]
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


def perform(contest: Contest, run: Run, progress: Progress | None = None) -> RunRecord:
    """Do one run; returns its record."""
    start = time.perf_counter()
    seed = contest.budget.seed + run.trial
    arm = contest.arms[run.arm]
    source = part(contest, run.fold)
    if run.limit:
        source = limit(source, run.limit, seed)
    budget = replace(contest.budget, seed=seed)
    place = Place(run.arm, run.fold, seed if arm.drawn else contest.budget.seed)
    way, considered = ways.choose(contest, place, run.protocol, source, budget, progress)
    net = ways.network(contest, place, way, progress)
    name = f"{run.protocol}, {run.arm}"
    kept = ways.kept(contest, place, way)
    outcome = protocols.apply(run.protocol, net, source, budget, progress, name, arm.learn, kept)
    record: RunRecord = {
        "arm": run.arm,
        "protocol": run.protocol,
        "limit": run.limit,
        "fold": run.fold,
        "trial": run.trial,
        "way": str(way),
        "considered": considered,
        "metrics": outcome.scores,
        "cases": [],
        "train": len(source.train),
        "test": len(source.test),
        "precision": budget.precision,
        "parameters": sum(p.numel() for p in net.parameters()),
        "history": outcome.history,
        "seconds": round(time.perf_counter() - start, 2),
    }
    if way.taught:
        record["teacher"] = ways.taught_by(contest, place)
    task = task_of(source.task)
    if task.masks:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Mean of empty slice")  # neither in truth nor answer
            record["cases"] = _rounded(np.nanmean(outcome.outputs[0].numpy(), 1))
        if contest.keep is not None and run.fold == run.trial == 0:
            _keep_masks(contest, run, outcome.net, budget)
    elif task.kind == "one":
        probabilities, truth = outcome.outputs
        record["cases"] = _rounded(metrics.area_by_case(probabilities, truth))
        record["confusion"] = metrics.confusion(probabilities, truth).tolist()
    else:
        record["said"] = [[float(f"{v:.5g}") for v in row] for row in outcome.outputs[0].tolist()]
    return record


def _rounded(values: NDArray[np.float64]) -> list[float | None]:
    return [None if np.isnan(one) else round(float(one), 4) for one in values]


def _keep_masks(contest: Contest, run: Run, net: nn.Module, budget: TrainConfig) -> None:
    """Write what a network says of the first test volumes, for the report."""
    assert contest.keep is not None
    test = part(contest, run.fold).test
    first = Subset(test, np.arange(min(SHOWN, len(test))))
    found = validate.answers(net, first, replace(budget, batch_size=1), "segmentation")
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


def contest_all(
    make: Callable[[], Contest],
    runs: Iterable[Run],
    folder: Path | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
    contest: Contest | None = None,
) -> list[RunRecord]:
    """Do runs that have no record yet, and return the records of all.

    A process does all runs of an arm, a fold and a trial, which share networks, and what these were
    taught.

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
    together: dict[tuple[str, int, int], Runs] = {}
    for run in runs:
        if run not in done:
            together.setdefault((run.arm, run.fold, run.trial), Runs()).append(run)
    progress = progress or Progress(quiet=True)
    work = functools.partial(_perform_all, folder)
    with progress.task("comparing", total=len(runs), done=len(done)) as bar:
        for some, records in spread(make, work, [*together.values()], jobs, progress, contest):
            done |= zip(some, records, strict=True)
            bar.advance(len(some))
    return [done[run] for run in runs]


class Runs(list[Run]):
    """Runs that one process does, one after the other."""

    def __str__(self) -> str:
        """Name them, in messages."""
        return ", ".join(map(str, self))


def _perform_all(
    folder: Path | None, contest: Contest, runs: Runs, progress: Progress
) -> list[RunRecord]:
    """Do runs one after the other, and keep the record of each when it ends."""
    records = []
    for run in runs:
        records.append(perform(contest, run, progress))
        if folder is not None:
            with atomic(folder / run.file) as temporary:
                temporary.write_text(json.dumps(records[-1]))
    return records
