"""Images in tar archives as webdataset writes them, read one by one where they lie.

The streaming loader of webdataset itself mixes samples in a buffer and shares archives among
processes. Then the order depends on how many there are, a run cannot go on in the middle of an
epoch with the samples it has not seen, and there is no sample 17 to draw again, to leave out or to
put in a batch of its own view. So the headers of the archives are read once, and a sample is a
place in an archive.
"""

import io
import re
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from crossd.data.dataset import PixelSamples, Sample, Samples, Subset
from crossd.data.disk_cache import state_of
from crossd.data.io.images import decode
from crossd.data.shapes import full_size
from crossd.data.shared_arrays import Handle, share
from crossd.data.source import Source
from crossd.data.sources.image_folder import DEFAULT_SIZE, channels_of, divided, prepared
from crossd.data.sources.tar_index import Members, scan
from crossd.data.splits import SPLITS
from crossd.errors import InputError
from crossd.utils.progress import Progress

OPEN = 64
"""Archives that a process holds open, at most."""

PART = re.compile(r"(train|val|test)(?![a-z])", re.IGNORECASE)


class Archives:
    """Files of which a part is read at a time; as many are held open as are used in turn."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self._open: OrderedDict[int, Handle] = OrderedDict()

    def __getstate__(self) -> dict[str, object]:
        return {"paths": self.paths, "_open": OrderedDict()}

    def read(self, number: int, start: int, size: int) -> bytes:
        """Read `size` bytes of an archive, fewer where it ends."""
        file = self._open.pop(number, None) or Handle.of(self.paths[number])
        self._open[number] = file  # the last one used is the last to be closed
        if len(self._open) > OPEN:
            self._open.popitem(last=False)
        return file.read(start, size)


class ShardSamples(PixelSamples):
    """Images in archives, with their classes.

    Args:
        members: Where they are.
        size: Height and width.
    """

    def __init__(self, members: Members, size: tuple[int, ...]) -> None:
        self.archives = Archives(members.archives)
        self.names = members.names
        self.archive, self.start = share(members.archive), share(members.start)
        self.bytes, self.labels = share(members.size), share(members.labels)
        self.shape = size

    def __len__(self) -> int:
        return len(self.names)

    def pixels(self, index: int) -> Sample:
        """Return a sample whose image has its 8 bits still, where it has no more."""
        image = prepared(self.load(index), self.channels, self.shape)
        assert self.labels is not None
        return {"image": image, "view": -1, "label": torch.tensor(self.labels.item(index))}

    def load(self, index: int) -> Image.Image:
        """Read the image of a sample as it is."""
        number, size = int(self.archive[index]), int(self.bytes[index])
        try:
            content = self.archives.read(number, int(self.start[index]), size)
        except OSError as error:
            why = f"cannot be read ({error.strerror})"
            raise InputError(f"{self.archives.paths[number]}: {why}") from error
        if len(content) < size:
            raise InputError(f"{self.name(index)}: the archive ends in it; fetch it again")
        return decode(io.BytesIO(content), self.name(index))

    def size(self, index: int) -> tuple[int, ...]:
        """Return the size that all samples have."""
        return self.shape

    def name(self, index: int) -> str:
        """Return the archive and the member in it."""
        return f"{self.archives.paths[int(self.archive[index])]}: {self.names[index]}"

    def case(self, index: int) -> str:
        """Return the member of a sample in its archive."""
        return self.names[index]

    def stamp(self, index: int) -> str | None:
        """Tell the place of a sample, with the size and the time of its archive."""
        path = self.archives.paths[int(self.archive[index])]
        try:
            state = state_of(path)
        except OSError:
            return None
        return f"{self.name(index)} {self.start[index]} {state} {self.shape} {self.channels}"


def open_shards(
    spec: str, paths: Sequence[Path], size: tuple[int, ...] | None, seed: int, progress: Progress
) -> Source:
    """Open archives of images.

    An image is a member that PIL reads. Its class is what the member of the same key says that
    ends in ``.cls``, or "label" in its ``.json``; else it is the last folder in its name. Archives
    named ``train...``, ``val...`` and ``test...``, or in folders of these names, are those parts;
    others are split 70/10/20 by `seed`.

    Args:
        spec: The source.
        paths: The archives.
        size: Height and width; 64 by 64 where None.
        seed: Decides on the splits that the archives do not fix.
        progress: Where to show the scan.

    Returns:
        The source, its images in [0, 1].

    Raises:
        InputError: When an archive is damaged or compressed, an image has no class, or there are
            no images or fewer than two classes.
    """
    shape = DEFAULT_SIZE if size is None else full_size(size, 2, spec)
    members = scan(paths, progress)
    if not len(members.names):
        raise InputError(f"{spec}: holds no images; expected members like key.jpg or key.png")
    if len(members.classes) < 2:
        raise InputError(f"{spec}: has one class, {members.classes[0]}; expected two or more")
    said = [_part(path) for path in paths]
    if len(set(said)) < 2:
        said = ["train"] * len(said)
    elif not {"train", "val"} <= set(said) or "" in said:
        known = ", ".join(sorted({part or "others" for part in said}))
        raise InputError(
            f"{spec}: has archives of {known}; expected train and val (and test), or name none so"
        )
    part_of = np.array([SPLITS.index(part) for part in said])[members.archive]
    present = np.unique(members.labels[part_of == 0])
    new = np.flatnonzero(~np.isin(members.labels, present))
    if len(new):
        where = f"{paths[members.archive[new[0]]]}: {members.names[int(new[0])]}"
        label = members.classes[members.labels[new[0]]]
        raise InputError(f"{where}: its class {label} is not in the archives of train")
    whole = ShardSamples(members, shape)
    whole.channels = channels_of(whole)
    found: dict[str, Samples] = {
        SPLITS[part]: Subset(whole, np.flatnonzero(part_of == part)) for part in np.unique(part_of)
    }
    train, val, test = divided(found, spec, seed)
    return Source(
        spec, 2, "classification", whole.channels, members.classes, shape, train, val, test
    )


def _part(path: Path) -> str:
    """Tell by its name, or that of its folder, which part an archive is of; "" if neither does."""
    found = PART.match(path.name)
    return path.parent.name if path.parent.name in SPLITS else found[1] if found else ""
