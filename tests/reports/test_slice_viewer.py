"""Volumes as sheets of slices: what is seen is what was given, and it stays small."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crossd.data.io.agreement import IGNORED
from crossd.reports import slice_viewer
from crossd.reports.slice_viewer import Case, cases_html, sheets


def opened(picture: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(picture)).convert("RGBA")).astype(int)


def tile(sheet: np.ndarray, made: slice_viewer.Sheets, place: int) -> np.ndarray:
    """Return a slice of a sheet."""
    rows = -(-len(made.numbers) // made.columns)
    height, width = sheet.shape[0] // rows, sheet.shape[1] // made.columns
    row, column = divmod(place, made.columns)
    return sheet[row * height : (row + 1) * height, column * width : (column + 1) * width]


def test_every_slice_is_at_its_place_and_upright() -> None:
    image = np.zeros((5, 8, 8))
    for z in range(5):
        image[z, :4] = z  # the lower half, as y grows upwards
    made = sheets(image)
    sheet = opened(made.image)
    for z in range(5):
        one = tile(sheet, made, z)[..., 0]
        half = len(one) // 2
        assert one[: half - 20].max() < 20
        assert abs(one[half + 20 :].mean() - 255 * z / 4) < 12
    assert made.truth is None and not made.answers and made.start == 2


def test_images_are_not_turned() -> None:
    image = np.zeros((8, 8))
    image[:4] = 1
    made = sheets(image)
    grey = opened(made.image)[..., 0]
    assert made.numbers == (0,) and grey[:90].mean() > 240 and grey[-90:].mean() < 15


def test_masks_are_filled_or_outlined_in_their_colours() -> None:
    truth = np.zeros((3, 16, 16), np.uint8)
    truth[1, 4:12, 4:12] = 2
    guess = np.zeros_like(truth)
    guess[1, 6:14, 4:12] = 9  # colours repeat: that of 2
    made = sheets(np.random.default_rng(0).random(truth.shape), truth, {"a": guess})
    assert made.start == 1 and made.seen == (2, 9) and made.truth is not None
    line = tile(opened(made.truth), made, 1)
    side = len(line)
    assert (line[side // 2, side // 2] == [0, 0, 0, 0]).all()
    inside = line[line[..., 3] > 0]
    assert (inside == 255).all() and len(inside) == 4 * (side // 2 - 1)  # one pixel wide
    shown = tile(opened(made.answers["a"]), made, 1)
    blue = [0x56, 0xB4, 0xE9]
    assert set(map(tuple, shown[shown[..., 3] > 0].tolist())) == {
        (*blue, slice_viewer.FILL),
        (*blue, slice_viewer.EDGE),
    }
    high = np.flatnonzero((shown[..., 3] > 0).any(1))  # rows 6 to 14 of 16 from below
    assert high[0] == pytest.approx(side * 2 / 16, abs=1)
    assert not opened(made.answers["a"])[:side, :side, 3].any()  # the first slice has none


def test_voxels_that_are_no_cubes_keep_their_shape() -> None:
    made = sheets(np.zeros((3, 10, 20)), spacing=(5.0, 2.0, 0.5))
    assert made.ratio == pytest.approx(0.5)
    one = tile(opened(made.image), made, 0)
    assert one.shape[1] / one.shape[0] == pytest.approx(0.5, abs=0.01)


@pytest.mark.slow
def test_many_and_large_slices_stay_small() -> None:
    noise = np.random.default_rng(0).random((300, 130, 120))
    mask = (noise > 0.5).astype(np.uint8)  # the worst there is
    made = sheets(noise, mask, {"a": 1 - mask})
    assert (
        len(made.numbers) == slice_viewer.SLICES and made.numbers[-1] == 299 and made.depth == 300
    )
    assert made.truth is not None
    assert len(made.image) + len(made.truth) + len(made.answers["a"]) < slice_viewer.BYTES


def test_values_that_are_no_numbers_do_not_matter() -> None:
    image = np.linspace(0, 1, 512).reshape(2, 16, 16)
    odd = image.copy()
    odd[0, 0, 0], odd[1, 0, 0] = np.nan, np.inf
    assert np.abs(opened(sheets(odd).image) - opened(sheets(image).image)).mean() < 3
    assert opened(sheets(np.full((2, 4, 4), 7.0)).image).shape[2] == 4


def test_masks_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"the mask a must be \(2, 4, 4\), not \(2, 4, 5\)"):
        sheets(np.zeros((2, 4, 4)), None, {"a": np.zeros((2, 4, 5), int)})


def test_switches_are_there_for_what_can_be_switched() -> None:
    image: Any = np.zeros((3, 8, 8))
    mask = np.ones((3, 8, 8), np.uint8)

    def html(**given: Any) -> str:
        return cases_html([Case("x", "y", "The worst", sheets(image, **given), ("none", "bone"))])

    assert "checkbox" not in html()
    assert html(truth=mask).count('type="checkbox"') == 1
    one = html(truth=mask, answers={"a": mask})
    assert one.count('type="checkbox"') == 2 and "<select" not in one and ">bone<" in one
    two = html(answers={"a": mask, "<b>": mask})
    assert two.count("<option") == 2 and "&lt;b&gt;" in two and "<b>" not in two
    flat = cases_html([Case("x", "y", "g", sheets(image[0]))])
    assert "range" not in flat and "<h3>g</h3>" in flat


def test_what_is_not_known_is_grey_and_no_class() -> None:
    truth = np.full((100, 16, 16), IGNORED, np.uint8)
    truth[37, 4:12, 4:12], truth[37, 5:9, 5:9] = 0, 2
    guess = np.where(truth == IGNORED, 1, truth)
    made = sheets(np.random.default_rng(0).random(truth.shape), truth, {"a": guess})
    assert made.numbers[made.start] == 37 and made.seen == (1, 2) and made.unknown
    assert made.truth is not None
    shown = tile(opened(made.truth), made, made.start)
    grey = tuple(bytes.fromhex(slice_viewer.UNKNOWN[1:]))
    found = set(map(tuple, shown.reshape(-1, 4).tolist()))
    assert found == {(0, 0, 0, 0), (255, 255, 255, 255), (*grey, slice_viewer.FILL)}
    page = cases_html([Case("x", "y", "g", made, ("none", "a", "b"))])
    assert page.count(">not known<") == 1
    whole = sheets(np.zeros((3, 8, 8)), np.ones((3, 8, 8), np.uint8))
    assert "not known" not in cases_html([Case("x", "y", "g", whole, ("none", "a"))])
