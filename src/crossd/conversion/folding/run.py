"""One call of a network in the other rank: what its slices are, and what was met on the way."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossd.conversion.folding.containers import is_measured, mapped, tensors_in
from crossd.conversion.folding.torch_private import (
    no_view,
    part_since,
    region,
)
from crossd.errors import InputError
from crossd.nn.views import VIEWS, View

MARK = "crossd_slices"
"""The attribute of a tensor that holds the run and the depth of the slices it descends from."""


OWN = "crossd_own"
"""The attribute of a tensor that has no rows of slices, which holds the run: it descends from no
input, or is what all of a batch make together."""


APART = "crossd_apart"
"""The attribute of slices that code took out of their batch, or put beside another; of the run."""


@dataclass(frozen=True)
class Choices:
    """What was chosen for a network, of which its modules need to know when they are called.

    Attributes:
        attention: ``"volume"`` (tokens of all slices attend to each other) or ``"slice"``.
        depth_padding: ``"zeros"`` or ``"replicate"``: what padding adds at both ends of depth.
        stages: (reduction of the plane, depth stride) of each stage; none where depth follows the
            plane.
        views: The views in which the consistency law holds, from which training draws.
        mixes: Whether images of one batch may have different views.
        repeat: How often an image is repeated along the axis of its view to make a volume, for 3D
            networks whose code fixes the depth; 1 for one voxel.
        labels: Whether answers of 3D code with four axes are maps without channels.
        features: Axes of what `forward_features` gives on images, where the network has it.
        channels_last: Whether channels are the last axis of these features.
        laid_last: Whether kernels are laid out with channels last in memory, and code takes maps
            that are, which fold without copies.
    """

    attention: str = "slice"
    depth_padding: str = "zeros"
    stages: tuple[tuple[int, int], ...] = ()
    views: tuple[int, ...] = (0, 1, 2)
    mixes: bool = True
    repeat: int = 1
    labels: bool = True
    features: int = 4
    channels_last: bool = False
    laid_last: bool = True


@dataclass(frozen=True)
class Folding(Choices):
    """How a network takes the other rank; decided once, when it is converted.

    Attributes:
        rank: 2 for a network that was made for images, 3 for one that was made for volumes.
        has_views: Whether kernels depend on the view.
        only: The one rank that is still taken, 2 or 3, where kernels are settled; 0 for both.
        fixed_view: The view of images, where kernels are settled in one.
    """

    rank: int = 2
    has_views: bool = True
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
class LayersMet:
    """What was met in a run: which of it looked along depth.

    Attributes:
        convolutions: That looked along depth.
        flat_convolutions: That worked within slices.
        attentions: To the tokens of all slices.
        flat_attentions: To those of one slice.
        tokens_deep: The most slices of tokens that one attention saw.
        foreign: Names of operations of other libraries, which work within slices.
    """

    convolutions: int = 0
    flat_convolutions: int = 0
    attentions: int = 0
    flat_attentions: int = 0
    tokens_deep: int = 0
    foreign: set[str] = field(default_factory=set)


Function = Callable[..., Tensor]
"""A function of torch."""


Handler = Callable[..., Any]
"""What is done instead of one; called with the run and the function before its arguments."""


Args = tuple[object, ...]
Kwargs = dict[str, Any]
"""The arguments of a function or method, of whatever kind."""


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
        own_draws: Random numbers on two axes, the first as long as there are slices, that were met.
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
        self.seen = LayersMet()
        self.own_draws = 0
        self.paused = False
        self.region = region()
        self.root: nn.Module | None = None
        self.module: nn.Module | None = None
        self._kept: list[Tensor] | None = None

    @property
    def axis(self) -> int:
        """Where the one voxel of an image stands in a 3D network; views that are mixed share it."""
        return self.view if isinstance(self.view, int) else 0

    @property
    def folds(self) -> bool:
        """Whether the input has another rank than the network's code."""
        return self.rank != self.folding.rank

    def met(self, func: Function) -> None:
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
        """Tell whether a tensor is kept by a module of the network, or descends from no slices."""
        if isinstance(x, nn.Parameter) or getattr(x, OWN, None) is self:
            return True
        if self.root is None:
            return False
        if self._kept is None:
            self._kept = [tensor for module in self.root.modules() for tensor in _kept_by(module)]
        return any(x is tensor for tensor in self._kept)

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

    def fold_input(self, args: object, last: bool = False) -> Any:
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
        volumes = [v for v in tensors_in(args) if v.dim() == axes]
        self.number, depth = volumes[0].shape[0], volumes[0].shape[place]
        if 0 in (self.number, depth):
            what = "slices" if self.number else "volumes"
            raise InputError(f"volumes of shape {tuple(volumes[0].shape)}: there are no {what}")
        labels = (self.number, depth, *volumes[0].shape[3:])

        def fold(value: Tensor) -> Tensor:
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

    def _images_to_volumes(self, args: object) -> Any:
        first = next(v for v in tensors_in(args) if v.dim() == 4)
        self.number = first.shape[0]
        return repeated(args, first, self.folding.repeat, self.axis)

    def mark_again(self, args: object) -> None:
        """Mark the slices among what a part that is recomputed is given.

        Raises:
            RuntimeError: "cannot tell ..." where the first tensor is not recognised.
        """
        tensors = [v for v in tensors_in(args) if v.dim()]
        depths = [self.slices(value) for value in tensors]
        if tensors and depths[0] is None:
            raise RuntimeError(
                "cannot tell the slices of volumes in a part that is recomputed in the backward "
                f"pass, given shape {tuple(tensors[0].shape)}: use crossd.checkpoint_activations"
            )
        for value, depth in zip(tensors, depths, strict=True):
            if depth is not None:
                self.mark(value, depth)

    def unfold_answer(self, answer: object, last: bool = False) -> object:
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

    def _unfold_one(self, value: Tensor, last: bool) -> Tensor:
        if value.dim() == 0:
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
            return stack.mean(1) if is_measured(value) else stack.mode(1).values
        return stack if last else stack.movedim(1, -3)

    def _volume_to_image(self, value: Tensor) -> Tensor:
        """Take the axis of the view from what has depth, height and width as its last axes."""
        place = -3 + self.axis
        least = 4 if self.folding.labels else 5
        if value.dim() < least:
            return value
        if self.folding.repeat == 1:
            return value.squeeze(place)
        middle = value.shape[place] // 2
        return value.mean(place) if is_measured(value) else value.select(place, middle)


def _kept_by(module: nn.Module) -> list[Tensor]:
    """List the tensors that a module keeps: parameters, buffers and attributes of other kinds."""
    kept: list[Tensor] = []
    for value in vars(module).values():
        parts = value.values() if isinstance(value, dict) else value
        parts = parts if isinstance(value, (dict, list, tuple)) else (value,)
        kept += [part for part in parts if isinstance(part, Tensor)]
    return kept


def repeated(given: object, first: Tensor, count: int, axis: int) -> Any:
    """Make volumes of images, and of their labels, that repeat them along an axis.

    Args:
        given: Tensors in any containers.
        first: Images among them, of whose size labels are.
        count: How often.
        axis: 0 for depth, 1 for height, 2 for width.
    """
    labels = (first.shape[0], *first.shape[2:])

    def wide(value: Tensor) -> Tensor:
        if value.dim() != 4 and value.shape != labels:
            return value
        place = value.dim() - 2 + axis
        return value.unsqueeze(place).repeat_interleave(count, place)

    return mapped(wide, given)


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


class NotDeepEnough(InputError):
    """A volume is shallower than the network can take.

    Args:
        depth: Slices of the volume.
        enough: The fewest that the network may take.
        failed: The most that were tried and are not enough.

    Attributes:
        enough: The same.
        needed: In words.
    """

    def __init__(self, depth: int, enough: int, failed: int) -> None:
        self.enough = enough
        self.needed = f"at least {enough}" if enough == failed + 1 else f"more than {failed}"
        super().__init__(
            f"the volume is {depth} slices deep, but the network needs {self.needed}: give deeper "
            "volumes, or convert with depth_stride=1"
        )
