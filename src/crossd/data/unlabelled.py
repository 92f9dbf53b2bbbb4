"""Images and volumes without labels, for what needs none: the statistics of BatchNorm."""

import zipfile
from pathlib import Path

import numpy as np
from torch import Tensor

from crossd.data.shapes import full_size
from crossd.data.source import Sample, Samples, Source
from crossd.errors import InputError


class Unlabelled(Samples):
    """Samples of which only the image is kept."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return {"image": self.samples[index]["image"]}


def open_unlabelled(path: Path, size: tuple[int, ...] | None) -> Source | None:
    """Open what has no labels: an ``.npz`` with `images` alone, or a folder of files.

    The folder holds NIfTI volumes, or images that PIL reads, but no folders. All samples are
    training samples; those of volumes that differ in size keep their own, padded to multiples of 8
    (or padded and cropped to `size`).

    Args:
        path: The file or folder.
        size: Spatial size.

    Returns:
        The source, its images in [0, 1] and its task "unlabelled"; None when it is of another kind.

    Raises:
        InputError: When a file cannot be read.
    """
    if path.suffix.lower() == ".npz":
        return _arrays(path, size)
    if not path.is_dir() or any(entry.is_dir() for entry in path.iterdir()):
        return None
    from crossd.data import volumes

    if any(entry.name.endswith(volumes.SUFFIXES) for entry in path.iterdir()):
        return _volumes(path, size)
    return _images(path, size)


def _source(
    path: Path, rank: int, channels: int, size: tuple[int, ...], samples: Samples
) -> Source:
    bare = Unlabelled(samples)
    return Source(str(path), rank, "unlabelled", channels, (), size, bare, bare, bare)


def _arrays(path: Path, size: tuple[int, ...] | None) -> Source | None:
    from crossd.data import arrays

    names: set[str] = set()
    if zipfile.is_zipfile(path):  # labelled arrays are read once, by their own kind
        with zipfile.ZipFile(path) as file:
            names = {name.removesuffix(".npy") for name in file.namelist()}
    key = next((key for key in ("images", "train_images") if key in names), None)
    if key is None or key.replace("images", "labels") in names:
        return None
    images = arrays.channels_last(arrays.read(path)[key], key, path)
    shape = images.shape[1:]
    spatial = shape[:-1] if size is None else full_size(size, len(shape) - 1, str(path))
    span = arrays.span([images], slice(None), path)
    none = np.zeros(len(images), np.int64)
    samples = arrays.ArraySamples(images, none, span, spatial)
    return _source(path, len(shape) - 1, shape[-1], spatial, samples)


def _images(path: Path, size: tuple[int, ...] | None) -> Source | None:
    from crossd.data import images

    names = [file.name for file in images.files(path)]
    if not names:
        return None
    shape = images.DEFAULT_SIZE if size is None else full_size(size, 2, str(path))
    samples = images.ImageSamples(path, names, [0] * len(names), shape)
    samples.channels = images.channels_of(samples)
    return _source(path, 2, samples.channels, shape, samples)


def _volumes(path: Path, size: tuple[int, ...] | None) -> Source:
    from crossd.data import volumes

    shape = None if size is None else full_size(size, 3, str(path))
    read = [volumes.read_image(file) for file in volumes.files(path).values()]
    spacing = np.median([own for _, own in read], axis=0)
    tensors: list[Tensor] = [volumes.to_spacing(image, own, spacing) for image, own in read]
    channels = {tensor.shape[0] for tensor in tensors}
    if len(channels) > 1:
        raise InputError(f"{path}: volumes have {sorted(channels)} channels; all must agree")
    masks = [tensor[0].byte() * 0 for tensor in tensors]
    samples = volumes.VolumeSamples(tensors, masks, shape)
    return _source(path, 3, channels.pop(), shape or tuple(masks[0].shape), samples)
