"""`crossd predict`: new images and volumes in, labels and masks out, file by file."""

import contextlib
import dataclasses
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from crossd.cli.options import PredictConfig
from crossd.data.io.header import is_dicom, stem
from crossd.data.io.images import shape_of
from crossd.data.io.read import holds_volume, read_header
from crossd.data.preprocessing import plan
from crossd.data.preprocessing.normalise import of_channels
from crossd.data.sources.case_files import read_entry
from crossd.data.sources.case_list import Case
from crossd.data.sources.image_files import read_image
from crossd.errors import InputError
from crossd.inference import predictor, results, write_masks
from crossd.inference.inputs import inputs, key, may_be, takes
from crossd.inference.slice_ensemble import answering
from crossd.nn.layers import laid_out
from crossd.tasks import task_of
from crossd.training import signals
from crossd.utils import memory, one_device
from crossd.utils.allocator import keep_freed_memory
from crossd.utils.atomic_files import atomic
from crossd.utils.option_values import unused
from crossd.utils.progress import Progress
from crossd.weights.weights_file import (
    WeightsConfig,
    load,
    read_config,
    require_files,
    require_for_images,
    require_rank,
)

KEEP_EVERY = 10.0
"""Seconds after which the table of answers is written, beside at the end."""


def predict(config: PredictConfig, progress: Progress) -> str:
    """Label or segment files; returns what to print.

    Raises:
        InputError: At once when nothing can be done; at the end when some files were skipped.
    """
    weights = read_config(config.weights)
    masks_wanted = task_of(weights.task).masks
    if masks_wanted:
        keep_freed_memory(large=True)
    else:
        unused(config, ("flips", "dicom_seg"), f"is for masks, but {config.weights} gives none")
    here = one_device.OneDevice(config.precision)
    how = config.answer or weights.answer
    weights = dataclasses.replace(weights, answer=how)
    net = load(config.weights).to(here.device)
    volumes = how in ("volume", "orientations")
    net = answering(laid_out(net, volumes, here.device), how, weights.task)
    if not config.out:
        raise InputError("--out is empty: name a folder")
    folder = Path(config.out).expanduser()
    found = inputs(
        config.input,
        weights.modalities or weights.in_channels,
        takes(weights),
        masks_wanted,
        folder,
        progress.say,
        told=weights.modalities > 0,
    )
    _check_any(weights, found)
    if not weights.recalibrated and any(may_be(case.images[0])[1] for case in found):
        progress.say(
            f"{config.weights}: BatchNorm knows images only, so that answers on volumes may be far "
            "off: run crossd recalibrate on volumes first, which need no labels"
        )
    if weights.plan is None and any(may_be(case.images[0])[1] for case in found):
        progress.say(
            f"{config.weights}: keeps no plan, as it was not trained on files of volumes: of each "
            "volume, the values between its percentiles 0.5 and 99.5 become 0 to 1, whatever "
            "those of training were"
        )
    asked = {key(case.images[0]) for case in found}
    own = results.settings(config.weights, how, config.flips, config.precision)
    answers = results.claim(folder, own, results.columns(weights), asked, config.overwrite)
    run = _Run(
        config,
        weights,
        net,
        here,
        answers,
        owners={cells[-1]: name for name, cells in answers.rows.items()},
        sources={os.path.realpath(path) for case in found for path in case.images},
    )
    done, skipped, faults = _answer_all(run, found, progress)
    what = "masks in" if masks_wanted else "lines in"
    where = folder if masks_wanted else folder / results.TABLE
    already = f", {skipped:,} were there already (--overwrite makes them anew)" if skipped else ""
    outcome = f"{done:,} new {what} {where}{already}"
    if faults:
        raise InputError(
            f"{len(faults):,} of {len(found):,} could not be predicted, the first: {faults[0]} "
            f"({outcome})"
        )
    return outcome


@dataclasses.dataclass(frozen=True)
class _Run:
    """What all cases of a run share.

    Attributes:
        answers: Those that are there.
        owners: The image of every mask that was there before.
        sources: Files that are asked about, which no mask may replace.
    """

    config: PredictConfig
    weights: WeightsConfig
    net: nn.Module
    here: one_device.OneDevice
    answers: results.Answers
    owners: dict[str, str]
    sources: set[str]


def _answer_all(run: _Run, found: Sequence[Case], progress: Progress) -> tuple[int, int, list[str]]:
    """Answer all cases; returns how many are new, how many were there, and what went wrong."""
    done, skipped, faults, kept = 0, 0, [], time.monotonic()
    with contextlib.ExitStack() as stack:
        stack.callback(run.answers.write)  # also when it is interrupted
        asked_to = stack.enter_context(signals.listening(at_once=True))
        bar = stack.enter_context(progress.task("predicting", total=len(found)))
        for case in found:
            if asked_to.code:
                raise signals.Stopped(asked_to.code)
            try:
                new = _answer(run, case)
                done, skipped = done + new, skipped + (not new)
            except (InputError, MemoryError, RuntimeError) as error:
                fault = str(error)
                if not isinstance(error, InputError):
                    if not memory.ran_out(error):
                        raise
                    fault = f"{case.images[0]}: memory ran out; crop or downsample it"
                faults.append(fault)
                progress.say(f"skipped: {fault}")
            if time.monotonic() - kept > KEEP_EVERY:
                run.answers.write()
                kept = time.monotonic()
            bar.advance(1)
    return done, skipped, faults


def _answer(run: _Run, case: Case) -> bool:
    """Answer one case; False when that is there already."""
    name, weights = key(case.images[0]), run.weights
    task = task_of(weights.task)
    if task.masks:
        return _answer_by_mask(run, case, name)
    if name in run.answers.rows and not run.config.overwrite:
        return False
    values = _label(run, case).tolist()
    cells = [f"{v:.6g}" if task.kind == "number" else f"{v:.6f}" for v in values]
    best = [weights.classes[int(np.argmax(values))]] if task.kind == "one" else []
    run.answers.rows[name] = [*best, *cells]
    return True


def _answer_by_mask(run: _Run, case: Case, name: str) -> bool:
    """Write the mask of a case, where it replaces neither a source nor the mask of another."""
    path, folder = case.images[0], run.answers.folder
    suffix = write_masks.suffix_of(path) if holds_volume(path) else ".png"
    out = folder / f"{case.name}{suffix}"
    written = (out, _dicom_seg(out)) if run.config.dicom_seg else (out,)
    if not run.sources.isdisjoint(map(os.path.realpath, written)):
        raise InputError(
            f"{path}: its mask would replace {out}, which is in --input: name another --out"
        )
    mask = out.relative_to(folder).as_posix()
    owner = run.owners.get(mask, name)
    if owner != name and not run.config.overwrite:
        raise InputError(
            f"{path}: its mask would be {out}, which is that of {owner}: name another "
            "--out, or --overwrite it"
        )
    new = _segment(run, case, out)
    if owner != name:
        run.answers.rows.pop(owner, None)
        run.answers.gone.add(owner)
    run.answers.rows[name] = [mask]
    return new


def _dicom_seg(mask: Path) -> Path:
    return mask.parent / f"{stem(mask)}.dcm"


def _segment(run: _Run, case: Case, out: Path) -> bool:
    """Write the mask of one case; False when it is there already."""
    config, weights = run.config, run.weights
    values = weights.values or tuple(range(len(weights.classes)))
    there = out.exists() and not config.overwrite
    if not holds_volume(case.images[0]):
        if there:
            return False
        mask = _segment_image(run, case)
        with atomic(out) as temporary:
            Image.fromarray(write_masks.with_file_values(mask.numpy(), values)).save(temporary)
        return True
    _check_solid(weights, case)
    second = _dicom_seg(out) if config.dicom_seg else None
    if there and second is None:
        return False
    entry = read_entry(case).along(predictor.plan_of(weights).axes)
    header = entry.images[0]
    second = second if header.files else None
    if there and (second is None or second.exists()):
        return False
    found = predictor.segment(run.net, entry, weights, run.here, config.flips)
    if case.spacing is not None:  # of the csv: it tells how to read, not where the file lies
        header = dataclasses.replace(read_header(case.images[0]), turned=header.turned)
    write_masks.write(found, header, values, out)
    if second is not None:
        write_masks.write_dicom_seg(found, header, weights.classes, second)
    return True


def _check_any(weights: WeightsConfig, found: Sequence[Case]) -> None:
    """Say once, not of every file, that the network takes none of them."""
    images, volumes = takes(weights)
    for case in found:
        flat, solid = may_be(case.images[0])
        if (images and flat) or (volumes and solid):
            return
    first = found[0]
    (_check_solid if may_be(first.images[0])[1] else _check_flat)(weights, first)


def _check_solid(weights: WeightsConfig, case: Case) -> None:
    if (weights.form, weights.answer) != ("2d", "slices"):
        require_rank(weights, 3, str(case.images[0]))
    if task_of(weights.task).masks:
        try:
            predictor.plan_of(weights)
        except InputError as error:
            raise InputError(f"{case.images[0]}: is a volume, but {error}") from error


def _check_flat(weights: WeightsConfig, case: Case) -> None:
    path = case.images[0]
    require_rank(weights, 2, str(path))
    if weights.plan is not None:
        plan.require_relative(predictor.plan_of(weights).intensity, str(path))
    if len(weights.size) != 2:
        slices = " (of a DICOM series give the folder)" if is_dicom(path) else ""
        require_for_images(weights, f"{path}: is an image{slices}")
        raise InputError(f"{path}: is an image, but the weights know no size of images")


@torch.no_grad()
def _segment_image(run: _Run, case: Case) -> Tensor:
    """Give the class of every pixel of an image in its own size, uint8, ``(H, W)``."""
    x = _read_flat(case, run.weights, crop=False)
    with run.here.autocast():
        logits = run.net(run.here.to_device(x[None])).float()
    shape = shape_of(case.images[0])
    whole = F.interpolate(logits.softmax(1), size=shape, mode="bilinear")
    return whole[0].argmax(0).to(torch.uint8).cpu()


@torch.no_grad()
def _label(run: _Run, case: Case) -> Tensor:
    """Give what is said of an image or a volume, ``(K,)``, see `predictor.label`."""
    if holds_volume(case.images[0]):
        _check_solid(run.weights, case)
        return predictor.label(run.net, read_entry(case), run.weights, run.here)
    x = _read_flat(case, run.weights, crop=True)
    with run.here.autocast():
        return predictor.answer(run.net(run.here.to_device(x[None])), run.weights)


def _read_flat(case: Case, weights: WeightsConfig, crop: bool) -> Tensor:
    """Read an image as in training, ``(C, H, W)``."""
    _check_flat(weights, case)
    count = len(case.images)
    require_files(weights, count, str(case.images[0]))
    if weights.in_channels % count:
        raise InputError(f"{case.images[0]}: has {count} files, expected {weights.in_channels}")
    image = read_image(case.images, weights.in_channels // count, weights.size, crop)
    if weights.plan is not None:
        how = of_channels(predictor.plan_of(weights).intensity, weights.in_channels)
        scaled = plan.scale_alone(image.numpy(), how, str(case.images[0]))
        return (torch.from_numpy(scaled) - weights.mean) / weights.std
    return (image - weights.mean) / weights.std
