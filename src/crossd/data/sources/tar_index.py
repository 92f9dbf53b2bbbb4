"""Tar archives of images: where in them the images lie, of which classes and parts."""

import itertools
import re
import tarfile
from array import array
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossd.data.disk_cache import state_of
from crossd.data.file_names import Names, Writer, is_debris, shown
from crossd.data.io.images import suffixes
from crossd.data.sources.case_list import in_order
from crossd.data.sources.kept_lists import Listing, kept_or_made
from crossd.data.sources.tar_classes import ENDINGS, class_in
from crossd.data.sources.tar_names import compressed
from crossd.data.splits import SPLITS, part_of
from crossd.errors import InputError
from crossd.utils.progress import Progress

BLOCK = tarfile.BLOCKSIZE
MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")
"""With which compressed files begin."""

KEY = re.compile(r"((?:.*/)?[^/.]+)\.([^/]+)", re.DOTALL)
"""A name up to its first dot, and the rest, which says what the member is of its sample."""

PARTS = ("", *SPLITS)
PASSED = ("", ".", "..")
"""Steps in a name that are no folders."""

LARGEST = 1 << 24
"""Bytes of a member that says a class, at most."""


@dataclass(frozen=True)
class Members(Listing):
    """Images in archives.

    Attributes:
        names: Of the images in them.
        archive: Number of the archive of every image, int32, ``(N,)``.
        start: Where it begins there, int64, ``(N,)``.
        size: Bytes, int64, ``(N,)``.
        labels: Number of its class, int64, ``(N,)``.
        parts: Number in `PARTS` of the part that its folders say, uint8, ``(N,)``.
        classes: Names of the classes.
        left: Members that are passed over, but are images by their names, or say a class.
    """

    names: Names
    archive: NDArray[np.int32]
    start: NDArray[np.int64]
    size: NDArray[np.int64]
    labels: NDArray[np.int64]
    parts: NDArray[np.uint8]
    classes: Names
    left: Names

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.names)


def scan(paths: Sequence[Path], progress: Progress) -> Members:
    """List the images of archives, in the order of the archives, and in these as they lie.

    Raises:
        InputError: When an archive is damaged, compressed or without an image, an image has no
            class, or members of a sample do not follow each other.
    """
    what, every = f"{len(paths):,} archives", [str(path.absolute()) for path in paths]
    found = kept_or_made(Members, lambda: _scanned(paths, what, progress), what, progress, every)
    if len(found.left):
        first = shown(found.left[0])
        progress.say(
            f"{len(found.left):,} members are left out: images that are links or whose names go on "
            f"after the first dot, and classes without an image (the first is {first})"
        )
    return found


def _scanned(paths: Sequence[Path], what: str, progress: Progress) -> Members:
    try:
        states = np.array([state_of(path) for path in paths], np.int64)
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from error
    names, left = Writer(), Writer()
    rows = array("q")  # archive, start, size, class and part of every image
    numbers: dict[str, int] = {}
    ways: dict[bool, str] = {}  # an image whose class a member says, and one whose folder says it
    with progress.task(f"scanning {what}", total=len(paths)) as bar:
        for number, path in enumerate(paths):
            before = len(names)
            for image, label, place in _images(path, left):
                names.add(image.name)
                rows.extend((number, image.offset_data, image.size))
                rows.append(numbers.setdefault(label or place.label, len(numbers)))
                rows.append(PARTS.index(place.part))
                ways.setdefault(bool(label), f"{path}: {image.name}")
            if len(names) == before:
                more = f", and leaves out {left.names()[0]}" if len(left) else ""
                raise InputError(
                    f"{path}: holds no images; expected members like key.jpg or key.png{more}"
                )
            bar.advance(len(names) - before)
    if len(ways) > 1:
        raise InputError(
            f"{ways[False]} has no class next to it, but {ways[True]} has: give all one, or none"
        )
    archive, start, size, labels, parts = np.array(rows, np.int64).reshape(-1, 5).T
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
        parts.astype(np.uint8),
        Names.of(classes),
        left.names(),
    )


class Place(NamedTuple):
    """What the folders of a member say: its class, its part, and the other folders above these."""

    label: str
    part: str
    others: tuple[str, ...]


class Member(NamedTuple):
    """A member that belongs to a sample.

    Attributes:
        info: Its header.
        key: Its name up to the first dot.
        ending: The rest, in small letters.
        is_image: Whether its last suffix is one of an image.
        content: What it holds, if that is a class.
    """

    info: tarfile.TarInfo
    key: str
    ending: str
    is_image: bool
    content: bytes = b""


def _images(path: Path, left: Writer) -> Iterator[tuple[tarfile.TarInfo, str | None, Place]]:
    """Yield the images of an archive, each with the class that a member says, and its place.

    Args:
        path: The archive.
        left: To write down there what is passed over, but is an image by its name, or says a class.
    """
    keys: set[int] = set()
    first: tuple[str, Place] | None = None  # whose class is its folder
    with closing(_members(path)) as found:
        for key, members in itertools.groupby(found, lambda one: one.key):
            image, label, passed = _sample(members, path)
            for name in passed:
                left.add(f"{path}: {name}")
            if image is None and label is None:
                continue
            if hash(key) in keys:
                raise InputError(
                    f"{path}: members of {key} are there twice, or apart; write those of a sample "
                    "once, one after the other"
                )
            keys.add(hash(key))
            if image is None:
                continue
            place = _place(key.rpartition("/")[0], label is None, str(path))
            first = first or ((image.name, place) if label is None else None)
            if label is None and not place.label:
                raise InputError(
                    f"{path}: {image.name} has no class: expected {key}.cls, or {key}.json with a "
                    "label, next to it, or a folder in its name"
                )
            if label is None and first and place.others != first[1].others:
                raise InputError(
                    f"{path}: {first[0]} and {image.name} are in folders of different depth or "
                    "place, so that these are no classes; put class folders beside each other, "
                    "or write classes as key.cls"
                )
            yield image, label, place


def _sample(
    members: Iterable[Member], path: Path
) -> tuple[tarfile.TarInfo | None, str | None, list[str]]:
    """Give the image of a sample, its class if a member says it, and what is passed over of it."""
    image: tarfile.TarInfo | None = None
    labels: dict[str, str] = {}
    passed: list[str] = []
    for one in members:
        whole = "." not in one.ending and one.info.isreg() and not one.info.issparse()
        if not one.is_image:
            label = class_in(one.content, one.ending, f"{path}: {one.info.name}")
            labels |= {one.ending: label} if label else {}
        elif not whole:
            passed.append(one.info.name)
        elif image is None:
            image = one.info
        else:
            raise InputError(
                f"{path}: {image.name} and {one.info.name} share a key; one image a key"
            )
    if image is None:
        passed += [f"{one.key}.{ending}" for ending in labels]
    return image, labels.get("cls") or labels.get("json"), passed


@lru_cache(1024)
def _place(folder: str, by_folder: bool, path: str) -> Place:
    """Tell what the folders in a name say; the last is the class if `by_folder`."""
    above = [one for one in folder.split("/") if one not in PASSED]
    label = above.pop() if by_folder and above else ""
    parts = list(dict.fromkeys(filter(None, map(part_of, above))))
    if len(parts) > 1:
        raise InputError(
            f"{path}: the folder {folder} says {' and '.join(parts)}; rename it so that it says "
            "one part"
        )
    others = tuple(one for one in above if not part_of(one))
    return Place(label, parts[0] if parts else "", others)


def _members(path: Path) -> Generator[Member, None, None]:
    """Yield the members of an archive that are images by their names, or say a class."""
    readable = suffixes()
    try:
        with path.open("rb") as file:
            if file.read(6).startswith(MAGIC):
                raise compressed(str(path))
            file.seek(0)
            tar: Any = tarfile.open(fileobj=file, mode="r:")
            while (info := tar.next()) is not None:
                tar.members = []  # which it would keep, all of them
                if tar.offset <= info.offset:  # by a size below 0: it would come again for ever
                    raise ValueError(f"the member at byte {info.offset:,} has no size")
                member = _member(info, readable)
                if member is None:
                    continue
                if member.ending in ENDINGS and info.isreg():
                    if info.size > LARGEST:
                        raise ValueError(f"{info.name} is too long to say a class")
                    file.seek(info.offset_data)
                    member = member._replace(content=file.read(info.size))
                    if len(member.content) < info.size:
                        raise EOFError("it is cut off")
                yield member
            # tarfile takes whatever is no header for the end.
            file.seek(tar.offset)
            end = file.read(BLOCK)
    except InputError:
        raise
    except Exception as error:  # tarfile raises many kinds on damaged files
        why = " ".join(str(error).split()) or type(error).__name__
        raise _damaged(path, why) from error
    if end != bytes(BLOCK):
        why = "it is cut off" if len(end) < BLOCK else f"no member begins at byte {tar.offset:,}"
        raise _damaged(path, why)


def _member(info: tarfile.TarInfo, readable: set[str]) -> Member | None:
    """Take a member for a part of a sample, if it is one; what systems leave behind is none."""
    found = KEY.fullmatch(info.name) if info.isreg() or info.islnk() or info.issym() else None
    if found is None or any(is_debris(one) for one in info.name.split("/") if one not in PASSED):
        return None
    ending = found[2].lower()
    is_image = f".{ending.rpartition('.')[2]}" in readable
    return Member(info, found[1], ending, is_image) if is_image or ending in ENDINGS else None


def _damaged(path: Path, why: str) -> InputError:
    return InputError(f"{path}: cannot be read as a tar archive ({why}); fetch or write it again")
