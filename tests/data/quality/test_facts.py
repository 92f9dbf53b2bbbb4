"""Masks as pictures: palettes, codings of one class and smoothed edges, refused before training."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import files
import numpy as np
import pytest
from PIL import Image

from crossd.data.opening import open_source
from crossd.data.quality.facts import filled_by

RNG = np.random.default_rng(0)
Saved = Callable[[np.ndarray, int], Image.Image]
RED, GREEN, BLACK, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 0), (255, 255, 255)


def disc(number: int, classes: int = 1) -> np.ndarray:
    """Return a mask of a disc for each class, ``(40, 48)``."""
    mask = np.zeros((40, 48), np.uint8)
    rows, columns = np.mgrid[:40, :48]
    for value in range(1, classes + 1):
        far = (rows - 12 - number % 9) ** 2 + (columns - 13 * value - number % 3) ** 2
        mask[far < 36 + number % 7] = value
    return mask


def source(
    root: Path, saved: Saved, classes: int = 1, count: int = 20, suffix: str = ".png"
) -> str:
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for number in range(count):
        mask = disc(number, classes)
        pixels = (mask * 60 + RNG.integers(0, 60, mask.shape)).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"images/{number}.png")
        saved(mask, number).save(root / f"masks/{number}{suffix}")
    return str(root)


def indexed(mask: np.ndarray, *colours: tuple[int, int, int]) -> Image.Image:
    made = Image.new("P", mask.shape[::-1])
    made.putdata(mask.ravel().tolist())
    made.putpalette([part for colour in colours for part in colour])
    return made


def smoothed(mask: np.ndarray) -> np.ndarray:
    small = Image.fromarray(mask).resize((31, 29), Image.Resampling.BILINEAR)
    return np.asarray(small.resize(mask.shape[::-1], Image.Resampling.BILINEAR))


def through_jpeg(mask: np.ndarray) -> np.ndarray:
    stream = BytesIO()
    Image.fromarray(mask).save(stream, "JPEG", quality=75)
    return np.asarray(Image.open(stream))


PALETTES: dict[str, Saved] = {
    "other colours": lambda m, i: indexed(m, BLACK, GREEN if i == 7 else RED),
    "inverted": lambda m, i: indexed(m if i % 2 else 1 - m, *(BLACK, RED)[:: 1 if i % 2 else -1]),
    "white first": lambda m, i: indexed(m, *((WHITE, BLACK) if i == 3 else (BLACK, WHITE))),
}


@pytest.mark.parametrize("kind", PALETTES)
def test_palettes_that_differ_are_refused_and_both_named(tmp_path: Path, kind: str) -> None:
    said = files.message(lambda: open_source(source(tmp_path, PALETTES[kind])))
    assert "its palette shows the value" in said and said.count(".png") == 2 and "#" in said


ALIKE: dict[str, Saved] = {
    "one palette": lambda m, i: indexed(m, BLACK, RED, GREEN),
    "other colours where nothing is": lambda m, i: indexed(m, BLACK, RED, GREEN, (i, i, i)),
    "beside grey": lambda m, i: indexed(m, BLACK, RED, GREEN) if i % 2 else Image.fromarray(m),
}


@pytest.mark.parametrize("kind", ALIKE)
def test_palettes_that_agree_are_taken(tmp_path: Path, kind: str) -> None:
    opened = open_source(source(tmp_path, ALIKE[kind], classes=2))
    assert opened.values == (0, 1, 2)


CODINGS: dict[str, Saved] = {
    "1 and 255": lambda m, i: Image.fromarray(m * (255 if i % 3 else 1)),
    "1 bit and 255": lambda m, i: (
        Image.fromarray(m * 255).convert("1") if i % 3 else Image.fromarray(m * 255)
    ),
    "8 bits and 16": lambda m, i: Image.fromarray(
        m * np.uint16(65_535) if i % 3 else m * np.uint8(255)
    ),
}


@pytest.mark.parametrize("kind", CODINGS)
def test_one_class_by_two_numbers_is_refused(tmp_path: Path, kind: str) -> None:
    said = files.message(lambda: open_source(source(tmp_path, CODINGS[kind])))
    assert "save all masks with the same values" in said and "but 0 and" in said


def test_two_numbers_in_one_mask_are_two_classes(tmp_path: Path) -> None:
    def void(mask: np.ndarray, number: int) -> Image.Image:
        return Image.fromarray(np.where(mask == 2, 255, mask).astype(np.uint8))

    assert open_source(source(tmp_path, void, classes=2)).values == (0, 1, 255)


SMOOTHED: dict[str, Saved] = {
    "scaled": lambda m, i: Image.fromarray(smoothed(m * 255)),
    "once a JPEG": lambda m, i: Image.fromarray(through_jpeg(m * 255)),
    "scaled, of two classes": lambda m, i: Image.fromarray(smoothed(m * 100)),
}


@pytest.mark.parametrize("kind", SMOOTHED)
def test_smoothed_edges_are_refused(tmp_path: Path, kind: str) -> None:
    data = source(tmp_path, SMOOTHED[kind], classes=2 if "two" in kind else 1)
    said = files.message(lambda: open_source(data))
    assert "fill no square of 3 x 3 pixels" in said and "JPEG" in said


def test_many_classes_with_areas_are_taken(tmp_path: Path) -> None:
    def parcels(mask: np.ndarray, number: int) -> Image.Image:
        return Image.fromarray(
            np.kron(np.arange(120).reshape(10, 12), np.ones((4, 4))).astype("u1")
        )

    assert len(open_source(source(tmp_path, parcels)).classes) == 120


def test_colours_are_refused(tmp_path: Path) -> None:
    def coloured(mask: np.ndarray, number: int) -> Image.Image:
        return Image.fromarray(np.stack([mask * 255, mask * 0, mask * 9], -1))

    said = files.message(lambda: open_source(source(tmp_path, coloured)))
    assert "holds colours" in said and "grey PNG" in said


def test_squares_are_looked_for_in_slices() -> None:
    mask = np.zeros((2, 5, 5), np.uint16)
    mask[0, 1:4, 1:4] = 7
    mask[1, 2] = 9
    assert filled_by(mask) == {7} and filled_by(mask[0]) == {7} and filled_by(None) == set()
    assert filled_by(np.zeros((2, 2), np.uint16)) == set()


@pytest.mark.parametrize(("image", "mask"), [("a.png", "a.nii.gz"), ("a.nii.gz", "a.png")])
def test_masks_of_another_kind_than_their_images(tmp_path: Path, image: str, mask: str) -> None:
    for number in range(10):
        for folder, name in (("images", image), ("masks", mask)):
            path = tmp_path / folder / name.replace("a", str(number), 1)
            path.parent.mkdir(exist_ok=True)
            if name.endswith(".png"):
                Image.fromarray(disc(number)).save(path)
            else:
                files.nifti(path, np.dstack([disc(number).T] * 3).astype(np.uint8))
    said = files.message(lambda: open_source(str(tmp_path)))
    assert f"masks/0{mask[1:]}" in said and "volume" in said and "save" in said
