"""What each protocol trains, and that it is scored as scikit-learn would."""

import copy
import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from files import npz
from helpers import some
from made import masked
from torch import nn

from crossd.conversion import registry
from crossd.conversion.convert import convert
from crossd.conversion.plain import to_3d
from crossd.data.dataset import Subset
from crossd.data.opening import open_source
from crossd.data.source import Source
from crossd.errors import InputError
from crossd.evaluation import features as features_module
from crossd.evaluation import protocols
from crossd.evaluation.arms import ARMS
from crossd.training import loop

BUDGET = loop.TrainConfig(epochs=4, batch_size=8, lr=1e-2, augment="none")


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return open_source(npz(tmp_path / "volumes.npz", (8, 8, 8)))


def plain() -> nn.Module:
    return registry.build("resnet-small", "classification", 1, 2)


@functools.cache
def _solid() -> nn.Module:
    return to_3d(convert(plain(), lift=None))


def solid() -> nn.Module:
    return copy.deepcopy(_solid())


def changed(net: nn.Module, outcome: protocols.Outcome) -> set[str]:
    before, after = dict(net.named_parameters()), dict(outcome.net.named_parameters())
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.slow
def test_zero_changes_nothing_and_the_given_network_is_never_touched(source: Source) -> None:
    net = solid()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    for name in ("zero", "knn", "linear", "probe", "unfreeze", "finetune"):
        outcome = protocols.apply(name, net, source, BUDGET)
        assert outcome.scores["accuracy"] > (0.7 if name != "zero" else -1), name
        assert len(outcome.outputs[1]) == len(source.test)
        if name == "zero":
            assert changed(net, outcome) == set()
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


@pytest.mark.slow
def test_a_probe_trains_norms_and_the_head_and_finetuning_everything(source: Source) -> None:
    net = solid()
    norms = {
        f"{name}.{part}"
        for name, module in net.named_modules()
        if isinstance(module, nn.BatchNorm3d)
        for part in ("weight", "bias")
    }
    head = {name for name, _ in net.named_parameters()} - norms
    head = {name for name in head if name.startswith("8.")}
    assert changed(net, protocols.apply("probe", net, source, BUDGET)) == norms | head
    everything = {name for name, _ in net.named_parameters()}
    assert changed(net, protocols.apply("finetune", net, source, BUDGET)) == everything


def test_unfreezing_begins_at_the_head(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    net = solid()
    parts = protocols.stages(net, 2)
    assert sum(len(part) for part in parts) == len(list(net.parameters()))
    assert [p.shape[0] for p in parts[0]] == [2, 2]
    assert [p is q for p, q in zip(parts[-1], net.parameters(), strict=False)] == [True]
    free: list[int] = []
    fit = loop.fit

    def spy(net: nn.Module, *rest: Any, on_epoch: Any, **more: Any) -> Any:
        def count(epoch: int, epochs: int) -> None:
            on_epoch(epoch, epochs)
            free.append(sum(p.requires_grad for p in net.parameters()))

        return fit(net, *rest, on_epoch=count, **more)

    monkeypatch.setattr(loop, "fit", spy)
    outcome = protocols.apply("unfreeze", net, source, BUDGET)
    assert free[0] == 2 and free == sorted(free) and free[-1] == len(list(net.parameters()))
    assert len(changed(net, outcome)) == len(list(net.parameters()))


def test_classes_without_a_labelled_volume_get_no_probability(tmp_path: Path) -> None:
    source = open_source(npz(tmp_path / "volumes.npz", (8, 8, 8), classes=3))
    two = np.flatnonzero(np.asarray(source.train.labels) < 2)
    few = dataclasses.replace(source, train=Subset(source.train, two))
    net = ARMS["center"][1]["volume"](
        registry.build("resnet-small", "classification", 1, 3), "classification"
    )
    for name in ("knn", "linear"):
        probabilities = protocols.apply(name, net, few, BUDGET).outputs[0]
        assert probabilities.shape == (len(source.test), 3)
        assert probabilities[:, 2].abs().max() == 0


def test_neighbours_ask_nothing_of_the_validation_part(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    features = features_module.features

    def noted(net: nn.Module, samples: Any, *rest: Any) -> Any:
        asked.append(samples)
        return features(net, samples, *rest)

    monkeypatch.setattr("crossd.evaluation.protocols.features", noted)
    for name, parts in (("knn", 2), ("linear", 3)):
        asked.clear()
        protocols.apply(name, solid(), source, BUDGET)
        assert len(asked) == parts and (source.val in asked) == (name == "linear")


def test_a_number_that_is_known_of_no_labelled_sample(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (40, 8, 8, 8), dtype=np.uint8)
    targets = np.arange(80, dtype=np.float64).reshape(40, 2)
    targets[::2, 1] = np.nan
    np.savez(tmp_path / "a.npz", images=images, targets=targets)
    source = open_source(str(tmp_path / "a.npz"))
    unknown = np.isnan(np.asarray(source.train.labels)[:, 1])
    few = Subset(source.train, np.flatnonzero(unknown))
    net = to_3d(convert(registry.build("resnet-small", "regression", 1, 2)))
    for name in ("knn", "linear"):
        words = f"--protocol {name}: a number is known of no labelled training sample; label more"
        with pytest.raises(InputError, match=words):
            protocols.apply(name, net, dataclasses.replace(source, train=few), BUDGET)


def test_features_of_masks_are_refused() -> None:
    with pytest.raises(InputError, match="--protocol knn is for labels, but made has masks"):
        protocols.apply("knn", nn.Identity(), masked(3), BUDGET)


@pytest.mark.parametrize(
    "pair",
    some(
        [(p, t) for p in ("knn", "linear") for t in ("multilabel", "regression")],
        [("knn", "multilabel"), ("linear", "regression")],
    ),
)
def test_findings_and_numbers_are_fitted_column_by_column(
    pair: tuple[str, str], tmp_path: Path
) -> None:
    protocol, task = pair
    rng = np.random.default_rng(0)
    level = rng.uniform(40, 200, (40, 1))
    images = (rng.normal(0, 5, (40, 512)) + level).clip(0, 255).astype(np.uint8)
    told = np.concatenate([level > 120, level > 300], 1).astype(int)
    kept: dict[str, Any] = {"labels": told} if task == "multilabel" else {"targets": level}
    if task == "multilabel":
        told[::5, 0] = -1
    else:
        level[::5] = np.nan
    np.savez(tmp_path / "a.npz", images=images.reshape(40, 8, 8, 8), **kept)
    source = open_source(str(tmp_path / "a.npz"))
    torch.manual_seed(0)
    net = to_3d(convert(registry.build("resnet-small", task, 1, len(source.classes))))
    outcome = protocols.apply(protocol, net, source, BUDGET)
    assert outcome.scores["auc" if task == "multilabel" else "r2"] > 0.6
    if task == "multilabel":
        assert not outcome.outputs[0][:, 1].any()  # training samples know one value only
