"""Checkpoints of others: torchvision, timm, RadImageNet, MedicalNet, MONAI, Lightning and the like.

Nothing is known here about any of them, but for the names in those of the paper's implementation.
The state dict is found in the file by its tensors, and its names are matched with the network's by
`crossd.weights.key_matching`.
"""

import argparse
import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from crossd.conversion import registry
from crossd.conversion.adapt import knows_volumes
from crossd.conversion.arguments import LIFTS
from crossd.conversion.checking.examples import one_line
from crossd.conversion.folding.modules import state_of
from crossd.conversion.heads import class_axis, classifiers, first_convolution
from crossd.conversion.plain import to_2d, to_3d
from crossd.conversion.report import ConversionReport, Entry
from crossd.errors import InputError
from crossd.nn.kernel_modes import Fourier
from crossd.weights.fitting import Step, steps_for
from crossd.weights.key_matching import Match, Shape, find, join
from crossd.weights.weights_file import PLANAR, WeightsConfig, check_turn, save

Source = str | Path | Mapping[str, object]
Parts = Mapping[str, Mapping[str, Tensor]]
"""The tensors of every mapping in a checkpoint, by its place in it."""

PAPER = "weights_3d"
"""Ends the names of kernels in checkpoints of the paper's implementation, and no others."""

_scalar: Any = np.float64(0).__reduce__()[0]

HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("bool", "int32", "int64", "float32", "float64")),
    *((_scalar, f"{home}.multiarray.scalar") for home in ("numpy.core", "numpy._core")),
]
"""What may stand in a file beside tensors, as it runs no code: the options that timm keeps, and
numbers of numpy, which nnU-Net keeps of its training."""

HINT = "to load what fits all the same, allow it (allow_partial=True, --allow-partial)"


def load_checkpoint(
    net: nn.Module,
    source: Source,
    allow_partial: bool = False,
    lift: str = "center",
    prefix: str | None = None,
) -> ConversionReport:
    """Load a checkpoint that something else than crossd wrote, of a 2D or a 3D network.

    The tensors are looked for in every mapping of the file. Prefixes such as ``module.`` are
    exchanged for those of the network under which most tensors agree in name and shape; children
    that the checkpoint numbers are taken in order. 2D kernels are lifted as `crossd.convert`
    lifts them. 3D kernels are kept as they are; a Cross-D network takes its 2D kernels out of
    them as its mode says (the fourier mode rolls them back by its offset, so that images see the
    central slice; ``to_3d(align=True)`` undoes it). Where the first convolution has another
    number of input channels, each of the new channels takes an equal share of the sum over the
    old ones, so that what is the same in all channels gives the same answer.

    The classifier may differ: it then keeps its new weights. It is what timm's ``default_cfg``
    names, or the last layer in order of registration, if it is linear or a convolution.

    Strides and dilation do not show in a checkpoint (MedicalNet's last two stages are dilated
    instead of strided): build the network that it was trained with.

    Args:
        net: A network made by `crossd.convert`, or a plain 2D or 3D one. All of it is loaded or,
            on an error, nothing.
        source: A ``.safetensors`` file; a file of `torch.save`, which is read with
            ``weights_only=True`` and so cannot run code; or its content.
        allow_partial: Load what fits, also where more than the classifier does not.
        lift: ``"center"``, ``"inflate"`` or ``"triplanar"``, for 2D kernels.
        prefix: The part of the checkpoint to read, where several fit, such as ``"state_dict_ema"``
            or ``"encoder_q"``; what is outside of it may be left over.

    Returns:
        What became of every tensor: ``"matched"``, ``"adapted"`` (lifted, rolled or with other
        input channels), ``"missing"`` in the checkpoint or ``"unexpected"`` in it.

    Raises:
        InputError: "no such file", "... is not a checkpoint", "the checkpoint is not of this
            network", "two readings ... fit equally well", "... not a number (NaN)", or "the
            checkpoint does not fit" with what is missing, unexpected or of another shape.

    Example:
        >>> plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
        >>> lightning = {"state_dict": nn.ModuleDict({"model": plain}).state_dict(), "epoch": 7}
        >>> from crossd import convert
        >>> report = load_checkpoint(convert(plain), lightning)
        >>> print(report)
        9 tensors: 2 adapted, 7 matched
        'state_dict.model' of the checkpoint is the network
        0.weight               adapted    4x3x3x3 -> 4x3x3x3x3     lifted by 'center'
        ...
    """
    return _load(net, state_dicts(read(source)), lift, prefix, allow_partial)


def load_reference(source: Source, net: nn.Module) -> ConversionReport:
    """Load a checkpoint of the paper's implementation into a network in the fourier mode.

    `load_checkpoint` reads these too, and lets the classifier differ.

    Args:
        source: A checkpoint file, or its content: a dict whose "model" holds keys such as
            ``layer1.0.conv1.weights_3d`` and ``layer1.0.conv1.rotation_params.0.weight``,
            possibly behind ``module.`` or ``_orig_mod.``.
        net: Made by ``convert(model, kernel_mode="fourier")``; its tensors are replaced, all
            of them or, on an error, none.

    Returns:
        What became of every tensor, in the words of `load_checkpoint`.

    Raises:
        InputError: "the checkpoint does not fit ..." naming tensors that are missing, left over or
            of another shape, "... it is not the reference's", or "the network has no fourier mode".
    """
    content = read(source)
    model = content.get("model", content)
    parts = state_dicts(model) if isinstance(model, Mapping) else {}
    if not _is_of_the_paper(parts):
        raise InputError(f"the checkpoint has no tensor {PAPER!r}: it is not the reference's")
    return _load(net, parts, strict=True)


def _load(
    net: nn.Module,
    parts: Parts,
    lift: str = "center",
    prefix: str | None = None,
    allow_partial: bool = False,
    strict: bool = False,
) -> ConversionReport:
    """Load what was found in a checkpoint.

    Where it is strict, neither the classifier nor the input channels may differ.
    """
    if lift not in LIFTS:
        raise InputError(f"lift (={lift!r}) must be one of {', '.join(LIFTS)}")
    note = ""
    if _is_of_the_paper(parts):
        _require_mode_of_the_paper(net)
        parts, note = _in_our_names(parts), "a checkpoint of the paper's implementation"
    match = _match(net, parts, prefix)
    steps = steps_for(net, parts[match.part], match, lift, outside_may_be_left=prefix is not None)
    if not allow_partial:
        _refuse_faults(steps, strict)
    new = {step.entry.name: step.make() for step in steps if step.make is not None}
    broken = next((name for name, value in new.items() if value.isnan().any()), None)
    if broken is not None:
        raise InputError(
            f"the checkpoint's {broken!r} holds what is not a number (NaN), as when a training "
            "diverged; give an earlier one"
        )
    net.load_state_dict(new, strict=False)
    entries = tuple(step.entry for step in steps)
    return ConversionReport(entries, note="; ".join(filter(None, (note, str(match)))))


def _is_of_the_paper(parts: Parts) -> bool:
    return any(name.endswith(PAPER) for state in parts.values() for name in state)


def _in_our_names(parts: Parts) -> Parts:
    """Call kernels and predictors of the paper's implementation as our layers call theirs."""

    def ours(name: str) -> str:
        kernel = re.sub(rf"\b{PAPER}$", "weight", name)
        return re.sub(r"\brotation_params\b", "mode.predictor", kernel)

    return {part: {ours(n): t for n, t in state.items()} for part, state in parts.items()}


def _require_mode_of_the_paper(net: nn.Module) -> None:
    offsets = {module.offset for module in net.modules() if isinstance(module, Fourier)}
    if not offsets:
        raise InputError("the network has no fourier mode: convert(model, kernel_mode='fourier')")
    if offsets != {1.0}:
        raise InputError(
            f"the checkpoint's kernels stand at offset 1, the network's at {sorted(offsets)}: "
            "convert(model, kernel_mode='fourier') without offset"
        )


def read(source: Source) -> Mapping[str, object]:
    """Read what a checkpoint holds, without running code of it.

    Raises:
        InputError: "no such file" or "... is not a checkpoint".
    """
    if isinstance(source, Mapping):
        return source
    path = Path(source)
    if not path.is_file():
        raise InputError(f"no such file: {path} (a checkpoint was expected)")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise InputError(f"{path} is not a checkpoint: {one_line(error)}") from error
    try:
        with torch.serialization.safe_globals(HARMLESS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for what is not a checkpoint
        raise InputError(f"{path} is not a checkpoint of tensors: {_blame(path, error)}") from error
    if not isinstance(content, Mapping):
        raise InputError(f"{path} is not a checkpoint: it holds a {type(content).__name__}")
    return content


def _blame(path: Path, error: Exception) -> str:
    try:
        with torch.serialization.safe_globals(HARMLESS):
            kinds = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # not even a file of torch.save
        kinds = []
    if not kinds:
        return f"it does not load with weights_only=True ({type(error).__name__})"
    return (
        f"it holds {', '.join(kinds[:3])}, which weights_only=True does not load; if you "
        "trust it, load it yourself and save its state dict alone"
    )


def state_dicts(content: Mapping[str, object], path: str = "") -> dict[str, dict[str, Tensor]]:
    """Find the tensors of every mapping in a checkpoint, by its place in it.

    Example:
        >>> list(state_dicts({"epoch": 3, "state_dict": {"bias": torch.zeros(2)}}))
        ['state_dict']
    """
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    found = {path: tensors} if tensors else {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            found.update(state_dicts(value, join(path, str(name))))
    return found


def sizes(net: nn.Module, source: Source, prefix: str | None = None) -> tuple[int, int]:
    """Read the input channels and the classes of a checkpoint; 0 for what it does not show.

    The network is the one that it is of, with any number of channels and classes.

    Example:
        >>> def build(channels, classes):
        ...     conv, norm = nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4)
        ...     return nn.Sequential(conv, norm, nn.Flatten(), nn.Linear(4, classes))
        >>> sizes(build(1, 2), build(3, 7).state_dict())
        (3, 7)
    """
    parts = _in_our_names(state_dicts(read(source)))
    match = _match(net, parts, prefix)
    shapes = {name: parts[match.part][key].shape for key, name in match.names.items()}
    channels = classes = 0
    first = join(first_convolution(net) or "", "weight")
    if first in shapes:
        channels = shapes[first][1]
    for path in classifiers(net):
        if join(path, "weight") in shapes:
            classes = shapes[join(path, "weight")][class_axis(net.get_submodule(path))]
    return channels, classes


def convert_checkpoint(
    source: Source,
    out: str | Path,
    config: WeightsConfig,
    view: str = "axial",
    align: bool = False,
    *,
    allow_partial: bool = False,
    lift: str = "center",
    prefix: str | None = None,
    strict: bool = False,
) -> ConversionReport:
    """Make a weights file of a checkpoint that something else than crossd wrote.

    The form of `config` is of the network to write. Where it has no channels (0) or classes (none),
    those of the checkpoint are taken. See `convert_file` for the options of the forms,
    `load_checkpoint` for the others; where it is strict, neither the classifier nor the input
    channels may differ from those of `config`.

    Raises:
        InputError: "the checkpoint does not show ...", or what `load_checkpoint` raises.
    """
    check_turn(config.form, config.kernel_mode, view, align)
    content = read(source)
    channels, classes = config.in_channels, config.classes
    if not channels or not classes:
        probe = registry.build(config.model, config.task, channels or 1, len(classes) or 2)
        found, count = sizes(probe, content, prefix)
        channels = channels or found
        classes = classes or tuple(map(str, range(count)))
    if not channels or not classes:
        what, option = ("classes", "--classes") if channels else ("channels", "--channels")
        raise InputError(f"the checkpoint does not show its number of {what}: give {option}")
    config = dataclasses.replace(config, in_channels=channels, classes=classes)
    kept = config.form in PLANAR
    if lift != "center" and (kept or config.form == "2d"):
        raise InputError(f"--lift {lift} is not for --to {config.form}, which lifts no kernel")
    if kept and config.kernel_mode != "projection":
        raise InputError(f"--kernel-mode {config.kernel_mode} is not for --to {config.form}")
    net = dataclasses.replace(config, form=config.form if kept else "cross").build()
    report = _load(net, state_dicts(content), lift, prefix, allow_partial, strict)
    known = knows_volumes(net, state_of(net).folding.rank)
    config = dataclasses.replace(config, recalibrated=known)
    if config.form in ("2d", "3d"):
        net = to_2d(net, view) if config.form == "2d" else to_3d(net, align)
    save(net, out, config)
    return report


def _match(net: nn.Module, parts: Parts, prefix: str | None) -> Match:
    shapes = {part: _shapes(state) for part, state in parts.items()}
    return find(_shapes(net.state_dict()), shapes, prefix)


def _shapes(state: Mapping[str, object]) -> dict[str, Shape]:
    return {name: tuple(t.shape) for name, t in state.items() if isinstance(t, Tensor)}


def _widened(entry: Entry) -> bool:
    """Tell whether a kernel is adapted to another number of input channels."""
    own, wanted = entry.source or (), entry.result or ()
    return entry.action == "adapted" and own[1:2] != wanted[1:2]


def _refuse_faults(steps: Sequence[Step], strict: bool) -> None:
    """Raise for what does not fit, naming the first of each kind."""
    kinds: dict[str, list[str]] = {"missing": [], "of another shape": [], "unexpected": []}
    faults = (s.entry for s in steps if s.fault or (strict and (s.differs or _widened(s.entry))))
    for entry in faults:
        if entry.action == "unexpected":
            kinds["unexpected"].append(f"{entry.name!r} {entry.source}")
        elif entry.source is None:
            kinds["missing"].append(f"{entry.name!r} {entry.result}")
        else:
            shapes = f"{entry.source}, expected {entry.result}"
            kinds["of another shape"].append(f"{entry.name!r} {shapes}")
    found = [f"{len(all)} {kind} ({all[0]})" for kind, all in kinds.items() if all]
    if found:
        fit = sum(s.entry.action in ("matched", "adapted") for s in steps)
        fit -= strict * sum(_widened(s.entry) for s in steps)
        raise InputError(
            f"the checkpoint does not fit: {fit} tensors do, but {', '.join(found)}"
            + ("" if strict else f"; {HINT}")
        )
