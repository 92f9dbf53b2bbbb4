"""The view in which 2D kernels are taken of 3D ones, and what else surrounding contexts choose."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch

VIEWS = ("axial", "coronal", "sagittal")
"""A view is named after the plane that stays; its index is the axis that is dropped (z, y, x)."""

View = int | tuple[int, ...]
"""The axis that slicing drops: one for the whole batch, or one for each image."""


class _Chosen(threading.local):
    """What the surrounding contexts chose, for each thread by itself.

    Attributes:
        view: The view that `view` set, or None.
        replicated: Axes (0, 1, 2) at whose ends volumes are continued by their last slice.
        resume: Makes a context that brings back, in any thread, what holds now; None for nothing.
    """

    view: View | None = None
    replicated: tuple[int, ...] = ()
    resume: Callable[[], AbstractContextManager[None]] | None = None


_chosen = _Chosen()


def _axis(name: str | int) -> int:
    if isinstance(name, str) and name in VIEWS:
        return VIEWS.index(name)
    if not isinstance(name, str) and 0 <= int(name) < len(VIEWS):
        return int(name)
    raise ValueError(f"view (={name!r}) must be one of {', '.join(VIEWS)} or 'random'")


@contextmanager
def view(name: str | int | Sequence[str | int]) -> Iterator[None]:
    """Set the view in which 2D kernels are taken of 3D ones, for this thread.

    The view is the same in all layers. Match it to the orientation of the images where that is
    known (an axial slice of a volume has the axial view). Outside of this context manager a
    network made by `crossd.convert` draws a view for every batch in training, and uses the
    axial one in evaluation.

    Args:
        name: ``"axial"``, ``"coronal"``, ``"sagittal"`` (or the axis that is dropped: 0, 1, 2), a
            sequence with one of these per sample, or ``"random"``, which draws one on entering.

    Raises:
        ValueError: "view ..." for any other name.

    Example:
        >>> with view("coronal"):
        ...     current_view()
        1
    """
    value: View
    if name == "random":
        value = draw_view(range(len(VIEWS)))
    elif isinstance(name, (str, int)):
        value = _axis(name)
    else:
        value = tuple(_axis(part) for part in name)
        if not value:
            raise ValueError("view (=[]) must name at least one view")
        if len(set(value)) == 1:  # one shared kernel is an ordinary convolution
            value = value[0]
    before, _chosen.view = _chosen.view, value
    try:
        yield
    finally:
        _chosen.view = before


@contextmanager
def replicated_ends(axes: tuple[int, ...]) -> Iterator[None]:
    """Let padding continue volumes by their last slice, along these axes, instead of by zeros.

    Args:
        axes: Of (z, y, x): 0, 1, 2.
    """
    before, _chosen.replicated = _chosen.replicated, axes
    try:
        yield
    finally:
        _chosen.replicated = before


@contextmanager
def resumable(resume: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """Let what recomputes a part of the network later know how to bring back this context.

    Args:
        resume: Makes a context that brings it back.
    """
    before, _chosen.resume = _chosen.resume, resume
    try:
        yield
    finally:
        _chosen.resume = before


def current_resume() -> Callable[[], AbstractContextManager[None]]:
    """Return what brings back the present context: a run of a network, or the view alone."""
    if _chosen.resume is not None:
        return _chosen.resume
    return nullcontext if _chosen.view is None else partial(view, _chosen.view)


def replicated_axes() -> tuple[int, ...]:
    """Return the axes that `replicated_ends` chose."""
    return _chosen.replicated


def current_view() -> View:
    """Return the view that is set, or the axial one."""
    return 0 if _chosen.view is None else _chosen.view


def batch_view(view: View) -> int:
    """Give the view of a whole batch; the first where a mode does not look at views."""
    return view if isinstance(view, int) else view[0]


def view_is_set() -> bool:
    """Tell whether a surrounding `view` context chose the view."""
    return _chosen.view is not None


def draw_view(among: Sequence[int]) -> int:
    """Draw a view from torch's generator."""
    return int(among[int(torch.randint(len(among), ()))])
