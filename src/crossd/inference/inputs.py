"""What `crossd predict` is asked about: files, folders and lists of them."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from crossd.data.io.dicom import is_stack
from crossd.data.io.header import is_dicom, is_volume, require_file, stem
from crossd.data.io.images import bands_of, suffixes
from crossd.data.io.read import read_header
from crossd.data.preprocessing import plan_file
from crossd.data.preprocessing.plan import is_relative
from crossd.data.sources import bids, dataset_json
from crossd.data.sources.case_list import Case
from crossd.data.sources.case_pairs import MODALITY, pair_folders
from crossd.data.sources.case_table import read_table
from crossd.data.sources.folder_walk import below, is_plane
from crossd.errors import InputError
from crossd.tasks import task_of
from crossd.weights.weights_file import WeightsConfig

Say = Callable[[str], None]


def key(path: Path) -> str:
    """Name a file so that it has one name, however its path was typed; links stay what they are."""
    return os.path.normpath(path.expanduser().absolute())


def may_be(path: Path) -> tuple[bool, bool]:
    """Tell by its name whether a path may be an image, and a volume; a DICOM file may be either."""
    solid = path.is_dir() or is_volume(path)
    return not solid or (not path.is_dir() and is_dicom(path)), solid


def takes(weights: WeightsConfig) -> tuple[bool, bool]:
    """Tell whether a network takes images, and whether it takes volumes that come as files."""
    sized = weights.plan is not None or (weights.spacing is not None and bool(weights.size))
    images = weights.form != "3d" and len(weights.size) == 2
    if weights.plan is not None:
        how = plan_file.from_record(weights.plan, "the weights' plan").intensity
        images = images and is_relative(how)
    volumes = weights.form != "2d" or weights.answer == "slices"
    return images, volumes and (sized or not task_of(weights.task).masks)


def inputs(
    paths: Sequence[str],
    channels: int,
    kinds: tuple[bool, bool] = (True, True),
    named: bool = True,
    out: Path | None = None,
    say: Say = lambda text: None,
    told: bool = False,
) -> list[Case]:
    """List what is to be predicted, every file once.

    Args:
        paths: Files, folders of DICOM series, lists (csv, ``dataset.json``, datalists), of which
            the images of all parts are taken; and folders: with images and masks of equal names
            the images, with a ``dataset.json`` what that lists, else what lies at any depth.
        channels: Files of a case: with several, files ``NAME_0000``, ``NAME_0001``, ... of a folder
            are the modalities of one case. Where the weights do not tell it, the channels of the
            network, which files of one channel may be.
        kinds: Whether the network takes images, and volumes: of folders that hold both, what it
            does not take is left out.
        named: Whether every answer is a file, so that no two may have one name.
        out: A folder that is not searched: that of the answers.
        say: Told what is left out.
        told: Whether the weights tell how many files a case has.

    Returns:
        The cases, each with a name below which its answer is written.

    Raises:
        InputError: When a path does not exist or holds nothing to predict.
    """
    found: list[Case] = []
    slices: dict[Path, list[Path]] = {}
    for text in dict.fromkeys(paths):
        path = Path(text).expanduser()
        if not text:
            raise InputError("empty name: no such file or folder")
        require_file(path)
        if path.suffix.lower() == ".csv":
            found += read_table(path, labels=False)
        elif listing := dataset_json.find(path):
            listed, folders = dataset_json.to_predict(listing)
            found += listed
            found += (
                _of_folders(path, folders, channels, kinds, out, say, told) if not listed else []
            )
        elif path.is_dir() and (pair := pair_folders(path)):
            found += _of_folders(path, pair[:1], channels, kinds, out, say, told)
        elif path.is_dir():
            found += _below(path, channels, kinds, out, say, told)
        elif is_volume(path) or path.suffix.lower() in suffixes():
            found.append(Case(stem(path), (path,)))
            if is_dicom(path):
                slices.setdefault(path.parent, []).append(path)
        else:
            raise InputError(
                f"{path}: cannot be predicted; expected NIfTI, NRRD, MetaImage, DICOM, an image "
                "that PIL reads, a folder of them, a csv with the column image, or a dataset.json"
            )
    if kinds[1]:
        _check_slices(slices, kinds[0], say)
    once: dict[tuple[object, ...], Case] = {}
    for case in found:
        once.setdefault((*map(key, case.images), case.spacing), case)
    if named:
        _check_names(list(once.values()))
    return list(once.values())


def _check_names(found: Sequence[Case]) -> None:
    """Refuse cases whose answers would be one file: a mask has the name of its volume or image."""
    names: dict[tuple[str, int], Path] = {}
    for case in found:
        path = case.images[0]
        for kind in [kind for kind, possible in enumerate(may_be(path)) if possible]:
            other = names.setdefault((case.name, kind), path)
            if other != path:
                raise InputError(
                    f"{path}: would be answered as {case.name}, like {other}; remove or rename "
                    "one, or predict one after the other with another --out"
                )


def _check_slices(slices: dict[Path, list[Path]], images: bool, say: Say) -> None:
    """Tell who gives the slices of a series one by one, as shells do for ``*.dcm``, what to do."""
    for folder, files in slices.items():
        if len(files) < 2 or not is_stack(files):
            continue
        try:
            if read_header(files[0]).shape[2] > 1:
                continue
        except InputError:  # told of when it is read
            continue
        if not images:
            raise InputError(
                f"{folder}: {len(files):,} DICOM files in it are given one by one, each an image, "
                f"but the weights are for volumes: give the folder, --input {folder}"
            )
        say(
            f"{folder}: {len(files):,} DICOM files in it are given one by one and taken as images; "
            f"for one volume give the folder, --input {folder}"
        )


def _of_folders(
    root: Path,
    folders: Sequence[Path],
    channels: int,
    kinds: tuple[bool, bool],
    out: Path | None,
    say: Say,
    told: bool,
) -> list[Case]:
    """List the images of a data set, which lie in some of its folders, and say in which."""
    if not folders:
        raise InputError(f"{root}: has neither imagesTr nor imagesTs; give a folder of images")
    found = [_below(folder, channels, kinds, out, say, told) for folder in folders]
    counts = (f"{len(own):,} of {one.name}" for own, one in zip(found, folders, strict=True))
    say(
        f"{root}: is a data set, of which the images are predicted: {' and '.join(counts)} (give "
        "one of its folders to predict that alone)"
    )
    return [case for own in found for case in own]


def _below(
    folder: Path,
    channels: int,
    kinds: tuple[bool, bool],
    out: Path | None,
    say: Say,
    told: bool,
) -> list[Case]:
    """List the images and volumes below a folder that the network takes; of BIDS, the images."""
    top = Path(key(folder))
    answers = None if out is None else Path(key(out))
    answers = answers if answers is not None and top in answers.parents else None

    def is_input(path: Path) -> bool:
        return answers not in (top / path.relative_to(folder)).parents

    if subjects := bids.find(folder):
        return [c for c in bids.read(folder, subjects, labels=False).cases if is_input(c.images[0])]
    flat, solid = ([path for path in found if is_input(path)] for found in below(folder, say))
    if not flat and not solid:
        raise InputError(f"{folder}: holds no image or volume that can be read")
    if flat and solid and not all(kinds):
        planes = {path for path in solid if is_plane(path)}
        solid, flat = [path for path in solid if path not in planes], [*flat, *sorted(planes)]
        if any(kinds) and solid:
            what, left = ("volumes", solid) if kinds[0] else ("images", flat)
            say(
                f"{folder}: {len(left):,} {what} are left out, as the weights do not take {what} "
                f"(the first is {left[0].relative_to(folder)})"
            )
            left.clear()
    return [*_grouped(folder, solid, channels, told), *_grouped(folder, flat, channels, told)]


def _grouped(folder: Path, paths: Sequence[Path], channels: int, told: bool) -> list[Case]:
    """Make cases of files of one kind: each is one, unless the weights ask for several files.

    They do where they were trained on cases of several, and files are numbered. Of weights that do
    not tell it, they do where they take several channels, and files of one channel are numbered
    from 0000 on. A number 0000 that all files have is no part of their names.

    Raises:
        InputError: When some of the channels of a case are missing.
    """
    if paths == [folder]:
        return [Case(Path(key(folder)).name, (folder,))]
    names = [(path.parent.relative_to(folder) / stem(path)).as_posix() for path in paths]
    numbered = [MODALITY.fullmatch(name) for name in names]
    if all(one is not None and int(one[2]) == 0 for one in numbered) and channels == 1:
        return [Case(one[1], (path,)) for one, path in zip(numbered, paths, strict=True) if one]
    groups: dict[str, dict[int, Path]] = {}
    for one, path in zip(numbered, paths, strict=True):
        if one is not None and channels > 1:
            groups.setdefault(one[1], {})[int(one[2])] = path
    asked = {
        name: files
        for name, files in groups.items()
        if told
        or (0 in files and len(files) > 1 and all(_channels(path) == 1 for path in files.values()))
    }
    for name, files in asked.items():
        if sorted(files) != list(range(channels)):
            numbers = ", ".join(f"{number:04}" for number in sorted(files))
            what = "were trained on cases of" if told else "take"
            raise InputError(
                f"{files[min(files)]}: the files of {name} are numbered {numbers}, but the weights "
                f"{what} {channels} {'files' if told else 'channels'}, 0000 to {channels - 1:04}: "
                "add what is missing, or rename files that are cases of their own"
            )
    joined = {path for files in asked.values() for path in files.values()}
    alone = [Case(n, (p,)) for n, p in zip(names, paths, strict=True) if p not in joined]
    return [
        *(Case(name, tuple(files[n] for n in sorted(files))) for name, files in asked.items()),
        *alone,
    ]


def _channels(path: Path) -> int:
    """Return how many channels a file has; 0 for one that cannot be read."""
    try:
        return read_header(path).channels if is_volume(path) else bands_of(path)
    except InputError:  # told of when it is read
        return 0
