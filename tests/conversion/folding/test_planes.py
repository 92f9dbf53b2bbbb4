"""3D networks on images: an image is a volume one voxel deep."""

import functools
from collections.abc import Callable
from typing import Any

import monai.networks.nets as mn
import pytest
import torch
import torch.nn.functional as F
from helpers import close_relative, conv_images, settle, some
from torch import Tensor, nn

import crossd
from crossd import InputError
from crossd.conversion.folding.planes import HANDLERS, in_plane
from crossd.nn.conv import CrossDConv
from crossd.nn.kernel_modes import KERNEL_MODES
from crossd.nn.views import VIEWS

convert: Callable[..., Any] = crossd.convert


class Call(nn.Module):
    """Calls a function on volumes, behind a convolution of single voxels that changes nothing."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.conv = nn.Conv3d(2, 2, 1, bias=False)
        nn.init.dirac_(self.conv.weight)
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.conv(x))


def flat(function: Callable[[Tensor], Any]) -> Any:
    return convert(Call(function), check=False).eval()


def image(height: int = 6, width: int = 8, channels: int = 2) -> Tensor:
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(0))


def pick(settings: Any, axis: int) -> Any:
    """Take the settings of the plane of a view."""
    if not isinstance(settings, tuple):
        return settings
    return tuple(value for place, value in enumerate(settings) if place != axis)


@pytest.mark.parametrize(("axis", "view"), list(enumerate(VIEWS)))
@pytest.mark.parametrize("kernel", [2, (1, 2, 3), (3, 1, 2)])
@pytest.mark.parametrize("stride", [None, 1, (2, 1, 2)])
def test_pools_have_the_windows_of_the_plane(
    axis: int, view: str, kernel: Any, stride: Any
) -> None:
    x = image()
    own = [pick(value, axis) for value in (kernel, stride)]
    with crossd.view(view):
        for name in ("max_pool", "avg_pool"):
            solid, plane = (getattr(F, f"{name}{rank}d") for rank in (3, 2))
            answer = flat(functools.partial(solid, kernel_size=kernel, stride=stride))(x)
            torch.testing.assert_close(answer, plane(x, *own))
        powers = flat(lambda y: F.lp_pool3d(y.abs(), 2.0, kernel, stride))(x)
        mean = F.avg_pool2d(x.square(), *own).sqrt()
        ratio = powers / mean
        torch.testing.assert_close(ratio, ratio.flatten()[0].expand_as(ratio), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("axis", "view"), list(enumerate(VIEWS)))
@pytest.mark.parametrize("size", [1, 3, (1, 2, 3), (None, 2, 1)])
def test_adaptive_pools_repeat_what_is_one_voxel_deep(axis: int, view: str, size: Any) -> None:
    x, count = image(), size[axis] if isinstance(size, tuple) else size
    net = flat(lambda y: F.adaptive_avg_pool3d(y, size).sum(2 + axis, keepdim=True))
    with crossd.view(view):
        expected = F.adaptive_avg_pool2d(x, pick(size, axis)) * (count or 1)
        torch.testing.assert_close(net(x), expected)


@pytest.mark.parametrize(("axis", "view"), list(enumerate(VIEWS)))
def test_sizes_and_margins_are_those_of_the_plane(axis: int, view: str) -> None:
    x = image()
    with crossd.view(view):
        scales, sizes = (2.0, 3.0, 1.5), (5, 7, 9)
        net = flat(lambda y: F.interpolate(y, scale_factor=scales))
        torch.testing.assert_close(net(x), F.interpolate(x, scale_factor=pick(scales, axis)))
        net = flat(lambda y: F.interpolate(y, sizes, mode="trilinear"))
        torch.testing.assert_close(net(x), F.interpolate(x, pick(sizes, axis), mode="bilinear"))
        pads = (1, 2, 3, 4, 5, 6)  # of x, y, z
        own = [p for i, p in enumerate(pads) if 2 - i // 2 != axis]
        torch.testing.assert_close(flat(lambda y: F.pad(y, pads))(x), F.pad(x, own))


@pytest.mark.parametrize(("axis", "view"), list(enumerate(VIEWS)))
@pytest.mark.parametrize("stride", [1, (1, 2, 2)])
def test_computed_kernels_are_summed(axis: int, view: str, stride: Any) -> None:
    kernel = torch.randn(3, 2, 3, 3, 3)
    x = image(7, 9)
    with crossd.view(view):
        net = flat(lambda y: F.conv3d(y, kernel, None, stride, 1))
        expected = F.conv2d(x, kernel.sum(2 + axis), None, pick(stride, axis), 1)
        torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-4)
    with crossd.view([0, 1]), pytest.raises(ValueError, match="one kernel for all"):
        net(x)


@pytest.mark.parametrize("mode", KERNEL_MODES)
def test_layers_take_their_2d_kernel_as_the_mode_says(mode: str) -> None:
    conv = nn.Conv3d(2, 4, (1, 3, 3), (1, 2, 2), (0, 1, 1), dtype=torch.float64)
    net = settle(convert(nn.Sequential(conv, nn.ReLU()), mode, check=False))
    assert isinstance(net[0], CrossDConv)
    x = image().double()
    for axis, view in enumerate(VIEWS):
        with crossd.view(view):
            expected = conv_images(net[0], x, [axis] * 2).relu()
            torch.testing.assert_close(net(x), expected)


NETS: dict[str, Callable[[], nn.Module]] = {
    "SegResNet": lambda: mn.SegResNet(3, 8, 1, 2, blocks_down=(1, 1), blocks_up=(1,)),
    "UNet": lambda: mn.UNet(3, 1, 2, (4, 8), (2,), num_res_units=1),
    "DynUNet": lambda: mn.DynUNet(
        *(3, 1, 2, [[1, 3, 3], *[[3, 3, 3]] * 2], [[1, 1, 1], *[[1, 2, 2]] * 2], [[1, 2, 2]] * 2),
        [4, 8, 8],
    ),
    "DenseNet": lambda: mn.DenseNet(3, 1, 2, 8, 4, (2, 2)),
}


@pytest.mark.parametrize("mode", some(KERNEL_MODES, ["projection", "fourier"]))
@pytest.mark.parametrize("name", some(NETS, ["SegResNet"]))
def test_there_and_back(name: str, mode: str) -> None:
    torch.manual_seed(0)
    source: Any = settle(NETS[name]())
    net = convert(source, mode, check=False)
    volumes = torch.randn(2, 1, 8, 16, 24)
    own = [key for key in net.state_dict() if ".mode." not in key]
    assert own == list(source.state_dict())
    assert all(net.state_dict()[k].shape == v.shape for k, v in source.state_dict().items())
    with torch.no_grad():
        expected = source(volumes)
        if mode != "fourier-projection":  # whose volumes move the kernels too
            close_relative(net(volumes), expected, 1e-5)
            solid = crossd.to_3d(net)
            close_relative(solid(volumes), expected, 1e-5)
            assert list(solid.state_dict()) == list(source.state_dict())
            kinds = [(type(a), type(b)) for a, b in zip(solid.modules(), source.modules())]  # noqa: B905
            assert all(a is b for a, b in kinds)
        for view in VIEWS:
            with crossd.view(view):
                images = net(volumes[:, :, 0])
            flat = crossd.to_2d(net, view)
            if not mode.startswith("fourier"):
                close_relative(flat(volumes[:, :, 0]), images, 1e-4)
    source.load_state_dict(crossd.to_3d(convert(source, check=False)).state_dict())


@pytest.mark.parametrize("name", NETS)
def test_the_law_in_every_view_and_gradients(name: str) -> None:
    torch.manual_seed(0)
    net = convert(NETS[name](), example=torch.randn(2, 1, 8, 16, 24))
    assert net.crossd_state.folding.views == (0, 1, 2)
    for view in VIEWS:
        net.train().zero_grad()
        with crossd.view(view):
            net(torch.randn(2, 1, 16, 24)).square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_images_of_several_views_in_a_batch() -> None:
    net = settle(convert(NETS["SegResNet"](), example=torch.randn(2, 1, 8, 16, 24)))
    assert net.crossd_state.folding.mixes
    x = torch.randn(4, 1, 16, 16)
    views = ["sagittal", "axial", "coronal", "axial"]
    with torch.no_grad():
        with crossd.view(views):
            mixed = net(x)
        for i, view in enumerate(views):
            with crossd.view(view):
                close_relative(mixed[i : i + 1], net(x[i : i + 1]), 1e-5)
    thin = convert(NETS["DynUNet"](), example=torch.randn(2, 1, 8, 16, 24))
    assert not thin.crossd_state.folding.mixes
    with crossd.view(views), pytest.raises(ValueError, match="put one view in a batch"):
        thin(x)


def test_other_channels_and_classes() -> None:
    source = mn.SegResNet(3, 8, 3, 5, blocks_down=(1, 1), blocks_up=(1,))
    net = convert(source, in_channels=1, num_classes=2, check=False)
    assert net(torch.randn(1, 1, 8, 8, 8)).shape == (1, 2, 8, 8, 8)
    assert net(torch.randn(1, 1, 8, 8)).shape == (1, 2, 8, 8)


def test_code_that_fixes_its_depth_is_given_repeated_images() -> None:
    settings: Any = {"img_size": (32, 32, 48), "feature_size": 4, "hidden_size": 24, "mlp_dim": 48}
    source = settle(mn.UNETR(1, 2, num_heads=2, spatial_dims=3, **settings))
    net = convert(source)
    assert "images are repeated to 32 slices" in net.conversion.checks[0]
    assert net.crossd_state.folding.views == (0, 1)
    x = torch.randn(1, 1, 32, 48)
    with torch.no_grad():
        expected = source(x[:, :, None].expand(-1, -1, 32, -1, -1)).mean(2)
        torch.testing.assert_close(net.eval()(x), expected)


def test_what_torch_calls_in_three_dimensions_is_watched() -> None:
    seen: list[Any] = []
    x = torch.randn(1, 2, 1, 4, 4)
    calls: list[Callable[[], Any]] = [
        lambda: F.max_pool3d(x, 1),
        lambda: F.avg_pool3d(x, 1),
        lambda: F.lp_pool3d(x, 2, 1),
        lambda: F.adaptive_avg_pool3d(x, 1),
        lambda: F.adaptive_max_pool3d(x, 1),
        lambda: F.interpolate(x, scale_factor=2),
        lambda: F.pad(x, (1, 1)),
        lambda: F.conv3d(x, torch.ones(1, 2, 1, 1, 1)),
        lambda: F.conv_transpose3d(x, torch.ones(2, 1, 1, 1, 1)),
    ]

    class Spy(torch.overrides.TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    for call in calls:
        seen.clear()
        with Spy():
            call()
        assert any(func in HANDLERS for func in seen)


# Answers and targets of any form


class Form(nn.Module):
    """Convolves volumes, and gives its answer another form; or a loss, where it has a target."""

    def __init__(self, form: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.form = nn.Conv3d(1, 4, 3, padding=1), form

    def forward(self, x: Tensor, target: Tensor | None = None) -> Any:
        y = self.form(self.conv(x))
        return y if target is None else self.loss(y, target)

    def loss(self, y: Tensor, target: Tensor) -> Tensor:
        return (y - target).square().mean()


FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "maps": lambda y: y,
    "labels": lambda y: y.argmax(1),
    "one channel less": lambda y: y[:, 0],
    "stacked": lambda y: torch.stack([y, 2 * y], 1),
    "pooled": lambda y: y.mean((2, 3, 4)),
}


def test_a_channel_alone_is_no_slice_alone() -> None:
    net = convert(Form(lambda y: y.mean(2)[:, :1])).eval()  # an image of what is looked through
    assert net(image(channels=1)).shape == net(torch.zeros(2, 1, 5, 6, 8)).shape == (2, 1, 6, 8)


@pytest.mark.parametrize("form", some(FORMS, [*FORMS][:2]))
@pytest.mark.parametrize(("axis", "view"), list(enumerate(VIEWS)))
def test_answers_of_images_lack_the_axis_of_the_view(form: str, axis: int, view: str) -> None:
    net = settle(convert(Form(FORMS[form])))
    x = image(channels=1)
    with crossd.view(view), torch.no_grad():
        expected = FORMS[form](net.conv(x).unsqueeze(2 + axis))
        expected = expected.squeeze(-3 + axis) if expected.dim() > 3 else expected
        torch.testing.assert_close(net(x), expected)


@pytest.mark.parametrize(("axis", "view"), list(enumerate(VIEWS)))
def test_targets_lack_it_too(axis: int, view: str) -> None:
    net = settle(convert(Form(lambda y: y.sum(1))))
    x, target = image(channels=1), torch.randn(2, 6, 8)
    with crossd.view(view), torch.no_grad():
        expected = (net.conv(x).sum(1) - target).square().mean()
        torch.testing.assert_close(net(x, target), expected)
    volume, masks = torch.randn(2, 1, 5, 6, 8), torch.randn(2, 5, 6, 8)
    torch.testing.assert_close(net(volume, masks), net.loss(net(volume), masks))


def test_channels_last_in_an_answer_are_refused() -> None:
    with pytest.raises(InputError, match=r"it gives \(2, 1, 32, 48, 4\) on images"):
        convert(Form(lambda y: y.movedim(1, -1)))


def test_an_example_may_hold_more_than_volumes() -> None:
    class Timed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv3d(1, 4, 3, padding=1), nn.Linear(3, 4)

        def forward(self, x: Tensor, given: dict[str, Tensor]) -> Tensor:
            return self.conv(x) + self.linear(given["time"])[:, :, None, None, None]

    given = {"time": torch.randn(2, 3)}
    net = convert(Timed(), example=(torch.randn(2, 1, 8, 10, 12), given))
    assert net(image(channels=1), given).shape == (2, 4, 6, 8)


def test_options_that_have_no_effect_are_refused() -> None:
    for option in ({"depth_stride": 1}, {"depth_kernel": 3}, {"attention": "volume"}):
        with pytest.raises(InputError, match="is for 2D networks; this one is a 3D network"):
            convert(Form(FORMS["maps"]), **option)


def test_images_of_one_batch_have_one_view_where_code_mixes_them() -> None:
    net = convert(Form(lambda y: y - y.mean((0, 2, 3, 4), keepdim=True))).eval()
    x = image(channels=1)
    with crossd.view(["axial", "sagittal"]), pytest.raises(InputError, match="put one view in a"):
        net(x)
    with crossd.view("sagittal"):
        assert net(x).shape == (2, 4, 6, 8)


@pytest.mark.parametrize("conv", [nn.Conv2d, nn.Conv3d])
def test_ends_that_are_continued_are_so_in_every_view(conv: Any) -> None:
    source = nn.Sequential(conv(1, 4, 3, padding=1), nn.Tanh(), conv(4, 2, 3, padding=1))
    net = settle(convert(source, depth_padding="replicate"))
    assert net.crossd_state.folding.views == (0, 1, 2)
    volume = torch.randn(1, 1, 6, 8, 10)
    solid = crossd.to_3d(net)
    torch.testing.assert_close(solid(volume), net(volume))
    for view in VIEWS:
        with crossd.view(view):
            torch.testing.assert_close(
                crossd.to_2d(net, view)(volume[:, :, 0]), net(volume[:, :, 0])
            )


@pytest.mark.parametrize("conv", [nn.ConvTranspose2d, nn.ConvTranspose3d])
def test_transposed_kernels_that_leave_gaps_are_refused(conv: Any) -> None:
    with pytest.raises(InputError, match=r"leaves gaps at a stride of \(2"):
        convert(nn.Sequential(conv(1, 2, 1, 2)))


def test_settings_of_the_plane_are_those_of_the_axes_that_stay() -> None:
    assert [in_plane((4, 5, 6), axis) for axis in range(3)] == [(5, 6), (4, 6), (4, 5)]
    assert in_plane((4, 4, 4), (0, 1, 2)) == (4, 4)
    assert in_plane((1, 1, 2), (0, 1)) == (1, 2), "the first two are equal, the last stays in both"
    with pytest.raises(ValueError, match=r"samples of one batch .* \(1, 2, 2\)"):
        in_plane((1, 2, 2), (0, 1, 2))
