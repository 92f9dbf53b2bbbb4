"""The last layer of a network, and what of a network is trained."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from crossd.conversion.folding.torch_private import BatchNormBase, ConvBase
from crossd.errors import InputError
from crossd.nn.kernel_modes import KernelMode


def classifiers(net: nn.Module) -> list[str]:
    """Paths of what gives the classes: timm's word for it, or the last layer with parameters.

    The last layer in order of registration counts if it is linear or a convolution; a network
    that ends with a norm, say, has none. Where it stands in a list of such layers that give as
    many classes, as for deep supervision, the others count too.

    Example:
        >>> classifiers(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)))
        ['2']
    """
    known = getattr(net, "default_cfg", None)
    named = known.get("classifier") if isinstance(known, Mapping) else None
    if named:
        return [named] if isinstance(named, str) else list(named)
    found = [(path, layer) for path, layer in layers_of(net).items() if layer._parameters]
    path, layer = found[-1] if found else ("", net)
    if not path or not isinstance(layer, nn.Linear | ConvBase):
        return []
    above = path.rpartition(".")[0]
    if not isinstance(net.get_submodule(above), nn.ModuleList):
        return [path]
    alike = (type(layer), layer.weight.shape[class_axis(layer)])
    return [
        path
        for path, other in found
        if path.rpartition(".")[0] == above
        and isinstance(other, nn.Linear | ConvBase)
        and (type(other), other.weight.shape[class_axis(other)]) == alike
    ]


def first_convolution(net: nn.Module) -> str | None:
    """Path of the first convolution in order of registration."""
    found = (path for path, layer in layers_of(net).items() if isinstance(layer, ConvBase))
    return next(found, None)


def class_axis(layer: nn.Module) -> int:
    """Axis of a layer's weight along which its outputs lie."""
    return 1 if getattr(layer, "transposed", False) else 0


def layers_of(net: nn.Module, repeated: bool = False) -> dict[str, nn.Module]:
    """Every module by its path (by all its paths), but for what is inside of kernel modes."""
    modes = [module for module in net.modules() if isinstance(module, KernelMode)]
    inside = {id(part) for mode in modes for part in mode.modules()}
    named = net.named_modules(remove_duplicate=not repeated)
    return {path: module for path, module in named if id(module) not in inside}


def classifier(net: nn.Module, classes: int) -> Any:
    """Find the layer that gives so many classes: of `classifiers`, or the last one of them all.

    Args:
        net: Any network.
        classes: Outputs of the layer.

    Raises:
        InputError: "the network has no last layer ..." when there is none.
    """
    layers = layers_of(net)
    for path in reversed([*layers, *classifiers(net)]):
        layer = layers.get(path)
        if classes == _outputs(layer):
            return layer
    raise InputError(f"the network has no last layer with {classes} outputs, one a class")


def _last_layers(net: nn.Module, classes: int) -> list[Any]:
    """Find the layer that gives so many classes, and the `classifiers` beside it that do."""
    last = classifier(net, classes)
    beside = [net.get_submodule(path) for path in classifiers(net)]
    if all(layer is not last for layer in beside):
        return [last]
    return [layer for layer in beside if classes == _outputs(layer)]


def _outputs(layer: Any) -> int | None:
    found: int | None = getattr(layer, "out_features", getattr(layer, "out_channels", None))
    return found


def new_classifier(net: nn.Module, before: int, classes: int) -> None:
    """Give a network a new last layer for another number of classes, or all that it has.

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
    for layer in _last_layers(net, before):
        shape = list(layer.weight.shape)
        shape[class_axis(layer)] = classes
        bound = 1 / math.sqrt(layer.weight[0].numel())
        weight = layer.weight.new_empty(shape).uniform_(-bound, bound)
        _set_classes(layer, weight, layer.weight.new_zeros(classes))


def keep_classes(net: nn.Module, before: int, rows: slice) -> None:
    """Cut a network's last layer, or all that it has, to some of its classes."""
    for layer in _last_layers(net, before):
        place = (*[slice(None)] * class_axis(layer), rows)
        weight = layer.weight.detach()[place].clone()
        bias = None if layer.bias is None else layer.bias.detach()[rows].clone()
        _set_classes(layer, weight, bias)


def _set_classes(layer: Any, weight: Tensor, bias: Tensor | None) -> None:
    """Give a last layer a weight and, if it has one, a bias of another number of classes."""
    if class_axis(layer) and layer.groups > 1:
        raise InputError("the last layer is transposed in groups: its classes cannot change")
    layer.weight = nn.Parameter(weight)
    if layer.bias is not None and bias is not None:
        layer.bias = nn.Parameter(bias)
    name = "out_features" if isinstance(layer, nn.Linear) else "out_channels"
    setattr(layer, name, weight.shape[class_axis(layer)])


def freeze_convolutions(net: nn.Module, classes: int) -> None:
    """Freeze all but the normalisation layers and the last ones: the paper's weak probing."""
    last = _last_layers(net, classes)
    free = (BatchNormBase, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)
    for module in net.modules():
        trained = isinstance(module, free) or any(module is layer for layer in last)
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(trained)
