"""ACS convolutions against their definition: channels split over three planes."""

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import acs_weight, close, law, normal, randomize
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from crossd.nn.acs import ACSConv, ACSConvTranspose, split


def make(kind: type[Any], *arguments: Any, **options: Any) -> Any:
    """A layer with values that hide no mistake."""
    layer = kind(*arguments, dtype=torch.float64, **options)
    randomize(layer)
    return layer


def three_planes(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    """ACS as its authors state it: three thin kernels, each padded in its plane only."""
    count = weight.shape[0]
    axial = (count + 2) // 3
    coronal = (count + 1) // 3
    outputs = [
        F.conv3d(x, weight[:axial, :, None], None, 1, (0, padding, padding)),
        F.conv3d(x, weight[axial : axial + coronal, :, :, None], None, 1, (padding, 0, padding)),
        F.conv3d(x, weight[axial + coronal :, :, :, :, None], None, 1, (padding, padding, 0)),
    ]
    y = torch.cat(outputs, dim=1)
    return y if bias is None else y + bias.view(-1, 1, 1, 1)


@pytest.mark.parametrize("channels", range(1, 12))
def test_split_is_as_even_as_it_can_be(channels: int) -> None:
    parts = split(channels)
    assert sum(parts) == channels
    assert list(parts) == sorted(parts, reverse=True)
    assert max(parts) - min(parts) <= 1


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("channels", [3, 4, 8])
@pytest.mark.parametrize("bias", [True, False])
def test_three_planes_by_hand(size: int, channels: int, bias: bool) -> None:
    conv = make(ACSConv, 2, channels, size, padding=size // 2, bias=bias)
    x = normal(2, 2, 6, 7, 8)
    close(conv(x), three_planes(x, conv.weight, conv.bias, size // 2))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@law
@given(
    channels=st.sampled_from([2, 4, 6, 8]),
    groups=st.sampled_from([1, 2]),
    bias=st.booleans(),
    size=st.integers(1, 4),
    stride=st.integers(1, 3),
    padding=st.sampled_from([0, 1, 2, "same", "valid"]),
    dilation=st.integers(1, 2),
    padding_mode=st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
)
def test_volumes_equal_the_dense_kernel_and_to_3d(
    channels: int,
    groups: int,
    bias: bool,
    size: int,
    stride: int,
    padding: Any,
    dilation: int,
    padding_mode: Any,
) -> None:
    assume(padding != "same" or stride == 1)
    conv = make(ACSConv, 4, channels, size, stride, padding, dilation, groups, bias, padding_mode)
    x = normal(2, 4, 8, 9, 10)
    total = dilation * (size - 1) if padding == "same" else 0
    margin = [total // 2, total - total // 2] if isinstance(padding, str) else [padding] * 2
    padded = F.pad(x, margin * 3, "constant" if padding_mode == "zeros" else padding_mode)
    solid = acs_weight(conv.weight.detach(), 0)
    expected = F.conv3d(padded, solid, conv.bias, stride, 0, dilation, groups)
    close(conv(x), expected)
    plain = conv.to_3d()
    assert type(plain) is nn.Conv3d
    close(plain(x), expected)


@pytest.mark.parametrize("channels", [1, 2])
def test_fewer_channels_than_planes(channels: int) -> None:
    conv = make(ACSConv, 2, channels, 3, padding=1)
    x = normal(2, 2, 5, 6, 7)
    close(conv(x), F.conv3d(x, acs_weight(conv.weight.detach(), 0), conv.bias, padding=1))
    close(conv(x), conv.to_3d()(x))


def test_images_are_convolved_by_conv2d() -> None:
    conv = make(ACSConv, 4, 6, (3, 5), (2, 1), (1, 2), groups=2, padding_mode="circular")
    x, plain = normal(2, 4, 8, 9), conv.to_2d()
    assert type(plain) is nn.Conv2d
    assert list(plain.state_dict()) == list(conv.state_dict())
    close(conv(x), plain(x))
    close(plain.weight, conv.weight)


@pytest.mark.parametrize("kind", [ACSConv, ACSConvTranspose])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_gradient_flows_to_every_weight(kind: type[Any], groups: int) -> None:
    layer = make(kind, 4, 8, 3, padding=1, groups=groups)
    x = normal(2, 4, 4, 4, 4).requires_grad_()
    layer(x).square().sum().backward()
    for tensor in (layer.weight, layer.bias, x):
        assert tensor.grad is not None
        assert (tensor.grad != 0).all()


@pytest.mark.parametrize("kind", [ACSConv, ACSConvTranspose])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("shape", [(1, 2, 4, 4), (1, 2, 4, 3, 4)])
def test_gradients(kind: type[Any], groups: int, shape: tuple[int, ...]) -> None:
    layer = make(kind, 2, 4, 3, 2, 1, groups=groups)
    names = [name for name, _ in layer.named_parameters()]

    def forward(x: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    inputs = [normal(*shape), *(p.detach() for p in layer.parameters())]
    assert torch.autograd.gradcheck(forward, [x.requires_grad_() for x in inputs], fast_mode=True)


@law
@given(
    groups=st.sampled_from([1, 2]),
    bias=st.booleans(),
    size=st.integers(1, 4),
    stride=st.integers(1, 3),
    padding=st.integers(0, 1),
    output_padding=st.integers(0, 1),
    dilation=st.integers(1, 2),
)
def test_transposed_volumes_equal_the_dense_kernel(
    groups: int,
    bias: bool,
    size: int,
    stride: int,
    padding: int,
    output_padding: int,
    dilation: int,
) -> None:
    assume(output_padding < max(stride, dilation))
    settings = (stride, padding, output_padding, groups)
    up = make(ACSConvTranspose, 4, 8, size, *settings, bias, dilation)
    x = normal(2, 4, 3, 4, 5)
    solid = acs_weight(up.weight.detach(), 1, stride)
    expected = F.conv_transpose3d(x, solid, up.bias, *settings, dilation)
    close(up(x), expected)
    plain = up.to_3d()
    assert type(plain) is nn.ConvTranspose3d
    close(plain(x), expected)
    flat = up.to_2d()
    assert type(flat) is nn.ConvTranspose2d
    image = normal(2, 4, 4, 5)
    close(up(image), flat(image))


def test_transposed_output_size() -> None:
    up = make(ACSConvTranspose, 2, 3, 3, 2, 1)
    x = normal(2, 2, 4, 5, 6)
    close(up(x, [8, 9, 12]), up.to_3d()(x, [8, 9, 12]))
    assert up(normal(2, 2, 5, 6), [10, 11]).shape == (2, 3, 10, 11)
    with pytest.raises(ValueError, match="requested an output size of"):
        up(x, [20, 20, 20])


@pytest.mark.parametrize("kind", [ACSConv, ACSConvTranspose])
@pytest.mark.parametrize("name", ["kernel_size", "stride", "padding", "dilation"])
def test_volumes_need_equal_settings(kind: type[Any], name: str) -> None:
    layer = kind(1, 3, **({"kernel_size": 3} | {name: (1, 2)}))
    assert layer(torch.zeros(1, 1, 9, 9)).dim() == 4
    message = r"ACS needs the same setting in height and width, got \(1, 2\)"
    with pytest.raises(ValueError, match=message):
        layer(torch.zeros(1, 1, 9, 9, 9))
    with pytest.raises(ValueError, match=message):
        layer.to_3d()


@pytest.mark.parametrize("kind", [ACSConv, ACSConvTranspose])
def test_other_ranks_are_refused(kind: type[Any]) -> None:
    with pytest.raises(ValueError, match=rf"{kind.__name__} takes images \(N, C, H, W\)"):
        kind(1, 3, 3)(torch.zeros(1, 8, 8))


@pytest.mark.parametrize("kind", [ACSConv, ACSConvTranspose])
@pytest.mark.parametrize("shape", [(2, 2, 6, 6), (2, 2, 5, 6, 6)])
def test_autocast(kind: type[Any], shape: tuple[int, ...]) -> None:
    layer, x = kind(2, 4, 3, padding=1), normal(*shape, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    close(y, layer(x))


@pytest.mark.parametrize("kind", [ACSConv, ACSConvTranspose])
def test_compiles_copies_and_pickles(kind: type[Any]) -> None:
    torch.compiler.reset()
    layer, x = make(kind, 2, 4, 3), normal(2, 2, 5, 5, 5)
    twins = (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)))
    for twin in (*twins, torch.compile(layer, fullgraph=True, backend="eager")):
        close(twin(x), layer(x))
