"""The one walk through folders for images and volumes."""

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from crossd.data.file_names import Writer, is_debris
from crossd.data.io.dicom import is_stack, series_files
from crossd.data.io.header import DICOM, SUFFIXES, is_dicom
from crossd.data.io.images import suffixes
from crossd.data.io.read import holds_volume
from crossd.data.sources.companions import is_note, left_aside, masks_among
from crossd.errors import InputError
from crossd.utils.progress import Bar

IMAGE, VOLUME, SERIES = 1, 2, 3
Pair = tuple[int, int]
Look = tuple[Pair, Pair, list[os.DirEntry[str]]]
Say = Callable[[str], None]
ENDINGS = {*SUFFIXES, ".gz"}

STRUCTURES = ("segmentations", "segmentation", "masks")
"""Folders beside a volume that hold masks of what is seen in it, and are no data of their own."""


@dataclass
class Walk:
    """What is found on the way through folders.

    Attributes:
        bar: Shows how far it is.
        readable: Suffixes of images.
        images: Files that PIL reads.
        volumes: Files of volumes and DICOM images, and folders that hold a DICOM series.
        masks: Files that are masks of others by their names.
        others: Files of which nobody knows what they are.
        visited: The folders, each with its size and time of change.
    """

    bar: Bar | None = None
    readable: set[str] = field(default_factory=suffixes)
    images: Writer = field(default_factory=Writer)
    volumes: Writer = field(default_factory=Writer)
    masks: Writer = field(default_factory=Writer)
    others: Writer = field(default_factory=Writer)
    visited: list[tuple[str, Pair]] = field(default_factory=list)

    def visit(
        self,
        path: str,
        below: str,
        images: bool,
        volumes: bool,
        above: tuple[Pair, ...] = (),
    ) -> None:
        """Look through a folder and those below it, but for masks beside a volume.

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
        masks = masks_in(entries, kinds)
        self.others.extend(below + name for name in unknown_in(entries, kinds))
        for entry, kind in zip(entries, kinds, strict=True):
            if entry.is_dir():
                structures = VOLUME in kinds and entry.name in STRUCTURES
                seen = not is_debris(entry.name) and not structures
                here, solid = images and seen and not entry.is_symlink(), volumes and seen
                if here or solid:
                    inside = f"{below}{entry.name}{os.sep}"
                    self.visit(entry.path, inside, here, solid, (*above, this))
            elif kind == IMAGE and images:
                (self.masks if entry.name in masks else self.images).add(below + entry.name)
            elif kind >= VOLUME and volumes:
                (self.masks if entry.name in masks else self.volumes).add(below + entry.name)
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


def masks_in(entries: Sequence[os.DirEntry[str]], kinds: Sequence[int]) -> set[str]:
    """Find the masks among the images and volumes of a folder, by their names."""
    files = [entry.name for entry, kind in zip(entries, kinds, strict=True) if kind]
    return masks_among(files, (entry.name for entry in entries if entry.is_dir()))


def unknown_in(entries: Sequence[os.DirEntry[str]], kinds: Sequence[int]) -> list[str]:
    """List the files of a folder of which nobody knows what they are."""
    found = [
        entry.name
        for entry, kind in zip(entries, kinds, strict=True)
        if not kind and not is_debris(entry.name) and not entry.is_dir()
    ]
    beside = {entry.name for entry in entries} if found else set()
    return [name for name in found if not is_note(name, beside)]


def names_file(text: str, readable: Collection[str] | None = None) -> bool:
    """Tell whether a text ends as the files of images and volumes do.

    Args:
        text: The text.
        readable: Suffixes of images, where they are known already.

    Example:
        >>> names_file("labels/1.nii.gz"), names_file("1.0"), names_file("Dr. No")
        (True, False, False)
    """
    known = suffixes() if readable is None else readable
    return text.lower().endswith(SUFFIXES) or PurePath(text.lower()).suffix in known


def is_plane(path: Path) -> bool:
    """Tell whether a path is a DICOM file of one image, or one that cannot be read."""
    if path.is_dir() or not is_dicom(path):
        return False
    try:
        return not holds_volume(path)
    except InputError:
        return True


def folders_in(folder: Path) -> list[Path]:
    """List the folders in a folder, in order, but for what systems leave behind.

    Raises:
        InputError: When the folder cannot be read.
    """
    inside = look(str(folder))[2]
    return [folder / one.name for one in inside if one.is_dir() and not is_debris(one.name)]


def _require_no_loop(link: os.DirEntry[str]) -> None:
    """Refuse a link that leads back to itself; one to nothing is told of when it is read."""
    try:
        link.is_dir()
    except OSError as error:
        raise InputError(f"{link.path}: is a link that leads nowhere; mend or remove it") from error


def below(folder: Path, say: Say = lambda text: None) -> tuple[list[Path], list[Path]]:
    """List the images and the volumes at any depth below a folder.

    DICOM files that are no slices of a series are among the volumes: what they are, they say
    themselves.

    Args:
        folder: Where to look.
        say: Told of masks beside their images, and of files of unknown kinds.

    Returns:
        Files that PIL reads, not in links to folders; and files of volumes, with folders that hold
        a DICOM series. What is hidden, or left by systems, is passed over, as are `STRUCTURES`
        beside a volume.
    """
    walk = Walk()
    walk.visit(str(folder), "", True, True)
    for text in left_aside(walk.masks.names(), walk.others.names()):
        say(f"{folder}: {text}")
    images, volumes = walk.images.names(), walk.volumes.names()
    return [folder / name for name in images], [folder / name for name in volumes]


def listed(folder: Path, say: Say = lambda text: None) -> list[Path]:
    """List the images and volumes in a folder, in order: files, and folders of DICOM files.

    Args:
        folder: Where to look, not below it.
        say: Told of files of unknown kinds, and of folders that hold no DICOM files.
    """
    walk = Walk()
    _, _, entries = look(str(folder))
    kinds = [walk.kind(entry) for entry in entries]
    for text in left_aside([], unknown_in(entries, kinds)):
        say(f"{folder}: {text}")
    found: list[Path] = []
    others: list[Path] = []
    for entry, kind in zip(entries, kinds, strict=True):
        path = folder / entry.name
        if kind:
            found.append(path)
        elif entry.is_dir() and not is_debris(entry.name):
            (found if series_files(path) else others).append(path)
    if others:
        say(
            f"{folder}: {len(others):,} folders without DICOM files are passed over (the first is "
            f"{others[0].name})"
        )
    return found
