"""Data sets whose files are lost, cut off, mixed up or written wrongly, opened one after the other.

Run by ``test_fuzz_folders.py``, as a process of its own that may be stopped.
"""

import json
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
import files
import layouts

from crossd.data.opening import open_source
from crossd.data.quality.checks import faults
from crossd.data.quality.survey import survey
from crossd.data.slicing import as_images
from crossd.errors import InputError
from crossd.inference.inputs import inputs
from crossd.utils.progress import Progress

JUNK: list[Any] = [None, True, -1, 0, 1.5, 10**9, "", "x", "a.nii.gz", "/", "..", [], {}, [[]]]
CELLS = ["", "n/a", "x", "-1", "1e9", "nan", "sub-00", "s0000", '"', "train", "..", "\0", "0"]
KEYS = ["images", "labels", "targets", "train_labels", "val_images", "names", "units", "groups"]
TYPES = ["f2", "f8", "u1", "i8", "bool", "c8", "U3", "S3", "M8[s]", "O"]
VALUES = [np.nan, np.inf, -1, 0, 2, 1e30, 0.5]
ODD = "\u00e9 \u202e.png"
NAMES = [
    ODD,
    "x.nii.gz",
    "sub-00_T1w.nii.gz",
    "sub-99_dseg.nii.gz",
    "ct.nii.gz",
    "m.nii.gz",
    ".x",
]


def made(kind: str, root: Path) -> Path:
    """Write a small data set of a kind."""
    if kind in ("findings", "numbers"):
        return table(kind, root)
    if kind.startswith("npz-"):
        return arrays(kind, root)
    parts = {"split": layouts.PARTS}
    if kind == "structures":
        return layouts.totalsegmentator(root, count=6)
    if kind == "bids":
        layouts.bids(root, 6, masks={"m/dseg": 0}, columns=parts, suffixes=("T1w", "FLAIR"))
        (root / "derivatives/m/dseg.tsv").write_text("index\tname\n1\ta\n2\tb\n3\tc\n")
        return root
    if kind == "bids-labels":
        masks = {"m/label-a_mask": 1, "m/label-b_mask": 2}
        return layouts.bids(root, 6, masks=masks, sessions=2)
    if kind == "bids-participants":
        return layouts.bids(root, 8, columns={"label": ["a", "b"], **parts})
    return listed(kind, root)


def table(kind: str, root: Path) -> Path:
    """Write images and a csv with columns of findings, or of numbers to learn."""
    heads = "image,label_a,Label_b" if kind == "findings" else "image,target_v [ml],target_age"
    lines = [f"{heads},split,group"]
    for i in range(16):
        files.picture(root / f"{i}.png", i)
        own = (i % 2, i // 2 % 2) if kind == "findings" else (i / 3, 40 + i)
        lines.append(f"{i}.png,{own[0]},{own[1]},{layouts.PARTS[i % 5]},p{i}")
    (root / "cases.csv").write_text("\n".join(lines) + "\n")
    return root / "cases.csv"


def arrays(kind: str, root: Path) -> Path:
    """Write an .npz of images with findings, or with numbers to learn."""
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    kept: dict[str, Any] = {"images": rng.integers(0, 256, (16, 8, 8), dtype=np.uint8)}
    if kind == "npz-findings":
        kept |= {"labels": np.stack([np.arange(16) % 2, np.arange(16) // 2 % 2], 1)}
    else:
        kept |= {"targets": rng.normal(size=(16, 2)), "units": np.array(["ml", ""])}
    kept |= {"names": np.array(["a", "b"]), "groups": np.array([f"p{i}" for i in range(16)])}
    np.savez(root / "a.npz", **kept)
    return root / "a.npz"


def listed(kind: str, root: Path) -> Path:
    """Write a data set with a ``dataset.json``."""
    names = [f"c{i}" for i in range(6)]
    for i, name in enumerate(names):
        masks = [layouts.box(k, i % 4) for k in range(2)]
        end = "_0000" if kind == "nnunet" else ""
        files.nifti(root / f"imagesTr/{name}{end}.nii.gz", layouts.image(i, masks))
        files.nifti(root / f"labelsTr/{name}.nii.gz", masks[0] + 2 * masks[1])
    content: dict[str, Any] = {"labels": {"background": 0, "a": 1, "b": 2}}
    if kind == "nnunet":
        folds = [{"train": names[:4], "val": names[4:]}]
        (root / "splits_final.json").write_text(json.dumps(folds))
        content |= {"channel_names": {"0": "CT"}, "numTraining": 6, "file_ending": ".nii.gz"}
    elif kind == "decathlon":
        content["training"] = [
            {"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names
        ]
        content |= {"modality": {"0": "CT"}, "test": ["./imagesTs/x.nii.gz"]}
    else:
        content["training"] = [
            {"image": f"imagesTr/{n}.nii.gz", "label": i % 2, "fold": i % 3}
            for i, n in enumerate(names * 3)
        ]
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def nodes(value: Any) -> list[tuple[Any, Any]]:
    """List all places in what a JSON file holds."""
    found = []
    for key in value if isinstance(value, dict) else range(len(value)):
        found.append((value, key))
        if isinstance(value[key], dict | list):
            found += nodes(value[key])
    return found


def edit_json(path: Path, rng: np.random.Generator) -> None:
    """Remove a value, or put another in its place."""
    content = json.loads(path.read_text())
    places = nodes(content)
    value, key = places[rng.integers(len(places))]
    if rng.random() < 0.3:
        del value[key]
    else:
        value[key] = JUNK[rng.integers(len(JUNK))]
    path.write_text(json.dumps(content))


def edit_table(path: Path, rng: np.random.Generator) -> None:
    """Remove, repeat or lengthen a row, remove a column, or write something else into a cell."""
    text = path.read_text()
    mark = next(one for one in "\t;,\n" if one in text)
    rows = [line.split(mark) for line in text.splitlines()]
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
    path.write_text("\n".join(map(mark.join, rows)))


def edit_arrays(path: Path, rng: np.random.Generator) -> None:
    """Remove an array, call it otherwise, or make another of it: in values, type or shape."""
    with np.load(path) as file:
        kept = dict(file)
    key = sorted(kept)[rng.integers(len(kept))]
    array = kept.pop(key)
    way = rng.integers(9)
    if way == 1:
        kept[(*KEYS, ODD)[rng.integers(len(KEYS) + 1)]] = array
    elif way == 2:
        kept[key] = array[: int(rng.integers(len(array) + 1))]
    elif way == 3:
        kept[key] = array.astype(TYPES[rng.integers(len(TYPES))])
    elif way == 4:
        kept[key] = array[..., None]
    elif way == 5:
        kept[key] = array.reshape(-1)[:1].reshape(())
    elif way == 6:
        kept[key] = np.full(array.shape, VALUES[rng.integers(len(VALUES))])
    elif way == 7:
        kept[key] = np.full(array.shape, "\udc80\x1b[2J\u202e"[int(rng.integers(1, 5)) :])
    elif way == 8:
        kept[key] = np.swapaxes(array, 0, -1)
    np.savez(path, **kept)


def edit(root: Path, rng: np.random.Generator) -> None:
    """Change one thing: in a text or an array, or a file or folder as a whole."""
    paths = sorted(one for one in root.rglob("*") if one.is_file())
    kinds = tuple(EDITORS)
    texts = [one for one in paths if one.suffix in kinds and one.stat().st_size > 2]
    if texts and rng.random() < 0.5:
        path = texts[rng.integers(len(texts))]
        EDITORS[path.suffix](path, rng)
        return
    everything = sorted(root.rglob("*"))
    path, other = everything[rng.integers(len(everything))], paths[rng.integers(len(paths))]
    name, way = NAMES[rng.integers(len(NAMES))], rng.integers(7)
    if way == 0:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif way == 1:
        raw = other.read_bytes()
        other.write_bytes(raw[: int(rng.integers(len(raw) + 1))])
    elif way == 2:
        second = paths[rng.integers(len(paths))]
        one, two = other.read_bytes(), second.read_bytes()
        other.write_bytes(two)
        second.write_bytes(one)
    elif way == 3:
        path.rename(path.with_name(name))
    elif way == 4 and path.is_dir():
        shutil.rmtree(path)
        path.write_bytes(b"x")
    elif way == 4:
        path.unlink()
        path.mkdir()
    elif way == 5:
        shutil.copy(other, (path if path.is_dir() else path.parent) / name)
    else:
        other.write_bytes(rng.bytes(int(rng.integers(40))))


EDITORS = {
    ".json": edit_json,
    ".tsv": edit_table,
    ".csv": edit_table,
    ".npz": edit_arrays,
}
"""How to change what is in a file, by its suffix."""


def refused(action: Callable[[], object]) -> bool:
    """Tell whether an action ends in one line that is for the user."""
    try:
        action()
    except InputError as error:
        assert "\n" not in str(error), error
        return True
    return False


def opened(root: Path, labels: bool) -> None:
    """Open a source as a training does, and read a sample of each part."""
    source = open_source(str(root), labels=labels)
    if labels:
        source.scale_of_numbers()
        if source.rank == 3:
            as_images(source, None, None, Progress(quiet=True))
    for part in (source.train, source.val, source.test):
        part[0]


def looked(root: Path) -> None:
    """Look at a source as `crossd inspect` does."""
    found = survey(str(root), 100, 0, Progress(quiet=True))
    found.sentence()
    faults(found)


def main(kind: str, folder: Path, first: int, last: int) -> None:
    """Change a data set by the seeds from `first` to `last`; prints how many are read, and not."""
    warnings.simplefilter("ignore")
    counts = [0, 0]
    whole, changed = folder / "good", folder / "changed"
    good = made(kind, whole)
    root = changed / good.relative_to(whole)
    opened(good, True)
    for seed in range(first, last):
        rng = np.random.default_rng(seed)
        shutil.rmtree(changed, ignore_errors=True)
        shutil.copytree(whole, changed)
        try:
            for _ in range(int(rng.integers(1, 4))):
                edit(changed, rng)
        except (OSError, ValueError, LookupError, TypeError, StopIteration, BadZipFile):
            # an edit before left nothing to be edited so
            continue
        try:
            counts[refused(lambda: opened(root, True))] += 1
            refused(lambda: opened(root, False))
            refused(lambda: looked(root))
            refused(lambda: inputs([str(root)], 1))
        except BaseException as error:
            raise RuntimeError(f"seed {seed}") from error
    print(*counts)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
