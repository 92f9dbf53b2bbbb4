"""`crossd joint`: one network, batches of images and of volumes in turn."""

import copy
import dataclasses

import torch
from torch import nn

from crossd.cli.opening import (
    batch_size,
    described,
    images_and_volumes,
    model_of,
    new_network,
    started,
)
from crossd.cli.options import JointConfig
from crossd.cli.runs import augmentation, train_and_write
from crossd.conversion import heads, registry
from crossd.conversion.convert import convert
from crossd.data.source import Source, limit
from crossd.data.sources.case_list import first_few
from crossd.errors import InputError
from crossd.nn.kernel_modes import KERNEL_MODES
from crossd.tasks import task_of
from crossd.training import devices, loop
from crossd.utils.option_values import choice, unused
from crossd.utils.progress import Progress
from crossd.weights.weights_file import WeightsConfig, load


def joint(config: JointConfig, progress: Progress) -> str:
    """Train on both; returns what to print.

    Raises:
        InputError: When options and data do not go together.
    """
    choice(config.kernel_mode, tuple(KERNEL_MODES), "--kernel-mode")
    start = None
    if config.weights is not None:
        unused(
            config,
            ("model", "pretrained", "kernel_mode"),
            "is for a new network: leave out --weights",
        )
        start = started(config.weights)
    volumes, images = images_and_volumes(config, progress, start)
    volumes = limit(volumes, config.limit, config.seed) if config.limit else volumes
    same = volumes.classes == images.classes
    total = len(volumes.classes) + (0 if same else len(images.classes))
    rows = [slice(0, len(volumes.classes)), slice(len(volumes.classes), total)]
    if not same:
        _say_of_both(config, volumes, images, progress)
    net, name, mode = _network(config, start, volumes, images, total, progress)
    progress.say(
        f"{name}: {len(images.train):,} images of {config.images} in turn with "
        f"{len(volumes.train):,} volumes of {config.volumes}"
    )
    of_images = dataclasses.replace(
        loop.for_images(config, images.task), augment=augmentation(config, images)
    )
    of_volumes = dataclasses.replace(
        of_images,
        views="own",
        min_steps=config.steps or of_images.min_steps or (0 if config.epochs else 100),
        batch_size=config.volume_batch_size or batch_size(volumes),
    )

    def keep(net: nn.Module) -> nn.Module:
        if same:
            return net
        net = copy.deepcopy(net)
        heads.keep_classes(net, total, rows[0])
        return net

    return train_and_write(
        net,
        volumes,
        of_volumes,
        described(volumes, name, "cross", mode),
        config,
        progress,
        "joint training",
        keep,
        beside=[(images, of_images)],
        rows=None if same else rows,
    )


def _say_of_both(config: JointConfig, volumes: Source, images: Source, progress: Progress) -> None:
    """Say that each of two sources has outputs of its own, even for what is in both."""
    things = task_of(volumes.task).outputs
    both = [name for name in volumes.classes if name in images.classes]
    twice = f"; {first_few(both)} of both are learnt apart, too" if both else ""
    progress.say(
        f"{config.images} and {config.volumes} have other {things}: the network learns the "
        f"{len(volumes.classes)} of the volumes, which are kept, and the {len(images.classes)} of "
        f"the images by outputs of their own{twice}"
    )


def _network(
    config: JointConfig,
    start: WeightsConfig | None,
    volumes: Source,
    images: Source,
    classes: int,
    progress: Progress,
) -> tuple[nn.Module, str, str]:
    """Make or load the network, with so many classes; returns it, its name and its kernel mode."""
    if start is None:
        name = model_of(config, volumes)
        net, name = new_network(config, name, images, classes, config.seed, progress)
        registry.require_answers(net, name, volumes.task, classes, images.size)
        cross = convert(net, config.kernel_mode, "center")
        registry.answer_of(cross, torch.zeros(1, volumes.channels, *volumes.size), name)
        return cross, name, config.kernel_mode
    if start.task != volumes.task:
        raise InputError(
            f"{config.weights} is for {start.task}, but {config.volumes} is for {volumes.task}"
        )
    devices.seed_everything(config.seed)
    net = load(str(config.weights))
    if (len(start.classes), start.classes) != (classes, volumes.classes):
        heads.new_classifier(net, len(start.classes), classes)
    return net, start.model, start.kernel_mode
