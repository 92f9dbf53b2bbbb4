"""Convolutions whose 2D kernel lies in one plane of a volume.

Networks of them have planes that take turns: `crossd.cycle`.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from crossd.nn.conv import pad_ends
from crossd.nn.functional import depth_taps, lift
from crossd.nn.layers import conv_settings, depth_axis, fill, is_volume
from crossd.nn.views import replicated_axes

PLANES = ("HW", "DW", "DH")
"""The planes of a volume, by the axis that each leaves out: depth, height and width."""


class PlanarConv(nn.Conv2d):
    """`torch.nn.Conv2d` that also convolves volumes, in one of their planes.

    Rows and columns of the kernel lie along the two axes of the plane, in the order depth, height,
    width. Along the third axis the layer strides as in the plane, so that volumes shrink evenly; it
    looks at single slices there, or, where it strides, at a mean over slices that leaves none out
    (`crossd.nn.functional.lift`).

    Args:
        *args: As of `torch.nn.Conv2d`.
        plane: ``"HW"``, ``"DW"`` or ``"DH"``.
        **kwargs: As of `torch.nn.Conv2d`.

    Raises:
        ValueError: "plane ..." for another name.

    Example:
        >>> import torch
        >>> conv = PlanarConv(1, 4, 3, padding=1, plane="DW")
        >>> conv(torch.zeros(1, 1, 5, 6, 7)).shape, conv(torch.zeros(1, 1, 6, 7)).shape
        (torch.Size([1, 4, 5, 6, 7]), torch.Size([1, 4, 6, 7]))
    """

    def __init__(self, *args: Any, plane: str = "HW", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if plane not in PLANES:
            raise ValueError(f"plane (={plane!r}) must be one of {', '.join(PLANES)}")
        self.plane = plane

    def forward(self, input: Tensor) -> Tensor:
        """Convolve images ``(N, C, H, W)`` or volumes ``(N, C, D, H, W)``."""
        if not is_volume(input, self):
            return super().forward(input)
        settings = self._settings()
        stride, dilation = settings["stride"], settings["dilation"]
        x, zeros = pad_ends(input, self._margins(), self.padding_mode, replicated_axes())
        kernel = self._solid(settings["kernel_size"][self._axis])
        return F.conv3d(x, kernel, self.bias, stride, zeros, dilation, self.groups)

    def least_depth(self) -> int:
        """Return how many slices a volume must have at least."""
        settings, margins = self._settings(), self._margins()[0]
        mirrored = {"reflect": 1 + max(margins), "circular": max(margins)}
        reach = settings["dilation"][0] * (settings["kernel_size"][0] - 1) + 1 - sum(margins)
        return max(reach, mirrored.get(self.padding_mode, 0))

    def extra_repr(self) -> str:
        """Describe the layer."""
        return f"{super().extra_repr()}, plane={self.plane}"

    @property
    def _axis(self) -> int:
        """The axis that the plane leaves out: 0 depth, 1 height, 2 width."""
        return PLANES.index(self.plane)

    def _settings(self) -> dict[str, Any]:
        """Settings of the 3D layer that does the same: those of the plane, and the third axis'."""
        which = depth_axis(self.kernel_size)
        size, stride, dilation = (
            own[which] for own in (self.kernel_size, self.stride, self.dilation)
        )
        third: dict[str, int] = {"stride": stride, "dilation": dilation}
        if isinstance(self.padding, str):  # which torch takes with a stride of 1 only
            kept, padding = self.padding == "same", 0
        else:
            padding = int(self.padding[which])
            kept = 2 * padding == dilation * (size - 1)
        if stride == 1 and kept:
            third |= {"kernel_size": 1, "padding": 0}
        else:
            taps, margin = depth_taps(size, stride, padding)
            third |= {"kernel_size": taps, "padding": margin}
        settings: dict[str, Any] = {}
        for name, value in third.items():
            own = (0, 0) if getattr(self, name) == "valid" else getattr(self, name)
            settings[name] = own if isinstance(own, str) else _with(own, self._axis, value)
        return settings

    def _margins(self) -> list[tuple[int, int]]:
        """What padding adds before and after depth, height and width."""
        settings = self._settings()
        if settings["padding"] != "same":
            return [(padding, padding) for padding in settings["padding"]]
        sizes = zip(settings["dilation"], settings["kernel_size"], strict=True)
        totals = [dilation * (size - 1) for dilation, size in sizes]
        return [(total // 2, total - total // 2) for total in totals]

    def _solid(self, taps: int) -> Tensor:
        """The 3D kernel, with so many taps along the third axis."""
        stride = self.stride[depth_axis(self.kernel_size)]
        kernel = lift(self.weight, taps, "center", stride).movedim(2, 2 + self._axis)
        return kernel.contiguous()  # torch misreads odd strides of an axis of one, with groups

    def to_2d(self, view: int = 0) -> nn.Conv2d:
        """Give the 2D layer it was made from."""
        return fill(nn.Conv2d(**conv_settings(self, tuple)), self)

    def to_3d(self, align: bool = False) -> nn.Conv3d:
        """Give the 3D layer that does the same."""
        settings = self._settings()
        weight = self._solid(settings["kernel_size"][self._axis]).detach()
        made = nn.Conv3d(**(conv_settings(self, tuple) | settings))
        return fill(made, self, weight=weight)


def _with(pair: tuple[int, ...], axis: int, value: int) -> tuple[int, ...]:
    """Put a setting of the third axis among those of the plane."""
    return (*pair[:axis], value, *pair[axis:])
