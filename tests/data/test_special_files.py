"""Pipes, sockets, devices and links that lead nowhere: a line each, and no waiting for ever."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import files
import numpy as np
import pytest
from PIL import Image

from crossd.data.io import images
from crossd.data.io.header import require_file
from crossd.data.io.read import read_header
from crossd.data.opening import list_cases, open_source
from crossd.data.quality.survey import survey
from crossd.data.sources.belonging import at_files, identical
from crossd.errors import InputError
from crossd.inference.inputs import inputs
from crossd.utils.progress import Progress

NAMES = ("x.png", "x.nii.gz", "x.nii", "x.mhd", "x.nrrd", "x.dcm", "x.tar", "x.npz", "x.csv")


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    """End a test that waits for a writer of its pipe, which would never come."""
    signal.alarm(60)
    yield
    signal.alarm(0)


def special(kind: str, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        here = Path.cwd()
        os.chdir(path.parent)  # as paths of sockets may have about 100 signs
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
        os.chdir(here)
    else:
        path.symlink_to({"device": "/dev/zero", "loop": path.name, "broken": "nothing"}[kind])
    return path


WORDS = {
    "pipe": "is a pipe, a socket or a device",
    "socket": "is a pipe, a socket or a device",
    "device": "is a pipe, a socket or a device",
    "loop": "is a link that leads nowhere",
    "broken": "is a link that leads nowhere",
}


@pytest.mark.parametrize("kind", WORDS)
@pytest.mark.parametrize("name", NAMES)
def test_each_is_refused_by_name_wherever_it_is_given(tmp_path: Path, kind: str, name: str) -> None:
    path = special(kind, tmp_path / name)
    line = f"{path}: {WORDS[kind]}"
    for given in (
        lambda: require_file(path),
        lambda: inputs([str(path)], 1),
        lambda: open_source(str(path), labels=False),
        lambda: survey(str(path), 10, 0, Progress(quiet=True)),
    ):
        assert files.message(given).startswith(line)


@pytest.mark.parametrize("kind", WORDS)
def test_readers_do_not_open_them(tmp_path: Path, kind: str) -> None:
    for name in ("x.png", "y.png"):
        path = special(kind, tmp_path / name)
        for read in (images.load, images.shape_of, images.bands_of, images.raw_mask):
            assert WORDS[kind] in files.message(lambda read=read, path=path: read(path))
    for name in ("x.nii.gz", "x.dcm", "x.mhd"):
        path = special(kind, tmp_path / name)
        assert WORDS[kind] in files.message(lambda path=path: read_header(path))
    both = [tmp_path / "x.png", tmp_path / "y.png", tmp_path / "x.mhd"]
    assert identical(3, at_files(both), Progress(quiet=True)).tolist() == [0, 1, 2]


@pytest.mark.parametrize("kind", WORDS)
def test_in_a_folder_they_are_named_or_passed_over_as_no_image(tmp_path: Path, kind: str) -> None:
    for number in range(12):
        folder = tmp_path / "ab"[number % 2]
        folder.mkdir(exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (9, 9), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    path = special(kind, tmp_path / "a" / "x.png")
    if kind == "loop":
        for look in (list_cases, lambda root, _: inputs([str(root)], 1)):
            said = files.message(lambda look=look: look(tmp_path, Progress(quiet=True)))
            assert said.startswith(f"{path}: {WORDS[kind]}")
        return
    assert len(inputs([str(tmp_path)], 1)) == 13  # told of when it is read
    with pytest.raises(InputError, match=WORDS[kind]):
        samples = open_source(str(tmp_path), size=(8,)).train
        [samples[index] for index in range(len(samples))]
    path.rename(tmp_path / "a" / "x")  # no name of an image
    assert len(inputs([str(tmp_path)], 1)) == 12


def test_a_folder_that_is_called_as_an_image_is_a_folder(tmp_path: Path) -> None:
    inside = tmp_path / "x.png"
    inside.mkdir()
    Image.fromarray(np.eye(4, dtype=np.uint8)).save(inside / "a.png")
    assert [case.images for case in inputs([str(inside)], 1)] == [(inside / "a.png",)]
