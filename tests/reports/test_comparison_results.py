"""The report of a comparison: what stands in its tables, and what is printed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from made import Made

from crossd.data.source import Source
from crossd.evaluation.summary import MISSING
from crossd.reports import comparison_results
from crossd.reports.comparison_results import MANY


def record(count: int = 3, **more: Any) -> dict[str, Any]:
    """Two arms on so many test samples, the second of which has no score in the first."""
    rows = [
        {"arm": arm, "protocol": protocol, "limit": limit, "fold": 0, "trial": 0, "train": 4,
         "test": count, "seconds": 2.0, "parameters": 1234, "history": [],
         "metrics": {"dice": mean, "dice_grey": mean},
         "cases": [mean if i or arm == "slices" else None for i in range(count)]}
        for protocol, limit in (("zero", 0), ("finetune", 4))
        for arm, mean in (("projection", 0.8), ("slices", 0.9))
    ]  # fmt: skip
    return {
        "command": "transfer", "data": "brain", "images": "slices.npz", "metric": "dice",
        "arms": ["projection", "slices"], "folds": 0, "trials": 1, "notes": ["it is a test"],
        "cases": [f"case {i}" for i in range(count)], "rows": rows, "config": {"seed": 0},
        "pretraining": [
            {"name": "plain", "metrics": {"dice": 0.7}, "history": [{}, {}], "seconds": 12.3}
        ],
    } | more  # fmt: skip


def rows_of(text: str, heading: str) -> dict[str, list[str]]:
    """Return the cells of the Markdown table under a heading, by the first cell of the line."""
    section = text.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:1] == "|"]
    return {line[0]: line[1:] for line in lines}


def test_every_table_has_its_numbers() -> None:
    text = comparison_results.markdown(record(), {"Scores": "scores.png"}, ["", "## Time"])
    assert "# projection against slices on brain" in text and "Note: it is a test." in text
    assert rows_of(text, "Mean Dice")["slices"][0] == "0.900"  # cases that are all the same
    each = rows_of(text, "Every test sample: zero")
    assert each["case 0"] == [MISSING, "0.900"] and each["case 2"] == ["0.800", "0.900"]
    assert rows_of(text, "Pretraining on images")["plain"] == ["0.700", "2", "12.3"]
    assert rows_of(text, "Cost")["projection"] == ["1,234", "2.0", "2.0"]
    assert "![Scores](scores.png)" in text and '"seed": 0' in text


@pytest.mark.parametrize(
    "more", [{"count": MANY + 1}, {"metric": "dice_grey"}, {"folds": 2}], ids=str
)
def test_samples_have_lines_of_their_own_where_that_says_something(more: dict[str, Any]) -> None:
    assert "Every test sample" not in comparison_results.markdown(record(**more), {}, [])


def test_what_is_printed_has_the_table_and_the_verdicts() -> None:
    text = comparison_results.printed(record(), Path("runs/mine"))
    assert "Mean Dice" in text and "case 1" in text and "written: runs/mine/report.html" in text
    assert "zero: projection (0.800) is 0.100 behind slices (0.900)" in text
    assert "In brackets: 95 % interval" in text


def test_ways_are_told_with_what_they_are_worth_on_validation_samples() -> None:
    results = record()
    for row in results["rows"][:2]:
        row["way"] = "volume, taught"
        row["considered"] = {"volume, BatchNorm kept": 0.625, "volume, taught": 0.75}
    results["rows"][0]["considered"]["slices"] = None
    text = comparison_results.markdown(results, {}, [])
    table = rows_of(text, "What the validation samples chose: zero")
    assert table["volume, taught"] == ["0.750 ✓", "0.750 ✓"]
    assert table["volume, BatchNorm kept"] == ["0.625", "0.625"]
    assert table["slices"] == [MISSING, MISSING]
    assert "What the validation samples chose: finetune" not in text
    assert (
        "- zero: projection was used as volume, taught, the best of 3 ways on the validation "
        "samples.\n"
    ) in text
    for row, one in zip(results["rows"][2:], results["rows"][:2], strict=True):  # as without labels
        row |= {"way": one["way"], "considered": one["considered"]}
    shared = comparison_results.markdown(results, {}, [])
    title = "What the validation samples chose: zero; finetune, 4 labelled"
    assert (
        rows_of(shared, title) == table and shared.count("What the validation samples chose") == 1
    )
    assert "- zero; finetune, 4 labelled: projection was used as volume, taught" in shared


def test_the_report_begins_with_the_arm_to_take(tmp_path: Path) -> None:
    results = record(use=["crossd predict --weights w"])
    text = comparison_results.markdown(results, {}, [])
    advice = (
        "Take slices (zero: 0.900, ahead of the 0.800 of projection; finetune, 4 labelled: 0.900"
    )
    assert text.splitlines()[2].startswith(advice)
    assert "## To use it without labels\n\n```console\ncrossd predict --weights w\n```" in text
    printed = comparison_results.printed(results, tmp_path)
    assert printed.startswith(advice)
    assert "To use it without labels:\n  crossd predict --weights w\n" in printed


def test_notes_say_what_validation_samples_could_not_choose() -> None:
    def of(val: list[int]) -> str:
        classes = ("a", "b", "c")
        whole = Made([torch.zeros(1, 4, 4, 4)] * 9, [0, 1, 2] * 3)
        some = Made([torch.zeros(1, 4, 4, 4)] * len(val), val)
        source = Source("x", 3, "classification", 1, classes, (4, 4, 4), whole, some, whole)
        return " ".join(comparison_results.notes(source, 5))

    assert "4 validation samples are too few to choose by" in of([0, 1, 2, 0])
    assert "no validation sample is of c: what these samples choose" in of([0, 1] * 6)
    assert "validation" not in of([0, 1, 2] * 4)


def test_an_arm_that_no_command_makes_is_said_to_be_one() -> None:
    results = record(use=[])
    said = "No command makes slices as it was used; crossd.evaluation.arms.ARMS['slices'] makes it"
    assert said in comparison_results.markdown(results, {}, [])
    assert "To use it" not in comparison_results.markdown(record(), {}, [])
