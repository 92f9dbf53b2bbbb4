"""What is wrong, or odd, with the samples of a source: found before a training stumbles over it."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from crossd.data.io.agreement import HIGHEST
from crossd.data.quality.facts import DARK, SampleFacts, require_labels
from crossd.data.quality.survey import Survey
from crossd.data.splits import SPLITS
from crossd.errors import InputError

FACTOR = 2.0
"""Times the median from which a size or a spacing is odd."""

IMBALANCE = 10.0
"""Times that the most frequent class may be as frequent as the rarest."""

FEW = 10
"""Training samples of a class below which it has few."""

FAR = 10.0
"""Widths of the middle half of numbers from which one is odd."""

RANGE = 20.0
"""Times the median range of values from which a range is odd."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong or odd.

    Attributes:
        what: In words.
        which: All samples (or classes, or patients) that have it.
        grave: Whether it stops a training, or makes its scores worth little.
        accept: What ``--accept`` calls it, where a training can go on with it.
    """

    what: str
    which: list[str]
    grave: bool = False
    accept: str = ""

    @property
    def count(self) -> int:
        """How many have it."""
        return len(self.which)


def faults(found: Survey) -> list[Fault]:
    """List what is wrong with a source, the grave first.

    Args:
        found: What `crossd.data.quality.survey.survey` returned.

    Example:
        >>> flat = SampleFacts("a.png", "train", size=(8, 8), ranges=np.ones((1, 4)), digest="x")
        >>> [one.what for one in faults(Survey("x", 1, {"all": {"": 1}}, [flat]))]
        ['show nothing: every value is the same']
    """
    good = [look for look in found.looks if not look.fault]
    bad = [look for look in found.looks if look.fault]
    constant = [look for look in good if look.constant]
    varied = [look for look in good if not look.constant]
    judged = [
        Fault("cannot be read", [f"{one.name} ({one.fault})" for one in bad], True),
        Fault("show nothing: every value is the same", _names(constant), True, "constant"),
        *_twice(varied),
        *_patients(found.looks),
        *_classes(found),
        *_numbers(found),
        *_masks(good),
        *_depths(good),
        *_odd(good),
    ]
    return sorted((one for one in judged if one.which), key=lambda one: not one.grave)


def _names(looks: Iterable[SampleFacts]) -> list[str]:
    return [look.name for look in looks]


def _grouped(
    looks: Iterable[SampleFacts], key: Callable[[SampleFacts], str]
) -> dict[str, list[SampleFacts]]:
    groups: dict[str, list[SampleFacts]] = defaultdict(list)
    for look in looks:
        if key(look):
            groups[key(look)].append(look)
    return groups


def _twice(looks: Sequence[SampleFacts]) -> list[Fault]:
    """Find samples that are there twice: within a part, in two parts, with two labels."""
    same = [group for group in _grouped(looks, lambda one: one.digest).values() if len(group) > 1]

    def shown(groups: Iterable[list[SampleFacts]]) -> list[str]:
        return [" = ".join(look.name for look in group) for group in groups]

    leaks = [group for group in same if len({one.part for one in group}) > 1]
    torn = [group for group in same if len({one.label for one in group}) > 1]
    others = [group for group in same if group not in leaks and group not in torn]
    return [
        Fault(
            "the same sample in two parts: what is tested was trained", shown(leaks), True, "parts"
        ),
        Fault("the same sample with two labels", shown(torn), True, "labels"),
        Fault("the same sample more than once", shown(others)),
    ]


def _patients(looks: Iterable[SampleFacts]) -> list[Fault]:
    groups = _grouped(looks, lambda one: one.group)
    if len(groups) < 2:  # one name for all is what anonymisation leaves
        return []
    torn = [
        f"{name} ({', '.join(sorted({one.part for one in group}))})"
        for name, group in groups.items()
        if len({one.part for one in group}) > 1
    ]
    return [Fault("patients in two parts: what is tested was trained", torn, True, "parts")]


def _classes(found: Survey) -> list[Fault]:
    train = found.counts.get("train", {})
    names = found.classes()
    if not names or not train:
        return []
    none = [name for name in names if not train.get(name)]
    few = [f"{name} ({train[name]})" for name in names if 0 < train.get(name, 0) < FEW]
    untested = [
        f"{name} ({part})"
        for part in SPLITS[1:]
        if part in found.counts
        for name in names
        if not found.counts[part].get(name)
    ]
    present = {name: train[name] for name in names if train.get(name)}
    uneven: list[str] = []
    if present and max(present.values()) > IMBALANCE * min(present.values()):
        ends = max(present, key=present.__getitem__), min(present, key=present.__getitem__)
        uneven = [" against ".join(f"{name} ({present[name]:,})" for name in ends)]
    return [
        Fault("classes without a training sample", none, True),
        Fault(f"classes with fewer than {FEW} training samples", few),
        Fault("classes that are not tested or validated", untested),
        Fault(f"classes more than {IMBALANCE:g} times as frequent as others", uneven),
    ]


def _numbers(found: Survey) -> list[Fault]:
    """Find findings and numbers of which training samples tell nothing, and odd numbers."""
    if found.columns is None:
        return []
    parts = np.array(found.parts)
    train = found.numbers[parts == "train"] if "train" in found.parts else found.numbers
    grave = found.columns.task == "regression"
    unknown, alike, far = [], [], []
    for name, own in zip(found.columns.names, train.T, strict=True):
        known = own[np.isfinite(own)]
        if not len(known):
            unknown.append(name)
        elif known.min() == known.max():
            alike.append(f"{name} ({known[0]:g})")
        elif grave:
            low, middle, high = np.percentile(known, (25, 50, 75))
            width = (high - low) or known.std()
            odd = known[np.abs(known - middle) > FAR * width]
            far += [f"{name} ({value:.4g})" for value in np.unique(odd)]
    return [
        Fault("not known of any training sample", unknown, grave),
        Fault("the same in every training sample", alike, grave),
        Fault(f"numbers more than {FAR:g} times the middle half's width from the median", far),
    ]


def _not_labels(looks: Sequence[SampleFacts]) -> list[str]:
    """Say of masks why a training refuses them all."""
    try:
        require_labels(looks, "the source")
    except InputError as error:
        return [str(error)]
    return []


def _masks(looks: Sequence[SampleFacts]) -> list[Fault]:
    masked = [look for look in looks if look.voxels]
    trained = {value for look in masked if look.part == "train" for value in look.voxels}
    new = [
        f"{look.name} ({', '.join(map(str, sorted(set(look.voxels) - trained)))})"
        for look in masked
        if trained and look.part != "train" and set(look.voxels) - trained
    ]
    blank = _names(look for look in masked if set(look.voxels) == {0})
    hidden = _names(look for look in looks if look.unknown and not look.voxels)
    training = [look for look in masked if look.part == "train"] or masked
    useless = not any(set(look.voxels) - {0} for look in training)
    several = [f"{look.name} ({look.several:,})" for look in masked if look.several]
    return [
        Fault("masks hold a value that no training mask holds", new, True),
        Fault("masks do not hold one number for each class", _not_labels(masked), True),
        Fault("masks are empty", blank, useless),
        Fault("voxels in several structures: the smallest has them", several),
        Fault("masks know nothing: every voxel is ignored", hidden, not trained),
    ]


def _depths(looks: Sequence[SampleFacts]) -> list[Fault]:
    """Find training images of 16 bits that are nearly black beside those of 8."""
    training = [look for look in looks if look.part == "train"] or looks
    deep = [look for look in training if look.bits == 16]
    mixed = any(look.bits == 8 for look in training)
    dark = mixed and all(look.high <= DARK * HIGHEST for look in deep)
    what = "images of 16 bits that use a quarter of them or less, nearly black beside those of 8"
    return [Fault(what, _names(deep) if dark else [], True, "depths")]


def _odd(looks: Sequence[SampleFacts]) -> list[Fault]:
    """Find samples whose channels, size or spacing are far from those of most."""
    if not looks:
        return []
    channels = [look.channels for look in looks]
    usual = max(set(channels), key=channels.count)
    other = [f"{look.name} ({look.channels})" for look in looks if look.channels != usual]
    series = _names(look for look in looks if look.over_time)
    axes = [len(look.size) for look in looks]
    rank = max(set(axes), key=axes.count)
    mixed = [look.name for look in looks if len(look.size) != rank]
    even = [look for look in looks if len(look.size) == rank]
    sized = _far([(look, look.size) for look in even])
    spaced = _far([(look, look.spacing) for look in even if look.spacing is not None])
    widths = np.array([look.high - look.low for look in looks])
    usual_width = float(np.median(widths[widths > 0])) if (widths > 0).any() else 0.0
    wide = [
        f"{look.name} ({look.low:.3g} to {look.high:.3g})"
        for look, width in zip(looks, widths, strict=True)
        if width > 0 and not 1 / RANGE <= width / usual_width <= RANGE
    ]
    return [
        Fault("other channels than most", other, True),
        Fault("volumes along the axis of time are taken as channels", series),
        Fault("images among volumes, or volumes among images", mixed, True),
        Fault(f"sizes more than {FACTOR:g} times above or below the median", sized),
        Fault(f"spacings more than {FACTOR:g} times above or below the median", spaced),
        Fault(f"ranges of values more than {RANGE:g} times wider or narrower than most", wide),
    ]


def _far(pairs: Sequence[tuple[SampleFacts, Sequence[float]]]) -> list[str]:
    if not pairs:
        return []
    values = np.array([value for _, value in pairs], float)
    ratio = values / np.median(values, axis=0)
    odd = ((ratio > FACTOR) | (ratio < 1 / FACTOR)).any(1)
    return [
        f"{look.name} ({' x '.join(f'{side:.3g}' for side in value)})"
        for (look, value), far in zip(pairs, odd, strict=True)
        if far
    ]
