"""Checking that slices keep their places: volumes that repeat an image cannot show that.

Maps of one size in the plane have one depth, no end of a volume is left out, and where one slice
alone changes, so do the answers there.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from crossd.conversion.checking.examples import Given
from crossd.conversion.folding.containers import is_measured, mapped, tensors_in
from crossd.conversion.folding.modules import named, state_of

FEW = 8
"""Slices up to which depths of maps may differ by rounding."""

Answer = Callable[[Given], list[Tensor]]
"""Runs a network on volumes."""


def misplaced(net: nn.Module, answer: Answer, volumes: Given) -> str:
    """Say where slices are lost, added or left out; nothing where all keep their places.

    Args:
        net: A converted 2D network in evaluation mode.
        answer: Runs it on volumes.
        volumes: What it takes, in any containers.
    """
    answers, where = _of_two_depths(net, answer, volumes)
    return where or _left_out(answer, volumes, answers)


def _of_two_depths(net: nn.Module, answer: Answer, volumes: Given) -> tuple[list[Tensor], str]:
    """Name the first module that gives maps of another depth than maps of their size have.

    Code that enlarges maps unseen repeats their pixels: depth is a part of what it was, and is
    brought back at the end. What is neither the same nor half of it or less was lost or added.

    Returns:
        What the network answers, and the sentence; an empty one where there is no such module.
    """
    found: list[str] = []

    def hook(path: str) -> Callable[..., None]:
        def look(module: nn.Module, given: object, maps: object) -> None:
            if found or not path or not isinstance(maps, Tensor) or maps.dim() != 4:
                return
            run = state_of(net).last
            depth, known = run.slices(maps), run.depth_at(*maps.shape[2:])
            if depth is not None and known is not None and _differ(depth, known):
                found.append(
                    f"{named(module, path)} gives maps of {maps.shape[2]} x {maps.shape[3]} with "
                    f"{depth} slices, where such maps had {known} before"
                )

        return look

    hooks = [m.register_forward_hook(hook(path)) for path, m in net.named_modules()]
    try:
        answers = answer(volumes)
    finally:
        for one in hooks:
            one.remove()
    if found:
        return answers, found[0]
    first = _first_volume(volumes)
    for value in answers:
        same = value.dim() == 5 and value.shape[3:] == first.shape[3:]
        if same and _differ(value.shape[2], first.shape[2]):
            return answers, f"of {first.shape[2]} slices it makes {value.shape[2]}"
    return answers, ""


def _differ(depth: int, known: int) -> bool:
    return max(depth, known) >= FEW and depth != known and 2 * min(depth, known) > max(depth, known)


def _left_out(answer: Answer, volumes: Given, before: list[Tensor]) -> str:
    """Say which end of a volume has no part in an answer in which the other end has one.

    Args:
        answer: Runs a network on volumes.
        volumes: What it takes.
        before: What it answers on them.
    """
    first = _first_volume(volumes)
    quarter = first.shape[2] // 4
    if not quarter:
        return ""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(first[:, :, :quarter].shape, generator=generator).to(first)

    def changed(place: int) -> list[bool]:
        def change(value: Tensor) -> Tensor:
            if value.shape != first.shape:
                return value
            other = value.clone()
            other[:, :, place : place + quarter] += noise
            return other

        given: Given = mapped(change, volumes)
        after = answer(given)
        return [not torch.equal(a, b) for a, b in zip(after, before, strict=True)]

    ends = changed(0), changed(first.shape[2] - quarter)
    for low, high in zip(*ends, strict=True):
        if low != high:
            which = "last" if low else "first"
            return f"the {which} {quarter} of {first.shape[2]} slices have no part in an answer"
    return ""


def displaced(answer: Answer, volumes: Given) -> str:
    """Say that a slice is answered elsewhere; nothing where it is not, or cannot be told.

    Padding that is made at one end, and cut at one end again, moves a map along each axis. In the
    plane kernels were trained for that; those that were lifted to the middle of a 3D one were not.
    What is answered within a few slices, as after little or no striding, is looked at alone.

    Args:
        answer: Runs a network with lifted kernels on volumes.
        volumes: What it takes; their slices are replaced by noise.
    """
    first = _first_volume(volumes)
    depth, slice_ = first.shape[2], first.shape[2] // 4
    generator = torch.Generator().manual_seed(0)
    noise, other = (torch.randn(first.shape, generator=generator).to(first) for _ in range(2))
    other[:, :, :slice_], other[:, :, slice_ + 1 :] = 0, 0

    def drawn(value: Tensor) -> Tensor:
        return noise if value.shape == first.shape else value

    def changed(value: Tensor) -> Tensor:
        return noise + other if value.shape == first.shape else value

    before, after = answer(mapped(drawn, volumes)), answer(mapped(changed, volumes))
    for one, two in zip(before, after, strict=True):
        if one.dim() != 5 or one.shape[2] != depth:
            continue
        apart = (two - one).abs() if is_measured(one) else (two != one).double()
        change = apart.transpose(0, 2).flatten(1).mean(1)
        change = change - change.min()  # what comes of the volume as a whole
        places = (change > change.max() / 2).nonzero().flatten().tolist()
        if not places:
            continue
        away = max(abs(place - slice_) for place in places)
        if len(places) <= SHARP and away >= len(places):
            where = " and ".join(map(str, places))
            return f"what changes slice {slice_} of a volume changes the answer at {where}"
    return ""


SHARP = 4
"""The most slices in an answer that tells where its slice was."""


def _first_volume(volumes: Given) -> Tensor:
    return next(v for v in tensors_in(volumes) if v.dim() == 5)
