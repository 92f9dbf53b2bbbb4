"""One training loop on Lightning Fabric, for images and volumes, classes and masks."""

import copy
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from crossd.data.source import Source
from crossd.errors import InputError
from crossd.nn.checkpointing import checkpoint_activations
from crossd.nn.kernel_modes import PosePredictor
from crossd.nn.layers import laid_out
from crossd.tasks import task_of
from crossd.training import checkpoints, devices
from crossd.training.batch_norm import Statistics, sync_batch_norm
from crossd.training.batches import (
    Feed,
    Piece,
    alternate,
    augment,
    is_of_a_reader,
    reporting,
    view_of,
)
from crossd.training.config import TrainConfig, for_images, for_volumes
from crossd.training.loggers import Epoch, TrainingLog
from crossd.training.loss import Logits
from crossd.training.signals import Stopped, listening
from crossd.training.teacher import Teacher
from crossd.training.validate import score
from crossd.utils.atomic_files import naming
from crossd.utils.processes import is_first
from crossd.utils.progress import Progress
from crossd.utils.run_folder import BAD_BATCHES

__all__ = ["Fit", "TrainConfig", "fit", "for_images", "for_volumes"]

VALIDATIONS = 25
"""Validations after the first epoch, at most: after each of many they would take too long."""

SETTLED_AT_ONCE = 10
"""Batches whose losses are read from a GPU together: reading waits for it."""


@dataclass
class Fit:
    """What training gave.

    Attributes:
        net: The network with its last weights, whole in every process.
        history: A record an epoch: ``epoch``, ``loss``, and ``val`` with scores.
        best: The best validation score, -inf without validation.
        state: The weights of that score, None without validation.
        skipped: Steps that were not taken, since a loss was not a number.
        samples: That were trained on, each time counted.
        seconds: Spent on them, without validation [s].
    """

    net: nn.Module
    history: list[Epoch] = field(default_factory=list)
    best: float = -math.inf
    state: dict[str, Tensor] | None = None
    skipped: int = 0
    samples: int = 0
    seconds: float = 0.0


@dataclass
class Position:
    """Where a training is.

    Attributes:
        epoch: Epochs that are done.
        batches: Batches that are done of the next one.
        losses: Of those, each with the number of its source.
    """

    epoch: int = 0
    batches: int = 0
    losses: list[tuple[int, float]] = field(default_factory=list)


def fit(
    net: nn.Module,
    source: Source,
    config: TrainConfig,
    *,
    beside: Sequence[tuple[Source, TrainConfig]] = (),
    rows: Sequence[slice] | None = None,
    teacher: Teacher | None = None,
    folder: Path | None = None,
    resume: bool = False,
    validate: bool = True,
    on_best: Callable[[nn.Module], None] | None = None,
    on_epoch: Callable[[int, int], None] | None = None,
    progress: Progress | None = None,
    name: str = "training",
) -> Fit:
    """Train a network in place.

    Args:
        net: Takes the source's images or volumes and gives logits.
        source: Its training samples are learnt, its validation samples choose the best epoch.
        config: How.
        beside: Further sources, whose batches are taken in turn with those of the first, each with
            its own size of batches, augmentation and seed. An epoch is a pass over the longest.
            BatchNorm's running statistics are kept apart, those of the first source in the network.
        rows: For each source the logits that are its classes; None takes all.
        teacher: What says what is right of the samples of all sources, in place of their labels.
        folder: Where checkpoints are kept: after every epoch, and at least every
            `config.checkpoint_minutes`; None keeps nothing.
        resume: Go on from the newest of these that is whole, if there is any.
        validate: Whether to score the validation samples: after every epoch, of many epochs after
            the first and 25 more, the last among these.
        on_best: Called after an epoch with the best score so far, with the network, to keep it.
        on_epoch: Called before every epoch with its number and their count, to freeze parameters.
        progress: Where to show how far it is.
        name: What to call it there.

    Returns:
        The network, the history, and the best weights when there was validation.

    Raises:
        InputError: "nothing to resume", or "loss is ..." when it stops being a number, or "the
            network cannot be trained on ..." when the batches are too small for it.
        Stopped: When asked by a signal to stop; a checkpoint was written.
    """
    progress = progress or Progress(quiet=True)
    run = _Run(net, source, config, beside, rows, folder, progress, name)
    run.teacher = teacher
    start = run.resume() if resume else Position()
    done = start.epoch * run.batches + start.batches
    first = folder if is_first() else None
    watch = TrainingLog(first, config.loggers, run.epochs, run.batches, done)
    with (
        listening() as asked,
        watch.watching(),
        reporting(run.feeds),
        progress.task(name, run.epochs * run.batches, done) as bar,
    ):
        for epoch in range(start.epoch, run.epochs):
            here = start if epoch == start.epoch else Position(epoch)
            run.model.train()
            tick = time.perf_counter()
            if on_epoch is not None:
                on_epoch(epoch, run.epochs)
            for pieces, waited in run.groups(here):
                rate = float(run.schedule.get_last_lr()[0])
                losses = run.step(pieces, here)
                count = sum(len(piece.indices) for piece in pieces)
                bar.advance(count, loss=losses[-1], waited=waited)
                run.result.samples += count
                run.result.seconds += time.perf_counter() - tick
                tick = time.perf_counter()
                watch.step(epoch, len(pieces), count, waited, here.losses, rate)
                run.look_up(asked.code, here)
            run.end_epoch(here, validate, on_best)
            watch.epoch(run.result.history[-1])
            run.look_up(asked.code, Position(epoch + 1), True)
    checkpoint_activations(net, enabled=False)
    return run.result


class _Run:
    """What a training consists of: network, optimiser, schedule, feeds, and what it gave so far."""

    def __init__(
        self,
        net: nn.Module,
        source: Source,
        config: TrainConfig,
        beside: Sequence[tuple[Source, TrainConfig]],
        rows: Sequence[slice] | None,
        folder: Path | None,
        progress: Progress,
        name: str,
    ) -> None:
        self.net, self.source, self.config, self.folder = net, source, config, folder
        self.progress, self.name = progress, name
        unused = any(isinstance(m, PosePredictor) for m in net.modules())  # not on volumes
        self.fabric = devices.join(config, unused)
        devices.seed_everything(config.seed)
        self.feeds = [Feed(*one, net, progress) for one in ((source, config), *beside)]
        for feed, logits in zip(self.feeds, rows or [slice(None)] * len(self.feeds), strict=True):
            feed.rows = logits
            feed.ready = devices.feeding(self.fabric, feed.loader)
        self.each = max(len(feed.loader) for feed in self.feeds)
        self.batches = self.each * len(self.feeds)
        self.epochs = max(config.epochs, -(-config.min_steps // self.each))
        if config.checkpointing:
            checkpoint_activations(net)
        if config.sync_bn:
            sync_batch_norm(net)
        whole = copy.deepcopy(net) if config.strategy == "fsdp" else net
        volumes = all(feed.source.rank == 3 for feed in self.feeds)
        laid = net  # fsdp wants contiguous weights
        if whole is net:
            laid = laid_out(net, volumes, self.fabric.device)
        if config.compile:
            compiled = torch.compile(laid)
            assert isinstance(compiled, nn.Module)
            laid = compiled
        self.model = self.fabric.setup_module(laid)
        self.result = Fit(whole if devices.is_sharded(net) else net)
        trained = [p for p in net.parameters() if p.requires_grad]
        self.plain = torch.optim.AdamW(trained, lr=config.lr, weight_decay=config.weight_decay)
        steps = self.epochs * -(-self.batches // config.accumulate)
        factor = _schedule(steps, config)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.plain, factor)
        optimizer = self.fabric.setup_optimizers(self.plain)
        assert not isinstance(optimizer, tuple)
        self.optimizer = optimizer
        self.dtype = devices.dtype_of(net)
        self.statistics = Statistics(net, len(self.feeds))
        self.kept_at = time.monotonic()
        self.unsettled: list[tuple[Tensor, Piece]] = []
        self.teacher: Teacher | None = None

    def groups(self, here: Position) -> Iterator[tuple[list[Piece], float]]:
        """Yield the rest of an epoch's batches, those of one step together, and the wait [s]."""
        rest = alternate(self.feeds, here.epoch, self.each, here.batches // len(self.feeds))
        start = time.perf_counter()
        while pieces := list(islice(rest, self.config.accumulate)):
            yield pieces, time.perf_counter() - start
            start = time.perf_counter()

    def step(self, pieces: Sequence[Piece], here: Position) -> list[Tensor]:
        """Take a step; returns the loss of every batch."""
        skips = self.config.on_nan == "skip"
        if skips:
            self.statistics.remember()
        losses = []
        for piece in pieces:
            last = piece is pieces[-1]
            with self.fabric.no_backward_sync(self.model, enabled=not last):
                losses.append(self._backward(piece, len(pieces)))
            here.batches += 1
        if skips and self._left_out(losses, pieces, here.epoch):
            self.result.skipped += 1
        else:
            self.unsettled += zip(losses, pieces, strict=True)
            # Infinite gradients: in 16-mixed the scaler mends them, else the loss shows them.
            self.fabric.clip_gradients(
                self.model, self.optimizer, max_norm=self.config.clip, error_if_nonfinite=False
            )
            self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        if self.fabric.device.type == "cpu" or len(self.unsettled) >= SETTLED_AT_ONCE:
            self._settle(here)
        return losses

    def _backward(self, piece: Piece, together: int) -> Tensor:
        feed, image, mask = piece.feed, piece.batch["image"], piece.batch.get("mask")
        self.statistics.use(self.feeds.index(feed))
        image = image.to(self.dtype)
        if feed.config.augment == "light":
            image, mask = augment(image, mask, piece.rows, len(piece.indices))
        with view_of(piece.batch, self.net, draw=self.config.compile):  # compiled, it cannot itself
            logits = _rows(_logits(self.model, image), feed.rows, image.dim())
            if self.teacher is None:
                loss = feed.criterion(logits, piece.batch["label"] if mask is None else mask)
            else:
                loss = self.teacher.loss(logits, image)
            self.fabric.backward(loss * (piece.weight / together))
        return loss.detach()

    def _left_out(self, losses: list[Tensor], pieces: Sequence[Piece], epoch: int) -> bool:
        """Tell whether a step must not be taken; what forward passes counted is put back then."""
        values = [float(loss) for loss in losses]
        if not devices.largest_over_processes([not all(map(math.isfinite, values))])[0]:
            return False
        self.statistics.put_back()
        for loss, piece in zip(values, pieces, strict=True):
            if not math.isfinite(loss):
                self.note_bad(piece, loss, epoch)
        return True

    def note_bad(self, piece: Piece, loss: float, epoch: int) -> str:
        """Write down which samples gave a loss that is no number; returns where."""
        samples = [piece.feed.source.train.name(int(i)) for i in piece.indices]
        record = {"epoch": epoch + 1, "loss": str(loss), "samples": samples}
        if self.folder is None:
            return ", ".join(samples[:3]) + (" ..." if len(samples) > 3 else "")
        path = self.folder / BAD_BATCHES
        if is_first():
            with naming(path), path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        return f"the samples listed in {path}"

    def _settle(self, here: Position) -> None:
        """Read the losses that were not read yet."""
        for tensor, piece in self.unsettled:
            loss = float(tensor)
            if not math.isfinite(loss):
                where = self.note_bad(piece, loss, here.epoch)
                raise InputError(
                    f"loss is {loss} in epoch {here.epoch + 1} of {self.name}, on {where}: lower "
                    f"--lr (={self.config.lr}), look for odd values in these samples, or --on-nan "
                    "skip"
                )
            here.losses.append((self.feeds.index(piece.feed), loss))
        self.unsettled = []

    def look_up(self, code: int, here: Position, epoch_ended: bool = False) -> None:
        """Keep a checkpoint when it is time, and stop when some process was asked to."""
        if here.batches % len(self.feeds) or self.unsettled:
            return  # within a turn, or a GPU has work ahead: asking the others would wait for it
        late = time.monotonic() - self.kept_at > 60 * self.config.checkpoint_minutes
        code, due = (int(value) for value in devices.largest_over_processes([code, late]))
        if code or due or epoch_ended:
            self._settle(here)
            self._keep(here)
        if code:
            raise Stopped(code)

    def end_epoch(
        self, here: Position, validate: bool, on_best: Callable[[nn.Module], None] | None
    ) -> None:
        """Write an epoch's record; validate, and keep the weights when they are the best."""
        self._settle(here)
        self.statistics.use(0)
        record: Epoch = {"epoch": here.epoch + 1}
        for index, feed in enumerate(self.feeds):
            losses = [loss for number, loss in here.losses if number == index]
            own: Literal["loss_2d", "loss_3d"] = "loss_2d" if feed.source.rank == 2 else "loss_3d"
            record[own if index else "loss"] = sum(losses) / len(losses) if losses else math.nan
        if validate and _is_validated(here.epoch, self.epochs):
            rows = self.feeds[0].rows
            asked = self.net if rows == slice(None) else FirstClasses(self.net, rows)
            record["val"] = score(asked, self.source, self.source.val, self.config)[0]
            self.model.train()
            value = record["val"][task_of(self.source.task).main]
            if value > self.result.best:
                weights = devices.whole_state(self.net)[0]
                self.result.best = value
                self.result.state = {k: v.detach().clone() for k, v in weights.items()}
                self._give_whole(weights)
                if on_best is not None and is_first():
                    on_best(self.result.net)
        elif here.epoch + 1 == self.epochs:
            self._give_whole(devices.whole_state(self.net)[0])
        self.result.history.append(record)

    def _give_whole(self, weights: dict[str, Tensor]) -> None:
        if self.result.net is not self.net:
            self.result.net.load_state_dict(weights)

    def _keep(self, here: Position) -> None:
        self.kept_at = time.monotonic()
        if self.folder is None:
            return
        self.statistics.use(0)  # a run that goes on takes the network's for those of the first feed
        weights, optimizer = devices.whole_state(self.net, self.plain)
        if not is_first():
            return
        scheduled = {n: vars(self.schedule)[n] for n in ("last_epoch", "_step_count")}
        fit = {name: value for name, value in vars(self.result).items() if name != "net"}
        checkpoints.keep(
            self.folder,
            {
                "net": weights,
                "optimizer": optimizer,
                "schedule": scheduled,
                "random": _generators(self.fabric.device),
                "result": fit,
                "statistics": self.statistics.sets,
                "position": dict(vars(here)),
            },
        )

    def resume(self) -> Position:
        """Put back what the newest good checkpoint holds; returns where it was taken.

        Where there is none, training starts.
        """
        state, bad = checkpoints.restore(self.folder)
        if state is None:
            return Position()
        for line in bad:
            self.progress.say(line)
        try:
            devices.load_whole_state(self.net, self.plain, state["net"], state["optimizer"])
            vars(self.schedule).update(state["schedule"])
            self.statistics.sets = state["statistics"]
            vars(self.result).update(state["result"])
            position = Position(**state["position"])
        except Exception as error:  # torch raises many kinds where networks differ
            raise InputError(
                f"the checkpoint in {self.folder} does not fit this run ({type(error).__name__}): "
                "resume with the options it was started with"
            ) from error
        _set_generators(state["random"], self.fabric.device)
        return position


def _generators(where: torch.device) -> list[Tensor]:
    on_gpu = [torch.cuda.get_rng_state(where)] if where.type == "cuda" else []
    return [torch.get_rng_state(), *on_gpu]


def _set_generators(states: Sequence[Tensor], where: torch.device) -> None:
    torch.set_rng_state(states[0])
    if where.type == "cuda" and len(states) > 1:
        torch.cuda.set_rng_state(states[1], where)


class FirstClasses(nn.Module):
    """A network of which some logits are asked for, see `fit`'s `rows`."""

    def __init__(self, net: nn.Module, rows: slice) -> None:
        super().__init__()
        self.net, self.rows = net, rows

    def forward(self, x: Tensor) -> Tensor:
        """Give these logits of images or volumes."""
        found = _rows(self.net(x), self.rows, x.dim())
        assert isinstance(found, Tensor)
        return found


def _rows(logits: Logits, rows: slice, axes: int) -> Logits:
    """Take the logits of some classes; those of several heads may be stacked before the classes.

    Maps of one head have as many axes as the images or volumes.
    """
    if rows == slice(None):
        return logits
    if isinstance(logits, Tensor):
        return logits[:, :, rows] if logits.dim() > axes else logits[:, rows]
    return [part[:, rows] for part in logits]


def _is_validated(epoch: int, epochs: int) -> bool:
    """Tell whether an epoch ends with a validation: the first, the last, and some between."""
    return epoch == 0 or (epochs - 1 - epoch) % -(-epochs // VALIDATIONS) == 0


def _logits(model: nn.Module, image: Tensor) -> Logits:
    try:
        return model(image)
    except (ValueError, RuntimeError) as error:  # norms of one value, sides that do not halve
        if is_of_a_reader(error):
            raise
        why = " ".join(str(error).split())[:150]
        raise InputError(
            f"the network cannot be trained on a batch of shape {tuple(image.shape)} ({why}): give "
            "sides that are multiples of 16 (--size, or patch of the plan), or a larger "
            "--batch-size or --limit, or a smaller --model"
        ) from error


def _schedule(steps: int, config: TrainConfig) -> Callable[[int], float]:
    rise = max(1, round(config.warmup * steps))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))

    return factor
