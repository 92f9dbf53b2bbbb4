"""Progress bars with rates and time left, and plain lines where there is no terminal."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

EVERY = 60.0
"""Seconds between lines where there is no terminal, as in the logs of a cluster."""


class Progress:
    """Shows tasks on the standard error stream.

    Args:
        quiet: Show nothing.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet)

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
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        start = time.perf_counter()
        hidden = not self.console.is_terminal
        with RichProgress(*columns, console=self.console, transient=True, disable=hidden) as rich:
            bar = Bar(rich, name, total, done, self.say if hidden else None)
            yield bar
        seconds = time.perf_counter() - start
        if total is None and seconds < 1:
            return
        rate = f", {_rate(bar.samples, seconds, ' samples/s')}" if bar.samples else ""
        self.say(f"{name}: {bar.note or 'done'} in {seconds:.1f} s{rate}")


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

    def advance(self, samples: int, loss: Any = None, waited: float | None = None) -> None:
        """Count one step.

        Args:
            samples: That went through.
            loss: It is read at most four times a second.
            waited: For data [s]; its share of the time is shown.
        """
        self.samples += samples
        self._waited += waited or 0.0
        now = time.perf_counter()
        task = self.rich.tasks[-1]
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
