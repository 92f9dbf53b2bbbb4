"""The last layer of a network, and what of a network is trained."""

import math
from typing import Any

from torch import nn

from crossd.errors import InputError

NORMS = (nn.modules.batchnorm._BatchNorm,)


def classifier(net: nn.Module, classes: int) -> Any:
    """Find the last layer of a network: a linear one or a convolution with `classes` outputs.

    Raises:
        InputError: "the network has no last layer ..." when there is none.
    """
    found = None
    for module in net.modules():
        outputs = getattr(module, "out_features", getattr(module, "out_channels", None))
        if outputs == classes:
            found = module
    if found is None:
        raise InputError(f"the network has no last layer with {classes} outputs, one a class")
    return found


def new_classifier(net: nn.Module, before: int, classes: int) -> None:
    """Give a network a new last layer for another number of classes.

    Raises:
        InputError: "the network has no last layer ...", or "the last layer adds ..." for one that
            works with one number of classes only (MONAI's UNet with residual units).
    """
    layer = classifier(net, before)
    for module in net.modules():
        residual = isinstance(getattr(module, "residual", None), nn.Identity)
        if residual and any(part is layer for part in module.modules()):
            raise InputError(
                "the last layer adds its input to its output, so that the number of classes cannot "
                f"change from {before} to {classes}: choose another model, or equal classes"
            )
    shape = (classes, *layer.weight.shape[1:])
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    layer.weight = nn.Parameter(layer.weight.new_empty(shape).uniform_(-bound, bound))
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias.new_zeros(classes))
    name = "out_features" if isinstance(layer, nn.Linear) else "out_channels"
    setattr(layer, name, classes)


def keep_classes(net: nn.Module, before: int, rows: slice) -> None:
    """Cut a network's last layer to some of its classes."""
    layer = classifier(net, before)
    layer.weight = nn.Parameter(layer.weight.detach()[rows].clone())
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias.detach()[rows].clone())
    name = "out_features" if isinstance(layer, nn.Linear) else "out_channels"
    setattr(layer, name, len(layer.weight))


def freeze_convolutions(net: nn.Module, classes: int) -> None:
    """Freeze all but the normalisation layers and the last one: the paper's weak probing."""
    last = classifier(net, classes)
    free = (*NORMS, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)
    for module in net.modules():
        trained = module is last or isinstance(module, free)
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(trained)
