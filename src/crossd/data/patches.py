"""What training sees of a sample: a patch about some of the labels, deformed and disturbed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossd.data.dataset import ChangedSamples, Sample, Samples
from crossd.data.io.agreement import IGNORED
from crossd.data.preprocessing.plan import ISOTROPIC
from crossd.data.shapes import fit

ABOUT_LABELS = 0.67
"""Share of the patches of volumes with masks that are taken about a labelled voxel."""

ROTATION, ZOOM = 0.35, 0.2
"""Ends of the angles [rad] and of the change of scale that are drawn."""

BLUR = (0.4, 1.0)
"""Ends of the standard deviations of the blur [voxels]."""


class Patches(ChangedSamples):
    """Patches of samples, anew in every epoch, whoever reads them and in whichever order.

    Args:
        samples: What they are taken of.
        size: Voxels of a patch, ``(D, H, W)``; None takes samples whole.
        seed: Decides on everything that is drawn.
        augment: Whether to deform and disturb patches, by MONAI's transforms.
        spacing: Size of a voxel (z, y, x) [mm].
        center: Take every patch from the middle.
        zoom: Whether patches that are deformed may change their sizes, which numbers to learn may
            hang on.
    """

    def __init__(
        self,
        samples: Samples,
        size: Sequence[int] | None,
        seed: int,
        augment: bool = False,
        spacing: Sequence[float] | None = None,
        center: bool = False,
        zoom: bool = True,
    ) -> None:
        super().__init__(samples)
        self.patch = None  # taken already
        self.center, self.zoom = center, zoom
        self.patch_size = size
        self.seed = seed
        self.epoch = 0
        self.spacing = spacing
        self.augment = augment
        self._transform: Any = None
        if augment:  # here, or each process that reads would import it in each epoch: 1.3 s
            import monai.transforms  # noqa: F401

    def set_epoch(self, epoch: int) -> None:
        """Choose the draws of this epoch."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> Sample:
        sample: Sample = {**self.samples[index]}
        if self.patch_size is None and not self.augment:
            return sample
        rng = np.random.default_rng((self.seed, self.epoch, index))
        if self.patch_size is not None:
            image, mask = sample["image"], sample.get("mask")
            sides = image.shape[1:]
            if self.center:
                start = [(n - want) // 2 for n, want in zip(sides, self.patch_size, strict=True)]
            else:
                start = _start(sides, self.patch_size, mask, rng)
            low = float(image.min()) if self.fill is None else self.fill
            sample["image"] = _cut(image, start, self.patch_size, low)
            if mask is not None:
                sample["mask"] = _cut(mask, start, self.patch_size, 0)
        if self.augment:
            self._disturb(sample, rng)
        return sample

    def _disturb(self, sample: Sample, rng: np.random.Generator) -> None:
        """Deform image and mask alike and disturb the values of the image."""
        if self._transform is None:
            rank = sample["image"].dim() - 1
            self._transform = transforms(rank, "mask" in sample, self.spacing, self.zoom)
        self._transform.set_random_state(int(rng.integers(2**31)))
        given: dict[str, Tensor] = {"image": sample["image"]}
        if "mask" in sample:
            given["mask"] = sample["mask"][None].float()
        made = self._transform(given)
        sample["image"] = _plain(made["image"])
        if "mask" in sample:
            sample["mask"] = _plain(made["mask"])[0].long()


def _plain(x: Any) -> Tensor:
    tensor: Tensor = x.as_tensor() if hasattr(x, "as_tensor") else x
    return tensor


def _start(
    sides: Sequence[int], size: Sequence[int], mask: Tensor | None, rng: np.random.Generator
) -> list[int]:
    """Draw where a patch begins along each axis; less than 0 where the volume is smaller.

    A patch of a mask that is known in part has a known voxel in it, drawn like the patch.
    """
    free = [n - want for n, want in zip(sides, size, strict=True)]
    start = [int(rng.integers(gap + 1)) if gap > 0 else gap for gap in free]
    if max(free) <= 0:
        return start
    if mask is not None and bool((mask == IGNORED).any()):
        known = (mask != IGNORED).nonzero()
        if len(known):
            voxel = known[int(rng.integers(len(known)))].tolist()
            for axis, (gap, want, at) in enumerate(zip(free, size, voxel, strict=True)):
                if gap > 0:
                    start[axis] = int(rng.integers(max(0, at - want + 1), min(gap, at) + 1))
    if mask is not None and rng.random() < ABOUT_LABELS:
        present = torch.unique(mask)
        present = present[(present > 0) & (present != IGNORED)]
        if len(present):  # each class that is there with equal chance, then one of its voxels
            chosen = present[int(rng.integers(len(present)))]
            where = (mask == chosen).nonzero()
            voxel = where[int(rng.integers(len(where)))].tolist()
            for axis, (gap, want, at) in enumerate(zip(free, size, voxel, strict=True)):
                if gap > 0:
                    shift = int(rng.integers(-(want // 4), want // 4 + 1))
                    start[axis] = min(max(0, at - want // 2 + shift), gap)
    return start


def _cut(x: Tensor, start: Sequence[int], size: Sequence[int], value: float) -> Tensor:
    """Take a patch of the last axes; along axes that are too short, pad both ends."""
    for axis, (begin, want) in enumerate(zip(start, size, strict=True), start=x.dim() - len(size)):
        if begin >= 0:
            x = x.narrow(axis, begin, want)
    return fit(x, size, value).contiguous()


def transforms(
    rank: int, masks: bool, spacing: Sequence[float] | None, zoom: bool = True
) -> object:
    """Make MONAI's transforms for dictionaries of ``image`` and, with masks, ``mask``.

    Args:
        rank: 2 for images, 3 for volumes.
        masks: Whether there are masks.
        spacing: Size of a voxel (z, y, x) [mm]: flat volumes are turned in their plane only.
        zoom: Whether to change sizes.
    """
    from monai import transforms as monai

    flat = rank == 3 and spacing is not None and max(spacing) > ISOTROPIC * min(spacing)
    turns: Any = (
        ROTATION if rank == 2 else [ROTATION, 0.0 if flat else ROTATION, 0.0 if flat else ROTATION]
    )
    keys = ["image", "mask"] if masks else ["image"]
    return monai.Compose(
        [
            monai.RandAffined(
                keys,
                prob=0.6,
                rotate_range=turns,
                scale_range=[
                    ZOOM if zoom and not (flat and axis == 0) else 0.0 for axis in range(rank)
                ],
                translate_range=[2.0 if flat and axis == 0 else 4.0 for axis in range(rank)],
                mode=["bilinear", "nearest"][: len(keys)],
                padding_mode="border",
            ),
            monai.RandGaussianNoised("image", prob=0.2, std=0.1),
            monai.RandGaussianSmoothd("image", prob=0.2, sigma_x=BLUR, sigma_y=BLUR, sigma_z=BLUR),
            monai.RandScaleIntensityd("image", factors=0.25, prob=0.3),
            monai.RandShiftIntensityd("image", offsets=0.2, prob=0.3),
            monai.RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5), retain_stats=True),
            monai.RandSimulateLowResolutiond(
                "image",
                prob=0.1,
                zoom_range=(0.5, 1.0),
                upsample_mode="bilinear" if rank == 2 else "trilinear",
            ),
        ]
    )
