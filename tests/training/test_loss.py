"""Losses of findings and of numbers: over what is known alone."""

import pytest
import torch
import torch.nn.functional as F

from crossd.tasks import Scale
from crossd.training.loss import findings, loss_of, numbers

NAN = float("nan")
KNOWN = [(0, 0), (0, 2), (1, 1), (3, 0)]
"""Places of what is known."""


def truths(values: torch.Tensor) -> torch.Tensor:
    """Keep what is known."""
    truth = torch.full((4, 3), NAN)
    for place in KNOWN:
        truth[place] = values[place]
    return truth


def test_findings_have_the_mean_of_what_is_known() -> None:
    logits, there = torch.randn(4, 3, requires_grad=True), (torch.randn(4, 3) > 0).float()
    value = findings(logits, truths(there))
    each = [F.binary_cross_entropy_with_logits(logits[p], there[p]) for p in KNOWN]
    torch.testing.assert_close(value, torch.stack(each).mean())
    value.backward()
    assert logits.grad is not None
    known = ~truths(there).isnan()
    assert (logits.grad[~known] == 0).all() and (logits.grad[known] != 0).all()


def test_numbers_have_hubers_loss_of_what_is_known() -> None:
    said, true = torch.randn(4, 3, requires_grad=True), 4 * torch.randn(4, 3)
    value = numbers(said, truths(true))
    expected = torch.stack([F.huber_loss(said[p], true[p]) for p in KNOWN]).mean()
    torch.testing.assert_close(value, expected)
    value.backward()
    assert said.grad is not None
    assert (said.grad[truths(true).isnan()] == 0).all()


def test_numbers_are_learnt_standardised() -> None:
    scale, said = Scale((10.0, -2.0), (4.0, 0.5)), torch.randn(6, 2)
    loss = loss_of("regression", scale)
    assert loss(said, scale.restored(said)) < 1e-10
    torch.testing.assert_close(
        loss(said, scale.restored(said + 2)), torch.tensor(1.5), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_a_batch_of_which_nothing_is_known_teaches_nothing(task: str) -> None:
    logits = torch.randn(2, 3, requires_grad=True)
    value = loss_of(task, Scale((0.0,) * 3, (1.0,) * 3))(logits, torch.full((2, 3), NAN))
    value.backward()
    assert value == 0 and logits.grad is not None and not logits.grad.any()


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_low_precision_is_taken(task: str) -> None:
    logits = torch.randn(2, 1, dtype=torch.bfloat16)
    value = loss_of(task, Scale((0.0,), (1.0,)))(logits, torch.tensor([[1.0], [NAN]]))
    assert value.isfinite()
