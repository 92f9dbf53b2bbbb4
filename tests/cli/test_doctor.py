"""The doctor tells what is there and what is missing, also where the command line is missing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import crossd
from crossd.cli import doctor
from crossd.cli.command_line import main


def test_as_a_process_where_the_extras_are_missing(tmp_path: Path) -> None:
    """`-S` leaves out installed packages: all that is essential is missing too."""
    source = str(Path(crossd.__file__).parents[1])
    run = subprocess.run(
        [sys.executable, "-S", "-m", "crossd", "doctor"],
        env=os.environ | {"PYTHONPATH": source}, capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert run.returncode == 2
    assert "the command line lacks jsonargparse" in run.stdout
    assert "pip install 'crossd[all]'" in run.stdout and "crossd does not work" in run.stdout
    assert run.stderr == (
        "crossd: error: torch, numpy, safetensors cannot be imported: pip install crossd\n"
    )


def test_as_a_process_that_works() -> None:
    source = str(Path(crossd.__file__).parents[1])
    run = subprocess.run(
        [sys.executable, "-W", "error", "-m", "crossd", "doctor"],
        env=os.environ | {"PYTHONPATH": source}, capture_output=True, text=True,
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith(f"crossd {crossd.__version__}, Python ")
    assert f"torch             {torch.__version__.partition('+')[0]}" in run.stdout
    assert run.stdout.endswith("crossd works\n")


def test_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["missing"] == [] and found["crossd"] == crossd.__version__
    assert found["devices"][0]["name"] == "cpu" and found["machine"]["cores"] >= 1
    assert found["libraries"]["torch"] and all(found["formats"].values())


def test_what_lacks_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    there = doctor._there
    monkeypatch.setattr(doctor, "_there", lambda name: name != "SimpleITK" and there(name))
    monkeypatch.setattr(doctor, "FEATURES", (("painting", ("numpy", "no_such"), "crossd[art]"),))
    found = doctor.examine()
    assert found["features"] == [
        {"what": "painting", "lacks": ["no_such"], "install": "pip install 'crossd[art]'"}
    ]
    readable = {name for name, able in found["formats"].items() if able}
    assert "NIfTI (.nii, .nii.gz)" in readable and "DICOM (files and series)" not in readable


def test_folders_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, able in ((tmp_path / "a" / "b", True), (tmp_path / "file", False)):
        first = doctor.examine(str(path))["folders"][0]
        assert (first["path"], first["writable"]) == (str(path), able)
