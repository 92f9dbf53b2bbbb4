"""Converted networks are held against their sources, in evaluation and in training."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import some
from torch import Tensor, nn

import crossd
from crossd import InputError

convert: Callable[..., Any] = crossd.convert


class Net(nn.Module):
    """Convolves, and goes on in training with a function of the module and the map."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], rank: int = 2) -> None:
        super().__init__()
        conv: Any = nn.Conv2d if rank == 2 else nn.Conv3d
        self.first, self.last = conv(3, 4, 3, padding=1), conv(4, 2, 1)
        self.act, self.inplace = nn.Dropout(0.5), nn.ReLU()
        self.in_training = forward

    def forward(self, x: Tensor) -> Any:
        y = self.last(self.act(self.first(x).relu()))
        return self.in_training(self, y) if self.training else y


def penalised(self: Any, y: Tensor) -> Any:
    kinds = [m for m in self.modules() if type(m) in (nn.Conv2d, nn.Conv3d)]
    return y, sum(m.weight.square().sum() for m in kinds)


def scaled(self: Any, y: Tensor) -> Any:
    return y * sum(type(m) in (nn.Conv2d, nn.Conv3d) for m in self.modules())


def as_many(self: Any, y: Tensor) -> Any:
    return y * len(list(self.children()))


def needs_more(self: Any, y: Tensor) -> Any:
    raise TypeError("no target")


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("forward", [penalised, scaled])
def test_code_that_asks_for_classes_in_training_is_refused(
    rank: int, forward: Callable[[Any, Tensor], Any]
) -> None:
    match = "in training it answers otherwise than the network it was made from"
    with pytest.raises(InputError, match=match):
        convert(Net(forward, rank))


@pytest.mark.parametrize("rank", [2, 3])
def test_where_training_fails_or_is_random_nothing_is_said_of_the_source(rank: int) -> None:
    def random(self: Any, y: Tensor) -> Any:
        return scaled(self, y) + torch.randn(y.shape)

    assert convert(Net(as_many, rank)).conversion.checks
    assert "training was not checked" in str(convert(Net(needs_more, rank)).conversion)
    assert "in training its answers are random" in str(convert(Net(random, rank)).conversion)


class Frozen(nn.Module):
    """Freezes the statistics of the norms that it finds by their class."""

    def __init__(self, kinds: Any, answers: bool = True) -> None:
        super().__init__()
        self.kinds, self.answers = kinds, answers
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)

    def train(self, mode: bool = True) -> "Frozen":
        super().train(mode)
        for module in self.modules():
            if type(module) is self.kinds or self.kinds in type(module).__mro__[1:]:
                module.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z: Tensor = self.norm(y)
        return z if self.answers or not self.training else y


class ByClass(Frozen):
    def train(self, mode: bool = True) -> "ByClass":
        super().train(mode)
        for module in self.modules():
            if type(module) is nn.BatchNorm2d:
                module.eval()
        return self


@pytest.mark.parametrize("answers", [True, False])
def test_what_is_frozen_by_its_class_is_refused(answers: bool) -> None:
    with pytest.raises(InputError, match="in training it answers otherwise"):
        convert(ByClass(nn.Linear, answers))  # or what it leaves in buffers is otherwise
    source: Any = Frozen(nn.BatchNorm2d).train()
    before = source.norm.running_mean.clone()
    net = convert(source)
    assert torch.equal(before, source.norm.running_mean) and net.norm.num_batches_tracked == 0


# Kernels that are read outside of their layers


def divided_by_a_norm(self: Any, y: Tensor) -> Any:
    return y / self.first.weight.flatten(1).norm(dim=1).mean()


def by_a_gram_matrix(self: Any, y: Tensor) -> Any:
    kernels = self.first.weight.flatten(1)
    return y, (kernels @ kernels.mT - torch.eye(len(kernels))).square().sum()


def weighed(self: Any, y: Tensor) -> Any:
    return y, sum(p.square().sum() for p in self.parameters())


def of_one_pixel(self: Any, y: Tensor) -> Any:
    kernel = self.last.weight
    return y.to(kernel) * kernel.square().sum() * kernel.shape[0]


class Reads(Net):
    """Does so in evaluation too."""

    def forward(self, x: Tensor) -> Any:
        return self.in_training(self, self.last(self.first(x).relu()))


@pytest.mark.parametrize("kind", [Net, Reads])
@pytest.mark.parametrize("forward", [divided_by_a_norm, by_a_gram_matrix, weighed])
@pytest.mark.parametrize("lift", some(["center", None], ["center"]))
def test_code_that_reads_a_kernel_is_refused_where_its_depth_tells(
    kind: Any, forward: Callable[[Any, Tensor], Any], lift: str | None
) -> None:
    match = "with every weight moved at random .*it answers otherwise .*reads their kernels"
    with pytest.raises(InputError, match=match):
        convert(kind(forward), lift=lift)
    assert convert(kind(forward, 3)).conversion.checks  # of which images are volumes too


@pytest.mark.parametrize("mode", ["projection", "slice", "fourier"])
def test_kernels_of_one_pixel_may_be_read(mode: str) -> None:
    net = convert(Reads(of_one_pixel), mode)
    x = torch.randn(2, 3, 8, 9)
    if mode != "fourier":
        torch.testing.assert_close(crossd.to_2d(net).eval()(x), net.eval()(x))


# Code that nothing watches


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("rank", [2, 3])
def test_compiled_functions_are_named(rank: int) -> None:
    traced: Any = torch.jit.trace(lambda x: x * torch.sigmoid(x), torch.zeros(2, 3))

    class Calls(Reads):
        def swish(self, y: Tensor) -> Any:
            return traced(y)

    net = convert(Calls(lambda self, y: self.swish(y), rank))
    said = [line for line in net.conversion.checks if "compiled code" in line]
    assert len(said) == 1 and "swish calls is not watched (sigmoid, mul): of " in said[0]
    assert "compiled code" not in str(convert(Reads(of_one_pixel, rank)).conversion)
