"""Small sources, networks and progress for tests of trainings."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from crossd.conversion.convert import convert
from crossd.data.dataset import Sample, Samples
from crossd.data.source import Source
from crossd.utils.progress import Bar, Progress


class Made(Samples):
    """Samples in memory."""

    def __init__(
        self,
        images: list[Tensor],
        labels: list[int] | None = None,
        masks: list[Tensor] | None = None,
        views: list[int] | None = None,
    ) -> None:
        self.images, self.masks = images, masks
        if masks is not None and images[0].dim() == 4:
            self.patch = tuple(images[0].shape[1:])
        self.labels = None if labels is None else np.array(labels, np.int64)
        self.views = None if views is None else np.array(views, np.int64)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        sample: Sample = {"image": self.images[index]}
        if self.labels is not None:
            sample["label"] = torch.tensor(self.labels[index])
        if self.masks is not None:
            sample["mask"] = self.masks[index]
        if sample["image"].dim() == 3:
            sample["view"] = -1 if self.views is None else int(self.views[index])
        return sample


def labelled(rank: int, count: int = 12, views: bool = False, bad: float = 0.0) -> Source:
    """Dark images of class 0, bright ones of class 1."""
    generator = torch.Generator().manual_seed(1)
    labels = [i % 2 for i in range(count)]
    images = [
        0.3 * torch.randn((1, *(8,) * rank), generator=generator) + 2 * label - 1 + bad
        for label in labels
    ]
    made = Made(images, labels, views=[i % 3 for i in range(count)] if views else None)
    sides = (8,) * rank
    return Source("made", rank, "classification", 1, ("a", "b"), sides, made, made, made)


def odd(index: int) -> Source:
    """Images of which one is not a number."""
    made = labelled(2)
    made.train.images[index] = torch.full_like(made.train.images[index], torch.nan)  # type: ignore[attr-defined]
    return made


def masked(rank: int, count: int = 6, side: int = 8) -> Source:
    """Noise with a bright box, which is class 1."""
    generator = torch.Generator().manual_seed(1)
    masks = []
    for i in range(count):
        mask = torch.zeros((side,) * rank, dtype=torch.long)
        mask[(slice(1 + i % 3, 5 + i % 3),) * rank] = 1
        masks.append(mask)
    images = [
        0.3 * torch.randn((1, *mask.shape), generator=generator) + 2 * mask[None] - 1
        for mask in masks
    ]
    made = Made(images, masks=masks)
    sides = (side,) * rank
    return Source("made", rank, "segmentation", 1, ("background", "box"), sides, made, made, made)


def tiny(mode: str = "projection", dropout: float = 0.0) -> nn.Module:
    """A small Cross-D classifier."""
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(1),
        nn.Dropout(dropout),
        nn.Linear(6, 2),
    )
    return convert(net, mode)


def assert_same(first: Any, second: Any) -> None:
    """Compare nested results bit for bit."""
    torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)


class Stopping(Progress):
    """Interrupts like Ctrl-C after so many steps."""

    def __init__(self, steps: int) -> None:
        super().__init__(quiet=True)
        self.steps = steps

    @contextmanager
    def task(self, name: str, total: int | None, done: int = 0) -> Iterator[Bar]:
        with super().task(name, total, done) as bar:
            advance = bar.advance

            def stop(samples: int, loss: Any = None, waited: float | None = None) -> None:
                advance(samples, loss)
                self.steps -= 1
                if self.steps == 0:
                    raise KeyboardInterrupt

            bar.advance = stop  # type: ignore[method-assign]
            yield bar


class Heard(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)
