"""`crossd teach`: 3D kernels learn, without labels, what their teacher says of volumes."""

import copy
import csv
import dataclasses
import io
import time
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from crossd.cli.opening import fitting, for_rank, taking
from crossd.cli.options import TeachConfig
from crossd.conversion import adapt
from crossd.data.dataset import Samples, Subset
from crossd.data.patches import Patches
from crossd.data.source import Source, limit, require_rank
from crossd.data.splits import spread
from crossd.errors import InputError
from crossd.inference.slice_ensemble import answering
from crossd.tasks import task_of
from crossd.training import loop, validate
from crossd.training.config import with_run_options
from crossd.training.teach import Rescaled, agreement, budget, taught
from crossd.training.teacher import Teacher
from crossd.utils.option_values import choice
from crossd.utils.processes import is_first
from crossd.utils.progress import Progress
from crossd.utils.run_folder import claim_folder
from crossd.weights.weights_file import WeightsConfig, load, read_config, save

ASKED = ("slices", "orientations", "both")
"""Ways in which the weights themselves can be asked, to teach."""

LOOKED_AT = 200
"""Volumes on which it is told how far both agree, at most."""


def teach(config: TeachConfig, progress: Progress) -> str:
    """Teach a network; returns what to print."""
    start = time.perf_counter()
    if config.temperature <= 0:
        raise InputError(f"--temperature {config.temperature:g}: must be above 0")
    weights = read_config(config.weights)
    net = load(config.weights)
    source = require_rank(fitting(config, weights, progress, labels=False), 3, "--data")
    net, weights = for_rank(net, weights, source, align=False)
    if config.limit:
        source = limit(source, config.limit, config.seed, labelled=False)
    usual = budget(weights.task)
    options = dataclasses.replace(
        usual,
        epochs=config.epochs or usual.epochs,
        min_steps=config.steps or (0 if config.epochs else usual.min_steps),
        batch_size=config.batch_size or usual.batch_size,
        lr=config.lr or usual.lr,
        augment=choice(config.augment or usual.augment, ("light", "full", "none"), "--augment"),
    )
    options = with_run_options(config, options)
    teacher = _teacher(config, weights, net, source, progress)
    if is_first():
        claim_folder(config)
    if not weights.recalibrated and adapt.norms_with_statistics(net):
        layers = validate.recalibrate(net, source.train, options, progress=progress)
        progress.say(f"{layers} BatchNorm layers of the 3D kernels are measured on the volumes")
    some = spread(len(source.train), LOOKED_AT)
    shown = Subset(source.train, some)
    told = _said(teacher, shown, weights.task, options)
    before = agreement(weights.task, _said(net, shown, weights.task, options), told)
    fit = taught(
        net,
        Teacher(teacher, weights.task, config.temperature),
        source,
        options,
        folder=Path(config.out),
        resume=config.resume,
        progress=progress,
        name="teaching",
    )
    net = fit.net.float().requires_grad_(True)
    after = agreement(weights.task, _said(net, shown, weights.task, options), told)
    line = (
        f"{len(some):,} volumes: agreement {np.mean(before):.3f} before, {np.mean(after):.3f} after"
    )
    if not is_first():
        return line
    path = Path(config.out) / "weights.safetensors"
    new = dataclasses.replace(taking(weights, source), answer="volume", recalibrated=True)
    save(net, path, new)
    names = [source.train.case(int(index)) for index in some]
    _report(config, start, source, weights, fit, (names, before, after))
    return f"{line}\nwritten: {path} and {config.out}/report.html"


def _teacher(
    config: TeachConfig, weights: WeightsConfig, net: nn.Module, source: Source, progress: Progress
) -> nn.Module:
    """Make the network that teaches, a copy that keeps its statistics of BatchNorm."""
    if config.teacher in ASKED:
        return own_teacher(config.weights, weights, net, config.teacher, source, progress)
    if not Path(config.teacher).is_file():
        raise InputError(
            f"--teacher {config.teacher}: is neither {', '.join(ASKED)} nor a weights file"
        )
    own = read_config(config.teacher)
    if (own.task, own.classes) != (weights.task, weights.classes):
        things = task_of(weights.task).outputs
        raise InputError(
            f"--teacher {config.teacher}: is for {own.task} of {', '.join(own.classes)}, but "
            f"{config.weights} for {weights.task} of {', '.join(weights.classes)}; the {things} "
            "must be the same, in the same order"
        )
    if own.scale != weights.scale or own.in_channels != weights.in_channels:
        raise InputError(
            f"--teacher {config.teacher}: has other channels, or standardises numbers otherwise, "
            f"than {config.weights}; train both on the same data"
        )
    if own.plan is not None and weights.plan is not None and own.plan != weights.plan:
        raise InputError(
            f"--teacher {config.teacher}: prepares volumes otherwise than {config.weights}; train "
            "both by one --plan"
        )
    how = "volume" if own.form == "3d" else "slices"
    other = answering(load(config.teacher), how, weights.task)
    given, known = (source.mean, source.std), (own.mean, own.std)
    return other if given == known else Rescaled(other, given, known)


def own_teacher(
    path: str,
    weights: WeightsConfig,
    net: nn.Module,
    how: str,
    source: Source,
    progress: Progress,
    option: str = "--teacher",
) -> nn.Module:
    """Make of a network itself what teaches it, asked in another way than about the volume.

    Args:
        path: Of the weights, for messages.
        weights: What is known of them.
        net: It is copied.
        how: One of `ASKED`.
        source: Of the volumes.
        progress: Where to say what was decided.
        option: Which asks for it, for messages.

    Raises:
        InputError: When the network cannot be asked so.
    """
    teacher: nn.Module = answering(copy.deepcopy(net), how, weights.task, option)
    if weights.recalibrated and adapt.norms_with_statistics(net) and how == "slices":
        progress.say(
            f"{path}: its BatchNorm was measured on volumes; that of the teacher is measured on "
            "their slices"
        )
        validate.recalibrate(teacher, source.train, loop.TrainConfig(), progress=progress)
    return teacher


def _said(net: nn.Module, samples: Samples, task: str, options: loop.TrainConfig) -> list[Tensor]:
    """Ask a network about volumes: probabilities, numbers, or the class of every voxel."""
    masks = task_of(task).masks
    seen = samples if masks else Patches(samples, samples.patch, options.seed, center=True)
    found: dict[int, Tensor] = {}
    for answers, batch in validate.answers(net, seen, options, task):
        for place, answer in zip(batch["place"].tolist(), answers.cpu(), strict=True):
            found[place] = answer
    return [found[place] for place in range(len(samples))]


def _report(
    config: TeachConfig,
    start: float,
    source: Source,
    weights: WeightsConfig,
    fit: loop.Fit,
    cases: tuple[list[str], list[float], list[float]],
) -> None:
    """Write how far both agree, volume by volume, and how the loss fell."""
    from crossd.reports import curves, html, markdown

    folder = Path(config.out)
    names, before, after = cases
    table = io.StringIO()
    rows = csv.writer(table)
    rows.writerow(["case", "agreement before", "agreement after"])
    rows.writerows(
        [name, f"{one:.4f}", f"{two:.4f}"] for name, one, two in zip(*cases, strict=True)
    )
    worst = np.argsort(after)[:10]
    results = markdown.record(
        config,
        start,
        data=source.name,
        task=weights.task,
        classes=list(weights.classes),
        model=weights.model,
        agreement={"before": float(np.mean(before)), "after": float(np.mean(after))},
        history=fit.history,
        skipped_steps=fit.skipped,
    )
    curves.training(results, folder / "curves.png")
    who = "its own " + config.teacher if config.teacher in ASKED else config.teacher
    said = (
        f"On {len(source.train):,} volumes without labels the network was taught what {who} say"
        f"{'s' * (config.teacher not in ASKED)} of them. Of {len(names):,} of these, both agree by "
        f"{np.mean(before):.3f} before and {np.mean(after):.3f} after (1: they say the same)."
    )
    lines = [
        "# Teaching",
        "",
        said,
        "",
        "![Loss by epoch](curves.png)",
        *markdown.section(
            "Where they agree least",
            markdown.grid(
                ["volume", "before", "after"],
                [[names[i], f"{before[i]:.3f}", f"{after[i]:.3f}"] for i in worst],
            ),
        ),
        "",
        "cases.csv lists all of them.",
        *markdown.section(
            "Cost", markdown.cost(results["seconds"], "volumes", fit.samples, fit.seconds)
        ),
    ]
    text = markdown.ended(lines, results)
    shown = html.render(text, said, folder)
    more = {"report.html": shown, "cases.csv": table.getvalue()}
    markdown.write(results, folder, text, more)
