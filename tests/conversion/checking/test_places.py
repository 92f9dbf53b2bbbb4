"""Slices keep their places: what volumes that repeat an image cannot show is refused."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from helpers import some
from torch import Tensor, nn

from crossd.conversion.convert import convert
from crossd.errors import InputError


class Between(nn.Module):
    """Two convolutions with something between them that nobody watches."""

    def __init__(self, between: Callable[[Tensor], Tensor], padding: int, last: int = 0) -> None:
        super().__init__()
        self.first, self.between = nn.Conv2d(3, 8, 3, padding=padding), between
        self.second, self.last = nn.Conv2d(8, 8, 3, padding=last), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.second(self.between(self.first(x))))
        return y


def padded_by_hand(y: Tensor) -> Tensor:
    y = torch.cat((y[..., -1:], y, y[..., :1]), 3)
    return torch.cat((y[..., -1:, :], y, y[..., :1, :]), 2)


def normed_behind_a_pad(y: Tensor) -> Tensor:
    y = F.pad(y, (1, 1, 1, 1)).permute(0, 2, 3, 1)
    return F.layer_norm(y, (8,)).permute(0, 3, 1, 2)


def flattened_behind_a_pad(y: Tensor) -> Tensor:
    y = F.pad(y, (1, 1, 1, 1))
    return y.flatten(2).sigmoid().view_as(y)


@pytest.mark.parametrize(
    "between",
    [padded_by_hand, normed_behind_a_pad, flattened_behind_a_pad],
    ids=lambda f: f.__name__,
)
def test_slices_that_get_lost_are_refused(between: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(InputError, match="with 30 slices, where such maps had 32 before"):
        convert(Between(between, 1))


@pytest.mark.parametrize(
    "cut",
    [
        lambda y: y[:, :, 1:-1][..., 1:-1],
        lambda y: y.narrow(2, 1, y.shape[2] - 2).narrow(3, 1, y.shape[3] - 2),
        lambda y: y.permute(0, 2, 3, 1)[:, 1:-1, 1:-1].permute(0, 3, 1, 2),
        lambda y: y.split((1, y.shape[2] - 2, 1), 2)[1].split((1, y.shape[3] - 2, 1), 3)[1],
    ],
    ids=["two steps", "narrow", "channels last", "split"],
)
def test_slices_that_are_added_are_refused(cut: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(InputError, match="with 34 slices, where such maps had 32 before"):
        convert(Between(cut, 2, 1))


def test_an_answer_that_is_cut_last_is_seen_too() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, padding=2)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.conv(x)
            return y[:, :, 1:-1][..., 1:-1]

    with pytest.raises(InputError, match="of 32 slices it makes 34"):
        convert(Last())


def test_an_end_that_has_no_part_in_an_answer_is_refused() -> None:
    class Quarters(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> list[Tensor]:
            y = self.conv(x).relu()
            h, w = y.shape[2] // 2, y.shape[3] // 2
            quarters = y[:, :, :h, :w], y[:, :, :h, w:], y[:, :, h:, :w], y[:, :, h:, w:]
            return [self.head(quarter.mean((2, 3))) for quarter in quarters]

    with pytest.raises(InputError, match="slices have no part in an answer"):
        convert(Quarters())


@pytest.mark.parametrize(
    "between",
    [
        lambda y: F.pad(y, (1, 1, 1, 1)),
        lambda y: F.pad(y, (1, 1, 1, 1)).relu(),
        lambda y: F.pad(y, (1, 1, 1, 1), "reflect"),
    ],
    ids=["pad", "pad and relu", "reflect"],
)
def test_slices_of_padded_maps_keep_their_places(between: Callable[[Tensor], Tensor]) -> None:
    """New 2D weights stand in the middle of the kernels: slices are answered one by one."""
    net = convert(Between(between, 1)).eval()
    x = torch.randn(2, 3, 12, 16, 20)
    with torch.no_grad():
        each = torch.stack([net(one) for one in x.unbind(2)], 2)
        torch.testing.assert_close(net(x), each)


def test_convolutions_without_padding_may_lose_slices() -> None:
    net = convert(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3)))
    assert net(torch.zeros(1, 3, 12, 16, 20)).shape == (1, 2, 8, 12, 16)


def test_enlarged_by_repeating_keeps_both_ends() -> None:
    def enlarged(y: Tensor) -> Tensor:
        return F.max_pool2d(y, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)

    assert convert(Between(enlarged, 1, 1))(torch.zeros(1, 3, 12, 16, 20)).shape[2] == 12


# What a slice shows is answered where it is


EVEN = {
    "same": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 4, padding="same"), nn.ReLU(), nn.Conv2d(4, 2, 4, padding="same")
    ),
    "there and back": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 2, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 2)
    ),
    "transposed": lambda: nn.Sequential(
        nn.ConvTranspose2d(1, 4, 2), nn.ReLU(), nn.ConvTranspose2d(4, 2, 2, padding=1)
    ),
    "causal": lambda: nn.Sequential(
        nn.ZeroPad2d((1, 1, 2, 0)),
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        nn.ZeroPad2d((2, 2, 4, 0)),
        nn.Conv2d(4, 2, 3, dilation=2),
    ),
}


@pytest.mark.parametrize("name", EVEN)
def test_a_slice_is_answered_where_it_is(name: str) -> None:
    net = convert(EVEN[name]()).eval()
    volumes = torch.randn(1, 1, 16, 9, 10)
    other = volumes.clone()
    other[:, :, 7] += 1
    with torch.no_grad():
        change = (net(other) - net(volumes)).abs().mean((0, 1, 3, 4))
    places = torch.arange(16.0)
    assert (change * places).sum() / change.sum() == pytest.approx(7, abs=0.2)


class Chomped(nn.Module):
    """Looks above and to the left alone: pads both ends, and cuts one."""

    padding = 2

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=self.padding)
        self.last = nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.between(self.first(x).relu()))
        return y

    def between(self, x: Tensor) -> Tensor:
        return x[:, :, :-2, :-2]


class Halved(Chomped):
    """Adds to each image another one of its batch."""

    padding = 1

    def between(self, x: Tensor) -> Tensor:
        half = len(x) // 2
        return x + torch.cat((x[half:], x[:half]))


class Rolled(Chomped):
    """Moves the middle of everything to its beginning, and batches with it."""

    padding = 1

    def between(self, x: Tensor) -> Tensor:
        return torch.fft.fftshift(x).abs()


@pytest.mark.parametrize("kind", [Chomped, Halved])
@pytest.mark.parametrize("label", [True, False])
def test_masks_that_come_out_moved_are_refused(kind: type[Chomped], label: bool) -> None:
    class Mask(kind):  # type: ignore[misc, valid-type]
        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = super().forward(x)
            return y.argmax(1, keepdim=True) if label else y > 0

    with pytest.raises(InputError, match="come out moved along depth"):
        convert(Mask())


def test_what_cannot_be_looked_at_is_said() -> None:
    net = convert(Chomped(), example=torch.randn(2, 1, 132, 8))
    said = "whether slices are answered where they are cannot be seen: images are more than 128"
    assert said in str(net.conversion)


@pytest.mark.parametrize("kind", [Chomped, Halved, Rolled])
@pytest.mark.parametrize("lift", ["center", None])
@pytest.mark.parametrize("mode", some(["projection", "fourier"], ["projection"]))
def test_volumes_that_come_out_moved_are_refused(
    kind: type[nn.Module], lift: str | None, mode: str
) -> None:
    with pytest.raises(InputError, match="come out moved along depth: what changes slice 8 of "):
        convert(kind(), mode, lift=lift)
