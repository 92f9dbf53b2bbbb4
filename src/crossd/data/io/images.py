"""Files of images: those that PIL reads, and DICOM files of one image."""

from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from crossd.data.io.agreement import require_same_shape, whole_numbers
from crossd.data.io.header import is_dicom
from crossd.data.io.read import flat, read_header
from crossd.errors import InputError

DAMAGED = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)
GREY = {"1", "L", "LA"}
DEEP = {"I", "I;16", "I;16B", "I;16L"}
ON_ITS_SIDE = 5
"""Value of the orientation in EXIF from which height and width are to be exchanged."""


def suffixes() -> set[str]:
    """Return the suffixes that PIL reads, in lower case."""
    return {end for end, kind in Image.registered_extensions().items() if kind in Image.OPEN}


def load(path: Path) -> Image.Image:
    """Read a whole image file, turned the way its camera says; DICOM in [0, 1] (mode F)."""
    return Image.fromarray(flat(path)) if is_dicom(path) else decode(path, str(path))


def decode(file: Path | IO[bytes], where: str) -> Image.Image:
    """Read a whole image, but for DICOM; refuse what is none, or has values of unknown range."""
    try:
        with Image.open(file) as opened:
            image = ImageOps.exif_transpose(opened)
    except DAMAGED as error:
        raise InputError(f"{where}: cannot be read as an image; replace or remove it") from error
    if image.mode == "F":
        raise InputError(
            f"{where}: holds floating-point numbers of unknown range; expected 8 or 16 bits"
        )
    return image


def load_case(
    images: Sequence[Path], mask: Path | None = None
) -> tuple[list[Image.Image], NDArray[np.uint8] | None]:
    """Read the modalities of a case and the values of its mask, which must have one shape."""
    loaded = [load(path) for path in images]
    height_width = loaded[0].size[::-1]
    for path, image in zip(images, loaded, strict=True):
        require_same_shape(images[0], height_width, path, image.size[::-1], "modalities")
    if mask is None:
        return loaded, None
    values = raw_mask(mask)
    require_same_shape(images[0], height_width, mask, values.shape, "image and mask")
    return loaded, values


def raw_mask(path: Path) -> NDArray[np.uint8]:
    """Read the values of a mask, ``(H, W)``."""
    image = load(path)
    if image.mode not in {"1", "L", "P"} | DEEP:
        what = "is DICOM; save it as PNG" if is_dicom(path) else "holds colours"
        raise InputError(f"{path}: {what}; a mask holds one whole number a pixel")
    return whole_numbers(np.asarray(image), path)


def shape_of(path: Path) -> tuple[int, int]:
    """Return height and width of an image file, as `load` gives them, without reading it whole."""
    if is_dicom(path):
        width, height, _ = read_header(path).shape
        return height, width
    try:
        with Image.open(path) as file:
            width, height = file.size
            turn = file.getexif().get(ExifTags.Base.Orientation, 1)
    except DAMAGED as error:
        raise InputError(f"{path}: cannot be read as an image; replace or remove it") from error
    return (width, height) if turn in range(ON_ITS_SIDE, 9) else (height, width)


def pixels(image: Image.Image) -> NDArray[np.float32]:
    """Return an image as it is, ``(C, H, W)``: one channel unless it has colours."""
    if image.mode not in GREY | DEEP | {"F"}:
        image = image.convert("RGB")
    elif image.mode == "LA":
        image = image.convert("L")
    array = np.atleast_3d(np.asarray(image, np.float32))
    return np.ascontiguousarray(np.moveaxis(array, -1, 0))


def has_colours(image: Image.Image) -> bool:
    """Tell whether an image has colours; grey ones are often stored as three equal channels."""
    if image.mode in GREY | DEEP | {"F"}:
        return False
    red, green, blue = np.moveaxis(np.asarray(image.convert("RGB")), -1, 0)
    return not (np.array_equal(red, green) and np.array_equal(red, blue))
