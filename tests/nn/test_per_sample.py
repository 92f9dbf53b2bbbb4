"""Convolution with a kernel a sample: both ways against one sample at a time."""

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from helpers import close, fft_kernels, gradient_of, law, normal, randomize
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from crossd.nn import functional, per_sample
from crossd.nn.conv import CrossDConv
from crossd.nn.per_sample import Settings, by_axes, chosen, conv2d_per_sample, mapped_conv2d

WAYS = ["kernels", "patches"]
NEVER = 10**18

ways = pytest.mark.parametrize("way", WAYS)


def reference(
    x: Tensor, weight: Tensor, maps: Tensor, bias: Tensor | None, settings: Settings
) -> Tensor:
    """Write out every sample's kernel and convolve one image with it."""
    size = weight.shape[3:]
    answers = []
    for n in range(x.shape[0]):
        kernel = (weight.flatten(2) @ maps[n].t()).unflatten(2, size)
        answers.append(F.conv2d(x[n : n + 1], kernel, bias, *settings))
    return torch.cat(answers)


class Case(NamedTuple):
    """The shapes of one layer and its batch."""

    n: int = 3
    channels: tuple[int, int] = (4, 4)
    size: tuple[int, int, int] = (3, 3, 3)
    image: tuple[int, int] = (7, 5)
    settings: Settings = Settings()
    bias: bool = True

    @property
    def ways(self) -> list[str]:
        return WAYS if self.settings.groups == 1 else ["kernels"]

    def tensors(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Tensor]:
        """Images, kernel, maps and bias such that outputs are about 1."""
        (o, i), size = self.channels, self.size
        i //= self.settings.groups
        places = size[1] * size[2]
        x = normal(self.n, self.channels[1], *self.image, seed=seed)
        weight = normal(o, i, *size, seed=seed + 1) / math.sqrt(i * places)
        maps = normal(self.n, places, math.prod(size), seed=seed + 2) / math.sqrt(math.prod(size))
        bias = [normal(o, seed=seed + 3)] if self.bias else []
        return [t.to(dtype) for t in (x, weight, maps, *bias)]

    def mapped(self, way: str | None) -> Callable[..., Tensor]:
        def function(x: Tensor, w: Tensor, maps: Tensor, bias: Tensor | None = None) -> Tensor:
            return mapped_conv2d(x, w, maps, bias, self.settings, way)

        return function

    def expected(self, x: Tensor, w: Tensor, maps: Tensor, bias: Tensor | None = None) -> Tensor:
        return reference(x, w, maps, bias, self.settings)


@st.composite
def cases(draw: Any) -> Case:
    pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
    margins = st.tuples(st.integers(0, 2), st.integers(0, 2))
    size = draw(st.tuples(*[st.integers(1, 4)] * 3))
    stride, padding, dilation = draw(pairs), draw(margins), draw(pairs)
    image = tuple(
        max(1, step * (k - 1) + 1 - 2 * pad) + draw(st.integers(0, 4))
        for step, k, pad in zip(dilation, size[1:], padding, strict=True)
    )
    groups = draw(st.sampled_from([1, 1, 2, 4]))
    channels = tuple(groups * draw(st.sampled_from([1, 2, 3, 9])) for _ in range(2))
    settings = Settings(stride, padding, dilation, groups)
    return Case(draw(st.integers(1, 4)), channels, size, image, settings, draw(st.booleans()))


def agree(
    case: Case, way: str | None, dtype: torch.dtype = torch.float64, error: float = 1e-7
) -> None:
    """Compare results and all gradients, with an error relative to the largest number."""
    inputs = case.tensors(dtype)
    exact = [t.double() for t in inputs]
    actual = [case.mapped(way)(*inputs), *gradient_of(case.mapped(way), *inputs)]
    expected = [case.expected(*exact), *gradient_of(case.expected, *exact)]
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a.double(), b, rtol=0, atol=error * max(1, b.abs().max().item()))


SHAPES = [
    Case(),
    Case(bias=False),
    Case(channels=(1, 3), size=(2, 2, 2), image=(4, 4), bias=False),
    Case(n=1, size=(2, 3, 1), settings=Settings((2, 1), (1, 0), (1, 2))),
    Case(size=(3, 2, 4), image=(5, 9), settings=Settings((1, 3), (0, 2), (2, 1))),
    Case(channels=(5, 1), size=(1, 1, 1), settings=Settings((2, 3))),
    Case(channels=(2, 30), size=(3, 3, 3), settings=Settings((2, 2), (1, 1))),
    Case(channels=(30, 2), size=(3, 3, 3), image=(3, 3)),
    Case(n=4, channels=(4, 8), size=(1, 2, 2), settings=Settings((1, 1), (1, 1), (1, 1), 2)),
    Case(channels=(8, 4), size=(2, 3, 3), settings=Settings((2, 1), (1, 2), (1, 1), 4)),
]
BOTH = [(case, way) for case in SHAPES for way in case.ways]
shapes = pytest.mark.parametrize(("case", "way"), BOTH)


# --- against the reference


@law
@given(cases())
def test_both_ways_equal_the_reference(case: Case) -> None:
    inputs = case.tensors()
    expected = case.expected(*inputs)
    assert case.settings.places(inputs[0], (case.size[1], case.size[2])) == expected.shape[2:]
    for way in [*case.ways, None]:
        close(case.mapped(way)(*inputs), expected)


@law
@given(cases())
def test_the_way_of_exported_graphs_equals_the_reference(case: Case) -> None:
    inputs = case.tensors()
    with patch("torch.compiler.is_exporting", return_value=True):
        close(case.mapped(None)(*inputs), case.expected(*inputs))


@law
@given(cases())
def test_gradients_of_both_ways_equal_those_of_the_reference(case: Case) -> None:
    inputs = case.tensors()
    expected = gradient_of(case.expected, *inputs)
    for way in case.ways:
        for a, b in zip(gradient_of(case.mapped(way), *inputs), expected, strict=True):
            close(a, b)


@ways
@pytest.mark.parametrize("size", [(3, 3, 3), (2, 4, 3)])
def test_maps_of_displacements_give_the_kernels_of_the_paper(
    way: str, size: tuple[int, int, int]
) -> None:
    x, weight, axis = normal(3, 2, 6, 7), normal(4, 2, *size), F.normalize(normal(3, 3), dim=-1)
    angle = torch.tensor([-0.7, 0.1, 0.5], dtype=torch.float64)
    shift = functional.displacement(axis, angle)
    maps = functional.shift_map(shift, size, depth=size[0] // 2)
    kernels = fft_kernels(weight, axis, angle)
    expected = [F.conv2d(image[None], k) for image, k in zip(x, kernels, strict=True)]
    close(mapped_conv2d(x, weight, maps, way=way), torch.cat(expected))


@ways
def test_settings_may_be_left_out(way: str) -> None:
    x, weight, maps = Case(bias=False).tensors()
    close(mapped_conv2d(x, weight, maps, way=way), reference(x, weight, maps, None, Settings()))


@shapes
def test_float32(case: Case, way: str) -> None:
    # Gradients are sums of thousands of products, so they are compared on their own scale.
    agree(case, way, torch.float32, error=1e-5)


@shapes
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_bfloat16(case: Case, way: str, kind: torch.dtype) -> None:
    x, weight, maps, *bias = case.tensors(torch.bfloat16)
    exact = [t.double() for t in (x, weight, maps, *bias)]
    y = case.mapped(way)(x, weight, maps.to(kind), *bias)
    assert y.dtype == torch.bfloat16
    close(y, case.expected(*exact))


@shapes
def test_bfloat16_gradients(case: Case, way: str) -> None:
    agree(case, way, torch.bfloat16, error=5e-2)


def expanded(t: Tensor) -> Tensor:
    """All samples, or output channels, share the memory of the first."""
    return t[:1].expand(t.shape)


def crossed(t: Tensor) -> Tensor:
    """The same numbers with the axes in memory the other way round."""
    return t.permute(*reversed(range(t.dim()))).contiguous().permute(*reversed(range(t.dim())))


def channels_last(t: Tensor) -> Tensor:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return t.contiguous(memory_format=formats.get(t.dim(), torch.contiguous_format))


def strided(t: Tensor) -> Tensor:
    """Every other number of a tensor."""
    return torch.stack([t, torch.zeros_like(t)], -1)[..., 0]


@ways
@pytest.mark.parametrize("channels", [(4, 2), (3, 30)])
@pytest.mark.parametrize("layout", [channels_last, expanded, crossed, strided])
@pytest.mark.parametrize("which", range(4))
def test_every_memory_layout(
    way: str, channels: tuple[int, int], layout: Callable[[Tensor], Tensor], which: int
) -> None:
    case = Case(channels=channels, bias=False, settings=Settings((1, 2), (1, 0)))

    def laid(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def result(*inputs: Tensor) -> Tensor:
            given = [layout(t) if which in (i, 3) else t for i, t in enumerate(inputs)]
            return function(*given)

        return result

    inputs = case.tensors()
    mapped, expected = laid(case.mapped(way)), laid(case.expected)
    close(mapped(*inputs), expected(*inputs))
    for a, b in zip(gradient_of(mapped, *inputs), gradient_of(expected, *inputs), strict=True):
        close(a, b)
    single = [t.float() for t in inputs]
    close(mapped(*single), expected(*inputs))


@ways
@pytest.mark.parametrize("layout", [expanded, crossed, strided, channels_last])
def test_every_memory_layout_of_the_gradient(way: str, layout: Callable[[Tensor], Tensor]) -> None:
    case = Case(settings=Settings((2, 1), (1, 1)))
    leaves = [t.requires_grad_() for t in case.tensors()]
    y, expected = case.mapped(way)(*leaves), case.expected(*leaves)
    grad = layout(normal(*y.shape))
    actual = torch.autograd.grad(y, leaves, grad)
    for a, b in zip(actual, torch.autograd.grad(expected, leaves, grad), strict=True):
        close(a, b)


# --- gradients

TINY = [
    Case(2, (2, 2), (2, 2, 2), (3, 3)),
    Case(2, (1, 2), (3, 1, 2), (3, 4), Settings((2, 1), (1, 0)), bias=False),
    Case(1, (2, 1), (2, 2, 3), (5, 4), Settings((1, 2), (0, 1), (2, 1))),
    Case(2, (1, 2), (1, 1, 2), (2, 3), Settings((1, 1), (0, 1), (1, 2))),
    Case(2, (2, 4), (2, 2, 1), (3, 2), Settings((1, 1), (1, 0), (1, 1), 2)),
    Case(2, (4, 4), (2, 1, 2), (2, 4), Settings((1, 2), (0, 1), (1, 2), 4)),
]


@pytest.mark.parametrize(("case", "way"), [(case, way) for case in TINY for way in case.ways])
def test_gradcheck(case: Case, way: str) -> None:
    inputs = [t.requires_grad_() for t in case.tensors()]
    assert torch.autograd.gradcheck(case.mapped(way), inputs)


@ways
@pytest.mark.parametrize("other", [False, True])
@pytest.mark.parametrize("case", [TINY[0], TINY[3]])
def test_gradgradcheck(way: str, other: bool, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(per_sample, "ALONE", 0 if other else NEVER)
    monkeypatch.setattr(per_sample, "_by_convolution", lambda a: other)
    inputs = [t.requires_grad_() for t in case.tensors()]
    assert torch.autograd.gradgradcheck(case.mapped(way), inputs)


@ways
@pytest.mark.parametrize("alone", [0, NEVER])
@pytest.mark.parametrize("needed", [w for w in product([False, True], repeat=4) if any(w)])
def test_only_the_gradients_that_are_needed(
    way: str, alone: int, needed: Sequence[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(per_sample, "ALONE", alone)
    case = Case(settings=Settings((2, 1), (1, 1)))
    inputs = [t.requires_grad_(n) for t, n in zip(case.tensors(), needed, strict=True)]
    leaves = [t for t in inputs if t.requires_grad]
    y, expected = case.mapped(way)(*inputs), case.expected(*inputs)
    actual = torch.autograd.grad(y.square().sum(), leaves)
    for a, b in zip(actual, torch.autograd.grad(expected.square().sum(), leaves), strict=True):
        close(a, b)


@ways
def test_no_graph_without_gradients(way: str) -> None:
    case = Case()
    assert not case.mapped(way)(*case.tensors()).requires_grad
    with torch.no_grad():
        assert not case.mapped(way)(*[t.requires_grad_() for t in case.tensors()]).requires_grad


@ways
def test_gradients_add_up_over_backward_passes(way: str) -> None:
    case = Case()
    leaves = [t.requires_grad_() for t in case.tensors()]
    y = case.mapped(way)(*leaves)
    y.sum().backward(retain_graph=True)
    y.sum().backward()
    for leaf, once in zip(
        leaves, torch.autograd.grad(case.expected(*leaves).sum(), leaves), strict=True
    ):
        assert leaf.grad is not None
        close(leaf.grad, 2 * once)


# --- parts of a batch


@shapes
@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("alone", [0, NEVER])
def test_a_batch_in_parts(
    case: Case, way: str, count: int, alone: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = case._replace(n=5)
    x, weight, maps, *_ = case.tensors()
    y, x_places = case.expected(x, weight, maps), case.size[1] * case.size[2]
    each = {
        "kernels": weight.shape[0] * weight.shape[1] * x_places,
        "patches": y.shape[2] * y.shape[3] * weight[0].numel(),
    }
    monkeypatch.setattr(per_sample, "ALONE", alone)
    monkeypatch.setattr(per_sample, "BLOCK", count * each[way] * x.element_size())
    parts = {
        "kernels": per_sample._Kernels.parts(weight, maps),
        "patches": per_sample._Patches.parts(x, weight, case.settings),
    }
    assert [len(range(*p.indices(5))) for p in parts[way]] == ([2, 2, 1] if count == 2 else [1] * 5)
    agree(case, way)


# --- every path


def fail(*_: Any) -> Any:
    raise AssertionError("a path that is not to be taken")


@pytest.mark.parametrize("case", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("alone", "unused"),
    [
        (0, ("_convolve_grouped", "_grads_grouped")),
        (NEVER, ("_convolve_each", "_grads_each")),
    ],
)
def test_kernels_alone_and_in_groups(
    case: Case,
    dtype: torch.dtype,
    alone: int,
    unused: Sequence[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(per_sample, "ALONE", alone)
    for name in unused:
        monkeypatch.setattr(per_sample, name, fail)
    agree(case, "kernels", dtype, error=1e-7 if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("case", [case for case in SHAPES if case.settings.groups == 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("few", [0, NEVER])
@pytest.mark.parametrize("convolution", [False, True])
def test_patches_by_each_product(
    case: Case, dtype: torch.dtype, few: int, convolution: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(per_sample, "FEW", few)
    monkeypatch.setattr(per_sample, "_by_convolution", lambda a: convolution)
    agree(case, "patches", dtype, error=1e-7 if dtype == torch.float64 else 1e-5)


@law
@given(st.tuples(*[st.integers(1, 9)] * 3), st.booleans(), st.sampled_from([0, NEVER]))
def test_products_are_products(shape: tuple[int, int, int], convolution: bool, few: int) -> None:
    m, k, n = shape
    a, b = normal(m, k), normal(k, n, seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(per_sample, "FEW", few)
        patch.setattr(per_sample, "_by_convolution", lambda a: convolution)
        close(per_sample._times(a, b), a @ b)
        close(per_sample._times(a.t().contiguous().t(), b.t().contiguous().t()), a @ b)
        close(per_sample._times_transposed(a, b.t()), a @ b)
        close(per_sample._times_transposed(a, b.t().contiguous()), a @ b)


@pytest.mark.parametrize("threads", [1, 2])
def test_only_float32_of_several_threads_is_multiplied_by_convolution(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    available = torch.backends.mkldnn.is_available() and threads > 1
    assert per_sample._by_convolution(normal(2, 2, dtype=torch.float32)) == available
    assert not per_sample._by_convolution(normal(2, 2))
    assert not per_sample._by_convolution(normal(2, 2, dtype=torch.bfloat16))
    assert not per_sample._by_convolution(torch.empty(2, 2, device="meta"))


# --- the choice

planes = st.tuples(st.integers(4, 40), st.integers(4, 40))
kernel_sizes = st.tuples(*[st.integers(1, 4)] * 3)


def choice(
    plane: tuple[int, int], size: tuple[int, int, int], channels: int = 1, **options: Any
) -> str:
    x = torch.empty(1, channels, *plane, device="meta")
    settings = Settings(**options)
    weight = torch.empty(8, channels // settings.groups, *size, device="meta")
    return chosen(x, weight, settings)


@law
@given(planes, st.tuples(st.integers(0, 20), st.integers(0, 20)), kernel_sizes)
def test_patches_are_chosen_of_every_plane_smaller_than_another(
    plane: tuple[int, int], more: tuple[int, int], size: tuple[int, int, int]
) -> None:
    larger = (plane[0] + more[0], plane[1] + more[1])
    if choice(larger, size) == "patches":
        assert choice(plane, size) == "patches"
    if choice(plane, size, stride=(1, 1)) == "patches":
        assert choice(plane, size, stride=(2, 2)) == "patches"


@law
@given(planes, kernel_sizes, st.sampled_from([0, 1, 2.5, 10]))
def test_the_way_with_fewer_multiplications_is_chosen(
    plane: tuple[int, int], size: tuple[int, int, int], cost: float
) -> None:
    places = (plane[0] - size[1] + 1) * (plane[1] - size[2] + 1)
    flat, solid = size[1] * size[2], math.prod(size)
    fewer = places * solid <= places * flat + cost * flat * solid
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(per_sample, "MAP_COST", cost)
        assert choice(plane, size) == ("patches" if fewer else "kernels")


@pytest.mark.parametrize("channels", [4, 64, 1024])
def test_small_planes_give_patches_and_large_ones_kernels(channels: int) -> None:
    for k in (2, 3, 5):
        assert choice((k, k), (k, k, k), channels) == "patches"
        assert choice((1000, 1000), (k, k, k), channels) == "kernels"


@law
@given(planes, kernel_sizes)
def test_a_kernel_of_depth_one_gives_patches_and_groups_give_kernels(
    plane: tuple[int, int], size: tuple[int, int, int]
) -> None:
    assert choice(plane, (1, size[1], size[2])) == "patches"
    assert choice(plane, size, channels=4, groups=2) == "kernels"
    assert choice(plane, (1, size[1], size[2]), channels=4, groups=4) == "kernels"


@pytest.mark.parametrize(("way", "other"), [("kernels", "_Patches"), ("patches", "_Kernels")])
def test_the_way_that_is_chosen_or_named_is_taken(
    way: str, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(per_sample, other, None)
    case = Case()
    inputs = case.tensors()
    close(case.mapped(way)(*inputs), case.expected(*inputs))
    monkeypatch.setattr(per_sample, "chosen", lambda *_: way)
    close(case.mapped(None)(*inputs), case.expected(*inputs))


# --- use in a network


@ways
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("alone", [0, NEVER])
@pytest.mark.parametrize("block", [0, 2**20])
def test_the_answer_can_be_changed_in_place(
    way: str, n: int, alone: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(per_sample, "ALONE", alone)
    monkeypatch.setattr(per_sample, "BLOCK", block)
    case = Case(n=n, bias=False)
    inputs = [*case.tensors(), normal(*case.expected(*case.tensors()).shape, seed=9)]

    def changed(x: Tensor, weight: Tensor, maps: Tensor, other: Tensor) -> Tensor:
        y = case.mapped(way)(x, weight, maps)
        y += other
        return y.relu_()

    def expected(x: Tensor, weight: Tensor, maps: Tensor, other: Tensor) -> Tensor:
        return (case.expected(x, weight, maps) + other).relu()

    close(changed(*inputs), expected(*inputs))
    for a, b in zip(gradient_of(changed, *inputs), gradient_of(expected, *inputs), strict=True):
        close(a, b)


@shapes
def test_an_empty_batch(case: Case, way: str) -> None:
    full = case.expected(*case.tensors())
    x, weight, maps, *bias = [t.requires_grad_() for t in case._replace(n=0).tensors()]
    y = case.mapped(way)(x, weight, maps, *bias)
    assert y.shape == (0, *full.shape[1:])
    assert y.dtype == full.dtype
    y.sum().backward()
    for leaf in (x, weight, *bias):
        assert leaf.grad is not None
        assert leaf.grad.shape == leaf.shape
        assert not leaf.grad.any()


class Largest(TorchDispatchMode):
    """Records the most numbers in the memory of any tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        answer = func(*args, **(kwargs or {}))
        for t in tree_leaves(answer):
            if isinstance(t, Tensor):
                numbers = t.untyped_storage().nbytes() // t.element_size()
                self.numbers = max(self.numbers, numbers)
        return answer


def largest(case: Case, way: str, dtype: torch.dtype) -> int:
    leaves = [t.requires_grad_() for t in case.tensors(dtype)]
    with Largest() as record:
        case.mapped(way)(*leaves).sum().backward()
    assert all(leaf.grad is not None for leaf in leaves)
    return record.numbers


@ways
@pytest.mark.parametrize("alone", [0, NEVER])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_tensor_of_a_3d_kernel_a_sample_is_made(
    way: str, alone: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(per_sample, "ALONE", alone)
    n, c, k = 4, 16, 3
    # Few places, so that the mapped patches (places * c * k^3) are few too.
    case = Case(n, (c, c), (k, k, k), (6, 6), Settings(stride=(2, 2)))
    most = n * c * c * k**2
    made = largest(case, way, dtype)
    assert made <= most < n * c * c * k**3
    if way == "patches":
        assert made < most


@ways
@pytest.mark.parametrize("n", [4, 16])
def test_temporary_tensors_keep_to_the_block(
    way: str, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(n, (16, 4), (3, 3, 3), (6, 6), Settings(padding=(1, 1)))
    x, weight, *_ = case.tensors()
    each = {"kernels": weight[:, :, 0].numel(), "patches": 36 * weight[0].numel()}[way]
    monkeypatch.setattr(per_sample, "BLOCK", 2 * each * x.element_size())
    monkeypatch.setattr(per_sample, "ALONE", NEVER)
    always = max(n * 16 * 36, n * 9 * 27, weight.numel())  # answer, maps and kernel
    products = {"kernels": 0, "patches": 2 * 36 * 9 * 27}  # the maps, once for each place
    assert largest(case, way, torch.float64) <= max(2 * each, always, products[way])


@ways
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("alone", [0, NEVER])
def test_autocast(way: str, inside: bool, alone: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(per_sample, "ALONE", alone)
    case = Case(settings=Settings((1, 2), (1, 1)))
    leaves = [t.requires_grad_() for t in case.tensors(torch.float32)]
    exact = [t.detach().double().requires_grad_() for t in leaves]
    with torch.autocast("cpu", torch.bfloat16):
        y = case.mapped(way)(*leaves)
        if inside:
            y.sum().backward()
    if not inside:
        y.sum().backward()
    expected = case.expected(*exact)
    assert y.dtype == torch.bfloat16
    close(y, expected)
    expected.sum().backward()
    for leaf, twin in zip(leaves, exact, strict=True):
        assert leaf.grad is not None and twin.grad is not None
        assert leaf.grad.dtype == leaf.dtype
        scale = twin.grad.abs().max()
        close(leaf.grad / scale, twin.grad / scale, torch.bfloat16)


@ways
def test_autocast_that_is_off_changes_nothing(way: str) -> None:
    case = Case()
    inputs = case.tensors(torch.float32)
    with torch.autocast("cpu", torch.bfloat16, enabled=False):
        y = case.mapped(way)(*inputs)
    assert y.equal(case.mapped(way)(*inputs))


@ways
def test_an_empty_batch_under_autocast(way: str) -> None:
    case = Case(n=0)
    with torch.autocast("cpu", torch.bfloat16):
        assert case.mapped(way)(*case.tensors(torch.float32)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("way", "groups"),
    [
        pytest.param(*one, marks=pytest.mark.slow)
        for one in [("kernels", 2), ("patches", 1), (None, 1)]
    ],
)
def test_compiles_as_one_graph_for_every_batch(way: str | None, groups: int) -> None:
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    case = Case(settings=Settings((2, 1), (1, 1), (1, 1), groups))
    compiled = torch.compile(case.mapped(way), fullgraph=True, dynamic=True, backend=counter)
    counts = []
    for n in (13, 11, 17):  # no other size: equal ones would be taken for the same
        leaves = [t.requires_grad_() for t in case._replace(n=n).tensors()]
        y, expected = compiled(*leaves), case.mapped(way)(*leaves)
        close(y, expected)
        actual = torch.autograd.grad(y.square().sum(), leaves)
        for a, b in zip(actual, torch.autograd.grad(expected.square().sum(), leaves), strict=True):
            close(a, b)
        counts.append(counter.frame_count)
    assert counts == [counts[0]] * 3


@ways
@pytest.mark.parametrize("inside", [False, True])
def test_compiles_under_autocast(way: str, inside: bool) -> None:
    torch.compiler.reset()
    case = Case()
    inputs = case.tensors(torch.float32)

    def cast(*inputs: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return case.mapped(way)(*inputs)

    function = cast if inside else case.mapped(way)
    compiled = torch.compile(function, fullgraph=True, backend="eager")
    with torch.autocast("cpu", torch.bfloat16, enabled=not inside):
        y = compiled(*inputs)
    assert y.dtype == torch.bfloat16
    close(y, case.expected(*[t.double() for t in inputs]))


# --- kernels of many taps


@pytest.mark.parametrize("alone", [0, NEVER])
@pytest.mark.parametrize(
    "case",
    [
        Case(size=(5, 5, 4)),
        Case(channels=(4, 4), size=(4, 4, 4), settings=Settings((2, 2), (1, 2), (1, 1), 4)),
        Case(n=1, size=(7, 5, 5), image=(9, 8), settings=Settings((1, 1), (2, 2), (1, 1), 2)),
    ],
)
def test_kernels_that_are_given_equal_the_reference(
    case: Case, alone: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(per_sample, "ALONE", alone)
    x, weight, maps, bias = case.tensors()
    kernels = functional.map_kernel(weight, maps).unflatten(-1, weight.shape[3:])
    found = conv2d_per_sample(x, kernels, bias, case.settings)
    close(found, reference(x, weight, maps, bias, case.settings))
    assert conv2d_per_sample(x[:0], kernels[:0], bias, case.settings).shape == (
        0,
        *found.shape[1:],
    )


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("mode", ["fourier", "fourier-projection"])
def test_layers_of_many_taps_answer_as_by_maps(
    mode: str, autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = CrossDConv(3, 6, 4, 4, kernel_mode=mode)
    randomize(layer)
    kind = torch.float32 if autocast else torch.float64
    layer, x = layer.to(kind), torch.randn(3, 3, 8, 12, dtype=kind)
    made: list[int] = []
    real = functional.moved_kernels

    def spy(*given: Any) -> Tensor:
        made.append(len(given[1]))
        return real(*given)

    monkeypatch.setattr("crossd.nn.kernel_modes.moved_kernels", spy)
    answers, gradients = [], []
    for many in (3, NEVER):
        monkeypatch.setattr(per_sample, "MANY", many)
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            answers.append(layer(x))
        answers[-1].float().square().sum().backward()
        gradients.append([p.grad.clone() for p in layer.parameters() if p.grad is not None])
    assert made == [3] and answers[0].dtype == answers[1].dtype
    if autocast:
        assert (answers[0] - answers[1]).abs().max() < 2e-2 * answers[1].abs().max()
        return
    close(*answers)
    for one, other in zip(*gradients, strict=True):
        close(one, other)


def test_many_channels_keep_the_map_whose_kernels_are_made_again() -> None:
    assert by_axes(torch.empty(2, 25, 5, 5, 5)) and by_axes(torch.empty(8, 3, 16, 16, 16))
    assert not by_axes(torch.empty(2, 26, 5, 5, 5)) and not by_axes(torch.empty(2, 2, 3, 3, 3))
