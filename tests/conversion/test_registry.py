"""The named networks: built, converted and run in both ranks."""

import pytest
import timm
import torch
from torch import nn

import crossd
from crossd import InputError
from crossd.conversion import registry

SEGMENTATION = ("segresnet-small", "segresnet", "basicunet", "unet", "dynunet")


@pytest.mark.parametrize("name", ["resnet-small", "resnet18"])
def test_classifiers_convert_and_answer_in_both_ranks(name: str) -> None:
    net = registry.build(name, "classification", 2, 5).eval()
    cross = crossd.convert(net)
    with torch.no_grad():
        images = torch.randn(2, 2, 32, 32)
        torch.testing.assert_close(cross(images), net(images), rtol=1e-4, atol=1e-5)
        assert cross(torch.randn(1, 2, 32, 32, 32)).shape == (1, 5)


@pytest.mark.parametrize("name", SEGMENTATION)
def test_segmenters_convert_and_answer_in_both_ranks(name: str) -> None:
    net = registry.build(name, "segmentation", 1, 3).eval()
    cross = crossd.convert(net)
    with torch.no_grad():
        images = torch.randn(1, 1, 32, 32)
        assert net(images).shape == (1, 3, 32, 32)
        torch.testing.assert_close(cross(images), net(images), rtol=1e-4, atol=1e-5)
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
