"""Trainings whose processes Slurm, `fabric run`, torchrun or crossd itself started, and stops."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from files import shaded
from processes import PATIENCE, RUN, TWO, assert_alike, posix, trained, written
from safetensors.torch import load_file

from crossd.training import checkpoints
from crossd.utils.run_folder import CHECKPOINT

pytestmark = [posix, pytest.mark.slow]
HALF = ["--batch-size", "8", "--sync-bn"]
LONG = ["--epochs", "40", "--checkpoint-minutes", "0.00001"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return shaded(tmp_path_factory.mktemp("data") / "images.npz", 61, 12)


def free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def of_slurm(number: int, port: str) -> dict[str, str]:
    """Set what srun sets in the process of this number, of two on one node."""
    return {
        **{"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "training", "SLURM_NODELIST": "localhost"},
        **{"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1"},
        **{"SLURM_PROCID": str(number), "SLURM_LOCALID": str(number), "SLURM_NODEID": "0"},
        **{"MASTER_PORT": port, "OMP_NUM_THREADS": "1"},
    }


def srun(arguments: list[str]) -> list["subprocess.Popen[str]"]:
    """Start a command as `srun --ntasks-per-node 2` does."""
    port = free_port()
    return [
        subprocess.Popen(
            arguments, env={**os.environ, **of_slurm(number, port)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in range(2)
    ]  # fmt: skip


def outcome(processes: list["subprocess.Popen[str]"]) -> tuple[list[int], list[str], list[str]]:
    """Return exit codes, and what each said on both streams."""
    told = [process.communicate(timeout=PATIENCE) for process in processes]
    outs, errs = zip(*told, strict=True)
    return [process.returncode for process in processes], list(outs), list(errs)


def test_slurm(tmp_path: Path, data: str) -> None:
    one = trained(RUN, tmp_path / "one", data, "--batch-size", "16", "--epochs", "6")
    out = tmp_path / "two"
    command = [*RUN, "--data", data, "--out", str(out), *HALF, *LONG, "--epochs", "6"]
    first, second = srun(command)
    written(first, out / CHECKPOINT, 2)
    first.send_signal(signal.SIGUSR1)  # one hears it first: both stop after the same step
    codes, _, errs = outcome([first, second])
    assert codes == [143, 143]
    assert errs[0].splitlines()[-1].startswith("crossd: stopped by a signal") and not errs[1]
    assert not checkpoints.fault(out / CHECKPOINT)
    codes, outs, errs = outcome(srun([*command, "--resume"]))
    assert codes == [0, 0], errs
    assert outs[0].count("written:") == 1 and not outs[1] and not errs[1]
    assert_alike(dict(load_file(out / "weights.safetensors")), one, 1e-5)


def test_slurm_without_tasks_per_node_is_an_error_that_says_so(tmp_path: Path, data: str) -> None:
    env = {**os.environ, **of_slurm(0, free_port())}
    del env["SLURM_NTASKS_PER_NODE"]
    command = [*RUN, "--data", data, "--out", str(tmp_path / "out"), *HALF]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--ntasks-per-node=2" in done.stderr and "Traceback" not in done.stderr


def test_fabric_run(tmp_path: Path, data: str) -> None:
    script = tmp_path / "crossd"  # as pip installs it
    script.write_text("import sys\nfrom crossd.cli.command_line import main\nsys.exit(main())\n")
    fabric = [sys.executable, "-m", "lightning_fabric.cli", "--accelerator", "cpu"]
    command = [*fabric, "--devices", "2", "--main-port", free_port(), "--", str(script), *RUN[3:]]
    two = trained(command, tmp_path / "two", data, *HALF)
    one = trained(RUN, tmp_path / "one", data, "--batch-size", "16")
    assert_alike(two, one, 1e-5)


@pytest.mark.parametrize("how", ["devices", "torchrun"])
def test_several_processes_stop_with_a_checkpoint(tmp_path: Path, data: str, how: str) -> None:
    command = [*TWO, *RUN[1:]] if how == "torchrun" else [*RUN, "--devices", "2"]
    out = tmp_path / "out"
    process = subprocess.Popen(
        [*command, "--data", data, "--out", str(out), *HALF, *LONG],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    written(process, out / CHECKPOINT, 2)
    process.terminate()
    err = process.communicate(timeout=PATIENCE)[1]
    assert "crossd: stopped by a signal; what was finished is kept, see --resume" in err
    assert not checkpoints.fault(out / CHECKPOINT)
    if how == "devices":  # torchrun has exit codes of its own
        assert process.returncode == 143, err
        assert "Traceback" not in err
