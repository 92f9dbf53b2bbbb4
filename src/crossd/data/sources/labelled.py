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
from crossd.data.preprocessing import plan, volume_dataset
from crossd.data.preprocessing.normalise import Normalised
from crossd.data.quality.facts import SampleFacts
from crossd.data.quality.scan import of_mask, of_volume, scan
from crossd.data.shapes import full_size, round_up
from crossd.data.source import Given, Source
from crossd.data.sources import image_folder
from crossd.data.sources.case_files import Entry, all_volumes, read_entries
from crossd.data.sources.case_list import Case, groups_of, in_order, parts
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
    classes: tuple[str, ...] = ()
    labels = np.zeros(len(found), np.int64)
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
    own = None if masks else labels
    if all_volumes(found, name):
        source = _open_volumes(name, found, own, divided, size, given, progress)
    else:
        source = _open_images(name, root, found, own, divided, size, given, progress)
    return source if masks else replace(source, classes=classes)


def entries_of(samples: Samples) -> list[Entry] | None:
    """Return the files behind samples, in their order; None where they are no files of volumes."""
    if isinstance(samples, volume_dataset.VolumeSamples):
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


def _open_volumes(
    name: str,
    found: Sequence[Case],
    labels: NDArray[np.int64] | None,
    divided: Sequence[NDArray[np.int64]],
    size: tuple[int, ...] | None,
    given: Given,
    progress: Progress,
) -> Source:
    entries = read_entries(found)
    wanted = None if size is None else full_size(size, 3, name)
    looks: list[SampleFacts] = []
    # All, as a fault is better found before training than after it; or to make a plan.
    if given.statistics is None or given.plan is None:
        look = partial(of_volume, cache=given.stored)
        looks = scan("scanning volumes", entries, look, progress)
    facts = [looks[i] for i in divided[0]] if looks else []
    made = given.plan or plan.decide(facts, labels is None, wanted)
    if facts and len(made.intensity) != len(facts[0].ranges):  # other channels than the weights'
        made = replace(made, intensity=plan.decide(facts, labels is None, wanted).intensity)
    if given.plan is not None and wanted is not None:
        z, y, x = wanted
        made = replace(made, patch=(z, y, x))
    values: tuple[int, ...] = ()
    classes: tuple[str, ...] = ()
    if labels is None:
        values, classes = _mask_classes(facts, given, name)
        if given.statistics is None:
            _check_values(found, looks, values)
    cache = volume_dataset.Cache()
    train_part, val_part, test_part = (
        volume_dataset.VolumeSamples(
            [entries[i] for i in indices],
            made,
            values,
            None if labels is None else labels[indices],
            cache,
            given.stored,
        )
        for indices in divided
    )
    return Source(
        name,
        3,
        "segmentation" if labels is None else "classification",
        len(made.intensity),
        classes,
        made.patch,
        train_part,
        val_part,
        test_part,
        spacing=made.spacing,
        plan=made,
        values=values,
    )


def _check_values(
    found: Sequence[Case], facts: Sequence[SampleFacts], values: Sequence[int]
) -> None:
    """Refuse masks of validation and test that hold what no training mask does."""
    for case, one in zip(found, facts, strict=True):
        if case.mask is not None:
            require_known(list(one.voxels), values, case.mask)


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


def _open_images(
    name: str,
    root: Path,
    found: Sequence[Case],
    labels: NDArray[np.int64] | None,
    divided: Sequence[NDArray[np.int64]],
    size: tuple[int, ...] | None,
    given: Given,
    progress: Progress,
) -> Source:
    counts = [(case.images[0], len(case.images)) for case in found]
    require_same_count(counts, "modalities", "images")
    names = [
        Names.of(os.path.relpath(path, root) for path in paths)
        for paths in zip(*(case.images for case in found), strict=True)
    ]
    masks = Names.of(os.path.relpath(case.mask, root) for case in found if case.mask is not None)
    some = [found[i] for i in divided[0][:: max(1, len(divided[0]) // LOOK_AT)]]
    values: tuple[int, ...] = ()
    classes: tuple[str, ...] = ()
    if masks:
        looks: list[SampleFacts] = []
        if given.statistics is None or not given.classes:
            looks = scan("scanning masks", found, of_mask, progress)
        facts = [looks[i] for i in divided[0]] if looks else []
        values, classes = _mask_classes(facts, given, name)
        if given.statistics is None:
            _check_values(found, looks, values)
    if size is not None:
        shape = full_size(size, 2, name)
    elif masks:
        typical = np.median([shape_of(case.images[0]) for case in some], axis=0)
        shape = round_up([int(min(LARGEST_IMAGE, side)) for side in typical])
    else:
        shape = image_folder.DEFAULT_SIZE
    own = [] if labels is None else labels.tolist()
    whole = image_folder.ImageSamples(root, names, own, shape, masks or None, values)
    whole.channels = image_folder.channels_of(whole) * len(names)
    whole.groups = groups_of(found)
    train, val, test = (Subset(whole, indices) for indices in divided)
    return Source(
        name,
        2,
        "segmentation" if masks else "classification",
        whole.channels,
        classes,
        shape,
        train,
        val,
        test,
        values=values,
    )
