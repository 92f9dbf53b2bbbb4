"""Volumes in code that was written for images: a volume is a batch of slices.

``(N, C, D, H, W)`` goes through the code as ``(N D, C, H, W)``. Whatever the code does to every
slice alike keeps the consistency law by itself. The functions here look at neighbours in the plane:
on slices of volumes they look along depth too, as they do along height. All others are left alone.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from crossd.conversion.folding.modules import named, source_class
from crossd.conversion.folding.run import (
    APART,
    OWN,
    Args,
    Function,
    Handler,
    Kwargs,
    Margin,
    Run,
    TooShallow,
)
from crossd.conversion.folding.state import State
from crossd.conversion.folding.torch_private import Operation
from crossd.nn.conv import CrossDConv
from crossd.nn.conv_transpose import CrossDConvTranspose
from crossd.nn.layers import depth_axis
from crossd.nn.planar import PlanarConv

HANDLERS: dict[object, Handler] = {}
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
    ) -> object:
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
            if marked and isinstance(func, Operation) and not torch.compiler.is_compiling():
                run.seen.foreign.add(str(func))
            for before, after in agreed:
                if answer is after:
                    run.changed(before, after)
        else:
            run.met(func)
            answer = handler(run, func, *args, **kwargs)
        if marked and _reduces_the_batch(run, func, marked[0], args, kwargs):
            for part in _tensors((answer,), {}):
                setattr(part, OWN, run)
            return answer
        if not marked or _takes_apart(run, func, marked[0], args, kwargs):
            apart = bool(marked) or any(map(run.is_apart, given))
            if apart and _puts_together(run, func, given, args, kwargs, answer):
                return answer
            if apart or all(map(run.is_own, given)):
                for part in _tensors((answer,), {}):
                    # A compiler shows no assignment: what it may fill is judged by its size.
                    if given or part.dim() != 4 or not torch.compiler.is_compiling():
                        setattr(part, APART if apart else OWN, run)
            return answer
        filled = _filled(func, args, kwargs)
        known = filled is None or any(filled is v for v in marked)  # nothing is asked of free sizes
        if filled is not None and not known and len(filled) == len(marked[0]):
            whole = None if torch.compiler.is_compiling() else filled._base
            for one in (filled, filled if whole is None else whole):
                _inherit(run, one, [], marked)
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


def _tensors(args: tuple[object, ...], kwargs: dict[str, object]) -> list[Tensor]:
    """List the tensors that a function is given, by themselves or in a list."""
    values = [*args, *kwargs.values()] if kwargs else args
    found = [v for v in values if isinstance(v, Tensor)]
    for value in values:
        if isinstance(value, (tuple, list)):
            found += [v for v in value if isinstance(v, Tensor)]
    return found


def _filled(func: object, args: Args, kwargs: Kwargs) -> Tensor | None:
    """Give the tensor that a function changes in place: one made of zeros holds slices after it."""
    target = kwargs.get("out")
    if target is None and args and CHANGES.get(func):
        target = args[0]
    return target if isinstance(target, Tensor) and target.dim() else None


CHANGES = {
    getattr(Tensor, name): True
    for name in dir(Tensor)
    if (name.endswith("_") and not name.endswith("__"))
    or name in ("__setitem__", *(f"__i{one}__" for one in ("add", "sub", "mul", "truediv", "pow")))
}
"""Methods that change what they are called on."""


SAMPLES: dict[object, tuple[int, int | None]] = {
    **dict.fromkeys((torch.select, Tensor.select), (1, None)),
    **dict.fromkeys((torch.unbind, Tensor.unbind), (1, 0)),
}
"""Those of `BATCHES` that take one place of an axis, or each by itself."""


BATCHES: dict[object, tuple[int, int | None]] = {
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), (1, 0)),
    **dict.fromkeys((torch.split, Tensor.split, torch.chunk, Tensor.chunk), (2, 0)),
    **dict.fromkeys((torch.tensor_split, Tensor.tensor_split), (2, 0)),
    **dict.fromkeys((torch.index_select, Tensor.index_select), (1, None)),
    **dict.fromkeys((torch.narrow, Tensor.narrow), (1, None)),
    **SAMPLES,
}
"""Functions that take an axis apart or put it together: where it is given, and the usual one."""


REDUCTIONS = {
    getattr(owner, name)
    for owner in (torch, Tensor)
    for name in (
        *("all", "amax", "amin", "any", "argmax", "argmin", "count_nonzero", "logsumexp", "max"),
        *("mean", "median", "min", "mode", "nanmean", "nansum", "prod", "std", "sum", "var"),
    )
} | {torch.std_mean, torch.var_mean}
"""Functions that make one number of an axis, or of several, which stands behind the tensor."""


MAKERS = {Tensor.new_empty, Tensor.new_full, Tensor.new_ones, Tensor.new_tensor, Tensor.new_zeros}
"""Methods that take nothing of a tensor but where it is and its type."""


def _reduces_the_batch(run: Run, func: object, x: Tensor, args: Args, kwargs: Kwargs) -> bool:
    """Tell whether code makes one number of all slices of a batch, as of the load of each expert.

    The first axis of tokens may be another one: there more axes must say that it is that of slices.
    """
    if func not in REDUCTIONS or run.slices(x) is None:
        return False
    dim = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else None))
    axes = dim if isinstance(dim, (tuple, list)) else (dim,)
    first = any(axis in (0, -x.dim()) for axis in axes if isinstance(axis, int))
    return first and (x.dim() == 2 or len(axes) > 1 or _are_maps(run, x))


def _are_maps(run: Run, x: Tensor) -> bool:
    """Tell whether the last axes are height and width of maps that were met, and no tokens."""
    return x.dim() == 4 and run.depth_at(*x.shape[2:]) is not None


def _puts_together(
    run: Run, func: object, given: list[Tensor], args: Args, kwargs: Kwargs, answer: Any
) -> bool:
    """Tell whether code makes a batch again, of as many samples out of it, or makes room for it.

    It is marked as slices; room is not, which its number alone shows.
    """
    if func in MAKERS:
        return True
    if func not in (torch.stack, torch.cat, torch.concat, torch.concatenate):
        return False
    single = func is torch.stack or all(len(part) == 1 for part in given)
    axis = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else 0))
    if axis != 0 or not single or not all(map(run.is_apart, given)):
        return False
    depth = run.rows(answer)
    if depth is not None:
        run.mark(answer, depth)
    return depth is not None


def _takes_apart(run: Run, func: object, x: Tensor, args: Args, kwargs: Kwargs) -> bool:
    """Tell whether code takes a batch of maps apart, orders it anew, or puts batches together.

    What comes of it counts no slices of whole volumes, whatever its number: it stays within slices.
    """
    if x.dim() != 4 or run.slices(x) is None:
        return False
    if func is Tensor.__getitem__:
        index = args[1][0] if isinstance(args[1], tuple) and args[1] else args[1]
        whole = isinstance(index, slice) and index == slice(None)
        one = isinstance(index, int) and not isinstance(index, bool) and _are_maps(run, x)
        return one or (isinstance(index, (Tensor, list, slice)) and not whole)
    if func not in BATCHES:
        return False
    place, usual = BATCHES[func]
    axis = kwargs.get("dim", kwargs.get("axis", args[place] if len(args) > place else usual))
    return axis in (0, -4) and (func not in SAMPLES or _are_maps(run, x))


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
    run: Run, marked: list[Tensor], args: Args, kwargs: Kwargs, changed: list[tuple[Tensor, Tensor]]
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


def on_slices(*functions: object) -> Callable[[Handler], Handler]:
    """Register what is done instead of functions, where their input is a map of slices.

    The handler is called with the run, the function, the depth, and the function's arguments.
    """

    def register(handler: Handler) -> Handler:
        def handle(run: Run, func: Function, *args: object, **kwargs: object) -> object:
            x = args[0] if args else kwargs.get("input")
            depth = run.slices(x) if isinstance(x, Tensor) and x.dim() == 4 else None
            if depth is None:
                return func(*args, **kwargs)
            return handler(run, func, depth, *args, **kwargs)

        HANDLERS.update(dict.fromkeys(functions, handle))
        return handler

    return register


def call_layer(
    run: Run, module: nn.Module, call: Function, x: Tensor, *args: object, **kwargs: object
) -> Tensor:
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
    least = module.least_depth() if isinstance(module, CrossDConv | PlanarConv) else 1
    if volume.shape[2] + before + after < least:
        raise TooShallow(run, least - before - after, volume.shape[2])
    if isinstance(module, CrossDConv) and not torch.compiler.is_compiling():
        _say_what_is_left_out(run, module, volume.shape[2] + before + after)
    size: tuple[int, ...] = getattr(module, "kernel_size", ())
    flat = len(size) == 3 and size[0] == 1 < max(size)
    run.seen.flat_convolutions += flat
    run.seen.convolutions += not flat
    answer = call(volume, *args, **kwargs)
    # Another forward may keep what it gives for its backward pass.
    ours = source_class(module).forward in (CrossDConv.forward, CrossDConvTranspose.forward)
    return run.fold(_as_on_the_way_down(run, answer) if grows(module) else answer, ours)


def _say_what_is_left_out(run: Run, module: CrossDConv, depth: int) -> None:
    """Warn of the last slices, where a layer takes some at a time and they are too few.

    Code of networks of patches asks for images of the right size, and never for the depth.
    """
    size, stride = module.kernel_size[0], module.stride[0]
    left = (depth - size) % stride
    pads = module.padding[0] or source_class(module).margins is not CrossDConv.margins
    if size != stride or pads or not left or run.replicated or run.root is None:
        return
    path = next((n for n, part in run.root.named_modules() if part is module), "")
    warnings.warn(
        f"{named(module, path)} takes {stride} slices at a time and leaves out the last {left} of "
        f"{depth}: give volumes of a multiple of {stride} slices, or convert with depth_stride=1",
        stacklevel=2,
    )


State.layers[2] = call_layer


def _along_depth(module: Any, margin: Margin) -> Margin:
    """Give what depth is padded by, as much less as the kernel is less deep than high."""
    size = getattr(module, "kernel_size", ())
    if len(size) != 3 or isinstance(module.padding, str):
        return margin
    places = (1 + depth_axis(size[1:]), 0)
    high, deep = (module.dilation[i] * (size[i] - 1) - 2 * module.padding[i] for i in places)
    less = (high - deep) // 2
    before, after = max(0, margin[0] - less), max(0, margin[1] - less)
    if module.stride[0] == 1 and before + after == deep and deep % 2 == 0:
        before = after = deep // 2  # as a kernel looks at both sides, causal ones in the plane too
    return (before, after, *margin[2:])


def _pads_by_itself(module: Any, margin: Margin) -> bool:
    """Tell whether a layer can add to depth what was added to the plane before it."""
    before, after, mode, value = margin
    own = source_class(module)
    plain = own.forward is CrossDConv.forward and own.margins is CrossDConv.margins
    zeros = mode == "constant" and not value and min(before, after) >= 0
    return plain and zeros and module.padding_mode == "zeros"


def grows(module: nn.Module) -> bool:
    """Tell whether a layer enlarges maps."""
    return bool(getattr(module, "transposed", False))


def _solid_output_size(run: Run, depth: int, args: Args, kwargs: Kwargs) -> Any:
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
