"""Channels, classes and statistics of a network for its new task."""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from helpers import settle, some
from monai.networks.nets import BasicUNet
from torch import Tensor, nn

import crossd
from crossd import InputError
from crossd.conversion.adapt import adapted

convert: Callable[..., Any] = crossd.convert


def resnet() -> nn.Module:
    torch.manual_seed(0)
    return settle(timm.create_model("resnet18", channels=(16, 24, 32, 48), num_classes=7))


@pytest.mark.parametrize("channels", some([1, 2, 3, 5], [1, 5]))
@pytest.mark.parametrize("mode", ["projection", "fourier"])
def test_what_is_the_same_in_all_channels_gives_the_same_answer(channels: int, mode: str) -> None:
    source = resnet()
    net = convert(source, mode, in_channels=channels)
    images = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        expected = source(images.expand(-1, 3, -1, -1))
        answer = net(images.expand(-1, channels, -1, -1))
        torch.testing.assert_close(answer, expected, rtol=1e-4, atol=1e-5)
        assert net(torch.randn(1, channels, 32, 32, 32)).shape == (1, 7)
    assert source.conv1.in_channels == 3  # type: ignore[union-attr]
    assert "each of" in str(net.conversion)


@pytest.mark.parametrize(
    "make",
    [
        resnet,
        lambda: BasicUNet(2, 3, 4, features=(4, 4, 8, 8, 16, 4)).eval(),
        lambda: timm.create_model("convnext_atto"),
    ],
)
def test_other_classes_get_a_new_classifier_and_nothing_else(make: Callable[[], nn.Module]) -> None:
    source = make()
    net, said = adapted(source, num_classes=2)
    assert len(said) == 1 and "drawn anew for 2 classes" in said[0]
    assert net(torch.randn(1, 3, 64, 64)).shape[1] == 2
    before, after = source.state_dict(), net.state_dict()
    other = {k for k, v in after.items() if k not in before or v.shape != before[k].shape}
    assert 1 <= len(other) <= 2
    assert all(torch.equal(v, before[k]) for k, v in after.items() if k not in other)
    solid = convert(source, num_classes=2)
    assert solid(torch.randn(1, 3, 32, 32, 32)).shape[1] == 2


def test_nothing_asked_is_nothing_done() -> None:
    net = resnet()
    assert adapted(net) == (net, [])


@pytest.mark.parametrize(
    ("net", "wish", "message"),
    [
        (nn.Sequential(nn.Conv2d(2, 2, 1, groups=2)), {"in_channels": 1}, "in_channels .*groups"),
        (nn.Sequential(nn.Conv2d(2, 2, 1)), {"in_channels": 0}, "in_channels .*at least 1"),
        (nn.Sequential(nn.ReLU()), {"in_channels": 1}, "in_channels"),
        (nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)), {"num_classes": 2}, "num_classes"),
        (nn.Sequential(nn.Conv2d(2, 2, 1)), {"num_classes": 0}, "num_classes .*at least 1"),
        (nn.Sequential(nn.Conv2d(2, 2, 1)), {"batch_norm": "drop"}, "batch_norm .*keep, reset"),
        (nn.Sequential(nn.Conv2d(2, 2, 1)), {"batch_norm": "recalibrate"}, "no batch"),
        (nn.Sequential(nn.Conv2d(2, 2, 1)), {"volumes": [torch.zeros(1)]}, "volumes are for"),
    ],
)
def test_wishes_that_cannot_be_met(net: nn.Module, wish: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        convert(net, **wish)


def statistics(net: Any) -> Tensor:
    return torch.cat([m.running_mean for m in net.modules() if hasattr(m, "running_mean")])


def test_batch_norm_is_kept_reset_or_recalibrated() -> None:
    source = resnet()
    kept, reset = convert(source), convert(source, batch_norm="reset")
    torch.testing.assert_close(statistics(kept), statistics(source))
    assert not statistics(reset).any()
    volumes = [torch.randn(2, 3, 16, 32, 32) for _ in range(3)]
    net = convert(source, batch_norm="recalibrate", volumes=volumes)
    assert not net.training and net.bn1.momentum == 0.1
    with torch.no_grad():
        maps = torch.cat([net.conv1(batch) for batch in volumes])
    torch.testing.assert_close(net.bn1.running_mean, maps.mean((0, 2, 3, 4)), rtol=1e-3, atol=1e-5)
    assert not torch.allclose(statistics(net), statistics(source), atol=1e-2)
    assert net.bn1.num_batches_tracked == 3


def test_an_error_leaves_modes_as_they_were() -> None:
    net: Any = nn.Sequential(nn.BatchNorm3d(2), nn.Dropout()).train()
    wrong: list[tuple[Any, str]] = [
        (torch.zeros(1, 2), "batch 1 to recalibrate on is"),
        ((torch.zeros(1, 2, 4, 4, 4), 0), "batch 1 to recalibrate on is tuple"),
        (torch.full((1, 2, 4, 4, 4), torch.nan), "NaN or infinity"),
    ]
    for batch, words in wrong:
        with pytest.raises(InputError, match=words):
            crossd.recalibrate(net, [batch])
    assert net.training and net[0].training and net[1].training and net[0].momentum == 0.1
