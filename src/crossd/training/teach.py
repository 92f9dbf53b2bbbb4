"""Teaching: a network learns, on samples without labels, what another one says of them."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossd.data.dataset import ChangedSamples, Sample, Samples
from crossd.tasks import task_of
from crossd.training.loss import Logits


class Teacher:
    """What a network says of samples, as something to be learnt.

    Args:
        net: Gives logits of the samples; it is put into evaluation mode, and does not learn.
        task: What its logits are, see `crossd.tasks`.
        temperature: Both networks' logits are divided by it before they are compared: above 1, the
            classes that are unlikely count for more. The loss is multiplied by its square, so that
            gradients keep their size (Hinton, Vinyals and Dean 2015, arXiv 1503.02531).

    Example:
        >>> teacher = Teacher(nn.Flatten(), "classification")
        >>> images = torch.tensor([[[[2.0, 0.0]]]])
        >>> float(teacher.loss(torch.tensor([[2.0, 0.0]]), images))
        0.0
    """

    def __init__(self, net: nn.Module, task: str, temperature: float = 1.0) -> None:
        self.net = net.eval().requires_grad_(False)
        self.task = task_of(task)
        self.temperature = temperature

    def loss(self, logits: Logits, x: Tensor) -> Tensor:
        """Give how far logits are from what the teacher says of the same samples.

        For one class of several, of every voxel too, the mean Kullback-Leibler divergence from the
        teacher's probabilities; for findings that of each; for numbers Huber's loss.

        Args:
            logits: Of the network that learns, ``(N, K, ...)``; of several heads, as deep
                supervision has them, the finest one learns.
            x: The samples that it was asked about.

        Returns:
            Shape ``()``.
        """
        with torch.no_grad():
            wanted = self.net.to(x.device)(x).float()
        said = _finest(logits, wanted.dim()).float()
        if self.task.kind == "number":
            return F.huber_loss(said, wanted)
        said, wanted = said / self.temperature, wanted / self.temperature
        if self.task.kind == "one":
            apart = F.kl_div(said.log_softmax(1), wanted.log_softmax(1), reduction="none",
                             log_target=True).sum(1)  # fmt: skip
        else:
            both = (F.binary_cross_entropy_with_logits(one, wanted.sigmoid(), reduction="none")
                    for one in (said, wanted))  # fmt: skip
            apart = next(both) - next(both)
        return apart.mean() * self.temperature**2


def _finest(logits: Logits, axes: int) -> Tensor:
    """Take the first of several heads, whether they are listed or stacked before the classes."""
    if not isinstance(logits, Tensor):
        return logits[0]
    return logits[:, 0] if logits.dim() > axes else logits


class Rescaled(nn.Module):
    """A network that is told samples as it knows them, where another mean and std were taken out.

    Args:
        net: The network.
        given: Mean and standard deviation that the samples were less, and over.
        known: Those that the network was trained with.

    Example:
        >>> net = Rescaled(nn.Identity(), (10.0, 2.0), (8.0, 4.0))
        >>> net(torch.tensor([1.0]))  # 12 in the file
        tensor([1.])
    """

    def __init__(
        self, net: nn.Module, given: tuple[float, float], known: tuple[float, float]
    ) -> None:
        super().__init__()
        self.net, self.given, self.known = net, given, known

    def forward(self, x: Tensor) -> Tensor:
        """Ask the network."""
        (mean, std), (own_mean, own_std) = self.given, self.known
        return self.net((x * std + mean - own_mean) / own_std)


class Unlabelled(ChangedSamples):
    """Samples whose labels and masks nobody is to see."""

    def __init__(self, samples: Samples) -> None:
        super().__init__(samples)
        self.labels = None

    def _changed(self, sample: Sample) -> Sample:
        kept: Sample = {**sample}
        kept.pop("label", None)
        kept.pop("mask", None)
        return kept


def agreement(task: str, taught: Sequence[Tensor], teacher: Sequence[Tensor]) -> list[float]:
    """Give how far two networks agree on each sample: 1 where they say the same.

    For one class of several, one less half the sum of the absolute differences of probabilities;
    for findings, one less their mean; for numbers, one less the mean absolute difference of what
    is standardised, which may be below 0; for masks the mean Dice of the classes but the first
    that one of the two shows, 1 where neither shows any.

    Args:
        task: What they answer, see `crossd.tasks`.
        taught: What one says of each sample: probabilities or numbers ``(K,)``, or classes.
        teacher: What the other says.

    Example:
        >>> agreement("classification", [torch.tensor([0.5, 0.5])], [torch.tensor([1.0, 0.0])])
        [0.5]
        >>> agreement("segmentation", [torch.tensor([0, 1, 1])], [torch.tensor([0, 0, 1])])
        [0.6666666865348816]
    """
    kind = task_of(task)
    found = []
    for one, other in zip(taught, teacher, strict=True):
        if kind.masks:
            found.append(_overlap(one, other))
            continue
        apart = (one - other).abs()
        found.append(float(1 - (apart.sum() / 2 if kind.kind == "one" else apart.mean())))
    return found


def _overlap(one: Tensor, other: Tensor) -> float:
    """Give the mean Dice of the classes that one of two masks shows."""
    seen = {*one.unique().tolist(), *other.unique().tolist()} - {0}
    dice = []
    for value in seen:
        a, b = one == value, other == value
        dice.append(2 * (a & b).sum() / (a.sum() + b.sum()))
    return float(torch.stack(dice).mean()) if dice else 1.0
