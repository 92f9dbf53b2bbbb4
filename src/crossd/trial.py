"""Running a 2D network to learn what each of its modules does, and whether it does so on volumes.

A module is right on volumes when it keeps the consistency law: on volumes that repeat an image
along depth it must give what it gives on the image. Every module is tried alone: the modules it
calls are replaced by stand-ins that answer what they must, and check what they are given.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from crossd.errors import InputError

SIZES = (64, 96, 128, 224, 256)
"""Sides of the square images on which a network is tried, until it takes one."""

ATTENTION = (
    "scaled_dot_product_attention",
    "multi_head_attention_forward",
    "_native_multi_head_attention",
)

TOLERANCE = 1e-3
"""Relative to the largest number: float32 through sums in another order."""

RUNS = 3
"""An image, a higher one and a wider one: the axes whose lengths change are height and width."""


class Mismatch(Exception):
    """A module does not keep the consistency law, or cannot be tried."""


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
        f"({_line(first)}): give convert(..., example=images) that it takes in any size"
    )


def where(net: nn.Module, module: nn.Module) -> str:
    """Name a module of a network in a message, by path and type."""
    path = next(name for name, one in net.named_modules() if one is module)
    return named(module, path)


def named(module: nn.Module, path: str) -> str:
    """Name a module in a message, by path and type."""
    kind = type(module)
    return f"layer {path or '(the network itself)'!r} of type {kind.__module__}.{kind.__qualname__}"


def _line(error: BaseException | None) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) < 200 else text[:200] + "..."


def _clone(values: Any) -> Any:
    return tree_map(lambda v: v.detach().clone() if isinstance(v, Tensor) else v, values)


def _run(
    net: nn.Module, args: tuple[Any, ...], leaf: Callable[[nn.Module], bool]
) -> dict[nn.Module, Frame]:
    calls: dict[nn.Module, Frame] = {}
    stack: list[Frame] = []

    def watch(module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            frame = Frame(module, _clone(args), _clone(kwargs))
            if stack:
                stack[-1].inner.append(frame)
            stack.append(frame)
            try:
                output = forward(*args, **kwargs)
            finally:
                stack.pop()
            frame.output = _clone(output)
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
            net(*args)
    return calls


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


# What an axis is


@dataclass(frozen=True)
class Axes:
    """Where a tensor of the 2D network carries the plane.

    Attributes:
        height: The axis of height, before which depth comes in; None where there is none.
        merged: The axis that height and width share, as after a flatten.
    """

    height: int | None = None
    merged: int | None = None


def axes(tensors: Sequence[Tensor]) -> Axes:
    """Find the axes whose lengths follow the height of the image, from the tensors of the runs."""
    if len({tensor.dim() for tensor in tensors}) > 1:
        raise Mismatch("the number of its axes depends on the size of the image")
    base, high, wide = (tensor.shape for tensor in tensors)
    taller = [a for a in range(len(base)) if base[a] != high[a]]
    wider = [a for a in range(len(base)) if base[a] != wide[a]]
    both = [a for a in taller if a in wider]
    rows = [a for a in taller if a not in wider]
    if len(both) + len(rows) > 1:
        raise Mismatch(f"a tensor of shape {tuple(base)} has several axes that follow the height")
    return Axes(rows[0] if rows else None, both[0] if both else None)


def alike(values: Sequence[Any]) -> tuple[list[list[Any]], Any]:
    """Flatten the values of the runs; each leaf becomes the list of its values."""
    flat = [tree_flatten(value) for value in values]
    if any(spec != flat[0][1] for _, spec in flat):
        raise Mismatch("the structure of its answer depends on the size of the image")
    return [list(leaves) for leaves in zip(*(leaves for leaves, _ in flat), strict=True)], flat[0][
        1
    ]


def expand(values: Sequence[Any], cube: bool = True) -> Any:
    """Make of what the 2D network has on an image what it must have on the repeated volume.

    Args:
        values: One a run.
        cube: Tensors of fixed size, as of adaptive pools, become cubes; else they are one deep.

    Returns:
        The value for volumes as deep as high.
    """
    leaves, spec = alike(values)
    return tree_unflatten([_expand(leaf, cube) for leaf in leaves], spec)


def _expand(leaf: Sequence[Any], cube: bool) -> Any:
    base = leaf[0]
    if not isinstance(base, Tensor):
        if any(value != base for value in leaf):
            raise Mismatch("it hands on numbers that depend on the size of the image")
        return base
    at = axes(leaf)
    if at.height is not None:
        return base.unsqueeze(at.height).repeat_interleave(base.shape[at.height], at.height)
    if at.merged is not None:
        return torch.cat([base] * max(1, math.isqrt(base.shape[at.merged])), at.merged)
    if base.dim() != 4:
        return base.clone()  # what is tried may change it in place
    depth = base.shape[2] if cube and base.shape[2] == base.shape[3] else 1
    return base.unsqueeze(2).repeat_interleave(depth, 2)


def compare(actual: Any, values: Sequence[Any], cube: bool, what: str) -> None:
    """Hold what a module has on a volume against what the law demands.

    Along depth only the middle counts: zeros that a layer pads with are not repeated images.

    Raises:
        Mismatch: saying what differs.
    """
    leaves, _ = alike(values)
    flat, _ = tree_flatten(actual)
    if len(flat) != len(leaves):
        raise Mismatch(f"{what} has {len(flat)} parts instead of {len(leaves)}")
    for mine, leaf in zip(flat, leaves, strict=True):
        base = leaf[0]
        if not isinstance(base, Tensor):
            if isinstance(mine, Tensor) or mine != _expand(leaf, cube):
                raise Mismatch(f"{what} is {mine!r} instead of {base!r}")
            continue
        expected, at = _expand(leaf, cube), axes(leaf)
        if not isinstance(mine, Tensor) or mine.dim() != expected.dim():
            shape = tuple(mine.shape) if isinstance(mine, Tensor) else type(mine).__name__
            raise Mismatch(f"{what} has shape {shape} instead of {tuple(expected.shape)}")
        if at.height is not None:
            deep, high = mine.shape[at.height], base.shape[at.height]
            if deep != high:
                raise Mismatch(f"{what} is {deep} deep and not {high}, as it is high")
            mine, expected = mine.select(at.height, deep // 2), base
        elif at.merged is not None and mine.shape != expected.shape:
            raise Mismatch(f"{what} has shape {tuple(mine.shape)}, not {tuple(expected.shape)}")
        elif at.merged is not None:
            depth = expected.shape[at.merged] // base.shape[at.merged]
            mine, expected = mine.chunk(depth, at.merged)[depth // 2], base
        if mine.shape != expected.shape:
            raise Mismatch(f"{what} has shape {tuple(mine.shape)}, not {tuple(expected.shape)}")
        if expected.is_floating_point():
            scale = expected.abs().max() if expected.numel() else expected.new_ones(())
            near = torch.isclose(mine, expected, 1e-3, float(TOLERANCE * scale), equal_nan=True)
            if not near.all():
                raise Mismatch(f"{what} is not what it is on images")


PRODUCTS = ("matmul", "bmm", "__matmul__")
LARGEST = 2**28
"""Numbers of a product that is still tried."""


class _Watch(TorchFunctionMode):
    """Remembers the last function of torch that was called."""

    last = ""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = resolve_name(func) or getattr(func, "__name__", str(func))
        if name.rpartition(".")[2] in PRODUCTS and len(args) > 1:
            size = math.prod(args[0].shape[:-1]) * args[1].shape[-1]
            if size > LARGEST:
                raise Mismatch(f"{name} compares every voxel with every other: too many numbers")
        if not name.endswith("__get__"):
            self.last = name
        return func(*args, **(kwargs or {}))


def attempt(frames: Frames, forward: Callable[..., Any], cube: bool) -> None:
    """Try a forward of a module on the volume that repeats its image.

    Args:
        frames: Its call in the runs.
        forward: Takes the arguments of the module.
        cube: See `expand`.

    Raises:
        Mismatch: when it fails or does not keep the law.
    """
    calls = list(zip(*(frame.inner for frame in frames), strict=False))
    if any(len(frame.inner) != len(calls) for frame in frames):
        raise Mismatch("which modules it calls depends on the size of the image")
    ahead = iter(calls)

    def stand_in(module: nn.Module) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            inner = next(ahead, None)
            if inner is None or inner[0].module is not module:
                raise Mismatch("it calls other modules than on images")
            name = type(module).__name__
            for given, theirs in (
                (args, [frame.args for frame in inner]),
                (kwargs, [frame.kwargs for frame in inner]),
            ):
                compare(given, theirs, cube, f"what it gives to {name}")
            return expand([frame.output for frame in inner], cube)

        return call

    stand_ins = {frame.module: stand_in(frame.module) for frame in frames[0].inner}
    args = expand([frame.args for frame in frames], cube)
    kwargs = expand([frame.kwargs for frame in frames], cube)
    watch = _Watch()
    try:
        with replaced(stand_ins), torch.no_grad(), torch.random.fork_rng(devices=[]), watch:
            answer = forward(*args, **kwargs)
    except Mismatch:
        raise
    except Exception as error:
        where = f"{watch.last} fails: " if watch.last else ""
        raise Mismatch(f"{where}{_line(error)}") from error
    try:
        compare(answer, [frame.output for frame in frames], cube, "its answer")
    except Mismatch as error:
        where = f" (the last call was {watch.last})" if watch.last else ""
        raise Mismatch(f"{error}{where}") from error
