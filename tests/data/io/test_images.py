"""Files of images and of their masks: what is read of them, and what is refused."""

from pathlib import Path

import files
import numpy as np
import pytest
from PIL import Image

from crossd.data.io.images import load, load_case, raw_mask, shape_of

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("name", ["a.tif", "a.gif", "a.webp", "a.png"])
def test_several_pages_are_refused(tmp_path: Path, name: str) -> None:
    first, *others = (Image.fromarray(RNG.integers(0, 255, (9, 8), np.uint8)) for _ in range(5))
    path = tmp_path / name
    first.save(path, save_all=True, append_images=others)
    for read in (load, shape_of, raw_mask):
        assert f"{path}: holds 5 pages" in files.message(lambda read=read: read(path))


def test_a_scan_of_many_pixels_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "scan.png"
    Image.new("1", (4000, 3000), 1).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # PIL refuses twice as many
    assert shape_of(path) == (3000, 4000) and load(path).size == (4000, 3000)
    assert Image.MAX_IMAGE_PIXELS == 1000
    monkeypatch.setattr("crossd.utils.memory.available", lambda: 100_000)
    said = files.message(lambda: load(path))
    assert "scan.png" in said and "memory" in said


@pytest.mark.parametrize("name", ["a.jpg", "a.jp2", "a.webp"])
def test_masks_whose_compression_changes_values(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    Image.fromarray(np.eye(16, dtype=np.uint8) * 255).save(path)
    assert "whose compression changes values; save masks as PNG" in files.message(
        lambda: raw_mask(path)
    )


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_masks_of_8_and_16_bits(tmp_path: Path, kind: type, suffix: str) -> None:
    mask = RNG.integers(0, np.iinfo(kind).max, (9, 8), kind, endpoint=True)
    Image.fromarray(mask).save(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(raw_mask(tmp_path / f"a{suffix}"), mask)


def test_masks_in_other_modes(tmp_path: Path) -> None:
    mask = RNG.integers(0, 3, (9, 8), np.uint8)
    path = tmp_path / "a.png"
    grey = Image.fromarray(mask)
    for mode in ("RGB", "RGBA", "LA"):
        grey.convert(mode).save(path)
        np.testing.assert_array_equal(raw_mask(path), mask)
    Image.fromarray(np.stack([mask, mask, mask * 2], -1)).save(path)
    assert "holds colours" in files.message(lambda: raw_mask(path))


def test_numbers_of_32_bits_have_no_known_range(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(np.array([[0, 70_000]], np.int32)).save(path)
    assert "numbers of 32 bits of unknown range" in files.message(lambda: load(path))
    Image.fromarray(np.array([[0, 60_000]], np.int32)).save(path)
    assert load(path).getextrema() == (0, 60_000)


def turned(path: Path, pixels: np.ndarray, way: int) -> Path:
    exif = Image.Exif()
    exif[0x0112] = way
    Image.fromarray(pixels).save(path, exif=exif)
    return path


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
@pytest.mark.parametrize("way", range(1, 9))
def test_a_tiff_that_is_turned_is_read_as_a_png_is(
    tmp_path: Path, way: int, compression: str
) -> None:
    pixels = RNG.integers(0, 255, (12, 20), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = way
    Image.fromarray(pixels).save(tmp_path / "a.tif", exif=exif, compression=compression)
    expected = np.asarray(load(turned(tmp_path / "a.png", pixels, way)))
    np.testing.assert_array_equal(np.asarray(load(tmp_path / "a.tif")), expected)
    assert shape_of(tmp_path / "a.tif") == shape_of(tmp_path / "a.png") == expected.shape


def test_modalities_of_which_one_is_turned(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 255, (12, 20), np.uint8)
    both = [turned(tmp_path / f"{way}.png", pixels, way) for way in (1, 3)]
    assert "otherwise than those of 3.png" in files.message(lambda: load_case(both))


@pytest.mark.parametrize("way", range(1, 9))
@pytest.mark.parametrize("shape", [(12, 8), (12, 12)])
def test_an_image_that_is_turned_and_its_mask(
    tmp_path: Path, way: int, shape: tuple[int, int]
) -> None:
    pixels = RNG.integers(0, 3, shape, np.uint8)
    image = turned(tmp_path / "a.png", pixels, way)
    both = turned(tmp_path / "m.png", pixels, way)
    images, mask = load_case([image], both)
    np.testing.assert_array_equal(np.asarray(images[0]), mask)  # turned alike
    shown = tmp_path / "shown.png"
    Image.fromarray(np.asarray(images[0])).save(shown)
    if way == 1 or (way >= 5 and shape[0] != shape[1]):  # the shape tells that it is as shown
        np.testing.assert_array_equal(load_case([image], shown)[1], mask)
    else:
        said = files.message(lambda: load_case([image], shown))
        assert "its EXIF data turn it otherwise than those of shown.png" in said
    if way >= 5 and shape[0] != shape[1]:
        stored = tmp_path / "stored.png"
        Image.fromarray(pixels).save(stored)
        assert "image and mask must agree" in files.message(lambda: load_case([image], stored))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("alpha", [0, 128])
def test_transparent_pixels_are_refused(tmp_path: Path, mode: str, name: str, alpha: int) -> None:
    image = Image.fromarray(RNG.integers(0, 255, (9, 8), np.uint8)).convert(mode)
    path = tmp_path / name
    image.save(path)
    assert load(path).size == (8, 9)  # opaque
    image.putalpha(Image.fromarray(np.where(np.eye(9, 8), alpha, 255).astype(np.uint8)))
    image.save(path)
    for read in (load, raw_mask):
        assert "has transparent pixels" in files.message(lambda read=read: read(path))


def test_a_mask_whose_background_is_transparent_by_its_palette(tmp_path: Path) -> None:
    mask = RNG.integers(0, 3, (9, 8), np.uint8)
    image = Image.new("P", (8, 9))
    image.putdata(mask.ravel().tolist())
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    image.save(tmp_path / "a.png", transparency=0)
    np.testing.assert_array_equal(raw_mask(tmp_path / "a.png"), mask)
