"""Data sets in the Brain Imaging Data Structure (BIDS)."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import files
import layouts
import numpy as np
import pytest
from made import Heard

from crossd.data.opening import list_cases, open_source
from crossd.data.quality.survey import survey
from crossd.inference.inputs import inputs
from crossd.utils.progress import Progress

QUIET = Progress(quiet=True)
DSEG = {"manual/dseg": 0}


def refused(root: Path) -> str:
    return files.message(lambda: open_source(str(root)))


def told(root: Path) -> str:
    said = Heard()
    open_source(str(root), progress=said)
    return " | ".join(said.said)


def count(source: Any) -> int:
    return len(source.train) + len(source.val) + len(source.test)


def subjects(source: Any) -> list[set[str]]:
    parts = (source.train, source.val, source.test)
    return [{part.name(i).split("/")[0] for i in range(len(part))} for part in parts]


@pytest.mark.parametrize("sessions", [1, 2])
def test_masks_of_numbers_with_the_names_of_their_classes(tmp_path: Path, sessions: int) -> None:
    root = layouts.bids(tmp_path, sessions=sessions, masks=DSEG)
    source = open_source(str(root))
    assert source.classes == ("background", "1", "2", "3")
    table = "index\tname\tcolor\n1\tGrey matter\tred\n2\tWhite matter\tn/a\n3\tLesion\tblue\n"
    (root / "derivatives/manual/dseg.tsv").write_text(table)
    source = open_source(str(root))
    assert source.classes == ("background", "Grey matter", "White matter", "Lesion")
    assert count(source) == 10 * sessions
    train, val, test = subjects(source)
    assert not (train & val | train & test | val & test)
    said = survey(str(root), 100, 0, QUIET).sentence()
    assert (
        f"BIDS data set; {10 * sessions} volumes, masks of the values 0, 1, 2, 3 (3 classes" in said
    )
    assert "10 patients" in said


def test_the_nearest_table_names_the_classes(tmp_path: Path) -> None:
    root = layouts.bids(tmp_path, masks={"fs/desc-aseg_dseg": 0})
    head = "index\tname\n"
    (root / "derivatives/dseg.tsv").write_text(f"{head}1\tx\n2\ty\n3\tz\n")
    (root / "derivatives/fs/desc-aseg_dseg.tsv").write_text(f"{head}1\tcortex\n")
    (root / "derivatives/fs/desc-other_dseg.tsv").write_text(f"{head}1\twrong\n")
    assert open_source(str(root)).classes == ("background", "cortex", "y", "z")
    own = root / "derivatives/fs/sub-03/anat/sub-03_desc-aseg_dseg.tsv"
    own.write_text(f"{head}2\tanother\n")
    said = refused(root)
    assert said == f"{own}: calls 2 'another', but {root / 'derivatives/dseg.tsv'} 'y'"


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("a\tb\n1\tx\n", "has the columns a, b; expected index and name"),
        ("index\tname\n1\tx\n1\ty\n", "line 3: calls '1' 'y'; expected each value once"),
        ("index\tname\n-1\tx\n", "line 2: calls '-1' 'x'"),
        ("index\tname\n1\n", "line 2: calls '1' ''"),
        ("index\tname\n1\tx\n2\tX\n3\tz\n", "the classes 'x' and 'X' differ in capitals"),
        ("index\tname\n1\tx\n2\tx\n3\tz\n", "two classes are called 'x'"),
        ("index\tname\n1\tx\n2\ty\n", "holds 3, but the classes have the values 0, 1, 2"),
        ("", "has the columns ; expected index and name"),
        ("\xff", "cannot be read as tsv"),
    ],
)
def test_tables_that_are_wrong(tmp_path: Path, table: str, words: str) -> None:
    root = layouts.bids(tmp_path, masks=DSEG)
    (root / "derivatives/manual/dseg.tsv").write_text(table, encoding="latin-1")
    assert words in refused(root)


def test_a_mask_of_each_label(tmp_path: Path) -> None:
    masks = {f"manual/label-{name}_mask": k for k, name in enumerate(("b", "a", "c"), start=1)}
    root = layouts.bids(tmp_path, masks=masks)
    source = open_source(str(root))
    assert source.classes == ("background", "a", "b", "c")
    both = layouts.bids(tmp_path / "both", masks=DSEG)
    numbers = {int(v) for i in range(7) for v in source.train[i]["mask"].unique()}
    assert numbers == {0, 1, 2, 3}
    case = list_cases(root, QUIET)[0].cases[0]
    first = open_source(str(both)).train
    assert case.structures[0] == "sub-00_label-a_mask.nii.gz" and len(first) == len(source.train)
    (root / "derivatives/manual/sub-04/anat/sub-04_label-c_mask.nii.gz").unlink()
    words = "sub-04, derivatives/manual/label-..._mask: has no mask of c, which others have"
    assert words in refused(root)


def test_a_mask_without_a_label_is_one_class(tmp_path: Path) -> None:
    root = layouts.bids(tmp_path, masks={"manual/space-orig_desc-lesion_mask": 1})
    assert open_source(str(root)).classes == ("background", "1")
    assert "masks are derivatives/manual/space-orig_desc-lesion_mask" in told(root)


def test_masks_beside_the_images(tmp_path: Path) -> None:
    root = layouts.bids(tmp_path, masks={"/T1w_dseg": 0})
    for one in (root / "derivatives").rglob("*.nii.gz"):
        shutil.move(one, root / one.parent.relative_to(root / "derivatives") / one.name)
    source = open_source(str(root))
    assert source.classes == ("background", "1", "2", "3") and source.channels == 1


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        (
            {"fmriprep/desc-brain_mask": 1, "fmriprep/dseg": 0},
            "has masks of several kinds (derivatives/fmriprep/desc-brain_mask, derivatives/fmri",
        ),
        ({"a/dseg": 0, "b/dseg": 0}, "(derivatives/a/dseg, derivatives/b/dseg); move all but"),
        (
            {"a/dseg": 0, "a/space-MNI_dseg": 0},
            "(derivatives/a/dseg, derivatives/a/space-MNI_dseg)",
        ),
        ({"a/label-x_mask": 1, "a/mask": 1}, "(derivatives/a/label-..._mask, derivatives/a/mask)"),
    ],
)
def test_masks_of_several_kinds_are_refused(
    tmp_path: Path, masks: dict[str, int], words: str
) -> None:
    assert words in refused(layouts.bids(tmp_path, masks=masks))


def test_labels_of_participants(tmp_path: Path) -> None:
    columns = {"label": ["healthy", "ill"], "group": ["control"], "sex": ["n/a", "F"]}
    root = layouts.bids(tmp_path, sessions=2, masks=DSEG, columns=columns)
    source = open_source(str(root))
    assert source.task == "classification" and source.classes == ("healthy", "ill")
    train, val, test = subjects(source)
    assert not (train & val | train & test | val & test) and count(source) == 20
    assert "labels are those of participants.tsv" in told(root)


@pytest.mark.parametrize(
    ("columns", "task", "names"),
    [
        (
            {"label_Edema": ["1", "0", "n/a"], "label_mass": ["0", "1"]},
            "multilabel",
            ["Edema", "mass"],
        ),
        ({"target_volume [ml]": ["1.5", "2", "n/a"]}, "regression", ["volume"]),
    ],
)
def test_findings_and_numbers_of_participants(
    tmp_path: Path, columns: dict[str, list[str]], task: str, names: list[str]
) -> None:
    source = open_source(str(layouts.bids(tmp_path, sessions=2, columns=columns)))
    assert source.task == task and list(source.classes) == names
    train, val, test = subjects(source)
    assert not (train & val | train & test | val & test) and count(source) == 20


@pytest.mark.parametrize("masks", [True, False])
def test_parts_of_participants(tmp_path: Path, masks: bool) -> None:
    columns = {"split": layouts.PARTS, **({} if masks else {"Label": ["a", "b"]})}
    root = layouts.bids(tmp_path, columns=columns, masks=DSEG if masks else None)
    source = open_source(str(root))
    assert subjects(source)[1:] == [{"sub-03", "sub-08"}, {"sub-04", "sub-09"}]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"label": ["a", "n/a"]}, "participants.tsv, line 3: the field label is empty"),
        ({"label": ["a", "A"]}, "the classes 'A' and 'a' differ in capitals"),
        ({"label": ["a"]}, "has one class, a"),
        ({"label": ["a", "b"], "split": ["train", "x"]}, "line 3: split is 'x'"),
        ({"label": ["a", "b"], "split": ["train", "n/a"]}, "line 3: its split is empty"),
        ({"label": ["a", "b"], "LABEL": ["a", "b"]}, "has the column label twice"),
    ],
)
def test_participants_are_read_as_a_csv_is(
    tmp_path: Path, columns: dict[str, list[str]], words: str
) -> None:
    assert words in refused(layouts.bids(tmp_path, columns=columns))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.replace("sub-03", "sub-99"), "has no line of sub-03; add it"),
        (lambda t: t + "sub-03\t1\tc\n", "line 12: says something else of sub-03 than before"),
        (lambda t: t.replace("participant_id", "id"), "expected participant_id"),
        (lambda t: "", "has neither masks"),
        (lambda t: "\xff" + t, "cannot be read as tsv"),
    ],
)
def test_participants_that_are_wrong(
    tmp_path: Path, change: Callable[[str], str], words: str
) -> None:
    root = layouts.bids(tmp_path, columns={"label": ["a", "b"]})
    file = root / "participants.tsv"
    file.write_text(change(file.read_text()), encoding="latin-1")
    assert words in refused(root)


def test_ids_without_sub(tmp_path: Path) -> None:
    root = layouts.bids(tmp_path, columns={"label": ["a", "b"]})
    file = root / "participants.tsv"
    file.write_text(file.read_text().replace("sub-", ""), encoding="utf-8-sig")
    assert open_source(str(root)).classes == ("a", "b")


def test_without_masks_and_labels_it_is_unlabelled(tmp_path: Path) -> None:
    root = layouts.bids(tmp_path, columns={"group": ["x", "y"]})
    said = refused(root)
    assert "has neither masks (sub-..._dseg.nii.gz or sub-..._mask.nii.gz below" in said
    assert "nor a column label in participants.tsv (it has participant_id, age, group)" in said
    source = open_source(str(root), labels=False)
    assert source.task == "unlabelled" and len(source.train) == 10
    found = survey(str(root), 100, 0, QUIET)
    assert found.kind == "BIDS data set" and any("has neither masks" in one for one in found.notes)
    assert "10 volumes, 10 patients, without labels" in found.sentence()


def test_images_of_one_place_are_channels(tmp_path: Path) -> None:
    root = layouts.bids(tmp_path, suffixes=("T1w", "FLAIR"), masks={"a/T1w_dseg": 0})
    source = open_source(str(root))
    assert source.channels == 2
    assert "channels are FLAIR, T1w" in told(root)
    case = list_cases(root, QUIET)[0].cases[0]
    names = [path.name for path in case.images]
    assert names == ["sub-00_FLAIR.nii.gz", "sub-00_T1w.nii.gz"]


def elsewhere(root: Path) -> None:
    affine = np.eye(4)
    affine[2, 3] = 9
    for one in root.glob("sub-*/anat/*FLAIR.nii.gz"):
        files.nifti(one, layouts.voxels(one), affine)


def one_elsewhere(root: Path) -> None:
    affine = np.eye(4)
    affine[2, 3] = 9
    one = root / "sub-05/anat/sub-05_FLAIR.nii.gz"
    files.nifti(one, layouts.voxels(one), affine)


def one_lacks(root: Path) -> None:
    (root / "sub-05/anat/sub-05_FLAIR.nii.gz").unlink()


def one_twice(root: Path) -> None:
    one = root / "sub-05/anat/sub-05_FLAIR.nii.gz"
    shutil.copy(one, one.with_name("sub-05_run-2_FLAIR.nii.gz"))


def of_another(root: Path) -> None:
    one = root / "sub-05/anat/sub-05_FLAIR.nii.gz"
    one.rename(one.with_name("sub-06_FLAIR.nii.gz"))


def of_a_session(root: Path) -> None:
    one = root / "sub-05/anat/sub-05_FLAIR.nii.gz"
    one.rename(one.with_name("sub-05_ses-1_FLAIR.nii.gz"))


def mask_lacks(root: Path) -> None:
    (root / "derivatives/a/sub-05/anat/sub-05_dseg.nii.gz").unlink()


def image_lacks(root: Path) -> None:
    shutil.rmtree(root / "sub-05")


def mask_elsewhere(root: Path) -> None:
    affine = np.eye(4)
    affine[2, 3] = 9
    one = root / "derivatives/a/sub-05/anat/sub-05_dseg.nii.gz"
    files.nifti(one, layouts.voxels(one).astype(np.uint8), affine)


def mask_twice(root: Path) -> None:
    one = root / "derivatives/a/sub-05/anat/sub-05_dseg.nii.gz"
    files.nifti(one.with_suffix(""), layouts.voxels(one).astype(np.uint8))


def no_anat(root: Path) -> None:
    for one in root.glob("sub-*/anat"):
        one.rename(one.with_name("dwi"))


def all_ignored(root: Path) -> None:
    (root / ".bidsignore").write_text("sub-*/\n")


def negated(root: Path) -> None:
    (root / ".bidsignore").write_text("!sub-01/\n")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (elsewhere, "each session has FLAIR and T1w, which are no channels of one image: "),
        (one_elsewhere, "sub-05_T1w.nii.gz: lies up to 9 mm from"),
        (one_lacks, "sub-00 has FLAIR and T1w, but sub-05 has T1w; name the images to use in a"),
        (one_twice, "sub-05_run-2_FLAIR.nii.gz: is a second FLAIR of sub-05, beside sub-05_FLAIR"),
        (of_another, "sub-06_FLAIR.nii.gz: is named as one of sub-06, but lies in the folder of s"),
        (of_a_session, "is named as one of sub-05_ses-1, but lies in the folder of sub-05;"),
        (mask_lacks, "sub-05 has no mask (derivatives/a/dseg) (1 such)"),
        (image_lacks, "sub-05 has no image of masks (derivatives/a/dseg) (1 such)"),
        (mask_elsewhere, "sub-05_dseg.nii.gz: lies up to 9 mm from"),
        (mask_twice, "is a second mask beside sub-05_dseg.nii"),
        (no_anat, "is a data set in BIDS without an image in anat/ of a subject"),
        (all_ignored, "(20 files that .bidsignore names are left out)"),
        (negated, ".bidsignore: has a line that begins with !"),
    ],
)
def test_what_is_refused(tmp_path: Path, change: Callable[[Path], object], words: str) -> None:
    root = layouts.bids(tmp_path, suffixes=("FLAIR", "T1w"), masks={"a/dseg": 0})
    change(root)
    assert words in refused(root)


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    root = layouts.bids(tmp_path, masks=DSEG)
    files.nifti(root / "sub-00/func/sub-00_task-rest_bold.nii.gz", np.zeros((3, 3, 3, 9), "f4"))
    files.nifti(root / "sub-00/anat/sub-00_lesion.nii.gz", layouts.box(1))
    files.nifti(root / "sub-00/anat/old.nii.gz", layouts.image(5))
    files.nifti(root / "phantom.nii.gz", layouts.image(6))
    files.nifti(root / "code/sub-00_T1w.nii.gz", layouts.image(6))
    (root / "sub-00/func/sub-00_task-rest_events.tsv").write_text("onset\n")
    (root / ".bidsignore").write_text("# comment\n\nsub-09/\n*_acq-bad_*\n")
    shutil.copy(
        root / "sub-01/anat/sub-01_T1w.nii.gz", root / "sub-01/anat/sub-01_acq-bad_T1w.nii.gz"
    )
    shutil.rmtree(root / "derivatives/manual/sub-09")
    said = told(root)
    for words in (
        "2 files that .bidsignore names are left out",
        "lesion, old.nii.gz are left out",
        "func are left out",
        "phantom.nii.gz are left out",
        "1 subjects have no image in anat/",
    ):
        assert words in said
    source = open_source(str(root))
    assert count(source) == 9 and source.channels == 1


def test_a_file_of_no_subject_does_not_part_the_others(tmp_path: Path) -> None:
    root = layouts.bids(tmp_path / "data", sessions=3, subjects=8)
    lines = ["image,label"]
    for i, path in enumerate(sorted(root.rglob("*.nii.gz"))):
        lines.append(f"{path.relative_to(tmp_path)},{'ab'[i // 3 % 2]}")
    files.nifti(tmp_path / "data/phantom.nii.gz", layouts.image(6))
    lines.append("data/phantom.nii.gz,a")
    (tmp_path / "cases.csv").write_text("\n".join(lines))
    said = Heard()
    source = open_source(str(tmp_path / "cases.csv"), progress=said)
    parts = [
        {part.name(i).split("/")[1] for i in range(len(part))}
        for part in (source.train, source.val, source.test)
    ]
    assert not (parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2])
    assert any("24 cases of 8 patients by subject in the names" in text for text in said.said)


def test_class_folders_called_as_subjects_stay_class_folders(tmp_path: Path) -> None:
    for label in ("sub-acute", "chronic"):
        for i in range(10):
            seed = i + 100 * (label == "chronic")
            files.nifti(tmp_path / label / f"{i}.nii.gz", layouts.image(seed))
    said = Heard()
    source = open_source(str(tmp_path), progress=said)
    assert source.classes == ("chronic", "sub-acute") and source.train.groups is None


@pytest.mark.parametrize("suffixes", [("T1w",), ("T1w", "FLAIR")])
def test_images_are_input_and_masks_are_not(tmp_path: Path, suffixes: tuple[str, ...]) -> None:
    root = layouts.bids(tmp_path, suffixes=suffixes, masks={"a/dseg": 0, "b/dseg": 0})
    found = inputs([str(root)], len(suffixes), out=root / "derivatives/crossd")
    assert len(found) == 10 and all(len(case.images) == len(suffixes) for case in found)
    first = sorted(suffixes)[0]
    assert found[0].name == f"sub-00/anat/sub-00_{first}"
