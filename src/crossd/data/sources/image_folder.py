"""Class folders of images, read when they are asked for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from crossd.data.dataset import PixelSamples, Sample, Samples, Subset, in_floats
from crossd.data.disk_cache import state_of
from crossd.data.file_names import Names
from crossd.data.io.agreement import as_classes
from crossd.data.io.images import DEEP, has_colours, load, load_case, suffixes
from crossd.data.shapes import full_size
from crossd.data.shared_arrays import share
from crossd.data.source import Source
from crossd.data.sources.case_folders import check_classes
from crossd.data.sources.folder_index import Part
from crossd.data.splits import FRACTIONS, halves, split
from crossd.errors import InputError

DEFAULT_SIZE = (64, 64)
LOOK_AT = 8
"""Images that decide whether a folder is grey or coloured."""


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
        path = None if self.masks is None else self.root / self.masks[index]
        images, mask = load_case(paths, path)
        image = stacked(images, self.channels // len(paths), self.shape, crop=path is None)
        sample: Sample = {"image": image, "view": -1}
        if self.labels is not None:
            sample["label"] = torch.tensor(self.labels.item(index))
        if path is not None and mask is not None:
            classes = Image.fromarray(as_classes(mask, self.values, path))
            height, width = self.shape
            resized = classes.resize((width, height), Image.Resampling.NEAREST)
            sample["mask"] = torch.from_numpy(np.array(resized)).long()
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
        return load(self.path(index))

    def path(self, index: int) -> Path:
        """Return the first file of a sample."""
        return self.root / self.names[0][index]


def read_image(
    images: Sequence[Path], channels: int, size: tuple[int, ...], crop: bool = True
) -> torch.Tensor:
    """Read the modalities of a case and resize them.

    Args:
        images: The files; also DICOM, whose values are clipped to their percentiles 0.5 to 99.5.
        channels: Of each: 1 for grey, 3 for red, green and blue.
        size: Height and width.
        crop: Crop images about their centre to the shape of `size` first.

    Returns:
        Values in [0, 1], float32, ``(C, H, W)``.

    Raises:
        InputError: When a file is no image that can be read, or is of another size than others.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "white.png"
        >>> Image.new("L", (6, 4), 255).save(file)
        >>> read_image([file], 1, (2, 2)).flatten()
        tensor([1., 1., 1., 1.])
    """
    return in_floats(stacked(load_case(images)[0], channels, size, crop))


def stacked(
    images: Sequence[Image.Image], channels: int, size: tuple[int, ...], crop: bool = True
) -> torch.Tensor:
    """Do what `read_image` does of images that are read, but leave 8 bits in them."""
    planes = [prepared(image, channels, size, crop) for image in images]
    if len({plane.dtype for plane in planes}) > 1:
        planes = [in_floats(plane) for plane in planes]
    return planes[0] if len(planes) == 1 else torch.cat(planes)


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
        hint = "images must lie in class folders" if loose else "no images"
        raise InputError(
            f"{root}: {hint}; expected train/ and val/ of class folders, class folders alone, or "
            "for masks images/ and labels/"
        )
    if len(classes) < 2:
        raise InputError(f"{root}: has one class folder, {classes[0]}; expected two or more")
    check_classes(root, found, "images")
    listed = {}
    for name, part in found.items():
        numbers = np.array([classes.index(folder) for folder in part.folders], np.int64)
        labels = numbers[part.images.labels]
        listed[name or "train"] = ImageSamples(root / name, [part.images.names], labels, shape)
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
    a, b = halves(val.labels, seed, where)
    return train, Subset(val, a), Subset(val, b)


class Loads(Protocol):
    """Samples whose images can be read as they are."""

    def __len__(self) -> int: ...

    def load(self, index: int) -> Image.Image:
        """Read the image of a sample."""


def channels_of(samples: Loads) -> int:
    """Return 3 when one of a few files has colours, else 1."""
    step = max(1, len(samples) // LOOK_AT)
    some = range(0, len(samples), step)
    return 3 if any(has_colours(samples.load(index)) for index in some) else 1
