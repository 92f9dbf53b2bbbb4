"""Lists of cases in JSON: ``dataset.json`` of nnU-Net and of the Decathlon, datalists of MONAI."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from crossd.data.io.agreement import HIGHEST
from crossd.data.sources.case_list import Case, Listed, named, require_distinct
from crossd.data.sources.case_pairs import read_pairs
from crossd.data.sources.case_table import file_at, spelled_alike
from crossd.data.splits import part_of
from crossd.errors import InputError

NAME = "dataset.json"
SPLITS_FINAL = "splits_final.json"

IGNORE = "ignore"
"""What nnU-Net calls the label of voxels that are not known."""


def find(path: Path) -> Path | None:
    """Find the JSON list that a path is, or the ``dataset.json`` that a folder holds."""
    file = path / NAME if path.is_dir() else path
    return file if file.suffix.lower() == ".json" and file.is_file() else None


def read_dataset(file: Path) -> Listed:
    """Read a list of cases.

    Args:
        file: Of nnU-Net v2 (``channel_names``, ``labels``; the cases lie in ``imagesTr`` and
            ``labelsTr``, those to test on in ``imagesTs`` and ``labelsTs``, and a
            ``splits_final.json`` beside says what validates), or with a list ``training`` as the
            Medical Segmentation Decathlon and MONAI write it. Paths are relative to the file.

    Returns:
        The cases, and the names of their classes.

    Raises:
        InputError: When it is none of these, a file is missing, or it wants regions.
    """
    content = _content(file)
    if "channel_names" in content:
        return _ignoring(_of_nnunet(file, content), content)
    if isinstance(content.get("training"), list):
        return _ignoring(_of_lists(file, content), content)
    raise InputError(
        f"{file}: is no list of cases that is known; expected channel_names and labels (nnU-Net), "
        "or a list named training (Decathlon, MONAI); move a file of another kind elsewhere"
    )


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
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{file}: holds a {type(content).__name__}; expected names with values")
    return content


def _of_nnunet(file: Path, content: Mapping[str, Any]) -> Listed:
    root, channels = file.parent, content["channel_names"]
    classes = _classes(file, content.get("labels"))
    if not isinstance(channels, Mapping | Sequence) or not channels:
        raise InputError(f"{file}: channel_names is {channels!r}; expected a name for each channel")
    cases = _pairs(root, "Tr", len(channels))
    wanted = content.get("numTraining")
    if isinstance(wanted, int) and wanted != len(cases):
        raise InputError(
            f"{file}: says that there are {wanted} cases to train on, {root / 'labelsTr'} holds "
            f"{len(cases)}; complete it, or correct numTraining"
        )
    cases = _divided(root, cases)
    if (root / "imagesTs").is_dir() and (root / "labelsTs").is_dir():
        part = "train" if not any(case.split for case in cases) else ""
        cases = [replace(case, split=case.split or part) for case in cases]
        cases += [replace(case, split="test") for case in _pairs(root, "Ts", len(channels))]
    return Listed("nnU-Net data set", cases, classes)


def _pairs(root: Path, which: str, channels: int) -> list[Case]:
    cases = read_pairs(root / f"images{which}", root / f"labels{which}")
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
    cases: list[Case] = []
    bare = 0
    for key, entries in content.items():
        part = part_of(key)
        if not part or not isinstance(entries, list):
            continue
        for number, entry in enumerate(entries, start=1):
            if not isinstance(entry, Mapping) or "label" not in entry:
                if part != "test":
                    raise InputError(f"{file}, {key} {number}: has no label")
                bare += 1  # the Decathlon gives none for its tests
                continue
            cases.append(_entry(file, f"{file}, {key} {number}", part, entry))
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
    note = f"{bare} cases to test on have no label, and are left out" if bare else ""
    return Listed(kind, named(cases), classes, note=note)


def _entry(file: Path, where: str, part: str, entry: Mapping[str, Any]) -> Case:
    given, label = entry.get("image"), entry["label"]
    listed = given if isinstance(given, list) else [given]
    images = [one for one in listed if isinstance(one, str)]
    if not images or len(images) != len(listed):
        raise InputError(f"{where}: its image is {given!r}; expected paths of files")
    if part == "train" and isinstance(entry.get("fold"), int):
        part = "val" if entry["fold"] == 0 else "train"
    paths = tuple(file_at(file, one, where, "image", True) for one in images)
    if isinstance(label, str) and "." in label:
        return Case(images[0], paths, file_at(file, label, where, "label", True), split=part)
    if not isinstance(label, str | int):
        raise InputError(
            f"{where}: its label is {label!r}; expected the path of a mask, or a class"
        )
    return Case(images[0], paths, label=str(label), split=part)


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
