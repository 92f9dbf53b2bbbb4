"""Layers on a CUDA device that is not there: all tensors are made on it, and nothing waits for it.

What holds the product is held itself: a layer that reads a value, or makes a tensor on the
processor, is found.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from fake_cuda import CUDA, FakeCuda, backward
from helpers import close, normal
from torch import Tensor, nn

from crossd.nn.acs import ACSConv, ACSConvTranspose
from crossd.nn.conv import CrossDConv
from crossd.nn.conv_transpose import CrossDConvTranspose
from crossd.nn.conv_variants import SameConv, StdConv
from crossd.nn.kernel_modes import KERNEL_MODES
from crossd.nn.planar import PlanarConv
from crossd.nn.views import replicated_ends, view

SETTINGS: dict[str, dict[str, Any]] = {
    "stride": {"kernel_size": 3, "stride": 2, "padding": 1},
    "even": {"kernel_size": 2, "groups": 2, "bias": False},
    "oblong": {"kernel_size": (1, 5), "depth_kernel_size": 1, "padding": "same"},
    "mirrored": {"kernel_size": 5, "padding": 2, "padding_mode": "reflect"},
    "pixel": {"kernel_size": 1},
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("mode", KERNEL_MODES)
def test_convolutions(gpu: FakeCuda, mode: str, setting: str) -> None:
    net = gpu.moved(CrossDConv(4, 6, **SETTINGS[setting], kernel_mode=mode))
    for training in (True, False):
        net.train(training)
        gpu.step(net, 2, 4, 9, 10)
        gpu.step(net, 2, 4, 5, 9, 10)
        with replicated_ends((0,)):
            gpu.step(net, 2, 4, 5, 9, 10)


@pytest.mark.parametrize("mode", KERNEL_MODES)
def test_transposed_convolutions(gpu: FakeCuda, mode: str) -> None:
    net = gpu.moved(CrossDConvTranspose(4, 6, 3, stride=2, kernel_mode=mode))
    gpu.step(net, 2, 4, 5, 6)
    gpu.step(net, 2, 4, 3, 5, 6)


@pytest.mark.parametrize("views", [(1,), (0, 1, 1, 2), (2, 0, 1, 0)])
@pytest.mark.parametrize("kind", [CrossDConv, CrossDConvTranspose])
@pytest.mark.parametrize("mode", KERNEL_MODES)
def test_views_of_one_batch(gpu: FakeCuda, mode: str, kind: Any, views: tuple[int, ...]) -> None:
    """Whether they are sorted, as in training, or not."""
    net = gpu.moved(kind(4, 6, 3, kernel_mode=mode))
    with view(views):
        gpu.step(net, len(views), 4, 6, 6)


@pytest.mark.parametrize("size", [3, 24])
def test_both_ways_of_a_kernel_for_each_sample(gpu: FakeCuda, size: int) -> None:
    """Small maps take patches, large ones kernels: see `crossd.nn.per_sample.chosen`."""
    gpu.step(gpu.moved(CrossDConv(4, 6, 3, kernel_mode="fourier")), 3, 4, size, size)


def test_other_layers(gpu: FakeCuda) -> None:
    padded: dict[str, Any] = {"planar": nn.Conv2d(4, 6, 3), "fixed_margins": [(0, 1)] * 3}
    layers = (
        SameConv(4, 6, 3, **padded),
        StdConv(4, 6, 3, eps=1e-6, scale=1.0),
        PlanarConv(4, 6, 3, 2, 1, plane="DW"),
        ACSConv(4, 6, 3, 1, 1),
        ACSConvTranspose(4, 6, 2, 2),
    )
    for layer in layers:
        net = gpu.moved(layer)
        gpu.step(net, 2, 4, 9, 10)
        gpu.step(net, 2, 4, 8, 9, 10)


@pytest.mark.parametrize("mode", KERNEL_MODES)
def test_bfloat16(gpu: FakeCuda, mode: str) -> None:
    net = gpu.moved(CrossDConv(4, 6, 3, kernel_mode=mode))
    seen: list[torch.dtype] = []
    net.register_forward_hook(lambda *given: seen.append(given[2].dtype))

    def within(*shape: int) -> None:
        with gpu.running(), torch.autocast("cuda", torch.bfloat16):
            gpu.step(net, *shape)

    within(2, 4, 9, 10)
    within(2, 4, 5, 9, 10)
    assert seen == [torch.bfloat16] * 2
    assert net.weight.grad.dtype == torch.float32


# That this finds what it is to find

READS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda y: y.sum().item(),
    "float": lambda y: float(y.detach().sum()),
    "if": lambda y: 1 if y.isfinite().all() else 0,
    "list": lambda y: y[0, 0, 0].tolist(),
    "copy to the processor": lambda y: y.cpu(),
    "copy from the processor": lambda y: torch.ones(3).to(y.device),
    "constant": lambda y: torch.tensor([1.0, 2.0], device=y.device),
    "constant of the same kind": lambda y: y.new_tensor([1.0, 2.0]),
    "list as index": lambda y: y[:, [0, 1]],
    "index on the processor": lambda y: y[torch.tensor([0, 1])],
    "comparison": lambda y: torch.equal(y, y),
}


def spoilt(monkeypatch: pytest.MonkeyPatch, more: Callable[[Tensor], object]) -> None:
    """Let convolutions do something more with what they give."""
    forward = CrossDConv.forward

    def with_more(self: CrossDConv, x: Tensor) -> Tensor:
        y = forward(self, x)
        more(y)
        return y

    monkeypatch.setattr(CrossDConv, "forward", with_more)


@pytest.mark.parametrize("read", READS)
def test_a_layer_that_waits_is_found(
    gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch, read: str
) -> None:
    net = gpu.moved(CrossDConv(4, 6, 3))
    gpu.step(net, 2, 4, 9, 10)
    spoilt(monkeypatch, READS[read])
    with pytest.raises(AssertionError, match=r"waits for the device in \['test_fake_cuda\.py: "):
        gpu.step(net, 2, 4, 9, 10)


@pytest.mark.parametrize(
    "make",
    [lambda y: y + torch.zeros(y.shape[-1]), lambda y: y * torch.arange(y.shape[-1])],
    ids=["zeros", "arange"],
)
def test_a_tensor_on_the_processor_is_found(
    gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch, make: Any
) -> None:
    spoilt(monkeypatch, make)
    with pytest.raises(RuntimeError, match="same device"):
        gpu.step(gpu.moved(CrossDConv(4, 6, 3)), 2, 4, 9, 10)


def test_a_number_of_unknown_size_is_found(gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    spoilt(monkeypatch, lambda y: y[y > 0])
    with pytest.raises(Exception, match="nonzero"):
        gpu.step(gpu.moved(CrossDConv(4, 6, 3)), 2, 4, 9, 10)


def test_a_wait_in_the_backward_pass_is_found(gpu: FakeCuda) -> None:
    class Reads(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return grad * grad.sum().item()

    class Layer(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = Reads.apply(super().forward(x))
            return y

    with pytest.raises(AssertionError, match=r"test_fake_cuda\.py: backward"):
        gpu.step(gpu.moved(Layer(4, 2)), 3, 4)


@pytest.mark.parametrize("shape", [(2, 4, 6, 7), (2, 4, 5, 6, 7)])
def test_gradients_are_those_of_torch(shape: tuple[int, ...]) -> None:
    """Of what calls the nodes of the graph in place of torch's engine."""
    layers = (CrossDConv(4, 6, 3, kernel_mode="fourier-projection"), nn.BatchNorm2d(6))
    net: Any = nn.Sequential(*(layers if len(shape) == 4 else layers[:1])).double()
    found = []
    for run in (backward, Tensor.backward):
        net.zero_grad()
        y = net(normal(*shape))
        run((y * y.exp()).sum() + y.sum())
        found.append([p.grad for p in net.parameters()])
    for one, other in zip(*found, strict=True):
        close(one, other)


def test_what_does_not_wait(gpu: FakeCuda) -> None:
    with gpu.running():
        x = torch.empty(2, 3, device="cuda")
        x = x + torch.tensor(2.0)  # a number of the processor goes along with the operation
        x = x * torch.ones(3).to(x.device, non_blocking=True)
        x = torch.where(x > 0, x, 0.0).index_fill(0, torch.zeros(1, device=CUDA).long(), 1.0)
        assert torch.arange(3).tolist() == [0, 1, 2]  # the processor computes as ever
    assert not gpu.waits
    assert x.device == CUDA
