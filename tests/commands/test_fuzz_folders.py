"""Data sets whose files are lost, cut off or mixed up: one line or an answer, and no hang."""

import subprocess
import sys
from pathlib import Path

import pytest

KINDS = (
    *("structures", "bids", "bids-labels", "bids-participants"),
    *("nnunet", "decathlon", "monai"),
    *("findings", "numbers", "npz-findings", "npz-numbers"),
)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_changed_data_sets_are_read_or_refused_in_a_line(tmp_path: Path, kind: str) -> None:
    script = Path(__file__).with_name("changed_folders.py")
    done = subprocess.run(
        [sys.executable, str(script), kind, str(tmp_path), "0", "150"],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    read, refused = (int(value) for value in done.stdout.split())
    assert read > 0 and refused > 0
