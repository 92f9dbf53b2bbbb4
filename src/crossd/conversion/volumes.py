"""Volumes in code that was written for images: a volume is a batch of slices.

``(N, C, D, H, W)`` goes through the code as ``(N D, C, H, W)``. Whatever the code does to every
slice alike keeps the consistency law by itself. The functions here look at neighbours in the plane:
on slices of volumes they look along depth too, as they do along height. All others are left alone.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from crossd.conversion.state import APART, OWN, Margin, Run, State, TooShallow, source_class
from crossd.errors import InputError
from crossd.nn.conv import CrossDConv, CrossDConvTranspose, pad_ends
from crossd.nn.functional import depth_profile, depth_taps
from crossd.nn.layers import depth_axis

Handler = Callable[..., Any]

HANDLERS: dict[Any, Handler] = {}
"""What is done instead of a function of torch: called with the run and the function before its
arguments."""


ASKED = dict.fromkeys(
    [
        *(Tensor.dim, Tensor.size, Tensor.is_floating_point, Tensor.is_contiguous, Tensor.numel),
        *(vars(Tensor.__base__)[name].__get__ for name in ("shape", "dtype", "device", "ndim")),
    ],
    True,
)
"""Functions that only say something of a tensor; they are called so often that to look for slices
among their arguments would take a part of the time of small networks."""


class Volumes(TorchFunctionMode):
    """Watches the functions that code calls on slices of volumes.

    What descends from slices is marked with their depth; the functions in `HANDLERS` are replaced.

    Args:
        run: The run that is under way.
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function, or what stands for it."""
        kwargs = kwargs or {}
        run = self.run
        if run.paused or ASKED.get(func):
            return func(*args, **kwargs)
        # A compiler does not find methods that are written in Python in a table.
        handler = HANDLERS.get(torch.norm if func is Tensor.norm else func)
        given = _tensors(args, kwargs)
        marked = [v for v in given if run.depth_of(v) is not None]
        if handler is None:
            agreed: list[tuple[Tensor, Tensor]] = []
            if len(marked) > 1 and not _agree(run, marked):
                args, kwargs = _brought_together(run, marked, args, kwargs, agreed)
                given = _tensors(args, kwargs)
                marked = [v for v in given if run.depth_of(v) is not None]
            answer = func(*args, **kwargs)
            for before, after in agreed:
                if answer is after:
                    run.changed(before, after)
        else:
            run.met(func)
            answer = handler(run, func, *args, **kwargs)
        if not marked or _takes_apart(run, func, marked[0], args, kwargs):
            apart = bool(marked) or any(map(run.is_apart, given))
            if apart or all(map(run.is_own, given)):
                for part in _tensors((answer,), {}):
                    setattr(part, APART if apart else OWN, run)
            return answer
        if isinstance(answer, Tensor):
            _inherit(run, answer, given, marked)
        elif isinstance(answer, (tuple, list)) and not isinstance(answer, torch.Size):
            if torch.compiler.is_compiling() and type(answer) in (tuple, list):
                # A compiler lets no attribute be set to what comes out of a tuple.
                parts = [v.view_as(v) if isinstance(v, Tensor) else v for v in answer]
                answer = parts if type(answer) is list else tuple(parts)
            for part in answer:
                if isinstance(part, Tensor):
                    _inherit(run, part, given, marked)
        return answer


State.modes[2] = Volumes


def _tensors(args: Any, kwargs: Any) -> list[Tensor]:
    """List the tensors that a function is given, by themselves or in a list."""
    values = [*args, *kwargs.values()] if kwargs else args
    found = [v for v in values if isinstance(v, Tensor)]
    for value in values:
        if isinstance(value, (tuple, list)):
            found += [v for v in value if isinstance(v, Tensor)]
    return found


BATCHES: dict[Any, tuple[int, int | None]] = {
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), (1, 0)),
    **dict.fromkeys((torch.split, Tensor.split, torch.chunk, Tensor.chunk), (2, 0)),
    **dict.fromkeys((torch.tensor_split, Tensor.tensor_split), (2, 0)),
    **dict.fromkeys((torch.index_select, Tensor.index_select), (1, None)),
    **dict.fromkeys((torch.narrow, Tensor.narrow), (1, None)),
}
"""Functions that take an axis apart or put it together: where it is given, and the usual one."""


def _takes_apart(run: Run, func: Any, x: Tensor, args: Any, kwargs: Any) -> bool:
    """Tell whether code takes a batch of maps apart, orders it anew, or puts batches together.

    What comes of it counts no slices of whole volumes, whatever its number: it stays within slices.
    """
    if x.dim() != 4 or run.slices(x) is None:
        return False
    if func is Tensor.__getitem__:
        index = args[1][0] if isinstance(args[1], tuple) and args[1] else args[1]
        whole = isinstance(index, slice) and index == slice(None)
        return isinstance(index, (Tensor, list, slice)) and not whole
    if func not in BATCHES:
        return False
    place, usual = BATCHES[func]
    axis = kwargs.get("dim", kwargs.get("axis", args[place] if len(args) > place else usual))
    return axis in (0, -4)


def _inherit(run: Run, answer: Tensor, given: list[Tensor], marked: list[Tensor]) -> None:
    """Mark what a function made of slices; what it only handed back is left as it was."""
    if run.depth_of(answer) is not None:
        return
    # A compiler takes what a function changed in place for another tensor, and as the same.
    source = ([v for v in given if answer is v] or marked)[0]
    depth, margin = run.depth_of(source), run.margin_of(source)
    if depth is not None:
        if margin is not None:  # nothing is asked of free sizes else
            same = (answer.shape[:1], answer.shape[2:]) == (source.shape[:1], source.shape[2:])
            margin = margin if same and answer.dim() == 4 else None
        run.mark(answer, depth, margin)


def _agree(run: Run, marked: list[Tensor]) -> bool:
    """Tell whether maps of slices that meet have one depth, and none of them was padded."""
    maps = [v for v in marked if v.dim() == 4]
    return all(run.depth_of(v) == run.depth_of(maps[0]) and run.margin_of(v) is None for v in maps)


def _brought_together(
    run: Run, marked: list[Tensor], args: Any, kwargs: Any, changed: list[tuple[Tensor, Tensor]]
) -> Any:
    """Give slices that meet others in a sum, say, or in a list the depth of these.

    Padded ones reach it by padding too. Maps of one pixel, which are of whole volumes, are averaged
    over their own depth and repeated.

    Args:
        run: The run that is under way.
        marked: The slices among what a function is given.
        args: What it is given.
        kwargs: What it is given by names.
        changed: Gets padded slices, and what the function is given in their place.
    """
    settled = [v for v in marked if v.dim() == 4 and run.margin_of(v) is None]
    planes = {tuple(v.shape[2:]): run.depth_of(v) for v in settled}
    large = [depth for plane, depth in planes.items() if plane != (1, 1)]
    alike = len({(run.depth_of(v), run.margin_of(v)) for v in marked if v.dim() == 4}) == 1

    def bring(value: Any) -> Any:
        if type(value) in (tuple, list):
            return type(value)([bring(v) for v in value])
        depth = run.depth_of(value) if isinstance(value, Tensor) and value.dim() == 4 else None
        if depth is None:
            return value
        plane = tuple(value.shape[2:])
        if run.margin_of(value) is not None:
            known = planes.get(plane)
            if known is None and alike:
                return value
            padded = run.fold(run.unfold(value, depth)) if known is None else value
            changed.append((value, padded if known is None else run.with_depth(value, known)))
            return changed[-1][1]
        if plane == (1, 1) and large and large[0] is not None and large[0] != depth:
            stack = torch.unflatten(value, 0, (run.number, depth, -1)).mean(1, keepdim=True)
            return run.mark(stack.repeat_interleave(large[0], 1).flatten(0, 2), large[0])
        return value

    return [bring(v) for v in args], {name: bring(v) for name, v in kwargs.items()}


def on_slices(*functions: Any) -> Callable[[Handler], Handler]:
    """Register what is done instead of functions, where their input is a map of slices.

    The handler is called with the run, the function, the depth, and the function's arguments.
    """

    def register(handler: Handler) -> Handler:
        def handle(run: Run, func: Any, *args: Any, **kwargs: Any) -> Any:
            x = args[0] if args else kwargs.get("input")
            depth = run.slices(x) if isinstance(x, Tensor) and x.dim() == 4 else None
            if depth is None:
                return func(*args, **kwargs)
            return handler(run, func, depth, *args, **kwargs)

        HANDLERS.update(dict.fromkeys(functions, handle))
        return handler

    return register


def pair(value: Any) -> tuple[Any, Any]:
    """Make one number, or a list of one, a pair."""
    if isinstance(value, (tuple, list)):
        return (value[0], value[-1])
    return (value, value)


def call_layer(run: Run, module: Any, call: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Give a layer that takes both ranks by itself the volumes that slices come from."""
    depth = run.slices(x) if x.dim() == 4 else None
    if depth is None:  # made of parameters alone, or a part of the slices
        run.seen.flat_convolutions += run.depth_of(x) is not None or run.is_apart(x)
        alone: Tensor = call(x, *args, **kwargs)
        if run.is_own(x) or run.is_apart(x):
            setattr(alone, OWN if run.is_own(x) else APART, run)
        return alone
    if "output_size" in kwargs or args:
        args, kwargs = _solid_output_size(run, depth, args, kwargs)
    volume, before, after = run.stacked(x, depth), 0, 0
    margin = run.margin_of(x)
    if margin is not None:
        margin = _along_depth(module, margin)
        if _pads_by_itself(module, margin):  # without a copy, where both are equal
            before, after = kwargs["depth_margin"] = margin[:2]
        else:
            volume = run.pad_depth(volume, margin)
    least = module.least_depth() if hasattr(module, "least_depth") else 1
    if volume.shape[2] + before + after < least:
        raise TooShallow(run, least - before - after, volume.shape[2])
    run.seen.convolutions += 1
    answer = call(volume, *args, **kwargs)
    # Another forward may keep what it gives for its backward pass.
    ours = source_class(module).forward in (CrossDConv.forward, CrossDConvTranspose.forward)
    return run.fold(_as_on_the_way_down(run, answer) if grows(module) else answer, ours)


State.layers[2] = call_layer


def _along_depth(module: Any, margin: Margin) -> Margin:
    """Give what depth is padded by, as much less as the kernel is less deep than high."""
    size = getattr(module, "kernel_size", ())
    if len(size) != 3 or isinstance(module.padding, str):
        return margin
    places = (1 + depth_axis(size[1:]), 0)
    high, deep = (module.dilation[i] * (size[i] - 1) - 2 * module.padding[i] for i in places)
    less = (high - deep) // 2
    return (max(0, margin[0] - less), max(0, margin[1] - less), *margin[2:])


def _pads_by_itself(module: Any, margin: Margin) -> bool:
    """Tell whether a layer can add to depth what was added to the plane before it."""
    before, after, mode, value = margin
    own = source_class(module)
    plain = own.forward is CrossDConv.forward and own.margins is CrossDConv.margins
    zeros = mode == "constant" and not value and min(before, after) >= 0
    return plain and zeros and module.padding_mode == "zeros"


def grows(module: Any) -> bool:
    """Tell whether a layer enlarges maps."""
    return bool(getattr(module, "transposed", False))


def _solid_output_size(run: Run, depth: int, args: Any, kwargs: Any) -> Any:
    """Complete the size that a transposed convolution is asked for by its depth."""
    size = kwargs.get("output_size", args[0] if args else None)
    if size is None:
        return args, kwargs
    height, width = size[-2:]
    known = run.depth_at(height, width)
    return (), {"output_size": None if known is None else [known, height, width]}


def _as_on_the_way_down(run: Run, volume: Tensor) -> Tensor:
    """Give an enlarged volume the depth that its plane had before it was reduced."""
    depth = run.depth_at(*volume.shape[3:])
    if depth is None or depth == volume.shape[2]:
        return volume
    if depth < volume.shape[2]:
        return volume[:, :, :depth]
    last = volume[:, :, -1:].expand(-1, -1, depth - volume.shape[2], -1, -1)
    return torch.cat((volume, last), 2)


# Convolutions that have no 3D kernel of their own


@on_slices(F.conv2d)
def _conv(
    run: Run,
    func: Any,
    depth: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve within slices; where the plane is reduced, depth is too, by fixed weights."""
    if weight.dim() == 5:
        raise InputError(
            "the kernel of a converted convolution is used outside of its layer, where nothing "
            "says which part of a 3D kernel is meant: call the layer"
        )
    which = depth_axis(tuple(weight.shape[2:]))
    size, gap = weight.shape[2 + which], pair(dilation)[which]
    margin = 0 if isinstance(padding, str) else pair(padding)[which]
    high = _answered(input.shape[2], size, pair(stride)[which], margin, gap)
    wanted = run.depth_stride(high, pair(stride)[which])
    if wanted > 1 or max(weight.shape[2:]) > 1:
        run.seen.convolutions += wanted > 1
        run.seen.flat_convolutions += wanted == 1
    if wanted > 1:
        input = _reduced(run, run.unfold(input, depth), size, wanted, margin, gap)
        depth = run.depth_of(input) or depth
    answer = func(input, weight, bias, stride, padding, dilation, groups)
    run.note(answer.shape[2], answer.shape[3], depth)
    return run.mark(answer, depth)


def _answered(length: int, size: int, stride: int, padding: int, dilation: int) -> int:
    """How many pixels a window makes of a row of pixels, at least one."""
    return max(1, (length + 2 * padding - dilation * (size - 1) - 1) // stride + 1)


def _reduced(run: Run, volume: Tensor, size: int, stride: int, margin: int, gap: int) -> Tensor:
    """Let weights that sum to one stride along depth, as a lifted kernel of this size does."""
    size, margin = depth_taps(size, stride, margin)
    reach = gap * (size - 1) + 1
    if volume.shape[2] + 2 * margin < reach:
        raise TooShallow(run, reach - 2 * margin, volume.shape[2])
    volume = run.pad_depth(volume, (margin, margin, "constant", None))
    last = (volume.shape[2] - reach) // stride * stride
    total: Any = 0
    for place, share in enumerate(depth_profile(size, stride).tolist()):
        start = place * gap
        total = total + share * volume[:, :, start : start + last + 1 : stride]
    return run.fold(total)


@on_slices(F.conv_transpose2d)
def _conv_transpose(
    run: Run, func: Any, depth: int, input: Tensor, weight: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    """Enlarge within slices, and repeat slices."""
    run.seen.flat_convolutions += 1
    answer = func(input, weight, *args, **kwargs)
    return resize_depth(run, input, answer, depth, "nearest")


# Pools


def _window(
    run: Run, x: Tensor, kernel_size: Any, stride: Any, padding: Any, dilation: Any = 1
) -> tuple[tuple[int, ...], ...]:
    """Complete the window of a pool by depth: (kernel, stride, padding, dilation) for each axis."""
    kernel, pad, step = pair(kernel_size), pair(padding), pair(dilation)
    own = kernel if stride is None or stride == [] or stride == () else pair(stride)
    which = depth_axis(kernel)
    size, margin = kernel[which], pad[which]
    high = _answered(x.shape[2], size, own[which], margin, step[which])
    wanted = run.depth_stride(high, own[which])
    if wanted != own[which] and size <= own[which]:  # patches, as deep as their stride
        size, margin = min(size, wanted), 0
    deep = (size, wanted, margin, step[which])
    flat = zip(kernel, own, pad, step, strict=True)
    return tuple(zip(deep, *flat, strict=True))


def _is_global(
    run: Run, x: Tensor, depth: int, kernel_size: Any, stride: Any, padding: Any
) -> bool:
    """Tell whether a pool is over the whole plane, and so over the whole volume.

    Its window covers the maps, and code gives their size; or it is deeper than the volume. The
    `kernel_size` of a layer is no size of maps, nor is a window of two pixels, which halves, or one
    that moves on by a part of itself.
    """
    height, width = pair(kernel_size)
    if (height, width) != tuple(x.shape[2:]) or pair(padding) != (0, 0):
        return False
    if isinstance(kernel_size, torch.Size) or depth < height:
        return True
    moves = bool(stride) and pair(stride) not in ((1, 1), (height, width))
    own = getattr(run.module, "kernel_size", None) == kernel_size
    return max(height, width) > 2 and not moves and not own


@on_slices(F.max_pool2d, torch.max_pool2d)
def _max_pool(
    run: Run,
    func: Any,
    depth: int,
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    if return_indices:  # of pixels within slices, which unpooling takes
        answer = func(
            input, kernel_size, stride, padding, dilation, ceil_mode=ceil_mode, return_indices=True
        )
        run.note(answer[0].shape[2], answer[0].shape[3], depth)
        return answer
    if _is_global(run, input, depth, kernel_size, stride, padding):
        return over_depth(run, func(input, kernel_size), depth, torch.amax)
    kernel, step, margin, gap = _window(run, input, kernel_size, stride, padding, dilation)
    volume = run.unfold(input, depth)
    kernel = _fitting(run, volume, kernel, margin[0], gap[0], ceil_mode)
    return run.fold(F.max_pool3d(volume, kernel, step, margin, gap, ceil_mode), True)


def _fitting(
    run: Run, volume: Tensor, kernel: tuple[int, ...], padding: int, gap: int, ceil_mode: bool
) -> tuple[int, ...]:
    """Refuse volumes that are shallower than the window of a pool, unless it may lack some."""
    reach, deep = gap * (kernel[0] - 1) + 1, volume.shape[2] + 2 * padding
    if deep >= reach:
        return kernel
    if not ceil_mode:
        raise TooShallow(run, reach - 2 * padding, volume.shape[2])
    return ((deep - 1) // gap + 1, *kernel[1:])


@on_slices(F.avg_pool2d)
def _avg_pool(
    run: Run,
    func: Any,
    depth: int,
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    if _is_global(run, input, depth, kernel_size, stride, padding):
        pooled = func(input, kernel_size, None, 0, False, True, divisor_override)
        return over_depth(run, pooled, depth, torch.mean)
    window = _window(run, input, kernel_size, stride, padding)
    kernel, step, margin = window[:3]
    volume = run.unfold(input, depth)
    kernel = _fitting(run, volume, kernel, margin[0], 1, ceil_mode)
    if divisor_override is not None:
        divisor_override *= kernel[0]
    volume, margin = pad_ends(volume, [(m, m) for m in margin], "zeros", run.replicated)
    settings = (kernel, step, margin, ceil_mode, count_include_pad, divisor_override)
    return run.fold(avg_pool3d(volume, *settings))


def avg_pool3d(
    x: Tensor,
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """`torch.nn.functional.avg_pool3d` for maps that are smaller than the kernel, too.

    Torch wants them as large before it pads them, in 3D alone: few slices would be too few.
    """
    small = any(n < k for n, k in zip(x.shape[2:], kernel_size, strict=True))
    if not small or ceil_mode or not any(padding):
        return F.avg_pool3d(
            x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
        )
    margins = [pad for pad in reversed(padding) for _ in range(2)]
    total = F.avg_pool3d(F.pad(x, margins), kernel_size, stride, divisor_override=divisor_override)
    if count_include_pad or divisor_override:
        return total
    return total / F.avg_pool3d(F.pad(torch.ones_like(x[:1, :1]), margins), kernel_size, stride)


@on_slices(F.lp_pool2d)
def _lp_pool(
    run: Run,
    func: Any,
    depth: int,
    input: Tensor,
    norm_type: float,
    kernel_size: Any,
    stride: Any = None,
    ceil_mode: bool = False,
) -> Tensor:
    """A root of a mean of powers, times the size of the window in the plane."""
    kernel, step, margin, _ = _window(run, input, kernel_size, stride, 0)
    powers = run.unfold(input, depth).pow(norm_type)
    kernel = _fitting(run, powers, kernel, 0, 1, ceil_mode)
    mean = F.avg_pool3d(powers, kernel, step, margin, ceil_mode)
    root = (torch.sign(mean) * F.relu(torch.abs(mean))) * (kernel[1] * kernel[2])
    return run.fold(root.pow(1.0 / norm_type))


@on_slices(F.adaptive_avg_pool2d, F.adaptive_max_pool2d)
def _adaptive_pool(
    run: Run, func: Any, depth: int, input: Tensor, output_size: Any, return_indices: bool = False
) -> Any:
    if return_indices:
        return func(input, output_size, return_indices)
    average = func is F.adaptive_avg_pool2d
    height, width = pair(output_size)
    if (height, width) == (1, 1):
        pooled = func(input, output_size)
        return over_depth(run, pooled, depth, torch.mean if average else torch.amax)
    if height is None or width is None or 1 in (height, width):  # strips
        return func(input, output_size)
    pool = F.adaptive_avg_pool3d if average else F.adaptive_max_pool3d
    return run.fold(pool(run.unfold(input, depth), (height, height, width)))


# Statistics of the plane


def _batch_norm(run: Run, func: Any, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Work on the volume where slices are views of one: the same numbers, in their order.

    What is said of one whole volume has no statistics, although all of its slices say it.
    """
    depth = run.slices(input)
    training = kwargs.get("training", args[4] if len(args) > 4 else False)
    if training and depth is not None and run.number == 1 and input[0].numel() == input.shape[1]:
        alike = not torch.compiler.is_compiling() and torch.allclose(input, input[:1], 1e-5, 1e-6)
        if alike:
            shape = (1, *input.shape[1:])
            raise ValueError(f"Expected more than 1 value per channel when training, got {shape}")
    if depth is not None and input.dim() == 4:
        volume = run.stacked(input, depth)
        if volume.is_contiguous() and not input.is_contiguous() and run.margin_of(input) is None:
            return run.fold(func(volume, *args, **kwargs), True)
    answer: Tensor = func(input, *args, **kwargs)
    return answer


HANDLERS[F.batch_norm] = _batch_norm


def over_depth(run: Run, x: Tensor, depth: int, reduce: Any) -> Tensor:
    """Give every slice what a reduction over depth makes of all slices of its volume."""
    stack = torch.unflatten(x, 0, (run.number, depth, -1))
    total = reduce(stack, 1, keepdim=True).expand_as(stack)
    return run.mark(total.flatten(0, 2).contiguous(), depth)  # code may change it in place


def _covers_the_plane(x: Tensor, dim: Any) -> bool:
    if not isinstance(dim, (tuple, list)) or len(dim) != 2:
        return False
    return {axis % 4 for axis in dim} in ({2, 3}, {1, 2})


def _reduction(reduce: Any, *functions: Any) -> None:
    """Register reductions over both axes of the plane: over depth they are combined by `reduce`."""

    @on_slices(*functions)
    def handle(
        run: Run, func: Any, depth: int, input: Tensor, dim: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        dim = kwargs.pop("axis", dim)
        if not _covers_the_plane(input, dim):
            return func(input, dim, *args, **kwargs) if dim is not None else func(input, **kwargs)
        answer = func(input, dim, *args, **kwargs)
        if reduce is torch.mean and not answer.is_floating_point():  # counts of pixels
            answer = answer.to(torch.get_default_dtype())
        return over_depth(run, answer, depth, reduce)


_reduction(torch.mean, torch.mean, Tensor.mean, torch.sum, Tensor.sum)
_reduction(torch.amax, torch.amax, Tensor.amax)
_reduction(torch.amin, torch.amin, Tensor.amin)


@on_slices(torch.norm, torch.linalg.vector_norm)
def _norm(run: Run, func: Any, depth: int, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """A root of a sum of powers over the plane: the same of their mean over depth."""
    first = "p" if func is not torch.linalg.vector_norm else "ord"
    names = (first, "dim", "keepdim")[: len(args)]
    given = {**dict(zip(names, args, strict=True)), **kwargs}
    answer = func(input, **given)
    power = given.get(first, 2)
    power = 2 if power in (None, "fro") else power
    if not _covers_the_plane(input, given.get("dim")):
        return answer

    def combine(stack: Tensor, dim: int, keepdim: bool) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(stack, power, dim, keepdim)
        return norm if abs(power) == math.inf else norm / depth ** (1 / power)

    return over_depth(run, answer, depth, combine)


def _spread(*functions: Any, mean_too: bool, root: bool) -> None:
    """Register variances and deviations over the plane: of all slices of a volume together.

    They are divided as they are on the image, by the number of its pixels less the correction.
    """

    @on_slices(*functions)
    def handle(
        run: Run, func: Any, depth: int, input: Tensor, dim: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        if not _covers_the_plane(input, dim):
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
    run: Run, func: Any, depth: int, input: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    """Take statistics of whole volumes."""
    return run.fold(func(run.unfold(input, depth), *args, **kwargs), True)


# Sizes


@on_slices(F.interpolate)
def _interpolate(
    run: Run,
    func: Any,
    depth: int,
    input: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    mine = {"bilinear": "trilinear", "nearest": "nearest", "nearest-exact": "nearest-exact"}
    scale = None if scale_factor is None else pair(scale_factor)
    if size is not None:
        height, width = pair(size)
    else:
        assert scale is not None
        sides = zip(input.shape[2:], scale, strict=True)
        height, width = (math.floor(length * factor) for length, factor in sides)
    deep = depth_for(run, input, height, width, depth)
    follows = scale is not None and math.floor(depth * scale[0]) == deep
    if mode in mine and not antialias and (size is not None or follows) and deep != depth:
        volume = func(
            run.unfold(input, depth),
            None if size is None else (deep, height, width),
            None if size is not None or scale is None else (scale[0], *scale),
            mine[mode],
            align_corners,
            recompute_scale_factor,
        )
        return run.fold(volume, True)
    plane = func(input, size, scale_factor, mode, align_corners, recompute_scale_factor, antialias)
    return resize_depth(run, input, plane, depth, mode)


def depth_for(run: Run, x: Tensor, height: int, width: int, depth: int) -> int:
    """Choose the depth of slices that are brought to another size of the plane.

    That which slices of this size had on the way down; else depth changes as height does.

    Args:
        run: The run that is under way.
        x: The slices as they are.
        height: Of what they become.
        width: Of what they become.
        depth: Of the slices as they are.
    """
    known = run.depth_at(height, width)
    if known is not None:
        return known
    if height == x.shape[2]:
        return depth
    if run.folding.stages:
        larger = max(height, x.shape[2])
        factor = run.depth_stride(larger // 2, 2)
        if factor == 1:
            return depth
    return max(1, round(depth * height / x.shape[2]))


def resize_depth(run: Run, before: Tensor, after: Tensor, depth: int, mode: str) -> Tensor:
    """Bring slices whose plane has another size to the depth that goes with it.

    Args:
        run: The run that is under way.
        before: The slices as they were.
        after: The same slices, in the new size.
        depth: Of both.
        mode: How slices are interpolated; nearest or, for every other mode, linear.
    """
    deep = depth_for(run, before, after.shape[2], after.shape[3], depth)
    if deep == depth:
        run.note(after.shape[2], after.shape[3], depth)
        return run.mark(after, depth)
    how = mode if mode.startswith("nearest") else "trilinear"
    volume = run.unfold(after, depth)
    return run.fold(F.interpolate(volume, size=(deep, *volume.shape[3:]), mode=how), True)


@on_slices(F.pad)
def _pad(
    run: Run,
    func: Any,
    depth: int,
    input: Tensor,
    pad: Sequence[int],
    mode: str = "constant",
    value: float | None = None,
) -> Tensor:
    """Pad depth as height, when something looks along it; maps with channels last not at all."""
    if len(pad) != 4:
        return func(input, pad, mode, value)
    if run.margin_of(input) is not None:
        input = run.fold(run.unfold(input, depth))
        depth = run.depth_of(input) or depth
    plane, rest = input, list(pad)
    for axis in set(run.replicated) & {1, 2}:
        sides = [side if 2 - i // 2 == axis else 0 for i, side in enumerate(pad)]
        if any(sides) and min(sides) >= 0:
            plane = func(plane, sides, "replicate")
            rest = [a - b for a, b in zip(rest, sides, strict=True)]
    if any(rest):
        plane = func(plane, rest, mode, value)
    return run.mark(plane, depth, (pad[2], pad[3], mode, value))


@on_slices(torch.pixel_shuffle)
def _pixel_shuffle(run: Run, func: Any, depth: int, input: Tensor, upscale_factor: int) -> Tensor:
    """Shuffle within slices, and repeat slices."""
    return resize_depth(run, input, func(input, upscale_factor), depth, "nearest")


@on_slices(torch.pixel_unshuffle)
def _pixel_unshuffle(
    run: Run, func: Any, depth: int, input: Tensor, downscale_factor: int
) -> Tensor:
    """Unshuffle within slices, and average slices."""
    answer = func(input, downscale_factor)
    factor = run.depth_stride(answer.shape[2], downscale_factor)
    if depth < factor:
        raise TooShallow(run, factor, depth)
    volume = run.unfold(answer, depth)
    return run.fold(F.avg_pool3d(volume, (factor, 1, 1), ceil_mode=True))


@on_slices(Tensor.__getitem__)
def _cut(run: Run, func: Any, depth: int, input: Tensor, index: Any) -> Tensor:
    """Cut depth as height where a forward cuts both axes of the plane.

    Offsets and steps are height's, and ends that count from the back. Where slices of the size
    that is left were met before, depth becomes what it was there.
    """
    answer: Tensor = func(input, index)
    cut = _height_slice(index)
    if run.depth_at(*input.shape[2:]) is None and run.margin_of(input) is None:
        return answer  # windows, or how tokens attend to each other: no maps
    if cut is None or answer.dim() != 4 or answer.shape[2:] == input.shape[2:]:
        return answer
    known = run.depth_at(*answer.shape[2:])
    volume = run.unfold(answer, depth)
    depth = volume.shape[2]
    stride = cut.step or 1
    if stride > 1:
        step = run.depth_stride(answer.shape[2], stride)
        count = -(-depth // step)
        count = count if known is None else min(known, count)
        first = (cut.start or 0) % stride if step == stride else 0
        # As many slices from every start, though depth may be odd where height is not.
        places = [min(first + step * place, depth - 1) for place in range(count)]
        return run.fold(volume[:, :, places])
    if known is not None and known <= depth:
        first = (depth - known) // 2 if cut.start else 0
        return run.fold(volume[:, :, first : first + known])
    if (cut.start or 0) < 0 or (cut.stop or 0) > 0:
        return answer
    return run.fold(volume[:, :, cut.start : cut.stop])


def _height_slice(index: Any) -> slice | None:
    """Give the slice of height, where height and width are cut and nothing else but channels is."""
    parts = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in [part for part in parts if part is Ellipsis]:
        place = next(i for i, part in enumerate(parts) if part is Ellipsis)
        parts[place : place + 1] = [slice(None)] * (4 - len(parts) + 1)
    if len(parts) != 4 or not all(isinstance(part, slice) for part in parts):
        return None
    whole = [part == slice(None) for part in parts]
    if not whole[0] or whole[2] or whole[3] or (parts[1].step or 1) > 1:
        return None
    height: slice = parts[2]
    return height


# Chance: one draw for a volume


@on_slices(F.dropout2d)
def _channel_dropout(
    run: Run,
    func: Any,
    depth: int,
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> Tensor:
    return run.fold(F.dropout3d(run.unfold(input, depth), p, training, inplace))


def _dropout(
    run: Run, func: Any, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
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


def _drop_path(run: Run, func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Draw once for a volume what is drawn once for a sample: shape ``(N D m, 1, 1, ...)``."""
    depth = run.rows(x) if x.dim() > 1 and x[0].numel() == 1 else None
    if depth is None:
        answer: Tensor = func(x, *args, **kwargs)
        return answer
    stack = torch.unflatten(x, 0, (run.number, depth, -1))
    drawn = func(stack[:, :1].clone(), *args, **kwargs)
    return x.copy_(drawn.expand_as(stack).flatten(0, 2))


HANDLERS[Tensor.bernoulli_] = _drop_path


def _drawn_once(run: Run, func: Any, *args: Any, **kwargs: Any) -> Tensor:
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
