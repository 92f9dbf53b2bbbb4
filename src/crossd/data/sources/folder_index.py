"""Class folders with very many files, looked through once and remembered."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossd.data.disk_cache import CLOCK, DiskCache, key_of, user_cache
from crossd.data.file_names import Names, Writer
from crossd.data.io.dicom import is_stack, series_files
from crossd.data.io.header import DICOM, SUFFIXES, is_dicom
from crossd.data.io.images import suffixes
from crossd.data.shared_arrays import Array
from crossd.data.splits import SPLITS
from crossd.errors import InputError
from crossd.utils.progress import Bar, Progress

KEEP_FROM = 5_000
"""Files from which an index is kept: fewer are found as fast as the index is read."""

FORM = 3
"""Of the index, to be counted up when it changes."""

IMAGE, VOLUME, SERIES = 1, 2, 3
Place = tuple[int, int]
Look = tuple[int, Place, list[os.DirEntry[str]]]
ENDINGS = {*SUFFIXES, ".gz"}


@dataclass(frozen=True)
class Files:
    """Files below class folders, class by class, each in the order of their paths.

    Attributes:
        names: Relative to the folder that holds the class folders.
        counts: Of every class folder, int64.
    """

    names: Names
    counts: NDArray[np.int64]

    @property
    def labels(self) -> NDArray[np.int64]:
        """Number of the class folder of every file, ``(N,)``."""
        return np.repeat(np.arange(len(self.counts)), self.counts)


@dataclass(frozen=True)
class Part:
    """Class folders that lie side by side.

    Attributes:
        folders: Their names, sorted; hidden ones do not count.
        images: Files that PIL reads.
        volumes: Files of volumes and DICOM images, and folders that hold a DICOM series.
    """

    folders: tuple[str, ...]
    images: Files
    volumes: Files


@dataclass
class _Walk:
    """What is found on the way through folders."""

    bar: Bar | None = None
    readable: set[str] = field(default_factory=suffixes)
    images: Writer = field(default_factory=Writer)
    volumes: Writer = field(default_factory=Writer)
    visited: list[tuple[str, int]] = field(default_factory=list)

    def visit(
        self,
        path: str,
        below: str,
        images: bool,
        volumes: bool,
        above: tuple[Place, ...] = (),
    ) -> None:
        """Look through a folder and those below it.

        Args:
            path: The folder.
            below: What precedes the names of its files.
            images: Whether to list images: not below links to folders.
            volumes: Whether to list volumes: not in hidden folders, nor below a DICOM series.
            above: The folders that lead here, as a link may lead back to one.
        """
        changed, this, entries = _look(path)
        if this in above:
            return
        self.visited.append((path, changed))
        kinds = [self.kind(entry) for entry in entries]
        if volumes and SERIES in kinds:
            dicoms = [e for e, kind in zip(entries, kinds, strict=True) if kind == SERIES]
            volumes = not is_stack([Path(entry.path) for entry in dicoms])
            if not volumes:
                self.volumes.add(below.rstrip(os.sep))
        for entry, kind in zip(entries, kinds, strict=True):
            if entry.is_dir():
                here = images and not entry.is_symlink()
                solid = volumes and not entry.name.startswith(".")
                if here or solid:
                    inside = f"{below}{entry.name}{os.sep}"
                    self.visit(entry.path, inside, here, solid, (*above, this))
            elif kind == IMAGE and images:
                self.images.add(below + entry.name)
            elif kind >= VOLUME and volumes:
                self.volumes.add(below + entry.name)
        if self.bar is not None:
            self.bar.advance(len(entries))

    def kind(self, entry: os.DirEntry[str]) -> int:
        """Tell what a file is, by its name where that says it; 0 for folders and all else."""
        name = entry.name
        if name.startswith(".") or entry.is_dir():
            return 0
        suffix = name[name.rfind(".") :].lower() if "." in name else ""
        if suffix in self.readable:
            return IMAGE
        if suffix in ENDINGS and name.lower().endswith(SUFFIXES):
            return SERIES if suffix in DICOM and entry.is_file() else VOLUME
        bare = not suffix[1:] or suffix[1:].isdigit()
        return SERIES if bare and entry.is_file() and is_dicom(Path(entry.path)) else 0


def _look(path: str) -> Look:
    """Return when a folder changed [ns], which one it is, and what it holds by name."""
    try:
        state = Path(path).stat()  # before its files, so that no change is missed
        with os.scandir(path) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(
            f"{path}: this folder cannot be read ({error.strerror}); let it be read, or move it"
        ) from error
    return state.st_mtime_ns, (state.st_dev, state.st_ino), entries


def scan(root: Path, progress: Progress) -> dict[str, Part]:
    """List what the class folders of `root` hold, or those of its ``train``, ``val`` and ``test``.

    Of many files the list is kept in the cache folder of the user, and taken from there for as
    long as no folder has changed.

    Args:
        root: The folder.
        progress: Where to show how fast it is.

    Returns:
        The parts by name, the only one by "" where the folder has none of these three.

    Raises:
        InputError: When a folder cannot be read.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
        ...     (root / name).parent.mkdir(exist_ok=True)
        ...     (root / name).touch()
        >>> part = scan(root, Progress(quiet=True))[""]
        >>> part.folders, list(part.images.names), part.images.labels.tolist()
        (('cat', 'dog'), ['cat/1.png', 'cat/2.png', 'dog/1.png'], [0, 0, 1])
    """
    top, cache = root.absolute(), user_cache()
    key = key_of("index", FORM, str(top), sorted(suffixes()), SUFFIXES)
    with cache.one_process_at_a_time(key):
        return _remembered(cache, key, top, progress) or _scanned(cache, key, top, progress)


def _scanned(cache: DiskCache, key: str, top: Path, progress: Progress) -> dict[str, Part]:
    """Look through the folder, and keep what is found."""
    start = time.time_ns()
    parts: dict[str, Part] = {}
    changed, _, entries = whole = _look(str(top))
    visited = [(str(top), changed)]
    fixed = [name for name in SPLITS if any(e.name == name and e.is_dir() for e in entries)]
    with progress.task(f"scanning {top}", total=None) as bar:
        for name in fixed:
            look = _look(str(top / name))
            visited.append((str(top / name), look[0]))
            parts[name] = _part(look, visited, bar)
        if not fixed:
            parts[""] = _part(whole, visited, bar)
    newest = max(changed for _, changed in visited)
    if _count(parts) >= KEEP_FROM and newest < start - CLOCK:
        cache.keep(key, _arrays(top, parts, visited))
    return parts


def _part(look: Look, visited: list[tuple[str, int]], bar: Bar) -> Part:
    """Look through the class folders that lie in a folder."""
    walk = _Walk(bar)
    _, this, entries = look
    folders = [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    counts = []
    for folder in folders:
        before = len(walk.images), len(walk.volumes)
        walk.visit(folder.path, folder.name + os.sep, True, True, (this,))
        counts.append((len(walk.images) - before[0], len(walk.volumes) - before[1]))
    visited += walk.visited
    images, volumes = np.array(counts, np.int64).reshape(-1, 2).T.copy()
    return Part(
        tuple(folder.name for folder in folders),
        Files(walk.images.names(), images),
        Files(walk.volumes.names(), volumes),
    )


def _count(parts: Mapping[str, Part]) -> int:
    return sum(len(part.images.names) + len(part.volumes.names) for part in parts.values())


def _arrays(
    top: Path, parts: Mapping[str, Part], visited: Sequence[tuple[str, int]]
) -> dict[str, Array]:
    """Return parts as arrays to be kept, with the folders that were visited and their times."""
    arrays: dict[str, Array] = {"changed": np.array([time for _, time in visited], np.int64)}
    lists = {"visited": Names.of(os.path.relpath(path, top) for path, _ in visited)}
    lists["parts"] = Names.of(parts)
    for name, part in parts.items():
        lists[f"{name}/folders"] = Names.of(part.folders)
        for kind, files in (("images", part.images), ("volumes", part.volumes)):
            lists[f"{name}/{kind}"] = files.names
            arrays[f"{name}/{kind}/counts"] = files.counts
    for name, names in lists.items():
        arrays |= names.arrays(name)
    return arrays


def _remembered(
    cache: DiskCache, key: str, top: Path, progress: Progress
) -> dict[str, Part] | None:
    """Return what was kept, when no folder has changed since."""
    arrays = cache.get(key)
    if arrays is None:
        return None
    try:
        visited = Names.kept(arrays, "visited")
        for name, changed in zip(visited, arrays["changed"].tolist(), strict=True):
            if (top / name).stat().st_mtime_ns != changed:
                return None
    except OSError:
        return None

    def files(of: str) -> Files:
        return Files(Names.kept(arrays, of), arrays[f"{of}/counts"])

    parts = {
        name: Part(
            tuple(Names.kept(arrays, f"{name}/folders")),
            files(f"{name}/images"),
            files(f"{name}/volumes"),
        )
        for name in Names.kept(arrays, "parts")
    }
    progress.say(f"{top}: {_count(parts):,} files, as scanned before")
    return parts


def below(folder: Path) -> tuple[list[Path], list[Path]]:
    """List the images and the volumes at any depth below a folder.

    DICOM files that are no slices of a series are among the volumes: what they are, they say
    themselves.

    Returns:
        Files that PIL reads, not in links to folders; and files of volumes, not in hidden folders,
        with folders that hold a DICOM series.
    """
    walk = _Walk()
    walk.visit(str(folder), "", True, True)
    images, volumes = walk.images.names(), walk.volumes.names()
    return [folder / name for name in images], [folder / name for name in volumes]


def listed(folder: Path) -> list[Path]:
    """List the images and volumes in a folder, in order: files, and folders of DICOM files."""
    walk = _Walk()
    _, _, entries = _look(str(folder))
    return [
        folder / entry.name
        for entry in entries
        if walk.kind(entry)
        or (entry.is_dir() and not entry.name.startswith(".") and series_files(folder / entry.name))
    ]
