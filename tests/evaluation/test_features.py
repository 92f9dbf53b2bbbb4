"""Features: what they are, and that those which are kept are not computed again."""

import copy
import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from files import npz
from torch import nn

from crossd.conversion import heads, registry
from crossd.conversion.convert import convert
from crossd.conversion.plain import to_3d
from crossd.data.dataset import Joined, Subset
from crossd.data.disk_cache import DiskCache
from crossd.data.opening import open_source
from crossd.data.source import Source
from crossd.errors import InputError
from crossd.evaluation import features as module
from crossd.evaluation.experiment import Arm, Contest, contest_all, plan
from crossd.evaluation.features import Kept, digests, features
from crossd.inference.slice_ensemble import SliceNet
from crossd.training import loop, validate

BUDGET = loop.TrainConfig(epochs=4, batch_size=8, lr=1e-2, augment="none")


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return open_source(npz(tmp_path / "volumes.npz", (8, 8, 8)))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many samples networks were asked about, each time that they were."""
    counts: list[int] = []
    answers = validate.answers

    def spy(net: nn.Module, samples: Any, *rest: Any, **more: Any) -> Any:
        counts.append(len(samples))
        return answers(net, samples, *rest, **more)

    monkeypatch.setattr(validate, "answers", spy)
    return counts


def plain() -> nn.Module:
    return registry.build("resnet-small", "classification", 1, 2)


@functools.cache
def first_solid() -> nn.Module:
    return to_3d(convert(plain(), check=False))


def solid() -> nn.Module:
    """Make a plain 3D network of weights of its own."""
    net = copy.deepcopy(first_solid())
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return net


def test_features_are_what_the_last_layer_is_told(source: Source) -> None:
    net = solid().eval()
    vectors, labels = features(net, source.test, 2, BUDGET)
    assert vectors.shape == (len(source.test), 96)
    assert labels.tolist() == np.asarray(source.test.labels).tolist()
    images = torch.stack([source.test[i]["image"] for i in range(len(source.test))])
    head = net[-1]  # type: ignore[index]
    with torch.no_grad():
        assert torch.allclose(head(torch.from_numpy(vectors).float()), net(images), atol=1e-5)


def test_features_of_slices_are_averaged(source: Source) -> None:
    net = SliceNet(plain()).eval()
    net.average = "logits"
    vectors, _ = features(net, source.test, 2, BUDGET)
    images = torch.stack([source.test[i]["image"] for i in range(len(source.test))])
    head: Any = net.net[-1]  # type: ignore[index]
    with torch.no_grad():
        assert torch.allclose(head(torch.from_numpy(vectors).float()), net(images), atol=1e-5)


def test_what_is_kept_is_what_was_computed_and_nothing_is_computed_twice(
    source: Source, tmp_path: Path, asked: list[int]
) -> None:
    net = solid()
    kept = Kept(DiskCache(tmp_path), "mine")
    expected = features(net, source.train, 2, BUDGET)
    assert asked == [12]
    for part, new in ((source.train, [12]), (source.train, []), (source.test, [9])):
        asked.clear()
        vectors, labels = features(net, part, 2, BUDGET, kept)
        assert asked == new
        if part is source.train:
            np.testing.assert_array_equal(vectors, expected[0])
        np.testing.assert_array_equal(labels, part.labels)
    asked.clear()
    order = np.array([7, 0, 3])
    vectors, labels = features(
        net, Subset(Joined((source.train, source.test)), order), 2, BUDGET, kept
    )
    np.testing.assert_array_equal(vectors, expected[0][order])
    assert asked == []


def test_another_head_finds_them_and_other_weights_ways_and_volumes_do_not(
    source: Source, tmp_path: Path, asked: list[int]
) -> None:
    net: Any = solid()
    kept = Kept(DiskCache(tmp_path), "mine")
    features(net, source.test, 2, BUDGET, kept)
    headed, moved = copy.deepcopy(net), copy.deepcopy(net)
    heads.new_classifier(headed, 2, 5)
    with torch.no_grad():
        moved[1].running_mean[0] += 1
    others = [
        (headed, 5, kept, source.test, False),
        (moved, 2, kept, source.test, True),
        (net, 2, Kept(kept.store, "other"), source.test, True),
        (net, 2, Kept(kept.store, "mine", "resnet(pooling='max')"), source.test, True),
    ]
    brighter: Any = copy.copy(source.test)
    brighter.mean = source.mean + 1
    others.append((net, 2, kept, brighter, True))
    for one, classes, where, samples, new in others:
        asked.clear()
        features(one, samples, classes, BUDGET, where)
        assert asked == ([9] if new else [])


def test_functions_that_layers_show_are_no_weights(
    source: Source, tmp_path: Path, asked: list[int]
) -> None:
    class Acting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = lambda x: x.relu()  # which its text names by a place in memory

        def extra_repr(self) -> str:
            return repr(self.act)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.act(x)

    net = solid()
    two = [nn.Sequential(Acting(), net) for _ in range(2)]  # both kept, so at two places
    for one in two:
        features(one, source.test, 2, BUDGET, Kept(DiskCache(tmp_path), ""))
    assert asked == [9]


def test_what_was_interrupted_goes_on(
    source: Source, tmp_path: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TOGETHER", 5)
    net, kept = solid(), Kept(DiskCache(tmp_path), "mine")
    write = module._write

    def stop(*arguments: Any) -> None:
        write(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_write", stop)
    with pytest.raises(KeyboardInterrupt):
        features(net, source.train, 2, BUDGET, kept)
    monkeypatch.setattr(module, "_write", write)
    vectors, _ = features(net, source.train, 2, BUDGET, kept)
    assert asked == [5, 5, 2]
    np.testing.assert_allclose(vectors, features(net, source.train, 2, BUDGET)[0], atol=1e-6)


def test_a_damaged_file_is_computed_anew(source: Source, tmp_path: Path, asked: list[int]) -> None:
    net = solid()
    features(net, source.test, 2, BUDGET, Kept(DiskCache(tmp_path), "mine"))
    (file,) = tmp_path.glob("features-*.prepared")
    file.write_bytes(file.read_bytes()[:-7])
    features(net, source.test, 2, BUDGET, Kept(DiskCache(tmp_path), "mine"))
    assert asked == [9, 9]


@pytest.mark.parametrize("folds", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_a_comparison_asks_each_arm_about_each_sample_once(
    folds: int, source: Source, tmp_path: Path, asked: list[int]
) -> None:
    arms = {name: Arm(lambda seed: solid().eval(), answers=False) for name in ("a", "b")}
    store = DiskCache(tmp_path)
    contest = Contest(source, arms, BUDGET, folds, statistics=("kept",), features=store)
    runs = plan(contest, ["knn", "linear"], [6, 12], 2)
    records = contest_all(lambda: contest, runs, None, 1, None, contest)
    assert len(records) == len(runs) > 8
    total = len(source.train) + len(source.val) + len(source.test)
    assert sum(asked) == 2 * total
    alone = dataclasses.replace(contest, features=None)
    again = contest_all(lambda: alone, runs[:1], None, 1, None, alone)
    assert again[0]["metrics"] == records[0]["metrics"]


def test_one_digest_for_one_image(source: Source) -> None:
    marks = digests(source.train)
    assert len(set(marks)) == len(marks) == 12
    assert digests(Subset(source.train, np.array([3, 3, 1]))) == [marks[3], marks[3], marks[1]]


def test_networks_that_give_maps_have_none(source: Source) -> None:
    net = nn.Sequential(nn.Conv3d(1, 4, 1), nn.Conv3d(4, 2, 1))
    with pytest.raises(InputError, match="for networks that label volumes"):
        features(net, source.test, 2, BUDGET)
