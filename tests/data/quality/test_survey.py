"""What is wrong with data is found, named, and does not stop the look."""

from pathlib import Path

import numpy as np
import pytest
from files import dicom, nifti
from PIL import Image

from crossd.data.opening import open_source
from crossd.data.quality.checks import Fault, faults
from crossd.data.quality.facts import SampleFacts
from crossd.data.quality.survey import Survey, survey
from crossd.data.source import Given
from crossd.errors import InputError
from crossd.reports import data_sheet
from crossd.utils.progress import Progress

QUIET = Progress(quiet=True)


def look_at(path: Path | str, limit: int = 1000) -> tuple[Survey, dict[str, Fault]]:
    found = survey(str(path), limit, 0, QUIET)
    return found, {fault.what.partition(":")[0]: fault for fault in faults(found)}


def volume(seed: int, shape: tuple[int, ...] = (8, 9, 10)) -> np.ndarray:
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def table(folder: Path, lines: list[str], head: str = "image,label,split,group") -> Path:
    path = folder / "cases.csv"
    path.write_text("\n".join([head, *lines]) + "\n")
    return path


def test_faults_of_volumes(tmp_path: Path) -> None:
    lines = []
    for i in range(36):
        nifti(tmp_path / f"{i}.nii.gz", volume(i))
        part = ("train", "train", "train", "val", "test", "test")[i // 6]
        lines.append(f"{i}.nii.gz,{'ab'[i % 2]},{part},patient {i}")
    nifti(tmp_path / "1.nii.gz", np.ones((8, 9, 10), np.float32))
    (tmp_path / "2.nii.gz").write_bytes(b"no volume")
    nifti(tmp_path / "30.nii.gz", volume(0))
    nifti(tmp_path / "3.nii.gz", volume(3, (8, 9, 25)))
    nifti(tmp_path / "4.nii.gz", volume(4), np.diag([1, 1, 5, 1]))
    nifti(tmp_path / "5.nii.gz", 1000 * volume(5))
    lines[7] = "7.nii.gz,b,train,patient 31"
    lines[8] = "missing.nii.gz,a,train,patient 8"
    found, by_name = look_at(table(tmp_path, lines))
    assert found.total == len(found.looks) == 36
    read = by_name["cannot be read"]
    assert read.grave and read.count == 2 and read.which[0].startswith("2 (")
    assert by_name["show nothing"].which == ["1"]
    assert by_name["the same sample in two parts"].which == ["0 = 30"]
    assert by_name["patients in two parts"].which == ["patient 31 (test, train)"]
    assert by_name["sizes more than 2 times above or below the median"].which == ["3 (25 x 9 x 8)"]
    assert by_name["spacings more than 2 times above or below the median"].which == [
        "4 (5 x 1 x 1)"
    ]
    assert by_name["ranges of values more than 20 times wider or narrower than most"].count == 1
    assert set(by_name) - {"classes with fewer than 10 training samples"} == {
        *("cannot be read", "show nothing", "the same sample in two parts"),
        *("patients in two parts", "sizes more than 2 times above or below the median"),
        "spacings more than 2 times above or below the median",
        "ranges of values more than 20 times wider or narrower than most",
    }
    listed = faults(found)
    assert [fault.grave for fault in listed] == sorted([f.grave for f in listed], reverse=True)
    text = "\n".join(data_sheet.markdown(found, listed))
    assert "Mend this before a training: cannot be read (2)" in text
    assert "| a | 9 | 3 | 6 |" in text


def test_a_csv_whose_splits_are_empty_in_part(tmp_path: Path) -> None:
    for i in range(4):
        nifti(tmp_path / f"v{i}.nii.gz", volume(i))
    lines = [f"v{i}.nii.gz,{i % 2},{part}," for i, part in enumerate(("train", "val", "test", ""))]
    found, _ = look_at(table(tmp_path, lines))
    assert found.notes == [
        "the split of 1 samples is empty, of others not: a training refuses that"
    ]
    assert sum(sum(own.values()) for own in found.counts.values()) == 4
    data_sheet.draw(found, tmp_path / "data.png")


def test_faults_of_masks(tmp_path: Path) -> None:
    for i in range(10):
        mask = np.zeros((8, 9, 10), np.uint8)
        mask[2:5, 3:6, 4:7] = i > 0
        nifti(tmp_path / "images" / f"{i}.nii.gz", volume(i))
        nifti(tmp_path / "labels" / f"{i}.nii.gz", mask)
    _, by_name = look_at(tmp_path)
    assert by_name["masks are empty"].which == ["0"] and not by_name["masks are empty"].grave
    found = survey(str(tmp_path), 1000, 0, QUIET)
    tested = next(look.name for look in found.looks if look.part == "test")
    mask = np.full((8, 9, 10), 7, np.uint8)
    nifti(tmp_path / "labels" / f"{tested}.nii.gz", mask)
    found, by_name = look_at(tmp_path)
    assert by_name["masks hold a value that no training mask holds"].which == [f"{tested} (7)"]
    data_sheet.draw(found, tmp_path / "data.png")
    with Image.open(tmp_path / "data.png") as image:
        assert image.format == "PNG" and image.width > 1000
    for path in (tmp_path / "labels").iterdir():
        nifti(path, np.zeros((8, 9, 10), np.uint8))
    assert look_at(tmp_path)[1]["masks are empty"].grave  # no training can learn from them


def test_faults_of_images_and_the_same_parts_as_a_training(tmp_path: Path) -> None:
    root = tmp_path / "images"
    for part, count in (("train", 14), ("val", 6)):
        for label in ("cat", "dog"):
            for i in range(count):
                path = root / part / label / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.random.default_rng((i, len(part), len(label[0] + label))).integers(
                    0, 256, (12, 10), dtype=np.uint8
                )
                Image.fromarray(pixels).save(path)
    accepted = Given(accepted={"labels": "as cat and dog have equal seeds"})
    source = open_source(str(root), given=accepted)
    (root / "train" / "cat" / "13.png").write_bytes(b"\x89PNG broken")
    Image.new("RGB", (10, 12), (9, 200, 9)).save(root / "val" / "dog" / "0.png")
    found, by_name = look_at(root)
    assert by_name["cannot be read"].which[0].startswith("train/cat/13.png")
    assert by_name["other channels than most"].which == ["val/dog/0.png (3)"]
    assert by_name["the same sample with two labels"].count > 0  # cat and dog have equal seeds
    for part in ("train", "val", "test"):
        labels = getattr(source, part).labels
        expected = dict(zip(source.classes, np.bincount(labels).tolist(), strict=True))
        assert found.counts[part] == expected


def test_rare_classes_and_a_limit(tmp_path: Path) -> None:
    labels = np.array([0] * 140 + [1] * 8)
    images = np.random.default_rng(0).integers(0, 256, (148, 6, 6, 6), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", images=images, labels=labels)
    found, by_name = look_at(tmp_path / "x.npz", limit=20)
    assert found.total == 148 and len(found.looks) == 20
    assert by_name["classes with fewer than 10 training samples"].which == ["1 (5)"]
    uneven = by_name["classes more than 10 times as frequent as others"]
    assert uneven.which == ["0 (98) against 1 (5)"] and not uneven.grave
    assert "20 of 148 samples were looked at" in data_sheet.reading(found, faults(found))


def test_patients_of_dicom_series(tmp_path: Path) -> None:
    lines = []
    for i in range(6):
        patient = "Smith" if i in (0, 5) else f"other {i}"
        dicom(tmp_path / f"s{i}", 100 * volume(i), PatientID=patient)
        lines.append(f"s{i},{'ab'[i % 2]},{('train', 'val', 'test')[i // 2]}")
    _, by_name = look_at(table(tmp_path, lines, "image,label,split"))
    assert by_name["patients in two parts"].which == ["Smith (test, train)"]


def test_a_folder_without_labels(tmp_path: Path) -> None:
    for i in range(3):
        nifti(tmp_path / f"{i}.nii", volume(i))
    found, by_name = look_at(tmp_path)
    assert found.counts == {"all": {"": 3}} and not by_name
    assert data_sheet.record(found, [])["median_size"] == [10, 9, 8]


def test_what_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no image or volume"):
        survey(str(tmp_path), 10, 0, QUIET)
    with pytest.raises(InputError, match="no such file or folder"):
        survey(str(tmp_path / "nothing"), 10, 0, QUIET)


def test_one_name_for_all_patients_says_nothing() -> None:
    looks = [
        SampleFacts(
            f"{part} {i}",
            part,
            group="anonymous",
            size=(8, 8),
            ranges=np.array([[0.0, 0, 1, 1]]),
            digest=f"{part}{i}",
        )
        for part in ("train", "test")
        for i in range(2)
    ]
    assert faults(Survey("x", 4, {"train": {"": 2}, "test": {"": 2}}, looks)) == []


@pytest.mark.parametrize("kind", [".png", ".nii"])
def test_parts_are_those_of_a_training(tmp_path: Path, kind: str) -> None:
    for label in ("2", "9", "10"):
        for i in range(12):
            path = tmp_path / label / f"{i}{kind}"
            if kind == ".png":
                path.parent.mkdir(exist_ok=True)
                pixels = (255 * volume(i + 20 * int(label), (8, 9))).astype(np.uint8)
                Image.fromarray(pixels).save(path)
            else:
                nifti(path, volume(i + 20 * int(label)))
    source = open_source(str(tmp_path))
    found, _ = look_at(tmp_path)
    for part in ("train", "val", "test"):
        samples = getattr(source, part)
        expected = sorted(samples.case(i) for i in range(len(samples)))
        assert sorted(look.name for look in found.looks if look.part == part) == expected
