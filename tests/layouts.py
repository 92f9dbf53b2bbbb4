"""Small data sets in layouts of others that tests write: TotalSegmentator's folders, and BIDS."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import files
import nibabel as nib
import numpy as np

SHAPE = (9, 10, 11)
STRUCTURES = ("aorta", "liver", "spleen")
PARTS = ("train", "train", "train", "val", "test")


def box(number: int, shift: int = 0) -> Any:
    """Return a mask ``(x, y, z)`` of 0 and 1: a box of its own for each number up to 3."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[1 + shift : 3 + shift, 3 * number : 3 * number + 2, 2:8] = 1
    return mask


def image(seed: int, masks: Sequence[Any] = ()) -> Any:
    """Return noise, with what lies in masks brighter."""
    noise = np.random.default_rng(seed).normal(0, 10, SHAPE)
    for number, mask in enumerate(masks, start=1):
        noise[mask > 0] += 100 * number
    return noise.astype(np.float32)


def voxels(path: Path) -> Any:
    """Read a NIfTI file ``(x, y, z)``."""
    loaded: Any = nib.load(path)
    return loaded.get_fdata()


def totalsegmentator(
    root: Path, count: int = 10, structures: Sequence[str] = STRUCTURES, meta: bool = True
) -> Path:
    """Write folders of an image and a mask of each structure."""
    lines = ["image_id;age;split;pathology"]
    for i in range(count):
        folder = root / f"s{i:04}"
        masks = [box(k, i % 4) for k in range(len(structures))]
        files.nifti(folder / "ct.nii.gz", image(i, masks))
        for name, mask in zip(structures, masks, strict=True):
            files.nifti(folder / "segmentations" / f"{name}.nii.gz", mask)
        lines.append(f"s{i:04};{40 + i};{PARTS[i % 5]};none")
    if meta:
        (root / "meta.csv").write_text("\n".join(lines) + "\n")
    return root


def bids(
    root: Path,
    subjects: int = 10,
    sessions: int = 1,
    suffixes: Sequence[str] = ("T1w",),
    masks: Mapping[str, int] | None = None,
    columns: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    """Write a data set in BIDS.

    Args:
        root: Where.
        subjects: How many.
        sessions: Of each; with one, there are no folders of sessions.
        suffixes: The images of each session.
        masks: Below derivatives: what follows subject and session in the name of the file, with the
            folder of the pipeline, and which box it shows (0: all three, as 1, 2, 3).
        columns: Of participants.tsv, beside age.
    """
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset_description.json").write_text('{"Name": "X", "BIDSVersion": "1.9.0"}')
    columns = columns or {}
    lines = ["\t".join(["participant_id", "age", *columns])]
    for i in range(subjects):
        cells = [own[i % len(own)] for own in columns.values()]
        lines.append("\t".join([f"sub-{i:02}", str(30 + i), *cells]))
        for k in range(sessions):
            names = [f"sub-{i:02}", *([f"ses-{k}"] if sessions > 1 else [])]
            below, start = Path(*names, "anat"), "_".join(names)
            drawn = [box(number, (i + k) % 4) for number in range(3)]
            for number, suffix in enumerate(suffixes):
                file = root / below / f"{start}_{suffix}.nii.gz"
                files.nifti(file, image(100 * i + 10 * k + number, drawn))
                file.with_name(f"{start}_{suffix}.json").write_text("{}")
            for name, number in (masks or {}).items():
                pipeline, _, end = name.rpartition("/")
                mask = drawn[number - 1] if number else sum(m * n for n, m in enumerate(drawn, 1))
                folder = root / "derivatives" / pipeline / below
                files.nifti(folder / f"{start}_{end}.nii.gz", mask)
    (root / "participants.tsv").write_text("\n".join(lines) + "\n")
    return root
