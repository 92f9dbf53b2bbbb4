"""What is shown where there is no terminal, and that a terminal gets bars."""

import io
import re
import time

import pytest
from rich.console import Console

from crossd.utils.progress import Progress, _rate


def test_plain_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress()
    progress.say("reading [bold]brain[/bold], 12 volumes " + "x" * 200)
    with progress.task("training", total=2) as bar:
        bar.advance(8, loss=0.75)
        bar.advance(8, loss=0.5)
    shown = capsys.readouterr()
    assert shown.out == ""
    first, second = shown.err.splitlines()
    assert first == "reading [bold]brain[/bold], 12 volumes " + "x" * 200
    assert re.fullmatch(r"training: loss 0\.500 in \d+\.\d s, [\d,]+ samples/s", second)
    assert bar.samples == 16


def test_a_task_without_samples_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress().task("reading", total=3):
        pass
    assert re.fullmatch(r"reading: done in 0\.\d s\n", capsys.readouterr().err)


def test_a_task_may_start_in_the_middle(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress().task("training", total=3, done=2) as bar:
        bar.advance(4, loss=1.0)  # the last step, so its loss is read
    assert capsys.readouterr().err.startswith("training: loss 1.000 in ")


def test_the_loss_is_read_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    class Loss:
        reads = 0

        def __float__(self) -> float:
            Loss.reads += 1
            return 1.0

    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    with Progress(quiet=True).task("training", total=101) as bar:
        for _ in range(100):
            now += 0.0099
            bar.advance(1, Loss())
    assert Loss.reads == 3


def test_a_line_a_minute_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a job writes to its log while it runs."""
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    with Progress().task("training", total=1000, done=500) as bar:
        for _ in range(500):
            now += 1.3
            bar.advance(2, 0.5)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 500 * 1.3 // 61 + 1  # after the first step beyond each minute; the end
    assert lines[0] == "training: 547 of 1,000, loss 0.500 2/s, 10 min left"


def test_an_error_ends_the_task_without_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="lost"), Progress().task("training", total=3):
        raise RuntimeError("lost")
    assert capsys.readouterr().err == ""


def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(quiet=True)
    progress.say("hello")
    with progress.task("training", total=1) as bar:
        bar.advance(1, loss=0.5)
    shown = capsys.readouterr()
    assert shown.out == shown.err == ""
    assert bar.note == "loss 0.500"


def test_a_terminal_gets_a_bar_with_loss_and_time_left() -> None:
    progress, stream = Progress(), io.StringIO()
    progress.console = Console(file=stream, force_terminal=True, width=120, color_system=None)
    with progress.task("training", total=1) as bar:
        bar.advance(8, loss=0.25)
    shown = stream.getvalue()
    assert "training" in shown and "1/1" in shown and "loss 0.250" in shown and "left" in shown


@pytest.mark.parametrize(
    ("samples", "seconds", "said"),
    [(600, 2.0, "300/s"), (3, 345.0, "115.0 s each"), (1, 1.0, "1/s"), (0, 5.0, "")],
)
def test_what_is_slow_says_how_long_each_takes(samples: int, seconds: float, said: str) -> None:
    assert _rate(samples, seconds, "/s") == said
