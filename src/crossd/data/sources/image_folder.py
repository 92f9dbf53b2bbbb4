"""Class folders of images, read when they are asked for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from crossd.data.dataset import PixelSamples, Sample, Samples, Subset, in_floats
from crossd.data.disk_cache import state_of
from crossd.data.file_names import Names
from crossd.data.io.header import is_dicom
from crossd.data.io.read import flat, read_header
from crossd.data.shapes import full_size
from crossd.data.shared_arrays import share
from crossd.data.source import Source
from crossd.data.sources.folder_index import Part, suffixes
from crossd.data.splits import FRACTIONS, split
from crossd.errors import InputError

DEFAULT_SIZE = (64, 64)
LOOK_AT = 8
"""Images that decide whether a folder is grey or coloured."""

DAMAGED = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)
GREY = {"1", "L", "LA"}
DEEP = {"I", "I;16", "I;16B", "I;16L"}


class ImageSamples(PixelSamples):
    """Image files, with the classes of the images or with masks.

    Args:
        root: Folder that the names are relative to.
        names: Files of the samples, for each modality.
        labels: Class of every sample; empty for masks.
        size: Height and width.
        masks: File of every mask; images are then resized whole, never cropped.
        values: What stands for each class in masks.
    """

    def __init__(
        self,
        root: Path,
        names: Sequence[Names],
        labels: Sequence[int] | NDArray[np.int64],
        size: tuple[int, ...],
        masks: Names | None = None,
        values: Sequence[int] = (),
    ) -> None:
        self.root = root
        self.names = tuple(names)
        if masks is None:
            self.labels = share(np.asarray(labels, np.int64))
        self.masks = masks
        self.shape = size
        self.values = values
        self.channels = 1

    def __len__(self) -> int:
        return len(self.names[0])

    def pixels(self, index: int) -> Sample:
        """Return a sample whose image has its 8 bits still, where it has no more."""
        paths = [self.root / names[index] for names in self.names]
        crop, channels = self.labels is not None, self.channels // len(paths)
        planes = [read_pixels(path, channels, self.shape, crop) for path in paths]
        if len({plane.dtype for plane in planes}) > 1:
            planes = [in_floats(plane) for plane in planes]
        image = planes[0] if len(planes) == 1 else torch.cat(planes)
        sample: Sample = {"image": image, "view": -1}
        if self.labels is not None:
            sample["label"] = torch.tensor(self.labels.item(index))
        elif self.masks is not None:
            path = self.root / self.masks[index]
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

    def case(self, index: int) -> str:
        """Return the first file of a sample, below the source."""
        return self.names[0][index]

    def stamp(self, index: int) -> str | None:
        """Tell the files of a sample, with their sizes and times."""
        try:
            states = [state_of(self.root / names[index]) for names in self.names]
        except OSError:
            return None
        crop = self.labels is not None
        return f"{self.name(index)} {states} {self.shape} {self.channels} {crop}"

    def load(self, index: int) -> Image.Image:
        """Read the first image of a sample as it is."""
        return _load(self.path(index))

    def path(self, index: int) -> Path:
        """Return the first file of a sample."""
        return self.root / self.names[0][index]


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
    return in_floats(read_pixels(path, channels, size, crop))


def read_pixels(
    path: Path, channels: int, size: tuple[int, ...], crop: bool = True
) -> torch.Tensor:
    """Do what `read_image` does, but leave images of 8 bits in them."""
    image = _load(path)
    if image.mode == "F" and not is_dicom(path):
        raise InputError(
            f"{path}: holds floating-point numbers of unknown range; expected 8 or 16 bits"
        )
    return prepared(image, channels, size, crop)


def prepared(
    image: Image.Image, channels: int, size: tuple[int, ...], crop: bool = True
) -> torch.Tensor:
    """Resize an image, in its 8 bits or, where there are more, scaled to [0, 1]."""
    top = 1.0
    if image.mode in DEEP:
        top = 65_535.0
        image = Image.fromarray(np.asarray(image).astype(np.float32))
    elif image.mode != "F" and image.mode != ("L" if channels == 1 else "RGB"):
        image = image.convert("L" if channels == 1 else "RGB")
    height, width = size
    fit = ImageOps.fit if crop else Image.Image.resize
    fitted = fit(image, (width, height), Image.Resampling.BILINEAR)
    array = np.atleast_3d(np.asarray(fitted))
    if array.dtype != np.uint8:
        array = array / np.float32(top)
    # (h, w, c) -> (c, h, w), a copy: what PIL gives cannot be written to
    tensor = torch.from_numpy(array.transpose(2, 0, 1).copy())
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
        what = "is DICOM; save it as PNG" if is_dicom(path) else "holds colours"
        raise InputError(f"{path}: {what}; a mask holds one whole number a pixel")
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


def open_images(
    root: Path, size: tuple[int, ...] | None, seed: int, found: dict[str, Part]
) -> Source:
    """Open class folders, or ``train/`` and ``val/`` (and ``test/``) of class folders.

    Class folders alone are split 70/10/20 by `seed`. Without ``test/`` the validation images
    are halved. Images may lie at any depth below their class folder.

    Args:
        root: The folder.
        size: Height and width; 64 by 64 where None.
        seed: Decides on the splits that the folder does not fix.
        found: What lies in the class folders, by `crossd.data.sources.folder_index.scan`.

    Returns:
        The source, its images in [0, 1]: grey unless the first files are coloured.

    Raises:
        InputError: When there are no images, fewer than two classes, or an unknown class.
    """
    shape = DEFAULT_SIZE if size is None else full_size(size, 2, str(root))
    fixed = [part for part in found if part]
    if fixed and not {"train", "val"} <= set(fixed):
        raise InputError(
            f"{root}: has {fixed[0]}/ but not both train/ and val/; add the other, or give the "
            f"class folders alone"
        )
    first = found["train" if fixed else ""]
    classes = first.folders
    if not classes or (not fixed and not len(first.images.names)):
        readable = suffixes()
        loose = any(entry.suffix.lower() in readable for entry in root.iterdir())
        hint = "images must lie in class folders" if loose else f"no images in {root}"
        raise InputError(
            f"{root}: {hint}; expected train/ and val/ of class folders, or class folders alone"
        )
    if len(classes) < 2:
        raise InputError(f"{root}: has one class folder, {classes[0]}; expected two or more")
    listed = {
        name or "train": _list(root / name, part, classes, shape, complete=part is first)
        for name, part in found.items()
    }
    channels = channels_of(listed["train"])
    for samples in listed.values():
        samples.channels = channels
    train, val, test = divided(listed, str(root), seed)
    return Source(str(root), 2, "classification", channels, classes, shape, train, val, test)


def divided(
    found: Mapping[str, Samples], where: str, seed: int
) -> tuple[Samples, Samples, Samples]:
    """Return training, validation and test samples, splitting what the data do not.

    Args:
        found: By part: "train" alone, or with "val", or with "val" and "test".
        where: The source, for messages.
        seed: Decides.
    """
    train = found["train"]
    assert train.labels is not None
    if "val" not in found:
        a, b, c = split(train.labels, FRACTIONS, seed, where)
        return Subset(train, a), Subset(train, b), Subset(train, c)
    val = found["val"]
    if "test" in found:
        return train, val, found["test"]
    assert val.labels is not None
    a, b = split(val.labels, (0.5, 0.5), seed, str(Path(where) / "val"))
    return train, Subset(val, a), Subset(val, b)


def _list(
    root: Path, part: Part, classes: Sequence[str], size: tuple[int, ...], *, complete: bool
) -> ImageSamples:
    """Take the images of a part, which must have some of every class if `complete`."""
    unknown = sorted(set(part.folders) - set(classes))
    if unknown:
        raise InputError(f"{root / unknown[0]}: this class is not in train/; remove or add it")
    empty = [
        name for name, n in zip(part.folders, part.images.counts, strict=True) if complete and not n
    ]
    if empty:
        raise InputError(f"{root / empty[0]}: no images in this class folder; fill or remove it")
    if not len(part.images.names):
        raise InputError(f"{root}: no images in its class folders")
    numbers = np.array([classes.index(name) for name in part.folders], np.int64)
    return ImageSamples(root, [part.images.names], numbers[part.images.labels], size)


class Loads(Protocol):
    """Samples whose images can be read as they are."""

    def __len__(self) -> int: ...

    def load(self, index: int) -> Image.Image:
        """Read the image of a sample."""


def channels_of(samples: Loads) -> int:
    """Return 3 when one of a few files has colours, else 1."""
    step = max(1, len(samples) // LOOK_AT)
    for index in range(0, len(samples), step):
        image = samples.load(index)
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
    return decode(path, str(path))


def decode(file: Path | IO[bytes], where: str) -> Image.Image:
    """Read a whole image, turned the way its camera says; `where` names it in messages."""
    try:
        with Image.open(file) as image:
            return ImageOps.exif_transpose(image)
    except DAMAGED as error:
        raise InputError(f"{where}: cannot be read as an image; replace or remove it") from error
