"""Activation checkpointing: the same network with less memory, in every view and thread."""

import copy
import pickle
import threading
from typing import Any

import pytest
import torch
from helpers import close, normal, some
from monai.networks.nets.basic_unet import BasicUNet
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torchvision.models import resnet18

import crossd
from crossd.errors import InputError
from crossd.nn.checkpointing import checkpoint_activations

MODES = ["projection", "slice", "fourier", "fourier-projection"]


class Block(nn.Module):
    """Two convolutions with what may differ when it is run again: BatchNorm and dropout."""

    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(i, o, 3, padding=1)
        self.norm = nn.BatchNorm2d(o)
        self.drop = nn.Dropout(0.3)
        self.second = nn.Conv2d(o, o, 3, padding=1)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return self.second(self.drop(self.norm(self.first(x)).relu())) * scale


def network() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), Block(4, 4), nn.MaxPool2d(2), Block(4, 6))
    return net.double()


def step(net: nn.Module, x: Tensor, **named: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Answer and gradients of a step whose random numbers are always the same."""
    torch.manual_seed(3)
    y = net(x, **named)
    net.zero_grad()
    y.square().sum().backward()
    return y.detach(), {n: p.grad for n, p in net.named_parameters() if p.grad is not None}


def same(net: nn.Module, twin: nn.Module, x: Tensor) -> None:
    """Compare answer, gradients, buffers and the random state after a step."""
    (y, grads), state = step(net, x), torch.get_rng_state()
    z, others = step(twin, x)
    close(y, z)
    assert torch.equal(state, torch.get_rng_state())
    assert grads.keys() == others.keys() and grads
    for name, grad in grads.items():
        close(grad, others[name])
    for (name, a), (_, b) in zip(net.named_buffers(), twin.named_buffers(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("mode", MODES)
def test_what_predicts_poses_is_a_part_of_its_block(mode: str) -> None:
    net = crossd.convert(network(), mode, check=False)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * normal(*parameter.shape, seed=parameter.numel()))
    twin = checkpoint_activations(copy.deepcopy(net))
    blocks = [name for name, module in twin.named_modules() if "forward" in vars(module)]
    assert blocks == ["1", "3"]
    same(net, twin, normal(2, 2, 9, 8, 10))


VIEWS = ["axial", "coronal", "sagittal", "random", None, ["axial"] * 2]


@pytest.mark.parametrize("view", some(VIEWS, ["coronal", None]))
@pytest.mark.parametrize("mode", MODES)
def test_cross_d_in_every_view(mode: str, view: Any) -> None:
    net = crossd.convert(network(), mode)
    with torch.no_grad():
        for parameter in net.parameters():  # no symmetry that would hide a wrong view
            parameter.add_(0.1 * normal(*parameter.shape, seed=parameter.numel()))
    twin = checkpoint_activations(copy.deepcopy(net))
    x = normal(2, 2, 9, 9)
    if view is None:  # drawn for each forward pass
        same(net, twin, x)
        return
    torch.manual_seed(8)  # for a view that is drawn
    with crossd.view(view):
        y, grads = step(net, x)
    torch.manual_seed(8)
    with crossd.view(view):
        torch.manual_seed(3)
        z = twin(x)
    twin.zero_grad()
    z.square().sum().backward()  # outside of the view
    close(y, z.detach())
    for name, parameter in twin.named_parameters():
        if name in grads:
            assert parameter.grad is not None
            close(parameter.grad, grads[name])


@pytest.mark.parametrize("mode", MODES)
def test_cross_d_on_volumes(mode: str) -> None:
    net = crossd.convert(network(), mode)
    same(net, checkpoint_activations(copy.deepcopy(net)), normal(2, 2, 7, 9, 9))


@pytest.mark.parametrize("net", [resnet18(num_classes=3), BasicUNet(2, 3, 2, (4, 4, 8, 8, 8, 4))])
def test_networks_of_others(net: nn.Module) -> None:
    net = net.double().train()
    same(net, checkpoint_activations(copy.deepcopy(net)), normal(2, 3, 32, 32))


def test_backward_in_another_thread_takes_the_view_of_the_forward_pass() -> None:
    net = crossd.convert(network(), "slice", lift=None)
    twin = checkpoint_activations(copy.deepcopy(net))
    x = normal(2, 2, 9, 9)
    with crossd.view("sagittal"):
        _, grads = step(net, x)
        torch.manual_seed(3)
        loss = twin(x).square().sum()
    thread = threading.Thread(target=loss.backward)
    thread.start()
    thread.join()
    for name, parameter in twin.named_parameters():
        if name in grads:
            assert parameter.grad is not None
            close(parameter.grad, grads[name])


def test_less_is_kept() -> None:
    def kept(net: nn.Module) -> int:
        numbers = 0

        def pack(t: Tensor) -> Tensor:
            nonlocal numbers
            numbers += t.numel()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            net(normal(4, 2, 32, 32))
        return numbers

    net = crossd.convert(network(), "projection")
    assert kept(checkpoint_activations(copy.deepcopy(net))) < 0.6 * kept(net)


def test_blocks_are_the_smallest_parts_with_two_convolutions() -> None:
    net = checkpoint_activations(resnet18())
    changed = [name for name, module in net.named_modules() if "forward" in vars(module)]
    assert changed == [f"layer{i}.{j}" for i in (1, 2, 3, 4) for j in (0, 1)]
    for name in changed:
        assert sum(isinstance(m, _ConvNd) for m in net.get_submodule(name).modules()) > 1


def test_taken_back() -> None:
    net = checkpoint_activations(network())
    assert checkpoint_activations(net, enabled=False) is net
    assert not any("forward" in vars(module) for module in net.modules())


def test_twice_is_once() -> None:
    net = checkpoint_activations(checkpoint_activations(network()))
    same(network(), net, normal(2, 2, 9, 9))


def test_a_forward_of_the_users_own_is_left_alone() -> None:
    net: Any = network()
    net[1].forward = lambda x: x
    checkpoint_activations(net, enabled=False)
    assert net[1](1) == 1


def test_without_gradients_nothing_is_recomputed() -> None:
    net = checkpoint_activations(network()).eval()
    with torch.inference_mode():
        close(net(normal(2, 2, 9, 9)), network().eval()(normal(2, 2, 9, 9)))


def test_a_network_without_blocks_is_refused() -> None:
    with pytest.raises(InputError, match=r"^no block to checkpoint"):
        checkpoint_activations(nn.Sequential(nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3)))


def test_copies_and_pickles() -> None:
    net = checkpoint_activations(network())
    twins: list[Any] = [copy.deepcopy(net), pickle.loads(pickle.dumps(net))]
    for twin in twins:
        same(network(), twin, normal(2, 2, 9, 9))
        assert twin[1].forward.args[0] is twin[1]


@pytest.mark.parametrize("to", [crossd.to_2d, crossd.to_3d])
def test_plain_networks_are_free_of_it(to: Any) -> None:
    plain = to(checkpoint_activations(crossd.convert(network())))
    assert not any("forward" in vars(module) for module in plain.modules())


def test_compiles_as_one_graph() -> None:
    torch.compiler.reset()
    net = checkpoint_activations(network().eval())
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    close(compiled(normal(2, 2, 9, 9)), network().eval()(normal(2, 2, 9, 9)))
