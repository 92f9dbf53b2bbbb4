"""A long training holds no more memory and no more open files at its end than at its start.

`make soak` runs it for half an hour; CROSSD_SOAK_MINUTES chooses another time.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from files import shaded

from crossd.utils.run_folder import CHECKPOINT, LOG, STATUS

MINUTES = float(os.environ.get("CROSSD_SOAK_MINUTES", "0"))
EVERY = 2.0
"""Seconds between two looks."""

GROWTH = {"rss": 0.02, "children": 0.05}
"""How much more memory there may be after the warm-up, a quarter of the time. A child lives for an
epoch, and what it has to itself, 52 MB, hangs on when the look falls: in 4 minutes of each task the
medians moved by -0.9, +0.2 and +2.1 %, those of the training itself by less than 0.1 %."""

MAIN = """
import sys
from crossd.cli.command_line import main
from crossd.training import loop
loop.VALIDATIONS = 10**9  # after every epoch
sys.exit(main())
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MINUTES, reason="takes as long as CROSSD_SOAK_MINUTES says"),
]


def look(process: psutil.Process) -> dict[str, float]:
    """Measure a process, and what the largest of its children has to itself.

    What the process has to itself tells nothing: while a child lives, most is shared with it. Open
    files are counted without the memory of batches on their way from a child, three or so at each
    of its batches, which tell when the look fell and not what is left open.
    """
    found = {"rss": process.memory_info().rss, "files": files_of(process), "children": 0.0}
    for child in process.children(recursive=True):
        try:
            found["children"] = max(found["children"], child.memory_full_info().uss)
        except psutil.Error:  # it ended meanwhile
            continue
    return found


def files_of(process: psutil.Process) -> int:
    """Count the open files of a process but for the shared memory of torch."""
    count = 0
    for number in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            count += not str(number.readlink()).startswith("/dev/shm/torch_")
    return count


@pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
def test_memory_and_open_files_stay(tmp_path: Path, task: str) -> None:
    data = shaded(tmp_path / "images.npz", 240, 16, task)
    out = tmp_path / "out"
    command = [sys.executable, "-c", MAIN, "pretrain", "--data", data, "--out", str(out)]
    how = ["--epochs", "100000", "--batch-size", "16", "--workers", "1"]
    how += ["--checkpoint-minutes", "0.01", "--augment", "full", "--loggers", "csv,tensorboard"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    looks: list[dict[str, float]] = []
    with subprocess.Popen([*command, *how], env=env, stderr=subprocess.PIPE, text=True) as run:
        watched = psutil.Process(run.pid)
        end = None
        while end is None or time.monotonic() < end:
            with pytest.raises(subprocess.TimeoutExpired):
                run.wait(EVERY)
            if end is None and (out / CHECKPOINT).is_file():
                end = time.monotonic() + 60 * MINUTES
            if end is not None:
                looks.append(look(watched))
        run.terminate()
        said = run.communicate()[1]
    assert run.returncode == 143, said
    warm = looks[len(looks) // 4 :]
    third = len(warm) // 3
    told: dict[str, Any] = {"minutes": MINUTES, "looks": len(looks)}
    state = json.loads((out / STATUS).read_text())
    told["epochs"] = state["done"] * state["epochs"] // state["batches"]
    told["log [bytes]"] = (out / LOG).stat().st_size
    told["status [bytes]"] = (out / STATUS).stat().st_size
    # The median: a look may fall on a file that is open for a moment, as of a checkpoint.
    for name in warm[0]:
        parts = (warm[:third], warm[-third:])
        told[name] = [statistics.median([one[name] for one in part]) for part in parts]
    print(json.dumps(told))
    for name, growth in GROWTH.items():
        before, after = told[name]
        assert after <= (1 + growth) * before, told
    before, after = told["files"]
    assert after <= before, told
