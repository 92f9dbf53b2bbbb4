from pathlib import Path
from typing import Any

import files
import nibabel as nib
import numpy as np
import pytest

from crossd.data.io import read
from crossd.data.io.header import Header
from crossd.errors import InputError
from crossd.inference import write_masks

SHAPE = (9, 7, 5)
MASK = np.random.default_rng(0).integers(0, 3, SHAPE).astype(np.uint8)


def canonical(header: Header) -> Any:
    """MASK as it lies in canonical order."""
    return nib.orientations.apply_orientation(MASK, header.orientation).T


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_nifti_keeps_grid_affine_and_what_it_leads_to(tmp_path: Path, name: str) -> None:
    c, s = np.cos(0.2), np.sin(0.2)
    affine = np.array([[-2 * c, -s, 0, 5], [-2 * s, c, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1.0]])
    image: Any = nib.Nifti1Image(np.ones(SHAPE, np.int16), affine)
    image.set_sform(affine, code=4)
    image.set_qform(affine, code=1)
    image.to_filename(tmp_path / name)
    header = read.read_header(tmp_path / name)
    out = tmp_path / "out" / f"x{write_masks.suffix_of(header.path)}"
    write_masks.write(canonical(header), header, (0, 7, 200), out)
    written: Any = nib.load(out)
    assert out.name.endswith(name[1:])
    assert written.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(written.dataobj), np.array([0, 7, 200])[MASK])
    np.testing.assert_allclose(written.affine, affine, atol=1e-5)
    assert int(written.header["sform_code"]) == 4 and int(written.header["qform_code"]) == 1
    assert read.read_header(out).spacing == pytest.approx(header.spacing)


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "a.mhd"])
def test_other_formats_stay(tmp_path: Path, name: str) -> None:
    path = files.itk(tmp_path / name, np.ones(SHAPE, np.int16), (2, 3, 4))
    header = read.read_header(path)
    out = tmp_path / f"x{write_masks.suffix_of(header.path)}"
    write_masks.write(canonical(header), header, (0, 1, 2), out)
    again = read.read_header(out)
    np.testing.assert_allclose(again.affine, header.affine)
    np.testing.assert_array_equal(read.read(again)[0], canonical(header))


def test_series_become_nifti(tmp_path: Path) -> None:
    header = read.read_header(files.dicom(tmp_path / "s", np.ones(SHAPE), (0.5, 0.6, 3)))
    out = tmp_path / f"x{write_masks.suffix_of(header.path)}"
    write_masks.write(canonical(header), header, (0, 1, 2), out)
    again = read.read_header(out)
    np.testing.assert_allclose(again.affine, header.affine, atol=1e-5)
    np.testing.assert_array_equal(read.read(again)[0], canonical(header))


def test_dicom_seg(tmp_path: Path) -> None:
    import highdicom as hd

    header = read.read_header(files.dicom(tmp_path / "s", np.ones(SHAPE), modality="MR"))
    write_masks.write_dicom_seg(
        canonical(header), header, ("background", "a", "b"), tmp_path / "x.dcm"
    )
    found = hd.seg.segread(tmp_path / "x.dcm")
    assert (
        [s.segment_label for s in found.segment_descriptions]
        if hasattr(found, "segment_descriptions")
        else found.number_of_segments == 2
    )
    planes = found.get_pixels_by_source_instance(
        [hd_uid(file) for file in header.files], combine_segments=True
    )
    np.testing.assert_array_equal(planes.transpose(2, 1, 0), MASK)


def hd_uid(file: Path) -> str:
    import pydicom

    return str(pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID)


def test_dicom_seg_of_series_that_lack_what_may_be_empty(tmp_path: Path) -> None:
    gone: dict[str, Any] = dict.fromkeys(
        ("PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber")
    )
    folder = files.dicom(tmp_path / "s", np.ones(SHAPE), **gone)
    header = read.read_header(folder)
    write_masks.write_dicom_seg(
        canonical(header), header, ("background", "a", "b"), tmp_path / "x.dcm"
    )
    assert (tmp_path / "x.dcm").stat().st_size > 0
    folder = files.dicom(tmp_path / "t", np.ones(SHAPE), StudyInstanceUID=None)
    header = read.read_header(folder)
    with pytest.raises(InputError, match="t: DICOM SEG cannot be made of this series"):
        write_masks.write_dicom_seg(
            canonical(header), header, ("background", "a", "b"), tmp_path / "y.dcm"
        )
    assert not (tmp_path / "y.dcm").exists()


FIELDS = (
    *("qform_code", "sform_code", "xyzt_units", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


@pytest.mark.parametrize("version", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize(
    "kind", ["two forms", "qform alone", "sform alone", "none", "micron", "4D"]
)
def test_what_a_header_says_of_places_is_copied(tmp_path: Path, version: Any, kind: str) -> None:
    import SimpleITK as sitk

    scanner, atlas = np.diag([2.0, 3, 4, 1]), np.diag([-2.0, -3, 4, 1])
    scanner[:3, 3], atlas[:3, 3] = (-20, -10, 5), (40, 30, 60)
    shape = (*SHAPE, 2) if kind == "4D" else SHAPE
    voxels = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    image = version(voxels, None if kind == "none" else scanner)
    if kind == "two forms":
        image.set_sform(atlas, code=3)
        image.set_qform(scanner, code=1)
    elif kind == "qform":
        image.set_sform(None, code=0)
        image.set_qform(scanner, code=2)
    elif kind == "sform":
        image.set_qform(None, code=0)
        image.set_sform(atlas, code=5)
    elif kind == "micron":
        image.header.set_xyzt_units("micron")
    image.header["cal_max"], image.header["descrip"] = 100, b"a scan"
    image.to_filename(tmp_path / "a.nii.gz")
    header = read.read_header(tmp_path / "a.nii.gz")
    out = tmp_path / "out.nii.gz"
    write_masks.write(canonical(header), header, (0, 7, 1000), out)
    before: Any = nib.load(tmp_path / "a.nii.gz")
    written: Any = nib.load(out)
    np.testing.assert_array_equal(np.asarray(written.dataobj), np.array([0, 7, 1000])[MASK])
    assert written.get_data_dtype() == np.uint16 and written.shape == SHAPE
    for field in FIELDS:
        np.testing.assert_array_equal(written.header[field], before.header[field], field)
    np.testing.assert_array_equal(written.header["pixdim"][:4], before.header["pixdim"][:4])
    if version is nib.Nifti1Image and kind != "4D":
        one, two = sitk.ReadImage(str(tmp_path / "a.nii.gz")), sitk.ReadImage(str(out))
        for said in ("GetOrigin", "GetDirection", "GetSpacing"):
            np.testing.assert_allclose(getattr(one, said)(), getattr(two, said)(), err_msg=said)
        itk = sitk.GetArrayFromImage(two).transpose(2, 1, 0)
        np.testing.assert_array_equal(itk, np.array([0, 7, 1000])[MASK])


def test_dicom_seg_of_frames_that_are_stored_in_another_order(tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    import pydicom

    path = files.enhanced(tmp_path / "mr.dcm", [2, 0, 3, 1], FrameOfReferenceUID="1.2.3.9")
    header = read.read_header(path)
    mask = np.zeros(header.size, np.uint8)
    mask[1, 2:5, 3:9] = 1
    out = tmp_path / "seg.dcm"
    write_masks.write_dicom_seg(mask, header, ("background", "one"), out)
    made = pydicom.dcmread(out)
    places = [
        float(frame.PlanePositionSequence[0].ImagePositionPatient[2])
        for frame in made.PerFrameFunctionalGroupsSequence
    ]
    drawn = made.pixel_array.reshape(len(places), -1).sum(1)
    assert {z: int(n) for z, n in zip(places, drawn, strict=True) if n} == {3.0: 18}
