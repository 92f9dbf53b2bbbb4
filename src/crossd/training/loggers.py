"""What a training says of itself while it runs: a log, and a status that others can read."""

import csv
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypedDict

from crossd.errors import InputError
from crossd.training.signals import Stopped
from crossd.utils.atomic_files import atomic, naming
from crossd.utils.run_folder import LOG, STATUS

COLUMNS = ("batch", "epoch", "loss", "lr", "samples_per_second", "data_wait", "memory_gib")
EVERY = 20
"""Batches between two lines of the log."""

RECENT = 10
"""Epochs whose records the status holds; a checkpoint and the result hold all."""

PULSE = 5.0
"""Seconds between two writings of the status."""


Write = Callable[[int, Mapping[str, float]], None]
"""Logs values after so many batches."""


class Epoch(TypedDict, total=False):
    """The record of an epoch; of two sources, the second has its loss under its rank."""

    epoch: int
    loss: float
    loss_2d: float
    loss_3d: float
    val: dict[str, float]


@contextmanager
def _csv(folder: Path, done: int) -> Iterator[Write]:
    path = folder / LOG
    rows: list[dict[str, str]] = []
    if done and path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if _is_of(row, done)]
    with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)

    def write(batch: int, values: Mapping[str, float]) -> None:
        with naming(path), path.open("a", newline="", encoding="utf-8") as file:
            row = {name: f"{values[name]:.6g}" for name in COLUMNS if name in values}
            csv.DictWriter(file, COLUMNS).writerow({"batch": batch, **row})

    yield write


def _is_of(row: Mapping[str, str | None], done: int) -> bool:
    """Tell whether a row is of the batches that are done; one that a full disk cut is not."""
    return None not in row.values() and int(row["batch"] or 0) <= done


@contextmanager
def _tensorboard(folder: Path, done: int) -> Iterator[Write]:
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog
    from tensorboard.summary.writer.record_writer import RecordWriter
    from torch.utils.tensorboard.summary import scalar

    # Not by SummaryWriter, whose thread would meet the errors of a full disk instead of us.
    number = len(list(folder.glob("tensorboard/events.*")))
    name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}.{number}"
    path = folder / "tensorboard" / name
    path.parent.mkdir(exist_ok=True)
    records = RecordWriter(path.open("ab"))

    def put(**content: object) -> None:
        records.write(Event(wall_time=time.time(), **content).SerializeToString())

    def write(batch: int, values: Mapping[str, float]) -> None:
        with naming(path):
            for name, value in values.items():
                put(step=batch, summary=scalar(name, value))
            records.flush()

    put(file_version="brain.Event:2")
    if done:  # what an interrupted run logged after this is hidden
        put(step=done, session_log=SessionLog(status=SessionLog.START))
    try:
        yield write
    finally:
        with naming(path):
            records.close()


@contextmanager
def _wandb(folder: Path, done: int) -> Iterator[Write]:
    import wandb

    with wandb.init(project="crossd", name=folder.name, dir=str(folder), resume="allow") as run:
        yield lambda batch, values: run.log(dict(values), step=batch)


@contextmanager
def _mlflow(folder: Path, done: int) -> Iterator[Write]:
    import mlflow

    with mlflow.start_run(run_name=folder.name):
        yield lambda batch, values: mlflow.log_metrics(dict(values), step=batch)


LOGS: dict[str, Callable[[Path, int], AbstractContextManager[Write]]] = {
    "csv": _csv,
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
}
"""By the names of `crossd.utils.option_values.LOGGERS`: each opens a log in a folder.

What an interrupted run logged after the batches that were done before, the second argument, is
removed.
"""


class TrainingLog:
    """Keeps the logs and the status of a training in a folder; without one, neither.

    It has so many epochs of so many batches, of which some were done before.
    """

    def __init__(
        self, folder: Path | None, loggers: Sequence[str], epochs: int, batches: int, done: int
    ) -> None:
        self.folder = folder
        self.loggers = loggers
        self.writers: list[Write] = []
        self.epochs, self.batches = epochs, batches
        self.start, self.before = time.time(), done
        self.seen = 0
        self._samples, self._waited, self._since = 0, 0.0, time.perf_counter()
        self._pulse = 0.0
        self.history: list[Epoch] = []
        self.state: dict[str, object] = {
            "state": "running",
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started": self.start,
            "epochs": epochs,
            "batches": epochs * batches,
            "done": done,
        }

    def step(
        self,
        epoch: int,
        batches: int,
        samples: int,
        waited: float,
        losses: Sequence[tuple[int, float]],
        lr: float,
    ) -> None:
        """Note a step.

        Args:
            epoch: Epochs that are done.
            batches: Of the step.
            samples: Of the step.
            waited: For the samples [s].
            losses: Of the epoch so far, each with the number of its source; the last are logged.
            lr: Learning rate.
        """
        self.seen += batches
        self._samples += samples
        self._waited += waited
        if self.folder is None:
            return
        now = time.perf_counter()
        if self.seen // EVERY > (self.seen - batches) // EVERY:
            seconds = max(now - self._since, 1e-9)
            recent = [loss for _, loss in losses[-EVERY:]]
            values = {
                "epoch": epoch + 1,
                "lr": lr,
                "samples_per_second": self._samples / seconds,
                "data_wait": min(1.0, self._waited / seconds),
                "memory_gib": _memory(),
                **({"loss": sum(recent) / len(recent)} if recent else {}),
            }
            self._log(values)
            self.state.update(values)
            self._samples, self._waited, self._since = 0, 0.0, now
        if now - self._pulse > PULSE:
            self._pulse = now
            self._write()

    def epoch(self, record: Epoch) -> None:
        """Note the record of an epoch."""
        scores = {f"val_{name}": value for name, value in record.get("val", {}).items()}
        self.history = [*self.history, record][-RECENT:]
        self.state["history"] = self.history
        if scores:
            self._log(scores)
        self._write()

    def _open(self, stack: ExitStack, folder: Path) -> None:
        for name in self.loggers:
            try:
                self.writers.append(stack.enter_context(LOGS[name](folder, self.before)))
            except ImportError as error:
                raise InputError(f"--loggers {name} needs pip install {name}") from error

    def _log(self, values: Mapping[str, float]) -> None:
        for writer in self.writers:
            writer(self.before + self.seen, values)

    def _write(self, state: str | None = None) -> None:
        if self.folder is None:
            return
        done = self.before + self.seen
        seconds = time.time() - self.start
        left = (self.epochs * self.batches - done) * seconds / max(1, self.seen)
        self.state.update(updated=time.time(), done=done, seconds_left=left)
        self.state["state"] = state or self.state["state"]
        with atomic(self.folder / STATUS) as temporary:
            temporary.write_text(json.dumps(self.state))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Write down how the block ended."""
        try:
            with ExitStack() as stack:
                if self.folder is not None:
                    self._open(stack, self.folder)
                self._write()
                yield
        except Stopped:
            self._write("stopped")
            raise
        except KeyboardInterrupt:
            self._write("interrupted")
            raise
        except Exception as error:
            self.state["error"] = " ".join(str(error).split())
            with suppress(OSError):  # the disk may be full
                self._write("failed")
            raise
        self._write("ended")


def _memory() -> float:
    """Return the memory that the process and its device hold [GiB]."""
    import psutil
    import torch

    held = psutil.Process().memory_info().rss
    if torch.cuda.is_available():
        held += torch.cuda.max_memory_allocated()
    return float(held) / 2**30
