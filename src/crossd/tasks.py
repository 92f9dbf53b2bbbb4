"""What networks are taught: the tasks, what an answer of each is, and how numbers are scaled."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossd.errors import InputError

LEAST = 1e-8
"""Probability below which logarithms stop."""

SURE = 1e-6
"""Probability of one finding below which, and above one less which, logits stop."""

Kind = Literal["one", "each", "number"]


@dataclass(frozen=True)
class Task:
    """One thing that a network is taught.

    Attributes:
        name: By which options, sources and weights call it.
        kind: What the logits are about: ``"one"`` class of several, ``"each"`` class by itself, or
            a ``"number"``.
        masks: Whether every pixel or voxel has an answer, not the whole sample.
        main: The score that a network is chosen by; greater is better.
        shown: The scores that are told in a line.
        goal: What is learnt, in the plural, for messages.
    """

    name: str
    kind: Kind
    masks: bool
    main: str
    shown: tuple[str, ...]
    goal: str

    @property
    def outputs(self) -> str:
        """What a network gives one logit each for, in the plural, for messages.

        Example:
            >>> task_of("segmentation").outputs, task_of("regression").outputs
            ('classes', 'numbers')
        """
        return "classes" if self.kind == "one" else self.goal

    def said(self, logits: Tensor, axis: int = 1) -> Tensor:
        """Make of logits what they say: probabilities, or numbers as they are.

        Args:
            logits: Any shape, the classes (or numbers) along `axis`.
            axis: That axis.

        Returns:
            The same shape: probabilities that sum to one along the axis for one class of several,
            a probability each for classes by themselves, and for numbers the logits.

        Example:
            >>> import torch
            >>> task_of("multilabel").said(torch.zeros(1, 3))
            tensor([[0.5000, 0.5000, 0.5000]])
        """
        if self.kind == "one":
            return logits.softmax(axis)
        return logits.sigmoid() if self.kind == "each" else logits

    def logits(self, said: Tensor) -> Tensor:
        """Make logits that say this: the inverse of `said`.

        Example:
            >>> import torch
            >>> task_of("classification").logits(torch.tensor([[0.25, 0.75]])).softmax(1)
            tensor([[0.2500, 0.7500]])
        """
        if self.kind == "one":
            return said.clamp_min(LEAST).log()
        return said.logit(SURE) if self.kind == "each" else said


TASKS = {
    task.name: task
    for task in (
        Task("classification", "one", False, "auc", ("auc", "accuracy"), "labels"),
        Task("multilabel", "each", False, "auc", ("auc", "average_precision"), "findings"),
        Task("regression", "number", False, "r2", ("r2", "mae"), "numbers"),
        Task("segmentation", "one", True, "dice", ("dice",), "masks"),
    )
}


def task_of(name: str) -> Task:
    """Return a task by its name.

    Raises:
        InputError: "no task called ...".
    """
    if name not in TASKS:
        raise InputError(f"no task called {name!r}; expected one of {', '.join(TASKS)}")
    return TASKS[name]


@dataclass(frozen=True)
class Scale:
    """How numbers to learn are standardised: networks give (number - mean) / std.

    Attributes:
        mean: Of each number, in its unit.
        std: Of each number, in its unit; above 0.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def standardised(self, numbers: Tensor) -> Tensor:
        """Give numbers ``(N, K)`` in their units as networks give them.

        Example:
            >>> import torch
            >>> Scale((10.0,), (2.0,)).standardised(torch.tensor([[14.0]]))
            tensor([[2.]])
        """
        mean, std = self._beside(numbers)
        return (numbers - mean) / std

    def restored(self, numbers: Tensor) -> Tensor:
        """Give what a network says, ``(N, K)``, in the units.

        Example:
            >>> import torch
            >>> Scale((10.0,), (2.0,)).restored(torch.tensor([[2.0]]))
            tensor([[14.]])
        """
        mean, std = self._beside(numbers)
        return numbers * std + mean

    def _beside(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Give mean and standard deviation where numbers are, without waiting for a GPU."""
        both = torch.tensor((self.mean, self.std), dtype=numbers.dtype)
        mean, std = both.to(numbers.device, non_blocking=True)
        return mean, std


def scale_of(numbers: NDArray[np.generic], names: Sequence[str], where: str) -> Scale:
    """Measure the mean and the standard deviation of numbers to learn.

    Args:
        numbers: ``(N, K)``; NaN where one is not known.
        names: What the K numbers are called.
        where: The source, for messages.

    Raises:
        InputError: When one of them is known of no sample, or is the same in all.

    Example:
        >>> scale_of(np.array([[1.0], [3.0], [np.nan]]), ["volume"], "here")
        Scale(mean=(2.0,), std=(1.0,))
    """
    means, stds = [], []
    for name, column in zip(names, numbers.astype(np.float64).T, strict=True):
        known = column[np.isfinite(column)]
        if not len(known):
            raise InputError(f"{where}: {name} is known of no training sample; fill it in")
        if known.min() == known.max():
            raise InputError(
                f"{where}: {name} is {known[0]:g} in every training sample: there is nothing to "
                "learn; leave the column out"
            )
        means.append(float(known.mean()))
        stds.append(float(known.std()))
    return Scale(tuple(means), tuple(stds))


QUARTERS = (0.25, 0.5, 0.75)
"""Where numbers are cut for `strata`."""


def strata(task: str, labels: NDArray[np.generic] | None, count: int) -> NDArray[np.int64]:
    """Number the groups of samples that every part should have its share of.

    For one class of several that is the class. Of findings, it is the rarest one that a sample has,
    so that rare ones are spread over the parts. Of numbers, it is the quarter of the first.

    Args:
        task: Its name.
        labels: ``(N,)`` or ``(N, K)``; None for masks, or without labels.
        count: N.

    Returns:
        Shape ``(N,)``; zeros where there is nothing to go by.

    Example:
        >>> strata("multilabel", np.array([[1, 0], [1, 1], [1, 0], [0, 0]]), 4).tolist()
        [0, 1, 0, 2]
    """
    if labels is None:
        return np.zeros(count, np.int64)
    if labels.ndim == 1:
        return labels.astype(np.int64)
    numbers = labels.astype(np.float64)
    if task_of(task).kind == "each":
        have = numbers == 1
        order = np.argsort(have.sum(0), kind="stable")  # the rarest first
        first = have[:, order].argmax(1)
        return np.where(have.any(1), order[first], have.shape[1]).astype(np.int64)
    first_number = numbers[:, 0]
    known = first_number[np.isfinite(first_number)]
    if len(known) < 4 * len(QUARTERS):
        return np.zeros(count, np.int64)
    quarter = np.searchsorted(np.quantile(known, QUARTERS), first_number, side="right")
    return np.where(np.isfinite(first_number), quarter, 4).astype(np.int64)


def with_units(names: Sequence[str], units: Sequence[str]) -> list[str]:
    """Write units behind the names of numbers.

    Example:
        >>> with_units(("volume", "age"), ("ml", ""))
        ['volume [ml]', 'age']
    """
    return [
        f"{name} [{unit}]" if unit else name
        for name, unit in zip(names, units or [""] * len(names), strict=True)
    ]
