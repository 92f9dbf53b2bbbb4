"""Work spread over processes of one thread each, or done in this one.

Two torch threads beside another busy process wait for each other most of the time; two processes
of one thread do not.
"""

import concurrent.futures
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import torch

from crossd.errors import InputError
from crossd.utils.progress import Progress, Relay, Told

Made = TypeVar("Made")
Thing = TypeVar("Thing")
Result = TypeVar("Result")


def count(wanted: int | None) -> int:
    """Choose how many processes work: as many as there are cores, or one beside an accelerator.

    Args:
        wanted: What the user asked for; None or 0 leaves it open.
    """
    if wanted:
        return wanted
    return 1 if torch.accelerator.is_available() else os.cpu_count() or 1


def spread(
    make: Callable[[], Made],
    work: Callable[[Made, Thing, Progress], Result],
    todo: Sequence[Thing],
    jobs: int,
    progress: Progress,
    ready: Made | None = None,
) -> Iterator[tuple[Thing, Result]]:
    """Do things, several at a time, and yield each with what came of it, as they end.

    Args:
        make: Makes what all of them need; each process calls it, so it must be picklable.
        work: Does one of them, called with what was made, the thing, and where to show it; a
            function of a module.
        todo: The things.
        jobs: Processes; 1 works in this one.
        progress: Where to show how far they are.
        ready: What `make` gives, where it is at hand already.

    Raises:
        InputError: "a process ..." when one was ended.
    """
    if not todo:
        return
    if jobs == 1 or len(todo) == 1:
        made = make() if ready is None else ready
        for one in todo:
            yield one, work(made, one, progress)
        return
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that start now
    pool = concurrent.futures.ProcessPoolExecutor(
        min(jobs, len(todo)), context, _begin, (make, queue)
    )
    try:
        with progress.relayed(queue):
            futures = {pool.submit(_do, work, one): one for one in todo}
            for future in concurrent.futures.as_completed(futures):
                try:
                    result = future.result()
                except BrokenProcessPool as error:
                    raise InputError(
                        f"a process was ended at {futures[future]}, for want of memory perhaps: "
                        "give fewer processes, and --resume"
                    ) from error
                yield futures[future], result
    except BaseException:
        _GIVEN_UP.append(queue)
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
    pool.shutdown()


_GIVEN_UP: list[Told] = []
"""Queues of work that was given up: a process that is still starting opens its own until exit."""

_MADE: object = None
_PROGRESS = Progress(quiet=True)


def _begin(make: Callable[[], object], queue: Told) -> None:
    global _MADE, _PROGRESS
    torch.set_num_threads(1)
    queue.cancel_join_thread()  # what is left to tell keeps no process from ending
    _PROGRESS = Relay(queue)
    _MADE = make()


def _do(work: Callable[[Any, Thing, Progress], Result], one: Thing) -> Result:
    return work(_MADE, one, _PROGRESS)
