"""Tasks: what logits say, how answers are averaged, scales of numbers, and shares of parts."""

import numpy as np
import pytest
import torch

from crossd.errors import InputError
from crossd.tasks import TASKS, Scale, scale_of, strata, task_of

NAN = float("nan")


@pytest.mark.parametrize("name", TASKS)
def test_logits_are_the_inverse_of_what_they_say(name: str) -> None:
    task, logits = task_of(name), 3 * torch.randn(5, 4)
    said = task.said(logits)
    torch.testing.assert_close(task.said(task.logits(said)), said, rtol=1e-4, atol=1e-5)
    swapped = task.said(logits.T.contiguous(), 0).T
    torch.testing.assert_close(swapped, said)


@pytest.mark.parametrize("name", TASKS)
def test_answers_that_are_sure_stay_finite(name: str) -> None:
    task = task_of(name)
    said = task.said(torch.tensor([[300.0, -300.0, 0.0]]))
    assert task.logits(said).isfinite().all()


def test_each_finding_is_asked_for_by_itself() -> None:
    said = task_of("multilabel").said(torch.tensor([[20.0, 20.0]]))
    assert said.min() > 0.99
    assert task_of("classification").said(torch.tensor([[20.0, 20.0]])).tolist() == [[0.5, 0.5]]


def test_no_other_tasks() -> None:
    with pytest.raises(InputError, match="no task called 'detection'; expected one of"):
        task_of("detection")


def test_a_scale_goes_there_and_back() -> None:
    numbers = torch.tensor([[1.0, 100.0], [3.0, 500.0]])
    scale = scale_of(numbers.numpy(), ["a", "b"], "here")
    there = scale.standardised(numbers)
    torch.testing.assert_close(there, torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))
    torch.testing.assert_close(scale.restored(there), numbers)


def test_a_scale_is_measured_on_what_is_known() -> None:
    numbers = np.array([[1.0, NAN], [3.0, 5.0], [NAN, 7.0]], np.float32)
    assert scale_of(numbers, ["a", "b"], "here") == Scale((2.0, 6.0), (1.0, 1.0))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([NAN, NAN, NAN], "here: b is known of no training sample"),
        ([4.0, 4.0, NAN], "here: b is 4 in every training sample: there is nothing to learn"),
    ],
)
def test_numbers_without_a_scale_are_refused(column: list[float], message: str) -> None:
    numbers = np.array([[1.0, 2.0, 3.0], column]).T
    with pytest.raises(InputError, match=message):
        scale_of(numbers, ["a", "b"], "here")


def test_rare_findings_have_shares_of_their_own() -> None:
    findings = np.zeros((100, 2), np.float32)
    findings[:60, 0] = 1
    findings[50:55, 1] = 1  # the rare one, beside the frequent one
    findings[99, 1] = NAN
    groups = strata("multilabel", findings, 100)
    assert np.bincount(groups).tolist() == [55, 5, 40]
    assert (groups[50:55] == 1).all()


def test_numbers_are_shared_by_quarters_of_the_first() -> None:
    numbers = np.stack([np.arange(40.0), np.zeros(40)], 1)
    numbers[7, 0] = NAN
    groups = strata("regression", numbers, 40)
    assert groups[7] == 4
    assert np.bincount(np.delete(groups, 7)).tolist() == [10, 9, 10, 10]
    assert not strata("regression", numbers[:5], 5).any()


def test_classes_and_masks() -> None:
    assert strata("classification", np.array([2, 0, 1]), 3).tolist() == [2, 0, 1]
    assert strata("segmentation", None, 3).tolist() == [0, 0, 0]
