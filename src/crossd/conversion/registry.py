"""2D networks by name, to be converted: two small ones of ours, MONAI's U-Nets, all of timm."""

import difflib
import itertools
from collections.abc import Callable
from typing import Any

from torch import nn

from crossd.errors import InputError

DEFAULTS = {"classification": "resnet-small", "segmentation": "segresnet-small"}
"""The model of each task when none is named: small enough for two cores and 28 voxels a side."""


def build(name: str, task: str, in_channels: int, num_classes: int) -> nn.Module:
    """Build a 2D network with new weights.

    Args:
        name: ``"resnet-small"``, any timm classifier, ``"segresnet-small"``, or one of MONAI's
            ``"segresnet"``, ``"basicunet"``, ``"unet"`` and ``"dynunet"``.
        task: ``"classification"`` or ``"segmentation"``.
        in_channels: Channels of the images.
        num_classes: Number of classes; for segmentation with the background.

    Returns:
        A network from ``(N, C, H, W)`` to logits ``(N, classes)`` or ``(N, classes, H, W)``.

    Raises:
        InputError: "no model called ...", with the nearest names.

    Example:
        >>> net = build("resnet-small", "classification", 1, 11)
        >>> sum(p.numel() for p in net.parameters())
        173939
    """
    if task == "segmentation":
        if name in _UNETS:
            return _UNETS[name](in_channels, num_classes)
        known = sorted(_UNETS)
    elif name == "resnet-small":
        return small_resnet(in_channels, num_classes)
    else:
        import timm

        if timm.is_model(name):
            net: nn.Module = timm.create_model(name, in_chans=in_channels, num_classes=num_classes)
            return net
        known = ["resnet-small", *timm.list_models()]
    near = difflib.get_close_matches(name, known, n=3) or known[:5]
    raise InputError(f"no model called {name!r} for {task}: did you mean {', '.join(near)}?")


def small_resnet(in_channels: int, num_classes: int) -> nn.Module:
    """ResNet of three stages with 24, 48 and 96 channels, one block each, for small images."""
    from torchvision.models.resnet import BasicBlock

    channels = (24, 48, 96)
    parts: list[nn.Module] = [
        nn.Conv2d(in_channels, channels[0], 3, 1, 1, bias=False),
        nn.BatchNorm2d(channels[0]),
        nn.ReLU(),
        BasicBlock(channels[0], channels[0]),
    ]
    for before, after in itertools.pairwise(channels):
        shortcut = nn.Sequential(nn.Conv2d(before, after, 1, 2, bias=False), nn.BatchNorm2d(after))
        parts.append(BasicBlock(before, after, 2, shortcut))
    head = nn.Linear(channels[-1], num_classes)
    net = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(1), head)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net


def _segresnet(filters: int, down: tuple[int, ...]) -> Callable[[int, int], nn.Module]:
    def make(in_channels: int, num_classes: int) -> nn.Module:
        from monai.networks.nets import SegResNet

        up = (1,) * (len(down) - 1)
        # Interpolation keeps the consistency law, which a strided transposed convolution bends.
        options: dict[str, Any] = {"blocks_down": down, "blocks_up": up}
        return SegResNet(
            2, filters, in_channels, num_classes, upsample_mode="nontrainable", **options
        )

    return make


def _basicunet(in_channels: int, num_classes: int) -> nn.Module:
    from monai.networks.nets import BasicUNet

    return BasicUNet(2, in_channels, num_classes)


def _unet(in_channels: int, num_classes: int) -> nn.Module:
    from monai.networks.nets import UNet

    channels, strides = (16, 32, 64, 128), (2, 2, 2)
    return UNet(2, in_channels, num_classes, channels, strides, num_res_units=2, norm="batch")


def _dynunet(in_channels: int, num_classes: int) -> nn.Module:
    from monai.networks.nets import DynUNet

    kernels, strides = [3, 3, 3, 3], [1, 2, 2, 2]
    return DynUNet(2, in_channels, num_classes, kernels, strides, strides[1:])


_UNETS: dict[str, Callable[[int, int], nn.Module]] = {
    "segresnet-small": _segresnet(16, (1, 1, 1)),
    "segresnet": _segresnet(16, (1, 2, 2, 4)),
    "basicunet": _basicunet,
    "unet": _unet,
    "dynunet": _dynunet,
}
