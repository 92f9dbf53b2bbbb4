"""The commands for one network: train, adapt, convert, export."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crossd.cli.opening import fitting, known, prepared
from crossd.cli.options import (
    ConvertConfig,
    ExportConfig,
    FinetuneConfig,
    PlanConfig,
    PretrainConfig,
    RecalibrateConfig,
)
from crossd.cli.runs import augmentation, train_and_write, write_plan
from crossd.conversion import adapt, heads, registry
from crossd.conversion.convert import LIFTS
from crossd.conversion.convert import convert as convert_network
from crossd.conversion.plain import to_3d
from crossd.data.opening import open_source
from crossd.data.preprocessing import plan as plans
from crossd.data.slicing import as_images
from crossd.data.source import Source, limit
from crossd.errors import InputError
from crossd.inference.slice_ensemble import answering
from crossd.nn.conv import has_views
from crossd.nn.kernel_modes import KERNEL_MODES, VIEWS
from crossd.training import devices, loop, validate
from crossd.training.config import of_the_run
from crossd.utils.option_values import check, choice, class_names, sizes, unused
from crossd.utils.progress import Progress
from crossd.weights import third_party, weights_file
from crossd.weights.export import export as export_network
from crossd.weights.graph_files import SUFFIXES
from crossd.weights.weights_file import (
    WeightsConfig,
    load,
    read_config,
    require_rank,
    reshape,
    save,
)


def pretrain(config: PretrainConfig, progress: Progress) -> str:
    """Train on images; returns what to print."""
    check(config)
    choice(config.kernel_mode, (*KERNEL_MODES, "none"), "--kernel-mode")
    if config.lift is not None:
        choice(config.lift, ("center", "inflate", "triplanar", "none"), "--lift")
        if config.kernel_mode == "none":
            raise InputError("--lift is for 3D kernels, which --kernel-mode none has not")
    source = _images(config, progress)
    if config.task not in (None, source.task):
        raise InputError(f"--task {config.task}: but {config.data} is for {source.task}")
    name = config.model or registry.DEFAULTS[source.task]
    plain = config.kernel_mode == "none"
    weights = WeightsConfig(
        name,
        source.task,
        source.channels,
        source.classes,
        form="2d" if plain else "cross",
        kernel_mode="projection" if plain else config.kernel_mode,
        **prepared(source),
    )
    devices.seed_everything(config.seed)
    net = registry.build(name, source.task, source.channels, len(source.classes))
    registry.require_answers(net, name, source.task, len(source.classes), source.size)
    if plain:
        net = reshape(net, "2d")
    else:
        net = convert_network(
            net, config.kernel_mode, None if config.lift == "none" else config.lift or "center"
        )
    weights = dataclasses.replace(weights, recalibrated=not adapt.measured(net))
    if has_views(net):
        weights = dataclasses.replace(weights, answer="both")
    options = dataclasses.replace(
        loop.for_images(config, source.task), augment=augmentation(config, source)
    )
    return train_and_write(net, source, options, weights, config, progress, "2D training")


def finetune(config: FinetuneConfig, progress: Progress) -> str:
    """Train further on labelled samples; returns what to print."""
    check(config)
    choice(config.protocol, ("finetune", "probe"), "--protocol")
    weights = read_config(config.weights)
    net = load(config.weights)
    given = known(weights, config.plan, config)
    source = fitting(
        config.data, weights, config.size, config.seed, config.weights, given, progress
    )
    net, weights = _for_rank(net, weights, source, config.align)
    renamed = source.values and source.values == weights.values
    if source.classes != weights.classes and not renamed:
        progress.say(f"other classes than {config.weights} has: its last layer starts anew")
        devices.seed_everything(config.seed)
        heads.new_classifier(net, len(weights.classes), len(source.classes))
    source = limit(source, config.limit, config.seed) if config.limit else source
    if config.protocol == "probe":
        heads.freeze_convolutions(net, len(source.classes))
    options = loop.TrainConfig(
        epochs=config.epochs or 15,
        min_steps=config.steps or (0 if config.epochs else 100),
        batch_size=config.batch_size or _batch_size(source),
        lr=config.lr,
        augment=augmentation(config, source),
        **of_the_run(config),
    )
    weights = dataclasses.replace(
        weights,
        classes=source.classes,
        answer="volume",
        recalibrated=source.rank == 3 or not adapt.measured(net),
        **prepared(source),
    )
    return train_and_write(net, source, options, weights, config, progress, config.protocol)


def recalibrate(config: RecalibrateConfig, progress: Progress) -> str:
    """Measure BatchNorm statistics anew; returns what to print."""
    check(config)
    out = _free_file(config.out, config.overwrite)
    weights = read_config(config.weights)
    net = load(config.weights)
    source = fitting(
        config.data, weights, config.size, config.seed, config.weights, known(weights), progress,
        labels=False,
    )  # fmt: skip
    net, weights = _for_rank(net, weights, source, config.align)
    options = loop.TrainConfig(
        batch_size=config.batch_size or _batch_size(source),
        workers=config.workers,
        precision=config.precision,
    )
    asked, weights = net, dataclasses.replace(weights, answer=config.answer or weights.answer)
    if source.rank == 3:
        asked = answering(net, weights.answer, weights.task)
    layers = validate.recalibrate(asked, source.train, options, progress=progress)
    lines = [
        f"{layers} BatchNorm layers recalibrated on {len(source.train):,} unlabelled samples"
        if layers
        else "the network has no BatchNorm statistics: nothing to recalibrate"
    ]
    if source.task == "unlabelled":
        lines.append(f"{config.data} has no labels: not scored")
    elif source.classes == weights.classes:
        scores = validate.score(asked, source, source.test, options)[0]
        lines.append(f"{len(source.test):,} test samples: {validate.describe(scores, source.task)}")
    else:
        lines.append(f"{config.data} has other classes than the network: not scored")
    weights = dataclasses.replace(
        weights, mean=source.mean, std=source.std, recalibrated=source.rank == 3 or not layers
    )
    if source.rank == 3 and source.spacing and not (weights.plan or weights.spacing):
        # Slices told nothing of depth. From now on files of volumes can be prepared alike.
        how: Any = {"spacing": source.spacing, "plan": plans.to_record(source.plan)}
        weights = dataclasses.replace(weights, size=source.size, **how)
    save(net, out, weights)
    return "\n".join([*lines, f"written: {out}"])


def convert(config: ConvertConfig, progress: Progress) -> str:
    """Convert a weights file; returns what to print."""
    choice(config.to, ("2d", "3d", "cross"), "--to")
    choice(config.view, VIEWS, "--view")
    check(config)
    if config.model is not None:
        return _convert_checkpoint(config, config.model)
    unused(config, _OF_CHECKPOINTS, "is for a checkpoint of others: name its network by --model")
    out = _free_file(config.out, config.overwrite)
    report = weights_file.convert_file(config.weights, config.to, out, config.view, config.align)
    return f"{report.summary()}\nwritten: {out}"


_OF_CHECKPOINTS = (
    *("task", "classes", "channels", "kernel_mode", "lift", "prefix"),
    *("allow_partial", "mean", "std"),
)


def _convert_checkpoint(config: ConvertConfig, model: str) -> str:
    """Make a weights file of somebody else's checkpoint."""
    choice(config.task, tuple(registry.DEFAULTS), "--task")
    choice(config.kernel_mode, tuple(KERNEL_MODES), "--kernel-mode")
    choice(config.lift, LIFTS, "--lift")
    if weights_file.is_ours(config.weights):
        raise InputError(f"{config.weights} is a weights file of crossd: leave out --model")
    out = _free_file(config.out, config.overwrite)
    weights = WeightsConfig(
        model,
        config.task,
        config.channels or 0,
        class_names(config.classes),
        form=config.to,
        kernel_mode=config.kernel_mode,
        mean=config.mean,
        std=config.std,
    )
    report = third_party.convert_checkpoint(
        config.weights,
        out,
        weights,
        config.view,
        config.align,
        allow_partial=config.allow_partial,
        lift=config.lift,
        prefix=config.prefix,
    )
    return f"{report}\nwritten: {out}"


def export(config: ExportConfig, progress: Progress) -> str:
    """Write a network to a file that runs without crossd; returns what to print."""
    choice(config.to, ("2d", "3d"), "--to")
    choice(config.view, VIEWS, "--view")
    size = sizes(config.size)
    out = _free_file(config.out, config.overwrite, SUFFIXES)
    net = load(config.weights)
    report = export_network(
        net,
        out,
        config.to,
        size=size,
        view=config.view,
        fixed_pose=config.fixed_pose,
        fixed_size=config.fixed_size,
        overwrite=config.overwrite,
        progress=progress,
    )
    return str(report)


def plan(config: PlanConfig, progress: Progress) -> str:
    """Scan volumes and write down how they would be prepared; returns what to print."""
    check(config)
    out = _free_file(config.out, config.overwrite, (".yaml", ".yml"))
    source = open_source(config.data, size=sizes(config.size), seed=config.seed, progress=progress)
    if source.plan is None:
        raise InputError(f"{config.data}: a plan is for volumes that come as files")
    write_plan(source, out)
    return f"{out.read_text(encoding='utf-8')}written: {out}"


def _images(config: PretrainConfig, progress: Progress) -> Source:
    source = open_source(
        config.data,
        size=sizes(config.size),
        seed=config.seed,
        given=known(None, config.plan, config),
        progress=progress,
    )
    if config.plan is not None and source.plan is None:
        raise InputError(f"--plan is for volumes that come as files, not for {config.data}")
    if config.limit:  # before slicing: it counts volumes
        source = limit(source, config.limit, config.seed)
    return as_images(source, config.slices, config.slice_step)


def _for_rank(
    net: Any, weights: WeightsConfig, source: Source, align: bool
) -> tuple[Any, WeightsConfig]:
    """Bring a Cross-D network into the form for volumes; refuse what does not fit the rank."""
    require_rank(weights, source.rank, source.name)
    if align:
        if source.rank == 2:
            raise InputError(f"--align is for volumes, but {source.name} holds images")
        if weights.form != "cross" or not KERNEL_MODES[weights.kernel_mode].displaces:
            mode = weights.kernel_mode if weights.form == "cross" else f"a {weights.form} network"
            raise InputError(f"--align is for Cross-D in the fourier modes, not for {mode}")
        return to_3d(net, align=True), dataclasses.replace(weights, form="3d")
    return net, weights


def _batch_size(source: Source) -> int:
    if source.rank == 2:
        return 64
    return 2 if source.task == "segmentation" else 8


def _free_file(path: str, overwrite: bool, endings: Sequence[str] = (".safetensors",)) -> Path:
    out = Path(path)
    if out.suffix not in endings:
        raise InputError(f"--out {out} must end in {' or '.join(endings)}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to --out {out}: {error.strerror}") from error
    if out.exists() and not overwrite:
        raise InputError(f"{out} exists already: name another --out, or --overwrite it")
    return out
