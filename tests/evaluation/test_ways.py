"""Which ways an arm has, which of them validation samples choose, and what was taught."""

import copy
import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from files import npz
from torch import nn

from crossd.conversion import registry
from crossd.conversion.adapt import norms_with_statistics
from crossd.conversion.convert import convert
from crossd.data.opening import open_source
from crossd.evaluation import protocols, ways
from crossd.evaluation.arms import ARMS
from crossd.evaluation.contest import Arm, Contest
from crossd.evaluation.ways import Place, Way
from crossd.training import devices, loop, teach

BUDGET = loop.TrainConfig(epochs=1, batch_size=4, augment="none")
PLACE = Place("projection", 0, 0)


@functools.cache
def built(seed: int) -> nn.Module:
    devices.seed_everything(seed)
    return convert(registry.build("resnet-small", "classification", 1, 2), "projection")


def network(seed: int) -> nn.Module:
    return copy.deepcopy(built(seed))


@pytest.fixture
def contest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Contest:
    monkeypatch.setattr(ways, "ENOUGH", {False: 2, True: 2})
    source = open_source(npz(tmp_path / "volumes.npz", (8, 8, 8)))
    arm = Arm(network, asked=ARMS["projection"][1], learns=True)
    short = dataclasses.replace(teach.budget(source.task), min_steps=0)
    return Contest(source, {"projection": arm}, BUDGET, teaching=short, keep=tmp_path)


def scored(monkeypatch: pytest.MonkeyPatch, scores: list[float]) -> list[str]:
    """Let ways have these scores, one after the other; returns the protocols that were asked."""
    asked: list[str] = []
    rest = iter(scores)

    def spy(protocol: str, net: Any, source: Any, *_: Any, **__: Any) -> Any:
        assert source.test is source.val  # never the test samples
        asked.append(protocol)
        return protocols.Outcome(net, {"auc": next(rest)}, [], [])

    monkeypatch.setattr(protocols, "apply", spy)
    return asked


def unmade(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make no network, where scores are told."""
    monkeypatch.setattr(ways, "network", lambda *_: nn.Identity())


def choose(contest: Contest, protocol: str = "zero") -> tuple[str, dict[str, float | None]]:
    way, scores = ways.choose(contest, PLACE, protocol, contest.source, BUDGET)
    return str(way), scores


def test_every_way_is_listed_the_usual_one_first(contest: Contest) -> None:
    both = ["both", "volume", "orientations", "slices"]
    untaught = [Way(one, norm) for one in both for norm in ("anew", "kept")]
    taught = [Way("volume", taught=True), Way("orientations", taught=True)]
    assert list(ways.every(contest, PLACE)) == untaught + taught
    always = dataclasses.replace(contest, always=True)
    assert list(ways.every(always, PLACE)) == taught
    never = dataclasses.replace(contest, teaching=None, statistics=("kept",))
    assert list(ways.every(never, PLACE)) == [Way(one, "kept") for one in both]
    (arm,) = contest.arms.values()
    new = dataclasses.replace(contest, arms={"projection": dataclasses.replace(arm, answers=False)})
    assert list(ways.every(new, PLACE)) == untaught  # which say nothing that could be taught

    flat = dataclasses.replace(arm, asked=ARMS["slices"][1])
    assert ways.can_learn(arm) and not any(map(ways.can_learn, (flat, *new.arms.values())))

    def plain(seed: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(512, 2))

    bare = dataclasses.replace(contest, arms={"projection": Arm(plain)})
    assert list(ways.every(bare, PLACE)) == [Way("volume")]


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [
        ([0.5, 0.6, 0.7, 0.6], "orientations, BatchNorm anew"),
        ([0.6, 0.6, 0.6, 0.6], "volume, BatchNorm anew"),
        ([float("nan"), 0.2, float("nan"), 0.1], "volume, BatchNorm kept"),
        ([float("nan")] * 4, "volume, BatchNorm anew"),
    ],
)
def test_the_best_on_validation_samples_is_chosen_of_equal_ones_the_first(
    contest: Contest, monkeypatch: pytest.MonkeyPatch, scores: list[float], chosen: str
) -> None:
    asked = {name: ARMS["projection"][1][name] for name in ("volume", "orientations")}
    few = dataclasses.replace(
        contest, arms={"projection": Arm(network, asked=asked)}, teaching=None
    )
    seen = scored(monkeypatch, scores)
    unmade(monkeypatch)
    way, told = choose(few)
    assert way == chosen and seen == ["zero"] * 4
    assert [None if value != value else value for value in scores] == [*told.values()]
    assert choose(few)[0] == chosen and len(seen) == 4  # scores are at hand


@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.parametrize(
    ("protocol", "by"),
    [("knn", "knn"), ("linear", "linear"), ("finetune", "linear"), ("probe", "linear")],
)
def test_an_arm_is_chosen_for_as_it_is_or_by_a_linear_layer_where_it_cannot_answer(
    contest: Contest, monkeypatch: pytest.MonkeyPatch, protocol: str, by: str, answers: bool
) -> None:
    seen = scored(monkeypatch, [0.5] * 8)
    unmade(monkeypatch)
    (arm,) = contest.arms.values()
    arms = {"projection": dataclasses.replace(arm, answers=answers)}
    choose(dataclasses.replace(contest, arms=arms, teaching=None), protocol)
    assert seen == ["zero" if answers else by] * 8


def test_nothing_is_chosen_by_few_samples_or_by_what_cannot_answer(
    contest: Contest, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(monkeypatch, [])
    (arm,) = contest.arms.values()
    new = dataclasses.replace(contest, arms={"projection": dataclasses.replace(arm, answers=False)})
    assert choose(new) == ("both, BatchNorm anew", {})
    monkeypatch.setattr(ways, "ENOUGH", {False: 1000, True: 1000})
    assert choose(contest) == ("both, BatchNorm anew", {})


def test_statistics_are_kept_or_measured_anew(contest: Contest) -> None:
    kept, anew = (ways.network(contest, PLACE, Way("slices", one)) for one in ("kept", "anew"))
    for net, same in ((kept, True), (anew, False)):
        spreads: list[Any] = [norm.running_var for norm in norms_with_statistics(net)]
        assert spreads and all(bool((one == 1).all()) == same for one in spreads)
    assert ways.network(contest, PLACE, Way("slices", "kept")) is kept
    other = dataclasses.replace(contest, always=True)
    assert ways.network(other, PLACE, Way("slices", "kept")) is not kept


def test_kernels_are_taught_once_and_read_from_then_on(
    contest: Contest, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, str]] = []
    real = teach.taught

    def spy(net: Any, teacher: Any, source: Any, *rest: Any, **more: Any) -> Any:
        calls.append((len(source.train), type(teacher.net).__name__))
        return real(net, teacher, source, *rest, **more)

    monkeypatch.setattr(teach, "taught", spy)
    volume, turned = Way("volume", taught=True), Way("orientations", taught=True)
    first = ways.network(contest, PLACE, volume)
    inside: Any = ways.network(contest, PLACE, turned)
    assert inside.net is first
    again = ways.network(dataclasses.replace(contest, always=True), PLACE, volume)
    assert calls == [(12, "SliceNet")]
    before = ways.network(contest, PLACE, Way("volume", "kept")).state_dict()
    read = again.state_dict()
    for name, one in first.state_dict().items():
        torch.testing.assert_close(one, read[name])
        assert not name.endswith("conv1.weight") or not torch.equal(one, before[name])


def test_only_so_many_networks_are_at_hand(
    contest: Contest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ways, "NETWORKS", 2)
    made = functools.partial(ways.network, contest, PLACE)
    for one in ("volume", "orientations", "slices"):
        made(Way(one, "kept"))
    known = [key for key, value in contest.made.items() if isinstance(value, nn.Module)]
    assert known == [(PLACE, Way(one, "kept")) for one in ("orientations", "slices")]


@pytest.mark.parametrize(
    ("scores", "best"), [([0.5, 0.6], "kept"), ([0.6, 0.5], "anew"), ([0.5, 0.5], "anew")]
)
def test_what_teaches_has_the_batchnorm_that_answers_best(
    contest: Contest, monkeypatch: pytest.MonkeyPatch, scores: list[float], best: str
) -> None:
    seen = scored(monkeypatch, scores)
    assert ways.taught_by(contest, PLACE) == ways.taught_by(contest, PLACE) == best
    assert seen == ["zero"] * 2  # it is known the second time
    teachers: list[Any] = []
    monkeypatch.setattr(teach, "taught", lambda net, teacher, *_, **__: teachers.append(teacher))
    ways.network(contest, PLACE, Way("volume", taught=True))
    spreads: list[Any] = [norm.running_var for norm in norms_with_statistics(teachers[0].net)]
    assert spreads and all(bool((one == 1).all()) == (best == "kept") for one in spreads)
