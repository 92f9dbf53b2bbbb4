"""Data sets in the Brain Imaging Data Structure (BIDS): images, masks, and what participants are.

Images are ``sub-X[/ses-Y]/anat/sub-X[_ses-Y]_..._T1w.nii.gz``. Each session of a subject is a case,
and all of a subject are of one group.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from crossd.data.io.agreement import in_same_place
from crossd.data.io.header import is_volume
from crossd.data.io.read import read_header
from crossd.data.sources.bids_masks import SUFFIXES as MASKS
from crossd.data.sources.bids_masks import Masks, masks_of
from crossd.data.sources.bids_names import (
    IGNORE,
    Name,
    anat_files,
    ignored,
    sessions_of,
    subjects_in,
)
from crossd.data.sources.case_list import Listed, first_few
from crossd.data.sources.case_table import cases_of, lines_of
from crossd.data.sources.folder_walk import folders_in, look
from crossd.errors import InputError

DESCRIPTION, PARTICIPANTS = "dataset_description.json", "participants.tsv"
IMAGES = frozenset(
    "T1w T2w PDw T2starw FLAIR inplaneT1 inplaneT2 PDT2 angio T2star FLASH PD T1map T2map "
    "T2starmap R1map R2map R2starmap PDmap MTRmap MTsat UNIT1 T1rho MWFmap MTVmap Chimap S0map "
    "M0map MESE MEGRE VFA IRT1 MP2RAGE MPM MTS MTR CT ct".split()
)
"""How the names of images in anat/ end, before .nii: as BIDS names them, and CT."""

EMPTY = "n/a"
READ = re.compile(r"split|label|label_.*|target_.*", re.IGNORECASE)
"""Columns of participants.tsv that are read, as those of a csv are. (A column group would be of
the arms of a study.)"""

CHOOSE = "name the images to use in a csv"


def find(root: Path) -> list[Path]:
    """Find the folders of the subjects of a data set in BIDS; none where a folder is none.

    It is one where it has folders ``sub-X``, and ``anat`` (or ``ses-Y/anat``) in one of these, or
    ``participants.tsv`` or ``dataset_description.json`` beside them.
    """
    subjects = subjects_in(root)
    said = any((root / name).is_file() for name in (DESCRIPTION, PARTICIPANTS))
    anat = (session / "anat" for subject in subjects for session in sessions_of(subject))
    return subjects if subjects and (said or any(one.is_dir() for one in anat)) else []


def read(root: Path, subjects: Sequence[Path], strict: bool = True, labels: bool = True) -> Listed:
    """Read the cases of a data set in BIDS.

    Args:
        root: The data set.
        subjects: What `find` found.
        strict: Refuse what a training cannot use: some parts that are said, and others not.
        labels: Whether masks and labels are looked for.

    Returns:
        The cases: with the labels of participants.tsv, if it has columns of them, or else with
        masks, if there are any.

    Raises:
        InputError: When sessions hold other images than others, or several of one kind, when masks
            are of several kinds or missing, or participants.tsv cannot be read.
    """
    sessions, notes = _sessions(root, subjects)
    suffixes = _same_suffixes(root, sessions)
    if len(suffixes) > 1:
        _require_one_place(root, sessions, suffixes)
        notes.append(f"channels are {', '.join(suffixes)}")
    images = {owner: [own[suffix] for suffix in suffixes] for owner, own in sessions.items()}
    heads, columns, known = _participants(root) if labels else ([], [], {})
    learnt = [column for column in columns if column.lower() != "split"]
    masks = masks_of(root, images) if labels and not learnt else None
    if masks is not None:
        notes.append(f"masks are {masks.kind}")
    if learnt:
        notes.append(f"labels are those of {PARTICIPANTS}")
    names = ["image", *(f"image_{suffix}" for suffix in suffixes[1:]), "group", *columns]
    names += ["mask"] if masks else []
    rows = []
    for owner, paths in images.items():
        subject = owner.partition("_")[0]
        if columns and subject not in known:
            raise InputError(f"{root / PARTICIPANTS}: has no line of {subject}; add it")
        line, cells = known.get(subject, (1, []))
        row = [*(str(path.relative_to(root)) for path in paths), subject, *cells]
        row += [str(_mask(masks, owner).relative_to(root))] if masks else []
        rows.append((line, row))
    cases = cases_of(root / PARTICIPANTS, names, rows, bool(learnt or masks), strict)
    if masks and masks.structures:
        cases = [
            replace(case, structures=tuple(path.name for path in masks.files[owner]))
            for case, owner in zip(cases, images, strict=True)
        ]
    lack = ""
    if labels and not learnt and masks is None:
        there = f"it has {first_few(heads)}" if heads else "there is none"
        lack = (
            f"has neither masks ({' or '.join(f'sub-..._{one}.nii.gz' for one in MASKS)} below "
            f"derivatives/PIPELINE/) nor a column label in {PARTICIPANTS} ({there}); add one"
        )
    classes = masks.classes if masks else {}
    return Listed("BIDS data set", cases, classes, "; ".join(notes), lack)


def _mask(masks: Masks, owner: str) -> Path:
    """Return the file of a mask, or the folder of its files."""
    files = masks.files[owner]
    return files[0].parent if masks.structures else files[0]


def _sessions(root: Path, subjects: Sequence[Path]) -> tuple[dict[str, dict[str, Path]], list[str]]:
    """List the images of each subject and session by what they are, and say what is left out."""
    files = anat_files(subjects)
    hidden = ignored(root, files)
    sessions: dict[str, dict[str, Path]] = defaultdict(dict)
    left: set[str] = set()
    for path in files:
        name = Name.of(path)
        if path in hidden or (name and name.suffix in MASKS):
            continue
        if name is None or name.suffix not in IMAGES:
            left.add(name.suffix if name else path.name)
            continue
        other = sessions[name.owner].setdefault(name.suffix, path)
        if other != path:
            raise InputError(
                f"{path}: is a second {name.suffix} of {name.owner}, beside {other.name}; {CHOOSE}"
            )
    notes = [f"{len(hidden):,} files that {IGNORE} names are left out"] if hidden else []
    if not sessions:
        why = f" ({notes[0]})" if notes else ""
        raise InputError(
            f"{root}: is a data set in BIDS without an image in anat/ of a subject{why}; expected "
            "files like sub-01/anat/sub-01_T1w.nii.gz"
        )
    places = [session for subject in subjects for session in sessions_of(subject)]
    kinds = {one.name for place in places for one in folders_in(place) if one not in places}
    kinds.discard("anat")
    stray = [one.name for one in look(str(root))[2] if one.is_file() and is_volume(root / one.name)]
    for what in (sorted(left), sorted(kinds), stray):
        if what:
            notes.append(f"{first_few(what)} are left out")
    empty = len({s.name for s in subjects} - {owner.partition("_")[0] for owner in sessions})
    if empty:
        notes.append(f"{empty:,} subjects have no image in anat/")
    return dict(sessions), notes


def _same_suffixes(root: Path, sessions: dict[str, dict[str, Path]]) -> list[str]:
    """Return what images every session has, by the alphabet.

    Raises:
        InputError: When a session has others than the first.
    """
    (first, images), *_ = sessions.items()
    for owner, own in sessions.items():
        if own.keys() != images.keys():
            raise InputError(
                f"{root}: {first} has {' and '.join(sorted(images))}, but {owner} has "
                f"{' and '.join(sorted(own))}; {CHOOSE}"
            )
    return sorted(images)


def _require_one_place(
    root: Path, sessions: dict[str, dict[str, Path]], suffixes: Sequence[str]
) -> None:
    """Refuse several images of a session as channels where those of the first lie apart."""
    images = next(iter(sessions.values()))
    first, *others = (read_header(images[suffix]) for suffix in suffixes)
    try:
        for other in others:
            in_same_place(first, other, "modalities")
    except InputError as error:
        raise InputError(
            f"{root}: each session has {' and '.join(suffixes)}, which are no channels of one "
            f"image: {error}; or {CHOOSE}"
        ) from error


def _participants(root: Path) -> tuple[list[str], list[str], dict[str, tuple[int, list[str]]]]:
    """Read the columns of participants.tsv that say labels and parts.

    Returns:
        The names of all columns, those of labels and parts, and of each subject the line and its
        cells in these.
    """
    file = root / PARTICIPANTS
    if not file.is_file():
        return [], [], {}
    heads, rows = lines_of(file, "\t")
    columns = [head for head in heads if READ.fullmatch(head)]
    if not columns:
        return heads, [], {}
    if "participant_id" not in heads:
        raise InputError(f"{file}: has the columns {first_few(heads)}; expected participant_id")
    known: dict[str, tuple[int, list[str]]] = {}
    for number, row in rows:
        cells = dict.fromkeys(heads, "") | dict(zip(heads, map(str.strip, row), strict=False))
        subject = f"sub-{cells['participant_id'].removeprefix('sub-')}"
        own = ["" if cells[column] == EMPTY else cells[column] for column in columns]
        if known.setdefault(subject, (number, own))[1] != own:
            raise InputError(f"{file}, line {number}: says something else of {subject} than before")
    return heads, columns, known
