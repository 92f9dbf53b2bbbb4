"""`crossd convert`: from one form of a weights file to another, and checkpoints of others."""

from crossd.cli.options import ConvertConfig
from crossd.conversion import registry
from crossd.conversion.arguments import LIFTS
from crossd.data.preprocessing import nnunet_plans, plan_file
from crossd.data.preprocessing.nnunet_plans import NnunetPlans
from crossd.errors import InputError
from crossd.nn.kernel_modes import KERNEL_MODES
from crossd.nn.views import VIEWS
from crossd.utils.option_values import choice, class_names, unused
from crossd.utils.progress import Progress
from crossd.utils.run_folder import free_file
from crossd.weights import nnunet, third_party, weights_file
from crossd.weights.weights_file import WeightsConfig


def convert(config: ConvertConfig, progress: Progress) -> str:
    """Convert a weights file; returns what to print."""
    choice(config.to, (*weights_file.FORMS, "nnunet"), "--to")
    choice(config.lift, LIFTS, "--lift")
    choice(config.view, VIEWS, "--view")
    if config.model is not None:
        return _convert_checkpoint(config, config.model)
    unused(config, _OF_CHECKPOINTS, "is for a checkpoint of others: name its network by --model")
    if config.to == "nnunet":
        unused(config, ("view", "align"), "is for --to 2d and 3d, not for nnunet")
        unused(config, ("lift",), "is for --to cross, not for nnunet")
        out = free_file(config.out, config.overwrite, (".pth",))
        return f"{nnunet.write_checkpoint(config.weights, out)}\nwritten: {out}"
    out = free_file(config.out, config.overwrite)
    report = weights_file.convert_file(
        config.weights, config.to, out, config.view, config.align, config.lift
    )
    return f"{report.summary()}\nwritten: {out}"


_OF_CHECKPOINTS = (
    "task",
    "classes",
    "channels",
    "kernel_mode",
    "prefix",
    "allow_partial",
    "mean",
    "std",
)


NETWORK = "network_weights"
"""Where checkpoints of nnU-Net hold the network."""


def _of_plans(config: ConvertConfig, plans: NnunetPlans) -> WeightsConfig:
    """Describe a network that nnU-Net trained."""
    unused(config, ("task", "classes", "channels", "mean", "std"), "is what the plans say")
    unused(config, ("lift", "prefix", "allow_partial"), "is not for checkpoints of nnU-Net")
    return WeightsConfig(
        plans.model,
        "segmentation",
        plans.channels,
        tuple(plans.classes.values()),
        form=config.to,
        kernel_mode=config.kernel_mode,
        size=plans.plan.patch[1:],
        spacing=plans.plan.spacing,
        plan=plan_file.to_record(plans.plan),
        values=tuple(plans.classes),
        modalities=plans.channels,
        ignore=plans.ignore,
    )


def _convert_checkpoint(config: ConvertConfig, model: str) -> str:
    """Make a weights file of somebody else's checkpoint."""
    choice(config.task, tuple(registry.DEFAULTS), "--task")
    choice(config.kernel_mode, tuple(KERNEL_MODES), "--kernel-mode")
    if weights_file.is_ours(config.weights):
        raise InputError(f"{config.weights} is a weights file of crossd: leave out --model")
    if config.to == "nnunet":
        raise InputError("--to nnunet is for a weights file of crossd: leave out --model")
    out = free_file(config.out, config.overwrite)
    if nnunet_plans.is_named(model):
        plans = nnunet_plans.read(model)
        weights = _of_plans(config, plans)
        content = third_party.read(config.weights)
        plans.require_trained(content.get("init_args"), config.weights)
        report = third_party.convert_checkpoint(
            content, out, weights, config.view, config.align, prefix=NETWORK, strict=True
        )
        return f"{report.without_partner()}\nwritten: {out}"
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
