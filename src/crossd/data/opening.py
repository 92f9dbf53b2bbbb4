"""Opening a source of data: one string names it, and its kind is found by looking.

Items are dictionaries of tensors in the order channel, depth, height, width. A volume is
oriented so that its axes run to superior, anterior and right (RAS reversed).
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from crossd.data.io.header import require_file
from crossd.data.preprocessing.normalise import normalise
from crossd.data.source import Given, Request, Source
from crossd.data.sources import bids, class_folders, dataset_json, structure_folders, tar_names
from crossd.data.sources.belonging import together
from crossd.data.sources.case_list import Listed, loose_cases, named
from crossd.data.sources.case_pairs import beside_pairs, pair_folders, read_pairs
from crossd.data.sources.case_source import open_cases
from crossd.data.sources.case_table import read_table
from crossd.data.sources.class_folders import ClassFolders, open_images
from crossd.data.sources.companions import left_aside
from crossd.data.sources.folder_walk import folders_in
from crossd.data.sources.npz import open_medmnist, open_npz
from crossd.data.sources.synthetic_brain import open_brain
from crossd.data.sources.tar_shards import open_shards
from crossd.errors import InputError
from crossd.utils.progress import Progress

KINDS = (
    "brain, medmnist:NAME, an .npz or .csv file, a folder of class folders, a folder with images/ "
    "and labels/ or a dataset.json, a datalist .json, folders with a mask of each structure, BIDS, "
    "or .tar archives"
)


def open_source(
    spec: str,
    *,
    size: Sequence[int] | None = None,
    seed: int = 0,
    channels: int | None = None,
    labels: bool = True,
    given: Given | None = None,
    progress: Progress | None = None,
) -> Source:
    """Open the source that `spec` names.

    Args:
        spec: ``brain`` or ``brain:MM`` (synthetic, of the bundled atlas), ``medmnist:NAME`` or
            ``medmnist:NAME:SIZE``, an ``.npz`` file, a ``.csv``, a folder of class folders, a
            folder with ``images/`` and ``labels/`` or ``masks/``, a folder with a ``dataset.json``
            of nnU-Net or the Decathlon, a ``.json`` datalist of MONAI, folders of an image and a
            mask of each structure (TotalSegmentator), a BIDS data set, or ``.tar`` archives: one,
            a folder of them, or a pattern such as ``train-{000..099}.tar``.
        size: Spatial size of the training samples; one number stands for all axes. Images and
            volumes with a label are resized. Of volumes with a mask, patches of it are taken.
        seed: Decides on splits that the source does not fix, and on what `brain` draws.
        channels: Number of channels wanted: one is repeated, many are averaged into one.
        labels: Whether labels are needed. If not, an ``.npz`` with ``images`` alone and a folder
            of volumes or image files are sources too, all of them training samples.
        given: A plan, classes or statistics that are known already.
        progress: Where to show the scan of volumes that come as files.

    Returns:
        The source, each image shifted and scaled by the mean and the standard deviation of up to
        2,000 of its own training images, unless others are given.

    Raises:
        InputError: When `spec` names nothing that can be read, with one line that says why.

    Example:
        >>> import tempfile, numpy as np
        >>> file = Path(tempfile.mkdtemp()) / "tiny.npz"
        >>> images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 8), dtype=np.uint8)
        >>> np.savez(file, images=images, labels=np.arange(20) % 2)
        >>> source = open_source(str(file))
        >>> source.rank, source.classes, source.train[0]["image"].shape
        (3, ('0', '1'), torch.Size([1, 8, 8, 8]))
    """
    shape = None if size is None else tuple(int(side) for side in size)
    if shape is not None and (not shape or min(shape) < 1):
        raise InputError(f"--size {','.join(map(str, shape))}: every side must be at least 1")
    given = given or Given()
    request = Request(spec, shape, seed, given, progress or Progress(quiet=True))
    source = _open(request, labels)
    if given.ignore is not None and source.task != "segmentation":
        raise InputError(f"--ignore {given.ignore}: is for masks, but {spec} has none")
    return normalise(source, channels, seed, given, request.progress.say)


def _open(request: Request, need_labels: bool) -> Source:
    """Open the source by its kind."""
    spec = request.name
    if spec == "brain" or spec.startswith("brain:"):
        return open_brain(request)
    if spec.startswith("medmnist:"):
        return open_medmnist(request)
    path = Path(spec).expanduser()
    archives = tar_names.find(spec)
    if archives:
        return open_shards(request, archives)
    if not spec or not (path.exists() or path.is_symlink()):
        raise InputError(f"{spec or 'empty name'}: no such file or folder; give {KINDS}")
    require_file(path)
    if is_list(path):
        loose = path.is_dir() and not need_labels and not folders_in(path)
        if loose and (found := loose_cases(path, request.progress.say)):
            return open_cases(request, path, found)
        listed, folders = list_cases(path, request.progress, given=request.given)
        if folders is not None and not listed.cases:
            return open_images(request, path, folders)
        if need_labels and listed.unlabelled:
            raise InputError(f"{spec}: {listed.unlabelled}")
        root = path if path.is_dir() else path.parent
        return open_cases(request, root, listed.cases, listed.classes)
    if path.suffix.lower() == ".npz":
        return open_npz(request, path, need_labels)
    raise InputError(f"{spec}: cannot be read as a source of data; give {KINDS}")


def is_list(path: Path) -> bool:
    """Tell whether a path lists files: a csv, a json, or a folder that is none of archives."""
    return path.is_dir() or (path.suffix.lower() in (".csv", ".json") and path.is_file())


def list_cases(
    path: Path, progress: Progress, strict: bool = True, given: Given | None = None
) -> tuple[Listed, ClassFolders | None]:
    """List what a csv, a json or a folder holds.

    Args:
        path: For which `is_list` holds.
        progress: Where to show a scan, and to say what is left out.
        strict: Refuse what a training cannot use: files of a csv that do not exist, patients in
            two splits, classes of volumes without a training case.
        given: Which grave faults are accepted all the same.

    Returns:
        The list; and what lies in the class folders, if it is these. There are no cases where they
        hold none but images, which may be a million.

    Raises:
        InputError: When it cannot be understood.
    """
    listed, folders = _listed(path, progress, strict)
    if listed.note:
        progress.say(f"{path}: {listed.note}")
    given = (given or Given()) if strict else None
    cases = together(listed.cases, str(path), progress, given=given)
    return replace(listed, cases=cases), folders


def _listed(path: Path, progress: Progress, strict: bool) -> tuple[Listed, ClassFolders | None]:
    if json_list := dataset_json.find(path):
        return dataset_json.read_dataset(json_list, progress.say), None
    if not path.is_dir():
        return Listed("csv", read_table(path, strict=strict, say=progress.say)), None
    if subjects := bids.find(path):
        return bids.read(path, subjects, strict), None
    if pair := pair_folders(path):
        left = ", ".join(beside_pairs(*pair))
        note = f"{left} beside {pair[0].name} and {pair[1].name} are left out" if left else ""
        return Listed("pairs of images and masks", read_pairs(*pair, progress.say), note=note), None
    if structures := structure_folders.find(path):
        return structure_folders.read(path, structures, strict), None
    folders = class_folders.scan(path, progress)
    kind = class_folders.kind_of(path, folders)
    found = [] if kind == "images" else named(class_folders.cases(path, folders, kind))
    notes = left_aside(folders.masks, folders.others, folders.loose)
    if others := class_folders.left_out(path, folders):
        notes.append(f"{', '.join(others)} beside the parts of the data are left out")
    if found and strict:
        class_folders.check(path, folders, kind)
        if kind == "volumes" and len(folders.images):
            notes.append(
                f"{len(folders.images):,} images are left out, as its class folders hold volumes "
                f"(the first is {folders.images[0]})"
            )
    return Listed("class folders", found, note="; ".join(notes)), folders
