import gzip
from pathlib import Path
from typing import Any

import files
import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossd.data.io import read
from crossd.data.io.header import with_spacing
from crossd.data.io.itk import affine_of
from crossd.errors import InputError
from crossd.inference import write_masks

SHAPE = (4, 5, 6)
ARRAY = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha", "a.mhd", "a.nhdr"])
def test_every_format_gives_the_same_volume(tmp_path: Path, name: str) -> None:
    if name.startswith("a.nii"):
        # RAS in the file; ITK's own axes run to left and posterior.
        path = files.nifti(tmp_path / name, ARRAY, np.diag([2.0, 3.0, 4.0, 1.0]))
        expected = ARRAY.T
    else:
        path = files.itk(tmp_path / name, ARRAY, (2, 3, 4))
        expected = ARRAY[::-1, ::-1].T
    header = read.read_header(path)
    assert header.size == (6, 5, 4)
    assert header.spacing == pytest.approx((4, 3, 2))
    array = read.read(header)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array[0], expected)


@given(
    order=st.permutations([0, 1, 2]),
    signs=st.tuples(*[st.sampled_from([-1, 1])] * 3),
)
@settings(max_examples=20, deadline=None)
def test_orientation_and_planes(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], signs: tuple[int, ...]
) -> None:
    affine = np.zeros((4, 4))
    for stored, (axis, sign) in enumerate(zip(order, signs, strict=True)):
        affine[axis, stored] = sign * (1 + stored)
    affine[3, 3] = 1
    path = files.nifti(tmp_path_factory.mktemp("n") / "a.nii", ARRAY, affine)
    header = read.read_header(path)
    whole = read.read(header)
    canonical = nib.as_closest_canonical(nib.load(path))
    np.testing.assert_array_equal(whole[0], np.asarray(canonical.dataobj).T)
    assert header.size == whole.shape[1:]
    for axis in range(3):
        part = slice(1, 3)
        planes = read.read(header, (axis, part))
        np.testing.assert_array_equal(planes[0], np.take(whole[0], [1, 2], axis))


def test_planes_of_metaimage_and_dicom(tmp_path: Path) -> None:
    paths = (
        files.itk(tmp_path / "a.mha", ARRAY),
        files.dicom(tmp_path / "series", ARRAY),
    )
    for path in paths:
        header = read.read_header(path)
        whole = read.read(header)
        for axis in range(3):
            planes = read.read(header, (axis, slice(2, 4)))
            np.testing.assert_array_equal(planes[0], np.take(whole[0], [2, 3], axis))


def message(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read.read(read.read_header(path))
    text = str(caught.value)
    assert "\n" not in text and path.name in text
    return text


def test_damaged_files(tmp_path: Path) -> None:
    good = files.nifti(tmp_path / "a.nii.gz", np.random.default_rng(0).normal(size=(20, 20, 20)))
    for keep in (0, 100, 400, 3000):
        bad = tmp_path / f"cut_{keep}.nii.gz"
        bad.write_bytes(good.read_bytes()[:keep])
        assert "damaged" in message(bad)
    noise = tmp_path / "noise.nrrd"
    noise.write_bytes(b"nothing of the kind")
    assert "damaged" in message(noise)


def test_bad_values(tmp_path: Path) -> None:
    array = ARRAY.astype(np.float32)
    array[1, 2, 3] = np.nan
    assert "NaN or infinity in 1 voxels" in message(files.nifti(tmp_path / "nan.nii", array))
    array[1, 2, 3] = np.inf
    assert "NaN or infinity" in message(files.nifti(tmp_path / "inf.nii", array))


def test_bad_shapes(tmp_path: Path) -> None:
    text = message(files.nifti(tmp_path / "time.nii", np.zeros((4, 4, 4, 9), np.int16)))
    assert "(4, 4, 4, 9)" in text and "3 axes" in text
    modalities = files.nifti(tmp_path / "m.nii", np.ones((3, 4, 5, 2), np.int16))
    assert read.read(read.read_header(modalities)).shape == (2, 5, 4, 3)
    complex_ = files.nifti(tmp_path / "c.nii", np.zeros((4, 4, 4), np.complex64))
    assert "complex64" in message(complex_)
    with pytest.raises(InputError, match="no such file"):
        read.read_header(tmp_path / "missing.nii")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match=r"is no volume; expected \.nii"):
        read.read_header(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("affine", "words"),
    [
        (np.diag([1.0, 0.0, 1.0, 1.0]), "spacing is 1 x 0 x 1 mm"),
        (np.array([[1.0, 1, 0, 0], [0, 1e-9, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "singular"),
        (np.array([[1.0, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "sheared"),
        (np.diag([1.0, np.nan, 1.0, 1.0]), "NaN or infinity"),
    ],
)
def test_bad_affines(tmp_path: Path, affine: np.ndarray, words: str) -> None:
    image = nib.Nifti1Image(ARRAY, None)
    image.header["sform_code"] = 1
    for row, name in enumerate(("srow_x", "srow_y", "srow_z")):
        image.header[name] = affine[row]
    path = tmp_path / "a.nii"
    image.to_filename(path)
    raw = bytearray(path.read_bytes())  # nibabel would mend the affine when it writes
    for row, at in enumerate((280, 296, 312)):
        raw[at : at + 16] = affine[row].astype("<f4").tobytes()
    raw[252:256] = np.array([0, 1], "<i2").tobytes()
    path.write_bytes(raw)
    assert words in message(path)


def test_oblique_volumes_are_taken(tmp_path: Path) -> None:
    c, s = np.cos(0.3), np.sin(0.3)
    affine = np.array([[c, -s, 0, 5], [s, c, 0, 6], [0, 0, 2, 7], [0, 0, 0, 1.0]])
    header = read.read_header(files.nifti(tmp_path / "a.nii", ARRAY, affine))
    assert header.spacing == pytest.approx((2, 1, 1))


def test_a_volume_larger_than_memory_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = files.nifti(tmp_path / "a.nii", np.zeros((4, 4, 4), np.uint8))
    raw = bytearray(path.read_bytes())
    raw[40:56] = np.array([3, 30000, 30000, 30000, 1, 1, 1, 1], "<i2").tobytes()
    path.write_bytes(raw)
    assert "is shorter than its header says" in message(path)
    packed = tmp_path / "a.nii.gz"
    packed.write_bytes(gzip.compress(raw))
    assert "GiB of memory" in message(packed)


def test_spacing_can_be_given(tmp_path: Path) -> None:
    header = read.read_header(files.itk(tmp_path / "a.nrrd", ARRAY))
    assert with_spacing(header, (5, 0.5, 0.7)).spacing == pytest.approx((5, 0.5, 0.7))


def test_a_flipped_bit_of_a_compressed_file_is_found(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 1000, (12, 12, 12)).astype(np.int16)
    path = files.nifti(tmp_path / "a.nii.gz", noise)
    whole = bytearray(path.read_bytes())
    for place in (len(whole) // 2, len(whole) - 6):  # among the voxels, and in the checksum
        broken = whole.copy()
        broken[place] ^= 4
        path.write_bytes(broken)
        with pytest.raises(InputError, match=r"a\.nii\.gz: cannot be read, it is damaged"):
            read.read(read.read_header(path))
    path.write_bytes(whole[:-6])
    with pytest.raises(InputError, match="damaged or incomplete"):
        read.read(read.read_header(path))


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_spacing_of_zero_is_found_where_nibabel_mends_it(tmp_path: Path, name: str) -> None:
    image = nib.Nifti1Image(ARRAY, None)
    image.header["pixdim"][1:4] = (1, 0, 1)
    image.header["sform_code"] = image.header["qform_code"] = 0
    data = bytes(image.header.binaryblock) + b"\0" * 4 + ARRAY.tobytes(order="F")
    raw = bytearray(data)
    path = tmp_path / name
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else bytes(raw))
    with pytest.raises(InputError, match="spacing is 0 mm"):
        read.read_header(path)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_what_nibabel_mends_is_not_logged(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    raw = bytearray(nib.Nifti1Image(ARRAY, np.eye(4)).to_bytes())
    raw[80:84] = np.float32(-1).tobytes()  # a side of a voxel
    path = tmp_path / name
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else bytes(raw))
    header = read.read_header(path)
    np.testing.assert_array_equal(read.read(header)[0], ARRAY.T)
    write_masks.write(np.zeros(header.size, np.uint8), header, (0, 1), tmp_path / "mask.nii")
    assert not caplog.records


@pytest.mark.parametrize(("unit", "mm"), [("micron", 0.001), ("meter", 1000), ("mm", 1), (0, 1)])
def test_units_of_length_become_millimetres(tmp_path: Path, unit: str, mm: float) -> None:
    import SimpleITK as sitk

    image: Any = nib.Nifti1Image(np.ones((4, 5, 6), np.int16), np.diag([2.0, 3, 4, 1]))
    image.header.set_xyzt_units(unit)
    image.to_filename(tmp_path / "a.nii")
    header = read.read_header(tmp_path / "a.nii")
    assert header.spacing == pytest.approx((4 * mm, 3 * mm, 2 * mm))
    itk = sitk.ReadImage(str(tmp_path / "a.nii"))
    assert itk.GetSpacing()[::-1] == pytest.approx(header.spacing)


def test_a_quaternion_that_was_rounded_is_taken(tmp_path: Path) -> None:
    image: Any = nib.Nifti1Image(np.ones((4, 5, 6), np.int16), None)
    image.header["qform_code"] = 1
    image.header["quatern_b"], image.header["quatern_c"] = 0.6, np.sqrt(0.64 + 4e-7)
    image.to_filename(tmp_path / "a.nii")
    header = read.read_header(tmp_path / "a.nii")
    assert header.spacing == pytest.approx((1, 1, 1), abs=1e-5)
    assert read.read(header).shape == (1, *header.size)
    image.header["quatern_b"] = 0.9
    image.to_filename(tmp_path / "a.nii")
    assert "a.nii: cannot be read" in files.message(lambda: read.read_header(tmp_path / "a.nii"))


def test_channels_and_times_at_once_are_refused(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).normal(size=(4, 5, 6, 2, 2)).astype(np.float32)
    nib.Nifti1Image(voxels, np.eye(4)).to_filename(tmp_path / "a.nii")
    said = files.message(lambda: read.read_header(tmp_path / "a.nii"))
    assert "(4, 5, 6, 2, 2)" in said and "split time series into files" in said


TURNED = np.array([[0, -2.0, 0, 10], [3, 0, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1]])


def with_forms(path: Path, sform: int, qform: int, empty: bool = False) -> Path:
    """Write a file whose header has these codes, and an sform of zeros if it is to be empty."""
    image: Any = nib.Nifti1Image(ARRAY, None)
    image.set_qform(TURNED, 1)
    image.set_sform(None if empty else TURNED, 1)
    image.to_filename(path)
    raw = bytearray(path.read_bytes())
    raw[252:256] = np.array([qform, sform], "<i2").tobytes()
    if empty:
        raw[280:328] = bytes(48)
    path.write_bytes(raw)
    return path


def by_itk(path: Path) -> np.ndarray:
    """Return the affine to RAS by which SimpleITK reads a file."""
    import SimpleITK as sitk

    image = sitk.ReadImage(str(path))
    directions = np.reshape(image.GetDirection(), (3, 3))
    return affine_of(directions, image.GetSpacing(), image.GetOrigin())


@pytest.mark.parametrize(
    ("sform", "qform", "empty"),
    [(1, 1, False), (1, 0, False), (0, 1, False), (2, 1, False), (0, 4, True), (1, 1, True)],
)
def test_forms_of_nifti_are_taken_as_by_itk(
    tmp_path: Path, sform: int, qform: int, empty: bool
) -> None:
    path = with_forms(tmp_path / "a.nii", sform, qform, empty)
    header = read.read_header(path)
    np.testing.assert_allclose(header.affine, TURNED, atol=1e-5)
    np.testing.assert_allclose(by_itk(path), TURNED, atol=1e-5)
    write_masks.write(np.ones(header.size, np.uint8), header, (0, 1), tmp_path / "mask.nii")
    np.testing.assert_allclose(by_itk(tmp_path / "mask.nii"), TURNED, atol=1e-5)
    np.testing.assert_allclose(read.read_header(tmp_path / "mask.nii").affine, header.affine)


def test_neither_form_is_taken_as_by_nibabel(tmp_path: Path) -> None:
    path = with_forms(tmp_path / "a.nii", 0, 0)
    header = read.read_header(path)
    np.testing.assert_allclose(header.affine, nib.Nifti1Image.from_filename(path).affine)
    assert header.spacing == pytest.approx((4, 2, 3))
    # ITK's axes run to the left, too, but to the back; the sizes are the same.
    np.testing.assert_allclose(np.abs(by_itk(path))[:3, :3], np.abs(header.affine)[:3, :3])


def test_an_empty_sform_alone_is_refused(tmp_path: Path) -> None:
    path = with_forms(tmp_path / "a.nii", 1, 0, empty=True)
    assert "spacing is 0 x 0 x 0 mm" in files.message(lambda: read.read_header(path))
