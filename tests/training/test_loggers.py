"""The log and the status of a training, and what `crossd status` makes of them."""

import csv
import json
import os
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from made import Stopping, labelled, odd, tiny
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from crossd.cli import status
from crossd.cli.command_line import main
from crossd.cli.options import StatusConfig
from crossd.errors import InputError
from crossd.training import loggers as training_loggers
from crossd.training import loop
from crossd.training.loop import TrainConfig
from crossd.utils.progress import Progress
from crossd.utils.run_folder import CHECKPOINT, LOG, STATUS


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_loggers, "EVERY", 2)
    monkeypatch.setattr(training_loggers, "PULSE", 0.0)


def fitted(folder: Path, progress: Any = None, **more: Any) -> loop.Fit:
    loggers = ("csv", "tensorboard")
    config = TrainConfig(epochs=4, batch_size=3, loggers=loggers, checkpoint_minutes=1e-9)
    return loop.fit(tiny(), labelled(2), config, folder=folder, progress=progress, **more)


def logged(folder: Path) -> list[dict[str, str]]:
    with (folder / LOG).open(newline="") as file:
        return list(csv.DictReader(file))


def test_log_and_status_of_a_training_that_ended(tmp_path: Path) -> None:
    fit = fitted(tmp_path)
    rows = [row for row in logged(tmp_path) if row["loss"]]
    assert [int(row["batch"]) for row in rows] == list(range(2, 17, 2))
    assert all(float(row["lr"]) >= 0 and float(row["samples_per_second"]) > 0 for row in rows)
    means = [record["loss"] for record in fit.history]
    assert float(rows[1]["loss"]) * 0.5 + float(rows[0]["loss"]) * 0.5 == pytest.approx(
        means[0], rel=1e-4
    )
    state = json.loads((tmp_path / STATUS).read_text())
    assert (state["state"], state["done"], state["batches"]) == ("ended", 16, 16)
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("loss")] == list(range(2, 17, 2))
    assert "val_accuracy" in board.Tags()["scalars"]


def test_what_came_after_the_checkpoint_is_logged_once(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path, progress=Stopping(7))
    assert json.loads((tmp_path / STATUS).read_text())["state"] == "interrupted"
    (tmp_path / CHECKPOINT).unlink()  # the one before it is of step 5
    fitted(tmp_path, resume=True)
    batches = [int(row["batch"]) for row in logged(tmp_path) if row["loss"]]
    assert batches == sorted(set(batches)) and batches[-1] >= 15


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
def test_a_log_on_a_full_disk_says_where(tmp_path: Path) -> None:
    with training_loggers.LOGS["csv"](tmp_path, 0) as write:
        (tmp_path / LOG).unlink()
        (tmp_path / LOG).symlink_to("/dev/full")
        with pytest.raises(OSError, match=f"No space left on device: '{tmp_path / LOG}'"):
            write(1, {"loss": 1.0})


def test_a_line_that_a_full_disk_cut_is_left_out(tmp_path: Path) -> None:
    with training_loggers.LOGS["csv"](tmp_path, 0) as write:
        write(20, {"epoch": 1, "loss": 0.5})
    with (tmp_path / LOG).open("a") as file:
        file.write("4")  # of "40,1,0.4,,,,"
    with training_loggers.LOGS["csv"](tmp_path, 60):
        pass
    assert [row["batch"] for row in logged(tmp_path)] == ["20"]


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({"state": "running"}, "running as process"),
        ({"state": "running", "pid": 2**22 + 1}, "is gone"),
        ({"state": "running", "host": "elsewhere", "updated": 0.0}, "is gone"),
        ({"state": "ended"}, "ended, last heard of"),
        ({"state": "failed", "error": "loss is nan"}, "failed (loss is nan)"),
    ],
)
def test_status_in_words(
    state: dict[str, Any], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fitted(tmp_path)
    path = tmp_path / STATUS
    path.write_text(json.dumps({**json.loads(path.read_text()), "pid": os.getpid(), **state}))
    assert main(["status", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert expected in said
    assert "epoch 4 of 4, batch 16 of 16" in said and "GiB, loss" in said
    assert "epoch 4: loss" in said and "accuracy" in said
    assert f"{tmp_path / CHECKPOINT}: " in said and "whole" in said


def test_status_tells_of_damage_and_of_bad_batches(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        loop.fit(tiny(), odd(5), TrainConfig(epochs=1), folder=tmp_path)
    (tmp_path / CHECKPOINT).write_bytes(b"nothing")
    said = status.status(StatusConfig(str(tmp_path)), Progress(quiet=True))
    assert "failed (loss is nan" in said
    assert "does not begin like a checkpoint" in said and "1 batches gave no loss" in said


def test_status_of_a_folder_without_a_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", str(tmp_path)]) == 2
    assert "no training writes there" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_logger_that_is_not_installed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(InputError, match=f"--loggers {name} needs pip install {name}"):
        loop.fit(tiny(), labelled(2), TrainConfig(loggers=(name,)), folder=tmp_path)
    assert json.loads((tmp_path / STATUS).read_text())["state"] == "failed"


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_logger_of_others_gets_every_value_and_is_ended(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = MagicMock()
    monkeypatch.setitem(__import__("sys").modules, name, library)
    with training_loggers.LOGS[name](tmp_path, 0) as write:
        write(3, {"loss": 0.5})
    run = library.init.return_value if name == "wandb" else library.start_run.return_value
    logged = run.__enter__.return_value.log if name == "wandb" else library.log_metrics
    logged.assert_called_once_with({"loss": 0.5}, step=3)
    run.__exit__.assert_called_once()
