"""Networks turned: equal to what they came from where they should be, refused where they cannot."""

import copy
import functools
import logging
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from helpers import close_relative, keeps_the_law, randomize, repeat_along, settle, some
from monai.networks.nets import BasicUNet, DynUNet, SegResNet, UNet
from torch import Tensor, nn

import crossd
from crossd import InputError
from crossd.conversion import rules
from crossd.conversion.registry import small_resnet
from crossd.conversion.report import tensors
from crossd.nn import views
from crossd.nn.conv import CrossDConv

# Turned networks are indexed below, which the type nn.Module does not know.
Turn = Callable[..., Any]
convert: Turn = functools.partial(crossd.convert, check=False)  # test_verify.py has it
to_2d: Turn = crossd.to_2d
to_3d: Turn = crossd.to_3d
acs: Turn = crossd.acs
center: Turn = crossd.center
inflate: Turn = crossd.inflate
triplanar: Turn = crossd.triplanar

CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("projection", {}),
    ("slice", {}),
    ("fourier", {}),
    ("fourier", {"offset": 0.0}),
    ("fourier-projection", {}),
)


NARROW = (16, 24, 32, 48)
"""Channels of a ResNet18 that is as deep as it is, and quick."""


@functools.cache
def resnet18() -> nn.Module:
    torch.manual_seed(3)
    return settle(timm.create_model("resnet18", channels=NARROW, num_classes=11, in_chans=1))


@functools.cache
def small() -> Any:
    torch.manual_seed(4)
    return settle(small_resnet(1, 3))


def of_crossd(net: nn.Module) -> list[str]:
    return [name for name, m in net.named_modules() if type(m).__module__.startswith("crossd")]


def hooks(net: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules())


def replace(net: nn.Module, change: Callable[[nn.Module], nn.Module | None]) -> nn.Module:
    """Change the layers of a copy of a network."""
    net = copy.deepcopy(net)
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            setattr(parent, name, change(child) or child)
    return net


def in_torch_3d(net: nn.Module) -> nn.Module:
    """Rebuild a ResNet with the 3D layers of torch.nn, all with new weights."""

    def change(layer: Any) -> nn.Module | None:
        if type(layer) is nn.Conv2d:
            size, stride, pad = layer.kernel_size[0], layer.stride[0], layer.padding[0]
            bias, channels = layer.bias is not None, (layer.in_channels, layer.out_channels)
            return nn.Conv3d(*channels, size, stride, pad, bias=bias)
        if type(layer) is nn.BatchNorm2d:
            return nn.BatchNorm3d(layer.num_features)
        if type(layer) is nn.MaxPool2d:
            return nn.MaxPool3d(layer.kernel_size, layer.stride, layer.padding)
        if type(layer) is nn.AdaptiveAvgPool2d:
            return nn.AdaptiveAvgPool3d(layer.output_size)
        return None

    return replace(net, change).eval()


# The function is kept


@pytest.mark.parametrize(("mode", "options"), CASES)
@pytest.mark.parametrize("lift", ["center", "inflate"])
def test_a_lifted_resnet_equals_the_2d_one(mode: str, options: dict[str, Any], lift: str) -> None:
    images = torch.randn(3, 1, 48, 48)
    net = convert(resnet18(), mode, lift, **options)
    assert not net.training
    with torch.no_grad():
        close_relative(net(images), resnet18()(images))
        assert net(torch.randn(1, 1, 16, 32, 32)).shape == (1, 11)
        close_relative(to_2d(net)(images), resnet18()(images))


def test_lift_none_draws_new_kernels_and_keeps_the_rest() -> None:
    net = convert(small(), lift=None)
    weight = net[0].weight
    std = (2 / (weight.shape[0] * 27)) ** 0.5
    assert abs(float(weight.detach().std()) / std - 1) < 0.1
    torch.testing.assert_close(net[1].running_mean, small()[1].running_mean)


def test_triplanar_is_the_mean_of_three_placements() -> None:
    conv = nn.Conv2d(2, 3, 3, bias=False)
    source, w = nn.Sequential(conv), conv.weight.detach()
    expected = torch.zeros(3, 2, 3, 3, 3)
    expected[:, :, 1, :, :] += w / 3
    expected[:, :, :, 1, :] += w / 3
    expected[:, :, :, :, 1] += w / 3
    torch.testing.assert_close(triplanar(source)[0].weight.detach(), expected)
    torch.testing.assert_close(convert(source, lift="triplanar")[0].weight, expected)


def test_a_lift_that_does_not_keep_the_2d_network_says_how_far_off_it_is() -> None:
    source = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 1, 3))
    randomize(source)
    net: Any = crossd.convert(source, lift="triplanar")
    (line,) = (one for one in net.conversion.checks if "differs from the 2D network" in one)
    x = torch.randn(4, 1, 12, 14)
    assert float(line.rpartition(" ")[2]) > 0.05 and not torch.allclose(net(x), source(x))
    new: Any = crossd.convert(source, lift=None)
    assert not [one for one in new.conversion.checks if "2D network" in one]


# The consistency law


@pytest.fixture(scope="module")
def drawn_net() -> nn.Module:
    """A whole ResNet in the projection mode whose kernels are as in no lift; max pooling too."""
    torch.manual_seed(5)
    return convert(resnet18(), "projection", lift=None)


@pytest.mark.parametrize(("axis", "view"), list(enumerate(views.VIEWS)))
def test_3d_equals_2d_on_volumes_that_repeat_an_image(
    drawn_net: nn.Module, axis: int, view: str
) -> None:
    images = torch.randn(2, 1, 32, 64)
    keeps_the_law(drawn_net, images, axis, 24)
    volumes = torch.randn(1, 1, 24, 32, 64)
    with torch.no_grad():
        close_relative(to_3d(drawn_net)(volumes), drawn_net(volumes), 1e-5)
        with crossd.view(view):
            expected = drawn_net(images)
        close_relative(to_2d(drawn_net, view)(images), expected, 1e-5)


def test_views_differ(drawn_net: nn.Module) -> None:
    images = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        answers = [to_2d(drawn_net, view)(images) for view in views.VIEWS]
    assert not torch.allclose(answers[0], answers[1]) and not torch.allclose(*answers[1:])


@pytest.mark.parametrize(("axis", "view"), list(enumerate(views.VIEWS)))
def test_with_zero_padding_3d_equals_2d_away_from_the_border(axis: int, view: str) -> None:
    layers = [nn.Conv2d(1, 6, 5, padding=2), nn.BatchNorm2d(6), nn.ReLU(), nn.AvgPool2d(3, 1, 1)]
    layers += [nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=2), nn.ReLU()]
    layers += [nn.MaxPool2d(3, 1, 1), nn.Conv2d(6, 2, (1, 1))]
    net = convert(settle(nn.Sequential(*layers)), "projection", lift=None)
    images = torch.randn(2, 1, 12, 13)
    reach = 2 + 1 + 2 + 1
    with torch.no_grad(), crossd.view(view):
        expected = net(images)
        answer = net(repeat_along(images, axis, 2 * reach + 3)).movedim(2 + axis, 2)
    for inside in answer[:, :, reach:-reach].unbind(2):
        close_relative(inside, expected)
    outside: Tensor = answer[:, :, 0]
    assert not torch.allclose(outside, expected, atol=1e-2)


# Plain networks


def test_to_3d_loads_into_the_network_built_from_torch() -> None:
    net = convert(resnet18(), "projection", lift="triplanar", spread=False)
    plain = to_3d(net)
    assert not of_crossd(plain) and hooks(plain) == 0
    built = in_torch_3d(resnet18())
    built.load_state_dict(plain.state_dict(), strict=True)
    volumes = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(built(volumes), plain(volumes))
        torch.testing.assert_close(net(volumes), plain(volumes))
    types = {name: type(m) for name, m in built.named_modules()}
    assert {name: type(m) for name, m in plain.named_modules()} == types


NETS: dict[str, Callable[[int], nn.Module]] = {
    "BasicUNet": lambda rank: BasicUNet(rank, 1, 3, features=(4, 4, 8, 8, 16, 4)),
    "UNet batch": lambda rank: UNet(rank, 1, 3, (4, 8, 16), (2, 2), num_res_units=2, norm="batch"),
    "UNet instance": lambda rank: UNet(
        rank, 1, 3, (4, 8, 16), (2, 2), num_res_units=0, dropout=0.1
    ),
    "DynUNet": lambda rank: DynUNet(
        *(rank, 1, 3, [3] * 4, [1, 2, 2, 2], [2] * 3, [4, 8, 8, 16]),
        norm_name=("INSTANCE", {"affine": True}),
        deep_supervision=True,
        deep_supr_num=2,
        res_block=True,
    ),
    "SegResNet": lambda rank: SegResNet(
        rank, 8, 1, 3, blocks_down=(1, 1, 1), blocks_up=(1, 1), upsample_mode="nontrainable"
    ),
    "SegResNet deconv": lambda rank: SegResNet(
        rank, 8, 1, 3, blocks_down=(1, 1), blocks_up=(1,), upsample_mode="deconv"
    ),
}


@pytest.mark.parametrize("name", some(NETS, [*NETS][:2]))
@pytest.mark.parametrize("lift", some(["center", "inflate", "triplanar", None], ["inflate"]))
def test_monai_networks_load_into_their_own_3d_form(name: str, lift: str | None) -> None:
    source, built = NETS[name](2).eval(), NETS[name](3).eval()
    net = convert(source, "projection", lift, spread=False)
    plain = to_3d(net)
    assert not of_crossd(plain) and hooks(plain) == 0
    built.load_state_dict(plain.state_dict(), strict=True)
    volumes, images = torch.randn(1, 1, 32, 16, 16), torch.randn(1, 1, 32, 16)
    with torch.no_grad():
        close_relative(plain(volumes), built(volumes))
        close_relative(net(volumes), built(volumes))
        if lift in ("center", "inflate"):
            close_relative(net(images), source(images))
    flat = to_2d(net)
    assert not of_crossd(flat) and hooks(flat) == 0
    flat.load_state_dict(source.state_dict(), strict=True)


@pytest.mark.parametrize("turn", some([inflate, center, triplanar], [inflate]))
def test_baselines_are_plain_3d_networks(turn: Turn) -> None:
    plain = turn(small())
    assert not of_crossd(plain) and hooks(plain) == 0 and not plain.training
    expected = to_3d(convert(small(), lift=turn.__name__))
    torch.testing.assert_close(plain.state_dict(), expected.state_dict())
    assert f"lifted by '{turn.__name__}'" in str(plain.conversion)


def test_inflate_on_a_repeated_volume_is_the_2d_network() -> None:
    layers = (nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1))
    net = nn.Sequential(*layers)
    images = torch.randn(2, 1, 9, 9)
    for turn in (inflate, center):
        answer = turn(net)(repeat_along(images, 0, 7))
        torch.testing.assert_close(answer[:, :, 3], net(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["projection", "slice"])
@pytest.mark.parametrize("view", views.VIEWS)
def test_to_2d_keeps_the_function_of_its_view(mode: str, view: str) -> None:
    net = settle(convert(small(), mode, lift=None))
    images = torch.randn(2, 1, 20, 24)
    plain = to_2d(net, view)
    assert not of_crossd(plain) and hooks(plain) == 0
    with torch.no_grad(), crossd.view(view):
        close_relative(plain(images), net(images), 1e-5)
    if mode == "slice" or view == "axial":  # else shortcuts that stride see neighbours
        small().__class__(*copy.deepcopy(list(small()))).load_state_dict(plain.state_dict())


def test_to_2d_and_to_3d_of_fourier_take_the_mean_displacement() -> None:
    net = convert(nn.Sequential(nn.Conv2d(1, 4, 3)), "fourier", lift=None)
    layer = net[0]
    raw = to_3d(net)[0].weight.detach()
    torch.testing.assert_close(raw, layer.weight.detach())
    # Displaced by (1, 1, 1) at the start: a roll.
    rolled = raw.roll((1, 1, 1), (2, 3, 4))
    torch.testing.assert_close(to_3d(net, align=True)[0].weight.detach(), rolled)
    torch.testing.assert_close(to_2d(net)[0].weight.detach(), rolled[:, :, 1])
    layer.mode.mean_displacement.copy_(torch.tensor([0.0, 2.0, 1.0]))
    rolled = raw.roll((0, 2, 1), (2, 3, 4))
    torch.testing.assert_close(to_3d(net, align=True)[0].weight.detach(), rolled)


# ACS


def acs_reference(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Use thirds of the kernels in the axial, coronal and sagittal plane, one voxel thick."""
    third = -(-conv.out_channels // 3), (conv.out_channels + 1) // 3
    bounds = (0, third[0], third[0] + third[1], conv.out_channels)
    bias = conv.bias
    parts = []
    for axis in range(3):
        rows = slice(bounds[axis], bounds[axis + 1])
        if rows.start == rows.stop:
            continue
        stride, padding = [conv.stride[0]] * 3, [int(conv.padding[0])] * 3
        # One voxel thick: at its central tap, for which these paddings make room, it needs none.
        assert padding[axis] == conv.kernel_size[0] // 2
        padding[axis] = 0
        weight = conv.weight[rows].unsqueeze(2 + axis)
        share = None if bias is None else bias[rows]
        parts.append(F.conv3d(x, weight, share, stride, padding))
    return torch.cat(parts, 1)


@pytest.mark.parametrize("channels", [2, 6, 7, 8])
@pytest.mark.parametrize(("size", "stride"), [(1, 1), (3, 1), (3, 2), (5, 1), (7, 2)])
def test_acs_layers_follow_the_paper(channels: int, size: int, stride: int) -> None:
    conv = nn.Conv2d(2, channels, size, stride, size // 2)
    net = acs(nn.Sequential(conv))
    images, volumes = torch.randn(2, 2, 8, 9), torch.randn(2, 2, 8, 9, 10)
    torch.testing.assert_close(net(images), conv(images))
    close_relative(net(volumes), acs_reference(volumes, conv), 1e-5)
    close_relative(to_3d(net)(volumes), acs_reference(volumes, conv), 1e-5)
    torch.testing.assert_close(to_2d(net)[0].weight, conv.weight)


def test_an_acs_network_keeps_the_2d_function_and_its_keys() -> None:
    net = acs(small())
    images, volumes = torch.randn(2, 1, 24, 20), torch.randn(2, 1, 12, 14, 16)
    with torch.no_grad():
        torch.testing.assert_close(net(images), small()(images))
        torch.testing.assert_close(net(volumes), to_3d(net)(volumes), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net.state_dict(), small().state_dict())
    assert set(net.conversion.counts()) == {"copied"}


def test_acs_refuses_kernels_that_are_not_square() -> None:
    with pytest.raises(InputError, match=r"layer '1' .*ACS needs the same kernel_size"):
        acs(nn.Sequential(nn.ReLU(), nn.Conv2d(1, 3, (1, 7))))
    with pytest.raises(InputError, match="ACS is for 2D networks"):
        acs(nn.Sequential(nn.Conv3d(1, 3, 3)))


# Both ranks, forward and backward

BACKBONES: dict[str, Callable[[], nn.Module]] = {
    "torchvision resnet18": lambda: torchvision.models.resnet18(num_classes=5),
    "torchvision resnet50": lambda: torchvision.models.resnet50(num_classes=5),
    "timm resnet18": lambda: timm.create_model("resnet18", channels=NARROW, num_classes=5),
    "timm resnet18d": lambda: timm.create_model("resnet18d", channels=NARROW, num_classes=5),
}


def finite_on_both_ranks(net: nn.Module, channels: int) -> None:
    """Run forward and backward on images and on volumes, which must reach every weight."""
    net.train()
    for shape in ((2, channels, 64, 64), (2, channels, 32, 32, 32)):
        net.zero_grad()
        with crossd.view("axial"):
            answer = net(torch.randn(shape))
        answer.square().mean().backward()
        assert answer.isfinite().all()
        used = {
            name: p.grad
            for name, p in net.named_parameters()
            if ".mode." not in name or len(shape) == 4
        }
        assert all(g is not None and g.isfinite().all() for g in used.values())
        assert sum(float(g.abs().sum()) for g in used.values() if g is not None) > 0


@pytest.mark.parametrize("name", some(BACKBONES, ["torchvision resnet18", "timm resnet18d"]))
@pytest.mark.parametrize("form", ["projection", "acs"])
def test_resnets_train_on_both_ranks(name: str, form: str) -> None:
    source = BACKBONES[name]()
    net = acs(source) if form == "acs" else convert(source, form)
    finite_on_both_ranks(net, 3)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("form", some(["projection", "slice", "fourier", "acs"], ["projection"]))
def test_monai_networks_train_on_both_ranks(name: str, form: str) -> None:
    source = NETS[name](2)
    net = acs(source) if form == "acs" else convert(source, form)
    net.train()
    for shape in ((2, 1, 32, 32), (2, 1, 32, 16, 16)):
        net.zero_grad()
        answer = net(torch.randn(shape))
        heads = (2, 3) if name == "DynUNet" else (2,)  # deep supervision: as it is in 2D
        assert answer.shape == (*heads, 3, *shape[2:])
        answer.square().mean().backward()
        grads = [p.grad for p in net.parameters() if p.grad is not None]
        assert answer.isfinite().all() and grads and all(g.isfinite().all() for g in grads)


@pytest.mark.parametrize("lift", some(["center", "inflate", "triplanar", None], ["center", None]))
@pytest.mark.parametrize(("mode", "options"), CASES)
def test_every_lift_in_every_mode_trains_on_both_ranks(
    lift: str | None, mode: str, options: dict[str, Any]
) -> None:
    finite_on_both_ranks(convert(small_resnet(1, 2), mode, lift, **options), 1)


# What conversion leaves alone


def test_the_source_is_not_changed() -> None:
    source: Any = small_resnet(1, 2)
    source[1].eval()
    source[0].weight.requires_grad_(False)
    source.register_forward_hook(lambda *_: None)
    state = copy.deepcopy(source.state_dict())
    described = repr(source), [m.training for m in source.modules()], hooks(source)
    names = [set(vars(m)) for m in source.modules()]
    turns = [inflate, acs, triplanar]
    results = [turn(source) for turn in turns] + [convert(source, m, lift=None) for m, _ in CASES]
    cross = results[-1]
    before = copy.deepcopy(cross.state_dict()), hooks(cross)
    results += [to_2d(cross), to_3d(cross, align=True)]
    assert (repr(source), [m.training for m in source.modules()], hooks(source)) == described
    assert [set(vars(m)) for m in source.modules()] == names
    torch.testing.assert_close(cross.state_dict(), before[0], rtol=0, atol=0)
    assert hooks(cross) == before[1]
    for result in results:
        with torch.no_grad():
            for parameter in result.parameters():
                parameter.add_(1)
    torch.testing.assert_close(source.state_dict(), state, rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["projection", "fourier", "acs"])
def test_training_mode_frozen_parameters_dtype_and_device_are_kept(mode: str) -> None:
    source = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout2d(0.5), nn.ConvTranspose2d(2, 2, 2)
    ).double()
    source[1].eval()
    source[2].eval()
    source[0].weight.requires_grad_(False)
    source[1].bias.requires_grad_(False)
    net = acs(source) if mode == "acs" else convert(source, mode)
    for result in (net, to_2d(net), to_3d(net)):
        assert [m.training for m in result] == [True, False, False, True]
        assert not result[0].weight.requires_grad and result[0].bias.requires_grad
        assert result[1].weight.requires_grad and not result[1].bias.requires_grad
        floats = [t for t in tensors(result).values() if t.is_floating_point()]
        assert {t.dtype for t in floats} == {torch.float64}
        assert {t.device.type for t in floats} == {"cpu"}


def test_networks_in_half_precision_are_converted() -> None:
    source = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.GroupNorm(2, 8))
    net = convert(source.bfloat16())
    assert net(torch.randn(1, 3, 5, 6, 7, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_shared_modules_stay_shared() -> None:
    conv, norm = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)
    net = convert(nn.Sequential(conv, norm, nn.Sequential(conv, norm), conv))
    for result in (net, to_2d(net), to_3d(net)):
        assert result[0] is result[2][0] is result[3] and result[1] is result[2][1]
    names = [entry.name for entry in net.conversion.entries]
    assert {"0.weight", "2.0.weight", "3.weight"} <= set(names)
    assert len(names) == len(set(names))


def test_one_parameter_in_two_layers_is_refused_where_it_would_become_two() -> None:
    first, second = nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3)
    second.weight = first.weight
    with pytest.raises(InputError, match=r"'0.weight' and '1.weight' are one parameter"):
        convert(nn.Sequential(first, second))
    start = (nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    heads = nn.Sequential(*start, nn.Linear(2, 2), nn.Linear(2, 2))
    heads[4].weight = heads[3].weight
    net = convert(heads)
    assert net[3].weight is net[4].weight


def test_a_network_that_just_ran_can_be_converted() -> None:
    # DynUNet keeps the outputs of its heads, which deepcopy refuses to copy.
    net = NETS["DynUNet"](2).train()
    net(torch.randn(2, 1, 32, 32))
    assert convert(net)(torch.randn(2, 1, 16, 16, 16)).dim() == 6


def test_settings_of_layers_reach_both_ranks() -> None:
    layers = nn.Sequential(
        nn.Conv2d(2, 4, 3, 2, 2, dilation=2, groups=2, padding_mode="reflect"),
        nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        nn.AvgPool2d(2, 1, 1, ceil_mode=True, count_include_pad=False),
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
        nn.ConvTranspose2d(4, 4, 3, 2, 1, 1, groups=2),
        nn.AdaptiveMaxPool2d((5, 4)),
    ).eval()
    images, net = torch.randn(2, 2, 14, 15), convert(layers)
    close_relative(net(images), layers(images))
    close_relative(to_2d(net)(images), layers(images))
    assert [type(m) for m in to_2d(net)] == [type(m) for m in layers]
    solid = to_3d(net)
    assert solid(torch.randn(1, 2, 14, 14, 15)).shape == (1, 4, 5, 5, 4)
    assert [type(m).__name__ for m in solid] == [
        *("Conv3d", "InstanceNorm3d", "AvgPool3d"),
        *("Upsample", "ConvTranspose3d", "AdaptiveMaxPool3d"),
    ]
    assert solid[0].padding_mode == "reflect" and solid[3].mode == "trilinear"


# What cannot be converted, and what works within slices


class OwnConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


class Unfolded(nn.Module):
    """Leaves the work to another method."""

    def _forward_impl(self, x: Tensor) -> Tensor:
        return F.unfold(x, 3).sum(1)

    def forward(self, x: Tensor) -> Tensor:
        return self._forward_impl(x)


@pytest.mark.parametrize("make", [lambda: OwnConv(2, 2, 3), Unfolded, lambda: nn.Conv2d(2, 2, 3)])
def test_what_nobody_knows_works_within_slices(make: Callable[[], nn.Module]) -> None:
    source = nn.Sequential(nn.Conv2d(1, 2, 1), make()).eval()
    net: Any = crossd.convert(source)
    keeps_the_law(net, torch.randn(2, 1, 9, 11))
    known = isinstance(net[1], CrossDConv)
    assert f"{1 + known} of 2 convolutions see depth" in net.conversion.checks or not known
    other, volumes = net(torch.zeros(1, 1, 4, 9, 11)), torch.zeros(1, 1, 4, 9, 11)
    volumes[:, :, 2] = 1
    changed = (net(volumes) != other).any(1).flatten(2) if other.dim() == 5 else None
    if changed is not None:
        assert changed.any(-1).flatten().tolist()[-2:] == [True, known] or known


def test_parametrized_convolutions_are_refused() -> None:
    net = nn.Sequential()
    net.add_module("a", torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 1, 3)))
    for turn in (convert, acs, inflate):
        with pytest.raises(InputError, match=r"layer 'a' of type .*Conv2d: .*parametrized"):
            turn(net)


def test_networks_of_both_ranks_are_refused() -> None:
    match = "network of both ranks: layer '0' of type .*2d is for images, layer '1' .*3d for"
    for layers in ((nn.Conv2d(1, 1, 3), nn.Conv3d(1, 1, 3)), (nn.MaxPool2d(2), nn.MaxPool3d(2))):
        with pytest.raises(InputError, match=match):
            convert(nn.Sequential(*layers))


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Flatten(), nn.LazyLinear(2)),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)),
        nn.BatchNorm2d(3),
    ],
)
def test_a_network_in_which_nothing_could_see_depth_is_refused(net: nn.Module) -> None:
    net(torch.zeros(2, 3, 32, 64))
    with pytest.raises(InputError, match=r"has no convolution and no attention.*$"):
        crossd.convert(net)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_layers_with_hooks_are_refused() -> None:
    for spoil in (
        torch.nn.utils.weight_norm,
        torch.nn.utils.spectral_norm,
        lambda layer: layer.register_forward_hook(lambda *_: None),
        lambda layer: layer.register_forward_pre_hook(lambda *_: None),
    ):
        net = nn.Sequential(nn.ReLU(), nn.Conv2d(1, 1, 3))
        spoil(net[1])
        with pytest.raises(InputError, match=r"layer '1' of type .*Conv2d: it has forward hooks"):
            convert(net)
    cross = convert(nn.Sequential(nn.Conv2d(1, 1, 3)))
    cross[0].register_forward_hook(lambda *_: None)
    for turn in (to_2d, to_3d):
        with pytest.raises(InputError, match=r"layer '0' of type .*CrossDConv: it has forward"):
            turn(cross)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_mode": "wavelet"}, "kernel_mode"),
        ({"lift": "middle"}, "lift"),
        ({"attention": "all"}, "attention"),
        ({"depth_padding": "reflect"}, "depth_padding"),
        ({"kernel_mode": "projection", "offset": 0}, "no option offset"),
        ({"lift": "triplanar"}, "layer '0' .*cubic"),
    ],
)
def test_unknown_options_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        convert(nn.Sequential(nn.Conv2d(1, 1, (1, 3))), **arguments)


def test_only_crossd_networks_become_plain() -> None:
    for turn in (to_2d, to_3d):
        with pytest.raises(InputError, match="no Cross-D layer"):
            turn(small())
    with pytest.raises(InputError, match="view"):
        to_2d(convert(small()), "frontal")
    with pytest.raises(InputError, match="takes images and volumes already"):
        convert(convert(small()))


class Shift2d(nn.Module):
    """A layer of a user's own: shifts along the width."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.dim() == 4
        return x.roll(1, -1)


class Shift(nn.Module):
    """The same for both ranks, which is never given folded slices."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.dim())
        return x.roll(1, 2)

    def to_2d(self, view: int = 0) -> nn.Module:
        return Shift2d()

    def to_3d(self, align: bool = False) -> nn.Module:
        return Shift2d()


def test_a_rule_teaches_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "RULES", dict(rules.RULES))
    source = nn.Sequential(nn.Conv2d(1, 2, 3), Shift2d())
    seen = []

    @crossd.rule(Shift2d)
    def shift(layer: Shift2d, options: rules.Options) -> nn.Module:
        seen.append(options)
        return Shift()

    net = convert(source, "fourier", lift="inflate", offset=0.5)
    assert seen == [rules.Options("fourier", "inflate", {"offset": 0.5}, path="1")]
    net(torch.zeros(1, 1, 5, 5))
    net(torch.zeros(1, 1, 5, 5, 5))
    assert net[1].seen == [4, 5]
    assert type(to_2d(net)[1]) is Shift2d
    for wrong in ((), (3,)):
        with pytest.raises(InputError, match="takes types of layers"):
            rules.rule(*wrong)
    rules.RULES[Shift2d] = lambda layer, options: None  # type: ignore[assignment,return-value]
    with pytest.raises(InputError, match="its rule returned NoneType"):
        convert(source)


# The report


@pytest.mark.parametrize("mode", some(["projection", "fourier"], ["fourier"]))
def test_the_report_accounts_for_every_tensor_once(mode: str) -> None:
    source = small()
    net = convert(source, mode, lift="center")
    steps = [(source, net), (net, to_3d(net)), (net, to_2d(net))]
    steps += [(source, inflate(source)), (source, acs(source))]
    for before, after in steps:
        report: Any = after.conversion
        old, new = tensors(before), tensors(after)
        names = [entry.name for entry in report.entries]
        assert len(names) == len(set(names))
        assert {e.name: e.source for e in report.entries if e.source is not None} == {
            name: tuple(t.shape) for name, t in old.items()
        }
        assert {e.name: e.result for e in report.entries if e.result is not None} == {
            name: tuple(t.shape) for name, t in new.items()
        }
        for entry in report.entries:
            name = entry.name
            same = name in old and name in new and torch.equal(old[name], new[name])
            expected = "added" if name not in old else "dropped" if name not in new else "changed"
            assert entry.action == ("copied" if same else expected)
            assert (entry.why == "") == (entry.action == "copied")


# Drawing views


class Spy:
    """Writes down the view in which a layer of a network runs."""

    def __init__(self, net: nn.Module, layer: nn.Module) -> None:
        self.net = net
        self.seen: list[views.View] = []
        layer.register_forward_hook(lambda *_: self.seen.append(views.current_view()))

    def run(self, times: int, *arguments: Any, **named: Any) -> set[Any]:
        self.seen.clear()
        for _ in range(times):
            self.net(*arguments, **named)
        assert not views.view_is_set()
        return set(self.seen)


@pytest.fixture
def spied() -> Iterator[Spy]:
    net = convert(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), "projection")
    yield Spy(net, net[1])
    assert not views.view_is_set()


def test_training_on_images_draws_all_views(spied: Spy) -> None:
    images = torch.randn(2, 1, 5, 5)
    assert spied.run(40, images) == {0, 1, 2}
    assert spied.run(40, input=images) == {0, 1, 2}
    assert len(spied.seen) == 40


def test_no_view_is_drawn_elsewhere(spied: Spy) -> None:
    images, volumes = torch.randn(2, 1, 5, 5), torch.randn(2, 1, 5, 5, 5)
    assert spied.run(9, volumes) == {0}
    with crossd.view("coronal"):
        spied.net(images)
    assert spied.seen[-1] == 1
    spied.net.eval()
    assert spied.run(9, images) == {0}


def test_a_network_used_twice_shares_a_view_that_is_set() -> None:
    inner = convert(nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()))
    outer = nn.Sequential(inner, inner)
    spy = Spy(outer, inner[1])
    assert spy.run(40, torch.randn(1, 1, 3, 3)) == {0, 1, 2}
    with crossd.view("random"):
        spy.seen.clear()
        for _ in range(20):
            outer(torch.randn(1, 1, 3, 3))
    assert len(spy.seen) == 40 and len(set(spy.seen)) == 1


def test_a_compiled_network_asks_for_a_view_in_training() -> None:
    net = convert(nn.Sequential(nn.Conv2d(1, 2, 3)), "projection")
    images = torch.randn(2, 1, 5, 5)
    compiled: Any = torch.compile(net, backend="eager", fullgraph=True)
    try:
        with pytest.raises(Exception, match="cannot draw views"):
            compiled(images)
        net.eval()
        torch.testing.assert_close(compiled(images), net(images))
    finally:
        torch._dynamo.reset()


@pytest.mark.parametrize("case", some(CASES, CASES[:1] + CASES[2:3]))
def test_copies_and_pickles_do_the_same(case: tuple[str, dict[str, Any]]) -> None:
    mode, options = case
    net = settle(convert(small(), mode, lift=None, **options))
    images, volumes = torch.randn(2, 1, 16, 16), torch.randn(1, 1, 12, 12, 12)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert str(other.conversion) == str(net.conversion)
        with torch.no_grad():
            torch.testing.assert_close(other(images), net(images), rtol=0, atol=0)
            torch.testing.assert_close(other(volumes), net(volumes), rtol=0, atol=0)
        assert not of_crossd(to_3d(other)) or mode == "fourier-projection"
        if mode == "projection":
            other.train()
            assert Spy(other, other[2]).run(40, images) == {0, 1, 2}


class Chosen(nn.Module):
    """Keeps in copies its settings alone, as einops' layers do."""

    def __init__(self, times: float = 2.0) -> None:
        super().__init__()
        self.times, self.last = times, None

    def forward(self, x: Tensor) -> Tensor:
        return x * self.times

    def __getstate__(self) -> dict[str, float]:
        return {"times": self.times}

    def __setstate__(self, state: dict[str, float]) -> None:
        self.__init__(**state)  # type: ignore[misc]


class MadeAnew(nn.Module):
    """Is copied by building another one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        made = memo[id(self)] = MadeAnew()
        made.load_state_dict(self.state_dict())
        return made


@pytest.mark.parametrize("kind", [Chosen, MadeAnew, None])
def test_modules_with_a_way_of_copying_of_their_own(kind: type[nn.Module] | None) -> None:
    parts = nn.Conv2d(1, 4, 3, padding=1), (kind or nn.ReLU)(), nn.Conv2d(4, 2, 1)
    net = settle(convert(nn.Sequential(*parts) if kind else MadeAnew()))
    volumes = torch.randn(1, 1 if kind else 4, 6, 8, 10)
    with torch.no_grad():
        expected = net(volumes)
        for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), to_3d(net)):
            torch.testing.assert_close(other(volumes), expected)
        flat = to_2d(copy.deepcopy(net))
        torch.testing.assert_close(flat(volumes[:, :, 0]), net(volumes[:, :, 0]))


# What a copy would lose


class Holding(nn.Module):
    """Keeps its layers in containers of Python's too, and reads an attribute of one."""

    def __init__(self, conv: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList([conv(1, 4, 3, padding=1), conv(4, 4, 1), conv(4, 2, 1)])
        self.listed, self.by_name = list(self.layers[:1]), {"second": self.layers[1]}
        self.third = (self.layers[2],)
        vars(self.layers[2])["scale"] = 2.0

    def forward(self, x: Any) -> Any:
        last: Any = self.third[0]
        return last(self.by_name["second"](self.listed[0](x).relu())) * last.scale


@pytest.mark.parametrize("conv", [nn.Conv2d, nn.Conv3d])
@pytest.mark.parametrize("check", [False, True])
def test_layers_are_turned_wherever_they_are_kept(conv: Any, check: bool) -> None:
    net = settle(crossd.convert(Holding(conv), check=check))
    images, volumes = torch.randn(2, 1, 8, 10), torch.randn(2, 1, 6, 8, 10)
    for x in (images, volumes):
        net.zero_grad()
        net(x).sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in net.parameters())
    for plain, x in ((to_2d(net), images), (to_3d(net), volumes)):
        torch.testing.assert_close(plain(x), net(x))


def replaced() -> nn.Module:
    conv: Any = nn.Conv2d(1, 2, 3)
    conv.forward = lambda x: x
    return nn.Sequential(conv)


def of_closures() -> nn.Module:
    net: Any = nn.Sequential(nn.Conv2d(1, 2, 3))
    net.first = lambda x: net[0](x)
    made: nn.Module = net
    return made


class Gained(nn.Conv2d):
    def __init__(self, tensor: str) -> None:
        super().__init__(1, 2, 3)
        if tensor == "buffer":
            self.register_buffer("gain", torch.ones(1))
        else:
            self.gain = nn.Parameter(torch.ones(1))


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "replaced": (replaced, "forward was replaced on this object"),
    "closure": (of_closures, "the function 'first' that it keeps holds modules"),
    "lazy": (lambda: nn.Sequential(nn.LazyConv2d(2, 3)), "call the network once"),
    "compiled": (lambda: torch.compile(nn.Sequential(nn.Conv2d(1, 2, 3))), "it is compiled"),
    "graph": (lambda: torch.fx.symbolic_trace(nn.Sequential(nn.Conv2d(1, 2, 3))), "a graph"),
    "script": (lambda: torch.jit.trace(nn.ReLU(), torch.zeros(1)), "a graph"),
    "parameter": (lambda: nn.Sequential(Gained("parameter")), "does not know all of it"),
    "buffer": (lambda: nn.Sequential(Gained("buffer")), "would lose gain"),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("check", [False, True])
def test_what_a_class_does_not_tell_is_refused_and_left_as_it_was(what: str, check: bool) -> None:
    make, message = REFUSED[what]
    source = make()
    with pytest.raises(InputError, match=message):
        crossd.convert(source, check=check)
    if what == "lazy":
        assert source(torch.zeros(1, 5, 8, 8)).shape == (1, 2, 6, 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth_position": "x"}, "depth_position"),
        ({"depth_position": -1}, "depth_position"),
        ({"depth_stride": "auto", "size": "abc"}, "size"),
        ({"depth_stride": "auto", "spacing": (1.0, "b", 1.0)}, "spacing"),
    ],
)
def test_options_of_another_kind_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=rf"{message} \(=.*\) must be"):
        crossd.convert(nn.Sequential(nn.Conv2d(1, 2, 3, 2)), **options)


def test_what_cannot_be_copied_is_refused_and_what_can_is_not() -> None:
    locked: Any = nn.Sequential(nn.Conv2d(1, 2, 3))
    locked.lock = threading.Lock()
    with pytest.raises(InputError, match=r"cannot copy .*lock"):
        crossd.convert(locked)
    logged: Any = nn.Sequential(nn.Conv2d(1, 2, 3))
    logged.log, logged.module = logging.getLogger("crossd.test"), logging
    logged.itself = {"net": [logged]}
    with pytest.raises(InputError, match=r"cannot copy .*module"):
        crossd.convert(logged)
    del logged.module
    assert crossd.convert(logged)(torch.zeros(1, 1, 8, 8)).shape == (1, 2, 6, 6)
