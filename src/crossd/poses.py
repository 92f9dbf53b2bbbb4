"""Which axes, angles and displacements the fourier mode predicts for images, layer by layer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from crossd.functional import displacement
from crossd.kernels import Fourier, PosePredictor
from crossd.pictures import COUNTS, INK, LABELS, SOFT, dress, figure, save

BINS = 48
MOST_CLASSES = len(LABELS)
QUANTITIES = ("angle", "shift z", "shift y", "shift x", "axis z", "axis y", "axis x")
STILL, SAME = 0.05, 0.3
"""Standard deviation [voxels] below which kernels count as still, and share of the variance between
classes below which a pose counts as told by other things than the class."""

Poses = dict[str, NDArray[np.float64]]
"""Layer to poses, ``(N, 7)``: the columns are `QUANTITIES`."""


class Watch:
    """Collects, while it is entered, what the predictors of a network say of images.

    Args:
        net: A network in the fourier mode.

    Attributes:
        places: The layers that have a predictor, and their modes; none in other modes.
        found: Layer to the poses of each batch so far, in the order of the images.
    """

    def __init__(self, net: nn.Module) -> None:
        self.found: dict[str, list[NDArray[np.float64]]] = {}
        self.places = [
            (name.removesuffix(".mode") or "the network", module)
            for name, module in net.named_modules()
            if isinstance(module, Fourier) and module.predictor is not None
        ]
        self._handles: list[Any] = []

    def __enter__(self) -> "Watch":
        for name, mode in self.places:
            assert mode.predictor is not None
            self._handles.append(mode.predictor.register_forward_hook(self._hook(name, mode)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook(self, name: str, mode: Fourier) -> Any:
        def keep(module: PosePredictor, given: Any, output: Any) -> None:
            axis, angle = (part.detach().cpu().double() for part in output)
            shift = displacement(axis, angle, mode.offset)
            rows = torch.cat((angle.rad2deg()[:, None], shift, axis), 1)
            self.found.setdefault(name, []).append(rows.numpy())

        return keep

    def poses(self) -> Poses:
        """Return what was found, all batches together."""
        return {name: np.concatenate(parts) for name, parts in self.found.items()}


def summary(poses: Poses, groups: NDArray[Any]) -> list[dict[str, Any]]:
    """Put the poses of each layer in numbers.

    Args:
        poses: Of images.
        groups: Class of each image, ``(N,)``.

    Returns:
        For each layer the mean and the standard deviation of each quantity, and under "told by
        class" the share of the variance of the displacement that lies between classes.
    """
    records = []
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


def _between(rows: NDArray[np.float64], groups: NDArray[Any]) -> float | None:
    total = float(((rows - rows.mean(0)) ** 2).sum())
    names = np.unique(groups)
    if total <= 1e-12 or len(names) < 2 or len(names) == len(rows):
        return None
    parts = [rows[groups == name] for name in names]
    return float(sum(len(p) * ((p.mean(0) - rows.mean(0)) ** 2).sum() for p in parts)) / total


def reading(records: Sequence[dict[str, Any]], kind: str) -> str:
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
    names = list(poses)
    drawn, axes = figure(1, len(QUANTITIES), (13.0, 0.27 * len(names) + 1.6), sharey=True)
    for column, (ax, title) in enumerate(zip(axes[0], QUANTITIES, strict=True)):
        low, high = _limits(column, np.concatenate([rows[:, column] for rows in poses.values()]))
        dress(ax, title, _unit(column), "")
        ax.grid(visible=False)
        counts = np.array(
            [np.histogram(rows[:, column], BINS, (low, high))[0] for rows in poses.values()]
        )
        shares = counts / np.maximum(counts.max(1, keepdims=True), 1)
        ax.imshow(shares, cmap=COUNTS, vmin=0, vmax=1, aspect="auto", interpolation="nearest",
                  extent=(low, high, len(names) - 0.5, -0.5))  # fmt: skip
        for line in range(1, len(names)):
            ax.axhline(line - 0.5, color="white", lw=2)
    axes[0, 0].set_yticks(range(len(names)), names, fontsize=8)
    drawn.suptitle(
        f"What each layer predicts for {len(next(iter(poses.values()))):,} images (darker: more "
        "of them)", fontsize=11, color=INK,
    )  # fmt: skip
    save(drawn, path)


def classes(
    rows: NDArray[np.float64], groups: NDArray[Any], names: Mapping[int, str], layer: str,
    kind: str, path: str | Path,
) -> None:  # fmt: skip
    """Draw the histograms of one layer, a line a class.

    Args:
        rows: Poses of the layer, ``(N, 7)``.
        groups: Class of each image, ``(N,)``.
        names: Of the classes; the seven most frequent are drawn.
        layer: Its name.
        kind: What the groups are: classes, or views.
        path: The picture to write.
    """
    present, counts = np.unique(groups, return_counts=True)
    shown = sorted(present[np.argsort(-counts, kind="stable")][:MOST_CLASSES].tolist())
    drawn, axes = figure(2, 4, (11.0, 5.0))
    places = [axes[0, 0], *axes[0, 1:], *axes[1, 1:]]
    handles: dict[str, Any] = {}
    for column, ax in enumerate(places):
        low, high = _limits(column, rows[:, column])
        dress(ax, QUANTITIES[column], _unit(column), "share of the images" if column == 0 else "")
        for group in shown:
            own = rows[groups == group, column]
            edges = np.linspace(low, high, 25)
            share = np.histogram(own, edges)[0] / len(own)
            place = shown.index(group)
            (line,) = ax.plot((edges[1:] + edges[:-1]) / 2, share, color=LABELS[place], lw=1.7,
                              drawstyle="steps-mid")  # fmt: skip
            handles.setdefault(str(names.get(group, group)), line)
        ax.set_ylim(0, None)
    axes[1, 0].set_axis_off()
    note = "" if len(shown) == len(present) else f"\n{len(shown)} of {len(present)} are shown"
    axes[1, 0].legend(handles.values(), handles.keys(), loc="center", frameon=False, fontsize=9,
                      title=f"layer {layer}{note}", title_fontsize=9)  # fmt: skip
    axes[1, 0].get_legend().get_title().set_color(SOFT)
    drawn.suptitle(f"Do the predicted poses differ between {kind}?", fontsize=11, color=INK)
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
