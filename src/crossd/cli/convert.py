"""`crossd convert`: from one form of a weights file to another, and checkpoints of others."""

from crossd.cli.options import ConvertConfig
from crossd.conversion import registry
from crossd.conversion.arguments import LIFTS
from crossd.errors import InputError
from crossd.nn.kernel_modes import KERNEL_MODES
from crossd.nn.views import VIEWS
from crossd.utils.option_values import choice, class_names, unused
from crossd.utils.progress import Progress
from crossd.utils.run_folder import free_file
from crossd.weights import third_party, weights_file
from crossd.weights.weights_file import WeightsConfig


def convert(config: ConvertConfig, progress: Progress) -> str:
    """Convert a weights file; returns what to print."""
    choice(config.to, ("2d", "3d", "cross"), "--to")
    choice(config.view, VIEWS, "--view")
    if config.model is not None:
        return _convert_checkpoint(config, config.model)
    unused(config, _OF_CHECKPOINTS, "is for a checkpoint of others: name its network by --model")
    out = free_file(config.out, config.overwrite)
    report = weights_file.convert_file(config.weights, config.to, out, config.view, config.align)
    return f"{report.summary()}\nwritten: {out}"


_OF_CHECKPOINTS = (
    "task",
    "classes",
    "channels",
    "kernel_mode",
    "lift",
    "prefix",
    "allow_partial",
    "mean",
    "std",
)


def _convert_checkpoint(config: ConvertConfig, model: str) -> str:
    """Make a weights file of somebody else's checkpoint."""
    choice(config.task, tuple(registry.DEFAULTS), "--task")
    choice(config.kernel_mode, tuple(KERNEL_MODES), "--kernel-mode")
    choice(config.lift, LIFTS, "--lift")
    if weights_file.is_ours(config.weights):
        raise InputError(f"{config.weights} is a weights file of crossd: leave out --model")
    out = free_file(config.out, config.overwrite)
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
    return f"{report.without_partner()}\nwritten: {out}"
