"""Images in tar archives as webdataset writes them, read one by one where they lie.

The streaming loader of webdataset itself mixes samples in a buffer and shares archives among
processes. Then the order depends on how many there are, a run cannot go on in the middle of an
epoch with the samples it has not seen, and there is no sample 17 to draw again, to leave out or to
put in a batch of its own view. So the headers of the archives are read once, and a sample is a
place in an archive.
"""

import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crossd.data.dataset import Subset
from crossd.data.disk_cache import state_of
from crossd.data.file_names import shown
from crossd.data.io.images import decode
from crossd.data.shared_arrays import Handle, share
from crossd.data.source import Request, Source
from crossd.data.sources.belonging import ENOUGH, Look, digest_of, kept_whole
from crossd.data.sources.case_list import Case, require_distinct
from crossd.data.sources.class_folders import require_classes
from crossd.data.sources.image_files import DEFAULT_SIZE, ImageSamples
from crossd.data.sources.tar_index import PARTS, Members, scan
from crossd.data.sources.tar_names import left_out, parts_of
from crossd.data.splits import divide
from crossd.errors import InputError

OPEN = 64
"""Archives that a process holds open, at most."""


class Archives:
    """Archives that are opened when they are read; as many stay open as are used in turn."""

    def __init__(self, paths: Sequence[Path]) -> None:
        paths = tuple(paths)
        self.paths = paths
        self.opened = lru_cache(OPEN)(lambda number: Handle.of(paths[number]))

    def __reduce__(self) -> tuple[object, ...]:
        return Archives, (self.paths,)  # without what is open


class ShardSamples(ImageSamples):
    """Images in archives, with their classes.

    Args:
        paths: The archives.
        members: Where in them the images are.
        size: Height and width.
    """

    def __init__(self, paths: Sequence[Path], members: Members, size: tuple[int, ...]) -> None:
        super().__init__(members.labels, size)
        self.archives = Archives(paths)
        self.names = members.names
        self.archive, self.start = share(members.archive), share(members.start)
        self.bytes = share(members.size)
        self.see_colours(np.arange(len(members)))

    def __len__(self) -> int:
        return len(self.names)

    def load(self, index: int) -> Image.Image:
        """Read the image of a sample as it is."""
        try:
            content = self.content(index)
        except OSError as error:
            why = f"cannot be read ({error.strerror})"
            raise InputError(f"{self.path(index)}: {why}") from error
        if len(content) < int(self.bytes[index]):
            raise InputError(f"{self.name(index)}: the archive ends in it; fetch it again")
        return decode(io.BytesIO(content), self.name(index))

    def content(self, index: int, last: int | None = None) -> bytes:
        """Read what the archive holds of a sample, or the last bytes of that.

        Raises:
            OSError: When the archive cannot be read.
        """
        size = int(self.bytes[index])
        own = size if last is None else min(last, size)
        file = self.archives.opened(int(self.archive[index]))
        return file.read(int(self.start[index]) + size - own, own)

    def looks(self) -> list[Look]:
        """Return how samples are compared, as files are: by their sizes, their ends, and whole."""
        return [
            lambda index: int(self.bytes[index]),
            lambda index: self.content(index, ENOUGH),
            lambda index: digest_of(self.content(index)),
        ]

    def path(self, index: int) -> Path:
        """Return the archive that holds a sample."""
        return self.archives.paths[int(self.archive[index])]

    def state(self, index: int) -> object:
        """Return the place of a sample, with the size and the time of its archive."""
        return int(self.start[index]), state_of(self.path(index))

    def name(self, index: int) -> str:
        """Return the archive and the member in it."""
        return f"{self.path(index)}: {self.case(index)}"

    def case(self, index: int) -> str:
        """Return the member of a sample in its archive."""
        return self.names[index]


def open_shards(request: Request, paths: Sequence[Path]) -> Source:
    """Open archives of images.

    An image is a member that PIL reads. Its class is what the member of the same key says that
    ends in ``.cls``, or "label" in its ``.json``; where no sample has these, it is the last folder
    in its name. Archives with a word like train, val or test in their names, or in folders of such
    names, are those parts, as are members below such folders; others are split 70/10/20 by the
    seed. Images of one subject of BIDS, and those that hold the same, stay together.

    Images are 64 by 64 where no size is asked for, and grey unless one of a few is coloured.

    Raises:
        InputError: When an archive is damaged or compressed, an image has no class, there are no
            images or fewer than two classes, or two parts share an image.
    """
    spec, shape, progress = request.name, request.shape(2, DEFAULT_SIZE), request.progress
    if others := left_out(Path(spec).expanduser()):
        progress.say(f"{spec}: {', '.join(others)} beside the parts of the data are left out")
    members = scan(paths, progress)
    classes = tuple(map(shown, members.classes))
    require_distinct(classes, spec)
    require_classes(classes, spec)
    if len(classes) < 2:
        raise InputError(f"{spec}: has one class, {classes[0]}; expected two or more")
    whole = ShardSamples(paths, members, shape)
    said = _parts(whole, members, spec)
    new = np.flatnonzero(~np.isin(members.labels, members.labels[np.isin(said, ("", "train"))]))
    if len(new):
        label = classes[members.labels[new[0]]]
        raise InputError(f"{whole.name(int(new[0]))}: its class {label} is not in those to train")

    def cases() -> list[Case]:
        files = [Path(f"{whole.path(i)}/{whole.case(i)}") for i in range(len(whole))]
        return [
            Case(str(file), (file,), label=classes[label], split=str(part))
            for file, part, label in zip(files, said, members.labels.tolist(), strict=True)
        ]

    whole.groups = kept_whole(cases, len(whole), spec, progress, request.given, whole.looks())
    divided = divide(said, members.labels, request.seed, spec, whole.groups, progress.say)
    train, val, test = (Subset(whole, own) for own in divided)
    return Source(spec, 2, "classification", whole.channels, classes, shape, train, val, test)


def _parts(whole: ShardSamples, members: Members, spec: str) -> NDArray[np.str_]:
    """Give the part of every image, which its folders say or its archive; "" where none is said.

    Raises:
        InputError: When both say one, and not the same; or some images are of no part, or none is
            to train.
    """
    above = np.array(parts_of(whole.archives.paths))[members.archive]
    inside = np.array(PARTS)[members.parts]
    torn = np.flatnonzero((above != "") & (inside != "") & (above != inside))
    if len(torn):
        i = int(torn[0])
        raise InputError(
            f"{whole.name(i)}: its folders say {inside[i]}, but its archive {above[i]}; rename one"
        )
    said = np.where(inside == "", above, inside)
    known = sorted(set(said.tolist()))
    if len(known) == 1:  # of one part alone: it is divided
        return np.full(len(said), "")
    if "" in known:
        i = int(np.flatnonzero(said == "")[0])
        raise InputError(
            f"{whole.name(i)}: is of no part, but others are of {' and '.join(known[1:])}; name "
            "all archives, or folders in them, train, val or test, or none"
        )
    if "train" not in known:
        raise InputError(f"{spec}: has a part to {known[0]} but none to train; add it")
    return said
