"""A mode that the study tries and the library lacks: planes at any angle."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossd.nn.conv import CrossDConv
from crossd.nn.kernel_modes import Projection


class AnyAngle(Projection):
    """The sum of the kernel along any direction, by trilinear interpolation."""

    turn: Tensor | None = None

    def fixed_kernel(self, weight: Tensor, view: int) -> Tensor:
        """k2(p) = sum over t of W(R(p + t e_z))."""
        if AnyAngle.turn is None:
            return super().fixed_kernel(weight, view)
        flat = weight.flatten(0, 1)[None]
        grid = grid_of(AnyAngle.turn, weight.shape[2:]).to(weight.dtype)
        turned = F.grid_sample(flat, grid, align_corners=True, padding_mode="zeros")
        return turned[0].unflatten(0, weight.shape[:2]).sum(2)


class Oblique(nn.Module):
    """Shows a network a plane of volumes, at an angle drawn for each batch; images as they are."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        for module in net.modules():
            if isinstance(module, CrossDConv):
                module.mode = AnyAngle(1, (1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Answer on images, or on volumes by a plane of them."""
        if x.dim() == 4:
            answer: Tensor = self.net(x)
            return answer
        turn = torch.linalg.qr(torch.randn(3, 3))[0]
        depth = (torch.rand(()) - 0.5) * x.shape[2] / 2
        plane = grid_of(turn, (1, *x.shape[3:]), depth, x.shape[2:])
        grid = plane.expand(len(x), -1, -1, -1, -1)
        images = F.grid_sample(x, grid, align_corners=True, padding_mode="border")[:, :, 0]
        with turned(turn):
            answer = self.net(images)
        return answer


@contextmanager
def turned(turn: Tensor) -> Iterator[None]:
    AnyAngle.turn = turn
    try:
        yield
    finally:
        AnyAngle.turn = None


def grid_of(turn: Tensor, size: Any, depth: Tensor | float = 0.0, whole: Any = None) -> Tensor:
    """Places of a turned grid about the centre, as `grid_sample` wants them, (1, z, y, x, 3)."""
    steps = [torch.arange(n) - (n - 1) / 2 for n in size]
    z, y, x = torch.meshgrid(*steps, indexing="ij")
    places = torch.stack((z + depth, y, x), -1) @ turn.t()  # (z, y, x)
    half = (torch.tensor(tuple(whole or size)) - 1) / 2
    return (places / half).flip(-1)[None]
