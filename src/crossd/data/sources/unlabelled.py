"""Images and volumes without labels, for what needs none: the statistics of BatchNorm."""

import zipfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from crossd.data.dataset import ChangedSamples, Sample, Samples
from crossd.data.file_names import Names
from crossd.data.preprocessing import plan
from crossd.data.preprocessing.volume_dataset import Cache, VolumeSamples
from crossd.data.quality.scan import of_volume, scan
from crossd.data.shapes import full_size
from crossd.data.source import Given, Source
from crossd.data.sources import npz
from crossd.data.sources.case_files import all_volumes, read_entries
from crossd.data.sources.case_folders import loose_cases
from crossd.data.sources.case_list import Case
from crossd.data.sources.image_folder import DEFAULT_SIZE, ImageSamples, channels_of
from crossd.utils.progress import Progress


class Unlabelled(ChangedSamples):
    """Samples of which only the image is kept."""

    def __init__(self, samples: Samples) -> None:
        super().__init__(samples)
        self.labels = None

    def _changed(self, sample: Sample) -> Sample:
        return {"image": sample["image"]}


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
    found = loose_cases(path)
    if not found:
        return None
    if all_volumes(found, str(path)):
        return _volumes(path, found, given, progress)
    return _images(path, found, size)


def _source(
    path: Path, rank: int, channels: int, size: tuple[int, ...], samples: Samples
) -> Source:
    bare = Unlabelled(samples)
    return Source(str(path), rank, "unlabelled", channels, (), size, bare, bare, bare)


def _arrays(path: Path, size: tuple[int, ...] | None) -> Source | None:
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


def _images(path: Path, found: Sequence[Case], size: tuple[int, ...] | None) -> Source:
    names = Names.of(case.images[0].name for case in found)
    shape = DEFAULT_SIZE if size is None else full_size(size, 2, str(path))
    samples = ImageSamples(path, [names], [0] * len(names), shape)
    samples.channels = channels_of(samples)
    return _source(path, 2, samples.channels, shape, samples)


def _volumes(path: Path, found: Sequence[Case], given: Given, progress: Progress) -> Source:
    entries = read_entries(found)
    made = given.plan
    if made is None:
        look = partial(of_volume, cache=given.stored)
        made = plan.decide(scan("scanning volumes", entries, look, progress), masks=True)
    samples = VolumeSamples(entries, made, (), None, Cache(), given.stored)
    source = _source(path, 3, len(made.intensity), made.patch, samples)
    return replace(source, plan=made, spacing=made.spacing)
