"""The registry of rules, and what it says of depth."""

from typing import Any

import pytest
import torch
from helpers import keeps_the_law
from segmentation_models_pytorch.encoders._efficientnet import Conv2dStaticSamePadding
from segmentation_models_pytorch.encoders._utils import replace_strides_with_dilation
from torch import Tensor, nn

import crossd
from crossd.conversion.depth_stride import depth_settings
from crossd.conversion.rules import find_rule


class Plain(nn.Conv2d):
    """A subclass that does the work of its base."""


class Other(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


class OtherInside(nn.Conv2d):
    def _conv_forward(self, *arguments: Any) -> Tensor:
        return super()._conv_forward(*arguments) + 1


def test_rules_are_for_a_type_and_for_what_does_its_work() -> None:
    conv = find_rule(nn.Conv2d(1, 1, 1))
    assert conv is not None
    assert find_rule(Plain(1, 1, 1)) is conv
    assert find_rule(Other(1, 1, 1)) is None and find_rule(OtherInside(1, 1, 1)) is None
    assert find_rule(nn.Linear(1, 1)) is None
    parametrized = nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 1, 1))
    assert find_rule(parametrized) is None


@pytest.mark.parametrize(("stride", "rate"), [(1, 1), (2, 1), (1, 2), (1, 4)])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_static_padding_and_what_dilation_makes_of_it(stride: int, rate: int, size: int) -> None:
    layer = Conv2dStaticSamePadding(2, 4, size, stride, image_size=(16, 24))
    if rate > 1:
        replace_strides_with_dilation(layer, rate)
    source = nn.Sequential(layer)
    net: Any = crossd.convert(source, check=False).eval()
    x = torch.randn(2, 2, 16, 24)
    torch.testing.assert_close(net(x), source(x))
    assert net(torch.randn(2, 2, 16, 16, 24)).shape[2:] == (16 // stride, *source(x).shape[2:])
    for axis in (0, 1, 2):
        keeps_the_law(net, x, axis, 16)


@pytest.mark.parametrize(
    ("layer", "stride", "expected"),
    [
        (nn.Conv2d(1, 1, 3, 2, 1), 1, {"stride": 1}),
        (nn.Conv2d(1, 1, 3, 2, 1), 2, {}),
        (nn.Conv2d(1, 1, 4, 4), 1, {"stride": 1, "kernel_size": 1, "padding": 0}),
        (nn.Conv2d(1, 1, 4, 4), 2, {"stride": 2, "kernel_size": 2, "padding": 0}),
        (nn.Conv2d(1, 1, 1, 2), 1, {"stride": 1, "kernel_size": 1, "padding": 0}),
        (nn.ConvTranspose2d(1, 1, 2, 2), 1, {"stride": 1, "kernel_size": 1, "padding": 0}),
        (
            nn.ConvTranspose2d(1, 1, 3, 2, 1, 1),
            1,
            {"stride": 1, "kernel_size": 3, "padding": 1, "output_padding": 0},
        ),
        (
            nn.ConvTranspose2d(1, 1, 4, 2, 1),
            1,
            {"stride": 1, "kernel_size": 3, "padding": 1, "output_padding": 0},
        ),
    ],
)
def test_another_depth_stride(layer: nn.Module, stride: int, expected: dict[str, int]) -> None:
    assert depth_settings(layer, stride, None) == expected


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Conv2d(1, 1, 7, 2, 3), {"kernel_size": 3, "padding": 1}),
        (nn.Conv2d(1, 1, 5, padding=4, dilation=2), {"kernel_size": 3, "padding": 2}),
        (nn.Conv2d(1, 1, 7), {"kernel_size": 3, "padding": 0}),
        (nn.Conv2d(1, 1, 1), {}),
        (nn.Conv2d(1, 1, 4, 4), {}),
    ],
)
def test_another_depth_of_kernels(layer: nn.Module, expected: dict[str, int]) -> None:
    assert depth_settings(layer, None, 3) == expected


def test_a_depth_of_kernels_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="padding 1 of a kernel of 5"):
        depth_settings(nn.Conv2d(1, 1, 5, padding=1), None, 3)
