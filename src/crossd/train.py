"""One training loop on Lightning Fabric, for images and volumes, classes and masks."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler

from crossd import metrics, windows
from crossd.activations import checkpoint_activations
from crossd.data import Samples, Source
from crossd.data.patches import Patches
from crossd.errors import InputError
from crossd.files import atomic
from crossd.kernels import view
from crossd.layers import channels_last
from crossd.nn import has_views
from crossd.outputs import CHECKPOINT
from crossd.policies import measuring
from crossd.progress import Progress

Batch = dict[str, Tensor]
NORMS = (nn.modules.batchnorm._BatchNorm,)


@dataclass(frozen=True)
class TrainConfig:
    """How long and how fast to train.

    Attributes:
        epochs: Passes over the training samples.
        batch_size: Samples a step.
        lr: Highest learning rate of AdamW, reached after the warm-up.
        weight_decay: Of AdamW.
        warmup: Share of the steps in which the rate rises; afterwards it falls as a cosine.
        clip: Largest norm of the gradient.
        augment: "light" (shift, brightness, contrast and noise), "full" (MONAI's rotations, zoom,
            blur, gamma and low resolution too) or "none".
        min_steps: When the epochs have fewer steps, as many epochs as give these.
        seed: Of the order of samples, the views, the augmentation.
        workers: Processes that read; 0 reads in this one.
        precision: As Lightning Fabric knows it.
        checkpointing: Recompute activations in the backward pass, see `checkpoint_activations`.
    """

    epochs: int = 8
    batch_size: int = 64
    lr: float = 3e-3
    weight_decay: float = 0.01
    warmup: float = 0.1
    clip: float = 1.0
    augment: str = "light"
    min_steps: int = 0
    seed: int = 0
    workers: int = 0
    precision: str = "32-true"
    checkpointing: bool = False


VALIDATIONS = 25
"""Validations after the first epoch, at most: after each of many they would take too long."""

IMAGE_DEFAULTS: dict[str, dict[str, Any]] = {
    "classification": {"epochs": 8, "batch_size": 64, "lr": 1e-2, "min_steps": 0},
    "segmentation": {"epochs": 2, "batch_size": 16, "lr": 3e-3, "min_steps": 600},
}
"""2D training where the options leave it open."""


def for_images(options: Any, task: str) -> TrainConfig:
    """Make the configuration of 2D training from the options of a command."""
    values = dict(IMAGE_DEFAULTS[task])
    if options.epochs:
        values["min_steps"] = 0
    given = {name: getattr(options, name) for name in ("epochs", "batch_size", "lr")}
    values.update({name: value for name, value in given.items() if value is not None})
    return TrainConfig(
        **values,
        seed=options.seed,
        workers=options.workers,
        precision=options.precision,
        checkpointing=options.checkpointing,
    )


def for_volumes(options: Any, task: str) -> TrainConfig:
    """Make the configuration of training on labelled volumes from the options of a command.

    Of commands that train on images too, those for volumes begin with ``volume_``.
    """
    masks = task == "segmentation"

    def given(name: str) -> Any:
        own = f"volume_{name}"
        return getattr(options, own if hasattr(options, own) else name)

    return TrainConfig(
        epochs=given("epochs") or 15,
        lr=given("lr"),
        min_steps=given("steps") or (0 if given("epochs") else 60 if masks else 100),
        batch_size=given("batch_size") or (2 if masks else 8),
        seed=options.seed,
        workers=0,
        precision=options.precision,
    )


@dataclass
class Fit:
    """What training gave.

    Attributes:
        history: A record an epoch: ``epoch``, ``loss``, and ``val`` with scores.
        best: The best validation score, -inf without validation.
        state: The weights of that score, None without validation.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    best: float = -math.inf
    state: dict[str, Tensor] | None = None


class ViewBatches(Sampler[list[int]]):
    """Batches whose samples share their view.

    The batches of a view differ in size by one at most, so that none is too small for BatchNorm.

    Args:
        views: View of every sample, shape ``(N,)``.
        batch_size: Most samples in a batch.
        seed: Of the order, which is drawn anew for every epoch; None keeps the samples' order.
    """

    def __init__(self, views: NDArray[np.int64], batch_size: int, seed: int | None) -> None:
        self.views = views
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        """Yield lists of indices."""
        draw = None if self.seed is None else np.random.default_rng((self.seed, self.epoch))
        batches = []
        for axis in np.unique(self.views):
            order = np.flatnonzero(self.views == axis)
            order = order if draw is None else draw.permutation(order)
            batches += np.array_split(order, self._count(len(order)))
        for index in range(len(batches)) if draw is None else draw.permutation(len(batches)):
            yield batches[index].tolist()

    def _count(self, samples: int) -> int:
        return -(-samples // self.batch_size)

    def __len__(self) -> int:
        """Return the number of batches."""
        return sum(self._count(int(n)) for n in np.unique_counts(self.views).counts)


def batches(
    samples: Samples, net: nn.Module, config: TrainConfig, train: bool = False
) -> DataLoader[Any]:
    """Make a loader; batches are of one view where samples have one and the network asks for it.

    Args:
        samples: What to load; volumes that differ in size one by one.
        net: Asks for views or not.
        config: Size of batches, seed and workers.
        train: Whether to draw the order.
    """
    views = samples.views if has_views(net) else None
    if views is None:
        views = np.zeros(len(samples), np.int64)
    size = config.batch_size if samples.patch is None else 1
    sampler = ViewBatches(views, size, config.seed if train else None)
    return DataLoader(samples, batch_sampler=sampler, num_workers=config.workers)


def view_of(batch: Batch, net: nn.Module) -> AbstractContextManager[None]:
    """Set the view of a batch where it is known."""
    views = batch.get("view")
    if views is None or int(views[0]) < 0 or batch["image"].dim() != 4 or not has_views(net):
        return nullcontext()
    return view(views.tolist())


def loss_of(task: str) -> Callable[[Any, Tensor], Tensor]:
    """Cross-entropy, for masks with Dice; logits of deep supervision are weighted by halves."""
    if task == "classification":
        return F.cross_entropy
    from monai.losses.dice import DiceCELoss

    criterion = DiceCELoss(to_onehot_y=True, softmax=True)

    def loss(logits: Any, mask: Tensor) -> Tensor:
        if isinstance(logits, Tensor) and logits.dim() == mask.dim() + 2:
            logits = logits.unbind(1)  # (n, heads, classes, ...)
        if isinstance(logits, Tensor):
            if logits.shape[2:] != mask.shape[1:]:  # a head of coarser resolution
                mode = "bilinear" if mask.dim() == 3 else "trilinear"
                logits = F.interpolate(logits, size=mask.shape[1:], mode=mode)
            value: Tensor = criterion(logits, mask.unsqueeze(1))
            return value
        parts = [loss(part, mask) * 0.5**i for i, part in enumerate(logits)]
        return torch.stack(parts).sum() / sum(0.5**i for i in range(len(parts)))

    return loss


def augment(image: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Shift a batch by up to a fourteenth of its sides, and vary contrast, brightness and noise.

    Args:
        image: Normalised, shape ``(N, C, ...)``.
        mask: Shape ``(N, ...)``, shifted along.

    Returns:
        Both, of the same shapes.
    """
    sides = image.shape[2:]
    shifts = [int(torch.randint(-(s // 14), s // 14 + 1, ())) for s in sides]
    shape = (len(image),) + (1,) * (image.dim() - 1)
    contrast = 1 + 0.2 * (2 * torch.rand(shape, device=image.device) - 1)
    brightness = 0.2 * (2 * torch.rand(shape, device=image.device) - 1)
    image = _moved(image, shifts) * contrast + brightness
    image = image + 0.05 * torch.randn_like(image)
    if mask is not None:
        mask = _moved(mask[:, None].float(), shifts)[:, 0].long()
    return image, mask


def _moved(x: Tensor, shifts: list[int]) -> Tensor:
    """Shift the spatial axes, repeating the border."""
    margins = [m for s in reversed(shifts) for m in (max(s, 0), max(-s, 0))]
    x = F.pad(x, margins, mode="replicate")
    for axis, shift in enumerate(shifts, start=2):
        x = x.narrow(axis, max(-shift, 0), x.shape[axis] - abs(shift))
    return x


def seed_everything(seed: int) -> None:
    """Seed every generator of random numbers, as Lightning Fabric does."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - libraries draw from the global generator
    random.seed(seed)


def describe(scores: dict[str, float], task: str) -> str:
    """Put the main scores of a task in words."""
    shown = ("accuracy", "auc") if task == "classification" else ("dice",)
    return ", ".join(f"{name} {scores[name]:.3f}" for name in shown)


def classifier(net: nn.Module, classes: int) -> Any:
    """Find the last layer of a network: a linear one or a convolution with `classes` outputs.

    Raises:
        InputError: "the network has no last layer ..." when there is none.
    """
    found = None
    for module in net.modules():
        outputs = getattr(module, "out_features", getattr(module, "out_channels", None))
        if outputs == classes:
            found = module
    if found is None:
        raise InputError(f"the network has no last layer with {classes} outputs, one a class")
    return found


def new_classifier(net: nn.Module, before: int, classes: int) -> None:
    """Give a network a new last layer for another number of classes.

    Raises:
        InputError: "the network has no last layer ...", or "the last layer adds ..." for one that
            works with one number of classes only (MONAI's UNet with residual units).
    """
    layer = classifier(net, before)
    for module in net.modules():
        residual = isinstance(getattr(module, "residual", None), nn.Identity)
        if residual and any(part is layer for part in module.modules()):
            raise InputError(
                "the last layer adds its input to its output, so that the number of classes cannot "
                f"change from {before} to {classes}: choose another model, or equal classes"
            )
    shape = (classes, *layer.weight.shape[1:])
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    layer.weight = nn.Parameter(layer.weight.new_empty(shape).uniform_(-bound, bound))
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias.new_zeros(classes))
    name = "out_features" if isinstance(layer, nn.Linear) else "out_channels"
    setattr(layer, name, classes)


def keep_classes(net: nn.Module, before: int, rows: slice) -> None:
    """Cut a network's last layer to some of its classes."""
    layer = classifier(net, before)
    layer.weight = nn.Parameter(layer.weight.detach()[rows].clone())
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias.detach()[rows].clone())
    name = "out_features" if isinstance(layer, nn.Linear) else "out_channels"
    setattr(layer, name, len(layer.weight))


def freeze_convolutions(net: nn.Module, classes: int) -> None:
    """Freeze all but the normalisation layers and the last one: the paper's weak probing."""
    last = classifier(net, classes)
    free = (*NORMS, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)
    for module in net.modules():
        trained = module is last or isinstance(module, free)
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(trained)


def fit(
    net: nn.Module,
    source: Source,
    config: TrainConfig,
    *,
    beside: Sequence[tuple[Source, TrainConfig]] = (),
    rows: Sequence[slice] | None = None,
    folder: Path | None = None,
    resume: bool = False,
    validate: bool = True,
    on_best: Callable[[], None] | None = None,
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
        folder: Where ``last.ckpt`` is kept after every epoch; None keeps nothing.
        resume: Go on from that file.
        validate: Whether to score the validation samples: after every epoch, of many epochs after
            the first and 25 more, the last among these.
        on_best: Called after an epoch with the best score so far, to keep the weights.
        on_epoch: Called before every epoch with its number and their count, to freeze parameters.
        progress: Where to show how far it is.
        name: What to call it there.

    Returns:
        The history, and the best weights when there was validation.

    Raises:
        InputError: "nothing to resume", or "loss is ..." when it stops being a number, or "the
            network cannot be trained on ..." when the batches are too small for it.
    """
    fabric = Fabric(accelerator="auto", devices=1, precision=config.precision)  # type: ignore[arg-type]
    seed_everything(config.seed)
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.lr, weight_decay=config.weight_decay)
    feeds = [Feed(source, config, net), *(Feed(*one, net) for one in beside)]
    for feed, logits in zip(feeds, rows or [slice(None)] * len(feeds), strict=True):
        feed.rows = logits
    each = max(len(feed.loader) for feed in feeds)
    steps = each * len(feeds)  # of an epoch
    epochs = max(config.epochs, -(-config.min_steps // each))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _schedule(epochs * steps, config))
    if config.checkpointing:
        checkpoint_activations(net)
    model, optimizer = fabric.setup(channels_last(net), optimizer)
    for feed in feeds:
        feed.ready = fabric.setup_dataloaders(feed.loader, use_distributed_sampler=False)
    statistics = Statistics(net, len(feeds))
    result = Fit()
    start = _restore(folder, net, optimizer, schedule, result, statistics) if resume else 0
    progress = progress or Progress(quiet=True)
    with progress.task(name, total=epochs * steps, done=start * steps) as bar:
        for epoch in range(start, epochs):
            model.train()
            if on_epoch is not None:
                on_epoch(epoch, epochs)
            losses = []
            for number, (feed, batch) in enumerate(_in_turn(feeds, epoch, each)):
                statistics.use(number % len(feeds))
                image, mask = batch["image"], batch.get("mask")
                if feed.config.augment == "light":
                    image, mask = augment(image, mask)
                with view_of(batch, net):
                    logits = _rows(_logits(model, image), feed.rows)
                    loss = feed.criterion(logits, batch["label"] if mask is None else mask)
                    fabric.backward(loss)
                # Infinite gradients: in 16-mixed the scaler mends them, else the loss shows them.
                fabric.clip_gradients(
                    model, optimizer, max_norm=config.clip, error_if_nonfinite=False
                )
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                losses.append(loss.detach())
                bar.advance(len(image), loss=losses[-1])
            statistics.use(0)
            record: dict[str, Any] = {"epoch": epoch + 1}
            values = torch.stack(losses)
            record["loss"] = float(values[0 :: len(feeds)].mean())
            for index, feed in enumerate(feeds[1:], start=1):
                record[f"loss_{feed.source.rank}d"] = float(values[index :: len(feeds)].mean())
            if not math.isfinite(float(values.mean())):
                raise InputError(
                    f"loss is {float(values.mean())} in epoch {epoch + 1} of {name}: "
                    f"lower --lr (={config.lr}) or look for odd values in the data"
                )
            if validate and _is_validated(epoch, epochs):
                record["val"] = score(net, source, source.val, config)[0]
                value = record["val"][metrics.MAIN[source.task]]
                if value > result.best:
                    result.best = value
                    result.state = {k: v.detach().clone() for k, v in net.state_dict().items()}
                    if on_best is not None:
                        on_best()
            result.history.append(record)
            if folder is not None:
                _keep(folder, net, optimizer, schedule, result, statistics)
    checkpoint_activations(net, enabled=False)
    return result


class Feed:
    """Training batches of one source, without end.

    Attributes:
        source: Where they come from.
        config: Size of batches, augmentation and seed.
        loader: Of one pass.
        ready: The same on the device.
        criterion: The loss.
        rows: The logits that are its classes.
    """

    def __init__(self, source: Source, config: TrainConfig, net: nn.Module) -> None:
        self.source, self.config = source, config
        full = config.augment == "full"
        self.drawn = Patches(source.train, source.train.patch, config.seed, full, source.spacing)
        self.loader = batches(self.drawn, net, config, train=True)
        self.ready: Any = self.loader
        self.criterion = loss_of(source.task)
        self.rows = slice(None)

    def take(self, epoch: int, count: int) -> Iterator[Batch]:
        """Yield the batches of an epoch: as many passes as give so many, the last one cut."""
        passes = -(-count // len(self.loader))
        for number in range(passes):
            turn = epoch * passes + number
            self.loader.batch_sampler.set_epoch(turn)  # type: ignore[union-attr]
            self.drawn.set_epoch(turn)
            for index, batch in enumerate(self.ready, start=number * len(self.loader)):
                if index == count:
                    return
                yield batch


def _in_turn(feeds: Sequence[Feed], epoch: int, count: int) -> Iterator[tuple[Feed, Batch]]:
    for taken in zip(*(feed.take(epoch, count) for feed in feeds), strict=True):
        yield from zip(feeds, taken, strict=True)


def _rows(logits: Any, rows: slice) -> Any:
    if rows == slice(None):
        return logits
    return logits[:, rows] if isinstance(logits, Tensor) else [_rows(part, rows) for part in logits]


class Statistics:
    """Running statistics of BatchNorm for each of several feeds, of which one is in use.

    In training BatchNorm normalises by the batch at hand: what it keeps for later differs between
    images and volumes, and a mean over both fits neither.

    Args:
        net: Any network.
        count: How many sets to keep; with one, nothing is done.
    """

    NAMES = ("running_mean", "running_var", "num_batches_tracked")

    def __init__(self, net: nn.Module, count: int) -> None:
        norms = [m for m in net.modules() if isinstance(m, NORMS) and m.track_running_stats]
        self.buffers = [getattr(m, name) for m in norms for name in self.NAMES]
        self.sets = [[b.clone() for b in self.buffers] for _ in range(count)]
        self.used = 0

    def use(self, index: int) -> None:
        """Put the set of this number into the network, and keep the one that was there."""
        if index != self.used:
            self.sets[self.used] = [b.clone() for b in self.buffers]
            for buffer, value in zip(self.buffers, self.sets[index], strict=True):
                buffer.copy_(value)
            self.used = index


def _is_validated(epoch: int, epochs: int) -> bool:
    """Tell whether an epoch ends with a validation: the first, the last, and some between."""
    return epoch == 0 or (epochs - 1 - epoch) % -(-epochs // VALIDATIONS) == 0


def _logits(model: Any, image: Tensor) -> Any:
    try:
        return model(image)
    except (ValueError, RuntimeError) as error:  # norms of one value, sides that do not halve
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


def _keep(
    folder: Path,
    net: nn.Module,
    optimizer: Any,
    schedule: Any,
    result: Fit,
    statistics: Statistics,
) -> None:
    state = {
        "net": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": {"last_epoch": schedule.last_epoch, "_step_count": schedule._step_count},
        "random": torch.get_rng_state(),
        "result": dict(vars(result)),
        "statistics": statistics.sets,
    }
    with atomic(folder / CHECKPOINT) as temporary:
        torch.save(state, temporary)


def _restore(
    folder: Path | None,
    net: nn.Module,
    optimizer: Any,
    schedule: Any,
    result: Fit,
    statistics: Statistics,
) -> int:
    path = None if folder is None else folder / CHECKPOINT
    if path is None or not path.is_file():
        raise InputError(f"nothing to resume: no such file: {path}; start anew with --overwrite")
    try:
        state = torch.load(path, weights_only=True)
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
    except Exception as error:  # torch raises many kinds for what is not a checkpoint
        raise InputError(
            f"{path} does not fit this run ({type(error).__name__}): "
            "resume with the options it was started with"
        ) from error
    schedule.last_epoch = state["schedule"]["last_epoch"]
    schedule._step_count = state["schedule"]["_step_count"]
    torch.set_rng_state(state["random"])
    statistics.sets = state["statistics"]
    for name, value in state["result"].items():
        setattr(result, name, value)
    return len(result.history)


@torch.no_grad()
def score(
    net: nn.Module, source: Source, samples: Samples, config: TrainConfig
) -> tuple[dict[str, float], list[Any]]:
    """Score a network on samples of a source.

    Args:
        net: Takes the samples and gives logits.
        source: What the samples are from.
        samples: Any of its splits.
        config: Batch size and precision.

    Returns:
        The scores; and for classification ``[probabilities (N, K), labels (N,)]``, for
        segmentation the Dice of every sample and class, shape ``(N, K - 1)``, in a list.
    """
    outputs: list[Any] = []
    for answer, batch in answers(net, samples, config):
        if source.task == "classification":
            outputs.append((answer.cpu(), batch["label"].cpu()))
            continue
        for guess, mask in zip(answer.cpu(), batch["mask"].cpu(), strict=True):
            outputs.append(metrics.dice(guess, mask, len(source.classes)))
    if source.task == "classification":
        joined = [torch.cat(part) for part in zip(*outputs, strict=True)]
        return metrics.classification(joined[0], joined[1]), joined
    scores = np.stack(outputs)
    return metrics.segmentation(scores, source.classes), [scores]


@torch.no_grad()
def answers(
    net: nn.Module, samples: Samples, config: TrainConfig, raw: bool = False
) -> Iterator[tuple[Tensor, Batch]]:
    """Yield what a network says of batch after batch, in evaluation mode.

    Of images and volumes with labels the class probabilities ``(N, K)``; of those with masks the
    class of every pixel or voxel, ``(N, ...)``, by windows of the size of a patch where volumes
    differ in size. With `raw`, the network's answers as they are, of whole samples.
    """
    fabric = Fabric(accelerator="auto", devices=1, precision=config.precision)  # type: ignore[arg-type]
    training = net.training
    net.eval().to(fabric.device)
    patch = samples.patch
    if samples.labels is not None:
        samples = Patches(samples, patch, config.seed, center=True)
    loader = batches(samples, net, config)
    ready: Any = fabric.setup_dataloaders(loader, use_distributed_sampler=False)
    for batch in ready:
        with fabric.autocast(), view_of(batch, net):
            if samples.patch is not None:
                yield windows.classes(net, batch["image"][0], samples.patch)[None], batch
                continue
            logits = net(batch["image"]).float()
        if raw:
            yield logits, batch
            continue
        yield logits.softmax(1) if logits.dim() == 2 else logits.argmax(1), batch
    net.train(training)


@torch.no_grad()
def recalibrate(
    net: nn.Module, samples: Samples, config: TrainConfig, *, progress: Progress | None = None
) -> int:
    """Measure BatchNorm's running statistics anew on samples, whose labels are not used.

    Args:
        net: Changed in place; nothing happens without BatchNorm with running statistics.
        samples: Images or volumes; of volumes that differ in size, one patch each.
        config: Batch size and precision.
        progress: Where to show how far it is.

    Returns:
        The number of layers that were recalibrated.
    """
    fabric = Fabric(accelerator="auto", devices=1, precision=config.precision)  # type: ignore[arg-type]
    net.to(fabric.device)
    progress = progress or Progress(quiet=True)
    with measuring(net) as layers:
        if layers == 0:
            return 0
        loader = batches(Patches(samples, samples.patch, config.seed), net, config)
        ready: Any = fabric.setup_dataloaders(loader, use_distributed_sampler=False)
        with progress.task("recalibrating", total=len(loader)) as bar:
            for batch in ready:
                with fabric.autocast(), view_of(batch, net):
                    net(batch["image"])
                bar.advance(len(batch["image"]))
    return layers
