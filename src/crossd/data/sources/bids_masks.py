"""Masks in BIDS: which of those that are there belong to the images, and what their classes are."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crossd.data.io.agreement import HIGHEST
from crossd.data.sources.bids_names import Name, anat_files, is_subject, subjects_in
from crossd.data.sources.case_list import first_few, require_distinct
from crossd.data.sources.case_table import lines_of
from crossd.data.sources.folder_walk import folders_in
from crossd.data.sources.structures import require_all
from crossd.errors import InputError

DERIVATIVES = "derivatives"
SUFFIXES = ("dseg", "mask")
"""How the names of masks end, before .nii."""

LABEL = "label-"
ANY = f"{LABEL}..."
TABLE = "dseg.tsv"


@dataclass(frozen=True)
class Masks:
    """The masks of images.

    Attributes:
        kind: What they are, for people.
        files: Of each subject and session its mask, or a mask for each class.
        classes: Names of the classes by their values, where they are known.
        structures: Whether there is a mask for each class.
    """

    kind: str
    files: dict[str, list[Path]]
    classes: dict[int, str] = field(default_factory=dict)
    structures: bool = False


def masks_of(root: Path, images: Mapping[str, Sequence[Path]]) -> Masks | None:
    """Find the masks of images: ``..._dseg.nii.gz`` and ``..._mask.nii.gz``.

    They lie below ``derivatives/PIPELINE/sub-X[/ses-Y]/anat``, or beside the images. Where their
    names differ in ``label-NAME`` alone, there is a mask for each class.

    Args:
        root: The data set.
        images: Of each subject and session.

    Returns:
        The masks; None where there are none.

    Raises:
        InputError: When there are masks of several pipelines or kinds, or an image has no mask.
    """
    kinds: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for pipeline, path, name in _found(root):
        own = [Name.of(image) for image in images.get(name.owner, ())]
        known = {part for one in own if one for part in (*one.others, one.suffix)}
        labelled = name.suffix == "mask" and any(part.startswith(LABEL) for part in name.others)
        said = [ANY if labelled and p.startswith(LABEL) else p for p in name.others]
        kind = "_".join([*(part for part in said if part not in known), name.suffix])
        kinds[f"{pipeline}/{kind}" if pipeline else kind][name.owner].append(path)
    if not kinds:
        return None
    if len(kinds) > 1:
        raise InputError(
            f"{root}: has masks of several kinds ({first_few(sorted(kinds))}); move all but those "
            "that are to be learnt elsewhere, or name image and mask of each case in a csv"
        )
    ((kind, files),) = kinds.items()
    alone = sorted(images.keys() ^ files.keys())
    if alone:
        lack = f"no image of masks ({kind})" if alone[0] in files else f"no mask ({kind})"
        raise InputError(
            f"{root}: {alone[0]} has {lack} ({len(alone):,} such); add or remove it, or name image "
            "and mask of each case in a csv"
        )
    if ANY in kind:
        return _by_label(root, kind, files)
    twice = next((own for own in files.values() if len(own) > 1), None)
    if twice is not None:
        raise InputError(f"{twice[1]}: is a second mask beside {twice[0].name}; remove one")
    classes = class_names(root, [own[0] for own in files.values()])
    return Masks(kind, files, classes)


def _found(root: Path) -> list[tuple[str, Path, Name]]:
    """List the masks: the pipeline that made each ("" beside the images), its file and name."""
    places = {"": subjects_in(root)}
    top = root / DERIVATIVES
    if top.is_dir():
        places[DERIVATIVES] = subjects_in(top)
        for pipeline in folders_in(top):
            if not is_subject(pipeline.name):
                places[f"{DERIVATIVES}/{pipeline.name}"] = subjects_in(pipeline)
    return [
        (pipeline, path, name)
        for pipeline, subjects in places.items()
        for path in anat_files(subjects)
        if (name := Name.of(path)) is not None and name.suffix in SUFFIXES
    ]


def _by_label(root: Path, kind: str, files: Mapping[str, Sequence[Path]]) -> Masks:
    """Sort masks of a class each by the names of the classes, which every image must have."""
    named: dict[str, dict[str, Path]] = {}
    for owner, paths in files.items():
        named[owner] = {}
        for path in paths:
            name = Name.of(path)
            assert name is not None
            label = next(p for p in name.others if p.startswith(LABEL))[len(LABEL) :]
            other = named[owner].setdefault(label, path)
            if other != path:
                raise InputError(f"{path}: is a second mask beside {other.name}; remove one")
    labels = sorted(set().union(*named.values()))
    require_distinct(labels, str(root))
    require_all({f"{root}, {owner}, {kind}": own for owner, own in named.items()}, labels)
    ordered = {owner: [own[label] for label in labels] for owner, own in named.items()}
    classes = {0: "background", **dict(enumerate(labels, start=1))}
    return Masks(kind, ordered, classes, structures=True)


def class_names(root: Path, masks: Sequence[Path]) -> dict[int, str]:
    """Read the names of classes from the tables ``dseg.tsv``; nothing where there are none.

    A table lies beside a mask, or in a folder above it; its name says less than that of the mask,
    ``desc-aseg_dseg.tsv`` for example. The nearest counts.

    Raises:
        InputError: When a table cannot be read, or two masks give one value two names.
    """
    above = {one for mask in masks for one in mask.parents if one == root or root in one.parents}
    tables = {one: sorted(one.glob(f"*{TABLE}")) for one in above}
    read = {table: _names_in(table) for own in tables.values() for table in own}
    classes: dict[int, str] = {}
    origin: dict[int, Path] = {}
    for mask in masks:
        parts = set(mask.name.split(".")[0].split("_"))
        own: dict[int, tuple[str, Path]] = {}
        for folder in reversed(mask.parents):
            for table in tables.get(folder, ()):
                if set(table.name.split(".")[0].split("_")) <= parts:
                    own |= {value: (name, table) for value, name in read[table].items()}
        for value, (name, table) in own.items():
            if classes.setdefault(value, name) != name:
                raise InputError(
                    f"{table}: calls {value} {name!r}, but {origin[value]} {classes[value]!r}"
                )
            origin.setdefault(value, table)
    if not classes:
        return {}
    classes.setdefault(0, "background")
    require_distinct(classes.values(), str(root))
    return dict(sorted(classes.items()))


def _names_in(table: Path) -> dict[int, str]:
    heads, rows = lines_of(table, "\t")
    if not {"index", "name"} <= set(heads):
        raise InputError(f"{table}: has the columns {first_few(heads)}; expected index and name")
    found: dict[int, str] = {}
    for number, row in rows:
        cells = dict(zip(heads, map(str.strip, row), strict=False))
        index, name = cells["index"], cells.get("name", "")
        valid = index.isdecimal() and int(index) <= HIGHEST
        if not valid or not name or int(index) in found:
            raise InputError(
                f"{table}, line {number}: calls {index!r} {name!r}; expected each value once, "
                f"from 0 to {HIGHEST:,}, and its name"
            )
        found[int(index)] = name
    return found
