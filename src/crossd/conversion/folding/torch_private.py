"""Every private name of torch that conversion needs, each with the reason.

There is no public way to what these do. A release that renames one breaks here and nowhere else.
"""

import inspect
import sys
import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._ops import OpOverload, OpOverloadPacket
from torch.autograd.variable import Variable
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import CheckpointFunction, _CheckpointFrame

__all__ = [
    *("BatchNormBase", "ConvBase", "Operation", "OperationMode"),
    *("after_backward", "in_backward", "no_view", "part", "part_since", "region", "show_padding"),
]


BatchNormBase = _BatchNorm
"""The base of all batch norms, SyncBatchNorm among them: what keeps running statistics."""


ConvBase = _ConvNd
"""The base of all convolutions, plain and transposed, of one to three dimensions."""


Operation = (OpOverload, OpOverloadPacket)
"""What code calls that calls an operation by its registered name, as those of other libraries."""


OperationMode = TorchDispatchMode
"""The base of what sees every operation, those that compiled code asks for too."""


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


def part() -> tuple[object, object]:
    """Tell which part of a forward pass runs that is to be recomputed, or is recomputed now.

    `torch.utils.checkpoint` keeps one object for each part, unless it is reentrant, but hands it to
    the hooks alone that it sets meanwhile.

    Returns:
        That object, and another one that each recomputation has of its own; both None outside.
    """
    if torch.compiler.is_compiling():
        return None, None
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    kept: object = inspect.unwrap(hooks[0]) if hooks is not None else None
    for cell in getattr(kept, "__closure__", None) or ():
        kept = cell.cell_contents
        kept = kept() if isinstance(kept, weakref.ref) else kept
        if isinstance(kept, _CheckpointFrame):
            return kept, hooks[0]
    return None, None


def part_since(before: object) -> bool:
    """Tell whether a part that is to be recomputed began since `region` gave another answer."""
    now: Any = region()
    known: Any = before
    if now == known or None in (now, known):  # a compiled graph ends or begins here
        return False
    if now[1] != known[1]:
        return part()[0] is not None
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code is CheckpointFunction.forward.__code__:
            return True
    return False


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
