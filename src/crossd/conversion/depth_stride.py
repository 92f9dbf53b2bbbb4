"""How much a converted network reduces the depth of volumes, stage by stage."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from crossd.errors import InputError
from crossd.nn.layers import depth_axis, pair

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


@dataclass(frozen=True)
class DepthStrides:
    """What was decided: how layers and functions stride along depth.

    Attributes:
        stages: (reduction of the plane before it, depth stride) of each stage; none where depth
            follows the plane.
        layers: Depth strides of convolutions by their paths.
    """

    stages: tuple[tuple[int, int], ...] = ()
    layers: dict[str, int] = field(default_factory=dict)


def decide(wish: Wish, run: Callable[[], object], net: nn.Module) -> DepthStrides:
    """Choose the depth stride of everything that reduces or enlarges the plane.

    A stage is a resolution at which something reduces it; a layer that goes back to that
    resolution has the same factor.

    Args:
        wish: What the user wants.
        run: Runs the 2D network on images.
        net: The 2D network.

    Raises:
        InputError: "depth_stride ..." for a wish that cannot be met.
    """
    if wish.stride is None:
        return DepthStrides()
    if isinstance(wish.stride, int) and wish.stride > 0:  # the same for all: nothing to look up
        return DepthStrides(((1, wish.stride),))
    with _Recorder(net) as seen:
        run()
    stages = sorted(seen.factors)
    chosen = dict(zip(stages, _chosen(wish, [seen.factors[s] for s in stages]), strict=True))
    layers = {}
    for path, reduction in seen.layers.items():
        if reduction not in chosen:
            raise InputError(
                f"depth_stride: layer {path!r} enlarges maps to 1/{reduction} of the image, where "
                "no layer reduces them"
            )
        layers[path] = chosen[reduction]
    return DepthStrides(tuple(chosen.items()), layers)


class _Recorder(TorchFunctionMode):
    """Notes at which resolution a 2D network reduces and enlarges the plane.

    Args:
        net: The network, which runs meanwhile.

    Attributes:
        factors: Largest stride by the reduction of the plane before it.
        layers: For convolutions with a stride, by path, the reduction on the larger side.
    """

    STRIDES: ClassVar[dict[object, tuple[str, ...]]] = {
        F.conv2d: ("weight", "bias", "stride"),
        F.max_pool2d: ("kernel_size", "stride"),
        torch.max_pool2d: ("kernel_size", "stride"),
        F.avg_pool2d: ("kernel_size", "stride"),
        F.lp_pool2d: ("norm_type", "kernel_size", "stride"),
    }

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.factors: dict[int, int] = {}
        self.layers: dict[str, int] = {}
        self.height = 0
        self.hooks = [net.register_forward_pre_hook(self._first)]
        for path, module in net.named_modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and max(module.stride) > 1:
                self.hooks.append(module.register_forward_hook(self._layer(path)))

    def _first(self, net: nn.Module, args: tuple[object, ...]) -> None:
        images = [v for v in args if isinstance(v, Tensor) and v.dim() == 4]
        self.height = images[0].shape[2] if images else 0

    def _layer(self, path: str) -> Callable[..., None]:
        def note(module: nn.Module, args: tuple[Tensor, ...], answer: Tensor) -> None:
            larger = max(args[0].shape[2], answer.shape[2])
            self.layers.setdefault(path, round(self.height / larger))

        return note

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        """Note a function that reduces the plane, and call it."""
        answer = func(*args, **(kwargs or {}))
        if func in self.STRIDES and args and args[0].dim() == 4:
            names = self.STRIDES[func]
            given = {**dict(zip(names, args[1:], strict=False)), **(kwargs or {})}
            window = given.get("kernel_size", given.get("weight"))
            size = window.shape[2:] if isinstance(window, Tensor) else pair(window)
            stride = given.get("stride") or (1 if "weight" in given else size)
            factor = max(pair(stride))
            if factor > 1 and tuple(size) != tuple(args[0].shape[2:]):
                made = answer[0] if isinstance(answer, tuple) else answer
                reduction = round(self.height / (made.shape[2] * factor))  # inputs may be padded
                self.factors[reduction] = max(factor, self.factors.get(reduction, 1))
        return answer

    def __exit__(self, *reason: object) -> None:
        """Stop watching."""
        super().__exit__(*reason)
        for hook in self.hooks:
            hook.remove()


def depth_settings(layer: Any, wanted: int | None, depth_kernel: int | None) -> dict[str, int]:
    """Give the settings of a convolution along depth that are not to be copied from the plane.

    Args:
        layer: A 2D convolution, plain or transposed.
        wanted: Its stride along depth, if it has one in the plane; None copies the plane's.
        depth_kernel: Depth of kernels that are larger than one pixel; None copies the plane's.

    Returns:
        Values by the names of `torch.nn`; empty where the plane's are copied.
    """
    which = depth_axis(layer.kernel_size)
    size, stride = layer.kernel_size[which], layer.stride[which]
    found: dict[str, int] = {}
    if wanted is not None and stride > 1 and wanted != stride:
        found["stride"] = wanted
        if size <= stride:  # each voxel is met once: a patch as deep as the stride
            found |= {"kernel_size": min(size, wanted), "padding": 0}
        elif layer.transposed:
            size -= 1 - size % 2
            found |= {"kernel_size": size, "padding": (size - 1) // 2, "output_padding": 0}
        return found
    convolves = not layer.transposed and not isinstance(layer.padding, str)
    if depth_kernel is not None and convolves and size > 1 and stride < size:
        dilation, padding = layer.dilation[which], layer.padding[which]
        around = size // 2 * dilation
        if padding not in (0, around):
            raise ValueError(f"depth_kernel cannot go with padding {padding} of a kernel of {size}")
        found["kernel_size"] = depth_kernel
        found["padding"] = depth_kernel // 2 * dilation if padding else 0
    return found


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
