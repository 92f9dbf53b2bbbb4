"""Which cases belong together: those of one patient, and files that hold the same."""

import gzip
import hashlib
import os
import re
import warnings
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossd.data.io.dicom import series_files
from crossd.data.io.header import is_dicom
from crossd.data.io.itk import data_files
from crossd.data.sources.case_list import Case
from crossd.data.splits import SPLITS
from crossd.errors import InputError
from crossd.utils.progress import Bar, Progress

MOST_COMPARED = 100_000
"""Cases up to which contents are compared: of more, sizes alone take minutes on network disks."""

SHOWN_FROM = 2_000
"""Cases from which it is shown how far the comparison is: fewer take no second."""

CHUNK = 1 << 20
ENOUGH = 1 << 12
"""Bytes at the end of files that are compared before these are read whole."""

SUBJECT = re.compile(r"(?<![^/_])sub-([0-9A-Za-z]+)(?=[/_.-])")
"""A subject in a path, as BIDS writes it: sub-01/anat/sub-01_T1w.nii.gz."""


def together(found: Sequence[Case], name: str, progress: Progress) -> list[Case]:
    """Put cases of one patient, and cases that hold the same files, into one group.

    Groups that the cases name are kept. The patient of others is DICOM's PatientID or, where every
    path has one, BIDS' subject. What was done is said.

    Args:
        found: The cases.
        name: The source, for messages.
        progress: Where to say it, and to show how far it is.

    Returns:
        The cases, with their groups.
    """
    cases, said = list(found), []
    divided = any(case.split for case in cases)
    alone = [i for i, case in enumerate(cases) if not case.group]
    kind, patients = _patients([cases[i] for i in alone], Path(name), progress)
    known = [one for one in patients if one]
    count = len(set(known))
    if count == 1 and len(known) == len(cases) > 1:
        said.append(
            f"all cases have the {kind} {patients[0]!r}, so that it does not tell patients apart: "
            "each is taken for one of its own (a csv can name them in its column group)"
        )
    elif count < len(known):
        for i, patient in zip(alone, patients, strict=True):
            cases[i] = replace(cases[i], group=patient)
        said.append(f"{len(known):,} cases of {count:,} patients by {kind}, kept together")
    if len(cases) > MOST_COMPARED:
        progress.say(f"{name}: contents are not compared, of more than {MOST_COMPARED:,} cases")
    else:
        twins = identical([case.images for case in cases], progress)
        distinct = len(set(twins.tolist()))
        if not divided and len(SPLITS) > distinct < len(cases):
            said.append(
                f"the {len(cases):,} cases hold only {distinct} different files, too few to keep "
                "those that are the same together: what is tested is trained on"
            )
        else:
            cases, count = _joined(cases, twins)
            if count:
                said.append(f"{count:,} cases hold the same as another, kept together with it")
    if said and not divided:
        progress.say(f"{name}: {'; '.join(said)}")
    return cases


def require_whole_groups(cases: Sequence[Case], name: str) -> None:
    """Refuse cases of one patient, or that hold the same, in two parts: what is tested is trained.

    Args:
        cases: Whose parts are said.
        name: The source, for the message.

    Raises:
        InputError: Naming two such cases.
    """
    seen: dict[str, Case] = {}
    for case in cases:
        other = seen.setdefault(case.inseparable, case)
        if case.inseparable and other.split != case.split:
            same = other.group != case.group or not case.group
            what = "hold the same, or a patient of them does" if same else f"are of {case.group}"
            raise InputError(
                f"{name}: {other.images[0]} (to {other.split}) and {case.images[0]} (to "
                f"{case.split}) {what}: what is tested must not be trained on; remove one, or put "
                "both into one part"
            )


def _joined(cases: Sequence[Case], twins: NDArray[np.int64]) -> tuple[list[Case], int]:
    """Name what belongs together by what it holds; returns how many are there more than once."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    count = len(cases)
    own = np.arange(count)
    again = int((twins != own).sum())
    if not again:
        return list(cases), 0
    named = [case.group or f"\0{i}" for i, case in enumerate(cases)]
    _, group = np.unique(named, return_inverse=True)
    links = coo_matrix(
        (np.ones(2 * count), (np.tile(own, 2), np.concatenate((twins, count + group)))),
        (2 * count, 2 * count),
    )
    component = connected_components(links, directed=False)[1][:count].tolist()
    alike = Counter(twins.tolist())
    holding = {one for one, twin in zip(component, twins.tolist(), strict=True) if alike[twin] > 1}
    return [
        replace(case, same=f"\0same {one}" if one in holding else "")
        for case, one in zip(cases, component, strict=True)
    ], again


def _patients(cases: Sequence[Case], root: Path, progress: Progress) -> tuple[str, list[str]]:
    """Say what tells patients apart, and give that of each case; "" where it is unknown."""
    below = root if root.is_dir() else root.parent
    paths = [os.path.relpath(case.images[0], below).replace(os.sep, "/") for case in cases]
    subjects = [SUBJECT.findall(path) for path in paths]
    if cases and all(subjects):
        return "subject in their paths", [f"sub-{found[-1]}" for found in subjects]
    progress = progress if len(cases) >= SHOWN_FROM else Progress(quiet=True)
    with progress.task("reading who the patients are", total=len(cases)) as bar:
        found = []
        for case in cases:
            found.append(next(filter(None, map(patient_of, case.images)), ""))
            bar.advance(1)
    return "PatientID of DICOM", found


def patient_of(path: Path) -> str:
    """Return the patient that a DICOM file, or the first of a series, names; "" if none."""
    if not (path.is_dir() or is_dicom(path)):
        return ""
    import pydicom

    files = series_files(path) if path.is_dir() else [path]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = pydicom.dcmread(files[0], specific_tags=["PatientID"], stop_before_pixels=True)
            return str(data.get("PatientID") or "").strip()
    except Exception:  # pydicom raises many kinds on damaged files, of which reading them tells
        return ""


def identical(cases: Sequence[Sequence[Path]], progress: Progress) -> NDArray[np.int64]:
    """Number cases so that those whose files hold the same have one number.

    Files of other sizes or ends differ; only others are read. Of a compressed file what is in it
    counts, of a folder its files in any order.

    Args:
        cases: The files, or folders, of each.
        progress: Where to show how far it is.

    Returns:
        The number of the first case that holds the same, ``(N,)``.
    """
    progress = progress if len(cases) >= SHOWN_FROM else Progress(quiet=True)
    groups = [list(range(len(cases)))]
    for look in (_size, _end, _digest):
        with progress.task("comparing files", total=sum(map(len, groups))) as bar:
            found = [same for group in groups for same in _grouped(group, cases, look, bar)]
        groups = [same for same in found if len(same) > 1]
    numbers = np.arange(len(cases))
    for same in groups:
        numbers[same] = same[0]
    return numbers


def _grouped(
    indices: Sequence[int],
    cases: Sequence[Sequence[Path]],
    look: Callable[[Path], Hashable],
    bar: Bar,
) -> list[list[int]]:
    """Group cases by what is seen of their files; one that cannot be read is alone."""
    found: dict[Hashable, list[int]] = defaultdict(list)
    for index in indices:
        try:
            key: Hashable = tuple(map(look, cases[index]))
        except (OSError, EOFError, zlib.error):  # which is told of where it is read
            key = index
        found[key].append(index)
        bar.advance(1)
    return list(found.values())


def _parts(path: Path) -> list[Path]:
    """List the files that hold what a path stands for: of a series, or the voxels of a header."""
    if path.is_dir():
        return series_files(path)
    if not path.is_file():
        raise FileNotFoundError(path)  # a pipe, say, which could not be opened
    return data_files(path) or [path]


def _size(path: Path) -> Hashable:
    """Give the sizes of the files; of compressed ones nothing, as that hangs on the compression."""
    packed = path.suffix.lower() == ".gz"
    return None if packed else tuple(sorted(part.stat().st_size for part in _parts(path)))


def _end(path: Path) -> Hashable:
    """Give the last bytes: of compressed files a checksum of what is in them, and its size."""
    length = 8 if path.suffix.lower() == ".gz" else ENOUGH
    ends = []
    for part in _parts(path):
        with part.open("rb") as file:
            file.seek(-min(length, part.stat().st_size), os.SEEK_END)
            ends.append(file.read())
    return tuple(sorted(ends))


def _digest(path: Path) -> Hashable:
    """Give numbers that files have in common only if they hold the same."""
    found = []
    for part in _parts(path):
        opened = gzip.open if part.suffix.lower() == ".gz" else open
        digest = hashlib.blake2b(digest_size=16)
        with opened(part, "rb") as file:
            while piece := file.read(CHUNK):
                digest.update(piece)
        found.append(digest.hexdigest())
    return tuple(sorted(found))
