"""Comparisons: which runs there are, folds that keep patients whole, and going on after a stop."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from files import npz
from torch import nn

from crossd.conversion import registry
from crossd.data.dataset import Joined
from crossd.data.opening import open_source
from crossd.errors import InputError
from crossd.evaluation import experiment, protocols
from crossd.evaluation.arms import ARMS
from crossd.evaluation.experiment import Arm, Contest, RunRecord
from crossd.training import devices, loop

BUDGET = loop.TrainConfig(epochs=1, batch_size=4, augment="none")


def network(arm: str, seed: int) -> nn.Module:
    devices.seed_everything(seed)
    (make, *_) = ARMS[arm][1].values()
    return make(registry.build("resnet-small", "classification", 1, 2), "classification")


def make(path: str, folds: int = 0) -> Contest:
    arms = {
        "center": Arm(functools.partial(network, "center")),
        "scratch": Arm(functools.partial(network, "scratch"), answers=False, drawn=True),
    }
    return Contest(open_source(path), arms, BUDGET, folds)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return npz(tmp_path / "volumes.npz", (8, 8, 8))


def test_the_plan_has_every_run_once(path: str) -> None:
    runs = experiment.plan(make(path, folds=2), ["zero", "probe"], [4, 8], 3)
    assert len(runs) == len(set(runs)) == 2 + 2 * 2 * 2 * 3
    zero = [run for run in runs if run.protocol == "zero"]
    assert [(run.arm, run.fold) for run in zero] == [("center", 0), ("center", 1)]
    probe = [run for run in runs if run.protocol == "probe"]
    assert len(probe) == 2 * 2 * 2 * 3
    assert len({run.file for run in runs}) == len(runs)


def test_few_samples_of_each_class_are_divided_and_too_few_refused(tmp_path: Path) -> None:
    path = npz(tmp_path / "few.npz", (8, 8, 8), classes=5)  # four to seven of each
    for folds in (2, 4):
        part = experiment.part(make(path, folds), 1)
        assert min(len(part.train), len(part.val), len(part.test)) > 0
    with pytest.raises(InputError, match=r"--folds 8: .* has 7 samples of a class at most"):
        experiment.part(make(path, folds=8), 0)


def test_folds_test_every_sample_once_and_keep_patients_and_shares(path: str) -> None:
    contest = make(path, folds=3)
    source = contest.source
    names = iter(range(100))
    for part in (source.train, source.val, source.test):
        part.groups = np.array([f"{next(names) // 2}" for _ in range(len(part))])
    whole = Joined((source.train, source.val, source.test))
    tested: list[int] = []
    for fold in range(3):
        one = experiment.part(contest, fold)
        parts: list[Any] = [one.train, one.val, one.test]
        groups = [set(part.groups.tolist()) for part in parts]
        assert not groups[0] & groups[1] and not groups[2] & (groups[0] | groups[1])
        assert sum(len(part) for part in parts) == len(whole)
        assert 0.3 < np.mean(one.test.labels == 0) < 0.7
        tested += parts[2].indices.tolist()
    assert sorted(tested) == list(range(len(whole)))


@pytest.mark.slow
def test_all_arms_of_a_repetition_see_the_same_volumes(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[tuple[int, str], list[int]] = {}
    apply = protocols.apply

    def spy(name: str, net: nn.Module, source: Any, budget: Any, *_: Any) -> Any:
        key = (budget.seed, type(net[0]).__name__ + str(len(seen)))  # type: ignore[index]
        seen[key] = source.train.indices.tolist()
        return apply(name, net, source, budget)

    monkeypatch.setattr(protocols, "apply", spy)
    contest = make(path)
    for run in experiment.plan(contest, ["probe"], [4], 2):
        experiment.perform(contest, run)
    by_seed: dict[int, set[tuple[int, ...]]] = {}
    for (seed, _), indices in seen.items():
        by_seed.setdefault(seed, set()).add(tuple(indices))
    assert {seed: len(sets) for seed, sets in by_seed.items()} == {0: 1, 1: 1}
    assert by_seed[0] != by_seed[1]


def comparable(rows: list[RunRecord]) -> list[dict[str, object]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


@pytest.mark.slow
def test_two_processes_find_what_one_does_and_nothing_is_done_twice(
    path: str, tmp_path: Path
) -> None:
    made = functools.partial(make, path)
    runs = experiment.plan(made(), ["zero", "probe"], [4], 2)
    folder = tmp_path / "runs"
    folder.mkdir()
    one = experiment.contest_all(made, runs[:2], folder)
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert len(before) == 2
    two = experiment.contest_all(made, runs, folder, jobs=2)
    assert two[:2] == one
    after = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert before.items() <= after.items() and len(after) == len(runs)
    assert all(json.loads((folder / run.file).read_text())["arm"] == run.arm for run in runs)
    torch.set_num_threads(1)
    alone = experiment.contest_all(made, runs)
    assert comparable(alone) == comparable(two)


@pytest.mark.slow
def test_masks_are_compared_by_dice() -> None:
    def net(seed: int) -> nn.Module:
        devices.seed_everything(seed)
        return ARMS["inflate"][1]["volume"](
            registry.build("segresnet-small", "segmentation", 1, 4), "segmentation"
        )

    source = open_source("brain:8")
    contest = Contest(source, {"inflate": Arm(net)}, dataclasses.replace(BUDGET, batch_size=2))
    (row,) = experiment.contest_all(lambda: contest, experiment.plan(contest, ["finetune"], [2], 1))
    assert 0 <= row["metrics"]["dice"] <= 1
    assert len(row["cases"]) == len(source.test)


def test_runs_are_named_in_messages() -> None:
    runs = experiment.Runs([experiment.Run("center", "zero", 0, 0, 1)])
    assert str(runs) == "zero-0-0-1-center"
