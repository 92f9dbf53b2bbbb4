"""What a source of data is, how one is opened, and how its training part is cut."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from crossd.data.plan import Plan
from crossd.data.shared import share
from crossd.data.splits import pick
from crossd.errors import InputError
from crossd.progress import Progress

if TYPE_CHECKING:
    from crossd.data.labelled import Given

KINDS = (
    "brain, medmnist:NAME, an .npz or .csv file, a folder of class folders, "
    "a folder with images/ and labels/, or .tar archives"
)
RANKS = {2: "images", 3: "volumes"}


class Sample(TypedDict, total=False):
    """One item; `label` for classification, `mask` for segmentation.

    Attributes:
        image: Normalised, float32, ``(C, H, W)`` or ``(C, D, H, W)``.
        label: Class, int64, ``()``.
        mask: Class of every pixel or voxel, int64, ``(H, W)`` or ``(D, H, W)``.
        view: 0 axial, 1 coronal, 2 sagittal, -1 unknown. Images only.
        instead_of: Number of the sample that could not be read, -1 otherwise. In training only.
    """

    image: Tensor
    label: Tensor
    mask: Tensor
    view: int
    instead_of: int


class Samples(Dataset[Sample]):
    """A sequence of samples with what must be known of them without reading them.

    Attributes:
        labels: Classes, int64, ``(N,)``; None for segmentation.
        views: Views, int64, ``(N,)``, of slices with a known orientation; None otherwise.
        groups: Patient of every sample, ``(N,)``, where it is known; folds never split one.
        patch: Voxels that training takes of each, where they differ in size; None otherwise.
        channels: Channels of every image, where they are known.
        in_memory: Whether nothing has to be read to have one.
    """

    labels: NDArray[np.int64] | None = None
    views: NDArray[np.int64] | None = None
    groups: NDArray[np.str_] | None = None
    patch: tuple[int, ...] | None = None
    channels: int = 1
    in_memory: bool = False

    def __len__(self) -> int:
        """Return the number of samples."""
        raise NotImplementedError

    def size(self, index: int) -> tuple[int, ...]:
        """Return the spatial size of a sample, ``(H, W)`` or ``(D, H, W)``."""
        return tuple(self[index]["image"].shape[1:])

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
        return Pixels(self), in_floats

    def pixels(self, index: int) -> Sample:
        """Return a sample; in [0, 255], uint8, where its image has 8 bits and that is no work."""
        return self[index]


Finish = Callable[[Tensor], Tensor]
"""Makes of a batch of images what they would be otherwise, in place where that can be."""


def in_floats(image: Tensor) -> Tensor:
    """Scale what has 8 bits to [0, 1], float32, and leave anything else as it is."""
    return image.float().div_(255) if image.dtype == torch.uint8 else image


class PixelSamples(Samples):
    """Samples that are read as `pixels`, which a subclass gives."""

    def __getitem__(self, index: int) -> Sample:
        sample = self.pixels(index)
        sample["image"] = in_floats(sample["image"])
        return sample


class Wrapped(Samples):
    """Other samples, changed: what is known of them stays, `_changed` makes each what it is."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples
        self.labels, self.views = samples.labels, samples.views
        self.groups, self.patch = samples.groups, samples.patch
        self.channels, self.in_memory = samples.channels, samples.in_memory

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self._changed(self.samples[index])

    def size(self, index: int) -> tuple[int, ...]:
        """Return the spatial size of a sample."""
        return self.samples.size(index)

    def name(self, index: int) -> str:
        """Return what a sample is called."""
        return self.samples.name(index)

    def case(self, index: int) -> str:
        """Return what tables call a sample."""
        return self.samples.case(index)

    def plane(self, index: int, axis: int, position: int) -> Sample:
        """Return one slice of a volume."""
        return self._changed(self.samples.plane(index, axis, position))

    def late(self) -> tuple[Samples, Finish]:
        """See `Samples.late`; for those whose `_changed` does not look at images."""
        changed = copy.copy(self)
        changed.samples, finish = self.samples.late()
        return changed, finish

    def _changed(self, sample: Sample) -> Sample:
        return sample


class Pixels(Wrapped):
    """Samples with the pixels that they have: see `Samples.pixels`."""

    def __getitem__(self, index: int) -> Sample:
        return self.samples.pixels(index)


class Subset(Wrapped):
    """The samples at `indices`, in that order."""

    def __init__(self, samples: Samples, indices: NDArray[np.int64]) -> None:
        super().__init__(samples)
        self.indices = share(indices)
        for name in ("labels", "views", "groups"):
            known = getattr(samples, name)
            setattr(self, name, None if known is None else share(known[indices]))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[int(self.indices[index])]

    def size(self, index: int) -> tuple[int, ...]:
        """Return the spatial size of a sample."""
        return self.samples.size(int(self.indices[index]))

    def name(self, index: int) -> str:
        """Return what a sample is called."""
        return self.samples.name(int(self.indices[index]))

    def case(self, index: int) -> str:
        """Return what tables call a sample."""
        return self.samples.case(int(self.indices[index]))

    def stamp(self, index: int) -> str | None:
        """Tell what a sample holds."""
        return self.samples.stamp(int(self.indices[index]))

    def plane(self, index: int, axis: int, position: int) -> Sample:
        """Return one slice of a volume."""
        return self.samples.plane(int(self.indices[index]), axis, position)


class Joined(Samples):
    """Several parts of one source as one, one after the other."""

    def __init__(self, parts: Sequence[Samples]) -> None:
        self.parts = tuple(parts)
        self.ends = np.cumsum([len(part) for part in parts])
        self.patch, self.channels = parts[0].patch, parts[0].channels
        self.in_memory = all(part.in_memory for part in parts)
        for name in ("labels", "views", "groups"):
            known = [getattr(part, name) for part in parts]
            if all(one is not None for one in known):
                setattr(self, name, np.concatenate(known))

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> Sample:
        part, at = self._find(index)
        return part[at]

    def size(self, index: int) -> tuple[int, ...]:
        """Return the spatial size of a sample."""
        part, at = self._find(index)
        return part.size(at)

    def name(self, index: int) -> str:
        """Return what a sample is called."""
        part, at = self._find(index)
        return part.name(at)

    def plane(self, index: int, axis: int, position: int) -> Sample:
        """Return one slice of a volume."""
        part, at = self._find(index)
        return part.plane(at, axis, position)

    def _find(self, index: int) -> tuple[Samples, int]:
        which = int(np.searchsorted(self.ends, index, side="right"))
        return self.parts[which], index - (int(self.ends[which - 1]) if which else 0)


@dataclass(frozen=True)
class Source:
    """Three splits of one set of data and what a network must know about it.

    Attributes:
        name: The string it was opened by.
        rank: 2 for images, 3 for volumes.
        task: What is learnt.
        channels: Channels of every image.
        classes: Names of the classes; the first is the background in segmentation.
        size: Spatial size of the training samples, ``(H, W)`` or ``(D, H, W)``.
        train: Training samples. Volumes that come as files, or with masks, may differ in size.
        val: Validation samples, likewise.
        test: Test samples, likewise.
        mean: Subtracted from every image.
        std: Divided by, after `mean` was subtracted.
        spacing: Size of a voxel in the order of the axes [mm], where it is known.
        plan: How volumes that come as files are prepared.
        values: What stands for each class in the files of masks.
    """

    name: str
    rank: int
    task: Literal["classification", "segmentation", "unlabelled"]
    channels: int
    classes: tuple[str, ...]
    size: tuple[int, ...]
    train: Samples
    val: Samples
    test: Samples
    mean: float = 0.0
    std: float = 1.0
    spacing: tuple[float, float, float] | None = None
    plan: Plan | None = None
    values: tuple[int, ...] = ()


def open_source(
    spec: str,
    *,
    size: Sequence[int] | None = None,
    seed: int = 0,
    channels: int | None = None,
    labels: bool = True,
    given: "Given | None" = None,
    progress: Progress | None = None,
) -> Source:
    """Open the source that `spec` names.

    Args:
        spec: ``brain`` or ``brain:MM`` (synthetic, of the bundled atlas), ``medmnist:NAME`` or
            ``medmnist:NAME:SIZE``, an ``.npz`` file, a ``.csv``, a folder of class folders, a
            folder with ``images/`` and ``labels/`` or ``masks/``, or ``.tar`` archives: one, a
            folder of them, or a pattern such as ``train-{000..099}.tar``.
        size: Spatial size of the training samples; one number stands for all axes. Images and
            volumes with a label are resized. Of volumes with a mask, patches of it are taken.
        seed: Decides on splits that the source does not fix, and on what `brain` draws.
        channels: Number of channels wanted: one is repeated, many are averaged into one.
        labels: Whether labels are needed. If not, an ``.npz`` with ``images`` alone and a folder
            of volumes or image files are sources too, all of them training samples.
        given: A plan, classes or statistics that are known already.
        progress: Where to show the scan of volumes that come as files.

    Returns:
        The source, each image shifted and scaled by the mean and the standard deviation of up to
        2,000 of its own training images, unless others are given.

    Raises:
        InputError: When `spec` names nothing that can be read, with one line that says why.

    Example:
        >>> import tempfile, numpy as np
        >>> file = Path(tempfile.mkdtemp()) / "tiny.npz"
        >>> images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 8), dtype=np.uint8)
        >>> np.savez(file, images=images, labels=np.arange(20) % 2)
        >>> source = open_source(str(file))
        >>> source.rank, source.classes, source.train[0]["image"].shape
        (3, ('0', '1'), torch.Size([1, 8, 8, 8]))
    """
    from crossd.data.labelled import Given
    from crossd.data.normalise import normalise

    given, progress = given or Given(), progress or Progress(quiet=True)
    shape = None if size is None else tuple(int(side) for side in size)
    if shape is not None and (not shape or min(shape) < 1):
        raise InputError(f"--size {_show(shape)}: every side must be at least 1")
    source = _open(spec, shape, seed, labels, given, progress)
    return normalise(source, channels, seed, given.statistics)


def _open(
    spec: str,
    size: tuple[int, ...] | None,
    seed: int,
    labels: bool,
    given: "Given",
    progress: Progress,
) -> Source:
    """Open the source by its kind. A kind is imported when it is needed."""
    if spec == "brain" or spec.startswith("brain:"):
        from crossd.data.brain import open_brain

        return open_brain(spec, size, seed)
    if spec.startswith("medmnist:"):
        from crossd.data.arrays import open_medmnist

        return open_medmnist(spec, size, seed)
    path = Path(spec).expanduser()
    if path.suffix.lower() not in (".npz", ".csv"):
        from crossd.data import tars

        archives = tars.find(spec)
        if archives:
            from crossd.data.shards import open_shards

            return open_shards(spec, archives, size, seed, progress)
    if not spec or not path.exists():
        raise InputError(f"{spec or 'empty name'}: no such file or folder; give {KINDS}")
    if not labels:
        from crossd.data.unlabelled import open_unlabelled

        bare = open_unlabelled(path, size, given, progress)
        if bare is not None:
            return bare
    if path.is_dir() or path.suffix.lower() == ".csv":
        from crossd.data import cases, index
        from crossd.data.images import open_images
        from crossd.data.labelled import open_cases

        root = path if path.is_dir() else path.parent
        if not path.is_dir():
            found = cases.read_table(path)
        elif pair := cases.pair_folders(path):
            found = cases.read_pairs(*pair)
        else:
            parts = index.scan(path, progress)
            found = cases.read_classes(path, parts) or []
            if not found:
                return open_images(path, size, seed, parts)
        return open_cases(spec, root, found, size, seed, given, progress)
    if path.suffix.lower() == ".npz":
        from crossd.data.arrays import open_npz

        return open_npz(path, size, seed)
    raise InputError(f"{spec}: cannot be read as a source of data; give {KINDS}")


def limit(source: Source, count: int, seed: int = 0) -> Source:
    """Cut the training part to `count` samples; validation and test stay.

    Where there are labels every class keeps its share, and at least one sample.

    Args:
        source: The source to cut.
        count: Number of training samples to keep.
        seed: Decides which.

    Returns:
        A source that shares its data with the one given.

    Raises:
        InputError: When there are fewer than `count` samples or more classes than `count`.

    Example:
        >>> class Three(Samples):
        ...     labels = np.array([0, 0, 1])
        >>> three = Three()
        >>> cut = limit(Source("x", 2, "classification", 1, ("a", "b"), (8, 8), *[three] * 3), 2)
        >>> cut.train.labels.tolist()
        [0, 1]
    """
    labels = source.train.labels
    total = len(source.train) if labels is None else len(labels)
    if not 1 <= count <= total:
        raise InputError(
            f"--limit {count}: {source.name} has {total} training samples; give 1 to {total}"
        )
    present = 1 if labels is None else len(np.unique(labels))
    if count < present:
        raise InputError(
            f"--limit {count}: {source.name} has {present} classes and each needs a sample; "
            f"give {present} to {total}"
        )
    strata = np.zeros(total, np.int64) if labels is None else labels
    return replace(source, train=Subset(source.train, pick(strata, count, seed)))


def require_rank(source: Source, rank: int, option: str) -> Source:
    """Return `source`, or raise when it holds images where volumes are needed or the reverse.

    Args:
        source: The source to check.
        rank: 2 for images, 3 for volumes.
        option: The option that it was given to, for the message.

    Returns:
        `source` itself.

    Raises:
        InputError: When the rank differs, naming the option and the source.

    Example:
        >>> source = Source("x.npz", 2, "classification", 1, ("a", "b"), (8, 8), *[Samples()] * 3)
        >>> require_rank(source, 3, "--volumes")
        Traceback (most recent call last):
        crossd.errors.InputError: --volumes x.npz: holds 2D images, but 3D volumes are needed
    """
    if source.rank != rank:
        hint = "; --slices makes images of volumes" if rank == 2 else ""
        raise InputError(
            f"{option} {source.name}: holds {source.rank}D {RANKS[source.rank]}, "
            f"but {rank}D {RANKS[rank]} are needed{hint}"
        )
    return source


def _show(size: Sequence[int]) -> str:
    return ",".join(str(side) for side in size)
