"""Every private name of torch that conversion needs, each with the reason.

There is no public way to what these do. A release that renames one breaks here and nowhere else.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.variable import Variable
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

__all__ = [
    *("BatchNormBase", "ConvBase"),
    *("after_backward", "in_backward", "no_view", "region", "show_padding"),
]

BatchNormBase = _BatchNorm
"""The base of all batch norms, SyncBatchNorm among them: what keeps running statistics."""

ConvBase = _ConvNd
"""The base of all convolutions, plain and transposed, of one to three dimensions."""


def in_backward() -> bool:
    """Tell whether autograd is running a backward pass in this thread.

    A module that is called then is being recomputed by activation checkpointing: torch calls it
    once more, and says so nowhere else. Never in a compiled graph.
    """
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def after_backward(callback: Callable[[], None]) -> None:
    """Call something at the end of the backward pass that is running (as DDP and FSDP do)."""
    Variable._execution_engine.queue_callback(callback)


def region() -> object:
    """Tell whether what runs is to be recomputed: two places with equal answers are in one part.

    `torch.utils.checkpoint` runs a part without gradients or with hooks for what it saves. All of a
    compiled graph is one part.
    """
    if torch.compiler.is_compiling():
        return None
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    return torch.is_grad_enabled(), None if hooks is None else id(hooks[0])


def no_view(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Give a tensor another shape, without a copy, as one that is no view of it to autograd.

    Torch does so with what its own products have made. For a tensor that nobody else holds.
    """
    made: Tensor = torch.ops.aten._unsafe_view(x, shape)
    return made


def show_padding() -> None:
    """Let a compiler that traces a network hand `F.pad` to the mode that watches functions.

    It takes it apart instead, which the mode would not see. A compiler calls this function once,
    when it meets it, because of the mark below; `torch.compiler.assume_constant_result` sets the
    same mark, but loads the compiler, which takes a second that few need.
    """
    torch.compiler.allow_in_graph(F.pad)


show_padding._dynamo_marked_constant = True  # type: ignore[attr-defined]
