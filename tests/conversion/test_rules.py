"""The registry of rules, and what it says of depth."""

from typing import Any

import pytest
from torch import Tensor, nn

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
