"""Images in tar archives as webdataset writes them, read one by one where they lie.

The streaming loader of webdataset itself mixes samples in a buffer and shares archives among
processes. Then the order depends on how many there are, a run cannot go on in the middle of an
epoch with the samples it has not seen, and there is no sample 17 to draw again, to leave out or to
put in a batch of its own view. So the headers of the archives are read once, and a sample is a
place in an archive.
"""

import io
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from crossd.data.dataset import Subset
from crossd.data.disk_cache import state_of
from crossd.data.file_names import shown
from crossd.data.io.images import decode
from crossd.data.shared_arrays import Handle, share
from crossd.data.source import Request, Source
from crossd.data.sources.case_list import require_distinct
from crossd.data.sources.image_files import DEFAULT_SIZE, ImageSamples
from crossd.data.sources.tar_index import Members, scan
from crossd.data.splits import SPLITS, divide
from crossd.errors import InputError

OPEN = 64
"""Archives that a process holds open, at most."""

PART = re.compile(r"(train|val|test)(?![a-z])", re.IGNORECASE)


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
        size = int(self.bytes[index])
        try:
            file = self.archives.opened(int(self.archive[index]))
            content = file.read(int(self.start[index]), size)
        except OSError as error:
            why = f"cannot be read ({error.strerror})"
            raise InputError(f"{self.path(index)}: {why}") from error
        if len(content) < size:
            raise InputError(f"{self.name(index)}: the archive ends in it; fetch it again")
        return decode(io.BytesIO(content), self.name(index))

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
    ends in ``.cls``, or "label" in its ``.json``; else it is the last folder in its name. Archives
    named ``train...``, ``val...`` and ``test...``, or in folders of these names, are those parts;
    others are split 70/10/20 by the seed.

    Images are 64 by 64 where no size is asked for, and grey unless one of a few is coloured.

    Raises:
        InputError: When an archive is damaged or compressed, an image has no class, or there are
            no images or fewer than two classes.
    """
    spec, shape = request.name, request.shape(2, DEFAULT_SIZE)
    members = scan(paths, request.progress)
    classes = tuple(map(shown, members.classes))
    require_distinct(classes, spec)
    if not len(members):
        raise InputError(f"{spec}: holds no images; expected members like key.jpg or key.png")
    if len(classes) < 2:
        raise InputError(f"{spec}: has one class, {classes[0]}; expected two or more")
    known = [_part(path) for path in paths]
    if len(set(known)) < 2:
        known = ["train"] * len(known)
    elif not {"train", "val"} <= set(known) or "" in known:
        found = ", ".join(sorted({part or "others" for part in known}))
        raise InputError(
            f"{spec}: has archives of {found}; expected train and val (and test), or name none so"
        )
    whole = ShardSamples(paths, members, shape)
    said = np.array(known)[members.archive]
    new = np.flatnonzero(~np.isin(members.labels, members.labels[said == "train"]))
    if len(new):
        label = classes[members.labels[new[0]]]
        raise InputError(
            f"{whole.name(int(new[0]))}: its class {label} is not in the archives of train"
        )
    divided = divide(said, members.labels, request.seed, spec, say=request.progress.say)
    train, val, test = (Subset(whole, own) for own in divided)
    return Source(spec, 2, "classification", whole.channels, classes, shape, train, val, test)


def _part(path: Path) -> str:
    """Tell by its name, or that of its folder, which part an archive is of; "" if neither does."""
    found = PART.match(path.name)
    return path.parent.name if path.parent.name in SPLITS else found[1] if found else ""
