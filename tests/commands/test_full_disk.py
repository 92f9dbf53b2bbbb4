"""A disk of 20 MB that gets full while a training writes to it, wherever it is just then."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

OWN = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
MOUNT = 'mount -t tmpfs -o size=20m disk "$0" && exec "$@"'
CHECKPOINTS = {
    # the place, and how many checkpoints there were by then
    **{"small": 2, "checkpoint": 2, "log": 0, "tensorboard": 0, "status": 1},
    **{"best weights": 1, "last weights": 2, "report": 2, "result": 2},
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What became of the trainings, by the place where each met the full disk."""
    disk, elsewhere = tmp_path_factory.mktemp("disk"), tmp_path_factory.mktemp("elsewhere")
    try:
        subprocess.run([*OWN, MOUNT, str(disk), "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no right to mount a disk: {error}")
    script = [sys.executable, "-W", "error", str(Path(__file__).parents[1] / "filling.py")]
    done = subprocess.run(
        [*OWN, MOUNT, str(disk), *script, str(disk), str(elsewhere)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and not done.stderr, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line.pop("place"): line for line in lines}


@pytest.mark.slow
@pytest.mark.parametrize("place", CHECKPOINTS)
def test_nothing_but_the_newest_is_lost_and_with_room_it_goes_on(
    told: dict[str, Any], place: str
) -> None:
    one = told[place]
    assert one["code"] == 2 and len(one["said"]) == 1
    assert one["said"][0].startswith("crossd: error: no room left on the disk for /")
    assert one["said"][0].endswith(": make room and go on with --resume")
    assert one["whole"] == [True] * CHECKPOINTS[place] and not one["strays"]
    assert (one["resumed"], one["complaints"], one["same"]) == (0, [], True)
