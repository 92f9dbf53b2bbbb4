"""Folders of an image and a mask of each structure, as TotalSegmentator lays out its data."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import files
import layouts
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from made import Heard

from crossd.data.opening import list_cases, open_source
from crossd.data.quality.checks import faults
from crossd.data.quality.survey import survey
from crossd.data.sources.case_files import raw_mask, read_entry
from crossd.data.sources.case_list import Case
from crossd.inference.inputs import inputs
from crossd.utils.progress import Progress

QUIET = Progress(quiet=True)


def refused(root: Path) -> str:
    return files.message(lambda: open_source(str(root)))


def test_structures_are_classes_by_the_alphabet(tmp_path: Path) -> None:
    root = layouts.totalsegmentator(tmp_path / "data")
    source = open_source(str(root))
    assert source.classes == ("background", "aorta", "liver", "spleen")
    assert source.values == (0, 1, 2, 3) and source.task == "segmentation"
    sizes = [len(part) for part in (source.train, source.val, source.test)]
    assert sizes == [6, 2, 2]  # as meta.csv says
    assert source.val.name(0) == "s0003/ct"
    case = list_cases(root, QUIET)[0].cases[1]
    mask, several = raw_mask(read_entry(case))
    expected = sum(n * layouts.box(n - 1, 1).astype(int) for n in (1, 2, 3))
    np.testing.assert_array_equal(mask, expected.transpose(2, 1, 0))
    assert several == 0
    said = survey(str(root), 100, 0, QUIET).sentence()
    assert said == (
        f"{root}: folders with a mask of each structure; 10 volumes, masks of the values 0, 1, 2, 3"
        " (3 classes: aorta, liver, spleen), 6 to train, 2 to val, 2 to test"
    )


@pytest.mark.parametrize("what", ["mri.nii.gz", "scan.mha", "series"])
def test_the_image_may_be_any_volume(tmp_path: Path, what: str) -> None:
    root = layouts.totalsegmentator(tmp_path, meta=False)
    for folder in sorted(root.iterdir()):
        image = layouts.voxels(folder / "ct.nii.gz")
        (folder / "ct.nii.gz").unlink()
        if what == "mri.nii.gz":
            files.nifti(folder / what, image)
        elif what == "scan.mha":
            files.itk(folder / what, image[::-1, ::-1])  # LPS: the axes of the masks run against it
            affine = np.diag([-1.0, -1, 1, 1])
            for mask in (folder / "segmentations").iterdir():
                voxels = layouts.voxels(mask)[::-1, ::-1]
                files.nifti(mask, voxels.astype(np.uint8), affine)
        else:
            files.dicom(folder / "ct", image.round())
            affine = np.diag([-1.0, -1, 1, 1])
            affine[:3, 3] = 10, 20, 5
            for mask in (folder / "segmentations").iterdir():
                files.nifti(mask, layouts.voxels(mask).astype(np.uint8), affine)
    source = open_source(str(root))
    assert source.classes[1:] == layouts.STRUCTURES
    assert len(source.train) + len(source.val) + len(source.test) == 10


def test_masks_that_are_stored_in_another_order_lie_where_the_image_does(tmp_path: Path) -> None:
    root = layouts.totalsegmentator(tmp_path, count=1)
    case = list_cases(root, QUIET, strict=False)[0].cases[0]
    before = raw_mask(read_entry(case))[0]
    file = root / "s0000/segmentations/liver.nii.gz"
    image: Any = nib.load(file)
    turned = image.as_reoriented(np.array([[2, 1], [0, -1], [1, 1]]))
    nib.save(turned, file)
    reread = sitk.DICOMOrient(sitk.ReadImage(str(file)), "LPS")
    first = sitk.DICOMOrient(sitk.ReadImage(str(root / "s0000/ct.nii.gz")), "LPS")
    assert reread.GetOrigin() == pytest.approx(first.GetOrigin())
    np.testing.assert_array_equal(raw_mask(read_entry(case))[0], before)


def remove(root: Path) -> None:
    (root / "s0002/segmentations/liver.nii.gz").unlink()


def empty_folder(root: Path) -> None:
    for one in root.glob("s*/segmentations/*"):
        one.unlink()


def second_image(root: Path) -> None:
    files.nifti(root / "s0003/pet.nii.gz", layouts.image(77))


def second_folder(root: Path) -> None:
    shutil.copytree(root / "s0003/segmentations", root / "s0003/masks")


def no_image(root: Path) -> None:
    (root / "s0003/ct.nii.gz").unlink()


def no_masks(root: Path) -> None:
    shutil.rmtree(root / "s0003/segmentations")


def moved(root: Path) -> None:
    file = root / "s0003/segmentations/spleen.nii.gz"
    affine = np.eye(4)
    affine[2, 3] = 4
    files.nifti(file, layouts.box(2, 3), affine)


def smaller(root: Path) -> None:
    files.nifti(root / "s0003/segmentations/spleen.nii.gz", layouts.box(2)[:-1])


def several_values(root: Path) -> None:
    mask = layouts.box(2)
    mask[0, 0, 0] = 3
    files.nifti(root / "s0003/segmentations/spleen.nii.gz", mask)


def shares(root: Path) -> None:
    files.nifti(root / "s0003/segmentations/spleen.nii.gz", layouts.box(2) * np.float32(0.4))


def named_twice(root: Path) -> None:
    shutil.copy(
        root / "s0003/segmentations/spleen.nii.gz", root / "s0003/segmentations/Spleen.nii.gz"
    )
    for i in range(10):
        shutil.copy(
            root / f"s{i:04}/segmentations/spleen.nii.gz",
            root / f"s{i:04}/segmentations/Spleen.nii.gz",
        )


def two_forms(root: Path) -> None:
    files.nifti(root / "s0003/segmentations/spleen.nii", layouts.box(2))


def empty_everywhere(root: Path) -> None:
    for one in root.glob("s*/segmentations/*"):
        files.nifti(one, np.zeros(layouts.SHAPE, np.uint8))


def line_gone(root: Path) -> None:
    text = (root / "meta.csv").read_text().splitlines()
    (root / "meta.csv").write_text("\n".join(text[:-1]))


def odd_part(root: Path) -> None:
    text = (root / "meta.csv").read_text()
    (root / "meta.csv").write_text(text.replace(";val;", ";maybe;"))


def some_parts(root: Path) -> None:
    text = (root / "meta.csv").read_text()
    (root / "meta.csv").write_text(text.replace(";val;", ";;"))


def line_twice(root: Path) -> None:
    with (root / "meta.csv").open("a") as file:
        file.write("s0000;50;test;none\n")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (remove, "s0002/segmentations: has no mask of liver, which others have (1 such"),
        (empty_folder, "s0000/segmentations: holds no volume that is the mask of a structure"),
        (second_image, "s0003: holds ct.nii.gz, pet.nii.gz; expected one image"),
        (second_folder, "s0003: segmentations and masks are both there"),
        (no_image, "s0003: holds no image beside its masks, as s0000 does"),
        (no_masks, "s0003: holds no segmentations/ beside ct.nii.gz, as s0000 does"),
        (moved, "s0003/segmentations/spleen.nii.gz: lies up to 4 mm from"),
        (smaller, "s0003/segmentations/spleen.nii.gz: has the shape (8, 10, 11)"),
        (several_values, "s0003/segmentations/spleen.nii.gz: holds 1 and 3; the mask of one"),
        (shares, "s0003/segmentations/spleen.nii.gz: holds 0.4; a mask holds whole numbers"),
        (named_twice, "the classes 'Spleen' and 'spleen' differ in capitals"),
        (two_forms, "s0003/segmentations/spleen.nii.gz: shares its name with spleen.nii"),
        (empty_everywhere, "every training mask is empty"),
        (line_gone, "meta.csv: lacks s0009 (1 such folders)"),
        (odd_part, "meta.csv, line 5: split is 'maybe'"),
        (some_parts, "meta.csv, line 5: its split is empty, others are not"),
        (line_twice, "meta.csv, line 12: has s0000 a second time, for another part"),
    ],
)
def test_what_is_refused(tmp_path: Path, change: Callable[[Path], object], words: str) -> None:
    root = layouts.totalsegmentator(tmp_path)
    change(root)
    assert words in refused(root)


def test_what_a_training_refuses_is_a_fault_of_its_case_when_data_are_inspected(
    tmp_path: Path,
) -> None:
    root = layouts.totalsegmentator(tmp_path)
    remove(root)
    moved(root)
    (unread,) = (one for one in faults(survey(str(root), 100, 0, QUIET)) if "read" in one.what)
    assert [text.split(" ")[0] for text in unread.which] == ["s0002/ct", "s0003/ct"]
    assert "liver.nii.gz: no such file" in unread.which[0]
    assert "spleen.nii.gz: lies up to 4 mm from" in unread.which[1]


def test_a_structure_that_no_training_case_holds_is_said(tmp_path: Path) -> None:
    root = layouts.totalsegmentator(tmp_path)
    for i in range(10):
        if layouts.PARTS[i % 5] != "test":
            file = root / f"s{i:04}/segmentations/liver.nii.gz"
            files.nifti(file, np.zeros(layouts.SHAPE, np.uint8))
    said = Heard()
    assert open_source(str(root), progress=said).classes[2] == "liver"
    words = "no training mask holds liver (1 of 3 classes), which the network cannot learn"
    assert any(words in text for text in said.said)


def test_voxels_in_two_structures_go_to_the_smaller_and_it_is_said(tmp_path: Path) -> None:
    root = layouts.totalsegmentator(tmp_path, structures=("kidney", "tumour"))
    for i in range(10):  # the tumour lies in the kidney, which is earlier and larger
        mask = layouts.box(0, i % 4)
        mask[:, :, 4:] = 0
        files.nifti(root / f"s{i:04}/segmentations/tumour.nii.gz", mask)
        shutil.copy(
            root / f"s{i:04}/segmentations/tumour.nii.gz",
            root / f"s{i:04}/segmentations/cyst.nii.gz",
        )
        other = layouts.voxels(root / f"s{i:04}/segmentations/cyst.nii.gz")
        other[:, :, 3] = 0
        files.nifti(root / f"s{i:04}/segmentations/cyst.nii.gz", other.astype(np.uint8))
    said = Heard()
    source = open_source(str(root), progress=said)
    assert source.classes == ("background", "cyst", "kidney", "tumour")
    assert any("80 voxels of 10 cases lie in several structures" in text for text in said.said)
    case = list_cases(root, QUIET)[0].cases[0]
    counts = np.bincount(raw_mask(read_entry(case))[0].ravel())
    assert counts[1:].tolist() == [4, 24 - 8, 4]
    listed = faults(survey(str(root), 100, 0, QUIET))
    assert any("voxels in several structures" in one.what and one.count == 10 for one in listed)


def test_a_structure_made_of_others_is_refused(tmp_path: Path) -> None:
    shape = (12, 12, 12)
    for i in range(8):
        folder = tmp_path / f"s{i}"
        files.nifti(folder / "ct.nii.gz", np.random.default_rng(i).random(shape).astype("f4"))
        masks = {"left": np.zeros(shape, np.uint8), "right": np.zeros(shape, np.uint8)}
        masks["left"][:6], masks["right"][6:] = 1, 1
        masks["both"] = masks["left"] + masks["right"]
        for name, mask in masks.items():
            files.nifti(folder / f"segmentations/{name}.nii.gz", mask)
    said = refused(tmp_path)
    assert "s0/segmentations/both.nii.gz: 1,728 of its 1,728 voxels lie in smaller" in said


@pytest.mark.slow
@pytest.mark.parametrize(("count", "fits"), [(255, True), (256, False)])
def test_at_most_255_structures(tmp_path: Path, count: int, fits: bool) -> None:
    names = tuple(f"rib_{k:03}" for k in range(count))
    for i in range(3):
        folder = tmp_path / f"s{i}"
        files.nifti(folder / "ct.nii.gz", np.random.default_rng(i).random((8, 8, 8)).astype("f4"))
        for k, name in enumerate(names):
            mask = np.zeros(512, np.uint8)
            mask[k] = 1
            files.nifti(folder / f"segmentations/{name}.nii", mask.reshape(8, 8, 8))
    if fits:
        source = open_source(str(tmp_path))
        assert source.train[0]["mask"].max() == 255
    else:
        assert "its masks hold 257 values; expected at most 256" in refused(tmp_path)


def test_values_up_to_256_of_one_file_are_refused_too(tmp_path: Path) -> None:
    for i in range(3):
        mask = np.arange(512).clip(0, 256).astype(np.uint16).reshape(8, 8, 8)
        files.nifti(tmp_path / f"images/{i}.nii", np.random.default_rng(i).random((8, 8, 8)))
        files.nifti(tmp_path / f"labels/{i}.nii", mask)
    assert "hold 257 values" in refused(tmp_path)


def test_the_key_of_a_case_hangs_on_the_file_of_each_structure(tmp_path: Path) -> None:
    root = layouts.totalsegmentator(tmp_path)
    case = list_cases(root, QUIET)[0].cases[0]
    keys = {read_entry(case).key("kind")}
    for name in layouts.STRUCTURES:
        os.utime(root / f"s0000/segmentations/{name}.nii.gz", (1, 1))
        keys.add(read_entry(case).key("kind"))
    assert len(keys) == 4


def test_what_was_kept_is_as_what_was_read(tmp_path: Path) -> None:
    from crossd.data.disk_cache import DiskCache
    from crossd.data.source import Given

    root = layouts.totalsegmentator(tmp_path / "data")
    files.nifti(root / "s0001/segmentations/liver.nii.gz", layouts.box(1, 1) | layouts.box(0, 2))
    said: list[list[str]] = []
    for _ in range(2):
        heard = Heard()
        given = Given(stored=DiskCache(tmp_path / "cache"))
        source = open_source(str(root), given=given, progress=heard)
        said.append([text for text in heard.said if "several structures" in text])
        assert source.train[1]["mask"].max() == 3
    assert said[0] == said[1] and len(said[0]) == 1


def test_a_meta_csv_that_spreadsheets_wrote(tmp_path: Path) -> None:
    root = layouts.totalsegmentator(tmp_path)
    text = (root / "meta.csv").read_text().replace(";", ",")
    (root / "meta.csv").write_text(text, encoding="utf-8-sig")
    assert len(open_source(str(root)).test) == 2
    (root / "meta.csv").write_text("a;b\n1;2\n")
    said = Heard()
    open_source(str(root), progress=said)
    assert any("meta.csv lacks the columns image_id and split" in text for text in said.said)


def test_what_lies_beside_the_cases_is_said(tmp_path: Path) -> None:
    root = layouts.totalsegmentator(tmp_path)
    (root / "notes").mkdir()
    (root / "notes/a.txt").write_text("x")
    (root / "s0000/segmentations/preview.png").write_bytes(b"x")
    (root / "s0000/segmentations/statistics.json").write_text("{}")
    with (root / "meta.csv").open("a") as file:
        file.write("s9999;50;test;none\n")
    said = Heard()
    open_source(str(root), progress=said)
    assert any("1 lines of meta.csv name no folder" in text for text in said.said)
    assert any("notes beside the cases are left out" in text for text in said.said)


def test_images_with_folders_of_masks_are_refused(tmp_path: Path) -> None:
    from PIL import Image

    for i in range(4):
        (tmp_path / f"{i}/masks").mkdir(parents=True)
        pixels = np.random.default_rng(i).integers(0, 255, (8, 8), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}/a.png")
        Image.fromarray(pixels // 128).save(tmp_path / f"{i}/masks/a.png")
    assert "masks of a structure each are read of volumes only" in refused(tmp_path)


def test_a_folder_of_one_case_is_looked_at(tmp_path: Path) -> None:
    root = layouts.totalsegmentator(tmp_path, count=1) / "s0000"
    assert survey(str(root), 10, 0, QUIET).kind == "folders with a mask of each structure"
    assert "too few to split" in refused(root)


@pytest.mark.parametrize("below", [".", "s0003", "..", "deeper/s0000"])
def test_masks_of_structures_are_never_input(tmp_path: Path, below: str) -> None:
    root = layouts.totalsegmentator(tmp_path / "data")
    if below.startswith("deeper"):
        (root / "deeper").mkdir()
        (root / "s0000").rename(root / "deeper/s0000")
    found = inputs([str(root / below)], 1)
    assert {path.name for case in found for path in case.images} == {"ct.nii.gz"}
    assert len(found) == (1 if "s0" in below else 10)


def test_masks_of_structures_are_no_samples_of_class_folders(tmp_path: Path) -> None:
    for label in ("healthy", "ill"):
        layouts.totalsegmentator(tmp_path / "x", meta=False)
        (tmp_path / "x").rename(tmp_path / label)
    for i, file in enumerate(sorted(tmp_path.rglob("ct.nii.gz"))):
        files.nifti(file, layouts.image(1000 + i))
    source = open_source(str(tmp_path))
    assert source.classes == ("healthy", "ill") and source.task == "classification"
    assert len(source.train) + len(source.val) + len(source.test) == 20


def test_other_structures_than_those_of_the_weights_are_refused(tmp_path: Path) -> None:
    from crossd.data.source import Given

    root = layouts.totalsegmentator(tmp_path)
    own = {0: "background", 1: "aorta", 2: "liver", 3: "spleen"}
    for classes in ({**own, 1: "adrenal"}, {**own, 4: "vein"}):
        given = Given(classes=classes, known_classes=classes)
        said = files.message(lambda given=given: open_source(str(root), given=given))
        assert "its masks have other classes than the weights" in said
        source = open_source(str(root), given=Given(known_classes=classes))  # to be trained anew
        assert source.classes == tuple(own.values())
    same = {0: "background", 1: "1", 2: "2", 3: "3"}  # of masks of numbers
    given = Given(classes=same, known_classes=same)
    assert open_source(str(root), given=given).classes == tuple(same.values())


def test_mask_files_of_a_case() -> None:
    folder = Path("segmentations")
    assert Case("a", (Path("a"),)).mask_files == []
    assert Case("a", (Path("a"),), folder).mask_files == [folder]
    case = Case("a", (Path("a"),), folder, structures=("x.nii", "y.nii"))
    assert case.mask_files == [folder / "x.nii", folder / "y.nii"]
