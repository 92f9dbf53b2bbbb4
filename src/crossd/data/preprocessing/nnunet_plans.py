"""Plans of nnU-Net: which network they are of, and how it wants its volumes."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossd.data.preprocessing import plan_file
from crossd.data.preprocessing.plan import Intensity, Plan
from crossd.errors import InputError

PREFIX = "nnunet:"
DEFAULT = "3d_fullres"
STORED, REORIENTED = ("SimpleITKIO", "NibabelIO", "Tiff3DIO"), "NibabelIOWithReorient"
"""How nnU-Net reads files: along their own axes, or turned to right, anterior, superior."""


@dataclass(frozen=True)
class NnunetPlans:
    """What a configuration of nnU-Net's plans and the dataset.json beside them say.

    Attributes:
        model: The network, as `crossd.conversion.registry.build` takes it.
        plan: How its volumes are prepared.
        channels: Files of a case.
        classes: Names of the classes by their values in masks; 0 is the background.
        ignore: Value of masks for what is not known; None where there is none.
        path: The plans.
    """

    model: str
    plan: Plan
    channels: int
    classes: dict[int, str]
    ignore: int | None
    path: Path

    def require(self, channels: int, classes: Mapping[int, str], name: str) -> None:
        """Refuse data that have other channels or classes than the plans' dataset.

        Args:
            channels: Of the data.
            classes: Names of their classes by their values.
            name: Of the data, for the message.

        Raises:
            InputError: "... has 3 channels, but ...".
        """
        dataset = self.path.parent / "dataset.json"
        if channels != self.channels:
            raise InputError(
                f"{name}: has {_count(channels, 'channel')}, but the network of {self.path} takes "
                f"{self.channels} ({dataset}); give the channels that it was planned for"
            )
        unknown = [value for value in classes if value not in self.classes]
        if unknown:
            raise InputError(
                f"{name}: its masks have the class {classes[unknown[0]]} ({unknown[0]}), which "
                f"{dataset} does not have (it has {', '.join(self.classes.values())}); give masks "
                "of the same classes"
            )

    def require_trained(self, told: object, checkpoint: str) -> None:
        """Refuse a checkpoint that tells of other plans than these, though its tensors may fit.

        Args:
            told: What nnU-Net's trainer wrote into it: ``init_args``. Where it has no plans, there
                is nothing to compare.
            checkpoint: Its name, for the message.

        Raises:
            InputError: "... was trained with other plans: its spacing is ..., but ...".
        """
        told = told if isinstance(told, Mapping) else {}
        plans, data, name = (told.get(key) for key in ("plans", "dataset_json", "configuration"))
        if not (isinstance(plans, Mapping) and isinstance(data, Mapping) and isinstance(name, str)):
            return
        where = Path(checkpoint)
        with _understood(where, name):
            own = _inherited(plans["configurations"], name, where)
            plan = _plan(plans, own, len(_channels(data)), where)
            classes, _ = _classes(data, where)
        theirs = {**(plan_file.to_record(plan) or {}), "labels": list(classes.values())}
        ours = {**(plan_file.to_record(self.plan) or {}), "labels": list(self.classes.values())}
        for what in ("spacing", "axes", "intensity", "labels"):
            if theirs.get(what) != ours.get(what):
                raise InputError(
                    f"{checkpoint}: was trained with other plans ({name}): {what} is "
                    f"{theirs.get(what)} there, but {ours.get(what)} by {self.path}; give the "
                    "plans.json of its own folder, and the configuration"
                )


def is_named(model: str | None) -> bool:
    """Tell whether a model is named by plans of nnU-Net, ``nnunet:PLANS.json``."""
    return model is not None and model.startswith(PREFIX) and "(" not in model


def read(model: str) -> NnunetPlans:
    """Read what ``nnunet:PLANS.json``, or ``nnunet:PLANS.json:CONFIGURATION``, names.

    Plans are of nnU-Net 2.4 or later, which write down the whole network. Of its preprocessing are
    taken: the order of the axes, the spacing, the normalisation with the region that it measures,
    the box that masks are predicted in, what small volumes are filled with, and the patch.
    Resampling is that of crossd (linear, where nnU-Net takes splines of the third order), as is
    that of the answers.

    Args:
        model: The path of the plans, in a folder with the ``dataset.json`` of their data set, and
            the configuration. Default: ``3d_fullres``.

    Raises:
        InputError: With what is wrong in which file.
    """
    path, name = _path_and_name(model.removeprefix(PREFIX))
    plans = _json(path, "plans of nnU-Net")
    data = _json(path.parent / "dataset.json", f"the data set of {path}, which lies beside it")
    configurations = plans.get("configurations")
    if "plans_per_stage" in plans or not isinstance(configurations, dict):
        raise InputError(
            f"{path}: is not of nnU-Net 2 (it has no configurations); plan again with "
            "nnUNetv2_plan_and_preprocess"
        )
    volumes = [own for own in configurations if own.startswith("3d")]
    if name not in configurations:
        raise InputError(f"{path}: has no configuration {name}; it has {', '.join(configurations)}")
    own = _inherited(configurations, name, path)
    if own.get("previous_stage") or "cascade" in name:
        raise InputError(f"{path}: {name} is the second stage of a cascade; give one of its own")
    architecture = own.get("architecture")
    if not isinstance(architecture, dict):
        raise InputError(
            f"{path}: {name} does not write down its network, as plans before nnU-Net 2.4; plan "
            "again with nnUNetv2_plan_experiment"
        )
    with _understood(path, name):
        if len(own["patch_size"]) != 3:
            other = f"; give {path}:{volumes[0]}" if volumes else ""
            raise InputError(f"{path}: {name} is of a 2D network, expected one of 3D{other}")
        arguments = architecture["arch_kwargs"]
        _require_whole_steps(own["patch_size"], arguments["strides"], path)
        network = architecture["network_class_name"]
        options = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        channels = _channels(data)
        classes, ignore = _classes(data, path.parent / "dataset.json")
        return NnunetPlans(
            f"{PREFIX}{network}(configuration={name!r}, {options})",
            _plan(plans, own, len(channels), path),
            len(channels),
            classes,
            ignore,
            path,
        )


@contextmanager
def _understood(path: Path, name: str) -> Iterator[None]:
    """Say of what is not as nnU-Net writes it that the plans are damaged."""
    try:
        yield
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path}: is damaged: {name} lacks or misstates {error}; plan again with "
            "nnUNetv2_plan_experiment"
        ) from error


def _require_whole_steps(patch: Sequence[int], strides: Sequence[Any], path: Path) -> None:
    """Refuse a patch that the strides of its network do not divide, which could not be joined."""
    for axis, side in enumerate(patch):
        steps = math.prod(one if isinstance(one, int) else one[axis] for one in strides)
        if int(side) % steps:
            raise InputError(
                f"{path}: the patch is {side} voxels long along axis {axis}, but the network needs "
                f"a multiple of {steps} there; mend patch_size"
            )


def _channels(data: Mapping[str, Any]) -> Mapping[str, str]:
    """Name the channels by their numbers, as data sets of nnU-Net 2 and 1 say them."""
    named: Mapping[str, str] = data.get("channel_names") or data["modality"]
    return named


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _path_and_name(text: str) -> tuple[Path, str]:
    """Split ``PLANS.json:CONFIGURATION``, of which the first may hold colons too."""
    path, colon, name = text.rpartition(":")
    if colon and not name.endswith(".json"):
        return Path(path).expanduser(), name
    return Path(text).expanduser(), DEFAULT


def _json(path: Path, what: str) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path}: no such file (expected {what})")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as {what} ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: is no {what}")
    return content


def _inherited(configurations: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    """Give a configuration with what it inherits from others."""
    found: dict[str, Any] = {}
    seen: list[str] = []
    while name:
        own = configurations.get(name)
        if not isinstance(own, dict) or name in seen:
            raise InputError(f"{path}: is damaged: the configuration {name} is missing or circular")
        seen.append(name)
        found = {**own, **found}
        name = own.get("inherits_from", "")
    return found


def _plan(plans: Mapping[str, Any], own: Mapping[str, Any], channels: int, path: Path) -> Plan:
    forward = [int(axis) for axis in plans["transpose_forward"]]
    reader = plans.get("image_reader_writer", STORED[0])
    axes: tuple[int, int, int] | None = (2 - forward[0], 2 - forward[1], 2 - forward[2])
    if reader == REORIENTED:
        if forward != [0, 1, 2]:
            raise InputError(
                f"{path}: reorients its files and then exchanges axes ({forward}), which is not "
                "supported; plan again with files whose thick slices are axial"
            )
        axes = None
    elif reader not in STORED:
        raise InputError(f"{path}: reads files by {reader}, expected {', '.join(STORED)}")
    schemes, masked = own["normalization_schemes"], own["use_mask_for_norm"]
    seen = plans.get("foreground_intensity_properties_per_channel", {})
    if len(schemes) != channels or len(masked) != channels:
        raise InputError(f"{path}: normalises {len(schemes)} channels of {channels}")
    intensity = tuple(
        _intensity(scheme, mask, seen.get(str(place), {}), path)
        for place, (scheme, mask) in enumerate(zip(schemes, masked, strict=True))
    )
    spacing, patch = own["spacing"], own["patch_size"]
    made = Plan(
        (float(spacing[0]), float(spacing[1]), float(spacing[2])),
        (int(patch[0]), int(patch[1]), int(patch[2])),
        intensity,
        axes=axes,
        fill=0.0,
        final=True,
        box=True,
    )
    return plan_file.from_record(plan_file.to_record(made) or {}, str(path))


def _intensity(scheme: str, masked: bool, seen: Mapping[str, float], path: Path) -> Intensity:
    """Say what one of nnU-Net's normalisations does to a channel."""
    if scheme == "ZScoreNormalization":
        return Intensity("z-score", 0, 100, region="nonzero" if masked else "box")
    if scheme == "CTNormalization":
        low, high = seen["percentile_00_5"], seen["percentile_99_5"]
        return Intensity("window", low, high, mean=seen["mean"], std=seen["std"])
    if scheme == "RescaleTo01Normalization":
        return Intensity("percentiles", 0, 100, region="box")
    if scheme == "RGBTo01Normalization":
        return Intensity("window", 0, 255)
    if scheme == "NoNormalization":
        return Intensity("none", 0, 1)
    raise InputError(
        f"{path}: {scheme} is no normalisation of nnU-Net itself, and what it does is not known; "
        "write a plan.yaml and name it by --plan"
    )


def _classes(data: Mapping[str, Any], path: Path) -> tuple[dict[int, str], int | None]:
    """Read the classes by their values, and the value that is ignored."""
    labels = data["labels"]
    if all(str(key).isdigit() for key in labels):  # of the Decathlon: the other way round
        labels = {name: int(value) for value, name in labels.items()}
    regions = [name for name, value in labels.items() if isinstance(value, Sequence)]
    if regions:
        raise InputError(
            f"{path}: {regions[0]} is a region of several labels, whose network answers by a "
            "probability a region, which crossd does not train; give a data set with plain labels"
        )
    ignore = labels.get("ignore")
    named = {int(value): name for name, value in labels.items() if name != "ignore"}
    if sorted(named) != list(range(len(named))) or len(named) < 2:
        raise InputError(f"{path}: its labels must be 0 (background), 1, 2, ..., one by one")
    return dict(sorted(named.items())), None if ignore is None else int(ignore)
