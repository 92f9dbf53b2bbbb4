"""What a network answers on images and on volumes that repeat them, and how far answers differ."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from crossd.conversion.checking.examples import Given, maps_of, one_line, shapes
from crossd.conversion.checking.perturbed import Ends
from crossd.conversion.folding.containers import is_measured, mapped, tensors_in
from crossd.conversion.folding.modules import state_of
from crossd.conversion.folding.run import Folding, repeated
from crossd.errors import InputError
from crossd.nn.views import replicated_ends, view

Value = TypeVar("Value")


TOLERATED = 1e-3
"""Largest difference between the answers, relative to the largest answer, that is no fault."""


SAME = 1e-5
"""Largest such difference between calls that the order of sums makes; others are random."""


LARGEST = 128
"""Longest side of images that are repeated along height and width too, which takes whole cubes;
and most slices of a volume that is tried."""


DEPTHS = (8, 16, 32, 64)
"""Depths of the volumes that repeat an image along depth, until the network takes one."""


class Refused(InputError):
    """A way of taking the other rank that does not work; another one may."""


class CannotRun(Refused):
    """Code stops with an error."""


class Unsteady(Refused):
    """Answers that tell nothing: they are not finite, or rounding alone changes them."""


def alike(
    net: nn.Module, folding: Folding, given: Given, axis: int
) -> tuple[Given, Given, list[Tensor]]:
    """Make images, and volumes that repeat them along an axis; with its answers on these."""
    first, images = maps_of(given, folding.rank), images_of(given, folding.rank, axis)
    if folding.rank == 3:
        counts: Sequence[int] = (first.shape[2 + axis],)
    elif axis == 0:
        counts = DEPTHS
    elif max(first.shape[2:]) > LARGEST:
        raise Refused(
            f"images of {first.shape[2]} x {first.shape[3]} are too large for cubes of them: it "
            f"was not looked at; give an example of at most {LARGEST} pixels a side"
        )
    else:
        counts = (16, 3 * min(first.shape[2:]), first.shape[2 if axis == 1 else 3])
    failed: Refused | None = None
    left = [*counts]
    while left:
        count = left.pop(0)
        volumes = repeated(images, maps_of(images, 2), count, axis)
        try:
            solid = answers_of(net, volumes, "volumes", axis)
            seen = state_of(net).last.seen
            if seen.attentions and seen.tokens_deep < 2 and count < DEPTHS[-1]:
                continue  # one token deep: attention over depth would not be seen
            return images, volumes, solid
        except Refused as error:
            failed = error
            enough = getattr(error.__cause__, "enough", 0)
            if enough > count:  # shallower ones fail alike; the deepest would fill the memory
                left = [more for more in left if more >= enough]
                left = left or [enough] * (enough <= LARGEST)
    assert failed is not None
    raise failed


def images_of(given: Given, rank: int, axis: int) -> Given:
    """Take the first images along an axis of volumes and of their labels; images as they are."""
    first = maps_of(given, rank)
    labels = first.shape[:1] + first.shape[2:]

    def flat(value: Tensor) -> Tensor:
        wide = value.dim() == 5 or value.shape == labels
        return value.select(value.dim() - 3 + axis, 0) if wide else value

    return mapped(flat, given) if rank == 3 else given


def answers_of(net: nn.Module, given: Given, what: str, axis: int) -> list[Tensor]:
    """Run a network in a view, volumes with their ends continued; gives its tensors."""
    try:
        with torch.no_grad(), view(axis), _ends(net, axis, what):
            answers = tensors_in(net(*given))
    except Exception as error:  # whatever a network of others may raise
        raise CannotRun(f"it cannot run on {what} {shapes(given)} ({one_line(error)})") from error
    if not answers:
        raise Refused(f"its answer on {what} {shapes(given)} holds no tensor that is found")
    if not all(v.isfinite().all() for v in answers):
        raise Unsteady(f"its answer on {what} {shapes(given)} is not finite")
    answers = [v for v in answers if is_measured(v)] or answers
    if what == "volumes" and _repeats(net):  # images get the mean along the axis
        wide = [v.dim() >= 4 and is_measured(v) for v in answers]
        place = -3 + axis
        return [v.mean(place, True) if w else v for v, w in zip(answers, wide, strict=True)]
    return answers


def _repeats(net: nn.Module) -> bool:
    """Tell whether images are repeated to whole volumes, so that both are one computation."""
    repeat: int = state_of(net).folding.repeat
    return repeat > 1


@contextmanager
def _ends(net: nn.Module, axis: int, what: str) -> Iterator[None]:
    if what == "images" or _repeats(net):
        yield
    else:
        with replicated_ends((axis,)), Ends(axis):
            yield


def as_volumes(flat: list[Tensor], solid: list[Tensor], axis: int) -> list[Tensor]:
    """Repeat answers on images along the axis.

    It stands where it does among the last three axes; of maps with channels last, behind the first.
    """
    if len(flat) != len(solid):
        raise Refused(f"it gives {len(flat)} tensors on images and {len(solid)} on volumes")
    repeated = []
    for image, volume in zip(flat, solid, strict=True):
        wide = image
        if image.dim() == volume.dim() - 1:
            for place in (volume.dim() - 3 + axis, 1):
                if volume.shape[:place] + volume.shape[place + 1 :] == image.shape:
                    wide = image.unsqueeze(place).expand_as(volume)
                    break
        if wide.shape != volume.shape:
            raise Refused(
                f"it gives {tuple(image.shape)} on images and {tuple(volume.shape)} on volumes"
            )
        repeated.append(wide)
    return repeated


def difference(actual: list[Tensor], expected: list[Tensor]) -> float:
    """The largest difference, relative to the largest number; of labels the share that differs."""
    pairs = [(a, b) for a, b in zip(actual, expected, strict=True) if a.numel()]
    labels = [(a, b) for a, b in pairs if not is_measured(a)]
    numbers = [(a, b) for a, b in pairs if is_measured(a)]
    scale = max((float(b.abs().max()) for _, b in numbers), default=0.0) or 1.0
    found = [float((a - b).abs().max()) / scale for a, b in numbers]
    found += [float((a != b).double().mean()) for a, b in labels]
    return max((math.inf if math.isnan(one) else one for one in found), default=0.0)


def moved_a_little(images: Given) -> Given:
    """Change what a network is given in float64 by no more than rounding may."""
    generator = torch.Generator().manual_seed(0)

    def moved_a_little(value: Tensor) -> Tensor:
        if value.dtype != torch.float64:
            return value
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        return value * (1 + 1e-13 * noise.to(value.device))

    return mapped(moved_a_little, images)


def double_all(value: Value) -> Value:
    """Bring the tensors in containers to float64."""
    return mapped(lambda one: one.double() if one.is_floating_point() else one, value)
