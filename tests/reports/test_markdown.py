"""What every report is made of: its files, and the versions in it."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from crossd.reports import markdown


def test_write_makes_json_without_nan_beside_the_texts(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    results = {
        "rows": [{"metrics": {"dice": value}} for value in (math.nan, 0.5)],
        "score": np.float32(0.25),
        "history": np.array([1.0, np.inf]),
        "out": folder,
        "size": (2, 3),
    }
    markdown.write(results, folder, "# Text\n", {"more.csv": "a,b\n"})
    text = (folder / "metrics.json").read_text()
    saved = json.loads(text, parse_constant=pytest.fail)
    assert [row["metrics"]["dice"] for row in saved["rows"]] == [None, 0.5]
    assert saved["history"] == [1.0, None] and saved["score"] == 0.25
    assert saved["out"] == str(folder) and saved["size"] == [2, 3]
    assert (folder / "report.md").read_text() == "# Text\n"
    assert (folder / "more.csv").read_text() == "a,b\n"
    assert len(list(folder.iterdir())) == 3


def test_write_leaves_nothing_behind_when_a_value_is_not_json(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        markdown.write({"net": object()}, tmp_path, "# Text")
    assert not list(tmp_path.iterdir())


def test_versions_name_what_is_installed() -> None:
    found = markdown.versions()
    assert found["torch"].startswith("2.")
    assert {"python", "numpy", "rich"} <= set(found) <= {"python", *markdown.LIBRARIES}
