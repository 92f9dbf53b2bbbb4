"""`crossd evaluate --protocol`: a network against baselines, with intervals and tests."""

import copy
import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path

from torch import nn

from crossd.cli.contests import compare
from crossd.cli.opening import fitting, known, require_limits
from crossd.cli.options import ALL_PROTOCOLS, EvaluateConfig
from crossd.conversion import heads, registry
from crossd.conversion.plain import to_2d, to_3d
from crossd.data.source import Source
from crossd.errors import InputError
from crossd.evaluation import experiment, jobs
from crossd.evaluation.arms import ARMS, RIVALS
from crossd.evaluation.experiment import Arm, Contest
from crossd.inference.slice_ensemble import answering
from crossd.reports import comparison_results
from crossd.training import devices, loop
from crossd.utils.option_values import counts, names
from crossd.utils.progress import Progress
from crossd.utils.run_folder import claim_folder
from crossd.weights.weights_file import WeightsConfig, load, read_config


def comparison(config: EvaluateConfig, progress: Progress) -> str:
    """Run a comparison, write its tables and plots; returns what to print.

    Raises:
        InputError: When options and data do not go together.
    """
    start = time.perf_counter()
    if config.weights is None:
        raise InputError("--protocol and --baselines need --weights")
    protocols = names(config.protocol or "zero", ALL_PROTOCOLS, "--protocol")
    contest = open_contest(config, progress)
    limits = counts(config.limit, "--limit") or (len(contest.source.train),)
    if not config.folds:
        require_limits(contest.source, limits, str(config.limit), config.data)
    runs = experiment.plan(contest, protocols, limits, config.trials)
    if not runs:
        raise InputError(
            f"--protocol zero keeps the head, but {config.data} has other classes than "
            f"{config.weights}: add probe or finetune"
        )
    folder = claim_folder(config)
    notes = _notes(config, contest.source)
    for note in notes:
        progress.say(note)
    return compare(
        contest,
        functools.partial(open_contest, config),
        runs,
        folder,
        jobs.count(config.workers),
        progress,
        start,
        config,
        {"command": "evaluate", "data": config.data, "weights": config.weights, "notes": notes},
    )


def open_contest(config: EvaluateConfig, progress: Progress | None = None) -> Contest:
    """Open the data and the weights of a comparison.

    Raises:
        InputError: When they do not go together.
    """
    progress = progress or Progress(quiet=True)
    path = str(config.weights)
    weights = read_config(path)
    source = fitting(
        config.data,
        weights,
        config.size,
        config.seed,
        path,
        known(weights, config=config),
        progress,
    )
    if source.rank == 2 or weights.form == "3d":
        what = f"{config.data} holds images" if source.rank == 2 else f"{path} is for volumes only"
        raise InputError(f"--protocol compares ways from images to volumes, but {what}")
    wanted = names(config.baselines, RIVALS, "--baselines") if config.baselines else ()
    plain = _plain(config, weights)
    same = source.classes == weights.classes
    arms: dict[str, Arm] = {}
    if weights.form == "cross":
        net = load(path)
        arms[weights.kernel_mode] = _own(net, config.answer, weights, source.classes)
    for name in wanted or (() if arms else ("slices", "center")):
        pretraining, make = ARMS[name]
        if pretraining is None:
            arms[name] = Arm(functools.partial(_scratch, weights, source.classes), False, True)
        else:
            start = functools.partial(make, plain, weights.task)
            arms[name] = _arm(start, weights, source.classes)
    if not same:
        arms = {name: dataclasses.replace(arm, answers=False) for name, arm in arms.items()}
    budget = loop.for_volumes(config, source.task)
    return Contest(source, arms, budget, config.folds or 0, keep=Path(config.out))


def _own(
    net: nn.Module, answer: str | None, weights: WeightsConfig, classes: tuple[str, ...]
) -> Arm:
    """Make the arm of a Cross-D network.

    Unless asked otherwise it answers as the weights say, and is fitted as a network for volumes,
    which is the better one to fit (docs/results).
    """
    how = answer or weights.answer
    asked = to_3d(net) if how == "volume" else answering(net, how, weights.task)
    arm = _arm(lambda: asked, weights, classes)
    if answer is not None or how == "volume":
        return arm
    return dataclasses.replace(arm, fitted=_arm(lambda: to_3d(net), weights, classes).make)


def _arm(make: Callable[[], nn.Module], weights: WeightsConfig, classes: tuple[str, ...]) -> Arm:
    """Make an arm of pretrained weights, with a new head where the classes are others."""

    def ready(seed: int) -> nn.Module:
        net = copy.deepcopy(make())
        if classes != weights.classes:
            devices.seed_everything(seed)
            heads.new_classifier(net, len(weights.classes), len(classes))
        return net

    return Arm(ready)


def _scratch(weights: WeightsConfig, classes: tuple[str, ...], seed: int) -> nn.Module:
    devices.seed_everything(seed)
    net = registry.build(weights.model, weights.task, weights.in_channels, len(classes))
    return ARMS["scratch"][1](net, weights.task)


def _plain(config: EvaluateConfig, weights: WeightsConfig) -> nn.Module:
    """Load the plain 2D network that the baselines start from."""
    if config.plain is None:
        net = load(str(config.weights))
        return net if weights.form == "2d" else to_2d(net)
    own = read_config(config.plain)
    wanted = (weights.model, weights.task, weights.in_channels, weights.classes)
    if (own.model, own.task, own.in_channels, own.classes) != wanted or own.form == "3d":
        raise InputError(
            f"--plain {config.plain}: a {own.form} {own.model} of {len(own.classes)} classes; "
            f"expected a 2D {weights.model} trained like {config.weights}"
        )
    net = load(config.plain)
    return net if own.form == "2d" else to_2d(net)


def _notes(config: EvaluateConfig, source: Source) -> list[str]:
    """Say what a reader must know of how fair the comparison is."""
    notes = []
    weights = read_config(str(config.weights))
    if config.baselines and config.plain is None and weights.form == "cross":
        notes.append(
            f"the baselines start from the 2D network that {config.weights} holds in the axial "
            "view; a plain network trained alike (pretrain --kernel-mode none) given by --plain is "
            "the fairer rival"
        )
    repetitions = (config.folds or 1) * config.trials
    return notes + comparison_results.notes(source, repetitions, config.folds or 0)
