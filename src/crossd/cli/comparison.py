"""`crossd evaluate --protocol`: a network against baselines, with intervals and tests."""

import copy
import functools
import time
from pathlib import Path

from torch import nn

from crossd.cli.contests import arm, compare, kept_in, pretrained, require_limits, teaching
from crossd.cli.model_arms import open_model, require_answers
from crossd.cli.opening import fitting
from crossd.cli.options import ALL_PROTOCOLS, EvaluateConfig
from crossd.conversion.plain import to_2d
from crossd.conversion.views import has_views
from crossd.data.source import Source
from crossd.errors import InputError
from crossd.evaluation import experiment, jobs
from crossd.evaluation.arms import OURS, RIVALS, SOLID
from crossd.evaluation.experiment import Arm, Contest
from crossd.evaluation.protocols import ON_FEATURES, require_labels
from crossd.inference.slice_ensemble import answering
from crossd.reports import comparison_results
from crossd.tasks import task_of
from crossd.training import loop
from crossd.utils.option_values import counts, names, unused
from crossd.utils.progress import Progress
from crossd.utils.run_folder import claim_folder
from crossd.weights.weights_file import PLANAR, WeightsConfig, load, read_config


def comparison(config: EvaluateConfig, progress: Progress) -> str:
    """Run a comparison, write its tables and plots; returns what to print.

    Raises:
        InputError: When options and data do not go together.
    """
    start = time.perf_counter()
    if (config.weights is None) == (config.model is None):
        raise InputError("a comparison starts from --weights or from --model: give one of them")
    of_model = config.model is not None
    usual = ",".join(ON_FEATURES) if of_model else "zero"
    wanted = names(config.protocol or usual, ALL_PROTOCOLS, "--protocol")
    if of_model:
        unused(config, _OF_WEIGHTS, "is for --weights: leave it out beside --model")
    else:
        unused(config, ("pretrained", "arms"), "is for --model; beside --weights give --baselines")
    contest = open_contest(config, progress)
    for protocol in wanted:
        require_labels(protocol, contest.source)
    folds = [experiment.part(contest, fold) for fold in range(max(1, contest.folds))]
    smallest = min(folds, key=lambda one: len(one.train))
    limits = counts(config.limit, "--limit") or (len(smallest.train),)
    require_limits(smallest, limits, config.limit)
    runs = experiment.plan(contest, wanted, limits, config.trials)
    if not runs and of_model:
        raise InputError(
            "--protocol zero trains nothing, and the last layer of --model is new: add knn, "
            "linear or finetune"
        )
    if not runs:
        things = task_of(contest.source.task).outputs
        other = contest.source.classes != read_config(str(config.weights)).classes
        why = (
            f"{config.data} has other {things} than {config.weights}"
            if other
            else (f"{', '.join(contest.arms)} cannot answer before a training on labelled volumes")
        )
        raise InputError(f"--protocol zero trains nothing, and {why}: add probe or finetune")
    if of_model:
        require_answers(contest, str(config.model))
    claim_folder(config)
    notes = [*contest.notes, *_notes(config, contest.source)]
    for note in notes:
        progress.say(note)
    return compare(
        contest,
        functools.partial(open_contest, config),
        runs,
        jobs.count(config.workers),
        progress,
        start,
        config,
        data=config.data,
        notes=notes,
        model=config.model,
        weights=config.weights,
    )


_OF_WEIGHTS = ("answer", "baselines", "plain", "teach")


def open_contest(config: EvaluateConfig, progress: Progress | None = None) -> Contest:
    """Open the data and the weights of a comparison.

    Raises:
        InputError: When they do not go together.
    """
    progress = progress or Progress(quiet=True)
    if config.model is not None:
        return open_model(config, config.model, progress)
    path = str(config.weights)
    weights = read_config(path)
    source = fitting(config, weights, progress)
    if source.rank == 2 or weights.form == "3d":
        what = f"{config.data} holds images" if source.rank == 2 else f"{path} is for volumes only"
        raise InputError(f"--protocol compares ways from images to volumes, but {what}")
    wanted = names(config.baselines, RIVALS, "--baselines") if config.baselines else ()
    if weights.form in wanted:
        raise InputError(f"--baselines {weights.form}: is what {path} itself is; leave it out")
    plain = _plain(config, weights)
    arms: dict[str, Arm] = {}
    if weights.form in ("cross", *PLANAR):
        name = weights.kernel_mode if weights.form == "cross" else weights.form
        arms[name] = _own(load(path), config.answer, weights, source)
    for name in wanted or (() if arms else ("slices", "center")):
        arms[name] = arm(
            name, source, weights.model, weights.classes, lambda _: copy.deepcopy(plain)
        )
    budget = loop.for_volumes(config, source.task)
    return Contest(
        source,
        arms,
        budget,
        config.folds or 0,
        keep=Path(config.out),
        features=kept_in(config),
        model=weights.model,
        **teaching(config.teach or "never", source.task),
    )


def _own(net: nn.Module, answer: str | None, weights: WeightsConfig, source: Source) -> Arm:
    """Make the arm of the weights themselves, asked in all ways, or in the one options name."""
    if answer:
        answering(net, answer, weights.task)  # refuses what the network lacks
    ways = OURS if weights.form == "cross" else {**OURS, **SOLID}
    possible = [name for name in ways if name != "both" or has_views(net)]
    possible.sort(key=lambda name: name != weights.answer)  # the first, where nothing tells
    asked = {name: ways[name] for name in ((answer,) if answer else possible)}
    return pretrained(lambda: copy.deepcopy(net), asked, weights.classes, source.classes)


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
    weights = None if config.weights is None else read_config(config.weights)
    if (
        weights is not None
        and config.baselines
        and config.plain is None
        and weights.form == "cross"
    ):
        notes.append(
            f"the baselines start from the 2D network that {config.weights} holds in the axial "
            "view; a plain network trained alike (pretrain --kernel-mode none) given by --plain is "
            "the fairer rival"
        )
    repetitions = (config.folds or 1) * config.trials
    return notes + comparison_results.notes(source, repetitions, config.folds or 0)
