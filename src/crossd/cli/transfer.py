"""`crossd transfer`: does training on images help on volumes, against every rival, fairly.

First come the 2D trainings that the arms start from, each once; then the arms are compared as by
`crossd evaluate --protocol`. All share the budget of the 2D training, the seeds, the augmentation,
the recalibration of BatchNorm on the unlabelled training volumes, and the budget on labelled ones.
"""

import dataclasses
import functools
import json
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from crossd.cli.contests import arm, compare, kept_in, require_limits, teaching
from crossd.cli.opening import described, images_and_volumes, model_of, new_network, taking
from crossd.cli.options import ALL_PROTOCOLS, PROTOCOLS, TransferConfig
from crossd.conversion import registry
from crossd.conversion.adapt import knows_volumes
from crossd.conversion.convert import convert
from crossd.conversion.folding.modules import Folded
from crossd.data.source import Source
from crossd.errors import InputError
from crossd.evaluation import experiment, jobs
from crossd.evaluation.arms import ARMS, PRETRAININGS
from crossd.evaluation.experiment import Contest
from crossd.evaluation.protocols import ON_FEATURES, require_labels
from crossd.reports import comparison_results
from crossd.tasks import Task, task_of
from crossd.training import loop, validate
from crossd.utils.atomic_files import atomic
from crossd.utils.option_values import counts, names
from crossd.utils.progress import Progress
from crossd.utils.run_folder import INSIDE, claim_folder
from crossd.weights import timm_networks
from crossd.weights.weights_file import load, reshape, save


@dataclasses.dataclass(frozen=True, eq=False)
class Setting:
    """What all trainings of a comparison share.

    Attributes:
        config: The options.
        images: What the 2D trainings learn from.
        volumes: What the arms are compared on.
        named: The network as the options name it.
        model: Its whole name, which makes it with new weights.
    """

    config: TransferConfig
    images: Source
    volumes: Source
    named: str
    model: str

    @property
    def same_classes(self) -> bool:
        """Whether the head that was trained in 2D can be kept."""
        return self.images.classes == self.volumes.classes

    def fresh(self, classes: int, seed: int) -> nn.Module:
        """Build the network as 2D trainings start from it."""
        return new_network(self.config, self.named, self.images, classes, seed)[0]

    def untrained(self, name: str) -> nn.Module:
        """Build the network of a pretraining as it starts, with the same weights for all."""
        form, mode, lift, _ = PRETRAININGS[name]
        net = self.fresh(len(self.images.classes), self.config.seed)
        return convert(net, mode, lift) if form == "cross" else reshape(net, form)


def open_setting(config: TransferConfig, progress: Progress | None = None) -> Setting:
    """Open the data of a comparison.

    Raises:
        InputError: For data that do not go together.
    """
    progress = progress or Progress(quiet=True)
    volumes, images = images_and_volumes(config, progress)
    named = model = model_of(config, volumes)
    if config.pretrained is not None:  # what its slices want is in the whole name
        _, model = new_network(config, named, images, len(images.classes), config.seed, progress)
    return Setting(config, images, volumes, named, model)


def open_contest(config: TransferConfig, setting: Setting | None = None) -> Contest:
    """Make the contest of the arms, whose pretraining is done."""
    setting = setting or open_setting(config)
    budget = dataclasses.replace(
        loop.for_volumes(config, setting.volumes.task), checkpointing=config.checkpointing
    )
    folder, known = Path(config.out), setting.images.classes
    arms = {
        name: arm(
            name, setting.volumes, setting.model, known, lambda one: load(_weights(folder, one))
        )
        for name in names(config.arms, list(ARMS), "--arms")
    }
    where = kept_in(config)
    return Contest(
        setting.volumes,
        arms,
        budget,
        keep=folder,
        features=where,
        model=setting.model,
        **teaching(config.teach, setting.volumes.task),
    )


def _weights(folder: Path, pretraining: str) -> Path:
    return folder / f"pretrained-{pretraining}.safetensors"


def require_arms(setting: Setting, arms: tuple[str, ...]) -> None:
    """Refuse a model that cannot be converted before a folder is claimed."""
    classes, task = len(setting.images.classes), setting.volumes.task
    net = setting.fresh(classes, 0)
    registry.require_answers(net, setting.model, task, classes, setting.images.size)
    nets: dict[str | None, nn.Module] = {None: setting.fresh(classes, 0)}
    for name in arms:
        pretraining, asked = ARMS[name]
        if pretraining is not None and pretraining not in nets:
            nets[pretraining] = setting.untrained(pretraining)
        if pretraining is None or PRETRAININGS[pretraining][0] != "cross":
            # Of what convert took, nothing is refused any more.
            next(iter(asked.values()))(nets[pretraining], task)
    converted = next((net for net in nets.values() if isinstance(net, Folded)), None)
    if converted is not None:
        volume = torch.zeros(1, setting.volumes.channels, *setting.volumes.size)
        registry.answer_of(converted, volume, setting.model)


def pretrain(setting: Setting, name: str, progress: Progress) -> dict[str, object]:
    """Train in 2D, or read what an interrupted run trained; returns the record of it."""
    config, source = setting.config, setting.images
    path = _weights(Path(config.out), name)
    record_path = path.with_suffix(".json")
    if record_path.is_file():
        return json.loads(record_path.read_text())
    form, mode, _, views = PRETRAININGS[name]
    net = setting.untrained(name)
    budget = dataclasses.replace(loop.for_images(config, source.task), views=views)
    start = time.perf_counter()
    fit = loop.fit(net, source, budget, progress=progress, name=f"2D training, {name}")
    scores = validate.score(net, source, source.test, budget)[0]
    record = {
        "name": name,
        "seconds": round(time.perf_counter() - start, 2),
        "metrics": scores,
        "history": fit.history,
    }
    progress.say(f"  on images held out: {validate.describe(scores, source.task)}")
    weights = taking(described(source, setting.model, form, mode), setting.volumes)
    weights = dataclasses.replace(weights, recalibrated=knows_volumes(net, source.rank))
    save(net, path, weights)
    with atomic(record_path) as temporary:
        temporary.write_text(json.dumps(record))
    return record


LIFTED = {
    "center": ["--to", "cross"],
    "inflate": ["--to", "cross", "--lift", "inflate"],
    "triplanar": ["--to", "cross", "--lift", "triplanar"],
    "acs": ["--to", "acs"],
    "cycle": ["--to", "cycle"],
}
"""Options of `crossd convert` that make of a plain 2D network what an arm is."""


def commands(config: TransferConfig, run: Mapping[str, Any]) -> list[str]:
    """List the commands that make and use what an arm was in a comparison, without labels.

    Args:
        config: The options of the comparison.
        run: The record of the arm's run, see `crossd.evaluation.experiment.RunRecord`.

    Returns:
        One a line; nothing for an arm that no command makes.
    """
    arm = run["arm"]
    pretraining = ARMS[arm][0]
    answer, *more = run["way"].split(", ")
    ours = pretraining in ("projection", "projection-drawn")
    if pretraining is None or not (ours or arm in LIFTED or arm == "slices"):
        return []
    out = Path(config.out)
    weights = _weights(out, pretraining)
    read = ["--data", config.volumes]  # as the comparison read them
    for name in ("size", "ignore", "accept"):
        given = getattr(config, name)
        read += [] if given is None else [f"--{name}", str(given)]
    read += ["--seed", str(config.seed)] if config.seed else []  # of what has no split of its own
    lines: list[list[object]] = []

    def measured(before: Path, answer: str, name: str) -> Path:
        ready = out / name
        lines.append(
            ["recalibrate", "--weights", before, *read, "--answer", answer, "--out", ready]
        )
        return ready

    teacher = weights
    if run.get("teacher") == "anew":
        teacher = measured(weights, "slices", "use-teacher.safetensors")
    told = [] if teacher == weights and arm not in LIFTED else ["--teacher", teacher]
    if arm in LIFTED:
        lifted = out / f"use-{arm}.safetensors"
        lines.append(["convert", "--weights", weights, *LIFTED[arm], "--out", lifted])
        weights = lifted
    if "taught" in more:
        lines.append(["teach", "--weights", weights, *read, *told, "--out", out / INSIDE])
        weights = out / INSIDE / "weights.safetensors"
    elif "BatchNorm anew" in more:
        weights = measured(weights, answer, "use-ready.safetensors")
    new = ["--input", "NEW", "--answer", answer, "--out", "answers"]
    lines.append(["predict", "--weights", weights, *new])
    return [shlex.join(["crossd", *map(str, line)]) for line in lines]


def _starts(config: TransferConfig, arms: tuple[str, ...]) -> list[str]:
    """Say which arms have the weights of others, and which do not."""
    if config.pretrained is None:
        return []
    new = [name for name in arms if ARMS[name][0] is None]
    but = f", {' and '.join(new)} from new weights" if new else ""
    return [f"the 2D trainings start from {timm_networks.whose(config.pretrained)}{but}"]


def _usual(task: Task, classes: int) -> int:
    """Choose how many labelled volumes are learnt from where the options leave it open."""
    if task.masks:
        return 4
    return 10 * classes if task.kind == "one" else 50


def transfer(config: TransferConfig, progress: Progress) -> str:
    """Run the comparison and write its table, report and pictures; returns what to print.

    Raises:
        InputError: With one line on what is wrong with the options or the data.
    """
    start = time.perf_counter()
    arms = names(config.arms, list(ARMS), "--arms")
    protocols = names(config.protocols or ",".join(PROTOCOLS), ALL_PROTOCOLS, "--protocols")
    setting = open_setting(config, progress)
    volumes, images = setting.volumes, setting.images
    if config.protocols is None and task_of(volumes.task).masks:
        protocols = tuple(name for name in protocols if name not in ON_FEATURES)
    things = task_of(volumes.task).outputs
    usual = _usual(task_of(volumes.task), len(volumes.classes))
    limits = counts(config.limit, "--limit") or (min(usual, len(volumes.train)),)
    require_limits(volumes, limits, config.limit)
    for protocol in protocols:
        require_labels(protocol, volumes)
    if not setting.same_classes:
        progress.say(f"the images have other {things} than the volumes: no protocol zero")
    contest = open_contest(config, setting)
    runs = experiment.plan(contest, protocols, limits, config.trials)
    if not runs:
        others = f"{config.images} has other {things} than {config.volumes}"
        why = f"{config.arms} has none" if setting.same_classes else others
        raise InputError(f"--protocols zero keeps the 2D head, but {why}: add probe or finetune")
    require_arms(setting, arms)
    claim_folder(config)
    progress.say(
        f"{setting.model}: 2D training on {len(images.train):,} images of {config.images}, then "
        f"{', '.join(map(str, limits))} labelled of {len(volumes.train):,} volumes of "
        f"{config.volumes}, {len(volumes.test):,} to test on"
    )
    several = jobs.count(config.jobs)
    again = functools.partial(open_setting, config)
    needed = [name for name in PRETRAININGS if name in {ARMS[arm][0] for arm in arms}]
    records = dict(jobs.spread(again, pretrain, needed, several, progress, setting))
    return compare(
        contest,
        functools.partial(open_contest, config),
        runs,
        several,
        progress,
        start,
        config,
        functools.partial(commands, config),
        data=config.volumes,
        images=config.images,
        model=setting.model,
        notes=[*_starts(config, arms), *comparison_results.notes(volumes, config.trials)],
        pretraining=[records[name] for name in needed],
    )
