"""Opening lists of files: images or volumes, with classes, with masks or with neither."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossd.data.dataset import Samples, Subset
from crossd.data.file_names import Names
from crossd.data.io.agreement import IGNORED, require_known, require_same_count
from crossd.data.io.images import shape_of
from crossd.data.preprocessing import plan
from crossd.data.preprocessing.normalise import Normalised
from crossd.data.preprocessing.plan import Plan
from crossd.data.preprocessing.volume_dataset import Cache, VolumeSamples
from crossd.data.quality.facts import SampleFacts
from crossd.data.quality.scan import of_mask, of_volume, scan
from crossd.data.shapes import round_up
from crossd.data.source import Given, Request, Source, Task
from crossd.data.sources.case_files import Entry, all_volumes, read_entries
from crossd.data.sources.case_list import Case, groups_of, in_order, parts
from crossd.data.sources.image_files import DEFAULT_SIZE, FileSamples
from crossd.data.sources.known_in_part import ignoring, known_cases, require_apart, tell
from crossd.data.splits import Parts
from crossd.errors import InputError

LARGEST_IMAGE = 256
"""Side of images with masks, at most, where no size is given."""

MOST_CLASSES = IGNORED
"""Classes of masks, which are kept as numbers of 8 bits; one of these is for what is not known."""

LOOK_AT = 200
"""Images whose sizes are looked at, at most."""


def open_cases(
    request: Request, root: Path, found: Sequence[Case], named: Mapping[int, str] | None = None
) -> Source:
    """Open a list of cases, whose files lie below `root`.

    Images are in [0, 1], volumes as the plan says. What has neither masks nor labels is all to
    train on.

    Args:
        request: What is asked for.
        root: The folder.
        found: The cases.
        named: Names of the classes of masks by their values, where the list says them.

    Raises:
        InputError: With the file that is wrong.
    """
    name, given = request.name, request.given
    said = given.ignore is not None or any(case.ignore is not None for case in found)
    found = ignoring(found, given.ignore, given.known_ignore, name)
    task, labels = _task(found), None
    classes: tuple[str, ...] = ()
    values: tuple[int, ...] = ()
    if task == "classification":
        labels, classes = _classes(found, given, name)
    divided = (np.arange(len(found)),) * 3
    if task != "unlabelled":
        divided = _divided(request, found, labels)
    entries = read_entries(found) if all_volumes(found, name) else []
    looks = _looked(request, found, entries)
    if task == "segmentation" and looks:
        divided = known_cases(request, divided, looks)
    facts = [looks[i] for i in divided[0]] if looks else []
    if task == "segmentation":
        values, classes = _mask_classes(facts, given, name, named or {})
        require_apart(found[0].ignore, values, classes, name)
        known = given.known_classes or {}
        guessed = not (said or set(values) <= known.keys())
        tell(request, found[0].ignore, looks, {*(named or given.classes or known)}, guessed)
        for case, look in zip(found, looks, strict=False):
            if case.mask is not None and given.statistics is None:
                require_known(list(look.voxels), values, case.mask)
    if entries:
        made = _plan(request, facts, whole=labels is not None)
        samples: Samples = VolumeSamples(entries, made, values, labels, Cache(), given.stored)
        size: tuple[int, ...] = made.patch
        spacing = made.spacing
    else:
        made, spacing = None, None
        samples = _images(request, root, found, labels, divided[0], values)
        size = samples.size(0)
    train, val, test = (Subset(samples, own) for own in divided)
    return Source(
        name,
        3 if entries else 2,
        task,
        samples.channels,
        classes,
        size,
        train,
        val,
        test,
        spacing=spacing,
        plan=made,
        values=values,
        ignore=found[0].ignore,
    )


def _task(found: Sequence[Case]) -> Task:
    if found[0].mask is not None:
        return "segmentation"
    return "unlabelled" if found[0].label is None else "classification"


def _divided(request: Request, found: Sequence[Case], labels: NDArray[np.int64] | None) -> Parts:
    """Divide cases into parts, and say which of these are drawn though others are not."""
    shares = np.zeros(len(found), np.int64) if labels is None else labels
    divided = parts(found, shares, request.seed, request.name)
    said = {case.split for case in found}
    missing = [part for part in ("val", "test") if part not in said]
    if missing and "train" in said:
        request.progress.say(
            f"{request.name}: no case is said to be for {' or '.join(missing)}: "
            f"{len(divided[1])} validate and {len(divided[2])} test, drawn by --seed {request.seed}"
        )
    return divided


def _looked(request: Request, found: Sequence[Case], entries: Sequence[Entry]) -> list[SampleFacts]:
    """Look at the cases of all parts, as a fault is better found before training than after it.

    Images without masks are not looked at, nor anything of which all is known already.
    """
    given, task = request.given, _task(found)
    known = given.statistics is not None or task == "unlabelled"
    if task == "segmentation":
        known = known and bool(given.classes)
    if entries and not (known and given.plan is not None):
        look = partial(of_volume, cache=given.stored)
        return scan("scanning volumes", entries, look, request.progress)
    if task == "segmentation" and not entries and not known:
        return scan("scanning masks", found, of_mask, request.progress)
    return []


def entries_of(samples: Samples) -> list[Entry] | None:
    """Return the files behind samples, in their order; None where they are no files of volumes."""
    if isinstance(samples, VolumeSamples):
        return list(samples.entries)
    if not isinstance(samples, Normalised | Subset):
        return None
    inside = entries_of(samples.samples)
    if inside is None or isinstance(samples, Normalised):
        return inside
    return [inside[int(index)] for index in samples.indices]


def _classes(
    found: Sequence[Case], given: Given, name: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Number the classes of the cases; returns their names too."""
    present = {str(case.label) for case in found}
    ordered = in_order(present)
    if given.labels and present <= set(given.labels):
        ordered = list(given.labels)
    if len(ordered) < 2:
        raise InputError(f"{name}: has one class, {ordered[0]}; expected two or more")
    if not given.labels or ordered != list(given.labels):
        _check_trained(found)
    number = {label: index for index, label in enumerate(ordered)}
    return np.array([number[str(case.label)] for case in found], np.int64), tuple(ordered)


def _check_trained(found: Sequence[Case]) -> None:
    """Refuse classes of validation and test cases that no training case has."""
    trained = {case.label for case in found if case.split in ("", "train")}
    for case in found:
        if case.label not in trained:
            raise InputError(
                f"{case.images[0]}: is for {case.split}, but no training case has its class "
                f"{case.label}; add one, or remove it"
            )


def _plan(request: Request, facts: Sequence[SampleFacts], whole: bool) -> Plan:
    """Make a plan of what was found in the training volumes, or fit the one that is given."""
    size = None if request.size is None else request.shape(3, ())
    made = request.given.plan
    if made is None:
        return plan.decide(facts, not whole, size)
    if facts and len(made.intensity) != facts[0].channels:  # other channels than the weights'
        made = replace(made, intensity=plan.decide(facts, not whole, size).intensity)
    if size is not None:
        z, y, x = size
        made = replace(made, patch=(z, y, x))
    return made


def _mask_classes(
    facts: Sequence[SampleFacts], given: Given, name: str, said: Mapping[int, str]
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return values and names of the classes of training masks, the background first."""
    seen = said or {value: str(value) for one in facts for value in one.voxels if value}
    named = {0: "background", **(given.classes or seen)}
    named[0] = "background" if named[0] == "0" else named[0]
    if len(named) < 2:
        raise InputError(f"{name}: every training mask is empty; expected labels from 1 upwards")
    known = given.known_classes or {}
    same = named.keys() == known.keys() and bool(given.classes)  # their names were edited
    if named.keys() <= known.keys() and not same:
        named = known
    if len(named) > MOST_CLASSES:
        raise InputError(
            f"{name}: its masks hold {len(named):,} values; expected at most {MOST_CLASSES} "
            "classes (are they numbers of single objects?)"
        )
    values = tuple(sorted(named))
    return values, tuple(named[value] for value in values)


def _images(
    request: Request,
    root: Path,
    found: Sequence[Case],
    labels: NDArray[np.int64] | None,
    training: NDArray[np.int64],
    values: tuple[int, ...],
) -> FileSamples:
    """Make samples of images, in their order; of a size that fits the training ones."""
    counts = [(case.images[0], len(case.images)) for case in found]
    require_same_count(counts, "modalities", "images")
    names = [
        Names.of(os.path.relpath(path, root) for path in paths)
        for paths in zip(*(case.images for case in found), strict=True)
    ]
    masks = Names.of(os.path.relpath(case.mask, root) for case in found if case.mask is not None)
    default: tuple[int, ...] = DEFAULT_SIZE
    if masks and request.size is None:
        some = training[:: max(1, len(training) // LOOK_AT)]
        typical = np.median([shape_of(found[i].images[0]) for i in some], axis=0)
        default = round_up([int(min(LARGEST_IMAGE, side)) for side in typical])
    size = request.shape(2, default)
    images = FileSamples(root, names, labels, size, masks or None, values, found[0].ignore)
    images.see_colours(np.arange(len(found)), len(names))
    images.groups = groups_of(found)
    return images
