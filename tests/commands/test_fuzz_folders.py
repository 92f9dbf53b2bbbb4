"""Data sets in which files were lost, cut off, mixed up or written wrongly: one line, or an answer."""

import subprocess
import sys
from pathlib import Path

import pytest


SCRIPT = """
import json, shutil, sys, warnings
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[1])
import files, layouts
from crossd.data.opening import open_source
from crossd.data.quality.survey import survey
from crossd.errors import InputError
from crossd.inference.inputs import inputs
from crossd.utils.progress import Progress

warnings.simplefilter("ignore")
kind, folder, first, last = sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
JUNK = [None, True, -1, 0, 1.5, 10**9, "", "x", "a.nii.gz", "/", "..", [], {}, [[]], {"a": None}]
CELLS = ["", "n/a", "x", "-1", "1e9", "nan", "sub-00", "s0000", '"', "train", "..", "\\x00", "0"]
NAMES = ["x.nii.gz", "sub-00_T1w.nii.gz", "sub-99_dseg.nii.gz", "ct.nii.gz", "masks", ".x", "a b.nii"]


def made(root):
    if kind == "structures":
        return layouts.totalsegmentator(root, count=6)
    parts = {"split": layouts.PARTS}
    if kind == "bids":
        layouts.bids(root, 6, masks={"m/dseg": 0}, columns=parts, suffixes=("T1w", "FLAIR"))
        (root / "derivatives/m/dseg.tsv").write_text("index\\tname\\n1\\ta\\n2\\tb\\n3\\tc\\n")
        return root
    if kind == "bids-labels":
        masks = {"m/label-a_mask": 1, "m/label-b_mask": 2}
        return layouts.bids(root, 6, masks=masks, sessions=2)
    if kind == "bids-participants":
        return layouts.bids(root, 8, columns={"label": ["a", "b"], **parts})
    names = [f"c{i}" for i in range(6)]
    for i, name in enumerate(names):
        masks = [layouts.box(k, i % 4) for k in range(2)]
        end = "_0000" if kind == "nnunet" else ""
        files.nifti(root / f"imagesTr/{name}{end}.nii.gz", layouts.image(i, masks))
        files.nifti(root / f"labelsTr/{name}.nii.gz", masks[0] + 2 * masks[1])
    if kind == "nnunet":
        folds = [{"train": names[:4], "val": names[4:]}]
        (root / "splits_final.json").write_text(json.dumps(folds))
        content = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1, "b": 2}}
        content |= {"numTraining": 6, "file_ending": ".nii.gz"}
    elif kind == "decathlon":
        entries = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names]
        content = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "a", "2": "b"}}
        content |= {"training": entries, "test": ["./imagesTs/x.nii.gz"]}
    else:
        entries = [{"image": f"imagesTr/{n}.nii.gz", "label": i % 2} for i, n in enumerate(names * 3)]
        content = {"training": [{**one, "fold": i % 3} for i, one in enumerate(entries)]}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def nodes(value):
    found = []
    for key in value if isinstance(value, dict) else range(len(value)):
        found.append((value, key))
        if isinstance(value[key], (dict, list)):
            found += nodes(value[key])
    return found


def edit_json(path, rng):
    content = json.loads(path.read_text())
    places = nodes(content)
    if not places:
        return
    value, key = places[rng.integers(len(places))]
    if rng.random() < 0.3:
        del value[key]
    else:
        value[key] = JUNK[rng.integers(len(JUNK))]
    path.write_text(json.dumps(content))


def edit_table(path, rng):
    mark = "\\t" if path.suffix == ".tsv" else ";"
    rows = [line.split(mark) for line in path.read_text().splitlines()]
    if not rows:
        return
    row = rows[rng.integers(len(rows))]
    way = rng.integers(5)
    if way == 0:
        rows.remove(row)
    elif way == 1:
        rows.append(row)
    elif way == 2:
        column = rng.integers(len(row))
        rows = [own[:column] + own[column + 1 :] for own in rows]
    elif way == 3:
        row += ["x"] * 3
    else:
        row[rng.integers(len(row))] = CELLS[rng.integers(len(CELLS))]
    path.write_text("\\n".join(map(mark.join, rows)))


def edit(root, rng):
    paths = sorted(one for one in root.rglob("*") if one.is_file())
    texts = [one for one in paths if one.suffix in (".json", ".tsv", ".csv") and one.stat().st_size > 2]
    if texts and rng.random() < 0.5:
        path = texts[rng.integers(len(texts))]
        try:
            (edit_json if path.suffix == ".json" else edit_table)(path, rng)
        except ValueError:  # which an edit before made of it
            path.write_bytes(b"")
        return
    everything = sorted(root.rglob("*"))
    path = everything[rng.integers(len(everything))]
    other = paths[rng.integers(len(paths))]
    way = rng.integers(7)
    if way == 0:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif way == 1 and path.is_file():
        raw = path.read_bytes()
        path.write_bytes(raw[: int(rng.integers(len(raw) + 1))])
    elif way == 2 and path.is_file():
        first, second = path.read_bytes(), other.read_bytes()
        path.write_bytes(second)
        other.write_bytes(first)
    elif way == 3:
        path.rename(path.with_name(NAMES[rng.integers(len(NAMES))] + "_" * int(rng.integers(2))))
    elif way == 4:
        if path.is_dir():
            shutil.rmtree(path)
            path.write_bytes(b"x")
        else:
            path.unlink()
            path.mkdir()
    elif way == 5:
        place = path if path.is_dir() else path.parent
        shutil.copy(other, place / NAMES[rng.integers(len(NAMES))].replace("masks", "m.nii.gz"))
    else:
        (path if path.is_file() else other).write_bytes(rng.bytes(int(rng.integers(40))))


def tried(action):
    try:
        action()
    except InputError as error:
        assert "\\n" not in str(error), error
        return 1
    return 0


def opened(root, labels):
    source = open_source(str(root), labels=labels)
    for part in (source.train, source.val, source.test):
        part[0]


quiet, outcomes = Progress(quiet=True), [0, 0]
good = made(folder / "good")
assert not tried(lambda: opened(good, True))
for seed in range(first, last):
    rng = np.random.default_rng(seed)
    root = folder / "changed"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(good, root)
    try:
        for _ in range(int(rng.integers(1, 4))):
            edit(root, rng)
    except (OSError, ValueError, IndexError):  # nothing is left to be edited so
        continue
    try:
        outcomes[tried(lambda: opened(root, True))] += 1
        tried(lambda: opened(root, False))
        tried(lambda: survey(str(root), 100, 0, quiet))
        tried(lambda: inputs([str(root)], 1))
    except BaseException as error:
        import traceback

        where = traceback.format_exc()
        raise SystemExit(f"seed {seed}: {type(error).__name__}: {error} {where}") from error
print(*outcomes)
"""

KINDS = (
    *("structures", "bids", "bids-labels", "bids-participants"),
    *("nnunet", "decathlon", "monai"),
)


def changed(tmp_path: Path, kind: str, first: int, last: int) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-c", SCRIPT, str(Path(__file__).parents[1])),
            *(kind, str(tmp_path), str(first), str(last)),
        ],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    read, refused = (int(value) for value in done.stdout.split())
    assert read > 0 and refused > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_changed_data_sets_are_read_or_refused_in_a_line(tmp_path: Path, kind: str) -> None:
    changed(tmp_path, kind, 0, 300)
