"""The record of a run as a table, a report and JSON."""

import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from crossd.evaluation.summary import MISSING
from crossd.reports import transfer_results as transferred

Numbers = Mapping[str, Mapping[str, Mapping[str, float]]]

ORGANS: Numbers = {
    "scratch": {"finetune": {"accuracy": 0.6612, "auc": 0.9}},
    "projection": {
        "zero": {"accuracy": 0.955, "auc": 0.99},
        "finetune": {"accuracy": 0.891, "auc": 0.98},
    },
    "slices": {"zero": {"accuracy": 0.935, "auc": 0.995}},
    "fourier": {"zero": {"accuracy": 0.291, "auc": 0.7}, "finetune": {"accuracy": 0.745}},
}


def record(numbers: Numbers, **more: Any) -> dict[str, Any]:
    """Return the record of a run with these numbers by arm, protocol and metric."""
    rows = [
        {"arm": arm, "protocol": protocol, "metrics": metrics, "seconds": 1.5, "parameters": 1234}
        for arm, protocols in numbers.items()
        for protocol, metrics in protocols.items()
    ]
    protocols = [name for name in transferred.PROTOCOLS if any(name in n for n in numbers.values())]
    return {"arms": list(numbers), "protocols": protocols, "rows": rows, "seed": 0} | more


def simple(protocol: str = "zero", metric: str = "dice", **scores: float) -> dict[str, Any]:
    """Return the record of a run with one number an arm."""
    return record({arm: {protocol: {metric: score}} for arm, score in scores.items()})


def rows_of(text: str, heading: str) -> dict[str, list[str]]:
    """Return the cells of the Markdown table under a heading, by the first cell of the line."""
    section = text.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:1] == "|"]
    return {line[0]: line[1:] for line in lines}


def test_arms_come_in_the_order_of_the_design() -> None:
    names = ["projection", "mine", "acs", "scratch", "fourier", "slices"]
    expected = ["scratch", "slices", "acs", "mine", "fourier", "projection"]
    assert transferred.arms({"arms": names}) == expected


def test_main_metrics_come_before_the_classes() -> None:
    numbers = {"acs": {"zero": {"dice_white": 0.1, "dice_grey": 0.2, "dice": 0.15, "hd95": 3.0}}}
    found = transferred.metric_names(record(numbers, classes=["grey", "white"]))
    assert found == ["dice", "dice_grey", "dice_white"]


def test_markdown_shows_the_numbers_of_the_rows() -> None:
    shown = rows_of(transferred.markdown(record(ORGANS)), "Results")
    assert shown["arm"] == ["zero: accuracy", "zero: AUC", "finetune: accuracy", "finetune: AUC"]
    for arm, protocols in ORGANS.items():
        for place, (protocol, metric) in enumerate(
            (p, m) for p in ("zero", "finetune") for m in ("accuracy", "auc")
        ):
            value = protocols.get(protocol, {}).get(metric)
            expected = MISSING if value is None else f"{value:.3f}"
            assert shown[arm][place].strip("*") == expected


def test_bold_marks_the_best_of_each_column() -> None:
    shown = rows_of(transferred.markdown(record(ORGANS)), "Results")
    bold = {(arm, i) for arm, line in shown.items() for i, c in enumerate(line) if c[0] == "*"}
    assert bold == {("projection", 0), ("slices", 1), ("projection", 2), ("projection", 3)}


def test_what_looks_equal_is_bold_together() -> None:
    shown = rows_of(
        transferred.markdown(simple(slices=0.90012, acs=0.89996, scratch=0.5)), "Results"
    )
    assert [shown[arm][0] for arm in ("slices", "acs", "scratch")] == [
        "**0.900**",
        "**0.900**",
        "0.500",
    ]


def test_nothing_is_bold_where_all_are_equal() -> None:
    shown = rows_of(transferred.markdown(simple(slices=0.0, acs=0.0)), "Results")
    assert [shown[arm][0] for arm in ("slices", "acs")] == ["0.000", "0.000"]


def test_terminal_table_has_the_same_cells_in_bold() -> None:
    drawn = transferred.table(record(ORGANS, test_samples=610, limit=110))
    cells = {str(column.header): [*column.cells] for column in drawn.columns}
    assert [str(cell) for cell in cells["arm"]] == ["scratch", "slices", "fourier", "projection"]
    texts = [cell for cell in cells["zero: accuracy"] if isinstance(cell, Text)]
    assert [text.plain for text in texts] == [MISSING, "0.935", "0.291", "0.955"]
    assert [text.style for text in texts] == ["", "", "", "bold"]
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(drawn)
    text = console.export_text()
    assert "610 test volumes; one seed" in text and "trained on 110 labelled volumes" in text


def test_headline_says_by_how_much_crossd_is_ahead() -> None:
    first, zero = transferred.headline(simple(projection=0.955, acs=0.9, slices=0.935))
    assert first == "Cross-D is ahead of the best other arm with no labelled volume."
    assert zero == "zero: projection is first with Dice 0.955, 0.020 ahead of the second, slices."


def test_headline_compares_with_a_rival_when_the_second_is_crossd_too() -> None:
    zero = transferred.headline(simple(projection=0.955, fourier=0.94, slices=0.935))[1]
    assert "0.015 ahead of the second, fourier." in zero
    assert "Cross-D's best arm, projection, is 0.020 ahead of slices, the best other arm." in zero


def test_headline_says_behind_when_crossd_loses() -> None:
    first, zero = transferred.headline(simple(projection=0.9, fourier=0.2, slices=0.935, acs=0.91))
    assert first == "Cross-D is behind the best other arm with no labelled volume."
    assert zero.startswith("zero: slices is first with Dice 0.935, 0.025 ahead of the second, acs.")
    assert zero.endswith("projection, is 0.035 behind slices, the best other arm.")


@pytest.mark.parametrize("arm", ["projection-both", "projection-slices", "fourier-aligned"])
def test_every_way_of_using_crossd_is_crossd(arm: str) -> None:
    first, _ = transferred.headline(
        simple("zero", "dice", **{arm: 0.955, "projection": 0.8, "slices": 0.935})
    )
    assert first == "Cross-D is ahead of the best other arm with no labelled volume."


def test_headline_names_ties() -> None:
    first, zero = transferred.headline(simple(projection=0.9001, slices=0.8999, acs=0.5))
    assert first == "Cross-D is level with the best other arm with no labelled volume."
    assert zero.startswith("zero: slices and projection are tied first with Dice 0.900.")
    assert "projection, is level with slices" in zero


def test_headline_sums_up_protocols_that_differ() -> None:
    numbers = {
        "slices": {p: {"accuracy": 0.9} for p in ("zero", "probe", "finetune")},
        "projection": {
            "zero": {"accuracy": 0.95},
            "probe": {"accuracy": 0.92},
            "finetune": {"accuracy": 0.8},
        },
    }
    assert transferred.headline(record(numbers))[0] == (
        "Cross-D is ahead of the best other arm with no labelled volume and with frozen "
        "convolutions; behind the best other arm after fine-tuning."
    )


def test_headline_gives_the_standard_error_of_an_accuracy() -> None:
    results = simple(metric="accuracy", slices=0.9) | {"test_samples": 400}
    assert "0.900 (standard error 0.015 on 400 volumes)" in transferred.headline(results)[1]


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ({}, ["Cross-D was not compared with other arms."]),
        (
            simple(projection=0.9),
            [
                "Cross-D was not compared with other arms.",
                "zero: projection is first with Dice 0.900, the only arm with a result.",
            ],
        ),
        (
            simple(projection=math.nan, slices=math.inf),
            ["Cross-D was not compared with other arms.", "zero: no arm has a result."],
        ),
    ],
)
def test_headline_without_a_comparison(results: dict[str, Any], expected: list[str]) -> None:
    assert transferred.headline(results) == expected
    transferred.markdown(results)
    assert transferred.table(results).row_count == len(results.get("arms", []))


def test_segmentation_has_a_table_of_classes() -> None:
    numbers = {
        "acs": {"zero": {"dice": 0.7, "dice_grey": 0.6, "dice_white": 0.8}},
        "projection": {"zero": {"dice": 0.75, "dice_grey": 0.8, "dice_white": 0.7}},
    }
    text = transferred.markdown(record(numbers, classes=["background", "grey", "white"]))
    shown = rows_of(text, "Dice of each class: zero")
    assert shown["arm"] == ["grey", "white"]
    assert shown["acs"] == ["0.600", "**0.800**"]
    assert shown["projection"] == ["**0.800**", "0.700"]
    assert rows_of(text, "Results")["acs"] == ["0.700"]


def test_markdown_has_pretraining_cost_notes_and_configuration() -> None:
    results = record(
        ORGANS,
        pretraining=[
            {"name": "plain", "seconds": 10.12, "metrics": {"accuracy": 0.8}, "history": [{}] * 3}
        ],
        config={"images": "organ.npz", "lr": math.inf, "resume": True, "overwrite": True},
        versions={"torch": "2.8.0"},
    )
    results["rows"][0]["note"] = "no weights | fresh"
    text = transferred.markdown(results, {"Curves": Path("my pictures/curves.png")})
    assert rows_of(text, "Pretraining on images")["plain"] == ["0.800", "3", "10.1"]
    assert rows_of(text, "Cost")["scratch"] == ["1,234", MISSING, "1.5"]
    assert rows_of(text, "Versions")["torch"] == ["2.8.0"]
    assert "![Curves](my%20pictures/curves.png)" in text
    assert "- scratch, finetune: no weights | fresh" in text
    block = text.split("```json\n")[1].split("```")[0]
    assert json.loads(block) == {"images": "organ.npz", "lr": None}
    assert "crossd transfer --config config.yaml" in text


def test_command_to_repeat_is_quoted_for_the_shell() -> None:
    text = transferred.markdown(
        {"images": "my data.npz", "volumes": "brain", "limit": 8, "seed": 3}
    )
    command = "crossd transfer --images 'my data.npz' --volumes brain --limit 8 --seed 3"
    assert command in text


def test_a_bar_in_a_name_does_not_break_the_table() -> None:
    text = transferred.markdown(record({"a|b": {"zero": {"dice": 0.5}}}))
    assert "| a\\|b | **0.500** |" in text
