"""`crossd predict`: new images and volumes in, labels and masks out, file by file."""

import contextlib
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from crossd import device, masks, segmenting
from crossd.checkpoint import WeightsConfig, load, read_config
from crossd.configs import PredictConfig
from crossd.data import cases as lists
from crossd.data import images, index
from crossd.data.cases import Case
from crossd.data.formats import is_dicom, is_volume, read_header, stem
from crossd.data.volumes import read_entry
from crossd.errors import InputError
from crossd.files import atomic
from crossd.options import check
from crossd.progress import Progress
from crossd.slicenet import answering

TABLE = "predictions.csv"
KEEP_EVERY = 200
"""Lines after which the table is written, beside at the end."""


def predict(config: PredictConfig, progress: Progress) -> str:
    """Label or segment files; returns what to print.

    Raises:
        InputError: At once when nothing can be done; at the end when some files were skipped.
    """
    check(config)
    weights = read_config(config.weights)
    fabric = device.alone(config.precision)
    how = config.answer or weights.answer
    net = answering(load(config.weights), how, weights.task).to(fabric.device)
    found = inputs(config.input, weights.in_channels)
    folder = Path(config.out)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder} is a file: name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    segmentation = weights.task == "segmentation"
    rows = {} if segmentation or config.overwrite else _read_table(folder / TABLE)
    done, skipped, faults = 0, 0, []

    def keep() -> None:
        if not segmentation:
            _write_table(folder / TABLE, rows, weights.classes)

    with contextlib.ExitStack() as stack:
        stack.callback(keep)  # also when it is interrupted
        bar = stack.enter_context(progress.task("predicting", total=len(found)))
        for case in found:
            try:
                if segmentation:
                    new = _segment(net, case, weights, folder, fabric, config)
                elif str(case.images[0]) in rows:
                    new = False
                else:
                    answer = _label(net, case, weights, fabric)
                    rows[str(case.images[0])] = answer.tolist()
                    new = True
                    if len(rows) % KEEP_EVERY == 0:
                        keep()
                done, skipped = done + new, skipped + (not new)
            except InputError as error:
                faults.append(str(error))
                progress.say(f"skipped: {error}")
            bar.advance(1)
    what = "masks in" if segmentation else "lines in"
    where = folder if segmentation else folder / TABLE
    already = f", {skipped:,} were there already (--overwrite makes them anew)" if skipped else ""
    outcome = f"{done:,} new {what} {where}{already}"
    if faults:
        raise InputError(
            f"{len(faults):,} of {len(found):,} could not be read, the first: {faults[0]} "
            f"({outcome})"
        )
    return outcome


def inputs(paths: Sequence[str], channels: int) -> list[Case]:
    """List what is to be predicted.

    Args:
        paths: Files, folders (searched at any depth), folders of DICOM series, csv files.
        channels: Of the network: with several, files ``NAME_0000``, ``NAME_0001``, ... of a folder
            are the modalities of one case.

    Returns:
        The cases, each with a name of its own, below which its answer is written.

    Raises:
        InputError: When a path does not exist or holds nothing to predict.
    """
    found: list[Case] = []
    for text in dict.fromkeys(paths):
        path = Path(text).expanduser()
        if not text or not path.exists():
            raise InputError(f"{text or 'empty name'}: no such file or folder")
        if path.suffix.lower() == ".csv":
            found += lists.read_table(path, labels=False)
        elif path.is_dir():
            found += _below(path, channels)
        elif is_volume(path) or path.suffix.lower() in index.suffixes():
            found.append(Case(stem(path), (path,)))
        else:
            raise InputError(
                f"{path}: cannot be predicted; expected NIfTI, NRRD, MetaImage, DICOM, an image "
                "that PIL reads, a folder of them, or a csv with the column image"
            )
    names: set[str] = set()
    for case in found:
        if case.name in names:
            raise InputError(
                f"{case.images[0]}: would be answered as {case.name}, like another file; give a "
                "folder that holds both, or one after the other with another --out"
            )
        names.add(case.name)
    return found


def _below(folder: Path, channels: int) -> list[Case]:
    """List the images and volumes below a folder."""
    paths = index.volumes_below(folder) or index.files(folder)
    if not paths:
        raise InputError(f"{folder}: holds no image or volume that can be read")
    if paths == [folder]:
        return [Case(folder.name, (folder,))]
    groups: dict[str, list[Path]] = {}
    for path in paths:
        name = (path.parent.relative_to(folder) / stem(path)).as_posix()
        numbered = lists.MODALITY.fullmatch(name) if channels > 1 else None
        if name in groups and not numbered:
            raise InputError(
                f"{path}: would be answered as {name}, like {groups[name][0].name}; remove one, or "
                "give each by itself"
            )
        groups.setdefault(numbered[1] if numbered else name, []).append(path)
    return [Case(name, tuple(files)) for name, files in groups.items()]


def _is_flat(path: Path) -> bool:
    if path.is_dir():
        return False
    return read_header(path).shape[2] == 1 if is_dicom(path) else not is_volume(path)


def _segment(
    net: nn.Module,
    case: Case,
    weights: WeightsConfig,
    folder: Path,
    fabric: Any,
    config: PredictConfig,
) -> bool:
    """Write the mask of one case; False when it is there already."""
    values = weights.values or tuple(range(len(weights.classes)))
    if _is_flat(case.images[0]):
        out = folder / f"{case.name}.png"
        if out.exists() and not config.overwrite:
            return False
        mask = segment_image(net, case, weights, fabric)
        with atomic(out) as temporary:
            Image.fromarray(masks.valued(mask.numpy(), values)).save(temporary)
        return True
    _check_solid(weights, case)
    entry = read_entry(case)
    header = entry.images[0]
    out = folder / f"{case.name}{masks.suffix_of(header)}"
    second = folder / f"{case.name}.dcm" if config.dicom_seg and header.files else None
    if out.exists() and (second is None or second.exists()) and not config.overwrite:
        return False
    found = segmenting.segment(net, entry, weights, fabric, config.flips)
    if case.spacing is not None:  # of the csv: it tells how to read, not where the file lies
        header = read_header(case.images[0])
    masks.write(found, header, values, out)
    if second is not None:
        masks.write_dicom_seg(found, header, weights.classes, second)
    return True


def _check_solid(weights: WeightsConfig, case: Case) -> None:
    if weights.form == "2d":
        raise InputError(
            f"{case.images[0]}: is a volume, which a plain 2D network cannot take: bring the "
            "weights to Cross-D first with crossd convert --to cross"
        )


@torch.no_grad()
def segment_image(net: nn.Module, case: Case, weights: WeightsConfig, fabric: Any) -> Tensor:
    """Give the class of every pixel of an image in its own size, uint8, ``(H, W)``."""
    x = _read_flat(case, weights, crop=False)
    with fabric.autocast():
        logits = net(fabric.to_device(x[None])).float()
    shape = images.shape_of(case.images[0])
    whole = F.interpolate(logits.softmax(1), size=shape, mode="bilinear")
    return whole[0].argmax(0).to(torch.uint8).cpu()


@torch.no_grad()
def _label(net: nn.Module, case: Case, weights: WeightsConfig, fabric: Any) -> Tensor:
    """Give the class probabilities of an image or a volume, ``(K,)``."""
    if not _is_flat(case.images[0]):
        _check_solid(weights, case)
        return segmenting.label(net, read_entry(case), weights, fabric)
    x = _read_flat(case, weights, crop=True)
    with fabric.autocast():
        logits: Tensor = net(fabric.to_device(x[None]))
    return logits.float().softmax(1)[0].cpu()


def _read_flat(case: Case, weights: WeightsConfig, crop: bool) -> Tensor:
    """Read an image as in training, ``(C, H, W)``."""
    if weights.form == "3d":
        raise InputError(f"{case.images[0]}: is an image, which a plain 3D network cannot take")
    if len(weights.size) != 2:
        raise InputError(f"{case.images[0]}: is an image, but the weights are for volumes")
    count = len(case.images)
    if weights.in_channels % count:
        raise InputError(f"{case.images[0]}: has {count} files, expected {weights.in_channels}")
    planes = [
        images.read_image(path, weights.in_channels // count, weights.size, crop)
        for path in case.images
    ]
    return (torch.cat(planes) - weights.mean) / weights.std


def _read_table(path: Path) -> dict[str, list[float]]:
    """Read the lines that an earlier run wrote."""
    if not path.is_file():
        return {}
    try:
        lines = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
        return {line[0]: [float(cell) for cell in line[2:]] for line in lines[1:]}
    except (ValueError, IndexError, csv.Error) as error:
        raise InputError(f"{path}: is not what crossd predict wrote; --overwrite it") from error


def _write_table(path: Path, rows: dict[str, list[float]], classes: Sequence[str]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "class", *(f"p_{name}" for name in classes)])
    for name, values in rows.items():
        best = classes[int(np.argmax(values))]
        writer.writerow([name, best, *(f"{value:.6f}" for value in values)])
    with atomic(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
