"""Labelled arrays: ``.npz`` files in the layout of MedMNIST, and MedMNIST itself."""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from crossd.data.dataset import Labels, Sample, Samples, Subset
from crossd.data.shared_arrays import Array
from crossd.data.source import Request, Source
from crossd.data.sources.npz_groups import groups_of_arrays
from crossd.data.sources.npz_labels import known_labels
from crossd.data.splits import FRACTIONS, SPLITS, split
from crossd.errors import InputError
from crossd.tasks import strata

CHANNELS = (1, 3)
PUBLISHED = "the parts stay as they are published, and what is tested is in part trained on"


class Arrays(Mapping[str, Array]):
    """The arrays of a file; those that are taken from it are noted."""

    def __init__(self, arrays: dict[str, Array]) -> None:
        self.arrays = arrays
        self.taken: set[str] = set()

    def __getitem__(self, key: str) -> Array:
        found = self.arrays[key]
        self.taken.add(key)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)

    def __contains__(self, key: object) -> bool:
        return key in self.arrays


class ArraySamples(Samples):
    """Images of one array, kept in the dtype of the file and converted one by one.

    Args:
        images: Shape ``(N, *spatial, C)``.
        labels: See `Samples`; None without.
        span: The values that become 0 and 1.
        size: Spatial size of the samples.
    """

    in_memory = True

    def __init__(
        self,
        images: Array,
        labels: Labels | None,
        span: tuple[float, float],
        size: tuple[int, ...],
    ) -> None:
        self.images = images
        self.labels = labels
        self.span = span
        self.shape: tuple[int, ...] = size
        self.channels = images.shape[-1]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        low, high = self.span
        # (*spatial, c) -> (c, *spatial)
        array = np.moveaxis(self.images[index].astype(np.float32), -1, 0)
        image = torch.from_numpy(np.ascontiguousarray((array - low) / (high - low)))
        if image.shape[1:] != self.shape:
            mode = "bilinear" if len(self.shape) == 2 else "trilinear"
            image = F.interpolate(image[None], size=self.shape, mode=mode)[0]
        sample: Sample = {"image": image}
        if self.labels is not None:
            sample["label"] = torch.tensor(np.asarray(self.labels[index]))
        if len(self.shape) == 2:
            sample["view"] = -1
        return sample


def open_npz(request: Request, path: Path, need_labels: bool = True) -> Source:
    """Open an ``.npz`` in the layout of MedMNIST, or of ``images`` and ``labels``.

    The first has ``train_images``, ``train_labels``, ``val_...`` and ``test_...``; the second is
    split 70/10/20 by `seed`. Images have the shape ``(N, H, W)`` or ``(N, H, W, 3)``, volumes
    ``(N, D, H, W)`` or ``(N, D, H, W, 3)``. uint8 is divided by 255, other numbers are scaled by
    the least and the greatest of the training images. Images of one patient (``groups`` beside
    ``images``, ``train_groups`` beside ``train_images``, ...) and those that hold the same stay
    together; in two parts that are given they are refused.

    Labels ``(N,)`` or ``(N, 1)`` are numbers of classes. Labels ``(N, K)`` are findings: 1 and 0
    for each that is there or not, -1 where it is not known. ``targets`` in the place of
    ``labels``, ``(N,)`` or ``(N, K)``, are numbers to learn, NaN where one is not known. ``names``
    ``(K,)`` calls the classes, findings or numbers, and ``units`` ``(K,)`` are those of numbers.

    Args:
        request: What is asked for; without a size that of the file is kept.
        path: The file.
        need_labels: If not, images alone will do, and all of them are training samples.

    Returns:
        The source, its images in [0, 1].

    Raises:
        InputError: When the file cannot be read, lacks a key, its labels do not fit, or two parts
            share an image or a patient.
    """
    arrays = _read(path)
    source = _open(arrays, request, path, need_labels)
    if unused := ", ".join(sorted(set(arrays) - arrays.taken)):
        request.progress.say(f"{path}: holds {unused} too, which is not used")
    return source


def _open(arrays: Arrays, request: Request, path: Path, need_labels: bool) -> Source:
    bare = next((key for key in ("images", "train_images") if key in arrays), None)
    kinds = [kind for kind in ("labels", "targets") if _is_there(arrays, kind)]
    if len(kinds) > 1:
        raise InputError(f"{path}: has both labels and targets; keep those that are to be learnt")
    if not need_labels and bare and not kinds:
        return _unlabelled(request, path, bare, arrays[bare])
    kind = kinds[0] if kinds else "labels"
    if "train_images" in arrays or "images" not in arrays:
        keys = [(f"{part}_images", f"{part}_{kind}") for part in SPLITS]
    else:
        keys = [("images", kind)]
    missing = [key for pair in keys for key in pair if key not in arrays]
    if missing:
        found = ", ".join(sorted(arrays)) or "nothing"
        raise InputError(
            f"{path}: lacks {', '.join(missing)} (it holds {found}); expected train_images, "
            f"train_labels, val_..., test_... or images, labels"
        )
    images = [_channels_last(arrays[key], key, path) for key, _ in keys]
    counted = [(key, len(x)) for (_, key), x in zip(keys, images, strict=True)]
    labels = known_labels(arrays, counted, path, request.progress)
    shape = images[0].shape[1:]
    for (key, _), x in zip(keys, images, strict=True):
        if x.shape[1:] != shape or x.dtype != images[0].dtype:
            raise InputError(
                f"{path}: {key} holds {x.dtype} of shape {x.shape[1:]}, but {keys[0][0]} "
                f"{images[0].dtype} of shape {shape}; all splits must agree"
            )
    rank = len(shape) - 1
    spatial = request.shape(rank, shape[:-1])
    holding = {key: x for (key, _), x in zip(keys, images, strict=True)}
    patients = groups_of_arrays(arrays, holding, labels.parts, path, request)
    if len(images) == 1:
        shares = strata(labels.task, labels.parts[0], len(images[0]))
        chosen = split(shares, FRACTIONS, request.seed, str(path), patients)
        scale = _span(images, chosen[0], path)
        whole = ArraySamples(images[0], labels.parts[0], scale, spatial)
        whole.groups = patients
        parts: list[Samples] = [Subset(whole, part) for part in chosen]
    else:
        scale = _span(images, slice(None), path)
        own_labels = zip(images, labels.parts, strict=True)
        parts = [ArraySamples(x, y, scale, spatial) for x, y in own_labels]
        if patients is not None:
            ends = np.cumsum([len(x) for x in images])[:-1]
            for part, own in zip(parts, np.split(patients, ends), strict=True):
                part.groups = own
    train, val, test = parts
    return Source(
        str(path),
        rank,
        labels.task,
        shape[-1],
        labels.names_in(parts, path, request.progress),
        spatial,
        train,
        val,
        test,
        units=labels.units,
    )


def _is_there(arrays: Mapping[str, Array], kind: str) -> bool:
    """Tell whether there are arrays of labels, or of targets, for any part."""
    return any(key in arrays for key in (kind, *(f"{part}_{kind}" for part in SPLITS)))


def _unlabelled(request: Request, path: Path, key: str, array: Array) -> Source:
    images = _channels_last(array, key, path)
    *shape, channels = images.shape[1:]
    size = request.shape(len(shape), shape)
    samples = ArraySamples(images, None, _span([images], slice(None), path), size)
    three = (samples, samples, samples)
    return Source(str(path), len(shape), "unlabelled", channels, (), size, *three)


def _read(path: Path) -> Arrays:
    """Read all arrays of the file."""
    try:
        # numpy leaves a damaged file open that it opened itself.
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.lib.npyio.NpzFile):
                return Arrays({key: loaded[key] for key in loaded.files})
    except Exception as error:  # numpy and zipfile raise many kinds on damaged files
        why = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path}: cannot be read as .npz, it is damaged, incomplete or holds objects "
            f"({why}); write or fetch it again"
        ) from error
    raise InputError(f"{path}: holds a single array; expected an .npz of named ones")


def _channels_last(images: Array, key: str, path: Path) -> Array:
    """Check the images and return them as ``(N, *spatial, C)``."""
    if images.dtype.kind not in "buif" or images.size == 0:
        raise InputError(f"{path}: {key} is empty or holds {images.dtype}; expected numbers")
    if images.ndim in (4, 5) and images.shape[-1] in CHANNELS:
        return images
    if images.ndim == 3 or (images.ndim == 4 and images.shape[1] > max(CHANNELS)):
        return images[..., None]
    raise InputError(
        f"{path}: {key} has the shape {images.shape}; expected (N, H, W), (N, H, W, 3), "
        f"(N, D, H, W) or (N, D, H, W, 3), channels last"
    )


def _span(images: list[Array], train: NDArray[np.int64] | slice, path: Path) -> tuple[float, float]:
    """Return the values that become 0 and 1; `train` are the training rows of the first array."""
    kind = images[0].dtype
    if kind == np.uint8:
        return 0.0, 255.0
    most = np.finfo(np.float32).max  # beyond which they would become infinity in training
    if kind.kind == "f" and not all(-most <= x.min() <= x.max() <= most for x in images):
        raise InputError(
            f"{path}: the images hold NaN or infinity, or numbers beyond those of 32 bits; "
            "replace them first"
        )
    rows = images[0][train]
    low, high = float(rows.min()), float(rows.max())
    if low == high:
        raise InputError(f"{path}: every value of the training images is {low:g}")
    return low, high


def open_medmnist(request: Request) -> Source:
    """Open ``medmnist:NAME`` or ``medmnist:NAME:SIZE``.

    ``NAME.npz`` or ``NAME_SIZE.npz`` in the current folder or in the one of the medmnist package
    is taken as it is. Otherwise the package downloads the file and checks its MD5.

    Returns:
        The source, its images in [0, 1], with the published names of the classes.

    Raises:
        InputError: When the name or the size is unknown or the download fails.
    """
    import medmnist
    from medmnist.info import DEFAULT_ROOT

    spec = request.name
    _, flag, *rest = spec.split(":")
    if flag not in medmnist.INFO:
        raise InputError(f"{spec}: no such data set; expected one of {', '.join(medmnist.INFO)}")
    info = medmnist.INFO[flag]
    sides = {"28": "", **{key[4:]: key[3:] for key in info if key.startswith("url_")}}
    if len(rest) > 1 or (rest and rest[0] not in sides):
        raise InputError(f"{spec}: no such size; expected medmnist:{flag}:{'|'.join(sides)}")
    side = rest[0] if rest else "28"
    name = f"{flag}{sides[side]}.npz"
    local = [folder / name for folder in (Path(), Path(DEFAULT_ROOT)) if (folder / name).is_file()]
    path = local[0] if local else Path(DEFAULT_ROOT) / name
    if not local:
        _download(
            getattr(medmnist, info["python_class"]), int(side), path, info[f"url{sides[side]}"]
        )
    accepted = {"parts": PUBLISHED, "labels": PUBLISHED, **request.given.accepted}
    given = replace(request.given, accepted=accepted)
    source = open_npz(replace(request, given=given), path)
    names = tuple(info["label"].values())
    classes = names if len(names) == len(source.classes) else source.classes
    return replace(source, name=spec, classes=classes)


def _download(dataset: type[Any], side: int, path: Path, url: str) -> None:
    """Let the medmnist package fetch and check the file, which appears when it is complete."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            dataset(split="val", download=True, root=folder, size=side)
            (Path(folder) / path.name).replace(path)
    except Exception as error:  # of the network, the disk, the archive or the checksum
        raise InputError(
            f"{path.name}: the download failed or its MD5 is wrong; fetch {url} by hand and put "
            f"it as {path.name} into the current folder or {path.parent}"
        ) from error
