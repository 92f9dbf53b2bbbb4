"""Class folders of images, read when they are asked for."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from crossd.data.formats import flat, is_dicom, read_header
from crossd.data.shapes import full_size
from crossd.data.source import Sample, Samples, Source, Subset
from crossd.data.splits import FRACTIONS, split
from crossd.errors import InputError

DEFAULT_SIZE = (64, 64)
LOOK_AT = 8
"""Images that decide whether a folder is grey or coloured."""

DAMAGED = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)
GREY = {"1", "L", "LA"}
DEEP = {"I", "I;16", "I;16B", "I;16L"}


class ImageSamples(Samples):
    """Image files, with the classes of the images or with masks.

    The names are kept as one array of bytes, which costs a tenth of a list of paths and is not
    copied into the workers of a loader.

    Args:
        root: Folder that the names are relative to.
        names: Files of every sample, one a modality.
        labels: Class of every sample; empty for masks.
        size: Height and width.
        masks: File of every mask; images are then resized whole, never cropped.
        values: What stands for each class in masks.
    """

    def __init__(
        self,
        root: Path,
        names: Sequence[Sequence[str]],
        labels: Sequence[int],
        size: tuple[int, ...],
        masks: Sequence[str] = (),
        values: Sequence[int] = (),
    ) -> None:
        self.root = root
        self.names = np.array([[os.fsencode(name) for name in each] for each in names])
        if not masks:
            self.labels = np.array(labels, np.int64)
        self.masks = np.array([os.fsencode(name) for name in masks])
        self.shape = size
        self.values = values
        self.channels = 1

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        paths = [self.root / os.fsdecode(name.item()) for name in self.names[index]]
        crop, channels = self.labels is not None, self.channels // len(paths)
        planes = [read_image(path, channels, self.shape, crop) for path in paths]
        sample: Sample = {"image": torch.cat(planes), "view": -1}
        if self.labels is not None:
            sample["label"] = torch.tensor(self.labels[index])
        else:
            path = self.root / os.fsdecode(self.masks[index].item())
            if shape_of(path) != shape_of(paths[0]):
                raise InputError(
                    f"{path}: has the shape {shape_of(path)}, but {paths[0]} "
                    f"{shape_of(paths[0])}; image and mask must agree"
                )
            sample["mask"] = read_mask(path, self.values, self.shape)
        return sample

    def size(self, index: int) -> tuple[int, ...]:
        """Return the size that all samples have."""
        return self.shape

    def name(self, index: int) -> str:
        """Return the first file of a sample."""
        return str(self.path(index))

    def path(self, index: int) -> Path:
        """Return the first file of a sample."""
        return self.root / os.fsdecode(self.names[index, 0].item())


def read_image(path: Path, channels: int, size: tuple[int, ...], crop: bool = True) -> torch.Tensor:
    """Read an image file and resize it.

    Args:
        path: The file; also DICOM, whose values are clipped to their percentiles 0.5 to 99.5.
        channels: 1 for grey, 3 for red, green and blue.
        size: Height and width.
        crop: Crop the image about its centre to the shape of `size` first.

    Returns:
        Values in [0, 1], float32, ``(C, H, W)``.

    Raises:
        InputError: When the file is no image that can be read.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "white.png"
        >>> Image.new("L", (6, 4), 255).save(file)
        >>> read_image(file, 1, (2, 2)).flatten()
        tensor([1., 1., 1., 1.])
    """
    image = _load(path)
    top = 255.0
    if image.mode in DEEP:
        top = 65_535.0
        image = Image.fromarray(np.asarray(image).astype(np.float32))
    elif image.mode == "F":
        if not is_dicom(path):
            raise InputError(
                f"{path}: holds floating-point numbers of unknown range; expected 8 or 16 bits"
            )
        top = 1.0
    elif image.mode != ("L" if channels == 1 else "RGB"):
        image = image.convert("L" if channels == 1 else "RGB")
    height, width = size
    fit = ImageOps.fit if crop else Image.Image.resize
    fitted = fit(image, (width, height), Image.Resampling.BILINEAR)
    array = np.atleast_3d(np.asarray(fitted, np.float32)) / np.float32(top)
    # (h, w, c) -> (c, h, w)
    tensor = torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))
    return tensor.expand(channels, height, width)


def read_mask(path: Path, values: Sequence[int], size: tuple[int, ...]) -> torch.Tensor:
    """Read the mask of an image as numbers of classes, int64, ``(H, W)``.

    Args:
        path: A file of one number a pixel, or a palette.
        values: What stands for each class in the file.
        size: Height and width.

    Raises:
        InputError: When it cannot be read or holds another value.
    """
    mask = raw_mask(path)
    if not np.isin(mask, values).all():
        odd = mask[~np.isin(mask, values)].flat[0]
        shown = ", ".join(map(str, values))
        raise InputError(f"{path}: holds {odd}, but the classes have the values {shown}")
    classes = Image.fromarray(np.searchsorted(values, mask).astype(np.uint8))
    height, width = size
    resized = np.array(classes.resize((width, height), Image.Resampling.NEAREST))
    return torch.from_numpy(resized).long()


def raw_mask(path: Path) -> NDArray[np.int64]:
    """Read the values of a mask, ``(H, W)``."""
    image = _load(path)
    if image.mode not in {"1", "L", "P"} | DEEP:
        raise InputError(f"{path}: holds colours; a mask holds one whole number a pixel")
    return np.asarray(image).astype(np.int64)


def pixels(path: Path) -> NDArray[np.float32]:
    """Read an image file as it is, ``(C, H, W)``: one channel unless it has colours."""
    image = _load(path)
    if image.mode not in GREY | DEEP | {"F"}:
        image = image.convert("RGB")
    elif image.mode == "LA":
        image = image.convert("L")
    array = np.atleast_3d(np.asarray(image, np.float32))
    return np.ascontiguousarray(np.moveaxis(array, -1, 0))


def open_images(root: Path, size: tuple[int, ...] | None, seed: int) -> Source:
    """Open class folders, or ``train/`` and ``val/`` (and ``test/``) of class folders.

    Class folders alone are split 70/10/20 by `seed`. Without ``test/`` the validation images
    are halved. Images may lie at any depth below their class folder.

    Args:
        root: The folder.
        size: Height and width; 64 by 64 where None.
        seed: Decides on the splits that the folder does not fix.

    Returns:
        The source, its images in [0, 1]: grey unless the first files are coloured.

    Raises:
        InputError: When there are no images, fewer than two classes, or an unknown class.
    """
    shape = DEFAULT_SIZE if size is None else full_size(size, 2, str(root))
    fixed = [part for part in ("train", "val", "test") if (root / part).is_dir()]
    if fixed and not {"train", "val"} <= set(fixed):
        raise InputError(
            f"{root}: has {fixed[0]}/ but not both train/ and val/; add the other, or give the "
            f"class folders alone"
        )
    classes = _folders(root / "train" if fixed else root)
    if not classes or (not fixed and not any(files(root / name) for name in classes)):
        readable = suffixes()
        loose = any(_suffix(entry.name) in readable for entry in root.iterdir())
        hint = "images must lie in class folders" if loose else f"no images in {root}"
        raise InputError(
            f"{root}: {hint}; expected train/ and val/ of class folders, or class folders alone"
        )
    if len(classes) < 2:
        raise InputError(f"{root}: has one class folder, {classes[0]}; expected two or more")
    if fixed:
        found = {
            part: _list(root / part, classes, shape, complete=part == "train") for part in fixed
        }
    else:
        found = {"train": _list(root, classes, shape, complete=True)}
    channels = channels_of(found["train"])
    for samples in found.values():
        samples.channels = channels
    train, val, test = _parts(found, root, seed)
    return Source(str(root), 2, "classification", channels, tuple(classes), shape, train, val, test)


def _parts(
    found: dict[str, ImageSamples], root: Path, seed: int
) -> tuple[Samples, Samples, Samples]:
    """Return training, validation and test samples, splitting what the folder does not."""
    train = found["train"]
    assert train.labels is not None
    if "val" not in found:
        a, b, c = split(train.labels, FRACTIONS, seed, str(root))
        return Subset(train, a), Subset(train, b), Subset(train, c)
    val = found["val"]
    if "test" in found:
        return train, val, found["test"]
    assert val.labels is not None
    a, b = split(val.labels, (0.5, 0.5), seed, str(root / "val"))
    return train, Subset(val, a), Subset(val, b)


def _list(root: Path, classes: list[str], size: tuple[int, ...], *, complete: bool) -> ImageSamples:
    """List the images of the class folders of `root`, where every class must be if `complete`."""
    unknown = sorted(set(_folders(root)) - set(classes))
    if unknown:
        raise InputError(f"{root / unknown[0]}: this class is not in train/; remove or add it")
    names: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        paths = files(root / name)
        if not paths and complete:
            raise InputError(f"{root / name}: no images in this class folder; fill or remove it")
        names += [os.path.relpath(file, root) for file in paths]
        labels += [label] * len(paths)
    if not names:
        raise InputError(f"{root}: no images in its class folders")
    return ImageSamples(root, [[name] for name in names], labels, size)


def channels_of(samples: ImageSamples) -> int:
    """Return 3 when one of a few files has colours, else 1."""
    step = max(1, len(samples) // LOOK_AT)
    for index in range(0, len(samples), step):
        image = _load(samples.path(index))
        if image.mode in GREY | DEEP | {"F"}:
            continue
        # Grey pictures are often stored as three equal channels.
        red, green, blue = np.moveaxis(np.asarray(image.convert("RGB")), -1, 0)
        if not (np.array_equal(red, green) and np.array_equal(red, blue)):
            return 3
    return 1


def shape_of(path: Path) -> tuple[int, int]:
    """Return height and width of an image file without reading it whole."""
    if is_dicom(path):
        width, height, _ = read_header(path).shape
        return height, width
    try:
        with Image.open(path) as file:
            width, height = file.size
    except DAMAGED as error:
        raise InputError(f"{path}: cannot be read as an image; replace or remove it") from error
    return height, width


def _load(path: Path) -> Image.Image:
    """Read a whole image file, turned the way its camera says."""
    if is_dicom(path):
        return Image.fromarray(flat(path))
    try:
        with Image.open(path) as file:
            return ImageOps.exif_transpose(file)
    except DAMAGED as error:
        raise InputError(f"{path}: cannot be read as an image; replace or remove it") from error


def _folders(root: Path) -> list[str]:
    return sorted(e.name for e in root.iterdir() if e.is_dir() and not e.name.startswith("."))


def files(root: Path) -> list[Path]:
    """List the image files below a folder, none where it is missing; hidden ones do not count."""
    readable = suffixes()
    return sorted(
        Path(folder) / name
        for folder, _, names in os.walk(root)
        for name in names
        if _suffix(name) in readable and not name.startswith(".")
    )


def _suffix(name: str) -> str:
    return Path(name).suffix.lower()


def suffixes() -> set[str]:
    """Return the suffixes that PIL reads, in lower case."""
    return {end for end, kind in Image.registered_extensions().items() if kind in Image.OPEN}
