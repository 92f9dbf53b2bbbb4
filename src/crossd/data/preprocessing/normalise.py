"""Channels and normalisation: the last steps of opening a source."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossd.data.dataset import ChangedSamples, Finish, Sample, Samples, in_floats
from crossd.data.disk_cache import key_of, user_cache
from crossd.data.io.agreement import HIGHEST
from crossd.data.preprocessing import plan
from crossd.data.preprocessing.plan import Intensity, Plan
from crossd.data.quality.facts import DARK
from crossd.data.source import RANKS, Given, Source
from crossd.errors import InputError

ENOUGH = 2_000
"""Training images that the mean and the standard deviation are taken from, at most."""

FORM = 4
"""Of what is kept of them, to be counted up when images are prepared in another way."""


COLOURS = 3
"""Channels of an image with colours."""


@dataclass(frozen=True)
class Measured:
    """What is found in the images that are measured.

    Attributes:
        mean: Of all values.
        std: Of all values.
        empty: Places of the images of one value only.
        deep: Places of the images that are not of 8 bits.
        top: The highest value in these, in [0, 1] where they are files.
    """

    mean: float
    std: float
    empty: list[int]
    deep: list[int]
    top: float


class Normalised(ChangedSamples):
    """Samples whose images have `channels` channels and are shifted and scaled."""

    def __init__(self, samples: Samples, channels: int, mean: float, std: float) -> None:
        super().__init__(samples)
        self.channels = channels
        self.mean = mean
        self.std = std

    def _changed(self, sample: Sample) -> Sample:
        image = adapt(in_floats(sample["image"]), self.channels)
        sample["image"] = (image - self.mean).div_(self.std)
        return sample

    def late(self) -> tuple[Samples, Finish]:
        """See `Samples.late`: all that is done here is done to batches."""
        samples, finish = self.samples.late()
        return samples, lambda images: self._finished(finish(images))

    def _finished(self, images: Tensor) -> Tensor:
        # In place: to take memory for a batch costs more than all the arithmetic (a tenth of it).
        x = images.transpose(0, 1)
        x = adapt(x, min(len(x), self.channels)).sub_(self.mean).div_(self.std)
        return adapt(x, self.channels).transpose(0, 1)


class ScaledAsVolumes(ChangedSamples):
    """Images, or volumes of arrays, each scaled as a plan scales files: see `plan.scale_alone`."""

    def __init__(self, samples: Samples, channels: int, how: Plan) -> None:
        super().__init__(samples)
        self.channels, self.how = channels, of_channels(how.intensity, channels)

    def __getitem__(self, index: int) -> Sample:
        sample: Sample = {**self.samples[index]}
        image = adapt(in_floats(sample["image"]), self.channels).numpy()
        sample["image"] = torch.from_numpy(plan.scale_alone(image, self.how, self.name(index)))
        return sample

    def plane(self, index: int, axis: int, position: int) -> Sample:
        """Return one slice of a volume, which is scaled whole."""
        return Samples.plane(self, index, axis, position)


def of_channels(intensity: tuple[Intensity, ...], channels: int) -> tuple[Intensity, ...]:
    """Say how each channel is scaled, where one may be repeated."""
    return intensity * channels if len(intensity) == 1 else intensity


def adapt(image: Tensor, channels: int) -> Tensor:
    """Repeat one channel or average many into one.

    Args:
        image: Shape ``(C, ...)``; C or `channels` is 1 where they differ.
        channels: Number of channels wanted.

    Returns:
        Shape ``(channels, ...)``.

    Example:
        >>> import torch
        >>> adapt(torch.ones(1, 4, 4), 3).shape
        torch.Size([3, 4, 4])
    """
    if image.shape[0] == channels:
        return image
    if channels == 1:
        return image.mean(0, keepdim=True)
    return image.expand(channels, *image.shape[1:])


def normalise(
    source: Source,
    channels: int | None,
    seed: int,
    given: Given,
    say: Callable[[str], None],
) -> Source:
    """Adapt the channels, then shift and scale by what the training images hold.

    Args:
        source: A source.
        channels: Number of channels wanted; None keeps what there is.
        seed: Decides which training images are looked at when there are many.
        given: With the mean and the standard deviation, if these are known already.
        say: Told of images of several depths, and of faults that are accepted.

    Returns:
        The source with `mean`, `std` and `channels` set.

    Raises:
        InputError: When the channels cannot be adapted, or images show nothing or are nearly black.
    """
    wanted = source.channels if channels is None else channels
    grey = wanted == 1 and source.rank == 2 and source.channels == COLOURS
    if wanted < 1 or not (source.channels in (1, wanted) or grey):
        raise InputError(
            f"{source.name}: has {source.channels} channels, {wanted} are wanted; one channel can "
            "be repeated, and colours be made grey, but nothing else is the same"
        )
    known = given.statistics
    if source.plan is None and given.plan is not None and _is_scaled(source, given, given.plan):
        what = RANKS[source.rank]
        say(f"{source.name}: its {what} are scaled as the plan scales files, each by itself")
        source = replace(
            source,
            plan=given.plan,
            train=ScaledAsVolumes(source.train, wanted, given.plan),
            val=ScaledAsVolumes(source.val, wanted, given.plan),
            test=ScaledAsVolumes(source.test, wanted, given.plan),
        )
    if source.plan is not None and source.plan.final:
        known = (0.0, 1.0)
    mean, std = known or _statistics(source, wanted, seed, given, say)
    if not std > 0:
        raise InputError(f"{source.name}: every value of the training images is the same")
    train, val, test = (
        Normalised(part, wanted, mean, std) for part in (source.train, source.val, source.test)
    )
    return replace(source, channels=wanted, train=train, val=val, test=test, mean=mean, std=std)


def normalised_by(source: Source, mean: float, std: float) -> Source:
    """Shift and scale a source by other numbers than before.

    Args:
        source: As `normalise` made it.
        mean: Subtracted from every image.
        std: Divided by, after `mean` was subtracted.

    Raises:
        InputError: For a source that was changed since.
    """
    parts = []
    for part in (source.train, source.val, source.test):
        if not isinstance(part, Normalised):
            raise InputError(f"{source.name}: its samples were changed after normalisation")
        parts.append(Normalised(part.samples, part.channels, mean, std))
    train, val, test = parts
    return replace(source, train=train, val=val, test=test, mean=mean, std=std)


def _is_scaled(source: Source, given: Given, how: Plan) -> bool:
    """Tell whether samples that no plan prepared are scaled as one scales files.

    Volumes of arrays are not where a plan takes values as they are: a training learns what they
    are then, and is told their statistics.

    Raises:
        InputError: Of images, and of volumes for a network that does not learn, in that case.
    """
    if source.rank == 3 and given.statistics is None:
        return plan.is_relative(how.intensity)
    plan.require_relative(how.intensity, source.name)
    return True


def _statistics(
    source: Source, channels: int, seed: int, given: Given, say: Callable[[str], None]
) -> tuple[float, float]:
    """Return the mean and the standard deviation over up to ENOUGH images."""
    samples, indices = source.train, np.arange(len(source.train))
    if len(indices) > ENOUGH:
        indices = np.sort(np.random.default_rng(seed).choice(indices, ENOUGH, replace=False))
        found = _remembered(samples, indices, channels)
    else:
        found = _measured(samples, indices, channels)
    if found.empty and found.std > 0:
        given.judge(
            "constant",
            f"{source.name}: {len(found.empty):,} of {len(indices):,} training samples show "
            "nothing, every value is the same (the first is "
            f"{samples.name(int(indices[found.empty[0]]))})",
            "remove them",
            say,
        )
    if 0 < len(found.deep) < len(indices):
        text = (
            f"{source.name}: {len(found.deep):,} of {len(indices):,} training images have 16 bits "
            f"(the first is {samples.name(int(indices[found.deep[0]]))}), the others 8"
        )
        if found.top > DARK:
            say(f"{text}; each is divided by the highest value that its bits can hold")
        else:
            given.judge(
                "depths",
                f"{text}, and are nearly black beside these: they hold values up to "
                f"{found.top * HIGHEST:,.0f} of {HIGHEST:,}",
                f"save them with values up to {HIGHEST:,}, or all with 8 bits",
                say,
            )
    return found.mean, found.std


def _remembered(samples: Samples, indices: NDArray[np.int64], channels: int) -> Measured:
    """Measure, or take from the cache of the user what was measured of the same files."""
    stamps = [samples.stamp(int(index)) for index in indices]
    known = [stamp for stamp in stamps if stamp is not None]
    if len(known) < len(stamps):
        return _measured(samples, indices, channels)
    cache, key = user_cache(), key_of("measured images", FORM, channels, known)
    with cache.one_process_at_a_time(key):
        kept = cache.get(key)
        if kept is not None:
            mean, std, top = kept["numbers"].tolist()
            return Measured(mean, std, kept["empty"].tolist(), kept["deep"].tolist(), top)
        found = _measured(samples, indices, channels)
        kept = {
            "numbers": np.array([found.mean, found.std, found.top]),
            "empty": np.array(found.empty, np.int64),
            "deep": np.array(found.deep, np.int64),
        }
        cache.keep(key, kept)
    return found


def _measured(samples: Samples, indices: NDArray[np.int64], channels: int) -> Measured:
    """Measure the images at some indices, which places count from 0."""
    total, squares, count, top = 0.0, 0.0, 0, 0.0
    empty, deep = [], []
    for place, index in enumerate(indices.tolist()):
        stored = samples[index]["image"]
        image = adapt(in_floats(stored), channels).double()
        if image.min() == image.max():
            empty.append(place)
        if stored.dtype != torch.uint8:
            deep.append(place)
            top = max(top, float(stored.max()))
        total += image.sum().item()
        squares += image.square().sum().item()
        count += image.numel()
    mean = total / count
    # A constant image must give 0 exactly, which rounding of the squares can prevent.
    variance = squares / count - mean**2
    std = float(np.sqrt(variance)) if variance > 1e-12 else 0.0
    return Measured(mean, std, empty, deep, top)
