"""Chance, on slices of volumes: one draw for a volume."""

import torch
import torch.nn.functional as F
from torch import Tensor

from crossd.conversion.folding.run import Function, Run
from crossd.conversion.folding.volumes import HANDLERS, on_slices

# Chance: one draw for a volume


@on_slices(F.dropout2d)
def _channel_dropout(
    run: Run,
    func: Function,
    depth: int,
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> Tensor:
    return run.fold(F.dropout3d(run.unfold(input, depth), p, training, inplace))


def _dropout(
    run: Run,
    func: Function,
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> Tensor:
    """Drop for all slices of a volume alike what is said of the whole of it: vectors."""
    depth = run.slices(input) if training and input.dim() in (2, 4) else None
    if depth is None or input[0].numel() != input.shape[1]:
        answer: Tensor = func(input, p, training, inplace)
        return answer
    stack = torch.unflatten(input, 0, (run.number, depth, -1))
    dropped = (stack * func(torch.ones_like(stack[:, :1]), p, training)).flatten(0, 2)
    return input.copy_(dropped) if inplace else run.mark(dropped, depth)


HANDLERS[F.dropout] = _dropout


def _drop_path(run: Run, func: Function, x: Tensor, *args: object, **kwargs: object) -> Tensor:
    """Draw once for a volume what is drawn once for a sample: shape ``(N D m, 1, 1, ...)``."""
    depth = run.rows(x) if x.dim() > 1 and x[0].numel() == 1 else None
    if depth is None:
        answer: Tensor = func(x, *args, **kwargs)
        return answer
    stack = torch.unflatten(x, 0, (run.number, depth, -1))
    drawn = func(stack[:, :1].clone(), *args, **kwargs)
    return x.copy_(drawn.expand_as(stack).flatten(0, 2))


HANDLERS[Tensor.bernoulli_] = _drop_path


def _drawn_once(run: Run, func: Function, *args: object, **kwargs: object) -> Tensor:
    """Draw once for a volume what is drawn once for a sample, by a function that makes tensors.

    It is known by its shape ``(N D m, 1, 1, ...)``; one of two axes may be of the rows of a map.
    """
    drawn: Tensor = func(*args, **kwargs)
    depth = run.rows(drawn) if drawn.dim() > 2 and drawn[0].numel() == 1 else None
    if depth is None:
        return drawn
    stack = torch.unflatten(drawn, 0, (run.number, depth, -1))
    return run.mark(stack[:, :1].expand_as(stack).flatten(0, 2).contiguous(), depth)


for draw in (torch.rand, torch.randn, torch.bernoulli):
    HANDLERS[draw] = _drawn_once
