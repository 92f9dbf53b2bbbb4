"""Fill a small disk while trainings write to it, at one place after the other.

Run by `test_full_disk.py` in a process that owns the disk. What each training said when the disk
was full, and whether it went on when there was room again, is printed as JSON, a line a place.
"""

import contextlib
import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from files import shaded
from safetensors.torch import load_file
from torch.utils.tensorboard import summary

from crossd.cli.command_line import main
from crossd.reports import markdown
from crossd.training import checkpoints, loggers, validate
from crossd.utils.run_folder import CHECKPOINT, EARLIER_CHECKPOINT, RESULT
from crossd.weights import weights_file

PLACES: dict[str, tuple[Any, str, int]] = {
    # What is called when the disk has just become full, and the how manieth time.
    "checkpoint": (checkpoints, "keep", 3),
    "log": (csv.DictWriter, "writeheader", 1),
    "tensorboard": (summary, "scalar", 5),
    "status": (loggers.TrainingLog, "_write", 12),
    "best weights": (weights_file, "serialise", 2),
    "last weights": (validate, "score", 1),
    "report": (markdown, "training", 1),
    "result": (markdown, "plain", 2),
}


def fill(disk: Path) -> None:
    """Write until nothing more fits."""
    with (disk / "ballast").open("ab", buffering=0) as file:
        for size in (2**16, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size):
                    pass


@contextlib.contextmanager
def filling(disk: Path, owner: Any, name: str, times: int) -> Iterator[None]:
    """Let a function fill the disk before it does its work, when it is called so many times."""
    real, left = getattr(owner, name), times

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            fill(disk)
        return real(*args, **kwargs)

    setattr(owner, name, call)
    try:
        yield
    finally:
        setattr(owner, name, real)


def run(data: str, out: Path, *more: str) -> tuple[int, list[str]]:
    """Train; returns the exit code and what was said of errors."""
    how = ["--epochs", "4", "--batch-size", "8", "--seed", "1", *more]
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = main(["pretrain", "--data", data, "--out", str(out), *how])
    return code, [line for line in said.getvalue().splitlines() if "training" not in line]


def same(one: Path, two: Path) -> bool:
    """Tell whether two runs ended with the same weights and scores."""
    first, second = (load_file(folder / "weights.safetensors") for folder in (one, two))
    told, again = (json.loads((folder / RESULT).read_text()) for folder in (one, two))
    equal = all(torch.equal(value, second[name]) for name, value in first.items())
    return equal and all(told[name] == again[name] for name in ("metrics", "history"))


def tell(place: str, disk: Path, data: str, whole: Path, code: int, said: list[str]) -> None:
    """Print what became of a run whose disk was full, and of its continuation with room."""
    out = disk / "out"
    kept = [n for n in (CHECKPOINT, EARLIER_CHECKPOINT) if (out / n).is_file()]
    whole_ones = [not checkpoints.fault(out / name) for name in kept]
    strays = [path.name for path in out.iterdir() if path.name.startswith(".")]
    (disk / "ballast").unlink(missing_ok=True)
    resumed, complaints = run(data, out, "--resume" if kept else "--overwrite")
    told = {"place": place, "code": code, "said": said, "whole": whole_ones, "strays": strays}
    told |= {"resumed": resumed, "complaints": complaints, "same": same(whole, out)}
    print(json.dumps(told), flush=True)


def every_place(disk: Path, elsewhere: Path) -> None:
    """Let checkpoints alone fill the disk; then, on a larger one, fill it at every place."""
    data = shaded(elsewhere / "images.npz", 60, 16)
    loggers.EVERY, loggers.PULSE = 2, 0.0
    whole = elsewhere / "whole"
    run(data, whole)
    code, said = run(data, disk / "out")  # two checkpoints of 8 MB fit, and no third beside them
    subprocess.run(["mount", "-o", "remount,size=60m", str(disk)], check=True)
    tell("small", disk, data, whole, code, said)
    for place, (owner, name, times) in PLACES.items():
        with filling(disk, owner, name, times):
            code, said = run(data, disk / "out", "--overwrite")
        tell(place, disk, data, whole, code, said)


if __name__ == "__main__":
    every_place(Path(sys.argv[1]), Path(sys.argv[2]))
