"""Files of volumes, prepared as a plan says and kept while there is room."""

import math
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import get_worker_info

from crossd.data.dataset import Labels, Sample, Samples
from crossd.data.disk_cache import DiskCache
from crossd.data.io.header import ITK
from crossd.data.preprocessing import plan, resample
from crossd.data.preprocessing.plan import Plan
from crossd.data.sources.case_files import Entry, read_image, read_mask
from crossd.data.sources.case_list import groups_of

CACHE = 0.5
"""Share of the free memory that prepared volumes may take."""


class Cache:
    """Prepared volumes in memory, up to a number of bytes; workers of a loader add none.

    Args:
        budget: Bytes; None takes half of the memory that is free.
    """

    def __init__(self, budget: float | None = None) -> None:
        from crossd.utils.memory import available

        self.left = available() * CACHE if budget is None else budget
        self.kept: dict[int, tuple[Tensor, ...]] = {}

    def get(self, key: int) -> tuple[Tensor, ...] | None:
        """Return what is kept under a key."""
        return self.kept.get(key)

    def keep(self, key: int, tensors: tuple[Tensor, ...]) -> None:
        """Keep tensors if there is room."""
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        if size <= self.left and get_worker_info() is None:
            self.left -= size
            self.kept[key] = tensors


class VolumeSamples(Samples):
    """Volumes as files, prepared when they are asked for.

    Args:
        entries: The cases.
        plan: How they are prepared.
        values: What stands for each class in masks.
        labels: Of each case, see `crossd.data.dataset.Samples`; None for masks, or without labels.
        cache: Where prepared volumes are kept in memory.
        stored: Where they are kept on disk.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        plan: Plan,
        values: Sequence[int],
        labels: Labels | None,
        cache: Cache,
        stored: DiskCache | None = None,
    ) -> None:
        self.entries = [entry.along(plan.axes) for entry in entries]
        self.plan = plan
        self.fill = plan.fill
        self.values = values
        self.labels = labels
        self.cache = cache
        self.stored = stored
        self.patch = plan.patch
        self.channels = len(plan.intensity)
        voxels = sum(math.prod(self.size(index)) for index in range(len(entries)))
        self.in_memory = 4 * voxels * self.channels < cache.left  # after the first time
        self.groups = groups_of([entry.case for entry in entries])
        self._limits: dict[int, NDArray[np.float64]] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def name(self, index: int) -> str:
        """Return the name of a case."""
        return self.entries[index].case.name

    def case(self, index: int) -> str:
        """Return the name of a case."""
        return self.name(index)

    def __getitem__(self, index: int) -> Sample:
        return self._sample(index, *self._prepared(index))

    def _sample(self, index: int, image: Tensor, mask: Tensor | None = None) -> Sample:
        sample: Sample = {"image": image}
        if self.labels is not None:
            sample["label"] = torch.tensor(np.asarray(self.labels[index]))
        elif mask is not None:
            sample["mask"] = mask.long()
        return sample

    def size(self, index: int) -> tuple[int, int, int]:
        """Voxels of a volume at the spacing of the plan, known without reading it."""
        return resample.target_size(self.entries[index].images[0], self.plan.spacing)

    def _prepared(self, index: int) -> tuple[Tensor, ...]:
        """Take a volume from memory, from the disk or from its files."""
        entry, key = self.entries[index], ""
        kept = self.cache.get(index)
        if kept is None and self.stored is not None:
            how = [asdict(one) for one in self.plan.intensity]
            key = entry.key("volume", self.plan.spacing, how, tuple(self.values))
            arrays = self.stored.get(key)
            if arrays is not None:
                kept = tuple(torch.from_numpy(arrays[name]) for name in sorted(arrays))
        if kept is None:
            kept = self._prepare(index)
            named = dict(zip(("image", "mask"), (x.numpy() for x in kept), strict=False))
            if self.stored is None or not self.stored.keep(key, named):
                self.cache.keep(index, kept)
        return kept

    def _prepare(self, index: int) -> tuple[Tensor, ...]:
        entry = self.entries[index]
        sides = resample.checked_size(entry.images[0], self.plan.spacing)
        image = read_image(entry)
        self._limits[index] = plan.limits(image, self.plan.intensity, entry.where)
        plan.scale(image, self._limits[index], self.plan.intensity)
        found = [resample.image(torch.from_numpy(image), sides)]
        if entry.mask is not None:
            found.append(resample.mask(torch.from_numpy(read_mask(entry, self.values)), sides))
        return tuple(found)

    def plane(self, index: int, axis: int, position: int) -> Sample:
        """Prepare one slice, reading as little as the format allows.

        Args:
            index: The volume.
            axis: Across which the slice lies: 0 for z.
            position: Along that axis, in voxels of the plan.

        Returns:
            The same as the slice of the whole sample.
        """
        entry = self.entries[index]
        lazy = all(h.path.name.lower().endswith((".nii", *ITK)) for h in entry.images)
        lazy = lazy and all(how.region != "nonzero" for how in self.plan.intensity)
        kept = self.stored is not None or self.cache.get(index) is not None
        if index not in self._limits or not lazy or kept or entry.case.structures:
            whole, *masks = self._prepared(index)
            cut = [mask.select(axis, position) for mask in masks]
            return self._sample(index, whole.select(axis + 1, position), *cut)
        sides, source = list(self.size(index)), entry.images[0].size[axis]
        length, sides[axis] = sides[axis], 1
        start, weights = resample.taps(source, length, position)
        image = read_image(entry, (axis, slice(start, start + len(weights))))
        plan.scale(image, self._limits[index], self.plan.intensity)
        mixed = resample.along(torch.from_numpy(image), axis + 1, torch.tensor([weights]))
        plane = resample.image(mixed, sides).select(axis + 1, 0)
        if entry.mask is None:
            return self._sample(index, plane)
        rows = resample.covered(source, length, position)
        rows = rows[:1] if entry.case.ignore is None else rows
        first = min(rows)
        mask = read_mask(entry, self.values, (axis, slice(first, max(rows) + 1)))
        across = (axis, [row - first for row in rows])
        own = resample.mask(torch.from_numpy(mask), sides, across)
        return self._sample(index, plane, own.select(axis, 0))


class TensorVolumes(Samples):
    """Volumes with masks that are in memory already.

    Args:
        images: float32, each ``(C, D, H, W)``.
        masks: Classes, uint8, each ``(D, H, W)``.
        patch: Voxels of a training patch.
        names: What tables call each; their numbers if there are none.
    """

    def __init__(
        self,
        images: Sequence[Tensor],
        masks: Sequence[Tensor],
        patch: tuple[int, ...],
        names: Sequence[str] = (),
    ) -> None:
        self.images = images
        self.masks = masks
        self.patch = patch
        self.names = names
        self.in_memory = True
        self.channels = images[0].shape[0]

    def case(self, index: int) -> str:
        """Return what tables call a sample."""
        return self.names[index] if self.names else super().case(index)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        return {"image": self.images[index], "mask": self.masks[index].long()}
