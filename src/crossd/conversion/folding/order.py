"""Batches in another order: on slices of volumes, whole volumes change their places.

Code that moves a batch by another number than that of its samples breaks the law, and is refused.
"""

from typing import Any

import torch
from torch import Tensor

from crossd.conversion.folding.run import Function, Run
from crossd.conversion.folding.volumes import HANDLERS


def _flip(run: Run, func: Function, input: Tensor, *dims: Any, **kwargs: Any) -> Tensor:
    """Flip maps or vectors, where the first axis is among those that code gives."""
    given = kwargs.get("dims", dims[0] if len(dims) == 1 else dims)
    axes = [axis % input.dim() for axis in ([given] if isinstance(given, int) else given)]
    depth = run.slices(input) if 0 in axes and input.dim() in (2, 4) else None
    if depth is None:
        return func(input, *dims, **kwargs)
    # Slices of a volume stand last meanwhile, so that the other axes keep their places.
    volumes = torch.unflatten(input, 0, (run.number, -1)).movedim(1, -1)
    return run.mark(volumes.flip(axes).movedim(-1, 1).flatten(0, 1), depth)


HANDLERS.update({torch.flip: _flip, Tensor.flip: _flip})
