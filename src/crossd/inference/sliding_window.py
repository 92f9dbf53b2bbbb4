"""Answers on volumes of any size: windows that slide, blended, slab by slab."""

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

OVERLAP = 0.5
"""Share of a window that the next one covers too."""

FLIPS = tuple(axes for n in range(4) for axes in itertools.combinations((2, 3, 4), n))
"""The eight ways of mirroring a volume (N, C, D, H, W)."""


def probabilities(net: nn.Module, flips: bool = False) -> Callable[[Tensor], Tensor]:
    """Make a function from windows ``(N, C, d, h, w)`` to class probabilities of the same size.

    Args:
        net: Gives logits ``(N, K, d, h, w)``.
        flips: Average over windows mirrored along all axes.
    """
    ways = FLIPS if flips else ((),)

    def answer(x: Tensor) -> Tensor:
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
    fill: float | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Answer on a volume from its first plane to its last, a few planes at a time.

    Windows of the size of a patch slide over it, blended with Gaussian weights as MONAI's
    ``sliding_window_inference`` does, which answers on the planes of one window; but no more than
    these are in memory, so that it does not grow with the number of classes times that of voxels.

    Args:
        answer: From windows ``(N, C, d, h, w)`` to probabilities ``(N, K, d, h, w)``, in memory of
            their own, as they are weighted in place.
        volume: Shape ``(C, D, H, W)``.
        patch: Size of the windows, ``(d, h, w)``.
        fill: What smaller volumes are padded with; None takes their least value.

    Yields:
        The first plane, and the probabilities ``(K, n, H, W)`` of n planes that are done.

    Example:
        >>> x = torch.rand(1, 10, 8, 8)
        >>> parts = list(slabs(lambda w: torch.cat([w, 1 - w], 1), x, (4, 4, 4)))
        >>> torch.allclose(torch.cat([p for _, p in parts], 1)[0], x[0], atol=1e-6)
        True
    """
    from monai.data.utils import compute_importance_map
    from monai.inferers.utils import sliding_window_inference

    least = float(volume.min()) if fill is None else fill

    def across(slab: Tensor) -> Tensor:
        """Answer on a slab that is no deeper than a window, ``(K, d, H, W)``."""
        alone = all(have <= want for have, want in zip(slab.shape[1:], patch, strict=True))
        mode = "constant" if alone else "gaussian"
        found = sliding_window_inference(
            slab[None], tuple(patch), 1, answer, overlap=OVERLAP, mode=mode, cval=least
        )
        assert isinstance(found, Tensor)
        return found[0]

    depth, deep = volume.shape[1], patch[0]
    if depth <= deep:
        yield 0, across(volume)
        return
    starts = [*range(0, depth - deep, max(1, int(deep * (1 - OVERLAP)))), depth - deep]
    weights = compute_importance_map((deep, 1, 1), mode="gaussian", device=volume.device)
    weights = weights.to(volume.dtype)
    rest, count = None, torch.zeros_like(weights)
    for start, following in zip(starts, [*starts[1:], depth], strict=True):
        total = across(volume[:, start : start + deep])
        total.mul_(weights)  # in place all along: K x d x H x W is what takes memory
        if rest is not None:
            total[:, : rest.shape[1]].add_(rest)
        count = count + weights
        done = following - start
        rest = total[:, done:].clone()
        yield start, total[:, :done].div_(count[:done])
        del total
        count = torch.cat((count[done:], torch.zeros_like(count[:done])))


def classes(
    net: nn.Module, volume: Tensor, patch: Sequence[int], fill: float | None = None
) -> Tensor:
    """Give the class of every voxel of a volume ``(C, D, H, W)``, uint8, by windows of a patch."""
    parts = slabs(probabilities(net), volume, patch, fill)
    return torch.cat([found.argmax(0).to(torch.uint8) for _, found in parts])
