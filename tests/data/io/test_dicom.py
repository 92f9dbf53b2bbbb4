from pathlib import Path
from typing import Any

import files
import numpy as np
import pytest

from crossd.data.io import read
from crossd.data.io.itk import affine_of
from crossd.data.opening import open_source
from crossd.data.sources.belonging import patient_of
from crossd.data.sources.folder_walk import below
from crossd.errors import InputError
from crossd.training.signals import Stopped

SHAPE = (6, 5, 7)
ARRAY = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)


def message(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read.read(read.read_header(path))
    text = str(caught.value)
    assert "\n" not in text and str(path.parent) in text
    return text


def test_a_series_is_sorted_by_position(tmp_path: Path) -> None:
    header = read.read_header(files.dicom(tmp_path / "s", ARRAY, (0.5, 0.75, 3)))
    assert header.shape == SHAPE and header.modality == "CT"
    assert header.spacing == pytest.approx((3, 0.75, 0.5))
    # to left and posterior in the file, to right and anterior here
    np.testing.assert_array_equal(read.read(header)[0], ARRAY[::-1, ::-1].T)
    np.testing.assert_allclose(header.affine[:3, 3], (10, 20, 5))


def test_rescale_slope_and_intercept(tmp_path: Path) -> None:
    path = files.dicom(tmp_path / "s", ARRAY, RescaleSlope=2, RescaleIntercept=-100)
    values = read.read(read.read_header(path))[0]
    np.testing.assert_allclose(values, 2.0 * ARRAY[::-1, ::-1].T - 100)


def test_low_values_that_are_bright_are_turned(tmp_path: Path) -> None:
    path = files.dicom(tmp_path / "s", ARRAY, PhotometricInterpretation="MONOCHROME1")
    values = read.read(read.read_header(path))[0]
    plain = ARRAY[::-1, ::-1].T
    assert len(np.unique(values + plain)) == 1  # the same but for sign and a constant


@pytest.mark.parametrize("syntax", ["RLELossless", "JPEGLSLossless"])
def test_compressed_files(tmp_path: Path, syntax: str) -> None:
    import pydicom

    array = np.random.default_rng(0).integers(-1000, 1000, (16, 12, 4)).astype(np.int16)
    folder = files.dicom(tmp_path / "s", array)
    for file in folder.iterdir():
        one = pydicom.dcmread(file)
        one.compress(getattr(pydicom.uid, syntax))
        one.save_as(file)
    values = read.read(read.read_header(folder))[0]
    np.testing.assert_array_equal(values, array[::-1, ::-1].T)


def test_a_missing_slice(tmp_path: Path) -> None:
    folder = files.dicom(tmp_path / "s", ARRAY)
    headers = read.read_header(folder)
    headers.files[3].unlink()
    text = message(folder)
    assert f"a slice is missing after {headers.files[2].name}" in text and "2 mm" in text


def test_a_slice_that_is_there_twice(tmp_path: Path) -> None:
    folder = files.dicom(tmp_path / "s", ARRAY)
    files.write_slice(folder / "again.dcm", ARRAY[:, :, 2], 2.0)
    assert "duplicate" in message(folder)


def test_two_series(tmp_path: Path) -> None:
    folder = files.dicom(tmp_path / "s", ARRAY)
    files.write_slice(folder / "x.dcm", ARRAY[:, :, 2], 50.0, SeriesInstanceUID="9.9")
    assert "holds 2 DICOM series" in message(folder)


def test_a_scout_among_slices(tmp_path: Path) -> None:
    folder = files.dicom(tmp_path / "s", ARRAY)
    files.write_slice(folder / "x.dcm", ARRAY[:4, :, 2], 50.0)
    assert "has the shape (4, 5, 1)" in message(folder)


def test_without_pixels(tmp_path: Path) -> None:
    folder = files.dicom(tmp_path / "s", ARRAY)
    files.write_slice(folder / "x.dcm", ARRAY[:, :, 2], 50.0, PixelData=None)
    assert "x.dcm" in message(folder)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no DICOM files" in message(empty)


def test_a_damaged_slice(tmp_path: Path) -> None:
    folder = files.dicom(tmp_path / "s", ARRAY)
    file = read.read_header(folder).files[2]
    file.write_bytes(file.read_bytes()[:-40])
    assert "damaged" in message(folder) or "holds" in message(folder)
    file.write_bytes(file.read_bytes()[:200])
    assert file.name in message(folder)


def test_names_without_suffix(tmp_path: Path) -> None:
    folder = files.dicom(tmp_path / "s", ARRAY)
    for number, file in enumerate(sorted(folder.iterdir())):
        file.rename(folder / f"1.2.840.{number}")
    (folder / "DICOMDIR").write_bytes(b"x")
    (folder / "notes.txt").write_text("x")
    assert read.read_header(folder).shape == SHAPE
    assert below(tmp_path)[1] == [folder]


def test_files_that_say_no_position_are_images_of_their_own(tmp_path: Path) -> None:
    for label, bright in (("calm", 0), ("loud", 900)):
        for number in range(10):
            path = tmp_path / label / f"study{number % 3}" / f"{number}.dcm"
            path.parent.mkdir(parents=True, exist_ok=True)
            plane = ARRAY[:, :, number % 7] % 100 + bright
            files.write_slice(path, plane, 0.0, SeriesInstanceUID=f"1.{number}", **files.NOWHERE)
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    source = open_source(str(tmp_path), seed=1)
    assert source.rank == 2 and source.classes == ("calm", "loud") and source.channels == 1
    assert sum(map(len, (source.train, source.val, source.test))) == 20
    assert source.train[0]["image"].shape == (1, 64, 64)
    assert len(below(tmp_path / "calm")[1]) == 10


def test_a_series_whose_first_file_says_no_position_is_one(tmp_path: Path) -> None:
    folder = files.dicom(tmp_path / "s", ARRAY)
    files.write_slice(folder / "0.dcm", ARRAY[:, :, 0], 0.0, **files.NOWHERE)
    assert below(tmp_path)[1] == [folder]
    assert "0.dcm: lacks its position" in message(folder)


def test_a_damaged_radiograph_does_not_make_a_series_of_the_others(tmp_path: Path) -> None:
    for number in range(3):
        files.write_slice(tmp_path / f"{number}.dcm", ARRAY[:, :, number], 0.0, **files.NOWHERE)
    (tmp_path / "0.dcm").write_bytes(b"damaged")
    assert [path.name for path in below(tmp_path)[1]] == ["0.dcm", "1.dcm", "2.dcm"]
    for number in range(3):
        (tmp_path / f"{number}.dcm").write_bytes(b"damaged")
    assert below(tmp_path)[1] == [tmp_path]


def test_a_lone_file_of_several_frames_is_its_folder(tmp_path: Path) -> None:
    def write(name: str) -> None:
        frames = np.stack([ARRAY[:, :, 0]] * 4).transpose(1, 0, 2).reshape(6, -1)
        files.write_slice(tmp_path / name, frames, 0.0, NumberOfFrames=4, Rows=5, **files.NOWHERE)

    write("1.dcm")
    assert below(tmp_path)[1] == [tmp_path]
    write("2.dcm")
    assert below(tmp_path)[1] == [tmp_path / "1.dcm", tmp_path / "2.dcm"]


def test_one_file_is_an_image(tmp_path: Path) -> None:
    files.write_slice(tmp_path / "x.dcm", ARRAY[:, :, 0], 0.0)
    plane = read.flat(tmp_path / "x.dcm")
    assert plane.shape == (5, 6) and plane.min() == 0 and plane.max() == 1
    assert np.corrcoef(plane.ravel(), ARRAY[:, :, 0].T.ravel())[0, 1] > 0.99


def test_an_image_of_values_that_are_no_numbers_is_refused(tmp_path: Path) -> None:
    files.write_slice(tmp_path / "x.dcm", ARRAY[:, :, 0], 0.0, RescaleSlope="1e300")
    with pytest.raises(InputError, match=r"x\.dcm: holds NaN or infinity in"):
        read.flat(tmp_path / "x.dcm")


@files.real_data
@pytest.mark.parametrize("name", ["head_t1", "hippocampus_crop"])
def test_real_series_lie_where_simpleitk_puts_them(name: str) -> None:
    import SimpleITK as sitk

    folder = below(files.SHARED / "dicom" / name)[1][0]
    header = read.read_header(folder)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    direction = np.reshape(image.GetDirection(), (3, 3))
    theirs = affine_of(direction, image.GetSpacing(), image.GetOrigin())
    np.testing.assert_allclose(header.affine, theirs, atol=1e-3)
    own = read._voxels(header, (slice(None),) * 3)[..., 0]
    np.testing.assert_array_equal(own, sitk.GetArrayFromImage(image).transpose(2, 1, 0))


def test_a_spacing_of_zero(tmp_path: Path) -> None:
    folder = files.dicom(tmp_path / "a", np.ones((4, 5, 3)), PixelSpacing=[0.0, 0.0])
    assert "its pixel spacing is" in message(folder)


def test_to_be_asked_to_stop_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*args: object, **options: object) -> None:
        raise Stopped(143)

    files.write_slice(tmp_path / "x.dcm", ARRAY[:, :, 0], 0.0)
    monkeypatch.setattr("pydicom.filereader.data_element_generator", stopped)
    with pytest.raises(Stopped):
        read.read_header(tmp_path / "x.dcm")


INTERLEAVED = [*range(0, 12, 3), *range(1, 12, 3), *range(2, 12, 3)]


@pytest.mark.parametrize("order", [INTERLEAVED, [*range(11, -1, -1)], [*range(12)]])
def test_frames_are_sorted_by_position(tmp_path: Path, order: list[int]) -> None:
    header = read.read_header(files.enhanced(tmp_path / "mr.dcm", order))
    assert header.size == (12, 20, 24) and header.spacing == pytest.approx((3, 2, 1))
    levels = 1000 + 100 * np.arange(12)
    np.testing.assert_array_equal(read.read(header)[0].mean((1, 2)), levels)
    some = read.read(header, (0, slice(4, 9)))
    np.testing.assert_array_equal(some[0].mean((1, 2)), levels[4:9])
    wide = read.read(header, (1, slice(0, 1)))
    assert wide.shape == (1, 12, 1, 24)


def test_an_enhanced_file_equals_the_series_that_it_was_made_of(tmp_path: Path) -> None:
    hd = pytest.importorskip("highdicom")
    import pydicom

    folder = files.dicom(tmp_path / "s", ARRAY, (0.5, 0.75, 3), RescaleSlope=2)
    slices = [pydicom.dcmread(file) for file in sorted(folder.iterdir())]
    for one in slices:
        one.PatientName, one.BodyPartExamined, one.PositionReferenceIndicator = "A^B", "HEAD", ""
        one.AcquisitionDateTime, one.ImageType = "20200101", ["ORIGINAL", "PRIMARY", "AXIAL"]
        one.AcquisitionNumber = 1
    made = hd.legacy.LegacyConvertedEnhancedCTImage(
        slices, hd.UID(), 2, hd.UID(), 1, transfer_syntax_uid="1.2.840.10008.1.2.1"
    )
    made.save_as(tmp_path / "enhanced.dcm")
    series, one_file = read.read_header(folder), read.read_header(tmp_path / "enhanced.dcm")
    assert one_file.shape == series.shape
    assert patient_of(folder) == patient_of(tmp_path / "enhanced.dcm") == "1"
    np.testing.assert_allclose(one_file.affine, series.affine, atol=1e-6)
    np.testing.assert_array_equal(read.read(one_file), read.read(series))


def test_frames_that_cannot_be_a_volume(tmp_path: Path) -> None:
    path = tmp_path / "mr.dcm"
    files.enhanced(path, [0, 1, 2, 4, 5])
    assert "missing after frame 3 of mr.dcm" in message(path)
    files.enhanced(path, [0, 0, 1, 1])
    assert "frame 2 of mr.dcm lies where frame 1 of mr.dcm does" in message(path)
    echoes = [{"MREchoSequence": {"EffectiveEchoTime": time}} for time in (2.5, 4.9) * 3]
    files.enhanced(path, [0, 0, 1, 1, 2, 2], each=echoes)
    assert "several echo times [ms] at each place (2.5, 4.9)" in message(path)
    scales = [
        {"PixelValueTransformationSequence": {"RescaleSlope": s, "RescaleIntercept": 0}}
        for s in (1, 2, 3)
    ]
    files.enhanced(path, [0, 1, 2], each=scales)
    assert "its frames have 3 different rescale slopes" in message(path)
    files.enhanced(path, [0, 1, 2], NumberOfFrames=2)
    assert "holds 2 frames, but says of 3" in message(path)


def test_frames_without_positions(tmp_path: Path) -> None:
    path = tmp_path / "us.dcm"
    bare: dict[str, Any] = {"PerFrameFunctionalGroupsSequence": None}
    files.enhanced(path, [0, 1, 2], **bare)
    assert "its 3 frames do not say where they lie" in message(path)
    files.enhanced(path, [0, 1, 2], FrameTime=33, SpacingBetweenSlices=2, **bare)
    assert "its 3 frames are a film" in message(path)
    files.enhanced(path, [0, 1, 2], SpacingBetweenSlices=2, **bare)
    assert read.read_header(path).spacing[0] == pytest.approx(2)


def test_echoes_and_time_points_are_no_duplicates(tmp_path: Path) -> None:
    for name, tag, words in (
        ("echoes", "EchoTime", "several echo times [ms] at each place (1.0, 2.0)"),
        ("times", "TemporalPositionIdentifier", "several time points at each place (1, 2)"),
    ):
        for number in (1, 2):
            for z in range(4):
                path = tmp_path / name / f"{number}_{z}.dcm"
                path.parent.mkdir(exist_ok=True)
                tags: dict[str, Any] = {tag: number}
                files.write_slice(path, ARRAY[:, :, z], z, modality="MR", **tags)
        assert words in message(tmp_path / name)


def test_a_slice_of_another_spacing_or_beside_the_others(tmp_path: Path) -> None:
    folder = files.dicom(tmp_path / "s", ARRAY)
    files.write_slice(folder / "x.dcm", ARRAY[:, :, 2], 7.0, spacing=(0.5, 0.5, 1))
    text = message(folder)
    assert "the pixel spacing of x.dcm is 0.5 x 0.5 mm" in text and "1 x 1 mm" in text
    place = [-9.0, -20.0, 12.0]
    files.write_slice(folder / "x.dcm", ARRAY[:, :, 2], 7.0, ImagePositionPatient=place)
    assert "beside the line of the others" in message(folder)


def test_slices_that_are_alone_in_their_series_are_images(tmp_path: Path) -> None:
    for number in range(7):
        path = tmp_path / f"{number}.dcm"
        files.write_slice(path, ARRAY[:, :, 0], number, SeriesInstanceUID=f"1.{number}")
    assert len(below(tmp_path)[1]) == 7
    files.write_slice(tmp_path / "7.dcm", ARRAY[:, :, 0], 7, SeriesInstanceUID="1.0")
    assert below(tmp_path)[1] == [tmp_path]
    assert "holds 7 DICOM series" in message(tmp_path)
