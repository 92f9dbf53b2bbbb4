"""Volumes as a source of 2D slices of known orientation."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from crossd.data.dataset import Sample, Samples
from crossd.data.io.agreement import IGNORED
from crossd.data.preprocessing.plan import TYPICAL
from crossd.data.shapes import fit, round_up
from crossd.data.source import Source, require_rank
from crossd.data.splits import spread
from crossd.errors import InputError
from crossd.nn.views import VIEWS
from crossd.utils.progress import Progress

QUARTERS = (1, 2, 3)
SEGMENTATION_STEP = 2
ENOUGH = 0.1
"""Share of how well the slices of the best axis are known, from which those of another serve. With
every eighth slice labelled they do: training on them too was better by far (docs/data)."""

LARGEST = 320
"""Side of slices, at most."""

LOOK_AT = 200
"""Volumes whose sizes decide on it, at most."""


class Slices(Samples):
    """Slices cut out of volumes when they are asked for.

    Args:
        volumes: What is cut.
        index: Volume, view and position of every slice, ``(N, 3)``.
        side: Height and width of every slice.
        padding: Value of the image where the volume is smaller; None takes the slice's least.
    """

    def __init__(
        self, volumes: Samples, index: NDArray[np.int64], side: int, padding: float | None
    ) -> None:
        self.volumes = volumes
        self.index = index
        self.shape: tuple[int, int] = (side, side)
        self.padding = padding
        self.channels, self.in_memory = volumes.channels, volumes.in_memory
        self.views = index[:, 1]
        self.labels = None if volumes.labels is None else volumes.labels[index[:, 0]]

    def __len__(self) -> int:
        return len(self.index)

    def name(self, number: int) -> str:
        """Return the volume, the view and the position of a slice."""
        volume, view, position = (int(value) for value in self.index[number])
        return f"{self.volumes.name(volume)}, {VIEWS[view]} slice {position}"

    def __getitem__(self, number: int) -> Sample:
        volume, view, position = (int(value) for value in self.index[number])
        sample = self.volumes.plane(volume, view, position)
        image, mask = sample["image"], sample.get("mask")
        low = float(image.min()) if self.padding is None else self.padding
        if mask is not None:  # what is cut off of large slices is what is far from the labels
            image, mask = _about_labels(image, mask, self.shape[0])
            sample["mask"] = fit(mask, self.shape, 0).clone()
        # The copy lets go of the volume, of which the slice would be a view.
        sample["image"] = fit(image, self.shape, low).clone()
        sample["view"] = view
        return sample


def _about_labels(image: Tensor, mask: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Crop axes longer than `side` to it, about the centre of the labels."""
    where = _labelled(mask).nonzero()
    if not len(where):
        where = (mask != IGNORED).nonzero()
    for axis, length in enumerate(mask.shape):
        if length > side and len(where):
            middle = int(where[:, axis].float().mean())
            start = min(max(0, middle - side // 2), length - side)
            image, mask = image.narrow(axis + 1, start, side), mask.narrow(axis, start, side)
    return image, mask


def _labelled(mask: Tensor) -> Tensor:
    """Return where a mask has a label: neither the background nor what is not known."""
    return (mask > 0) & (mask != IGNORED)


def slices(
    source: Source,
    views: Sequence[str] | None = None,
    step: int | None = None,
    multiple: int = 0,
) -> Source:
    """Turn volumes into slices; those of one volume stay in one split.

    Axial slices have the axes (y, x), coronal ones (z, x), sagittal ones (z, y). All are padded
    or cropped to a square: of the volumes' side when they are cubes, and else of the longest
    side of most, rounded up to a multiple of 8, 320 at most. Training slices without any label in
    their mask are left out. Mean and standard deviation stay those of the volumes.

    Of masks that are known in part, slices of which nothing is known are left out everywhere, and
    views of which no training slice is known are neither validated nor tested. Where no views are
    named, a volume gives slices of those axes whose slices are known best: on average, over those
    of which anything is known, to at least a tenth of the share of the best axis. So a volume with
    labels on every eighth axial slice gives these, and coronal and sagittal ones, of which lines
    are known; one with labels on a single axial slice gives that one.

    Args:
        source: A source of volumes.
        views: Any of "axial", "coronal", "sagittal". Default: all three.
        step: Take every step-th slice, of masks that are known in part those that lie so far from
            each other. By default the three at 1/4, 1/2 and 3/4 of an axis for classification,
            every second one for segmentation.
        multiple: What the side of the slices must be a multiple of; 0 leaves it open.

    Returns:
        A source of images that reads the same volumes.

    Raises:
        InputError: When the source holds images, a view is unknown or no slice remains.

    Example:
        >>> import tempfile
        >>> from crossd.data import open_source
        >>> file = f"{tempfile.mkdtemp()}/tiny.npz"
        >>> images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 8), dtype=np.uint8)
        >>> np.savez(file, images=images, labels=np.arange(20) % 2)
        >>> planes = slices(open_source(file), ("axial", "sagittal"))
        >>> planes.rank, len(planes.train), planes.train.views[:6].tolist()
        (2, 84, [0, 0, 0, 2, 2, 2])
    """
    require_rank(source, 3, "--slices")
    best, views = views is None, VIEWS if views is None else views
    unknown = [view for view in views if view not in VIEWS]
    if unknown or not views:
        raise InputError(
            f"--slices {','.join(views)}: unknown view {unknown[0] if unknown else '(none)'}; "
            f"give one or more of {','.join(VIEWS)}"
        )
    if step is not None and step < 1:
        raise InputError(f"--slices: every {step}-th slice makes no sense; give 1 or more")
    numbers = sorted({VIEWS.index(view) for view in views})
    side = _side(source)
    side = round_up((side,), multiple)[0] if multiple else side
    # Volumes in [0, 1] are padded with 0; those of a plan have no such value.
    padding = (0.0 - source.mean) / source.std if source.plan is None else source.plan.fill

    def cut(part: Samples, numbers: list[int], drop_empty: bool) -> Slices:
        index = _index(source, part, numbers, step, drop_empty, best)
        return Slices(part, index, side, padding)

    train = cut(source.train, numbers, True)
    if not len(train):
        raise InputError(f"--slices: no training slice of {source.name} holds any label")
    if source.ignore is not None:  # views that nothing is learnt of are not scored either
        numbers = np.unique(train.index[:, 1]).tolist()
    val, test = (cut(part, numbers, False) for part in (source.val, source.test))
    return replace(source, rank=2, size=(side, side), train=train, val=val, test=test, spacing=None)


def as_images(
    source: Source,
    views: str | None,
    step: int | None,
    progress: Progress | None = None,
    multiple: int = 0,
) -> Source:
    """Give images as they are, and volumes as slices.

    Args:
        source: Any source.
        views: Names of views separated by commas, for volumes only; None takes all three.
        step: As in `slices`, for volumes only.
        progress: Where to say which slices were taken of masks that are known in part.
        multiple: As in `slices`.

    Returns:
        A source of images.

    Raises:
        InputError: "--slices ..." when it is given for images, or names an unknown view.
    """
    if source.rank == 3:
        planes = slices(source, None if views is None else views.split(","), step, multiple)
        if source.ignore is not None and progress is not None:
            assert planes.train.views is not None
            counts = np.bincount(planes.train.views, minlength=len(VIEWS)).tolist()
            shown = ", ".join(f"{n:,} {view}" for n, view in zip(counts, VIEWS, strict=True))
            line = f"{source.name}: its training volumes give {shown} slices with labels"
            if views is None and 0 in counts:
                line += f"; --slices {','.join(VIEWS)} takes those too of which less is known"
            progress.say(line)
        return planes
    if views is not None or step is not None:
        option = "--slices" if views is not None else "--slice-step"
        raise InputError(f"{option} is for volumes, but {source.name} holds images: leave it out")
    return source


def _side(source: Source) -> int:
    """Choose the side of slices: it covers nine in ten training volumes."""
    some = spread(len(source.train), LOOK_AT)
    sizes = np.array([source.train.size(int(i)) for i in some])
    if (sizes == sizes[0, 0]).all():
        return int(sizes[0, 0])
    largest = int(np.ceil(np.percentile(sizes.max(1), TYPICAL)))
    return min(LARGEST, round_up((largest,))[0])


def _index(
    source: Source,
    volumes: Samples,
    views: list[int],
    step: int | None,
    drop_empty: bool,
    best: bool,
) -> NDArray[np.int64]:
    """List volume, view and position of every slice, ``(N, 3)``; see `slices`."""
    rows: list[tuple[int, int, int]] = []
    for volume in range(len(volumes)):
        mask = volumes[volume]["mask"] if source.task == "segmentation" else None
        if mask is None:
            shape = volumes.size(volume)
            positions = {view: _positions(shape[view], step) for view in views}
        else:
            positions = _labelled_positions(mask, views, step or SEGMENTATION_STEP, best)
            if drop_empty:
                filled = {
                    view: _labelled(mask.movedim(view, 0)).flatten(1).any(1) for view in views
                }
                positions = {v: [p for p in own if filled[v][p]] for v, own in positions.items()}
        rows += [(volume, view, position) for view in views for position in positions[view]]
    return np.array(rows, np.int64).reshape(-1, 3)


def _positions(length: int, step: int | None) -> list[int]:
    if step is None:
        return sorted({length * quarter // 4 for quarter in QUARTERS})
    return list(range(min(step // 2, length - 1), length, step))


def _labelled_positions(
    mask: Tensor, views: list[int], step: int, best: bool
) -> dict[int, list[int]]:
    """List the positions of slices of which anything is known, at least `step` from each other.

    With `best`, only along the axes whose slices are known best.
    """
    there = mask != IGNORED
    known: dict[int, list[int]] = {}
    typical: dict[int, float] = {}
    for view in views:
        voxels = there.sum([axis for axis in range(3) if axis != view])
        known[view] = voxels.nonzero().flatten().tolist()
        share = voxels.double() * len(voxels) / mask.numel()
        typical[view] = float(share[known[view]].mean()) if known[view] else 0.0
    enough = ENOUGH * max(typical.values()) if best else 0.0
    return {view: _apart(known[view], step) if typical[view] >= enough else [] for view in views}


def _apart(known: Sequence[int], step: int) -> list[int]:
    """Choose positions at least `step` from each other, beginning in the first run of neighbours.

    Example:
        >>> _apart(range(7), 2), _apart([0, 8, 16], 2), _apart([0, 2, 4, 6], 4)
        ([1, 3, 5], [0, 8, 16], [0, 4])
    """
    run = next((i for i, p in enumerate(known) if p != known[0] + i), len(known))
    taken: list[int] = []
    for position in known[max(0, min(step // 2, run - 1)) :]:
        if not taken or position >= taken[-1] + step:
            taken.append(position)
    return taken
