"""What lies beside images and volumes: masks, notes, files of unknown kinds."""

from pathlib import Path

import files
import numpy as np
import pytest
from files import picture
from made import Heard
from PIL import Image

from crossd.data.opening import open_source
from crossd.data.quality.survey import survey
from crossd.data.sources.companions import masks_among
from crossd.inference.inputs import inputs
from crossd.utils.progress import Progress

QUIET = Progress(quiet=True)


def volume(path: Path, seed: int) -> Path:
    voxels = np.random.default_rng(seed).normal(size=(6, 7, 8)).astype(np.float32)
    return files.nifti(path, voxels)


def total(source: object) -> int:
    return sum(len(getattr(source, part)) for part in ("train", "val", "test"))


@pytest.mark.parametrize(
    ("names", "masks"),
    [
        ("a.nii.gz a_seg.nii.gz b.nii.gz", "a_seg.nii.gz"),
        ("a.nii a-label.nii.gz a.seg.nrrd a_GT.nii a_segmentation.mha", "4 others"),
        ("benign (1).png|benign (1)_mask.png|benign (1)_mask_1.png", "2 others"),
        ("P1_t1.nii.gz P1_flair.nii.gz P1_seg.nii.gz", "P1_seg.nii.gz"),
        ("imaging.nii.gz segmentation.nii.gz", "segmentation.nii.gz"),
        ("a_seg.nii.gz b_seg.nii.gz", ""),
        ("mask.png label.png", ""),
        ("mask_1.png img_1.png", ""),
        ("unmask.png un.png", ""),
        ("a_mask_old.png a.png", ""),
    ],
)
def test_masks_are_told_by_their_names(names: str, masks: str) -> None:
    listed = names.split("|") if "|" in names else names.split()
    found = masks_among(listed)
    expected = set(listed[1:]) if masks.endswith("others") else set(masks.split())
    assert found == expected


def test_the_mask_of_a_series_is_one() -> None:
    assert masks_among(["case_seg.nii.gz"], ["case"]) == {"case_seg.nii.gz"}


@pytest.mark.parametrize("kind", ["volumes", "images", "subfolders"])
def test_masks_in_class_folders_are_no_samples(tmp_path: Path, kind: str) -> None:
    for i in range(24):
        below = tmp_path / "ab"[i % 2] / (f"p{i}" if kind == "subfolders" else "")
        if kind == "images":
            picture(below / f"{i}.png", i)
            picture(below / f"{i}_mask.png", 100 + i)
        elif kind == "volumes":
            volume(below / f"{i}.nii.gz", i)
            volume(below / f"{i}_seg.nii.gz", 100 + i)
        else:
            volume(below / "imaging.nii.gz", i)
            volume(below / "segmentation.nii.gz", 100 + i)
    heard = Heard()
    assert total(open_source(str(tmp_path), progress=heard)) == 24
    assert any(
        "24 masks beside their images are left out (the first is a/" in t for t in heard.said
    )
    assert survey(str(tmp_path), 100, 0, QUIET).total == 24
    told: list[str] = []
    assert len(inputs([str(tmp_path)], 1, say=told.append)) == 24
    assert any("24 masks beside their images are left out" in text for text in told)


def test_masks_in_a_folder_of_volumes_are_no_samples(tmp_path: Path) -> None:
    for i in range(6):
        volume(tmp_path / f"{i}.nii.gz", i)
        volume(tmp_path / f"{i}-label.nii.gz", 100 + i)
    heard = Heard()
    assert len(open_source(str(tmp_path), labels=False, progress=heard).train) == 6
    assert heard.said[0].startswith(f"{tmp_path}: 6 masks beside their images are left out")
    named = str(tmp_path / "0-label.nii.gz")  # what is named is what is meant
    assert [case.name for case in inputs([named], 1)] == ["0-label"]


@pytest.mark.parametrize("suffix", [".mgz", ".heic", ".npy", ""])
def test_files_of_unknown_kinds_are_spoken_of(tmp_path: Path, suffix: str) -> None:
    for i in range(20):
        picture(tmp_path / "ab"[i % 2] / f"{i}.png", i)
    for i in range(3):
        (tmp_path / "a" / f"scan{i}{suffix}").write_bytes(b"something")
    heard = Heard()
    assert total(open_source(str(tmp_path), progress=heard)) == 20
    text = (
        f"3 files of unknown kinds ({suffix or 'no suffix'}) are passed over (the first is a/scan0"
    )
    assert any(text in said for said in heard.said)


@pytest.mark.parametrize("name", ["1.json", "notes.txt", "README", "1.CSV", "._x", "Thumbs.db"])
def test_notes_beside_images_are_passed_over(tmp_path: Path, name: str) -> None:
    for i in range(20):
        picture(tmp_path / "classes" / "ab"[i % 2] / f"{i}.png", i)
        picture(tmp_path / "pairs" / "images" / f"{i}.png", i)
        mask = Image.fromarray(np.full((12, 12), i % 2, np.uint8))
        (tmp_path / "pairs" / "labels").mkdir(exist_ok=True)
        mask.save(tmp_path / "pairs" / "labels" / f"{i}.png")
    for folder in ("classes/a", "pairs/images", "pairs/labels"):
        (tmp_path / folder / name).write_text("{}")
    for root in ("classes", "pairs"):
        heard = Heard()
        assert total(open_source(str(tmp_path / root), progress=heard)) == 20
        assert not any("passed over" in text or "left out" in text for text in heard.said)


def test_voxels_of_headers_are_no_files_of_their_own(tmp_path: Path) -> None:
    for i in range(12):
        voxels = np.random.default_rng(i).normal(size=(6, 7, 8)).astype(np.float32)
        files.itk(tmp_path / "ab"[i % 2] / f"{i}.mhd", voxels)
    heard = Heard()
    assert total(open_source(str(tmp_path), progress=heard)) == 12
    assert not any("unknown" in text for text in heard.said)


def test_what_lies_beside_pairs_is_spoken_of(tmp_path: Path) -> None:
    files.pairs(tmp_path, 10, (6, 6, 6))
    volume(tmp_path / "imagesTs" / "x.nii.gz", 1)
    (tmp_path / "images" / "case_99.mgz").write_bytes(b"x")
    heard = Heard()
    open_source(str(tmp_path), progress=heard)
    said = " ".join(heard.said)
    assert "imagesTs beside images and labels are left out" in said
    assert "1 files of unknown kinds (.mgz) are passed over (the first is case_99.mgz)" in said


def test_images_beside_class_folders_are_spoken_of(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for i in range(12):
            picture(tmp_path / part / "ab"[i % 2] / f"{i}.png", i + 50 * (part == "test"))
    picture(tmp_path / "train" / "stray.png", 99)
    (tmp_path / "train" / "notes.txt").touch()
    heard = Heard()
    assert total(open_source(str(tmp_path), progress=heard)) == 24
    text = (
        "1 images or volumes beside the class folders are left out (the first is train/stray.png)"
    )
    assert f"{tmp_path}: {text}" in heard.said


def test_folders_within_pairs_are_spoken_of(tmp_path: Path) -> None:
    files.pairs(tmp_path, 10, (6, 6, 6))
    for folder in ("images", "labels"):
        volume(tmp_path / folder / "more" / "x.nii.gz", 1)
    heard = Heard()
    open_source(str(tmp_path), progress=heard)
    for folder in ("images", "labels"):
        text = "1 folders without DICOM files are passed over (the first is more)"
        assert f"{tmp_path / folder}: {text}" in heard.said
