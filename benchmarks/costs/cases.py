"""What is measured: layers and networks, each at a size, with a batch and a number of classes."""

import dataclasses
from collections.abc import Iterable

import torch
from torch import Tensor

LAYERS = {  # the distinct convolutions of a ResNet18 on 224 x 224: in, out, kernel, stride, size
    "3 to 64, 7x7/2, 224": (3, 64, 7, 2, 224),
    "64, 3x3, 56": (64, 64, 3, 1, 56),
    "64 to 128, 3x3/2, 56": (64, 128, 3, 2, 56),
    "128, 3x3, 28": (128, 128, 3, 1, 28),
    "128 to 256, 3x3/2, 28": (128, 256, 3, 2, 28),
    "256, 3x3, 14": (256, 256, 3, 1, 14),
    "256 to 512, 3x3/2, 14": (256, 512, 3, 2, 14),
    "512, 3x3, 7": (512, 512, 3, 1, 7),
}
NETWORKS = (
    *("resnet18", "resnet50", "efficientnet-b0", "convnext-tiny", "vit-small"),
    *("unet", "unet-resnet18"),
)


@dataclasses.dataclass(frozen=True)
class Case:
    """One layer or network, and what it is given.

    Attributes:
        network: Its name, or the name of a layer.
        shape: Height and width of images, or depth, height and width of volumes.
        batch: Images or volumes a batch.
        classes: Another number of classes than the network has by itself.
    """

    network: str
    shape: tuple[int, ...]
    batch: int
    classes: int | None = None

    @property
    def rank(self) -> int:
        """2 for images, 3 for volumes."""
        return len(self.shape)

    @property
    def name(self) -> str:
        """How tables call it, but for the batch."""
        if self.network in LAYERS:
            return self.network
        sides = [str(side) for side in self.shape]
        shape = sides[0] if self.rank == 2 else "x".join(sides)
        return f"{self.network}, {shape}" + (f", {self.classes} classes" if self.classes else "")

    def batch_on(self, device: str) -> Tensor:
        """Draw the batch that every arm gets, ``(N, C, [D,] H, W)`` of normal numbers.

        The input of a layer has a gradient, as it has in a network.
        """
        generator = torch.Generator().manual_seed(1)
        layer = LAYERS.get(self.network)
        shape = (self.batch, layer[0] if layer else 3, *self.shape)
        return torch.randn(shape, generator=generator).to(device).requires_grad_(layer is not None)


def layers(batch: int) -> list[Case]:
    """List the layers."""
    return [Case(name, (own[4], own[4]), batch) for name, own in LAYERS.items()]


def images(networks: Iterable[str], sizes: Iterable[int], batches: Iterable[int]) -> list[Case]:
    """List networks on square images."""
    sizes, batches = tuple(sizes), tuple(batches)
    return [Case(n, (side, side), batch) for n in networks for side in sizes for batch in batches]


def volumes(networks: Iterable[str], shapes: Iterable[tuple[int, ...]]) -> list[Case]:
    """List networks on volumes; the first number of a shape is that of the batch."""
    shapes = tuple(shapes)
    return [Case(name, shape[1:], shape[0]) for name in networks for shape in shapes]


GROWTH = (
    *(Case("resnet18", (64, 64), batch) for batch in (1, 2, 8, 32)),
    *(Case("resnet18", (side, side), 8) for side in (96, 160, 224)),
    *(Case("vit-small", (side, side), 8) for side in (64, 128, 224)),
    *(Case("resnet18", (depth, 64, 64), 2) for depth in (8, 16, 32, 64)),
    *(Case("vit-small", (side, side, side), 1) for side in (64, 128, 224)),
    *(Case("unet", (64, 64), 8, classes) for classes in (2, 20, 100)),
    *(Case("unet", (32, 64, 64), 1, classes) for classes in (2, 20, 100)),
)
"""Batch, size, depth and number of classes, one after the other."""
