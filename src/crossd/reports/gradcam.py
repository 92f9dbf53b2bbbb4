"""Which places decide on a class: Grad-CAM of images and volumes, on slices through its maximum.

Source: Selvaraju et al. 2017, arXiv 1610.02391.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.colors import LinearSegmentedColormap
from numpy.typing import NDArray
from torch import Tensor, nn

from crossd.conversion.folding.modules import Folded
from crossd.errors import InputError
from crossd.nn.views import VIEWS, batch_view, current_view
from crossd.reports.pictures import INK, SOFT, WARM, figure, grey, save
from crossd.tasks import task_of

HEAT = LinearSegmentedColormap.from_list(
    "heat", [(0.9, 0.62, 0, 0), (0.9, 0.62, 0, 0.12), (0.9, 0.62, 0, 0.5), (0.95, 0.9, 0.25, 0.8)]
)
"""Transparent, then orange, then yellow: readable on grey for colour-blind readers too."""


@dataclass(frozen=True)
class CamOfSample:
    """What a network saw in one sample.

    Attributes:
        name: Of the sample.
        image: Shape ``(D, H, W)``, or ``(H, W)``.
        heat: Of the class that was answered, from 0 to 1, of the same shape.
        answer: The class, the finding or the number.
        truth: What is true of it.
        probability: Of the answer; None for a number.
    """

    name: str
    image: NDArray[np.float32]
    heat: NDArray[np.float32]
    answer: str
    truth: str
    probability: float | None


@torch.no_grad()
def last_map(net: nn.Module, x: Tensor) -> str:
    """Name the last module whose answer still has places: what Grad-CAM weighs.

    Args:
        net: In evaluation mode.
        x: One image ``(1, C, H, W)`` or volume ``(1, C, D, H, W)``.

    Raises:
        InputError: "no layer ..." when none has.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        >>> last_map(net, torch.zeros(1, 1, 8, 8))
        '1'
    """
    found: list[str] = []

    def note(name: str, module: nn.Module, given: object, output: object) -> None:
        maps = _maps(net, x, output)
        if maps is not None and maps.shape[-2] * maps.shape[-1] > 1:
            found.append(name)

    with ExitStack() as hooks:
        for name, module in net.named_modules():
            if name:
                hooks.enter_context(module.register_forward_hook(partial(note, name)))
        net(x)
    if not found:
        raise InputError("no layer of the network keeps more than one place: no Grad-CAM")
    return found[-1]


def _maps(net: nn.Module, x: Tensor, output: object) -> Tensor | None:
    """Bring what a module gives of one sample to maps ``(1, C, ...)`` of its rank, if it has any.

    The modules of a converted network may see slices ``(D, C, H, W)`` of the volume, or the image
    as a volume.
    """
    if not isinstance(output, Tensor) or output.dim() not in (4, 5):
        return None
    state = net.crossd_state if isinstance(net, Folded) else None
    known = getattr(net, "output_fmt", None) == "NHWC"
    last = known if state is None else state.folding.channels_last
    maps = output.movedim(-1, 1) if last else output
    if maps.dim() == x.dim():
        return maps
    if state is None:
        return None
    if x.dim() == 5:
        return maps.transpose(0, 1)[None]
    fixed = state.folding.fixed_view
    return maps.mean(2 + batch_view(current_view() if fixed is None else fixed))


def look(
    net: nn.Module, x: Tensor, layer: str, task: str = "classification"
) -> tuple[NDArray[np.float32], Tensor]:
    """Compute Grad-CAM of the likeliest class or finding, or of the first number.

    Args:
        net: In evaluation mode.
        x: One image ``(1, C, H, W)`` or volume ``(1, C, D, H, W)``.
        layer: Name of the module whose answer is weighed.
        task: What the logits are, see `crossd.tasks`.

    Returns:
        The map from 0 to 1 in the size of `x`, zero where nothing speaks for the class (or for a
        greater number); and what the network says, ``(K,)``.

    Example:
        >>> net = nn.Sequential(nn.Conv3d(1, 4, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten())
        >>> heat, probabilities = look(net.eval(), torch.rand(1, 1, 6, 7, 8), "0")
        >>> heat.shape, probabilities.shape
        ((6, 7, 8), torch.Size([4]))
    """
    given: list[Tensor] = []
    module = net.get_submodule(layer)
    with module.register_forward_hook(lambda *call: given.append(call[2])), torch.enable_grad():
        logits = net(x.detach().requires_grad_())[0].float()
    number = task_of(task).kind == "number"
    slope = torch.autograd.grad(logits[0] if number else logits.max(), given[-1])[0]
    maps, slopes = _maps(net, x, given[-1].detach()), _maps(net, x, slope)
    assert maps is not None and slopes is not None
    weights = slopes.flatten(2).mean(2).view(*slopes.shape[:2], *[1] * (x.dim() - 2))
    heat = (weights * maps).sum(1, keepdim=True).relu().float()
    how = "bilinear" if x.dim() == 4 else "trilinear"
    heat = F.interpolate(heat, x.shape[2:], mode=how, align_corners=False)[0, 0]
    found: NDArray[np.float32] = (heat / heat.max().clamp(min=1e-30)).cpu().numpy()
    return found, task_of(task).said(logits.detach(), 0).cpu()


def draw(
    seen: Sequence[CamOfSample],
    layer: str,
    path: str | Path,
    spacing: Sequence[float] | None = None,
) -> None:
    """Draw maps over their samples: of volumes, the three planes through the maximum.

    Args:
        seen: Samples of one rank.
        layer: Name of the module that was weighed.
        path: The picture to write.
        spacing: Size of a voxel (z, y, x) [mm]; cubes without.
    """
    solid = seen[0].image.ndim == 3
    planes = 3 if solid else 1
    origin: Literal["lower", "upper"] = "lower" if solid else "upper"
    drawn, axes = figure(len(seen), 2 * planes, (1.75 * 2 * planes + 0.9, 1.95 * len(seen) + 0.9))
    sides = (spacing or (1.0,) * 3) if solid else (1.0, 1.0)
    for row, one in zip(axes, seen, strict=True):
        middle = np.unravel_index(int(one.heat.argmax()), one.heat.shape)
        low, high = np.percentile(one.image, (1, 99))
        for plane in range(planes):
            image, heat, ratio = one.image, one.heat, sides[0] / sides[1]
            if solid:
                place = int(middle[plane])
                image, heat = np.take(image, place, plane), np.take(heat, place, plane)
                down, right = (side for axis, side in enumerate(sides) if axis != plane)
                ratio = down / right
                row[2 * plane].set_title(f"{VIEWS[plane]} {place}", fontsize=8, color=SOFT)
            for ax in row[2 * plane : 2 * plane + 2]:
                grey(ax, image, low, high, origin, ratio)
            row[2 * plane + 1].imshow(heat, cmap=HEAT, vmin=0, vmax=1, aspect=ratio, origin=origin)
        right = one.answer == one.truth or one.probability is None
        text = f"{one.answer}\ntruth {one.truth}"
        if one.probability is not None:
            text = f"{one.answer} ({one.probability:.0%})".replace("%", " %")
            text += "" if right else f"\nbut is {one.truth}"
        row[0].set_ylabel(text, fontsize=8.5, color=INK if right else WARM)
    what = "planes through the place" if solid else "the places"
    drawn.suptitle(
        f"Grad-CAM at {layer}: {what} that speak{'s' if solid else ''} most for the answer",
        fontsize=11,
        color=INK,
    )
    save(drawn, path)


def reading(seen: Sequence[CamOfSample]) -> str:
    """Say how large the places are that decide, and whether the answers are right.

    Args:
        seen: The samples that were looked at.
    """
    judged = [one for one in seen if one.probability is not None]
    right = sum(one.answer == one.truth for one in judged)
    areas = [float((one.heat > 0.5).mean()) for one in seen if one.heat.max() > 0]
    said = f"{right} of the {len(seen)} answers shown are right."
    if not judged:
        said = f"{len(seen)} answers are shown."
    if not areas:
        return f"{said} Nothing in the layer speaks for them: Grad-CAM is zero."
    share = float(np.median(areas))
    where = "a small part" if share < 0.1 else "a part" if share < 0.5 else "most"
    return (
        f"{said} Half of the greatest weight or more lies on {100 * share:.0f} % of a sample: the "
        f"answers rest on {where} of it. Look whether it is the part that should decide."
    )
