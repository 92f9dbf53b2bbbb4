"""What a network is taught by another one: losses by their formulas, and who agrees with whom."""

import dataclasses
import math

import pytest
import torch
from helpers import gradient_of, normal
from made import labelled, masked
from torch import nn

from crossd.tasks import TASKS
from crossd.training import loop
from crossd.training.teach import Rescaled, Unlabelled, agreement
from crossd.training.teacher import Teacher


class Fixed(nn.Module):
    """Says the same of every sample."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits + self.bias


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("task", [*TASKS])
def test_the_loss_is_the_divergence(task: str, temperature: float) -> None:
    shape = (2, 3, 2, 3, 4) if task == "segmentation" else (2, 3)
    said, wanted = normal(*shape, seed=1), normal(*shape, seed=2)
    teacher = Teacher(Fixed(wanted), task, temperature)
    found = float(teacher.loss(said, torch.zeros(2, 1, 2, 3, 4)))
    total, count = 0.0, 0
    if task == "regression":
        for a, b in zip(said.flatten().tolist(), wanted.flatten().tolist(), strict=True):
            apart = abs(a - b)
            total += 0.5 * apart**2 if apart < 1 else apart - 0.5
            count += 1
    else:
        rows = zip(*(x.movedim(1, -1).reshape(-1, 3).tolist() for x in (said, wanted)), strict=True)
        for a, b in rows:
            if task == "multilabel":
                for one, other in zip(a, b, strict=True):
                    p, q = (1 / (1 + math.exp(-v / temperature)) for v in (other, one))
                    total += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
                    count += 1
                continue
            ps, qs = ([math.exp(v / temperature) for v in row] for row in (b, a))
            total += sum(
                p / sum(ps) * math.log(p / sum(ps) / (q / sum(qs)))
                for p, q in zip(ps, qs, strict=True)
            )
            count += 1
        total *= temperature**2
    assert found == pytest.approx(total / count, rel=1e-5)
    assert float(teacher.loss(wanted, torch.zeros(1))) == pytest.approx(0, abs=1e-6)


def test_the_teacher_does_not_learn() -> None:
    own = Fixed(normal(2, 3))
    teacher = Teacher(own, "classification")
    (slope,) = gradient_of(lambda x: teacher.loss(x, torch.zeros(2, 1))[None], normal(2, 3, seed=4))
    assert slope.abs().max() > 0 and own.bias.grad is None and not own.bias.requires_grad


def test_the_finest_head_learns() -> None:
    wanted = normal(2, 3, 4, 4, 4)
    teacher = Teacher(Fixed(wanted), "segmentation")
    x = torch.zeros(2, 1, 4, 4, 4)
    heads = [wanted, normal(2, 3, 2, 2, 2, seed=5)]
    assert float(teacher.loss(heads, x)) == pytest.approx(0, abs=1e-6)
    stacked = torch.stack([wanted, wanted + normal(2, 3, 4, 4, 4, seed=6)], 1)
    assert float(teacher.loss(stacked, x)) == pytest.approx(0, abs=1e-6)


def test_samples_are_told_as_the_teacher_knows_them() -> None:
    values = normal(5)
    seen = Rescaled(nn.Identity(), (3.0, 2.0), (1.0, 4.0))((values - 3) / 2)
    torch.testing.assert_close(seen, (values - 1) / 4)


def test_labels_are_not_seen() -> None:
    for source in (labelled(3), masked(3)):
        hidden = Unlabelled(source.train)
        assert hidden.labels is None and set(hidden[0]) <= {"image", "view"}
        assert torch.equal(hidden[0]["image"], source.train[0]["image"])


def test_agreement() -> None:
    one, other = torch.tensor([0.25, 0.75]), torch.tensor([0.75, 0.25])
    assert agreement("classification", [one, one], [one, other]) == [1.0, 0.5]
    assert agreement("multilabel", [one], [other]) == [0.5]
    assert agreement("regression", [torch.tensor([1.0, 3.0])], [torch.tensor([1.0, 1.0])]) == [0.0]
    mask = torch.tensor([0, 1, 1, 2])
    assert agreement("segmentation", [mask, mask * 0], [mask, mask * 0]) == [1.0, 1.0]
    assert agreement("segmentation", [mask], [torch.tensor([0, 1, 0, 2])])[0] == pytest.approx(
        5 / 6
    )


def test_a_network_learns_what_its_teacher_says() -> None:
    """Without a label, a linear network comes to the one that teaches it."""
    source = labelled(3, 24)
    side = source.train[0]["image"].numel()
    torch.manual_seed(0)
    wise, pupil = (nn.Sequential(nn.Flatten(), nn.Linear(side, 3)) for _ in range(2))
    hidden = dataclasses.replace(source, task="unlabelled", train=Unlabelled(source.train))
    config = loop.TrainConfig(epochs=60, batch_size=8, lr=0.02, augment="none", weight_decay=0.0)
    fit = loop.fit(pupil, hidden, config, teacher=Teacher(wise, "classification"), validate=False)
    first, last = fit.history[0]["loss"], fit.history[-1]["loss"]
    assert last < 0.02 * first
