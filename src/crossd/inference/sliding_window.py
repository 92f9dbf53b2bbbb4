"""Answers on volumes of any size: windows that slide, blended, slab by slab."""

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from crossd.data.shapes import fit

OVERLAP = 0.5
"""Share of a window that the next one covers too."""

AT_ONCE = 16
"""Planes that are given at once."""

FLIPS = tuple(axes for n in range(4) for axes in itertools.combinations((2, 3, 4), n))
"""The eight ways of mirroring a volume (N, C, D, H, W)."""


def probabilities(net: nn.Module, flips: bool = False) -> Callable[[Tensor], Tensor]:
    """Make a function from windows ``(N, C, d, h, w)`` to class probabilities of the same size.

    Args:
        net: Gives logits ``(N, K, d, h, w)``.
        flips: Average over windows mirrored along all axes.
    """

    def answer(x: Tensor) -> Tensor:
        total = net(x).float().softmax(1)
        if not flips:
            return total
        for axes in FLIPS[1:]:
            total += net(x.flip(axes)).float().flip(axes).softmax(1)
        return total.div_(len(FLIPS))

    return answer


@torch.no_grad()
def slabs(
    answer: Callable[[Tensor], Tensor],
    volume: Tensor,
    patch: Sequence[int],
    fill: float | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Answer on a volume from its first plane to its last, a few planes at a time.

    Windows of the size of a patch slide over it, blended with Gaussian weights: what MONAI's
    ``sliding_window_inference`` gives. But no more than the planes of one window are in memory, so
    that it does not grow with the number of classes times that of voxels.

    Args:
        answer: From windows ``(N, C, d, h, w)`` to probabilities ``(N, K, d, h, w)``.
        volume: Shape ``(C, D, H, W)``.
        patch: Size of the windows, ``(d, h, w)``.
        fill: What smaller volumes are padded with; None takes their least value.

    Yields:
        The first plane, and the probabilities ``(K, n, H, W)`` of n planes that are done, at most
        `AT_ONCE`.

    Example:
        >>> x = torch.rand(1, 10, 8, 8)
        >>> parts = list(slabs(lambda w: torch.cat([w, 1 - w], 1), x, (4, 4, 4)))
        >>> torch.allclose(torch.cat([p for _, p in parts], 1)[0], x[0], atol=1e-6)
        True
    """
    from monai.data.utils import compute_importance_map

    sides = volume.shape[1:]
    whole = [max(have, want) for have, want in zip(sides, patch, strict=True)]
    if tuple(whole) != tuple(sides):
        volume = fit(volume, whole, float(volume.min()) if fill is None else fill)
    before = [(padded - side) // 2 for padded, side in zip(whole, sides, strict=True)]
    inside = [slice(n, n + side) for n, side in zip(before, sides, strict=True)]
    # On the processor, as MONAI reads the least of them: from a GPU that would wait for it.
    weights = compute_importance_map(tuple(patch), mode="gaussian").to(volume, non_blocking=True)
    down, *across = (_starts(side, want) for side, want in zip(whole, patch, strict=True))
    count = torch.zeros(patch[0], *whole[1:], dtype=weights.dtype, device=weights.device)
    total = count[None, :0]
    for start, following in itertools.pairwise([*down, whole[0]]):
        for y, x in itertools.product(*across):
            rows, columns = slice(y, y + patch[1]), slice(x, x + patch[2])
            found = answer(volume[None, :, start : start + patch[0], rows, columns])[0]
            if not total.numel():  # now the number of classes is known
                total = count.new_zeros(len(found), *count.shape)
            total[:, :, rows, columns].addcmul_(found, weights)
            count[:, rows, columns] += weights
            del found  # before the next is made
        first = max(start, inside[0].start)
        last = min(following, inside[0].stop)
        for plane in range(first, last, AT_ONCE):
            own = slice(plane - start, min(plane + AT_ONCE, last) - start)
            place = (own, inside[1], inside[2])
            yield plane - before[0], total[:, *place] / count[place]
        _pass_on(total, 1, following - start)
        _pass_on(count, 0, following - start)


def _starts(side: int, window: int) -> list[int]:
    """List where windows begin along an axis, the last at its end."""
    return [*range(0, side - window, max(1, int(window * (1 - OVERLAP)))), side - window]


def _pass_on(x: Tensor, axis: int, done: int) -> None:
    """Move planes along an axis to the front by so many, in place; what follows them is 0."""
    size = x.shape[axis]
    for place in range(0, size - done, done):  # in parts that do not overlap
        length = min(done, size - done - place)
        x.narrow(axis, place, length).copy_(x.narrow(axis, place + done, length))
    x.narrow(axis, max(0, size - done), min(done, size)).zero_()


def classes(
    net: nn.Module, volume: Tensor, patch: Sequence[int], fill: float | None = None
) -> Tensor:
    """Give the class of every voxel of a volume ``(C, D, H, W)``, uint8, by windows of a patch."""
    parts = slabs(probabilities(net), volume, patch, fill)
    return torch.cat([likeliest(found) for _, found in parts])


def likeliest(found: Tensor) -> Tensor:
    """Give the class that is likeliest by probabilities ``(K, ...)``, uint8, ``(...)``.

    Example:
        >>> likeliest(torch.tensor([[0.2, 0.6], [0.8, 0.4]]))
        tensor([1, 0], dtype=torch.uint8)
    """
    return found.max(0).indices.to(torch.uint8)  # twice as fast as argmax
