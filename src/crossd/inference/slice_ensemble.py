"""Ways of asking a network about a volume: as it is, turned, by its slices, or both."""

import torch
from torch import Tensor, nn

from crossd.conversion.views import has_views, ranks_of, seen_in
from crossd.errors import InputError
from crossd.nn.layers import is_volume
from crossd.nn.views import VIEWS, view
from crossd.tasks import task_of
from crossd.utils.option_values import ANSWERS, choice

LABELLED = 3
"""Slices an axis where volumes have a label: at 1/4, 1/2 and 3/4, as in training."""


class Ensemble(nn.Module):
    """Ask a network about a volume in several ways, and average what it says.

    Args:
        net: What is asked.
        task: What its logits are, see `crossd.tasks`.

    Attributes:
        average: ``"probabilities"`` or ``"logits"``; masks always use probabilities, and numbers
            are averaged as they are.
    """

    def __init__(self, net: nn.Module, task: str = "classification") -> None:
        super().__init__()
        self.net = net
        self.task = task
        self.average = "probabilities"

    def forward(self, x: Tensor) -> Tensor:
        """Answer on volumes ``(N, C, D, H, W)``: logits ``(N, K)`` or ``(N, K, D, H, W)``.

        Images go to the network itself.
        """
        if not is_volume(x, self):
            return self.net(x)
        answers = self._answers(x)
        if self.average == "logits" and answers.dim() == 3:
            return answers.mean(0)
        task = task_of(self.task)
        return task.logits(task.said(answers, 2).mean(0))

    def _answers(self, x: Tensor) -> Tensor:
        """Return the logits that are averaged, ``(A, N, K, ...)``."""
        raise NotImplementedError


class SliceNet(Ensemble):
    """Run a 2D network on slices along three axes and average what it says.

    With labels, `count` evenly spaced slices an axis are used. Averaged logits are what a linear
    layer says of averaged features, so training this network's last layer is training a linear
    head on pooled features. With masks, all slices are used, and each voxel's probabilities are
    averaged over the three axes.

    Args:
        net: From images ``(N, C, H, W)`` to logits ``(N, K)`` or ``(N, K, H, W)``; of Cross-D, it
            sees slices of each axis in their own view.
        count: Slices an axis; 0 takes all, as a network for masks needs.
        task: As of `Ensemble`.

    Example:
        >>> net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2))
        >>> SliceNet(net)(torch.zeros(3, 1, 8, 8, 8)).shape
        torch.Size([3, 2])
    """

    def __init__(self, net: nn.Module, count: int = LABELLED, task: str = "classification") -> None:
        super().__init__(net, task)
        self.count = count

    def _answers(self, x: Tensor) -> Tensor:
        cut = [self._cut(x, axis) for axis in range(len(VIEWS))]  # (n, s, c, ...)
        images = [slices.flatten(0, 1) for slices in cut]
        seen = seen_in(self.net, range(len(VIEWS)))
        alike = len({image.shape[1:] for image in images}) == 1
        if alike and (self.training or not has_views(self.net)):
            # One batch of all three views, as in 2D training: BatchNorm must see their mixture.
            counts = [len(image) for image in images]
            with view([axis for axis, n in zip(seen, counts, strict=True) for _ in range(n)]):
                each = self.net(torch.cat(images)).split(counts)
        else:
            each = [self._asked(image, axis) for axis, image in zip(seen, images, strict=True)]
        answers = [y.unflatten(0, (len(x), -1)) for y in each]  # (n, s, k, ...)
        if answers[0].dim() > 3:
            if self.count:
                raise ValueError("a network for masks must be asked about every slice: count=0")
            return torch.stack([y.movedim(1, 2 + axis) for axis, y in enumerate(answers)])
        return torch.cat(answers, dim=1).transpose(0, 1)  # (slices, n, k)

    def _asked(self, image: Tensor, axis: int) -> Tensor:
        with view(axis):
            answer: Tensor = self.net(image)
        return answer

    def _cut(self, x: Tensor, axis: int) -> Tensor:
        """Slices across an axis, shape ``(N, S, C, ...)``: `count` of them, or all."""
        size = x.shape[2 + axis]
        images = x.movedim(2 + axis, 1)
        if self.count == 0:
            return images
        places = [size * (i + 1) // (self.count + 1) for i in range(self.count)]
        return torch.stack([images[:, place] for place in places], 1)  # a list waits for a GPU


class OrientationMean(Ensemble):
    """Ask a network about a volume in three orientations, and average what it says.

    Each axis is depth once, in the order (z, y, x), (y, z, x), (x, z, y): a network of kernels that
    were lifted from images looks along each axis in the one way that it has.

    Args:
        net: From volumes ``(N, C, D, H, W)`` to logits ``(N, K)`` or ``(N, K, D, H, W)``.
        task: As of `Ensemble`.

    Example:
        >>> net = nn.Sequential(nn.Conv3d(1, 2, 1), nn.AdaptiveAvgPool3d(1), nn.Flatten())
        >>> OrientationMean(net)(torch.zeros(3, 1, 8, 9, 10)).shape
        torch.Size([3, 2])
    """

    def _answers(self, x: Tensor) -> Tensor:
        answers = []
        for axis in range(len(VIEWS)):
            answer = self.net(x.movedim(2 + axis, 2))
            answers.append(answer.movedim(2, 2 + axis) if answer.dim() == 5 else answer)
        return torch.stack(answers)


class Both(Ensemble):
    """Average what a Cross-D network says of a volume and of the volume's slices.

    The weights are the same: the 3D kernels see the volume, the 2D kernels of each view see its
    slices. The two err differently; how much the average gains is in docs/results.

    Args:
        net: A Cross-D network.
        count: As of `SliceNet`.
        task: As of `Ensemble`.

    Example:
        >>> net = nn.Sequential(nn.Flatten(2), nn.AdaptiveAvgPool1d(1), nn.Flatten())
        >>> Both(net)(torch.zeros(3, 2, 8, 8, 8)).exp()[0]
        tensor([0.5000, 0.5000])
    """

    def __init__(self, net: nn.Module, count: int = LABELLED, task: str = "classification") -> None:
        super().__init__(net, task)
        self.slices = SliceNet(net, count, task)

    def _answers(self, x: Tensor) -> Tensor:
        self.slices.average = self.average
        return torch.stack([self.net(x), self.slices(x)])


def answering(net: nn.Module, answer: str, task: str, option: str = "--answer") -> nn.Module:
    """Let a network answer on volumes in one of four ways.

    Args:
        net: Takes images and volumes; images alone suffice for ``"slices"``, and volumes for
            ``"volume"`` and ``"orientations"``.
        answer: ``"volume"`` (by its 3D kernels), ``"orientations"`` (the mean of what these say of
            the volume turned so that each axis is depth once), ``"slices"`` (by its 2D kernels, on
            slices in all three views) or ``"both"`` (the mean of the volume's and the slices').
        task: See `crossd.tasks`. Masks take all slices of a volume, other tasks nine.
        option: Which asks for it, for messages.

    Returns:
        A network that shares the weights of `net`; `net` itself for ``"volume"``.

    Raises:
        InputError: "OPTION ..." when there is no such way, or the network lacks what it needs.
    """
    choice(answer, ANSWERS, option)
    if answer == "volume":  # and images as they are
        return net
    ranks = ranks_of(net)
    for rank, what, answers in (
        (2, "images", ("slices", "both")),
        (3, "volumes", ("orientations", "both")),
    ):
        if answer in answers and rank not in ranks:
            raise InputError(f"{option} {answer} is for networks that take {what}; this does not")
    if answer == "both" and not has_views(net):
        raise InputError(f"{option} both is for kernel modes with views; this network has none")
    count = 0 if task_of(task).masks else LABELLED
    if answer == "orientations":
        return OrientationMean(net, task)
    return SliceNet(net, count, task) if answer == "slices" else Both(net, count, task)
