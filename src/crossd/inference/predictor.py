"""From a file to a mask in its own grid, a slab at a time."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crossd.data.preprocessing import plan, plan_file, resample
from crossd.data.preprocessing.normalise import adapt
from crossd.data.preprocessing.plan import Intensity, Plan
from crossd.data.quality.facts import CLIP
from crossd.data.shapes import fit
from crossd.data.sources.case_files import Entry, read_image
from crossd.errors import InputError
from crossd.inference import sliding_window
from crossd.tasks import task_of
from crossd.utils.one_device import OneDevice
from crossd.weights.weights_file import WeightsConfig, require_files

if TYPE_CHECKING:  # it takes seconds to import
    from lightning_fabric import Fabric

AT_ONCE = 16
"""Planes that are resampled at once."""


def plan_of(weights: WeightsConfig) -> Plan:
    """Return how a network's volumes are prepared.

    Networks that were not trained on files of volumes have no plan: theirs had values in [0, 1],
    which the percentiles 0.5 and 99.5 of every volume become.

    Raises:
        InputError: When it was trained on images whose size in mm is unknown.
    """
    if weights.plan is not None:
        return plan_file.from_record(weights.plan, "the weights' plan")
    if weights.spacing is None or not weights.size:
        raise InputError(
            "the weights know no spacing, as they were not trained on files of volumes: crossd "
            "finetune or recalibrate them on such files first"
        )
    z, y, x = weights.spacing
    depth, height, width = weights.size if len(weights.size) == 3 else weights.size[:1] * 3
    intensity = (Intensity("percentiles", *CLIP),) * weights.in_channels
    return Plan((z, y, x), (depth, height, width), intensity)


def require_channels(entry: Entry, weights: WeightsConfig) -> None:
    """Check that a volume has the files and channels that a network was trained on.

    A case of one file and one channel is repeated for networks of several channels. Volumes along
    the fourth axis of a NIfTI file are points in time, and channels only for networks that were
    trained on such files: with a plan, and more channels than files.

    Raises:
        InputError: With what to give instead.
    """
    require_files(weights, len(entry.images), entry.where)
    if entry.channels not in (1, weights.in_channels):
        raise InputError(
            f"{entry.where}: holds {entry.channels} numbers a voxel, the weights take "
            f"{weights.in_channels}; give the channels that they were trained on, or one volume of "
            "a time series"
        )
    for header in entry.images:
        if header.over_time and weights.plan is None:
            raise InputError(
                f"{header.path}: holds {header.channels} volumes one after the other, as time "
                "series do, but the weights were not trained on such files; give one of them, or "
                "each channel as a file of its own (columns image_1, image_2 of a csv)"
            )


def prepare(
    entry: Entry, weights: WeightsConfig, intensity: Sequence[Intensity], sides: Sequence[int]
) -> Tensor:
    """Read a volume and prepare it as in training, ``(C, *sides)``.

    Raises:
        InputError: When it has other channels than the network takes; one is repeated.
    """
    require_channels(entry, weights)
    image = read_image(entry)
    plan.scale(image, plan.limits(image, intensity, entry.where), intensity)
    return _at(image, weights, sides)


def _at(image: NDArray[np.float32], weights: WeightsConfig, sides: Sequence[int]) -> Tensor:
    """Bring scaled values to the grid and the channels of a network."""
    resampled = resample.image(torch.from_numpy(image), sides)
    return (adapt(resampled, weights.in_channels) - weights.mean).div_(weights.std)


@torch.no_grad()
def segment(
    net: nn.Module,
    entry: Entry,
    weights: WeightsConfig,
    fabric: "Fabric | OneDevice",
    flips: bool = False,
) -> NDArray[np.uint8]:
    """Give the class of every voxel of a volume in its own grid, ``(D, H, W)``.

    The axes are the canonical ones, or those of the plan, which may also tell to look at the box
    around what is not zero alone: `crossd.data.preprocessing.plan.Plan`.

    Args:
        net: In evaluation mode, on the device of `fabric`.
        entry: The volume.
        weights: The configuration of the network.
        fabric: Device and precision: of a training (Lightning Fabric), or of answers alone.
        flips: Average over mirrored windows.
    """
    how = plan_of(weights)
    entry = entry.along(how.axes)
    header = entry.images[0]
    resample.checked_size(header, how.spacing)
    require_channels(entry, weights)
    image = read_image(entry)
    found = plan.limits(image, how.intensity, entry.where)
    box = plan.box_around(image) if how.box else (slice(None),) * 3
    plan.scale(image, found, how.intensity)
    mask = np.zeros(header.size, np.uint8)
    sides = resample.target_size(header, how.spacing, mask[box].shape)
    volume = _at(image[:, *box], weights, sides)
    del image  # the volume is as large, and what is said of it larger
    with fabric.autocast():
        parts = sliding_window.slabs(
            sliding_window.probabilities(net, flips),
            fabric.to_device(volume),
            how.patch,
            how.fill,
        )
        mask[box] = restore(parts, sides, mask[box].shape)
    return mask


def restore(
    parts: Iterable[tuple[int, Tensor]], sides: Sequence[int], wanted: Sequence[int]
) -> NDArray[np.uint8]:
    """Bring probabilities to another grid, slab by slab, and choose classes there.

    Args:
        parts: First plane and probabilities ``(K, n, H, W)``, in order: `sliding_window.slabs`.
        sides: The grid they are in, ``(D, H, W)``.
        wanted: The grid to bring them to.

    Returns:
        The likeliest class, in the shape `wanted`.

    Example:
        >>> x = torch.rand(3, 4, 6, 6)
        >>> whole = restore([(0, x)], (4, 6, 6), (8, 6, 3))
        >>> bool((whole == restore([(0, x[:, :1]), (1, x[:, 1:])], (4, 6, 6), (8, 6, 3))).all())
        True
    """
    out = np.empty(tuple(wanted), np.uint8)
    if tuple(sides) == tuple(wanted):
        for start, found in parts:
            out[start : start + found.shape[1]] = sliding_window.likeliest(found).cpu().numpy()
        return out
    rows = [resample.matrix(n, m) for n, m in zip(sides, wanted, strict=True)]
    reach = [resample.taps(sides[0], wanted[0], p) for p in range(wanted[0])]
    ends = np.array([start + len(weights) for start, weights in reach])
    kept: Tensor | None = None
    first, done = 0, 0
    for start, found in parts:
        piece = found.cpu()
        piece = resample.along(resample.along(piece, 2, rows[1]), 3, rows[2])
        kept = piece if kept is None or not kept.shape[1] else torch.cat((kept, piece), 1)
        end = start + piece.shape[1]
        upto = int(np.searchsorted(ends, end, side="right"))
        for low in range(done, upto, AT_ONCE):
            high = min(low + AT_ONCE, upto)
            mixed = torch.tensordot(rows[0][low:high, first:end], kept, ([1], [1]))
            out[low:high] = sliding_window.likeliest(mixed.transpose(0, 1)).numpy()
        done = max(done, upto)
        needed = reach[done][0] if done < wanted[0] else end
        kept, first = kept[:, needed - first :].clone(), needed
    return out


@torch.no_grad()
def label(
    net: nn.Module, entry: Entry, weights: WeightsConfig, fabric: "Fabric | OneDevice"
) -> Tensor:
    """Give probabilities ``(K,)`` of the classes or findings of a volume, or its numbers."""
    if weights.plan is None:
        sides = weights.size if len(weights.size) == 3 else weights.size[:1] * 3
        x = prepare(entry, weights, (Intensity("percentiles", *CLIP),) * entry.channels, sides)
    else:
        how = plan_of(weights)
        entry = entry.along(how.axes)
        sides = resample.checked_size(entry.images[0], how.spacing)
        x = prepare(entry, weights, how.intensity, sides)
        x = fit(x, how.patch, float(x.min()) if how.fill is None else how.fill)
    with fabric.autocast():
        logits: Tensor = net(fabric.to_device(x[None]))
    return answer(logits, weights)


def answer(logits: Tensor, weights: WeightsConfig) -> Tensor:
    """Make of the logits ``(1, K)`` of a sample what they say, ``(K,)``: see `label`."""
    said = task_of(weights.task).said(logits.float()).cpu()
    return (said if weights.scale is None else weights.scale.restored(said))[0]
