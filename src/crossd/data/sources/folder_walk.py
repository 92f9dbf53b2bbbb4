"""The one walk through folders for images and volumes."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from crossd.data.file_names import Writer, is_debris
from crossd.data.io.dicom import is_stack, series_files
from crossd.data.io.header import DICOM, SUFFIXES, is_dicom
from crossd.data.io.images import suffixes
from crossd.errors import InputError
from crossd.utils.progress import Bar

IMAGE, VOLUME, SERIES = 1, 2, 3
Pair = tuple[int, int]
Look = tuple[Pair, Pair, list[os.DirEntry[str]]]
ENDINGS = {*SUFFIXES, ".gz"}


@dataclass
class Walk:
    """What is found on the way through folders."""

    bar: Bar | None = None
    readable: set[str] = field(default_factory=suffixes)
    images: Writer = field(default_factory=Writer)
    volumes: Writer = field(default_factory=Writer)
    visited: list[tuple[str, Pair]] = field(default_factory=list)

    def visit(
        self,
        path: str,
        below: str,
        images: bool,
        volumes: bool,
        above: tuple[Pair, ...] = (),
    ) -> None:
        """Look through a folder and those below it.

        Args:
            path: The folder.
            below: What precedes the names of its files.
            images: Whether to list images: not below links to folders.
            volumes: Whether to list volumes: not below a DICOM series.
            above: The folders that lead here, as a link may lead back to one.
        """
        state, this, entries = look(path)
        if this in above:
            return
        self.visited.append((path, state))
        kinds = [self.kind(entry) for entry in entries]
        if volumes and SERIES in kinds:
            dicoms = [e for e, kind in zip(entries, kinds, strict=True) if kind == SERIES]
            volumes = not is_stack([Path(entry.path) for entry in dicoms])
            if not volumes:
                self.volumes.add(below.rstrip(os.sep))
        for entry, kind in zip(entries, kinds, strict=True):
            if entry.is_dir():
                seen = not is_debris(entry.name)
                here, solid = images and seen and not entry.is_symlink(), volumes and seen
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
        if is_debris(name) or entry.is_dir():
            return 0
        suffix = name[name.rfind(".") :].lower() if "." in name else ""
        if suffix in self.readable:
            return IMAGE
        if suffix in ENDINGS and name.lower().endswith(SUFFIXES):
            return SERIES if suffix in DICOM and entry.is_file() else VOLUME
        bare = not suffix[1:] or suffix[1:].isdigit()
        return SERIES if bare and entry.is_file() and is_dicom(Path(entry.path)) else 0


def look(path: str) -> Look:
    """Return size and time of change [ns] of a folder, which one it is, and what it holds."""
    try:
        state = Path(path).stat()  # before its files, so that no change is missed
        with os.scandir(path) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(
            f"{path}: this folder cannot be read ({error.strerror}); let it be read, or move it"
        ) from error
    for entry in entries:
        if entry.is_symlink() and not is_debris(entry.name):
            _require_no_loop(entry)
    return (state.st_size, state.st_mtime_ns), (state.st_dev, state.st_ino), entries


def _require_no_loop(link: os.DirEntry[str]) -> None:
    """Refuse a link that leads back to itself; one to nothing is told of when it is read."""
    try:
        link.is_dir()
    except OSError as error:
        raise InputError(f"{link.path}: is a link that leads nowhere; mend or remove it") from error


def below(folder: Path) -> tuple[list[Path], list[Path]]:
    """List the images and the volumes at any depth below a folder.

    DICOM files that are no slices of a series are among the volumes: what they are, they say
    themselves.

    Returns:
        Files that PIL reads, not in links to folders; and files of volumes, with folders that hold
        a DICOM series. What is hidden, or left by systems, is passed over.
    """
    walk = Walk()
    walk.visit(str(folder), "", True, True)
    images, volumes = walk.images.names(), walk.volumes.names()
    return [folder / name for name in images], [folder / name for name in volumes]


def listed(folder: Path) -> list[Path]:
    """List the images and volumes in a folder, in order: files, and folders of DICOM files."""
    walk = Walk()
    _, _, entries = look(str(folder))
    return [
        folder / entry.name
        for entry in entries
        if walk.kind(entry)
        or (entry.is_dir() and not is_debris(entry.name) and series_files(folder / entry.name))
    ]
