"""A CUDA device for machines without one: it finds tensors on the wrong device, and waits.

Tensors of torch's `FakeTensorMode` have a shape, a type and a device, but no values. Operations on
them compare devices as a GPU does, and who asks for a value is found out, as there is none. Nothing
is computed, so what this cannot tell is whether a kernel of CUDA's gives the right numbers, in the
memory that there is, in what time.
"""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.accelerators.cpu import CPUAccelerator
from lightning_fabric.plugins.precision.amp import MixedPrecision
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from crossd.training import devices
from crossd.utils import one_device

CUDA = torch.device("cuda", 0)

OURS = (str(Path(__file__).parents[1] / "src"), str(Path(__file__).parent))
"""Folders whose functions are named as the places of waits."""

aten = torch.ops.aten

INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)


class FakeCuda:
    """A device on which nothing is computed, beside a processor that computes as ever.

    Attributes:
        waits: Where the processor waited for the device, as often as it did: the file and the
            function of crossd, or of a test, that is called last, as "file.py: function".
    """

    def __init__(self) -> None:
        self.mode = FakeTensorMode()
        self.waits: list[str] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let there be the device, and note who waits for it."""
        with (
            mock.patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
            mock.patch("torch.cuda.is_bf16_supported", lambda: True),
            self.mode,
            _Device(self),
        ):
            yield

    def step(self, net: nn.Module, *shape: int) -> None:
        """Run a network that was moved, forward and backward, and see that nothing waits.

        Args:
            net: In evaluation mode it runs forward alone, without gradients.
            *shape: Of its images or volumes.
        """
        net.zero_grad()
        with self.running(), torch.set_grad_enabled(net.training):
            answers = tree_leaves(net(torch.empty(shape, device=CUDA)))
            assert answers and all(answer.device == CUDA for answer in answers)
            if net.training:
                backward(torch.stack([y.float().square().mean() for y in answers]).sum())
        assert not self.waits, f"the processor waits for the device in {self.waits}"

    def moved(self, net: nn.Module) -> Any:
        """Put a network on the device, in place."""
        with self.running():
            return changed(net, lambda v: self.mode.from_tensor(v).to(CUDA, non_blocking=True))


def changed(net: nn.Module, function: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
    """Change the tensors of a network in place, as `nn.Module._apply`; what is shared stays so.

    That of torch puts other values into tensors, which fake ones do not allow.
    """
    made: dict[int, Tensor] = {}
    for module in net.modules():
        for own in (module._parameters, module._buffers):
            for name, value in own.items():
                if value is None:
                    continue
                if id(value) not in made:
                    new = function(value.detach())
                    if isinstance(value, nn.Parameter):
                        new = nn.Parameter(new, value.requires_grad)
                    made[id(value)] = new
                own[name] = made[id(value)]  # type: ignore[assignment]
    return net


class _Device(TorchDispatchMode):
    """Does on the processor what is of the processor alone, and anything else with fake tensors.

    It notes what waits for the device. Who copies from the device to the processor gets zeros.
    """

    def __init__(self, gpu: FakeCuda) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [v for v in tree_leaves((args, kwargs)) if isinstance(v, Tensor)]
        fake = any(isinstance(v, FakeTensor) for v in given)
        if not fake and not any(_is_cuda(v) for v in tree_leaves((args, kwargs))):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if func is aten._local_scalar_dense.default:
            self._note()
            return _one(given[0].dtype)
        if func in (aten.equal.default, aten.allclose.default):
            self._note()
            return True
        args, kwargs = tree_map_only(Tensor, self._fake, (args, kwargs))
        found = func(*args, **kwargs)
        mixed = {v.device for v in [*given, *tree_leaves(found)] if isinstance(v, Tensor)}
        if len(mixed) > 1 and func in INDEXING:
            self._note()  # the index is copied to the device
        if len(mixed) > 1 and func in (aten._to_copy.default, aten.copy_.default):
            if not (kwargs.get("non_blocking") or True in args[2:]):
                self._note()
            if found.device.type == "cpu":
                with unset_fake_temporarily():
                    return torch.zeros(found.shape, dtype=found.dtype)
        return found

    def _fake(self, value: Tensor) -> Tensor:
        return value if isinstance(value, FakeTensor) else self.gpu.mode.from_tensor(value)

    def _note(self) -> None:
        self.gpu.waits.append(_place(sys._getframe(2)))


def _one(kind: torch.dtype) -> float | bool:
    """Give what is read: one, or true."""
    return 1.0 if kind.is_floating_point else True if kind == torch.bool else 1


def _is_cuda(value: object) -> bool:
    return isinstance(value, torch.device) and value.type == "cuda"


def _place(frame: FrameType | None) -> str:
    """Name the function of crossd or of a test that is called last."""
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(OURS) and code.co_filename != __file__:
            return f"{Path(code.co_filename).name}: {code.co_name}"
        frame = frame.f_back
    return "elsewhere"


def backward(loss: Tensor) -> None:
    """Run the backward pass of a loss on a fake device, and give leaves their gradients.

    torch's own engine asks the driver for streams, and there is none. This one calls the same nodes
    without their hooks, and sees that gradients are on the device of what they are gradients of.
    """
    root: Any = loss.grad_fn
    uses: dict[Any, int] = defaultdict(int)
    met, todo = {root}, [root]
    while todo:
        for node, _ in todo.pop().next_functions:
            uses[node] += 1
            if node is not None and node not in met:
                met.add(node)
                todo.append(node)
    grads: dict[Any, dict[int, Tensor]] = defaultdict(dict)
    grads[root][0] = torch.ones_like(loss)
    ready, engine = [root], _Engine()
    with (
        torch.no_grad(),
        mock.patch.object(torch._C, "_current_graph_task_id", lambda: 1),
        mock.patch.object(torch.autograd.Variable, "_execution_engine", engine),
    ):
        while ready:
            node = ready.pop()
            for (following, place), grad in zip(
                node.next_functions, _called(node, grads.pop(node, {})), strict=False
            ):
                if following is None:
                    continue
                if grad is not None:
                    wanted = following._input_metadata[place]
                    assert grad.device == wanted.device, f"{node}: {grad.device}"
                    grad = grad.sum_to_size(wanted.shape).to(wanted.dtype)
                    before = grads[following].get(place)
                    grads[following][place] = grad if before is None else before + grad
                uses[following] -= 1
                if uses[following] == 0:
                    ready.append(following)
    for callback in engine.callbacks:
        callback()


class _Engine:
    """Keeps what is to be called at the end of a backward pass."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[], None]] = []
        self.queue_callback = self.callbacks.append


def _called(node: Any, grads: dict[int, Tensor]) -> Sequence[Tensor | None]:
    """Give the gradients of what a node was given from those of what it gave."""
    if not grads:
        return [None] * len(node.next_functions)
    if hasattr(node, "variable"):
        leaf = node.variable
        leaf.grad = grads[0].detach() if leaf.grad is None else leaf.grad + grads[0]
        return ()
    call = getattr(node, "apply", node)  # of functions in Python and in C++
    found = call(*[grads.get(i) for i in range(len(node._input_metadata))])
    return found if isinstance(found, tuple) else (found,)


class _Accelerator(CPUAccelerator):
    """Takes any device."""

    def setup_device(self, device: torch.device) -> None:
        """Do nothing: there is no driver."""


def installed(gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch, precision: str = "32-true") -> None:
    """Let trainings and answers of crossd run on the device."""
    plugin = None if precision == "32-true" else MixedPrecision(precision, "cuda")  # type: ignore[arg-type]
    fabric = Fabric(accelerator=_Accelerator(), devices=1, plugins=plugin)
    fabric._strategy._root_device = CUDA  # type: ignore[attr-defined]
    there = nn.Module.to

    def to(net: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        if args != (CUDA,):
            return there(net, *args, **kwargs)
        tensors = [*net.parameters(), *net.buffers()]
        return net if all(v.device == CUDA for v in tensors) else gpu.moved(net)

    monkeypatch.setattr(devices, "_joined", fabric)
    monkeypatch.setattr(one_device, "OneDevice", lambda precision: fabric)
    monkeypatch.setattr(nn.Module, "to", to)
    monkeypatch.setattr(nn.Module, "_apply", changed)
    monkeypatch.setattr(Tensor, "backward", backward)
