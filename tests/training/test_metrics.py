"""Scores against numbers worked by hand and against scikit-learn."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from made import labelled
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, roc_auc_score

from crossd.data.io.agreement import IGNORED
from crossd.tasks import Scale, task_of
from crossd.training import metrics

NAN = float("nan")


def test_classification_by_hand() -> None:
    # Of the pairs (0.6, 0.3), (0.6, 0.7), (0.9, 0.3), (0.9, 0.7) three are in order.
    first = torch.tensor([0.3, 0.7, 0.6, 0.9])
    scores = metrics.classification(torch.stack((1 - first, first), 1), torch.tensor([0, 0, 1, 1]))
    assert (scores["accuracy"], scores["auc"]) == (0.75, 0.75)
    # Class 0: precision 1, recall 1/2, F1 2/3. Class 1: precision 2/3, recall 1, F1 4/5.
    expected = {"precision": 5 / 6, "recall": 0.75, "balanced_accuracy": 0.75, "f1": 11 / 15}
    assert {name: scores[name] for name in expected} == pytest.approx(expected)


def test_classification_equals_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    guesses = generator.dirichlet(np.ones(4), size=200)
    labels = generator.integers(0, 4, 200)
    scores = metrics.classification(torch.from_numpy(guesses), torch.from_numpy(labels))
    answers = guesses.argmax(1)
    assert scores["balanced_accuracy"] == balanced_accuracy_score(labels, answers)
    assert scores["f1"] == pytest.approx(f1_score(labels, answers, average="macro"))
    assert scores["accuracy"] == accuracy_score(labels, guesses.argmax(1))
    expected = roc_auc_score(labels, guesses, multi_class="ovr", average="macro")
    assert scores["auc"] == pytest.approx(expected, abs=1e-12)


def test_absent_classes_do_not_count() -> None:
    guesses = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.3, 0.6, 0.1]])
    assert set(metrics.classification(guesses, torch.tensor([0, 1, 1])).values()) == {1.0}
    alone = metrics.classification(guesses, torch.tensor([1, 1, 1]))
    assert alone["accuracy"] == pytest.approx(2 / 3) and math.isnan(alone["auc"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_classification_takes_low_precision(dtype: torch.dtype) -> None:
    guesses = torch.tensor([[0.75, 0.25], [0.25, 0.75]], dtype=dtype)
    assert set(metrics.classification(guesses, torch.tensor([0, 1])).values()) == {1.0}


def test_confusion_has_truth_in_rows() -> None:
    guesses = torch.eye(3)[[0, 1, 1, 0]]
    matrix = metrics.confusion(guesses, torch.tensor([0, 0, 1, 1]))
    np.testing.assert_array_equal(matrix, [[1, 1, 0], [1, 1, 0], [0, 0, 0]])


def test_dice_by_hand() -> None:
    mask = torch.tensor([[[0, 1, 1], [2, 2, 2]]])
    answer = torch.tensor([[[1, 1, 0], [2, 2, 0]]])
    # Class 1: 2 * 1 / (2 + 2); class 2: 2 * 2 / (2 + 3); class 3 is nowhere.
    scores = metrics.dice(answer, mask, 4)
    np.testing.assert_allclose(scores, [0.5, 0.8, np.nan], atol=1e-6)
    assert scores.shape == (3,) and scores.dtype == np.float64


def test_dice_of_a_class_that_only_one_has() -> None:
    mask, empty = torch.ones(2, 2, 2, dtype=torch.long), torch.zeros(2, 2, 2, dtype=torch.long)
    np.testing.assert_array_equal(metrics.dice(empty, mask, 2), [0])
    np.testing.assert_array_equal(metrics.dice(mask, empty, 2), [0])  # as `surfaces` has it
    assert np.isnan(metrics.dice(empty, empty, 2)).all()
    np.testing.assert_array_equal(metrics.dice(mask, mask, 2), [1])


def test_segmentation_averages_classes_after_masks() -> None:
    scores = np.array([[0.5, np.nan], [0.7, 0.8], [np.nan, 0.4]])
    assert metrics.segmentation(scores, ("none", "a", "b")) == pytest.approx(
        {"dice": 0.6, "dice_a": 0.6, "dice_b": 0.6}
    )
    only = metrics.segmentation(scores[:1], ("none", "a", "b"))
    assert only["dice"] == only["dice_a"] == 0.5 and math.isnan(only["dice_b"])


def test_the_main_scores_are_among_those_given() -> None:
    guesses = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    assert task_of("classification").main in metrics.classification(guesses, torch.tensor([0, 1]))
    assert task_of("segmentation").main in metrics.segmentation(np.ones((1, 1)), ("none", "a"))


def test_findings_are_scored_where_they_are_known() -> None:
    truth = torch.tensor([[1, 0], [0, NAN], [1, 1], [NAN, 0], [0, 1.0]])
    said = torch.tensor([[0.9, 0.4], [0.8, 0.9], [0.7, 0.6], [0.1, 0.2], [0.2, 0.3]])
    found = metrics.multilabel(said, truth, ("a", "b"))
    assert found["auc_a"] == 0.75 and found["auc_b"] == 0.75 and found["auc"] == 0.75
    assert found["accuracy"] == pytest.approx(6 / 8)
    assert found["average_precision_a"] == pytest.approx((1 + 2 / 3) / 2)
    assert metrics.main("multilabel", said, truth) == 0.75


def test_a_finding_that_all_or_none_have_has_no_area() -> None:
    truth = torch.tensor([[1, 0], [1, 1.0]])
    found = metrics.multilabel(torch.tensor([[0.3, 0.2], [0.2, 0.9]]), truth, ("a", "b"))
    assert np.isnan(found["auc_a"]) and found["auc"] == found["auc_b"] == 1
    nothing = metrics.multilabel(truth[:, :1], truth[:, :1], ("a",))
    assert np.isnan(nothing["auc"]) and set(nothing) == {"auc", "average_precision", "accuracy"}


def test_numbers_are_scored_where_they_are_known() -> None:
    truth = torch.tensor([[1.0, NAN], [2, 5], [4, 5], [NAN, 5]])
    said = torch.tensor([[1.0, 9], [2, 6], [3, 5], [9, 5]])
    found = metrics.regression(said, truth, ("a", "b"))
    spread = ((np.array([1, 2, 4]) - 7 / 3) ** 2).sum()
    assert found["r2_a"] == pytest.approx(1 - 1 / spread) == found["r2"]
    assert found["mae_a"] == pytest.approx(1 / 3) == found["mae_b"] and "mae" not in found
    assert np.isnan(found["r2_b"]) and found["spearman"] == 1
    assert metrics.main("regression", said, truth) == pytest.approx(found["r2"])


def test_the_quick_score_is_the_score() -> None:
    rng = torch.Generator().manual_seed(3)
    said, there = torch.rand(40, 3, generator=rng), (torch.rand(40, 3, generator=rng) > 0.6) * 1.0
    said = (10 * said).round() / 10  # with ties
    there[::7] = NAN
    for task, score in (("multilabel", metrics.multilabel), ("regression", metrics.regression)):
        name = task_of(task).main
        found = score(said, there, "abc")[name]
        assert metrics.main(task, said, there) == pytest.approx(found)


def test_closeness_leaves_out_what_is_not_known() -> None:
    source = labelled(2)
    numbers = dataclasses.replace(source, task="regression", scale=Scale((0.0,) * 2, (2.0, 1.0)))
    truth, said = torch.tensor([[4.0, NAN], [NAN, NAN]]), torch.tensor([[8.0, 3.0], [1.0, 1.0]])
    found = metrics.closeness(numbers, said, truth)
    assert found[0] == -2 and np.isnan(found[1])
    findings = dataclasses.replace(source, task="multilabel")
    truth, said = torch.tensor([[1.0, 0.0, NAN]]), torch.tensor([[0.75, 0.5, 0.1]])
    assert metrics.closeness(findings, said, truth).tolist() == [0.625]
    classes = metrics.closeness(source, torch.tensor([[0.2, 0.8]]), torch.tensor([0]))
    assert classes.tolist() == pytest.approx([0.2])


def test_dice_leaves_out_what_is_not_known() -> None:
    generator = np.random.default_rng(0)
    mask, guess = (torch.from_numpy(generator.integers(0, 3, (9, 10, 11))) for _ in range(2))
    unknown = torch.from_numpy(generator.random(mask.shape) < 0.7)
    partly = torch.where(unknown, IGNORED, mask)
    expected = metrics.dice(guess[~unknown], mask[~unknown], 3)
    np.testing.assert_array_equal(metrics.dice(guess, partly, 3), expected)
    np.testing.assert_array_equal(metrics.dice(guess.byte(), partly.byte(), 3), expected)
    assert np.isnan(metrics.dice(guess, torch.full_like(mask, IGNORED), 3)).all()


def test_surfaces_beside_what_is_not_known_are_not_measured() -> None:
    truth, guess, known = (np.zeros((12, 12, 12), bool) for _ in range(3))
    truth[2:6, 2:6, 2:6], guess[2:6, 2:6, 3:7], known[:9] = True, True, True
    expected = metrics.surfaces(guess, truth, (1, 1, 1), 0.5)
    assert expected["hd95"] == 1
    guess[9:] = True  # a mistake perhaps, where the truth is not known
    assert metrics.surfaces(guess, truth, (1, 1, 1), 0.5, known) == expected
    guess[8, 0, 0] = True
    found = metrics.surfaces(guess, truth, (1, 1, 1), 0.5, known)
    assert found["hd95"] is None and found["nsd"] is None
    assert found["dice"] == pytest.approx(2 * 48 / 129)
    nothing = metrics.surfaces(guess & ~known, truth & ~known, (1, 1, 1), 0.5, known)
    assert nothing == {"dice": None, "hd95": None, "nsd": None}


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_numbers_that_are_all_alike_have_no_r2(count: int) -> None:
    truth = torch.full((count, 1), 0.1, dtype=torch.float64)
    said = truth + torch.arange(count)[:, None]
    assert np.isnan(metrics.main("regression", said, truth))


def delong(scores: Any, truth: Any) -> tuple[float, float]:
    """Area of one class against the rest, and its variance, pair by pair (DeLong 1988)."""
    own, rest = scores[truth], scores[~truth]
    right = np.array([[(a > b) + 0.5 * (a == b) for b in rest] for a in own])
    of_own, of_rest = right.mean(1), right.mean(0)
    variance = of_own.var() / len(own) + of_rest.var() / len(rest)
    return float(right.mean()), float(variance)


@pytest.mark.parametrize("ties", [False, True])
def test_shares_in_the_area_are_delongs(ties: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    said = torch.rand(40, 2, generator=generator)
    said = (said * 5).round() / 5 if ties else said
    labels = (torch.rand(40, generator=generator) < 0.3).long()
    shares = metrics.area_by_case(said, labels)
    found = [delong(said[:, k].numpy(), labels.numpy() == k) for k in (0, 1)]
    assert shares.mean() == pytest.approx(np.mean([area for area, _ in found]))
    assert shares.mean() == pytest.approx(metrics.classification(said, labels)["auc"])
    alone = metrics.area_by_case(torch.stack([-said[:, 1], said[:, 1]], 1), labels)
    assert alone.var() / len(labels) == pytest.approx(found[1][1])


def test_shares_of_many_classes_are_known_where_a_class_is_missing() -> None:
    generator = torch.Generator().manual_seed(0)
    said, labels = torch.rand(30, 4, generator=generator).softmax(1), torch.arange(30) % 3
    shares = metrics.area_by_case(said, labels)
    assert shares.mean() == pytest.approx(metrics.classification(said, labels)["auc"])
    assert np.isnan(metrics.area_by_case(said, torch.zeros(30).long())).all()
