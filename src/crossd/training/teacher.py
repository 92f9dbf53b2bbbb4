"""What a network says of samples, as something that another one learns."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
