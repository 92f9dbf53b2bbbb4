"""Functions that look at neighbours, on volumes in code written for images.

Each is held against the function of torch for volumes, one setting at a time, and against the law.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import close_relative, keeps_the_law, law, on_repeated, repeat_along, settle, some
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

import crossd
from crossd import InputError
from crossd.conversion.folding.state import State
from crossd.conversion.folding.volumes import HANDLERS
from crossd.conversion.folding.windows import avg_pool3d
from crossd.conversion.rules import RULES
from crossd.nn.conv import CrossDConv


class Call(nn.Module):
    """Calls a function on maps, behind a convolution of single pixels that changes nothing."""

    def __init__(self, function: Callable[[Tensor], Any], channels: int = 2) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)
        nn.init.dirac_(self.conv.weight)
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.conv(x))


def folded(function: Callable[[Tensor], Any], channels: int = 2, **options: Any) -> Any:
    net = crossd.convert(Call(function, channels), check=False, **options)
    return net.eval()


volumes = st.tuples(st.integers(4, 7), st.integers(5, 8), st.integers(6, 9))


def draw(size: tuple[int, ...], seed: int = 0, channels: int = 2, number: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(number, channels, *size, generator=generator)


# Every function against torch's own for volumes

POOL = dict(kernel_size=st.integers(1, 4), stride=st.integers(1, 3), padding=st.integers(0, 2))


@law
@given(size=volumes, dilation=st.integers(1, 2), ceil_mode=st.booleans(), **POOL)
def test_max_pool(
    size: Any, kernel_size: int, stride: int, padding: int, dilation: int, ceil_mode: bool
) -> None:
    assume(padding <= kernel_size // 2)
    settings = (kernel_size, stride, padding, dilation, ceil_mode)
    assume(min(size) + 2 * padding >= dilation * (kernel_size - 1) + 1)
    x = draw(size)
    expected = F.max_pool3d(x, *settings)
    torch.testing.assert_close(folded(lambda y: F.max_pool2d(y, *settings))(x), expected)
    layer = nn.MaxPool2d(kernel_size, stride, padding, dilation, ceil_mode=ceil_mode)
    torch.testing.assert_close(folded(layer)(x), expected)


@law
@given(size=volumes, ceil_mode=st.booleans(), counts=st.booleans(), **POOL)
def test_avg_pool(
    size: Any, kernel_size: int, stride: int, padding: int, ceil_mode: bool, counts: bool
) -> None:
    assume(padding <= kernel_size // 2)
    settings = (kernel_size, stride, padding, ceil_mode, counts)
    x = draw(size)
    close_relative(
        folded(lambda y: F.avg_pool2d(y, *settings))(x), F.avg_pool3d(x, *settings), 1e-5
    )
    close_relative(folded(nn.AvgPool2d(*settings))(x), F.avg_pool3d(x, *settings), 1e-5)


@law
@given(
    height=st.integers(1, 5),
    width=st.integers(1, 6),
    ceil_mode=st.booleans(),
    counts=st.booleans(),
    divisor=st.sampled_from([None, 3]),
    **POOL,
)
def test_avg_pool_of_maps_smaller_than_the_window_is_that_of_torch_in_2d(
    height: int,
    width: int,
    kernel_size: int,
    stride: int,
    padding: int,
    ceil_mode: bool,
    counts: bool,
    divisor: int | None,
) -> None:
    assume(padding <= kernel_size // 2)
    x = torch.randn(1, 2, height, width, dtype=torch.float64)
    rest = (ceil_mode, counts, divisor)
    try:
        expected = F.avg_pool2d(x, kernel_size, stride, padding, *rest)
    except RuntimeError:  # there is no whole window
        expected = None
    kernel, step = (1, kernel_size, kernel_size), (1, stride, stride)
    pool = functools.partial(avg_pool3d, x[:, :, None], kernel, step, (0, padding, padding), *rest)
    if expected is None:
        with pytest.raises(RuntimeError):
            pool()
    else:
        torch.testing.assert_close(pool()[:, :, 0], expected)


@pytest.mark.parametrize(
    ("pair", "triple"), [((2, 3), (2, 2, 3)), ((3, 1), (1, 3, 1)), ((1, 3), (1, 1, 3))]
)
def test_depth_of_windows_is_that_of_the_smaller_axis(pair: Any, triple: Any) -> None:
    x = draw((5, 6, 7))
    torch.testing.assert_close(folded(nn.MaxPool2d(pair, 1))(x), F.max_pool3d(x, triple, 1))
    torch.testing.assert_close(folded(nn.AvgPool2d(pair))(x), F.avg_pool3d(x, triple))


def test_a_divisor_counts_the_window_in_the_plane() -> None:
    net = folded(nn.AvgPool2d(2, divisor_override=3))
    x = draw((4, 6, 8))
    torch.testing.assert_close(net(x), F.avg_pool3d(x, 2) * 4 / 3)
    keeps_the_law(net, x[:, :, 0])


@pytest.mark.parametrize("norm", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("settings", [(2,), (3, 2), (3, 1, True)])
def test_lp_pool_keeps_the_law(norm: float, settings: Any) -> None:
    net = folded(lambda y: F.lp_pool2d(y.abs(), norm, *settings))
    for axis in range(3):
        keeps_the_law(net, draw((8, 6)), axis)


@pytest.mark.parametrize("size", [1, 2, 3, (2, 3)])
@pytest.mark.parametrize("kind", ["avg", "max"])
def test_adaptive_pools(kind: str, size: Any) -> None:
    x = draw((5, 6, 7))
    flat, solid = (getattr(F, f"adaptive_{kind}_pool{rank}d") for rank in (2, 3))
    answer = folded(lambda y: flat(y, size))(x)
    number = size if isinstance(size, int) else (size[0], *size)
    torch.testing.assert_close(answer, solid(x, number))
    keeps_the_law(folded(lambda y: y * flat(y, size) if size == 1 else flat(y, size)), x[:, :, 0])


@pytest.mark.parametrize("size", [(None, 1), (1, None), (1, 3)])
def test_strips_are_pooled_within_slices(size: Any) -> None:
    x = draw((5, 6, 7))
    answer = folded(lambda y: F.adaptive_avg_pool2d(y, size))(x)
    each = [F.adaptive_avg_pool2d(part, size) for part in x.unbind(2)]
    torch.testing.assert_close(answer, torch.stack(each, 2))


def test_a_pool_over_the_whole_plane_is_over_depth_too() -> None:
    x = draw((5, 6, 7))
    for pool, take in ((F.avg_pool2d, torch.mean), (F.max_pool2d, torch.amax)):

        def whole(y: Tensor, pool: Any = pool) -> Tensor:
            pooled: Tensor = pool(y, y.shape[2:])
            return pooled

        net = folded(whole)
        torch.testing.assert_close(net(x), take(x, (2, 3, 4), True))


def test_indices_of_pools_stay_within_slices() -> None:
    net = folded(lambda y: F.max_unpool2d(*F.max_pool2d(y, 2, return_indices=True), (2, 2)))
    x = draw((3, 4, 6))
    each = [F.max_unpool2d(*F.max_pool2d(s, 2, return_indices=True), (2, 2)) for s in x.unbind(2)]
    torch.testing.assert_close(net(x), torch.stack(each, 2))


INTERPOLATIONS = [
    ("nearest", None),
    ("nearest-exact", None),
    ("bilinear", False),
    ("bilinear", True),
]


@pytest.mark.parametrize(("mode", "corners"), INTERPOLATIONS)
@pytest.mark.parametrize("factor", [2, 2.0, 1.5, 0.5])
def test_interpolation_by_a_factor(mode: str, corners: Any, factor: float) -> None:
    x = draw((4, 6, 8))
    net = folded(lambda y: F.interpolate(y, None, factor, mode, corners))
    solid = "trilinear" if mode == "bilinear" else mode
    torch.testing.assert_close(net(x), F.interpolate(x, None, factor, solid, corners))
    for axis in range(3):
        keeps_the_law(net, x[:, :, 0], axis)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "area", "nearest"])
@pytest.mark.parametrize("antialias", [False, True])
def test_depth_follows_height_in_every_mode(mode: str, antialias: bool) -> None:
    if antialias and mode not in ("bilinear", "bicubic"):
        return
    net = folded(lambda y: F.interpolate(y, (9, 5), mode=mode, antialias=antialias))
    x = draw((4, 6, 8))
    assert net(x).shape == (2, 2, 6, 9, 5)
    keeps_the_law(net, x[:, :, 0])


def test_a_plane_that_was_there_before_has_the_depth_that_it_had() -> None:
    def down_and_up(x: Tensor) -> Tensor:
        small = F.max_pool2d(F.avg_pool2d(x, 2), 2)
        middle = F.interpolate(small, size=(x.shape[2] // 2, x.shape[3] // 2))
        return F.interpolate(middle, size=x.shape[2:], mode="bilinear") + x

    net = folded(down_and_up)
    for depth in range(4, 12):
        assert net(draw((depth, 8, 12))).shape == (2, 2, depth, 8, 12)


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
def test_padding_before_a_window_is_along_depth_too(mode: str) -> None:
    net = folded(lambda y: F.max_pool2d(F.relu(F.pad(y, (1, 2, 2, 0), mode)), 3, 1))
    x = draw((5, 6, 7))
    expected = F.max_pool3d(F.relu(F.pad(x, (1, 2, 2, 0, 2, 0), mode)), 3, 1)
    torch.testing.assert_close(net(x), expected)


def test_padding_at_the_end_is_along_depth_too() -> None:
    x = draw((4, 5, 6))
    layer = nn.ConstantPad2d((1, 0, 2, 1), 3.0)
    torch.testing.assert_close(folded(layer)(x), F.pad(x, (1, 0, 2, 1, 2, 1), value=3.0))
    for kind in (nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.CircularPad2d):
        solid = getattr(nn, f"{kind.__name__[:-2]}3d")
        torch.testing.assert_close(folded(kind((1, 2, 0, 3)))(x), solid((1, 2, 0, 3, 0, 3))(x))


def test_padding_before_a_window_to_a_size_that_was_there_is_the_windows() -> None:
    """MONAI's EfficientNet pads 4 x 4 to 8 x 8, a size that it had with twice the depth."""

    def forward(x: Tensor, pool: Any, sides: int) -> Tensor:
        small = pool(pool(x, 2), 2)  # 8 and 4 wide
        return pool(F.pad(F.pad(small, (1,) * sides), (1,) * sides), 3, 1)

    net = folded(lambda y: forward(y, F.max_pool2d, 4))
    for depth in (4, 8, 16, 20):
        x = draw((depth, 16, 16))
        torch.testing.assert_close(net(x), forward(x, F.max_pool3d, 6))


@pytest.mark.parametrize("depth", [6, 7, 8, 9, 11])
@pytest.mark.parametrize("join", ["sum", "cat", "in place", "answer"])
def test_what_is_padded_to_meet_others_gets_their_depth(join: str, depth: int) -> None:
    """As U-Nets pad where halving has dropped a line; depth has dropped another, or none."""

    def forward(x: Tensor) -> Tensor:
        up = F.interpolate(F.max_pool2d(x, 2), scale_factor=2.0)
        high, wide = (a - b for a, b in zip(x.shape[2:], up.shape[2:], strict=True))
        up = F.pad(up, (wide // 2, wide - wide // 2, high // 2, high - high // 2))
        if join == "in place":
            up += x
        return {"sum": x + up, "cat": torch.cat((up, x), 1)[:, :2], "in place": up, "answer": up}[
            join
        ]

    net = folded(forward)
    for size in ((8, 10), (9, 11), (8, 11)):
        x = draw((depth, *size))
        assert net(x).shape == x.shape
        keeps_the_law(net, x[:, :, 0], 0, depth)


def test_padded_slices_that_are_changed_under_another_name() -> None:
    """They are the sum where they have its depth; where they cannot be, nothing is silent."""

    def forward(x: Tensor, in_place: bool) -> Tensor:
        up = F.interpolate(F.max_pool2d(x, 2), scale_factor=2.0)
        up = F.pad(up, (0, x.shape[3] - up.shape[3], 0, x.shape[2] - up.shape[2]))
        if in_place:
            up.add_(x)  # and the answer is not taken
        else:
            up = up + x
        return F.max_pool2d(up, 3, 1)

    sums, changes = (folded(functools.partial(forward, in_place=b)) for b in (False, True))
    x = draw((8, 9, 11))
    torch.testing.assert_close(changes(x), sums(x))
    assert sums(draw((7, 9, 11))).shape == (2, 2, 5, 7, 9)
    with pytest.raises(InputError, match=r"changed in place by slices of another depth.* x = x"):
        changes(draw((7, 9, 11)))


def test_what_a_layer_of_ones_own_keeps_for_its_gradient_is_not_overwritten() -> None:
    class Gate(nn.Conv2d):
        pass

    class SolidGate(CrossDConv):
        def forward(self, x: Tensor, depth_margin: tuple[int, int] = (0, 0)) -> Tensor:
            return (
                super().forward(x, depth_margin).sigmoid()
            )  # whose gradient is made of its answer

    before = dict(RULES)
    try:
        crossd.rule(Gate)(lambda gate, options: SolidGate(2, 3, 3, padding=1))
        source = nn.Sequential(Gate(2, 3, 3, padding=1), nn.SiLU(inplace=True))
        net = crossd.convert(source, check=False)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            net(draw((4, 5, 6), number=1)).sum().backward()
    finally:
        RULES.clear()
        RULES.update(before)


@pytest.mark.parametrize("in_place", [False, True])
def test_what_is_said_of_a_volume_at_a_coarser_scale_is_of_all_its_slices(in_place: bool) -> None:
    def forward(x: Tensor) -> Tensor:  # as attention between scales gates (PAN)
        whole = F.adaptive_avg_pool2d(F.max_pool2d(x, 2), 1)
        if not in_place:
            return whole * x
        x += whole
        return x

    x = draw((6, 8, 10))
    whole = F.adaptive_avg_pool3d(F.max_pool3d(x, 2), 1)
    torch.testing.assert_close(folded(forward)(x), x + whole if in_place else x * whole)


@pytest.mark.parametrize("number", [1, 2])
def test_statistics_of_volumes_may_be_changed_in_place(number: int) -> None:
    def forward(x: Tensor) -> Tensor:  # SiLU in place, as squeeze and excite has it
        gates = F.silu(F.adaptive_avg_pool2d(x, 1), inplace=True)
        return x * gates + F.relu_(x.amax((2, 3), keepdim=True)) + x.mean((2, 3), True).mul_(2)

    x = draw((5, 6, 7), number=number)
    dims = (2, 3, 4)
    expected = x * F.silu(x.mean(dims, True)) + x.amax(dims, True).relu() + 2 * x.mean(dims, True)
    torch.testing.assert_close(folded(forward)(x), expected)


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("channels", [1, 3])
def test_gradients_where_code_changes_in_place_what_layers_give(number: int, channels: int) -> None:
    source = nn.Sequential(
        *(nn.Conv2d(channels, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(inplace=True)),
        *(nn.Conv2d(4, 4, 3, padding=1), nn.SiLU(inplace=True), nn.MaxPool2d(2), nn.ELU(0.5, True)),
        *(nn.Upsample(scale_factor=2, mode="bilinear"), nn.Hardtanh(-0.3, 0.3, inplace=True)),
        *(nn.ConvTranspose2d(4, 2, 2, 2), nn.InstanceNorm2d(2, affine=True), nn.ReLU6(True)),
    ).double()
    net: Any = crossd.convert(source, check=False)
    solid: Any = crossd.to_3d(net)
    assert not isinstance(solid, type(net))  # of torch.nn's layers
    x = draw((6, 8, 10), channels=channels, number=number).double()
    for one in (net, solid):
        one(x).square().sum().backward()
    for a, b in zip(net.parameters(), solid.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_negative_padding_cuts() -> None:
    net = folded(lambda y: F.avg_pool2d(F.pad(y, (-1, 1, -1, 1)), 1, 2))
    x = draw((6, 8, 10))
    torch.testing.assert_close(net(x), F.avg_pool3d(F.pad(x, (-1, 1) * 3), 1, 2))


def test_padding_for_windows_leaves_depth_alone() -> None:
    def windows(y: Tensor) -> Tensor:  # (n, c, h, w) -> windows of 4 x 4 -> (n, c, h, w)
        n, c, h, w = y.shape
        y = F.pad(y, (0, -w % 4, 0, -h % 4))
        parts = y.reshape(n, c, y.shape[2] // 4, 4, y.shape[3] // 4, 4).softmax(3)
        return parts.reshape(y.shape)[:, :, :h, :w]

    net = folded(windows)
    x = draw((5, 6, 7))
    assert net(x).shape == x.shape
    torch.testing.assert_close(net(x), torch.stack([windows(s) for s in x.unbind(2)], 2))


@pytest.mark.parametrize("depth", [3, 8, 24, 25])
def test_padding_to_a_multiple_and_cutting_back(depth: int) -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.Conv2d(2, 4, 3, 2, 1)
            self.up, self.out = nn.Upsample(scale_factor=2), nn.Conv2d(4, 2, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            h, w = x.shape[2], x.shape[3]
            x = F.pad(x, (0, -w % 16, 0, -h % 16))
            return self.out(self.up(self.down(x)))[:, :, :h, :w]

    net: Any = crossd.convert(Padded())
    x = draw((depth, 10, 14))
    assert net(x).shape == x.shape


@pytest.mark.parametrize(
    ("index", "solid"),
    [
        ((Ellipsis, slice(1, None), slice(1, None)), (Ellipsis, *[slice(1, None)] * 3)),
        ((slice(None), slice(None), slice(1, -1), slice(1, -1)), (Ellipsis, *[slice(1, -1)] * 3)),
        ((Ellipsis, slice(None, None, 2), slice(1, None, 2)),
         (Ellipsis, *[slice(None, None, 2)] * 2, slice(1, None, 2))),
        ((Ellipsis, slice(None, 4), slice(None, 4)),
         (Ellipsis, slice(None), slice(None, 4), slice(None, 4))),
        ((slice(None), slice(0, 1)), (slice(None), slice(0, 1))),
        ((Ellipsis, slice(None), slice(None, 3)), (Ellipsis, slice(None), slice(None, 3))),
    ],
)  # fmt: skip
def test_cutting(index: Any, solid: Any) -> None:
    x = draw((6, 6, 8))
    torch.testing.assert_close(folded(lambda y: y[index])(x), x[solid])


def test_what_is_cut_to_a_size_that_was_there_has_its_depth() -> None:
    def net(x: Tensor) -> Tensor:
        inner = F.avg_pool2d(x, 3, 1)  # valid, as in the first U-Net
        return x[:, :, 1:-1, 1:-1] + inner + x[:, :, 1 : 1 + inner.shape[2], 1 : 1 + inner.shape[3]]

    x = draw((5, 6, 7))
    middle = x[:, :, 1:-1, 1:-1, 1:-1]
    torch.testing.assert_close(folded(net)(x), 2 * middle + F.avg_pool3d(x, 3, 1))


@pytest.mark.parametrize("dims", [(2, 3), (-1, -2), [2, 3]])
@pytest.mark.parametrize("keep", [False, True])
def test_statistics_of_the_plane_are_of_the_volume(dims: Any, keep: bool) -> None:
    x = draw((5, 6, 7))
    for name in ("mean", "amax", "amin", "var", "std", "norm", "sum"):

        def function(y: Tensor, name: str = name) -> Tensor:
            if name == "norm":
                return y.norm(p=2, dim=dims, keepdim=keep)
            return getattr(y, name)(dim=dims, keepdim=keep)

        net = folded(function)
        for axis in range(3 if name in ("mean", "amax", "amin") else 1):
            keeps_the_law(net, x[:, :, 0], axis)
        # and it looks at all slices: another slice changes what all get
        other = x.clone()
        other[:, :, 0] *= 5
        assert not torch.allclose(net(x), net(other))
    close_relative(folded(lambda y: y.mean(dims, keep))(x).flatten(1), x.mean((2, 3, 4)), 1e-5)
    close_relative(
        folded(lambda y: torch.amax(y, dims, keep))(x).flatten(1), x.amax((2, 3, 4)), 1e-5
    )


@pytest.mark.parametrize("correction", [0, 1, 2])
def test_variances_have_the_images_divisor(correction: int) -> None:
    x = draw((5, 6, 7))
    net = folded(lambda y: torch.var(y, (2, 3), correction=correction))
    expected = x.var((2, 3, 4), correction=0) * 42 / (42 - correction)
    close_relative(net(x), expected, 1e-5)
    pair = folded(lambda y: torch.cat(torch.std_mean(y, (2, 3), correction=correction), 1))
    close_relative(pair(x), torch.cat((expected.sqrt(), x.mean((2, 3, 4))), 1), 1e-5)


def test_channels_last_statistics() -> None:
    def response(y: Tensor) -> Tensor:  # as of ConvNeXt V2: over the plane of (n, h, w, c)
        y = y.permute(0, 2, 3, 1)
        norm = y.norm(p=2, dim=(1, 2), keepdim=True)
        return (y * norm / (norm.mean(-1, keepdim=True) + 1e-6)).permute(0, 3, 1, 2)

    net = folded(response)
    for axis in range(3):
        keeps_the_law(net, draw((6, 9)), axis, 7, 1e-3)


@pytest.mark.parametrize("power", [1, 2, 3.0, float("inf")])
def test_norms_of_any_power(power: float) -> None:
    net = folded(lambda y: torch.linalg.vector_norm(y, power, (2, 3)))
    keeps_the_law(net, draw((6, 9)))
    zero = torch.zeros(1, 2, 3, 4, 5, requires_grad=True)
    folded(lambda y: y.norm(dim=(2, 3)))(zero).sum().backward()
    assert zero.grad is not None and zero.grad.isfinite().all()


def test_other_reductions_are_of_slices() -> None:
    x = draw((5, 6, 7))
    for function in (
        lambda y: y.mean(1, keepdim=True),
        lambda y: y - y.mean(),
        lambda y: y.sum(dim=3, keepdim=True),
        lambda y: y.flatten(2).softmax(-1).unflatten(2, y.shape[2:]),
    ):
        net = folded(function)
        keeps_the_law(net, x[:, :, 0])


@pytest.mark.parametrize("make", [lambda: nn.GroupNorm(2, 4), lambda: nn.InstanceNorm2d(4)])
def test_norms_take_statistics_of_volumes(make: Callable[[], nn.Module]) -> None:
    norm = make()
    solid = nn.InstanceNorm3d(4) if isinstance(norm, nn.InstanceNorm2d) else norm
    x = draw((5, 6, 7), channels=4)
    torch.testing.assert_close(folded(norm, 4)(x), solid(x))
    for axis in range(3):
        keeps_the_law(folded(norm, 4), x[:, :, 0], axis)


def test_batch_norm_learns_statistics_of_volumes() -> None:
    norm, solid = nn.BatchNorm2d(2), nn.BatchNorm3d(2)
    net = folded(norm).train()
    x = draw((5, 6, 7)) * 2 + 1
    torch.testing.assert_close(net(x), solid(x))
    torch.testing.assert_close(net.function.state_dict(), solid.state_dict())
    torch.testing.assert_close(net.eval()(x), solid.eval()(x))


def test_pixels_are_shuffled_within_slices() -> None:
    x = draw((3, 4, 5), channels=4)
    up = folded(nn.PixelShuffle(2), 4)
    each = torch.stack([F.pixel_shuffle(part, 2) for part in x.unbind(2)], 2)
    torch.testing.assert_close(up(x), each.repeat_interleave(2, 2))
    y = draw((4, 4, 6))
    parts = torch.stack([F.pixel_unshuffle(part, 2) for part in y.unbind(2)], 2)
    down = folded(nn.PixelUnshuffle(2))
    torch.testing.assert_close(down(y), (parts[:, :, ::2] + parts[:, :, 1::2]) / 2)


# Convolutions that nobody knows


class Computed(nn.Module):
    """Convolves by a kernel that it computes."""

    def __init__(self, size: int, stride: int, padding: Any = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)
        self.kernel = nn.Parameter(torch.randn(3, 2, size, size))
        self.settings = (None, stride, padding)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(self.conv(x), self.kernel.softmax(1), *self.settings)


def test_computed_kernels_work_within_slices() -> None:
    source = Computed(3, 1, 1)
    net: Any = crossd.convert(source)
    x = draw((5, 6, 7))
    each = torch.stack([source(part) for part in x.unbind(2)], 2)
    torch.testing.assert_close(net(x), each)
    assert "1 of 2 convolutions see depth" in net.conversion.checks


@pytest.mark.parametrize(
    ("size", "stride", "padding", "profile", "margin"),
    [
        (3, 2, 1, [0.25, 0.5, 0.25], 1),
        (2, 2, 0, [0.5, 0.5], 0),
        (1, 2, 0, [0.25, 0.5, 0.25], 1),
        (5, 2, 2, [1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16], 2),
        (4, 4, 0, [0.25] * 4, 0),
    ],
)
def test_where_they_stride_depth_is_blurred_and_strided(
    size: int, stride: int, padding: int, profile: list[float], margin: int
) -> None:
    source = Computed(size, stride, padding).eval()
    net: Any = crossd.convert(source, check=False)
    x = draw((8, 8, 12))
    kernel = source.kernel.softmax(1)[:, :, None] * torch.tensor(profile).view(-1, 1, 1)
    middle = source.conv(x.flatten(2, 3)).unflatten(2, x.shape[2:4])
    expected = F.conv3d(middle, kernel, None, stride, (margin, padding, padding))
    close_relative(net(x), expected, 1e-5)
    keeps_the_law(net, x[:, :, 0])


def test_enlarging_by_a_computed_kernel_repeats_slices() -> None:
    kernel = torch.randn(2, 3, 2, 2)
    net = folded(lambda y: F.conv_transpose2d(y, kernel, stride=2))
    x = draw((3, 4, 5))
    each = torch.stack([F.conv_transpose2d(s, kernel, stride=2) for s in x.unbind(2)], 2)
    torch.testing.assert_close(net(x), each.repeat_interleave(2, 2))


# Windows, heads, and other things that stand before channels


def test_windows_are_convolved_each_by_itself() -> None:
    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            n, c, h, w = x.shape
            x = x.view(n, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 1, 3, 5)
            x = self.conv(x.reshape(-1, c, 4, 4))
            x = x.view(n, h // 4, w // 4, c, 4, 4).permute(0, 3, 1, 4, 2, 5)
            return x.reshape(n, c, h, w)

    net: Any = crossd.convert(Windows(), lift=None).eval()
    # depths at which N D times the windows of a slice is N times another depth, too
    for depth in (2, 4, 6, 8):
        x = draw((depth, 8, 12))
        parts = x.unfold(3, 4, 4).unfold(4, 4, 4)  # (n, c, d, 2, 3, 4, 4)
        rows = parts.permute(0, 3, 4, 1, 2, 5, 6).flatten(0, 2)
        expected = net.conv.to_3d()(rows).view(2, 2, 3, 2, depth, 4, 4)
        expected = expected.permute(0, 3, 4, 1, 5, 2, 6).reshape(x.shape)
        torch.testing.assert_close(net(x), expected)
        keeps_the_law(net, x[:, :, 0], 0, depth)


def test_parameters_are_not_taken_for_slices() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 4, 4, 4)
            self.position = nn.Parameter(torch.randn(1, 4, 3, 3))
            self.mix = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return x + F.interpolate(self.mix(self.position), x.shape[2:], mode="bilinear")

    net: Any = crossd.convert(Positions())
    for number, depth in itertools.product((1, 2), (4, 8)):
        x = draw((depth, 12, 16), number=number)
        assert net(x).shape == (number, 4, depth // 4, 3, 4)
        keeps_the_law(net, x[:, :, 0], 0, depth)


def test_marks_of_a_run_do_not_outlive_it() -> None:
    class Buffers(nn.Module):
        kernel: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 1)
            self.register_buffer("kernel", torch.ones(2, 1, 2, 2) / 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return F.conv2d(x, self.kernel.to(x), None, 2, groups=2)

    net: Any = crossd.convert(Buffers())
    for size in ((4, 6, 8), (8, 6, 8), (2, 4, 4)):
        x = draw(size)
        expected = F.avg_pool3d(net.conv.to_3d()(x), 2)
        close_relative(net(x), expected, 1e-5)
    assert not hasattr(net.kernel, "crossd_slices")


class Doubling(torch.autograd.Function):
    """A function of a user's own, through which no mark goes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * grad


def test_slices_are_known_again_behind_functions_that_lose_marks() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)

        def forward(self, x: Tensor) -> Any:
            y = Doubling.apply(self.a(x))
            return Doubling.apply(self.b(F.max_pool2d(y, 2)))

    net: Any = crossd.convert(Net(), lift=None)
    x = draw((4, 6, 8))
    expected = 2 * net.b.to_3d()(F.max_pool3d(2 * net.a.to_3d()(x), 2))
    close_relative(net(x), expected, 1e-5)


# Chance


def test_channels_and_paths_are_dropped_for_whole_volumes() -> None:
    x = torch.ones(3, 8, 5, 6, 7)
    dropped = folded(nn.Dropout2d(0.5), 8).train()(x)
    assert (dropped == dropped[:, :, :1, :1, :1]).all() and 0 < (dropped == 0).float().mean() < 1
    from timm.layers.drop import DropPath
    from torchvision.ops import StochasticDepth

    for layer in (DropPath(0.5), StochasticDepth(0.5, "row")):
        torch.manual_seed(1)
        dropped = folded(layer, 8).train()(torch.ones(64, 8, 5, 2, 3))
        assert (dropped == dropped[:, :1, :1, :1, :1]).all()
        assert 0.3 < (dropped == 0).float().mean() < 0.7


# What is too shallow


@pytest.mark.filterwarnings("ignore:.*leaves out the last 1 of 3")
@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(nn.Conv2d(2, 2, 1), nn.MaxPool2d(2), nn.MaxPool2d(2)),
        lambda: nn.Sequential(nn.Conv2d(2, 2, 2, 2), nn.Conv2d(2, 2, 2, 2)),
        lambda: nn.Sequential(nn.Conv2d(2, 2, 1), nn.AvgPool2d(2), nn.AvgPool2d(2)),
    ],
)
def test_shallow_volumes_are_told_how_deep_they_must_be(make: Callable[[], nn.Module]) -> None:
    net: Any = crossd.convert(make(), check=False)
    assert net(draw((4, 8, 8))).shape[2:] == (1, 2, 2)
    for depth in (1, 2, 3):
        with pytest.raises(
            InputError, match=f"is {depth} slices deep, .* at least 4: .* or convert with"
        ):
            net(draw((depth, 8, 8)))
    thin: Any = crossd.convert(make(), check=False, depth_stride=1)
    assert thin(draw((3, 8, 8))).shape[2:] == (3, 2, 2)


# Torch still tells us of every function


@pytest.mark.parametrize("function", [f for f in HANDLERS])
def test_every_function_is_one_that_torch_tells_of(function: Any) -> None:
    """What a handler is registered for must be what reaches the mode, by whatever name."""
    assert callable(function)


CALLS: dict[str, Callable[[Tensor], Any]] = {
    "max_pool2d": lambda x: F.max_pool2d(x, 2),
    "MaxPool2d": lambda x: nn.MaxPool2d(2)(x),
    "torch.max_pool2d": lambda x: torch.max_pool2d(x, 2),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 2),
    "lp_pool2d": lambda x: F.lp_pool2d(x, 2, 2),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, 1),
    "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, 1),
    "interpolate": lambda x: F.interpolate(x, scale_factor=2),
    "Upsample": lambda x: nn.Upsample(scale_factor=2)(x),
    "pad": lambda x: F.pad(x, (1, 1, 1, 1)),
    "group_norm": lambda x: F.group_norm(x, 1),
    "instance_norm": lambda x: F.instance_norm(x),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "conv2d": lambda x: F.conv2d(x, torch.ones(1, 4, 2, 2), stride=2),
    "conv_transpose2d": lambda x: F.conv_transpose2d(x, torch.ones(4, 1, 2, 2), stride=2),
    "mean": lambda x: x.mean((2, 3)),
    "torch.mean": lambda x: torch.mean(x, (2, 3)),
    "getitem": lambda x: x[:, :, 1:, 1:],
    "dropout2d": lambda x: F.dropout2d(x),
    "scaled_dot_product_attention": lambda x: F.scaled_dot_product_attention(x, x, x),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_watch_sees_what_looks_at_neighbours(name: str) -> None:
    """A release of torch that calls one of these otherwise would pass it by without a word."""
    seen: list[Any] = []
    watch = State.modes[2]

    class Spy(watch):  # type: ignore[misc,valid-type]
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            seen.append(func)
            return super().__torch_function__(func, types, args, kwargs)

    State.modes[2] = Spy
    try:
        folded(CALLS[name], 4)(draw((4, 4, 4), channels=4))
    finally:
        State.modes[2] = watch
    assert any(func in HANDLERS for func in seen[1:])


def test_the_whole_ends_of_finite_volumes_keep_the_law() -> None:
    torch.manual_seed(0)
    source = nn.Sequential(
        nn.Conv2d(2, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 5, 1, 2), nn.Conv2d(4, 2, 1)
    )
    net: Any = crossd.convert(source, lift=None, depth_padding="replicate").eval()
    zeros: Any = crossd.convert(source, lift=None, depth_padding="zeros").eval()
    zeros.load_state_dict(net.state_dict())
    x = draw((6, 9))
    with torch.no_grad():
        for depth in (2, 3, 9):
            answer = net(repeat_along(x, 0, depth))
            close_relative(answer, net(x).unsqueeze(2).expand_as(answer), 1e-5)
            ended = zeros(repeat_along(x, 0, depth))
            assert not torch.allclose(ended, zeros(x).unsqueeze(2).expand_as(ended), atol=1e-2)
            torch.testing.assert_close(on_repeated(zeros, x, 0, depth), answer)


# Layers of other libraries that are made of such functions


def test_layers_of_timm_keep_the_law() -> None:
    from timm.layers.blur_pool import BlurPool2d
    from timm.layers.drop import DropBlock2d
    from timm.layers.norm_act import BatchNormAct2d
    from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame

    for layer in (
        AvgPool2dSame(3, 2),
        MaxPool2dSame((3, 2), 2),
        BatchNormAct2d(4),
        BlurPool2d(4),
        BlurPool2d(None, 5, 1, "constant"),
        nn.Softmax2d(),
        DropBlock2d(0.3),
    ):
        net = folded(layer, 4)
        for size in ((16, 20), (17, 13)):
            x = draw(size, channels=4)
            torch.testing.assert_close(net(x), layer.eval()(x))
            alone = "Same" in type(layer).__name__ or getattr(layer, "stride", 2) == 1
            for axis in range(1 if alone else 3):
                keeps_the_law(net, x, axis, 8)


def test_a_blurred_volume_is_blurred_along_every_axis_that_is_reduced() -> None:
    from timm.layers.blur_pool import BlurPool2d

    net = folded(BlurPool2d(None, 5, 2, "constant"), 4)
    x = torch.zeros(1, 4, 9, 9, 9)
    x[:, :, 4, 4, 4] = 1
    profile = torch.tensor([1.0, 4, 6, 4, 1]) / 16
    whole = torch.einsum("a,b,c->abc", profile, profile, profile)
    torch.testing.assert_close(net(x)[0, 0, 1:4, 1:4, 1:4], whole[::2, ::2, ::2])


def test_blocks_are_dropped_from_volumes_in_training() -> None:
    from timm.layers.drop import DropBlock2d

    net = folded(DropBlock2d(0.1, block_size=3), 4).train()
    torch.manual_seed(0)
    dropped = net(torch.ones(4, 4, 16, 16, 16)) == 0
    assert 0.02 < dropped.float().mean() < 0.5


class Pooled(nn.Module):
    """Pools the whole plane, by a window of its size that is written in one of several ways."""

    def __init__(self, window: Any, gate: bool) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 3, 1)
        self.window, self.gate = window, gate

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        pooled = F.avg_pool2d(y, self.window(y), self.window(y)) + F.max_pool2d(y, self.window(y))
        if self.gate:
            return self.last(y * pooled.sigmoid())
        answer: Tensor = self.last(pooled).view(y.size(0), -1)
        return answer


@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize(
    "window",
    [
        lambda y: y.shape[2:],
        lambda y: (y.size(2), y.size(3)),
        lambda y: list(y.shape[2:]),
        lambda y: y.size(2) if y.size(2) == y.size(3) else (y.size(2), y.size(3)),
    ],
)
def test_pools_over_the_whole_plane_see_every_slice(window: Any, gate: bool) -> None:
    net: Any = crossd.convert(Pooled(window, gate))
    for side in ((8, 10), (8, 8)):
        for count, depth in ((1, 5), (2, 8), (2, 12), (1, 16), (3, 20)):
            x = torch.randn(count, 2, depth, *side, requires_grad=True)
            answer = net(x)
            assert answer.shape == ((count, 3, depth, *side) if gate else (count, 3))
            first = answer[:, :, 0] if gate else answer
            (slope,) = torch.autograd.grad(first.square().sum(), x)
            assert bool((slope.flatten(3).abs().sum((1, 3)) > 0).all())  # of every slice


def test_what_has_too_few_slices_says_so() -> None:
    net: Any = crossd.convert(nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4, 4, 3, padding=1)))
    with pytest.raises(InputError, match="1 slices deep, but the network needs at least 2"):
        net(torch.randn(1, 1, 1, 8, 8))
    with pytest.raises(InputError, match=r"shape \(1, 1, 0, 8, 8\): there are no slices"):
        net(torch.randn(1, 1, 0, 8, 8))


def test_counts_of_pixels_are_averaged() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 3, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            seen = y > 0
            return (y * seen).sum((2, 3)) / seen.sum((2, 3)).clamp(min=1)

    net: Any = crossd.convert(Masked())
    x = torch.randn(2, 1, 6, 8, 9)
    with torch.no_grad():
        y = torch.nn.functional.conv3d(x, net.conv.weight, net.conv.bias, padding=1)
        expected = (y * (y > 0)).sum((2, 3, 4)) / (y > 0).sum((2, 3, 4))
        torch.testing.assert_close(net(x), expected)


@pytest.mark.parametrize("depth", [7, 12])
def test_a_window_that_overlaps_is_no_pool_of_the_volume(depth: int) -> None:
    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return F.max_pool2d(self.conv(x), 3, 2)

    net: Any = crossd.convert(Stage(), check=False)
    x = torch.randn(1, 1, depth, 3, 3)
    expected = F.max_pool3d(F.conv3d(x, net.conv.weight, net.conv.bias), 3, 2)
    # A map of one pixel is averaged over what is left of depth.
    torch.testing.assert_close(net(x), expected.mean(2, keepdim=True))


# What only looks like slices, and what is easily lost


def of_slices(depth: int, *plane: int) -> Tensor:
    """A volume whose voxels hold the number of their slice."""
    return torch.arange(float(depth)).view(1, 1, depth, 1, 1).expand(1, 2, depth, *plane).clone()


class Templates(nn.Module):
    """Has twelve of everything."""

    def __init__(self, buffers: bool) -> None:
        super().__init__()
        self.conv, self.inner = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        tensors = {"kernels": torch.randn(12, 6, 3, 3), "templates": torch.randn(12, 2, 5, 6)}
        for name, tensor in {**tensors, "table": torch.randn(12, 1, 7, 7)}.items():
            if buffers:
                self.register_buffer(name, tensor)
            else:
                setattr(self, name, nn.Parameter(tensor))

    def forward(self, x: Tensor) -> Tensor:
        own: Any = self
        y = self.inner(self.conv(x).relu())
        centred = own.kernels - own.kernels.mean((2, 3), keepdim=True)
        known = self.inner(self.conv(own.templates).relu()).mean((2, 3))
        scores = F.conv2d(y, centred, padding=1) * F.interpolate(own.table, y.shape[2:])[:, 0]
        return torch.cat([scores, torch.einsum("nchw,kc->nkhw", y, known)], 1)


@pytest.mark.parametrize("buffers", [False, True])
def test_parameters_with_as_many_rows_as_slices_are_no_slices(buffers: bool) -> None:
    net: Any = crossd.convert(Templates(buffers)).eval()
    images = torch.randn(3, 2, 8, 10)
    for number, depth in ((1, 12), (2, 6), (3, 4), (1, 11)):
        keeps_the_law(net, images[:number], length=depth)
    volumes = draw((4, 8, 10), number=3)
    torch.testing.assert_close(net(volumes)[:1], net(volumes[:1]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("depth", [1, 4, 5])
def test_every_second_slice_is_taken_with_every_second_row(depth: int) -> None:
    def focus(x: Tensor) -> Tensor:
        parts = [x[..., i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return torch.cat([*parts, x[:, :, ::2, ::2]], 1)

    answer = folded(focus)(of_slices(depth, 6, 8))[0, ::2, :, 0, 0].long().tolist()
    first = list(range(0, depth, 2))
    second = [min(n + 1, depth - 1) for n in first]
    assert answer == [first, second, first, second, first]


ENLARGED: dict[str, Callable[[Tensor], Tensor]] = {
    "repeat_interleave": lambda y: y.repeat_interleave(2, 2).repeat_interleave(2, 3),
    "index": lambda y: y[:, :, torch.arange(8) // 2][..., torch.arange(12) // 2],
    "matrices": lambda y: torch.kron(y, y.new_ones(1, 1, 2, 2)),
    "view": lambda y: y[:, :, :, None, :, None].expand(-1, -1, -1, 2, -1, 2).reshape(-1, 2, 8, 12),
}


@pytest.mark.parametrize("how", ENLARGED)
def test_maps_that_code_enlarges_by_hand_come_back_to_their_depth(how: str) -> None:
    net = folded(lambda x: ENLARGED[how](F.avg_pool2d(x, 2)))
    volume = of_slices(6, 8, 12)
    expected = F.interpolate(F.avg_pool3d(volume, 2), scale_factor=2)
    torch.testing.assert_close(net(volume), expected)


def pad(x: Tensor) -> Tensor:
    return F.pad(x, (1, 1, 1, 1))


PADDED: dict[str, Callable[[Tensor], Tensor]] = {
    "chunk": lambda x: pad(x).chunk(2, 1)[0],
    "channels": lambda x: pad(x)[:, :1],
    "cat": lambda x: torch.cat([pad(x[:, :1]), pad(x[:, 1:])], 1),
    "cat of others": lambda x: torch.cat([pad(x), F.pad(x, (1, 1, 1, 1), "replicate")], 1),
    "sum over channels": lambda x: pad(x).sum(1, keepdim=True),
}


@pytest.mark.parametrize("how", PADDED)
def test_padding_goes_along_with_what_is_made_of_padded_maps(how: str) -> None:
    x = draw((5, 6, 7))

    def solid(x: Tensor) -> Tensor:
        ends = F.pad(x, (1,) * 6, "replicate"), F.pad(x, (1,) * 6)
        made = ends[1]
        parts = {"chunk": made[:, :1], "channels": made[:, :1], "cat": made}
        parts |= {"cat of others": torch.cat(ends[::-1], 1), "sum over channels": made.sum(1, True)}
        return F.avg_pool3d(parts[how], 3, 1)

    torch.testing.assert_close(folded(lambda y: F.avg_pool2d(PADDED[how](y), 3, 1))(x), solid(x))


@pytest.mark.parametrize("deep", [1, 3, 5, None])
@pytest.mark.parametrize("layer", [nn.ZeroPad2d, nn.ReflectionPad2d])
def test_padding_layers_pad_depth_as_its_kernel_needs(layer: Any, deep: int | None) -> None:
    layers = [layer(1), nn.Conv2d(2, 3, 3), layer(2), nn.Conv2d(3, 3, 5, 1)]
    net: Any = crossd.convert(nn.Sequential(*layers), depth_kernel=deep)
    assert net(draw((6, 8, 10))).shape == (2, 3, 6, 8, 10)
    stem: Any = crossd.convert(nn.Sequential(layer(3), nn.Conv2d(2, 3, 7, 2)), depth_kernel=deep)
    assert stem(draw((8, 16, 18))).shape == (2, 3, 4, 8, 9)


class Padding(nn.Module):
    """Pads by a function, before a layer that strides."""

    def __init__(self, margins: tuple[int, ...]) -> None:
        super().__init__()
        self.conv, self.margins = nn.Conv2d(2, 4, 3, stride=2), margins

    def forward(self, x: Tensor) -> Any:
        return self.conv(F.pad(x, self.margins))


@pytest.mark.parametrize("margins", [(1, 1, 1, 1), (2, 0, 0, 1)])
def test_layers_pad_what_code_padded_before_them(margins: tuple[int, ...]) -> None:
    net: Any = crossd.convert(Padding(margins), depth_padding="zeros")
    nn.init.normal_(net.conv.weight)
    x = draw((5, 6, 7))
    padded = F.pad(x, (*margins, *margins[2:]))
    expected = F.conv3d(padded, net.conv.weight, net.conv.bias, net.conv.stride)
    torch.testing.assert_close(net(x), expected)


def test_masks_beside_volumes_are_masks_of_their_slices() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 3, 1)

        def forward(self, x: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
            return self.conv(x) * mask.unsqueeze(1) * weights[:, None, None, None]

    example = (torch.randn(2, 2, 8, 10), torch.rand(2, 8, 10), torch.rand(2))
    net: Any = crossd.convert(Masked(), example=example)
    for number, depth in ((1, 2), (2, 5), (3, 3)):
        x, mask, weights = (
            draw((depth, 8, 10), number=number),
            torch.rand(number, depth, 8, 10),
            None,
        )
        weights = torch.rand(number)
        expected = net.conv(x) * mask.unsqueeze(1) * weights.view(-1, 1, 1, 1, 1)
        torch.testing.assert_close(net(x, mask, weights), expected)


def test_volumes_that_do_not_go_together_are_refused() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 3, 1)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.conv(a) + self.conv(b)

    net: Any = crossd.convert(Two(), example=(torch.zeros(2, 2, 8, 8), torch.zeros(2, 2, 8, 8)))
    for other in (draw((5, 8, 8)), draw((6, 8, 8), number=1)):
        with pytest.raises(InputError, match="all of one call must be as many and as deep"):
            net(draw((6, 8, 8)), other)
    with pytest.raises(InputError, match="there are no volumes"):
        net(draw((6, 8, 8), number=0), draw((6, 8, 8), number=0))
    with pytest.raises(InputError, match="needs at least 4"):
        folded(lambda x: F.avg_pool2d(F.pad(x, (3,) * 4, "reflect"), 3))(draw((3, 8, 8)))


# Chance and statistics of whole volumes


@pytest.mark.parametrize("in_place", [False, True])
def test_what_is_said_of_a_volume_is_dropped_once(in_place: bool) -> None:
    def forward(x: Tensor) -> Tensor:
        vectors = F.dropout(x.mean((2, 3)) * 0 + 1, 0.5, True, in_place)
        maps = F.dropout(F.adaptive_avg_pool2d(x, 1) * 0 + 1, 0.5, True, in_place)
        return torch.cat([vectors, maps.flatten(1)], 1)

    net = folded(forward, 8).train()
    answers = net(draw((5, 6, 7), channels=8, number=50))
    assert {*answers.flatten().tolist()} == {0.0, 2.0}, "an average over slices has other values"
    assert 0.3 < (answers == 0).float().mean() < 0.7
    assert not torch.equal(answers[0], answers[1])


def test_one_volume_has_no_statistics() -> None:
    layers = [nn.Conv2d(2, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)]
    net: Any = crossd.convert(nn.Sequential(*layers)).train()
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        net(draw((5, 6, 7), number=1))
    assert net(draw((5, 6, 7))).isfinite().all()
    small: Any = crossd.convert(nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4))).train()
    small(draw((5, 3, 3), number=1))  # slices of one pixel differ


DRAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "rand": lambda x: torch.rand(len(x)),
    "rand of one pixel": lambda x: torch.rand(len(x), x.shape[1], 1, 1),
    "channels last": lambda x: torch.rand(len(x), 1, 1, x.shape[1]).permute(0, 3, 1, 2),
    "randint": lambda x: torch.randint(0, 1000, (len(x),)),
    "rand_like": lambda x: torch.rand_like(x[:, :1, :1, :1]),
    "rand_like of vectors": lambda x: torch.rand_like(x.mean((2, 3))),
    "bernoulli": lambda x: torch.bernoulli(torch.full((len(x), 1, 1, 1), 0.5)),
    "uniform_": lambda x: x.new_empty(len(x), 1, 1, 1).uniform_(),
    "bernoulli_": lambda x: torch.empty(len(x), 1).bernoulli_(),
    "normal_": lambda x: torch.empty(len(x)).normal_(),
}


@pytest.mark.parametrize("name", DRAWS)
def test_what_is_drawn_for_a_sample_is_drawn_for_a_volume(name: str) -> None:
    drawn: list[Tensor] = []

    def forward(x: Tensor) -> Tensor:
        drawn.append(DRAWS[name](x))
        return x

    folded(forward, 3)(draw((5, 6, 7), channels=3, number=40))
    numbers = drawn[0].reshape(40, 5, -1).float()
    assert (numbers == numbers[:, :1]).all()
    assert len(numbers.unique()) == (2 if "bernoulli" in name else numbers[:, 0].numel())


def test_what_is_drawn_for_pixels_and_tokens_is_left_alone() -> None:
    drawn: list[Tensor] = []

    def forward(x: Tensor) -> Tensor:
        drawn[:] = [torch.rand_like(x), torch.rand(len(x), 9, 1), torch.rand(7), torch.rand(2, 10)]
        drawn.append(x.new_empty(20).uniform_())
        return x

    folded(forward)(draw((5, 6, 7)))
    assert all(len(numbers.unique()) == numbers.numel() for numbers in drawn)


def test_it_says_where_slices_draw_their_own() -> None:
    class Noise(nn.Module):
        def __init__(self, by_shape: bool) -> None:
            super().__init__()
            self.conv, self.by_shape = nn.Conv2d(1, 4, 3), by_shape

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x).mean((2, 3))
            noise = torch.rand(*y.shape) if self.by_shape else torch.rand_like(y)
            return y * noise if self.training else y

    for by_shape in (False, True):
        net: Any = crossd.convert(Noise(by_shape))
        said = " ".join(net.conversion.checks)
        assert ("draws random numbers of its own" in said) == by_shape


def test_statistics_of_vectors_count_volumes_not_slices() -> None:
    layers = [nn.Conv2d(2, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(8)]
    net: Any = crossd.convert(nn.Sequential(*layers), check=False).train()
    solid = nn.Sequential(
        net[0].to_3d(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.BatchNorm1d(8)
    ).train()
    x = draw((5, 6, 7), number=3).requires_grad_()
    twin = x.detach().clone().requires_grad_()
    answers = net(x), solid(twin)
    torch.testing.assert_close(*answers)
    torch.testing.assert_close(net[-1].running_var, solid[-1].running_var)
    for answer in answers:
        answer.square().mul(torch.arange(8)).sum().backward()
    torch.testing.assert_close(x.grad, twin.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("function", [torch.var, torch.std, torch.var_mean, Tensor.var])
def test_spread_is_of_volumes_by_every_name_of_the_axes(function: Any) -> None:
    x = draw((5, 6, 7))
    for name in ("dim", "axis"):
        found = folded(functools.partial(function, **{name: (2, 3)}, correction=0))(x)
        expected = function(x, dim=(2, 3, 4), correction=0)
        torch.testing.assert_close(found, expected)


def test_what_cuts_all_slices_away_asks_for_more() -> None:
    net = folded(lambda x: x[:, :, 4:, :5])
    assert net(draw((6, 8, 9))).shape == (2, 2, 2, 4, 5)
    with pytest.raises(InputError, match="needs at least 5"):
        net(draw((3, 8, 9)))


def test_what_is_drawn_for_rows_is_not_drawn_for_volumes() -> None:
    drawn: list[Tensor] = []

    def forward(x: Tensor) -> Tensor:
        drawn.append(torch.rand(x.shape[2], 1))
        return x * drawn[-1]

    folded(forward)(draw((8, 8, 6), number=1))
    assert len(drawn[0].unique()) == 8


@pytest.mark.parametrize("shape", [(1, 2, 5, 6, 7), (2, 2, 5, 6, 7)])
def test_batch_norm_is_that_of_volumes_in_any_order_of_memory(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    solid = nn.BatchNorm3d(2)
    for memory in (torch.contiguous_format, torch.channels_last_3d):
        layers = [nn.Conv2d(2, 2, 1, bias=False), nn.BatchNorm2d(2), nn.SiLU(inplace=True)]
        nn.init.dirac_(layers[0].weight)  # type: ignore[arg-type]
        net: Any = crossd.convert(nn.Sequential(*layers), check=False).train()
        given = x.clone(memory_format=memory).requires_grad_()
        twin = x.clone().requires_grad_()
        answer, expected = net(given), F.silu(solid(twin))
        torch.testing.assert_close(answer, expected)
        for made in (answer, expected):
            (made * x).sum().backward()
        torch.testing.assert_close(given.grad, twin.grad)


@pytest.mark.parametrize(
    ("flip", "axes"),
    [(lambda y: y.flip(0), (0,)), (lambda y: torch.flip(y, dims=(-4, 3)), (0, 4))],
)
def test_a_flipped_batch_is_one_of_volumes_in_another_order(
    flip: Callable[[Tensor], Tensor], axes: tuple[int, ...]
) -> None:
    x = draw((5, 6, 7), number=3)
    torch.testing.assert_close(folded(flip)(x), x.flip(axes))
    vectors = folded(lambda x: x.mean((2, 3)).flip(0))(x)
    torch.testing.assert_close(vectors, x.mean((2, 3, 4)).flip(0))


LOADS: dict[str, Callable[[Tensor], Tensor]] = {
    "vectors": lambda x: x.mean((2, 3)).mean(0),
    "sum by name": lambda x: torch.sum(x.mean((2, 3)), dim=0),
    "kept": lambda x: x.mean((2, 3)).amax(0, keepdim=True)[0],
    "largest and places": lambda x: x.mean((2, 3)).max(0).values,
    "maps": lambda x: x.mean((0, 2, 3)),
    "tokens": lambda x: x.flatten(2).transpose(1, 2).sum((0, 1)),
}


@pytest.mark.parametrize("name", LOADS)
def test_what_a_whole_batch_says_is_no_slices(name: str) -> None:
    net = folded(LOADS[name], 8)
    for number, depth in ((1, 4), (1, 8), (2, 4), (3, 5), (8, 1)):
        answer = net(draw((depth, 6, 7), channels=8, number=number))
        assert answer.shape == (8,)
        if name == "maps":
            x = draw((depth, 6, 7), channels=8, number=number)
            torch.testing.assert_close(answer, x.mean((0, 2, 3, 4)))


def test_what_modules_keep_is_no_slices() -> None:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.anchors = nn.Conv2d(3, 8, 3, padding=1), torch.randn(8, 4)
            self.levels = {"first": torch.randn(4, 4)}

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return self.conv(x), self.anchors, 2 * self.levels["first"]

    net: Any = crossd.convert(Detector()).eval()
    for number, depth in ((1, 4), (1, 8), (2, 4), (2, 2)):
        maps, anchors, level = net(draw((depth, 6, 7), channels=3, number=number))
        assert maps.shape == (number, 8, depth, 6, 7)
        assert torch.equal(anchors, net.anchors) and level.shape == (4, 4)


@pytest.mark.parametrize("how", some(["loop", "unbind", "index"], ["loop"]))
def test_channels_of_one_image_are_no_slices(how: str) -> None:
    class Channels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = (nn.Conv2d(n, 6, 3, padding=1) for n in (3, 1))
            self.last = nn.Conv2d(36, 2, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            each = [y[i] for i in range(len(y))] if how == "index" else y
            parts = y.unbind() if how == "unbind" else each
            alone = [self.second(part.unsqueeze(1)).flatten(0, 1) for part in parts]
            return self.last(torch.stack(alone))

    net: Any = crossd.convert(Channels(), lift=None, depth_padding="replicate").eval()
    x = draw((16, 18), channels=3, number=1)
    with torch.no_grad():
        for depth in (2, 3, 4, 5, 6):
            keeps_the_law(net, x, 0, depth)
        net(repeat_along(x, 0, 6))
    assert net.crossd_state.last.seen.convolutions == 2, "the first and the last"


def test_samples_that_are_prepared_one_by_one_are_slices_again() -> None:
    def forward(x: Tensor) -> Tensor:
        stacked = torch.stack([2 * image for image in x])
        joined = torch.cat([image[None] for image in x])
        room = x[0].new_zeros(x.shape)
        for i, image in enumerate(x):
            room[i].copy_(image)
        return F.max_pool2d(torch.cat([stacked, joined, room], 1), 3, 1, 1)

    x = draw((5, 6, 7))
    expected = F.max_pool3d(torch.cat([2 * x, x, x], 1), 3, 1, 1)
    torch.testing.assert_close(folded(forward)(x), expected)


def test_what_forward_makes_itself_is_no_slices() -> None:
    def forward(x: Tensor) -> Any:
        rows = torch.meshgrid(torch.arange(4.0), torch.arange(6.0), indexing="ij")
        anchors = torch.stack([part.flatten() for part in rows], 1)
        kernels = torch.linspace(0, 1, 24 * 2 * 9, device=x.device).reshape(24, 2, 3, 3).sin()
        return x * F.conv2d(x, kernels - kernels.mean((2, 3), keepdim=True), padding=1)[
            :, :2
        ], anchors

    net = folded(forward)
    for number, depth in ((1, 23), (1, 24), (3, 8), (2, 12)):
        x = draw((depth, 4, 6), number=number)
        maps, anchors = net(x)
        assert anchors.shape == (24, 2)
        for i in range(number):
            torch.testing.assert_close(maps[i], net(x[i : i + 1])[0][0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 2, 1, 12, 14), (1, 2, 2, 12, 14), (2, 2, 1, 12, 14)])
def test_gradients_of_a_single_slice(shape: tuple[int, ...]) -> None:
    layers = nn.Conv2d(2, 4, 5, 2, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
    net: Any = crossd.convert(nn.Sequential(*layers), check=False).eval()
    solid: Any = crossd.to_3d(net)
    x = torch.randn(shape)
    for one in (net, solid):
        one(x).square().sum().backward()
    close_relative(net[0].weight.grad, solid[0].weight.grad, 1e-4)


def test_labels_of_vectors_are_the_most_frequent_over_depth() -> None:
    net = folded(lambda x: {"label": x.mean((2, 3)).argmax(1), "each": x[:, :, 0, 0].argmax(1)})
    x = of_slices(5, 6, 8)
    x[:, 0, 1:] = 9  # the first channel is larger in four slices
    answer = net(torch.cat([x, -x]))
    assert answer["label"].shape == (2,) and answer["each"].tolist() == [0, 1]


@pytest.mark.parametrize("mode", ["reflect", "circular"])
def test_layers_that_mirror_say_how_many_slices_they_need(mode: Any) -> None:
    net: Any = crossd.convert(nn.Sequential(nn.Conv2d(2, 3, 7, padding=3, padding_mode=mode)))
    least = 4 if mode == "reflect" else 3
    assert net(draw((least, 8, 10))).shape == (2, 3, least, 8, 10)
    with pytest.raises(InputError, match=f"needs at least {least}"):
        net(draw((least - 1, 8, 10)))


# Tensors that are made empty and filled


def filled_by(how: str, y: Tensor) -> Tensor:
    made = torch.zeros(y.shape, dtype=y.dtype)
    if how == "assignment":
        made[:, ::2], made[:, 1::2] = y[:, 1::2], y[:, ::2]
    elif how == "sum":
        made += y
    elif how == "part":
        made[:, :3].copy_(y[:, :3])
    elif how == "out":
        torch.mul(y.detach(), 2, out=made)
    else:
        made.index_add_(1, torch.tensor([1, 3]), y[:, :2])
    return made


class Fills(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)
        self.how = how

    def forward(self, x: Tensor) -> Any:
        return self.last(filled_by(self.how, self.first(x)))


@pytest.mark.parametrize("how", ["assignment", "sum", "part", "out", "index"])
def test_what_is_filled_with_slices_is_slices(how: str) -> None:
    net = settle(crossd.convert(Fills(how)))
    assert net.conversion.checks[0] == "2 of 2 convolutions see depth"
    volumes = torch.randn(1, 2, 9, 8, 10)
    other = volumes.clone()
    other[:, :, 4] += 1
    with torch.no_grad():
        change = (net(other) - net(volumes)).abs().amax((0, 1, 3, 4))
        assert change.nonzero().flatten().tolist() == [2, 3, 4, 5, 6]
        if how in ("assignment", "sum"):
            torch.compiler.reset()
            compiled: Any = torch.compile(net, fullgraph=True, backend="eager")
            torch.testing.assert_close(compiled(volumes), net(volumes))


# Slices that a layer of patches leaves out


def test_slices_that_are_left_out_are_told_of() -> None:
    source = nn.Sequential(nn.Conv2d(1, 4, 4, 4), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1))
    net: Any = crossd.convert(source)
    net(torch.randn(1, 1, 12, 16, 16))
    with pytest.warns(UserWarning, match="'0' .* takes 4 slices .* leaves out the last 3 of 15: "):
        net(torch.randn(1, 1, 15, 16, 16))
    every: Any = crossd.convert(source, depth_stride=1)
    assert every(torch.randn(1, 1, 15, 16, 16)).shape[2] == 15
