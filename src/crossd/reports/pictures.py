"""Pictures of answers, and what all pictures are drawn with.

They are PNG, or whatever the path's suffix names. Figures are made without pyplot, so nothing
global is touched. The colours are those of Okabe and Ito, which colour-blind readers can tell
apart: Cross-D is warm, its rivals are cool or grey.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure, FigureBase
from matplotlib.patches import Rectangle

from crossd.data.io.agreement import IGNORED
from crossd.nn.views import VIEWS
from crossd.reports.slice_viewer import LABELS, NOT_KNOWN, UNKNOWN, colour_of
from crossd.utils.atomic_files import atomic

INK, SOFT, GREY = "#22303c", "#6b7783", "#b4bcc4"
WARM, COOL = "#d55e00", "#0072b2"
SIGNED = LinearSegmentedColormap.from_list("signed", [COOL, "#f7f7f5", WARM])
COUNTS = LinearSegmentedColormap.from_list("counts", ["#f7f9fb", COOL])
STYLES = {
    "plain": (INK, "-"),
    "scratch": ("#8a949e", ":"),
    "slices": (COOL, "-"),
    "center": ("#56b4e9", "--"),
    "inflate": ("#009e73", "-"),
    "acs": ("#6a51a3", "-."),
    "triplanar": ("#7a9a01", "--"),
    "volume": ("#cc79a7", "--"),
    "cycle": ("#e7298a", "-"),
    "fourier": ("#e69f00", "-"),
    "fourier-aligned": ("#cc79a7", "-"),
    "projection": (WARM, "-"),
    "fourier-projection": ("#e69f00", "--"),
    "projection-drawn": ("#a63603", "-"),
    "projection-volume": (WARM, "-"),
    "projection-slices": (WARM, ":"),
    "projection-both": (WARM, "--"),
    "projection-orientations": (WARM, "-."),
    "loss": (WARM, "-"),
    "loss_2d": (COOL, "-"),
    "loss_3d": (COOL, "-"),
    "validation": (WARM, "-"),
}
"""Colours and lines of arms, and of what a single training has."""


def confusions(
    matrices: Mapping[str, np.ndarray], classes: Sequence[str], path: str | Path
) -> None:
    """Draw confusion matrices: colours are shares of the true class, numbers are counts.

    Args:
        matrices: Title to counts, each (K, K), rows the truth and columns the answer.
        classes: The K names.
        path: The picture to write.

    Raises:
        ValueError: "a confusion matrix ..." when one is not (K, K).
    """
    count = len(classes)
    for title, matrix in matrices.items():
        if np.shape(matrix) != (count, count):
            shape = np.shape(matrix)
            raise ValueError(f"a confusion matrix ({title}) must be {(count, count)}, not {shape}")
    columns = min(3, max(1, len(matrices)))
    rows = -(-max(1, len(matrices)) // columns)
    side = float(np.clip(0.42 * count + 1.4, 3.0, 8.0))
    drawn, axes = figure(rows, columns, (side * columns, side * rows))
    for ax, (title, counts) in zip(axes.flat, matrices.items(), strict=False):
        total = np.sum(counts, axis=1, keepdims=True)
        share = np.divide(counts, total, out=np.zeros((count, count)), where=total > 0)
        right = f": accuracy {np.trace(counts) / np.sum(counts):.3f}" if np.sum(counts) else ""
        dress(ax, title + right, "answer", "truth")
        ax.grid(visible=False)
        ax.imshow(share, cmap=COUNTS, vmin=0, vmax=1)
        ax.set_xticks(range(count), classes, rotation=90 if sum(map(len, classes)) > 30 else 0)
        ax.set_yticks(range(count), classes)
        ax.tick_params(labelsize=8 if count <= 12 else 5)
        for row, column in np.ndindex(count, count):
            if counts[row][column] and count <= 20:
                light = "white" if share[row, column] > 0.55 else INK
                ax.text(
                    column,
                    row,
                    f"{counts[row][column]:g}",
                    color=light,
                    ha="center",
                    va="center",
                    fontsize=8 if count <= 12 else 5,
                )
    for ax in list(axes.flat)[len(matrices) :]:
        ax.set_axis_off()
    save(drawn, path)


def answer(
    image: np.ndarray,
    truth: np.ndarray,
    guess: np.ndarray,
    classes: Sequence[str],
    path: str | Path,
    dice: float | None = None,
    spacing: Sequence[float] | None = None,
    title: str = "",
) -> None:
    """Draw the image, the truth and the answer of a network: of a volume in the three views.

    Each row is the slice with most foreground. A thin white line is the truth's outline. What the
    truth does not know is light grey in it.

    Args:
        image: (D, H, W), or (H, W).
        truth: Labels of the same shape, 0 the background, `IGNORED` what is not known.
        guess: Labels of the same shape.
        classes: Names of the labels, the background first.
        path: The picture to write.
        dice: Shown above the answer.
        spacing: Size of a voxel in the order of the axes [mm]; cubes without.
        title: Above all; a name of a case, say.

    Raises:
        ValueError: "the mask ..." when a shape is not that of the image.
    """
    for mask in (truth, guess):
        if mask.shape != image.shape:
            raise ValueError(f"the mask must be {image.shape}, not {mask.shape}")
    if image.ndim == 2:
        image, truth, guess, spacing = image[None], truth[None], guess[None], None
    unknown = truth == IGNORED
    labels = np.unique(np.stack((np.where(unknown, 0, truth), guess)))
    seen = [int(label) for label in labels if label > 0]
    image = np.nan_to_num(image)
    low, high = np.percentile(image, (1, 99))
    views = VIEWS[: 1 if len(image) == 1 else 3]
    sides = np.array(image.shape) * (spacing or (1.0, 1.0, 1.0))
    heights = [sides[1 if axis == 0 else 0] / sides[1 if axis == 2 else 2] for axis in range(3)]
    heights = [min(3.0, max(0.2, height)) for height in heights[: len(views)]]
    size = (6.2, 1.9 * sum(heights) + 0.9 + 0.3 * bool(title))
    drawn, axes = figure(len(views), 3, size, height_ratios=heights)
    if title:
        drawn.suptitle(title, fontsize=11)
    above = "prediction" if dice is None else f"prediction\nDice {dice:.3f}"
    for ax, name in zip(axes[0], ("image", "truth", above), strict=True):
        ax.set_title(name, fontsize=10, color=INK)
    for axis, view in enumerate(views):
        others = tuple(other for other in range(3) if other != axis)
        area = ((truth > 0) & ~unknown).sum(others)
        place = int(area.argmax()) if area.any() else image.shape[axis] // 2
        for ax in axes[axis]:
            plane = np.take(image, place, axis)
            grey(ax, plane, low, high, "lower", "auto" if spacing else "equal")
        axes[axis, 0].set_ylabel(f"{view} {place}", fontsize=9, color=SOFT)
        for ax, mask in zip(axes[axis, 1:], (truth, guess), strict=True):
            for label in seen:
                chosen = np.take(mask, place, axis) == label
                region(ax, chosen, colour_of(label))
        region(axes[axis, 1], np.take(unknown, place, axis), UNKNOWN)
        _edge(axes[axis, 2], np.take((truth > 0) & ~unknown, place, axis), "white", 0.7)
    keys: dict[str, Artist] = {}
    for label in seen:
        name = classes[label] if label < len(classes) else str(label)
        keys[name] = Rectangle((0, 0), 1, 1, color=colour_of(label))
    if unknown.any():
        keys[NOT_KNOWN] = Rectangle((0, 0), 1, 1, color=UNKNOWN)
    if keys:
        legend(drawn, keys, 6)
    save(drawn, path)


def style(arm: str, position: int) -> tuple[str, str]:
    """Return an arm's colour and the way its line is drawn; of others, by their position."""
    return STYLES.get(arm, (LABELS[position % len(LABELS)], "-"))


def figure(
    rows: int,
    columns: int,
    size: tuple[float, float],
    sharex: bool = False,
    sharey: bool = False,
    height_ratios: Sequence[float] | None = None,
) -> tuple[Figure, np.ndarray]:
    """Return a figure and its panels, (rows, columns)."""
    made = Figure(figsize=size, dpi=150, facecolor="white", layout="constrained")
    return made, made.subplots(
        rows, columns, squeeze=False, sharex=sharex, sharey=sharey, height_ratios=height_ratios
    )


def dress(ax: Axes, title: str, horizontal: str, vertical: str) -> None:
    """Give a panel its title, labels and quiet lines."""
    ax.set_title(title, fontsize=10, color=INK)
    ax.set_xlabel(horizontal, fontsize=9, color=SOFT)
    ax.set_ylabel(vertical, fontsize=9, color=SOFT)
    ax.tick_params(labelsize=9, color=GREY, labelcolor=INK)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(GREY)
    ax.grid(color="#e8ecef", lw=0.8)
    ax.set_axisbelow(True)


def legend(
    drawn: FigureBase,
    keys: Mapping[str, Artist],
    columns: int,
    place: Literal["outside lower center", "outside upper center"] = "outside lower center",
) -> None:
    """Explain the colours below the panels, or above, in so many columns at most."""
    drawn.legend(keys.values(), keys, loc=place, ncols=columns, frameon=False, fontsize=9)


def shortened(name: str, most: int = 34) -> str:
    """Return the end of a name that is too long."""
    return name if len(name) <= most else "…" + name[1 - most :]


def grey(
    ax: Axes,
    image: np.ndarray,
    low: float,
    high: float,
    origin: Literal["lower", "upper"],
    aspect: float | Literal["auto", "equal"],
) -> None:
    """Draw a slice in grey from its darkest value to its brightest, on black, without ticks."""
    bright = max(high, low + 1e-6)
    ax.imshow(image, cmap="gray", vmin=low, vmax=bright, origin=origin, aspect=aspect)
    ax.set(xticks=[], yticks=[], facecolor="black")
    ax.spines[:].set_visible(False)


def region(
    ax: Axes, mask: np.ndarray, colour: str, origin: Literal["lower", "upper"] = "lower"
) -> None:
    """Fill a mask and draw its edge."""
    if mask.any():
        fill = np.zeros((*mask.shape, 4))
        fill[mask] = (*to_rgb(colour), 0.5)
        ax.imshow(fill, origin=origin, interpolation="nearest", aspect=ax.get_aspect())
    _edge(ax, mask, colour, 1.0)


def _edge(ax: Axes, mask: np.ndarray, colour: str, width: float) -> None:
    """Draw the edge of a mask that has one."""
    if mask.any() and not mask.all() and min(mask.shape) > 1:
        ax.contour(mask, [0.5], colors=[colour], linewidths=width)


def save(drawn: Figure, path: str | Path) -> None:
    """Write a figure whole or not at all."""
    with atomic(path) as temporary:
        drawn.savefig(temporary, format=Path(path).suffix[1:] or "png")
