"""Checkpoints: whole or not used, and a training that goes on from one as if undisturbed."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from files import shaded
from processes import PATIENCE, posix, written
from safetensors.torch import load_file

from crossd.errors import InputError
from crossd.training import checkpoints
from crossd.utils.run_folder import CHECKPOINT, EARLIER_CHECKPOINT, RESULT


def restored(folder: Path) -> dict[str, Any]:
    state, _ = checkpoints.restore(folder)
    assert state is not None
    return state


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    for number in range(3):
        checkpoints.keep(tmp_path, {"number": number, "weights": torch.full((3,), float(number))})
    state, bad = checkpoints.restore(tmp_path)
    assert state is not None and state["number"] == 2 and not bad
    (tmp_path / CHECKPOINT).unlink()  # killed between the two renames
    assert restored(tmp_path)["number"] == 1
    assert {path.name for path in tmp_path.iterdir()} == {EARLIER_CHECKPOINT}


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "foreign"])
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_it_used(
    tmp_path: Path, damage: str
) -> None:
    for number in range(2):
        checkpoints.keep(tmp_path, {"number": number, "weights": torch.zeros(1000)})
    path = tmp_path / CHECKPOINT
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    made = {"flip": content, "cut": content[:-50], "empty": b"", "foreign": b"PK" + content}
    path.write_bytes(bytes(made[damage]))
    state, bad = checkpoints.restore(tmp_path)
    assert state is not None and state["number"] == 0
    assert len(bad) == 1 and str(path) in bad[0]
    (tmp_path / EARLIER_CHECKPOINT).write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"nothing to resume: .* is damaged .*--overwrite"):
        checkpoints.restore(tmp_path)


def test_a_full_disk_leaves_the_older_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(2):
        checkpoints.keep(tmp_path, {"number": number})

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("crossd.training.checkpoints.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        checkpoints.keep(tmp_path, {"number": 2})
    assert restored(tmp_path)["number"] == 1
    assert {path.name for path in tmp_path.iterdir()} == {CHECKPOINT, EARLIER_CHECKPOINT}


# --- real processes -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return shaded(tmp_path_factory.mktemp("data") / "images.npz", 150, 16)


def command(data: str, out: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "crossd", "pretrain", "--data", data, "--out", str(out)),
        *("--epochs", "16", "--batch-size", "8", "--checkpoint-minutes", "0.00001", *more),
    ]


def start(arguments: list[str]) -> subprocess.Popen[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(arguments, env=env, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    err = process.communicate(timeout=PATIENCE)[1]
    return process.returncode, err


SAID = {
    signal.SIGTERM: (143, "crossd: stopped by a signal"),
    signal.SIGUSR1: (143, "crossd: stopped by a signal"),
    signal.SIGINT: (130, "crossd: interrupted"),
}


def disturbed(data: str, out: Path, signals: Sequence[int], *more: str) -> None:
    """Send signals to one run after the other, each at some moment after it got on."""
    draw = random.Random(0)
    path = out / CHECKPOINT
    for number in signals:
        process = start(command(data, out, *more, *(["--resume"] if path.is_file() else [])))
        written(process, path, draw.randrange(1, 12))
        moment = draw.uniform(0, 0.3)  # of a step, a checkpoint or a validation
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(moment)
        process.send_signal(number)
        code, err = finish(process)
        if number == signal.SIGKILL:
            assert code == -signal.SIGKILL
        else:
            expected, said = SAID[signal.Signals(number)]
            said += "; what was finished is kept, see --resume"
            assert (code, err.splitlines()[-1]) == (expected, said)
            assert not checkpoints.fault(path)
    assert finish(start(command(data, out, *more, "--resume")))[0] == 0


def assert_equal(first: Path, second: Path) -> None:
    """Compare the weights, the scores and the records of all epochs, bit for bit."""
    one, two = (load_file(folder / "weights.safetensors") for folder in (first, second))
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.equal(value, two[name]), name
    told, again = (json.loads((folder / RESULT).read_text()) for folder in (first, second))
    assert told["metrics"] == again["metrics"]
    assert told["history"] == again["history"]


@pytest.mark.slow
@posix
def test_killed_and_stopped_anywhere_equals_undisturbed(tmp_path: Path, data: str) -> None:
    assert finish(start(command(data, tmp_path / "whole")))[0] == 0
    signals = [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1, signal.SIGINT]
    disturbed(data, tmp_path / "cut", signals)
    assert_equal(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.slow
@posix
@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_killed_while_it_learns_findings_or_numbers(tmp_path: Path, task: str) -> None:
    data = shaded(tmp_path / "images.npz", 150, 16, task)
    assert finish(start(command(data, tmp_path / "whole")))[0] == 0
    disturbed(data, tmp_path / "cut", [signal.SIGKILL, signal.SIGTERM])
    assert_equal(tmp_path / "whole", tmp_path / "cut")


@posix
@pytest.mark.slow
def test_killed_ten_times_equals_undisturbed(tmp_path: Path, data: str) -> None:
    more = ["--epochs", "40", "--model", "lcnet_035", "--workers", "1"]  # with dropout
    assert finish(start(command(data, tmp_path / "whole", *more)))[0] == 0
    disturbed(data, tmp_path / "cut", [*[signal.SIGKILL] * 10, signal.SIGTERM], *more)
    assert_equal(tmp_path / "whole", tmp_path / "cut")
