"""The arithmetic of bfloat16 on processors that have none, in the time of float32.

The study fits what is done with volumes in bf16-mixed. A processor without AVX-512 emulates that
arithmetic, 16 to 38 times as slowly as float32. A product of two numbers of bfloat16 is exact in
float32, and the sum is made in float32 on processors of either kind; so products there and a
rounding of the result give the same numbers but for the order of the sum.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from crossd.utils.one_device import slowness

_aten = torch.ops.aten
PRODUCTS = frozenset(
    (
        _aten.convolution.default,
        _aten.convolution_backward.default,
        _aten.mm.default,
        _aten.addmm.default,
        _aten.bmm.default,
        _aten.baddbmm.default,
    )
)
"""What a processor without the arithmetic emulates; the rest it does at its usual speed."""


class Rounded(TorchDispatchMode):
    """Make products of tensors in bfloat16 in float32, and round their results."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do one operation."""
        kwargs = kwargs or {}
        short = func in PRODUCTS and any(
            isinstance(x, torch.Tensor) and x.dtype == torch.bfloat16 for x in args
        )
        if not short:
            return func(*args, **kwargs)
        found = func(*tree_map_only(torch.Tensor, torch.Tensor.float, args), **kwargs)
        return tree_map_only(torch.Tensor, torch.Tensor.bfloat16, found)


@contextlib.contextmanager
def fast() -> Iterator[None]:
    """Make bfloat16 as fast as float32 where this processor would emulate it."""
    with Rounded() if slowness("bf16-mixed") else contextlib.nullcontext():
        yield
