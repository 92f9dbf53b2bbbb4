"""Whole numbers that benchmarks are given: bad ones end in a line, before anything is measured."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize(
    ("script", "option", "value"),
    [
        ("large_volumes.py", "--sizes", "-5"),
        ("throughput.py", "--workers", "0,a"),
        ("start.py", "--runs", "-1"),
    ],
)
def test_bad_numbers_are_refused(script: str, option: str, value: str) -> None:
    command = [sys.executable, str(BENCHMARKS / script), f"{option}={value}"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 2 and not found.stdout
    least = 0 if option == "--workers" else 1
    wrong = value.split(",")[-1]
    end = f"argument {option}: {wrong!r} is no whole number of at least {least}"
    assert found.stderr.splitlines()[-1].endswith(end)
