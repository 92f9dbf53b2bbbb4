"""Forwards that fix the number of axes, on volumes: the law, plain twins, copies, refusals."""

import copy
import functools
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import crossd
from crossd import InputError
from crossd.ranks import Lifted

convert: Callable[..., Any] = functools.partial(crossd.convert, check=False)


class Base(nn.Module):
    """Has a convolution inside, so that folding and unfolding meet."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(4, 4, 1)
        self.scale = nn.Parameter(torch.randn(4, 1, 1))
        self.shift: Tensor
        self.register_buffer("shift", torch.randn(4))


class SqueezeExcite(Base):
    def forward(self, x: Tensor) -> Tensor:
        return x * self.inner(x.mean((2, 3), keepdim=True)).sigmoid()


class LastChannels(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = F.layer_norm(x.permute(0, 2, 3, 1), (4,), eps=1e-3) + self.shift
        return self.inner(y.permute(0, 3, 1, 2))


class LayerScale(Base):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.inner(x)


class Shuffle(Base):
    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.inner(y) + y[:, :1]


class Tokens(Base):
    """Flattens the plane and comes back, as global attention over pixels does."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(x, 4)
        n, c, h, w = x.size()
        rows = self.inner(x).flatten(2)
        weights = (rows.transpose(1, 2) @ rows).softmax(-1)
        return F.interpolate((rows @ weights).view(n, c, h, w), scale_factor=4)


class ResponseNorm(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = x.permute(0, 2, 3, 1)
        g = y.norm(p=2, dim=(1, 2), keepdim=True)
        return (y * g / (g.mean(-1, keepdim=True) + 1e-6)).permute(0, 3, 1, 2) * self.scale


class Pools(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = F.avg_pool2d(self.inner(x), 2)
        y = F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)
        z = F.interpolate(F.max_pool2d(x, 2), size=x.shape[-2:], mode="nearest")
        whole = F.adaptive_avg_pool2d(x, 1) + F.avg_pool2d(x, x.shape[2:])
        return y + z + whole


class Strides(Base):
    def forward(self, x: Tensor) -> Tensor:
        parts = [x[..., i::2, j::2] for i in range(2) for j in range(2)]
        y = torch.cat(parts, 1)[:, :4]
        return self.inner(F.pad(y, (0, 1, 0, 1))[:, :, :-1, :-1])


class Lists(Base):
    """Takes and gives lists, unpacks chunks, calls its part twice."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        both = [torch.cat((b, a), 1), x * self.scale]
        first, second = (self.inner(part) for part in both)
        return torch.stack([first, second], 1).sum(1).mean((2, 3), keepdim=True) * x


class Dropping(Base):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x * self.scale, 0.5, self.training)


class Branching(Base):
    """Does something else in training, for which another forward is traced."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return x * self.scale + 1
        return self.inner(x) * self.scale


class Defaults(Base):
    def forward(self, x: Tensor, mask: Tensor | None = None, twice: bool = False) -> Tensor:
        y = x * self.scale
        if mask is not None:
            y = y * mask.view(1, 4, 1, 1)
        return y * 2 if twice else y


class Shuffled(Base):
    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.inner(x), 2).repeat(1, 4, 1, 1)


KINDS = [
    *(SqueezeExcite, LastChannels, LayerScale, Shuffle, Tokens, ResponseNorm, Pools, Strides),
    *(Lists, Dropping, Branching, Defaults, Shuffled),
]


def network(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 4, 1), kind(), nn.Conv2d(4, 2, 1)).eval()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["projection", "fourier"])
def test_lifted_forwards_keep_the_law(kind: type[nn.Module], mode: str) -> None:
    source = network(kind)
    net = convert(source, mode)
    images = torch.randn(2, 1, 12, 20)
    volumes = images.unsqueeze(2).repeat_interleave(8, 2)
    with torch.no_grad():
        expected = source(images)
        torch.testing.assert_close(net(images), expected)
        answer = net(volumes)
        assert answer.shape[2] == 8 * expected.shape[2] / 12
        for part in answer.unbind(2)[2:-2]:  # interpolation reaches beyond the ends
            torch.testing.assert_close(part, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_parameter_on_volumes(kind: type[nn.Module]) -> None:
    net = convert(network(kind)).train(kind is Dropping)
    net(torch.randn(2, 1, 6, 8, 10)).square().sum().backward()
    unused = {
        *(("1.scale",) if kind in (SqueezeExcite, LastChannels, Shuffle, Tokens, Pools) else ()),
        *(("1.scale",) if kind in (Strides, Shuffled) else ()),
        *(("1.inner.weight", "1.inner.bias") if kind in (ResponseNorm, Dropping, Defaults) else ()),
    }
    missing = {name for name, p in net.named_parameters() if p.grad is None}
    assert missing == unused


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not Branching])
def test_plain_twins_have_nothing_of_crossd_and_agree(kind: type[nn.Module]) -> None:
    net = convert(network(kind))
    solid, flat = crossd.to_3d(net), crossd.to_2d(net)
    assert isinstance(net[1], kind) and type(flat[1]) is kind  # type: ignore[index]
    for twin in (solid, flat):
        assert not any(isinstance(m, Lifted) for m in twin.modules())
        assert not any(type(m).__module__.startswith("crossd") for m in twin.modules())
    volumes, images = torch.randn(2, 1, 8, 12, 10), torch.randn(2, 1, 12, 10)
    with torch.no_grad():
        torch.testing.assert_close(solid(volumes), net(volumes))
        torch.testing.assert_close(flat(images), net(images))
    used = {k: v for k, v in net.state_dict().items() if k in solid.state_dict()}
    solid.load_state_dict(used, strict=True)
    reread = pickle.loads(pickle.dumps(solid))
    torch.testing.assert_close(reread(volumes), solid(volumes))


@pytest.mark.parametrize("kind", KINDS)
def test_lifted_networks_are_copied_pickled_and_converted_again(kind: type[nn.Module]) -> None:
    net = convert(network(kind))
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    volumes = torch.randn(1, 1, 4, 8, 6)
    for twin in (copy.deepcopy(net), torch.load(file, weights_only=False)):
        assert twin is not net and isinstance(twin[1], Lifted | type(net[1]))
        twin.load_state_dict(net.state_dict(), strict=True)
        torch.testing.assert_close(twin(volumes), net(volumes))
        with torch.no_grad():
            next(twin.parameters()).add_(1)
        assert not torch.equal(twin(volumes), net(volumes))
    again = convert(crossd.to_2d(net))
    torch.testing.assert_close(again(volumes), net(volumes))


def test_training_is_asked_for_when_a_forward_runs() -> None:
    for net in (convert(network(Dropping)), crossd.to_3d(convert(network(Dropping)))):
        volumes = torch.ones(1, 1, 8, 8, 8)
        torch.testing.assert_close(net(volumes), net(volumes))
        inside: Any = net
        net.train()
        zeros = (inside[1](torch.ones(1, 4, 8, 8, 8)) == 0).float().mean()
        assert 0.4 < zeros < 0.6
        net.eval()
        assert not (inside[1](torch.ones(1, 4, 8, 8, 8)) == 0).any()


def test_forwards_that_branch_on_training_have_two_forms() -> None:
    net = convert(network(Branching))
    x = torch.randn(1, 4, 3, 5, 6)
    scale = net[1].scale.view(4, 1, 1, 1)
    torch.testing.assert_close(net.train()[1](x), x * scale + 1)
    torch.testing.assert_close(net.eval()[1](x), net[1].inner(x) * scale)
    with pytest.raises(InputError, match=r"layer '1' .*forward in training is another one"):
        crossd.to_3d(net)


def test_arguments_that_are_no_tensors_must_be_those_of_the_conversion() -> None:
    net = convert(network(Defaults))
    x = torch.randn(1, 4, 3, 5, 6)
    for layer in (net[1], crossd.to_3d(net)[1]):  # type: ignore[index]
        torch.testing.assert_close(layer(x, twice=False), layer(x))
        with pytest.raises(AssertionError, match="twice must be False"):
            layer(x, twice=True)
    images = torch.randn(1, 4, 5, 6)
    torch.testing.assert_close(net[1](images, twice=True), 2 * net[1](images))


def test_a_tensor_given_as_an_argument_is_taken() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.body = nn.Conv2d(1, 4, 1), Defaults()

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return self.body(self.conv(x), mask)

    mask = torch.tensor([1.0, 0.0, 2.0, 0.0])
    net = convert(Masked().eval(), example=(torch.randn(1, 1, 16, 16), mask))
    x = torch.randn(2, 1, 4, 5, 6)
    expected = net.conv(x) * net.body.scale.view(4, 1, 1, 1) * mask.view(4, 1, 1, 1)
    torch.testing.assert_close(net(x, mask), expected)


def test_lifted_networks_compile_as_one_graph_and_export() -> None:
    torch.compiler.reset()
    net = convert(nn.Sequential(nn.Conv2d(1, 4, 3), SqueezeExcite(), Shuffle())).eval()
    for x in (torch.randn(2, 1, 6, 9, 8), torch.randn(2, 1, 9, 8)):
        compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), net(x))
        program = torch.export.export(net, (x,))
        torch.testing.assert_close(program.module()(x), net(x))


# Refusals


class Unfold(Base):
    def forward(self, x: Tensor) -> Tensor:
        return F.unfold(x, 3, padding=1).view(x.shape[0], -1, *x.shape[2:])[:, :4]


class SizeBranch(Base):
    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        if h > 65:
            x = x + 1
        return x.view(n, c, h, w)


class Rows(Base):
    def forward(self, x: Tensor) -> Tensor:
        return x * x[:, :, 0:3].mean((2, 3), keepdim=True) + x[:, :, 2].unsqueeze(2)


class Positions(Base):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 4, 64, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + F.interpolate(self.table, size=x.shape[2:], mode="bicubic")


class DataBranch(Base):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) if x.abs().sum() > 0 else x


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Unfold, "unfold has no counterpart"),
        (SizeBranch, "branches on the size"),
        (Rows, "takes rows of the image by number"),
        (Positions, "bicubic"),
        (DataBranch, "branches on what is in the image"),
    ],
)
def test_what_cannot_be_lifted_is_refused_by_name(kind: type[nn.Module], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        convert(nn.Sequential(nn.Conv2d(1, 4, 1), kind()))
    text = str(caught.value)
    assert f"layer '1' of type {__name__}.{kind.__name__}" in text and "\n" not in text
