from pathlib import Path
from typing import Any

import files
import numpy as np
import pytest
from PIL import Image

from crossd.errors import InputError
from crossd.inference.inputs import inputs, takes
from crossd.weights.weights_file import WeightsConfig

BOTH, IMAGES, VOLUMES = (True, True), (True, False), (False, True)


def mixed(folder: Path) -> Path:
    """A volume with its preview, and an image that is hidden."""
    files.nifti(folder / "sub" / "case1.nii.gz", np.ones((4, 4, 4)))
    for name in ("sub/case1.png", "b.png", ".hidden/c.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8)).save(folder / name)
    return folder


def test_of_a_mixed_folder_all_that_the_network_takes(tmp_path: Path) -> None:
    said: list[str] = []
    found = {
        kinds: [c.images[0].name for c in inputs([str(mixed(tmp_path))], 1, kinds, say=said.append)]
        for kinds in (BOTH, IMAGES, VOLUMES)
    }
    assert found == {
        BOTH: ["case1.nii.gz", "b.png", "case1.png"],
        IMAGES: ["b.png", "case1.png"],
        VOLUMES: ["case1.nii.gz"],
    }
    assert said == [
        f"{tmp_path}: 1 volumes are left out, as the weights do not take volumes (the first is "
        "sub/case1.nii.gz)",
        f"{tmp_path}: 2 images are left out, as the weights do not take images (the first is "
        "b.png)",
    ]


def plan(kind: str) -> dict[str, Any]:
    how = {"kind": kind, "low": 0, "high": 100}
    return {"spacing": [1.0, 1.0, 1.0], "patch": [8, 8, 8], "intensity": [how]}


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        ({"size": (16, 16)}, BOTH),
        ({"size": (16, 16, 16)}, VOLUMES),
        ({"size": (16, 16), "form": "2d"}, IMAGES),
        ({"size": (16, 16), "form": "3d"}, VOLUMES),
        ({"size": (16, 16), "task": "segmentation"}, IMAGES),
        ({"size": (16, 16), "task": "segmentation", "plan": plan("z-score")}, BOTH),
        ({"size": (16, 16), "task": "segmentation", "plan": plan("window")}, VOLUMES),
    ],
)
def test_what_a_network_takes(change: dict[str, Any], kinds: tuple[bool, bool]) -> None:
    given = {"model": "x", "task": "classification", "in_channels": 1, "classes": ("a",)}
    assert takes(WeightsConfig(**{**given, **change})) == kinds


def test_slices_given_one_by_one_are_one_line(tmp_path: Path) -> None:
    files.dicom(tmp_path / "s", np.zeros((6, 5, 4)))
    slices = sorted(map(str, (tmp_path / "s").iterdir()))
    with pytest.raises(InputError, match=r"s: 4 DICOM files .* give the folder, --input .*/s$"):
        inputs(slices, 1, VOLUMES)
    said: list[str] = []
    assert len(inputs(slices, 1, BOTH, say=said.append)) == 4
    assert len(said) == 1 and "taken as images; for one volume give the folder" in said[0]
    assert len(inputs(slices, 1, IMAGES, say=said.append)) == 4 and len(said) == 1


def test_one_name_for_two_files_is_refused_where_answers_are_files(tmp_path: Path) -> None:
    files.nifti(tmp_path / "case1.nii.gz", np.ones((4, 4, 4)))
    files.itk(tmp_path / "case1.nrrd", np.ones((4, 4, 4)))
    with pytest.raises(InputError) as caught:
        inputs([str(tmp_path)], 1)
    message = str(caught.value)
    assert "case1.nrrd" in message and "case1.nii.gz" in message and "\n" not in message
    assert len(inputs([str(tmp_path)], 1, named=False)) == 2


def test_a_file_that_is_given_twice_is_asked_about_once(tmp_path: Path) -> None:
    path = files.nifti(tmp_path / "in" / "a.nii.gz", np.ones((4, 4, 4)))
    found = inputs([str(path), str(tmp_path / "in"), f"{tmp_path}/./in/../in/a.nii.gz"], 1)
    assert [case.images for case in found] == [(path,)]


def test_what_cannot_be_predicted(tmp_path: Path) -> None:
    def message(*paths: Path | str) -> str:
        with pytest.raises(InputError) as caught:
            inputs([str(path) for path in paths], 1)
        return str(caught.value)

    assert "no such file" in message(tmp_path / "none")
    assert "no such file" in message("")
    assert "holds no image or volume" in message(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    assert "cannot be predicted" in message(tmp_path / "a.txt")
    for name in ("a.nii", "a.nii.gz"):
        files.nifti(tmp_path / name, np.ones((4, 4, 4)))
    assert f"would be answered as a, like {tmp_path}/a.nii;" in message(tmp_path)
    assert "would be answered as a" in message(tmp_path / "a.nii", tmp_path / "a.nii.gz")


def test_inputs_of_tables_and_modalities(tmp_path: Path) -> None:
    for name in ("x_0000", "x_0001", "y_0000", "y_0001"):
        files.nifti(tmp_path / "in" / f"{name}.nii", np.ones((4, 4, 4)))
    assert [len(c.images) for c in inputs([str(tmp_path / "in")], 2)] == [2, 2]
    assert len(inputs([str(tmp_path / "in")], 1)) == 4
    (tmp_path / "t.csv").write_text("image,image2\nin/x_0000.nii,in/x_0001.nii\n")
    assert [case.name for case in inputs([str(tmp_path / "t.csv")], 2)] == ["in/x_0000"]


def test_radiographs_beside_pictures_are_images(tmp_path: Path) -> None:
    plane = np.arange(30, dtype=np.int16).reshape(6, 5)
    for number in range(2):
        files.write_slice(tmp_path / f"x{number}.dcm", plane, 0.0, **files.NOWHERE)
    Image.new("L", (4, 4)).save(tmp_path / "p.png")
    files.dicom(tmp_path / "ct", np.stack([plane] * 3, 2))
    told: list[str] = []
    found = inputs([str(tmp_path)], 1, IMAGES, say=told.append)
    assert sorted(case.name for case in found) == ["p", "x0", "x1"]
    assert len(told) == 1 and "1 volumes are left out" in told[0]
