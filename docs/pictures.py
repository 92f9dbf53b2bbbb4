"""Draw the pictures of the documentation again: `python docs/pictures.py`."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from idea import idea
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from crossd.nn.functional import displacement, project
from crossd.reports.pictures import INK, SIGNED, SOFT, WARM, dress, figure, save

IMAGES = Path(__file__).parent / "images"
SIZE = 15
"""Of the kernel that is drawn moving: large, so that it can be seen."""


def shift(path: Path) -> None:
    """Draw the phase of the paper and what it does, beside a rotation by the same angle."""
    angle, axis = torch.tensor([np.pi / 4]), torch.tensor([[1.0, 0.0, 0.0]])
    moved = displacement(axis, angle)[0]  # in voxels, of which a kernel of 3 has 3
    _, down, right = (2 * moved).tolist()  # drawn larger, as the kernel is
    places = np.arange(SIZE) - SIZE // 2
    y, x = np.meshgrid(places, places, indexing="ij")
    letter = _letter(y, x)
    frequencies = np.fft.fftfreq(SIZE)
    fy, fx = np.meshgrid(frequencies, frequencies, indexing="ij")
    phase = -2 * np.pi * (fy * down + fx * right)
    shifted = np.fft.ifft2(np.fft.fft2(letter) * np.exp(1j * phase)).real
    c, s = np.cos(float(angle)), np.sin(float(angle))
    rotated = _letter(c * y + s * x, c * x - s * y)

    drawn, axes = figure(1, 4, (11, 3.1))
    _kernel(axes[0, 0], letter, "a kernel, one slice")
    panel = axes[0, 1]
    dress(panel, "the phase is a plane over frequencies", "$f_x$", "$f_y$")
    panel.grid(visible=False)
    order = np.fft.fftshift
    panel.imshow(order(phase), cmap=SIGNED, extent=(-0.5, 0.5, 0.5, -0.5))
    panel.contour(order(fx), order(fy), order(phase), 9, colors=INK, linewidths=0.7)
    _kernel(axes[0, 2], shifted, "so the kernel moves")
    arrow = {"arrowstyle": "-|>", "color": WARM, "lw": 2.5}
    axes[0, 2].annotate("", (right, down), (0, 0), arrowprops=arrow)
    _kernel(axes[0, 3], rotated, "a rotation would turn it")
    save(drawn, path)


def _letter(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Something like an L, smooth, so that one sees what moves and what turns."""
    upright = np.exp(-(((x + 1.5) / 1.3) ** 2) - ((y / 3.4) ** 4))
    foot = np.exp(-(((x - 0.6) / 2.8) ** 4) - (((y - 2.2) / 1.3) ** 2))
    value: np.ndarray = np.maximum(upright, foot)
    return value


def law(path: Path) -> None:
    """Draw an image and a volume that repeats it, convolved with the two uses of one kernel."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(3, 3, 3, generator=generator) * 0.5
    weight[1, 1, 1] += 1
    image = torch.from_numpy(_phantom(48)).float()
    flat = project(weight[None, None], 0)
    answer = F.conv2d(image[None, None], flat, padding=1)[0, 0]
    depth = 7
    volume = image.expand(depth, -1, -1)
    solid = F.conv3d(volume[None, None], weight[None, None], padding=1)[0, 0]
    assert torch.allclose(solid[1:-1], answer.expand(depth - 2, -1, -1), atol=1e-5)
    top = float(answer.abs().max())

    drawn = Figure(figsize=(10, 5.2), dpi=150, facecolor="white")
    _sheets(drawn, [image], (0.02, 0.53), "an image", "gray", 0, 1)
    _sheets(drawn, list(flat[0]), (0.36, 0.57), "the sum of the slices", SIGNED, -3, 3, 0.20)
    _sheets(drawn, [answer], (0.70, 0.53), "conv2d", SIGNED, -top, top)
    _sheets(drawn, list(volume), (0.02, 0.02), "the image at every depth", "gray", 0, 1)
    _sheets(drawn, list(weight), (0.36, 0.08), "the slices of a 3D kernel", SIGNED, -2, 2, 0.20)
    _sheets(
        drawn, list(solid[1:-1]), (0.70, 0.02), "conv3d, inner slices: the same", SIGNED, -top, top
    )
    style: dict[str, Any] = {"ha": "center", "va": "center", "color": INK}
    for height in (0.72, 0.23):
        drawn.text(0.325, height, "*", fontsize=22, **style)
        drawn.text(0.655, height, "=", fontsize=22, **style)
    save(drawn, path)


def _sheets(
    drawn: Figure,
    planes: list[torch.Tensor],
    corner: tuple[float, float],
    title: str,
    colours: Any,
    low: float,
    high: float,
    side: float = 0.26,
) -> None:
    """Draw planes one behind the other, the first in front."""
    step = 0.012 if len(planes) > 3 else 0.03
    across, up = side * 10 / 10, side * 10 / 5.2
    room = step * (len(planes) - 1)
    width, height = across - room * 0.6, up * 0.82 - room * 1.15
    for place in reversed(range(len(planes))):
        at = (corner[0] + step * place * 0.6, corner[1] + step * place * 1.15, width, height)
        panel = drawn.add_axes(at)
        panel.imshow(planes[place], cmap=colours, vmin=low, vmax=high)
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set(color="white", linewidth=1.2)
    drawn.text(corner[0] + across / 2, corner[1] + up * 0.82 + 0.02, title, fontsize=10,
               color=INK, ha="center")  # fmt: skip


def _phantom(size: int) -> np.ndarray:
    """Something like an axial slice of a head, (size, size), in [0, 1]."""
    y, x = np.meshgrid(*[np.linspace(-1, 1, size)] * 2, indexing="ij")
    radius = np.hypot(y / 0.95, x / 0.78)
    value = np.where(radius < 1, 0.45, 0.0)
    folds = 0.08 * np.sin(9 * np.arctan2(y, x)) + 0.05 * np.sin(14 * x)
    value = np.where(radius < 0.78 + folds, 0.85, value)
    for side in (-1, 1):
        value = np.where(np.hypot((x - 0.15 * side) / 0.1, y / 0.36) < 1, 0.15, value)
    shown: np.ndarray = value
    return shown


def _kernel(panel: Axes, plane: np.ndarray, title: str) -> None:
    dress(panel, title, "x", "y")
    panel.grid(visible=False)
    reach = SIZE / 2
    norm = TwoSlopeNorm(0, -1.1, 1.1)
    panel.imshow(plane, cmap=SIGNED, norm=norm, extent=(-reach, reach, reach, -reach))
    panel.axhline(0, color=SOFT, lw=0.6)
    panel.axvline(0, color=SOFT, lw=0.6)
    panel.set(xticks=[], yticks=[])


if __name__ == "__main__":
    idea(IMAGES / "idea.png")
    shift(IMAGES / "shift.png")
    law(IMAGES / "law.png")
