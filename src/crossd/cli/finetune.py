"""`crossd finetune`: training further on labelled samples."""

import dataclasses

from crossd.cli.opening import batch_size, fitting, for_classes, for_rank, prepared
from crossd.cli.options import FinetuneConfig
from crossd.cli.runs import augmentation, train_and_write
from crossd.conversion import adapt, heads
from crossd.data.source import limit
from crossd.training import loop
from crossd.training.config import with_run_options
from crossd.utils.option_values import choice
from crossd.utils.progress import Progress
from crossd.weights.weights_file import load, read_config


def finetune(config: FinetuneConfig, progress: Progress) -> str:
    """Train further on labelled samples; returns what to print."""
    choice(config.protocol, ("finetune", "probe"), "--protocol")
    weights = read_config(config.weights)
    net = load(config.weights)
    source = fitting(config, weights, progress)
    net, weights = for_rank(net, weights, source, config.align)
    for_classes(net, weights, source, config.weights, config.seed, progress)
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
        recalibrated=source.rank == 3 or not adapt.norms_with_statistics(net),
    )
    options = with_run_options(config, options)
    return train_and_write(net, source, options, weights, config, progress, config.protocol)
