"""`crossd recalibrate`: statistics of BatchNorm measured anew, without labels."""

import dataclasses

from crossd.cli.opening import batch_size, fitting, for_rank, taking
from crossd.cli.options import RecalibrateConfig
from crossd.errors import InputError
from crossd.inference.slice_ensemble import answering
from crossd.tasks import task_of
from crossd.training import loop, validate
from crossd.utils.progress import Progress
from crossd.utils.run_folder import free_file
from crossd.weights.weights_file import load, read_config, save


def recalibrate(config: RecalibrateConfig, progress: Progress) -> str:
    """Measure BatchNorm statistics anew; returns what to print."""
    out = free_file(config.out, config.overwrite)
    weights = read_config(config.weights)
    net = load(config.weights)
    source = fitting(config, weights, progress, labels=False)
    if weights.plan is not None and source.plan is None:
        raise InputError(
            f"{config.data}: holds values from 0 to 1, but {config.weights} takes those of volumes "
            "as they are; give files of volumes"
        )
    by_slices = weights.form == "2d" and (config.answer or weights.answer) == "slices"
    if config.align or not by_slices:
        net, weights = for_rank(net, weights, source, config.align)
    options = loop.TrainConfig(
        batch_size=config.batch_size or batch_size(source),
        workers=config.workers,
        precision=config.precision,
    )
    asked, weights = net, dataclasses.replace(weights, answer=config.answer or weights.answer)
    if source.rank == 3:
        asked = answering(net, weights.answer, weights.task)
    layers = validate.recalibrate(asked, source.train, options, progress=progress)
    count = min(len(source.train), validate.MEASURED)
    lines = [
        f"{layers} BatchNorm layers recalibrated on {count:,} unlabelled samples"
        if layers
        else "the network has no BatchNorm statistics: nothing to recalibrate"
    ]
    if source.task == "unlabelled":
        lines.append(f"{config.data} has no labels: not scored")
    elif source.classes == weights.classes:
        scores = validate.score(asked, source, source.test, options)[0]
        lines.append(f"{len(source.test):,} test samples: {validate.describe(scores, source.task)}")
    else:
        things = task_of(source.task).outputs
        lines.append(f"{config.data} has other {things} than the network: not scored")
    if source.rank == 3 and source.spacing and not (weights.plan or weights.spacing):
        # Slices told nothing of depth. From now on files of volumes can be prepared alike.
        lines.append(
            f"{config.out} knows their spacing now, so that crossd predict takes such files"
        )
    if source.rank == len(weights.size) == 2:  # the size is what the images are trained in
        weights = dataclasses.replace(weights, mean=source.mean, std=source.std)
    else:
        weights = taking(weights, source)
    weights = dataclasses.replace(weights, recalibrated=source.rank == 3 or not layers)
    save(net, out, weights)
    return "\n".join([*lines, f"written: {out}"])
