"""`crossd transfer`: does training on images help on volumes, against every rival, fairly.

Each arm is a network for volumes made from 2D pretraining (or from nothing). All share the
pretraining budget, the seeds, the augmentation, the recalibration of BatchNorm on the unlabelled
training volumes, and the budget on the labelled ones.
"""

import copy
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from crossd.cli.options import PROTOCOLS, TransferConfig
from crossd.conversion import heads, registry
from crossd.conversion.convert import convert
from crossd.conversion.state import Folded
from crossd.data.dataset import Subset
from crossd.data.open_source import open_source
from crossd.data.preprocessing.disk_cache import open_stored
from crossd.data.preprocessing.plan import to_record
from crossd.data.slices import as_images
from crossd.data.source import Source, limit, require_rank
from crossd.data.sources.labelled import Given
from crossd.errors import InputError
from crossd.evaluation import protocols
from crossd.evaluation.arms import ARMS, PRETRAININGS
from crossd.reports.slice_viewer import Case
from crossd.training import devices, loop, metrics, validate
from crossd.utils.atomic_files import atomic
from crossd.utils.option_values import check, names, sizes
from crossd.utils.progress import Progress
from crossd.utils.run_folder import LEFTOVERS, claim_folder, remove
from crossd.weights.weights_file import WeightsConfig, load, reshape, save

SHOWN = 3
"""Test volumes whose masks the report shows."""


class Run:
    """The state of one comparison: its data, its networks and the rows it has so far.

    Args:
        config: The options.
        progress: Where to show how far it is.

    Raises:
        InputError: for options and data that do not go together.
    """

    def __init__(self, config: TransferConfig, progress: Progress) -> None:
        self.config, self.progress = config, progress
        check(config)
        self.arms = names(config.arms, list(ARMS), "--arms")
        self.protocols = names(config.protocols, PROTOCOLS, "--protocols")
        self.given = Given(stored=open_stored(config))
        volumes = open_source(
            config.volumes,
            size=sizes(config.size),
            seed=config.seed,
            given=self.given,
            progress=progress,
        )
        self.volumes = require_rank(volumes, 3, "--volumes")
        self.images = self._open_images()
        masks = self.volumes.task == "segmentation"
        if self.images.task != self.volumes.task:
            raise InputError(
                f"--images is for {self.images.task}, --volumes for {self.volumes.task}: "
                "both must have labels, or both masks"
            )
        self.same_classes = self.images.classes == self.volumes.classes
        if not self.same_classes:
            self.protocols = tuple(name for name in self.protocols if name != "zero")
            if not self.protocols:
                raise InputError(
                    f"--protocols zero keeps the 2D head, but {config.images} has other classes "
                    f"than {config.volumes}: add probe or finetune"
                )
        count = config.limit or (4 if masks else 10 * len(self.volumes.classes))
        count = count if config.limit else min(count, len(self.volumes.train))
        self.few = limit(self.volumes, count, config.seed)
        self.model = config.model or registry.DEFAULTS[self.volumes.task]
        self.pretraining = loop.for_images(config, self.volumes.task)
        self.budget = dataclasses.replace(
            loop.for_volumes(config, self.volumes.task),
            workers=config.workers,
            checkpointing=config.checkpointing,
        )
        self._try_arms()
        self.folder = claim_folder(config)
        self.nets: dict[str, nn.Module] = {}
        self.pretrained: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []

    def _open_images(self) -> Source:
        config = self.config
        if config.images == config.volumes:
            source = self.volumes
        else:
            channels = self.volumes.channels
            source = open_source(
                config.images,
                seed=config.seed,
                channels=channels,
                given=self.given,
                progress=self.progress,
            )
        return as_images(source, config.slices, config.slice_step)

    def fresh(self, classes: int) -> nn.Module:
        """Build the network with new weights, the same for all."""
        devices.seed_everything(self.config.seed)
        return registry.build(self.model, self.volumes.task, self.volumes.channels, classes)

    def _try_arms(self) -> None:
        """Refuse a model that cannot be converted before a folder is claimed."""
        classes, task = len(self.images.classes), self.volumes.task
        size = self.images.size
        registry.require_answers(self.fresh(classes), self.model, task, classes, size)
        nets: dict[str | None, nn.Module] = {None: self.fresh(classes)}
        for arm in self.arms:
            pretraining, make = ARMS[arm]
            if pretraining is not None and pretraining not in nets:
                nets[pretraining] = self.untrained(pretraining, classes)
            if pretraining is None or PRETRAININGS[pretraining][0] != "cross":
                make(nets[pretraining], task)  # of what convert took nothing is refused any more
        converted = next((net for net in nets.values() if isinstance(net, Folded)), None)
        if converted is not None:
            volume = torch.zeros(1, self.volumes.channels, *self.volumes.size)
            registry.answer_of(converted, volume, self.model)

    def untrained(self, name: str, classes: int) -> nn.Module:
        """Build the network of a pretraining with new weights."""
        form, mode, lift = PRETRAININGS[name]
        net = self.fresh(classes)
        return convert(net, mode, lift) if form == "cross" else reshape(net, form)

    def pretrain(self, name: str) -> nn.Module:
        """Train in 2D, or read what an interrupted run trained."""
        path = self.folder / f"pretrained-{name}.safetensors"
        record_path = self.folder / f"pretrained-{name}.json"
        if self.config.resume and record_path.is_file():
            self.pretrained.append(json.loads(record_path.read_text()))
            return load(path)
        form, mode, _ = PRETRAININGS[name]
        source = self.images
        net = self.untrained(name, len(source.classes))
        start = time.perf_counter()
        fit = loop.fit(
            net, source, self.pretraining, progress=self.progress, name=f"2D training, {name}"
        )
        scores = validate.score(net, source, source.test, self.pretraining)[0]
        record = {
            "name": name,
            "seconds": round(time.perf_counter() - start, 2),
            "metrics": scores,
            "history": fit.history,
        }
        self.progress.say(f"  on images held out: {validate.describe(scores, source.task)}")
        weights = WeightsConfig(
            self.model,
            source.task,
            source.channels,
            source.classes,
            form=form,
            kernel_mode=mode,
            mean=source.mean,
            std=source.std,
            size=source.size,
            spacing=self.volumes.spacing,
            plan=to_record(self.volumes.plan),
            values=source.values,
        )
        save(net, path, weights)
        self.pretrained.append(record)
        _write_json(record_path, record)
        return net

    def start(self, arm: str) -> nn.Module:
        """Make the arm's network for volumes, its BatchNorm recalibrated like every arm's."""
        pretraining, make = ARMS[arm]
        if pretraining is None:
            net = make(self.fresh(len(self.volumes.classes)), self.volumes.task)
        else:
            if pretraining not in self.nets:
                self.nets[pretraining] = self.pretrain(pretraining)
            net = make(copy.deepcopy(self.nets[pretraining]), self.volumes.task)
            if not self.same_classes:
                devices.seed_everything(self.config.seed)
                before, after = len(self.images.classes), len(self.volumes.classes)
                heads.new_classifier(net, before, after)
        validate.recalibrate(net, self.volumes.train, self.budget)
        return net

    def evaluate(self, arm: str, protocol: str, net: nn.Module) -> dict[str, Any]:
        """Train `net` as the protocol says and score it on the test volumes."""
        start = time.perf_counter()
        outcome = protocols.apply(
            protocol, net, self.few, self.budget, self.progress, f"{protocol}, {arm}"
        )
        task = self.volumes.task
        self.progress.say(f"  {protocol}, {arm}: {validate.describe(outcome.scores, task)}")
        row = {
            "arm": arm,
            "protocol": protocol,
            "metrics": outcome.scores,
            "seconds": round(time.perf_counter() - start, 2),
            "parameters": sum(p.numel() for p in net.parameters()),
            "history": outcome.history,
            "note": "",
        }
        if task == "classification":
            row["confusion"] = metrics.confusion(*outcome.outputs).tolist()
        if protocol == self.protocols[0]:
            masks = task == "segmentation"
            kept = self.masks(outcome.net) if masks else [outcome.outputs[0].numpy()]
            with atomic(self.folder / f"answer-{arm}.npz") as temporary:
                np.savez_compressed(temporary, *kept)
        return row

    def masks(self, net: nn.Module) -> list[NDArray[np.uint8]]:
        """Give the masks of the first test volumes, for the pictures."""
        first = Subset(self.volumes.test, np.arange(min(SHOWN, len(self.volumes.test))))
        one = dataclasses.replace(self.budget, batch_size=1)
        found = validate.answers(net, first, one)
        return [classes[0].to(torch.uint8).cpu().numpy() for classes, _ in found]

    def answers(self, arm: str) -> list[NDArray[Any]]:
        """Read what an arm said under the first protocol: masks, or all probabilities."""
        with np.load(self.folder / f"answer-{arm}.npz") as kept:
            return [kept[name] for name in kept.files]


def _write_json(path: Path, value: Any) -> None:
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value))


def transfer(config: TransferConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Run the comparison and write its table, report and pictures to `config.out`.

    Args:
        config: The options.
        progress: Where to show how far it is.

    Returns:
        The results, as written to ``metrics.json``.

    Raises:
        InputError: with one line on what is wrong with the options or the data.
    """
    progress = progress or Progress(quiet=True)
    start = time.perf_counter()
    run = Run(config, progress)
    progress.say(
        f"{run.model}: 2D training on {len(run.images.train):,} images of {config.images}, then "
        f"{len(run.few.train):,} labelled of {len(run.volumes.train):,} volumes of "
        f"{config.volumes}, {len(run.volumes.test):,} to test on"
    )
    if not run.same_classes:
        progress.say("the images have other classes than the volumes: no protocol zero")
    for arm in run.arms:
        path = run.folder / f"arm-{arm}.json"
        if config.resume and path.is_file():
            run.rows += json.loads(path.read_text())
            continue
        net = run.start(arm)
        rows = [run.evaluate(arm, protocol, net) for protocol in run.protocols]
        _write_json(path, rows)
        run.rows += rows
    results = _results(run, time.perf_counter() - start)
    _write(run, results)
    remove(run.folder, LEFTOVERS)
    return results


def _results(run: Run, seconds: float) -> dict[str, Any]:
    from crossd import __version__
    from crossd.reports import markdown

    config = run.config
    return {
        "command": "transfer",
        "version": __version__,
        "task": run.volumes.task,
        "model": run.model,
        "images": config.images,
        "volumes": config.volumes,
        "classes": list(run.volumes.classes),
        "limit": len(run.few.train),
        "test_samples": len(run.volumes.test),
        "seed": config.seed,
        "seconds": round(seconds, 1),
        "arms": list(run.arms),
        "protocols": list(run.protocols),
        "pretraining": run.pretrained,
        "rows": run.rows,
        "config": dataclasses.asdict(config),
        "versions": markdown.versions(),
    }


def _write(run: Run, results: dict[str, Any]) -> None:
    """Write the reports, the pictures and the record."""
    from crossd.reports import html, markdown, transfer_results

    pictures = _draw(run, results)
    text = transfer_results.markdown(
        results, {title: path.name for title, path in pictures.items()}
    )
    images = sum(len(one["history"]) for one in run.pretrained) * len(run.images.train)
    spent = sum(one["seconds"] for one in run.pretrained)
    cost = markdown.cost(results["seconds"], "images of the 2D training", images, spent)
    shown = html.render(
        text,
        transfer_results.headline(results)[0],
        run.folder,
        _cases(run),
        cost,
        without=[title for title, path in pictures.items() if path.name == "answers.png"],
    )
    markdown.write(results, run.folder, text, {"report.html": shown})


def _cases(run: Run) -> list[Case]:
    """Show what all arms say, of the test volumes that they find hardest and easiest."""
    from crossd.reports import shown_cases

    source, test = run.volumes, run.volumes.test
    named, found = shown_cases.titled(test), {arm: run.answers(arm) for arm in run.arms}
    after = f", {run.protocols[0]}"
    if source.task == "segmentation":
        count = len(next(iter(found.values())))
        samples = [test[i] for i in range(count)]
        group = f"The first test volume{'s' if count > 1 else ''}{after}"
        return [
            shown_cases.segmented(
                named[i], group, sample["image"][0].numpy(),
                sample["mask"].to(torch.uint8).numpy(), {arm: one[i] for arm, one in found.items()},
                source.classes, source.spacing,
            )
            for i, sample in enumerate(samples)
        ]  # fmt: skip
    assert test.labels is not None
    truth = test.labels
    chances = {arm: one[0] for arm, one in found.items()}
    means = np.mean([p[np.arange(len(truth)), truth] for p in chances.values()], axis=0)
    return [
        shown_cases.labelled(
            named[i], f"{group} over all arms{after}", test[i]["image"][0].numpy(),
            {arm: p[i] for arm, p in chances.items()}, int(truth[i]), source,
        )
        for i, group in shown_cases.extremes(means)
    ]  # fmt: skip


def _draw(run: Run, results: dict[str, Any]) -> dict[str, Path]:
    """Draw the pictures that go into the report."""
    from crossd.reports import pictures

    paths = {"Scores": run.folder / "scores.png", "Learning curves": run.folder / "curves.png"}
    pictures.scores(results, paths["Scores"])
    pictures.learning_curves(results, paths["Learning curves"])
    first = run.protocols[0]
    rows = {row["arm"]: row for row in run.rows if row["protocol"] == first}
    if run.volumes.task == "classification":
        path = paths["Confusion of classes"] = run.folder / "confusion.png"
        counts = {f"{arm}, {first}": np.array(row["confusion"]) for arm, row in rows.items()}
        pictures.confusions(counts, run.volumes.classes, path)
    else:
        path = paths[f"The first test volume, {first}"] = run.folder / "answers.png"
        sample = run.volumes.test[0]
        pictures.answers(
            sample["image"][0].numpy(),
            sample["mask"].numpy(),
            {arm: run.answers(arm)[0] for arm in rows},
            run.volumes.classes,
            path,
            {arm: row["metrics"]["dice"] for arm, row in rows.items()},
        )
    return paths
