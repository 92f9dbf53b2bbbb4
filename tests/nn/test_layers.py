"""What layers for both ranks share."""

import copy
from typing import Any

import pytest
import torch
from helpers import close, normal
from torch import nn

from crossd.nn.layers import (
    WIDE,
    channels_last,
    conv_settings,
    depth_axis,
    drop_axis,
    fill,
    is_volume,
    laid_out,
)


def test_is_volume() -> None:
    assert is_volume(torch.zeros(1, 2, 3, 4, 5), nn.Identity())
    assert not is_volume(torch.zeros(1, 2, 3, 4), nn.Identity())
    with pytest.raises(ValueError, match=r"Identity takes .* got shape \(1, 2, 3\)"):
        is_volume(torch.zeros(1, 2, 3), nn.Identity())


def test_drop_axis_takes_the_other_two() -> None:
    assert [drop_axis(axis)((4, 5, 6)) for axis in range(3)] == [(5, 6), (4, 6), (4, 5)]


@pytest.mark.parametrize(
    ("size", "axis"), [(3, 0), ((3, 3), 0), ((1, 7), 0), ((7, 1), 1), ([5, 3], 1)]
)
def test_depth_follows_the_smaller_kernel(size: Any, axis: int) -> None:
    assert depth_axis(size) == axis


def test_fill_copies_what_it_takes() -> None:
    source = nn.Conv2d(2, 3, 3, dtype=torch.float64).eval()
    assert source.bias is not None
    source.bias.requires_grad_(False)
    weight, state = normal(3, 2, 1, 3, 3), torch.get_rng_state()
    target = nn.Conv3d(2, 3, (1, 3, 3), device="meta")
    assert fill(target, source, weight=weight) is target
    assert torch.equal(torch.get_rng_state(), state)
    assert target.bias is not None
    close(target.weight, weight)
    close(target.bias, source.bias)
    assert target.weight.requires_grad
    assert not target.bias.requires_grad
    assert not target.training
    target.weight.data.zero_()
    assert weight.abs().max() > 0


def test_conv_settings_make_the_same_layer() -> None:
    conv = nn.Conv2d(4, 6, (3, 5), (1, 2), "valid", (2, 1), 2, False, "circular")
    up = nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, 2, True, 3)
    for layer in (conv, up):
        twin = type(layer)(**conv_settings(layer, tuple))
        assert repr(twin) == repr(layer)
        assert twin.weight.is_meta


# --- memory


def test_channels_last_lays_out_kernels_of_both_ranks_and_nothing_else() -> None:
    net: Any = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.Conv3d(2, 3, 3), nn.Linear(2, 2), nn.BatchNorm2d(3)
    )
    before = copy.deepcopy(net.state_dict())
    parameters = list(net.parameters())
    assert channels_last(net) is net
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    assert net[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert net[1].weight.is_contiguous(memory_format=torch.channels_last_3d)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize(
    ("volumes", "device", "in_order"), [(True, "cpu", 1), (False, "cpu", 0), (True, "cuda", 0)]
)
def test_wide_3d_kernels_stay_in_order_where_a_cpu_takes_volumes(
    volumes: bool, device: str, in_order: int
) -> None:
    net: Any = nn.Sequential(
        nn.Conv2d(WIDE, 3, 3), nn.Conv3d(WIDE - 1, 3, 3), nn.Conv3d(WIDE, 3, 3)
    )
    assert laid_out(channels_last(net), volumes, torch.device(device)) is net
    assert net[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert net[1].weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert net[2].weight.is_contiguous() == in_order
    assert net[2].weight.is_contiguous(memory_format=torch.channels_last_3d) != in_order
