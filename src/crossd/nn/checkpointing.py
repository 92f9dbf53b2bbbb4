"""Activation checkpointing: less memory in training for a third more time."""

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.utils.checkpoint import checkpoint

from crossd.errors import InputError
from crossd.nn.views import current_resume

Network = TypeVar("Network", bound=nn.Module)


def checkpoint_activations(net: Network, enabled: bool = True) -> Network:
    """Recompute the inside of every block in the backward pass instead of keeping it.

    A block is a smallest part of the network with two convolutions or more (a residual block, a
    stage of a U-Net), or two linear layers where there are no convolutions (attention, and the
    layers beside it). Answers, gradients and running statistics are those of the network without
    it: the recomputation takes the view and the random state of the forward pass, and does not
    touch buffers. Compiled networks keep their own choice of what to recompute.

    Args:
        net: Any network, 2D, Cross-D or 3D; it is changed in place.
        enabled: False takes it back.

    Returns:
        The same network.

    Raises:
        InputError: "no block ..." when no part holds two of either.

    Example:
        >>> net = nn.Sequential(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)))
        >>> y = checkpoint_activations(net)(torch.zeros(1, 1, 9, 9))
        >>> y.sum().backward()
    """
    for module in net.modules():
        if _is_ours(module.__dict__.get("forward")):
            del module.forward
    if not enabled:
        return net
    blocks: list[nn.Module] = []
    for kind in (_ConvNd, nn.Linear):
        blocks = blocks or [block for child in net.children() for block in _blocks(child, kind)]
    if not blocks:
        raise InputError(
            "no block to checkpoint: no part of the network holds two convolutions or linear layers"
        )
    for block in blocks:
        block.forward = functools.partial(_forward, block)
    return net


def _is_ours(forward: object) -> bool:
    return isinstance(forward, functools.partial) and forward.func is _forward


def _blocks(module: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
    if isinstance(module, kind):
        return []
    inner = [block for child in module.children() for block in _blocks(child, kind)]
    return inner or ([module] if _layers(module, kind) > 1 else [])


def _layers(module: nn.Module, kind: type[nn.Module]) -> int:
    """Count layers; what predicts a layer's pose is a part of it."""
    if isinstance(module, kind):
        return 1
    return sum(_layers(child, kind) for child in module.children())


def _forward(block: nn.Module, *given: Any, **named: Any) -> Any:
    forward = functools.partial(type(block).forward, block)
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return forward(*given, **named)
    resume = current_resume()

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _Again(block, resume)

    return checkpoint(forward, *given, use_reentrant=False, context_fn=contexts, **named)


class _Again:
    """A context in which a block runs once more as it ran, however often it is entered.

    Args:
        block: Its buffers are left alone meanwhile.
        resume: Makes the context in which it ran, in any thread.
    """

    def __init__(
        self, block: nn.Module, resume: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self.block, self.resume = block, resume
        self.entered: list[ExitStack] = []

    def __enter__(self) -> None:
        stack = ExitStack()
        stack.enter_context(_spared_buffers(self.block))
        stack.enter_context(self.resume())
        self.entered.append(stack)

    def __exit__(self, *reason: Any) -> None:
        self.entered.pop().__exit__(*reason)


@contextmanager
def _spared_buffers(block: nn.Module) -> Iterator[None]:
    """Let a block work on copies of its buffers."""
    kept = [(module, dict(module._buffers)) for module in block.modules() if module._buffers]
    for module, buffers in kept:
        copies = {name: None if b is None else b.clone() for name, b in buffers.items()}
        module._buffers.update(copies)
    try:
        yield
    finally:
        for module, buffers in kept:
            module._buffers.update(buffers)
