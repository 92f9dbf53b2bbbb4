"""Images that are read and resized when they are asked for."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from crossd.data.dataset import Labels, Sample, Samples, in_floats
from crossd.data.disk_cache import state_of
from crossd.data.file_names import Names
from crossd.data.io.agreement import as_classes
from crossd.data.io.images import DEEP, has_colours, load, load_case
from crossd.data.preprocessing import resample
from crossd.data.shared_arrays import share

DEFAULT_SIZE = (64, 64)
LOOK_AT = 8
"""Images that decide whether all are grey or coloured."""

Case = tuple[list[Image.Image], NDArray[np.uint8] | None]


class ImageSamples(Samples):
    """Images of one size; subclasses say where they lie.

    Args:
        labels: Class of every sample; None for masks, or without labels.
        size: Height and width.
    """

    crop = True
    """Whether images are cropped to the shape of `size` before they are resized."""

    def __init__(self, labels: Labels | None, size: tuple[int, ...]) -> None:
        self.labels = None if labels is None else share(labels)
        self.shape: tuple[int, ...] = size

    def load(self, index: int) -> Image.Image:
        """Read the first image of a sample as it is."""
        raise NotImplementedError

    def load_case(self, index: int) -> Case:
        """Read the modalities of a sample as they are, and the classes of its mask."""
        return [self.load(index)], None

    def state(self, index: int) -> object:
        """Return what changes when the images of a sample are written anew.

        Raises:
            OSError: When they are gone.
        """
        raise NotImplementedError

    def see_colours(self, among: NDArray[np.int64], modalities: int = 1) -> None:
        """Take three channels of each modality where one of a few samples has colours, else one."""
        some = among[:: max(1, len(among) // LOOK_AT)].tolist()
        coloured = any(has_colours(self.load(index)) for index in some)
        self.channels = modalities * (3 if coloured else 1)

    def __getitem__(self, index: int) -> Sample:
        images, mask = self.load_case(index)
        image = stacked(images, self.channels // len(images), self.shape, self.crop)
        sample: Sample = {"image": image, "view": -1}
        if self.labels is not None:
            # of a copy, which takes a third of the time of torch.tensor
            sample["label"] = torch.from_numpy(np.array(self.labels[index]))
        if mask is not None:
            sample["mask"] = resample.mask(torch.from_numpy(mask), self.shape).long()
        return sample

    def stamp(self, index: int) -> str | None:
        """Tell the files of a sample, with their sizes and times, and how they are prepared."""
        try:
            state = self.state(index)
        except OSError:
            return None
        return f"{self.name(index)} {state} {self.shape} {self.channels} {self.crop}"


class FileSamples(ImageSamples):
    """Image files, with the classes of the images or with masks.

    Args:
        root: Folder that the names are relative to.
        names: Files of the samples, for each modality.
        labels: Class of every sample; None for masks, or without labels.
        size: Height and width.
        masks: File of every mask; images are then resized whole, never cropped.
        values: What stands for each class in masks.
        ignore: What stands there for pixels that are not known.
    """

    def __init__(
        self,
        root: Path,
        names: Sequence[Names],
        labels: Labels | None,
        size: tuple[int, ...],
        masks: Names | None = None,
        values: Sequence[int] = (),
        ignore: int | None = None,
    ) -> None:
        super().__init__(labels, size)
        self.root, self.names = root, tuple(names)
        self.masks, self.values, self.ignore = masks, values, ignore
        self.crop = masks is None

    def __len__(self) -> int:
        return len(self.names[0])

    def load(self, index: int) -> Image.Image:
        """Read the first image of a sample as it is."""
        return load(self.root / self.case(index))

    def load_case(self, index: int) -> Case:
        """Read the modalities of a sample as they are, and the classes of its mask."""
        path = None if self.masks is None else self.root / self.masks[index]
        images, mask = load_case([self.root / names[index] for names in self.names], path)
        if path is None or mask is None:
            return images, None
        return images, as_classes(mask, self.values, path, self.ignore)

    def state(self, index: int) -> object:
        """Return the size and the time of each image of a sample."""
        return [state_of(self.root / names[index]) for names in self.names]

    def name(self, index: int) -> str:
        """Return the first file of a sample."""
        return str(self.root / self.case(index))

    def case(self, index: int) -> str:
        """Return the first file of a sample, below the source."""
        return self.names[0][index]


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
    images: Sequence[Image.Image], channels: int, size: tuple[int, ...], crop: bool
) -> torch.Tensor:
    """Do what `read_image` does of images that are read, but leave 8 bits in them."""
    planes = [_prepared(image, channels, size, crop) for image in images]
    if len({plane.dtype for plane in planes}) > 1:
        planes = [in_floats(plane) for plane in planes]
    return planes[0] if len(planes) == 1 else torch.cat(planes)


def _prepared(image: Image.Image, channels: int, size: tuple[int, ...], crop: bool) -> torch.Tensor:
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
    return tensor if len(tensor) == channels else tensor.expand(channels, height, width)
