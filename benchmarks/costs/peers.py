"""Networks of other libraries for volumes, as they build or convert them.

`benchmarks/peers.txt` says how to install them; one that is missing is named in the tables.
"""

import importlib
from typing import Any
from unittest import mock

from torch import Tensor, nn

from costs.cases import LAYERS, Case
from costs.networks import flat

PACKAGES = ("acsconv", "timm-3d", "segmentation-models-pytorch-3d", "monai")


NONE = "it has no such network"


class Absent(Exception):
    """There is nothing to measure, for the reason that is its text."""


def timm_3d(case: Case) -> nn.Module:
    """Build timm_3d's network of the same name."""
    if case.network not in ("resnet18", "resnet50", "efficientnet-b0", "convnext-tiny"):
        raise Absent(NONE)
    net: nn.Module = _imported("timm_3d").create_model(
        case.network.replace("-", "_"), num_classes=case.classes or 1000
    )
    return net


def monai(case: Case) -> nn.Module:
    """Build MONAI's network; its ResNets with the stride of two in their stem that others have."""
    classes = case.classes or 1000
    if case.network in ("resnet18", "resnet50"):
        build: Any = getattr(_imported("monai.networks.nets.resnet"), case.network)
        net: nn.Module = build(n_input_channels=3, num_classes=classes, conv1_t_stride=2)
        return net
    if case.network == "efficientnet-b0":
        build = _imported("monai.networks.nets.efficientnet").EfficientNetBN
        net = build("efficientnet-b0", False, True, 3, 3, classes)
        return net
    if case.network == "vit-small":
        return _MonaiViT(case)
    if case.network == "unet":
        build = _imported("monai.networks.nets.basic_unet").BasicUNet
        net = build(3, 3, case.classes or 4, norm="batch")
        return net
    raise Absent(NONE)


class _MonaiViT(nn.Module):
    """MONAI's vision transformer in the size of ViT-S/16, with its class token alone as answer."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.net = _imported("monai.networks.nets.vit").ViT(
            *(3, case.shape, (16, 16, 16), 384, 1536, 12, 6),
            classification=True,
            num_classes=case.classes or 1000,
            post_activation="none",
        )

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.net(x)[0]
        return answer


def smp_3d(case: Case) -> nn.Module:
    """Build the U-Net of segmentation_models_pytorch_3d."""
    if case.network != "unet-resnet18":
        raise Absent(NONE)
    library = _imported("segmentation_models_pytorch_3d")
    net: nn.Module = library.Unet("resnet18", encoder_weights=None, classes=case.classes or 4)
    return net


def acsconv(case: Case) -> nn.Module:
    """Convert the 2D network by the converter of ACS's authors.

    It copies norm layers by asking them for every argument of their constructors, and fails with a
    torch in which `bias` is one, as the layer answers with its tensor. So it gets layers whose
    constructors are those of older torch, and is measured rather than missing.
    """
    converter: Any = _imported("acsconv.converters").ACSConverter
    net = flat(case)
    if case.network in LAYERS:
        net = nn.Sequential(net)  # it converts what is in a network, not the network itself
    with (
        mock.patch.object(nn, "BatchNorm3d", _OlderBatchNorm3d),
        mock.patch.object(nn, "LayerNorm", _OlderLayerNorm),
    ):
        made: nn.Module = converter(net).model
    return made


class _OlderBatchNorm3d(nn.BatchNorm3d):
    def __init__(self, num_features: int, eps: float, momentum: float, affine: bool) -> None:
        super().__init__(num_features, eps, momentum, affine)


class _OlderLayerNorm(nn.LayerNorm):
    def __init__(self, normalized_shape: Any, eps: float, elementwise_affine: bool) -> None:
        super().__init__(normalized_shape, eps, elementwise_affine)


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Absent(f"not installed ({error}); see benchmarks/peers.txt") from error
