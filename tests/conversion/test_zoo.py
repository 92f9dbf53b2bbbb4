"""Architectures of other libraries: a member of each family converts, keeps the law, is stored."""

import copy
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monai.networks.nets as mn
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from helpers import close_relative, keeps_the_law, settle, some
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import crossd
from crossd.conversion.checking import perturbed

Make = Callable[[], nn.Module]


def of_timm(name: str, **options: Any) -> Make:
    return lambda: timm.create_model(name, num_classes=3, **options)


def of_torchvision(name: str, **options: Any) -> Make:
    return lambda: torchvision.models.get_model(name, weights=None, num_classes=3, **options)


def of_smp(name: str, encoder: str = "resnet18") -> Make:
    return lambda: getattr(smp, name)(encoder, encoder_weights=None, classes=2)


def of_monai(name: str, *args: Any, **options: Any) -> Make:
    return lambda: getattr(mn, name)(*args, **options)


PLANE, SQUARE, LARGE = (32, 64), (64, 64), (64, 128)
NARROW = (8, 16, 16, 32)

FAMILIES: dict[str, tuple[Make, tuple[int, ...]]] = {
    "byobnet": (of_timm("test_byobnet"), PLANE),
    "convnext": (of_timm("test_convnext"), PLANE),
    "convnextv2": (of_timm("convnextv2_atto"), PLANE),
    "efficientnet": (of_timm("test_efficientnet"), PLANE),
    "mambaout": (of_timm("test_mambaout"), PLANE),
    "resnet": (of_timm("test_resnet"), PLANE),
    "resnet, squeeze and excite": (of_timm("seresnet18", channels=NARROW), PLANE),
    "resnetv2, standardised": (of_timm("resnetv2_18", channels=NARROW), PLANE),
    "vit": (of_timm("test_vit", img_size=48), (48, 48)),
    "vit, registers": (of_timm("test_vit3", img_size=48), (48, 48)),
    "monai UNet": (of_monai("UNet", 2, 3, 2, (8, 16, 32), (2, 2), num_res_units=2), PLANE),
    "monai3d UNet": (of_monai("UNet", 3, 3, 2, (8, 16, 32), (2, 2), num_res_units=2), (32, 16, 48)),
    "monai3d SegResNet": (of_monai("SegResNet", 3, 8, 3, 2), (32, 16, 48)),
    "monai3d ResNet": (
        of_monai("ResNet", "basic", [1, 1, 1, 1], [8, 8, 16, 16], n_input_channels=3),
        (32, 48, 64),
    ),
}
"""How a member of each family is made, and a size that it takes."""

QUICK = ("byobnet", "efficientnet", "resnet", "vit", "monai UNet", "monai3d UNet")

SLOW: dict[str, tuple[Make, tuple[int, ...]]] = {
    **{
        name: (of_timm(name), PLANE)
        for name in """cs3darknet_focus_s densenet121 densenetblur121d dla34 dpn48b eca_nfnet_l0
        ese_vovnet19b_slim_dw fasternet_t0 focalnet_tiny_srf ghostnet_050 hardcorenas_a
        hgnetv2_b0 hrnet_w18_small inception_next_atto lcnet_035 mobileone_s0 poolformer_s12
        poolformerv2_s12 regnetx_002 repvgg_a0 repvit_m0_9 res2net50_14w_8s rexnet_100 selecsls42
        skresnet18 starnet_s050 vovnet39a xception41 efficientvit_b0 nextvit_small tinynet_e
        pvt_v2_b0 fbnetv3_b edgenext_xx_small efficientformerv2_s0""".split()
        if name != "efficientformerv2_s0"
    },
    **{
        name: (of_timm(name, img_size=size), (size, size))
        for name, size in [
            ("deit_tiny_patch16_224", 48), ("beit_base_patch16_224", 48), ("cait_xxs24_224", 64),
            ("eva02_tiny_patch14_224", 56), ("xcit_nano_12_p16_224", 64), ("convit_tiny", 64),
            ("vit_small_patch16_dinov3", 64), ("mixer_s32_224", 64), ("gcvit_xxtiny", 224),
        ]
    },
    "mobilenetv4": (of_timm("mobilenetv4_conv_small"), PLANE),
    "mobilevit": (of_timm("mobilevit_xxs"), PLANE),
    "torchvision mnasnet": (of_torchvision("mnasnet0_5"), PLANE),
    "nfnet": (of_timm("test_nfnet"), PLANE),
    "resnet, blurred": (of_timm("resnetblur18", channels=NARROW), PLANE),
    "mobilenetv3": (of_timm("mobilenetv3_small_050"), PLANE),
    "torchvision shufflenet": (of_torchvision("shufflenet_v2_x0_5"), PLANE),
    "monai SegResNet": (of_monai("SegResNet", 2, 8, 3, 2), PLANE),
    "split attention": (of_timm("resnest14d"), LARGE),
    "computed kernels": (of_timm("tf_efficientnet_cc_b0_4e"), PLANE),
    "smp Unet": (of_smp("Unet", "mobilenet_v2"), PLANE),
    "swinv2": (of_timm("swinv2_tiny_window8_256", depths=(1, 1, 2, 1), img_size=64), SQUARE),
    "mixed kernels": (of_timm("mixnet_s"), PLANE),
    "coatnet": (of_timm("coatnet_pico_rw_224", img_size=64), SQUARE),
    "swin": (of_timm("swin_s3_tiny_224", depths=(1, 1, 2, 1), img_size=56), (56, 56)),
    "efficientnet, same": (of_timm("tf_efficientnet_lite0"), PLANE),
    "smp FPN": (of_smp("FPN", "mobilenet_v2"), PLANE),
    "maxvit": (of_timm("maxvit_rmlp_pico_rw_256", img_size=256), (256, 256)),
    "torchvision vit": (of_torchvision("vit_b_32", image_size=64), SQUARE),
    "torchvision swin": (of_torchvision("swin_t"), SQUARE),
    "torchvision swinv2": (of_torchvision("swin_v2_t"), SQUARE),
    "torchvision maxvit": (of_torchvision("maxvit_t"), (224, 224)),
    "torchvision alexnet": (of_torchvision("alexnet"), LARGE),
    "torchvision googlenet": (of_torchvision("googlenet", init_weights=False), PLANE),
    "torchvision fcn": (of_torchvision("fcn_resnet50", weights_backbone=None), PLANE),
    "smp UPerNet": (of_smp("UPerNet"), LARGE),
    **{f"smp {name}": (of_smp(name), LARGE) for name in
       "UnetPlusPlus MAnet Linknet PSPNet DeepLabV3 DeepLabV3Plus Segformer".split()},
    "monai DenseNet121": (of_monai("DenseNet121", 2, 3, 2), PLANE),
    "torchvision r3d": (
        lambda: torchvision.models.video.r3d_18(weights=None, num_classes=3), (16, 32, 48)
    ),
    "torchvision s3d": (
        lambda: torchvision.models.video.s3d(weights=None, num_classes=3), (16, 224, 224)
    ),
    "monai3d DynUNet": (
        of_monai("DynUNet", 3, 3, 2, [[1, 3, 3], 3, 3], [1, [1, 2, 2], 2], [[1, 2, 2], 2]),
        (8, 32, 64),
    ),
    "monai3d AttentionUnet": (of_monai("AttentionUnet", 3, 3, 2, (8, 16, 32), (2, 2)), (8, 32, 64)),
    "monai3d HighResNet": (of_monai("HighResNet", 3, 3, 2), (16, 24, 32)),
    "monai3d VNet": (
        lambda: nn.Sequential(nn.Conv3d(3, 4, 1), mn.VNet(3, 4, 2)), (16, 32, 48)
    ),
    "monai3d UNETR": (
        of_monai("UNETR", 3, 2, (32, 32, 48), feature_size=4, hidden_size=24, mlp_dim=48,
                 num_heads=2),
        (32, 32, 48),
    ),
    "monai3d SwinUNETR": (of_monai("SwinUNETR", 3, 2, feature_size=12), (64, 64, 64)),
}  # fmt: skip
"""The same for larger ones."""


def stored_and_loaded(net: Any, make: Make, path: Path) -> Any:
    """Write a network to a weights file, and load it into a fresh one of its authors."""
    config = crossd.WeightsConfig("custom", "classification", 3, ("a", "b", "c"))
    crossd.save(net, path, config)
    torch.manual_seed(7)
    return crossd.load(path, make())


def flat(answer: Any) -> list[Tensor]:
    return [value for value in tree_leaves(answer) if isinstance(value, Tensor)]


def alike(first: Any, second: Any, tolerance: float = 1e-5) -> None:
    for one, other in zip(flat(first), flat(second), strict=True):
        close_relative(one, other, tolerance)


@pytest.mark.parametrize("name", some([*FAMILIES, *SLOW], QUICK))
def test_a_member_of_each_family(name: str, tmp_path: Path) -> None:
    make, size = (FAMILIES | SLOW)[name]
    torch.manual_seed(0)
    source = settle(make())
    net: Any = crossd.convert(source, lift="inflate")
    images = torch.randn(2, 3, *size[-2:])
    depth = 64 if size == LARGE else 32
    volumes = torch.randn(2, 3, *(size if len(size) == 3 else (depth, *size)))
    with torch.no_grad():
        answer = source(images if len(size) == 2 else volumes)
        alike(net.eval()(images if len(size) == 2 else volumes), answer, 1e-4)
    settle(net)  # kernels as of no lift
    for part in net.modules():
        position = getattr(part, "depth_position", None)
        if position is not None:  # what is learnt along depth is not there on images
            nn.init.zeros_(position)
    with torch.no_grad():
        first = net(volumes), net(images)
        alike(net(volumes), first[0])  # the state of a call is not the next one's
        alike(net(images), first[1])
    folding = net.crossd_state.folding
    for axis in folding.views:
        length = volumes.shape[2 + axis] if folding.rank == 3 or axis else depth
        length = folding.repeat if folding.repeat > 1 else length  # what images are repeated to
        lawful = perturbed.as_the_law_wants(copy.deepcopy(net), axis)  # of transposed strides
        keeps_the_law(lawful, images, axis, length, 1e-3)
    loaded = stored_and_loaded(net, make, tmp_path / "w.safetensors")
    assert loaded.conversion.checks == () and loaded.crossd_state.folding == folding
    with torch.no_grad():
        alike(loaded(volumes), first[0])
        alike(loaded(images), first[1])
    net.train()
    with perturbed.Still(), crossd.view("axial"):
        for x in (images, volumes):
            net.zero_grad()
            torch.stack([v.square().mean() for v in flat(net(x))]).sum().backward()
            gradients = [p.grad for p in net.parameters() if p.grad is not None]
            assert gradients and all(g.isfinite().all() for g in gradients)


@pytest.mark.slow
def test_the_whole_zoo() -> None:
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
    assert sum(row["library"] == "timm" for row in converted) >= 1330
