"""What nothing watches: code that was compiled calls functions of torch where Python sees none."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from crossd.conversion.folding.torch_private import OperationMode

SEEN = {
    2: "of volumes it sees slices alone, and what was padded before it does not become deeper",
    3: "of images it sees volumes one voxel deep",
}
"""What that means, by the rank of the network's code."""


@contextmanager
def unwatched_named(lines: list[str], rank: int) -> Iterator[None]:
    """Name what calls compiled code meanwhile, as that of `torch.jit.script`.

    Args:
        lines: Gets a sentence for each function of Python.
        rank: Of the network's code.
    """
    calls = _Calls()
    operations = _Operations(calls)
    with calls, operations:
        yield
    for name, inside in operations.found.items():
        lines.append(
            f"compiled code (torch.jit?) that {name} calls is not watched ({', '.join(inside)}): "
            f"{SEEN[rank]}"
        )


class _Calls(TorchFunctionMode):
    """Counts the calls from Python that are under way.

    Attributes:
        depth: How many.
    """

    depth = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        self.depth += 1
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.depth -= 1


class _Operations(OperationMode):
    """Finds operations that no call from Python asked for.

    Args:
        calls: Those that are under way.

    Attributes:
        found: The names of operations, by that of the function of Python that led to them.
    """

    def __init__(self, calls: _Calls) -> None:
        super().__init__()
        self.calls = calls
        self.found: dict[str, dict[str, None]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        if not self.calls.depth:
            self.found.setdefault(_caller(), {})[func.overloadpacket.__name__] = None
        return func(*args, **(kwargs or {}))


def _caller() -> str:
    """Name the function that runs, outside of torch and of this file."""
    frame = sys._getframe()
    own = (__file__, str(Path(torch.__file__).parent))
    while frame.f_code.co_filename.startswith(own) and frame.f_back is not None:
        frame = frame.f_back
    return frame.f_code.co_qualname
