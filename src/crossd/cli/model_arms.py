"""`crossd evaluate --model`: ways of one of timm's networks to volumes, as arms."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from crossd.cli.contests import kept_in
from crossd.cli.opening import known
from crossd.cli.options import EvaluateConfig
from crossd.conversion import registry
from crossd.conversion.adapt import norms_with_statistics
from crossd.data.opening import open_source
from crossd.data.preprocessing.normalise import normalised_by
from crossd.data.source import Source, require_rank
from crossd.errors import InputError
from crossd.evaluation.arms import ARMS
from crossd.evaluation.experiment import Arm, Contest
from crossd.tasks import task_of
from crossd.training import devices, loop
from crossd.utils.option_values import names, sizes
from crossd.utils.progress import Progress
from crossd.weights import timm_networks

USUAL = "slices,volume,cycle"
"""Arms that are compared unless others are asked for."""

KNOWN = tuple(name for name, (pretraining, _) in ARMS.items() if pretraining == "plain")
"""Arms that start from a 2D network."""


def open_model(config: EvaluateConfig, model: str, progress: Progress) -> Contest:
    """Open the data, build the network for its slices, and make the arms of it.

    Without a size that the user gave, volumes are resampled to whole patches of a transformer.
    Values in [0, 1] are standardised as those images were that weights of timm's were trained on;
    what has a plan stays as the plan says. Statistics of BatchNorm are those of the weights, and
    of new ones measured on the training volumes.

    Raises:
        InputError: When options and data do not go together, or there is no such network.
    """
    wanted = names(config.arms or USUAL, KNOWN, "--arms")
    source, (net, _, said) = _opened(config, model, sizes(config.size), progress)
    whole = _whole_patches(net, source.size)
    if config.size is None and whole != source.size:
        before = registry.times(source.size)
        source, (net, _, said) = _opened(config, model, whole, progress)
        said.insert(
            0, f"volumes of {before} are resampled to whole patches, {registry.times(source.size)}"
        )
    if config.pretrained is not None and source.plan is None:
        mean, std = timm_networks.statistics(net)
        source = normalised_by(source, mean, std)
        said.append(f"volumes in [0, 1] are standardised by its own {mean:.3f} and {std:.3f}")
    if norms_with_statistics(net):
        how = "are measured on the volumes"
        if config.pretrained:
            how = (
                "stay those of its weights or are measured on the volumes, whichever is better on "
                "the validation volumes"
            )
        said.append(f"the statistics of BatchNorm {how}")

    def made(name: str) -> Arm:
        def ready(seed: int) -> nn.Module:
            return copy.deepcopy(net)

        return Arm(ready, answers=False, asked=ARMS[name][1])

    return Contest(
        source,
        {name: made(name) for name in wanted},
        loop.for_volumes(config, source.task),
        config.folds or 0,
        statistics=("kept", "anew") if config.pretrained else ("anew",),
        keep=Path(config.out),
        features=kept_in(config),
        model=model,
        notes=(f"{model}, {_weights(config)}: {'; '.join(said)}",),
    )


def _opened(
    config: EvaluateConfig, model: str, size: tuple[int, ...] | None, progress: Progress
) -> tuple[Source, timm_networks.Built]:
    """Open the data, resized if a size is given, and build the network for their slices."""
    source = open_source(
        config.data, size=size, seed=config.seed, given=known(config), progress=progress
    )
    source = require_rank(source, 3, "--data")
    if task_of(source.task).masks:
        raise InputError(f"--model is a network for labels, but {config.data} has masks")
    devices.seed_everything(config.seed)
    plane, classes = source.size[1:], len(source.classes)
    made = timm_networks.build(model, config.pretrained, plane, source.channels, classes)
    return source, made


def _whole_patches(net: nn.Module, size: tuple[int, ...]) -> tuple[int, ...]:
    """Round the sides of volumes up to whole patches, where a network takes images of any size.

    Depth is rounded as height is, for it is cut alike where patches become 3D ones.
    """
    if not getattr(net, "dynamic_img_size", False):
        return size
    patches: Any = net.patch_embed
    high, wide = patches.patch_size
    sides = zip(size, (high, high, wide), strict=True)
    return tuple(-(-side // patch) * patch for side, patch in sides)


def _weights(config: EvaluateConfig) -> str:
    """Say which weights a network has."""
    if config.pretrained is None:
        return "with new weights"
    return f"with {timm_networks.whose(config.pretrained)}"


def require_answers(contest: Contest, model: str) -> None:
    """Refuse arms that cannot be made of a model, or cannot answer on its volumes.

    Raises:
        InputError: Of the first that cannot.
    """
    source = contest.source
    volume = torch.zeros(1, source.channels, *source.size)
    for name, one in contest.arms.items():
        asked = next(iter(one.asked.values()))
        net = asked(one.make(contest.budget.seed), source.task)
        registry.answer_of(net, volume, f"{model} ({name})", "; a larger --size may do")
