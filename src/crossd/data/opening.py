"""Opening a source of data: one string names it, and its kind is found by looking.

Items are dictionaries of tensors in the order channel, depth, height, width. A volume is
oriented so that its axes run to superior, anterior and right (RAS reversed).
"""

from collections.abc import Sequence
from pathlib import Path

from crossd.data.preprocessing.normalise import normalise
from crossd.data.source import Given, Source
from crossd.data.sources import case_folders, folder_index, tar_names
from crossd.data.sources.case_list import Case
from crossd.data.sources.case_table import read_table
from crossd.data.sources.folder_index import Part
from crossd.data.sources.image_folder import open_images
from crossd.data.sources.labelled import open_cases
from crossd.data.sources.npz import open_medmnist, open_npz
from crossd.data.sources.synthetic_brain import open_brain
from crossd.data.sources.tar_shards import open_shards
from crossd.data.sources.unlabelled import open_unlabelled
from crossd.errors import InputError
from crossd.utils.progress import Progress

KINDS = (
    "brain, medmnist:NAME, an .npz or .csv file, a folder of class folders, "
    "a folder with images/ and labels/, or .tar archives"
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
            folder with ``images/`` and ``labels/`` or ``masks/``, or ``.tar`` archives: one, a
            folder of them, or a pattern such as ``train-{000..099}.tar``.
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
    given, progress = given or Given(), progress or Progress(quiet=True)
    shape = None if size is None else tuple(int(side) for side in size)
    if shape is not None and (not shape or min(shape) < 1):
        raise InputError(f"--size {_show(shape)}: every side must be at least 1")
    source = _open(spec, shape, seed, labels, given, progress)
    return normalise(source, channels, seed, given.statistics)


def _open(
    spec: str,
    size: tuple[int, ...] | None,
    seed: int,
    labels: bool,
    given: Given,
    progress: Progress,
) -> Source:
    """Open the source by its kind."""
    if spec == "brain" or spec.startswith("brain:"):
        return open_brain(spec, size, seed)
    if spec.startswith("medmnist:"):
        return open_medmnist(spec, size, seed)
    path = Path(spec).expanduser()
    archives = archives_of(spec)
    if archives:
        return open_shards(spec, archives, size, seed, progress)
    if not spec or not path.exists():
        raise InputError(f"{spec or 'empty name'}: no such file or folder; give {KINDS}")
    if not labels:
        bare = open_unlabelled(path, size, given, progress)
        if bare is not None:
            return bare
    if is_list(path):
        found, folders = list_cases(path, progress)
        if not found:
            return open_images(path, size, seed, folders)
        root = path if path.is_dir() else path.parent
        return open_cases(spec, root, found, size, seed, given, progress)
    if path.suffix.lower() == ".npz":
        return open_npz(path, size, seed)
    raise InputError(f"{spec}: cannot be read as a source of data; give {KINDS}")


def archives_of(spec: str) -> list[Path] | None:
    """List the tar archives that a name stands for; None where it stands for something else."""
    named = Path(spec).suffix.lower() in (".npz", ".csv")
    return None if named else tar_names.find(spec)


def is_list(path: Path) -> bool:
    """Tell whether a path lists files: a csv, or a folder that is none of archives."""
    return path.is_dir() or (path.suffix.lower() == ".csv" and path.is_file())


def list_cases(
    path: Path, progress: Progress, strict: bool = True
) -> tuple[list[Case], dict[str, Part]]:
    """List what a csv or a folder holds.

    Args:
        path: For which `is_list` holds.
        progress: Where to show a scan.
        strict: Refuse what a training cannot use: files of a csv that do not exist, patients in
            two splits, classes of volumes without a training case.

    Returns:
        The cases; and what lies in the class folders. There are no cases where these hold none but
        images, which may be a million.

    Raises:
        InputError: When it cannot be understood.
    """
    if not path.is_dir():
        return read_table(path, strict=strict), {}
    if pair := case_folders.pair_folders(path):
        return case_folders.read_pairs(*pair), {}
    folders = folder_index.scan(path, progress)
    found = case_folders.read_classes(path, folders)
    if found and strict:
        case_folders.check_classes(path, folders, "volumes")
        images = case_folders.image_classes(path, folders)
        if images:
            progress.say(
                f"{path}: {len(images):,} images are left out, as its class folders hold volumes "
                f"(the first is {images[0].name})"
            )
    return found, folders


def _show(size: Sequence[int]) -> str:
    return ",".join(str(side) for side in size)
