"""What all modules of a converted network share: how it folds, and the run that is under way.

A converted network keeps its code. Its modules get classes of their own, made of the ones they
had (`folding_class`), whose methods ask the `State` of the network what is to be done: begin a
run (fold what a user gives, let the code work on it, unfold the answer), or go on in the one that
is under way. A run ends with the call that began it, and stays known until the next one.
"""

import functools
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from crossd.conversion.folding.containers import mapped, tensors_in
from crossd.conversion.folding.run import (
    Args,
    Folding,
    Handler,
    Kwargs,
    NotDeepEnough,
    Run,
    TooShallow,
)
from crossd.conversion.folding.torch_private import (
    after_backward,
    in_backward,
    part,
    region,
    show_padding,
)
from crossd.errors import InputError
from crossd.nn.views import (
    View,
    current_view,
    draw_view,
    replicated_axes,
    replicated_ends,
    resumable,
    view,
    view_is_set,
)

SIZES = (
    "The network's code has the other rank than what it is given. Where sizes do not meet: sides "
    "of volumes that halve as often as those of images avoid that."
)
"""Stands beside what code for images says where it fails on volumes, or the other way round."""


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
            `crossd.conversion.folding.volumes` and `crossd.conversion.folding.planes` enter theirs.
        layers: What calls a layer that takes both ranks by itself, by the rank of the code.
    """

    modes: ClassVar[dict[int, Callable[[Run], AbstractContextManager[object]]]] = {}
    layers: ClassVar[dict[int, Callable[..., Tensor]]] = {}

    def __init__(self, folding: Folding) -> None:
        self.folding = folding
        self._local = _Local()
        self._replayed: dict[int, Run] = {}
        self._parts: weakref.WeakKeyDictionary[object, _Part] = weakref.WeakKeyDictionary()

    def __deepcopy__(self, memo: dict[int, object]) -> "State":
        """A copy of a network has runs of its own."""
        memo[id(self)] = copy = State(self.folding)
        return copy

    def __reduce__(self) -> Any:
        """Pickle how the network folds, not what is under way."""
        return State, (self.folding,)

    @property
    def last(self) -> Run:
        """The last run of this thread, in which the network was called."""
        assert self._local.last is not None
        return self._local.last

    def call(
        self,
        module: nn.Module,
        method: Callable[..., Any],
        form: Handler | None,
        args: Args,
        kwargs: Kwargs,
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
            raise NotDeepEnough(error.depth, *deep) from error
        except RuntimeError as error:
            error.add_note(SIZES)
            raise

    def _rank(self, method: Callable[..., object], args: Args, kwargs: Kwargs) -> int | None:
        """Tell volumes from images by the number of axes; None where there are neither."""
        axes = {v.dim() for v in tensors_in((args, kwargs))}
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
        self, run: Run, again: Any, method: Callable[..., Any], args: Args, kwargs: Kwargs
    ) -> object:
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
            for value in tensors_in(answer):
                if value.grad_fn is not None:
                    value.grad_fn.register_prehook(functools.partial(self._replay, run))
        return answer

    def _deep_enough(
        self, error: TooShallow, module: nn.Module, method: Any, args: Args, kwargs: Kwargs
    ) -> tuple[int, int]:
        """Find how many slices a volume must have, and the most that were tried in vain."""
        pixels = max(v.shape[-2:].numel() for v in tensors_in((args, kwargs)) if v.dim() > 2)
        deepest = max(error.depth, LARGEST_TRIED // pixels)
        modes = {part: part.training for part in module.modules()}

        def lacks(depth: int) -> TooShallow | None:
            def of_depth(value: Tensor) -> Tensor:
                if not value.dim():
                    return value
                wide = value.dim() == 5
                return value[:1, :, :1].repeat_interleave(depth, 2) if wide else value[:1]

            again = functools.partial(self.call, module, method, None)
            try:
                with torch.no_grad(), torch.random.fork_rng(devices=[]):
                    run = Run(self.folding, 3, 0, (0,))  # as in checks, which warn of nothing
                    run.root = module
                    self._begin(run, again, method, *mapped(of_depth, (args, kwargs)))
            except TooShallow as more:
                return more
            except Exception:  # of the network's own: it came further than before
                return None
            return None

        for counting in module.modules():
            if hasattr(counting, "running_mean"):  # whose statistics are not to see it
                counting.eval()
        try:
            few, enough = error.depth, error.least
            while (exact := enough <= deepest) and (more := lacks(enough)) is not None:
                few, enough = enough, max(more.least, enough + 1)
            while exact and enough - few > 1:
                middle = (few + enough) // 2
                few, enough = (middle, enough) if lacks(middle) else (few, middle)
        finally:
            for part, training in modes.items():
                part.training = training
        return enough, few

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

    def _replay(self, run: Run, gradients: object) -> None:
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
        self, again: Any, module: nn.Module, method: Callable[..., Any], args: Args, kwargs: Kwargs
    ) -> object:
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
        self._time: object = None
        self._place = 0

    def next_run(self, time: object) -> Run:
        """Give the run that is due in a recomputation, which is known by an object of its own."""
        if time is not self._time:
            self._time, self._place = time, 0
        self._place += 1
        return self.runs[self._place - 1]


LARGEST_TRIED = 2**22
"""Voxels of the largest volume that is tried, to say how deep one must be: a few seconds' work."""


HEAD, INTERMEDIATES = "forward_head", "forward_intermediates"
"""The method of timm's networks that takes features, and the one that gives maps in any layout."""
