"""The README's picture."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from crossd.reports.pictures import INK, SIGNED, SOFT, save


def idea(path: str | Path) -> None:
    """Draw the README's picture: one 3D kernel, summed along the view or used as it is.

    Args:
        path: The picture to write, 1600 by 600 pixels.
    """
    drawn = Figure(figsize=(8, 3), dpi=200, facecolor="#fbfcfd")
    ax = drawn.add_axes((0, 0, 1, 1), xlim=(0, 160), ylim=(0, 60))
    ax.set_axis_off()
    size, voxel, tap = 21, 1.4, 4.6
    picture, volume, cube = np.array((22, 29.5)), np.array((137, 30)), np.array((83, 33))
    sheet = cube + _iso((0, 0, 4.8 * tap))
    colours, filled = _phantom(size)
    taps = np.random.default_rng(11).normal(size=(3, 3, 3)) * 0.6
    taps[1, 1, 1] = 1.6  # as training leaves it: strongest in the middle
    kernel, summed = SIGNED(taps / 3 + 0.5), SIGNED(taps.sum(2, keepdims=True) / 6 + 0.5)

    for corner in ((-1, -1), (-1, 1), (1, -1), (1, 1)):  # what is summed lies on these rays
        ends = np.stack([cube, sheet]) + _iso(1.5 * tap * np.array((*corner, 0)))
        ax.plot(*ends.T, ":", color=SOFT, lw=1)
    middle = size // 2  # the image is the plane at which the volume is cut open
    scan = np.where(filled[..., None], colours, to_rgb("#1d2833"))[:, :, middle - 1, None]
    away = (np.indices(filled.shape) >= middle).all(0)
    _blocks(ax, scan, picture, voxel, depth=0.7)
    _blocks(ax, summed, picture + _iso((0, 0, voxel)), voxel, depth=0.5)
    _blocks(ax, kernel, cube, tap)
    _blocks(ax, summed, sheet, tap, depth=0.35)
    _blocks(ax, colours, volume, voxel, filled & ~away)
    _blocks(ax, kernel, volume, voxel)

    arrow = {"arrowstyle": "-|>,head_length=0.5,head_width=0.22", "color": INK, "lw": 1.2}
    ax.annotate("", (38.5, sheet[1]), (54.5, sheet[1]), arrowprops=arrow)
    ax.annotate("", (115, cube[1]), (98.5, cube[1]), arrowprops=arrow)
    style: dict[str, Any] = {"ha": "center", "va": "center", "color": INK}
    for place, title, line in (
        (picture, "Images", "conv2d with its sum"),
        (cube, "One 3D kernel", "stored once: (out, in, 3, 3, 3)"),
        (volume, "Volumes", "conv3d with the kernel itself"),
    ):
        ax.text(place[0], 55.5, title, fontsize=11, fontweight="bold", **style)
        ax.text(place[0], 4, line, fontsize=8.5, **style | {"color": SOFT})
    ax.text(56, 41, "summed along\nthe view", fontsize=8.5, **style)
    ax.text(106.5, cube[1] + 2.5, "as it is", fontsize=8.5, **style)
    save(drawn, path)


def _iso(points: Any) -> np.ndarray:
    """Project (..., 3) points in the order z, y, x, seen from their positive side, to (..., 2)."""
    z, y, x = np.moveaxis(np.asarray(points, float), -1, 0)
    return np.stack([(y - x) * np.sqrt(0.75), z - (x + y) / 2], -1)


def _blocks(
    ax: Axes,
    colours: np.ndarray,
    at: np.ndarray,
    size: float,
    filled: np.ndarray | None = None,
    depth: float = 1.0,
) -> None:
    """Draw (D, H, W, 3) coloured voxels centred on a point, each `depth` thick along x."""
    filled = np.ones(colours.shape[:3], bool) if filled is None else filled
    scale = size * np.array((1, 1, depth))
    corner = at - _iso(scale * filled.shape / 2)
    padded = np.pad(filled, 1)
    places = np.argwhere(filled)
    places = places[np.argsort(places.sum(1), kind="stable")]  # the nearest are drawn last
    shapes, shades = [], []
    for place in places:
        for axis, light in enumerate((1.0, 0.8, 0.91)):
            if not padded[tuple(place + 1 + np.eye(3, dtype=int)[axis])]:
                square = np.insert(((0, 0), (0, 1), (1, 1), (1, 0)), axis, 1, axis=1)
                shapes.append(corner + _iso((place + square) * scale))
                shades.append(colours[tuple(place)][:3] * light)
    edges = [shade * 0.86 for shade in shades]
    style = {"edgecolors": edges, "linewidths": 0.15 * size**0.5, "zorder": 2}
    ax.add_collection(PolyCollection(shapes, facecolors=shades, **style))


def _phantom(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return colours (D, H, W, 3) and extent (D, H, W) of something like a brain."""
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, size)] * 3, indexing="ij")
    radius = np.sqrt((z / 0.82) ** 2 + (y / 0.98) ** 2 + (x / 0.8) ** 2)
    folds = np.sin(9 * np.arctan2(z, y)) * np.cos(8 * x) + np.sin(11 * x) * np.sin(10 * z) * 0.6
    tissue = np.full((*x.shape, 3), to_rgb("#8d9fb0"))
    tissue[radius < 0.70 + 0.13 * folds] = to_rgb("#e9eef2")
    tissue[((np.abs(x) - 0.12) / 0.12) ** 2 + (y / 0.42) ** 2 + ((z - 0.05) / 0.18) ** 2 < 1] = (
        to_rgb("#3d4f60")
    )
    return tissue, radius < 0.97 + 0.03 * folds
