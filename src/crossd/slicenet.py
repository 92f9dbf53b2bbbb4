"""A 2D network as a network for volumes: the rival that is hardest to beat."""

import torch
from torch import Tensor, nn

from crossd.kernels import VIEWS
from crossd.layers import is_volume


class SliceNet(nn.Module):
    """Run a 2D network on slices along three axes and average what it says.

    With labels, `count` evenly spaced slices an axis are used. Averaged logits are what a linear
    layer says of averaged features, so training this network's last layer is training a linear
    head on pooled features. With masks, all slices are used, and each voxel's probabilities are
    averaged over the three axes.

    Args:
        net: From images ``(N, C, H, W)`` to logits ``(N, K)`` or ``(N, K, H, W)``.
        count: Slices an axis; 0 takes all, as a network for masks needs.

    Attributes:
        average: ``"probabilities"`` or ``"logits"``; masks always use probabilities.

    Example:
        >>> net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2))
        >>> SliceNet(net)(torch.zeros(3, 1, 8, 8, 8)).shape
        torch.Size([3, 2])
    """

    def __init__(self, net: nn.Module, count: int = 3) -> None:
        super().__init__()
        self.net = net
        self.count = count
        self.average = "probabilities"

    def forward(self, x: Tensor) -> Tensor:
        """Answer on volumes ``(N, C, D, H, W)``: logits ``(N, K)`` or ``(N, K, D, H, W)``."""
        if not is_volume(x, self):
            return self.net(x)
        answers = [self._along(x, axis) for axis in range(len(VIEWS))]
        if answers[0].dim() == x.dim():
            return torch.stack(answers).softmax(2).mean(0).clamp_min(1e-8).log()
        logits = torch.cat(answers, dim=1)  # (n, slices, k)
        if self.average == "logits":
            return logits.mean(1)
        return logits.softmax(2).mean(1).clamp_min(1e-8).log()

    def _along(self, x: Tensor, axis: int) -> Tensor:
        """Logits of the slices across an axis: ``(N, S, K)`` or ``(N, K, D, H, W)``."""
        n, size = x.shape[0], x.shape[2 + axis]
        images = x.movedim(2 + axis, 1)  # (n, s, c, ...)
        answers = self.net(self._pick(images, size).flatten(0, 1))
        if answers.dim() == 2:
            return answers.unflatten(0, (n, -1))
        if answers.shape[0] != n * size:  # it turned out to answer with masks
            raise ValueError("a network for masks must be asked about every slice")
        return answers.unflatten(0, (n, size)).movedim(1, 2 + axis)

    def _pick(self, images: Tensor, size: int) -> Tensor:
        if self.count == 0:
            return images
        places = [size * (i + 1) // (self.count + 1) for i in range(self.count)]
        return images[:, places]
