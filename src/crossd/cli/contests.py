"""Running a comparison of arms, writing it down and printing it, for every command that has one."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from crossd.cli.options import EvaluateConfig, TransferConfig
from crossd.evaluation import experiment
from crossd.evaluation.experiment import Contest, Run
from crossd.reports import comparison_results, markdown
from crossd.training.metrics import MAIN
from crossd.utils.progress import Progress
from crossd.utils.run_folder import LEFTOVERS, remove


def compare(
    contest: Contest,
    make: Callable[[], Contest],
    runs: Sequence[Run],
    folder: Path,
    jobs: int,
    progress: Progress,
    start: float,
    config: TransferConfig | EvaluateConfig,
    more: Mapping[str, object],
) -> str:
    """Do the runs of a comparison that are not done yet, and write its record, report and plots.

    Args:
        contest: What is compared.
        make: Makes the same in other processes.
        runs: See `crossd.evaluation.experiment.plan`.
        folder: That was claimed for it.
        jobs: Processes that work at a time.
        progress: Where to show how far it is.
        start: When the command began, by `time.perf_counter` [s].
        config: The options of the command.
        more: What the command adds to the record: ``command``, ``data``, ``notes`` and its own.

    Returns:
        What to print.
    """
    rows = experiment.contest_all(make, runs, folder, jobs, progress, contest)
    source = contest.source
    results = {
        **more,
        "task": source.task,
        "classes": list(source.classes),
        "metric": MAIN[source.task],
        "arms": list(contest.arms),
        "folds": contest.folds,
        "trials": config.trials,
        "cases": [source.test.case(i) for i in range(len(source.test))],
        "rows": rows,
        "seconds": round(time.perf_counter() - start, 1),
        "config": dataclasses.asdict(config),
        "versions": markdown.versions(),
    }
    comparison_results.write(results, folder, source)
    remove(folder, LEFTOVERS)
    return comparison_results.printed(results, folder)
