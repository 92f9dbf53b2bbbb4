"""Channels and normalisation: the last steps of opening a source."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from crossd.data.dataset import ChangedSamples, Finish, Sample, Samples, in_floats
from crossd.data.disk_cache import key_of, user_cache
from crossd.data.source import Given, Source
from crossd.errors import InputError

ENOUGH = 2_000
"""Training images that the mean and the standard deviation are taken from, at most."""

FORM = 3
"""Of what is kept of them, to be counted up when images are prepared in another way."""


COLOURS = 3
"""Channels of an image with colours."""


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
        say: Told of images that show nothing, where these are accepted.

    Returns:
        The source with `mean`, `std` and `channels` set.

    Raises:
        InputError: When the channels cannot be adapted, or images show nothing.
    """
    wanted = source.channels if channels is None else channels
    grey = wanted == 1 and source.rank == 2 and source.channels == COLOURS
    if wanted < 1 or not (source.channels in (1, wanted) or grey):
        raise InputError(
            f"{source.name}: has {source.channels} channels, {wanted} are wanted; one channel can "
            "be repeated, and colours be made grey, but nothing else is the same"
        )
    mean, std = given.statistics or _statistics(source, wanted, seed, given, say)
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
    mean, std, empty = found
    if empty and std > 0:
        given.judge(
            "constant",
            f"{source.name}: {len(empty):,} of {len(indices):,} training samples show nothing, "
            f"every value is the same (the first is {samples.name(int(indices[empty[0]]))})",
            "remove them",
            say,
        )
    return mean, std


def _remembered(
    samples: Samples, indices: NDArray[np.int64], channels: int
) -> tuple[float, float, list[int]]:
    """Measure, or take from the cache of the user what was measured of the same files."""
    stamps = [samples.stamp(int(index)) for index in indices]
    known = [stamp for stamp in stamps if stamp is not None]
    if len(known) < len(stamps):
        return _measured(samples, indices, channels)
    cache, key = user_cache(), key_of("statistics and empty", FORM, channels, known)
    with cache.one_process_at_a_time(key):
        found = cache.get(key)
        if found is None:
            mean, std, empty = _measured(samples, indices, channels)
            cache.keep(
                key,
                {"statistics": np.array([mean, std]), "empty": np.array(empty, np.int64)},
            )
        else:
            mean, std = found["statistics"].tolist()
            empty = found["empty"].tolist()
    return mean, std, empty


def _measured(
    samples: Samples, indices: NDArray[np.int64], channels: int
) -> tuple[float, float, list[int]]:
    """Return the mean, the standard deviation, and which of the indices are of one value only."""
    total, squares, count = 0.0, 0.0, 0
    empty = []
    for place, index in enumerate(indices.tolist()):
        image = adapt(in_floats(samples[index]["image"]), channels).double()
        if image.min() == image.max():
            empty.append(place)
        total += image.sum().item()
        squares += image.square().sum().item()
        count += image.numel()
    mean = total / count
    # A constant image must give 0 exactly, which rounding of the squares can prevent.
    variance = squares / count - mean**2
    return mean, float(np.sqrt(variance)) if variance > 1e-12 else 0.0, empty
