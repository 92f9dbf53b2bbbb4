"""Arms against each other, again and again: folds, trials, protocols, numbers of labelled volumes.

A run is one arm under one protocol on one choice of labelled volumes. Each is written to a file of
its own when it ends, so that an interrupted comparison goes on, and runs are spread over processes.
All arms of a repetition see the same labelled volumes, seeds, augmentation and budget, and have
BatchNorm recalibrated on the same unlabelled training volumes.
"""

import concurrent.futures
import dataclasses
import functools
import itertools
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from crossd.data.dataset import Joined, Subset
from crossd.data.source import Source, limit
from crossd.errors import InputError
from crossd.evaluation import protocols
from crossd.training import devices, validate
from crossd.training.loop import TrainConfig
from crossd.utils.atomic_files import atomic
from crossd.utils.progress import Progress

FREE = ("zero",)
"""Protocols that need no labelled volume."""

VALIDATION = 8
"""One in so many training samples of a fold validates."""


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
    """

    source: Source
    arms: Mapping[str, Arm]
    budget: TrainConfig
    folds: int = 0
    warm: bool = True


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
        return f"run-{self.protocol}-{self.limit}-{self.fold}-{self.trial}-{self.arm}.json"


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
    """Return the source of one fold: stratified, groups whole; its own split without folds."""
    source = contest.source
    if not contest.folds:
        return source
    from sklearn.model_selection import StratifiedGroupKFold

    whole = Joined((source.train, source.val, source.test))
    count = len(whole)
    labels = np.zeros(count, np.int64) if whole.labels is None else whole.labels
    groups = np.arange(count) if whole.groups is None else whole.groups

    def cut(indices: NDArray[np.int64], folds: int, which: int) -> list[NDArray[np.int64]]:
        split = StratifiedGroupKFold(folds, shuffle=True, random_state=contest.budget.seed)
        pairs = list(split.split(indices, labels[indices], groups[indices]))
        return [indices[one] for one in pairs[which]]

    rest, test = cut(np.arange(count), contest.folds, fold)
    training, val = cut(rest, VALIDATION, 0)
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


def perform(contest: Contest, run: Run) -> dict[str, Any]:
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
    outcome = protocols.apply(run.protocol, net, source, budget, learn=arm.learn)
    if source.task == "classification":
        probabilities, truth = outcome.outputs
        cases = (probabilities.argmax(1) == truth).double().numpy()
    else:
        cases = np.nan_to_num(np.nanmean(outcome.outputs[0], 1))
    return {
        **dataclasses.asdict(run),
        "metrics": outcome.scores,
        "cases": [round(float(value), 4) for value in cases],
        "train": len(source.train),
        "test": len(source.test),
        "precision": budget.precision,
        "loss": [record["loss"] for record in outcome.history],
        "seconds": round(time.perf_counter() - start, 2),
    }


def contest_all(
    make: Callable[[], Contest],
    runs: Iterable[Run],
    folder: Path | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
    contest: Contest | None = None,
) -> list[dict[str, Any]]:
    """Do runs that have no record yet, and return the records of all.

    Args:
        make: Makes the contest; with several processes each calls it, so it must be picklable.
        runs: See `plan`.
        folder: Where records are kept and looked for; None keeps none.
        jobs: Processes, one thread each; 1 works in this one.
        progress: Where to show how far it is.
        contest: What `make` gives, where it is at hand already.

    Raises:
        InputError: Of a run that could not be done, naming it.
    """
    runs, done = list(runs), {}
    for run in runs:
        if folder is not None and (folder / run.file).is_file():
            done[run] = json.loads((folder / run.file).read_text())
    progress = progress or Progress(quiet=True)
    with progress.task("comparing", total=len(runs), done=len(done)) as bar:
        todo = [run for run in runs if run not in done]
        for run, record in _performed(make, todo, jobs, contest):
            if folder is not None:
                with atomic(folder / run.file) as temporary:
                    temporary.write_text(json.dumps(record))
            done[run] = record
            bar.advance(1)
    return [done[run] for run in runs]


def _performed(
    make: Callable[[], Contest], todo: Sequence[Run], jobs: int, contest: Contest | None
) -> Iterator[tuple[Run, dict[str, Any]]]:
    if not todo:
        return
    if jobs == 1 or len(todo) == 1:
        ready = contest or make()
        for run in todo:
            yield run, perform(ready, run)
        return
    context = multiprocessing.get_context("spawn")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that start now
    with concurrent.futures.ProcessPoolExecutor(
        min(jobs, len(todo)), context, _begin, (make,)
    ) as pool:
        try:
            yield from _collected(pool, todo)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _collected(pool: Executor, todo: Sequence[Run]) -> Iterator[tuple[Run, dict[str, Any]]]:
    futures = {pool.submit(_perform_here, run): run for run in todo}
    for future in concurrent.futures.as_completed(futures):
        run = futures[future]
        try:
            yield run, future.result()
        except concurrent.futures.process.BrokenProcessPool as error:
            raise InputError(
                f"a process that compares was ended at {run.file.removesuffix('.json')}, for want "
                "of memory perhaps: give fewer --jobs and --resume"
            ) from error


_CONTEST: Contest | None = None


def _begin(make: Callable[[], Contest]) -> None:
    global _CONTEST
    torch.set_num_threads(1)
    _CONTEST = make()


def _perform_here(run: Run) -> dict[str, Any]:
    assert _CONTEST is not None
    return perform(_CONTEST, run)
