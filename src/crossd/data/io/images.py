"""Files of images: those that PIL reads, and DICOM files of one image."""

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from crossd.data.io.agreement import HIGHEST, require_same_shape, whole_numbers
from crossd.data.io.header import is_dicom, is_volume, require_file
from crossd.data.io.read import flat, read_header
from crossd.errors import InputError
from crossd.utils.memory import require

LOSSY = ("JPEG", "MPO", "JPEG2000", "WEBP", "AVIF")
"""Formats that may change the values of pixels."""

ONE_IMAGE = ("MPO", "PSD")
"""Formats whose further pages are thumbnails or layers of the first."""

GREY = {"1", "L", "LA"}
DEEP = {"I", "I;16", "I;16B", "I;16L"}
ON_ITS_SIDE = 5
"""Value of the orientation in EXIF from which height and width are to be exchanged."""

PER_PIXEL = 8.0
"""Bytes of memory that reading takes for each pixel."""

MOST_PER_BYTE = 10_000.0
"""Pixels that a byte of a JPEG file may stand for, at most."""

_OPENING = threading.Lock()


def suffixes() -> set[str]:
    """Return the suffixes that PIL reads, in lower case."""
    return {end for end, kind in Image.registered_extensions().items() if kind in Image.OPEN}


def load(path: Path) -> Image.Image:
    """Read a whole image file, turned the way its camera says; DICOM in [0, 1] (mode F)."""
    return Image.fromarray(flat(path)) if is_dicom(path) else decode(path, str(path))


@contextmanager
def _opened(file: Path | IO[bytes], where: str) -> Iterator[Image.Image]:
    """Open an image and check that it is one, and fits into memory.

    PIL refuses more than 179 megapixels, which a sound scan of a slide may have.
    """
    try:
        with ExitStack() as stack:
            if isinstance(file, Path):
                require_file(file)
            # PIL maps TIFF files by their names, with sides that EXIF exchanged: give it a stream.
            stream = stack.enter_context(file.open("rb")) if isinstance(file, Path) else file
            with _OPENING:
                most, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
                try:
                    opened = stack.enter_context(Image.open(stream))
                finally:
                    Image.MAX_IMAGE_PIXELS = most
            pages = getattr(opened, "n_frames", 1)
            if pages > 1 and opened.format not in ONE_IMAGE:
                raise InputError(
                    f"{where}: holds {pages} pages; save each as a file of its own, or a stack of "
                    "slices as a volume in NIfTI, NRRD or MetaImage"
                )
            if opened.format in ("JPEG", "MPO") and _claims_too_much(opened, stream):
                raise OSError("more pixels than the file can hold")
            require(opened.width * opened.height * PER_PIXEL, where)
            yield opened
    except (InputError, ImportError, MemoryError):
        raise
    except PermissionError as error:
        raise InputError(
            f"{where}: may not be read (permission denied); change its permissions"
        ) from error
    except Exception as error:  # PIL raises many kinds on damaged files
        raise InputError(f"{where}: cannot be read as an image; replace or remove it") from error


def _claims_too_much(image: Image.Image, stream: IO[bytes]) -> bool:
    """Tell whether a damaged JPEG file claims gigabytes: of other formats an even image is tiny."""
    place = stream.tell()
    held = stream.seek(0, os.SEEK_END)
    stream.seek(place)
    return image.width * image.height > MOST_PER_BYTE * held


def decode(file: Path | IO[bytes], where: str) -> Image.Image:
    """Read a whole image, but for DICOM; refuse what is none, or has values of unknown range."""
    with _opened(file, where) as opened:
        kind, turn = opened.format, _turn(opened)
        image = ImageOps.exif_transpose(opened)
    if image.mode != "P":  # of masks; their numbers count, whatever is shown of them
        _require_opaque(image, where)
    image.format = kind
    image.info["turned"] = turn
    if image.mode == "F" or (image.mode == "I" and not _in_16_bits(image)):
        kinds = "floating-point numbers" if image.mode == "F" else "numbers of 32 bits"
        raise InputError(f"{where}: holds {kinds} of unknown range; expected 8 or 16 bits")
    return image


def _require_opaque(image: Image.Image, where: str) -> None:
    """Refuse pixels that are seen through: what is stored of them is not what is shown."""
    alpha = image.getchannel("A") if "A" in image.getbands() else None
    if alpha is not None and alpha.getextrema() != (255, 255):
        raise InputError(
            f"{where}: has transparent pixels, whose colours programs choose; lay it on one "
            "colour, and save it without transparency"
        )


def _in_16_bits(image: Image.Image) -> bool:
    array = np.asarray(image)
    return bool(array.min() >= 0 and array.max() <= HIGHEST)


def _turn(image: Image.Image) -> int:
    """Return how a camera says that its picture is to be turned: 1 as it is stored."""
    return int(image.getexif().get(ExifTags.Base.Orientation, 1))


def load_case(
    images: Sequence[Path], mask: Path | None = None
) -> tuple[list[Image.Image], NDArray[np.uint16] | None]:
    """Read the modalities of a case and the values of its mask, which must have one shape."""
    loaded = [load(path) for path in images]
    height_width = loaded[0].size[::-1]
    for path, image in zip(images, loaded, strict=True):
        require_same_shape(images[0], height_width, path, image.size[::-1], "modalities")
        _require_turned_alike(images[0], loaded[0], path, image)
    if mask is None:
        return loaded, None
    drawn = _drawn(mask)
    values = _values(drawn, mask)
    _require_turned_alike(images[0], loaded[0], mask, drawn)
    require_same_shape(images[0], height_width, mask, values.shape, "image and mask")
    return loaded, values


def _require_turned_alike(path: Path, image: Image.Image, other: Path, second: Image.Image) -> None:
    """Refuse two files of a case of which EXIF turns one, where their shapes do not tell how."""
    turn, own = (one.info.get("turned", 1) for one in (image, second))
    if turn != own and (max(turn, own) < ON_ITS_SIDE or image.width == image.height):
        raise InputError(
            f"{path}: its EXIF data turn it otherwise than those of {other.name}, so that it is "
            "unknown how the two lie; save both as they are shown, without EXIF data"
        )


def raw_mask(path: Path) -> NDArray[np.uint16]:
    """Read the values of a mask, ``(H, W)``."""
    return _values(_drawn(path), path)


def _drawn(path: Path) -> Image.Image:
    """Read a mask of an image as it is."""
    if path.is_dir() or (is_volume(path) and not is_dicom(path)):
        raise InputError(f"{path}: is a volume, but its image is none; save the mask as PNG")
    return load(path)


def require_same_colours(masks: Iterable[Path]) -> None:
    """Refuse masks whose palettes give a value another colour than others do: it is another class.

    The numbers in the files count, not the colours; but where these differ, so does what the
    numbers stand for, as where a program sorted the colours of each file anew.

    Raises:
        InputError: Naming two such masks.
    """
    known: dict[int, tuple[str, Path]] = {}
    for path in masks:
        for value, colour in _palette(path).items():
            other, first = known.setdefault(value, (colour, path))
            if other != colour:
                raise InputError(
                    f"{path}: its palette shows the value {value} as {colour}, that of {first} as "
                    f"{other}: is it another class? give each class one number in all masks, and "
                    "save them with one palette, or as grey"
                )


def _palette(path: Path) -> dict[int, str]:
    """Return the colours of the values of a mask, as #rrggbb; none where it has no palette."""
    if is_volume(path):
        return {}
    with _opened(path, str(path)) as file:
        if file.mode != "P":
            return {}
        values = np.unique(np.asarray(file)).tolist()
        given = bytes(file.getpalette("RGB") or ()).ljust(3 * 256, b"\0")
    return {value: f"#{given[3 * value : 3 * value + 3].hex()}" for value in values}


def _values(image: Image.Image, path: Path) -> NDArray[np.uint16]:
    if is_dicom(path):
        raise InputError(f"{path}: is DICOM; save it as PNG, a mask holds one whole number a pixel")
    if image.format in LOSSY:
        raise InputError(
            f"{path}: is a {image.format} file, whose compression changes values; save masks as PNG"
        )
    if image.mode not in {"1", "L", "P"} | DEEP:
        if has_colours(image):
            raise InputError(
                f"{path}: holds colours; a mask holds one whole number a pixel: give each class "
                "one, and save it as grey PNG"
            )
        image = image.convert("RGB").getchannel(0)
    return whole_numbers(np.asarray(image), path)


def shape_of(path: Path) -> tuple[int, int]:
    """Return height and width of an image file, as `load` gives them, without reading it whole."""
    if is_dicom(path):
        width, height, _ = read_header(path).shape
        return height, width
    with _opened(path, str(path)) as file:
        width, height = file.size
        turn = _turn(file)
        kind = file.format
    if kind == "TIFF" and turn != 1:  # whose size some versions of PIL turn, and others do not
        width, height = load(path).size
        return height, width
    return (width, height) if turn in range(ON_ITS_SIDE, 9) else (height, width)


def bands_of(path: Path) -> int:
    """Return how many channels an image file has: 1, or 3 with colours, as it is stored."""
    if is_dicom(path):
        return 1
    with _opened(path, str(path)) as file:
        return 1 if file.mode in GREY | DEEP | {"F"} else 3


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
