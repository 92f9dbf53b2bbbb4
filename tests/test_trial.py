"""Running networks to learn what their modules do: nothing is changed, the law is what is held."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crossd import InputError
from crossd.trial import Axes, Mismatch, attempt, axes, compare, examples, expand, record


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
    with pytest.raises(Mismatch, match="numbers that depend"):
        expand([4, 6, 4])


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


# Recording


def test_recording_leaves_the_network_as_it_was() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.ReLU(True))
    net.eval()
    before = copy.deepcopy(net.state_dict()), [set(vars(m)) for m in net.modules()]
    state = torch.random.get_rng_state()
    calls, given = record(net, examples(net), no_leaf)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.testing.assert_close(net.state_dict(), before[0], rtol=0, atol=0)
    assert [set(vars(m)) for m in net.modules()] == before[1]
    assert set(calls) == set(net.modules()) and given[0].shape == (2, 3, 64, 64)
    whole = calls[net]
    assert [frame.args[0].shape[2:] for frame in whole] == [(64, 64), (96, 64), (64, 96)]
    assert [frame.module for frame in whole[0].inner] == list(net)
    # What a module was given and gave is kept as it was, whatever happens to it in place later.
    torch.testing.assert_close(calls[net[1]][0].output, calls[net[2]][0].args[0])
    assert (calls[net[2]][0].output < 0).any()


def test_examples_fit_the_first_layer() -> None:
    assert examples(nn.Sequential(nn.Linear(2, 2), nn.Conv2d(5, 1, 1)))[0][0].shape[1] == 5
    assert examples(nn.BatchNorm2d(7))[0][0].shape[1] == 7
    assert examples(nn.ReLU())[0][0].shape[1] == 3
    assert examples(nn.Conv2d(2, 2, 1).double())[0][0].dtype == torch.float64
    image = torch.zeros(1, 1, 8, 8)
    assert examples(nn.ReLU(), image) == [(image,)]
    assert examples(nn.ReLU(), (image, 3)) == [(image, 3)]


def test_larger_images_are_tried_when_small_ones_do_not_fit() -> None:
    net = nn.Conv2d(1, 1, 80)
    assert record(net, examples(net), no_leaf)[1][0].shape[2] == 96


def test_networks_that_cannot_run_are_refused_in_a_line() -> None:
    class Picky(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("wants\nsomething else")

    with pytest.raises(InputError, match=r"cannot run .*wants something else.*example=") as caught:
        record(Picky(), examples(Picky()), no_leaf)
    assert "\n" not in str(caught.value)


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 8, 8, 8), nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(self.conv(x).flatten(2).transpose(1, 2))
        return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)


class Multihead(Attends):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.conv(x).flatten(2).transpose(1, 2)
        return self.attention(tokens, tokens, tokens)[0]


@pytest.mark.parametrize(("kind", "path"), [(Attends, "0"), (Multihead, "0.attention")])
@pytest.mark.parametrize("training", [True, False])
def test_attention_is_refused_by_the_module_that_attends(
    kind: type[nn.Module], path: str, training: bool
) -> None:
    net = nn.Sequential(kind()).train(training)
    with pytest.raises(InputError, match=rf"cannot convert layer '{path}' .*attends to patches"):
        record(net, examples(net), no_leaf)


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
