"""The mathematics: its laws, and every function against a slow reference."""

import itertools
import math
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from helpers import (
    close,
    fft_kernels,
    fft_translate,
    law,
    normal,
    rotation_matrix,
    sum_along,
)
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from crossd.nn import functional as f

CUBES = [(k, k, k) for k in range(1, 8)]
BRICKS = [(1, 3, 3), (2, 3, 3), (3, 5, 4), (4, 3, 2), (2, 4, 6), (5, 1, 2)]

sizes = st.integers(1, 7)
odd_sizes = st.sampled_from([1, 3, 5, 7])
shifts = st.floats(-4, 4)
seeds = st.integers(0, 1000)


def poses(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Unit axes and angles in (-pi/4, pi/4)."""
    axis = F.normalize(normal(n, 3, seed=seed), dim=-1)
    return axis, math.pi / 4 * normal(n, seed=seed + 1).tanh()


# --- displacement


@law
@given(seeds, st.floats(-math.pi / 4, math.pi / 4), st.floats(-2, 2))
def test_displacement_sums_to_three_offsets_and_is_bounded(
    seed: int, angle: float, offset: float
) -> None:
    axis = F.normalize(normal(5, 3, seed=seed), dim=-1)
    d = f.displacement(axis, torch.full((5,), angle, dtype=torch.float64), offset)
    close(d.sum(-1), torch.full((5,), 3 * offset, dtype=torch.float64))
    assert (d - offset).abs().max() <= math.pi / 4 * math.sqrt(2) + 1e-12


def test_displacement_is_the_transposed_rotation_of_ones() -> None:
    axis, angle = poses(6)
    ones = torch.ones(3, dtype=torch.float64)
    expected = [rotation_matrix(k, a).T @ ones for k, a in zip(axis, angle, strict=True)]
    close(f.displacement(axis, angle), torch.stack(expected))


def test_displacement_reaches_its_bound() -> None:
    axis = torch.tensor([0, 1, -1], dtype=torch.float64) / math.sqrt(2)
    d = f.displacement(axis, torch.tensor(math.pi / 4, dtype=torch.float64), offset=0)
    assert d.abs().max().item() == pytest.approx(math.pi / 4 * math.sqrt(2))


def test_displacement_at_angle_zero_is_the_offset() -> None:
    axis, _ = poses(4)
    close(f.displacement(axis, torch.zeros(4), 0.25), torch.full((4, 3), 0.25))


def test_displacement_takes_any_leading_shape() -> None:
    axis, angle = poses(6)
    d = f.displacement(axis.view(2, 3, 3), angle.view(2, 3))
    close(d.view(6, 3), f.displacement(axis, angle))


# --- shift matrices


@law
@given(sizes, shifts)
def test_rows_sum_to_one(size: int, shift: float) -> None:
    real, imaginary = f.shift_matrix(torch.tensor(shift, dtype=torch.float64), size)
    close(real.sum(-1), torch.ones(size, dtype=torch.float64))
    if imaginary is not None and size > 1:
        close(imaginary.sum(-1), torch.zeros(size, dtype=torch.float64))


@law
@given(sizes, st.integers(-9, 9))
def test_integer_shift_is_a_roll(size: int, shift: int) -> None:
    real, imaginary = f.shift_matrix(torch.tensor(float(shift), dtype=torch.float64), size)
    signal = normal(size)
    close(real @ signal, signal.roll(shift))
    if imaginary is not None:
        close(imaginary, torch.zeros_like(imaginary))


@law
@given(odd_sizes, shifts, shifts)
def test_shifts_add(size: int, a: float, b: float) -> None:
    s = f.shift_matrix(torch.tensor([a, b, a + b], dtype=torch.float64), size)[0]
    close(s[0] @ s[1], s[2])


@law
@given(odd_sizes, shifts)
def test_shift_matrix_is_orthogonal(size: int, shift: float) -> None:
    real, imaginary = f.shift_matrix(torch.tensor(shift, dtype=torch.float64), size)
    assert imaginary is None
    close(real @ real.T, torch.eye(size, dtype=torch.float64))


@law
@given(sizes, shifts)
def test_shift_matrix_is_the_sum_over_frequencies(size: int, shift: float) -> None:
    real, imaginary = f.shift_matrix(torch.tensor(shift, dtype=torch.float64), size)
    for p, q in itertools.product(range(size), repeat=2):
        total = sum(
            torch.exp(torch.tensor(2j * math.pi * float(k) * (p - q - shift)))
            for k in torch.fft.fftfreq(size, dtype=torch.float64)
        )
        value = complex(total) / size
        assert real[p, q].item() == pytest.approx(value.real, abs=1e-6)
        part = 0.0 if imaginary is None else imaginary[p, q].item()
        assert part == pytest.approx(value.imag, abs=1e-6)


@pytest.mark.parametrize("size", CUBES + BRICKS)
def test_shift_map_is_the_fft_translation(size: tuple[int, int, int]) -> None:
    weight, shift = normal(2, 3, *size), normal(4, 3)
    moved = f.map_kernel(weight, f.shift_map(shift, size)).unflatten(-1, size)
    for n in range(4):
        close(moved[n], fft_translate(weight, shift[n]))


@pytest.mark.parametrize("size", [(3, 3, 3), (4, 4, 4), (2, 3, 5)])
def test_shift_map_of_one_depth_is_a_part_of_the_whole(size: tuple[int, int, int]) -> None:
    whole = f.shift_map(normal(3, 3), size).unflatten(1, size)
    for depth in range(size[0]):
        close(f.shift_map(normal(3, 3), size, depth), whole[:, depth].flatten(1, 2))


# --- kernels of the paper


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", CUBES + BRICKS)
def test_fourier_kernels_equal_the_fft_form(size: tuple[int, int, int], dtype: torch.dtype) -> None:
    weight, (axis, angle) = normal(3, 2, *size, dtype=dtype), poses(4)
    shift = f.displacement(axis, angle).to(dtype)
    kernels = f.fourier_kernels(weight, shift)
    assert kernels.dtype == dtype
    assert kernels.shape == (4, 3, 2, *size[1:])
    close(kernels, fft_kernels(weight, axis, angle))


@law
@given(sizes, seeds, st.floats(-2, 2))
def test_fourier_kernels_equal_the_fft_form_at_any_offset(
    size: int, seed: int, offset: float
) -> None:
    weight, (axis, angle) = normal(2, 1, size, size, size, seed=seed), poses(2, seed)
    shift = f.displacement(axis, angle, offset)
    close(f.fourier_kernels(weight, shift), fft_kernels(weight, axis, angle, offset))


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
@pytest.mark.parametrize("size", [*CUBES, *BRICKS])
def test_kernels_moved_axis_by_axis_are_those_of_the_map(
    size: tuple[int, int, int], axis: int | None
) -> None:
    weight, shift = normal(2, 3, *size), 2 * normal(4, 3, seed=1)
    whole = f.map_kernel(weight, f.shift_map(shift, size)).unflatten(-1, size)
    if axis is None:
        close(f.moved_kernels(weight, shift), whole)
        return
    close(f.moved_kernels(weight, shift, axis), whole.sum(3 + axis))
    for place in range(size[axis]):
        close(f.moved_kernels(weight, shift, axis, place), whole.select(3 + axis, place))
    close(f.moved_kernels(weight, shift[:1], axis), whole[:1].sum(3 + axis))
    laid = weight.to(memory_format=torch.channels_last_3d)
    close(f.moved_kernels(laid, shift, axis), whole.sum(3 + axis))
    assert f.moved_kernels(weight, shift[:0], axis).shape[0] == 0


def test_kernels_of_many_taps_are_moved_without_a_map_of_all() -> None:
    weight, shift = normal(1, 2, 32, 32, 32), torch.tensor([3.0, -1.0, 40.0], dtype=torch.float64)
    moved = f.shift_kernel(weight, shift)  # a map would hold 2^30 numbers
    close(moved, weight.roll((3, -1, 40), dims=(2, 3, 4)))


@pytest.mark.parametrize(("size", "axis"), [((4, 4, 4), 0), ((4, 3, 2), 1), ((5, 5, 5), 2)])
def test_gradient_of_kernels_moved_axis_by_axis(size: tuple[int, int, int], axis: int) -> None:
    weight, shift = normal(2, 2, *size).requires_grad_(), normal(2, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda w, d: f.moved_kernels(w, d, axis, 1), (weight, shift))
    assert torch.autograd.gradcheck(lambda w, d: f.moved_kernels(w, d, axis), (weight, shift))


def test_at_angle_zero_the_slice_before_the_central_one_is_taken_rolled() -> None:
    for size in (3, 4, 5):
        weight = normal(2, 2, size, size, size)
        kernel = f.fourier_kernels(weight, torch.ones(1, 3, dtype=torch.float64))[0]
        close(kernel, weight[:, :, size // 2 - 1].roll((1, 1), dims=(2, 3)))


def test_size_one_is_not_moved() -> None:
    weight = normal(2, 2, 1, 1, 1)
    close(f.fourier_kernels(weight, normal(3, 3)), weight[None, :, :, 0].expand(3, -1, -1, -1, -1))


@law
@given(st.tuples(sizes, sizes, sizes), st.tuples(*[st.integers(-5, 5)] * 3))
def test_integer_displacement_rolls_the_kernel(
    size: tuple[int, int, int], shift: tuple[int, int, int]
) -> None:
    weight = normal(2, 1, *size)
    moved = f.shift_kernel(weight, torch.tensor(shift, dtype=torch.float64))
    close(moved, weight.roll(shift, dims=(2, 3, 4)))


@law
@given(st.tuples(odd_sizes, odd_sizes, odd_sizes), seeds)
def test_odd_kernels_move_by_sums_and_keep_their_norm(
    size: tuple[int, int, int], seed: int
) -> None:
    weight, (a, b) = normal(2, 1, *size, seed=seed), normal(2, 3, seed=seed)
    close(f.shift_kernel(f.shift_kernel(weight, a), b), f.shift_kernel(weight, a + b))
    close(f.shift_kernel(weight, a).norm(), weight.norm())
    close(f.shift_kernel(weight, a).sum((2, 3, 4)), weight.sum((2, 3, 4)))


def test_permuting_samples_permutes_kernels() -> None:
    weight, shift, order = normal(3, 2, 3, 3, 3), normal(5, 3), torch.tensor([3, 0, 4, 1, 2])
    close(f.fourier_kernels(weight, shift[order]), f.fourier_kernels(weight, shift)[order])


def test_bfloat16_kernels_stay_bfloat16() -> None:
    weight, shift = normal(2, 2, 3, 3, 3), normal(3, 3).to(torch.bfloat16)
    kernels = f.fourier_kernels(weight.to(torch.bfloat16), shift)
    assert kernels.dtype == torch.bfloat16
    close(kernels, f.fourier_kernels(weight, shift.double()))


@pytest.mark.parametrize("size", [(3, 3, 3), (2, 2, 2), (2, 3, 4)])
def test_gradient_of_weight_axis_and_angle(size: tuple[int, int, int]) -> None:
    def kernels(weight: Tensor, axis: Tensor, angle: Tensor) -> Tensor:
        return f.fourier_kernels(weight, f.displacement(axis, angle))

    inputs = [normal(2, 1, *size), *poses(2)]
    assert torch.autograd.gradcheck(kernels, [x.requires_grad_() for x in inputs])


# --- projection and slice


@law
@given(st.tuples(sizes, sizes, sizes), st.integers(0, 2))
def test_project_sums_along_the_axis(size: tuple[int, int, int], axis: int) -> None:
    weight = normal(2, 3, *size)
    close(f.project(weight, axis), sum_along(weight, axis))


@pytest.mark.parametrize("axis", range(3))
def test_project_is_the_central_plane_of_the_spectrum(axis: int) -> None:
    weight = normal(2, 2, 3, 4, 5)
    spectrum = torch.fft.fftn(weight, dim=(2, 3, 4)).select(2 + axis, 0)
    close(torch.fft.fft2(f.project(weight, axis)).real, spectrum.real)
    close(torch.fft.fft2(f.project(weight, axis)).imag, spectrum.imag)


@pytest.mark.parametrize(("axis", "index"), [(0, 1), (1, 2), (2, 2)])
def test_central_takes_the_middle(axis: int, index: int) -> None:
    weight = normal(2, 2, 3, 4, 5)
    close(f.central(weight, axis), weight.select(2 + axis, index))


@pytest.mark.parametrize("take", [f.project, f.central])
@pytest.mark.parametrize("axis", range(3))
def test_gradient_of_project_and_central(take: object, axis: int) -> None:
    weight = normal(2, 1, 3, 2, 4).requires_grad_()
    assert callable(take)
    assert torch.autograd.gradcheck(lambda w: take(w, axis), [weight])
    assert torch.autograd.gradgradcheck(lambda w: take(w, axis), [weight])


@pytest.mark.parametrize("take", [f.project, f.central])
@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_project_and_central_are_new_tensors_with_a_gradient_laid_out_like_the_kernel(
    take: Any, axis: int, memory_format: torch.memory_format
) -> None:
    weight = normal(4, 3, 3, 3, 3).contiguous(memory_format=memory_format).requires_grad_()
    taken = take(weight, axis)
    taken *= 2  # may be changed in place
    taken.sum().backward()
    assert weight.grad is not None
    assert weight.grad.stride() == weight.stride()
    expected = normal(4, 3, 3, 3, 3).requires_grad_()
    (
        2 * sum_along(expected, axis) if take is f.project else 2 * expected.select(2 + axis, 1)
    ).sum().backward()
    assert expected.grad is not None
    close(weight.grad, expected.grad)


@pytest.mark.parametrize("take", [f.project, f.central])
@pytest.mark.parametrize("axis", range(3))
def test_project_and_central_of_a_single_slice(take: Any, axis: int) -> None:
    size = [3, 3, 3]
    size[axis] = 1
    weight = normal(2, 2, *size)
    close(take(weight, axis), weight.squeeze(2 + axis))


# --- lifting


@law
@given(st.sampled_from(["center", "inflate"]), st.integers(1, 7), st.integers(1, 4))
def test_every_class_of_taps_sums_to_the_2d_kernel(how: str, depth: int, stride: int) -> None:
    weight = normal(3, 2, 3, 5)
    solid = f.lift(weight, depth, how, stride, transposed=True)
    assert solid.shape == (3, 2, depth, 3, 5)
    for phase in range(min(stride, depth)):
        close(solid[:, :, phase::stride].sum(2), weight)


@law
@given(st.sampled_from(["center", "inflate"]), st.integers(1, 7), st.integers(1, 4), st.booleans())
def test_a_lift_sums_to_the_2d_kernel(how: str, size: int, stride: int, spread: bool) -> None:
    weight = normal(3, 2, 3, 5)
    depth, padding = f.depth_taps(size, stride, 1)
    solid = f.lift(weight, depth, how, stride, spread=spread)
    close(solid.sum(2), weight)
    reach = depth - 2 * padding
    assert reach == size - 2 and depth >= stride  # as many slices as before, and none between
    if spread and stride > 1:  # every slice is met, by about as much
        met = torch.zeros(40 * stride, dtype=torch.float64)
        profile = solid[0, 0, :, 0, 0] / weight[0, 0, 0, 0]
        for start in range(0, len(met) - depth + 1, stride):
            met[start : start + depth] += profile
        assert met[depth : -depth - stride].min() > 0


def test_a_kernel_as_large_as_its_stride_takes_the_mean() -> None:
    assert f.depth_profile(4, 4).tolist() == [0.25] * 4
    assert f.depth_profile(7, 2).tolist() == [n / 64 for n in (1, 6, 15, 20, 15, 6, 1)]
    assert f.depth_taps(1, 4) == (7, 3) and f.depth_taps(7, 2, 3) == (7, 3)


def test_center_is_at_the_slice_that_central_takes() -> None:
    for depth in range(1, 8):
        weight = normal(2, 2, 3, 3)
        close(f.central(f.lift(weight, depth, "center", spread=False), 0), weight)


@pytest.mark.parametrize("transposed", [False, True])
def test_center_moves_no_volume(transposed: bool) -> None:
    for depth in range(1, 8):
        solid = f.lift(normal(2, 2, 3, 3), depth, "center", transposed=transposed)
        close(solid, solid.flip(2))
        assert (solid != 0).any((0, 1, 3, 4)).sum() == 2 - depth % 2


def test_inflate_spreads_evenly() -> None:
    weight = normal(2, 2, 3, 3)
    solid = f.lift(weight, 5, "inflate")
    for depth in range(5):
        close(solid[:, :, depth], weight / 5)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_triplanar_is_the_mean_of_three_placements(size: int) -> None:
    weight = normal(2, 3, size, size)
    placements = torch.zeros(3, 2, 3, size, size, size, dtype=torch.float64)
    for place in ((size - 1) // 2, size // 2):  # one, or a half at each of two
        placements[0, :, :, place, :, :] += weight / 2
        placements[1, :, :, :, place, :] += weight / 2
        placements[2, :, :, :, :, place] += weight / 2
    close(f.lift(weight, size, "triplanar"), placements.mean(0))


def test_lift_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match=r"lift \(='middle'\) must be"):
        f.lift(normal(1, 1, 3, 3), 3, "middle")
    with pytest.raises(ValueError, match=r"'triplanar' needs a cubic kernel, got size \(3, 3, 5\)"):
        f.lift(normal(1, 1, 3, 5), 3, "triplanar")


# --- convolution of every sample with its own kernel

pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@law
@given(
    n=st.integers(1, 4),
    shared=st.booleans(),
    groups=st.sampled_from([1, 2, 4]),
    bias=st.booleans(),
    size=pairs,
    stride=pairs,
    padding=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    extra=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    dilation=pairs,
)
def test_conv_transpose2d_per_sample_is_a_loop(
    n: int,
    shared: bool,
    groups: int,
    bias: bool,
    size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    extra: tuple[int, int],
    dilation: tuple[int, int],
) -> None:
    assume(all(e < max(s, d) for e, s, d in zip(extra, stride, dilation, strict=True)))
    x, b = normal(n, 4, 4, 5), normal(2 * groups) if bias else None
    kernels = normal(1 if shared else n, 4, 2, *size)
    settings = (stride, padding, extra, groups, dilation)
    expected = [
        F.conv_transpose2d(x[i], kernels[0 if shared else i], b, *settings) for i in range(n)
    ]
    for exporting in (False, True):
        with patch("torch.compiler.is_exporting", return_value=exporting):
            y = f.conv_transpose2d_per_sample(x, kernels, b, *settings)
        close(y, torch.stack(expected))


@pytest.mark.parametrize("shared", [True, False])
def test_gradient_of_images_kernels_and_bias(shared: bool) -> None:
    inputs = [normal(2, 2, 4, 4), normal(1 if shared else 2, 2, 2, 3, 3), normal(2)]
    conv = f.conv_transpose2d_per_sample
    assert torch.autograd.gradcheck(conv, [x.requires_grad_() for x in inputs])


def test_an_empty_batch_has_an_empty_answer() -> None:
    kernels = torch.zeros(0, 3, 3, 2, 2, requires_grad=True)
    y = f.conv_transpose2d_per_sample(torch.zeros(0, 3, 5, 5), kernels, stride=(2, 2))
    assert y.shape[:2] == (0, 3)
    y.sum().backward()
    assert kernels.grad is not None
