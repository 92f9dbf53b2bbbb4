"""What a source of data is, how one is opened, and how its training part is cut."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from crossd.data.plan import Plan
from crossd.data.samples import Samples, Subset
from crossd.data.splits import pick
from crossd.errors import InputError
from crossd.progress import Progress

if TYPE_CHECKING:
    from crossd.data.labelled import Given

KINDS = (
    "brain, medmnist:NAME, an .npz or .csv file, a folder of class folders, "
    "a folder with images/ and labels/, or .tar archives"
)
RANKS = {2: "images", 3: "volumes"}


@dataclass(frozen=True)
class Source:
    """Three splits of one set of data and what a network must know about it.

    Attributes:
        name: The string it was opened by.
        rank: 2 for images, 3 for volumes.
        task: What is learnt.
        channels: Channels of every image.
        classes: Names of the classes; the first is the background in segmentation.
        size: Spatial size of the training samples, ``(H, W)`` or ``(D, H, W)``.
        train: Training samples. Volumes that come as files, or with masks, may differ in size.
        val: Validation samples, likewise.
        test: Test samples, likewise.
        mean: Subtracted from every image.
        std: Divided by, after `mean` was subtracted.
        spacing: Size of a voxel in the order of the axes [mm], where it is known.
        plan: How volumes that come as files are prepared.
        values: What stands for each class in the files of masks.
    """

    name: str
    rank: int
    task: Literal["classification", "segmentation", "unlabelled"]
    channels: int
    classes: tuple[str, ...]
    size: tuple[int, ...]
    train: Samples
    val: Samples
    test: Samples
    mean: float = 0.0
    std: float = 1.0
    spacing: tuple[float, float, float] | None = None
    plan: Plan | None = None
    values: tuple[int, ...] = ()


def open_source(
    spec: str,
    *,
    size: Sequence[int] | None = None,
    seed: int = 0,
    channels: int | None = None,
    labels: bool = True,
    given: "Given | None" = None,
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
    from crossd.data.labelled import Given
    from crossd.data.normalise import normalise

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
    given: "Given",
    progress: Progress,
) -> Source:
    """Open the source by its kind. A kind is imported when it is needed."""
    if spec == "brain" or spec.startswith("brain:"):
        from crossd.data.brain import open_brain

        return open_brain(spec, size, seed)
    if spec.startswith("medmnist:"):
        from crossd.data.arrays import open_medmnist

        return open_medmnist(spec, size, seed)
    path = Path(spec).expanduser()
    if path.suffix.lower() not in (".npz", ".csv"):
        from crossd.data import tars

        archives = tars.find(spec)
        if archives:
            from crossd.data.shards import open_shards

            return open_shards(spec, archives, size, seed, progress)
    if not spec or not path.exists():
        raise InputError(f"{spec or 'empty name'}: no such file or folder; give {KINDS}")
    if not labels:
        from crossd.data.unlabelled import open_unlabelled

        bare = open_unlabelled(path, size, given, progress)
        if bare is not None:
            return bare
    if path.is_dir() or path.suffix.lower() == ".csv":
        from crossd.data import cases, index
        from crossd.data.images import open_images
        from crossd.data.labelled import open_cases

        root = path if path.is_dir() else path.parent
        if not path.is_dir():
            found = cases.read_table(path)
        elif pair := cases.pair_folders(path):
            found = cases.read_pairs(*pair)
        else:
            parts = index.scan(path, progress)
            found = cases.read_classes(path, parts) or []
            if not found:
                return open_images(path, size, seed, parts)
        return open_cases(spec, root, found, size, seed, given, progress)
    if path.suffix.lower() == ".npz":
        from crossd.data.arrays import open_npz

        return open_npz(path, size, seed)
    raise InputError(f"{spec}: cannot be read as a source of data; give {KINDS}")


def limit(source: Source, count: int, seed: int = 0) -> Source:
    """Cut the training part to `count` samples; validation and test stay.

    Where there are labels every class keeps its share, and at least one sample.

    Args:
        source: The source to cut.
        count: Number of training samples to keep.
        seed: Decides which.

    Returns:
        A source that shares its data with the one given.

    Raises:
        InputError: When there are fewer than `count` samples or more classes than `count`.

    Example:
        >>> class Three(Samples):
        ...     labels = np.array([0, 0, 1])
        >>> three = Three()
        >>> cut = limit(Source("x", 2, "classification", 1, ("a", "b"), (8, 8), *[three] * 3), 2)
        >>> cut.train.labels.tolist()
        [0, 1]
    """
    labels = source.train.labels
    total = len(source.train) if labels is None else len(labels)
    if not 1 <= count <= total:
        raise InputError(
            f"--limit {count}: {source.name} has {total} training samples; give 1 to {total}"
        )
    present = 1 if labels is None else len(np.unique(labels))
    if count < present:
        raise InputError(
            f"--limit {count}: {source.name} has {present} classes and each needs a sample; "
            f"give {present} to {total}"
        )
    strata = np.zeros(total, np.int64) if labels is None else labels
    return replace(source, train=Subset(source.train, pick(strata, count, seed)))


def require_rank(source: Source, rank: int, option: str) -> Source:
    """Return `source`, or raise when it holds images where volumes are needed or the reverse.

    Args:
        source: The source to check.
        rank: 2 for images, 3 for volumes.
        option: The option that it was given to, for the message.

    Returns:
        `source` itself.

    Raises:
        InputError: When the rank differs, naming the option and the source.

    Example:
        >>> source = Source("x.npz", 2, "classification", 1, ("a", "b"), (8, 8), *[Samples()] * 3)
        >>> require_rank(source, 3, "--volumes")
        Traceback (most recent call last):
        crossd.errors.InputError: --volumes x.npz: holds 2D images, but 3D volumes are needed
    """
    if source.rank != rank:
        hint = "; --slices makes images of volumes" if rank == 2 else ""
        raise InputError(
            f"{option} {source.name}: holds {source.rank}D {RANKS[source.rank]}, "
            f"but {rank}D {RANKS[rank]} are needed{hint}"
        )
    return source


def _show(size: Sequence[int]) -> str:
    return ",".join(str(side) for side in size)
