"""Names that are one: classes, patients, the columns that name them, and what is between these."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import files
import numpy as np
import pytest
from files import picture
from made import Heard
from PIL import Image

from crossd.data.opening import open_source
from crossd.data.source import Given
from crossd.data.sources.case_list import require_distinct
from crossd.data.sources.case_table import read_table
from crossd.data.sources.spellings import group_name, plain
from crossd.errors import InputError


def table(folder: Path, columns: str, line: str, count: int = 24, mark: str = ",") -> Path:
    """Write a csv of images; `line` is formatted with the number and the letter of each."""
    lines = [columns]
    for i in range(count):
        picture(folder / f"{i}.png", i)
        lines.append(line.format(i=i, label="ab"[i % 2], patient=i // 3))
    path = folder / "cases.csv"
    path.write_text("\n".join(lines).replace(",", mark), encoding="utf-8")
    return path


def patients_apart(source: Any) -> bool:
    parts = (source.train, source.val, source.test)
    found = [{int(Path(part.name(i)).stem) // 3 for i in range(len(part))} for part in parts]
    return not (found[0] & found[1] | found[0] & found[2] | found[1] & found[2])


NFC, NFD = "caf\u00e9", unicodedata.normalize("NFD", "caf\u00e9")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (NFC, NFD),
        ("grade 1", "grade\u00a01"),
        ("low-grade", "low\u2013grade"),
        ("low-grade", "low\u2011grade"),
        ("low-grade", "low\u2212grade"),
        ("tumour", "tum\u200bour"),
        ("Stra\u00dfe", "STRASSE"),
        ("\uff21", "a"),
    ],
)
def test_classes_that_look_the_same_are_refused(tmp_path: Path, one: str, other: str) -> None:
    assert plain(one) == plain(other)
    with pytest.raises(InputError, match="differ in capitals, spaces, dashes or the way"):
        require_distinct([one, "else", other], "here")
    line = "{i}.png," + "{label}"
    path = table(tmp_path, "image,label", line)
    text = path.read_text(encoding="utf-8").replace(",a\n", f",{one}\n").replace(",b", f",{other}")
    path.write_text(text, encoding="utf-8")
    said = files.message(lambda: open_source(str(path)))
    assert ascii(one) in said and ascii(other) in said


def test_classes_that_are_two_stay_two() -> None:
    require_distinct(["grade 1", "grade 2", "no_tumor", "tumor", "caf\u00e9", "cafe"], "here")


def test_folders_of_one_class_in_two_encodings(tmp_path: Path) -> None:
    for i in range(20):
        picture(tmp_path / (NFC, NFD)[i % 2] / f"{i}.png", i)
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("this file system knows one of them only")
    assert "the way that accents are stored" in files.message(lambda: open_source(str(tmp_path)))


@pytest.mark.parametrize(
    "column",
    ["group", "Group", "patient", "Patient ID", "PatientID", "subject_id", "participant-id"],
)
def test_columns_that_name_patients(tmp_path: Path, column: str) -> None:
    path = table(tmp_path, f"image,label,{column}", "{i}.png,{label},P{patient}")
    assert patients_apart(open_source(str(path)))
    assert [case.group for case in read_table(path)][:4] == ["P0", "P0", "P0", "P1"]


@pytest.mark.parametrize("key", ["group", "patient", "patient_id", "subject", "Subject ID"])
@pytest.mark.parametrize("number", [True, False])
def test_keys_that_name_patients(tmp_path: Path, key: str, number: bool) -> None:
    entries = [
        {
            "image": picture(tmp_path / f"{i}.png", i).name,
            "label": i % 2,
            key: i // 3 if number else f"p{i // 3}",
        }
        for i in range(24)
    ]
    (tmp_path / "list.json").write_text(json.dumps({"training": entries}))
    assert patients_apart(open_source(str(tmp_path / "list.json")))
    entries[0]["fold"] = 0
    (tmp_path / "list.json").write_text(json.dumps({"training": entries}))
    said = files.message(lambda: open_source(str(tmp_path / "list.json")))
    assert "what is tested must not be trained on" in said


def test_two_names_of_patients_are_refused() -> None:
    with pytest.raises(InputError, match="patient and subject_id both name patients"):
        group_name(["image", "patient", "subject_id"], "here")
    assert group_name(["patient", "group", "subject"], "here") == "group"
    assert group_name(["image", "patients age", "grouping"], "here") is None


def test_what_is_not_read_is_spoken_of(tmp_path: Path) -> None:
    heard = Heard()
    open_source(str(table(tmp_path, "image,label,age,sex", "{i}.png,{label},4,f")), progress=heard)
    assert heard.said[0] == f"{tmp_path / 'cases.csv'}: the columns age, sex are not read"
    entries = [{"image": f"{i}.png", "label": i % 2, "weight": 3} for i in range(24)]
    content = {"training": entries, "holdout": entries[:3]}
    (tmp_path / "list.json").write_text(json.dumps(content))
    heard = Heard()
    open_source(str(tmp_path / "list.json"), progress=heard)
    assert heard.said[0] == (
        f"{tmp_path / 'list.json'}: the lists holdout are not read; the keys weight are not read"
    )


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_marks_between_fields(tmp_path: Path, mark: str) -> None:
    path = table(tmp_path, "Image,Label,patient", "{i}.png,{label},P{patient}", mark=mark)
    assert len(read_table(path)) == 24 and patients_apart(open_source(str(path)))


def test_marks_are_those_of_the_first_line(tmp_path: Path) -> None:
    path = table(tmp_path, "image,label", "{i}.png,{label}; of both\tkinds")
    assert {case.label for case in read_table(path)} == {"a; of both\tkinds", "b; of both\tkinds"}
    path.write_text('"image";"label"\n0.png;"a;b, c"\n1.png;d\n')
    assert [case.label for case in read_table(path)] == ["a;b, c", "d"]
    path.write_text("image|label\n0.png|a\n")
    said = files.message(lambda: read_table(path))
    assert "lacks the column image (it has image|label)" in said and "semicolons or tabs" in said
    path.write_text("image;label;spacing\n0.png;a;1,0 0,5 0,5\n")  # commas of decimals
    assert "spacing is '1,0 0,5 0,5'" in files.message(lambda: read_table(path))


@pytest.mark.parametrize("labels", [("1.0", "2.0"), ("Dr. No", "Dr. Yes"), ("v1.2", "T1.a")])
def test_names_of_classes_with_dots(tmp_path: Path, labels: tuple[str, str]) -> None:
    entries = [
        {"image": picture(tmp_path / f"{i}.png", i).name, "label": labels[i % 2]} for i in range(20)
    ]
    (tmp_path / "list.json").write_text(json.dumps({"training": entries}))
    source = open_source(str(tmp_path / "list.json"))
    assert source.task == "classification" and set(source.classes) == set(labels)


def test_files_for_labels(tmp_path: Path) -> None:
    entries = []
    for i in range(12):
        picture(tmp_path / f"{i}.png", i)
        Image.fromarray(np.full((12, 12), i % 2, np.uint8)).save(tmp_path / f"m{i}.png")
        entries.append({"image": f"{i}.png", "label": f"m{i}.png"})
    (tmp_path / "list.json").write_text(json.dumps({"training": entries}))
    assert open_source(str(tmp_path / "list.json")).task == "segmentation"
    entries[3]["label"] = "gone.png"
    (tmp_path / "list.json").write_text(json.dumps({"training": entries}))
    said = files.message(lambda: open_source(str(tmp_path / "list.json")))
    assert "the label 'gone.png' does not exist" in said
    (tmp_path / "m3.xyz").touch()  # a file, of no kind that is known
    entries[3]["label"] = "m3.xyz"
    (tmp_path / "list.json").write_text(json.dumps({"training": entries}))
    assert "m3.xyz" in files.message(lambda: open_source(str(tmp_path / "list.json")))
    path = table(tmp_path, "image,label", "{i}.png,m{i}.png", count=12)
    said = files.message(lambda: open_source(str(path)))
    assert "the labels are files, as m0.png; name the column of masks mask" in said


@pytest.mark.parametrize("fold", ["0", 1.5, [0]])
def test_folds_that_are_no_numbers(tmp_path: Path, fold: Any) -> None:
    entries = [
        {"image": picture(tmp_path / f"{i}.png", i).name, "label": i % 2, "fold": fold}
        for i in range(4)
    ]
    (tmp_path / "list.json").write_text(json.dumps({"training": entries}))
    assert "expected a whole number" in files.message(lambda: open_source(f"{tmp_path}/list.json"))


def test_classes_have_one_order_in_all_sources(tmp_path: Path) -> None:
    names = ["10", "9", "2"]
    lines, entries = ["image,label"], []
    for i in range(45):
        label = names[i % 3]
        picture(tmp_path / "folders" / label / f"{i}.png", i)
        lines.append(f"folders/{label}/{i}.png,{label}")
        entries.append({"image": f"folders/{label}/{i}.png", "label": int(label)})
    (tmp_path / "cases.csv").write_text("\n".join(lines))
    (tmp_path / "list.json").write_text(json.dumps({"training": entries}))
    opened = [open_source(str(tmp_path / name)) for name in ("folders", "cases.csv", "list.json")]
    assert [source.classes for source in opened] == [("2", "9", "10")] * 3
    for source in opened:
        assert source.train.labels is not None
        for i in range(len(source.train)):
            folder = Path(source.train.name(i)).parent.name
            assert source.classes[source.train.labels[i]] == folder


def test_classes_of_weights_keep_their_order(tmp_path: Path) -> None:
    for i in range(30):
        picture(tmp_path / ("10", "9", "2")[i % 3] / f"{i}.png", i)
    old = Given(labels=("10", "2", "9"))  # as text, as class folders were sorted
    source = open_source(str(tmp_path), given=old)
    assert source.classes == ("10", "2", "9") and source.train.labels is not None
    for i in range(len(source.train)):
        assert source.classes[source.train.labels[i]] == Path(source.train.name(i)).parent.name
    assert open_source(str(tmp_path), given=Given(labels=("x", "y"))).classes == ("2", "9", "10")
