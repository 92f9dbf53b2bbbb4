"""Which cases belong together: of one patient, or with files that hold, or are called, the same."""

import gzip
import hashlib
import os
import re
import warnings
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossd.data.io.dicom import series_files
from crossd.data.io.header import is_dicom
from crossd.data.io.images import suffixes
from crossd.data.io.itk import data_files
from crossd.data.source import Given
from crossd.data.sources.case_list import Case, groups_of
from crossd.data.sources.companions import bare
from crossd.data.sources.folder_walk import names_file
from crossd.data.splits import SPLITS
from crossd.utils.progress import Bar, Progress

Look = Callable[[int], Hashable]
"""Gives what is seen of a case, by its number."""

MOST_COMPARED = 100_000
"""Cases up to which contents are compared: of more, sizes alone take minutes on network disks."""

NOT_COMPARED = f"{{}}: contents are not compared, of more than {MOST_COMPARED:,} samples"
SHOWN_FROM = 2_000
"""Cases from which it is shown how far the comparison is: fewer take no second."""

CHUNK = 1 << 20
ENOUGH = 1 << 12
"""Bytes at the end of files that are compared before these are read whole."""

SUBJECT = re.compile(r"(?<![^/_])sub-([0-9A-Za-z]+)(?=[/_.-])")
"""A subject in a path, as BIDS writes it: sub-01/anat/sub-01_T1w.nii.gz."""

OF_FILE = re.compile(r"(?<![^/])(sub-[0-9A-Za-z]+)_[^/]*$")
"""A subject in the name of a file, which tells whose it is where other files are of none."""


def together(
    found: Sequence[Case],
    name: str,
    progress: Progress,
    looks: Sequence[Look] | None = None,
    given: Given | None = None,
) -> list[Case]:
    """Put cases of one patient, and cases that share a file, into one group.

    So are cases whose files in one folder have one name but for the suffix. Groups that the cases
    name are kept. The patient of others is BIDS' subject, where every path has one or the name of
    the file begins with it, or else DICOM's PatientID. What was done is said.

    Args:
        found: The cases.
        name: The source, for messages.
        progress: Where to say it, and to show how far it is.
        looks: How cases are compared that lie in one file, see `identical`; others by their files.
        given: What of their faults is accepted; None does not look for any.

    Returns:
        The cases, with their groups.

    Raises:
        InputError: When cases that hold the same have two labels, or a group is in two parts.
    """
    if not found:
        return []
    cases, said = list(found), []
    divided = any(case.split for case in cases)
    alone = [i for i, case in enumerate(cases) if not case.group]
    unknown = [cases[i] for i in alone]
    kind, patients = _patients(unknown, Path(name), progress, files=looks is None)
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
    links = [_same_names(cases)] if looks is None else []
    if twice := sum(len(cases) - len(set(own.tolist())) for own in links):
        said.append(
            f"{twice:,} cases are called as another in their folder but for the suffix, and kept "
            "together with it"
        )
    twins = np.arange(len(cases))
    if len(cases) > MOST_COMPARED:
        progress.say(NOT_COMPARED.format(name))
    else:
        template = None
        if looks is None:
            shared, twins, template = _sharing([case.images for case in cases], progress)
        else:
            shared = twins = identical(len(cases), looks, progress)
        if template is not None:
            progress.say(
                f"{name}: more than half of the cases have {template} or a copy of it beside other "
                "files, so that it is not taken for a sign that they are the same"
            )
        again = len(cases) - len(set(shared.tolist()))
        if not divided and len(SPLITS) > len(cases) - again < len(cases):
            said.append(
                f"the {len(cases):,} cases hold only {len(cases) - again} different files, too few "
                "to keep those that are the same together: what is tested is trained on"
            )
        else:
            links.append(shared)
            if again:
                said.append(f"{again:,} cases hold the same as another, kept together with it")
    cases = _with_links(cases, links)
    if said and not divided:
        progress.say(f"{name}: {'; '.join(said)}")
    if given is not None and (torn := _torn(cases)):
        given.judge(
            "parts",
            f"{name}: {_shared(torn)}",
            "what is tested must not be trained on; remove one, or put both into one part",
            progress.say,
        )
    if given is not None:
        _judge_labels(cases, twins, name, progress, given)
    return cases


def _judge_labels(
    cases: Sequence[Case], twins: NDArray[np.int64], name: str, progress: Progress, given: Given
) -> None:
    """Refuse cases that hold the same and have two labels, unless that is accepted.

    Args:
        cases: The cases.
        twins: Number of the first case that holds the same as each.
        name: The source, for the message.
        progress: Told where it is accepted.
        given: Whether it is.
    """
    torn = []
    for case, twin in zip(cases, twins.tolist(), strict=True):
        first = cases[twin]
        same = np.array_equal(case.numbers, first.numbers, equal_nan=True)
        if case.label != first.label or not same:
            torn.append((first, case))
    if torn:
        one, two = torn[0]
        labels = "" if one.label is None else f" ({one.label} and {two.label})"
        more = f", and {len(torn) - 1:,} more such" if len(torn) > 1 else ""
        given.judge(
            "labels",
            f"{name}: {one.images[0]} and {two.images[0]} hold the same but have two labels{labels}"
            f"{more}",
            "correct one, or remove both",
            progress.say,
        )


def kept_whole(
    samples: Callable[[], Sequence[Case]],
    count: int,
    name: str,
    progress: Progress,
    given: Given,
    looks: Sequence[Look] | None = None,
    named: bool = False,
) -> NDArray[np.str_] | None:
    """Group samples of one patient, and those that hold the same; None where all are alone.

    Args:
        samples: Lists them; not called where there are too many to compare.
        count: How many there are.
        name: The source, for messages.
        progress: Where to say what was done.
        given: Which faults are accepted.
        looks: As `together` takes it.
        named: Whether samples name their groups, which are kept however many there are.

    Raises:
        InputError: As `together`.
    """
    if count > MOST_COMPARED and not named:
        progress.say(NOT_COMPARED.format(name))
        return None
    return groups_of(together(samples(), name, progress, looks, given))


def _torn(cases: Sequence[Case]) -> list[tuple[Case, Case]]:
    """List the cases that are in another part than the first of their group, each with it."""
    first: dict[str, Case] = {}
    pairs = [(first.setdefault(case.inseparable, case), case) for case in cases]
    return [(one, case) for one, case in pairs if case.inseparable and one.split != case.split]


def _shared(torn: Sequence[tuple[Case, Case]]) -> str:
    """Say what two parts share: the first two cases, and how many more there are."""
    one, two = torn[0]
    what = f"are of {two.group}"
    if one.group != two.group or not two.group:
        what = (
            "hold the same, share a file or a name but for its suffix, or their patients' cases do"
        )
    more = f", and {len(torn) - 1:,} more such" if len(torn) > 1 else ""
    return f"{one.images[0]} (to {one.split}) and {two.images[0]} (to {two.split}) {what}{more}"


def _same_names(cases: Sequence[Case]) -> NDArray[np.int64]:
    """Number cases so that those have one number of which files in one folder are called alike.

    Alike but for the suffix, as a.nii and a.nii.gz, or a.png and a.jpg: one image in two formats.
    """
    held = [(i, path) for i, case in enumerate(cases) for path in case.images]
    readable = suffixes()
    names = {
        path: (path.parent, bare(path.name) if names_file(path.name, readable) else path.name)
        for path in {path for _, path in held}
    }
    files = Counter(names.values())
    return _linked(len(cases), [(i, names[path]) for i, path in held if files[names[path]] > 1])


def _sharing(
    cases: Sequence[Sequence[Path]], progress: Progress
) -> tuple[NDArray[np.int64], NDArray[np.int64], Path | None]:
    """Number cases so that those that have a file in common have one number.

    A file that more than half of the cases have beside others, as an atlas, is no such file; cases
    all of whose files are the same share them nevertheless.

    Args:
        cases: The files, or folders, of each.
        progress: Where to show how far the comparison is.

    Returns:
        A number for each case, ``(N,)``; the number of the first that has the same files in the
        same order, ``(N,)``; and the first file that more than half of them have.
    """
    files = list(dict.fromkeys(path for paths in cases for path in paths))
    same = identical(len(files), at_files(files), progress)
    number = dict(zip(files, same.tolist(), strict=True))
    held = [[number[path] for path in paths] for paths in cases]
    counts = Counter(one for own in held for one in set(own))
    common = {one for one, count in counts.items() if 2 * count > len(cases)}
    several = {one for own in held if len(set(own)) > 1 for one in own}
    common &= several
    pairs: list[tuple[int, Hashable]] = []
    first: dict[tuple[int, ...], int] = {}
    twins = np.array([first.setdefault(tuple(own), i) for i, own in enumerate(held)], np.int64)
    for i, own in enumerate(held):
        pairs += [(i, one) for one in own if one not in common]
        pairs.append((i, tuple(own)))
    template = next((files[one] for one in sorted(common)), None)
    return _linked(len(cases), pairs), twins, template


def _linked(count: int, pairs: Iterable[tuple[int, Hashable]]) -> NDArray[np.int64]:
    """Number things so that those have one number that have a mark in common, or lead to such.

    Args:
        count: How many things there are.
        pairs: Things and their marks.

    Example:
        >>> _linked(5, [(0, "a"), (2, "a"), (2, "b"), (4, "b"), (3, "c")]).tolist()
        [0, 1, 0, 3, 0]
    """
    first: dict[Hashable, int] = {}
    leads = list(range(count))

    def end(one: int) -> int:
        while leads[one] != one:
            leads[one] = one = leads[leads[one]]
        return one

    for thing, mark in pairs:
        one, other = sorted((end(thing), end(first.setdefault(mark, thing))))
        leads[other] = one
    return np.array([end(one) for one in range(count)], np.int64)


def _with_links(cases: Sequence[Case], links: Sequence[NDArray[np.int64]]) -> list[Case]:
    """Name what belongs together, with the cases of their patients too.

    Args:
        cases: With their groups.
        links: Numbers of the cases; those that share one belong together.
    """
    pairs: list[tuple[int, Hashable]]
    pairs = [(i, case.group) for i, case in enumerate(cases) if case.group]
    alike = np.zeros(len(cases), bool)
    for kind, numbers in enumerate(links):
        _, member, count = np.unique(numbers, return_inverse=True, return_counts=True)
        alike |= count[member] > 1
        pairs += [(i, (kind, number)) for i, number in enumerate(numbers.tolist())]
    component = _linked(len(cases), pairs)
    holding = set(component[alike].tolist())
    return [
        replace(case, same=f"\0same {one}" if one in holding else "")
        for case, one in zip(cases, component.tolist(), strict=True)
    ]


def _patients(
    cases: Sequence[Case], root: Path, progress: Progress, files: bool
) -> tuple[str, list[str]]:
    """Say what tells patients apart, and give that of each case; "" where it is unknown.

    Args:
        cases: The cases.
        root: What their paths are relative to.
        progress: Where to show how far it is.
        files: Whether each is files of its own, which may be DICOM.
    """
    below = root if root.is_dir() else root.parent
    paths = [os.path.relpath(case.images[0], below).replace(os.sep, "/") for case in cases]
    subjects = list(takewhile(bool, map(SUBJECT.findall, paths)))
    if cases and len(subjects) == len(cases):
        return "subject in their paths", [f"sub-{found[-1]}" for found in subjects]
    if not files:
        return "", [""] * len(cases)
    progress = progress if len(cases) >= SHOWN_FROM else Progress(quiet=True)
    with progress.task("reading who the patients are", total=len(cases)) as bar:
        found = []
        for case, path in zip(cases, paths, strict=True):
            subject = OF_FILE.search(path)
            own = next(filter(None, map(patient_of, case.images)), "")
            found.append(subject[1] if subject else own)
            bar.advance(1)
    some = any(map(OF_FILE.search, paths))
    return "subject in the names of their files" if some else "PatientID of DICOM", found


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


def identical(count: int, looks: Sequence[Look], progress: Progress) -> NDArray[np.int64]:
    """Number things so that those that hold the same have one number.

    Args:
        count: How many things there are.
        looks: Where one differs, so do the things: each looks at those that none before it told
            apart, and things that the last one does not tell apart hold the same.
        progress: Where to show how far it is.

    Returns:
        The number of the first thing that holds the same, ``(N,)``.
    """
    progress = progress if count >= SHOWN_FROM else Progress(quiet=True)
    groups = [list(range(count))]
    for look in looks:
        with progress.task("comparing contents", total=sum(map(len, groups))) as bar:
            found = [same for group in groups for same in _grouped(group, look, bar)]
        groups = [same for same in found if len(same) > 1]
    numbers = np.arange(count)
    for same in groups:
        numbers[same] = same[0]
    return numbers


def _grouped(indices: Sequence[int], look: Look, bar: Bar) -> list[list[int]]:
    """Group cases by what is seen of their files; one that cannot be read is alone."""
    found: dict[Hashable, list[int]] = defaultdict(list)
    for index in indices:
        try:
            key: Hashable = look(index)
        except (OSError, EOFError, zlib.error):  # which is told of where it is read
            key = ("unreadable", index)
        found[key].append(index)
        bar.advance(1)
    return list(found.values())


def at_files(files: Sequence[Path]) -> list[Look]:
    """Return how files, or folders, are compared.

    Files of other sizes or ends differ; only others are read. Of a compressed file what is in it
    counts, of a folder its files in any order.
    """

    def of(look: Callable[[Path], Hashable]) -> Look:
        return lambda index: look(files[index])

    return [of(_size), of(_end), of(_digest)]


def digest_of(content: bytes) -> bytes:
    """Return a number that contents have in common only if they are the same."""
    return hashlib.blake2b(content, digest_size=16).digest()


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
