"""Looking at every sample of a source before anything is trained: what it is, or why it cannot be.

Faults do not stop the look, as `crossd.data.open_source` would: they are what is looked for.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from crossd.data.dataset import Sample, Samples
from crossd.data.opening import is_list, list_cases, open_source
from crossd.data.quality.facts import NO_CLASS, NO_PART, SampleFacts, hint, told
from crossd.data.quality.scan import Read, for_sheet, noted, scan
from crossd.data.source import Given, Source
from crossd.data.sources import case_list, class_folders, tar_names
from crossd.data.sources.belonging import together
from crossd.data.sources.case_list import Case, loose_cases
from crossd.data.sources.known_in_part import ignoring
from crossd.data.splits import SPLITS, divide, spread
from crossd.errors import InputError
from crossd.utils.progress import Progress

LOOKING = "looking at samples"


@dataclass
class Survey:
    """What is known of a source.

    Attributes:
        name: The string it was opened by.
        total: How many samples it has; no more than a limit of them are looked at.
        counts: Samples of each part and class, of all of them.
        looks: What was found.
        notes: What else there is to say.
        kind: What it is, for people.
        groups: How many patients are known; 0 where none is.
    """

    name: str
    total: int
    counts: dict[str, dict[str, int]]
    looks: list[SampleFacts]
    notes: list[str] = field(default_factory=list)
    kind: str = "source"
    groups: int = 0

    def sentence(self) -> str:
        """Say what the source is: its kind, and how many cases, classes, patients and parts."""
        ranks = {len(look.size) for look in self.looks if look.size}
        what = {frozenset({2}): "images", frozenset({3}): "volumes"}.get(frozenset(ranks), "cases")
        said = [f"{self.total:,} {what}"]
        if names := self.classes():
            said.append(
                f"{len(names)} classes ({', '.join(names[:5])}{', ...' * (len(names) > 5)})"
            )
        values = sorted({value for look in self.looks for value in look.voxels})
        if values:
            shown = ", ".join(map(str, values[:8])) + ", ..." * (len(values) > 8)
            said.append(f"masks of the values {shown}")
        if ignored := told(self.looks):
            said[-1] += f"; {ignored}"
        if self.groups:
            said.append(f"{self.groups:,} patients")
        parts = [f"{sum(own.values()):,} to {part}" for part, own in self.counts.items()]
        said += parts if list(self.counts) != [NO_PART] else ["without labels"]
        return f"{self.name}: {self.kind}; {', '.join(said)}"

    def classes(self, among: Sequence[str] | None = None) -> list[str]:
        """Return the names of the classes (those that are among others), numbers by their value."""
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
        as_stored = Given(statistics=(0.0, 1.0), ignore=ignore)
        source = open_source(spec, seed=seed, labels=False, given=as_stored, progress=progress)
        return _of_source(source, limit, progress)
    listed, folders = list_cases(path, progress, strict=False)
    found, kind = listed.cases, listed.kind
    images = folders is not None and not found and len(folders.images) > 0
    if folders is not None and not found:
        found = class_folders.cases(path, folders, "images") or loose_cases(path)
        kind = kind if images else "folder of files"
        found = together(found, str(path), progress) if images else found
    if not found:
        raise InputError(f"{path}: holds no image or volume that can be read")
    found = ignoring(found, ignore, None, spec)
    parts, notes = _parts(found, spec, seed, images)
    counts = _counts(zip(parts, (case.label or NO_CLASS for case in found), strict=True))
    chosen = spread(len(found), limit)
    looks = scan(LOOKING, [found[i] for i in chosen], for_sheet, progress)
    for look, i in zip(looks, chosen, strict=True):
        look.part = parts[i]
    if note := hint(looks, listed.classes):
        notes.append(note)
    groups = len({case.group for case in found if case.group})
    return Survey(spec, len(found), counts, looks, notes, kind, groups)


def _parts(
    found: Sequence[Case], spec: str, seed: int, images: bool
) -> tuple[list[str], list[str]]:
    """Give the part of every case, as a training would, and what there is to say of it."""
    if not any(case.label or case.mask for case in found):
        return [NO_PART] * len(found), []
    order = sorted if images else case_list.in_order  # as a training numbers classes
    names = order({case.label or "" for case in found})
    labels = np.array([names.index(case.label or "") for case in found], np.int64)
    said = {case.split for case in found}
    if "" in said and len(said) > 1:  # a csv, which a training refuses
        count = sum(not case.split for case in found)
        note = f"the split of {count:,} samples is empty, of others not: a training refuses that"
        return [case.split or NO_PART for case in found], [note]
    parts = np.array([case.split for case in found], object)
    try:
        if images:  # of class folders
            known = np.array([case.split for case in found])
            divided = divide(known, labels, seed, spec, case_list.groups_of(found), halve=True)
        else:
            divided = case_list.parts(found, labels, seed, spec)
    except InputError as error:
        return [case.split or "train" for case in found], [str(error)]
    for part, indices in zip(SPLITS, divided, strict=True):
        parts[indices] = part
    missing = [part for part in SPLITS if part not in said]
    notes = []
    if missing and not (images and "val" in said):
        notes = [f"the data do not say which samples are {', '.join(missing)}: drawn by the seed"]
    return parts.tolist(), notes


def _counts(pairs: Iterable[tuple[str, str]]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {part: {} for part in (*SPLITS, NO_PART)}
    for (part, label), count in sorted(Counter(pairs).items()):
        counts[part][label] = count
    return {part: own for part, own in counts.items() if own}


def _of_source(source: Source, limit: int, progress: Progress) -> Survey:
    """Look at a source that is opened as a whole, as arrays in one file are."""
    parts = dict(zip(SPLITS, (source.train, source.val, source.test), strict=True))
    if source.task == "unlabelled":
        parts = {NO_PART: source.train}
    where = [(part, samples, i) for part, samples in parts.items() for i in range(len(samples))]

    def label(samples: Samples, i: int) -> str:
        return (
            NO_CLASS
            if samples.labels is None or not source.classes
            else source.classes[samples.labels[i]]
        )

    def look(one: tuple[str, Samples, int]) -> SampleFacts:
        part, samples, i = one
        begun = SampleFacts(f"{part} {samples.name(i)}", part, label(samples, i))
        begun.spacing = source.spacing
        return noted(begun, lambda found: _arrays(samples[i]))

    counts = _counts((part, label(samples, i)) for part, samples, i in where)
    chosen = [where[k] for k in spread(len(where), limit)]
    looks = scan(LOOKING, chosen, look, progress)
    kind = "tar archives" if tar_names.find(source.name) else "arrays"
    return Survey(source.name, len(where), counts, looks, kind=kind)


def _arrays(sample: Sample) -> Read:
    mask = sample["mask"].numpy().astype(np.uint16) if "mask" in sample else None
    return sample["image"].numpy(), mask
