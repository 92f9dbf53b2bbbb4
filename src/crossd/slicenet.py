"""A 2D network as a network for volumes: the rival that is hardest to beat."""

import torch
from torch import Tensor, nn

from crossd.kernels import VIEWS, view
from crossd.layers import is_volume
from crossd.nn import has_views


class SliceNet(nn.Module):
    """Run a 2D network on slices along three axes and average what it says.

    With labels, `count` evenly spaced slices an axis are used. Averaged logits are what a linear
    layer says of averaged features, so training this network's last layer is training a linear
    head on pooled features. With masks, all slices are used, and each voxel's probabilities are
    averaged over the three axes.

    Args:
        net: From images ``(N, C, H, W)`` to logits ``(N, K)`` or ``(N, K, H, W)``; of Cross-D, it
            sees slices of each axis in their own view.
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
        cut = [self._cut(x, axis) for axis in range(len(VIEWS))]  # (n, s, c, ...)
        images = [slices.flatten(0, 1) for slices in cut]
        alike = len({image.shape[1:] for image in images}) == 1
        if alike and (self.training or not has_views(self.net)):
            # One batch of all three views, as in 2D training: BatchNorm must see their mixture.
            counts = [len(image) for image in images]
            with view([axis for axis, count in enumerate(counts) for _ in range(count)]):
                each = self.net(torch.cat(images)).split(counts)
        else:
            each = [self._seen(image, axis) for axis, image in enumerate(images)]
        answers = [y.unflatten(0, (len(x), -1)) for y in each]  # (n, s, k, ...)
        if answers[0].dim() > 3:
            if self.count:
                raise ValueError("a network for masks must be asked about every slice: count=0")
            masks = [y.movedim(1, 2 + axis) for axis, y in enumerate(answers)]
            return torch.stack(masks).softmax(2).mean(0).clamp_min(1e-8).log()
        logits = torch.cat(answers, dim=1)  # (n, slices, k)
        if self.average == "logits":
            return logits.mean(1)
        return logits.softmax(2).mean(1).clamp_min(1e-8).log()

    def _seen(self, image: Tensor, axis: int) -> Tensor:
        with view(axis):
            answer: Tensor = self.net(image)
        return answer

    def _cut(self, x: Tensor, axis: int) -> Tensor:
        """Slices across an axis, shape ``(N, S, C, ...)``: `count` of them, or all."""
        size = x.shape[2 + axis]
        images = x.movedim(2 + axis, 1)
        if self.count == 0:
            return images
        return images[:, [size * (i + 1) // (self.count + 1) for i in range(self.count)]]
