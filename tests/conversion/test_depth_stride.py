"""Depth policies: networks on thin volumes, and the shapes that they leave."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import timm
import torch
from monai.networks.nets import BasicUNet, UNet
from torch import nn

import crossd
from crossd import InputError
from crossd.conversion.depth_stride import automatic

convert: Callable[..., Any] = functools.partial(crossd.convert, check=False)


def resnet() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(
        "resnet18", channels=(16, 24, 32, 48), num_classes=3, in_chans=1
    ).eval()


def last_depth(net: Any, depth: int) -> int:
    features = net.forward_features(torch.randn(1, 1, depth, 64, 64))
    assert features.shape[3:] == (2, 2)
    return int(features.shape[2])


@pytest.mark.parametrize(
    ("stride", "depth", "left"),
    [
        (None, 64, 2),
        (1, 5, 5),
        (2, 64, 2),
        ((1, 2, 2, 1, 1), 16, 4),
        ([1, 1, 1, 1, 2], 16, 8),
    ],
)
def test_depth_strides_of_a_resnet(stride: Any, depth: int, left: int) -> None:
    source = resnet()
    net = convert(source, depth_stride=stride, depth_padding="replicate")
    with torch.no_grad():
        assert last_depth(net, depth) == left
        assert last_depth(crossd.to_3d(net), depth) == left
        images = torch.randn(1, 1, 64, 64)
        torch.testing.assert_close(net(images), source(images))
        torch.testing.assert_close(crossd.to_2d(net)(images), source(images))
        repeated = images.unsqueeze(2).repeat_interleave(depth, 2)
        torch.testing.assert_close(net(repeated), source(images), rtol=1e-4, atol=1e-5)


def test_auto_keeps_thin_volumes() -> None:
    net = convert(resnet(), depth_stride="auto", size=(16, 64, 64), spacing=(5.0, 0.7, 0.7))
    with torch.no_grad():
        assert last_depth(net, 16) == 2
        assert last_depth(convert(resnet(), depth_stride="auto", size=(16, 64, 64)), 16) == 2


@pytest.mark.parametrize(
    ("factors", "size", "spacing", "expected"),
    [
        ([2] * 5, (64, 64, 64), None, [2, 2, 2, 2, 2]),
        ([2] * 5, None, (1, 1, 1), [2, 2, 2, 2, 2]),
        ([2] * 5, (16, 320, 320), (5.0, 0.7, 0.7), [1, 1, 2, 2, 2]),
        ([2] * 5, None, (3.0, 1.0, 1.0), [1, 2, 2, 2, 2]),
        ([2] * 5, (4, 512, 512), None, [2, 1, 1, 1, 1]),
        ([4, 2, 2, 2], (32, 128, 128), (1.0, 1.0, 1.0), [4, 2, 2, 1]),
        ([2] * 3, (64, 64, 64), (0.5, 2.0, 2.0), [2, 2, 2]),
    ],
)
def test_automatic_strides(
    factors: Sequence[int], size: Any, spacing: Any, expected: list[int]
) -> None:
    assert automatic(factors, size, spacing) == expected


@pytest.mark.parametrize(
    "make",
    [
        lambda: BasicUNet(2, 1, 2, features=(4, 4, 8, 8, 16, 4)),
        lambda: UNet(2, 1, 2, (4, 8, 16), (2, 2), num_res_units=1),
    ],
)
def test_u_nets_go_down_and_up_alike(make: Callable[[], nn.Module]) -> None:
    source = make().eval()
    with torch.no_grad():
        for stride in (1, "auto"):
            net = convert(source, depth_stride=stride, size=(5, 64, 64), spacing=(9.0, 1.0, 1.0))
            assert net(torch.randn(1, 1, 5, 32, 48)).shape == (1, 2, 5, 32, 48)
            assert crossd.to_3d(net)(torch.randn(1, 1, 5, 32, 48)).shape == (1, 2, 5, 32, 48)
            images = torch.randn(1, 1, 32, 48)
            torch.testing.assert_close(net(images), source(images), rtol=1e-4, atol=1e-5)


def test_patches_are_as_deep_as_their_stride() -> None:
    net = convert(timm.create_model("convnext_atto", in_chans=1), depth_stride=1)
    assert net.stem[0].kernel_size == (1, 4, 4)
    assert net(torch.randn(1, 1, 3, 64, 64)).shape == (1, 1000)


def test_depth_kernels() -> None:
    source = resnet()
    net = convert(source, depth_kernel=1)
    found = {(m.kernel_size[0], m.stride[0]) for m in net.modules() if isinstance(m, nn.Conv3d)}
    assert found == {(1, 1), (3, 2)}  # what strides must not drop slices
    net = convert(source, depth_kernel=3)
    assert net.conv1.kernel_size == (3, 7, 7) and net.conv1.padding == (1, 3, 3)
    images = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(net(images), source(images))
        volumes = torch.randn(1, 1, 32, 64, 64)
        torch.testing.assert_close(crossd.to_3d(net)(volumes), net(volumes))


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"depth_stride": (1, 2)}, r"depth_stride .* 5 stages of strides 2, 2, 2, 2, 2"),
        ({"depth_stride": 0}, "positive"),
        ({"depth_stride": "some"}, "or 'auto'"),
        ({"depth_stride": "auto"}, "needs the size or the spacing"),
        ({"depth_kernel": 2}, "odd"),
    ],
)
def test_wishes_that_cannot_be_met(wish: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        convert(resnet(), **wish)


def test_functions_stride_as_layers_do() -> None:
    net = convert(timm.create_model("resnetblur18"), depth_stride=1)  # blurs by a fixed kernel
    assert net.forward_features(torch.randn(1, 3, 3, 64, 64)).shape[2:] == (3, 2, 2)
    net = convert(timm.create_model("resnetblur18"), depth_stride=(1, 1, 1, 1, 2))
    assert net.forward_features(torch.randn(1, 3, 4, 64, 64)).shape[2:] == (2, 2, 2)


def test_images_in_other_views_are_refused_where_depth_strides_on_its_own() -> None:
    net = convert(resnet(), depth_stride=1)
    with (
        crossd.view("coronal"),
        pytest.raises(InputError, match="no settings for images"),
    ):
        net(torch.randn(1, 1, 64, 64))
