"""Layers with another forward on volumes: the originals on images, slow references on volumes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from timm.layers.blur_pool import BlurPool2d
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.drop import DropBlock2d
from timm.layers.norm_act import BatchNormAct2d
from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame
from timm.layers.space_to_depth import SpaceToDepth
from timm.layers.std_conv import ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from torch import Tensor, nn

import crossd
from crossd import InputError
from crossd.rules_elsewhere import same_margins

convert: Callable[..., Any] = crossd.convert

LAYERS: dict[str, Callable[[], nn.Module]] = {
    **{
        kind.__name__: (lambda kind=kind: kind((1, 2, 0, 3)))  # type: ignore[misc]
        for kind in (nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.CircularPad2d)
    },
    "ConstantPad2d": lambda: nn.ConstantPad2d((1, 0, 2, 1), 3.0),
    "AvgPool2dSame": lambda: AvgPool2dSame(3, 2),
    "MaxPool2dSame": lambda: MaxPool2dSame((3, 2), 2),
    "Conv2dSame": lambda: Conv2dSame(4, 6, 3, 2),
    "Conv2dSame patches": lambda: Conv2dSame(4, 6, 4, 4),
    "Conv2dSame grouped": lambda: Conv2dSame(4, 4, 5, 2, dilation=2, groups=4),
    "Conv2dSame points": lambda: Conv2dSame(4, 6, 1, 2),
    "StdConv2d": lambda: StdConv2d(4, 6, 3, padding=1),
    "StdConv2dSame": lambda: StdConv2dSame(4, 6, 3, 2),
    "ScaledStdConv2d": lambda: ScaledStdConv2d(4, 6, 3, padding=1, gamma=1.7),
    "ScaledStdConv2dSame": lambda: ScaledStdConv2dSame(4, 6, 3, 2),
    "BatchNormAct2d": lambda: BatchNormAct2d(4),
    "BlurPool2d": lambda: BlurPool2d(4),
    "BlurPool2d any channels": lambda: BlurPool2d(None, 5, 1, "constant"),
    "PixelShuffle": lambda: nn.PixelShuffle(2),
    "PixelUnshuffle": lambda: nn.PixelUnshuffle(2),
    "SpaceToDepth": lambda: SpaceToDepth(4),
    "Softmax2d": lambda: nn.Softmax2d(),
    "DropBlock2d": lambda: DropBlock2d(0.3),
}


def layer_of(name: str) -> tuple[nn.Module, Any]:
    """A 2D layer with weights as of training, in evaluation mode, and its Cross-D form."""
    torch.manual_seed(2)
    layer = LAYERS[name]().eval()
    for tensor in layer.state_dict().values():
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 1.5)
    return layer, convert(nn.Sequential(nn.Conv2d(4, 4, 1), layer).eval())[1]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("shape", [(16, 20), (17, 13)])
def test_images_get_what_they_got_and_volumes_what_the_law_demands(
    name: str, shape: tuple[int, int]
) -> None:
    layer, ours = layer_of(name)
    if "huffle" in name or name == "SpaceToDepth":
        shape = (shape[0] // 4 * 4, shape[1] // 4 * 4)
    images = torch.randn(2, 4, *shape)
    with torch.no_grad():
        expected = layer(images)
        torch.testing.assert_close(ours(images), expected, rtol=1e-4, atol=1e-5)
        answer = ours(images.unsqueeze(2).repeat_interleave(24, 2))
        middle = answer.shape[2] // 2
        for part in answer.unbind(2)[middle - 1 : middle + 2]:
            torch.testing.assert_close(part, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_plain_forms_agree_and_have_nothing_of_crossd(name: str) -> None:
    layer, _ = layer_of(name)
    net = convert(nn.Sequential(nn.Conv2d(4, 4, 1), layer).eval())
    images, volumes = torch.randn(2, 4, 16, 20), torch.randn(2, 4, 12, 16, 20)
    flat, solid = crossd.to_2d(net), crossd.to_3d(net)
    for twin in (flat, solid):
        assert not any(type(m).__module__.startswith("crossd") for m in twin.modules())
        assert not any("Lifted" in str(type(m).__mro__) for m in twin.modules())
    with torch.no_grad():
        torch.testing.assert_close(flat(images), net(images), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(solid(volumes), net(volumes), rtol=1e-4, atol=1e-5)


@given(
    *(st.integers(1, 23), st.integers(1, 5), st.integers(1, 4), st.integers(1, 2)),
)
def test_same_margins_follow_tensorflow(length: int, size: int, stride: int, dilation: int) -> None:
    before, after = same_margins([length], [size], [stride], [dilation])
    reach = (size - 1) * dilation + 1
    outputs = -(-length // stride)
    assert before + after == max((outputs - 1) * stride + reach - length, 0)
    assert after - before in (0, 1)


@pytest.mark.parametrize("kind", [StdConv2d, ScaledStdConv2d])
@pytest.mark.parametrize("mode", ["projection", "slice", "fourier"])
def test_standardised_kernels_have_mean_0_and_a_given_variance(kind: Any, mode: str) -> None:
    layer = kind(4, 6, 3, padding=1)
    net = convert(nn.Sequential(layer), mode, lift=None if mode == "projection" else "center")
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


def test_batch_norm_with_activation_learns_statistics_of_volumes() -> None:
    layer, ours = layer_of("BatchNormAct2d")
    plain: Any = crossd.to_3d(convert(nn.Sequential(nn.Conv2d(4, 4, 1), layer)))
    reference = nn.BatchNorm3d(4)
    reference.load_state_dict(layer.state_dict())
    volumes = torch.randn(3, 4, 5, 6, 7) * 2 + 1
    expected = reference.train()(volumes).relu()
    for module in (ours.train(), plain[1].train()):
        torch.testing.assert_close(module(volumes), expected)
        torch.testing.assert_close(module.state_dict(), reference.state_dict())
    torch.testing.assert_close(ours.eval()(volumes), reference.eval()(volumes).relu())


def test_blocks_are_dropped_from_volumes_in_training() -> None:
    _, ours = layer_of("DropBlock2d")
    ours.train()
    torch.manual_seed(0)
    dropped = ours(torch.ones(4, 4, 16, 16, 16)) == 0
    assert 0.05 < dropped.float().mean() < 0.6
    smooth = F.max_pool3d(-dropped.float(), 3, 1, 1)  # whole blocks: some centres of cubes
    assert (smooth == -1).any()


def test_slices_are_repeated_or_averaged() -> None:
    _, shuffle = layer_of("PixelShuffle")
    x = torch.randn(1, 4, 3, 4, 5)
    expected = torch.stack([F.pixel_shuffle(part, 2) for part in x.unbind(2)], 2)
    torch.testing.assert_close(shuffle(x), expected.repeat_interleave(2, 2))
    _, unshuffle = layer_of("PixelUnshuffle")
    y = torch.randn(1, 4, 4, 4, 6)
    parts = torch.stack([F.pixel_unshuffle(part, 2) for part in y.unbind(2)], 2)
    torch.testing.assert_close(unshuffle(y), (parts[:, :, ::2] + parts[:, :, 1::2]) / 2)


def test_a_blurred_volume_is_blurred_along_every_axis() -> None:
    ours = convert(nn.Sequential(nn.Conv2d(4, 4, 1), BlurPool2d(None, 5, 1, "constant")))[1]
    x = torch.zeros(1, 4, 9, 9, 9)
    x[:, :, 4, 4, 4] = 1
    profile = torch.tensor([1.0, 4, 6, 4, 1]) / 16
    expected = torch.einsum("a,b,c->abc", profile, profile, profile)
    blurred: Tensor = ours(x)
    torch.testing.assert_close(blurred[0, 0, 2:7, 2:7, 2:7], expected)
    assert blurred.count_nonzero() == 4 * 5**3


@pytest.mark.parametrize("kind", [Conv2dSame, StdConv2d, ScaledStdConv2dSame])
def test_acs_has_no_such_convolutions(kind: Any) -> None:
    with pytest.raises(InputError, match=f"layer '0' .*ACS has no {kind.__name__}"):
        crossd.acs(nn.Sequential(kind(1, 2, 3)))
