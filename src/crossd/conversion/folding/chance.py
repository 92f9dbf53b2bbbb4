"""Chance, on slices of volumes: one draw for a volume of what is drawn once for a sample."""

import torch
import torch.nn.functional as F
from torch import Tensor

from crossd.conversion.folding.run import Function, Run
from crossd.conversion.folding.volumes import HANDLERS, on_slices


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
    dropped = input * _alike(run, func(torch.ones_like(input), p, training), depth)
    return input.copy_(dropped) if inplace else run.mark(dropped, depth)


HANDLERS[F.dropout] = _dropout


def _alike(run: Run, drawn: Tensor, depth: int) -> Tensor:
    """Give all slices of a volume what the first of them drew, in place."""
    stack = torch.unflatten(drawn, 0, (run.number, depth, -1))
    return drawn.copy_(stack[:, :1].clone().expand_as(stack).flatten(0, 2))


def _draw(run: Run, func: Function, *args: object, **kwargs: object) -> Tensor:
    """Draw once for a volume what is drawn once for a sample."""
    drawn: Tensor = func(*args, **kwargs)
    given = next((value for value in args if isinstance(value, Tensor)), None)
    depth = run.rows(drawn if given is None else given)
    if depth is None or drawn.dim() == 0:
        return drawn
    if not _of_samples(run, drawn, given, depth):
        # Two axes of which neither is known may be a map, or vectors of each slice.
        run.own_draws += drawn.dim() == 2 and drawn.shape[0] == run.number * depth
        return drawn
    return run.mark(_alike(run, drawn, depth), depth)


def _of_samples(run: Run, drawn: Tensor, given: Tensor | None, depth: int) -> bool:
    """Tell whether random numbers have a row for each slice, and no pixels.

    They are numbers ``(N D,)``, vectors ``(N D, C)`` or maps of one pixel ``(N D m, C, 1, 1)``. One
    of two axes may be of the rows of a map, unless they are drawn for a tensor of slices.

    Args:
        run: The run that is under way.
        drawn: The numbers.
        given: The tensor for which they were drawn; None where code gave their shape.
        depth: Slices of a volume.
    """
    rows, per_row = drawn.shape[0], drawn.shape[1:].numel()
    if drawn.dim() > 2:
        pixel = drawn.dim() == 4 and per_row in (drawn.shape[1], drawn.shape[3])
        return rows % (run.number * depth) == 0 and (per_row == 1 or pixel)
    if drawn.dim() == 2 and (given is None or (run.depth_of(given) is None and per_row > 1)):
        return False
    return rows == run.number * depth


for draw in (
    *(torch.rand, torch.randn, torch.randint, torch.normal, torch.bernoulli, Tensor.bernoulli),
    *(torch.rand_like, torch.randn_like, torch.randint_like, torch.poisson, torch.binomial),
    *(torch.multinomial, Tensor.multinomial, Tensor.bernoulli_, Tensor.uniform_, Tensor.normal_),
    *(Tensor.exponential_, Tensor.random_, Tensor.geometric_, Tensor.cauchy_, Tensor.log_normal_),
):
    HANDLERS[draw] = _draw
