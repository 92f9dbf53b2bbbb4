"""Layers for both ranks against torch's 2D layer on images and its 3D layer on volumes."""

import copy
import pickle
from typing import Any

import pytest
import torch
from helpers import close, normal, plane, randomize
from torch import Tensor, nn

from crossd.nn.kernel_modes import view
from crossd.nn.layers import (
    AdaptiveAvgPool,
    AdaptiveMaxPool,
    AvgPool,
    BatchNorm,
    ChannelDropout,
    InstanceNorm,
    MaxPool,
    Upsample,
    channels_last,
    conv_settings,
    depth_axis,
    fill,
    is_volume,
    kept,
    norm_settings,
)

IMAGES = (3, 4, 9, 10)
VOLUMES = (3, 4, 7, 9, 10)

Case = tuple[type[Any], nn.Module, nn.Module]

POOLS: list[Case] = [
    (MaxPool, nn.MaxPool2d(2), nn.MaxPool3d(2)),
    (MaxPool, nn.MaxPool2d(3, 2, 1), nn.MaxPool3d(3, 2, 1)),
    (MaxPool, nn.MaxPool2d(2, 3, 0, 2, ceil_mode=True), nn.MaxPool3d(2, 3, 0, 2, ceil_mode=True)),
    (MaxPool, nn.MaxPool2d(2, return_indices=True), nn.MaxPool3d(2, return_indices=True)),
    (
        MaxPool,
        nn.MaxPool2d((2, 3), (1, 2), (0, 1)),
        nn.MaxPool3d((2, 2, 3), (1, 1, 2), (0, 0, 1)),
    ),
    (MaxPool, nn.MaxPool2d((3, 2), (1, 2)), nn.MaxPool3d((2, 3, 2), (2, 1, 2))),
    (AvgPool, nn.AvgPool2d(2), nn.AvgPool3d(2)),
    (AvgPool, nn.AvgPool2d(3, 2, 1, True, False), nn.AvgPool3d(3, 2, 1, True, False)),
    (AvgPool, nn.AvgPool2d((1, 3), 1, (0, 1)), nn.AvgPool3d((1, 1, 3), 1, (0, 0, 1))),
    (AdaptiveAvgPool, nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool3d(1)),
    (AdaptiveAvgPool, nn.AdaptiveAvgPool2d((2, 5)), nn.AdaptiveAvgPool3d((2, 2, 5))),
    (AdaptiveAvgPool, nn.AdaptiveAvgPool2d((None, 3)), nn.AdaptiveAvgPool3d((None, None, 3))),
    (AdaptiveMaxPool, nn.AdaptiveMaxPool2d(2), nn.AdaptiveMaxPool3d(2)),
    (
        AdaptiveMaxPool,
        nn.AdaptiveMaxPool2d((3, 4), return_indices=True),
        nn.AdaptiveMaxPool3d((3, 3, 4), return_indices=True),
    ),
]

UPSAMPLES: list[Case] = [
    (Upsample, nn.Upsample(scale_factor=2), nn.Upsample(scale_factor=2)),
    (Upsample, nn.Upsample(size=12), nn.Upsample(size=12)),
    (Upsample, nn.Upsample((11, 12)), nn.Upsample((11, 11, 12))),
    (Upsample, nn.Upsample(scale_factor=(1.5, 2)), nn.Upsample(scale_factor=(1.5, 1.5, 2))),
    (
        Upsample,
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
        nn.Upsample(scale_factor=2, mode="trilinear", align_corners=True),
    ),
    (
        Upsample,
        nn.Upsample(scale_factor=1.7, mode="bilinear", recompute_scale_factor=True),
        nn.Upsample(scale_factor=1.7, mode="trilinear", recompute_scale_factor=True),
    ),
    (
        Upsample,
        nn.UpsamplingBilinear2d(scale_factor=2),
        nn.Upsample(scale_factor=2, mode="trilinear", align_corners=True),
    ),
    (Upsample, nn.UpsamplingNearest2d(size=5), nn.Upsample(size=5)),
    (Upsample, nn.Upsample(size=5, mode="area"), nn.Upsample(size=5, mode="area")),
    (Upsample, nn.Upsample(size=14, mode="nearest-exact"), nn.Upsample(14, mode="nearest-exact")),
]

NORMS: list[Case] = [
    (BatchNorm, nn.BatchNorm2d(4), nn.BatchNorm3d(4)),
    (BatchNorm, nn.BatchNorm2d(4, 1e-3, 0.3), nn.BatchNorm3d(4, 1e-3, 0.3)),
    (BatchNorm, nn.BatchNorm2d(4, momentum=None), nn.BatchNorm3d(4, momentum=None)),
    (BatchNorm, nn.BatchNorm2d(4, affine=False), nn.BatchNorm3d(4, affine=False)),
    (
        BatchNorm,
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.BatchNorm3d(4, track_running_stats=False),
    ),
    (InstanceNorm, nn.InstanceNorm2d(4), nn.InstanceNorm3d(4)),
    (
        InstanceNorm,
        nn.InstanceNorm2d(4, 1e-3, affine=True),
        nn.InstanceNorm3d(4, 1e-3, affine=True),
    ),
    (
        InstanceNorm,
        nn.InstanceNorm2d(4, momentum=0.3, affine=True, track_running_stats=True),
        nn.InstanceNorm3d(4, momentum=0.3, affine=True, track_running_stats=True),
    ),
]


def each(cases: list[Case]) -> pytest.MarkDecorator:
    """Parametrize over cases, named after the 2D layer."""
    return pytest.mark.parametrize(
        ("kind", "flat", "solid"), cases, ids=[str(case[1]) for case in cases]
    )


def same(actual: Any, expected: Any) -> None:
    """Compare one tensor or a tuple of them, such as values and indices."""
    pairs = (
        [(actual, expected)] if isinstance(actual, Tensor) else zip(actual, expected, strict=True)
    )
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def settings_of(layer: Any) -> dict[str, Any]:
    """The settings of a layer without parameters, pairs and triples written out."""
    names = [name for name in layer.__constants__ if name != "name"]
    rank = 3 if "3d" in type(layer).__name__ else 2
    values = {name: getattr(layer, name) for name in names}
    return {
        name: (value,) * rank
        if name in ("kernel_size", "stride", "padding", "dilation") and isinstance(value, int)
        else value
        for name, value in values.items()
    }


@each(POOLS)
@pytest.mark.parametrize("training", [True, False])
def test_pools(kind: type[Any], flat: nn.Module, solid: nn.Module, training: bool) -> None:
    layer = kind.from_2d(flat.train(training))
    assert layer.state_dict() == {}
    assert layer.training == training
    same(layer(normal(*IMAGES)), flat(normal(*IMAGES)))
    same(layer(normal(*VOLUMES)), solid(normal(*VOLUMES)))
    for plain, original in ((layer.to_2d(), flat), (layer.to_3d(), solid)):
        assert type(plain) is type(original)
        assert plain.training == training
    same(layer.to_2d()(normal(*IMAGES)), flat(normal(*IMAGES)))
    same(layer.to_3d()(normal(*VOLUMES)), solid(normal(*VOLUMES)))


@pytest.mark.parametrize("pool", [nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.AvgPool2d(3, 2, 1)])
def test_pools_come_back_with_the_same_settings(pool: Any) -> None:
    kind = MaxPool if isinstance(pool, nn.MaxPool2d) else AvgPool
    assert settings_of(kind.from_2d(pool).to_2d()) == settings_of(pool)


@each(UPSAMPLES)
@pytest.mark.parametrize("training", [True, False])
def test_upsample(kind: type[Any], flat: nn.Module, solid: nn.Module, training: bool) -> None:
    layer = kind.from_2d(flat.train(training))
    same(layer(normal(*IMAGES)), flat(normal(*IMAGES)))
    same(layer(normal(*VOLUMES)), solid(normal(*VOLUMES)))
    for plain, shape, original in ((layer.to_2d(), IMAGES, flat), (layer.to_3d(), VOLUMES, solid)):
        assert type(plain) is nn.Upsample
        assert plain.training == training
        same(plain(normal(*shape)), original(normal(*shape)))


@each(NORMS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("rank", [2, 3])
def test_norms(
    kind: type[Any], flat: nn.Module, solid: nn.Module, training: bool, rank: int
) -> None:
    flat, solid = copy.deepcopy(flat).double(), copy.deepcopy(solid).double()
    randomize(flat)
    solid.load_state_dict(flat.state_dict())
    layer = fill(kind(**norm_settings(flat)), flat.train(training))
    solid.train(training)
    assert list(layer.state_dict()) == list(flat.state_dict())
    assert dict(layer.named_parameters()).keys() == dict(flat.named_parameters()).keys()
    assert layer.training == training
    expected, shape = (flat, IMAGES) if rank == 2 else (solid, VOLUMES)
    for seed in range(2):
        x = normal(*shape, seed=seed)
        same(layer(x), expected(x))
    for name, value in expected.state_dict().items():
        same(layer.state_dict()[name], value)
    plain = layer.to_2d() if rank == 2 else layer.to_3d()
    assert type(plain) is type(expected)
    assert plain.training == training
    assert repr(plain) == repr(expected)
    same(plain(normal(*shape)), expected(normal(*shape)))


def test_batch_norm_shares_its_statistics_between_ranks() -> None:
    layer: Any = BatchNorm(4, momentum=1, dtype=torch.float64)
    layer(normal(*IMAGES) + 3)
    close(layer.running_mean, (normal(*IMAGES) + 3).mean((0, 2, 3)))
    layer(normal(*VOLUMES))
    close(layer.running_mean, normal(*VOLUMES).mean((0, 2, 3, 4)))
    assert layer.num_batches_tracked == 2


@pytest.mark.parametrize("kind", [BatchNorm, InstanceNorm])
def test_norms_without_a_bias(kind: type[Any]) -> None:
    layer = kind(4, affine=True, dtype=torch.float64)
    randomize(layer)
    layer.register_parameter("bias", None)  # what newer versions of torch do for bias=False
    try:
        plain = layer.to_2d(), layer.to_3d()
    except TypeError:
        pytest.skip("this torch makes no norm with a weight and without a bias")
    for norm, shape in zip(plain, (IMAGES, VOLUMES), strict=True):
        assert norm.bias is None
        same(norm(normal(*shape)), layer(normal(*shape)))


def test_norms_keep_what_is_frozen() -> None:
    layer = BatchNorm(4)
    layer.weight.requires_grad_(False)
    for plain in (layer.to_2d(), layer.to_3d()):
        assert isinstance(plain, nn.BatchNorm2d | nn.BatchNorm3d)
        assert not plain.weight.requires_grad
        assert plain.bias.requires_grad
        plain.weight.data.fill_(7)
    assert layer.weight.max() == 1


@pytest.mark.parametrize("shape", [IMAGES, VOLUMES])
def test_dropout_drops_channels_as_torch_does(shape: tuple[int, ...]) -> None:
    layer, x = ChannelDropout(0.5), normal(*shape) + 5
    plain: nn.Module = nn.Dropout2d(0.5) if len(shape) == 4 else nn.Dropout3d(0.5)
    answers = []
    for dropout in (layer, plain):
        torch.manual_seed(1)
        answers.append(dropout(x))
    same(*answers)
    zero = answers[0] == 0
    assert torch.equal(zero.flatten(2).all(-1), zero.flatten(2).any(-1))
    assert zero.any()
    same(layer.eval()(x), x)
    turned = layer.to_2d() if len(shape) == 4 else layer.to_3d()
    assert type(turned) is type(plain)
    assert not turned.training
    assert repr(turned) == repr(plain)


def test_dropout_in_place() -> None:
    layer = ChannelDropout(0.5, inplace=True)
    x = torch.ones(2, 3, 4, 4)
    assert layer(x) is x
    plain = layer.to_3d()
    assert isinstance(plain, nn.Dropout3d)
    assert plain.inplace


@pytest.mark.parametrize("axis", range(3))
def test_settings_follow_the_view(axis: int) -> None:
    x = normal(2, 3, 12, 13)
    size, stride = (2, 3, 4), (1, 2, 3)
    cases = [
        (
            MaxPool(
                kernel_size=size,
                stride=stride,
                padding=(1, 1, 1),
                dilation=(3, 2, 1),
                return_indices=True,
                ceil_mode=True,
            ),
            nn.MaxPool2d(
                plane(size, axis), plane(stride, axis), 1, plane((3, 2, 1), axis), True, True
            ),
        ),
        (
            AvgPool(
                kernel_size=size,
                stride=stride,
                padding=(1, 1, 2),
                ceil_mode=False,
                count_include_pad=False,
            ),
            nn.AvgPool2d(
                plane(size, axis), plane(stride, axis), plane((1, 1, 2), axis), False, False
            ),
        ),
        (AdaptiveAvgPool(output_size=size), nn.AdaptiveAvgPool2d(plane(size, axis))),
        (
            AdaptiveMaxPool(output_size=size, return_indices=False),
            nn.AdaptiveMaxPool2d(plane(size, axis)),
        ),
        (
            Upsample(
                size=None,
                scale_factor=(1.0, 2.0, 3.0),
                mode="trilinear",
                align_corners=False,
                recompute_scale_factor=None,
            ),
            nn.Upsample(
                scale_factor=((2.0, 3.0) if axis == 0 else (1.0, 3.0) if axis == 1 else (1.0, 2.0)),
                mode="bilinear",
                align_corners=False,
            ),
        ),
    ]
    for layer, flat in cases:
        with view(axis):
            same(layer(x), flat(x))
        same(layer.to_2d(axis)(x), flat(x))


def test_one_view_a_sample() -> None:
    x, layer = normal(3, 2, 8, 8), MaxPool.from_2d(nn.MaxPool2d(2))
    with view([0, 1, 2]):
        same(layer(x), nn.MaxPool2d(2)(x))
        with pytest.raises(ValueError, match=r"samples of one batch have different views"):
            AdaptiveAvgPool(output_size=(1, 2, 2))(x)


@pytest.mark.parametrize(
    "layer",
    [
        BatchNorm(4),
        InstanceNorm(4),
        ChannelDropout(),
        *(kind.from_2d(flat) for kind, flat, _ in (POOLS[0], POOLS[6], POOLS[9], POOLS[12])),
        Upsample.from_2d(nn.Upsample(scale_factor=2)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_each_refuses_other_ranks_and_is_copied_and_pickled(layer: nn.Module) -> None:
    for shape in ((4, 8, 8), (4, 8), (1, 4, 2, 8, 8, 8)):
        with pytest.raises(ValueError, match=rf"{type(layer).__name__} takes images \(N, C, H, W"):
            layer(torch.zeros(shape))
    layer.eval()
    x = normal(*IMAGES, dtype=torch.float32)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        same(twin(x), layer(x))
        assert repr(twin) == repr(layer)


def test_settings_that_are_unknown_or_missing_are_refused() -> None:
    with pytest.raises(TypeError, match="AdaptiveAvgPool has no setting ceil_mode"):
        AdaptiveAvgPool(output_size=1, ceil_mode=True)
    with pytest.raises(KeyError, match="output_size"):
        AdaptiveAvgPool()


def test_settings_are_shown() -> None:
    layer = AvgPool.from_2d(nn.AvgPool2d(2))
    assert repr(layer) == (
        "AvgPool(kernel_size=(2, 2, 2), stride=(2, 2, 2), padding=(0, 0, 0), "
        "ceil_mode=False, count_include_pad=True)"
    )


# --- helpers of the layers


def test_is_volume() -> None:
    assert is_volume(torch.zeros(VOLUMES), nn.Identity())
    assert not is_volume(torch.zeros(IMAGES), nn.Identity())
    with pytest.raises(ValueError, match=r"Identity takes .* got shape \(1, 2, 3\)"):
        is_volume(torch.zeros(1, 2, 3), nn.Identity())


def test_kept_takes_the_other_two() -> None:
    assert [kept(axis)((4, 5, 6)) for axis in range(3)] == [(5, 6), (4, 6), (4, 5)]


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
