"""Looking at every sample of a source before anything is trained: what it is, or why it cannot be.

Faults do not stop the look, as `crossd.data.open_source` would: they are what is looked for.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossd.data.dataset import Sample, Samples
from crossd.data.io.images import require_same_colours
from crossd.data.opening import is_list, list_cases, open_source
from crossd.data.quality.facts import NO_CLASS, NO_PART, SampleFacts, hint, told
from crossd.data.quality.scan import Read, for_sheet, in_words, noted, scan
from crossd.data.source import ACCEPTABLE, Given, Source
from crossd.data.sources import case_list, class_folders, tar_names
from crossd.data.sources.belonging import together
from crossd.data.sources.case_list import Case, loose_cases
from crossd.data.sources.known_in_part import ignoring
from crossd.data.sources.numbered_columns import Columns
from crossd.data.splits import SPLITS, divide, spread
from crossd.errors import InputError
from crossd.tasks import strata
from crossd.utils.progress import Progress

LOOKING = "looking at samples"


@dataclass
class Survey:
    """What is known of a source.

    Attributes:
        name: The string it was opened by.
        total: How many samples it has; no more than a limit of them are looked at.
        counts: Samples of each part and class, or with each finding, of all of them.
        sizes: Samples of each part.
        looks: What was found.
        notes: What else there is to say.
        kind: What it is, for people.
        groups: How many patients are known; 0 where none is.
        columns: Findings or numbers to learn, where the samples have some.
        parts: The part of every sample.
        numbers: Of every sample, ``(N, K)``, in the order of `columns`.
        named: Names of the classes of masks by their values, where the source says them.
    """

    name: str
    total: int
    counts: dict[str, dict[str, int]]
    looks: list[SampleFacts]
    notes: list[str] = field(default_factory=list)
    kind: str = "source"
    groups: int = 0
    sizes: dict[str, int] = field(default_factory=dict)
    columns: Columns | None = None
    parts: Sequence[str] = ()
    numbers: NDArray[np.floating] = field(default_factory=lambda: np.zeros((0, 0)))
    named: dict[int, str] = field(default_factory=dict)

    def sentence(self) -> str:
        """Say what the source is: its kind, and how many cases, classes, patients and parts."""
        ranks = {len(look.size) for look in self.looks if look.size}
        what = {frozenset({2}): "images", frozenset({3}): "volumes"}.get(frozenset(ranks), "cases")
        said = [f"{self.total:,} {what}"]
        if self.columns is not None and self.columns.task == "regression":
            said.append(f"to learn {', '.join(self._ranges()[:5])}")
        elif names := self.classes():
            kind = "classes" if self.columns is None else "findings"
            said.append(f"{len(names)} {kind} ({', '.join(names[:5])}{', ...' * (len(names) > 5)})")
        values = sorted({value for look in self.looks for value in look.voxels})
        if values:
            shown = ", ".join(map(str, values[:8])) + ", ..." * (len(values) > 8)
            called = [self.named[value] for value in sorted(self.named) if value]
            called_so = f" ({len(called)} classes: {case_list.first_few(called)})" if called else ""
            said.append(f"masks of the values {shown}{called_so}")
        if ignored := told(self.looks):
            said[-1] += f"; {ignored}"
        if self.groups:
            said.append(f"{self.groups:,} patients")
        parts = [f"{count:,} to {part}" for part, count in self.sizes.items()]
        said += parts if list(self.counts) != [NO_PART] else ["without labels"]
        return f"{self.name}: {self.kind}; {', '.join(said)}"

    def _ranges(self) -> list[str]:
        """Say of each number to learn from where to where it goes."""
        assert self.columns is not None
        found = []
        for name, unit, own in zip(
            self.columns.names, self.columns.units, self.numbers.T, strict=True
        ):
            known = own[np.isfinite(own)]
            ends = f"{known.min():.4g} to {known.max():.4g}" if len(known) else "not known"
            found.append(f"{name} ({ends}{' ' * bool(unit)}{unit})")
        return found

    def classes(self, among: Sequence[str] | None = None) -> list[str]:
        """Return the names of the classes (those that are among others), numbers by their value.

        Of findings, these in their order; of numbers to learn there are none.
        """
        if self.columns is not None and self.columns.task == "multilabel":
            return [n for n in self.columns.names if among is None or n in among]
        names = {label for counts in self.counts.values() for label in counts if label}
        return case_list.in_order(names if among is None else names & set(among))


def survey(
    spec: str, limit: int, seed: int, progress: Progress, ignore: int | None = None
) -> Survey:
    """Look at the samples of a source.

    Args:
        spec: As `crossd.data.open_source` takes it.
        limit: Samples to look at, at most, evenly spread over all.
        seed: Decides on the split, where the data have none.
        progress: Where to show how far it is.
        ignore: Value of masks that says that a voxel is not known.

    Raises:
        InputError: When it is no source, or a list of files that cannot be understood at all.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "tiny.npz"
        >>> images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 8), dtype=np.uint8)
        >>> np.savez(file, images=images, labels=np.arange(20) % 2)
        >>> found = survey(str(file), 10, 0, Progress(quiet=True))
        >>> found.total, len(found.looks), found.counts["train"]
        (20, 10, {'0': 7, '1': 7})
    """
    path = Path(spec).expanduser()
    if not spec or not is_list(path) or tar_names.find(spec):
        as_stored = Given(
            statistics=(0.0, 1.0),
            ignore=ignore,
            accepted=dict.fromkeys(ACCEPTABLE, "a training refuses that"),
        )
        source = open_source(spec, seed=seed, labels=False, given=as_stored, progress=progress)
        return _of_source(source, limit, progress)
    listed, folders = list_cases(path, progress, strict=False)
    found, kind = listed.cases, listed.kind
    images = folders is not None and not found and len(folders.images) > 0
    if folders is not None and not found:
        found = class_folders.cases(path, folders, "images") or loose_cases(path, progress.say)
        kind = kind if images else "folder of files"
        found = together(found, str(path), progress) if images else found
    if not found:
        raise InputError(f"{path}: holds no image or volume that can be read")
    found = ignoring(found, ignore, None, spec)
    parts, notes = _parts(found, spec, seed, images)
    notes += [listed.unlabelled] if listed.unlabelled else []
    try:
        require_same_colours(case.mask for case in found if case.mask is not None)
    except InputError as error:
        notes.append(str(error))
    columns = found[0].columns
    labels = [
        in_words(case.label or NO_CLASS, case.columns, case.numbers)[1]
        if columns is not None
        else (case.label or NO_CLASS,)
        for case in found
    ]
    counts = _counts(zip(parts, labels, strict=True))
    chosen = spread(len(found), limit)
    looks = scan(LOOKING, [found[i] for i in chosen], for_sheet, progress)
    for look, i in zip(looks, chosen, strict=True):
        look.part = parts[i]
    if note := hint(looks, listed.classes):
        notes.append(note)
    groups = len({case.group for case in found if case.group})
    numbers = np.array([case.numbers for case in found])
    return Survey(
        spec,
        len(found),
        counts,
        looks,
        notes,
        kind,
        groups,
        _sizes(parts),
        columns,
        parts,
        numbers,
        listed.classes,
    )


def _parts(
    found: Sequence[Case], spec: str, seed: int, images: bool
) -> tuple[list[str], list[str]]:
    """Give the part of every case, as a training would, and what there is to say of it."""
    if not any(case.label or case.mask or case.columns for case in found):
        return [NO_PART] * len(found), []
    names: Sequence[str] = case_list.in_order({case.label or "" for case in found})
    if found[0].columns is not None:
        names = found[0].columns.names
    task, labels = case_list.labels_of(found, names)
    said = {case.split for case in found}
    if "" in said and len(said) > 1:  # a csv, which a training refuses
        count = sum(not case.split for case in found)
        note = f"the split of {count:,} samples is empty, of others not: a training refuses that"
        return [case.split or NO_PART for case in found], [note]
    parts = np.array([case.split for case in found], object)
    try:
        if images:  # of class folders, which a training does not list as cases
            known, shares = (
                np.array([case.split for case in found]),
                strata(task, labels, len(found)),
            )
            divided = divide(known, shares, seed, spec, case_list.groups_of(found))
        else:
            divided = case_list.parts(found, task, labels, seed, spec)
    except InputError as error:
        return [case.split or "train" for case in found], [str(error)]
    for part, indices in zip(SPLITS, divided, strict=True):
        parts[indices] = part
    missing = [part for part in SPLITS if part not in said]
    notes = []
    if missing:
        notes = [f"the data do not say which samples are {', '.join(missing)}: drawn by the seed"]
    return parts.tolist(), notes


def _counts(pairs: Iterable[tuple[str, Sequence[str]]]) -> dict[str, dict[str, int]]:
    """Count the samples of each part and class; one with several findings counts for each."""
    counts: dict[str, dict[str, int]] = {}
    for part, labels in pairs:
        own = counts.setdefault(part, {})
        for label in labels or (NO_CLASS,):
            own[label] = own.get(label, 0) + 1
    return {part: dict(sorted(counts[part].items())) for part in _sizes(counts)}


def _sizes(parts: Iterable[str]) -> dict[str, int]:
    """Count the samples of each part, in the usual order."""
    counts = Counter(parts)
    return {part: counts[part] for part in (*SPLITS, NO_PART) if part in counts}


def _of_source(source: Source, limit: int, progress: Progress) -> Survey:
    """Look at a source that is opened as a whole, as arrays in one file are."""
    parts = dict(zip(SPLITS, (source.train, source.val, source.test), strict=True))
    if source.task == "unlabelled":
        parts = {NO_PART: source.train}
    where = [(part, samples, i) for part, samples in parts.items() for i in range(len(samples))]

    columns = None
    if source.task in ("multilabel", "regression"):
        names, units = source.classes, source.units
        columns = Columns(source.task, names, units, names)

    def label(samples: Samples, i: int) -> tuple[str, tuple[str, ...]]:
        if samples.labels is None or not source.classes:
            return NO_CLASS, ()
        if columns is not None:
            return in_words(NO_CLASS, columns, samples.labels[i].tolist())
        return source.classes[samples.labels[i]], ()

    def group(samples: Samples, i: int) -> str:
        name = "" if samples.groups is None else str(samples.groups[i])
        return "" if name.startswith("\0") else name  # alone, or with others that hold the same

    def look(one: tuple[str, Samples, int]) -> SampleFacts:
        part, samples, i = one
        name, findings = label(samples, i)
        own = group(samples, i)
        begun = SampleFacts(f"{part} {samples.name(i)}", part, name, findings, own)
        begun.spacing = source.spacing
        return noted(begun, lambda found: _arrays(samples[i]))

    told_of = ((part, label(samples, i)) for part, samples, i in where)
    counts = _counts((part, own if columns else (name,)) for part, (name, own) in told_of)
    if source.task == "classification":  # classes that no sample has are trained all the same
        counts["train"] = dict.fromkeys(source.classes, 0) | counts["train"]
    chosen = [where[k] for k in spread(len(where), limit)]
    looks = scan(LOOKING, chosen, look, progress)
    all_parts = [part for part, _, _ in where]
    known = [part.labels for part in parts.values() if part.labels is not None]
    return Survey(
        source.name,
        len(where),
        counts,
        looks,
        kind="tar archives" if tar_names.find(source.name) else "arrays",
        groups=len({group(samples, i) for _, samples, i in where} - {""}),
        sizes=_sizes(all_parts),
        columns=columns,
        parts=all_parts,
        numbers=np.concatenate(known) if columns is not None else np.zeros((0, 0)),
    )


def _arrays(sample: Sample) -> Read:
    mask = sample["mask"].numpy().astype(np.uint16) if "mask" in sample else None
    return sample["image"].numpy(), mask
