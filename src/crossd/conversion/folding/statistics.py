"""Norms and reductions over the plane, on slices of volumes: over the whole volume."""

import math
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor

from crossd.conversion.folding.run import Function, Run
from crossd.conversion.folding.volumes import HANDLERS, on_slices

# Statistics of the plane


def _batch_norm(
    run: Run,
    func: Function,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Work on the volume where slices are views of one: the same numbers, in their order.

    What is said of whole volumes counts once for each, although all of its slices say it.
    """
    settings = (weight, bias, training, momentum, eps)
    depth = run.slices(input)
    vectors = input[0].numel() == input.shape[1]
    if depth is not None and training and vectors and not torch.compiler.is_compiling():
        stack = torch.unflatten(input, 0, (run.number, depth, -1))
        alike = torch.isclose(stack, stack[:, :1], 1e-5, 1e-6).all()
        count = len(input) // depth
        if count == 1 and alike:  # one value has no variance: torch refuses it
            return func(stack[0, 0], running_mean, running_var, *settings)
        variance = None if running_var is None else running_var.clone()
        answer: Tensor = func(input, running_mean, variance, *settings)
        if running_var is not None and variance is not None:
            # Of n values torch keeps n / (n - 1) of the variance. Not by an `if`: a GPU would have
            # to be waited for.
            once, every = count / max(1, count - 1), len(input) / (len(input) - 1)
            new = variance - (1 - momentum) * running_var
            more = torch.where(alike, (once / every - 1) * new, 0.0)
            running_var.copy_(variance + more)
        return answer
    if depth is not None and input.dim() == 4:
        volume = run.stacked(input, depth)
        if volume.is_contiguous() and not input.is_contiguous() and run.margin_of(input) is None:
            return run.fold(func(volume, running_mean, running_var, *settings), True)
    return func(input, running_mean, running_var, *settings)


HANDLERS[F.batch_norm] = _batch_norm


def over_depth(run: Run, x: Tensor, depth: int, reduce: Function) -> Tensor:
    """Give every slice what a reduction over depth makes of all slices of its volume."""
    stack = torch.unflatten(x, 0, (run.number, depth, -1))
    total = reduce(stack, 1, keepdim=True).expand_as(stack)
    return run.mark(total.flatten(0, 2).contiguous(), depth)  # code may change it in place


def _covers_the_plane(dim: object) -> TypeGuard[tuple[int, int]]:
    if not isinstance(dim, (tuple, list)) or len(dim) != 2:
        return False
    return {axis % 4 for axis in dim} in ({2, 3}, {1, 2})


def _reduction(reduce: Function, *functions: object) -> None:
    """Register reductions over both axes of the plane: over depth they are combined by `reduce`."""

    @on_slices(*functions)
    def handle(
        run: Run,
        func: Function,
        depth: int,
        input: Tensor,
        dim: object = None,
        *args: object,
        **kwargs: object,
    ) -> object:
        dim = kwargs.pop("axis", dim)
        if not _covers_the_plane(dim):
            return func(input, dim, *args, **kwargs) if dim is not None else func(input, **kwargs)
        answer = func(input, dim, *args, **kwargs)
        if reduce is torch.mean and not answer.is_floating_point():  # counts of pixels
            answer = answer.to(torch.get_default_dtype())
        return over_depth(run, answer, depth, reduce)


_reduction(torch.mean, torch.mean, Tensor.mean, torch.sum, Tensor.sum)


_reduction(torch.amax, torch.amax, Tensor.amax)


_reduction(torch.amin, torch.amin, Tensor.amin)


@on_slices(torch.norm, torch.linalg.vector_norm)
def _norm(run: Run, func: Function, depth: int, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """A root of a sum of powers over the plane: the same of their mean over depth."""
    first = "p" if func is not torch.linalg.vector_norm else "ord"
    names = (first, "dim", "keepdim")[: len(args)]
    given = {**dict(zip(names, args, strict=True)), **kwargs}
    answer = func(input, **given)
    power = given.get(first, 2)
    power = 2 if power in (None, "fro") else power
    if not _covers_the_plane(given.get("dim")):
        return answer

    def combine(stack: Tensor, dim: int, keepdim: bool) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(stack, power, dim, keepdim)
        return norm if abs(power) == math.inf else norm / depth ** (1 / power)

    return over_depth(run, answer, depth, combine)


def _spread(*functions: object, mean_too: bool, root: bool) -> None:
    """Register variances and deviations over the plane: of all slices of a volume together.

    They are divided as they are on the image, by the number of its pixels less the correction.
    """

    @on_slices(*functions)
    def handle(
        run: Run,
        func: Function,
        depth: int,
        input: Tensor,
        dim: object = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        dim = kwargs.pop("axis", dim)
        if not _covers_the_plane(dim):
            return func(input, *(() if dim is None else (dim,)), *args, **kwargs)
        correction = kwargs.get("correction", 1)
        if args or "unbiased" in kwargs:
            correction = int(bool(args[0] if args else kwargs["unbiased"]))
        keepdim = args[1] if len(args) > 1 else kwargs.get("keepdim", False)
        pixels = input.shape[dim[0]] * input.shape[dim[1]]
        variance, mean = torch.var_mean(input, dim, correction=0, keepdim=keepdim)
        within = over_depth(run, variance, depth, torch.mean)
        between = over_depth(
            run, mean, depth, lambda s, d, keepdim: s.var(d, correction=0, keepdim=keepdim)
        )
        total = (within + between) * (pixels / (pixels - correction))
        total = total.sqrt() if root else total
        return (total, over_depth(run, mean, depth, torch.mean)) if mean_too else total


_spread(torch.var, Tensor.var, mean_too=False, root=False)


_spread(torch.std, Tensor.std, mean_too=False, root=True)


_spread(torch.var_mean, mean_too=True, root=False)


_spread(torch.std_mean, mean_too=True, root=True)


@on_slices(F.group_norm, F.instance_norm)
def _norm_of_groups(
    run: Run, func: Function, depth: int, input: Tensor, *args: object, **kwargs: object
) -> Tensor:
    """Take statistics of whole volumes."""
    return run.fold(func(run.unfold(input, depth), *args, **kwargs), True)
