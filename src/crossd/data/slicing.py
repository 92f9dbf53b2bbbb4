"""Volumes as a source of 2D slices of known orientation."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from crossd.data.shapes import fit, round_up
from crossd.data.source import Sample, Samples, Source, require_rank
from crossd.errors import InputError
from crossd.kernels import VIEWS

QUARTERS = (1, 2, 3)
SEGMENTATION_STEP = 2


class Slices(Samples):
    """Slices cut out of volumes when they are asked for."""

    def __init__(
        self, volumes: Samples, index: NDArray[np.int64], side: int, padding: float
    ) -> None:
        """Keep the volumes and where to cut them.

        Args:
            volumes: What is cut.
            index: Volume, view and position of every slice, ``(N, 3)``.
            side: Height and width of every slice.
            padding: Value of the image where the volume is smaller.
        """
        self.volumes = volumes
        self.index = index
        self.side = side
        self.padding = padding
        self.views = index[:, 1]
        self.labels = None if volumes.labels is None else volumes.labels[index[:, 0]]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, number: int) -> Sample:
        volume, view, position = (int(value) for value in self.index[number])
        sample = self.volumes[volume]
        sample["image"] = self._cut(sample["image"], view + 1, position, self.padding)
        if "mask" in sample:
            sample["mask"] = self._cut(sample["mask"], view, position, 0)
        sample["view"] = view
        return sample

    def _cut(self, x: Tensor, axis: int, position: int, value: float) -> Tensor:
        # The copy lets go of the volume, of which the slice would be a view.
        return fit(x.select(axis, position), (self.side, self.side), value).clone()


def slices(source: Source, views: Sequence[str] = VIEWS, step: int | None = None) -> Source:
    """Turn volumes into slices; those of one volume stay in one split.

    Axial slices have the axes (y, x), coronal ones (z, x), sagittal ones (z, y). All have the
    size of the training volumes when these are cubes, and else are padded or cropped to a square
    of their largest side, rounded up to a multiple of 8. Training slices without any label in
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
    largest = max(source.size)
    side = largest if min(source.size) == largest else round_up((largest,))[0]
    padding = (0.0 - source.mean) / source.std
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


def _index(
    source: Source, volumes: Samples, views: list[int], step: int | None, drop_empty: bool
) -> NDArray[np.int64]:
    """List volume, view and position of every slice, ``(N, 3)``."""
    rows: list[tuple[int, int, int]] = []
    for volume in range(len(volumes)):
        # Volumes with labels all have one size, so that none has to be read.
        mask = volumes[volume]["mask"] if source.task == "segmentation" else None
        shape = source.size if mask is None else mask.shape
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
