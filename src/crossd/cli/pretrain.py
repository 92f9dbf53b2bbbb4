"""`crossd pretrain`: training on images, or on slices of volumes."""

import dataclasses

import torch
from torch import nn

from crossd.cli.opening import (
    described,
    fitting,
    for_classes,
    known,
    model_of,
    new_network,
    started,
)
from crossd.cli.options import PretrainConfig
from crossd.cli.runs import augmentation, train_and_write
from crossd.conversion import adapt, registry
from crossd.conversion.convert import convert as convert_network
from crossd.conversion.views import has_views
from crossd.data.opening import open_source
from crossd.data.slicing import as_images
from crossd.data.source import Source, limit
from crossd.data.sources.case_source import entries_of
from crossd.errors import InputError
from crossd.nn.kernel_modes import KERNEL_MODES
from crossd.training import loop
from crossd.utils.option_values import choice, sizes, unused
from crossd.utils.progress import Progress
from crossd.weights.weights_file import WeightsConfig, load, reshape


def pretrain(config: PretrainConfig, progress: Progress) -> str:
    """Train on images; returns what to print."""
    choice(config.kernel_mode, (*KERNEL_MODES, "none"), "--kernel-mode")
    if config.lift is not None:
        choice(config.lift, ("center", "inflate", "triplanar", "none"), "--lift")
        if config.kernel_mode == "none":
            raise InputError("--lift is for 3D kernels, which --kernel-mode none has not")
    start = None
    if config.weights is not None:
        own = ("model", "pretrained", "kernel_mode", "lift")
        unused(config, own, "is for a new network: leave out --weights")
        start = started(config.weights)
    source = _images(config, start, progress)
    if config.task not in (None, source.task):
        raise InputError(f"--task {config.task}: but {config.data} is for {source.task}")
    if start is None:
        net, weights = _new(config, source, progress)
    else:
        net, weights = _continued(config, start, source, progress)
    weights = dataclasses.replace(weights, recalibrated=adapt.knows_volumes(net, source.rank))
    if has_views(net):
        weights = dataclasses.replace(weights, answer="both")
    options = dataclasses.replace(
        loop.for_images(config, source.task), augment=augmentation(config, source)
    )
    return train_and_write(net, source, options, weights, config, progress, "2D training")


def _new(
    config: PretrainConfig, source: Source, progress: Progress
) -> tuple[nn.Module, WeightsConfig]:
    """Make a new network, or one with the weights of others."""
    name = model_of(config, source)
    net, name = new_network(config, name, source, len(source.classes), config.seed, progress)
    registry.require_answers(net, name, source.task, len(source.classes), source.size)
    if config.kernel_mode == "none":
        return reshape(net, "2d"), described(source, name, "2d", "projection")
    lift = None if config.lift == "none" else config.lift or "center"
    net = convert_network(net, config.kernel_mode, lift)
    return net, described(source, name, "cross", config.kernel_mode)


def _continued(
    config: PretrainConfig, start: WeightsConfig, source: Source, progress: Progress
) -> tuple[nn.Module, WeightsConfig]:
    """Load the network to go on with, with the classes of the source."""
    path = str(config.weights)
    net = load(path)
    for_classes(net, start, source, path, config.seed, progress)
    registry.answer_of(net, torch.zeros(1, source.channels, *source.size), path)
    return net, described(source, start.model, "cross", start.kernel_mode)


def _images(config: PretrainConfig, start: WeightsConfig | None, progress: Progress) -> Source:
    """Open the images, or slices of the volumes, as weights to start from need them."""
    given = known(config, start)
    if start is None:
        source = open_source(
            config.data,
            size=sizes(config.size),
            seed=config.seed,
            given=given,
            progress=progress,
        )
    else:
        source = fitting(config, start, progress, given)
    if config.plan is not None and entries_of(source.train) is None:
        raise InputError(f"--plan is for volumes that come as files, not for {config.data}")
    if config.limit:  # before slicing: it counts volumes
        source = limit(source, config.limit, config.seed)
    source.scale_of_numbers()  # refuses numbers that tell none before anything takes time
    return as_images(source, config.slices, config.slice_step, progress, given.multiple)
