"""Images and volumes without labels, for what needs none: the statistics of BatchNorm."""

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from crossd.data.dataset import Sample, Samples
from crossd.data.file_names import Names
from crossd.data.io.header import is_volume
from crossd.data.shapes import full_size
from crossd.data.source import Source
from crossd.data.sources.case_list import Case, entries
from crossd.data.sources.folder_index import files
from crossd.data.sources.labelled import Given
from crossd.utils.progress import Progress


class Unlabelled(Samples):
    """Samples of which only the image is kept."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples
        self.patch, self.channels = samples.patch, samples.channels
        self.in_memory = samples.in_memory

    def __len__(self) -> int:
        return len(self.samples)

    def size(self, index: int) -> tuple[int, ...]:
        """Return the spatial size of a sample."""
        return self.samples.size(index)

    def __getitem__(self, index: int) -> Sample:
        return {"image": self.samples[index]["image"]}


def open_unlabelled(
    path: Path, size: tuple[int, ...] | None, given: Given, progress: Progress
) -> Source | None:
    """Open what has no labels: an ``.npz`` with `images` alone, or a folder of files.

    The folder holds volumes, or images that PIL reads, but no folders. All samples are training
    samples.

    Args:
        path: The file or folder.
        size: Spatial size of arrays and images.
        given: The plan for volumes, if there is one.
        progress: Where to show the scan.

    Returns:
        The source, its images in [0, 1] or volumes as the plan says, and its task "unlabelled";
        None when it is of another kind.

    Raises:
        InputError: When a file cannot be read.
    """
    if path.suffix.lower() == ".npz":
        return _arrays(path, size)
    if not path.is_dir() or any(entry.is_dir() for entry in path.iterdir()):
        return None
    if any(is_volume(entry) for entry in path.iterdir() if entry.is_file()):
        return _volumes(path, given, progress)
    return _images(path, size)


def _source(
    path: Path, rank: int, channels: int, size: tuple[int, ...], samples: Samples
) -> Source:
    bare = Unlabelled(samples)
    return Source(str(path), rank, "unlabelled", channels, (), size, bare, bare, bare)


def _arrays(path: Path, size: tuple[int, ...] | None) -> Source | None:
    from crossd.data.sources import npz

    names: set[str] = set()
    if zipfile.is_zipfile(path):  # labelled arrays are read once, by their own kind
        with zipfile.ZipFile(path) as file:
            names = {name.removesuffix(".npy") for name in file.namelist()}
    key = next((key for key in ("images", "train_images") if key in names), None)
    if key is None or key.replace("images", "labels") in names:
        return None
    images = npz.channels_last(npz.read(path)[key], key, path)
    shape = images.shape[1:]
    spatial = shape[:-1] if size is None else full_size(size, len(shape) - 1, str(path))
    span = npz.span([images], slice(None), path)
    none = np.zeros(len(images), np.int64)
    samples = npz.ArraySamples(images, none, span, spatial)
    return _source(path, len(shape) - 1, shape[-1], spatial, samples)


def _images(path: Path, size: tuple[int, ...] | None) -> Source | None:
    from crossd.data.sources import image_folder

    names = [file.name for file in files(path)]
    if not names:
        return None
    shape = image_folder.DEFAULT_SIZE if size is None else full_size(size, 2, str(path))
    samples = image_folder.ImageSamples(path, [Names.of(names)], [0] * len(names), shape)
    samples.channels = image_folder.channels_of(samples)
    return _source(path, 2, samples.channels, shape, samples)


def _volumes(path: Path, given: Given, progress: Progress) -> Source:
    from crossd.data.preprocessing import fingerprint, plan, volume_dataset

    found = [Case(name, (file,)) for name, file in entries(path).items()]
    opened = [volume_dataset.read_entry(case) for case in found]
    made = given.plan or plan.decide(fingerprint.scan(opened, progress, given.stored), masks=True)
    samples = volume_dataset.VolumeSamples(
        opened, made, (), None, volume_dataset.Cache(), given.stored
    )
    source = _source(path, 3, len(made.intensity), made.patch, samples)
    return replace(source, plan=made, spacing=made.spacing)
