"""How long, how fast and on which devices to train: the defaults of every command."""

from dataclasses import dataclass, fields, replace

from crossd.utils.option_values import LOGGERS, names


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """On which devices a training runs, and what it does about faults.

    Attributes:
        devices: Devices of this machine that train together, a process each; -1 takes all.
            Under torchrun, fabric run and Slurm: what those started.
        num_nodes: Machines, where torchrun or Slurm did not say.
        strategy: ddp keeps the network in every process, fsdp a share of it; auto takes ddp.
        sync_bn: Let BatchNorm measure the batch of all processes together.
        accumulate: Add up the gradients of so many batches for a step.
        clip: Largest norm of the gradient.
        precision: 32-true, bf16-mixed, 16-mixed, bf16-true or 64-true.
        compile: Compile the network by torch.compile; batches then have images of one view each.
        checkpointing: Recompute activations in the backward pass: less memory, more time.
        workers: Processes that read data, for each device. Default: by cores and memory; 0 on CPU.
        on_nan: When a loss is not a number: stop, or skip the step. The samples are written down.
        on_bad_sample: When a sample cannot be read: stop, or skip it (one in a hundred at most).
        checkpoint_minutes: Longest time between two checkpoints; one is written every epoch.
        seed: Of everything that is drawn.
    """

    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    sync_bn: bool = False
    accumulate: int = 1
    clip: float = 1.0
    precision: str = "32-true"
    compile: bool = False
    checkpointing: bool = False
    workers: int | None = None
    on_nan: str = "stop"
    on_bad_sample: str = "stop"
    checkpoint_minutes: float = 10.0
    seed: int = 0


@dataclass(frozen=True)
class TrainConfig(RunOptions):
    """How long and how fast to train, and what `RunOptions` says.

    Attributes:
        epochs: Passes over the training samples.
        batch_size: Samples a step, of each device.
        lr: Highest learning rate of AdamW, reached after the warm-up.
        weight_decay: Of AdamW.
        warmup: Share of the steps in which the rate rises; afterwards it falls as a cosine.
        augment: "light" (shift, brightness, contrast and noise), "full" (MONAI's rotations, zoom,
            blur, gamma and low resolution too) or "none".
        min_steps: When the epochs have fewer steps, as many epochs as give these.
        views: Of images that a Cross-D network is trained on: "own", in which a slice was cut, or
            "drawn", anew for every image and epoch, so that kernels serve in any orientation.
        one_view: Let every batch of images have one view. A tenth faster; better or worse by the
            data (docs/results).
        loggers: Names of `crossd.utils.option_values.LOGGERS`, used where a folder is written.
    """

    epochs: int = 8
    batch_size: int = 64
    lr: float = 3e-3
    weight_decay: float = 0.01
    warmup: float = 0.1
    augment: str = "light"
    min_steps: int = 0
    views: str = "own"
    one_view: bool = False
    loggers: tuple[str, ...] = ("csv",)


FOR_IMAGES = TrainConfig(epochs=8, batch_size=64, lr=1e-2, min_steps=100)
"""2D training where the options leave it open."""

FROM_PRETRAINED = 1e-3
"""Learning rate of 2D training from the weights of others, which a higher one would undo."""

FOR_IMAGES_WITH_MASKS = TrainConfig(epochs=2, batch_size=16, lr=3e-3, min_steps=600)
"""The same where there are masks."""


def for_images(options: object, task: str) -> TrainConfig:
    """Make the configuration of 2D training from the options of a command."""
    given = {name: getattr(options, name) for name in ("epochs", "batch_size", "lr")}
    given["views"] = getattr(options, "views", None)
    given = {name: value for name, value in given.items() if value is not None}
    if "epochs" in given:
        given["min_steps"] = 0
    if getattr(options, "pretrained", None) is not None:
        given.setdefault("lr", FROM_PRETRAINED)
    default = FOR_IMAGES_WITH_MASKS if task == "segmentation" else FOR_IMAGES
    return with_run_options(options, replace(default, **given))


def with_run_options(options: object, config: TrainConfig) -> TrainConfig:
    """Return a configuration with what every training is told alike (see `RunOptions`)."""
    known = [field.name for field in fields(RunOptions) if hasattr(options, field.name)]
    values = {name: getattr(options, name) for name in known}
    if hasattr(options, "loggers"):
        values["loggers"] = names(options.loggers, LOGGERS, "--loggers")
    return replace(config, **values)


def for_volumes(options: object, task: str) -> TrainConfig:
    """Make the configuration of training on labelled volumes from the options of a command.

    Of commands that train on images too, those for volumes begin with ``volume_``.
    """
    masks = task == "segmentation"
    given = {
        name: getattr(options, f"volume_{name}" if hasattr(options, f"volume_{name}") else name)
        for name in ("epochs", "lr", "steps", "batch_size", "seed", "precision")
    }
    return TrainConfig(
        epochs=given["epochs"] or 15,
        lr=given["lr"],
        min_steps=given["steps"] or (0 if given["epochs"] else 60 if masks else 100),
        batch_size=given["batch_size"] or (2 if masks else 8),
        seed=given["seed"],
        workers=0,
        precision=given["precision"],
    )
