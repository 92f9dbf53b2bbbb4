"""What a terminal is given: names of files and classes may hold anything but a slash."""

import contextlib
import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossd.cli.command_line import main
from crossd.utils.printable import printable
from crossd.utils.progress import Progress

NAMES = [
    ("a\x1b[2J\x1b[31mb", r"a\x1b[2J\x1b[31mb"),
    ("title\x1b]0;x\x07", r"title\x1b]0;x\x07"),
    ("a\rb\x08\x7f", r"a\rb\x08\x7f"),
    ("\x9b1m", r"\x9b1m"),
    ("gpj.\u202egnp", r"gpj.\u202egnp"),
    ("a\u2028b", r"a\u2028b"),
    ("b\udcf6se", r"b\xf6se"),
]
SOUND = [
    "läsion",
    "\u06a9\u062a\u0627\u0628\u200c\u0647\u0627",
    "脳",
    "a b",
    "\U0001f9e0",
    "x\u0301",
]


@pytest.mark.parametrize(("name", "shown"), NAMES)
def test_what_a_terminal_would_obey_is_escaped(name: str, shown: str) -> None:
    assert printable(name) == shown
    assert printable(f"a\n\t{name}") == f"a\n\t{shown}"


@pytest.mark.parametrize("name", SOUND)
def test_words_of_all_scripts_stay(name: str) -> None:
    assert printable(name) == name


def crossd(*words: str | Path) -> str:
    """Return all that the command line prints, to streams that take UTF-8 alone."""
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", "strict") for _ in range(2)]
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        main([str(word) for word in words])
    for stream in streams:
        stream.flush()
    return "".join(stream.buffer.getvalue().decode() for stream in streams)


@pytest.mark.parametrize("name", ["a\x1b[2Jb", "b\udcf6se", "c\x9b\r2"])
def test_names_of_classes_and_files_are_escaped_wherever_they_are_said(
    tmp_path: Path, name: str
) -> None:
    for number in range(12):
        folder = tmp_path / "data" / (name if number % 2 else "other")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (12, 12), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (tmp_path / "data" / name / f"{name}.png").write_bytes(b"no image")
    data = tmp_path / "data"
    said = crossd("inspect", "--data", data, "--out", tmp_path / "seen")
    assert "2 classes" in said
    said += crossd("predict", "--weights", data / name, "--input", data, "--out", tmp_path / "o")
    assert said.count(r"\x") > 1
    assert not {sign for sign in said if ord(sign) < 32} - {"\n"} and "\x9b" not in said


def test_progress_escapes_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    Progress().say("skipped: \x1b[2J.png")
    assert r"skipped: \x1b[2J.png" in capsys.readouterr().err
    assert os.linesep not in printable("a\u2029b")
