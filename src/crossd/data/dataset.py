"""What samples are, and what is made of them: parts, several as one, samples that are changed."""

import copy
from collections.abc import Callable, Sequence
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from crossd.data.shared_arrays import share


class Sample(TypedDict, total=False):
    """One item; `mask` for segmentation, `label` for every other task.

    Attributes:
        image: ``(C, H, W)`` or ``(C, D, H, W)``; normalised, float32, in what `open_source`
            returns. Before that images of 8 bits are uint8, and others in [0, 1].
        label: Class, int64, ``()``; or float32, ``(K,)``: 1 and 0 for findings that are there or
            not, or the numbers to learn in their units, NaN where one is not known.
        mask: Class of every pixel or voxel, int64, ``(H, W)`` or ``(D, H, W)``; `IGNORED` of
            `crossd.data.io.agreement` where it is not known.
        view: 0 axial, 1 coronal, 2 sagittal, -1 unknown. Images only.
        instead_of: Number of the sample that could not be read, -1 otherwise. In training only.
    """

    image: Tensor
    label: Tensor
    mask: Tensor
    view: int
    instead_of: int


Labels = NDArray[np.int64] | NDArray[np.float32]
"""Of many samples, see `Samples`."""


class Samples(Dataset[Sample]):
    """A sequence of samples with what must be known of them without reading them.

    Attributes:
        labels: Classes, int64, ``(N,)``, or findings or numbers, float32, ``(N, K)``, as in
            `Sample`; None for segmentation.
        views: Views, int64, ``(N,)``, of slices with a known orientation; None otherwise.
        groups: Patient of every sample, ``(N,)``, where it is known; folds never split one.
        patch: Voxels that training takes of each, where they differ in size; None otherwise.
        fill: What patches are filled with beyond the volume; None takes the volume's least value.
        channels: Channels of every image, where they are known.
        shape: Spatial size of all, ``(H, W)`` or ``(D, H, W)``, where they have the same.
        in_memory: Whether nothing has to be read to have one.
    """

    labels: Labels | None = None
    views: NDArray[np.int64] | None = None
    groups: NDArray[np.str_] | None = None
    patch: tuple[int, ...] | None = None
    fill: float | None = None
    channels: int = 1
    shape: tuple[int, ...] | None = None
    in_memory: bool = False

    def __len__(self) -> int:
        """Return the number of samples."""
        raise NotImplementedError

    def size(self, index: int) -> tuple[int, ...]:
        """Return the spatial size of a sample, ``(H, W)`` or ``(D, H, W)``."""
        return self.shape or tuple(self[index]["image"].shape[1:])

    def name(self, index: int) -> str:
        """Return what a sample is called: its file, or its number."""
        return f"sample {index}"

    def case(self, index: int) -> str:
        """Return what tables call a sample: its case, its file below the source, or its number."""
        return str(index)

    def stamp(self, index: int) -> str | None:
        """Tell what a sample is made of and how, without reading it; None where that is unknown."""
        return None

    def plane(self, index: int, axis: int, position: int) -> Sample:
        """Return one slice of a volume, at a position across an axis (0 is z)."""
        sample: Sample = {**self[index]}
        sample["image"] = sample["image"].select(axis + 1, position)
        if "mask" in sample:
            sample["mask"] = sample["mask"].select(axis, position)
        return sample

    def late(self) -> tuple["Samples", "Finish"]:
        """Give the same samples with images that are to be finished, and what finishes a batch.

        What fits into 8 bits passes between processes, and to the accelerator, as a quarter of the
        bytes, and is made float32 and normalised for a whole batch at once, where it is used.
        """
        return self, in_floats


Finish = Callable[[Tensor], Tensor]
"""Makes of a batch of images what they would be otherwise, in place where that can be."""


def in_floats(image: Tensor) -> Tensor:
    """Scale what has 8 bits to [0, 1], float32, and leave anything else as it is."""
    return image.float().div_(255) if image.dtype == torch.uint8 else image


class OtherSamples(Samples):
    """Samples that lie in others: `_place` says where, `_changed` makes each what it is."""

    def __getitem__(self, index: int) -> Sample:
        samples, place = self._place(index)
        return self._changed(samples[place])

    def size(self, index: int) -> tuple[int, ...]:
        """Return the spatial size of a sample."""
        samples, place = self._place(index)
        return samples.size(place)

    def name(self, index: int) -> str:
        """Return what a sample is called."""
        samples, place = self._place(index)
        return samples.name(place)

    def case(self, index: int) -> str:
        """Return what tables call a sample."""
        samples, place = self._place(index)
        return samples.case(place)

    def plane(self, index: int, axis: int, position: int) -> Sample:
        """Return one slice of a volume."""
        samples, place = self._place(index)
        return self._changed(samples.plane(place, axis, position))

    def _place(self, index: int) -> tuple[Samples, int]:
        raise NotImplementedError

    def _changed(self, sample: Sample) -> Sample:
        return sample


class ChangedSamples(OtherSamples):
    """Other samples, one for one: what is known of them stays."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples
        self.labels, self.views = samples.labels, samples.views
        self.groups, self.patch, self.fill = samples.groups, samples.patch, samples.fill
        self.channels, self.in_memory = samples.channels, samples.in_memory

    def __len__(self) -> int:
        return len(self.samples)

    def _place(self, index: int) -> tuple[Samples, int]:
        return self.samples, index

    def late(self) -> tuple[Samples, Finish]:
        """See `Samples.late`; for those whose `_changed` does not look at images."""
        changed = copy.copy(self)
        changed.samples, finish = self.samples.late()
        return changed, finish


class Reordered(ChangedSamples):
    """The same samples, their findings or numbers in another order: `order` is that of the old."""

    def __init__(self, samples: Samples, order: Sequence[int]) -> None:
        super().__init__(samples)
        self.order = list(order)
        assert samples.labels is not None
        self.labels = share(np.ascontiguousarray(samples.labels[:, self.order]))

    def _changed(self, sample: Sample) -> Sample:
        changed: Sample = {**sample}
        changed["label"] = sample["label"][self.order]
        return changed


class Subset(ChangedSamples):
    """The samples at `indices`, in that order."""

    def __init__(self, samples: Samples, indices: NDArray[np.int64]) -> None:
        super().__init__(samples)
        self.indices = share(indices)
        for name in ("labels", "views", "groups"):
            known = getattr(samples, name)
            setattr(self, name, None if known is None else share(known[indices]))

    def __len__(self) -> int:
        return len(self.indices)

    def _place(self, index: int) -> tuple[Samples, int]:
        return self.samples, int(self.indices[index])

    def stamp(self, index: int) -> str | None:
        """Tell what a sample holds."""
        return self.samples.stamp(int(self.indices[index]))


class Joined(OtherSamples):
    """Several parts of one source as one, one after the other."""

    def __init__(self, parts: Sequence[Samples]) -> None:
        self.parts = tuple(parts)
        self.ends = np.cumsum([len(part) for part in parts])
        self.patch, self.fill = parts[0].patch, parts[0].fill
        self.channels = parts[0].channels
        self.in_memory = all(part.in_memory for part in parts)
        for name in ("labels", "views", "groups"):
            known = [getattr(part, name) for part in parts]
            if all(one is not None for one in known):
                setattr(self, name, np.concatenate(known))

    def __len__(self) -> int:
        return int(self.ends[-1])

    def _place(self, index: int) -> tuple[Samples, int]:
        which = int(np.searchsorted(self.ends, index, side="right"))
        return self.parts[which], index - (int(self.ends[which - 1]) if which else 0)
