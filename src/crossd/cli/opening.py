"""What commands open, as weights, a plan and their options want it: sources, networks, files."""

import dataclasses
from pathlib import Path

from torch import nn

from crossd.cli.options import (
    DataOptions,
    EvaluateConfig,
    FinetuneConfig,
    ImageOptions,
    InspectConfig,
    JointConfig,
    LongOptions,
    PretrainConfig,
    RecalibrateConfig,
    TeachConfig,
    TransferConfig,
)
from crossd.conversion import heads, registry
from crossd.conversion.plain import to_3d
from crossd.data.disk_cache import option_cache
from crossd.data.opening import open_source
from crossd.data.preprocessing import nnunet_plans, plan_file
from crossd.data.preprocessing.nnunet_plans import NnunetPlans
from crossd.data.slicing import as_images
from crossd.data.source import ACCEPTABLE, Given, Source, in_order_of
from crossd.data.source import require_rank as require_source_rank
from crossd.data.sources.case_source import entries_of
from crossd.errors import InputError
from crossd.inference.predictor import require_channels
from crossd.nn.kernel_modes import KERNEL_MODES
from crossd.tasks import Scale, task_of
from crossd.training import devices
from crossd.utils.option_values import names, sizes
from crossd.utils.progress import Progress
from crossd.weights import timm_networks
from crossd.weights.weights_file import (
    WeightsConfig,
    read_config,
    require_files,
    require_for_images,
    require_rank,
    to_cross,
)


def known(config: DataOptions, weights: WeightsConfig | None = None) -> Given:
    """Gather what options for masks and a cache, weights and a plan that was edited decide on."""
    accepted = names(config.accept, tuple(ACCEPTABLE), "--accept") if config.accept else ()
    given = Given(
        ignore=config.ignore,
        accepted={name: f"gone on with, as --accept {name} says" for name in accepted},
    )
    if isinstance(config, LongOptions):
        stored = option_cache(config.cache, config.cache_gb)
        given = dataclasses.replace(given, stored=stored)
    if weights is not None:
        own = plan_file.from_record(weights.plan, "the weights' plan") if weights.plan else None
        labels = () if weights.values else weights.classes
        given = dataclasses.replace(
            given,
            plan=own,
            labels=labels,
            known_classes=_masks(weights),
            known_ignore=weights.ignore,
            multiple=registry.multiple_of(weights.model),
        )
    if plans := plans_of(config):
        given = dataclasses.replace(
            given,
            plan=plans.plan,
            classes=plans.classes,
            known_ignore=plans.ignore,
            multiple=registry.multiple_of(plans.model),
        )
    if isinstance(config, PretrainConfig | FinetuneConfig) and config.plan is not None:
        if not Path(config.plan).is_file():
            raise InputError(f"--plan {config.plan}: no such file; crossd plan writes one")
        edited, classes, ignore = plan_file.read(Path(config.plan))
        if ignore is not None and config.ignore not in (None, ignore):
            raise InputError(
                f"--ignore {config.ignore}: but {config.plan} says that {ignore} is ignored; "
                "leave one out"
            )
        ignore = config.ignore if ignore is None else ignore
        classes = classes or given.classes or {}
        given = dataclasses.replace(given, plan=edited, classes=classes, ignore=ignore)
    return given


def plans_of(config: DataOptions) -> NnunetPlans | None:
    """Read the plans of nnU-Net that an option --model names, if it does."""
    model = config.model if isinstance(config, ImageOptions) else None
    return nnunet_plans.read(model) if model and nnunet_plans.is_named(model) else None


def model_of(config: PretrainConfig | JointConfig | TransferConfig, source: Source) -> str:
    """Name the network that is to be trained, as `crossd.conversion.registry.build` takes it.

    Raises:
        InputError: When it is of plans of nnU-Net that the source does not fit.
    """
    plans = plans_of(config)
    if plans is None:
        return config.model or registry.DEFAULTS[source.task]
    if source.task != "segmentation":
        raise InputError(f"--model {config.model}: is for masks, but {source.name} has none")
    values = source.values or tuple(range(len(source.classes)))
    plans.require(source.channels, dict(zip(values, source.classes, strict=False)), source.name)
    return plans.model


def new_network(
    config: PretrainConfig | JointConfig | TransferConfig,
    name: str,
    images: Source,
    classes: int,
    seed: int,
    progress: Progress | None = None,
) -> tuple[nn.Module, str]:
    """Build the 2D network that is to be trained, with the weights that --pretrained asks for.

    Returns it and its name, which holds what its slices want of it.

    Args:
        config: Options that may ask for weights.
        name: Of the network, see `model_of`.
        images: What it is to take.
        classes: Outputs of its last layer.
        seed: Of new weights.
        progress: Is told what was decided.

    Raises:
        InputError: When there is no such network or weights, or they are for masks.
    """
    devices.seed_everything(seed)
    if config.pretrained is None:
        return registry.build(name, images.task, images.channels, classes), name
    if config.model is None or task_of(images.task).masks:
        why = "is for networks of timm's: name one by --model"
        if task_of(images.task).masks:
            why = f"is for networks that give labels, but {images.name} has masks"
        raise InputError(
            f"--pretrained {why}; weights of others come in by crossd convert --weights FILE "
            "--model NAME, and crossd pretrain --weights goes on with them"
        )
    plane = images.size[-2:]
    built = timm_networks.build(name, config.pretrained, plane, images.channels, classes)
    again = registry.build(built.name, images.task, images.channels, classes)
    shapes = ({k: v.shape for k, v in net.state_dict().items()} for net in (built.net, again))
    if next(shapes) != next(shapes):  # the weights file could not be loaded after the training
        raise InputError(
            f"--pretrained: {name} cannot be built again for {images.channels} channels and "
            f"{classes} outputs as its weights need it; name another network"
        )
    for sentence in built.said:
        (progress or Progress(quiet=True)).say(sentence)
    return built.net, built.name


def fitting(
    config: PretrainConfig
    | FinetuneConfig
    | TeachConfig
    | RecalibrateConfig
    | EvaluateConfig
    | InspectConfig,
    weights: WeightsConfig,
    progress: Progress,
    given: Given | None = None,
    labels: bool = True,
) -> Source:
    """Open the data of a command as its weights need them, with as many channels.

    The classes are those of the weights where masks hold no other values, and what the weights
    ignored in masks is ignored then, unless the data or an option say it.

    Args:
        config: Options that name the data and the weights.
        weights: What the weights are.
        progress: Where to show a scan.
        given: What is known of the data. Default: what `known` gathers.
        labels: Whether labels are needed.

    Raises:
        InputError: When the task is another.
    """
    assert config.data is not None
    source = open_source(
        config.data,
        size=None if isinstance(config, InspectConfig) else sizes(config.size),
        seed=config.seed,
        channels=weights.in_channels,
        labels=labels,
        given=given or known(config, weights),
        progress=progress,
    )
    if not isinstance(config, PretrainConfig | FinetuneConfig):  # which may learn from others
        require_files(weights, source.modalities, source.name)
    if source.task not in (weights.task, "unlabelled"):
        raise InputError(
            f"{config.weights} is for {weights.task}, but {config.data} is for {source.task}"
        )
    source = in_order_of(source, weights.classes)
    by = (weights.classes, weights.units, weights.scale, str(config.weights))
    return _scaled(source, *by, progress)


def _scaled(
    source: Source,
    names: tuple[str, ...],
    units: tuple[str, ...],
    scale: Scale | None,
    by: str,
    progress: Progress,
) -> Source:
    """Take the scale that is known of numbers to learn, where a source has the same ones.

    A unit that only one of the two says is taken for both, which is said.

    Raises:
        InputError: When they have other units.
    """
    if scale is None or source.task != "regression" or source.classes != names:
        return source
    units = units or ("",) * len(names)
    for name, own, other in zip(names, source.units, units, strict=True):
        if own and other and own != other:
            raise InputError(
                f"{source.name}: {name} is in {own}, but {by} knows it in {other}; convert one"
            )
        if own != other:
            silent = source.name if other else by
            progress.say(
                f"{silent}: says no unit of {name}, which is taken to be in {own or other}"
            )
    either = tuple(own or other for own, other in zip(source.units, units, strict=True))
    return dataclasses.replace(source, scale=scale, units=either)


def as_trained(
    config: EvaluateConfig | InspectConfig, weights: WeightsConfig, progress: Progress
) -> Source:
    """Open samples that a network is to answer on, prepared as those that it was trained on.

    Raises:
        InputError: When the data have other classes, or are for another task.
    """
    given = dataclasses.replace(
        known(config, weights),
        statistics=(weights.mean, weights.std),
        classes=_masks(weights),
    )
    source = fitting(config, weights, progress, given)
    if source.rank == 2:
        require_for_images(weights, f"{config.data}: has images")
    for part in (source.train, source.val, source.test):
        for entry in entries_of(part) or ():
            require_channels(entry, weights)
    if source.classes != weights.classes:
        raise InputError(
            f"{config.data} has the {task_of(source.task).outputs} {', '.join(source.classes)}, "
            f"but {config.weights} {', '.join(weights.classes)}"
        )
    return source


def _masks(weights: WeightsConfig) -> dict[int, str]:
    """Name the classes of masks by their values; nothing for networks that give labels."""
    return dict(zip(weights.values, weights.classes, strict=False))


def images_and_volumes(
    config: TransferConfig | JointConfig, progress: Progress, start: WeightsConfig | None = None
) -> tuple[Source, Source]:
    """Open the volumes, and the images with as many channels, that a command learns from together.

    Of volumes that stand for images slices are taken. What the weights to start from know of
    volumes and of masks, if there are any, is `start`.

    Raises:
        InputError: When one has labels and the other masks, or the volumes are images.
    """
    given = known(config, start)
    volumes = open_source(
        config.volumes,
        size=sizes(config.size),
        seed=config.seed,
        channels=None if start is None else start.in_channels,
        given=given,
        progress=progress,
    )
    images = require_source_rank(volumes, 3, "--volumes")
    if config.images != config.volumes:
        images = open_source(
            config.images,
            seed=config.seed,
            channels=volumes.channels,
            given=dataclasses.replace(
                known(config), known_classes=given.known_classes, known_ignore=given.known_ignore
            ),
            progress=progress,
        )
    images = as_images(images, config.slices, config.slice_step, progress, given.multiple)
    if images.task != volumes.task:
        raise InputError(
            f"--images is for {images.task}, --volumes for {volumes.task}: "
            "both must have labels, or both masks, findings or numbers"
        )
    if start is not None:  # of joint --weights
        volumes = in_order_of(volumes, start.classes)
    images = in_order_of(images, volumes.classes)
    if start is not None and start.scale is not None:
        own = (start.classes, start.units, start.scale, "the weights")
        return _scaled(volumes, *own, progress), _scaled(images, *own, progress)
    by = (images.classes, images.units, images.scale_of_numbers(), images.name)
    return _scaled(volumes, *by, progress), images


def prepared(weights: WeightsConfig, source: Source) -> WeightsConfig:
    """Return a configuration that says how samples and answers of a source were prepared."""
    scale = source.scale_of_numbers()
    return dataclasses.replace(
        taking(weights, source),
        values=source.values,
        units=source.units,
        number_mean=() if scale is None else scale.mean,
        number_std=() if scale is None else scale.std,
        modalities=source.modalities,
        ignore=source.ignore,
    )


def taking(weights: WeightsConfig, source: Source) -> WeightsConfig:
    """Return a configuration that takes samples as a source prepares them, and answers as before.

    What is subtracted and divided by, and the size, belong together: of a size of three sides they
    are of volumes, and images are refused.
    """
    return dataclasses.replace(
        weights,
        mean=source.mean,
        std=source.std,
        size=source.size,
        spacing=source.spacing,
        plan=plan_file.to_record(source.plan),
        modalities=source.modalities or weights.modalities,
    )


def described(source: Source, model: str, form: str, kernel_mode: str) -> WeightsConfig:
    """Return the configuration of a network that is trained on a source."""
    weights = WeightsConfig(
        model, source.task, source.channels, source.classes, form=form, kernel_mode=kernel_mode
    )
    return prepared(weights, source)


def for_rank(
    net: nn.Module, weights: WeightsConfig, source: Source, align: bool
) -> tuple[nn.Module, WeightsConfig]:
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


def started(path: str) -> WeightsConfig:
    """Read what the weights are that a training on images starts from.

    Raises:
        InputError: When they are not of a Cross-D network.
    """
    weights = read_config(path)
    if weights.form != "cross":
        raise InputError(
            f"{path}: a plain {weights.form} network takes one rank only: {to_cross(weights)}"
        )
    return weights


def for_classes(
    net: nn.Module, weights: WeightsConfig, source: Source, path: str, seed: int, progress: Progress
) -> None:
    """Give a network a new last layer where a source has other classes than it.

    Classes of masks that only have other names are the same.
    """
    renamed = source.values and source.values == weights.values
    if source.classes != weights.classes and not renamed:
        things = task_of(source.task).outputs
        progress.say(f"other {things} than {path} has: its last layer starts anew")
        devices.seed_everything(seed)
        heads.new_classifier(net, len(weights.classes), len(source.classes))


def batch_size(source: Source) -> int:
    """Choose how many samples of a source a batch has, where the options leave it open."""
    if source.rank == 2:
        return 64
    return 2 if source.task == "segmentation" else 8
