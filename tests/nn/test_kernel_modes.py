"""Views and kernel modes."""

import copy
import pickle
import threading
from typing import Any

import pytest
import torch
from helpers import (
    close,
    fft_kernels,
    fft_moved,
    gradient_of,
    law,
    normal,
    predict_pose,
    randomize,
    repeat_along,
    sum_along,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from crossd.nn.functional import lift, map_kernel, shift_kernel
from crossd.nn.kernel_modes import (
    KERNEL_MODES,
    Fourier,
    FourierProjection,
    KernelMode,
    PosePredictor,
    Projection,
    Slice,
    make_mode,
)
from crossd.nn.layers import drop_axis
from crossd.nn.views import VIEWS, View, current_view, view, view_is_set

CUBE = (3, 3, 3)


def fourier(channels: int = 2, size: tuple[int, int, int] = CUBE, **options: Any) -> Fourier:
    """A mode in evaluation with weights and statistics that hide no mistake."""
    mode = Fourier(channels, size, dtype=torch.float64, **options)
    assert mode.predictor is not None
    randomize(mode.predictor)
    return mode.eval()


def kernels(mode: KernelMode, weight: Tensor, x: Tensor, axis: int) -> Tensor:
    """Take 2D kernels, shape ``(N or 1, O, I, K, K)``, for images in a view."""
    shift = mode.displacements(x)
    if shift is None:
        return mode.fixed_kernel(weight, axis).unsqueeze(0)
    size = drop_axis(axis)(weight.shape[2:])
    return map_kernel(weight, mode.maps(weight, shift, axis)).unflatten(-1, size)


# --- views


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("axial", 0),
        ("coronal", 1),
        ("sagittal", 2),
        (0, 0),
        (1, 1),
        (2, 2),
        (["axial", 2], (0, 2)),
        ((1, "sagittal", 0), (1, 2, 0)),
        (torch.tensor([2, 0]), (2, 0)),
        (["coronal", 1, "coronal"], 1),
    ],
)
def test_names_of_views(name: Any, value: View) -> None:
    with view(name):
        assert current_view() == value
        assert view_is_set()
    assert current_view() == 0
    assert not view_is_set()


def test_random_draws_one_of_three_on_entering() -> None:
    drawn = []
    for _ in range(40):
        with view("random"):
            drawn.append(current_view())
            assert current_view() == drawn[-1]
    assert set(drawn) == {0, 1, 2}


def test_random_follows_the_seed() -> None:
    def draw() -> list[View]:
        torch.manual_seed(3)
        drawn = []
        for _ in range(10):
            with view("random"):
                drawn.append(current_view())
        return drawn

    assert draw() == draw()


def test_views_nest_and_come_back() -> None:
    with view("coronal"):
        with view(["axial", "sagittal"]):
            with view("sagittal"):
                assert current_view() == 2
            assert current_view() == (0, 2)
        assert current_view() == 1
    assert current_view() == 0


def test_a_view_comes_back_after_an_exception() -> None:
    with view("coronal"):
        with pytest.raises(RuntimeError, match="inside"), view("sagittal"):
            raise RuntimeError("inside")
        assert current_view() == 1
    assert not view_is_set()


def test_views_are_of_one_thread() -> None:
    seen: dict[str, View] = {}
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        seen["before"] = current_view()
        with view("sagittal"):
            inside.set()
            leave.wait(10)
            seen["within"] = current_view()

    with view("coronal"):
        thread = threading.Thread(target=other)
        thread.start()
        assert inside.wait(10)
        assert current_view() == 1
        leave.set()
        thread.join()
    assert seen == {"before": 0, "within": 2}


def test_view_decorates_a_function() -> None:
    @view("sagittal")
    def answer() -> View:
        return current_view()

    assert (answer(), answer()) == (2, 2)


@pytest.mark.parametrize("name", ["oblique", "", "Axial", 3, -1, ["axial", "oblique"], [0, 3], "0"])
def test_unknown_views_are_refused(name: Any) -> None:
    with pytest.raises(ValueError, match=r"view \(=.*\) must be one of axial, coronal, sagittal"):
        view(name).__enter__()
    assert not view_is_set()


def test_an_empty_sequence_is_no_view() -> None:
    with pytest.raises(ValueError, match="must name at least one view"):
        view([]).__enter__()


# --- modes without a predictor


@law
@given(st.tuples(*[st.integers(1, 5)] * 3), st.integers(0, 2))
def test_fixed_kernels(size: tuple[int, int, int], axis: int) -> None:
    weight, x = normal(3, 2, *size), normal(4, 2, 6, 6)
    summed = kernels(Projection(2, size), weight, x, axis)
    assert summed.shape[0] == 1
    close(summed[0], sum_along(weight, axis))
    middle = kernels(Slice(2, size), weight, x, axis)
    close(middle[0], weight.select(2 + axis, size[axis] // 2))


@pytest.mark.parametrize("kind", [Projection, Slice])
def test_modes_without_a_predictor_own_nothing(kind: type[Projection] | type[Slice]) -> None:
    mode, weight = kind(2, CUBE), normal(3, 2, *CUBE)
    assert mode.state_dict() == {}
    assert mode.aligned(weight) is weight
    assert mode.unshifted(weight) is weight


# --- the predictor


@pytest.mark.parametrize("training", [True, False])
def test_predictor_follows_the_formulas(training: bool) -> None:
    predictor = PosePredictor(3, dtype=torch.float64)
    randomize(predictor)
    predictor.train(training)
    x = normal(4, 3, 5, 6)
    expected = predict_pose(predictor, x)  # first: a step in training moves the statistics
    for actual, wanted in zip(predictor(x), expected, strict=True):
        close(actual, wanted)


def test_predictor_has_the_layout_of_the_reference() -> None:
    predictor = PosePredictor(5)
    assert {name: tuple(p.shape) for name, p in predictor.named_parameters()} == {
        "0.weight": (16, 5, 1, 1),
        "0.bias": (16,),
        "1.weight": (16,),
        "1.bias": (16,),
        "3.weight": (4, 16, 1, 1),
        "3.bias": (4,),
    }


def test_axes_are_unit_and_angles_bounded() -> None:
    predictor = PosePredictor(2, dtype=torch.float64)
    randomize(predictor)
    axis, angle = predictor(10 * normal(6, 2, 7, 7))
    close(axis.norm(dim=-1), torch.ones(6, dtype=torch.float64))
    assert angle.abs().max() <= torch.pi / 4


def test_starting_at_zero_leaves_the_axes_and_a_gradient() -> None:
    mode = fourier()
    assert mode.predictor is not None
    mode.predictor.start_at_zero()
    axis, angle = mode.predictor(normal(3, 2, 5, 5))
    assert angle.tolist() == [0, 0, 0]
    close(axis.norm(dim=-1), torch.ones(3, dtype=torch.float64))
    weight = normal(2, 2, *CUBE)
    (kernels(mode, weight, normal(3, 2, 5, 5), 0) * normal(3, 2, 2, 3, 3)).sum().backward()
    last: Any = mode.predictor[3]
    assert last.weight.grad[3].abs().max() > 0


# --- the fourier mode


@pytest.mark.parametrize("offset", [0.0, 1.0, 0.5])
@pytest.mark.parametrize("size", [CUBE, (5, 5, 5), (2, 2, 2), (4, 4, 4), (2, 3, 5), (1, 3, 3)])
def test_fourier_equals_the_paper_step_by_step(size: tuple[int, int, int], offset: float) -> None:
    mode, weight, x = fourier(size=size, offset=offset), normal(3, 2, *size), normal(4, 2, 6, 5)
    assert mode.predictor is not None
    expected = fft_kernels(weight, *predict_pose(mode.predictor, x), offset)
    close(kernels(mode, weight, x, 0), expected)


def test_fourier_ignores_the_view() -> None:
    mode, weight, x = fourier(), normal(3, 2, *CUBE), normal(4, 2, 6, 5)
    close(kernels(mode, weight, x, 2), kernels(mode, weight, x, 0))
    close(mode.fixed_kernel(weight, 2), mode.fixed_kernel(weight, 0))


def test_permuting_samples_permutes_kernels() -> None:
    mode, weight, x = fourier(), normal(3, 2, *CUBE), normal(4, 2, 6, 5)
    order = torch.tensor([2, 0, 3, 1])
    for training in (False, True):
        mode.train(training)
        close(kernels(mode, weight, x[order], 0), kernels(mode, weight, x, 0)[order])


def test_a_sample_alone_is_as_in_a_batch() -> None:
    mode, weight, x = fourier(), normal(3, 2, *CUBE), normal(4, 2, 6, 5)
    found = kernels(mode, weight, x, 0)
    for n in range(4):
        close(kernels(mode, weight, x[n : n + 1], 0)[0], found[n])


@pytest.mark.parametrize("size", [CUBE, (2, 2, 2)])
def test_gradient_of_weight_and_images(size: tuple[int, int, int]) -> None:
    mode = fourier(size=size)
    inputs = [normal(2, 2, *size), normal(2, 2, 3, 3)]
    assert torch.autograd.gradcheck(
        lambda weight, x: kernels(mode, weight, x, 0), [x.requires_grad_() for x in inputs]
    )


def test_gradient_equals_that_of_the_fft_form() -> None:
    mode = fourier()
    assert mode.predictor is not None
    predictor = mode.predictor
    inputs = (normal(2, 2, *CUBE), normal(3, 2, 4, 4))
    fast = gradient_of(lambda weight, x: kernels(mode, weight, x, 0), *inputs)

    def slow_form(weight: Tensor, x: Tensor) -> Tensor:
        axis, angle = predict_pose(predictor, x)
        # `fft_kernels` reads the axis as numbers, which would cut the gradient.
        shift = 1 - angle[:, None] * torch.linalg.cross(axis, torch.ones_like(axis))
        grids = torch.meshgrid(*[torch.fft.fftfreq(3, dtype=torch.float64)] * 3, indexing="ij")
        phase = torch.einsum("zyxa,na->nzyx", torch.stack(grids, -1), shift)[:, None, None]
        spectrum = torch.fft.fftn(weight, dim=(2, 3, 4)) * torch.exp(-2j * torch.pi * phase)
        return torch.fft.ifftn(spectrum, dim=(-3, -2, -1)).real[:, :, :, 1]

    for a, b in zip(fast, gradient_of(slow_form, *inputs), strict=True):
        close(a, b)


def test_size_one_builds_no_predictor() -> None:
    mode, weight = Fourier(2, (1, 1, 1)), normal(3, 2, 1, 1, 1)
    assert mode.state_dict() == {}
    close(kernels(mode, weight, normal(4, 2, 6, 6), 0), weight[None, :, :, 0])
    close(mode.fixed_kernel(weight, 0), weight[:, :, 0])
    assert mode.aligned(weight) is weight
    assert mode.unshifted(weight) is weight


def test_mean_displacement_runs_in_training_only() -> None:
    mode, weight, x = fourier(), normal(3, 2, *CUBE), normal(4, 2, 6, 5)
    close(mode.mean_displacement, torch.ones(3, dtype=torch.float64))
    kernels(mode, weight, x, 0)
    close(mode.mean_displacement, torch.ones(3, dtype=torch.float64))
    mode.train()
    assert mode.predictor is not None
    axis, angle = predict_pose(mode.predictor, x)
    kernels(mode, weight, x, 0)
    d = 1 - angle[:, None] * torch.linalg.cross(axis, torch.ones_like(axis))
    close(mode.mean_displacement, 0.9 + 0.1 * d.mean(0).detach())
    assert not mode.mean_displacement.requires_grad
    close(mode.mean_displacement.sum(), torch.tensor(3.0))


def test_a_fixed_pose_is_one_kernel_in_evaluation() -> None:
    mode, weight, x = fourier(), normal(3, 2, *CUBE), normal(4, 2, 6, 5)
    mode.fixed_pose = True
    assert mode.displacements(x) is None
    close(kernels(mode, weight, x, 0)[0], mode.fixed_kernel(weight, 0))
    shift = mode.train().displacements(x)
    assert shift is not None and mode.maps(weight, shift, 0).shape == (4, 9, 27)


@pytest.mark.parametrize("kind", [Projection, Slice])
def test_one_view_for_all_is_one_kernel(kind: type[Projection] | type[Slice]) -> None:
    mode, weight, x = kind(2, CUBE), normal(3, 2, *CUBE), normal(4, 2, 6, 5)
    assert mode.displacements(x) is None
    close(kernels(mode, weight, x, 1)[0], mode.fixed_kernel(weight, 1))


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("size", [(3, 3, 3), (3, 1, 1), (1, 3, 5), (2, 3, 4)])
def test_fourier_projection_sums_what_was_moved(size: tuple[int, int, int], axis: int) -> None:
    mode = FourierProjection(2, size, dtype=torch.float64)
    randomize(mode)
    weight, x = normal(3, 2, *size), normal(4, 2, 6, 5)
    predictor: Any = mode.eval().predictor
    poses = predict_pose(predictor, x)
    solid = fft_moved(weight, *poses, offset=0.0)
    for kernel, moved in zip(kernels(mode, weight, x, axis), solid, strict=True):
        close(kernel, sum_along(moved, axis))
    shift = mode.displacements(x)
    assert shift is not None
    for kernel, moved in zip(mode.solid_kernels(weight, shift), solid, strict=True):
        close(kernel, moved)
    still = mode.fixed_kernel(weight, axis)
    close(still, sum_along(shift_kernel(weight, mode.mean_displacement), axis))


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("kind", [Fourier, FourierProjection])
@pytest.mark.parametrize("size", [(4, 4, 4), (5, 3, 4)])
def test_kernels_made_axis_by_axis_are_those_of_the_maps(
    size: tuple[int, int, int], kind: type[Fourier], axis: int
) -> None:
    mode, weight = kind(2, size, dtype=torch.float64), normal(3, 2, *size)
    axis = axis if mode.has_views else 0
    shift = normal(4, 3)
    maps = map_kernel(weight, mode.maps(weight, shift, axis))
    close(mode.kernels(weight, shift, axis).flatten(3), maps)


def test_volumes_have_the_pose_of_the_image_that_they_repeat() -> None:
    mode = FourierProjection(2, CUBE, dtype=torch.float64)
    randomize(mode)
    x = normal(3, 2, 6, 5)
    for axis in range(3):
        repeated, once = (mode.eval().displacements(v) for v in (repeat_along(x, axis, 7), x))
        assert repeated is not None and once is not None
        close(repeated, once)


def test_an_empty_batch_leaves_the_mean_displacement() -> None:
    mode = fourier().train()
    found = kernels(mode, normal(3, 2, *CUBE), normal(0, 2, 6, 5), 0)
    assert found.shape == (0, 3, 2, 3, 3)
    close(mode.mean_displacement, torch.ones(3, dtype=torch.float64))


def test_aligning_moves_by_the_mean_displacement() -> None:
    mode, weight = fourier(), normal(3, 2, *CUBE)
    mode.mean_displacement.copy_(torch.tensor([1.5, 0.5, 1.0]))
    moved = mode.aligned(weight)
    close(moved, shift_kernel(weight, mode.mean_displacement))
    close(mode.fixed_kernel(weight, 0), moved[:, :, 1])


@pytest.mark.parametrize("how", ["center", "inflate"])
@pytest.mark.parametrize("offset", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("size", [3, 4])
def test_unshifting_a_lift_gives_the_2d_kernel_at_the_start(
    how: str, offset: float, size: int
) -> None:
    mode, flat = fourier(size=(size,) * 3, offset=offset), normal(3, 2, size, size)
    weight = mode.unshifted(lift(flat, size, how, spread=False))
    share = size if how == "inflate" else 1
    found = kernels(mode, weight, normal(4, 2, 6, 5), 0)
    close(found * share, flat.expand(4, -1, -1, -1, -1))


# --- the table of modes


def test_every_mode_is_known_by_its_name() -> None:
    assert list(KERNEL_MODES) == ["projection", "slice", "fourier", "fourier-projection"]
    for name, kind in KERNEL_MODES.items():
        mode = make_mode(name, 2, CUBE)
        assert type(mode) is kind
        assert mode.name == name
    assert len(VIEWS) == 3


def test_unknown_modes_and_options_are_refused() -> None:
    with pytest.raises(ValueError, match=r"kernel_mode \(='wavelet'\) must be one of projection"):
        make_mode("wavelet", 2, CUBE)
    with pytest.raises(ValueError, match="kernel_mode 'slice' has no option offset"):
        make_mode("slice", 2, CUBE, offset=0)
    with pytest.raises(ValueError, match="kernel_mode 'fourier' has no option depth, width"):
        make_mode("fourier", 2, CUBE, width=1, depth=2, offset=0)


@pytest.mark.parametrize("name", KERNEL_MODES)
def test_modes_are_copied_and_pickled(name: str) -> None:
    mode, weight, x = (
        make_mode(name, 2, CUBE).double().eval(),
        normal(3, 2, *CUBE),
        normal(4, 2, 6, 5),
    )
    for twin in (copy.deepcopy(mode), pickle.loads(pickle.dumps(mode))):
        close(kernels(twin, weight, x, 0), kernels(mode, weight, x, 0))
