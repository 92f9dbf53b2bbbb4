"""Answers on volumes of any size: windows that slide, blended, slab by slab."""

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

OVERLAP = 0.5
"""Share of a window that the next one covers too."""

FLIPS = tuple(axes for n in range(4) for axes in itertools.combinations((2, 3, 4), n))
"""The eight ways of mirroring a volume (N, C, D, H, W)."""


def probabilities(net: nn.Module, flips: bool = False) -> Callable[[Tensor], Tensor]:
    """Make a function from windows ``(N, C, ...)`` to class probabilities of the same size.

    Args:
        net: Gives logits ``(N, K, ...)``.
        flips: Average over windows mirrored along all axes.
    """

    def answer(x: Tensor) -> Tensor:
        ways = [axes for axes in FLIPS if all(axis < x.dim() for axis in axes)] if flips else [()]
        total = torch.zeros(())
        for axes in ways:
            logits = net(x.flip(axes) if axes else x).float()
            total = total + (logits.flip(axes) if axes else logits).softmax(1)
        return total / len(ways)

    return answer


@torch.no_grad()
def slabs(
    answer: Callable[[Tensor], Tensor],
    volume: Tensor,
    patch: Sequence[int],
    overlap: float = OVERLAP,
    batch: int = 1,
) -> Iterator[tuple[int, Tensor]]:
    """Answer on a volume from its first plane to its last, a few planes at a time.

    Windows of the size of a patch slide over it, blended with Gaussian weights as MONAI's
    ``sliding_window_inference`` does; but no more than the planes of one window are in memory, so
    that it does not grow with the number of classes times that of voxels.

    Args:
        answer: From windows ``(N, C, d, h, w)`` to probabilities ``(N, K, d, h, w)``.
        volume: Shape ``(C, D, H, W)``.
        patch: Size of the windows, ``(d, h, w)``. Smaller volumes are padded with their least
            value.
        overlap: Share of a window that the next one covers too.
        batch: Windows that are answered at once.

    Yields:
        The first plane, and the probabilities ``(K, n, H, W)`` of n planes that are done.

    Example:
        >>> x = torch.rand(1, 10, 8, 8)
        >>> parts = list(slabs(lambda w: torch.cat([w, 1 - w], 1), x, (4, 4, 4)))
        >>> torch.allclose(torch.cat([p for _, p in parts], 1)[0], x[0], atol=1e-6)
        True
    """
    from monai.data.utils import compute_importance_map

    lack = [max(0, want - have) for have, want in zip(volume.shape[1:], patch, strict=True)]
    margins = [side for gap in reversed(lack) for side in (gap // 2, gap - gap // 2)]
    padded = F.pad(volume, margins, value=float(volume.min())) if any(lack) else volume
    depth, size = padded.shape[1], tuple(patch)
    step = max(1, int(size[0] * (1 - overlap)))
    starts = [*range(0, depth - size[0], step), depth - size[0]]
    weights = compute_importance_map((size[0], 1, 1), mode="gaussian", device=volume.device)[:, 0]
    weights = weights[:, None].to(volume.dtype)  # (d, 1, 1)
    if len(starts) == 1:
        weights = torch.ones_like(weights)
    rest, count = None, torch.zeros_like(weights)
    for start, following in zip(starts, [*starts[1:], depth], strict=True):
        total = _across(answer, padded[:, start : start + size[0]], size, overlap, batch)
        total.mul_(weights)  # in place all along: K x d x H x W is what takes memory
        if rest is not None:
            total[:, : rest.shape[1]].add_(rest)
        count = count + weights
        done = min(following - start, size[0])
        rest = total[:, done:].clone()
        first, last = max(start, lack[0] // 2), min(start + done, depth - (lack[0] - lack[0] // 2))
        if last > first:
            part = slice(first - start, last - start)
            y, x = (
                slice(gap // 2, gap // 2 + n)
                for gap, n in zip(lack[1:], volume.shape[2:], strict=True)
            )
            yield first - lack[0] // 2, total[:, part, y, x].div_(count[part])
        del total
        count = torch.cat((count[done:], torch.zeros_like(count[:done])))


def _across(
    answer: Callable[[Tensor], Tensor],
    slab: Tensor,
    size: tuple[int, ...],
    overlap: float,
    batch: int,
) -> Tensor:
    """Answer on a slab as deep as a window, ``(K, d, H, W)``."""
    from monai.inferers.utils import sliding_window_inference

    if slab.shape[2:] == size[1:]:
        return answer(slab[None])[0].clone(memory_format=torch.contiguous_format)
    found = sliding_window_inference(
        slab[None], size, batch, answer, overlap=overlap, mode="gaussian"
    )
    assert isinstance(found, Tensor)
    return found[0]


def classes(net: nn.Module, volume: Tensor, patch: Sequence[int], flips: bool = False) -> Tensor:
    """Give the class of every voxel of a volume.

    Args:
        net: Gives logits ``(N, K, d, h, w)``; in evaluation mode.
        volume: Shape ``(C, D, H, W)``.
        patch: Size of the windows.
        flips: Average over mirrored windows.

    Returns:
        Shape ``(D, H, W)``, uint8.
    """
    parts = slabs(probabilities(net, flips), volume, patch)
    return torch.cat([found.argmax(0).to(torch.uint8) for _, found in parts])
