"""The self-check of conversions: what it says, and what it refuses."""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import crossd
from crossd import InputError

convert: Callable[..., Any] = crossd.convert


def numbers(net: Any) -> list[float]:
    return [float(line.rpartition(" ")[2]) for line in net.conversion.checks[1:]]


@pytest.mark.parametrize("mode", ["projection", "slice", "fourier"])
def test_it_measures_both_uses(mode: str) -> None:
    net = convert(timm.create_model("resnet18", num_classes=3), mode)
    assert "runs on images (1, 3, 64, 64) and on volumes" in str(net.conversion)
    image, law = numbers(net)
    assert image < 1e-4
    assert law < 1e-4 if mode != "fourier" else law > 1e-4  # the roll by one voxel meets the ends


def test_only_what_a_lift_promises_is_measured() -> None:
    source = timm.create_model("resnet18", num_classes=3)
    assert len(numbers(convert(source, lift="inflate"))) == 1
    assert numbers(convert(source, lift="triplanar")) == numbers(convert(source, lift=None)) == []
    assert convert(source, check=False).conversion.checks == ()


def test_it_leaves_networks_and_random_state_alone() -> None:
    source = timm.create_model("resnet18", num_classes=3).train()
    before = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    net = convert(source)
    torch.testing.assert_close(source.state_dict(), before, rtol=0, atol=0)
    assert all(m.training for m in (*source.modules(), *net.modules()))
    state = torch.random.get_rng_state()
    convert(source, lift="center", check=True)
    kept = torch.random.get_rng_state()
    torch.random.set_rng_state(state)
    convert(source, lift="center", check=False)
    assert torch.equal(torch.random.get_rng_state(), kept)


class Explodes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 0


class Solid2d(nn.Module):
    """Has a rule that is wrong on volumes."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, c, h, w)


def test_what_does_not_work_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from crossd.conversion import rules

    with pytest.raises(InputError, match=r"answer on images \(1, 1, 64, 64\) is not finite"):
        convert(nn.Sequential(nn.Conv2d(1, 1, 1), Explodes()))
    monkeypatch.setattr(rules, "RULES", dict(rules.RULES))

    @crossd.rule(Solid2d)
    def _(layer: Any, options: Any) -> Any:
        return layer

    with pytest.raises(InputError, match=r"cannot use the converted network on volumes .*unpack"):
        convert(nn.Sequential(nn.Conv2d(1, 1, 1), Solid2d()))


class Swapped(nn.Module):
    """Exchanges height and width before a convolution and afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return y + self.b(y.transpose(2, 3)).transpose(2, 3)


def test_exchanged_axes_are_refused() -> None:
    with pytest.raises(InputError, match="images whose height and width are exchanged"):
        convert(Swapped())


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


def test_a_rule_that_breaks_the_law_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    from crossd.conversion import rules

    class Wrong(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.dim() == 4 else 3 * x + 1

    monkeypatch.setattr(rules, "RULES", rules.RULES)
    monkeypatch.setitem(rules.RULES, Doubled, lambda layer, options: Wrong())
    with pytest.warns(UserWarning, match="on a volume that repeats an image it differs"):
        convert(nn.Sequential(nn.Conv2d(1, 4, 3), Doubled()))
    monkeypatch.setitem(rules.RULES, Doubled, lambda layer, options: None)
    with pytest.raises(InputError, match="its rule returned NoneType"):
        convert(nn.Sequential(nn.Conv2d(1, 4, 3), Doubled()))
    for wrong in ((), (3,)):
        with pytest.raises(InputError, match="takes types of layers"):
            rules.rule(*wrong)


class OnlyTrained(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.training:
            n, _, h, w = y.shape
            y = y * torch.ones(n, 1, h, w)
        return self.head(y.flatten(2).mean(2))


def test_branches_of_training_are_tried() -> None:
    with pytest.raises(InputError, match="cannot train the converted network on volumes"):
        convert(OnlyTrained())


def test_a_loss_that_compares_other_shapes_is_refused() -> None:
    from monai.networks.nets import SegResNetVAE

    with pytest.raises(InputError, match=r"cannot train .* on volumes .*target size"):
        convert(SegResNetVAE((64, 64), spatial_dims=2, init_filters=8))


class Auxiliary(nn.Module):
    """Has a head that runs in training only, and only on images of 256 pixels and more."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, 4, 3, 16, 1), nn.Linear(4, 2)
        self.aux = AuxiliaryHead()

    def forward(self, x: Tensor) -> Any:
        y = self.stem(x)
        answer = self.head(y.flatten(2).mean(2))
        return (answer, self.aux(y)) if self.training else answer


class AuxiliaryHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 2, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(nn.functional.avg_pool2d(x, 5, 3)).flatten(2).mean(2)


def test_heads_of_training_are_found_on_larger_images() -> None:
    net = convert(Auxiliary()).train()
    answers = net(torch.randn(2, 1, 288, 288))
    volumes = torch.randn(2, 1, 272, 272, 272)
    assert [v.shape for v in net(volumes)] == [v.shape for v in answers] == [(2, 2)] * 2


class Counts(nn.Module):
    average: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.register_buffer("average", torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        self.average = 0.9 * self.average + 0.1 * y.detach().flatten(2).mean((0, 2))
        return y


def test_buffers_of_the_network_stay() -> None:
    net = Counts()
    made = convert(net)
    assert not net.average.any() and not made.average.any()
