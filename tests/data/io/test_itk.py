"""NRRD files that name units: SimpleITK takes any for millimetres, so that others are refused."""

from pathlib import Path

import files
import numpy as np
import pytest

from crossd.data.io import read

ARRAY = np.arange(120, dtype=np.int16).reshape(4, 5, 6)


def with_units(path: Path, line: str) -> Path:
    """Write a NRRD file of 2 x 3 x 4 with a further line in its header.

    Units of axes are for files that say nothing of a space.
    """
    head, _, voxels = files.itk(path, ARRAY, (2, 3, 4)).read_bytes().partition(b"\n\n")
    if line.startswith("units: "):
        head = b"\n".join(one for one in head.splitlines() if not one.startswith(b"space"))
        head += b"\nspacings: 2 3 4"
    path.write_bytes(head + b"\n" + line.encode("latin-1") + b"\n\n" + voxels)
    return path


@pytest.mark.parametrize("unit", ["um", "cm", "m", "µm", "micron", "in", "furlong", "UM"])
@pytest.mark.parametrize("field", ["space units", "units"])
def test_other_units_are_refused(tmp_path: Path, unit: str, field: str) -> None:
    import SimpleITK as sitk

    path = with_units(tmp_path / "a.nrrd", f'{field}: "{unit}" "{unit}" "{unit}"')
    assert sitk.ReadImage(str(path)).GetSpacing() == (2, 3, 4)  # it would be 2 mm to it
    said = files.message(lambda: read.read_header(path))
    assert f"{path}: its {field} say {unit!r}" in said and "in mm" in said


def test_one_axis_in_another_unit_is_refused(tmp_path: Path) -> None:
    path = with_units(tmp_path / "a.nrrd", 'space units: "mm" "mm" "um"')
    assert "say 'um'" in files.message(lambda: read.read_header(path))


@pytest.mark.parametrize(
    "line",
    [
        'space units: "mm" "mm" "mm"',
        'space units: "millimeter" "MM" "millimetres"',
        'space units: "" "" ""',
        'units: "mm" "mm" "mm"',
        "units:=um",
        'comment:="um"',
    ],
)
def test_millimetres_and_unknown_units_are_taken(tmp_path: Path, line: str) -> None:
    path = with_units(tmp_path / "a.nrrd", line)
    header = read.read_header(path)
    assert header.spacing == pytest.approx((4, 3, 2))
    np.testing.assert_array_equal(read.read(header)[0], ARRAY[::-1, ::-1].T)


def test_a_header_of_its_own_names_units_too(tmp_path: Path) -> None:
    path = files.itk(tmp_path / "a.nhdr", ARRAY)
    path.write_text(path.read_text().rstrip() + '\nspace units: "cm" "cm" "cm"\n')
    assert "say 'cm'" in files.message(lambda: read.read_header(path))
