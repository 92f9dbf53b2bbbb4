"""Volumes as a source of 2D slices of known orientation."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from crossd.data.dataset import Sample, Samples
from crossd.data.preprocessing.plan import TYPICAL
from crossd.data.shapes import fit, round_up
from crossd.data.source import Source, require_rank
from crossd.data.splits import spread
from crossd.errors import InputError
from crossd.nn.views import VIEWS

QUARTERS = (1, 2, 3)
SEGMENTATION_STEP = 2
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
    where = mask.nonzero()
    for axis, length in enumerate(mask.shape):
        if length > side and len(where):
            middle = int(where[:, axis].float().mean())
            start = min(max(0, middle - side // 2), length - side)
            image, mask = image.narrow(axis + 1, start, side), mask.narrow(axis, start, side)
    return image, mask


def slices(source: Source, views: Sequence[str] = VIEWS, step: int | None = None) -> Source:
    """Turn volumes into slices; those of one volume stay in one split.

    Axial slices have the axes (y, x), coronal ones (z, x), sagittal ones (z, y). All are padded
    or cropped to a square: of the volumes' side when they are cubes, and else of the longest
    side of most, rounded up to a multiple of 8, 320 at most. Training slices without any label in
    their mask are left out. Mean and standard deviation stay those of the volumes.

    Args:
        source: A source of volumes.
        views: Any of "axial", "coronal", "sagittal".
        step: Take every step-th slice. By default the three at 1/4, 1/2 and 3/4 of an axis for
            classification, every second one for segmentation.

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
    # Volumes in [0, 1] are padded with 0; those of a plan have no such value.
    padding = None if source.plan is not None else (0.0 - source.mean) / source.std
    train, val, test = (
        Slices(part, _index(source, part, numbers, step, drop_empty), side, padding)
        for part, drop_empty in ((source.train, True), (source.val, False), (source.test, False))
    )
    if not len(train):
        raise InputError(f"--slices: no training slice of {source.name} holds any label")
    return replace(source, rank=2, size=(side, side), train=train, val=val, test=test, spacing=None)


def as_images(source: Source, views: str | None, step: int | None) -> Source:
    """Give images as they are, and volumes as slices.

    Args:
        source: Any source.
        views: Names of views separated by commas, for volumes only; None takes all three.
        step: As in `slices`, for volumes only.

    Returns:
        A source of images.

    Raises:
        InputError: "--slices ..." when it is given for images, or names an unknown view.
    """
    if source.rank == 3:
        return slices(source, VIEWS if views is None else views.split(","), step)
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
    source: Source, volumes: Samples, views: list[int], step: int | None, drop_empty: bool
) -> NDArray[np.int64]:
    """List volume, view and position of every slice, ``(N, 3)``."""
    rows: list[tuple[int, int, int]] = []
    for volume in range(len(volumes)):
        mask = volumes[volume]["mask"] if source.task == "segmentation" else None
        shape = volumes.size(volume) if mask is None else mask.shape
        for view in views:
            positions = _positions(shape[view], step, mask is not None)
            if mask is not None and drop_empty:
                filled = mask.movedim(view, 0).flatten(1).any(1)
                positions = [p for p in positions if filled[p]]
            rows += [(volume, view, position) for position in positions]
    return np.array(rows, np.int64).reshape(-1, 3)


def _positions(length: int, step: int | None, segmentation: bool) -> list[int]:
    if step is None and not segmentation:
        return sorted({length * quarter // 4 for quarter in QUARTERS})
    step = SEGMENTATION_STEP if step is None else step
    return list(range(min(step // 2, length - 1), length, step))
