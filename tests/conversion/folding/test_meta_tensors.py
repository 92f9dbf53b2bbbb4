"""MONAI's tensors, which know where their voxels lie, go through networks as others do."""

from typing import Any

import monai.networks.nets as nets
import pytest
import timm
import torch
from helpers import normal, randomize, some
from monai.data import MetaTensor
from torch import Tensor, nn

import crossd
from crossd.inference import sliding_window
from crossd.inference.slice_ensemble import answering

NETWORKS: dict[str, Any] = {
    "SegResNet of 2D": lambda: nets.SegResNet(2, 8, 1, 3, blocks_down=(1, 1), blocks_up=(1,)),
    "SegResNet of 3D": lambda: nets.SegResNet(3, 8, 1, 3, blocks_down=(1, 1), blocks_up=(1,)),
    "ResNet": lambda: timm.create_model("resnet10t", num_classes=3, in_chans=1),
    "ViT": lambda: timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, num_classes=3, in_chans=1
    ),
}
AFFINE = torch.tensor(
    [[0.0, -2.0, 0.0, 5.0], [3.0, 0.0, 0.0, 6.0], [0.0, 0.0, 4.0, 7.0], [0.0, 0.0, 0.0, 1.0]],
    dtype=torch.float64,
)


def with_meta(x: Tensor) -> MetaTensor:
    return MetaTensor(x, affine=AFFINE, meta={"filename_or_obj": "scan.nii.gz"})


def converted(name: str) -> nn.Module:
    attention = "volume" if name == "ViT" else None
    net = crossd.convert(NETWORKS[name](), check=False, attention=attention).double()
    randomize(net)
    return net.eval()


@pytest.mark.parametrize("name", some(NETWORKS, ("SegResNet of 2D", "SegResNet of 3D", "ViT")))
@torch.no_grad()
def test_they_change_nothing_and_stay(name: str) -> None:
    net, plain = converted(name), NETWORKS[name]().double().eval()
    sides = (32, 32) if name == "ViT" else (32, 48)
    for shape in ((2, 1, *sides), (2, 1, 16, *sides)):
        x = normal(*shape)
        answer = net(with_meta(x))
        torch.testing.assert_close(torch.as_tensor(answer), net(x))
        own = 5 if name.endswith("3D") else 4
        kept = plain(with_meta(x)) if len(shape) == own else answer  # where it has that rank
        for one in (answer, kept):
            assert isinstance(one, MetaTensor)
            assert one.meta["filename_or_obj"] == "scan.nii.gz"
            torch.testing.assert_close(one.affine, AFFINE)


@pytest.mark.parametrize("rank", [2, 3])
def test_gradients_are_those_of_plain_tensors(rank: int) -> None:
    net = converted("SegResNet of 3D").train()
    x = normal(*(2, 1, 16, 32, 48)[: 2 + rank])
    found = []
    for given in (x, with_meta(x)):
        net.zero_grad()
        net(given).square().mean().backward()
        found.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize("answer", ["volume", "both"])
def test_windows_slide_over_them(answer: str) -> None:
    net = answering(converted("SegResNet of 3D"), answer, "segmentation")
    volume = normal(1, 12, 20, 18)
    plain = sliding_window.classes(net, volume, (8, 16, 12))
    told = sliding_window.classes(net, with_meta(volume), (8, 16, 12))
    assert torch.equal(torch.as_tensor(told), plain) and len(plain.unique()) > 1
