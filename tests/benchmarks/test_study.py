"""The study's scripts: a penalty, and a whole study of a tiny set."""

import dataclasses
import json
import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

STUDY = Path(__file__).parents[2] / "benchmarks/study"
sys.path.insert(0, str(STUDY))
import bf16  # noqa: E402
import trainings  # noqa: E402
import write  # noqa: E402


def test_penalty_spares_the_centre() -> None:
    conv = nn.Conv3d(1, 1, 3)
    nn.init.ones_(conv.weight)
    pulled = trainings._off_centre(conv.weight, 3.0, torch.zeros_like(conv.weight))[0, 0]
    assert pulled[1, 1, 1] == 0 and pulled[0, 1, 1] == 1 and pulled[0, 0, 0] == 3


def test_products_rounded_to_bf16_are_those_of_the_processor() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv3d(2, 6, 3, bias=False), nn.BatchNorm3d(6), nn.ReLU(), nn.Flatten()]
    net = nn.Sequential(*layers, nn.Linear(6 * 2 * 3 * 4, 3))
    x = torch.randn(2, 2, 4, 5, 6)

    def step(mode: AbstractContextManager[object]) -> list[torch.Tensor]:
        net.zero_grad()
        with mode, torch.autocast("cpu", torch.bfloat16):
            logits = net(x)
            logits.float().square().sum().backward()
        return [logits.detach(), *(p.grad for p in net.parameters() if p.grad is not None)]

    own, made = step(nullcontext()), step(bf16.Rounded())
    assert made[0].dtype == torch.bfloat16 and len(own) == len(made)
    for one, other in zip(own, made, strict=True):
        assert (one - other).norm() <= 0.02 * one.norm()


def rows(arm: str, means: tuple[float, float], seeds: int) -> list[dict[str, Any]]:
    return [
        {"arm": arm, "protocol": protocol, "limit": limit, "fold": 0, "trial": seed,
         "metrics": {"auc": mean + 0.01 * seed + 0.001 * (seed * limit % 3)}, "cases": []}
        for (protocol, limit), mean in zip((("zero", 0), ("linear", 10)), means, strict=True)
        for seed in range(seeds)
    ]  # fmt: skip


def test_rows_in_which_labels_did_not_help_are_named() -> None:
    def told(ours: tuple[float, float]) -> list[str]:
        own = rows("projection", ours, 5) + rows("slices", (0.8, 0.7), 5)
        record = {"arms": ["projection", "slices"], "metric": "auc", "folds": 0,
                  "task": "classification", "rows": own}  # fmt: skip
        return write.in_vain(write.compared({"organ": record}))

    assert told((0.7, 0.9)) == []
    _, sentence = told((0.7, 0.75))  # better than ours without, not than slices
    assert sentence.startswith("In 1 of 1 settings with labelled volumes")
    assert sentence.endswith("could: organ (linear, 10 labelled).")


def test_the_goal_is_told_by_what_the_rows_are() -> None:
    def told(ours: tuple[float, float], sets: int, limit: int = 10) -> str:
        record = {"arms": ["projection", "slices"], "metric": "auc", "folds": 0,
                  "task": "classification",
                  "rows": rows("projection", ours, 5) + rows("slices", (0.7, 0.7), 5)}  # fmt: skip
        found = []
        for row in write.compared({"organ": record}):
            ends = (0.01, 0.2) if row.one.difference > 0.01 else (-0.2, 0.2)
            sure = dataclasses.replace(row.one, interval=ends, over_cases=ends, holm=0.01)
            key = (row.key[0], row.key[1] and limit)
            one = dataclasses.replace(row, one=sure, key=key)
            found += [dataclasses.replace(one, set=str(number)) for number in range(sets)]
        return write.outcome(found)

    assert told((0.8, 0.7), 3).startswith("Sets and lead are as the goal wants: ours is ahead on 3")
    assert told((0.8, 0.7), 2).startswith("The goal was missed: ours is ahead on 2 of 2 sets")
    assert "missed" in told((0.72, 0.7), 3)  # by too little
    assert "missed" in told((0.7, 0.8), 3, limit=971)  # level without labels, ahead with many
    assert write.outcome([]).startswith("The goal was missed: ours is ahead on 0 of 0 sets")


def test_ways_are_counted_as_they_were_chosen_where_scores_tie() -> None:
    ways = [{"arm": "slices", "seed": 0, "way": way, "val": {"auc": 0.9}, "test": {"auc": 0.8}}
            for way in ("anew", "kept")]  # fmt: skip
    run = {"arm": "slices", "protocol": "zero", "trial": 0, "way": "kept"}
    lines = write.each_way({"ways": ways, "rows": [run]})
    assert "| slices | anew | 0.800 | 0 of 1 |" in lines
    assert "| slices | kept | 0.800 | 1 of 1 |" in lines
    assert write.each_way({"ways": ways, "rows": []}) == []  # what was chosen is not known


def test_augmentation_is_told_of_what_was_taught_both_ways_alone(tmp_path: Path) -> None:
    path = tmp_path / "teaching.json"
    assert write.augmented(path) == []
    rows = [
        {"set": name, "seed": 0, "augment": augment, "asked": "volume", "agreement": 0.9,
         "val": 0.8, "test": 0.7}
        for name, augment in (("organ", "none"), ("organ", "light"), ("fracture", "none"))
    ]  # fmt: skip
    path.write_text(json.dumps(rows))
    *_, last = write.augmented(path)
    assert last == "| organ | 0 | volume, taught | 0.900 | 0.900 | 0.700 | 0.700 |"


def test_rivals_are_given_up_where_another_was_ahead_on_the_same_seeds() -> None:
    own = rows("projection", (0.9, 0.9), 5) + rows("slices", (0.8, 0.7), 5)
    for count, behind, told in (
        (3, (0.75, 0.65), "Given up after 3 seeds"),
        (3, (0.85, 0.65), "Unfinished"),
        (2, (0.75, 0.65), "Unfinished"),
        (5, (0.75, 0.65), None),
    ):
        record = {"arms": ["projection", "slices", "acs"], "metric": "auc", "folds": 0,
                  "task": "classification", "rows": own + rows("acs", behind, count)}  # fmt: skip
        sets: write.Sets = {"organ": record}
        found = write.stopped(sets, write.compared(sets))
        *found, new = found
        assert (
            new == "Not compared: `center`, `triplanar`, `cycle`, `inflate` and `scratch` on organ."
        )
        if told is None:
            assert not found
        else:
            assert len(found) == 1 and found[0].startswith(told) and "`acs` on organ" in found[0]


@pytest.mark.slow
def test_study_of_a_tiny_set(tmp_path: Path) -> None:
    folder = tmp_path / "data/medmnist3d"
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for part, count in (("train", 24), ("val", 6), ("test", 10)):
        labels = np.arange(count) % 2
        images = draw.integers(0, 60, (count, 12, 12, 12)) + 120 * labels[:, None, None, None]
        arrays[f"{part}_images"] = images.astype(np.uint8)
        arrays[f"{part}_labels"] = labels[:, None]
    np.savez(folder / "organmnist3d.npz", **arrays)

    def run(script: str, *options: str) -> str:
        done = subprocess.run(
            [sys.executable, str(STUDY / script), *options], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    own = ["--data", str(tmp_path / "data"), "--work", str(tmp_path / "work")]
    arms = "projection,projection-drawn,slices,projection joint"
    run(
        "study.py", *own, "--sets", "organ", "--arms", arms, "--protocols", "zero,finetune",
        "--limits", "6", "--seeds", "1", "--results", str(tmp_path / "raw"),
    )  # fmt: skip
    raw = json.loads((tmp_path / "raw/organ.json").read_text())
    assert len(raw["rows"]) == 4 * 2 and len(raw["images"]) == 3
    assert {row["arm"] for row in raw["ways"]} == {"projection", "projection-drawn", "slices"}
    one = json.loads(run("study.py", *own, "--row", "organ,projection,zero,0,0").splitlines()[-1])
    same = next(
        row for row in raw["rows"] if (row["arm"], row["protocol"]) == ("projection", "zero")
    )
    assert one["metrics"]["accuracy"] == pytest.approx(same["metrics"]["accuracy"], abs=1e-3)
    run("write.py", "--results", str(tmp_path / "raw"), "--out", str(tmp_path / "docs"))
    page = (tmp_path / "docs/results.md").read_text()
    assert "OrganMNIST3D" in page and "projection-drawn" in page
    assert (tmp_path / "docs/images/results-organ.png").is_file()
