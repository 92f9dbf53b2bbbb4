"""What belongs together stays in one part: patients, and files that hold the same."""

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import files
import numpy as np
import pytest
from files import picture
from made import Heard

from crossd.data.opening import open_source
from crossd.data.source import Given
from crossd.data.sources.belonging import at_files, identical, together
from crossd.data.sources.case_list import Case
from crossd.errors import InputError
from crossd.utils.progress import Progress

QUIET = Progress(quiet=True)
RNG = np.random.default_rng(0)


def parts_of(source: Any, named: Callable[[str], str]) -> list[set[str]]:
    parts = (source.train, source.val, source.test)
    return [{named(part.name(i)) for i in range(len(part))} for part in parts]


def apart(parts: list[set[str]]) -> bool:
    return not (parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2])


def test_files_that_hold_the_same_have_one_number(tmp_path: Path) -> None:
    a, b = picture(tmp_path / "a.png", 0), picture(tmp_path / "b.png", 1)
    copy = Path(shutil.copy(a, tmp_path / "c.png"))
    volume = files.nifti(tmp_path / "v.nii.gz", RNG.normal(size=(5, 6, 7)).astype(np.float32))
    again = tmp_path / "again.nii.gz"
    with gzip.GzipFile(again, "wb", compresslevel=1, mtime=99) as file:  # compressed otherwise
        file.write(gzip.decompress(volume.read_bytes()))
    assert again.read_bytes() != volume.read_bytes()
    series = files.dicom(tmp_path / "s", RNG.integers(0, 99, (4, 5, 3)))
    shutil.copytree(series, tmp_path / "t")
    (tmp_path / "t" / "0000.dcm").rename(tmp_path / "t" / "z.dcm")
    found = [a, b, copy, volume, again, series, tmp_path / "t"]
    found += [tmp_path / "gone.png", tmp_path / "lost.png"]
    numbers = identical(len(found), at_files(found), QUIET)
    assert numbers.tolist() == [0, 1, 0, 3, 3, 5, 5, 7, 8]


def test_copies_under_other_names_stay_together(tmp_path: Path) -> None:
    for i in range(30):
        first = picture(tmp_path / "ab"[i % 2] / f"{i:02}.png", i)
        shutil.copy(first, first.with_name(f"copy of {i:02}.png"))
    said = Heard()
    source = open_source(str(tmp_path), progress=said)
    assert apart(parts_of(source, lambda name: name[-6:]))
    assert "30 cases hold the same as another, kept together with it" in said.said[0]


def test_lines_of_a_csv_that_name_one_image_stay_together(tmp_path: Path) -> None:
    lines = ["image,label"]
    for i in range(20):
        picture(tmp_path / f"{i}.png", i)
        lines += [f"{i}.png,{'ab'[i % 2]}"] * 3
    (tmp_path / "cases.csv").write_text("\n".join(lines))
    source = open_source(str(tmp_path / "cases.csv"))
    assert len(source.train) + len(source.val) + len(source.test) == 60
    assert apart(parts_of(source, lambda name: name))
    assert source.train.groups is not None  # folds keep them whole too


@pytest.mark.parametrize("copies", [True, False])
def test_parts_that_are_said_must_not_share_images(tmp_path: Path, copies: bool) -> None:
    for part in ("train", "val", "test"):
        for i in range(4):
            seed = i + 4 * ("train", "val", "test").index(part)
            picture(tmp_path / "data" / part / "ab"[i % 2] / f"{i}.png", seed)
    if copies:
        shutil.copy(tmp_path / "data/train/a/0.png", tmp_path / "data/test/b/other.png")
        said = files.message(lambda: open_source(str(tmp_path / "data")))
        assert "train/a/0.png (to train)" in said and "test/b/other.png (to test)" in said
        assert "what is tested must not be trained on" in said
    else:
        assert len(open_source(str(tmp_path / "data")).test) == 4


def test_a_group_of_a_csv_in_two_parts_is_refused(tmp_path: Path) -> None:
    lines = ["image,label,split,group"]
    for i in range(12):
        picture(tmp_path / f"{i}.png", i)
        lines.append(f"{i}.png,{'ab'[i % 2]},{('train', 'val', 'test')[i // 4]},p{i % 11}")
    (tmp_path / "cases.csv").write_text("\n".join(lines))
    said = files.message(lambda: open_source(str(tmp_path / "cases.csv")))
    assert f"{tmp_path}/0.png (to train) and {tmp_path}/11.png (to test) are of p0" in said


@pytest.mark.parametrize("kind", ["series", "images"])
def test_patients_of_dicom_stay_together(tmp_path: Path, kind: str) -> None:
    for patient in range(10):
        for k in range(3):
            name = tmp_path / "ab"[patient % 2] / f"{k}_{patient}"
            if kind == "series":
                array = RNG.integers(0, 999, (6, 7, 4))
                files.dicom(name, array, PatientID=f"P{patient}")
            else:
                plane, number = RNG.integers(0, 99, (6, 7)), f"1.{patient}.{k}"
                name.parent.mkdir(exist_ok=True)
                tags: dict[str, Any] = {"PatientID": f"P{patient}", "SeriesInstanceUID": number}
                path = name.with_suffix(".dcm")
                files.write_slice(path, plane, 0, modality="MR", **tags, **files.NOWHERE)
    said = Heard()
    source = open_source(str(tmp_path), progress=said)
    assert apart(parts_of(source, lambda name: Path(name).stem[-1]))
    assert any("30 cases of 10 patients by PatientID of DICOM" in text for text in said.said)


def test_one_patient_for_all_tells_none_apart(tmp_path: Path) -> None:
    for i in range(12):
        files.dicom(tmp_path / "ab"[i % 2] / str(i), RNG.integers(0, 999, (6, 7, 4)))
    said = Heard()
    source = open_source(str(tmp_path), progress=said)
    assert len(source.train) > 6 and source.train.groups is None
    assert any("all cases have the PatientID of DICOM '1'" in text for text in said.said)


def test_subjects_of_bids_stay_together(tmp_path: Path) -> None:
    for subject in range(12):
        for run in range(2):
            path = tmp_path / f"sub-{subject:02}/ses-{run}/anat/sub-{subject:02}_T1w.nii.gz"
            path.parent.mkdir(parents=True)
            files.nifti(path, RNG.normal(size=(6, 6, 6)).astype(np.float32))
    lines = [
        f"{path.relative_to(tmp_path)},{'ab'[int(path.parts[-4][-2:]) % 2]}"
        for path in sorted(tmp_path.rglob("*.nii.gz"))
    ]
    (tmp_path / "cases.csv").write_text("\n".join(["image,label", *lines]))
    source = open_source(str(tmp_path / "cases.csv"))
    assert apart(parts_of(source, lambda name: name.split("/")[0]))


def test_a_folder_called_as_a_subject_names_no_patient(tmp_path: Path) -> None:
    root = tmp_path / "sub-study"
    for i in range(12):
        files.dicom(
            root / "ab"[i % 2] / str(i), RNG.integers(0, 999, (6, 7, 4)), PatientID=f"P{i // 3}"
        )
    source = open_source(str(root))
    assert apart(parts_of(source, lambda name: str(int(name.split("/")[-1]) // 3)))


def test_headers_of_metaimage_are_compared_by_their_voxels(tmp_path: Path) -> None:
    for name, seed in (("p1", 1), ("p2", 2), ("p3", 1)):
        (tmp_path / name).mkdir()
        voxels = np.random.default_rng(seed).normal(size=(5, 6, 7)).astype(np.float32)
        files.itk(tmp_path / name / "image.mhd", voxels)
    found = [tmp_path / name / "image.mhd" for name in ("p1", "p2", "p3")]
    assert identical(len(found), at_files(found), QUIET).tolist() == [0, 1, 0]


def test_groups_of_a_csv_are_one_in_any_spelling(tmp_path: Path) -> None:
    lines = ["Image,Label,Group"]
    for i in range(24):
        picture(tmp_path / f"{i}.png", i)
        lines.append(f"{i}.png,{'ab'[i % 2]},{('P %d', 'p  %d', 'p %d')[i % 3] % (i // 3)}")
    (tmp_path / "cases.csv").write_text("\n".join(lines))
    source = open_source(str(tmp_path / "cases.csv"))
    assert apart(parts_of(source, lambda name: str(int(Path(name).stem) // 3)))


def test_a_patient_of_whom_one_image_is_anothers_too(tmp_path: Path) -> None:
    paths = [picture(tmp_path / f"{i}.png", i) for i in range(3)]
    paths.append(Path(shutil.copy(paths[0], tmp_path / "3.png")))
    groups = ["p", "p", "q", "q"]
    cases = [Case(p.stem, (p,), group=g) for p, g in zip(paths, groups, strict=True)]
    found = together(cases, "here", QUIET)
    assert len({case.inseparable for case in found}) == 1
    assert [case.group for case in found] == groups


@pytest.mark.parametrize("distinct", [1, 2, 3])
def test_parts_that_are_said_must_not_share_the_few_files_that_there_are(
    tmp_path: Path, distinct: int
) -> None:
    for part in ("train", "val", "test"):
        for i in range(8):
            picture(tmp_path / part / "ab"[i % 2] / f"{i}.png", i % distinct)
    said = files.message(lambda: open_source(str(tmp_path)))
    assert "what is tested must not be trained on" in said


def test_a_patient_whom_only_some_files_name_stays_together(tmp_path: Path) -> None:
    for i in range(20):
        name = tmp_path / "ab"[i % 2] / str(i)
        if i < 6:
            files.dicom(name, RNG.integers(0, 999, (6, 7, 4)), PatientID="P")
        else:
            voxels = RNG.normal(size=(6, 7, 4)).astype(np.float32)
            files.nifti(name.with_suffix(".nii.gz"), voxels)
    said = Heard()
    source = open_source(str(tmp_path), progress=said)
    named = parts_of(source, lambda name: "P" if int(Path(name).name) < 6 else name)
    assert apart(named)
    assert "6 cases of 1 patients by PatientID of DICOM, kept together" in said.said[0]


@pytest.mark.parametrize("names", [("P0", "p 0"), ("P_0", "P-0"), ("sub_1", "sub 1")])
def test_a_patient_in_two_spellings_is_one(tmp_path: Path, names: tuple[str, str]) -> None:
    lines = ["image,label,split,patient"]
    for i in range(12):
        picture(tmp_path / f"{i}.png", i)
        own = names[i // 11] if i in (0, 11) else f"x{i}"
        lines.append(f"{i}.png,{'ab'[i % 2]},{('train', 'val', 'test')[i // 4]},{own}")
    (tmp_path / "cases.csv").write_text("\n".join(lines))
    said = files.message(lambda: open_source(str(tmp_path / "cases.csv")))
    assert f"0.png (to train) and {tmp_path}/11.png (to test) are of {names[0]}" in said


@pytest.mark.parametrize("distinct", [1, 2])
def test_data_that_hold_hardly_anything_but_copies(tmp_path: Path, distinct: int) -> None:
    for i in range(24):
        picture(tmp_path / "ab"[i % 2] / f"{i}.png", i // 2 % distinct)
    said = Heard()
    with pytest.raises(InputError, match="hold the same but have two labels"):
        open_source(str(tmp_path))
    accepted = Given(accepted={"labels": "accepted"})
    source = open_source(str(tmp_path), progress=said, given=accepted)
    assert len(source.test) > 2
    assert f"the 24 cases hold only {distinct} different files" in said.said[0]


@pytest.mark.parametrize(
    ("first", "second"), [("nii", "nii.gz"), ("nii.gz", "mha"), ("png", "jpg"), ("png", "PNG")]
)
def test_one_name_with_two_suffixes_is_one_image(tmp_path: Path, first: str, second: str) -> None:
    for i in range(12):
        for k, suffix in enumerate((first, second)):
            path = tmp_path / "ab"[i % 2] / f"{i}.{suffix}"
            if suffix in ("nii", "nii.gz", "mha"):
                write = files.itk if suffix == "mha" else files.nifti
                write(path, RNG.normal(size=(5, 6, 7)).astype(np.float32))
            else:
                picture(path, i + 100 * k)
    said = Heard()
    source = open_source(str(tmp_path), progress=said)
    parts = parts_of(source, lambda name: Path(name).name.partition(".")[0].partition("_")[0])
    assert apart(parts) and sum(map(len, parts)) == 12
    assert any("12 cases are called as another in their folder" in text for text in said.said)


def test_one_name_in_two_folders_is_no_sign(tmp_path: Path) -> None:
    for i in range(20):
        picture(tmp_path / "ab"[i % 2] / str(i) / "t1.png", i)
    said = Heard()
    assert open_source(str(tmp_path), progress=said).train.groups is None
    assert not any("called as another" in text for text in said.said)


def test_one_name_in_two_parts_is_refused(tmp_path: Path) -> None:
    lines = ["image,label,split"]
    for i in range(12):
        part = ("train", "val", "test")[i // 4]
        picture(tmp_path / f"{i}.png", i)
        lines.append(f"{i}.png,{'ab'[i % 2]},{part}")
    picture(tmp_path / "0.jpg", 50)
    lines.append("0.jpg,a,test")
    (tmp_path / "cases.csv").write_text("\n".join(lines))
    said = files.message(lambda: open_source(str(tmp_path / "cases.csv")))
    assert "0.png (to train)" in said and "0.jpg (to test)" in said and "but for its suffix" in said


def modalities(folder: Path, count: int, shared: dict[int, int], atlas: bool = False) -> Path:
    """Write a csv of two modalities; `shared` names cases whose second is that of another."""
    lines = ["image,image_2,label,split"]
    for i in range(count):
        picture(folder / f"{i}_a.png", i)
        second = folder / f"{i}_b.png"
        if i in shared:
            shutil.copy(folder / f"{shared[i]}_b.png", second)
        else:
            picture(second, 0 if atlas else 100 + i)
        part = ("train", "val", "test")[3 * i // count]
        lines.append(f"{i}_a.png,{i}_b.png,{'ab'[i % 2]},{part}")
    (folder / "cases.csv").write_text("\n".join(lines))
    return folder / "cases.csv"


def test_a_modality_that_two_cases_share_keeps_them_together(tmp_path: Path) -> None:
    path = modalities(tmp_path, 12, {11: 0})
    said = files.message(lambda: open_source(str(path)))
    assert "0_a.png (to train)" in said and "11_a.png (to test)" in said and "share a file" in said
    path.write_text(path.read_text().replace(",split", ",other"))
    source = open_source(str(path))
    parts = parts_of(source, lambda name: "x" if Path(name).name in ("0_a", "11_a") else name)
    assert apart(parts)


def test_the_first_of_one_case_may_be_the_second_of_another(tmp_path: Path) -> None:
    path = modalities(tmp_path, 12, {})
    shutil.copy(tmp_path / "0_b.png", tmp_path / "11_a.png")
    assert "share a file" in files.message(lambda: open_source(str(path)))


def test_an_atlas_that_all_cases_have_is_no_sign(tmp_path: Path) -> None:
    path = modalities(tmp_path, 12, dict.fromkeys(range(1, 12), 0))
    said = Heard()
    source = open_source(str(path), progress=said)
    assert len(source.test) == 4 and source.train.groups is None
    assert any(
        "more than half of the cases have" in text and "0_b.png" in text for text in said.said
    )
