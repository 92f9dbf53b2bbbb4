"""Running a 2D network on images of three sizes, to write down what each of its modules does."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

from crossd.errors import InputError

SIZES = (64, 96, 128, 224, 256)
"""Sides of the square images on which a network is tried, until it takes one."""

ATTENTION = (
    "scaled_dot_product_attention",
    "multi_head_attention_forward",
    "_native_multi_head_attention",
)


@dataclass
class Frame:
    """One call of a module: what it was given, what it answered, which modules it called."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any = None
    inner: list["Frame"] = field(default_factory=list)


Frames = tuple[Frame, ...]
"""The same call in each of the runs."""


class _Attention(Exception):
    """Says which module attends to patches."""


class _NoAttention(TorchFunctionMode):
    """Refuses attention on patches, which has no kernels to lift.

    Args:
        stack: The calls under way; the last is of the module that attends.
    """

    def __init__(self, stack: list[Frame]) -> None:
        super().__init__()
        self.stack = stack

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in ATTENTION:
            raise _Attention(self.stack[-1].module)
        return func(*args, **(kwargs or {}))


def examples(net: nn.Module, example: Any = None) -> list[tuple[Any, ...]]:
    """Give the arguments of the runs: images of the sizes to try, or those that the user gave.

    Args:
        net: A 2D network.
        example: An image batch ``(N, C, H, W)``, or a tuple of arguments of its forward.

    Returns:
        Tuples of arguments, to be tried in turn.
    """
    if example is not None:
        return [example if isinstance(example, tuple) else (example,)]
    parameter = next(net.parameters(), torch.empty(0))
    kinds = ((_ConvNd, "in_channels"), (_BatchNorm, "num_features"), (nn.GroupNorm, "num_channels"))
    channels = [
        int(getattr(module, name))
        for kind, name in kinds
        for module in net.modules()
        if isinstance(module, kind)
    ][:1]
    channels += [count for count in (3, 1) if count not in channels]
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(2, count, size, size, generator=generator).to(parameter),)
        for count in channels
        for size in SIZES
    ]


def longer(value: Any, axis: int) -> Any:
    """Make images half as long again along an axis."""
    if not isinstance(value, Tensor) or value.dim() != 4:
        return value
    return torch.cat((value, value.narrow(axis, 0, value.shape[axis] // 2)), axis)


def record(
    net: nn.Module, examples: Sequence[tuple[Any, ...]], leaf: Callable[[nn.Module], bool]
) -> tuple[dict[nn.Module, Frames], tuple[Any, ...]]:
    """Run a network on images of three sizes and write down the first call of every module.

    Args:
        net: A 2D network; it is left as it was, its buffers and random state too.
        examples: Arguments, to be tried in turn.
        leaf: Tells the modules whose insides do not matter.

    Returns:
        The calls, and the arguments of the first run.

    Raises:
        InputError: "cannot run ..." or, for attention on patches, "cannot convert".
    """
    first: Exception | None = None
    for given in examples:
        inputs = [given, *(tree_map(lambda v, a=axis: longer(v, a), given) for axis in (2, 3))]
        try:
            runs = [_run(net, values, leaf) for values in inputs]
        except _Attention as error:
            raise InputError(
                f"cannot convert {where(net, error.args[0])}: it attends to patches, and only "
                "convolutions are lifted to volumes"
            ) from None
        except Exception as error:
            first = first or error
            continue
        calls = {
            module: tuple(run[module] for run in runs)
            for module in runs[0]
            if all(module in run for run in runs)
        }
        return calls, given
    shapes = [tuple(v.shape) for v in tree_flatten(examples[0])[0] if isinstance(v, Tensor)]
    raise InputError(
        f"cannot run the network on images of shape {', '.join(map(str, shapes))} and larger ones "
        f"({one_line(first)}): give convert(..., example=images) that it takes in any size"
    )


def where(net: nn.Module, module: nn.Module) -> str:
    """Name a module of a network in a message, by path and type."""
    path = next(name for name, one in net.named_modules() if one is module)
    return named(module, path)


def named(module: nn.Module, path: str) -> str:
    """Name a module in a message, by path and type."""
    kind = type(module)
    return f"layer {path or '(the network itself)'!r} of type {kind.__module__}.{kind.__qualname__}"


def one_line(error: BaseException | None) -> str:
    """Bring the message of an error into one line that is not too long."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) < 200 else text[:200] + "..."


def cloned(values: Any) -> Any:
    """Copy all tensors among some values: they may be changed in place later."""
    return tree_map(lambda v: v.detach().clone() if isinstance(v, Tensor) else v, values)


class _Copies:
    """Copies like `cloned`, but what one module gives and the next one takes once only.

    Unless it was changed meanwhile: torch counts that.
    """

    def __init__(self) -> None:
        self.made: dict[int, tuple[Tensor, int, Tensor]] = {}

    def of(self, values: Any) -> Any:
        """Copy all tensors among some values."""
        return tree_map(lambda v: self._copy(v) if isinstance(v, Tensor) else v, values)

    def _copy(self, value: Tensor) -> Tensor:
        version = -1 if value.is_inference() else value._version
        known = self.made.get(id(value))
        if known is None or version < 0 or known[1] != version:
            known = (value, version, value.detach().clone())
            self.made[id(value)] = known  # keeps the tensor, so that its id is not given again
        return known[2]


def _run(
    net: nn.Module, args: tuple[Any, ...], leaf: Callable[[nn.Module], bool]
) -> dict[nn.Module, Frame]:
    calls: dict[nn.Module, Frame] = {}
    stack: list[Frame] = []
    copies = _Copies()

    def watch(module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            frame = Frame(module, copies.of(args), copies.of(kwargs))
            if stack:
                stack[-1].inner.append(frame)
            stack.append(frame)
            try:
                output = forward(*args, **kwargs)
            finally:
                stack.pop()
            frame.output = copies.of(output)
            calls.setdefault(module, frame)
            return output

        return call

    seen: set[nn.Module] = set()

    def visit(module: nn.Module) -> None:
        if module not in seen:
            seen.add(module)
            if not leaf(module):
                for child in module.children():
                    visit(child)

    visit(net)
    with replaced({module: watch(module, module.forward) for module in seen}):
        with torch.no_grad(), torch.random.fork_rng(devices=[]), _NoAttention(stack):
            with buffers_kept(net):
                net(*args)
    return calls


@contextmanager
def buffers_kept(*nets: nn.Module) -> Iterator[None]:
    """Leave the buffers of networks as they are, whatever their forwards do to them meanwhile."""
    kept = [
        (module, name, buffer, buffer.detach().clone())
        for net in nets
        for module in net.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, buffer, before in kept:
                module._buffers[name] = buffer
                buffer.copy_(before)


@contextmanager
def replaced(forwards: dict[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Give modules other forwards for a while."""
    kept = {module: module.__dict__.get("forward") for module in forwards}
    for module, forward in forwards.items():
        module.__dict__["forward"] = forward
    try:
        yield
    finally:
        for module, before in kept.items():
            del module.__dict__["forward"]
            if before is not None:
                module.__dict__["forward"] = before
