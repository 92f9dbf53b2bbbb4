"""What files of a case must agree in."""

from pathlib import Path
from typing import Any

import files
import nibabel as nib
import numpy as np
import pytest

from crossd.data.io.agreement import in_same_place, whole_numbers
from crossd.data.io.read import read, read_header

LPS = np.diag([-1.0, -2.0, 3.0, 1.0])
LPS[:3, 3] = (15, 30, -40)
MASK = np.random.default_rng(0).integers(0, 3, (8, 9, 10)).astype(np.uint8)


def check(tmp_path: Path, other: Any) -> None:
    nib.Nifti1Image(MASK, LPS).to_filename(tmp_path / "image.nii")
    other.to_filename(tmp_path / "mask.nii")
    first, second = (read_header(tmp_path / name) for name in ("image.nii", "mask.nii"))
    second = in_same_place(first, second, "image and mask")
    np.testing.assert_array_equal(read(first), read(second))


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "SAL", "AIL"])
def test_another_order_of_storage_is_the_same_place(tmp_path: Path, axes: str) -> None:
    image = nib.Nifti1Image(MASK, LPS)
    way = nib.orientations.ornt_transform(
        nib.io_orientation(LPS), nib.orientations.axcodes2ornt(axes)
    )
    check(tmp_path, image.as_reoriented(way))


@pytest.mark.parametrize("by", [0.002, 0.05, -0.09])
def test_rounding_is_the_same_place(tmp_path: Path, by: float) -> None:
    affine = LPS.copy()
    affine[0, 3] += by
    check(tmp_path, nib.Nifti1Image(MASK, affine))


def turned(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.eye(4)
    turn[:2, :2] = [[c, -s], [s, c]]
    return turn @ LPS


MOVED = LPS.copy()
MOVED[0, 3] += 0.5


@pytest.mark.parametrize(
    ("affine", "words"),
    [
        (np.eye(4), "their axes are stored in other directions"),
        (MOVED, "lies up to 0.5 mm from"),
        (MOVED, "their origin differs"),
        (LPS @ np.diag([1, 1, 1.1, 1]), "their spacing (z, y, x) differs: 3.3 x 2 x 1, not 3 x 2"),
        (turned(5), "they are turned by 5 degrees"),
    ],
)
def test_other_places_are_refused_with_the_cause(
    tmp_path: Path, affine: np.ndarray, words: str
) -> None:
    said = files.message(lambda: check(tmp_path, nib.Nifti1Image(MASK, affine)))
    assert words in said and str(tmp_path / "mask.nii") in said


def test_another_shape_is_refused(tmp_path: Path) -> None:
    said = files.message(lambda: check(tmp_path, nib.Nifti1Image(MASK[:7], LPS)))
    assert "has the shape (7, 9, 10)" in said


@pytest.mark.parametrize("value", [1.0000153, 1.9999999995, 0.9991, 1e-4])
def test_numbers_that_a_slope_rounded_are_whole(value: float) -> None:
    values = whole_numbers(np.array([value, 3.0], np.float32), Path("mask.nii"))
    assert values.tolist() == [round(value), 3] and values.dtype == np.uint16


@pytest.mark.parametrize("value", [0.6, 1.002, -1, 65_536, np.nan])
def test_other_numbers_are_refused(value: float) -> None:
    said = files.message(lambda: whole_numbers(np.array([value]), Path("mask.nii")))
    assert said.startswith("mask.nii: holds ") and "whole numbers from 0 to 65,535" in said


@pytest.mark.parametrize("seed", range(20))
def test_axes_between_two_directions_are_not_told_apart_by_rounding(
    tmp_path: Path, seed: int
) -> None:
    import SimpleITK as sitk

    angle = np.radians(45) + np.random.default_rng(seed).normal(0, 1e-8)
    c, s = np.cos(angle), np.sin(angle)
    image = sitk.GetImageFromArray(MASK)
    image.SetDirection((c, -s, 0, s, c, 0, 0, 0, 1))
    image.SetSpacing((1.1, 1.1, 2))
    sitk.WriteImage(image, str(tmp_path / "image.mha"))
    mask = sitk.GetImageFromArray(MASK)
    mask.CopyInformation(sitk.ReadImage(str(tmp_path / "image.mha")))
    sitk.WriteImage(mask, str(tmp_path / "mask.nii.gz"))
    first, second = (read_header(tmp_path / name) for name in ("image.mha", "mask.nii.gz"))
    second = in_same_place(first, second, "image and mask")
    np.testing.assert_array_equal(read(first), read(second))
