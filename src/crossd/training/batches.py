"""What training and scoring take from samples: batches with their views, augmented, in shares."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, default_collate

from crossd.conversion.views import has_views, mixes_views, seen_in, views_of
from crossd.data.dataset import Finish, Sample, Samples, in_floats
from crossd.data.fault_tolerance import PATIENCE, GuardedSamples
from crossd.data.patches import Patches
from crossd.data.source import Source
from crossd.errors import InputError
from crossd.nn.views import VIEWS, draw_view, view
from crossd.training import devices
from crossd.training.config import TrainConfig
from crossd.training.loss import loss_of
from crossd.training.workers import choose
from crossd.utils.progress import Progress

Batch = dict[str, Any]
"""Tensors, which go to the device; and arrays of `ON_PROCESSOR`, which stay."""

ON_PROCESSOR = ("view", "instead_of")
"""What is said of samples and read in every step: from a GPU, reading would wait for it."""


class ViewBatches(Sampler[list[int]]):
    """Batches of images whose views are known, those of one view side by side.

    Views are mixed in a batch as they come, so that BatchNorm sees their mixture, as it will when
    it is tested. The batches differ in size by one at most, so that none is too small for
    BatchNorm. Of several processes that train together each takes its part of every batch, or, in
    order, one batch of so many.

    Args:
        views: View of every sample, shape ``(N,)``.
        batch_size: Most samples in a batch of all processes together.
        seed: Of the order, which is drawn anew for every epoch; None keeps the samples' order.
        share: Number of this process and of all.
        apart: Let every batch have one view.
        drawn: Draw the view of every image anew for every epoch, in place of its own.

    Attributes:
        skip: Batches to leave out at the start, when a run goes on in the middle of an epoch.
    """

    def __init__(
        self,
        views: NDArray[np.int64],
        batch_size: int,
        seed: int | None,
        share: tuple[int, int] = (0, 1),
        apart: bool = False,
        drawn: bool = False,
    ) -> None:
        self.views = views
        self.together = views if apart and not drawn else np.zeros_like(views)
        self.apart, self.drawn = apart, drawn
        self.batch_size = batch_size
        self.seed = seed
        self.share = share
        self.epoch = 0
        self.skip = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch."""
        self.epoch = epoch

    def plan(self) -> list[NDArray[np.int64]]:
        """List the batches of all processes together."""
        draw = None if self.seed is None else np.random.default_rng((self.seed, self.epoch))
        batches: list[NDArray[np.int64]] = []
        for value in np.unique(self.together):
            order = np.flatnonzero(self.together == value)
            order = order if draw is None else draw.permutation(order)
            batches += np.array_split(order, self._count(len(order)))
        order = np.arange(len(batches)) if draw is None else draw.permutation(len(batches))
        if self.drawn and draw is not None:
            self.views = draw.integers(len(VIEWS), size=len(self.views))
            for batch in batches if self.apart else ():
                self.views[batch] = self.views[batch[0]]
        return [self._sorted(batches[index]) for index in order]

    def _sorted(self, batch: NDArray[np.int64]) -> NDArray[np.int64]:
        return batch[np.argsort(self.views[batch], kind="stable")]

    def __iter__(self) -> Iterator[list[int]]:
        """Yield lists of indices for this process."""
        batches = self.plan()
        if self.seed is None:  # whole batches in turn; the last one again, so that all have as many
            batches = [batches[min(i, len(batches) - 1)] for i in self._dealt(len(batches))]
        else:
            batches = [batch[part_of(len(batch), self.share)] for batch in batches]
        for batch in batches[self.skip :]:
            yield batch.tolist()

    def _dealt(self, count: int) -> range:
        number, world = self.share
        return range(number, -(-count // world) * world, world)

    def _count(self, samples: int) -> int:
        return -(-samples // self.batch_size)

    def __len__(self) -> int:
        """Return the number of batches."""
        count = sum(self._count(int(n)) for n in np.unique_counts(self.together).counts)
        return len(self._dealt(count)) if self.seed is None else count


def part_of(size: int, share: tuple[int, int]) -> slice:
    """Return which rows of a batch are a process's; every n-th, so that each has all views.

    Of a batch with fewer rows than there are processes some have the same.
    """
    number, world = share
    if size < world:
        return slice(number % size, number % size + 1)
    return slice(number, None, world)


def batches(
    samples: Samples, net: nn.Module, config: TrainConfig, train: bool = False
) -> DataLoader[Sample]:
    """Make a loader; a batch has one view where the network cannot take several at once.

    Volumes that differ in size come one by one. In training the order is drawn, and the processes
    share every batch; else they take whole batches in turn.
    """
    views = samples.views if has_views(net) else None
    if views is None:
        views = np.zeros(len(samples), np.int64)
    size = config.batch_size if samples.patch is None else 1
    share = devices.share()
    if train:
        size *= share[1]
    # Compiled, a network is compiled anew for every mixture, but once for each of three views.
    apart = config.one_view or config.compile or not mixes_views(net)
    drawn = train and config.views == "drawn" and has_views(net)
    sampler = ViewBatches(views, size, config.seed if train else None, share, apart, drawn)
    # A generator of its own: starting to read draws nothing from the one that training draws from.
    own = torch.Generator().manual_seed(config.seed)
    workers = choose(config.workers, samples, size)
    return DataLoader(
        samples,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        generator=own,
        timeout=PATIENCE if workers else 0,
    )


def collate(samples: list[Sample]) -> Batch:
    """Make a batch; of images of 8 bits and others one of float32."""
    if len({sample["image"].dtype for sample in samples}) > 1:
        samples = [{**sample, "image": in_floats(sample["image"])} for sample in samples]
    told = [name for name in ON_PROCESSOR if name in samples[0]]
    tensors = [{k: v for k, v in sample.items() if k not in told} for sample in samples]
    batch: Batch = default_collate(tensors)
    return batch | {name: np.array([sample[name] for sample in samples]) for name in told}  # type: ignore[literal-required]


def view_of(batch: Batch, net: nn.Module, draw: bool = False) -> AbstractContextManager[None]:
    """Set the views of a batch where they are known; else leave it to the network, or draw one.

    Only views in which the network keeps the law: in others it sees images as in the axial view.
    """
    views = batch.get("view")
    if batch["image"].dim() != 4 or not has_views(net):
        return nullcontext()
    if views is None or int(views[0]) < 0:
        return view(draw_view(views_of(net))) if draw else nullcontext()
    return view(seen_in(net, views.tolist()))


def augment(
    image: Tensor,
    mask: Tensor | None,
    rows: slice = slice(None),
    total: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Shift a batch by up to a fourteenth of its sides, and vary contrast, brightness and noise.

    Args:
        image: Normalised, shape ``(N, C, ...)``.
        mask: Shape ``(N, ...)``, shifted along.
        rows: Of the samples in the batch of all processes, for which draws are made.
        total: Samples of that batch; None where there is one process.

    Returns:
        Both, of the same shapes.
    """
    sides = image.shape[2:]
    total = len(image) if total is None else total
    shifts = [int(torch.randint(-(s // 14), s // 14 + 1, ())) for s in sides]
    shape = (total,) + (1,) * (image.dim() - 1)
    contrast = 1 + 0.2 * (2 * torch.rand(shape, device=image.device) - 1)
    brightness = 0.2 * (2 * torch.rand(shape, device=image.device) - 1)
    image = _moved(image, shifts) * contrast[rows] + brightness[rows]
    noise = torch.randn((total, *image.shape[1:]), dtype=image.dtype, device=image.device)
    image = image + 0.05 * noise[rows]
    if mask is not None:
        mask = _moved(mask[:, None].float(), shifts)[:, 0].long()
    return image, mask


def _moved(x: Tensor, shifts: list[int]) -> Tensor:
    """Shift the spatial axes, repeating the border."""
    margins = [m for s in reversed(shifts) for m in (max(s, 0), max(-s, 0))]
    x = F.pad(x, margins, mode="replicate")
    for axis, shift in enumerate(shifts, start=2):
        x = x.narrow(axis, max(-shift, 0), x.shape[axis] - abs(shift))
    return x


class Piece(NamedTuple):
    """This process's part of a batch.

    Attributes:
        feed: Where it is from.
        batch: The samples.
        rows: Of the batch that are this part.
        indices: Of all samples of the batch.
    """

    feed: "Feed"
    batch: Batch
    rows: slice
    indices: NDArray[np.int64]

    @property
    def weight(self) -> float:
        """Weight of the mean over this part, so that the mean over parts is that of the batch.

        Of findings and numbers the mean is over what is known.
        """
        labels = self.feed.source.train.labels
        if labels is not None and labels.ndim == 2:
            known = np.isfinite(labels[self.indices]).sum(1)
            return float(known[self.rows].sum() * devices.share()[1] / max(1, known.sum()))
        return len(self.batch["image"]) * devices.share()[1] / len(self.indices)


class Feed:
    """Training batches of one source, without end.

    Attributes:
        source: Where they come from.
        config: Size of batches, augmentation and seed.
        loader: Of one pass.
        ready: The same on the device.
        criterion: The loss.
        rows: The logits that are its classes.
    """

    def __init__(
        self,
        source: Source,
        config: TrainConfig,
        net: nn.Module,
        progress: Progress | None = None,
    ) -> None:
        self.source, self.config = source, config
        self.progress = progress or Progress(quiet=True)
        full = config.augment == "full"
        skip = config.on_bad_sample == "skip"
        workers = choose(config.workers, source.train, config.batch_size, busy=full)
        self.watched = GuardedSamples(source.train, skip, workers)
        read: Samples = self.watched
        self.finish: Finish = in_floats
        if not full and source.train.patch is None:
            read, self.finish = read.late()
        sizes_matter = source.task == "regression"
        self.drawn = Patches(
            read, source.train.patch, config.seed, full, source.spacing, zoom=not sizes_matter
        )
        self.loader = batches(self.drawn, net, replace(config, workers=workers), train=True)
        self.ready = self.loader
        partial = source.ignore is not None
        self.criterion = loss_of(source.task, source.scale_of_numbers(), partial)
        self.rows = slice(None)

    def take(self, epoch: int, count: int, done: int = 0) -> Iterator[Piece]:
        """Yield the batches of an epoch: as many passes as give so many, the last one cut.

        Those `done` were taken before, and are not read again.
        """
        sampler = self.loader.batch_sampler
        assert isinstance(sampler, ViewBatches)
        each = len(self.loader)
        passes = -(-count // each)
        for number in range(done // each, passes):
            turn = epoch * passes + number
            sampler.set_epoch(turn)
            self.drawn.set_epoch(turn)
            sampler.skip = max(0, done - number * each)
            rest = sampler.plan()[sampler.skip : count - number * each]
            for indices, batch in zip(rest, self.ready, strict=False):
                self._note(batch)
                own = part_of(len(indices), sampler.share)
                if sampler.drawn:
                    batch["view"] = sampler.views[indices[own]]
                batch["image"] = self.finish(batch["image"])
                yield Piece(self, batch, own, indices)

    def _note(self, batch: Batch) -> None:
        """Say which samples could not be read."""
        bad = batch.pop("instead_of", None)
        for index in [] if bad is None else bad[bad >= 0].tolist():
            line = self.watched.note(index)
            if line is not None:
                self.progress.say(line)


@contextmanager
def reporting(feeds: Sequence[Feed]) -> Iterator[None]:
    """Report a process that died or hangs while it read, with what it was reading.

    torch raises at whatever the block is doing when a process dies, and a connection to one that
    just did is reset.
    """
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        if not is_of_a_reader(error):
            raise
        what = "hangs" if "timed out" in str(error) else "died, for want of memory perhaps,"
        at = "; ".join(f"{feed.source.name}: {feed.watched.reading()}" for feed in feeds)
        raise InputError(
            f"a process that reads data {what} at one of: {at}; try --workers 0, or fewer"
        ) from error


def is_of_a_reader(error: Exception) -> bool:
    """Tell whether an error of torch is about a process that reads."""
    return isinstance(error, ConnectionError | EOFError) or "DataLoader" in str(error)


def alternate(feeds: Sequence[Feed], epoch: int, count: int, done: int = 0) -> Iterator[Piece]:
    """Yield a batch of each feed in turn, `count` of each less those `done`."""
    for taken in zip(*(feed.take(epoch, count, done) for feed in feeds), strict=True):
        yield from taken
