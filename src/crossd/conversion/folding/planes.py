"""Images in code that was written for volumes: an image is a volume one voxel deep.

``(N, C, H, W)`` goes through the code as ``(N, C, 1, H, W)``, the one voxel standing where the
axis of the view is. Along this axis windows, strides and scales become 1 and padding none; the
settings of the plane are those of the two other axes. Kernels are collapsed by their layers.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from crossd.conversion.folding.run import Function, Handler, Run
from crossd.conversion.folding.state import State
from crossd.nn.layers import Number, Size, drop_axis
from crossd.nn.views import View

HANDLERS: dict[object, Handler] = {}
"""What is done instead of a function of torch: called with the run and the function before its
arguments."""


class Planes(TorchFunctionMode):
    """Watches the functions that code calls on volumes one voxel deep.

    Args:
        run: The run that is under way.
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        """Call a function, or what stands for it."""
        handler = None if self.run.paused else HANDLERS.get(func)
        if handler is None:
            return func(*args, **(kwargs or {}))
        self.run.met(func)
        return handler(self.run, func, *args, **(kwargs or {}))


def _watch(run: Run) -> AbstractContextManager[object]:
    """Watch images; where they are repeated to whole volumes nothing is to be collapsed."""
    return Planes(run) if run.folding.repeat == 1 else nullcontext()


State.modes[3] = _watch


def on_planes(*functions: object) -> Callable[[Handler], Handler]:
    """Register what is done instead of functions, where their input is one voxel deep.

    The handler is called with the run, the function and the function's arguments.
    """

    def register(handler: Handler) -> Handler:
        def handle(run: Run, func: Function, *args: object, **kwargs: object) -> Tensor:
            x = args[0] if args else kwargs.get("input")
            flat = isinstance(x, Tensor) and x.dim() == 5 and x.shape[2 + run.axis] == 1
            return handler(run, func, *args, **kwargs) if flat else func(*args, **kwargs)

        HANDLERS.update(dict.fromkeys(functions, handle))
        return handler

    return register


def call_layer(
    run: Run, module: nn.Module, call: Function, x: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    """Give a layer that takes both ranks by itself the images, unless these are repeated."""
    if run.folding.repeat > 1 or x.dim() != 5 or x.shape[2 + run.axis] != 1:
        answer: Tensor = call(x, *args, **kwargs)
        return answer
    run.seen.convolutions += 1
    if args or kwargs.get("output_size") is not None:
        size = kwargs.get("output_size", args[0] if args else None)
        args, kwargs = (), {"output_size": None if size is None else _plane(run, size[-3:])}
    image: Tensor = call(x.squeeze(2 + run.axis), *args, **kwargs)
    return image.unsqueeze(2 + run.axis)


State.layers[3] = call_layer


def triple(value: Number | tuple[Number, ...] | list[Number]) -> tuple[Number, Number, Number]:
    """Make one number three."""
    if isinstance(value, (tuple, list)):
        return (value[0], value[1], value[2]) if len(value) == 3 else (value[0],) * 3
    return (value, value, value)


def in_plane(values: tuple[Number, Number, Number], view: View) -> tuple[Number, Number]:
    """Take from one value for each of depth, height and width the two of the axes that stay.

    Args:
        values: For each axis.
        view: The axis that is dropped, or one for each image.

    Raises:
        ValueError: "samples of one batch ..." when the samples' views would need different values.
    """
    pairs = {drop_axis(axis)(values) for axis in ([view] if isinstance(view, int) else view)}
    if len(pairs) > 1:
        raise ValueError(
            f"samples of one batch have different views, but {values} is not the same on "
            "all axes: put one view in a batch"
        )
    return pairs.pop()


def _plane(run: Run, value: Size) -> list[int]:
    """Take the settings of the two axes that images have."""
    return list(in_plane(triple(value), run.view))


def _flat(run: Run, value: Size, one: int) -> list[int]:
    """Put the settings of the plane around the axis of the view, which gets `one`."""
    first, second = _plane(run, value)
    settings = [first, second]
    settings.insert(run.axis, one)
    return settings


@on_planes(F.conv3d)
def _conv(
    run: Run,
    func: Function,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve with the sum of a kernel that is no parameter of a convolution."""
    axis = _one_view(run)
    run.seen.convolutions += 1
    margins = padding if isinstance(padding, str) else _plane(run, padding)
    image = F.conv2d(
        input.squeeze(2 + axis),
        weight.sum(2 + axis),
        bias,
        _plane(run, stride),
        margins,
        _plane(run, dilation),
        groups,
    )
    return image.unsqueeze(2 + axis)


@on_planes(F.conv_transpose3d)
def _conv_transpose(
    run: Run,
    func: Function,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Tensor:
    """Enlarge with the sum of a kernel over its classes of taps."""
    axis = _one_view(run)
    run.seen.convolutions += 1
    phases = min(triple(stride)[axis], weight.shape[2 + axis])
    image = F.conv_transpose2d(
        input.squeeze(2 + axis),
        weight.sum(2 + axis) / phases,
        bias,
        _plane(run, stride),
        _plane(run, padding),
        _plane(run, output_padding),
        groups,
        _plane(run, dilation),
    )
    return image.unsqueeze(2 + axis)


def _one_view(run: Run) -> int:
    if not isinstance(run.view, int):
        raise ValueError(
            "samples of one batch have different views, but a convolution whose kernel is computed "
            "has one kernel for all: put one view in a batch"
        )
    return run.view


@on_planes(F.max_pool3d, torch.max_pool3d, F.avg_pool3d, F.lp_pool3d)
def _pool(run: Run, func: Function, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    names = ["kernel_size", "stride", "padding", "dilation"]
    if func is F.avg_pool3d:
        names = ["kernel_size", "stride", "padding"]
    if func is F.lp_pool3d:
        names = ["norm_type", "kernel_size", "stride"]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    rest = args[len(names) :]
    if given.get("stride") in (None, [], ()):
        given["stride"] = given["kernel_size"]
    for name in ("kernel_size", "stride", "dilation"):
        if name in given:
            given[name] = _flat(run, given[name], 1)
    if "padding" in given:
        given["padding"] = _flat(run, given["padding"], 0)
    ordered = [given.pop(name) for name in names if name in given]
    return func(input, *ordered, *rest, **given)


@on_planes(F.adaptive_avg_pool3d, F.adaptive_max_pool3d)
def _adaptive_pool(
    run: Run, func: Function, input: Tensor, output_size: Size, return_indices: bool = False
) -> Tensor:
    """Pool in the plane; where the axis of the view is to have n voxels, n equal ones."""
    axis, size = run.axis, list(triple(output_size))
    count, size[axis] = size[axis], 1
    pooled: Tensor = func(input, size)
    return pooled if count in (None, 1) else pooled.repeat_interleave(count, 2 + axis)


@on_planes(F.interpolate)
def _interpolate(
    run: Run,
    func: Function,
    input: Tensor,
    size: Size | None = None,
    scale_factor: float | tuple[float, ...] | list[float] | None = None,
    *args: object,
    **kwargs: object,
) -> Tensor:
    sizes = None if size is None else list(triple(size))
    scales = None if scale_factor is None else list(triple(scale_factor))
    if sizes is not None:
        sizes[run.axis] = 1
    if scales is not None:
        scales[run.axis] = 1.0
    answer: Tensor = func(input, sizes, scales, *args, **kwargs)
    return answer


@on_planes(F.pad)
def _pad(
    run: Run, func: Function, input: Tensor, pad: Sequence[int], *args: object, **kwargs: object
) -> Tensor:
    margins = list(pad)
    place = 2 * (2 - run.axis)
    if len(margins) > place:
        margins[place : place + 2] = [0, 0]
    return func(input, margins, *args, **kwargs)
