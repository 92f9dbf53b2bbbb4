"""Opening lists of files: images or volumes, with classes, with masks or with neither."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossd.data.dataset import Labels, Samples, Subset
from crossd.data.file_names import Names
from crossd.data.io.agreement import IGNORED, require_known, require_same_count
from crossd.data.io.images import require_same_colours, shape_of
from crossd.data.preprocessing import plan
from crossd.data.preprocessing.normalise import Normalised
from crossd.data.preprocessing.plan import Plan
from crossd.data.preprocessing.volume_dataset import Cache, VolumeSamples
from crossd.data.quality.facts import SampleFacts, require_labels
from crossd.data.quality.scan import of_mask, of_volume, scan
from crossd.data.shapes import MULTIPLE, round_up
from crossd.data.source import Given, Request, Source, TaskName
from crossd.data.sources.case_files import Entry, all_volumes, along_time, read_entries
from crossd.data.sources.case_list import (
    Case,
    first_few,
    groups_of,
    in_order,
    labels_of,
    parts,
)
from crossd.data.sources.image_files import DEFAULT_SIZE, FileSamples
from crossd.data.sources.known_in_part import hidden, ignoring, known_cases, require_apart, tell
from crossd.data.sources.spellings import spelled_as
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
    found = _spelled(found, given)
    classes, units = _classes(found, given, name)
    task, labels = labels_of(found, classes)
    values: tuple[int, ...] = ()
    divided = (np.arange(len(found)),) * 3
    if task != "unlabelled":
        divided = _divided(request, found, task, labels)
    _say_what_is_unknown(request, task, labels, classes, divided[0])
    entries = read_entries(found, request.progress) if all_volumes(found, name) else []
    if line := along_time(entries):
        request.progress.say(f"{name}: {line}")
    if task == "segmentation" and not entries:
        require_same_colours(case.mask for case in found if case.mask is not None)
    looks = _looked(request, found, entries, task)
    if task == "segmentation" and looks:
        divided = known_cases(request, divided, looks)
    facts = [looks[i] for i in divided[0]] if looks else []
    if task == "segmentation":
        if not (named or given.classes):
            require_labels(looks, name)
        values, classes = _mask_classes(facts, given, name, named or {})
        require_apart(found[0].ignore, values, classes, name)
        known = given.known_classes or {}
        guessed = not (said or set(values) <= known.keys())
        tell(request, found[0].ignore, looks, {*(named or given.classes or known)}, guessed)
        _say_of_masks(request, dict(zip(values, classes, strict=True)), looks, facts)
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
        units=units,
        modalities=len(found[0].images) if len({len(case.images) for case in found}) == 1 else 0,
        ignore=found[0].ignore,
    )


def _divided(
    request: Request, found: Sequence[Case], task: TaskName, labels: Labels | None
) -> Parts:
    """Divide cases into parts, and say which of these are drawn though others are not."""
    return parts(found, task, labels, request.seed, request.name, request.progress.say)


def _say_what_is_unknown(
    request: Request,
    task: TaskName,
    labels: Labels | None,
    names: Sequence[str],
    train: NDArray[np.int64],
) -> None:
    """Say of which findings the training samples know one value only, or none."""
    if task != "multilabel" or labels is None:
        return
    for name, own in zip(names, labels[train].T, strict=True):
        known = np.unique(own[np.isfinite(own)])
        if len(known) < 2:
            what = "not known" if not len(known) else ("there", "not there")[int(known[0] == 0)]
            request.progress.say(f"{request.name}: {name} is {what} in every training sample")


def _looked(
    request: Request, found: Sequence[Case], entries: Sequence[Entry], task: TaskName
) -> list[SampleFacts]:
    """Look at the cases of all parts, as a fault is better found before training than after it.

    Images without masks are not looked at, nor anything of which all is known already.
    """
    given = request.given
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
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Name the classes of cases in their order, or their findings or numbers, and their units.

    Those of weights come first where they have all of them.
    """
    columns = found[0].columns
    if columns is not None:
        own = dict(zip(columns.names, columns.units or ("",) * len(columns.names), strict=True))
        names = columns.names
        if given.labels and set(own) <= set(given.labels):
            names = given.labels
        units = tuple(own.get(one, "") for one in names) if columns.units else ()
        return names, units
    if found[0].mask is not None or found[0].label is None:
        return (), ()
    present = {str(case.label) for case in found}
    ordered = in_order(present)
    if given.labels and present <= set(given.labels):
        ordered = list(given.labels)
    if len(ordered) < 2:
        raise InputError(f"{name}: has one class, {ordered[0]}; expected two or more")
    if not given.labels or ordered != list(given.labels):
        _check_trained(found)
    return tuple(ordered), ()


def _spelled(found: Sequence[Case], given: Given) -> Sequence[Case]:
    """Give classes that are numbers the spelling that weights have for these."""
    present = {case.label for case in found if case.label is not None}
    alike = spelled_as(sorted(present), given.labels)
    if all(name == own for own, name in alike.items()):
        return found
    return [replace(case, label=alike[str(case.label)]) for case in found]


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
    known = given.known_classes or {}
    if said and known and not _called_alike(said, known):
        if given.classes == known:
            own, wanted = (
                first_few(
                    [f"{value} {text}" for value, text in one.items() if other.get(value) != text]
                )
                for one, other in ((said, known), (known, said))
            )
            raise InputError(
                f"{name}: its masks have other classes than the weights (here {own or 'fewer'}, "
                f"there {wanted or 'fewer'}); give data with the classes of the weights"
            )
        known = {}
    named = {0: "background", **(given.classes or seen)}
    if len(named) > MOST_CLASSES:
        raise InputError(
            f"{name}: its masks hold {len(named):,} values; expected at most {MOST_CLASSES}, with "
            "the background (are they numbers of single objects?)"
        )
    named[0] = "background" if named[0] == "0" else named[0]
    if len(named) < 2 or (facts and not any(set(one.voxels) - {0} for one in facts)):
        ignored = next((one.ignore for one in facts if one.unknown), None)
        why = "expected labels from 1 upwards" if ignored is None else hidden(ignored)
        raise InputError(f"{name}: every training mask is empty; {why}")
    same = named.keys() == known.keys() and bool(given.classes)  # their names were edited
    if named.keys() <= known.keys() and not same:
        named = known
    values = tuple(sorted(named))
    if len(set(named.values())) < len(named):
        twice = next(one for one in named.values() if list(named.values()).count(one) > 1)
        raise InputError(f"{name}: two classes are called {twice!r}; give each a name of its own")
    return values, tuple(named[value] for value in values)


def _called_alike(said: Mapping[int, str], known: Mapping[int, str]) -> bool:
    """Tell whether data and weights have the same classes; one called by its value has no name."""
    return said.keys() == known.keys() and all(
        name == known[value] or str(value) in (name, known[value])
        for value, name in said.items()
        if value
    )


def _say_of_masks(
    request: Request,
    classes: Mapping[int, str],
    looks: Sequence[SampleFacts],
    training: Sequence[SampleFacts],
) -> None:
    """Say which classes no training mask holds, and how many voxels are in several structures."""
    held = {value for look in training for value in look.voxels}
    none = [name for value, name in classes.items() if value and value not in held]
    if training and none:
        request.progress.say(
            f"{request.name}: no training mask holds {first_few(none)} ({len(none)} of "
            f"{len(classes) - 1} classes), which the network cannot learn"
        )
    shared = [look for look in looks if look.several]
    if shared:
        most = max(shared, key=lambda look: look.several)
        request.progress.say(
            f"{request.name}: {sum(look.several for look in shared):,} voxels of {len(shared):,} "
            f"cases lie in several structures, and go to the smallest of these (most in "
            f"{most.name}: {most.several:,})"
        )


def _images(
    request: Request,
    root: Path,
    found: Sequence[Case],
    labels: Labels | None,
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
        sides = [int(min(LARGEST_IMAGE, side)) for side in typical]
        default = round_up(sides, request.given.multiple or MULTIPLE)
    size = request.shape(2, default)
    images = FileSamples(root, names, labels, size, masks or None, values, found[0].ignore)
    images.see_colours(np.arange(len(found)), len(names))
    images.groups = groups_of(found)
    return images
