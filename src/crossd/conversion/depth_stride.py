"""How much a converted network reduces the depth of volumes, stage by stage."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from crossd.errors import InputError
from crossd.ranks import Analysis

FEWEST = 2
"""Slices that must be left after a reduction that "auto" decides on."""


@dataclass(frozen=True)
class Wish:
    """What a user wants of depth; see `crossd.convert`.

    Attributes:
        stride: One number, one a stage, ``"auto"``, or None.
        size: Of the volumes (depth, height, width) [voxels].
        spacing: Of their voxels (z, y, x) [mm].
    """

    stride: int | Sequence[int] | str | None = None
    size: Sequence[int] | None = None
    spacing: Sequence[float] | None = None


def strides(found: Analysis, wish: Wish) -> dict[nn.Module, int]:
    """Choose the depth stride of every layer that reduces or enlarges the plane.

    A stage is a resolution at which layers reduce it; an upsampling layer that goes back to that
    resolution has the same factor.

    Raises:
        InputError: "depth_stride ..." for a wish that cannot be met.
    """
    down, up = _layers(found)
    stages = sorted({before for before, _ in down.values()})
    factors = {stage: max(f for b, f in down.values() if b == stage) for stage in stages}
    chosen = dict(zip(stages, _chosen(wish, [factors[stage] for stage in stages]), strict=True))
    result = {layer: chosen[before] for layer, (before, _) in down.items()}
    for layer, (_, after) in up.items():
        if after not in chosen:
            raise InputError(
                f"depth_stride: a layer of type {type(layer).__name__} enlarges maps to 1/{after} "
                "of the image, where no layer reduces them"
            )
        result[layer] = chosen[after]
    return result


def _chosen(wish: Wish, factors: Sequence[int]) -> list[int]:
    if wish.stride == "auto":
        return automatic(factors, wish.size, wish.spacing)
    if isinstance(wish.stride, str):
        raise InputError(f"depth_stride (={wish.stride!r}) must be numbers or 'auto'")
    given = wish.stride
    numbers = [given] * len(factors) if isinstance(given, int) else list(given or ())
    if len(numbers) != len(factors) or any(number < 1 for number in numbers):
        raise InputError(
            f"depth_stride (={given}) must be one positive number, or one for each of the "
            f"network's {len(factors)} stages of strides {', '.join(map(str, factors))}"
        )
    return numbers


def automatic(
    factors: Sequence[int], size: Sequence[int] | None, spacing: Sequence[float] | None
) -> list[int]:
    """Reduce depth where voxels are about cubes and slices enough are left.

    Args:
        factors: Strides in the plane, stage by stage.
        size: Of the volumes (depth, height, width) [voxels]; None for as deep as high.
        spacing: Of their voxels (z, y, x) [mm]; None for cubes.

    Example:
        >>> automatic([2, 2, 2, 2, 2], (16, 320, 320), (5.0, 0.7, 0.7))
        [1, 1, 2, 2, 2]
    """
    if size is None and spacing is None:
        raise InputError("depth_stride='auto' needs the size or the spacing of the volumes")
    for name, values in (("size", size), ("spacing", spacing)):
        if values is not None and not (len(values) == 3 and all(0 < v < math.inf for v in values)):
            raise InputError(f"{name} (={tuple(values)}) must be three positive numbers (z, y, x)")
    slices = size[0] if size is not None else 2 ** (len(factors) + FEWEST)
    thick, fine = (spacing[0], spacing[1]) if spacing is not None else (1.0, 1.0)
    result = []
    for factor in factors:
        reduces = thick < 2 * fine and slices // factor >= FEWEST
        result.append(factor if reduces else 1)
        fine, thick, slices = fine * factor, thick * result[-1], slices // result[-1]
    return result


def _layers(
    found: Analysis,
) -> tuple[dict[nn.Module, tuple[int, int]], dict[nn.Module, tuple[int, int]]]:
    """Layers that reduce and that enlarge: by how much their input and output are reduced."""
    image = next(v for v in found.given if isinstance(v, Tensor) and v.dim() == 4)
    down, up = {}, {}
    for layer, frames in found.calls.items():
        stride = getattr(layer, "stride", None)
        known = isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.MaxPool2d | nn.AvgPool2d)
        enlarges = isinstance(layer, nn.ConvTranspose2d | nn.Upsample)
        largest = max(stride) if isinstance(stride, tuple | list) else stride or 1
        if not (known or enlarges) or (largest == 1 and not isinstance(layer, nn.Upsample)):
            if isinstance(stride, int) and stride > 1 and not list(layer.children()):
                raise InputError(f"depth_stride: not for layers of type {type(layer).__name__}")
            continue
        before, after = (
            round(image.shape[2] / tensor.shape[2])
            for tensor in (_tensor(frames[0].args), _tensor(frames[0].output))
        )
        if enlarges:
            up[layer] = (before, after)
        else:
            down[layer] = (before, int(largest))
    return down, up


def _tensor(value: Any) -> Tensor:
    tensor = value[0] if isinstance(value, tuple | list) else value
    assert isinstance(tensor, Tensor)
    return tensor
