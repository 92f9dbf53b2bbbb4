"""How long, how fast and on which devices to train: the defaults of every command."""

from dataclasses import dataclass
from typing import Any

from crossd.options import LOGGERS, names


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
        devices: Processes on this machine that train together, one a device; -1 takes all devices.
        num_nodes: Machines.
        strategy: "auto" and "ddp" keep the network in every process, "fsdp" a share of it.
        accumulate: Batches a step: gradients of so many are added up.
        sync_bn: Let BatchNorm measure a batch over all processes, as one process would.
        compile: Compile the network by `torch.compile`.
        checkpoint_minutes: Longest time between two checkpoints.
        loggers: Names of `crossd.options.LOGGERS`, used where a folder is written.
        on_nan: When a loss is not a number: "stop", or "skip" the step.
        on_bad_sample: When a sample cannot be read: "stop", or "skip" it.
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
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    accumulate: int = 1
    sync_bn: bool = False
    compile: bool = False
    checkpoint_minutes: float = 10.0
    loggers: tuple[str, ...] = ("csv",)
    on_nan: str = "stop"
    on_bad_sample: str = "stop"


IMAGE_DEFAULTS: dict[str, dict[str, Any]] = {
    "classification": {"epochs": 8, "batch_size": 64, "lr": 1e-2, "min_steps": 0},
    "segmentation": {"epochs": 2, "batch_size": 16, "lr": 3e-3, "min_steps": 600},
}
"""2D training where the options leave it open."""


_OF_THE_RUN = (
    *("devices", "num_nodes", "strategy", "sync_bn", "accumulate", "clip", "precision", "compile"),
    *("checkpointing", "workers", "on_nan", "on_bad_sample", "checkpoint_minutes", "seed"),
)


def for_images(options: Any, task: str) -> TrainConfig:
    """Make the configuration of 2D training from the options of a command."""
    values = dict(IMAGE_DEFAULTS[task])
    if options.epochs:
        values["min_steps"] = 0
    given = {name: getattr(options, name) for name in ("epochs", "batch_size", "lr")}
    values.update({name: value for name, value in given.items() if value is not None})
    return TrainConfig(**values, **of_the_run(options))


def of_the_run(options: Any) -> dict[str, Any]:
    """Take what every training is told alike (see `crossd.configs.TrainingOptions`)."""
    values = {name: getattr(options, name) for name in _OF_THE_RUN if hasattr(options, name)}
    if hasattr(options, "loggers"):
        values["loggers"] = names(options.loggers, LOGGERS, "--loggers")
    return values


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
