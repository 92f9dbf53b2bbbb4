from pathlib import Path

import pytest

from crossd.errors import InputError
from crossd.inference import results

OWN = {"sha256": "1", "answer": "volume", "flips": False, "precision": "32-true"}


def test_the_table_takes_any_name(tmp_path: Path) -> None:
    rows = {'/a b/ü,"x"\n.nii': ["m\udcff.nii"], "/c": ["c.png"]}
    assert results.claim(tmp_path, OWN, ["mask"], rows, False).rows == {}
    results.Answers(tmp_path, ["mask"], rows).write()
    assert results.claim(tmp_path, OWN, ["mask"], [], False).rows == rows


def test_only_masks_within_the_folder_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    results.claim(folder, OWN, ["mask"], [], False)
    rows = {"/a": ["deep/a.nii.gz"], "/b": ["../b.nii"]}
    for name in ("b.nii", "out/deep/a.nii.gz", "out/deep/a.dcm", "out/deep/c.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    results.Answers(folder, ["mask"], rows).write()
    other = {**OWN, "flips": True}
    with pytest.raises(InputError, match="another --flips"):
        results.claim(folder, other, ["mask"], rows, False)
    with pytest.raises(InputError, match="answers of other settings for 1 files"):
        results.claim(folder, other, ["mask"], ["/a"], True)
    assert results.claim(folder, other, ["mask"], rows, True).rows == {}
    assert [p.name for p in (folder / "deep").iterdir()] == ["c.nii.gz"]
    assert (tmp_path / "b.nii").exists()


def test_runs_side_by_side_keep_the_lines_of_each_other(tmp_path: Path) -> None:
    first, second = (results.claim(tmp_path, OWN, ["mask"], [], False) for _ in range(2))
    first.rows["/a"], second.rows["/b"] = ["a.png"], ["b.png"]
    first.write()
    second.write()
    first.rows["/c"] = ["b.png"]
    first.gone.add("/b")
    first.write()
    assert results.claim(tmp_path, OWN, ["mask"], [], False).rows == {
        "/a": ["a.png"], "/c": ["b.png"],
    }  # fmt: skip


def test_a_folder_that_is_refused_stays_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").touch()
    with pytest.raises(InputError, match="is not empty"):
        results.claim(tmp_path, OWN, ["mask"], [], False)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
