"""Mixtures of convolutions: the original on images, slow references on volumes."""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from helpers import settle
from timm.layers.cond_conv2d import CondConv2d
from torch import nn

import crossd
from crossd import InputError
from crossd.condconv import CondConv
from crossd.conversion.rules import Options

convert: Callable[..., Any] = crossd.convert

SETTINGS: list[dict[str, Any]] = [
    {"kernel_size": 3, "padding": 1, "bias": True},
    {"kernel_size": 3, "stride": 2, "padding": "same", "bias": True},
    {"kernel_size": 5, "padding": 4, "dilation": 2, "groups": 2},
    {"kernel_size": 1},
]

KEYS = ("stride", "padding", "dilation", "groups")


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("mode", ["projection", "slice"])
@pytest.mark.parametrize("how", ["center", "inflate"])
def test_images_get_what_they_got(settings: dict[str, Any], mode: str, how: str) -> None:
    torch.manual_seed(0)
    source = CondConv2d(4, 6, **settings)
    conv = CondConv(source, Options(mode, how))
    images, routing = torch.randn(3, 4, 11, 14), torch.rand(3, 4)
    torch.testing.assert_close(conv(images, routing), source(images, routing), rtol=1e-4, atol=1e-5)
    flat = conv.to_2d()
    assert type(flat) is CondConv2d
    torch.testing.assert_close(flat.state_dict(), source.state_dict())


@pytest.mark.parametrize("settings", SETTINGS)
def test_volumes_are_convolved_with_the_mixture_of_3d_kernels(settings: dict[str, Any]) -> None:
    torch.manual_seed(1)
    conv = CondConv(CondConv2d(4, 6, **settings), Options())
    nn.init.normal_(conv.weight)
    volumes, routing = torch.randn(2, 4, 9, 10, 12), torch.rand(2, 4)
    answer = conv(volumes, routing)
    solid = conv.to_3d()
    assert not any(type(m).__module__.startswith("crossd") for m in solid.modules())
    torch.testing.assert_close(solid(volumes, routing), answer)
    if settings.get("padding") == "same":  # one voxel behind, as the stride is 2
        volumes = F.pad(volumes, (0, 1, 0, 1, 1, 1))
        settings = settings | {"padding": 0}
    expected = []
    for x, weights in zip(volumes, routing, strict=True):
        kernel: Any = sum(
            w * e.view(6, -1, *conv.kernel_size) for w, e in zip(weights, conv.weight, strict=True)
        )
        bias = None if conv.bias is None else weights @ conv.bias
        more: dict[str, Any] = {k: settings[k] for k in KEYS if k in settings}
        expected.append(F.conv3d(x[None], kernel, bias, **more)[0])
    torch.testing.assert_close(answer, torch.stack(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("axis", range(3))
def test_the_law_in_every_view(axis: int) -> None:
    conv = CondConv(CondConv2d(2, 3, 3, padding=0), Options())
    nn.init.normal_(conv.weight)
    images, routing = torch.randn(2, 2, 8, 9), torch.rand(2, 4)
    with crossd.view(axis):
        expected = conv(images, routing)
    answer = conv(images.unsqueeze(2 + axis).repeat_interleave(5, 2 + axis), routing)
    for part in answer.unbind(2 + axis):
        torch.testing.assert_close(part, expected, rtol=1e-4, atol=1e-4)


def test_efficientnets_with_mixtures_convert() -> None:
    torch.manual_seed(2)
    source = settle(timm.create_model("efficientnet_cc_b0_4e", num_classes=3))
    net = convert(source)
    net.train()
    net(torch.randn(2, 3, 32, 32, 32)).square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    with pytest.raises(InputError, match=r"CondConv2d: 'fourier' has no mixtures"):
        convert(source, "fourier")
    with pytest.raises(ValueError, match="one view for the whole batch"), crossd.view([0, 1]):
        net(torch.randn(2, 3, 64, 64))
