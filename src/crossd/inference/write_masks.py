"""Writing masks in the grid, the affine and the format of the volumes they belong to."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from crossd.data.io import nifti
from crossd.data.io.header import ITK, NIFTI, Header
from crossd.data.io.itk import open_itk
from crossd.errors import InputError
from crossd.utils.atomic_files import atomic

Number = TypeVar("Number", bound=np.generic)

MAY_BE_EMPTY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
)
"""Attributes that every DICOM object has, of type 2; copies of the web often lack them."""


def suffix_of(path: Path) -> str:
    """Return the suffix of the mask of a volume: that of its file, for DICOM ``.nii.gz``."""
    for suffix in (*NIFTI, *ITK):
        if path.name.lower().endswith(suffix):
            # A header of its own points at a file of voxels by name: one file is safer.
            return {".mhd": ".mha", ".nhdr": ".nrrd"}.get(suffix, suffix)
    return ".nii.gz"


def write(mask: NDArray[np.uint8], header: Header, values: Sequence[int], path: Path) -> None:
    """Write a mask.

    Args:
        mask: Classes in canonical order, ``(D, H, W)``.
        header: Of its volume.
        values: What stands for each class in the file.
        path: The file; it appears whole or not at all.
    """
    array = in_file_order(with_file_values(mask, values), header)
    with atomic(path) as temporary:
        if path.name.endswith(ITK):
            _write_itk(array, header, temporary)
        else:
            _write_nifti(array, header, temporary)


def with_file_values(mask: NDArray[np.uint8], values: Sequence[int]) -> NDArray[np.unsignedinteger]:
    """Replace the classes of a mask by what stands for them in files, in 8 bits or 16."""
    table: NDArray[np.unsignedinteger] = np.zeros(256, np.uint8 if max(values) < 256 else np.uint16)
    table[: len(values)] = values
    out: NDArray[np.unsignedinteger] = table[mask]
    return out


def in_file_order(mask: NDArray[Number], header: Header) -> NDArray[Number]:
    """Turn a mask from canonical order ``(D, H, W)`` to the order of its file, ``(x, y, z)``."""
    canonical = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    way = nib.orientations.ornt_transform(canonical, header.orientation)
    turned: NDArray[Number] = nib.orientations.apply_orientation(mask.T, way)
    return turned


def _write_nifti(array: NDArray[np.unsignedinteger], header: Header, path: Path) -> None:
    """Write a mask with the header of its volume, which says where it lies, in which units."""
    if not header.path.name.lower().endswith(NIFTI):
        image: Any = nib.Nifti1Image(array, header.affine)
        image.header.set_xyzt_units("mm")
        image.to_filename(path)
        return
    source = nifti.load(header.path)
    own = source.header.copy()
    own.set_data_dtype(array.dtype)
    own.set_slope_inter(None, None)
    own["cal_min"] = own["cal_max"] = 0
    own.set_intent("none")
    own.extensions.clear()
    shape = (*source.shape[:3], 1, 1)[: max(2, min(3, len(source.shape)))]
    own.set_data_shape(shape)
    with nifti.quietly():
        type(source)(array.reshape(shape), None, own).to_filename(path)


def _write_itk(array: NDArray[np.unsignedinteger], header: Header, path: Path) -> None:
    import SimpleITK as sitk

    source = open_itk(header.path)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    if source.GetDimension() == 2:
        image = image[:, :, 0]
    image.SetSpacing(source.GetSpacing())
    image.SetOrigin(source.GetOrigin())
    image.SetDirection(source.GetDirection())
    sitk.WriteImage(image, str(path), useCompression=True)


def write_dicom_seg(
    mask: NDArray[np.uint8], header: Header, classes: Sequence[str], path: Path
) -> None:
    """Write the mask of a DICOM series as DICOM SEG, one segment a class.

    Args:
        mask: Classes in canonical order, ``(D, H, W)``.
        header: Of the series.
        classes: Their names, the background first.
        path: The file; it appears whole or not at all.

    Raises:
        InputError: When highdicom is not installed.
    """
    try:
        import highdicom as hd
        import pydicom
        from pydicom.sr.codedict import codes
    except ImportError as error:
        raise InputError("DICOM SEG needs highdicom: pip install 'crossd[dicom]'") from error
    from crossd import __version__

    sources = [pydicom.dcmread(file) for file in header.files]
    for source in sources:
        for keyword in MAY_BE_EMPTY:
            if keyword not in source:
                setattr(source, keyword, "")
    array = in_file_order(mask, header).transpose(2, 1, 0)  # frames, rows, columns
    if header.frames:
        array = array[np.argsort(header.frames)]  # as the file stores them
    algorithm = hd.AlgorithmIdentificationSequence(
        name="crossd", version=__version__, family=codes.DCM.ArtificialIntelligence
    )
    present = [k for k in range(1, len(classes)) if (array == k).any()] or [1]
    segments = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=classes[k],
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=codes.SCT.Tissue,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for number, k in enumerate(present, start=1)
    ]
    planes = np.stack([array == k for k in present], axis=-1).astype(np.uint8)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on names of patients and the like, as they are
            made = hd.seg.Segmentation(
                source_images=sources,
                pixel_array=planes,
                segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=segments,
                series_instance_uid=hd.UID(),
                series_number=900,
                sop_instance_uid=hd.UID(),
                instance_number=1,
                manufacturer="crossd",
                manufacturer_model_name="crossd",
                software_versions=__version__,
                device_serial_number="0",
                omit_empty_frames=False,
            )
    except (AttributeError, ValueError, TypeError, KeyError) as error:
        why = " ".join(str(error).split())[:150]
        raise InputError(
            f"{header.path}: DICOM SEG cannot be made of this series ({why})"
        ) from error
    with atomic(path) as temporary:
        made.save_as(temporary)
