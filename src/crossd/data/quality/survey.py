"""Looking at every sample of a source before anything is trained: what it is, or why it cannot be.

Faults do not stop the look, as `crossd.data.open_source` would: they are what is looked for.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossd.data.io.header import is_dicom, is_volume
from crossd.data.io.read import holds_volume, read_header
from crossd.data.opening import open_source
from crossd.data.preprocessing import volume_dataset
from crossd.data.source import Source
from crossd.data.sources import case_list as lists
from crossd.data.sources import folder_index, image_folder
from crossd.data.sources.case_list import Case
from crossd.data.splits import SPLITS, split
from crossd.errors import InputError
from crossd.utils.progress import Progress

THUMB = 96
"""Longest side of what is kept to be drawn [pixels]."""

SOME = 2000
"""Values of each sample that the histogram is made of, about."""

NO_PART = "all"
NO_CLASS = ""


@dataclass
class SampleFacts:
    """What was found in one sample.

    Attributes:
        name: Its file, or its number.
        part: "train", "val" or "test"; "all" of a source without labels.
        label: Name of its class; "" with a mask, or without labels.
        group: Its patient, where that is known.
        fault: Why it cannot be read; the rest is as it is by default then.
        size: Voxels as stored in canonical order, ``(D, H, W)`` or ``(H, W)``.
        spacing: Size of a voxel in the order of the axes [mm], where the file says it.
        channels: Numbers a voxel.
        low: Least value.
        high: Greatest value.
        digest: Of all values; equal for equal samples.
        values: Some of the values.
        thumb: The middle slice, or the one with most of a mask, made small.
        mask: The same slice of the mask.
        voxels: How many voxels of the mask hold each value.
    """

    name: str
    part: str
    label: str = NO_CLASS
    group: str = ""
    fault: str = ""
    size: tuple[int, ...] = ()
    spacing: tuple[float, ...] | None = None
    channels: int = 0
    low: float = 0.0
    high: float = 0.0
    digest: str = ""
    values: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    thumb: NDArray[np.float32] | None = None
    mask: NDArray[np.int64] | None = None
    voxels: dict[int, int] = field(default_factory=dict)


@dataclass
class Survey:
    """What is known of a source.

    Attributes:
        name: The string it was opened by.
        total: How many samples it has; no more than a limit of them are looked at.
        counts: Samples of each part and class, of all of them.
        looks: What was found.
        notes: What else there is to say.
    """

    name: str
    total: int
    counts: dict[str, dict[str, int]]
    looks: list[SampleFacts]
    notes: list[str] = field(default_factory=list)

    def classes(self, among: Sequence[str] | None = None) -> list[str]:
        """Return the names of the classes (those that are among others), numbers by their value."""
        names = {label for counts in self.counts.values() for label in counts if label}
        known = names if among is None else names & set(among)
        return sorted(known, key=lambda t: (not t.isdecimal(), int(t) if t.isdecimal() else 0, t))


def survey(spec: str, limit: int, seed: int, progress: Progress) -> Survey:
    """Look at the samples of a source.

    Args:
        spec: As `crossd.data.open_source` takes it.
        limit: Samples to look at, at most, evenly spread over all.
        seed: Decides on the split, where the data have none.
        progress: Where to show how far it is.

    Raises:
        InputError: When it is no source, or a list of files that cannot be understood at all.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "tiny.npz"
        >>> images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 8), dtype=np.uint8)
        >>> np.savez(file, images=images, labels=np.arange(20) % 2)
        >>> found = survey(str(file), 10, 0, Progress(quiet=True))
        >>> found.total, len(found.looks), found.counts["train"]
        (20, 10, {'0': 7, '1': 7})
    """
    path = Path(spec).expanduser()
    found = _cases(path) if spec and path.exists() else None
    if found is None:
        source = open_source(spec, seed=seed, labels=False, progress=progress)
        return _of_source(source, limit, progress)
    parts, notes = _parts(found, spec, seed)
    counts = _counts(zip(parts, (case.label or NO_CLASS for case in found), strict=True))
    chosen = _some(len(found), limit)
    looks = []
    with progress.task("looking at samples", total=len(chosen)) as bar:
        for i in chosen:
            looks.append(_look(found[i], parts[i]))
            bar.advance(1)
    return Survey(spec, len(found), counts, looks, notes)


def _cases(path: Path) -> list[Case] | None:
    """List what a path holds; None where it is one file of arrays."""
    if path.suffix.lower() == ".csv" and path.is_file():
        return lists.read_table(path, strict=False)
    if not path.is_dir():
        return None
    if pair := lists.pair_folders(path):
        return lists.read_pairs(*pair)
    found = lists.read_classes(path) or _image_classes(path)
    if not found:
        found = [Case(name, (file,)) for name, file in lists.entries(path).items()]
    if not found:
        raise InputError(f"{path}: holds no image or volume that can be read")
    return found


def _image_classes(root: Path) -> list[Case]:
    fixed = [part for part in SPLITS if (root / part).is_dir()]
    return [
        Case(str(file.relative_to(root)), (file,), label=folder.name, split=part)
        for part in fixed or [""]
        for folder in sorted(p for p in (root / part).iterdir() if p.is_dir())
        if not folder.name.startswith(".")
        for file in folder_index.files(folder)
    ]


def _parts(found: Sequence[Case], spec: str, seed: int) -> tuple[list[str], list[str]]:
    """Give the part of every case, as a training would, and what there is to say of it."""
    if not any(case.label or case.mask for case in found):
        return [NO_PART] * len(found), []
    names = sorted({case.label or "" for case in found})
    labels = np.array([names.index(case.label or "") for case in found], np.int64)
    said = {case.split for case in found}
    if "" in said and len(said) > 1:  # a csv, which a training refuses
        count = sum(not case.split for case in found)
        note = f"the split of {count:,} samples is empty, of others not: a training refuses that"
        return [case.split or NO_PART for case in found], [note]
    try:
        if said == {"train", "val"} and not is_volume(found[0].images[0]) and Path(spec).is_dir():
            return _halved(found, labels, seed, spec), []
        divided = lists.parts(found, labels, seed, spec)
    except InputError as error:
        return [case.split or "train" for case in found], [str(error)]
    parts = np.empty(len(found), object)
    for part, indices in zip(SPLITS, divided, strict=True):
        parts[indices] = part
    missing = [part for part in SPLITS if part not in said]
    notes = []
    if missing:
        notes = [f"the data do not say which samples are {', '.join(missing)}: drawn by the seed"]
    return parts.tolist(), notes


def _halved(found: Sequence[Case], labels: NDArray[np.int64], seed: int, where: str) -> list[str]:
    """Halve the validation images of a folder without ``test/``, as `image_folder` does."""
    val = np.flatnonzero([case.split == "val" for case in found])
    parts = np.array([case.split for case in found], object)
    parts[val[split(labels[val], (0.5, 0.5), seed, where)[1]]] = "test"
    halved: list[str] = parts.tolist()
    return halved


def _counts(pairs: Iterable[tuple[str, str]]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for part, label in pairs:
        own = counts.setdefault(part, {})
        own[label] = own.get(label, 0) + 1
    return {part: dict(sorted(counts[part].items())) for part in (*SPLITS, NO_PART)
            if part in counts}  # fmt: skip


def _some(total: int, limit: int) -> list[int]:
    places = np.linspace(0, total - 1, min(total, limit)).round().astype(int)
    chosen: list[int] = np.unique(places).tolist()
    return chosen


def _look(case: Case, part: str) -> SampleFacts:
    look = SampleFacts(case.name, part, case.label or NO_CLASS, case.group)
    path = case.images[0]
    mask: NDArray[np.int64] | None = None
    try:
        if holds_volume(path):
            entry = volume_dataset.read_entry(case)
            array = volume_dataset.read_image(entry)
            look.spacing = entry.images[0].spacing
            if entry.mask is not None:
                mask = volume_dataset.whole_mask(entry.mask).astype(np.int64)
        else:
            array = np.concatenate([image_folder.pixels(file) for file in case.images])
            if case.mask is not None:
                mask = image_folder.raw_mask(case.mask)
                if mask.shape != array.shape[1:]:
                    raise InputError(
                        f"{case.mask}: has the shape {mask.shape}, but {path} {array.shape[1:]}; "
                        "image and mask must agree"
                    )
        look.group = look.group or _patient(path)
    except (InputError, OSError, ValueError) as error:
        look.fault = " ".join(str(error).split())
        return look
    _fill(look, array, mask)
    return look


def _patient(path: Path) -> str:
    """Return the patient that a DICOM file or series names."""
    if not (path.is_dir() or is_dicom(path)):
        return ""
    import pydicom

    files = read_header(path).files
    data = pydicom.dcmread(files[0] if files else path, specific_tags=["PatientID"],
                           stop_before_pixels=True)  # fmt: skip
    return str(data.get("PatientID", "") or "")


def _fill(look: SampleFacts, array: NDArray[np.float32], mask: NDArray[np.int64] | None) -> None:
    """Write down what an image ``(C, *spatial)`` and its mask hold."""
    look.size, look.channels = array.shape[1:], len(array)
    look.low, look.high = float(array.min()), float(array.max())
    digest = hashlib.blake2b(repr(array.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(array).tobytes())
    look.digest = digest.hexdigest()
    flat = array[0].reshape(-1)
    look.values = flat[:: max(1, flat.size // SOME)].astype(np.float32)
    image = array[0] if len(array) != 3 or array.ndim == 4 else array.mean(0)
    if mask is not None:
        values, counts = np.unique(mask, return_counts=True)
        look.voxels = dict(zip(values.tolist(), counts.tolist(), strict=True))
    if image.ndim == 3:
        place = len(image) // 2
        if mask is not None and (mask > 0).any():
            place = int((mask > 0).sum((1, 2)).argmax())
        image, mask = image[place, ::-1], None if mask is None else mask[place, ::-1]
    step = max(1, -(-max(image.shape) // THUMB))
    look.thumb = image[::step, ::step].astype(np.float32)
    look.mask = None if mask is None else mask[::step, ::step].copy()


def _of_source(source: Source, limit: int, progress: Progress) -> Survey:
    """Look at a source that is opened as a whole, as arrays in one file are."""
    bare = source.task == "unlabelled"
    parts = [(NO_PART, source.train)] if bare else list(
        zip(SPLITS, (source.train, source.val, source.test), strict=True)
    )  # fmt: skip
    where = [(part, samples, i) for part, samples in parts for i in range(len(samples))]
    classes = source.classes

    def label(samples: object, i: int) -> str:
        own = getattr(samples, "labels", None)
        return NO_CLASS if own is None or bare else classes[int(own[i])]

    counts = _counts((part, label(samples, i)) for part, samples, i in where)
    chosen = _some(len(where), limit)
    looks = []
    with progress.task("looking at samples", total=len(chosen)) as bar:
        for part, samples, i in (where[k] for k in chosen):
            look = SampleFacts(f"{part} {samples.name(i)}", part, label(samples, i))
            sample = samples[i]
            array = (sample["image"] * source.std + source.mean).numpy()
            _fill(look, array, sample["mask"].numpy() if "mask" in sample else None)
            look.spacing = source.spacing
            looks.append(look)
            bar.advance(1)
    return Survey(source.name, len(where), counts, looks)
