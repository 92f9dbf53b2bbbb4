"""Progress bars with rates and time left, and plain lines where there is no terminal."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from queue import Empty
from typing import TYPE_CHECKING, Any, SupportsFloat, TypeAlias

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

Told: TypeAlias = "Queue[tuple[Any, ...]]"
"""What `Relay`s tell `Progress.relayed`: what to do, of which task, and with what."""

EVERY = 60.0
"""Seconds between lines where there is no terminal, as in the logs of a cluster."""

PATIENCE = 2.0
"""Seconds to wait for the last words of other processes."""


class Progress:
    """Shows tasks on the standard error stream, a bar each while it runs.

    Args:
        quiet: Show nothing.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet)
        self._rich: RichProgress | None = None

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def task(self, name: str, total: int | None, done: int = 0) -> Iterator["Bar"]:
        """Show a bar while the block runs, and a line with the time it took when it ends.

        A task of unknown length that took less than a second leaves no line.

        Args:
            name: What is done.
            total: Steps until it is; None where that is not known.
            done: Steps that were done before.
        """
        start, within = time.perf_counter(), self._rich is not None
        with self._display() as rich:
            bar = Bar(rich, name, total, done, None if self.console.is_terminal else self.say)
            yield bar
            if within:
                bar.remove()
        seconds = time.perf_counter() - start
        if total is None and seconds < 1:
            return
        rate = f", {_rate(bar.samples, seconds, ' samples/s')}" if bar.samples else ""
        self.say(f"{name}: {bar.note or 'done'} in {seconds:.1f} s{rate}")

    @contextmanager
    def _display(self) -> Iterator[RichProgress]:
        """Give the display of all bars, which is shown while any task runs."""
        if self._rich is not None:
            yield self._rich
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        hidden = not self.console.is_terminal
        with RichProgress(*columns, console=self.console, transient=True, disable=hidden) as rich:
            self._rich = rich
            try:
                yield rich
            finally:
                self._rich = None

    @contextmanager
    def relayed(self, queue: Told) -> Iterator[None]:
        """Show what `Relay`s in other processes tell, while the block runs.

        Args:
            queue: Which they were given.
        """
        ended = threading.Event()
        with self._display():
            thread = threading.Thread(target=self._show_relayed, args=(queue, ended), daemon=True)
            thread.start()
            try:
                yield
            finally:
                # Nothing is put into the queue: a process that was killed may hold its lock.
                ended.set()
                thread.join(PATIENCE)

    def _show_relayed(self, queue: Told, ended: threading.Event) -> None:
        tasks: dict[tuple[int, str], AbstractContextManager[Bar]] = {}
        bars: dict[tuple[int, str], Bar] = {}
        while True:
            try:
                what, key, *rest = queue.get(timeout=0.1)
            except Empty:
                if ended.is_set():
                    return
                continue
            if what == "say":
                self.say(*rest)
            elif what == "begin":
                tasks[key] = self.task(*rest)
                bars[key] = tasks[key].__enter__()
            elif what == "advance":
                bars[key].advance(*rest)
            else:
                tasks.pop(key).__exit__(None, None, None)


class Relay(Progress):
    """Tells another process what to show; see `Progress.relayed`.

    Args:
        queue: That reaches it.
    """

    def __init__(self, queue: Told) -> None:
        super().__init__(quiet=True)
        self.queue = queue

    def say(self, text: str) -> None:
        """Let the other process print a line."""
        self.queue.put(("say", None, text))

    @contextmanager
    def task(self, name: str, total: int | None, done: int = 0) -> Iterator["Bar"]:
        """Let the other process show a bar."""
        key = os.getpid(), name
        self.queue.put(("begin", key, name, total, done))
        with self._display() as rich:
            yield _RelayBar(self.queue, key, rich, name, total, done)
        self.queue.put(("end", key))


def _rate(samples: int, seconds: float, unit: str) -> str:
    """Say how fast it is: how many a second or, below one, how long each takes."""
    if samples >= seconds:
        return f"{samples / seconds:,.0f}{unit}"
    return f"{seconds / samples:,.1f} s each" if samples else ""


class Bar:
    """One task of a `Progress`.

    Args:
        rich: What draws it.
        name: What is done.
        total: Steps until it is; None where that is not known.
        done: Steps that were done before.
        say: Told now and then how far it is, where nothing is drawn.

    Attributes:
        samples: Samples that went through.
        note: What is shown beside the bar.
    """

    def __init__(
        self,
        rich: RichProgress,
        name: str,
        total: int | None,
        done: int,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.rich = rich
        self.say = say
        self._steps = 0
        self.note = ""
        self.samples = 0
        self._waited = 0.0
        self._start = self._shown = self._said = time.perf_counter()
        self._id = rich.add_task(name, total=total, completed=done, note="")

    def advance(
        self, samples: int, loss: SupportsFloat | None = None, waited: float | None = None
    ) -> None:
        """Count one step.

        Args:
            samples: That went through.
            loss: It is read at most four times a second.
            waited: For data [s]; its share of the time is shown.
        """
        self.samples += samples
        self._waited += waited or 0.0
        now = time.perf_counter()
        task = next(task for task in self.rich.tasks if task.id == self._id)
        last = task.total is not None and task.completed + 1 >= task.total
        if last or now - self._shown > 0.25:
            self._shown = now
            shown = "" if loss is None else f"loss {float(loss):.3f}"
            self.note = shown
            seconds = max(now - self._start, 1e-9)
            rate = _rate(self.samples, seconds, "/s")
            share = "" if waited is None else f", {self._waited / seconds:.0%} waiting for data"
            self.rich.update(self._id, note=f"{shown} {rate}{share}".strip())
        self.rich.advance(self._id)
        self._steps += 1
        if self.say is not None and now - self._said > EVERY and not last:
            self._said = now
            parts = [f"{task.description}: {task.completed:,.0f}", task.fields["note"]]
            if task.total is not None:
                left = (now - self._start) / self._steps * (task.total - task.completed)
                parts[0] += f" of {task.total:,.0f}"
                parts.append(f"{left / 60:,.0f} min left")
            self.say(", ".join(part for part in parts if part))

    def remove(self) -> None:
        """Show it no longer."""
        self.rich.remove_task(self._id)


class _RelayBar(Bar):
    """A bar that another process shows."""

    def __init__(
        self,
        queue: Told,
        key: tuple[int, str],
        rich: RichProgress,
        name: str,
        total: int | None,
        done: int,
    ) -> None:
        super().__init__(rich, name, total, done)
        self._queue, self._key = queue, key

    def advance(
        self, samples: int, loss: SupportsFloat | None = None, waited: float | None = None
    ) -> None:
        """Count one step there."""
        told = loss if loss is None else float(loss)
        self._queue.put(("advance", self._key, samples, told, waited))
