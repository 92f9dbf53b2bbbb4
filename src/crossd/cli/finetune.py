"""`crossd finetune`: training further on labelled samples."""

import dataclasses
import functools
from pathlib import Path

from torch import nn

from crossd.cli.opening import batch_size, fitting, for_classes, for_rank, prepared
from crossd.cli.options import FinetuneConfig
from crossd.cli.runs import augmentation, train_and_write
from crossd.cli.teach import own_teacher
from crossd.conversion import adapt, heads
from crossd.data.source import Source, limit
from crossd.errors import InputError
from crossd.tasks import task_of
from crossd.training import loop, teach, validate
from crossd.training.config import with_run_options
from crossd.training.teacher import Teacher
from crossd.utils.option_values import choice
from crossd.utils.progress import Progress
from crossd.utils.run_folder import CHECKPOINT, EARLIER_CHECKPOINT
from crossd.weights.weights_file import WeightsConfig, load, read_config

CHECKPOINTS = (CHECKPOINT, EARLIER_CHECKPOINT)


def finetune(config: FinetuneConfig, progress: Progress) -> str:
    """Train further on labelled samples; returns what to print."""
    choice(config.protocol, ("finetune", "probe"), "--protocol")
    weights = read_config(config.weights)
    net = load(config.weights)
    source = fitting(config, weights, progress)
    start, started = weights, net
    net, weights = for_rank(net, weights, source, config.align)
    for_classes(net, weights, source, config.weights, config.seed, progress)
    first = None
    if config.teach:
        _require_slices(config, start, source)
        first = functools.partial(_teach, config, (start, started), net, source, progress)
    source = limit(source, config.limit, config.seed) if config.limit else source
    if config.protocol == "probe":
        heads.freeze_convolutions(net, len(source.classes))
    options = loop.TrainConfig(
        epochs=config.epochs or 15,
        min_steps=config.steps or (0 if config.epochs else 100),
        batch_size=config.batch_size or batch_size(source),
        lr=config.lr,
        augment=augmentation(config, source),
    )
    weights = dataclasses.replace(
        prepared(weights, source),
        classes=source.classes,
        answer="volume",
        recalibrated=adapt.knows_volumes(net, source.rank),
    )
    options = with_run_options(config, options)
    return train_and_write(
        net, source, options, weights, config, progress, config.protocol, first=first
    )


def _require_slices(config: FinetuneConfig, weights: WeightsConfig, source: Source) -> None:
    """Refuse to teach what the weights do not say of slices.

    Raises:
        InputError: "--teach ...".
    """
    why = ""
    if source.rank != 3:
        why = f"is for volumes, but {source.name} holds images"
    elif weights.form == "3d":
        why = f"{config.weights} is a plain 3D network, which takes no slices"
    elif source.classes != weights.classes:
        things = task_of(source.task).outputs
        why = f"{source.name} has other {things} than {config.weights}, which cannot teach them"
    if why:
        raise InputError(f"--teach: {why}")


def _teach(
    config: FinetuneConfig,
    start: tuple[WeightsConfig, nn.Module],
    net: nn.Module,
    source: Source,
    progress: Progress,
) -> None:
    """Teach a network, in place, what its weights say of slices of all training volumes."""
    weights, before = start
    if config.resume and any((Path(config.out) / name).is_file() for name in CHECKPOINTS):
        return  # what was taught is in the checkpoint
    taught_by = (config.weights, weights, before, "slices", source, progress)
    teacher = own_teacher(*taught_by, option="--teach by")
    options = with_run_options(config, teach.budget(weights.task))
    if not weights.recalibrated:
        validate.recalibrate(net, source.train, options, progress=progress)
    progress.say(f"taught by its slices on {len(source.train):,} volumes, whose labels are unseen")
    teaching = Teacher(teacher, weights.task)
    learnt = [p for p in net.parameters() if p.requires_grad]
    net.requires_grad_(True)
    teach.taught(net, teaching, source, options, progress=progress, name="teaching")
    net.requires_grad_(False)
    for parameter in learnt:
        parameter.requires_grad_(True)
