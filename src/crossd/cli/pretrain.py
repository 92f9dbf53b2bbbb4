"""`crossd pretrain`: training on images, or on slices of volumes."""

import dataclasses

from crossd.cli.opening import described, known, model_of
from crossd.cli.options import PretrainConfig
from crossd.cli.runs import augmentation, train_and_write
from crossd.conversion import adapt, registry
from crossd.conversion.convert import convert as convert_network
from crossd.conversion.views import has_views
from crossd.data.opening import open_source
from crossd.data.slicing import as_images
from crossd.data.source import Source, limit
from crossd.errors import InputError
from crossd.nn.kernel_modes import KERNEL_MODES
from crossd.training import devices, loop
from crossd.utils.option_values import choice, sizes
from crossd.utils.progress import Progress
from crossd.weights.weights_file import reshape


def pretrain(config: PretrainConfig, progress: Progress) -> str:
    """Train on images; returns what to print."""
    choice(config.kernel_mode, (*KERNEL_MODES, "none"), "--kernel-mode")
    if config.lift is not None:
        choice(config.lift, ("center", "inflate", "triplanar", "none"), "--lift")
        if config.kernel_mode == "none":
            raise InputError("--lift is for 3D kernels, which --kernel-mode none has not")
    source = _images(config, progress)
    if config.task not in (None, source.task):
        raise InputError(f"--task {config.task}: but {config.data} is for {source.task}")
    name = model_of(config, source)
    plain = config.kernel_mode == "none"
    devices.seed_everything(config.seed)
    net = registry.build(name, source.task, source.channels, len(source.classes))
    registry.require_answers(net, name, source.task, len(source.classes), source.size)
    if plain:
        net = reshape(net, "2d")
    else:
        net = convert_network(
            net, config.kernel_mode, None if config.lift == "none" else config.lift or "center"
        )
    form, mode = ("2d", "projection") if plain else ("cross", config.kernel_mode)
    weights = described(source, name, form, mode)
    weights = dataclasses.replace(weights, recalibrated=not adapt.norms_with_statistics(net))
    if has_views(net):
        weights = dataclasses.replace(weights, answer="both")
    options = dataclasses.replace(
        loop.for_images(config, source.task), augment=augmentation(config, source)
    )
    return train_and_write(net, source, options, weights, config, progress, "2D training")


def _images(config: PretrainConfig, progress: Progress) -> Source:
    given = known(config)
    source = open_source(
        config.data,
        size=sizes(config.size),
        seed=config.seed,
        given=given,
        progress=progress,
    )
    if config.plan is not None and (source.rank == 2 or source.plan is None):
        raise InputError(f"--plan is for volumes that come as files, not for {config.data}")
    if config.limit:  # before slicing: it counts volumes
        source = limit(source, config.limit, config.seed)
    source.scale_of_numbers()  # refuses numbers that tell none before anything takes time
    return as_images(source, config.slices, config.slice_step, progress, given.multiple)
