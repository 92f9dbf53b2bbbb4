"""Two folders of NIfTI volumes with equal names: images and masks."""

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import OrientationError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray
from torch import Tensor

from crossd.data.shapes import fit, full_size, round_up
from crossd.data.source import Sample, Samples, Source
from crossd.data.splits import split
from crossd.errors import InputError

SUFFIXES = (".nii", ".nii.gz")
FRACTIONS = (0.7, 0.1, 0.2)
PERCENTILES = (0.5, 99.5)
SAME_SPACING = 0.01
"""Relative difference of spacing up to which a volume is not resampled."""

AFFINE_TOLERANCE = 1e-3
MOST_CLASSES = 256
UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    zlib.error,
    ImageFileError,
    HeaderDataError,
    OrientationError,
)


class VolumeSamples(Samples):
    """Volumes with masks, in memory."""

    def __init__(
        self, images: Sequence[Tensor], masks: Sequence[Tensor], size: tuple[int, ...] | None
    ) -> None:
        """Keep the volumes.

        Args:
            images: Values in [0, 1], float32, each ``(C, D, H, W)``.
            masks: Classes, uint8, each ``(D, H, W)``.
            size: What every sample is padded or cropped to; None pads to multiples of 8.
        """
        self.images = images
        self.masks = masks
        self.size = size

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        image, mask = self.images[index], self.masks[index]
        size = round_up(mask.shape) if self.size is None else self.size
        return {"image": fit(image, size), "mask": fit(mask, size).long()}


def open_volumes(root: Path, size: tuple[int, ...] | None, seed: int) -> Source:
    """Open a folder with ``images/`` and ``labels/`` or ``masks/`` of ``.nii`` or ``.nii.gz``.

    Volumes are turned to RAS and returned as (z, y, x), resampled to the median spacing where
    theirs differs by more than 1 %, clipped to their percentiles 0.5 to 99.5 and scaled to
    [0, 1]. All are held in memory. They are split 70/10/20 by `seed`.

    Args:
        root: The folder.
        size: Spatial size of the training samples, padded with 0 or cropped about the centre. By
            default the 90th percentile of each axis, rounded up to a multiple of 8. Validation
            and test volumes are only padded, to multiples of 8.
        seed: Decides on the split.

    Returns:
        The source, its images in [0, 1].

    Raises:
        InputError: When a name has no partner, a file cannot be read, or image and mask differ.
    """
    folder = root / ("labels" if (root / "labels").is_dir() else "masks")
    pairs = _pairs(root / "images", folder)
    read = [_read_pair(*pair) for pair in pairs]
    channels = read[0][0].shape[0]
    for (image, _, _), (path, _) in zip(read, pairs, strict=True):
        if image.shape[0] != channels:
            raise InputError(
                f"{path}: has {image.shape[0]} channels, but {pairs[0][0]} has {channels}; "
                f"all volumes must agree"
            )
    spacing = np.median([spacing for _, _, spacing in read], axis=0)
    images, masks = [], []
    for image, mask, own in read:
        if np.any(np.abs(own / spacing - 1) > SAME_SPACING):
            image, mask = _resample(image, mask, own / spacing)
        images.append(image)
        masks.append(mask)
    top = max(int(mask.max()) for mask in masks)
    if top < 1:
        raise InputError(f"{folder}: every mask is empty; expected labels from 1 upwards")
    if size is None:
        typical = np.percentile([mask.shape for mask in masks], 90, axis=0)
        shape = round_up([int(np.ceil(side)) for side in typical])
    else:
        shape = full_size(size, 3, str(root))
    train, val, test = (
        VolumeSamples([images[i] for i in part], [masks[i] for i in part], fixed)
        for part, fixed in zip(
            split(np.zeros(len(pairs), np.int64), FRACTIONS, seed, str(root)),
            (shape, None, None),
            strict=True,
        )
    )
    classes = ("background", *(str(number) for number in range(1, top + 1)))
    z, y, x = (float(value) for value in spacing)
    return Source(
        str(root), 3, "segmentation", channels, classes, shape, train, val, test,
        spacing=(z, y, x),
    )  # fmt: skip


def _pairs(images: Path, masks: Path) -> list[tuple[Path, Path]]:
    """Pair the files of both folders by their names."""
    left, right = files(images), files(masks)
    if not left:
        raise InputError(
            f"{images}: no .nii or .nii.gz in this folder; segmentation reads NIfTI volumes only"
        )
    alone = sorted(left.keys() ^ right.keys())
    if alone:
        path = left.get(alone[0]) or right[alone[0]]
        other = masks if alone[0] in left else images
        raise InputError(
            f"{path}: has no partner of the same name in {other} "
            f"({len(alone)} such files); add or remove it"
        )
    return [(left[name], right[name]) for name in sorted(left)]


def files(folder: Path) -> dict[str, Path]:
    """List the NIfTI files of a folder by their stem; hidden ones (``._name``) do not count."""
    return {
        path.name.removesuffix(".gz").removesuffix(".nii"): path
        for path in sorted(folder.iterdir())
        if path.name.endswith(SUFFIXES) and not path.name.startswith(".")
    }


def _read_pair(path: Path, mask_path: Path) -> tuple[Tensor, Tensor, NDArray[np.float64]]:
    """Read an image ``(C, D, H, W)``, its mask ``(D, H, W)`` and their spacing [mm]."""
    image, affine = _read(path)
    mask, mask_affine = _read(mask_path)
    mask = mask[0] if mask.shape[0] == 1 else mask
    if mask.shape != image.shape[1:]:
        raise InputError(
            f"{mask_path}: has the shape {mask.shape[::-1]}, but {path} {image.shape[:0:-1]}; "
            f"image and mask must agree"
        )
    if not np.allclose(affine, mask_affine, rtol=AFFINE_TOLERANCE, atol=AFFINE_TOLERANCE):
        raise InputError(
            f"{mask_path}: its affine differs from that of {path}; image and mask must lie in "
            f"the same place, resample one to the other"
        )
    valid = np.isfinite(mask) & (mask >= 0) & (mask < MOST_CLASSES) & (mask == np.floor(mask))
    if not valid.all():
        raise InputError(
            f"{mask_path}: holds {mask[~valid].flat[0]:g}; a mask holds whole numbers from 0 to "
            f"{MOST_CLASSES - 1}"
        )
    return _scaled(image), torch.from_numpy(mask.astype(np.uint8)), _spacing(affine)


def read_image(path: Path) -> tuple[Tensor, NDArray[np.float64]]:
    """Read a volume in [0, 1], ``(C, D, H, W)``, and its spacing (z, y, x) [mm]."""
    image, affine = _read(path)
    return _scaled(image), _spacing(affine)


def to_spacing(image: Tensor, own: NDArray[np.float64], wanted: NDArray[np.float64]) -> Tensor:
    """Resample a volume ``(C, D, H, W)`` where its spacing differs from the one wanted."""
    if not np.any(np.abs(own / wanted - 1) > SAME_SPACING):
        return image
    return _resample(image, torch.zeros(image.shape[1:], dtype=torch.uint8), own / wanted)[0]


def _spacing(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.linalg.norm(affine[:3, :3], axis=0)[::-1]  # (x, y, z) -> (z, y, x)


def _scaled(image: NDArray[np.float32]) -> Tensor:
    return torch.stack([scale(torch.from_numpy(channel)) for channel in image])


def _read(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Read a volume turned to RAS as ``(C, z, y, x)``, and its affine."""
    try:
        image: Any = nib.as_closest_canonical(nib.load(path))
        array = np.asarray(image.dataobj, np.float32)
    except UNREADABLE as error:
        raise InputError(
            f"{path}: cannot be read as NIfTI, it is damaged or incomplete; fetch it again"
        ) from error
    if array.ndim not in (3, 4) or array.size == 0:
        raise InputError(f"{path}: has the shape {array.shape}; expected a volume of 3 axes")
    array = array.reshape(*array.shape[:3], -1)
    return np.ascontiguousarray(array.T), image.affine  # (x, y, z, c) -> (c, z, y, x)


def scale(image: Tensor) -> Tensor:
    """Clip to the percentiles 0.5 to 99.5 and scale to [0, 1].

    Args:
        image: Any shape, float32. NaN and infinity, which some programs write outside the body,
            count as 0.

    Returns:
        The same shape; zeros where all values are equal.

    Example:
        >>> scale(torch.tensor([0.0, 5.0, 10.0])).tolist()
        [0.0, 0.5, 1.0]
    """
    image = image.nan_to_num(0.0, 0.0, 0.0)
    low, high = np.percentile(image.numpy(), PERCENTILES)
    if not high > low:
        return torch.zeros_like(image)
    return ((image - float(low)) / float(high - low)).clamp(0, 1)


def _resample(image: Tensor, mask: Tensor, ratio: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
    """Change the number of voxels by `ratio`: linear for the image, nearest for the mask."""
    sides = [max(1, round(n * r)) for n, r in zip(mask.shape, ratio, strict=True)]
    resampled = F.interpolate(image[None], size=sides, mode="trilinear")[0]
    nearest = F.interpolate(mask[None, None], size=sides, mode="nearest-exact")[0, 0]
    return resampled, nearest
