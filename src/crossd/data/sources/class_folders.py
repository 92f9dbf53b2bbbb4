"""Class folders: what they hold, which may be very many files, and opening those of images."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from crossd.data.dataset import Subset
from crossd.data.file_names import Names, is_debris, shown
from crossd.data.io.header import SUFFIXES
from crossd.data.io.images import suffixes
from crossd.data.source import Request, Source
from crossd.data.sources import folder_walk
from crossd.data.sources.belonging import kept_whole
from crossd.data.sources.case_list import Case, in_order, require_distinct
from crossd.data.sources.case_pairs import IMAGE_FOLDERS, MASK_FOLDERS
from crossd.data.sources.folder_walk import Walk, is_plane
from crossd.data.sources.image_files import DEFAULT_SIZE, FileSamples
from crossd.data.sources.kept_lists import Listing, kept_or_made
from crossd.data.sources.spellings import spelled_as
from crossd.data.splits import SPLITS, divide, part_of, parts_in
from crossd.errors import InputError
from crossd.utils.progress import Progress

Kind = Literal["images", "volumes", "images and DICOM images"]
BOTH: Kind = "images and DICOM images"
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
"""Words of a name, as in seg_train and TrainingSet."""


@dataclass(frozen=True)
class ClassFolders(Listing):
    """What class folders hold, one after the other, each in the order of the paths.

    Attributes:
        parts: Which of "train", "val" and "test" there are; "" alone where there are none.
        folders: The class folders of each part, or the parts of each class folder, below the root,
            spelled as they are.
        images: Files that PIL reads, below the root.
        volumes: Files of volumes and DICOM images, and folders that hold a DICOM series.
        counts: How many images and volumes each class folder holds, int64, ``(N, 2)``.
        masks: Files that are masks of others by their names.
        others: Files of which nobody knows what they are.
        loose: Images and volumes that lie in no class folder.
    """

    parts: Names
    folders: Names
    images: Names
    volumes: Names
    counts: NDArray[np.int64]
    masks: Names
    others: Names
    loose: Names

    def __len__(self) -> int:
        """Return the number of images and volumes."""
        return len(self.images) + len(self.volumes)

    @property
    def places(self) -> list[tuple[str, str]]:
        """Part and class of each class folder."""
        found = []
        for folder in self.folders:
            above, name = os.path.split(folder)
            if above and not part_of(above):  # the parts lie in the classes
                above, name = name, above
            found.append((part_of(above), shown(name)))
        return found

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that are trained, in their order."""
        return tuple(in_order(label for part, label in self.places if part == self.parts[0]))

    def counted(self, kind: Kind) -> NDArray[np.int64]:
        """Return how many images, or volumes, or both, each class folder holds."""
        images, volumes = self.counts.T
        found: NDArray[np.int64] = {"images": images, "volumes": volumes}.get(
            kind, images + volumes
        )
        return found

    def folder_of(self, kind: Kind) -> NDArray[np.int64]:
        """Return the number of the class folder of every image, or volume."""
        return np.repeat(np.arange(len(self.folders)), self.counted(kind))


def scan(root: Path, progress: Progress) -> ClassFolders:
    """List what the class folders of `root` hold, or those of its ``train``, ``val`` and ``test``.

    Parts may be spelled in any usual way (`crossd.data.splits.part_of`), and may lie in the class
    folders instead.

    Raises:
        InputError: When two folders are one part, parts lie in parts, or some files of a class lie
            in parts and others beside them.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
        ...     (root / name).parent.mkdir(exist_ok=True)
        ...     (root / name).touch()
        >>> found = scan(root, Progress(quiet=True))
        >>> found.classes, list(found.images), found.counted("images").tolist()
        (('cat', 'dog'), ['cat/1.png', 'cat/2.png', 'dog/1.png'], [2, 1])
    """
    top = str(root.absolute())
    return kept_or_made(ClassFolders, lambda: _scanned(top, progress), top, progress, top, SUFFIXES)


def _scanned(top: str, progress: Progress) -> ClassFolders:
    whole = folder_walk.look(top)
    inside = [one.name for one in whole[2] if one.is_dir() and not is_debris(one.name)]
    fixed = _parts(top, inside)
    folders, counts, loose = [], [], []
    with progress.task(f"scanning {top}", total=None) as bar:
        walk = Walk(bar)
        walk.visited.append((top, whole[0]))
        for part in fixed.values() or [""]:
            state, this, entries = folder_walk.look(f"{top}{os.sep}{part}") if part else whole
            if part:
                walk.visited.append((f"{top}{os.sep}{part}", state))
            for entry in entries:
                if walk.kind(entry):
                    loose.append(str(Path(part, entry.name)))
                elif entry.is_dir() and not is_debris(entry.name):
                    before = len(walk.images), len(walk.volumes)
                    folders.append(str(Path(part, entry.name)))
                    walk.visit(entry.path, folders[-1] + os.sep, True, True, (this,))
                    counts.append((len(walk.images) - before[0], len(walk.volumes) - before[1]))
    images, volumes = walk.images.names(), walk.volumes.names()
    counted = np.array(counts, np.int64).reshape(-1, 2)
    if inner := _parts_in_classes(top, fixed, [path for path, _ in walk.visited]):
        there = {part_of(Path(folder).name) for folder in inner}
        fixed = {part: part for part in SPLITS if part in there}
        folders = inner
        counted = np.stack([_counted(top, inner, names) for names in (images, volumes)], axis=1)
    return ClassFolders(
        Names.of(path for path, _ in walk.visited),
        np.array([state for _, state in walk.visited], np.int64),
        Names.of(fixed or [""]),
        Names.of(folders),
        images,
        volumes,
        counted,
        walk.masks.names(),
        walk.others.names(),
        Names.of(loose),
    )


def _parts_in_classes(top: str, fixed: Mapping[str, str], visited: Sequence[str]) -> list[str]:
    """List the folders in class folders that are called as a part of a data set, below `top`.

    Raises:
        InputError: When they lie in a part, or two in a class folder are one part.
    """
    below = [Path(path[len(top) :].strip(os.sep)).parts for path in visited]
    depth = 3 if fixed else 2
    found = [pieces for pieces in below if len(pieces) == depth and part_of(pieces[-1])]
    if fixed and found:
        raise InputError(
            f"{Path(top, *found[0])}: is called as a part of the data, but lies in the part "
            f"{found[0][0]}; rename it, or move it out"
        )
    named: dict[tuple[str, str], str] = {}
    for label, part in found:
        if part_of(label):
            raise InputError(
                f"{Path(top, label, part)}: both are called as parts of the data; rename one"
            )
        other = named.setdefault((label, part_of(part)), part)
        if other != part:
            raise InputError(
                f"{Path(top, label)}: {other} and {part} are both parts to {part_of(part)}; put "
                "them into one"
            )
    return [str(Path(*pieces)) for pieces in found]


def _counted(top: str, folders: Sequence[str], names: Names) -> NDArray[np.int64]:
    """Count files by the part that they lie in, of their class folder.

    Raises:
        InputError: Naming one that lies in none.
    """
    number = {folder: place for place, folder in enumerate(folders)}
    places = [number.get(str(Path(*Path(name).parts[:2])), -1) for name in names]
    if -1 in places:
        raise InputError(
            f"{Path(top, names[places.index(-1)])}: lies in no part of its class, but {folders[0]} "
            "is one; put all files of all classes into such folders, or rename these"
        )
    return np.bincount(np.array(places, np.int64), minlength=len(folders)).astype(np.int64)


def _parts(top: str, folders: Sequence[str]) -> dict[str, str]:
    """Find the parts of a data set among folders, in the order of training, ...; none if none.

    A part is called so, in any usual spelling, and holds folders. Where none is to train on, they
    are class folders, unless there is nothing else.

    Raises:
        InputError: When two folders are one part.
    """
    found: dict[str, list[str]] = {part: [] for part in SPLITS}
    for folder in folders:
        part = part_of(folder)
        if part and any(one.is_dir() for one in folder_walk.look(f"{top}{os.sep}{folder}")[2]):
            found[part].append(folder)
    for part, named in found.items():
        if len(named) > 1:
            raise InputError(
                f"{top}: {' and '.join(named)} are both parts to {part}; put them into one"
            )
    fixed = {part: named[0] for part, named in found.items() if named}
    return fixed if "train" in fixed or len(fixed) == len(folders) else {}


def left_out(root: Path, found: ClassFolders) -> list[str]:
    """List the folders beside the parts of a data set, which are passed over."""
    if not found.parts[0]:
        return []
    parts = {Path(folder).parts[0] for folder in found.folders}
    return [one.name for one in folder_walk.folders_in(root) if one.name not in parts]


def cases(root: Path, found: ClassFolders, kind: Kind) -> list[Case]:
    """List the images, the volumes or both of class folders, named by their paths below `root`."""
    places, listed = found.places, []
    owned: tuple[tuple[Kind, Names], ...] = (("images", found.images), ("volumes", found.volumes))
    for own, names in owned:
        if kind in (own, BOTH):
            listed += [
                Case(name, (root / name,), label=places[number][1], split=places[number][0])
                for name, number in zip(names, found.folder_of(own).tolist(), strict=True)
            ]
    return sorted(listed, key=lambda case: case.name) if kind == BOTH else listed


def kind_of(root: Path, found: ClassFolders) -> Kind:
    """Tell what class folders hold that is trained on.

    Volumes where there are some, but images where each of these is a DICOM file of one image.
    """
    if not len(found.volumes):
        return "images"
    if not len(found.images):
        return "volumes"
    return BOTH if all(is_plane(root / name) for name in found.volumes) else "volumes"


def check(root: Path, found: ClassFolders, kind: Kind) -> None:
    """Check that every class has training samples, and every part has some.

    Raises:
        InputError: With the folder that is empty, or is of a class that is not trained.
    """
    first = found.parts[0]
    if first not in ("", "train"):
        raise InputError(f"{root}: has a part to {first} but none to train; add it")
    for part in found.parts:
        own = [number for number, (place, _) in enumerate(found.places) if place == part]
        for number in own:
            where, label = root / found.folders[number], found.places[number][1]
            if label not in found.classes:
                raise InputError(
                    f"{where}: this class is not in the training part; remove or add it"
                )
            if part == first and not found.counted(kind)[number]:
                raise InputError(f"{where}: no {kind} in this class folder; fill or remove it")
        if not found.counted(kind)[own].any():
            raise InputError(f"{root}: no {kind} in its class folders to {part or 'train'}")
    require_distinct(found.classes, str(root))
    require_classes(found.classes, str(root))


def require_classes(names: Sequence[str], root: str) -> None:
    """Refuse folders that are no classes by their names: parts of a data set, images and masks.

    Args:
        names: Of the folders.
        root: Where they are, for the message.

    Raises:
        InputError: With what to do.
    """
    small = [name.lower() for name in names]
    if any(one in IMAGE_FOLDERS for one in small) and any(one in MASK_FOLDERS for one in small):
        raise InputError(
            f"{root}: {' and '.join(names)} are folders of images and masks, not classes; give the "
            "folder that holds these two alone, or name the files in a csv"
        )
    parts = [next(iter(parts_in(name)), "") for name in names]
    if len(names) > 1 and all(parts) and len(set(parts)) > 1:
        raise InputError(
            f"{root}: {' and '.join(names)} are parts of a data set, not classes; put class "
            "folders into train/, val/ and test/, or name the files in a csv with a column split"
        )


def open_images(request: Request, root: Path, found: ClassFolders) -> Source:
    """Open class folders, or ``train/`` and ``val/`` (and ``test/``) of class folders.

    Class folders alone are split 70/10/20 by the seed; a part that is missing beside ``train/`` is
    drawn of it in these shares. Images may lie at any depth below their class folder.

    Images are 64 by 64 where no size is asked for, and grey unless one of a few training files
    is coloured.

    Raises:
        InputError: When there are no images, fewer than two classes, or an unknown class.
    """
    shape, first = request.shape(2, DEFAULT_SIZE), found.parts[0]
    known = request.given.labels
    alike = spelled_as(found.classes, known)
    classes = tuple(alike.values())
    if known and classes and set(classes) <= set(known):
        classes = known
    if not classes or (not first and not len(found.images)):
        readable = suffixes()
        inside = folder_walk.look(str(root))[2]
        loose = any(Path(entry.name).suffix.lower() in readable for entry in inside)
        hint = "images must lie in class folders" if loose else "no images"
        raise InputError(
            f"{root}: {hint}; expected train/ and val/ of class folders, class folders alone, or "
            "for masks images/ and labels/"
        )
    if len(classes) < 2:
        raise InputError(f"{root}: has one class folder, {classes[0]}; expected two or more")
    check(root, found, "images")
    folder = found.folder_of("images")
    number = {label: index for index, label in enumerate(classes)}
    labels = np.array([number[alike[label]] for _, label in found.places], np.int64)[folder]
    said = np.array([part for part, _ in found.places])[folder]
    whole = FileSamples(root, [found.images], labels, shape)
    whole.see_colours(np.flatnonzero(said == first))
    whole.groups = kept_whole(
        lambda: cases(root, found, "images"),
        len(whole),
        str(root),
        request.progress,
        request.given,
    )
    divided = divide(said, labels, request.seed, str(root), whole.groups, request.progress.say)
    train, val, test = (Subset(whole, own) for own in divided)
    return Source(
        str(root),
        2,
        "classification",
        whole.channels,
        classes,
        shape,
        train,
        val,
        test,
        modalities=1,
    )
