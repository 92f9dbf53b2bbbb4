"""What the results say of a start for nnU-Net is recomputed from raw runs."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

STUDY = Path(__file__).parents[2] / "benchmarks" / "study"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(STUDY))
    module = importlib.import_module("nnunet_start")
    yield module
    sys.modules.pop("nnunet_start", None)


def raw(gain: float, seeds: int = 3) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    runs = []
    for seed in range(seeds):
        for arm, more in (("scratch", 0.0), ("crossd", gain)):
            cases = (0.5 + more + 0.02 * rng.normal(size=20)).tolist()
            losses = rng.random(30).tolist()
            own = {"dice": float(np.mean(cases)), "cases": cases, "losses": losses}
            runs.append({"arm": arm, "seed": seed, **own})
    return {"labelled": 8, "images_of": 100, "tested": 20, "steps": 30, "runs": runs}


@pytest.mark.parametrize(
    ("gain", "verdict"), [(0.2, "better"), (-0.2, "worse"), (0.0, "level"), (0.001, "level")]
)
def test_a_difference_is_one_where_both_intervals_leave_zero_out(
    told: Any, tmp_path: Path, gain: float, verdict: str
) -> None:
    path = tmp_path / "raw.json"
    path.write_text(json.dumps(raw(gain)))
    (tmp_path / "images").mkdir()
    text = "\n".join(told.section(path, tmp_path))
    found = raw(gain)["runs"]
    means = {a: np.mean([r["dice"] for r in found if r["arm"] == a]) for a in told.ARMS}
    assert f"The start gains {means['crossd'] - means['scratch']:+.3f}" in text
    assert f"seeds): {verdict}" in text
    assert (tmp_path / told.PICTURE).is_file()


def test_one_seed_tells_nothing_of_seeds(told: Any, tmp_path: Path) -> None:
    path = tmp_path / "raw.json"
    (tmp_path / "images").mkdir()
    assert told.section(path, tmp_path) == []
    path.write_text(json.dumps(raw(0.2, 1)))
    assert "not known over seeds): level" in "\n".join(told.section(path, tmp_path))
