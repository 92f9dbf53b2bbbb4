"""MONAI bundles: a network and how volumes are prepared for it, to run with MONAI alone.

A bundle is a folder as MONAI's specification lays it out (docs.monai.io, mb_specification). What
`crossd predict` does with a volume is written down there as transforms of MONAI, so that
``python -m monai.bundle run`` does the same without crossd.
"""

import importlib.metadata
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from crossd import __version__
from crossd.conversion.copying import copy_of
from crossd.errors import InputError
from crossd.inference.monai_config import Preparation, inference, preparation
from crossd.inference.slice_ensemble import answering
from crossd.nn.layers import contiguous
from crossd.tasks import task_of, with_units
from crossd.utils.atomic_files import atomic
from crossd.weights.export import export_for_shape, network_for
from crossd.weights.weights_file import WeightsConfig, require_config, require_rank

MODEL, STATE = "models/model.pt2", "models/model.pt"
METADATA, INFERENCE = "configs/metadata.json", "configs/inference.json"
README, LICENCE = "docs/README.md", "LICENSE"
FILES = (MODEL, STATE, METADATA, INFERENCE, README, LICENCE)

SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
    "meta_schema_20240725.json"
)
"""What `monai.bundle verify_metadata` holds the metadata against."""

NOT_GIVEN = "not given"

TRIED = {"pytorch-ignite": "0.5.4"}
"""Versions that bundles were run with, where a package is not installed."""


def write_bundle(
    net: nn.Module,
    folder: str | Path,
    *,
    config: WeightsConfig | None = None,
    answer: str | None = None,
    licence: str | None = None,
    overwrite: bool = False,
) -> str:
    """Write a network for volumes as a MONAI bundle, which runs without crossd.

    ``python -m monai.bundle run --config_file configs/inference.json --bundle_root . --dataset_dir
    SCANS --output_dir MASKS`` then reads NIfTI files, turns, scales and resamples them as the plan
    of the weights says, and writes a mask for each in its own grid, or predictions.csv. MONAI
    samples linearly between voxels and keeps the first voxel's place, where `crossd predict` keeps
    the field of view and averages what becomes much coarser: masks may differ in single voxels.

    Args:
        net: A network that takes volumes, such as `crossd.load` gives. It is not changed.
        folder: The bundle's root, made when missing.
        config: The network's configuration; None takes `net.config`.
        answer: How it answers on volumes, see `crossd.inference.slice_ensemble.answering`. None
            takes what the configuration says.
        licence: Of the weights, for the file LICENSE; None writes that it was not given.
        overwrite: Replace the files of a bundle that are there.

    Returns:
        What was written, and how it is run.

    Raises:
        InputError: "... has ... already", when the weights know no spacing, or when the network
            cannot be traced.

    Example:
        >>> import tempfile
        >>> config = WeightsConfig(
        ...     "segresnet-small", "segmentation", 1, ("background", "ball"), size=(16, 16, 16),
        ...     spacing=(1.0, 1.0, 1.0), values=(0, 1), modalities=1,
        ... )
        >>> told = write_bundle(config.build(), tempfile.mkdtemp(), config=config)
        >>> told.splitlines()[0]
        'one window is 1 x 1 x 16 x 16 x 16; the traced network differs by 0e+00 at most'
    """
    config = require_config(net, config)
    folder = Path(folder)
    there = [name for name in FILES if (folder / name).exists()]
    if there and not overwrite:
        raise InputError(f"{folder} has {there[0]} already: name another folder, or overwrite it")
    require_rank(config, 3, str(folder))
    how = preparation(config)
    answer = answer or config.answer
    window = (1, config.in_channels, *how.window)
    difference = export_for_shape(_asked(net, config, answer), folder / MODEL, window)
    with atomic(folder / STATE) as temporary:
        torch.save(network_for(net, "3d").state_dict(), temporary)
    for name, record in (
        (METADATA, _metadata(config, how)),
        (INFERENCE, inference(config, MODEL)),
    ):
        _write(folder / name, json.dumps(record, indent=4, ensure_ascii=False) + "\n")
    _write(folder / README, _readme(config, how, answer))
    _write(folder / LICENCE, f"Licence of the weights: {licence or NOT_GIVEN}\n")
    shown = " x ".join(map(str, window))
    return (
        f"one window is {shown}; the traced network differs by {difference:.0e} at most\n"
        f"run: python -m monai.bundle run --config_file {folder / INFERENCE} "
        f"--bundle_root {folder} --dataset_dir SCANS --output_dir ANSWERS\n"
        f"written: {folder}"
    )


class _Said(nn.Module):
    """What a network says of volumes: probabilities, or numbers in their units."""

    def __init__(self, net: nn.Module, config: WeightsConfig) -> None:
        super().__init__()
        self.net = net
        self.task = task_of(config.task)
        self.scale = config.scale

    def forward(self, x: Tensor) -> Tensor:
        said = self.task.said(self.net(x))
        return said if self.scale is None else self.scale.restored(said)


def _asked(net: nn.Module, config: WeightsConfig, answer: str) -> nn.Module:
    """Give the network to trace: plain where its 3D kernels alone are asked."""
    asked = network_for(net, "3d") if answer in ("volume", "orientations") else copy_of(net).float()
    return _Said(answering(contiguous(asked), answer, config.task), config).cpu().eval()


def _metadata(config: WeightsConfig, how: Preparation) -> dict[str, object]:
    """Describe the bundle in the words of MONAI's schema."""
    import monai
    import nibabel

    task = task_of(config.task)
    names = with_units(config.classes, config.units)
    image = {
        "type": "image",
        "format": "magnitude",
        "modality": "n/a",
        "num_channels": config.in_channels,
        "spatial_shape": list(how.window),
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": task.masks,
        "channel_def": {str(number): "image" for number in range(config.in_channels)},
    }
    pred = {
        "type": "image" if task.masks else "probabilities",
        "format": "segmentation" if task.masks else config.task,
        "num_channels": len(names),
        "spatial_shape": list(how.window) if task.masks else [1],
        "dtype": "float32",
        "value_range": [] if task.kind == "number" else [0, 1],
        "is_patch_data": task.masks,
        "channel_def": {str(number): name for number, name in enumerate(names)},
    }
    return {
        "schema": SCHEMA,
        "version": "0.1.0",
        "changelog": {"0.1.0": f"written by crossd {__version__}"},
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {
            "nibabel": nibabel.__version__,
            "pytorch-ignite": _version_of("pytorch-ignite"),
        },
        "name": config.model,
        "task": f"{config.task} of volumes",
        "description": f"{config.model} for {config.task}: {', '.join(names)}",
        "authors": NOT_GIVEN,
        "copyright": NOT_GIVEN,
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}},
    }


def _version_of(package: str) -> str:
    """Give the version of a package that is installed, or that the bundle was tried with."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return TRIED[package]


def _readme(config: WeightsConfig, how: Preparation, answer: str) -> str:
    """Say what the bundle does, and how it is run."""
    masks = task_of(config.task).masks
    names = with_units(config.classes, config.units)
    values = config.values or tuple(range(len(names)))
    listed = [f"{value}: {name}" for value, name in zip(values, names, strict=False)]
    gives = f"a mask for each, NAME_mask.nii.gz, in its own grid ({', '.join(listed)})"
    if not masks:
        gives = f"predictions.csv with a line for each: its file, then {', '.join(names)}"
    size = " x ".join(map(str, how.window))
    grid = f"resized to {size} voxels"
    if how.spacing is not None:
        spacing = " x ".join(f"{side:g}" for side in how.spacing)
        grid = f"resampled to voxels of {spacing} mm (z, y, x), in windows of {size}"
    files = max(1, config.modalities)
    takes = "NIfTI files" if files == 1 else f"cases of {files} NIfTI files, NAME_0000 and so on"
    return _README.format(
        model=config.model,
        task=config.task,
        version=__version__,
        takes=takes,
        gives=gives,
        grid=grid,
        answer=answer,
    )


_README = """# {model}

A network for {task}, written by crossd {version}. It takes {takes}, and gives {gives}.

```console
$ pip install monai pytorch-ignite nibabel fire
$ python -m monai.bundle run --config_file configs/inference.json --bundle_root . \\
      --dataset_dir SCANS --output_dir ANSWERS
```

Volumes are {grid}. `configs/inference.json` says all of it, and can be edited. The network is
asked about a volume by its `{answer}`; `models/model.pt2` holds it as torch.export traced it, one
window at a time, and `models/model.pt` the parameters of its 3D form.

Not a medical device. It has not been approved for any clinical use.
"""


def _write(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
