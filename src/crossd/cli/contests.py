"""Comparisons of arms, for every command that has one: making the arms, and doing all runs."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from crossd.cli.options import EvaluateConfig, TransferConfig
from crossd.conversion import heads, registry
from crossd.data.disk_cache import DiskCache, option_cache
from crossd.data.source import Source
from crossd.errors import InputError
from crossd.evaluation import experiment, summary, ways
from crossd.evaluation.arms import ARMS, Make
from crossd.evaluation.experiment import Arm, Contest, Run
from crossd.reports import comparison_results, markdown
from crossd.tasks import task_of
from crossd.training import devices, teach
from crossd.utils.option_values import choice
from crossd.utils.progress import Progress
from crossd.utils.run_folder import LEFTOVERS, remove


def arm(
    name: str,
    source: Source,
    model: str,
    known: tuple[str, ...],
    load: Callable[[str], nn.Module],
) -> Arm:
    """Make one of the `ARMS`.

    Args:
        name: Its name.
        source: What it is compared on.
        model: Name of the network, for an arm that starts anew.
        known: Classes of pretrained networks.
        load: From the name of a pretraining to a network of it that may be changed.
    """
    pretraining, asked = ARMS[name]
    if pretraining is not None:
        return pretrained(lambda: load(pretraining), asked, known, source.classes)

    def fresh(seed: int) -> nn.Module:
        devices.seed_everything(seed)
        return registry.build(model, source.task, source.channels, len(source.classes))

    return Arm(fresh, answers=False, drawn=True, asked=asked)


def pretrained(
    make: Callable[[], nn.Module],
    asked: Mapping[str, Make],
    known: tuple[str, ...],
    classes: tuple[str, ...],
) -> Arm:
    """Make an arm of networks that know classes, with a new head where it is compared on others."""

    def ready(seed: int) -> nn.Module:
        net = make()
        if classes != known:
            devices.seed_everything(seed)
            heads.new_classifier(net, len(known), len(classes))
        return net

    return Arm(ready, answers=classes == known, asked=asked, learns=True)


TEACH = ("choose", "always", "never")


def teaching(given: str, task: str) -> dict[str, Any]:
    """Say how a contest teaches its arms, as ``--teach`` asks for."""
    choice(given, TEACH, "--teach")
    if given == "never":
        return {}
    return {"teaching": teach.budget(task), "always": given == "always"}


def kept_in(config: TransferConfig | EvaluateConfig) -> DiskCache:
    """Say where features are kept: in ``--cache``, or in the folder of the run until it ends."""
    return option_cache(config.cache, config.cache_gb) or DiskCache(Path(config.out))


def require_limits(source: Source, limits: Sequence[int], given: str | None) -> None:
    """Refuse numbers of labelled samples, ascending, that a source does not have.

    Raises:
        InputError: "--limit ...", with what was given.
    """
    total = len(source.train)
    classes = len(source.classes) if source.task == "classification" else 1
    if not classes <= limits[0] <= limits[-1] <= total:
        each = f" of {classes} classes, each of which needs one" if classes > 1 else ""
        raise InputError(
            f"--limit {given or limits[0]}: {source.name} has {total} training samples{each}"
        )


def compare(
    contest: Contest,
    make: Callable[[], Contest],
    runs: Sequence[Run],
    jobs: int,
    progress: Progress,
    start: float,
    config: TransferConfig | EvaluateConfig,
    use: Callable[[Mapping[str, Any]], list[str]] | None = None,
    **more: object,
) -> str:
    """Do the runs of a comparison that are not done yet, and write its record, report and plots.

    Args:
        contest: What is compared.
        make: Makes the same in other processes.
        runs: See `crossd.evaluation.experiment.plan`.
        jobs: Processes that work at a time.
        progress: Where to show how far it is.
        start: When the command began, by `time.perf_counter` [s].
        config: The options of the command, with a folder that was claimed.
        use: Gives the commands that make and use what an arm was in a run without labels.
        **more: What the command adds to the record: ``data``, ``notes`` and its own.
    """
    folder, source = Path(config.out), contest.source
    if contest.teaching is not None and not any(map(ways.can_learn, contest.arms.values())):
        progress.say(
            "no arm is taught: none has 3D kernels and knows the classes before it has seen "
            "labelled volumes"
        )
    rows = experiment.contest_all(make, runs, folder, jobs, progress, contest)
    task, truth = task_of(source.task), source.test.labels
    if truth is not None and task.kind != "one" and not contest.folds:
        known = [[None if np.isnan(v) else float(v) for v in row] for row in truth]
        more |= {"truth": known, "units": list(source.units)}
    results = markdown.record(
        config,
        start,
        **more,
        task=source.task,
        classes=list(source.classes),
        metric=task.main,
        arms=list(contest.arms),
        folds=contest.folds,
        trials=config.trials,
        cases=[source.test.case(i) for i in range(len(source.test))],
        rows=rows,
    )
    best = summary.taken(results, ("zero", 0))
    if use is not None and best is not None:
        results = {**results, "use": use(summary.runs(results, ("zero", 0), best)[0])}
    comparison_results.write(results, folder, source)
    remove(folder, LEFTOVERS)
    return comparison_results.printed(results, folder)
