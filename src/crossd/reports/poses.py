"""Which axes, angles and displacements the fourier mode predicts for images, layer by layer."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor, nn

from crossd.nn.functional import displacement
from crossd.nn.kernel_modes import Fourier
from crossd.reports.pictures import COUNTS, INK, SOFT, WARM, dress, figure, save, shortened

BINS = 48
MOST_CLASSES = 24
QUANTITIES = ("angle", "shift z", "shift y", "shift x", "axis z", "axis y", "axis x")
STILL, SAME = 0.05, 0.3
"""Standard deviation [voxels] below which kernels count as still, and share of the variance between
classes below which a pose counts as told by other things than the class."""

Pose = tuple[Tensor, Tensor]
"""Axes ``(N, 3)`` and angles ``(N,)``."""

Poses = dict[str, NDArray[np.float64]]
"""Layer to poses, ``(N, 7)``: the columns are `QUANTITIES`."""


def modes_of(net: nn.Module) -> dict[str, Fourier]:
    """Return the layers that predict a pose, by name; none in other modes than the fourier mode."""
    return {
        name.removesuffix(".mode") or "the network": module
        for name, module in net.named_modules()
        if isinstance(module, Fourier) and module.predictor is not None
    }


@contextmanager
def recorded(net: nn.Module) -> Iterator[Poses]:
    """Collect what the predictors of a network say of images while the block runs.

    Yields:
        The poses, in the order of the images; they are there when the block has ended.
    """
    found: dict[str, list[NDArray[np.float64]]] = {}

    def keep(name: str, mode: Fourier, module: nn.Module, given: object, output: Pose) -> None:
        axis, angle = (part.detach().cpu().double() for part in output)
        shift = displacement(axis, angle, mode.offset)
        rows = torch.cat((angle.rad2deg()[:, None], shift, axis), 1)
        found.setdefault(name, []).append(rows.numpy())

    poses: Poses = {}
    with ExitStack() as hooks:
        for name, mode in modes_of(net).items():
            assert mode.predictor is not None
            hooks.enter_context(mode.predictor.register_forward_hook(partial(keep, name, mode)))
        yield poses
    poses.update({name: np.concatenate(parts) for name, parts in found.items()})


PoseRecord = TypedDict(
    "PoseRecord",
    {
        "layer": str,
        "mean": dict[str, float],
        "sd": dict[str, float],
        "told by class": float | None,
    },
)
"""The poses of a layer in numbers; see `summary`."""


def summary(poses: Poses, groups: NDArray[np.int64]) -> list[PoseRecord]:
    """Put the poses of each layer in numbers.

    Args:
        poses: Of images.
        groups: Class of each image, ``(N,)``.

    Returns:
        For each layer the mean and the standard deviation of each quantity, and under "told by
        class" the share of the variance of the displacement that lies between classes.
    """
    records: list[PoseRecord] = []
    for name, rows in poses.items():
        means, spread = rows.mean(0), rows.std(0)
        records.append(
            {
                "layer": name,
                "mean": dict(zip(QUANTITIES, means.tolist(), strict=True)),
                "sd": dict(zip(QUANTITIES, spread.tolist(), strict=True)),
                "told by class": _between(rows[:, 1:4], groups),
            }
        )
    return records


def _between(rows: NDArray[np.float64], groups: NDArray[np.int64]) -> float | None:
    total = float(((rows - rows.mean(0)) ** 2).sum())
    names = np.unique(groups)
    if total <= 1e-12 or len(names) < 2 or len(names) == len(rows):
        return None
    parts = [rows[groups == name] for name in names]
    return float(sum(len(p) * ((p.mean(0) - rows.mean(0)) ** 2).sum() for p in parts)) / total


def reading(records: Sequence[PoseRecord], kind: str) -> str:
    """Say whether the kernels depend on the image, and whether classes differ.

    Args:
        records: What `summary` returned.
        kind: What the groups are: classes, or views.
    """
    moves = [max(one["sd"][name] for name in QUANTITIES[1:4]) for one in records]
    most = int(np.argmax(moves))
    where, value = records[most]["layer"], moves[most]
    if value < STILL:
        first = (
            f"From image to image the kernels move by {value:.3f} voxels (standard deviation) at "
            f"most: they hardly depend on the image."
        )
    else:
        still = sum(move < STILL for move in moves)
        first = (
            f"From image to image the kernels of layer {where} move most, by {value:.2f} voxels "
            f"(standard deviation); those of {still} of {len(moves)} layers hardly move."
        )
    share = records[most]["told by class"]
    if share is None:
        return first
    how = "mostly by other things" if share < SAME else "in good part by them"
    return f"{first} {100 * share:.0f} % of that movement lies between {kind}: it is told {how}."


def layers(poses: Poses, path: str | Path) -> None:
    """Draw the histograms of all layers: one line of colour each, darker where more images are.

    Args:
        poses: Of images.
        path: The picture to write.
    """
    count = len(next(iter(poses.values())))
    _lines(poses, f"What each layer predicts for {count:,} images (darker: more of them)", path)


def classes(
    rows: NDArray[np.float64],
    groups: NDArray[np.int64],
    names: Mapping[int, str],
    title: str,
    path: str | Path,
) -> None:
    """Draw the histograms of one layer, a line of colour a class.

    Args:
        rows: Poses of the layer, ``(N, 7)``.
        groups: Class of each image, ``(N,)``.
        names: Of the classes; the most frequent are drawn.
        title: Above all.
        path: The picture to write.
    """
    present, counts = np.unique(groups, return_counts=True)
    shown = sorted(present[np.argsort(-counts, kind="stable")][:MOST_CLASSES].tolist())
    note = "" if len(shown) == len(present) else f" ({len(shown)} of {len(present)} are shown)"
    _lines({str(names.get(g, g)): rows[groups == g] for g in shown}, title + note, path)


def _lines(poses: Poses, title: str, path: str | Path) -> None:
    names = [shortened(name) for name in poses]
    size = (13.0, 0.27 * len(names) + 1.6)
    drawn, axes = figure(1, len(QUANTITIES), size, sharey=True)
    for column, (ax, name) in enumerate(zip(axes[0], QUANTITIES, strict=True)):
        low, high = _limits(column, np.concatenate([rows[:, column] for rows in poses.values()]))
        dress(ax, name, _unit(column), "")
        ax.grid(visible=False)
        counts = np.array(
            [np.histogram(rows[:, column], BINS, (low, high))[0] for rows in poses.values()]
        )
        shares = counts / np.maximum(counts.max(1, keepdims=True), 1)
        ax.imshow(
            shares,
            cmap=COUNTS,
            vmin=0,
            vmax=1,
            aspect="auto",
            interpolation="nearest",
            extent=(low, high, len(names) - 0.5, -0.5),
        )
        means = [rows[:, column].mean() for rows in poses.values()]
        ax.plot(means, range(len(names)), "|", color=WARM, ms=9, mew=1.8)
        for line in range(1, len(names)):
            ax.axhline(line - 0.5, color="white", lw=2)
        ax.xaxis.set_major_locator(MaxNLocator(4))
    axes[0, 0].set_yticks(range(len(names)), names, fontsize=8)
    drawn.suptitle(title, fontsize=11, color=INK)
    drawn.supxlabel("orange: the mean of a line", fontsize=8, color=SOFT)
    save(drawn, path)


def _limits(column: int, values: NDArray[np.float64]) -> tuple[float, float]:
    if column >= 4:
        return -1.0, 1.0
    low, high = float(values.min()), float(values.max())
    least = 4.0 if column == 0 else 0.1
    room = max(0.05 * (high - low), (least - (high - low)) / 2, 0.0)
    return low - room, high + room


def _unit(column: int) -> str:
    return "degrees" if column == 0 else "voxels" if column < 4 else "component"
