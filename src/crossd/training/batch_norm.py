"""BatchNorm in training: over the batches of all processes, and kept apart for every feed."""

import functools
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from crossd.conversion.adapt import norms_with_statistics
from crossd.training import devices


def sync_batch_norm(net: nn.Module) -> None:
    """Let every BatchNorm of a network measure the batch of all processes, in place.

    In training only. `torch.nn.SyncBatchNorm` does so on GPUs alone, and would replace our layers.
    """
    if devices.share()[1] > 1:
        for module in net.modules():
            if isinstance(module, _BatchNorm):
                module.forward = functools.partial(_forward, module)  # type: ignore[method-assign]


class _Summed(torch.autograd.Function):
    """The sum over all processes; so is its gradient."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def _forward(norm: Any, x: Tensor) -> Tensor:
    if not norm.training:
        answer: Tensor = type(norm).forward(norm, x)
        return answer
    norm._check_input_dim(x)
    axes = [0, *range(2, x.dim())]
    shape = [1, -1, *[1] * (x.dim() - 2)]
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    count = wide.new_tensor([x.numel() / x.shape[1]])
    dist.all_reduce(count)
    mean = _Summed.apply(wide.sum(axes)) / count
    centred = wide - mean.view(shape)
    variance = _Summed.apply(centred.square().sum(axes)) / count
    if norm.track_running_stats:
        norm.num_batches_tracked.add_(1)
        rate = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
        with torch.no_grad():
            norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), rate)
            unbiased = variance * (count / (count - 1).clamp_min(1))
            norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), rate)
    normal = centred * (variance + norm.eps).rsqrt().view(shape)
    if norm.affine:
        normal = normal * norm.weight.view(shape) + norm.bias.view(shape)
    return normal.to(x.dtype)


class Statistics:
    """Running statistics of BatchNorm for each of several feeds, of which one is in use.

    In training BatchNorm normalises by the batch at hand: what it keeps for later differs between
    images and volumes, and a mean over both fits neither. With one feed nothing is done.
    """

    NAMES = ("running_mean", "running_var", "num_batches_tracked")

    def __init__(self, net: nn.Module, count: int) -> None:
        norms = norms_with_statistics(net)
        self.buffers = [getattr(m, name) for m in norms for name in self.NAMES]
        self.sets = [[b.clone() for b in self.buffers] for _ in range(count)]
        self.used = 0
        self.everything = [*net.buffers()]  # the mean displacement of poses is among them
        self.remember()

    def use(self, index: int) -> None:
        """Put the set of this number into the network, and keep the one that was there."""
        if index != self.used:
            self.sets[self.used] = [b.clone() for b in self.buffers]
            for buffer, value in zip(self.buffers, self.sets[index], strict=True):
                buffer.copy_(value)
            self.used = index

    def remember(self) -> None:
        """Remember all sets, which one is in use, and whatever else forward passes count."""
        self.remembered = self.used, [*self.sets], [b.clone() for b in self.everything]

    def put_back(self) -> None:
        """Let all be as it was when it was remembered."""
        self.used, self.sets, values = self.remembered
        for buffer, value in zip(self.everything, values, strict=True):
            buffer.copy_(value)
