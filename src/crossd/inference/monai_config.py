"""What `crossd predict` does with a volume, written down as a configuration of MONAI.

MONAI's names: a transform is a class by its name with its arguments, `$` begins an expression,
`@` names another entry (docs.monai.io, config_syntax).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from crossd.data.preprocessing.plan import Intensity
from crossd.data.preprocessing.resample import SAME_SPACING
from crossd.data.quality.facts import CLIP
from crossd.errors import InputError
from crossd.inference.predictor import plan_of
from crossd.inference.sliding_window import OVERLAP
from crossd.tasks import task_of
from crossd.weights.weights_file import WeightsConfig

Transform = dict[str, object]

AXES = "SAR"
"""Volumes are turned so that their axes run to superior, anterior and right: (D, H, W)."""

IMAGE, ANSWER = "image", "pred"
"""Keys of a volume and of what is said of it."""

FILE = "image_meta_dict"
"""Key of what MONAI read of a file beside its voxels, where it is asked to keep it apart."""

ONE_FILE = "$sorted(glob.glob(@dataset_dir + '/*.nii') + glob.glob(@dataset_dir + '/*.nii.gz'))"
SEVERAL_FILES = (
    "$[[first.replace('_0000.nii', f'_{{n:04}}.nii') for n in range({files})] "
    "for first in sorted(glob.glob(@dataset_dir + '/*_0000.nii*'))]"
)
"""The files of every case: one, or those that end in _0000, _0001 and so on, as for nnU-Net."""

NETWORK = "$type('Exported', (torch.nn.Module,), {'forward': lambda net, x: @graph(x)})()"
"""A module around a traced network, whose own cannot be told to evaluate, as evaluators do."""

LEAST = "float(image.min())"
"""What is padded where a plan says nothing, as `crossd predict` does."""


ONE_CHANNEL = (
    "$lambda mask: monai.data.MetaTensor("
    "mask, meta={**mask.meta, 'original_channel_dim': 'no_channel'})"
)
"""Forgets of a mask that its volume had channels in its file, by which MONAI would take an axis of
the mask for that of channels when it saves it."""


@dataclass(frozen=True)
class Preparation:
    """How volumes are prepared.

    Attributes:
        window: Voxels of what the network takes, ``(D, H, W)``.
        intensity: How each channel is scaled.
        spacing: What volumes are resampled to (z, y, x) [mm]; None resizes them to the window.
        fill: What is put around what is smaller than a window; None takes its least value.
    """

    window: tuple[int, ...]
    intensity: tuple[Intensity, ...]
    spacing: tuple[float, ...] | None
    fill: float | None = None


def preparation(config: WeightsConfig) -> Preparation:
    """Say how `crossd predict` prepares volumes for a network.

    Raises:
        InputError: When it gives masks, or slides over volumes, and knows no spacing; or where its
            plan does what MONAI's transforms do not, as plans of nnU-Net.

    Example:
        >>> config = WeightsConfig("resnet-small", "classification", 1, ("a", "b"), size=(8, 8, 8))
        >>> preparation(config).spacing is None
        True
    """
    if config.plan is None and config.size and not task_of(config.task).masks:
        window = config.size if len(config.size) == 3 else config.size[:1] * 3
        return Preparation(
            window, (Intensity("percentiles", *CLIP),) * max(1, config.modalities), None
        )
    plan = plan_of(config)
    regions = any(how.region != "volume" for how in plan.intensity)
    own = "axes" if plan.axes is not None else "region" if regions else "box"
    if plan.axes is not None or regions or plan.box:
        raise InputError(
            f"the weights' plan has {own}, as plans of nnU-Net, which a bundle of MONAI cannot do; "
            "export .pt2 or .onnx, or convert --to nnunet"
        )
    return Preparation(plan.patch, plan.intensity, plan.spacing, plan.fill)


def inference(config: WeightsConfig, model: str) -> dict[str, object]:
    """Write down what `crossd predict` does with volumes, as MONAI's ``inference.json``.

    Args:
        config: Of the network.
        model: The traced network, a `.pt2` file, from the root of the bundle on.

    Returns:
        The configuration, for JSON.

    Raises:
        InputError: As of `preparation`.

    Example:
        >>> config = WeightsConfig("resnet-small", "classification", 1, ("a", "b"), size=(8, 8, 8))
        >>> inference(config, "net.pt2")["inferer"]
        {'_target_': 'SimpleInferer'}
    """
    how = preparation(config)
    files = max(1, config.modalities)
    masks = task_of(config.task).masks
    return {
        "imports": [
            "$import glob",
            "$import torch",
            "$import monai",
            "$import numpy",
            "$from torch.export.passes import move_to_device_pass",
        ],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/data'",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "datalist": ONE_FILE if files == 1 else SEVERAL_FILES.format(files=files),
        "program": f"$torch.export.load(@bundle_root + '/{model}')",
        "graph": "$move_to_device_pass(@program, str(@device)).module()",
        "network_def": NETWORK,
        "network": "$@network_def.to(@device)",
        "padding": {"_target_": "SpatialPad", "spatial_size": list(how.window)},
        "preprocessing": {
            "_target_": "Compose",
            "transforms": _preprocessing(config, how),
        },
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': image} for image in @datalist]",
            "transform": "@preprocessing",
        },
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": 1,
            "shuffle": False,
            "num_workers": 0,
        },
        "inferer": _window(how) if masks else {"_target_": "SimpleInferer"},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": _masks_written(config) if masks else _table_written(),
        },
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
        },
        "run": ["$@evaluator.run()"],
    }


def _preprocessing(config: WeightsConfig, how: Preparation) -> list[Transform]:
    """List the transforms from a file to what the network takes."""
    masks = task_of(config.task).masks
    transforms = [
        # The name of the file goes with an image, or for tables beside it.
        _on_image("LoadImaged", ensure_channel_first=True, image_only=masks),
        _on_image("Orientationd", axcodes=AXES),
        _on_image("EnsureTyped", dtype="$torch.float32", device="@device"),
        *_scaled(how.intensity),
    ]
    if (config.mean, config.std) != (0.0, 1.0):
        transforms.append(
            _on_image("NormalizeIntensityd", subtrahend=config.mean, divisor=config.std)
        )
    if how.spacing is None:
        sides, mode = list(how.window), "trilinear"
        transforms.append(_on_image("Resized", spatial_size=sides, mode=mode, align_corners=False))
    else:
        transforms.append(
            _on_image(
                "Spacingd",
                pixdim=list(how.spacing),
                min_pixdim=[side * (1 - SAME_SPACING) for side in how.spacing],
                max_pixdim=[side * (1 + SAME_SPACING) for side in how.spacing],
                mode="bilinear",
                padding_mode="border",
            )
        )
    if len(how.intensity) == 1 < config.in_channels:
        transforms.append(_on_image("RepeatChanneld", repeats=config.in_channels))
    value = LEAST if how.fill is None else repr(how.fill)
    padded = f"$lambda image: @padding(image, value={value})"
    transforms.append(_on_image("Lambdad", func=padded, inv_func="$@padding.inverse"))
    if not masks:
        transforms.append(_on_image("CenterSpatialCropd", roi_size=list(how.window)))
    return transforms


def _scaled(intensity: Sequence[Intensity]) -> list[Transform]:
    """List the transforms that scale values, channel by channel where they are scaled otherwise."""
    if len(set(intensity)) == 1:
        return _scaled_channel(intensity[0], IMAGE)
    keys = [f"{IMAGE}_{number}" for number in range(len(intensity))]
    numbers = [str(number) for number in range(len(intensity))]
    scaled = (_scaled_channel(one, key) for one, key in zip(intensity, keys, strict=True))
    return [
        _on_image("SplitDimd", dim=0, output_postfixes=numbers),
        *itertools.chain.from_iterable(scaled),
        {"_target_": "ConcatItemsd", "keys": keys, "name": IMAGE, "dim": 0},
        {"_target_": "DeleteItemsd", "keys": keys},
    ]


def _scaled_channel(how: Intensity, key: str) -> list[Transform]:
    """List the transforms of one kind of scaling, see `Intensity`."""
    own: Transform = {"keys": key}
    unit: Transform = {"b_min": 0.0, "b_max": 1.0, "clip": True}
    ends: Transform = {"lower": how.low, "upper": how.high, "channel_wise": True}
    if how.kind == "none":
        return []
    if how.kind == "window":
        limits = {"a_min": how.low, "a_max": how.high}
        if how.mean is not None:
            unit = {"b_min": how.low, "b_max": how.high, "clip": True}
            return [
                {"_target_": "ScaleIntensityRanged", **own, **limits, **unit},
                {
                    "_target_": "NormalizeIntensityd",
                    **own,
                    "subtrahend": how.mean,
                    "divisor": how.std,
                },
            ]
        return [{"_target_": "ScaleIntensityRanged", **own, **limits, **unit}]
    if how.kind == "percentiles":
        return [{"_target_": "ScaleIntensityRangePercentilesd", **own, **ends, **unit}]
    return [
        {"_target_": "ClipIntensityPercentilesd", **own, **ends},
        {"_target_": "NormalizeIntensityd", **own, "channel_wise": True},
    ]


def _window(how: Preparation) -> Transform:
    """Slide a window as `crossd.inference.sliding_window` does."""
    return {
        "_target_": "SlidingWindowInferer",
        "roi_size": list(how.window),
        "sw_batch_size": 1,
        "overlap": OVERLAP,
        "mode": "gaussian",
    }


def _masks_written(config: WeightsConfig) -> list[Transform]:
    """List the transforms from probabilities to a mask in the grid of its volume."""
    classes = list(range(len(config.classes)))
    values = list(config.values or classes)
    small = max(values) < 256
    back = {"transform": "@preprocessing", "orig_keys": IMAGE, "nearest_interp": False}
    renamed = {"orig_labels": classes, "target_labels": values}
    return [
        _on_answer("Invertd", **back),
        _on_answer("AsDiscreted", argmax=True),
        *([] if values == classes else [_on_answer("MapLabelValued", **renamed)]),
        _on_answer("Lambdad", func=ONE_CHANNEL),
        _on_answer(
            "SaveImaged",
            output_dir="@output_dir",
            output_postfix="mask",
            output_dtype="$numpy.uint8" if small else "$numpy.uint16",
            separate_folder=False,
            resample=False,
        ),
    ]


def _table_written() -> list[Transform]:
    """List the transforms from probabilities or numbers to a line of predictions.csv."""
    where = {"output_dir": "@output_dir", "filename": "predictions.csv", "meta_keys": FILE}
    return [_on_answer("SaveClassificationd", **where)]


def _on_image(name: str, **arguments: object) -> Transform:
    return {"_target_": name, "keys": IMAGE, **arguments}


def _on_answer(name: str, **arguments: object) -> Transform:
    return {"_target_": name, "keys": ANSWER, **arguments}
