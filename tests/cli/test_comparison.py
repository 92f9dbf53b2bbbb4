"""`crossd evaluate --protocol`: end to end, interrupted, and what it refuses."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from files import npz

from crossd.cli import command_line as cli

QUICK = ["--epochs", "1", "--batch-size", "8"]


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, str]:
    """A file of volumes, Cross-D weights and plain ones."""
    root = tmp_path_factory.mktemp("comparison")
    data = npz(root / "volumes.npz", (8, 8, 8))
    found = [data]
    for mode in ("projection", "none"):
        out = root / mode
        options = ["--kernel-mode", mode, "--epochs", "1", "--out", str(out)]
        assert cli.main(["pretrain", "--data", data, *options]) == 0
        found.append(str(out / "weights.safetensors"))
    return found[0], found[1], found[2]


def run(*options: str) -> int:
    return cli.main(["evaluate", *options, *QUICK])


@pytest.mark.slow
def test_tables_plots_and_a_report(
    ready: tuple[str, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, weights, plain = ready
    out = tmp_path / "out"
    options = ["--data", data, "--weights", weights, "--plain", plain, "--limit", "4,8"]
    more = ["--baselines", "scratch,center,slices", "--protocol", "zero,linear,finetune"]
    assert run(*options, *more, "--trials", "2", "--workers", "1", "--out", str(out)) == 0
    said = capsys.readouterr().out
    assert "finetune, 8 labelled: projection" in said and "report.md" in said
    results = json.loads((out / "metrics.json").read_text())
    assert results["arms"] == ["projection", "scratch", "center", "slices"]
    assert len(results["rows"]) == 3 + 4 * 2 * 2 * 2
    names = {"report.html", "report.md", "runs.csv", "table.tex", "metrics.json", "config.yaml"}
    pictures = {"efficiency.png", "differences.png", "ranks.png"}
    pictures |= {"scores.png", "curves.png", "confusion.png"}
    assert {p.name for p in out.iterdir()} == names | pictures
    report = (out / "report.md").read_text()
    for text in (
        "# projection against scratch, center and slices",
        "balanced",
        "Holm",
        "95 % interval",
    ):
        assert text in report
    assert run(*options, *more, "--out", str(out)) == 2  # not overwritten unasked


@pytest.mark.slow
def test_killed_and_resumed_it_repeats_nothing(ready: tuple[str, str, str], tmp_path: Path) -> None:
    data, weights, _ = ready
    out = tmp_path / "out"
    options = ["--data", data, "--weights", weights, "--baselines", "acs", "--trials", "3"]
    options += ["--protocol", "probe", "--workers", "2", "--out", str(out), *QUICK]
    command = [sys.executable, "-m", "crossd", "evaluate", *options]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    deadline = time.monotonic() + 300
    while not list(out.glob("run-*.json")):
        assert process.poll() is None and time.monotonic() < deadline
        os.sched_yield()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    done = {p.name: p.stat().st_ino for p in out.glob("run-*.json")}
    assert 0 < len(done) < 6
    assert cli.main(["evaluate", *options]) == 2  # neither resumed nor overwritten
    again = [*options, "--resume", "--workers", "1"]
    assert cli.main(["evaluate", *again]) == 0
    results = json.loads((out / "metrics.json").read_text())
    assert len(results["rows"]) == 6
    assert not list(out.glob("run-*.json"))


@pytest.mark.slow
def test_folds(ready: tuple[str, str, str], tmp_path: Path) -> None:
    data, weights, _ = ready
    out = tmp_path / "out"
    options = ["--data", data, "--weights", weights, "--baselines", "triplanar", "--folds", "3"]
    assert run(*options, "--protocol", "knn", "--workers", "1", "--out", str(out)) == 0
    results = json.loads((out / "metrics.json").read_text())
    assert [row["fold"] for row in results["rows"]] == [0, 1, 2, 0, 1, 2]
    assert sum(row["test"] for row in results["rows"][:3]) == 27
    assert "must not have been trained" in (out / "report.md").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--protocol", "guess"], "--protocol: unknown 'guess'"),
        (["--baselines", "fourier"], "--baselines: unknown 'fourier'"),
        (["--protocol", "probe", "--limit", "1"], "--limit 1: .* has 12 training samples"),
        (["--protocol", "probe", "--limit", "13"], "--limit 13"),
        (["--protocol", "probe", "--limit", "few"], "--limit .*'few'.* whole numbers"),
        (["--protocol", "probe", "--folds", "1"], "--folds .*=1.* at least 2"),
        (["--protocol", "probe", "--trials", "0"], "--trials .*=0.* at least 1"),
        (["--protocol", "probe", "--plain", "WEIGHTS"], "has the classes|expected a 2D"),
        (["--trials", "3"], "--trials is for a comparison"),
        (["--protocol", "zero", "--part", "train"], "--part is not for a comparison"),
        (["--protocol", "zero", "--flips"], "--flips is not for a comparison"),
        (["--protocol", "zero", "--baselines", "scratch", "--weights", "PLAIN"], "scratch cannot"),
    ],
)
def test_what_does_not_go_together(
    options: list[str],
    message: str,
    ready: tuple[str, str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import re

    data, weights, plain = ready
    options = [plain if option == "PLAIN" else option for option in options]
    if "WEIGHTS" in options:
        other = npz(tmp_path / "other.npz", (8, 8, 8), classes=3)
        made = ["--data", other, "--epochs", "1", "--out", str(tmp_path / "other")]
        assert cli.main(["pretrain", *made]) == 0
        options = [*options[:-1], str(tmp_path / "other" / "weights.safetensors")]
    out = tmp_path / "out"
    base = ["evaluate", "--data", data, "--weights", weights, "--out", str(out)]
    assert cli.main([*base, *options]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not out.exists()


@pytest.mark.slow
def test_other_classes_start_with_a_new_head(ready: tuple[str, str, str], tmp_path: Path) -> None:
    _, weights, plain = ready
    other = npz(tmp_path / "other.npz", (8, 8, 8), classes=3)
    options = ["--data", other, "--weights", weights, "--plain", plain, "--baselines", "center"]
    out = tmp_path / "out"
    assert run(*options, "--protocol", "zero", "--out", str(out)) == 2
    assert run(*options, "--protocol", "probe", "--workers", "1", "--out", str(out)) == 0
    assert len(json.loads((out / "metrics.json").read_text())["rows"]) == 2


@pytest.mark.parametrize("form", ["acs", pytest.param("cycle", marks=pytest.mark.slow)])
def test_weights_of_planes_are_compared_themselves(
    form: str, ready: tuple[str, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, _, plain = ready
    made, out = str(tmp_path / "w.safetensors"), tmp_path / "out"
    assert cli.main(["convert", "--weights", plain, "--to", form, "--out", made]) == 0
    options = ["evaluate", "--data", data, "--weights", made, "--protocol", "zero"]
    assert cli.main([*options, "--baselines", f"slices,{form}", "--out", str(out)]) == 2
    assert f"--baselines {form}: is what {made} itself is" in capsys.readouterr().err
    assert cli.main([*options, "--baselines", "slices", "--out", str(out)]) == 0
    assert json.loads((out / "metrics.json").read_text())["arms"] == [form, "slices"]
