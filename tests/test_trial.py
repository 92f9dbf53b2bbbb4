"""Modules tried on volumes: what an axis is, and what of the law is held."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crossd.recording import record
from crossd.trial import Axes, Mismatch, attempt, axes, compare, expand


def no_leaf(module: nn.Module) -> bool:
    return False


def runs(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [torch.randn(shape) for shape in shapes]


# What an axis is


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ([(2, 3, 4, 5), (2, 3, 6, 5), (2, 3, 4, 7)], Axes(height=2)),
        ([(2, 4, 5, 3), (2, 6, 5, 3), (2, 4, 7, 3)], Axes(height=1)),
        ([(2, 3, 20), (2, 3, 30), (2, 3, 28)], Axes(merged=2)),
        ([(2, 3, 1, 1)] * 3, Axes()),
        ([(2, 3), (2, 3), (2, 3)], Axes()),
        ([(2, 3, 4, 1), (2, 3, 6, 1), (2, 3, 4, 1)], Axes(height=2)),
        ([(2, 3, 1, 5), (2, 3, 1, 5), (2, 3, 1, 7)], Axes()),
    ],
)
def test_axes_are_known_by_what_changes_them(shapes: list[tuple[int, ...]], expected: Axes) -> None:
    assert axes(runs(*shapes)) == expected


@pytest.mark.parametrize(
    "shapes", [[(4, 4), (6, 6), (4, 4)], [(2, 3), (2, 3, 1), (2, 3)], [(9, 9), (16, 16), (9, 16)]]
)
def test_axes_that_cannot_be_told_are_refused(shapes: list[tuple[int, ...]]) -> None:
    with pytest.raises(Mismatch):
        axes(runs(*shapes))


def test_expand_repeats_along_depth() -> None:
    images = runs((2, 3, 4, 5), (2, 3, 6, 5), (2, 3, 4, 7))
    volume = expand(images)
    assert volume.shape == (2, 3, 4, 4, 5)
    assert all(torch.equal(part, images[0]) for part in volume.unbind(2))
    tokens = [image.flatten(2) for image in runs((2, 3, 4, 4), (2, 3, 6, 4), (2, 3, 4, 6))]
    assert torch.equal(expand(tokens), torch.cat([tokens[0]] * 4, 2))
    pooled = runs(*[(2, 3, 1, 1)] * 3)
    assert torch.equal(expand(pooled), pooled[0].unsqueeze(2))
    fixed = runs(*[(2, 3, 7, 7)] * 3)
    assert expand(fixed).shape == (2, 3, 7, 7, 7) and expand(fixed, False).shape == (2, 3, 1, 7, 7)
    nested = expand([{"a": [image], "b": None} for image in images])
    assert torch.equal(nested["a"][0], volume) and nested["b"] is None
    assert expand([4, 6, 4]) == expand([4, 4, 6]) == 4  # a height or a width
    for values in ([16, 24, 28], ["a", "b", "a"]):
        with pytest.raises(Mismatch, match="depends on the size"):
            expand(values)


@pytest.mark.parametrize("spoil", ["value", "depth", "rank", "shape", "parts"])
def test_compare_finds_what_differs(spoil: str) -> None:
    images = runs((2, 3, 4, 5), (2, 3, 6, 5), (2, 3, 4, 7))
    good = expand(images)
    compare(good, images, True, "it")
    ends = good.clone()
    ends[:, :, 0] = 9  # the ends do not count
    compare(ends, images, True, "it")
    middle = good.clone()
    middle[0, 0, 2, 0, 0] += 1
    bad: Any = {
        "value": middle,
        "depth": good[:, :, :3],
        "rank": images[0],
        "shape": good[..., :4],
        "parts": (good, good),
    }[spoil]
    with pytest.raises(Mismatch, match="it "):
        compare(bad, images, True, "it")


# Trying


class Calls(nn.Module):
    """Calls its parts in an order that depends on the rank."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.ReLU(), nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x)) if x.dim() == 4 else self.a(self.b(x))


class Halves(nn.Module):
    """Gives its part something else on volumes."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.part(x if x.dim() == 4 else x / 2)


class Huge(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(2)
        return rows.transpose(1, 2) @ rows


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Calls, "calls other modules"),
        (Halves, "what it gives to ReLU is not"),
        (Huge, "every voxel with every other"),
    ],
)
def test_attempts_say_why_they_fail(kind: type[nn.Module], message: str) -> None:
    module = kind()
    calls, _ = record(module, [(torch.randn(1, 2, 64, 64),)], no_leaf)
    with pytest.raises(Mismatch, match=message):
        attempt(calls[module], module.forward, True)
    parts: Any = module
    assert all("forward" not in vars(m) for m in parts.modules())


def test_rank_free_modules_pass() -> None:
    net = nn.Sequential(nn.ReLU(True), nn.GroupNorm(1, 3), nn.Flatten())
    calls, _ = record(net, [(torch.randn(1, 3, 8, 8),)], no_leaf)
    for module in net.modules():
        if not isinstance(module, nn.Flatten | nn.Sequential):
            attempt(calls[module], module.forward, True)


class Adds(nn.Module):
    """Changes what it is given, and what the layer that it calls gives."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x += 1
        y: Tensor = self.layer(x.clone())
        y += x
        return y


def test_what_changes_tensors_in_place_is_tried_on_copies() -> None:
    net = Adds()
    calls, _ = record(net, [(torch.zeros(2, 1, 4, 4),)], no_leaf)
    frames = calls[net]
    attempt(frames, net.forward, True)
    assert (frames[0].args[0] == 0).all() and (frames[0].output == 2).all()
    shared = expand([frame.args[0] for frame in frames], shared=True)
    with pytest.raises(RuntimeError, match="single memory location"):
        shared += 1
