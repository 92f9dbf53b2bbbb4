"""The cases of a report: the right ones, with what the network says of them."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from files import npz, pairs
from torch import nn

import crossd
from crossd.data.opening import open_source
from crossd.data.slicing import as_images
from crossd.nn.views import VIEWS
from crossd.reports import shown_cases
from crossd.reports.shown_cases import BEST, WORST
from crossd.training import validate
from crossd.training.loop import TrainConfig


def classifier() -> nn.Module:
    torch.manual_seed(1)
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), *pool)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.5, 0.1, 0.9, 0.3], [(1, WORST), (3, WORST), (2, BEST), (0, BEST)]),
        ([0.5, 0.1, 0.9], [(1, WORST), (0, WORST), (2, BEST)]),
        ([0.5], [(0, WORST)]),
        ([np.nan], []),
        ([0.5] * 9, [(0, WORST), (1, WORST), (8, BEST), (7, BEST)]),
    ],
)
def test_each_sample_is_chosen_once(values: list[float], expected: list[tuple[int, str]]) -> None:
    assert shown_cases.extremes(values, 2) == expected


def test_cases_are_those_that_were_scored_although_slices_are_sorted_by_view(
    tmp_path: Path,
) -> None:
    source = as_images(open_source(npz(tmp_path / "v.npz", (8, 8, 8))), None, None)
    net, options = crossd.convert(classifier()), TrainConfig(batch_size=7)
    _, outputs = validate.score(net, source, source.test, options)
    batches = [batch for _, batch in validate.answers(net, source.test, options, source.task)]
    places = torch.cat([batch["place"] for batch in batches])
    assert sorted(places) == list(range(len(source.test))) and (np.diff(places) < 0).any()
    assert outputs[1].tolist() == [int(source.test[i]["label"]) for i in range(len(places))]
    cases = shown_cases.of_scored(net, source, source.test, outputs, options)
    assert [case.group for case in cases] == [WORST] * 3 + [BEST] * 3
    own = []
    for i in range(len(source.test)):
        sample = source.test[i]
        with crossd.view(VIEWS[sample["view"]]), torch.no_grad():
            own.append(float(net(sample["image"][None]).softmax(1)[0, int(sample["label"])]))
    low, high = sorted(own)[:3], sorted(own)[:-4:-1]
    for case, value in zip(cases, [*low, *high], strict=True):
        number = re.fullmatch(r"sample (\d+)", case.name)
        assert number is not None and own[int(number[1])] == pytest.approx(value, abs=1e-6)
        (told,) = [p for name, p in case.rows if name.endswith(" (truth)")]
        assert float(told) == pytest.approx(value, abs=6e-4)
        assert case.said.startswith("Right" if value > 0.5 else "Wrong: the truth is ")


def test_masks_of_the_chosen_volumes(tmp_path: Path) -> None:
    source = open_source(str(pairs(tmp_path / "d", 10, (16, 18, 20))))
    torch.manual_seed(0)
    net = crossd.to_3d(crossd.convert(nn.Conv2d(1, 3, 1)))
    options = TrainConfig(batch_size=2)
    _, outputs = validate.score(net, source, source.train, options)
    cases = shown_cases.of_scored(net, source, source.train, outputs, options)
    names = [shown_cases.case_name(source.train, i) for i in range(len(source.train))]
    with np.errstate(invalid="ignore"):
        means = np.nanmean(outputs[0], 1)
    assert [names.index(case.name) for case in cases] == [i for i, _ in shown_cases.extremes(means)]
    for case in cases:
        i = names.index(case.name)
        assert case.said == f"Mean Dice {means[i]:.3f}."
        dices = [value for _, value in case.rows]
        assert dices == [f"{value:.3f}" for value in outputs[0][i]]
        assert list(case.sheets.answers) == ["network"] and case.sheets.truth is not None


def test_arms_side_by_side() -> None:
    truth = np.zeros((3, 4, 4), np.uint8)
    truth[1] = 1
    masks = {"acs": 0 * truth, "slices": truth}
    two = shown_cases.segmented("x", WORST, truth * 1.0, truth, masks, ("none", "a"), None)
    assert two.said == "Mean Dice from 0.000 (acs) to 1.000 (slices)."
    assert list(two.sheets.answers) == ["slices", "acs"]  # the best is shown first


def test_where_the_first_arm_of_a_comparison_wins_and_loses(tmp_path: Path) -> None:
    source = open_source(npz(tmp_path / "v.npz", (8, 8, 8)))
    right = {
        "ours": [1.0] * 4 + [0.0] * 5,
        "acs": [1.0] * 3 + [0.0] * 5 + [1.0],
        "scratch": [0.0] * 9,
    }
    rows = [
        {"arm": arm, "protocol": "zero", "limit": 0, "fold": 0, "trial": 0, "train": 12, "test": 9,
         "metrics": {"auc": float(np.mean(cases))}, "cases": cases}
        for arm, cases in right.items()
    ]  # fmt: skip
    results = {"arms": list(right), "metric": "auc", "folds": 0, "rows": rows}
    found = shown_cases.comparison_cases(results, source)
    assert found[0].name == "sample 8" and found[3].name == "sample 3" and len(found) == 6
    assert found[0].group == "The worst for ours against acs: zero"
    assert found[0].said == "ours 0.000, acs 1.000; truth 0."
    assert found[3].rows == [("ours", "1.000"), ("acs", "0.000"), ("scratch", "0.000")]
    assert shown_cases.comparison_cases(results | {"folds": 3}, source) == []
