"""Architectures of other libraries: one member a family converts, keeps the law, and trains."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from helpers import circular, close_relative, repeat_along, settle
from monai.networks import nets
from torch import nn
from torch.utils._pytree import tree_leaves

import crossd
from crossd.nn import kernel_modes
from crossd.nn.layers import BatchNorm

pytestmark = pytest.mark.filterwarnings("ignore:crossd.convert")
"""Pools that count padded zeros keep the law roughly, which is said and measured here."""


TIMM = """convnext_atto convnextv2_atto cs3darknet_focus_s densenet121 dla34 dpn48b
efficientnet_b0_gn
ese_vovnet19b_slim_dw fasternet_t0 fbnetv3_b ghostnetv2_100 hardcorenas_a hgnetv2_b0 hrnet_w18_small
inception_next_atto lcnet_035 legacy_seresnet18 mambaout_femto mixnet_s mobilenetv3_small_050
mobilenetv4_conv_small mobileone_s0 nf_regnet_b0 poolformer_s12 regnetx_002 regnety_002
repghostnet_050 repvgg_a0 repvit_m0_9 res2net50_14w_8s resnest14d resnetv2_18 rexnet_100 skresnet18
starnet_s050 tf_efficientnet_b0 tinynet_e""".split()

LARGER_TIMM = """convmixer_768_32 cspdarknet53 densenetblur121d eca_nfnet_l0 focalnet_tiny_srf
legacy_xception selecsls42 vovnet39a xception41""".split()

TORCHVISION = "alexnet googlenet mnasnet0_5 mobilenet_v2 shufflenet_v2_x0_5 squeezenet1_1".split()
SEGMENTATION = ["fcn_resnet50", "lraspp_mobilenet_v3_large"]
DECODERS = "Unet UnetPlusPlus MAnet Linknet FPN PSPNet PAN DeepLabV3 DeepLabV3Plus".split()


def of_timm(name: str) -> nn.Module:
    return timm.create_model(name, num_classes=3)


def of_torchvision(name: str) -> nn.Module:
    more: dict[str, Any] = {"weights_backbone": None} if name in SEGMENTATION else {}
    if name == "googlenet":
        more["init_weights"] = False
    net: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=3, **more)
    return net


def of_smp(name: str, encoder: str = "resnet18") -> nn.Module:
    net: nn.Module = getattr(smp, name)(encoder, encoder_weights=None, classes=2)
    return net


def trains(net: Any, size: int, channels: int = 3) -> None:
    """Run forward and backward on volumes in training mode."""
    net.train()
    answers = tree_leaves(net(torch.randn(2, channels, *[size] * 3)))
    sum(a.square().mean() for a in answers).backward()
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    assert gradients and all(g.isfinite().all() for g in gradients)


def converts(source: nn.Module) -> Any:
    """Convert; the self-check has run both ranks, and images get what they got."""
    torch.manual_seed(0)
    net: Any = crossd.convert(settle(source))
    image = next(line for line in net.conversion.checks if "2D network" in line)
    assert float(image.rpartition(" ")[2]) < 1e-4
    return net


@pytest.mark.parametrize(
    "name", [*TIMM, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGER_TIMM)]
)
def test_timm(name: str) -> None:
    net = converts(of_timm(name))
    trains(net, 64 if name in ("ghostnetv2_100", "resnest14d") else 32)


@pytest.mark.parametrize(
    "name", [*TORCHVISION, SEGMENTATION[1], pytest.param(SEGMENTATION[0], marks=pytest.mark.slow)]
)
def test_torchvision(name: str) -> None:
    trains(converts(of_torchvision(name)), 64 if name == "alexnet" else 32)


@pytest.mark.parametrize("name", DECODERS)
def test_segmentation_models_pytorch(name: str) -> None:
    net = converts(of_smp(name))
    if name == "PAN":  # pools a sixteenth of the volume three times
        return
    trains(net, 32 if name != "PSPNet" else 64)
    with torch.no_grad():
        assert net.eval()(torch.randn(1, 3, 64, 32, 32)).shape == (1, 2, 64, 32, 32)


# The laws, for twelve of them


LARGER = ("densenet121", "smp Unet", "monai SegResNet")

LAWS: dict[str, Callable[[], nn.Module]] = {
    **{
        name: (lambda name=name: of_timm(name))  # type: ignore[misc]
        for name in "seresnet18 densenet121 regnety_002 efficientnet_b0 lcnet_035".split()
    },
    "timm ghostnet": lambda: of_timm("ghostnet_050"),
    "timm hrnet": lambda: of_timm("hrnet_w18_small"),
    "torchvision shufflenet": lambda: of_torchvision("shufflenet_v2_x0_5"),
    "torchvision mobilenet": lambda: of_torchvision("mobilenet_v2"),
    "smp Unet": lambda: of_smp("Unet"),
    "smp FPN mobilenet": lambda: of_smp("FPN", "mobilenet_v2"),
    "monai DenseNet121": lambda: nets.DenseNet121(2, 3, 2),
    "monai SegResNet": lambda: nets.SegResNet(2, 8, 3, 2, upsample_mode="nontrainable"),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n in LARGER else n for n in LAWS],
)
def test_laws_hold_with_weights_as_of_training(name: str) -> None:
    torch.manual_seed(1)
    source = circular(settle(LAWS[name]()))
    net: Any = crossd.convert(source, lift="inflate", check=False)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        close_relative(net(images), source(images))
        for module in net.modules():  # kernels as of no lift
            if isinstance(module, nn.Conv3d):
                module.weight.add_(0.3 * module.weight.std() * torch.randn_like(module.weight))
            if isinstance(module, BatchNorm):
                module.eps = 1e-3
        solid = crossd.to_3d(net)
        for axis, view in enumerate(kernel_modes.VIEWS):
            with crossd.view(view):
                expected = net(images)
            close_relative(crossd.to_2d(net, view)(images), expected, 1e-4)
            volumes = repeat_along(images, axis, 64)
            answer = net(volumes)
            close_relative(solid(volumes), answer, 1e-4)
            if answer.dim() == 5:
                answer = answer.select(2 + axis, 32)
            close_relative(answer, expected, 1e-3)


@pytest.mark.slow
def test_the_whole_zoo(tmp_path: Path) -> None:
    """Hours: every name of every library; none may fail."""
    path = Path(__file__).parents[2] / "benchmarks" / "zoo.py"
    spec = importlib.util.spec_from_file_location("zoo", path)
    assert spec is not None and spec.loader is not None
    zoo: Any = importlib.util.module_from_spec(spec)
    sys.modules["zoo"] = zoo
    spec.loader.exec_module(zoo)
    rows = [zoo.attempt(library, name) for library in zoo.LIBRARIES for name in zoo.names(library)]
    assert [row for row in rows if row["outcome"] == "failed"] == []
    converted = [row for row in rows if row["outcome"] == "converted"]
    assert sum(row["library"] == "timm" for row in converted) >= 560
