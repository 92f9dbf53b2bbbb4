"""Convolutions in one plane of a volume, against a loop over the slices across it."""

from typing import Any

import pytest
import torch
from helpers import close, close_relative, normal, randomize
from torch import Tensor, nn

from crossd.nn.functional import depth_profile
from crossd.nn.layers import channels_last
from crossd.nn.planar import PLANES, PlanarConv


def make(*arguments: Any, **options: Any) -> Any:
    """A layer with values that hide no mistake."""
    layer = PlanarConv(*arguments, dtype=torch.float64, **options)
    randomize(layer)
    return layer


def slice_by_slice(conv: Any, x: Tensor, axis: int) -> Tensor:
    """Let the 2D layer answer on every slice across an axis."""
    plain = conv.to_2d()
    return torch.stack([plain(x.select(2 + axis, i)) for i in range(x.shape[2 + axis])], 2 + axis)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_without_a_stride_every_slice_is_convolved_by_itself(axis: int, mode: Any) -> None:
    conv = make(2, 3, 3, padding=1, plane=PLANES[axis], padding_mode=mode)
    x = normal(2, 2, 5, 6, 7)
    close(conv(x), slice_by_slice(conv, x, axis))


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": (1, 5), "padding": (0, 2)},
        {"kernel_size": 3, "padding": 2, "dilation": 2},
        {"kernel_size": 3, "padding": "same"},
        {"kernel_size": 5, "padding": 2, "groups": 2, "bias": False},
    ],
)
def test_settings_are_those_of_the_plane(axis: int, options: dict[str, Any]) -> None:
    conv = make(2, 4, plane=PLANES[axis], **options)
    x = normal(2, 2, 7, 8, 9)
    close(conv(x), slice_by_slice(conv, x, axis))


@pytest.mark.parametrize("axis", range(3))
def test_without_padding_the_third_axis_shrinks_as_the_plane(axis: int) -> None:
    conv = make(1, 2, 3, plane=PLANES[axis])
    x = normal(1, 1, 5, 6, 7)
    inner = slice_by_slice(conv, x, axis).narrow(2 + axis, 1, x.shape[2 + axis] - 2)
    close(conv(x), inner)
    assert make(1, 2, 3, padding="valid", plane=PLANES[axis])(x).shape == inner.shape


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize(("size", "padding", "taps"), [(1, 0, 3), (2, 0, 2), (3, 1, 3), (7, 3, 7)])
def test_a_stride_takes_means_over_slices_and_leaves_none_out(
    axis: int, size: int, padding: int, taps: int
) -> None:
    conv = make(1, 2, size, stride=2, padding=padding, plane=PLANES[axis], bias=False)
    x = normal(1, 1, 8, 10, 12)
    flat = slice_by_slice(conv, x, axis).movedim(2 + axis, -1)
    profile = depth_profile(taps, 2).double()
    margin = (taps - 1) // 2 if taps % 2 else 0
    padded = nn.functional.pad(flat, (margin, margin))
    means = padded.unfold(-1, taps, 2) @ profile
    close(conv(x), means.movedim(-1, 2 + axis))
    x.requires_grad_()
    gradient = torch.autograd.grad(conv(x).square().sum(), x)[0]
    seen = gradient.abs().amax([i for i in range(5) if i != 2 + axis]) > 0
    assert seen[: len(seen) - (size == 1)].all()


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("options", [{"padding": 1}, {"stride": 2}, {"padding": "same"}])
def test_the_3d_layer_does_the_same_and_images_see_the_2d_one(
    plane: str, options: dict[str, Any]
) -> None:
    conv = make(2, 3, 3, plane=plane, **options)
    x = normal(2, 2, 7, 8, 9)
    close(conv.to_3d()(x), conv(x))
    close(conv(x[:, :, 0]), conv.to_2d()(x[:, :, 0]))


@pytest.mark.parametrize("plane", PLANES)
def test_the_layout_in_memory_changes_nothing(plane: str) -> None:
    conv = make(4, 4, 3, padding=1, groups=2, plane=plane).float()
    x = normal(2, 4, 5, 6, 7, dtype=torch.float32)
    expected = slice_by_slice(conv, x, PLANES.index(plane))
    laid = channels_last(conv)(x.contiguous(memory_format=torch.channels_last_3d))
    close_relative(laid, expected, 1e-6)


def test_other_planes_are_refused() -> None:
    with pytest.raises(ValueError, match="plane"):
        PlanarConv(1, 1, 3, plane="WH")
