"""What a network says of samples, what that is worth, and BatchNorm measured on them."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from crossd.conversion.adapt import measuring
from crossd.data.dataset import Samples, Subset
from crossd.data.patches import Patches
from crossd.data.source import Source
from crossd.data.splits import spread
from crossd.inference import sliding_window
from crossd.tasks import task_of
from crossd.training import devices, metrics
from crossd.training.batches import Batch, ViewBatches, batches, view_of
from crossd.training.config import TrainConfig
from crossd.utils.progress import Progress

MEASURED = 256
"""Samples on which BatchNorm is measured, at most: their mean lies within a few hundredths of a
standard deviation of that of all."""


def describe(scores: dict[str, float], task: str) -> str:
    """Put the main scores of a task in words."""
    shown = [name for name in task_of(task).shown if name in scores]
    return ", ".join(f"{name.replace('_', ' ')} {scores[name]:.3f}" for name in shown)


@torch.no_grad()
def score(
    net: nn.Module, source: Source, samples: Samples, config: TrainConfig
) -> tuple[dict[str, float], list[Tensor]]:
    """Score a network, which gives logits, on samples of a source: any of its splits.

    Returns:
        The scores; and in the order of the samples what the network says and what is true: for
        classification ``[probabilities (N, K), labels (N,)]``, for findings and numbers (in their
        units) both ``(N, K)``; for segmentation the Dice of every sample and class, shape
        ``(N, K - 1)``, in a list.
    """
    masks, scale = task_of(source.task).masks, source.scale_of_numbers()
    mine: list[tuple[Tensor, ...]] = []
    for answer, batch in answers(net, samples, config, source.task):
        truth = batch["mask" if masks else "label"].cpu()
        if masks:
            pairs = zip(answer.cpu(), truth, strict=True)
            dices = [metrics.dice(guess, mask, len(source.classes)) for guess, mask in pairs]
            mine.append((batch["place"], torch.from_numpy(np.stack(dices))))
        else:
            said = answer.cpu() if scale is None else scale.restored(answer.cpu())
            mine.append((batch["place"], said, truth))
    every = zip(*devices.gather_lists(mine), strict=True)
    places, *found = (torch.cat(part) for part in every)
    # The last batches may be there twice, and slices are sorted by view within their batches.
    order = np.unique(places.numpy(), return_index=True)[1]
    outputs = [part[order] for part in found]
    return metrics.of_task(source, outputs), outputs


@torch.no_grad()
def answers(
    net: nn.Module,
    samples: Samples,
    config: TrainConfig,
    task: str,
    raw: bool = False,
) -> Iterator[tuple[Tensor, Batch]]:
    """Yield what a network says of batch after batch, in evaluation mode.

    Of images and volumes with labels the probabilities or the standardised numbers ``(N, K)``; of
    those with masks the class of every pixel or voxel, ``(N, ...)``, by windows of the size of a
    patch where volumes differ in size. With `raw`, the network's answers as they are, of whole
    samples. `place` in a batch says which of the samples are in it.
    """
    fabric = devices.single_device(config.precision)
    training = net.training
    net.eval().to(fabric.device)
    patch = samples.patch
    if samples.labels is not None:
        samples = Patches(samples, patch, config.seed, center=True)
    loader = batches(samples, net, config)
    assert isinstance(loader.batch_sampler, ViewBatches)
    for places, batch in zip(loader.batch_sampler, devices.feeding(fabric, loader), strict=True):
        batch["place"] = torch.tensor(places)
        batch["image"] = batch["image"].to(devices.dtype_of(net))
        with fabric.autocast(), view_of(batch, net):
            if samples.patch is not None:
                whole = batch["image"][0]
                yield (
                    sliding_window.classes(net, whole, samples.patch, samples.fill)[None],
                    batch,
                )
                continue
            logits = net(batch["image"]).float()
        if raw:
            yield logits, batch
            continue
        yield task_of(task).said(logits) if logits.dim() == 2 else logits.argmax(1), batch
    net.train(training)


@torch.no_grad()
def recalibrate(
    net: nn.Module, samples: Samples, config: TrainConfig, *, progress: Progress | None = None
) -> int:
    """Measure BatchNorm's running statistics anew on samples, whose labels are not used.

    Of many samples `MEASURED` are taken, evenly; of volumes that differ in size, one patch each.
    Returns the number of layers that were recalibrated, in place; without running statistics
    nothing happens.
    """
    samples = Subset(samples, spread(len(samples), MEASURED))
    fabric = devices.single_device(config.precision)
    net.to(fabric.device)
    progress = progress or Progress(quiet=True)
    with measuring(net) as layers:
        if layers == 0:
            return 0
        loader = batches(Patches(samples, samples.patch, config.seed), net, config)
        with progress.task("recalibrating", total=len(loader)) as bar:
            for batch in devices.feeding(fabric, loader):
                batch["image"] = batch["image"].to(devices.dtype_of(net))
                with fabric.autocast(), view_of(batch, net):
                    net(batch["image"])
                bar.advance(len(batch["image"]))
    return layers
