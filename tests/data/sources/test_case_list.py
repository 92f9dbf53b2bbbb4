from collections import Counter
from pathlib import Path

import files
import numpy as np
import pytest

from crossd.data.opening import list_cases
from crossd.data.sources import case_list
from crossd.data.sources.case_pairs import pair_folders, read_pairs
from crossd.data.sources.case_table import read_table
from crossd.errors import InputError
from crossd.utils.progress import Progress

QUIET = Progress(quiet=True)
IMAGE = np.ones((4, 4, 4), np.int16)


def table(folder: Path, text: str, volumes: int = 4) -> Path:
    for i in range(volumes):
        files.nifti(folder / f"v{i}.nii.gz", IMAGE)
    path = folder / "cases.csv"
    path.write_text(text)
    return path


def test_a_table(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "image,image_t2,label,split,group,spacing\n"
        "v0.nii.gz,v1.nii.gz,sick,train,a,5 1 1\n"
        "v2.nii.gz,v3.nii.gz,well,test,b,\n",
    )
    first, second = read_table(path)
    assert first.images == (tmp_path / "v0.nii.gz", tmp_path / "v1.nii.gz")
    assert (first.name, first.label, first.split, first.group) == ("v0", "sick", "train", "a")
    assert first.spacing == (5, 1, 1) and second.spacing is None


def test_a_table_of_masks(tmp_path: Path) -> None:
    path = table(tmp_path, "image,mask\nv0.nii.gz,v1.nii.gz\n")
    assert read_table(path)[0].mask == tmp_path / "v1.nii.gz"
    assert read_table(table(tmp_path, "image\nv0.nii.gz\n"), labels=False)[0].name == "v0"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no lines"),
        ("image,label\n", "holds no lines"),
        ("file,label\nv0.nii.gz,1\n", "lacks the column image"),
        ("image,other\nv0.nii.gz,1\n", "has neither label nor mask"),
        ("image,label,mask\nv0.nii.gz,1,v1.nii.gz\n", "has both label and mask"),
        ("image,label\nv0.nii.gz,1\nv9.nii.gz,2\n", "line 3: the image 'v9.nii.gz' does not exist"),
        ("image,label\n/etc/passwd,1\n", "line 2: the image /etc/passwd leads out"),
        ("image,label\n../../v0.nii.gz,1\n", "leads out of the folder of the csv"),
        ("image,label\nC:\\v0.nii.gz,1\n", "leads out"),
        ("image,label\nv0.nii.gz,\n", "line 2: the field label is empty"),
        ("image,label\n\nv0.nii.gz,1\n\n\nv1.nii.gz,\n", "line 6: the field label is empty"),
        (
            'image,label,note\nv0.nii.gz,1,"two\nlines"\nv9.nii.gz,"a\n\nb",x\n',
            "line 4: the image 'v9.nii.gz' does not exist",
        ),
        ("image,label,note\nv0.nii.gz,1,a\u2028b\x0cc\nv1.nii.gz,,x\n", "line 3: the field label"),
        (
            "image,label,split\nv0.nii.gz,1,train\n\nv1.nii.gz,1,\n",
            "line 4: its split is empty, others are not; fill in every split, or none",
        ),
        ("image,label\nv0.nii.gz,1,2\n", "line 2: has more fields"),
        ("image,label,split\nv0.nii.gz,1,2nd\n", "split is '2nd'"),
        ("image,label,label\nv0.nii.gz,1,1\n", "has the column label twice"),
        ("image,label\nv0.nii.gz,A b\nv1.nii.gz,a  B\n", "'A b' and 'a  B' differ in capitals"),
        ("image,label,split\nv0.nii.gz,1,train\nv1.nii.gz,1,\n", "line 3: its split is empty"),
        ("image,label,split\nv0.nii.gz,1,test\n", "no line has the split train"),
        ("image,label,spacing\nv0.nii.gz,1,1 2\n", "spacing is '1 2'"),
        ("image,label,spacing\nv0.nii.gz,1,1 2 0\n", "spacing is '1 2 0'"),
        ('image,label\n"v0.nii.gz,1\n', "cannot be read as csv"),
    ],
)
def test_bad_tables(tmp_path: Path, text: str, words: str) -> None:
    path = table(tmp_path, text)
    with pytest.raises(InputError) as caught:
        read_table(path)
    message = str(caught.value)
    assert words in message and str(path) in message and "\n" not in message


def test_what_spreadsheets_and_pandas_write_is_read(tmp_path: Path) -> None:
    path = table(tmp_path, ",image,label,\r\n0,v0.nii.gz,1,\r\n\r\n1,v1.nii.gz,2,\r\n")
    assert [case.label for case in read_table(path)] == ["1", "2"]
    path.write_text('image,label\nv0.nii.gz,"of two\nlines"\nv1.nii.gz,2\n')
    assert [case.label for case in read_table(path)] == ["of two\nlines", "2"]


def test_splits_do_not_matter_without_labels(tmp_path: Path) -> None:
    path = table(tmp_path, "image,split\nv0.nii.gz,test\nv1.nii.gz,\n")
    assert len(read_table(path, labels=False)) == 2


def test_a_table_in_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "cases.csv"
    path.write_bytes(b"image,label\n\xff\xfe,1\n")
    with pytest.raises(InputError, match="cannot be read as csv"):
        read_table(path)


def test_pairs_of_folders(tmp_path: Path) -> None:
    root = files.pairs(tmp_path, 3, (6, 6, 6))
    found = pair_folders(root)
    assert found is not None
    assert [case.name for case in read_pairs(*found)] == ["case_0", "case_1", "case_2"]
    (root / "images" / "case_1.nii.gz").unlink()
    with pytest.raises(InputError, match=r"case_1.nii.gz: has no partner"):
        read_pairs(*found)


def test_modalities_numbered_as_nnunet_does(tmp_path: Path) -> None:
    for name in ("a_0000", "a_0001", "b_0000", "b_0001"):
        files.nifti(tmp_path / "imagesTr" / f"{name}.nii.gz", IMAGE)
    for name in ("a", "b"):
        files.nifti(tmp_path / "labelsTr" / f"{name}.nii.gz", IMAGE)
    found = pair_folders(tmp_path)
    assert found is not None
    assert [len(case.images) for case in read_pairs(*found)] == [2, 2]


def test_class_folders_of_files_and_series(tmp_path: Path) -> None:
    files.nifti(tmp_path / "a" / "sub" / "x.nii.gz", IMAGE)
    files.dicom(tmp_path / "b" / "patient" / "series", np.zeros((4, 4, 3)))
    found, _ = list_cases(tmp_path, QUIET)
    assert [(case.name, case.label) for case in found.cases] == [
        ("a/sub/x", "a"),
        ("b/patient/series", "b"),
    ]
    (tmp_path / "c").mkdir()
    assert list_cases(tmp_path / "c", QUIET)[0].cases == []


def made(count: int, groups: int = 0, split: str = "") -> list[case_list.Case]:
    return [
        case_list.Case(
            str(i), (Path(str(i)),), group=str(i % groups) if groups else "", split=split
        )
        for i in range(count)
    ]


def test_groups_are_never_split() -> None:
    listed = made(60, groups=12)
    parts = case_list.parts(listed, "segmentation", None, 0, "here")
    assert sorted(np.concatenate(parts).tolist()) == list(range(60))
    where = Counter(i % 12 for part in parts for i in set((part % 12).tolist()))
    assert set(where.values()) == {1}


def test_splits_that_are_said_are_kept_and_the_rest_is_drawn() -> None:
    listed = made(20, split="train") + made(5, split="test")
    train, val, test = case_list.parts(listed, "segmentation", None, 0, "here")
    assert test.tolist() == [20, 21, 22, 23, 24]
    assert len(val) >= 1 and len(train) + len(val) == 20
