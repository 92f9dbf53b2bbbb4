"""The options of every command. Nothing heavy is imported here, so that --help is instant."""

from dataclasses import dataclass

PROTOCOLS = ("zero", "probe", "finetune")
DEFAULT_ARMS = ("scratch", "slices", "inflate", "acs", "triplanar", "fourier", "projection")


@dataclass(frozen=True)
class TransferConfig:
    """Train in 2D, use in 3D, and compare with the other ways of doing it.

    Attributes:
        images: Source of images for the 2D training; of volumes, slices are taken.
        volumes: Source of volumes.
        slices: The views in which slices are taken of volumes, separated by commas. Default:
            axial,coronal,sagittal.
        slice_step: Take every n-th slice. Default: three a view, for masks every second.
        limit: Labelled volumes to train on. Default: 4 with masks, otherwise ten a class.
        model: A name of a 2D network. Default: a small ResNet or SegResNet.
        arms: What to compare, separated by commas: scratch, slices, center, inflate, acs,
            triplanar, fourier, fourier-aligned, projection.
        protocols: zero (no labelled volume), probe (convolutions frozen), finetune.
        size: Size of the training volumes (one number, or depth,height,width).
        epochs: Passes over the images. Default: 8, for masks 2 and at least 600 steps.
        volume_epochs: Passes over the labelled volumes. Default: 15, or more for `volume_steps`.
        volume_steps: Fewest steps on the labelled volumes. Default: 100, for masks 60, unless the
            passes are given.
        batch_size: Images a step. Default: 64, for masks 16.
        volume_batch_size: Volumes a step. Default: 8, for masks 2.
        lr: Highest learning rate in 2D. Default: 0.01, for masks 0.003.
        volume_lr: Highest learning rate on the labelled volumes.
        seed: Of everything that is drawn.
        workers: Processes that read data.
        precision: 32-true, bf16-mixed or 16-mixed.
        checkpointing: Recompute activations in the backward pass: less memory, more time.
        out: Folder for the table, the pictures and the weights.
        overwrite: Replace a result that is there.
        resume: Go on with a run that was interrupted.
    """

    images: str = "brain"
    volumes: str = "brain"
    slices: str | None = None
    slice_step: int | None = None
    limit: int | None = None
    model: str | None = None
    arms: str = ",".join(DEFAULT_ARMS)
    protocols: str = ",".join(PROTOCOLS)
    size: str | None = None
    epochs: int | None = None
    volume_epochs: int | None = None
    volume_steps: int | None = None
    batch_size: int | None = None
    volume_batch_size: int | None = None
    lr: float | None = None
    volume_lr: float = 1e-3
    seed: int = 0
    workers: int = 0
    precision: str = "32-true"
    checkpointing: bool = False
    out: str = "runs/transfer"
    overwrite: bool = False
    resume: bool = False


@dataclass(frozen=True)
class PretrainConfig:
    """Train a Cross-D network on images, or on slices of volumes.

    Attributes:
        data: Source of images; of volumes, slices are taken.
        model: A name of a 2D network. Default: a small ResNet or SegResNet.
        kernel_mode: projection, slice, fourier (the paper's), or none for the plain 2D network.
        lift: Where new 2D kernels start in the 3D ones: center (default), inflate, triplanar, or
            none for new 3D kernels.
        slices: The views in which slices are taken of volumes, separated by commas. Default:
            axial,coronal,sagittal.
        slice_step: Take every n-th slice. Default: three a view, for masks every second.
        size: Size of the images (one number, or height,width).
        limit: Train on so many images, or slices of so many volumes.
        epochs: Passes over the images. Default: 8, for masks 2 and at least 600 steps.
        batch_size: Images a step. Default: 64, for masks 16.
        lr: Highest learning rate. Default: 0.01, for masks 0.003.
        seed: Of everything that is drawn.
        workers: Processes that read data.
        precision: 32-true, bf16-mixed or 16-mixed.
        checkpointing: Recompute activations in the backward pass: less memory, more time.
        out: Folder for the weights and the report.
        overwrite: Replace a result that is there.
        resume: Go on with a run that was interrupted.
    """

    data: str = "brain"
    model: str | None = None
    kernel_mode: str = "projection"
    lift: str | None = None
    slices: str | None = None
    slice_step: int | None = None
    size: str | None = None
    limit: int | None = None
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    seed: int = 0
    workers: int = 0
    precision: str = "32-true"
    checkpointing: bool = False
    out: str = "runs/pretrain"
    overwrite: bool = False
    resume: bool = False


@dataclass(frozen=True)
class FinetuneConfig:
    """Train a network further on labelled volumes (or images).

    Attributes:
        data: Source of volumes or images.
        weights: A weights file of crossd.
        protocol: finetune trains everything; probe only BatchNorm and the last layer.
        size: Size of the training volumes (one number, or depth,height,width).
        limit: Train on so many labelled samples.
        align: Move the kernels of the fourier mode by their mean displacement first.
        epochs: Passes over the labelled samples. Default: 15, or more for `steps`.
        steps: Fewest steps. Default: 100, unless the passes are given.
        batch_size: Samples a step. Default: 8, for masks 2.
        lr: Highest learning rate.
        seed: Of everything that is drawn.
        workers: Processes that read data.
        precision: 32-true, bf16-mixed or 16-mixed.
        checkpointing: Recompute activations in the backward pass: less memory, more time.
        out: Folder for the weights and the report.
        overwrite: Replace a result that is there.
        resume: Go on with a run that was interrupted.
    """

    weights: str
    data: str = "brain"
    protocol: str = "finetune"
    size: str | None = None
    limit: int | None = None
    align: bool = False
    epochs: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    lr: float = 1e-3
    seed: int = 0
    workers: int = 0
    precision: str = "32-true"
    checkpointing: bool = False
    out: str = "runs/finetune"
    overwrite: bool = False
    resume: bool = False


@dataclass(frozen=True)
class RecalibrateConfig:
    """Measure BatchNorm statistics on unlabelled volumes (or images), and score the result.

    Attributes:
        weights: A weights file of crossd.
        data: Source of volumes or images; the labels of its training samples are not used. Also
            an .npz with images alone, or a folder of NIfTI or image files.
        out: The weights file to write.
        align: Move the kernels of the fourier mode by their mean displacement first.
        size: Size of the volumes (one number, or depth,height,width).
        batch_size: Samples a step. Default: 8, for masks 2.
        seed: Of the split, where the data has none.
        workers: Processes that read data.
        precision: 32-true, bf16-mixed or 16-mixed.
        overwrite: Replace a file that is there.
    """

    weights: str
    out: str
    data: str = "brain"
    align: bool = False
    size: str | None = None
    batch_size: int | None = None
    seed: int = 0
    workers: int = 0
    precision: str = "32-true"
    overwrite: bool = False


@dataclass(frozen=True)
class ConvertConfig:
    """Turn a weights file into one of a plain 2D or 3D network, or a 2D one into Cross-D.

    With --model, the weights are a checkpoint of others: of torchvision, timm, RadImageNet,
    MedicalNet, MONAI, Lightning or the paper's implementation.

    Attributes:
        weights: A weights file of crossd, or a checkpoint.
        to: 2d, 3d or cross.
        out: The weights file to write.
        view: Which 2D network to take: axial, coronal or sagittal.
        align: Move the kernels of the fourier mode by their mean displacement.
        model: The name of a checkpoint's network; the options below are for a checkpoint.
        task: classification or segmentation.
        classes: Their number, or their names separated by commas. Default: the checkpoint's number.
        channels: Input channels. Default: the checkpoint's.
        kernel_mode: projection, slice or fourier.
        lift: Where 2D kernels are put in 3D ones: center, inflate or triplanar.
        prefix: The part of the checkpoint to read, where several fit, such as state_dict_ema.
        allow_partial: Load what fits, also where more than the classifier does not.
        mean: What is subtracted from images before they are given to the network.
        std: What they are divided by then.
        overwrite: Replace a file that is there.
    """

    weights: str
    to: str
    out: str
    view: str = "axial"
    align: bool = False
    model: str | None = None
    task: str = "classification"
    classes: str | None = None
    channels: int | None = None
    kernel_mode: str = "projection"
    lift: str = "center"
    prefix: str | None = None
    allow_partial: bool = False
    mean: float = 0.0
    std: float = 1.0
    overwrite: bool = False


@dataclass(frozen=True)
class ExportConfig:
    """Write a network to a file that runs without crossd: .onnx, or .pt2 of torch.export.

    The file takes batches of any size, of images less the mean and over the standard deviation
    that its metadata tell. It is read back, run, and compared with the network.

    Attributes:
        weights: A weights file of crossd.
        to: 2d (for images) or 3d (for volumes).
        out: The file to write, ending in .onnx (needs pip install 'crossd[onnx]') or .pt2.
        size: Size of the example that is traced (one number, or one an axis). Default: that of the
            training data.
        fixed_size: Take this size only; else others too where the network allows it.
        view: Which 2D network to take: axial, coronal or sagittal.
        fixed_pose: In the fourier mode, fix the kernels at the mean pose of training: faster, and
            without predictors.
        overwrite: Replace a file that is there.
    """

    weights: str
    to: str
    out: str
    size: str | None = None
    fixed_size: bool = False
    view: str = "axial"
    fixed_pose: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class BenchConfig:
    """Measure what Cross-D costs on this machine, beside the plain network and the rivals.

    Attributes:
        networks: What to measure, separated by commas: resnet18, resnet50, unet.
        sizes: Sides of the images [pixels], separated by commas.
        batch_sizes: Images a batch, separated by commas; layers take the first.
        arms: plain, plain-nhwc (channels last in memory), projection, slice, fourier, acs, i3d,
            and fft (the paper's formulation), separated by commas.
        tables: layers (of a ResNet18, one by one), networks, memory (the peak of training steps,
            each in a process of its own), separated by commas.
        seconds: Time for the rounds of one case; there are at least three.
        device: cpu or cuda.
        precision: 32-true, bf16-mixed or 16-mixed.
        out: Folder for metrics.json, report.md and bench.png.
        overwrite: Replace a result that is there.
    """

    networks: str = "resnet18"
    sizes: str = "224,64"
    batch_sizes: str = "8"
    arms: str = "plain,plain-nhwc,projection,slice,fourier,acs,i3d,fft"
    tables: str = "layers,networks,memory"
    seconds: float = 8.0
    device: str = "cpu"
    precision: str = "32-true"
    out: str = "runs/bench"
    overwrite: bool = False
