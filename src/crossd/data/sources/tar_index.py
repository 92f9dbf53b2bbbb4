"""Tar archives of images: where in them the images lie."""

import itertools
import json
import re
import tarfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossd.data.disk_cache import state_of
from crossd.data.file_names import Names, Writer
from crossd.data.io.images import suffixes
from crossd.data.sources.case_list import in_order
from crossd.data.sources.kept_lists import Listing, kept_or_made
from crossd.data.sources.tar_names import compressed
from crossd.errors import InputError
from crossd.utils.progress import Progress

BLOCK = tarfile.BLOCKSIZE
MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")
"""With which compressed files begin."""

KEY = re.compile(r"((?:.*/)?[^/.]+)\.([^/]+)")
"""A name up to its first dot, and the rest, which says what the member is of its sample."""

LABELS = ("cls", "json")


@dataclass(frozen=True)
class Members(Listing):
    """Images in archives.

    Attributes:
        names: Of the images in them.
        archive: Number of the archive of every image, int32, ``(N,)``.
        start: Where it begins there, int64, ``(N,)``.
        size: Bytes, int64, ``(N,)``.
        labels: Number of its class, int64, ``(N,)``.
        classes: Names of the classes.
    """

    names: Names
    archive: NDArray[np.int32]
    start: NDArray[np.int64]
    size: NDArray[np.int64]
    labels: NDArray[np.int64]
    classes: Names

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.names)


def scan(paths: Sequence[Path], progress: Progress) -> Members:
    """List the images of archives, in the order of the archives, and in these as they lie.

    Raises:
        InputError: When an archive is damaged or compressed, or an image has no class.
    """
    what, every = f"{len(paths):,} archives", [str(path.absolute()) for path in paths]
    return kept_or_made(Members, lambda: _scanned(paths, what, progress), what, progress, every)


def _scanned(paths: Sequence[Path], what: str, progress: Progress) -> Members:
    try:
        states = np.array([state_of(path) for path in paths], np.int64)
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from error
    names = Writer()
    rows = array("q")  # archive, start, size and class of every image
    numbers: dict[str, int] = {}
    with progress.task(f"scanning {what}", total=len(paths)) as bar:
        for number, path in enumerate(paths):
            before = len(names)
            for image, label in _images(path):
                names.add(image.name)
                rows.extend((number, image.offset_data, image.size))
                rows.append(numbers.setdefault(label, len(numbers)))
            bar.advance(len(names) - before)
    archive, start, size, labels = np.array(rows, np.int64).reshape(-1, 4).T
    classes = in_order(numbers)
    order = np.array([classes.index(label) for label in numbers], np.int64)
    return Members(
        Names.of(str(path.absolute()) for path in paths),
        states,
        names.names(),
        archive.astype(np.int32),
        start.copy(),
        size.copy(),
        order[labels],
        Names.of(classes),
    )


def _images(path: Path) -> Iterator[tuple[tarfile.TarInfo, str]]:
    """Yield the images of an archive, each with the name of its class."""
    readable = suffixes()
    for key, members in itertools.groupby(_members(path), lambda one: one.key):
        image, label = None, None
        for one in members:
            if f".{one.ending}" in readable:
                if image is not None:
                    raise InputError(
                        f"{path}: {image.name} and {one.info.name} share a key; one image a key"
                    )
                image = one.info
            elif one.ending in LABELS:
                label = _label(one, f"{path}: {one.info.name}") or label
        if image is None:
            continue
        label = label or PurePosixPath(key).parent.name
        if not label:
            raise InputError(
                f"{path}: {image.name} has no class: expected {key}.cls, or {key}.json with a "
                "label, next to it, or a folder in its name"
            )
        yield image, label


class Member(NamedTuple):
    """A file in an archive: its header, its name in two, and what it holds if that is a class."""

    info: tarfile.TarInfo
    key: str
    ending: str
    content: bytes


def _members(path: Path) -> Iterator[Member]:
    """Yield the members of an archive that belong to samples."""
    try:
        with path.open("rb") as file:
            if file.read(6).startswith(MAGIC):
                raise compressed(str(path))
            file.seek(0)
            tar: Any = tarfile.open(fileobj=file, mode="r:")
            while (info := tar.next()) is not None:
                tar.members = []  # which it would keep, all of them
                found = KEY.fullmatch(info.name) if info.isreg() else None
                if found is None:
                    continue
                key, ending, content = found[1], found[2].lower(), b""
                if ending in LABELS:
                    file.seek(info.offset_data)
                    content = file.read(info.size)
                    if len(content) < info.size:
                        raise EOFError("it is cut off")
                yield Member(info, key, ending, content)
            # tarfile takes whatever is no header for the end.
            file.seek(tar.offset)
            end = file.read(BLOCK)
    except (OSError, tarfile.TarError, EOFError, ValueError, OverflowError, MemoryError) as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise _damaged(path, why) from error
    if end != bytes(BLOCK):
        why = "it is cut off" if len(end) < BLOCK else f"no member begins at byte {tar.offset:,}"
        raise _damaged(path, why)


def _label(member: Member, where: str) -> str | None:
    """Read the name of a class; None where a .json has no label."""
    try:
        value = member.content.decode().strip()
        if member.ending == "json":
            found = json.loads(value)
            value = found.get("label", "") if isinstance(found, dict) else ""
            if value == "":
                return None
    except ValueError:
        value = ""
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise InputError(f"{where}: holds no class; expected a whole number or a name")
    text = str(value)
    return str(int(text)) if text.isdecimal() else text


def _damaged(path: Path, why: str) -> InputError:
    return InputError(f"{path}: cannot be read as a tar archive ({why}); fetch or write it again")
