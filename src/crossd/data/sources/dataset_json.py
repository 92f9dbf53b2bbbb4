"""Lists of cases in JSON: ``dataset.json`` of nnU-Net and of the Decathlon, datalists of MONAI."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from crossd.data.io.agreement import HIGHEST
from crossd.data.sources.case_list import (
    Case,
    Listed,
    named,
    require_distinct,
    with_groups_alike,
)
from crossd.data.sources.case_pairs import read_pairs
from crossd.data.sources.case_table import file_at, spelled_alike
from crossd.data.sources.folder_walk import Say, look, names_file
from crossd.data.sources.spellings import group_name, not_read
from crossd.data.splits import part_of
from crossd.errors import InputError

NAME = "dataset.json"
SPLITS_FINAL = "splits_final.json"
KEYS = ("image", "label", "fold")
"""What is read of the entries of lists, beside their group."""

IGNORE = "ignore"
"""What nnU-Net calls the label of voxels that are not known."""


def find(path: Path) -> Path | None:
    """Find the JSON list that a path is, or the ``dataset.json`` that a folder holds.

    Raises:
        InputError: When the folder cannot be read.
    """
    if not path.is_dir():
        return path if path.suffix.lower() == ".json" and path.is_file() else None
    inside = {entry.name for entry in look(str(path))[2]}
    return path / NAME if NAME in inside else None


def read_dataset(file: Path, say: Say = lambda text: None) -> Listed:
    """Read a list of cases.

    Args:
        file: Of nnU-Net v2 (``channel_names``, ``labels``; the cases lie in ``imagesTr`` and
            ``labelsTr``, those to test on in ``imagesTs`` and ``labelsTs``, and a
            ``splits_final.json`` beside says what validates), or with a list ``training`` as the
            Medical Segmentation Decathlon and MONAI write it. Paths are relative to the file.
        say: Told of files of unknown kinds.

    Returns:
        The cases, and the names of their classes.

    Raises:
        InputError: When it is none of these, a file is missing, or it wants regions.
    """
    content = _content(file)
    if "channel_names" in content:
        return _ignoring(_of_nnunet(file, content, say), content)
    if isinstance(content.get("training"), list):
        return _ignoring(_of_lists(file, content), content)
    raise InputError(
        f"{file}: is no list of cases that is known; expected channel_names and labels (nnU-Net), "
        "or a list named training (Decathlon, MONAI); move a file of another kind elsewhere"
    )


def to_predict(file: Path) -> tuple[list[Case], list[Path]]:
    """List the images of all parts of a list, without their labels.

    Args:
        file: As `read_dataset` takes it.

    Returns:
        The cases of lists; or the folders of images of nnU-Net, ``imagesTr`` and ``imagesTs``.

    Raises:
        InputError: When it is no such list, or an image is missing.
    """
    content = _content(file)
    if "channel_names" in content:
        folders = [file.parent / f"images{which}" for which in ("Tr", "Ts")]
        return [], [folder for folder in folders if folder.is_dir() and look(str(folder))[2]]
    cases = []
    for key, number, _, entry in _entries(content):
        bare = {"image": entry} if isinstance(entry, str) else entry
        where = f"{file}, {key} {number}"
        if not isinstance(bare, Mapping):
            raise InputError(f"{where}: is {entry!r}; expected a path, or an entry with an image")
        names, paths = _images(file, where, bare)
        cases.append(Case(names[0], paths))
    return named(cases), []


def _ignoring(listed: Listed, content: Mapping[str, Any]) -> Listed:
    """Note for the cases which value of their masks the labels name `IGNORE`."""
    value = next(
        (value for name, value in _pairs_of(content.get("labels")) if _ignored(name)), None
    )
    if value is None or not listed.classes:
        return listed
    cases = [replace(case, ignore=int(value)) for case in listed.cases]
    return replace(listed, cases=cases)


def _ignored(name: object) -> bool:
    return str(name).strip().casefold() == IGNORE


def _pairs_of(labels: object) -> list[tuple[object, Any]]:
    """List names and values of labels, which either of the two may come first."""
    if not isinstance(labels, Mapping):
        return []
    return [(k, v) if isinstance(v, int | list) else (v, k) for k, v in labels.items()]


def _content(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"{file}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{file}: holds a {type(content).__name__}; expected names with values")
    return content


def _of_nnunet(file: Path, content: Mapping[str, Any], say: Say) -> Listed:
    root, channels = file.parent, content["channel_names"]
    classes = _classes(file, content.get("labels"))
    if not isinstance(channels, Mapping | Sequence) or not channels:
        raise InputError(f"{file}: channel_names is {channels!r}; expected a name for each channel")
    cases = _pairs(root, "Tr", len(channels), say)
    wanted = content.get("numTraining")
    if isinstance(wanted, int) and wanted != len(cases):
        raise InputError(
            f"{file}: says that there are {wanted} cases to train on, {root / 'labelsTr'} holds "
            f"{len(cases)}; complete it, or correct numTraining"
        )
    cases = _divided(root, cases)
    note = ""
    if (root / "imagesTs").is_dir() and not (root / "labelsTs").is_dir():
        note = "imagesTs is left out, as there is no labelsTs"
    elif (root / "imagesTs").is_dir():
        part = "train" if not any(case.split for case in cases) else ""
        cases = [replace(case, split=case.split or part) for case in cases]
        cases += [replace(case, split="test") for case in _pairs(root, "Ts", len(channels), say)]
    return Listed("nnU-Net data set", cases, classes, note=note)


def _pairs(root: Path, which: str, channels: int, say: Say) -> list[Case]:
    cases = read_pairs(root / f"images{which}", root / f"labels{which}", say)
    for case in cases:
        if len(case.images) != channels:
            raise InputError(
                f"{case.images[0]}: its case has {len(case.images)} files, but {root / NAME} names "
                f"{channels} channels"
            )
    return cases


def _divided(root: Path, cases: Sequence[Case]) -> list[Case]:
    """Take the first fold of nnU-Net's splits, where they are given."""
    file = root / SPLITS_FINAL
    if not file.is_file():
        return list(cases)
    try:
        fold = json.loads(file.read_text(encoding="utf-8"))[0]
        part = {name: said for said in ("train", "val") for name in map(str, fold[said])}
        twice = sorted(set(map(str, fold["train"])) & set(map(str, fold["val"])))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{file}: is no list of folds with train and val ({error!r})") from error
    if twice:
        raise InputError(f"{file}: its first fold trains and validates on {twice[0]}")
    lost = [case.name for case in cases if case.name not in part]
    if lost:
        raise InputError(f"{file}: its first fold lacks {lost[0]} ({len(lost)} such cases)")
    return [replace(case, split=part[case.name]) for case in cases]


def _of_lists(file: Path, content: Mapping[str, Any]) -> Listed:
    """Read lists of entries, each with an image and a label: a mask or a class."""
    group = group_name(_keys(content), str(file))
    cases: list[Case] = []
    bare = 0
    for key, number, part, entry in _entries(content):
        if not isinstance(entry, Mapping) or "label" not in entry:
            if part != "test":
                raise InputError(f"{file}, {key} {number}: has no label")
            bare += 1  # the Decathlon gives none for its tests
            continue
        cases.append(_entry(file, f"{file}, {key} {number}", part, entry, group))
    if not any(case.split == "train" for case in cases):
        raise InputError(f"{file}: lists no case to train on")
    folds = any(case.split == "val" for case in cases)
    masks = sum(case.mask is not None for case in cases)
    if masks not in (0, len(cases)):
        raise InputError(f"{file}: some labels are files of masks, and others classes")
    if not masks:
        cases = spelled_alike(cases, file)
    kind = "Decathlon data set" if "modality" in content else "MONAI datalist"
    classes = _classes(file, content.get("labels")) if masks and content.get("labels") else {}
    if not folds and all(case.split == "train" for case in cases):
        cases = [replace(case, split="") for case in cases]
    notes = [f"{bare} cases to test on have no label, and are left out"] if bare else []
    lists = [key for key, value in content.items() if isinstance(value, list) and not part_of(key)]
    others = [key for key in _keys(content) if key not in (*KEYS, group)]
    notes += filter(None, (not_read(lists, "lists"), not_read(others, "keys")))
    return Listed(kind, with_groups_alike(named(cases)), classes, note="; ".join(notes))


def _entries(content: Mapping[str, Any]) -> Iterator[tuple[str, int, str, object]]:
    """Yield what the lists hold that are parts: the list, the number in it, the part, the entry."""
    for key, entries in content.items():
        part = part_of(key)
        if part and isinstance(entries, list):
            yield from ((key, number, part, one) for number, one in enumerate(entries, start=1))


def _keys(content: Mapping[str, Any]) -> list[str]:
    """List the keys of all entries."""
    entries = (entry for *_, entry in _entries(content) if isinstance(entry, Mapping))
    return list(dict.fromkeys(str(key) for entry in entries for key in entry))


def _entry(file: Path, where: str, part: str, entry: Mapping[str, Any], group: str | None) -> Case:
    label, fold = entry["label"], entry.get("fold")
    names, paths = _images(file, where, entry)
    if fold is not None and not isinstance(fold, int):
        raise InputError(
            f"{where}: its fold is {fold!r}; expected a whole number, of which 0 validates"
        )
    if part == "train" and fold is not None:
        part = "val" if fold == 0 else "train"
    patient = entry.get(group) if group else None
    case = Case(names[0], paths, split=part, group="" if patient is None else str(patient).strip())
    if isinstance(label, str) and (names_file(label) or _is_file(file.parent / label)):
        return replace(case, mask=file_at(file, label, where, "label", True))
    if not isinstance(label, str | int):
        raise InputError(
            f"{where}: its label is {label!r}; expected the path of a mask, or a class"
        )
    return replace(case, label=str(label))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a text that is no path
        return False


def _images(file: Path, where: str, entry: Mapping[str, Any]) -> tuple[list[str], tuple[Path, ...]]:
    """Return the images of an entry as they are written, and as paths."""
    given = entry.get("image")
    listed = given if isinstance(given, list) else [given]
    images = [one for one in listed if isinstance(one, str)]
    if not images or len(images) != len(listed):
        raise InputError(f"{where}: its image is {given!r}; expected paths of files")
    return images, tuple(file_at(file, one, where, "image", True) for one in images)


def _classes(file: Path, labels: object) -> dict[int, str]:
    """Read the names of the classes by their values; what is ignored is checked, but no class.

    Raises:
        InputError: For regions, or anything else.
    """
    found: dict[int, str] = {}
    for name, number in _pairs_of(labels):
        if isinstance(number, list):
            raise InputError(
                f"{file}: the class {name} is a region of the labels {number}, which cannot be "
                "trained; give classes that do not overlap"
            )
        try:
            value = int(number)
        except (TypeError, ValueError):
            found = {}
            break
        if not 0 <= value <= HIGHEST or value in found:
            raise InputError(
                f"{file}: labels gives {name!r} the value {value}; expected a value of its own for "
                f"each, from 0 to {HIGHEST:,}"
            )
        found[value] = str(name)
    require_distinct(found.values(), str(file))
    found = {value: name for value, name in found.items() if not _ignored(name)}
    if len(found) < 2 or 0 not in found:
        raise InputError(
            f"{file}: labels is {labels!r}; expected a value for each name, 0 for the background"
        )
    return found
