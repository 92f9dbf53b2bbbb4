"""Being asked to stop: by Slurm, by a scheduler that wants the machine, or by Ctrl-C."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

ASKING = (signal.SIGTERM, signal.SIGINT, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))
TERMINATED, INTERRUPTED = 143, 130


class Stopped(BaseException):
    """Work was asked to stop, and kept what was finished; whoever waits for errors lets it pass.

    Attributes:
        code: The exit code: 130 after Ctrl-C, else 143.
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"stopped with exit code {code}")
        self.code = code


class StopRequest:
    """Whether somebody asked.

    Attributes:
        code: The exit code then, 0 before.
    """

    code = 0


@contextmanager
def listening(at_once: bool = False) -> Iterator[StopRequest]:
    """Note signals that ask to stop, for the block to look at; a second Ctrl-C interrupts at once.

    Outside of the main thread nothing can be noted. With `at_once`, the first signal interrupts. It
    is noted too, as Python loses an interruption that falls into a destructor.

    Raises:
        Stopped: With `at_once`, out of what is being done.
    """
    asked = StopRequest()

    def note(number: int, frame: object) -> None:
        again = at_once or asked.code
        asked.code = INTERRUPTED if number == signal.SIGINT else TERMINATED
        if number == signal.SIGINT and again:
            raise KeyboardInterrupt
        if at_once:
            raise Stopped(asked.code)

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, note) for number in ASKING}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
