"""Files of images and volumes that tests make: NIfTI, NRRD and MetaImage, DICOM series."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from crossd.data.preprocessing.plan import Intensity, Plan
from crossd.errors import InputError

SHARED = Path(
    os.environ.get("CROSSD_TEST_DATA", Path(__file__).parents[1].parent / "shared" / "data")
)
real_data = pytest.mark.skipif(not SHARED.is_dir(), reason="no folder of real data")


def nifti(path: Path, array: Any, affine: Any = None) -> Path:
    """Write an array ``(x, y, z)``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image_type: Any = nib.Nifti1Image
    image_type(np.asarray(array), np.eye(4) if affine is None else affine).to_filename(path)
    return path


def shaded(path: Path, count: int, side: int, task: str = "classification") -> str:
    """Write an .npz of noisy images of three classes, each brighter than the one before.

    Or with two findings, or two numbers to learn, some of which are not known.
    """
    labels = np.arange(count) % 3
    noise = np.random.default_rng(0).integers(0, 120, (count, side, side))
    images = (noise + 60 * labels[:, None, None]).astype(np.uint8)
    several = np.stack([labels > 0, labels > 1], 1).astype(np.float64)
    several[::5, 0] = several[1::3, 1] = -1 if task == "multilabel" else np.nan
    told = {"classification": labels, "multilabel": several, "regression": several}[task]
    np.savez(path, images=images, **{"targets" if task == "regression" else "labels": told})  # type: ignore[arg-type]
    return str(path)


def picture(path: Path, seed: int = 0) -> Path:
    """Write a grey image of noise, 12 x 12, in the format that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (12, 12), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def itk(path: Path, array: Any, spacing: Sequence[float] = (1.0, 1.0, 1.0)) -> Path:
    """Write an array ``(x, y, z)`` with SimpleITK."""
    import SimpleITK as sitk

    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(np.ascontiguousarray(np.asarray(array).transpose(2, 1, 0)))
    image.SetSpacing([float(side) for side in spacing])
    sitk.WriteImage(image, str(path))
    return path


def dicom(
    folder: Path,
    array: Any,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    modality: str = "CT",
    **tags: Any,
) -> Path:
    """Write an array ``(x, y, z)`` of int16 as a series of axial slices, in shuffled order.

    The axes run to left, posterior and superior, as DICOM's do; `tags` go into every slice.
    """
    folder.mkdir(parents=True, exist_ok=True)
    array = np.asarray(array, np.int16)
    order = np.random.default_rng(1).permutation(array.shape[2])
    for z in range(array.shape[2]):
        write_slice(
            folder / f"{order[z]:04}.dcm", array[:, :, z], z * spacing[2], spacing, modality, **tags
        )
    return folder


def save_dicom(one: Any, path: Path, tags: Mapping[str, Any]) -> None:
    """Write a DICOM file, with some elements set to other values, or left out (None)."""
    for name, value in tags.items():
        if value is None:
            del one[name]
        else:
            setattr(one, name, value)
    one.save_as(path, enforce_file_format=True)


NOWHERE: dict[str, Any] = {"ImagePositionPatient": None, "ImageOrientationPatient": None}
"""Tags of `write_slice` for what says no position in the patient, as radiographs."""


def write_slice(
    path: Path,
    plane: Any,
    position: float,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    modality: str = "CT",
    **tags: Any,
) -> None:
    """Write one slice ``(x, y)``."""
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

    kind = CTImageStorage if modality == "CT" else MRImageStorage
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = kind
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one = pydicom.Dataset()
    one.file_meta = meta
    one.SOPClassUID, one.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
    one.PatientID, one.PatientName = "1", "Nobody"
    one.PatientBirthDate = one.PatientSex = one.StudyDate = one.StudyTime = ""
    one.StudyID = one.AccessionNumber = one.ReferringPhysicianName = ""
    one.StudyInstanceUID, one.SeriesInstanceUID = "1.2.3", "1.2.3.4"
    one.FrameOfReferenceUID = "1.2.3.5"
    one.Modality, one.SeriesNumber, one.InstanceNumber = modality, 1, 1
    one.Rows, one.Columns = plane.shape[1], plane.shape[0]
    one.PixelSpacing = [float(spacing[1]), float(spacing[0])]
    one.SliceThickness = float(spacing[2])
    one.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    one.ImagePositionPatient = [-10.0, -20.0, 5.0 + position]
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.BitsAllocated = one.BitsStored = 16
    one.HighBit, one.PixelRepresentation = 15, 1
    if modality == "CT":
        one.RescaleSlope, one.RescaleIntercept, one.RescaleType = 1, 0, "HU"
    one.PixelData = np.ascontiguousarray(plane.T).astype("<i2").tobytes()
    save_dicom(one, path, tags)


def ball(shape: Sequence[int], center: Any, radius: float) -> Any:
    """Return where voxels lie in a ball."""
    grid = np.indices(tuple(shape)).astype(float)
    far = sum((axis - c) ** 2 for axis, c in zip(grid, center, strict=True))
    return far <= radius**2


def scan(shape: Sequence[int] = (20, 24, 28), seed: int = 0) -> tuple[Any, Any]:
    """Return a noisy image ``(x, y, z)`` of two balls and its mask of 0, 1 and 2."""
    rng = np.random.default_rng(seed)
    sides = np.array(shape, float)
    mask = np.zeros(tuple(shape), np.uint8)
    mask[ball(shape, sides * rng.uniform(0.35, 0.45, 3), sides.min() * 0.25)] = 1
    mask[ball(shape, sides * rng.uniform(0.6, 0.7, 3), sides.min() * 0.2)] = 2
    image = 100.0 * mask + rng.normal(0, 10, tuple(shape)) + 50
    return image.astype(np.float32), mask


def pairs(root: Path, count: int = 10, shape: Sequence[int] = (20, 24, 28)) -> Path:
    """Write a folder with ``images/`` and ``labels/``."""
    for i in range(count):
        image, mask = scan(shape, seed=i)
        nifti(root / "images" / f"case_{i}.nii.gz", image)
        nifti(root / "labels" / f"case_{i}.nii.gz", mask)
    return root


def npz(path: Path, shape: tuple[int, ...], classes: int = 2) -> str:
    """Write images of which each class has its own brightness."""
    made: dict[str, Any] = {}
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("val", 6), ("test", 9)):
        labels = np.arange(count) % classes
        levels = (labels * 90).reshape(-1, *(1,) * len(shape))
        made[f"{part}_images"] = (rng.integers(0, 60, (count, *shape)) + levels).astype(np.uint8)
        made[f"{part}_labels"] = labels.astype(np.uint8)[:, None]
    np.savez(path, **made)
    return str(path)


PLAN = Plan((1.0, 1.0, 1.0), (16, 16, 16), (Intensity("percentiles", 0.5, 99.5),))


def message(action: Any) -> str:
    with pytest.raises(InputError) as caught:
        action()
    text = str(caught.value)
    assert "\n" not in text
    return text


def enhanced(
    path: Path,
    order: Sequence[int],
    spacing: float = 3.0,
    each: Sequence[dict[str, dict[str, Any]]] = (),
    **tags: Any,
) -> Path:
    """Write an enhanced MR file of frames (x 24, y 20) at these places along z.

    Frame z holds 1000 + 100 z everywhere.

    Args:
        path: The file.
        order: The place of each frame, as they are stored.
        spacing: Between places [mm].
        each: For each frame its further groups: keyword of the sequence to its elements.
        **tags: Of the whole file.
    """
    import pydicom
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, generate_uid

    def sequence(**elements: Any) -> list[Dataset]:
        item = Dataset()
        for name, value in elements.items():
            setattr(item, name, value)
        return [item]

    one, meta = pydicom.Dataset(), FileMetaDataset()
    one.file_meta = meta
    meta.TransferSyntaxUID, kind = ExplicitVRLittleEndian, EnhancedMRImageStorage
    one.SOPClassUID = meta.MediaStorageSOPClassUID = kind
    one.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = generate_uid()
    one.StudyInstanceUID, one.SeriesInstanceUID, one.Modality = "1.2.3", "1.2.3.4", "MR"
    one.Rows, one.Columns, one.NumberOfFrames = 20, 24, len(order)
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 0
    shared = Dataset()
    shared.PlaneOrientationSequence = sequence(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    shared.PixelMeasuresSequence = sequence(PixelSpacing=[2, 1], SliceThickness=spacing)
    one.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for number, z in enumerate(order):
        frame = Dataset()
        frame.PlanePositionSequence = sequence(ImagePositionPatient=[-10, -10, spacing * z])
        for name, elements in (each[number] if each else {}).items():
            setattr(frame, name, sequence(**elements))
        frames.append(frame)
    one.PerFrameFunctionalGroupsSequence = frames
    one.PixelData = b"".join(np.full((20, 24), 1000 + 100 * z, "<u2").tobytes() for z in order)
    save_dicom(one, path, tags)
    return path
