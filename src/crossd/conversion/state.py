"""What all modules of a converted network share: how it folds, and the run that is under way.

A converted network keeps its code. Its modules get classes of their own, made of the ones they
had (`folding_class`), whose methods ask the `State` of the network what is to be done: begin a
run (fold what a user gives, let the code work on it, unfold the answer), or go on in the one that
is under way. A run ends with the call that began it, and stays known until the next one.
"""

import functools
import inspect
import math
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossd.conversion.containers import leaves, mapped
from crossd.conversion.torch_private import (
    ConvBase,
    after_backward,
    in_backward,
    no_view,
    part,
    part_since,
    region,
    show_padding,
)
from crossd.errors import InputError
from crossd.nn.kernel_modes import (
    VIEWS,
    View,
    current_view,
    draw_view,
    replicated_axes,
    replicated_ends,
    resumable,
    view,
    view_is_set,
)

MARK = "crossd_slices"
"""The attribute of a tensor that holds the run and the depth of the slices it descends from."""

OWN = "crossd_own"
"""The attribute of a tensor that descends from no input, which holds the run."""

APART = "crossd_apart"
"""The attribute of slices that code took out of their batch, or put beside another; of the run."""


@dataclass(frozen=True)
class Folding:
    """How a network takes the other rank; decided once, when it is converted.

    Attributes:
        rank: 2 for a network that was made for images, 3 for one that was made for volumes.
        attention: ``"volume"`` (tokens of all slices attend to each other) or ``"slice"``.
        depth_padding: ``"zeros"`` or ``"replicate"``: what padding adds at both ends of depth.
        stages: (reduction of the plane, depth stride) of each stage; none where depth follows the
            plane.
        views: The views in which the consistency law holds, from which training draws.
        has_views: Whether kernels depend on the view.
        repeat: How often an image is repeated along the axis of its view to make a volume, for 3D
            networks whose code fixes the depth; 1 for one voxel.
        labels: Whether answers of 3D code with four axes are maps without channels.
        features: Axes of what `forward_features` gives on images, where the network has it.
        channels_last: Whether channels are the last axis of these features.
        mixes: Whether images of one batch may have different views.
        laid_last: Whether code takes maps with channels last in memory, which fold without copies.
        only: The one rank that is still taken, 2 or 3, where kernels are settled; 0 for both.
        fixed_view: The view of images, where kernels are settled in one.
    """

    rank: int = 2
    attention: str = "volume"
    depth_padding: str = "zeros"
    stages: tuple[tuple[int, int], ...] = ()
    views: tuple[int, ...] = (0, 1, 2)
    has_views: bool = True
    repeat: int = 1
    labels: bool = True
    features: int = 4
    channels_last: bool = False
    mixes: bool = True
    laid_last: bool = False
    only: int = 0
    fixed_view: int | None = None

    def require_views(self, axes: set[int]) -> None:
        """Refuse views in which the network breaks the law.

        Raises:
            InputError: "this network has no ... view".
        """
        lost = sorted(axes - {*self.views})
        if lost and self.has_views:
            raise InputError(
                f"this network has no {VIEWS[lost[0]]} view: the consistency law was not found to "
                "hold in it (net.conversion says why), so that images tell nothing of volumes there"
            )


@dataclass
class Seen:
    """What was met in a run: which of it looked along depth.

    Attributes:
        convolutions: That looked along depth.
        flat_convolutions: That worked within slices.
        attentions: To the tokens of all slices.
        flat_attentions: To those of one slice.
        tokens_deep: The most slices of tokens that one attention saw.
    """

    convolutions: int = 0
    flat_convolutions: int = 0
    attentions: int = 0
    flat_attentions: int = 0
    tokens_deep: int = 0


Margin = tuple[int, int, str, float | None]
"""Padding before and after an axis, with its mode and value (`torch.nn.functional.pad`)."""


class Run:
    """One call of a network: of which rank its input is, and what was seen of it on the way.

    Args:
        folding: Of the network.
        rank: 2 for images, 3 for volumes.
        view: The axis that is dropped, or one for each image.
        replicated: Axes whose ends are continued by the last slice.

    Attributes:
        number: Images or volumes in the batch.
        planes: (height, width, depth) of slices, in the order in which they were first met.
        seen: Convolutions and attentions that were met.
        paused: Whether functions are left alone meanwhile.
        region: Where the method that runs was called; see `torch_private.region`.
        root: What was called with images or volumes.
        module: Whose method it is; None for the network's own, which began the run.
    """

    def __init__(
        self, folding: Folding, rank: int, view: View, replicated: tuple[int, ...] = ()
    ) -> None:
        self.folding, self.rank, self.view = folding, rank, view
        self.replicated = replicated
        self.number: int = 0
        self.planes: list[tuple[int, int, int]] = []
        self.seen = Seen()
        self.paused = False
        self.region = region()
        self.root: nn.Module | None = None
        self.module: nn.Module | None = None
        self._buffers: list[Tensor] | None = None

    @property
    def axis(self) -> int:
        """Where the one voxel of an image stands in a 3D network; views that are mixed share it."""
        return self.view if isinstance(self.view, int) else 0

    @property
    def folds(self) -> bool:
        """Whether the input has another rank than the network's code."""
        return self.rank != self.folding.rank

    def met(self, func: Any) -> None:
        """Refuse a function in a part to be recomputed, but in no module of it.

        When that part is recomputed, nothing would watch it.
        """
        if region() != self.region and part_since(self.region):
            name = getattr(func, "__name__", "a function")
            raise RuntimeError(
                f"{name} is called in a part of the network that is recomputed in the backward "
                "pass, but in no module of it: give torch.utils.checkpoint a module or a method, "
                "or use crossd.checkpoint_activations(net)"
            )

    # Slices

    def mark(self, x: Tensor, depth: int, margin: Margin | None = None) -> Tensor:
        """Note that the leading axis of a tensor counts slices of volumes so deep.

        Args:
            x: The tensor.
            depth: Slices of a volume.
            margin: How the plane was padded: what looks along depth pads it alike before it looks.
        """
        setattr(x, MARK, (self, depth, margin))
        return x

    def depth_of(self, x: Tensor) -> int | None:
        """Return the depth that `mark` noted in this run.

        Raises:
            InputError: "slices that were padded ..." for those that `changed` made useless.
        """
        mark = getattr(x, MARK, None)
        if mark is None or mark[0] is not self:
            return None
        if mark[1] is None:
            raise InputError(
                "slices that were padded were changed in place by slices of another depth, and are "
                "used under another name than that of the result: write x = x + y"
            )
        depth: int = mark[1]
        return depth

    def margin_of(self, x: Tensor) -> Margin | None:
        """Return the margin that `mark` noted in this run."""
        mark = getattr(x, MARK, None)
        return mark[2] if mark is not None and mark[0] is self else None

    def slices(self, x: Tensor) -> int | None:
        """Return the depth of a tensor of slices, ``(N D m, ...)``; None for any other tensor.

        Functions of the user's own lose marks: then a leading size is taken for slices only if it
        is N times a depth that was met, and the tensor is not made without any input.
        """
        if self.depth_of(x) is None and (self.is_own(x) or self.is_apart(x)):
            return None
        return self.rows(x)

    def is_apart(self, x: Tensor) -> bool:
        """Tell whether a tensor was made of slices out of their batch."""
        return getattr(x, APART, None) is self

    def rows(self, x: Tensor) -> int | None:
        """Return the depth of a tensor with a row for each slice, whatever it was made of."""
        depth = self.depth_of(x)
        if depth is None:
            met = {d for _, _, d in self.planes if self.number * d == x.shape[0]} if x.dim() else ()
            depth = min(met) if len(met) == 1 and x.shape[0] > 1 else None
        if depth is None or x.dim() == 0 or x.shape[0] % (self.number * depth):
            return None
        return depth

    def is_own(self, x: Tensor) -> bool:
        """Tell whether a tensor is a parameter or buffer of the network, or made without input."""
        if isinstance(x, nn.Parameter) or getattr(x, OWN, None) is self:
            return True
        if self.root is None:
            return False
        if self._buffers is None:
            self._buffers = list(self.root.buffers())
        return any(x is buffer for buffer in self._buffers)

    def unfold(self, x: Tensor, depth: int) -> Tensor:
        """Make volumes ``(N m, C, D, H, W)`` of slices ``(N D m, C, H, W)``, padded as these."""
        margin, volume = self.margin_of(x), self.stacked(x, depth)
        return volume if margin is None else self.pad_depth(volume, margin)

    def stacked(self, x: Tensor, depth: int) -> Tensor:
        """Make volumes of slices, padded in the plane alone where these were padded."""
        if x.shape[0] == self.number * depth:
            return torch.unflatten(x, 0, (self.number, depth)).transpose(1, 2)
        stack = torch.unflatten(x, 0, (self.number, depth, -1))
        return stack.permute(0, 2, 3, 1, 4, 5).flatten(0, 1)

    def with_depth(self, x: Tensor, wanted: int) -> Tensor:
        """Give slices whose plane was padded a depth, in place of what their margin would give."""
        depth, margin = self.depth_of(x), self.margin_of(x)
        assert depth is not None and margin is not None
        alone = self.mark(x.view_as(x), depth)
        if depth == wanted:
            return alone
        before = (wanted - depth) // 2 if margin[0] else 0
        ends = (before, wanted - depth - before, *margin[2:])
        return self.fold(self.pad_depth(self.unfold(alone, depth), ends))

    def changed(self, before: Tensor, after: Tensor) -> None:
        """Note that padded slices were changed in place in the form that `with_depth` gave them.

        Those of the same depth share their memory; others do not show what became of them.
        """
        depth = self.depth_of(before)
        setattr(before, MARK, (self, depth if depth == self.depth_of(after) else None, None))

    def pad_depth(self, volume: Tensor, margin: Margin) -> Tensor:
        """Pad depth, by the last slices where ends are replicated; negative numbers cut."""
        before, after, mode, value = margin
        size = volume.shape[2] + min(before, 0) + min(after, 0)
        volume = volume.narrow(2, max(0, -before), size)
        sides = (0, 0, 0, 0, max(before, 0), max(after, 0))
        if not any(sides):
            return volume
        if 0 in self.replicated:
            mode, value = "replicate", None
        least = max(sides) + {"reflect": 1, "circular": 0}.get(mode, -max(sides))
        if size < least:
            raise TooShallow(self, least, size)
        return F.pad(volume, sides, mode, value)

    def fold(self, volume: Tensor, own: bool = False) -> Tensor:
        """Make slices ``(N D m, C, H, W)`` of volumes ``(N m, C, D, H, W)``; note their size.

        Args:
            volume: The volumes.
            own: Whether nobody else holds them, nor needs them in the backward pass. Then code may
                change slices in place as it would change what a layer gives: changing a view
                costs some copies in the backward pass.
        """
        depth, height, width = volume.shape[2:]
        traced = torch.compiler.is_compiling()
        copies = self.folding.laid_last and volume.stride(1) != 1  # as torch's pools lay out
        if copies and not (traced or torch.is_grad_enabled()):
            volume = volume.contiguous(memory_format=torch.channels_last_3d)
        if volume.shape[0] == self.number:
            x = volume.transpose(1, 2)
            own = own and not traced and volume.requires_grad
            if own and (len(x) == 1 or x.stride(0) == x.stride(1) * depth):
                x = no_view(x, (-1, *x.shape[2:]))
            else:
                x = x.flatten(0, 1)
        else:
            x = torch.unflatten(volume, 0, (self.number, -1)).permute(0, 3, 1, 2, 4, 5)
            x = x.flatten(0, 2)
        if not self.folding.laid_last:  # code may make views that only these allow
            x = x.contiguous()
        if (
            depth == 1 and self.number == 1
        ):  # no chain, which compares both; the stride of one slice is odd, which torch gets wrong
            last = volume.stride(1) == 1
            x = x.clone(memory_format=torch.channels_last if last else torch.contiguous_format)
        self.note(height, width, depth)
        return self.mark(x, depth)

    def note(self, height: int, width: int, depth: int) -> None:
        """Remember the depth of slices of this size, unless one is known."""
        if self.depth_at(height, width) is None:
            self.planes.append((height, width, depth))

    def depth_at(self, height: int, width: int) -> int | None:
        """Return the depth that slices of this size had on the way down."""
        for known_height, known_width, depth in self.planes:
            if known_height == height and known_width == width:
                return depth
        return None

    def depth_stride(self, height: int, plane: int) -> int:
        """Return the stride along depth of what makes slices of this height.

        Args:
            height: Of its answer (its input may be padded).
            plane: Its stride in the plane.
        """
        if not self.folding.stages or plane == 1:
            return plane
        reduction = self.planes[0][0] / (height * plane)
        nearest = min(self.folding.stages, key=lambda stage: abs(stage[0] - reduction))
        return nearest[1]

    # Input and answer

    def fold_input(self, args: Any, last: bool = False) -> Any:
        """Bring what a user gives into the rank of the network's code.

        Besides images and volumes these are their labels, which lack the axis of channels, and what
        is said of each volume, which has as many rows.

        Args:
            args: Tensors in any containers.
            last: Whether slices stand before channels: what `forward_head` is given.
        """
        if self.folding.rank == 3:
            return self._images_to_volumes(args)
        axes = self.folding.features + 1 if last else 5
        place = 1 if last and (axes == 4 or self.folding.channels_last) else 2
        volumes = [v for v in leaves(args) if isinstance(v, Tensor) and v.dim() == axes]
        self.number, depth = volumes[0].shape[0], volumes[0].shape[place]
        if 0 in (self.number, depth):
            what = "slices" if self.number else "volumes"
            raise InputError(f"volumes of shape {tuple(volumes[0].shape)}: there are no {what}")
        labels = (self.number, depth, *volumes[0].shape[3:])

        def fold(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            if value.dim() == axes and (value.shape[0], value.shape[place]) != labels[:2]:
                raise InputError(
                    f"volumes of shapes {tuple(volumes[0].shape)} and {tuple(value.shape)}: all of "
                    "one call must be as many and as deep"
                )
            if value.dim() == axes and place == 2:
                return self.fold(value)
            if value.dim() == axes or (place == 2 and value.shape == labels):
                return self.mark(value.flatten(0, 1), value.shape[1])
            if value.dim() and value.shape[0] == self.number:  # what is said of each volume
                return self.mark(value.repeat_interleave(depth, 0), depth)
            return value

        return mapped(fold, args)

    def _images_to_volumes(self, args: Any) -> Any:
        images = [v for v in leaves(args) if isinstance(v, Tensor) and v.dim() == 4]
        self.number = images[0].shape[0]
        labels = (self.number, *images[0].shape[2:])

        def extend(value: Any) -> Any:
            if not isinstance(value, Tensor) or not (value.dim() == 4 or value.shape == labels):
                return value
            place = value.dim() - 2 + self.axis
            return value.unsqueeze(place).repeat_interleave(self.folding.repeat, place)

        return mapped(extend, args)

    def mark_again(self, args: Any) -> None:
        """Mark the slices among what a part that is recomputed is given.

        Raises:
            RuntimeError: "cannot tell ..." where the first tensor is not recognised.
        """
        tensors = [v for v in leaves(args) if isinstance(v, Tensor) and v.dim()]
        depths = [self.slices(value) for value in tensors]
        if tensors and depths[0] is None:
            raise RuntimeError(
                "cannot tell the slices of volumes in a part that is recomputed in the backward "
                f"pass, given shape {tuple(tensors[0].shape)}: use crossd.checkpoint_activations"
            )
        for value, depth in zip(tensors, depths, strict=True):
            if depth is not None:
                self.mark(value, depth)

    def unfold_answer(self, answer: Any, last: bool = False) -> Any:
        """Bring the answer of the network's code into the rank of the input.

        Maps become maps of the rank of the input, depth standing before height and width; vectors,
        and maps of one pixel, are averaged over what is left of depth, and of whole numbers the
        most frequent one is taken; of tokens ``(N D, L, C)`` comes ``(N, D, L, C)``.

        Args:
            answer: Tensors in any containers.
            last: Whether channels are the last axis of maps.
        """
        if self.folding.rank == 3:
            return mapped(self._volume_to_image, answer)
        return mapped(functools.partial(self._unfold_one, last=last), answer)

    def _unfold_one(self, value: Any, last: bool) -> Any:
        if not isinstance(value, Tensor) or value.dim() == 0:
            return value
        depth = self.rows(value) if self.is_apart(value) else self.slices(value)
        if depth is None:
            return value
        if value.shape[0] != self.number * depth:
            raise RuntimeError(
                f"an answer of shape {tuple(value.shape)} does not have the {depth} slices of each "
                f"of {self.number} volumes in its first axis: the code notes the number of slices "
                "before a layer that changes it (convert with depth_stride=1), or squeezes the "
                "axis of a batch of one (give two volumes)"
            )
        if value.dim() == 4 and not last:
            known = self.depth_at(*value.shape[2:])
            if known is not None and self.margin_of(value) is not None:
                value, depth = self.with_depth(value, known), known
            stack = self.unfold(value, depth)
            # No chain: that compares both lengths, which fixes the size of traced networks.
            if value.shape[2] == 1 and value.shape[3] == 1:
                return stack.mean(2, keepdim=True)
            if known is not None and known > depth:  # enlarged by code that nothing watches
                stack = F.interpolate(stack, (known, *stack.shape[3:]))
            return stack
        stack = torch.unflatten(value, 0, (self.number, depth))
        if value.dim() < 3:
            return stack.mean(1) if value.is_floating_point() else stack.mode(1).values
        return stack if last else stack.movedim(1, -3)

    def _volume_to_image(self, value: Any) -> Any:
        """Take the axis of the view from what has depth, height and width as its last axes."""
        place = -3 + self.axis
        least = 4 if self.folding.labels else 5
        if not isinstance(value, Tensor) or value.dim() < least:
            return value
        if self.folding.repeat == 1:
            return value.squeeze(place)
        middle = value.shape[place] // 2
        return value.mean(place) if value.is_floating_point() else value.select(place, middle)


class TooShallow(InputError):
    """A volume has too few slices.

    Args:
        run: The run that is under way.
        needed: Slices that a layer needs.
        left: Slices that have come to it.

    Attributes:
        depth: Slices of the volume.
        least: Slices from which the layer has enough, if depth is reduced evenly.
    """

    def __init__(self, run: Run, needed: int, left: int) -> None:
        self.depth = run.planes[0][2]
        self.least = needed * max(1, math.ceil(self.depth / max(left, 1)))
        super().__init__(
            f"the volume is {self.depth} slices deep, of which {left} are left where a layer needs "
            f"{needed}: give deeper volumes, or convert with depth_stride=1"
        )


class _Local(threading.local):
    """What a thread has under way.

    Attributes:
        run: The run that is under way.
        last: The last run, which stays known when it is over.
    """

    run: Run | None = None
    last: Run | None = None


class State:
    """What the modules of one network share.

    Args:
        folding: How the network takes the other rank.

    Attributes:
        modes: What watches the functions that code of a rank calls in a run that folds, by rank;
            `crossd.conversion.volumes` and `crossd.conversion.planes` enter theirs.
        layers: What calls a layer that takes both ranks by itself, by the rank of the code.
    """

    modes: ClassVar[dict[int, Callable[[Run], AbstractContextManager[Any]]]] = {}
    layers: ClassVar[dict[int, Callable[..., Any]]] = {}

    def __init__(self, folding: Folding) -> None:
        self.folding = folding
        self._local = _Local()
        self._replayed: dict[int, Run] = {}
        self._parts: weakref.WeakKeyDictionary[Any, _Part] = weakref.WeakKeyDictionary()

    def __deepcopy__(self, memo: dict[int, Any]) -> "State":
        """A copy of a network has runs of its own."""
        memo[id(self)] = copy = State(self.folding)
        return copy

    def __reduce__(self) -> Any:
        """Pickle how the network folds, not what is under way."""
        return State, (self.folding,)

    @property
    def last(self) -> Run | None:
        """The last run of this thread."""
        return self._local.last

    def call(
        self, module: nn.Module, method: Callable[..., Any], form: Any, args: Any, kwargs: Any
    ) -> Any:
        """Call a method of a module of the network, in the run that is under way or in a new one.

        Args:
            module: The module.
            method: What its own class has.
            form: What stands for the method in a run, or None: called with the run, the module and
                the method before the arguments.
            args: Of the call.
            kwargs: Of the call.
        """
        run = self._local.run
        if run is not None:
            before = run.region, run.module
            run.region, run.module = region(), module
            if run.region != before[0]:
                self._note_part(run, begins=False)
            try:
                if form is None:
                    return method(module, *args, **kwargs)
                return form(run, module, method, *args, **kwargs)
            finally:
                run.region, run.module = before
        again = functools.partial(self.call, module, method, form)
        rank = self._rank(method, args, kwargs)
        if in_backward():
            return self._recompute(again, module, method, args, kwargs)
        if rank is None:
            return method(module, *args, **kwargs)
        self._require_taken(rank)
        own = (0,) if self.folding.depth_padding == "replicate" else ()
        ends = tuple({*own, *replicated_axes()})
        run = Run(self.folding, rank, self._view(module, rank), ends)
        run.root = module
        if rank == self.folding.rank or torch.compiler.is_compiling():
            return self._begin(run, again, method, args, kwargs)
        try:
            return self._begin(run, again, method, args, kwargs)
        except TooShallow as error:
            deep = self._deep_enough(error, module, method, args, kwargs)
            raise InputError(
                f"the volume is {error.depth} slices deep, but the network needs at least {deep}: "
                "give deeper volumes, or convert with depth_stride=1"
            ) from error
        except RuntimeError as error:
            error.add_note(
                "The network's code has the other rank than what it is given. Where sizes do not "
                "meet: sides of volumes that halve as often as those of images avoid that."
            )
            raise

    def _rank(self, method: Callable[..., Any], args: Any, kwargs: Any) -> int | None:
        """Tell volumes from images by the number of axes; None where there are neither."""
        axes = {v.dim() for v in leaves((args, kwargs)) if isinstance(v, Tensor)}
        images = self.folding.features if method.__name__ == HEAD else 4
        return 3 if images + 1 in axes else 2 if images in axes else None

    def _require_taken(self, rank: int) -> None:
        """Refuse a rank, or images in a view, that the network has no settings for."""
        if self.folding.only and rank != self.folding.only:
            names = {2: "images (N, C, H, W)", 3: "volumes (N, C, D, H, W)"}
            raise InputError(
                f"this network takes {names[self.folding.only]} alone, got {names[rank]}"
            )
        if rank == 3 or not self.folding.has_views or self.folding.fixed_view is not None:
            return
        chosen = current_view()
        axes = {chosen} if isinstance(chosen, int) else set(chosen)
        if self.folding.rank == 2 and self.folding.stages and axes != {0}:
            raise InputError(
                "the network's depth strides are not those of the plane, so that it has no "
                "settings for images in another view than the axial one"
            )
        if len(axes) > 1 and not self.folding.mixes:
            raise InputError(
                "images of one batch cannot have different views in this network, whose code mixes "
                "them: put one view in a batch"
            )
        self.folding.require_views(axes)

    def _view(self, module: nn.Module, rank: int) -> View:
        if rank == 3:
            return 0
        if self.folding.fixed_view is not None:
            return self.folding.fixed_view
        given: int | None = getattr(module, "crossd_view", None)
        if given is not None and not view_is_set():
            return given
        if view_is_set() or not (module.training and self.folding.has_views):
            return current_view()
        if torch.compiler.is_compiling() and len(self.folding.views) > 1:
            raise RuntimeError("a compiled network cannot draw views: use crossd.view('random')")
        return draw_view(self.folding.views)

    def _begin(
        self, run: Run, again: Any, method: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        if torch.compiler.is_compiling():
            show_padding()
        if run.folds:
            args, kwargs = run.fold_input((args, kwargs), method.__name__ == HEAD)
        self._note_part(run, begins=True)
        with self.running(run):
            answer = again(args, kwargs)
            if run.folds:
                last = self.folding.channels_last and method.__name__ != INTERMEDIATES
                answer = run.unfold_answer(answer, last)
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            self._replayed.pop(threading.get_ident(), None)
            for value in leaves(answer):
                if isinstance(value, Tensor) and value.grad_fn is not None:
                    value.grad_fn.register_prehook(functools.partial(self._replay, run))
        return answer

    def _deep_enough(
        self, error: TooShallow, module: nn.Module, method: Any, args: Any, kwargs: Any
    ) -> int:
        """Find how many slices a volume must have, by trying others."""
        modes = {part: part.training for part in module.modules()}

        def lacks(depth: int) -> TooShallow | None:
            def of_depth(value: Any) -> Any:
                if not isinstance(value, Tensor) or not value.dim():
                    return value
                wide = value.dim() == 5
                return value[:1, :, :1].repeat_interleave(depth, 2) if wide else value[:1]

            again = functools.partial(self.call, module, method, None)
            try:
                with torch.no_grad(), torch.random.fork_rng(devices=[]):
                    run = Run(self.folding, 3, 0)
                    run.root = module
                    self._begin(run, again, method, *mapped(of_depth, (args, kwargs)))
            except TooShallow as more:
                return more
            except Exception:  # of the network's own: it came further than before
                return None
            return None

        module.eval()
        try:
            few, enough = error.depth, error.least
            while enough < DEEPEST and (more := lacks(enough)) is not None:
                few, enough = enough, max(more.least, enough + 1)
            while enough - few > 1:
                middle = (few + enough) // 2
                few, enough = (middle, enough) if lacks(middle) else (few, middle)
        finally:
            for part, training in modes.items():
                part.training = training
        return enough

    @contextmanager
    def running(self, run: Run) -> Iterator[None]:
        """Let a run be under way."""
        local = self._local
        before, local.run, local.last = local.run, run, run
        watch = self.modes[self.folding.rank](run) if run.folds else nullcontext()
        resume = functools.partial(self.running, run)
        try:
            with view(run.view), replicated_ends(run.replicated), resumable(resume), watch:
                yield
        finally:
            local.run = before

    # Recomputation in the backward pass

    def _replay(self, run: Run, gradients: Any) -> None:
        """Note that the backward pass of a run begins: what it recomputes belongs to this run.

        Of several runs before one backward pass, autograd finishes the later one first.
        """
        thread = threading.get_ident()
        if thread not in self._replayed:
            after_backward(functools.partial(self._forget, thread))
        self._replayed[thread] = run

    def _forget(self, thread: int) -> None:
        self._replayed.pop(thread, None)

    def _note_part(self, run: Run, begins: bool) -> None:
        """Note which run a part belongs to that `torch.utils.checkpoint` will recompute."""
        now = part()[0]
        if now is not None and not in_backward():
            self._parts.setdefault(now, _Part(begins)).runs.append(run)

    def _recompute(
        self, again: Any, module: nn.Module, method: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        """Go on in the run to which a part belongs that is recomputed, or begin it again."""
        now, time = part()
        known = None if now is None else self._parts.get(now)
        if known is not None and known.begins:
            last = known.next_run(time)
            run = Run(self.folding, last.rank, last.view, last.replicated)
            run.root = module
            return self._begin(run, again, method, args, kwargs)
        own = known.runs[0] if known is not None else self._replayed.get(threading.get_ident())
        if own is None or (module is own.root and method.__name__ == "forward"):
            raise RuntimeError(
                "a part of a converted network is recomputed in a backward pass that did not begin "
                "at an answer of the network, so that its view and rank are not known: use "
                "crossd.checkpoint_activations(net), or use_reentrant=False around the network"
            )
        if own.folds and self.folding.rank == 2:
            own.mark_again((args, kwargs))
        with self.running(own):
            return again(args, kwargs)


class _Part:
    """A part of a forward pass that `torch.utils.checkpoint` will recompute.

    Args:
        begins: Whether runs begin in it, or it is a part of one.

    Attributes:
        runs: In the order in which they began.
    """

    def __init__(self, begins: bool) -> None:
        self.begins = begins
        self.runs: list[Run] = []
        self._time: Any = None
        self._place = 0

    def next_run(self, time: Any) -> Run:
        """Give the run that is due in a recomputation, which is known by an object of its own."""
        if time is not self._time:
            self._time, self._place = time, 0
        self._place += 1
        return self.runs[self._place - 1]


DEEPEST = 4096
"""Slices of the deepest volume that is tried, to say how deep one must be."""

HEAD, INTERMEDIATES = "forward_head", "forward_intermediates"
"""The method of timm's networks that takes features, and the one that gives maps in any layout."""


class Folded:
    """Goes before the class of each module of a converted network.

    Attributes:
        crossd_state: What the modules of the network share.
        crossd_view: In a replica for another thread, the view that was set where it was made.
    """

    crossd_state: State | None = None
    crossd_view: int | None = None

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copy and pickle by the class that was there before, which can be imported."""
        kind: Any = type(self)
        reduced: Any = super().__reduce_ex__(protocol)
        own = kind.__mro__[kind.__mro__.index(Folded) + 1]
        return _blank, (own, issubclass(kind, Layer)), *reduced[2:]

    def _replicate_for_data_parallel(self) -> Any:
        """Give a replica for another thread the view of this one."""
        replica: Any = super()._replicate_for_data_parallel()  # type: ignore[misc]
        if view_is_set():
            chosen = current_view()
            if not isinstance(chosen, int):
                raise ValueError("one view a sample is not for DataParallel: use DDP, or one view")
            replica.crossd_view = chosen
        return replica


class Layer(Folded):
    """A layer that takes images and volumes by itself, as rules make them."""


def source_class(module: Any) -> Any:
    """Return the class that a module of a converted network had before."""
    kind: Any = type(module)
    return kind.__mro__[kind.__mro__.index(Folded) + 1] if isinstance(module, Folded) else kind


def _blank(kind: Any, layer: bool) -> Any:
    made: Any = folding_class(kind, layer)
    return made.__new__(made)


def fold_module(module: nn.Module, layer: bool, state: State) -> None:
    """Give a module the class that asks the state of its network, in place.

    Args:
        module: The module.
        layer: Whether it takes images and volumes by itself.
        state: What the modules of the network share.
    """
    folded: Any = module
    kind: Any = type(module)
    folded.__class__ = folding_class(kind, layer)
    folded.crossd_state = state
    for name in SETTINGS:
        if isinstance(getattr(type(folded), name, None), property):
            setattr(folded, name, folded.__dict__[name])


@functools.cache
def folding_class(kind: Any, layer: bool) -> Any:
    """Make the class whose methods ask the state of the network.

    Args:
        kind: The module's own class.
        layer: Whether the module takes images and volumes by itself.
    """
    form = _call_layer if layer else FORMS.get(f"{kind.__module__}.{kind.__qualname__}")
    methods: dict[str, Any] = {
        name: _asking(function, form if name == "forward" else None)
        for name, function in ({"forward": kind.forward} if layer else _methods(kind)).items()
    }
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, **methods}
    if layer and issubclass(kind, ConvBase):
        names |= {name: _seen_by_its_code(name) for name in SETTINGS}
    bases = (Layer, Folded, kind) if layer else (Folded, kind)
    return type(kind)(kind.__name__, bases, names)


FORMS: dict[str, Callable[..., Any]] = {}
"""What stands for the forward of modules of other libraries on volumes, by their full names."""


def _call_layer(run: Run, module: Any, method: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a layer that takes both ranks by itself; meanwhile nothing is watched."""
    run.paused = True
    try:
        call = functools.partial(method, module)
        if not run.folds:
            return call(*args, **kwargs)
        return State.layers[run.folding.rank](run, module, call, *args, **kwargs)
    finally:
        run.paused = False


SETTINGS = ("kernel_size", "stride", "padding", "dilation", "output_padding")


def _seen_by_its_code(name: str) -> property:
    """A setting of a layer, of which code that was written for images sees the two of the plane."""
    own = f"crossd_{name}"  # a property that reads its own name is endless to a compiler

    def get(self: Any) -> Any:
        value = getattr(self, own)
        state: State | None = self.crossd_state
        run = None if state is None else state._local.run
        if run is None or run.paused or run.folding.rank == 3 or len(value) < 3:
            return value
        return value if isinstance(value, str) else value[1:]

    def set_(self: Any, value: Any) -> None:
        self.__dict__[name] = value  # which torch shows
        setattr(self, own, value)

    return property(get, set_)


def _asking(function: Callable[..., Any], form: Any) -> Callable[..., Any]:
    @functools.wraps(function)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        state = self.crossd_state
        if state is None:
            return function(self, *args, **kwargs)
        return state.call(self, function, form, args, kwargs)

    return method


def _methods(kind: Any) -> dict[str, Callable[..., Any]]:
    """List the methods by which code runs a module, or a part of it: none that all modules have.

    Private ones too, as they may be what is recomputed in a backward pass.
    """
    found: dict[str, Callable[..., Any]] = {}
    for base in kind.__mro__:
        if base is nn.Module or base.__module__.startswith("torch.nn."):
            break
        for name, value in vars(base).items():
            own = not hasattr(nn.Module, name) and not name.startswith("__")
            if own and inspect.isfunction(value):
                found.setdefault(name, value)
    return {**found, "forward": kind.forward}
