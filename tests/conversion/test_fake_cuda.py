"""Converted networks on a CUDA device that is not there: see `nn/test_fake_cuda.py`.

A training step and an answer in both ranks, of networks that were made for images and for volumes.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from fake_cuda import FakeCuda
from helpers import some
from torch import Tensor, nn

import crossd
from crossd.nn.checkpointing import checkpoint_activations
from crossd.nn.kernel_modes import KERNEL_MODES
from crossd.nn.views import view

IMAGES, VOLUMES = (2, 3, 32, 32), (2, 3, 32, 32, 32)


class Squeeze(nn.Module):
    """Weighs channels by what all of the image or volume says, with BatchNorm of these vectors."""

    def __init__(self) -> None:
        super().__init__()
        layers = (nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.Sigmoid())
        self.weights = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        weighed: Tensor = x * self.weights(x)
        return weighed


def for_images() -> nn.Module:
    """A classifier with what folding has forms for."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(8, 8, 3, padding=1, groups=2),
        Squeeze(),
        nn.GroupNorm(2, 8),
        nn.AvgPool2d(2),
        nn.Dropout(0.1),
        nn.ConvTranspose2d(8, 8, 2, 2),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 2),
    )


def for_volumes() -> nn.Module:
    """The same for volumes."""
    return nn.Sequential(
        nn.Conv3d(3, 8, 3, 2, 1),
        nn.InstanceNorm3d(8, affine=True),
        nn.LeakyReLU(inplace=True),
        nn.MaxPool3d(3, 2, 1),
        nn.Conv3d(8, 8, 3, padding=1),
        nn.BatchNorm3d(8),
        nn.ConvTranspose3d(8, 4, 2, 2),
        nn.Upsample(scale_factor=2, mode="trilinear"),
        nn.Conv3d(4, 2, 1),
    )


def held(gpu: FakeCuda, net: Any, *shapes: tuple[int, ...]) -> None:
    """Hold training and answering, of images in the views of a mixed batch too."""
    gpu.moved(net)
    for training in (True, False):
        net.train(training)
        for shape in shapes or (IMAGES, VOLUMES):
            gpu.step(net, *shape)
        if not shapes:
            with view((0, 1)):
                gpu.step(net, *IMAGES)


@pytest.mark.parametrize("make", [for_images, for_volumes])
@pytest.mark.parametrize("mode", KERNEL_MODES)
def test_both_foldings_in_every_mode(gpu: FakeCuda, mode: str, make: Any) -> None:
    held(gpu, crossd.convert(make(), mode, check=False))


@pytest.mark.parametrize("options", [{"depth_padding": "replicate"}, {"depth_stride": 1}])
def test_choices_of_depth(gpu: FakeCuda, options: dict[str, Any]) -> None:
    with view("axial"):  # with other strides of depth there is no other
        held(gpu, crossd.convert(for_images(), check=False, **options), IMAGES, VOLUMES)


def test_one_volume_with_norms_of_vectors_is_refused_as_by_torch(gpu: FakeCuda) -> None:
    """Whether all slices say the same is read where a batch has one volume, in training alone."""
    net = gpu.moved(crossd.convert(for_images(), check=False))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        gpu.step(net, 1, *VOLUMES[1:])
    assert gpu.waits == ["statistics.py: _batch_norm"]


def vit(**options: Any) -> nn.Module:
    import timm

    net = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=2)
    return crossd.convert(net, check=False, **options)


def swin(attention: str) -> nn.Module:
    from timm.models.swin_transformer import SwinTransformer

    settings: dict[str, Any] = {"embed_dim": 8, "depths": (2,), "num_heads": (1,), "window_size": 4}
    net = SwinTransformer(32, 4, num_classes=2, **settings)
    return crossd.convert(net, attention=attention, check=False)


def tv_swin(attention: str) -> nn.Module:
    from torchvision.models.swin_transformer import SwinTransformer

    net = SwinTransformer([4, 4], 8, [2], [1], [4, 4], num_classes=2)
    return crossd.convert(net, attention=attention, check=False)


ATTENTIONS: dict[str, Callable[[], nn.Module]] = {
    "vit slice": lambda: vit(attention="slice"),
    "vit volume": lambda: vit(attention="volume", depth_position=2),
    "swin slice": lambda: swin("slice"),
    "swin volume": lambda: swin("volume"),
    "torchvision swin slice": lambda: tv_swin("slice"),
    "torchvision swin volume": lambda: tv_swin("volume"),
}


@pytest.mark.parametrize("name", some(ATTENTIONS, ["vit volume", "swin volume"]))
def test_attention(gpu: FakeCuda, name: str) -> None:
    held(gpu, ATTENTIONS[name](), IMAGES, VOLUMES)


def unet(rank: int) -> nn.Module:
    from monai.networks.nets.basic_unet import BasicUNet

    return BasicUNet(rank, 3, 2, (4, 4, 4, 4, 4, 4), norm="batch")


def segresnet(rank: int) -> nn.Module:
    from monai.networks.nets.segresnet import SegResNet

    return SegResNet(rank, 8, 3, 2, blocks_down=(1, 1), blocks_up=(1,))


def dynunet(rank: int) -> nn.Module:
    from monai.networks.nets.dynunet import DynUNet

    shape: Any = ([3] * 3, [1, 2, 2], [2, 2], [4, 4, 4])
    heads: dict[str, Any] = {"deep_supervision": True, "deep_supr_num": 1}
    return DynUNet(rank, 3, 2, *shape, **heads)


def timm_network(name: str) -> Callable[[int], nn.Module]:
    def make(rank: int) -> nn.Module:
        import timm

        made: nn.Module = timm.create_model(name, num_classes=2)
        return made

    return make


NETWORKS: dict[str, tuple[Callable[[int], nn.Module], int]] = {
    "unet 2d": (unet, 2),
    "unet 3d": (unet, 3),
    "segresnet 2d": (segresnet, 2),
    "segresnet 3d": (segresnet, 3),
    "dynunet 2d": (dynunet, 2),
    "dynunet 3d": (dynunet, 3),
    "resnet": (timm_network("resnet10t"), 2),
    "efficientnet": (timm_network("tf_efficientnet_b0"), 2),
    "convnext": (timm_network("convnext_atto"), 2),
}


@pytest.mark.parametrize("name", some(NETWORKS, ["dynunet 2d", "segresnet 3d"]))
def test_networks_of_others(gpu: FakeCuda, name: str) -> None:
    make, rank = NETWORKS[name]
    held(gpu, crossd.convert(make(rank), check=False), IMAGES, VOLUMES)


@pytest.mark.parametrize("how", ["acs", "cycle", "inflate", "center", "triplanar"])
def test_rivals(gpu: FakeCuda, how: str) -> None:
    layers = (nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3), nn.Conv2d(6, 2, 3))
    net = getattr(crossd, how)(nn.Sequential(*layers))
    held(gpu, net, *((IMAGES, VOLUMES) if how in ("acs", "cycle") else (VOLUMES,)))


@pytest.mark.parametrize("mode", ["projection", "fourier-projection"])
def test_recomputed_activations(gpu: FakeCuda, mode: str) -> None:
    block = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))
    net = crossd.convert(nn.Sequential(block), mode, check=False)
    held(gpu, checkpoint_activations(net))


def test_recalibration_reads_whether_batches_are_finite(gpu: FakeCuda) -> None:
    """Once a batch, in the function for networks of one's own; BatchNorm itself reads nothing."""
    net = gpu.moved(crossd.convert(for_images(), check=False))
    with gpu.running():
        crossd.recalibrate(net, [torch.empty(VOLUMES, device="cuda") for _ in range(3)])
    assert gpu.waits == ["adapt.py: recalibrate"] * 3
