"""The named networks: built, converted and run in both ranks."""

import pytest
import timm
import torch
from helpers import close_relative, some
from torch import nn

import crossd
from crossd import InputError
from crossd.conversion import registry

SEGMENTATION = ("segresnet-small", "segresnet", "basicunet", "unet", "dynunet")


@pytest.mark.parametrize("name", some(["resnet-small", "resnet18"], ["resnet-small"]))
def test_classifiers_convert_and_answer_in_both_ranks(name: str) -> None:
    net = registry.build(name, "classification", 2, 5).eval()
    cross = crossd.convert(net)
    with torch.no_grad():
        images = torch.randn(2, 2, 32, 32)
        close_relative(cross(images), net(images), 1e-5)
        assert cross(torch.randn(1, 2, 32, 32, 32)).shape == (1, 5)


@pytest.mark.parametrize("name", some(SEGMENTATION, ["segresnet-small"]))
def test_segmenters_convert_and_answer_in_both_ranks(name: str) -> None:
    net = registry.build(name, "segmentation", 1, 3).eval()
    cross = crossd.convert(net)
    with torch.no_grad():
        images = torch.randn(1, 1, 32, 32)
        assert net(images).shape == (1, 3, 32, 32)
        close_relative(cross(images), net(images), 1e-5)
        assert cross(torch.randn(1, 1, 32, 16, 16)).shape == (1, 3, 32, 16, 16)


def test_the_defaults_exist() -> None:
    for task, name in registry.DEFAULTS.items():
        assert isinstance(registry.build(name, task, 1, 2), nn.Module)


def test_any_timm_name_is_timms_network() -> None:
    net = registry.build("resnet18.a1_in1k", "classification", 1, 7)
    ours = {name: p.shape for name, p in net.named_parameters()}
    theirs = timm.create_model("resnet18", in_chans=1, num_classes=7).named_parameters()
    assert ours == {name: p.shape for name, p in theirs}


@pytest.mark.parametrize(
    ("name", "task", "near"),
    [
        ("resnet81", "classification", "resnet18"),
        ("resnet-smal", "classification", "resnet-small"),
        ("segresnet-smal", "segmentation", "segresnet-small"),
        ("dynaunet", "segmentation", "dynunet"),
        ("qqq", "segmentation", "basicunet"),
        ("qqqqqqq", "classification", "resnet-small"),
        ("resnet18", "segmentation", "segresnet"),
        ("dynunet", "classification", "did you mean"),
    ],
)
def test_a_misspelt_name_is_answered_with_near_ones(name: str, task: str, near: str) -> None:
    with pytest.raises(
        InputError, match=f"no model called '{name}' for {task}: .*{near}"
    ) as caught:
        registry.build(name, task, 1, 2)
    assert "\n" not in str(caught.value)


def test_arguments_stand_in_brackets() -> None:
    small = "vit_tiny_patch16_224(img_size=(32, 24), patch_size=8, depth=1)"
    for name in (small, f"timm:{small}"):
        net = registry.build(name, "classification", 1, 7)
        assert net(torch.zeros(2, 1, 32, 24)).shape == (2, 7)
    net = registry.build("monai:UNet(channels=(4, 8), strides=(2,))", "segmentation", 2, 3)
    assert net(torch.zeros(1, 2, 8, 8, 8)).shape == (1, 3, 8, 8, 8)
    net = registry.build("torchvision:r3d_18", "classification", 1, 4).eval()
    assert net(torch.zeros(1, 1, 8, 16, 16)).shape == (1, 4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_tiny_patch16_224(32)", "the arguments of .* cannot be read .arguments must be named"),
        ("vit_tiny_patch16_224(img_size=32", "no model called"),
        ("vit_tiny_patch16_224(img_size=side)", "the arguments of .* cannot be read"),
        ("vit_tiny_patch16_224(sides=32)", "vit_tiny_patch16_224 cannot be made of .*sides"),
        ("resnet-small(depth=3)", "resnet-small takes no arguments"),
        ("tim:resnet18", "no model called 'tim:resnet18': give NAME or timm:NAME or monai:NAME or"),
        ("monai:UNett", "no model called 'monai:UNett': did you mean monai:UNet"),
        ("timm:resnte18", "no model called 'resnte18' for classification: .*resnet18"),
    ],
)
def test_names_that_cannot_be_built_are_refused_in_a_line(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        registry.build(name, "classification", 1, 2)
    assert "\n" not in str(caught.value)


class TestAskedOnce:
    def test_a_size_that_it_cannot_take(self) -> None:
        net = timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=2)
        match = r"vit cannot take images of 32 x 48 \(.*224.*\); it takes 224 x 224: give its size"
        with pytest.raises(InputError, match=match):
            registry.require_answers(net, "vit", "classification", 2, (32, 48))

    def test_too_shallow_volumes_say_how_deep_they_must_be(self) -> None:
        net = crossd.convert(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3)), check=False)
        with pytest.raises(InputError, match=r"own cannot take volumes of 2 x 9 x 9: .*at least 5"):
            registry.answer_of(net, torch.zeros(1, 1, 2, 9, 9), "own")

    @pytest.mark.parametrize(
        ("net", "task", "gives"),
        [
            (nn.Conv2d(3, 2, 3), "classification", r"shape \(2, 2, "),
            (nn.Conv2d(3, 2, 3), "segmentation", r"maps of 7 x 7 for 9 x 9"),
            (nn.Conv2d(3, 4, 1), "segmentation", r"shape \(2, 4, 9, 9\)"),
        ],
    )
    def test_what_is_not_for_a_task(self, net: nn.Module, task: str, gives: str) -> None:
        with pytest.raises(InputError, match=f"own is not for {task}: it gives {gives}"):
            registry.require_answers(net, "own", task, 2, (9, 9))

    def test_it_leaves_no_trace(self) -> None:
        net = nn.Sequential(
            nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        registry.require_answers(net, "own", "classification", 2, (9, 9))
        assert net.training
        torch.testing.assert_close(net.state_dict(), state, rtol=0, atol=0)
