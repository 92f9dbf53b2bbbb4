"""What the kernels of a network are like, in numbers: energy by slice, views, and lifts."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.conv import _ConvNd

from crossd.nn.conv import CrossDConv
from crossd.nn.functional import lift, project
from crossd.nn.kernel_modes import Fourier, KernelMode
from crossd.nn.views import VIEWS

AXES = ("z", "y", "x")
PAIRS = ((0, 1), (0, 2), (1, 2))
HARDLY, LITTLE = 0.85, 0.5
"""Where the energy beyond an even share lies in the centre, above which depth is hardly used, or
little."""

ALIKE, UNLIKE, LIFTED = 0.7, 0.3, 0.95
"""Cosines (beyond those of noise) above which views count as alike and below which they do not, and
above which kernels count as just lifted."""


@dataclass(frozen=True)
class Layer:
    """A convolution with kernels larger than one voxel.

    Attributes:
        name: Its path in the network.
        weight: As it is used on volumes, ``(O, I, z, y, x)``, or ``(O, I, y, x)`` of a 2D layer.
            In the fourier mode, moved by the mean displacement of training.
        stored: As the layer keeps it.
        mode: How it gives 2D kernels; None for a plain layer.
    """

    name: str
    weight: torch.Tensor
    stored: torch.Tensor
    mode: KernelMode | None = None

    @property
    def solid(self) -> bool:
        """Whether the kernels have a depth."""
        return self.weight.dim() == 5


@torch.no_grad()
def layers_of(net: nn.Module) -> list[Layer]:
    """List the convolutions of a network whose kernels are larger than one voxel.

    Args:
        net: In any form. The predictors of the fourier mode do not count.

    Example:
        >>> [one.name for one in layers_of(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 1)))]
        ['0']
    """
    found = []
    for name, module in net.named_modules():
        if not isinstance(module, _ConvNd) or ".mode." in f".{name}.":
            continue
        mode = getattr(module, "mode", None)
        stored = module.kernel() if isinstance(module, CrossDConv) else module.weight
        stored = stored.detach().float().cpu().contiguous()
        if stored.dim() < 4 or max(stored.shape[2:]) == 1:
            continue
        weight = stored
        if isinstance(mode, Fourier) and mode.predictor is not None:
            weight = copy.deepcopy(mode).cpu().float().aligned(stored)
        found.append(Layer(name or type(module).__name__, weight, stored, mode))
    return found


def energy(weight: torch.Tensor) -> dict[str, list[float]]:
    """Share of the squared numbers of 3D kernels in each slice across z, y and x.

    Args:
        weight: Shape ``(O, I, z, y, x)``.

    Example:
        >>> energy(lift(torch.ones(2, 1, 3, 3), 3, "center"))["z"]
        [0.0, 1.0, 0.0]
    """
    squares = weight.double().square().sum((0, 1))
    total = float(squares.sum()) or 1.0
    return {
        name: (squares.sum([other for other in range(3) if other != axis]) / total).tolist()
        for axis, name in enumerate(AXES)
    }


def similarity(weight: torch.Tensor) -> dict[str, float | None]:
    """Compare the 2D kernels that the projection gives in two views, and the lift of its own.

    Args:
        weight: Shape ``(O, I, z, y, x)``.

    Returns:
        The cosine of each pair of views (None where kernels are no cubes), over all kernels of the
        layer; and under "centre lift" that of the 3D kernels with their axial 2D kernels put at the
        centre: 1 just after a lift.

    Example:
        >>> weight = lift(torch.randn(2, 1, 3, 3), 3, "center")
        >>> round(similarity(weight)["centre lift"], 3)
        1.0
    """
    planes = [project(weight.double(), axis) for axis in range(3)]
    found: dict[str, float | None] = {}
    for a, b in PAIRS:
        fits = planes[a].shape == planes[b].shape
        found[f"{VIEWS[a]} and {VIEWS[b]}"] = _cosine(planes[a], planes[b]) if fits else None
    depth = weight.shape[2]
    start = lift(planes[0], depth, "center") if depth % 2 else None
    found["centre lift"] = None if start is None else _cosine(weight.double(), start)
    return found


def _cosine(a: torch.Tensor, b: torch.Tensor) -> float | None:
    size = float(a.norm() * b.norm())
    return float((a * b).sum()) / size if size > 0 else None


class LayerRecord(TypedDict):
    """What is known of a layer, as JSON holds it.

    Attributes:
        layer: Its name.
        shape: Of its weight.
        norm: Of its weight.
        mode: Its kernel mode.
        energy: See the function, where kernels have a depth; likewise `similarity`.
        mean_displacement: Of the fourier mode.
    """

    layer: str
    shape: list[int]
    norm: float
    mode: str | None
    energy: NotRequired[dict[str, list[float]]]
    similarity: NotRequired[dict[str, float | None]]
    mean_displacement: NotRequired[list[float]]


def describe(layer: Layer) -> LayerRecord:
    """Return what is known of a layer."""
    record: LayerRecord = {
        "layer": layer.name,
        "shape": list(layer.weight.shape),
        "norm": float(layer.weight.norm()),
        "mode": None if layer.mode is None else layer.mode.name,
    }
    if layer.solid:
        record["energy"] = energy(layer.weight)
        record["similarity"] = similarity(layer.weight)
        if isinstance(layer.mode, Fourier) and layer.mode.predictor is not None:
            record["mean_displacement"] = layer.mode.mean_displacement.tolist()
    return record


def strongest(weight: torch.Tensor, count: int) -> NDArray[np.float32]:
    """Return the kernels of largest norm, strongest first.

    Args:
        weight: Shape ``(O, I, *kernel)``.
        count: How many, at most.

    Returns:
        Shape ``(count, *kernel)``.
    """
    kernels = weight.flatten(0, 1)
    order = kernels.flatten(1).norm(dim=1).argsort(descending=True, stable=True)[:count]
    chosen: NDArray[np.float32] = kernels[order].numpy()
    return chosen


def depth_reading(records: Sequence[LayerRecord]) -> str:
    """Say whether the depth of the kernels is used.

    Args:
        records: What `describe` returned of each layer.

    Example:
        >>> layer = Layer("0", lift(torch.ones(2, 1, 3, 3), 3, "center"), torch.ones(1))
        >>> print(depth_reading([describe(layer)]))
        100 % of the energy lies in the central slice, where an even spread would put 33 %: the \
depth is hardly used. (In the plane, the central row or column holds 33 %.)
    """
    energies = [one["energy"] for one in records if "energy" in one]
    odd = [shares for shares in energies if len(shares["z"]) > 1 and len(shares["z"]) % 2 == 1]
    if not odd:
        return "No layer has kernels of odd depth: there is no central slice to compare with."
    held = {
        axis: float(np.mean([shares[axis][len(shares[axis]) // 2] for shares in odd]))
        for axis in AXES
    }
    even = float(np.mean([1 / len(shares["z"]) for shares in odd]))
    excess = (held["z"] - even) / (1 - even)
    use = "hardly used" if excess > HARDLY else "used a little" if excess > LITTLE else "used"
    plane = (held["y"] + held["x"]) / 2
    over = "" if len(odd) == 1 else f", on average over {len(odd)} layers"
    return (
        f"{100 * held['z']:.0f} % of the energy lies in the central slice{over}, where an even "
        f"spread would put {100 * even:.0f} %: the depth is {use}. (In the plane, the central row "
        f"or column holds {100 * plane:.0f} %.)"
    )


def _cube(record: LayerRecord) -> bool:
    return "similarity" in record and len(set(record["shape"][2:])) == 1


def _chance(size: int) -> float:
    """Mean cosine of two views of kernels whose numbers are independent: they share some of them.

    Axial and coronal, and coronal and sagittal kernels share one in K of the numbers that they add
    up, axial and sagittal ones one in K squared.
    """
    return (2 / size + 1 / size**2) / 3


def view_reading(records: Sequence[LayerRecord]) -> str:
    """Say whether the three views give alike 2D kernels, and how far these are from a lift.

    Args:
        records: What `describe` returned of each layer.
    """
    solid = [one["similarity"] for one in records if "similarity" in one]
    pairs = [v for one in solid for k, v in one.items() if k != "centre lift" and v is not None]
    lifts = [one["centre lift"] for one in solid if one["centre lift"] is not None]
    said = []
    if pairs:
        mean = float(np.mean(pairs))
        chance = float(np.mean([_chance(one["shape"][2]) for one in records if _cube(one)]))
        share = (mean - chance) / (1 - chance)
        how = "alike" if share > ALIKE else "hardly alike" if share < UNLIKE else "partly alike"
        said.append(
            f"The 2D kernels that one layer gives in two views are {how}: their mean cosine is "
            f"{mean:.2f}, where 1 says the same and {chance:.2f} that the 3D kernels are noise."
        )
    if lifts:
        mean = float(np.mean(lifts))
        far = "little more than that lift" if mean > LIFTED else "more than that lift"
        said.append(
            f"The mean cosine of the 3D kernels with their own 2D kernels put at the centre is "
            f"{mean:.2f}, where 1 says just lifted: they are {far}."
        )
    return " ".join(said) or "No layer has kernels of odd depth or cubic size to compare."
