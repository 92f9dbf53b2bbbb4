"""Pictures of the kernels of a network: slices, views, energy, and the path of the fourier mode."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch
from numpy.typing import NDArray
from PIL import Image

from crossd.nn.functional import central, displacement, fourier_kernels, project
from crossd.nn.kernel_modes import Fourier
from crossd.nn.views import VIEWS
from crossd.reports.kernel_numbers import AXES, Layer, LayerRecord, strongest
from crossd.reports.pictures import (
    COOL,
    GREY,
    INK,
    SIGNED,
    SOFT,
    WARM,
    dress,
    figure,
    legend,
    save,
    shortened,
)
from crossd.utils.atomic_files import atomic

SHOWN = 6
"""Kernels of a layer that are drawn."""

FLAT = (4, 8)
"""Rows and columns of 2D kernels, at most."""

FRAMES = 24
PLANES = ("y, x", "z, x", "z, y")
DISTANCE = ("#0072b2", "#56b4e9", "#b8dcf2", "#dfe9ef")
"""Colours of slices by their distance from the centre."""

SIMILAR = (
    ("axial and coronal", WARM, "o"),
    ("axial and sagittal", COOL, "s"),
    ("coronal and sagittal", "#009e73", "^"),
    ("centre lift", SOFT, "D"),
)


def kernels(layer: Layer, path: str | Path) -> None:
    """Draw the strongest kernels of a layer: slice by slice, and as each mode gives them in 2D.

    Args:
        layer: The layer; of one with 2D kernels, these are drawn.
        path: The picture to write.
    """
    if not layer.solid:
        _flat(layer, path)
        return
    chosen = torch.from_numpy(strongest(layer.stored, SHOWN))[:, None]  # (n, 1, z, y, x)
    own = None if layer.mode is None else layer.mode.name
    depth = chosen.shape[2]
    shift, where = torch.ones(3), "shifted by\n1, 1, 1"
    if isinstance(layer.mode, Fourier) and layer.mode.predictor is not None:
        shift = layer.mode.mean_displacement.detach().float().cpu()
        where = "shifted by\n" + ", ".join(f"{d:.1f}" for d in shift.tolist())
    groups: list[tuple[str, str | None, list[tuple[str, torch.Tensor]]]] = [
        (
            "the 3D kernel, slice by slice",
            None,
            [(f"slice\nz = {z}", chosen[:, :, z]) for z in range(depth)],
        ),
        (
            "projection: sums along the view",
            "projection",
            [(f"{VIEWS[a]}\n({PLANES[a]})", project(chosen, a)) for a in range(3)],
        ),
        (
            "slice: the central ones",
            "slice",
            [(f"{VIEWS[a]}\n({PLANES[a]})", central(chosen, a)) for a in range(3)],
        ),
        ("fourier", "fourier", [(where, fourier_kernels(chosen, shift[None])[0])]),
    ]
    rows, widths = len(chosen), [len(panels) for _, _, panels in groups]
    size = (0.92 * sum(widths) + 1.9, 0.92 * rows + 1.75)
    drawn = Figure(figsize=size, dpi=150, facecolor="white", layout="constrained")
    shape = "x".join(map(str, layer.stored.shape[2:]))
    count = layer.stored[:, :, 0, 0, 0].numel()
    title = (
        f"Layer {shortened(layer.name)}: the {rows} strongest of its {count:,} kernels ({shape}), "
        "and the 2D kernels that each mode takes from them"
    )
    drawn.suptitle(title, fontsize=11, color=INK)
    parts = drawn.subfigures(1, len(groups), False, wspace=0.08, width_ratios=widths)[0]
    for part, (name, mode, panels) in zip(parts, groups, strict=True):
        mine = mode is not None and mode == own
        colour, weight = (WARM, "bold") if mine else (INK, "normal")
        part.suptitle(name, fontsize=9.5, color=colour, weight=weight)
        axes = part.subplots(rows, len(panels), squeeze=False)
        for column, (place, planes) in zip(axes.T, panels, strict=True):
            column[0].set_title(place, fontsize=7.5, color=SOFT)
            for row, ax in enumerate(column):
                most = max(float(p[row].abs().max()) for _, p in panels) or 1.0
                _tile(ax, planes[row, 0].numpy(), most)
    note = _colours("row of a group")
    if own:
        note = f"In orange: the mode of this network. {note}"
    drawn.supxlabel(note, fontsize=8, color=SOFT)
    save(drawn, path)


def _flat(layer: Layer, path: str | Path) -> None:
    chosen = strongest(layer.weight, FLAT[0] * FLAT[1])
    columns = min(FLAT[1], len(chosen))
    rows = -(-len(chosen) // columns)
    size = (0.9 * max(columns, 4) + 0.4, 0.9 * rows + 1.1)
    drawn, axes = figure(rows, columns, size)
    shape = "x".join(map(str, layer.weight.shape[2:]))
    title = f"The {len(chosen)} strongest 2D kernels ({shape}) of layer {shortened(layer.name)}"
    drawn.suptitle(title, fontsize=11, color=INK)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, kernel in zip(axes.flat, chosen, strict=False):
        ax.set_axis_on()
        _tile(ax, kernel, float(np.abs(kernel).max()) or 1.0)
    drawn.supxlabel(_colours("kernel"), fontsize=8, color=SOFT)
    save(drawn, path)


def _colours(each: str) -> str:
    return f"Blue is negative, orange positive, white zero; each {each} has its own scale."


def _tile(ax: Axes, plane: NDArray[np.float32], most: float) -> AxesImage:
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_color(GREY)
    ax.spines[:].set_linewidth(0.6)
    return ax.imshow(plane, cmap=SIGNED, norm=TwoSlopeNorm(0, -most, most))


def energies(records: Sequence[LayerRecord], path: str | Path) -> None:
    """Draw how the energy of the kernels of each layer lies over the slices across z, y and x.

    Args:
        records: What `kernel_numbers.describe` returned of each layer with 3D kernels.
        path: The picture to write.
    """
    height = 0.24 * len(records) + 1.9
    drawn, axes = figure(1, 3, (10.5, height), sharey=True)
    names = ("depth (z): slices", "height (y): rows", "width (x): columns")
    for ax, axis, name in zip(axes[0], AXES, names, strict=True):
        dress(ax, name, "share of the squared weights", "")
        ax.grid(visible=False)
        for line, record in enumerate(records):
            shares = record["energy"][axis]
            left, middle = 0.0, len(shares) // 2
            for place, share in enumerate(shares):
                colour = DISTANCE[min(abs(place - middle), len(DISTANCE) - 1)]
                ax.barh(line, share, 0.78, left, color=colour, edgecolor="white", linewidth=0.8)
                if place == middle and share > 0.16:
                    x, text = left + share / 2, f"{100 * share:.0f} %"
                    ax.text(x, line, text, ha="center", va="center", fontsize=7.5, color="white")
                left += share
        ax.set_xlim(0, 1)
        ax.set_xticks([0, 0.5, 1], ["0", "half", "all"])
    first = axes[0, 0]
    first.set_yticks(range(len(records)), [shortened(one["layer"]) for one in records], fontsize=8)
    first.set_ylim(len(records) - 0.4, -0.6)
    longest = max(len(shares) for one in records for shares in one["energy"].values())
    texts = ["central slice", "next to it", "two away", "three or more away"]
    away = range(min(longest // 2, 3) + 1)
    legend(drawn, {texts[d]: Patch(color=DISTANCE[d]) for d in away}, 4)
    drawn.suptitle("Where in the kernels the energy lies, layer by layer", fontsize=11, color=INK)
    save(drawn, path)


def similarities(records: Sequence[LayerRecord], path: str | Path) -> None:
    """Draw how alike the 2D kernels of two views are, and the 3D kernels to a centre lift.

    Args:
        records: What `kernel_numbers.describe` returned of each layer with 3D kernels.
        path: The picture to write.
    """
    drawn, axes = figure(1, 1, (7.4, 0.36 * len(records) + 2.0))
    ax = axes[0, 0]
    dress(ax, "How alike the 2D kernels of two views are, layer by layer", "cosine", "")
    ax.grid(axis="y", visible=False)
    values = []
    for series, (name, colour, marker) in enumerate(SIMILAR):
        height = 0.18 * (series - 1.5)
        found = [(one["similarity"][name], line + height) for line, one in enumerate(records)]
        known = [(value, line) for value, line in found if value is not None]
        values += [value for value, _ in known]
        if known:
            label = name if name != "centre lift" else "with their 2D kernels lifted to the centre"
            ax.plot(*zip(*known, strict=True), marker, color=colour, ms=5.5, label=label)
    ax.set_yticks(range(len(records)), [shortened(one["layer"]) for one in records], fontsize=8)
    ax.set_ylim(len(records) - 0.4, -0.6)
    ax.set_xlim(min(-0.05, min(values, default=0) - 0.05), 1.03)
    ax.axvline(0, color=GREY, lw=1)
    for line in range(1, len(records)):
        ax.axhline(line - 0.5, color="#e8ecef", lw=0.8)
    if values:
        drawn.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    save(drawn, path)


def pose_path(frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a round trip of poses: the axis turns from z to y to x and back, the angle swings.

    Args:
        frames: Steps of the trip.

    Returns:
        Unit axes ``(frames, 3)`` and angles ``(frames,)`` [rad].

    Example:
        >>> axes, angles = pose_path(12)
        >>> axes[0].tolist(), round(float(angles.abs().max()), 3)
        ([1.0, 0.0, 0.0], 0.785)
    """
    step = torch.arange(frames, dtype=torch.float64) / frames
    corners = torch.eye(3, dtype=torch.float64)
    leg = (step * 3).floor().long()
    turn = (step * 3 - leg) * math.pi / 2  # from one axis to the next
    axes = turn.cos()[:, None] * corners[leg] + turn.sin()[:, None] * corners[(leg + 1) % 3]
    angles = math.pi / 4 * (2 * math.pi * 3 * step).sin()
    return axes.float(), angles.float()


def animate(layer: Layer, path: str | Path) -> None:
    """Write a GIF of the 2D kernels of the fourier mode along a path of axes and angles.

    Args:
        layer: In the fourier mode.
        path: The GIF to write.

    Source: Yavuz & Yang, arXiv 2411.02441, who show such kernels.
    """
    assert isinstance(layer.mode, Fourier)
    axes, angles = pose_path(FRAMES)
    shifts = displacement(axes, angles, layer.mode.offset)
    chosen = torch.from_numpy(strongest(layer.stored, 8))[:, None]
    planes = fourier_kernels(chosen, shifts)[:, :, 0].numpy()  # (frames, kernels, y, x)
    drawn = Figure(figsize=(6.4, 4.5), dpi=90, facecolor="white")
    canvas = FigureCanvasAgg(drawn)
    title = drawn.text(0.5, 0.965, "", ha="center", va="top", fontsize=10.5, color=INK)
    what = f"2D kernels of layer {shortened(layer.name)}, as one image or another would choose them"
    drawn.text(0.5, 0.905, what, ha="center", va="top", fontsize=8.5, color=SOFT)
    tiles = []
    for number in range(planes.shape[1]):
        ax = drawn.add_axes((0.05 + 0.2275 * (number % 4), 0.58 - 0.27 * (number // 4), 0.21, 0.25))
        tiles.append(_tile(ax, planes[0, number], float(np.abs(planes[:, number]).max()) or 1.0))
    below = drawn.add_axes((0.09, 0.1, 0.71, 0.16))
    dress(below, "", "along the path", "shift [voxels]")
    below.set_xticks([])
    for axis, colour in enumerate((WARM, COOL, "#009e73")):
        below.plot(shifts[:, axis], color=colour, lw=1.5, label=AXES[axis])
    below.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.01, 0.5))
    marker = below.axvline(0, color=INK, lw=1)
    pictures = []
    for step in range(FRAMES):
        where = ", ".join(f"{value:.2f}" for value in axes[step].tolist())
        title.set_text(f"axis (z, y, x) = ({where}), angle {math.degrees(angles[step]):+.0f}°")
        for tile, plane in zip(tiles, planes[step], strict=True):
            tile.set_data(plane)
        marker.set_xdata([step, step])
        canvas.draw()
        pictures.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()))
    palette = pictures[FRAMES // 2].quantize(128, dither=Image.Dither.NONE)
    flat = [one.quantize(palette=palette, dither=Image.Dither.NONE) for one in pictures]
    with atomic(path) as temporary:
        flat[0].save(temporary, save_all=True, append_images=flat[1:], duration=160, loop=0)
