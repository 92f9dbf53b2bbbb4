"""CrossDConv and CrossDConvTranspose against one sample, one mode and one view at a time."""

import copy
import inspect
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import (
    close,
    close_relative,
    conv_images,
    conv_transpose_images,
    conv_volumes,
    law,
    normal,
    plane,
    randomize,
    repeat_along,
    some,
)
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode

import crossd.nn.conv
import crossd.nn.functional
import crossd.nn.kernel_modes
import crossd.nn.views
from crossd.nn.conv import CrossDConv
from crossd.nn.conv_transpose import CrossDConvTranspose
from crossd.nn.kernel_modes import KERNEL_MODES
from crossd.nn.layers import channels_last
from crossd.nn.views import VIEWS, view

MODES = list(KERNEL_MODES)
PADDING_MODES = ["zeros", "reflect", "replicate", "circular"]
# torch says so of its own layers too.
even_same = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
pairs = st.one_of(st.integers(1, 3), st.tuples(st.integers(1, 3), st.integers(1, 3)))


def make(
    kind: Callable[..., Any], *arguments: Any, dtype: torch.dtype = torch.float64, **options: Any
) -> Any:
    """A layer in evaluation with values that hide no mistake."""
    layer = kind(*arguments, dtype=dtype, **options)
    randomize(layer)
    return layer.eval()


def with_depths(**settings: Any) -> dict[str, Any]:
    """Add the setting for depth to those that differ between height and width."""
    depths = {
        f"depth_{name}": value[1]
        for name, value in settings.items()
        if isinstance(value, tuple) and value[0] != value[1]
    }
    return settings | depths


# --- images, against the reference


@even_same
@law
@given(
    mode=st.sampled_from(MODES),
    groups=st.sampled_from([1, 2, 4]),
    bias=st.booleans(),
    padding_mode=st.sampled_from(PADDING_MODES),
    kernel_size=pairs,
    stride=pairs,
    padding=st.one_of(pairs, st.sampled_from(["same", "valid"])),
    dilation=pairs,
    axis=st.integers(0, 2),
)
def test_images_equal_the_reference(
    mode: str,
    groups: int,
    bias: bool,
    padding_mode: str,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    axis: int,
) -> None:
    assume(padding != "same" or stride in (1, (1, 1)))
    settings = with_depths(
        kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation
    )
    conv = make(
        CrossDConv,
        4,
        8,
        **settings,
        groups=groups,
        bias=bias,
        padding_mode=padding_mode,
        kernel_mode=mode,
    )
    x = normal(3, 4, 9, 10)
    with view(axis):
        close(conv(x), conv_images(conv, x, [axis] * 3))


@even_same
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("padding", [0, 1, "same", "valid"])
def test_every_padding_of_every_size(
    mode: str, padding_mode: str, size: int, padding: int | str
) -> None:
    conv = make(CrossDConv, 2, 3, size, 1, padding, padding_mode=padding_mode, kernel_mode=mode)
    x = normal(2, 2, 7, 8)
    for axis in range(3):
        with view(axis):
            close(conv(x), conv_images(conv, x, [axis] * 2))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_dtype(mode: str, dtype: torch.dtype) -> None:
    conv = make(CrossDConv, 2, 3, 3, 2, 1, kernel_mode=mode, dtype=dtype)
    x = normal(3, 2, 8, 8, dtype=dtype)
    assert conv(x).dtype == dtype
    close(conv(x), conv_images(copy.deepcopy(conv).double(), x.double(), [0] * 3))


@pytest.mark.parametrize("mode", MODES)
def test_bfloat16(mode: str) -> None:
    conv = CrossDConv(2, 3, 3, 1, 1, kernel_mode=mode, dtype=torch.bfloat16)
    assert {t.dtype for t in conv.state_dict().values()} <= {torch.bfloat16, torch.int64}
    x = normal(3, 2, 8, 8, dtype=torch.bfloat16)
    conv.eval()
    assert conv(x).dtype == torch.bfloat16
    close(conv(x), copy.deepcopy(conv).double()(x.double()))
    conv.train()
    conv(x).sum().backward()
    assert conv.weight.grad is not None


@pytest.mark.parametrize("mode", ["projection", "slice"])
@pytest.mark.parametrize("groups", [1, 4])
def test_one_view_a_sample(mode: str, groups: int) -> None:
    conv = make(CrossDConv, 4, 8, 3, 2, 1, 2, groups, padding_mode="circular", kernel_mode=mode)
    x, axes = normal(5, 4, 9, 8), [2, 0, 1, 1, 2]
    with view(axes):
        y = conv(x)
    close(y, conv_images(conv, x, axes))
    for n, axis in enumerate(axes):
        with view(axis):
            close(conv(x[n : n + 1])[0], y[n])


def test_one_view_a_sample_needs_the_same_settings_in_all() -> None:
    conv = CrossDConv(1, 1, 3, stride=2, depth_stride=1)
    with (
        view([0, 1]),
        pytest.raises(ValueError, match=r"samples of one batch .* \(3, 3\) and .* put one view"),
    ):
        conv(torch.zeros(2, 1, 8, 8))
    with view([0, 1]), pytest.raises(ValueError, match="view has 2 entries for a batch of 3"):
        CrossDConv(1, 1, 3)(torch.zeros(3, 1, 8, 8))


def test_fourier_convolves_each_sample_alike_in_any_company() -> None:
    conv = make(CrossDConv, 2, 3, 3, 1, 1, kernel_mode="fourier")
    x, order = normal(4, 2, 7, 7), torch.tensor([2, 3, 1, 0])
    y = conv(x)
    close(conv(x[order]), y[order])
    for n in range(4):
        close(conv(x[n : n + 1])[0], y[n])
    with view([0, 1, 2, 0]):  # this mode has no views
        close(conv(x), y)


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_fourier_in_training_equals_the_reference(offset: float) -> None:
    conv = make(CrossDConv, 2, 3, 3, 1, 1, kernel_mode="fourier", offset=offset).train()
    x = normal(4, 2, 7, 7)
    expected = conv_images(conv, x, [0] * 4)
    close(conv(x), expected)


# --- volumes


@even_same
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "padding": "same", "dilation": 2, "bias": False},
        {"kernel_size": 2, "padding": "valid", "stride": 2, "groups": 2},
        {"kernel_size": (3, 5), "depth_kernel_size": 1, "padding": (1, 2), "depth_padding": 0},
        {"kernel_size": 3, "stride": (1, 2), "depth_stride": 2, "padding": 1, "groups": 4},
        {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
        {"kernel_size": 3, "padding": 2, "padding_mode": "replicate"},
        {"kernel_size": 4, "padding": "same", "padding_mode": "reflect"},
    ],
)
def test_volumes_are_convolved_by_conv3d(mode: str, settings: dict[str, Any]) -> None:
    conv = make(CrossDConv, 4, 8, **settings, kernel_mode=mode)
    plain = nn.Conv3d(
        4,
        8,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
        conv.groups,
        conv.bias is not None,
        conv.padding_mode,
        dtype=torch.float64,
    )
    plain.load_state_dict({name: conv.state_dict()[name] for name in plain.state_dict()})
    x = normal(2, 4, 6, 7, 8)
    if conv.mode.moves_volumes:
        close(conv(x), conv_volumes(conv, x))
        return
    torch.testing.assert_close(conv(x), plain(x), rtol=1e-12, atol=1e-12)
    with view("sagittal"):
        torch.testing.assert_close(conv(x), plain(x), rtol=1e-12, atol=1e-12)


@law
@given(
    axis=st.integers(0, 2),
    stride=st.integers(1, 2),
    size=st.integers(1, 4),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2]),
    length=st.integers(6, 7),
)
def test_consistency_law(
    axis: int, stride: int, size: int, dilation: int, groups: int, length: int
) -> None:
    padding = dilation * (size - 1) // 2
    conv = make(CrossDConv, 2, 4, size, stride, padding, dilation, groups, padding_mode="circular")
    x = normal(2, 2, 8, 9)
    with view(axis):
        y = conv(x)
    volume = conv(repeat_along(x, axis, length))
    close(volume, repeat_along(y, axis, volume.shape[2 + axis]))


@pytest.mark.parametrize("axis", range(3))
def test_consistency_law_away_from_the_border_of_zeros(axis: int) -> None:
    conv = make(CrossDConv, 2, 3, 5, 1, 2)
    x = normal(2, 2, 8, 9)
    with view(axis):
        y = conv(x)
    volume = conv(repeat_along(x, axis, 7))
    close(volume.narrow(2 + axis, 2, 3), repeat_along(y, axis, 3))


# --- errors


@pytest.mark.parametrize("kind", [CrossDConv, CrossDConvTranspose])
@pytest.mark.parametrize("name", ["kernel_size", "stride", "padding", "dilation"])
def test_unequal_sizes_need_one_for_depth(kind: Any, name: str) -> None:
    settings = {"kernel_size": 3, name: (1, 2)}
    with pytest.raises(ValueError, match=rf"{name} \(=\(1, 2\)\) differs .* give depth_{name} too"):
        kind(1, 1, **settings)
    assert getattr(kind(1, 1, **settings, **{f"depth_{name}": 4}), name) == (4, 1, 2)


ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"kernel_mode": "wavelet"}, r"kernel_mode \(='wavelet'\) must be one of"),
    ({"kernel_mode": "slice", "offset": 0}, "kernel_mode 'slice' has no option offset"),
    ({"speed": 1}, "kernel_mode 'projection' has no option speed"),
    ({"groups": 3}, "in_channels must be divisible by groups"),
    ({"groups": 4}, "out_channels must be divisible by groups"),
    ({"groups": 0}, "groups must be a positive integer"),
]


@pytest.mark.parametrize("kind", [CrossDConv, CrossDConvTranspose])
@pytest.mark.parametrize(("settings", "message"), ERRORS)
def test_what_cannot_be_honoured_is_refused(
    kind: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        kind(4, 6, 3, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"padding_mode": "mirror"}, "padding_mode must be one of"),
        ({"padding": "full"}, "Invalid padding string 'full'"),
        ({"padding": "same", "stride": 2}, "padding='same' is not supported for strided"),
        ({"padding": "same", "depth_padding": 1}, r"depth_padding \(=1\) cannot go with .*'same'"),
    ],
)
def test_paddings_that_cannot_be_honoured_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        CrossDConv(2, 2, 3, **settings)


def test_transposed_convolution_pads_with_zeros_only() -> None:
    with pytest.raises(ValueError, match='Only "zeros" padding mode is supported'):
        CrossDConvTranspose(2, 2, 3, padding_mode="circular")
    with pytest.raises(ValueError, match=r"output_padding \(=\(0, 1\)\) differs .* depth_output"):
        CrossDConvTranspose(2, 2, 3, stride=2, output_padding=(0, 1))


@pytest.mark.parametrize("kind", [CrossDConv, CrossDConvTranspose])
@pytest.mark.parametrize("shape", [(2, 8), (2, 8, 8), (1, 2, 2, 8, 8, 8)])
def test_other_ranks_are_refused(kind: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"{kind.__name__} takes images \(N, C, H, W\) or vol"):
        kind(2, 2, 3)(torch.zeros(shape))


def test_an_unbatched_volume_is_not_taken_for_a_batch_of_images() -> None:
    with pytest.raises(RuntimeError, match="to have 1 channels, but got 8 channels"):
        CrossDConv(1, 2, 3)(torch.zeros(1, 8, 8, 8))


def test_signature_is_that_of_torch() -> None:
    for ours, theirs in ((CrossDConv, nn.Conv2d), (CrossDConvTranspose, nn.ConvTranspose2d)):
        names = list(inspect.signature(theirs).parameters)
        assert list(inspect.signature(ours).parameters)[: len(names)] == names
        for name in names:
            default = inspect.signature(theirs).parameters[name].default
            assert inspect.signature(ours).parameters[name].default == default, name


# --- what modules must stand


@pytest.mark.parametrize("kind", [CrossDConv, CrossDConvTranspose])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [3, 5])
def test_meta_device(kind: Any, mode: str, size: int) -> None:
    layer = kind(2, 4, size, padding=size // 2, kernel_mode=mode, device="meta")
    assert all(tensor.is_meta for tensor in layer.state_dict().values())
    for shape in ((3, 2, 6, 7), (3, 2, 5, 6, 7)):
        y = layer(torch.zeros(shape, device="meta"))
        assert y.is_meta
        assert y.shape == (3, 4, *shape[2:])


@pytest.mark.parametrize("kind", [CrossDConv, CrossDConvTranspose])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bias", [True, False])
def test_state_dict_has_the_keys_of_conv3d_in_training_and_evaluation(
    kind: Any, mode: str, bias: bool
) -> None:
    layer = kind(2, 4, 3, bias=bias, kernel_mode=mode)
    keys = list(layer.train().state_dict())
    assert list(layer.eval().state_dict()) == keys
    layer(torch.zeros(1, 2, 6, 6))
    assert list(layer.state_dict()) == keys
    theirs = list(nn.Conv3d(2, 4, 3, bias=bias).state_dict())
    assert keys[: len(theirs)] == theirs
    assert all(key.startswith("mode.") for key in keys[len(theirs) :])
    assert (len(keys) > len(theirs)) == mode.startswith("fourier")


def test_size_one_has_no_predictor() -> None:
    conv = make(CrossDConv, 2, 4, 1, kernel_mode="fourier")
    assert list(conv.state_dict()) == ["weight", "bias"]
    x = normal(3, 2, 5, 5)
    close(conv(x), F.conv2d(x, conv.weight[:, :, 0], conv.bias))


@pytest.mark.parametrize("kind", [CrossDConv, CrossDConvTranspose])
@pytest.mark.parametrize("mode", MODES)
def test_copies_and_pickles(kind: Any, mode: str) -> None:
    layer, x = make(kind, 2, 4, 3, kernel_mode=mode), normal(3, 2, 6, 6)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        close(twin(x), layer(x))
        assert repr(twin) == repr(layer)
        twin.weight.data.zero_()
        assert layer.weight.abs().max() > 0


@pytest.mark.parametrize("kind", [CrossDConv, CrossDConvTranspose])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(3, 2, 8, 8), (3, 2, 6, 8, 8)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(kind: Any, mode: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    layer = kind(2, 4, 3, padding=1, kernel_mode=mode).train()
    x = normal(*shape, dtype=torch.float32)
    expected = copy.deepcopy(layer)(x)
    with torch.autocast("cpu", dtype):
        y = layer(x)
    assert y.dtype == dtype
    close(y.bfloat16(), expected)
    y.float().sum().backward()
    assert layer.weight.grad.dtype == torch.float32
    assert layer.weight.grad.isfinite().all()


@pytest.mark.parametrize("size", [3, 10])
def test_exported_layers_that_move_their_kernel_for_every_volume_have_a_free_batch(
    size: int,
) -> None:
    layer = CrossDConv(2, 3, size, stride=size, kernel_mode="fourier-projection").eval()
    x = normal(3, 2, 10, 20, 10, dtype=torch.float32)
    free = {0: torch.export.Dim("batch", min=1, max=8)}
    exported = torch.export.export(layer, (x[:2],), dynamic_shapes=(free,)).module()
    for count in (1, 3):
        close(exported(x[:count]), layer(x[:count]))


@pytest.mark.parametrize("kind", [CrossDConv, CrossDConvTranspose])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("training", [True, False])
def test_an_empty_batch(kind: Any, mode: str, training: bool) -> None:
    layer = kind(2, 4, 3, padding=1, kernel_mode=mode).train(training)
    y = layer(torch.zeros(0, 2, 6, 7))
    assert y.shape == (0, 4, 6, 7)
    y.sum().backward()
    assert layer.weight.grad.tolist() == torch.zeros_like(layer.weight).tolist()
    assert all(tensor.isfinite().all() for tensor in layer.state_dict().values())


@pytest.mark.parametrize("kind", [CrossDConv, CrossDConvTranspose])
@pytest.mark.parametrize("mode", MODES)
def test_gradients(kind: Any, mode: str) -> None:
    layer = make(kind, 2, 2, 3, stride=2, kernel_mode=mode)
    values = {name: p.detach().requires_grad_() for name, p in layer.named_parameters()}

    def forward(x: Tensor, *parameters: Tensor) -> Tensor:
        named = dict(zip(values, parameters, strict=True))
        return torch.func.functional_call(layer, named, (x,))

    x = normal(2, 2, 4, 4).requires_grad_()
    assert torch.autograd.gradcheck(forward, (x, *values.values()), fast_mode=True)


def test_mean_displacement_moves_on_images_in_training_only() -> None:
    conv = make(CrossDConv, 2, 3, 3, kernel_mode="fourier")
    start = conv.mode.mean_displacement.clone()
    conv(normal(3, 2, 6, 6))
    conv.train()(normal(3, 2, 5, 6, 6))
    close(conv.mode.mean_displacement, start)
    conv(normal(3, 2, 6, 6))
    assert (conv.mode.mean_displacement - start).abs().max() > 1e-3


def test_torch_vmap_is_not_used() -> None:
    for module in (crossd.nn.functional, crossd.nn.kernel_modes, crossd.nn.conv):
        assert "vmap(" not in inspect.getsource(module)


# --- torch.compile


@pytest.mark.parametrize("kind", [CrossDConv, CrossDConvTranspose])
@pytest.mark.parametrize("mode", some(MODES, ["projection", "fourier"]))
def test_compiles_as_one_graph_on_images_in_each_view(kind: Any, mode: str) -> None:
    torch.compiler.reset()
    layer, x = make(kind, 2, 3, 3, padding=1, kernel_mode=mode), normal(2, 2, 6, 6)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    views: list[Any] = [0, 1, [2, 0]]
    for training, axis in itertools.product((False, True), views):
        layer.train(training)
        twin = copy.deepcopy(layer)
        with view(axis):
            close(compiled(x), twin(x))
        if mode == "fourier":
            close(layer.mode.mean_displacement, twin.mode.mean_displacement)


@pytest.mark.parametrize("mode", some(MODES, ["projection", "fourier-projection"]))
def test_compiled_gradients(mode: str) -> None:
    torch.compiler.reset()
    conv = make(CrossDConv, 2, 3, 3, padding=1, kernel_mode=mode).train()
    twin, x = copy.deepcopy(conv), normal(2, 2, 6, 6)
    torch.compile(conv, fullgraph=True, backend="aot_eager")(x).square().sum().backward()
    twin(x).square().sum().backward()
    for ours, theirs in zip(conv.parameters(), twin.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        close(ours.grad, theirs.grad)


@pytest.mark.parametrize(
    ("mode", "training"),
    [
        ("projection", True),
        *(
            pytest.param(mode, training, marks=pytest.mark.slow)
            for mode in MODES
            for training in (True, False)
            if (mode, training) != ("projection", True)
        ),
    ],
)
def test_a_network_compiles_as_one_graph_for_every_batch(mode: str, training: bool) -> None:
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    plain = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3, 2), nn.Tanh()
    )
    net = crossd.convert(plain, mode).double().train(training)
    compiled = torch.compile(net, fullgraph=True, dynamic=True, backend=counter)
    counts = []
    for n in (13, 11, 17):  # no other size: equal ones would be taken for the same
        twin, x = copy.deepcopy(net), normal(n, 2, 9, 9)
        with view("coronal"):
            net.zero_grad()
            y, z = compiled(x), twin(x)
            close(y, z)
            y.square().sum().backward()
            z.square().sum().backward()
        for a, b in zip(net.parameters(), twin.parameters(), strict=True):
            assert a.grad is not None and b.grad is not None
            close(a.grad, b.grad)
        counts.append(counter.frame_count)
    assert counts == [counts[0]] * 3


@pytest.mark.parametrize("kind", [CrossDConv, CrossDConvTranspose])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [6, 40])
def test_nothing_waits_for_a_value(kind: Any, mode: str, size: int) -> None:
    with FakeTensorMode():  # reading a value of a fake tensor raises
        layer = kind(2, 30, 3, padding=1, kernel_mode=mode).train()
        layer(torch.zeros(4, 2, size, size, requires_grad=True)).sum().backward()
        assert layer.weight.grad.shape == layer.weight.shape


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(3, 2, 9, 8), (3, 2, 6, 9, 8)])
def test_memory_formats_change_nothing(mode: str, shape: tuple[int, ...]) -> None:
    conv = make(CrossDConv, 2, 4, 3, padding=1, kernel_mode=mode).train()
    twin, x = channels_last(copy.deepcopy(conv)), normal(*shape)
    last = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
    for a, b in itertools.product((x, x.contiguous(memory_format=last)), repeat=2):
        conv.zero_grad()
        twin.zero_grad()
        y, z = conv(a), twin(b)
        close(y, z)
        y.square().sum().backward()
        z.square().sum().backward()
        close(conv.weight.grad, twin.weight.grad)
        assert twin.weight.grad.stride() == twin.weight.stride()


def test_compiles_on_volumes() -> None:
    torch.compiler.reset()
    conv, x = make(CrossDConv, 2, 3, 3, padding=1), normal(2, 2, 5, 6, 6)
    close(torch.compile(conv, fullgraph=True, backend="eager")(x), conv(x))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what inductor and its compiler say is not ours
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("training", [True, False])
def test_compiles_with_inductor(mode: str, training: bool) -> None:
    torch.compiler.reset()
    conv = make(CrossDConv, 2, 3, 3, padding=1, kernel_mode=mode).train(training)
    twin, x = copy.deepcopy(conv), normal(2, 2, 6, 6)
    y = torch.compile(conv, fullgraph=True)(x)
    close(y, twin(x))
    y.square().sum().backward()
    twin(x).square().sum().backward()
    close(conv.weight.grad, twin.weight.grad)


# --- plain layers


@pytest.mark.parametrize("mode", ["projection", "slice"])
@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("axis", range(3))
def test_to_2d_is_the_layer_in_that_view(mode: str, padding_mode: str, axis: int) -> None:
    conv = make(
        CrossDConv,
        4,
        6,
        (3, 5),
        (2, 1),
        (1, 2),
        (2, 1),
        groups=2,
        padding_mode=padding_mode,
        kernel_mode=mode,
        depth_kernel_size=2,
        depth_stride=1,
        depth_padding=0,
        depth_dilation=3,
    )
    plain, x = conv.to_2d(axis), normal(2, 4, 12, 13)
    assert type(plain) is nn.Conv2d
    assert plain.kernel_size == plane((2, 3, 5), axis)
    assert not plain.training
    with view(VIEWS[axis]):
        close(plain(x), conv(x))


@pytest.mark.parametrize("kind", [CrossDConv, CrossDConvTranspose])
@pytest.mark.parametrize("mode", MODES)
def test_to_3d_is_the_layer(kind: Any, mode: str) -> None:
    layer = make(kind, 4, 6, 3, 2, 1, groups=2, bias=False, kernel_mode=mode)
    plain, x = layer.to_3d(), normal(2, 4, 5, 6, 7)
    assert type(plain) is (nn.Conv3d if kind is CrossDConv else nn.ConvTranspose3d)
    assert list(plain.state_dict()) == ["weight"]
    if not layer.mode.moves_volumes:
        torch.testing.assert_close(plain(x), layer(x), rtol=0, atol=0)
    plain.weight.data.zero_()
    assert layer.weight.abs().max() > 0


@pytest.mark.parametrize("kind", [CrossDConv, CrossDConvTranspose])
def test_fourier_becomes_2d_at_its_mean_pose_and_3d_aligned(kind: Any) -> None:
    layer, x = make(kind, 2, 3, 3, kernel_mode="fourier"), normal(2, 2, 6, 6)
    # With every angle at zero, the displacement of all samples is the offset.
    layer.mode.predictor.start_at_zero()
    layer.mode.mean_displacement.fill_(1)
    for axis in range(3):
        close(layer.to_2d(axis)(x), layer(x))
    aligned = layer.to_3d(align=True)
    close(aligned.weight, layer.weight.roll((1, 1, 1), dims=(2, 3, 4)))
    layer.mode.mean_displacement.zero_()
    close(layer.to_3d(align=True).weight, layer.weight)


def test_plain_layers_keep_what_is_frozen_the_dtype_and_the_random_state() -> None:
    conv = CrossDConv(2, 3, 3, dtype=torch.bfloat16)
    conv.weight.requires_grad_(False)
    state = torch.get_rng_state()
    for plain in (conv.to_2d(), conv.to_3d()):
        assert not plain.weight.requires_grad
        assert plain.bias is not None
        assert plain.bias.requires_grad
        assert plain.weight.dtype == torch.bfloat16
        assert plain.training
    assert torch.equal(torch.get_rng_state(), state)


# --- transposed convolution


@law
@given(
    mode=st.sampled_from(MODES),
    groups=st.sampled_from([1, 2, 4]),
    bias=st.booleans(),
    kernel_size=pairs,
    stride=pairs,
    padding=st.integers(0, 1),
    output_padding=st.integers(0, 1),
    dilation=pairs,
    axis=st.integers(0, 2),
)
def test_transposed_images_equal_the_reference(
    mode: str,
    groups: int,
    bias: bool,
    kernel_size: Any,
    stride: Any,
    padding: int,
    output_padding: int,
    dilation: Any,
    axis: int,
) -> None:
    settings = with_depths(kernel_size=kernel_size, stride=stride, dilation=dilation)
    conv = make(
        CrossDConvTranspose,
        4,
        8,
        **settings,
        padding=padding,
        output_padding=output_padding,
        groups=groups,
        bias=bias,
        kernel_mode=mode,
    )
    assume(all(output_padding < max(s, d) for s, d in zip(conv.stride, conv.dilation, strict=True)))
    x = normal(3, 4, 5, 6)
    with view(axis):
        y = conv(x)
    close(y, conv_transpose_images(conv, x, [axis] * 3))
    if not mode.startswith("fourier"):
        close(conv.to_2d(axis)(x), y)


@pytest.mark.parametrize("mode", MODES)
def test_transposed_volumes_and_output_size(mode: str) -> None:
    conv = make(CrossDConvTranspose, 2, 3, 3, 2, 1, kernel_mode=mode)
    x = normal(2, 2, 4, 5, 6)
    close(conv(x), conv_volumes(conv, x))
    close(conv(x, [8, 9, 12]), conv_volumes(conv, x, output_size=[8, 9, 12]))
    image = normal(2, 2, 5, 6)
    for size, extra in (([9, 12], (0, 1)), ([10, 11], (1, 0)), ([2, 3, 10, 12], (1, 1))):
        y = conv(image, size)
        assert list(y.shape[2:]) == size[-2:]
        close(y, conv_transpose_images(conv, image, [0, 0], extra))
    with pytest.raises(ValueError, match="requested an output size of"):
        conv(image, [30, 30])


def test_transposed_output_size_follows_the_view() -> None:
    conv = make(CrossDConvTranspose, 1, 1, 2, (2, 2), depth_stride=1)
    with view("coronal"):
        assert conv(normal(1, 1, 4, 5)).shape == (1, 1, 5, 10)
        assert conv(normal(1, 1, 4, 5), [5, 11]).shape == (1, 1, 5, 11)


@pytest.mark.parametrize("mode", ["projection", "slice"])
def test_transposed_one_view_a_sample(mode: str) -> None:
    conv = make(CrossDConvTranspose, 4, 6, 3, 2, 1, 1, 2, kernel_mode=mode)
    x, axes = normal(4, 4, 5, 6), [2, 0, 1, 0]
    with view(axes):
        close(conv(x), conv_transpose_images(conv, x, axes))


def test_transposed_one_view_a_sample_needs_the_same_settings_in_all() -> None:
    conv = CrossDConvTranspose(1, 1, 2, stride=(1, 2), depth_stride=1)
    with view([1, 2]), pytest.raises(ValueError, match=r"samples of one batch .* \(5, 8\) and"):
        conv(torch.zeros(2, 1, 4, 4))
    conv = make(CrossDConvTranspose, 1, 1, (2, 3), depth_kernel_size=2)
    x = normal(2, 1, 4, 4)
    with view([0, 1]):
        close(conv(x), conv_transpose_images(conv, x, [0, 1]))


@law
@given(
    axis=st.integers(0, 2),
    stride=st.integers(1, 3),
    more=st.integers(0, 2),
    padding=st.integers(0, 1),
)
def test_transposed_image_is_the_mean_over_the_phases_of_the_volume(
    axis: int, stride: int, more: int, padding: int
) -> None:
    size = stride + more
    conv = make(CrossDConvTranspose, 2, 3, size, stride, padding)
    x = normal(2, 2, 4, 5)
    with view(axis):
        y = conv(x)
    volume = conv(repeat_along(x, axis, 12))
    # Every tap reaches the positions from size - 1 on: one full period of them is averaged.
    period = volume.narrow(2 + axis, size + 2, stride)
    close(period.mean(2 + axis), y)


@pytest.mark.parametrize("how", ["inflate", "center"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_transposed_lift_repeats_the_2d_answer_exactly(how: str, size: int) -> None:
    flat = nn.ConvTranspose2d(2, 3, size, size, dtype=torch.float64)
    conv = make(CrossDConvTranspose, 2, 3, size, size)
    weight = crossd.nn.functional.lift(flat.weight.detach(), size, how, size, transposed=True)
    conv.load_state_dict({"weight": weight, "bias": flat.bias})
    x = normal(2, 2, 4, 5)
    close(conv(x), flat(x))
    close(conv(repeat_along(x, 0, 3)), repeat_along(flat(x), 0, 3 * size))


def test_views_by_name_and_by_number_are_the_same() -> None:
    conv, x = make(CrossDConv, 1, 2, 3), normal(3, 1, 5, 5)
    with view([0, 1, 2]):
        y = conv(x)
    with view(VIEWS):
        close(conv(x), y)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated")
@pytest.mark.parametrize("mode", ["projection", "slice"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_functions_of_torch_take_derivatives_of_it(mode: str, axis: int) -> None:
    conv, x = make(CrossDConv, 1, 2, 3, padding=1, kernel_mode=mode), normal(3, 1, 5, 6)
    own = {name: p.detach() for name, p in conv.named_parameters()}

    def answer(parameters: Any, image: Tensor) -> Any:
        with view(axis):
            return torch.func.functional_call(conv, parameters, (image,)).square()

    tangent = {name: torch.randn_like(p) for name, p in own.items()}
    jvp: Any = torch.func.jvp
    _, slope = jvp(lambda p: answer(p, x), (own,), (tangent,))
    ahead, behind = (
        answer({name: p + step * tangent[name] for name, p in own.items()}, x) for step in (1, -1)
    )
    close(slope, (ahead - behind) / 2)  # exact, as the square of the kernel is of second order
    each = torch.func.vmap(
        torch.func.grad(lambda p, one: answer(p, one[None]).sum()), in_dims=(None, 0)
    )(own, x)
    whole = torch.func.grad(lambda p: answer(p, x).sum())(own)
    for name, gradient in whole.items():
        close(each[name].sum(0), gradient)
    networks = {name: torch.stack([p, 2 * p]) for name, p in own.items()}
    both = torch.func.vmap(answer, in_dims=(0, None))(networks, x)
    for i in (0, 1):
        close(both[i], answer({name: p[i] for name, p in networks.items()}, x))


@pytest.mark.parametrize("depth_margin", [(1, 1), (0, 2)])
def test_zeros_may_be_added_to_depth_alone(depth_margin: tuple[int, int]) -> None:
    conv, x = make(CrossDConv, 2, 3, 3, padding=1), normal(2, 2, 4, 5, 6)
    close(conv(x, depth_margin), conv(F.pad(x, (0, 0, 0, 0, *depth_margin))))
    with crossd.nn.views.replicated_ends((0,)):
        more = [x[:, :, :1]] * depth_margin[0], [x[:, :, -1:]] * depth_margin[1]
        close(conv(x, depth_margin), conv(torch.cat([*more[0], x, *more[1]], 2)))


@pytest.mark.parametrize("depth", [1, 4, 5, 6, 7, 8])
def test_gradients_of_volumes_shallower_than_the_kernel(depth: int) -> None:
    """`nn.Conv3d(3, 8, 7, 2, 3)` of torch 2.8 to 2.14 gives nan here, or ends the process."""
    torch.manual_seed(0)
    conv, exact = CrossDConv(3, 8, 7, 2, 3), CrossDConv(3, 8, 7, 2, 3).double()
    exact.load_state_dict({name: tensor.double() for name, tensor in conv.state_dict().items()})
    x = torch.randn(1, 3, depth, 16, 24)
    for one in (conv, exact):
        one(x.to(one.weight.dtype)).square().sum().backward()
    assert conv.weight.grad is not None and exact.weight.grad is not None
    torch.testing.assert_close(conv.weight.grad, exact.weight.grad.float(), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("in_channels", [2, 3, 7, 16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_strided_kernels_of_one_tap_and_few_channels(
    in_channels: int, memory_format: torch.memory_format
) -> None:
    """On a CPU with AVX2 alone the backward pass ended the process, or gave wrong gradients."""
    layer = CrossDConv(in_channels, 48, 1, stride=2, depth_kernel_size=3, depth_padding=1)
    layer = channels_last(layer)
    exact = copy.deepcopy(layer).double()
    x = normal(2, in_channels, 32, 64, dtype=torch.float32).to(memory_format=memory_format)
    for net, images in ((layer, x), (exact, x.double())):
        net(images).square().mean().backward()
    assert layer.weight.grad is not None and exact.weight.grad is not None
    close_relative(layer.weight.grad.double(), exact.weight.grad, 1e-5)
