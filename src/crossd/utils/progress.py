"""Progress bars with rates and time left, and plain lines where there is no terminal."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty
from typing import TYPE_CHECKING, Any, SupportsFloat, TypeAlias

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

from crossd.utils.printable import printable

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

Told: TypeAlias = "Queue[tuple[Any, ...]]"
"""What `Relay`s tell `Progress.relayed`: what to do, of which bar, and with what."""

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
        self._display: RichProgress | _Elsewhere | None = None

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self.console.print(printable(text), highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def task(self, name: str, total: int | None, done: int = 0) -> Iterator["Bar"]:
        """Show a bar while the block runs, and a line with the time it took when it ends.

        A task of unknown length that took less than a second leaves no line.

        Args:
            name: What is done.
            total: Steps until it is; None where that is not known.
            done: Steps that were done before.
        """
        start, within = time.perf_counter(), self._display is not None
        with self._shown() as display:
            bar = Bar(display, name, total, done, None if self.console.is_terminal else self.say)
            yield bar
            if within:
                bar.remove()
        seconds = time.perf_counter() - start
        if total is None and seconds < 1:
            return
        rate = f", {_rate(bar.samples, seconds, ' samples/s')}" if bar.samples else ""
        self.say(f"{name}: {bar.note or 'done'} in {seconds:.1f} s{rate}")

    @contextmanager
    def _shown(self) -> Iterator["RichProgress | _Elsewhere"]:
        """Give the display of all bars, which is shown while any task runs."""
        if self._display is not None:
            yield self._display
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
            self._display = rich
            try:
                yield rich
            finally:
                self._display = None

    @contextmanager
    def relayed(self, queue: Told) -> Iterator[None]:
        """Show what `Relay`s in other processes tell, while the block runs.

        Args:
            queue: Which they were given.
        """
        ended = threading.Event()
        with self._shown() as display:
            told = (display, queue, ended)
            thread = threading.Thread(target=self._show_relayed, args=told, daemon=True)
            thread.start()
            try:
                yield
            finally:
                # Nothing is put into the queue: a process that was killed may hold its lock.
                ended.set()
                thread.join(PATIENCE)

    def _show_relayed(
        self, display: "RichProgress | _Elsewhere", queue: Told, ended: threading.Event
    ) -> None:
        bars: dict[tuple[int, int], TaskID] = {}
        while True:
            try:
                what, key, told = queue.get(timeout=0.1)
            except Empty:
                if ended.is_set():
                    return
                continue
            if what == "say":
                self.say(told)
            elif what == "add":
                bars[key] = display.add_task(**told)
            elif what == "update":
                display.update(bars[key], **told)
            else:
                display.remove_task(bars.pop(key))


class Relay(Progress):
    """Shows tasks on the display of another process; see `Progress.relayed`.

    Args:
        queue: That reaches it.
    """

    def __init__(self, queue: Told) -> None:
        super().__init__(quiet=True)
        self.queue = queue
        self._display = _Elsewhere(queue)

    def say(self, text: str) -> None:
        """Let the other process print a line."""
        self.queue.put(("say", None, text))


class _Elsewhere:
    """Stands for the `rich.progress.Progress` of another process, with what a `Bar` needs of it."""

    def __init__(self, queue: Told) -> None:
        self.queue = queue
        self._count = 0

    def add_task(self, description: str, total: int | None, completed: int, note: str) -> TaskID:
        self._count += 1
        told = {"description": description, "total": total, "completed": completed, "note": note}
        self.queue.put(("add", (os.getpid(), self._count), told))
        return TaskID(self._count)

    def update(self, task: TaskID, completed: int, note: str) -> None:
        self.queue.put(("update", (os.getpid(), task), {"completed": completed, "note": note}))

    def remove_task(self, task: TaskID) -> None:
        self.queue.put(("remove", (os.getpid(), task), None))


def _rate(samples: int, seconds: float, unit: str) -> str:
    """Say how fast it is: how many a second or, below one, how long each takes."""
    if samples >= seconds:
        return f"{samples / seconds:,.0f}{unit}"
    return f"{seconds / samples:,.1f} s each" if samples else ""


class Bar:
    """One task of a `Progress`.

    Args:
        display: What draws it.
        name: What is done.
        total: Steps until it is; None where that is not known.
        done: Steps that were done before.
        say: Told now and then how far it is, where nothing is drawn.

    Attributes:
        samples: Samples that went through.
        note: The loss, as it is shown beside the bar.
    """

    def __init__(
        self,
        display: RichProgress | _Elsewhere,
        name: str,
        total: int | None,
        done: int,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.display = display
        self.name, self.total = name, total
        self.say = say
        self.note = ""
        self.samples = 0
        self._before, self._done = done, done
        self._beside = ""
        self._waited = 0.0
        self._start = self._shown = self._said = time.perf_counter()
        self._id = display.add_task(name, total=total, completed=done, note="")

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
        self._done += 1
        self._waited += waited or 0.0
        now = time.perf_counter()
        last = self.total is not None and self._done >= self.total
        if last or now - self._shown > 0.25:
            self._shown = now
            self.note = "" if loss is None else f"loss {float(loss):.3f}"
            seconds = max(now - self._start, 1e-9)
            rate = _rate(self.samples, seconds, "/s")
            share = "" if waited is None else f", {self._waited / seconds:.0%} waiting for data"
            self._beside = f"{self.note} {rate}{share}".strip()
        self.display.update(self._id, completed=self._done, note=self._beside)
        if self.say is not None and now - self._said > EVERY and not last:
            self._said = now
            parts = [f"{self.name}: {self._done:,}", self._beside]
            if self.total is not None:
                each = (now - self._start) / (self._done - self._before)
                parts[0] += f" of {self.total:,}"
                parts.append(f"{each * (self.total - self._done) / 60:,.0f} min left")
            self.say(", ".join(part for part in parts if part))

    def remove(self) -> None:
        """Show it no longer."""
        self.display.remove_task(self._id)
