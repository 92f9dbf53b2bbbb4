"""Work in several processes: what it gives, what is shown of it, and what becomes of a dead one."""

import os
from typing import Any

import pytest
import torch

from crossd.errors import InputError
from crossd.evaluation.jobs import count, spread
from crossd.utils.progress import Progress


def made() -> int:
    return 10


def work(made: int, one: int, progress: Progress) -> Any:
    progress.say(f"begins {one}")
    with progress.task(f"task {one}", total=2) as bar:
        bar.advance(4, loss=torch.tensor(0.5))
        bar.advance(4, loss=torch.tensor(0.25))
    if one == 13:
        os._exit(1)
    if one == 14:
        raise InputError("fourteen is wrong")
    return made + one, torch.get_num_threads()


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_everything_is_done_and_shown(jobs: int, capfd: pytest.CaptureFixture[str]) -> None:
    before = os.environ.get("OMP_NUM_THREADS")
    progress = Progress()
    with progress.task("all", total=3) as bar:
        found = {}
        for one, (value, threads) in spread(made, work, [1, 2, 3], jobs, progress):
            found[one] = value
            assert jobs == 1 or threads == 1
            bar.advance(1)
    assert found == {1: 11, 2: 12, 3: 13}
    assert os.environ.get("OMP_NUM_THREADS") == before
    shown = capfd.readouterr().err
    assert all(f"begins {one}" in shown for one in found)
    assert all(f"task {one}: loss 0.250 in" in shown for one in found) and "all: " in shown


def test_what_is_at_hand_is_used() -> None:
    assert dict(spread(made, work, [1], 2, Progress(quiet=True), ready=5))[1][0] == 6


@pytest.mark.slow
def test_a_process_that_dies_is_named_and_errors_arrive() -> None:
    with pytest.raises(InputError, match=r"a process was ended at 1[23], .* --resume"):
        list(spread(made, work, [12, 13], 2, Progress(quiet=True)))
    with pytest.raises(InputError, match="fourteen is wrong"):
        list(spread(made, work, [1, 14], 2, Progress(quiet=True)))


def test_the_number_of_processes() -> None:
    assert count(3) == 3 and count(0) == count(None)
    assert count(None) == (1 if torch.accelerator.is_available() else os.cpu_count())
