"""Opening lists of labelled files: images or volumes, with classes or masks."""

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossd.data.dataset import Samples, Subset
from crossd.data.file_names import Names
from crossd.data.io.agreement import require_known, require_same_count
from crossd.data.io.images import shape_of
from crossd.data.preprocessing import plan
from crossd.data.preprocessing.normalise import Normalised
from crossd.data.preprocessing.plan import Plan
from crossd.data.preprocessing.volume_dataset import Cache, VolumeSamples
from crossd.data.quality.facts import SampleFacts
from crossd.data.quality.scan import of_mask, of_volume, scan
from crossd.data.shapes import full_size, round_up
from crossd.data.source import Given, Source
from crossd.data.sources.case_files import Entry, all_volumes, read_entries
from crossd.data.sources.case_list import Case, groups_of, in_order, parts
from crossd.data.sources.image_folder import DEFAULT_SIZE, ImageSamples, channels_of
from crossd.errors import InputError
from crossd.utils.progress import Progress

LARGEST_IMAGE = 256
"""Side of images with masks, at most, where no size is given."""

LOOK_AT = 200
"""Images whose sizes are looked at, at most."""


def open_cases(
    name: str,
    root: Path,
    found: Sequence[Case],
    size: tuple[int, ...] | None,
    seed: int,
    given: Given,
    progress: Progress,
) -> Source:
    """Open a list of cases.

    Args:
        name: The source.
        root: The folder that holds all files.
        found: The cases.
        size: Spatial size of training samples; None chooses one.
        seed: Decides on splits that the cases do not fix.
        given: What is known already.
        progress: Where to show the scan.

    Returns:
        The source: images in [0, 1], volumes as the plan says.

    Raises:
        InputError: With the file that is wrong.
    """
    masks = found[0].mask is not None
    labels = np.zeros(len(found), np.int64)
    classes: tuple[str, ...] = ()
    values: tuple[int, ...] = ()
    if not masks:
        labels, classes = _classes(found, given, name)
    divided = parts(found, labels, seed, name)
    said = {case.split for case in found}
    missing = [part for part in ("val", "test") if part not in said]
    if missing and "train" in said:
        progress.say(
            f"{name}: no case is said to be for {' or '.join(missing)}: "
            f"{len(divided[1])} validate and {len(divided[2])} test, drawn by --seed {seed}"
        )
    entries = read_entries(found) if all_volumes(found, name) else []
    looks = _looked(found, entries, given, progress)
    facts = [looks[i] for i in divided[0]] if looks else []
    if masks:
        values, classes = _mask_classes(facts, given, name)
        for case, look in zip(found, looks, strict=False):
            if case.mask is not None and given.statistics is None:
                require_known(list(look.voxels), values, case.mask)
    if entries:
        made = _plan(facts, masks, given, None if size is None else full_size(size, 3, name))
        cache = Cache()
        channels = len(made.intensity)
        shape: tuple[int, ...] = made.patch
        samples: list[Samples] = [
            VolumeSamples(
                [entries[i] for i in indices],
                made,
                values,
                None if masks else labels[indices],
                cache,
                given.stored,
            )
            for indices in divided
        ]
    else:
        made = None
        whole = _images(name, root, found, None if masks else labels, divided[0], size, values)
        channels, shape = whole.channels, whole.shape
        samples = [Subset(whole, indices) for indices in divided]
    train, val, test = samples
    return Source(
        name,
        3 if entries else 2,
        "segmentation" if masks else "classification",
        channels,
        classes,
        shape,
        train,
        val,
        test,
        spacing=None if made is None else made.spacing,
        plan=made,
        values=values,
    )


def _looked(
    found: Sequence[Case], entries: Sequence[Entry], given: Given, progress: Progress
) -> list[SampleFacts]:
    """Look at the cases of all parts, as a fault is better found before training than after it.

    Images without masks are not looked at, nor anything of which all is known already.
    """
    masks = found[0].mask is not None
    unknown = given.statistics is None or (masks and not given.classes)
    if entries and (unknown or given.plan is None):
        look = partial(of_volume, cache=given.stored)
        return scan("scanning volumes", entries, look, progress)
    if masks and not entries and unknown:
        return scan("scanning masks", found, of_mask, progress)
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
    """Number the classes."""
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


def _plan(
    facts: Sequence[SampleFacts], masks: bool, given: Given, size: tuple[int, ...] | None
) -> Plan:
    """Make a plan of what was found in the training volumes, or fit the one that is given."""
    if given.plan is None:
        return plan.decide(facts, masks, size)
    made = given.plan
    if facts and len(made.intensity) != facts[0].channels:  # other channels than the weights'
        made = replace(made, intensity=plan.decide(facts, masks, size).intensity)
    if size is not None:
        z, y, x = size
        made = replace(made, patch=(z, y, x))
    return made


def _mask_classes(
    facts: Sequence[SampleFacts], given: Given, name: str
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return values and names of the classes of masks, the background first.

    Args:
        facts: What was found in the training masks.
        given: What is known already.
        name: The source, for the message.
    """
    seen = {value: str(value) for one in facts for value in one.voxels if value}
    named = {0: "background", **(given.classes or seen)}
    named[0] = "background" if named[0] == "0" else named[0]
    if len(named) < 2:
        raise InputError(f"{name}: every training mask is empty; expected labels from 1 upwards")
    known = given.known_classes or {}
    same = named.keys() == known.keys() and bool(given.classes)  # their names were edited
    if named.keys() <= known.keys() and not same:
        named = known
    values = tuple(sorted(named))
    return values, tuple(named[value] for value in values)


def _images(
    name: str,
    root: Path,
    found: Sequence[Case],
    labels: NDArray[np.int64] | None,
    training: NDArray[np.int64],
    size: tuple[int, ...] | None,
    values: tuple[int, ...],
) -> ImageSamples:
    """Make samples of images, in their order; of a size that fits the training ones."""
    counts = [(case.images[0], len(case.images)) for case in found]
    require_same_count(counts, "modalities", "images")
    names = [
        Names.of(os.path.relpath(path, root) for path in paths)
        for paths in zip(*(case.images for case in found), strict=True)
    ]
    masks = Names.of(os.path.relpath(case.mask, root) for case in found if case.mask is not None)
    if size is not None:
        shape = full_size(size, 2, name)
    elif masks:
        some = training[:: max(1, len(training) // LOOK_AT)]
        typical = np.median([shape_of(found[i].images[0]) for i in some], axis=0)
        shape = round_up([int(min(LARGEST_IMAGE, side)) for side in typical])
    else:
        shape = DEFAULT_SIZE
    whole = ImageSamples(
        root, names, [] if labels is None else labels, shape, masks or None, values
    )
    whole.channels = channels_of(whole) * len(names)
    whole.groups = groups_of(found)
    return whole
