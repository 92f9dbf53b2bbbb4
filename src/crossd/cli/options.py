"""The options of every command. Nothing heavy is imported here, so that --help is instant."""

from dataclasses import dataclass, field

from crossd.training.config import RunOptions
from crossd.utils.option_values import check

PROTOCOLS = ("zero", "linear", "finetune")
ALL_PROTOCOLS = ("zero", "knn", "linear", "probe", "unfreeze", "finetune")
DEFAULT_ARMS = (
    "projection",
    "projection-drawn",
    "slices",
    "center",
    "triplanar",
    "acs",
    "cycle",
    "scratch",
)


@dataclass(frozen=True)
class Options:
    """The options of a command, whose numbers and choices are checked when they are made."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class DataOptions(Options):
    """What all commands that read labelled data can be told of them.

    Attributes:
        ignore: Value of masks that says that a voxel is not known, such as 255: it is left out of
            losses and scores. Default: what the csv, dataset.json or the weights say.
        accept: Grave faults of the data to go on with, separated by commas: parts (a patient, or
            what is the same, in two parts), labels (the same sample with two labels), constant
            (images that show nothing). crossd inspect finds them.
    """

    ignore: int | None = None
    accept: str | None = None


@dataclass(frozen=True, kw_only=True)
class LongOptions(DataOptions):
    """What commands that may take long can be told: to keep what they did, and to go on.

    Attributes:
        cache: Folder where prepared volumes stay for later runs; several may share it. Default:
            they are kept in memory only, while there is room.
        cache_gb: Most that this folder may hold [GB]; what was used longest ago makes room.
        overwrite: Replace a result that is there.
        resume: Go on with a run that was interrupted; start where there is none, and do nothing
            where it has ended.
    """

    cache: str | None = None
    cache_gb: float = 100.0
    overwrite: bool = False
    resume: bool = False


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(LongOptions, RunOptions):
    """What all commands that train one network can be told.

    Attributes:
        augment: light (shift, brightness, noise), full (rotation, blur, gamma and, but for numbers
            to learn, zoom too) or none.
            Default: full for masks, else light; of teach, light.
        loggers: Where to log, separated by commas: csv, tensorboard, wandb, mlflow.
    """

    augment: str | None = None
    loggers: str = "csv,tensorboard"


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """What all commands that train on images can be told of it.

    Attributes:
        model: A name of a network: of timm, or with its library (monai:SegResNet,
            torchvision:r3d_18), with arguments in brackets if wanted; for masks
            segresnet-small, segresnet, basicunet, unet, dynunet; or nnunet:PLANS.json[:3d_lowres],
            the network, the spacing, the normalisation and the patch of nnU-Net's plans. Default: a
            small ResNet or SegResNet.
        pretrained: Start from the weights of a network of timm's that --model names: a file of
            them, or those that timm finds by itself (on its hub, in the cache of that, in
            local-dir:FOLDER) where no file is named. Default: new weights.
        slices: The views in which slices are taken of volumes, separated by commas. Default:
            axial,coronal,sagittal.
        slice_step: Take every n-th slice. Default: three a view, for masks every second.
        epochs: Passes over the images. Default: 8 and at least 100 steps, for masks 2 and 600.
        batch_size: Images a step. Default: 64, for masks 16.
        lr: Highest learning rate. Default: 0.01, for masks 0.003, with --pretrained 0.001.
    """

    model: str | None = None
    pretrained: str | None = field(default=None, metadata={"bare": "timm"})
    slices: str | None = None
    slice_step: int | None = None
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None


@dataclass(frozen=True)
class TransferConfig(ImageOptions, LongOptions):
    """Train in 2D, use in 3D, and compare with the other ways of doing it.

    Attributes:
        images: Source of images for the 2D training; of volumes, slices are taken.
        volumes: Source of volumes.
        limit: Numbers of labelled volumes to train on, separated by commas. Default: 4 with masks,
            otherwise ten a class.
        trials: Repetitions, with other labelled volumes and other seeds.
        arms: Ways to a network for volumes that are compared, separated by commas: projection,
            projection-drawn (trained by --views drawn, see crossd pretrain), fourier,
            fourier-aligned or fourier-projection (crossd); slices (a 2D network on slices); center,
            inflate, acs or triplanar (its kernels put into 3D ones); volume (converted, its
            attention to all slices) or cycle (its layers look at the planes of the volume in turn);
            scratch (3D training alone). The first is compared with each other one.
            Each is used in the way that the validation volumes choose: asked about the volume or
            about its three orientations, projection about its slices or volume and slices too;
            BatchNorm measured anew or kept. projection-volume, -orientations, -slices and -both
            are asked in this way only.
        teach: Whether the 3D kernels of every arm learn first, on the unlabelled training volumes,
            what its own 2D network says of slices: choose (both ways are tried, and the validation
            volumes choose), always or never. See crossd teach.
        protocols: How each is fitted to labelled volumes, separated by commas: zero (not at all),
            knn or linear (on what the last layer is told), probe (convolutions stay), unfreeze
            (stage by stage), finetune (all of it). Default: zero, linear and finetune; with masks
            zero and finetune.
        size: Size of the training volumes (one number, or depth,height,width).
        volume_epochs: Passes over the labelled volumes. Default: 15, or more for `volume_steps`.
        volume_steps: Fewest steps on the labelled volumes. Default: 100, for masks 60, unless the
            passes are given.
        volume_batch_size: Volumes a step. Default: 8, for masks 2.
        lr: Highest learning rate in 2D. Default: 0.01, for masks 0.003, with --pretrained 0.001.
        volume_lr: Highest learning rate on the labelled volumes.
        seed: Of everything that is drawn.
        workers: Processes that read data, for each training. Default: by cores and memory; 0 on
            CPU.
        jobs: Trainings at a time, a process of one thread each. Default: as many as there are
            cores, or 1 beside an accelerator.
        precision: 32-true, bf16-mixed or 16-mixed.
        checkpointing: Recompute activations in the backward pass: less memory, more time.
        out: Folder for the table, the pictures and the weights.
    """

    images: str = "brain"
    volumes: str = "brain"
    limit: str | None = None
    trials: int = 1
    arms: str = ",".join(DEFAULT_ARMS)
    protocols: str | None = None
    teach: str = "choose"
    size: str | None = None
    volume_epochs: int | None = None
    volume_steps: int | None = None
    volume_batch_size: int | None = None
    volume_lr: float = 1e-3
    seed: int = 0
    workers: int | None = None
    jobs: int | None = None
    precision: str = "32-true"
    checkpointing: bool = False
    out: str = "runs/transfer"


@dataclass(frozen=True)
class PretrainConfig(ImageOptions, TrainingOptions):
    """Train a Cross-D network on images, or on slices of volumes.

    Attributes:
        data: Source of images; of volumes, slices are taken.
        weights: A Cross-D weights file to go on with, such as crossd convert makes of the weights
            of others. Default: a new network.
        kernel_mode: projection, slice, fourier (the paper's), fourier-projection, or none for the
            plain 2D network.
        lift: How 2D kernels are put into 3D ones at the start: center (in the middle slice, the
            default), inflate (over all slices), triplanar (in three planes), or none for new ones.
        views: In which view a Cross-D network sees a slice in training: own, in which it was cut
            (better where scans lie alike, as organs in CT), or drawn, anew for every slice and
            epoch, so that the 3D kernels serve in any orientation (better for shapes). Other images
            have drawn ones.
        size: Size of the images (one number, or height,width).
        limit: Train on so many images, or slices of so many volumes.
        task: classification, multilabel, regression or segmentation, to be sure. Default: what the
            data are for.
        plan: A plan.yaml that says how volumes are prepared. Default: made from a scan of them.
        out: Folder for the weights and the report.
    """

    data: str = "brain"
    weights: str | None = None
    kernel_mode: str = "projection"
    lift: str | None = None
    views: str = "own"
    size: str | None = None
    limit: int | None = None
    task: str | None = None
    plan: str | None = None
    out: str = "runs/pretrain"


@dataclass(frozen=True)
class FinetuneConfig(TrainingOptions):
    """Train a network further on labelled volumes (or images).

    Attributes:
        data: Source of volumes or images.
        weights: A weights file of crossd.
        protocol: finetune trains everything; probe only BatchNorm and the last layer.
        size: Size of the training volumes (one number, or depth,height,width).
        limit: Train on so many labelled samples.
        align: Move the kernels of the fourier modes by their mean displacement first.
        teach: Teach the 3D kernels first, on all training volumes, whose labels are not looked at,
            what the weights say of their slices. See crossd teach.
        epochs: Passes over the labelled samples. Default: 15, or more for `steps`.
        steps: Fewest steps. Default: 100, unless the passes are given.
        batch_size: Samples a step. Default: 8, for masks 2.
        lr: Highest learning rate.
        plan: A plan.yaml that says how volumes are prepared. Default: that of the weights, or one
            made from a scan.
        out: Folder for the weights and the report.
    """

    weights: str
    data: str = "brain"
    protocol: str = "finetune"
    size: str | None = None
    limit: int | None = None
    align: bool = False
    teach: bool = False
    epochs: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    lr: float = 1e-3
    plan: str | None = None
    out: str = "runs/finetune"


@dataclass(frozen=True)
class JointConfig(ImageOptions, TrainingOptions):
    """Train one network on images and on labelled volumes, a batch of each in turn.

    The kernels are shared, each source has its own loss and its own classes, and BatchNorm keeps
    running statistics of volumes and of images apart: those of volumes are written.

    Attributes:
        images: Source of images; of volumes, slices are taken.
        volumes: Source of volumes with the same task.
        weights: A Cross-D weights file to start from. Default: a new network.
        model: A name of a network, for a new one, as `crossd pretrain` takes it. Default: a small
            ResNet or SegResNet.
        kernel_mode: projection, slice, fourier or fourier-projection, for a new network.
        views: Of slices in training: own, in which they were cut, or drawn, anew for each.
        size: Size of the training volumes (one number, or depth,height,width).
        limit: Train on so many labelled volumes.
        steps: Fewest steps on volumes. Default: 100, for masks 600, unless the passes are given.
        volume_batch_size: Volumes a step. Default: 8, for masks 2.
        out: Folder for the weights and the report.
    """

    images: str
    volumes: str
    weights: str | None = None
    kernel_mode: str = "projection"
    views: str = "own"
    size: str | None = None
    limit: int | None = None
    steps: int | None = None
    volume_batch_size: int | None = None
    out: str = "runs/joint"


@dataclass(frozen=True)
class TeachConfig(TrainingOptions):
    """Teach the 3D kernels, on volumes without labels, what their teacher says of the same volumes.

    The teacher is the same network asked about slices, as which it was trained, or another one. No
    label is looked at. The report tells volume by volume how far the two agree, before and after.

    Attributes:
        weights: A Cross-D weights file, or one of a plain 3D network, that is taught.
        data: Source of volumes; labels are not used.
        teacher: slices, orientations or both: how the weights themselves are asked, see crossd
            predict --answer. Or a weights file of another network with the same classes, such as
            of pretrain --kernel-mode none, which is asked about slices.
        temperature: Divides the logits of both: above 1, unlikely classes count for more.
        size: Size of the training volumes (one number, or depth,height,width).
        limit: Teach on so many volumes.
        epochs: Passes over the volumes. Default: 1, or more for `steps`.
        steps: Fewest steps. Default: 150, unless the passes are given.
        batch_size: Volumes a step. Default: 8, for masks 2.
        lr: Highest learning rate. Default: 0.001.
        out: Folder for the weights and the report.
    """

    weights: str
    data: str = "brain"
    teacher: str = "slices"
    temperature: float = 1.0
    size: str | None = None
    limit: int | None = None
    epochs: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    out: str = "runs/teach"


@dataclass(frozen=True)
class StatusConfig(Options):
    """Say how far a training is, whether it still runs, and what it has kept.

    Attributes:
        folder: The folder that a training writes to.
    """

    folder: str = field(metadata={"positional": True})


@dataclass(frozen=True)
class PlanConfig(DataOptions):
    """Scan volumes and write down how they would be prepared, as a plan.yaml to look at and edit.

    Attributes:
        data: Source of volumes that come as files.
        out: The file to write; give it to pretrain and finetune by --plan.
        size: Size of the training patches (one number, or depth,height,width).
        seed: Of the split, where the data has none: only training volumes are scanned.
        overwrite: Replace a file that is there.
    """

    data: str
    out: str = "plan.yaml"
    size: str | None = None
    seed: int = 0
    overwrite: bool = False


@dataclass(frozen=True)
class PredictConfig(Options):
    """Label or segment new images and volumes.

    Of volumes with masks, a mask a volume is written in its own grid and format (of a DICOM series
    as NIfTI); of images a PNG. predictions.csv lists the mask of every file, or its class with the
    probabilities. What is there already is skipped, so that the same command goes on; a folder with
    answers of other weights, --answer, --flips or --precision is refused. A file that cannot be
    read is reported and skipped, and the exit code is 2 at the end.

    Attributes:
        weights: A weights file of crossd.
        input: Files, folders of them (at any depth), folders of DICOM series, a csv with the column
            image (and more that begin so, one a modality), a datalist, or a data set with a
            dataset.json or images/ and labels/, of which the images are taken.
        out: Folder for the masks and predictions.csv.
        answer: On volumes, by their own 3D kernels (volume), by the mean of what these say of the
            volume with each axis as depth (orientations), by 2D kernels on slices of all three
            views (slices), or by the mean of volume and slices (both). Default: what the weights
            say.
        flips: Average over mirrored volumes: eight times slower, a little better.
        dicom_seg: Write masks of DICOM series as DICOM SEG too (pip install 'crossd[dicom]').
        precision: 32-true, bf16-mixed or 16-mixed.
        overwrite: Make the answers to --input anew; others in the folder stay.
    """

    weights: str
    input: list[str]
    out: str = "runs/predict"
    answer: str | None = None
    flips: bool = False
    dicom_seg: bool = False
    precision: str = "32-true"
    overwrite: bool = False


@dataclass(frozen=True)
class EvaluateConfig(LongOptions):
    """Score a network, or masks that were made before; or compare ways from images to volumes.

    With masks: Dice, the 95th percentile of the Hausdorff distance [mm], the normalised surface
    Dice and the volumes [ml] of every case and class, in the grid of the files. With --protocol,
    the network and --baselines are fitted to labelled volumes, over folds and trials, and compared
    by tests: tables, plots and a report with intervals.

    Attributes:
        data: Source of labelled volumes or images.
        weights: A weights file of crossd.
        predictions: Instead of weights, the folder that crossd predict wrote, or another of masks
            with the names of the cases.
        part: What to score: test, val or train.
        tolerance: Distance of surfaces that counts as none [mm].
        answer: On volumes, by their own 3D kernels (volume), by the mean of what these say of the
            volume with each axis as depth (orientations), by 2D kernels on slices of all three
            views (slices), or by the mean of volume and slices (both). Default: what the weights
            say.
        flips: Average over mirrored volumes.
        protocol: How to fit to labelled volumes before scoring, separated by commas: zero (not at
            all), knn or linear (on what the last layer is told), probe (convolutions stay),
            unfreeze (stage by stage), finetune (all of it).
        baselines: What to compare with, separated by commas: slices (the 2D network on slices),
            center, inflate, acs or triplanar (its kernels put into 3D ones), volume (converted,
            its attention to all slices), cycle (its layers look at the planes of the volume in
            turn), scratch (3D training alone).
        model: Instead of weights, one of timm's networks for images, whose ways to volumes are
            compared: resnet18, vit_small_patch16_dinov3, hf-hub:OWNER/NAME, with arguments in
            brackets if wanted.
        pretrained: Give the model weights: a file of timm's, or those that timm finds by itself
            (on its hub, in the cache of that, in local-dir:FOLDER) where no file is named.
            Default: new weights.
        arms: With a model, its ways to volumes, separated by commas: slices, volume, cycle, or
            another of the baselines but scratch. Default: slices,volume,cycle.
        teach: With --protocol, whether the 3D kernels of every arm learn first, on the unlabelled
            training volumes, what its own 2D network says of slices: choose (both ways are tried,
            and the validation volumes choose), always or never (the default). See crossd teach.
        plain: Weights of the plain 2D network (pretrain --kernel-mode none) that the baselines
            start from. Default: the 2D network that --weights hold in the axial view.
        limit: Numbers of labelled volumes, separated by commas. Default: all.
        folds: Cross-validate over all samples in so many folds. Default: the data's own split.
        trials: Repetitions, with other labelled volumes and other seeds.
        size: Size of the volumes (one number, or depth,height,width).
        epochs: Passes over the labelled volumes. Default: 15, or more for `steps`.
        steps: Fewest steps on them. Default: 100, with masks 60, unless the passes are given.
        batch_size: Volumes a step. Default: 8, with masks 2.
        lr: Highest learning rate on the labelled volumes.
        seed: Of the split, where the data has none (the one of the training), and of the trials.
        workers: Runs at a time, a process of one thread each. Default: as many as there are cores,
            or 1 beside an accelerator.
        precision: 32-true, bf16-mixed or 16-mixed.
        out: Folder for cases.csv, the report and pictures of the worst cases.
        resume: Go on with a comparison that was interrupted; start where there is none, and do
            nothing where it has ended.
    """

    data: str
    weights: str | None = None
    predictions: str | None = None
    part: str = "test"
    tolerance: float = 1.0
    answer: str | None = None
    flips: bool = False
    protocol: str | None = None
    baselines: str | None = None
    model: str | None = None
    pretrained: str | None = field(default=None, metadata={"bare": "timm"})
    arms: str | None = None
    teach: str | None = None
    plain: str | None = None
    limit: str | None = None
    folds: int | None = None
    trials: int = 1
    size: str | None = None
    epochs: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    lr: float = 1e-3
    seed: int = 0
    workers: int | None = None
    precision: str = "32-true"
    out: str = "runs/evaluate"


@dataclass(frozen=True)
class RecalibrateConfig(DataOptions):
    """Measure BatchNorm statistics on unlabelled volumes (or images), and score the result.

    Attributes:
        weights: A weights file of crossd.
        data: Source of volumes or images; the labels of its training samples are not used. Also
            an .npz with images alone, or a folder of NIfTI or image files.
        out: The weights file to write.
        answer: On volumes, by their own 3D kernels (volume), by the mean of what these say of the
            volume with each axis as depth (orientations), by 2D kernels on slices of all three
            views (slices), or by the mean of volume and slices (both). Default: what the weights
            say.
        align: Move the kernels of the fourier modes by their mean displacement first.
        size: Size of the volumes (one number, or depth,height,width).
        batch_size: Samples a step. Default: 8, for masks 2.
        seed: Of the split, where the data has none.
        workers: Processes that read data. Default: by cores and memory; 0 on CPU.
        precision: 32-true, bf16-mixed or 16-mixed.
        overwrite: Replace a file that is there.
    """

    weights: str
    out: str
    data: str = "brain"
    answer: str | None = None
    align: bool = False
    size: str | None = None
    batch_size: int | None = None
    seed: int = 0
    workers: int | None = None
    precision: str = "32-true"
    overwrite: bool = False


@dataclass(frozen=True)
class ConvertConfig(Options):
    """Turn a weights file into one of a plain 2D or 3D network, or a plain one into Cross-D.

    With --model, the weights are a checkpoint of others: of torchvision, timm, RadImageNet,
    MedicalNet, MONAI, nnU-Net (nnunet:PLANS.json), Lightning or the paper's implementation.

    Attributes:
        weights: A weights file of crossd, or a checkpoint.
        to: 2d, 3d or cross; of a 2D network also acs (its channels shared out to three planes) or
            cycle (its layers in the three planes in turn); or nnunet, a checkpoint for
            nnUNetv2_train -pretrained_weights.
        out: The weights file to write; for nnunet, ending in .pth.
        view: Which 2D network to take: axial, coronal or sagittal.
        align: Move the kernels of the fourier modes by their mean displacement.
        model: The name of a checkpoint's network; the options below are for a checkpoint.
        task: classification, multilabel (findings), regression (numbers) or segmentation.
        classes: Their number, or their names separated by commas. Default: the checkpoint's number.
        channels: Input channels. Default: the checkpoint's.
        kernel_mode: projection, slice, fourier or fourier-projection.
        lift: How 2D kernels are put into 3D ones, of weights files of crossd too: center (in the
            middle slice), inflate (over all slices) or triplanar (in three planes).
        prefix: The part of the checkpoint to read, where several fit, such as state_dict_ema.
        allow_partial: Load what fits, also where more than the classifier does not.
        mean: What is subtracted from images before they are given to the network.
        std: What they are divided by then.
        overwrite: Replace a file that is there.
    """

    weights: str
    to: str = "cross"
    out: str = "runs/converted.safetensors"
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
class ExportConfig(Options):
    """Write a network to a file that runs without crossd: .onnx, .pt2, or a MONAI bundle.

    The file takes batches of any size, of images less the mean and over the standard deviation
    that its metadata tell. It is read back, run, and compared with the network. A bundle is a
    folder that `python -m monai.bundle run` executes: from volumes as files to masks or a table.

    Attributes:
        weights: A weights file of crossd.
        to: 2d (for images), 3d (for volumes) or bundle (for volumes as files, with MONAI).
        out: The file to write, ending in .onnx (needs pip install 'crossd[onnx]') or .pt2; of a
            bundle the folder.
        size: Size of the example that is traced (one number, or one an axis). Default: that of the
            training data.
        fixed_size: Take this size only; else others too where the network allows it.
        view: Which 2D network to take: axial, coronal or sagittal.
        fixed_pose: In the fourier mode, fix the kernels at the mean pose of training: faster, and
            without predictors.
        licence: Of the weights, for the file LICENSE of a bundle, such as cc-by-nc-4.0.
        overwrite: Replace a file that is there.
    """

    weights: str
    to: str
    out: str
    size: str | None = None
    fixed_size: bool = False
    view: str = "axial"
    fixed_pose: bool = False
    licence: str | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class InspectConfig(DataOptions):
    """Look at data before a training, or at weights after it: pictures, and what they say.

    With --data alone: samples of each class, counts, sizes, intensities, and what is wrong (files
    that cannot be read, samples or patients in two parts, rare classes). With --weights: the
    kernels of a layer, how the energy lies over depth, how alike the views are. With both: what
    the answers rest on (Grad-CAM, or the mask), and the poses of the fourier mode.

    Attributes:
        weights: A weights file of crossd.
        data: Source of images or volumes.
        layer: The layer whose kernels are drawn, by its path. Default: the first.
        part: Whose samples the network is shown: test, val or train.
        limit: Samples to look at, at most.
        seed: Of the split, where the data has none.
        precision: 32-true, bf16-mixed or 16-mixed.
        out: Folder for report.html, report.md, metrics.json and the pictures.
        overwrite: Replace a result that is there.
    """

    weights: str | None = None
    data: str | None = None
    layer: str | None = None
    part: str = "test"
    limit: int = 1000
    seed: int = 0
    precision: str = "32-true"
    out: str = "runs/inspect"
    overwrite: bool = False


@dataclass(frozen=True)
class DoctorConfig(Options):
    """Say what this machine and this installation can do, and what is missing for more.

    The exit code is 2 when something that everything needs is missing.

    Attributes:
        json: Print JSON, for machines.
        out: The folder that results would be written to; whether that works is looked at.
    """

    json: bool = False
    out: str = "runs"
