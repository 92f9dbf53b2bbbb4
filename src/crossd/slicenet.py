"""A network asked about the slices of a volume: a 2D network alone, or beside a 3D answer."""

import torch
from torch import Tensor, nn

from crossd.errors import InputError
from crossd.nn.conv import CrossDConv, has_views
from crossd.nn.kernel_modes import VIEWS, view
from crossd.nn.layers import is_volume
from crossd.options import ANSWERS, choice

LABELLED = 3
"""Slices an axis where volumes have a label: at 1/4, 1/2 and 3/4, as in training."""

LEAST = 1e-8
"""Probability below which logarithms stop."""


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

    def __init__(self, net: nn.Module, count: int = LABELLED) -> None:
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
            return torch.stack(masks).softmax(2).mean(0).clamp_min(LEAST).log()
        logits = torch.cat(answers, dim=1)  # (n, slices, k)
        if self.average == "logits":
            return logits.mean(1)
        return logits.softmax(2).mean(1).clamp_min(LEAST).log()

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


class Both(nn.Module):
    """Average what a Cross-D network says of a volume and of the volume's slices.

    The weights are the same: the 3D kernels see the volume, the 2D kernels of each view see its
    slices. The two err differently; how much the average gains is in docs/results.

    Args:
        net: A Cross-D network.
        count: As of `SliceNet`.

    Attributes:
        average: As of `SliceNet`.

    Example:
        >>> net = nn.Sequential(nn.Flatten(2), nn.AdaptiveAvgPool1d(1), nn.Flatten())
        >>> Both(net)(torch.zeros(3, 2, 8, 8, 8)).exp()[0]
        tensor([0.5000, 0.5000])
    """

    def __init__(self, net: nn.Module, count: int = LABELLED) -> None:
        super().__init__()
        self.net = net
        self.slices = SliceNet(net, count)
        self.average = "probabilities"

    def forward(self, x: Tensor) -> Tensor:
        """Answer on volumes as `SliceNet` does; images go to the network itself."""
        if not is_volume(x, self):
            return self.net(x)
        self.slices.average = self.average
        answers = torch.stack([self.net(x), self.slices(x)])
        if self.average == "logits":
            return answers.mean(0)
        return answers.softmax(2).mean(0).clamp_min(LEAST).log()


def answering(net: nn.Module, answer: str, task: str) -> nn.Module:
    """Let a network answer on volumes in one of three ways.

    Args:
        net: Takes images and volumes; images alone suffice for ``"slices"``.
        answer: ``"volume"`` (by its 3D kernels), ``"slices"`` (by its 2D kernels, on slices in all
            three views) or ``"both"`` (the mean of both).
        task: ``"classification"`` takes nine slices of a volume, ``"segmentation"`` all.

    Returns:
        A network that shares the weights of `net`; `net` itself for ``"volume"``.

    Raises:
        InputError: "--answer ..." when there is no such way, or the 2D kernels have no views.
    """
    choice(answer, ANSWERS, "--answer")
    if answer == "volume":
        return net
    solid = any(isinstance(m, nn.Conv3d) and not isinstance(m, CrossDConv) for m in net.modules())
    if solid or (answer == "both" and not has_views(net)):
        what = "images" if answer == "slices" else "images in views (projection and slice modes)"
        raise InputError(f"--answer {answer} is for networks that take {what}; these do not")
    count = 0 if task == "segmentation" else LABELLED
    return SliceNet(net, count) if answer == "slices" else Both(net, count)
