"""What a network is given for its new task: input channels, classes, statistics of BatchNorm."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from crossd.conversion.copying import copy_of
from crossd.conversion.folding.torch_private import BatchNormBase
from crossd.conversion.heads import classifiers, first_convolution
from crossd.errors import InputError


def adapted(
    net: nn.Module, in_channels: int | None = None, num_classes: int | None = None
) -> tuple[nn.Module, list[str]]:
    """Copy a network for other input channels and classes.

    Each new channel gets the sum over the old ones divided by the number of new ones, so that what
    is the same in all channels gives the same answer. A new classifier is drawn at random.

    Args:
        net: Any network.
        in_channels: Input channels, or None to keep them.
        num_classes: Classes, or None to keep them.

    Returns:
        The copy (the network itself where nothing changes), and a sentence on each change.

    Raises:
        InputError: "in_channels ..." or "num_classes ..." where it cannot be done.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> net.append(nn.Linear(4, 10)) is net
        True
        >>> adapted(net, 1, 2)[0](torch.zeros(1, 1, 8, 8)).shape
        torch.Size([1, 2])
    """
    if in_channels is None and num_classes is None:
        return net, []
    net, said = copy_of(net), []
    if in_channels is not None:
        said.append(_give_channels(net, in_channels))
    if num_classes is not None:
        said.append(_give_classes(net, num_classes))
    return net, said


def _give_channels(net: nn.Module, channels: int) -> str:
    path = first_convolution(net)
    layer: Any = None if path is None else net.get_submodule(path)
    if channels < 1 or layer is None or layer.groups > 1 or layer.transposed:
        raise InputError(
            f"in_channels (={channels}) cannot be given to the first convolution ({path!r}): it "
            "must be positive, and the convolution plain and without groups"
        )
    weight, before = layer.weight, layer.in_channels
    shared = weight.detach().sum(1, keepdim=True) / channels
    repeats = [1, channels, *[1] * (weight.dim() - 2)]
    layer.weight = nn.Parameter(shared.repeat(repeats), weight.requires_grad)
    layer.in_channels = channels
    return f"{path}: each of {channels} channels has the sum over {before} by {channels}"


def _give_classes(net: Any, classes: int) -> str:
    found = classifiers(net)
    if classes < 1 or not found:
        raise InputError(
            f"num_classes (={classes}) cannot be given: it must be positive, and the network end "
            "with a linear layer or a convolution"
        )
    if callable(getattr(net, "reset_classifier", None)):  # timm knows what else there is to do
        net.reset_classifier(classes)
        return f"{', '.join(found)}: drawn anew for {classes} classes"
    path = found[-1]
    layer: Any = net.get_submodule(path)
    where = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    if isinstance(layer, nn.Linear):
        new: nn.Module = nn.Linear(layer.in_features, classes, layer.bias is not None, **where)
    else:
        size, stride, padding = layer.kernel_size, layer.stride, layer.padding
        more = {"bias": layer.bias is not None, "dilation": layer.dilation, **where}
        if layer.transposed or layer.groups > 1:
            raise InputError(f"num_classes (={classes}) cannot be given to {path!r}")
        new = type(layer)(layer.in_channels, classes, size, stride, padding, **more)
    net.set_submodule(path, new.train(layer.training))
    return f"{path}: drawn anew for {classes} classes"


def norms_with_statistics(net: nn.Module) -> list[BatchNormBase]:
    """List the BatchNorms that keep running statistics."""
    return [m for m in net.modules() if isinstance(m, BatchNormBase) and m.track_running_stats]


def knows_volumes(net: nn.Module, rank: int) -> bool:
    """Tell whether nothing in a network knows images alone, after a training on this rank."""
    return rank == 3 or not norms_with_statistics(net)


@contextmanager
def measuring(net: nn.Module) -> Iterator[int]:
    """Let BatchNorm measure its running statistics anew, as a plain mean over all that comes.

    Everything else is in evaluation mode meanwhile.

    Args:
        net: Any network.

    Yields:
        The number of layers that measure.
    """
    norms = norms_with_statistics(net)
    modes = {module: module.training for module in net.modules()}
    momenta = [norm.momentum for norm in norms]
    net.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.training = True
    hooks = [norm.register_forward_pre_hook(_weighing()) for norm in norms]
    try:
        yield len(norms)
    finally:
        for hook in hooks:
            hook.remove()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in modes.items():
            module.training = training


def _weighing() -> Callable[[nn.Module, object], None]:
    """Make what lets a BatchNorm weigh all batches alike, before each of its calls.

    Without momentum it does so itself, but reads its counter, for which a GPU is waited for.
    """
    calls = itertools.count(1)

    def weigh(norm: Any, _: object) -> None:
        norm.momentum = 1 / next(calls)

    return weigh


@torch.no_grad()
def recalibrate(net: nn.Module, batches: Iterable[Tensor]) -> int:
    """Measure BatchNorm's running statistics anew, on volumes that need no labels.

    Statistics of images do not fit volumes: without this, the transfer fails.

    Args:
        net: Changed in place.
        batches: Volumes ``(N, C, D, H, W)`` or images ``(N, C, H, W)``, normalised as in training.

    Returns:
        The number of layers that were recalibrated.

    Raises:
        InputError: "no batch ..." when there is none, "batch ..." for one that is no volumes or
            not finite.

    Example:
        >>> net = nn.Sequential(nn.BatchNorm3d(1, momentum=0.5))
        >>> recalibrate(net, [torch.ones(2, 1, 2, 2, 2), torch.zeros(2, 1, 2, 2, 2)])
        1
        >>> net[0].running_mean
        tensor([0.5000])
    """
    count = 0
    with measuring(net) as layers:
        for batch in batches:
            count += 1
            if not isinstance(batch, Tensor) or batch.dim() not in (4, 5):
                shape = tuple(batch.shape) if isinstance(batch, Tensor) else type(batch).__name__
                raise InputError(
                    f"batch {count} to recalibrate on is {shape}: give tensors (N, C, D, H, W)"
                )
            if not batch.isfinite().all():
                raise InputError(f"batch {count} to recalibrate on holds NaN or infinity")
            net(batch)
    if count == 0:
        raise InputError("no batch to recalibrate on: give volumes (N, C, D, H, W)")
    return layers
