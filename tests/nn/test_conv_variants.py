"""Convolutions that pad as TensorFlow does or standardise kernels: the originals on images."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import close_relative, keeps_the_law, law
from hypothesis import given
from hypothesis import strategies as st
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.std_conv import ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from torch import nn

import crossd
from crossd import InputError
from crossd.nn.conv_variants import SameConv, SameStdConv, StdConv, same_margins

convert: Callable[..., Any] = crossd.convert

LAYERS: dict[str, tuple[Callable[[], nn.Module], type[nn.Module]]] = {
    "same": (lambda: Conv2dSame(4, 6, 3, 2), SameConv),
    "same patches": (lambda: Conv2dSame(4, 6, 4, 4), SameConv),
    "same grouped": (lambda: Conv2dSame(4, 4, 5, 2, dilation=2, groups=4), SameConv),
    "same points": (lambda: Conv2dSame(4, 6, 1, 2), SameConv),
    "same oblong": (lambda: Conv2dSame(4, 6, (1, 5), (1, 2)), SameConv),
    "std": (lambda: StdConv2d(4, 6, 3, padding=1), StdConv),
    "std same": (lambda: StdConv2dSame(4, 6, 3, 2), SameStdConv),
    "scaled": (lambda: ScaledStdConv2d(4, 6, 3, padding=1, gamma=1.7), StdConv),
    "scaled same": (lambda: ScaledStdConv2dSame(4, 6, 3, 2), SameStdConv),
}


def layer_of(name: str) -> tuple[nn.Module, Any]:
    """A 2D layer with weights as of training, in evaluation mode, and its Cross-D form."""
    torch.manual_seed(2)
    make, kind = LAYERS[name]
    layer = make().eval()
    for tensor in layer.state_dict().values():
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 1.5)
    net = convert(nn.Sequential(nn.Conv2d(4, 4, 1), layer).eval(), check=False)
    assert isinstance(net[1], kind)
    return layer, net


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("shape", [(16, 20), (17, 13)])
def test_images_get_what_they_got_and_volumes_what_the_law_demands(
    name: str, shape: tuple[int, int]
) -> None:
    layer, net = layer_of(name)
    images = torch.randn(2, 4, *shape)
    with torch.no_grad():
        torch.testing.assert_close(net[1](images), layer(images), rtol=1e-4, atol=1e-5)
        net[1].weight.add_(0.2 * torch.randn_like(net[1].weight))  # no longer as lifted
    for axis in range(3 if "oblong" not in name else 1):
        keeps_the_law(net, images, axis, 9, 1e-3)


@pytest.mark.parametrize("name", LAYERS)
def test_there_and_back(name: str) -> None:
    _layer, net = layer_of(name)
    images, volumes = torch.randn(2, 4, 16, 20), torch.randn(2, 4, 12, 16, 20)
    flat, solid = crossd.to_2d(net), crossd.to_3d(net)
    assert not any(type(m).__module__.startswith("crossd") for m in flat.modules())
    kind = Conv2dSame if "same" in name else nn.Conv2d
    assert type(flat[1]) is kind  # type: ignore[index]
    with torch.no_grad():
        torch.testing.assert_close(flat(images), net(images), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(solid(volumes), net(volumes), rtol=1e-4, atol=1e-5)
    plain = "plain" in solid.conversion.checks[0]  # type: ignore[union-attr,index]
    assert plain == ("same" not in name)  # torch has no such padding in 3D


@law
@given(st.integers(1, 23), st.integers(1, 5), st.integers(1, 4), st.integers(1, 2))
def test_same_margins_follow_tensorflow(length: int, size: int, stride: int, dilation: int) -> None:
    before, after = same_margins(length, size, stride, dilation)
    reach = (size - 1) * dilation + 1
    outputs = -(-length // stride)
    assert before + after == max((outputs - 1) * stride + reach - length, 0)
    assert after - before in (0, 1)


@law
@given(st.integers(3, 9), st.integers(1, 5), st.integers(1, 3))
def test_volumes_are_padded_as_images_are(length: int, size: int, stride: int) -> None:
    layer = Conv2dSame(2, 3, size, stride, bias=False)
    conv = convert(nn.Sequential(layer), check=False, lift=None, spread=False)[0]
    x = torch.randn(1, 2, length, 7, 8)
    margins = [same_margins(side, size, stride, 1) for side in x.shape[2:]]
    padded = F.pad(x, [margin for pair in reversed(margins) for margin in pair])
    close_relative(conv(x), F.conv3d(padded, conv.weight, None, stride), 1e-5)


@pytest.mark.parametrize("kind", [StdConv2d, ScaledStdConv2d])
@pytest.mark.parametrize("mode", ["projection", "slice", "fourier"])
def test_standardised_kernels_have_mean_0_and_a_given_variance(kind: Any, mode: str) -> None:
    layer = kind(4, 6, 3, padding=1)
    lift = None if mode == "projection" else "center"
    net = convert(nn.Sequential(layer), mode, lift=lift, check=False)
    conv = net[0]
    target = 1.0 if conv.scale is None else conv.scale
    for view in range(3 if mode == "projection" else 1):
        kernel = conv.mode.fixed_kernel(conv.kernel(), view).detach().flatten(1)
        torch.testing.assert_close(kernel.mean(1), torch.zeros(6), rtol=0, atol=1e-6)
        if view == 0:
            deviation = kernel.std(1, correction=0)
            torch.testing.assert_close(deviation, torch.full((6,), target), rtol=1e-3, atol=0)
    loss = net(torch.randn(2, 4, 6, 8, 8)).square().sum() + net(torch.randn(2, 4, 8, 8)).sum()
    loss.backward()
    assert all(p.grad is not None for n, p in net.named_parameters() if ".mode." not in n)


@pytest.mark.parametrize("kind", [Conv2dSame, StdConv2d, ScaledStdConv2dSame])
def test_acs_has_no_such_convolutions(kind: Any) -> None:
    with pytest.raises(InputError, match=f"layer '0' .*ACS has no {kind.__name__}"):
        crossd.acs(nn.Sequential(kind(1, 2, 3)))
