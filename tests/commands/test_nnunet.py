"""nnU-Net and crossd, there and back, by the commands of both."""

import os
import subprocess
import sys
from pathlib import Path

import files
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "nnunet_roundtrip.sh"


@pytest.mark.slow
def test_there_and_back(tmp_path: Path) -> None:
    data = files.pairs(tmp_path / "data", 12, (30, 34, 26))
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "CASES": "8",
        "EPOCHS": "1",
        "CROSSD_NNUNET_STEPS": "2",
        "OMP_NUM_THREADS": "1",
    }
    command = [str(SCRIPT), str(data), str(tmp_path / "out")]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    assert "alike in" in ran.stdout
