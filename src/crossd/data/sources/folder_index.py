"""Class folders with very many files, looked through once and remembered."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossd.data.disk_cache import CLOCK, DiskCache, key_of, user_cache
from crossd.data.file_names import Names
from crossd.data.io.header import SUFFIXES
from crossd.data.io.images import suffixes
from crossd.data.shared_arrays import Array
from crossd.data.sources import folder_walk
from crossd.data.sources.folder_walk import Look, Walk
from crossd.data.splits import SPLITS
from crossd.utils.progress import Bar, Progress

KEEP_FROM = 5_000
"""Files from which an index is kept: fewer are found as fast as the index is read."""

FORM = 3
"""Of the index, to be counted up when it changes."""


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
    changed, _, entries = whole = folder_walk.look(str(top))
    visited = [(str(top), changed)]
    fixed = [name for name in SPLITS if any(e.name == name and e.is_dir() for e in entries)]
    with progress.task(f"scanning {top}", total=None) as bar:
        for name in fixed:
            look = folder_walk.look(str(top / name))
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
    walk = Walk(bar)
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
