"""Networks as files that run without crossd: .pt2 of torch.export, and .onnx.

What is written is read back and run before it gets its name, with batches and sizes that it was
not traced with: what the report says of a file was seen to hold.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from crossd.conversion.copying import copy_of
from crossd.conversion.plain import of_one_rank, to_2d, to_3d
from crossd.conversion.views import known_view
from crossd.errors import InputError
from crossd.nn.kernel_modes import Fourier
from crossd.nn.layers import contiguous, drop_axis
from crossd.nn.views import VIEWS
from crossd.utils.atomic_files import atomic
from crossd.utils.run_folder import free_file
from crossd.weights import graph_files
from crossd.weights.graph_files import SUFFIXES, Run, Shape
from crossd.weights.weights_file import WeightsConfig, config_of

if TYPE_CHECKING:
    from crossd.utils.progress import Progress

AXES = {"2d": ("height", "width"), "3d": ("depth", "height", "width")}

SIZE = 64
"""Pixels or voxels along every axis of the example, where nothing says better."""

STEPS = (1, 2, 4, 8, 16, 32)
"""How much larger than the example other sizes may have to be: U-Nets halve up to five times."""

TOLERANCE = 1e-4
"""Largest difference from the network, relative to its largest answer."""


@dataclass(frozen=True)
class ExportReport:
    """What an exported file takes and gives, and how that was checked. Prints as some lines.

    Attributes:
        path: The file.
        input: Shape of the input, with the names of its free axes.
        outputs: Shapes of the outputs; None for a length that follows from the input's.
        step: Free spatial axes may differ from the example by multiples of it; 0 where the size
            is fixed.
        opset: Version of the operators of ONNX, None for .pt2.
        checked: Shapes at which the file, read back, was compared with the network.
        difference: The largest found, relative to the network's largest answer.
        notes: What else to know.

    Example:
        >>> shape = ("batch", 1, "height", "width")
        >>> print(ExportReport(Path("a.pt2"), shape, (("batch", 3),), 1, None, (), 0.0))
        batch x 1 x height x width -> batch x 3, float32
        written: a.pt2
    """

    path: Path
    input: Shape
    outputs: tuple[Shape, ...]
    step: int
    opset: int | None
    checked: tuple[tuple[int, ...], ...]
    difference: float
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Render what a user of the file must know."""
        outputs = ", ".join(map(_show, self.outputs))
        lines = [f"{_show(self.input)} -> {outputs}, float32"]
        if self.opset is not None:
            lines[0] += f", opset {self.opset}"
        if self.checked:
            seen = ", ".join(map(_show, self.checked))
            lines.append(f"differs by {self.difference:.0e} at most, checked at {seen}")
        return "\n".join([*lines, *self.notes, f"written: {self.path}"])


class _Refused(Exception):
    """A way of writing the file that does not work; the message says why."""


def export(
    net: nn.Module,
    out: str | Path,
    to: str = "3d",
    *,
    size: int | Sequence[int] | None = None,
    channels: int | None = None,
    view: str = "axial",
    fixed_pose: bool = False,
    fixed_size: bool = False,
    overwrite: bool = False,
    progress: "Progress | None" = None,
) -> ExportReport:
    """Write a network to a file that runs without crossd, and ONNX also without torch.

    Of a Cross-D network the plain 2D or 3D network is written (`to_2d`, `to_3d`), apart from the
    2D use of the fourier mode, whose predictors and per-sample kernels go into the file.

    Args:
        net: A Cross-D or ACS network, or a plain one, that takes one tensor. It is not changed;
            the file holds its evaluation mode in float32.
        out: The file, `.pt2` (read it with `torch.export.load`) or `.onnx`.
        to: ``"2d"`` for images ``(N, C, H, W)``, ``"3d"`` for volumes ``(N, C, D, H, W)``.
        size: Spatial size of the example that is traced, one number or one an axis. Default: that
            of `net.config`, else 64.
        channels: Of images and volumes. Default: what the first convolution takes.
        view: The view whose 2D network is written.
        fixed_pose: In the fourier mode, write the 2D network at the mean pose of training.
        fixed_size: Take images of the example's size only; else other sizes too, where the
            network allows it. The size of the batch is always free.
        overwrite: Replace a file that is there.
        progress: Where to say that the long part begins; None says nothing.

    Returns:
        What the file takes, and how far its answers are from the network's.

    Raises:
        InputError: naming the argument that cannot be honoured, the library that is missing, or
            why the network cannot be traced; "... differs" when the file answers otherwise.

    Example:
        >>> import tempfile
        >>> from crossd import convert
        >>> net = convert(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)))
        >>> report = export(net, Path(tempfile.mkdtemp()) / "net.pt2", to="2d", size=8)
        >>> report.input, report.step
        (('batch', 1, 'height', 'width'), 1)
    """
    path = free_file(out, overwrite, SUFFIXES, option="")
    graph_files.require_libraries(path)
    plain = network_for(net, to, view, fixed_pose)
    known = config_of(net)
    example = _example(plain, to, view, size, channels, known)
    _answers(plain, example, "the network cannot take")
    metadata: dict[str, object] = {} if known is None else dataclasses.asdict(known)
    metadata |= {"form": to, "view": view if to == "2d" else None}
    if progress is not None:
        progress.say(f"tracing at {_show(example.shape)}, and running what is written")
    notes: list[str] = []
    with atomic(path) as temporary:
        for free in (False,) if fixed_size else (True, False):
            try:
                report = _attempt(plain, example, AXES[to], temporary, metadata, free)
                break
            except _Refused as why:
                if not free:
                    raise InputError(f"cannot export to {path}: {why}") from why
                notes.append(f"the size is fixed: {why}; a larger size may trace more freely")
    if known is not None and known.number_std:
        notes.append(
            "its answers are standardised: times number_std plus number_mean of its metadata "
            "they are numbers in their units"
        )
    return dataclasses.replace(report, path=path, notes=(*notes, *report.notes))


def export_for_shape(net: nn.Module, path: Path, shape: Sequence[int]) -> float:
    """Write a network to a `.pt2` file that takes inputs of one shape alone, batch and all.

    Args:
        net: A network in evaluation mode that takes one tensor, for images or for volumes.
        path: The file; it appears whole or not at all, and what is there is replaced.
        shape: Of the input, ``(N, C, H, W)`` or ``(N, C, D, H, W)``.

    Returns:
        The largest difference of the file, read back, from the network, relative to the network's
        largest answer.

    Raises:
        InputError: "cannot export to ..." when it cannot be traced, or answers otherwise.

    Example:
        >>> import tempfile
        >>> net = nn.Sequential(nn.Conv3d(1, 2, 3)).eval()
        >>> export_for_shape(net, Path(tempfile.mkdtemp()) / "net.pt2", (1, 1, 4, 5, 6))
        0.0
    """
    x = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(0))
    _answers(net, x, "the network cannot take")
    with atomic(path) as temporary:
        try:
            program = torch.export.export(net, (x,), strict=False)
            torch.export.save(program, temporary)
        except Exception as error:  # many kinds, of torch and of the network's own
            raise InputError(f"cannot export to {path}: {_reason(error)}") from error
        try:
            return _compare(graph_files.runner(temporary), net, x)
        except _Refused as why:
            raise InputError(f"cannot export to {path}: {why}") from why


def _attempt(
    net: nn.Module,
    example: Tensor,
    axes: Sequence[str],
    path: Path,
    metadata: dict[str, object],
    free: bool,
) -> ExportReport:
    """Trace, write, read back and compare."""
    try:
        program = graph_files.trace(net, example, free)
    except Exception as error:  # many kinds, of torch and of the network's own
        raise _Refused(f"torch.export cannot trace it ({_reason(error)})") from error
    entry, outputs = graph_files.shapes(program, ("batch", "channels", *axes))
    if free and any(isinstance(length, int) for length in entry[2:]):
        raise _Refused("the network's code works with the size of its input as a number")
    step = _step(graph_files.program_runner(program), net, example) if free else 0
    metadata = metadata | {"input": entry, "example": tuple(example.shape), "step": step}
    try:
        opset = graph_files.write(program, path, entry, json.dumps(metadata))
    except InputError:
        raise
    except Exception as error:
        raise _Refused(f"{path.suffix} cannot hold it ({_reason(error)})") from error
    notes = []
    if free and step > 1:
        size = _show(example.shape[2:])
        notes.append(f"sizes may differ from {size} by multiples of {step}")
    if not graph_files.can_run(path):
        notes.append("not run, onnxruntime is not installed: pip install 'crossd[onnx]'")
        return ExportReport(path, entry, outputs, step, opset, (), 0.0, tuple(notes))
    tried = (_like(example, 1), _like(example, 2), _like(example, 3, step))
    try:
        run = graph_files.runner(path)
    except Exception as error:
        raise _Refused(f"it cannot be read back ({_reason(error)})") from error
    worst = max(_compare(run, net, x) for x in tried)
    checked = tuple(tuple(x.shape) for x in tried)
    return ExportReport(path, entry, outputs, step, opset, checked, worst, tuple(notes))


def _step(run: Run, net: nn.Module, example: Tensor) -> int:
    """Find by how much other sizes differ from the example's that a traced network takes too."""
    for step in STEPS:
        x = _like(example, 2, step)
        try:
            run(x)
            _answers(net, x, "")
        except Exception:  # a check of the traced network's, or a sum of tensors that do not fit
            continue
        _compare(run, net, x)
        return step
    raise _Refused("no other size fits through the traced network")


def _compare(run: Run, net: nn.Module, x: Tensor) -> float:
    """Give the largest difference from the network, relative to its largest answer."""
    shape = _show(x.shape)
    try:
        actual = run(x)
    except Exception as error:
        raise _Refused(f"it does not run at {shape} ({_reason(error)})") from error
    worst = 0.0
    for a, b in zip(actual, _answers(net, x, "the network cannot take"), strict=True):
        if a.shape != b.shape:
            raise _Refused(f"at {shape} it gives {_show(a.shape)}, the network {_show(b.shape)}")
        scale = float(b.abs().max()) or 1.0
        worst = max(worst, float((a - b).abs().max()) / scale)
    if not worst <= TOLERANCE:
        raise _Refused(f"at {shape} it differs by {worst:.1e} of the network's largest answer")
    return worst


def network_for(
    net: nn.Module, to: str, view: str = "axial", fixed_pose: bool = False
) -> nn.Module:
    """Give the network to trace: a copy in evaluation mode, plain but for predicted poses.

    The arguments, and what is refused, are those of `export`.
    """
    if to not in AXES:
        raise InputError(f"to (={to!r}) must be one of {', '.join(AXES)}")
    axis = known_view(view)
    if axis and to != "2d":
        raise InputError(f"view (={view!r}) is for an export to 2d, not to {to}")
    modes = [module for module in net.modules() if isinstance(module, Fourier)]
    moving = [mode for mode in modes if to == "2d" or mode.moves_volumes]
    if fixed_pose and not moving:
        raise InputError(f"fixed_pose is for kernels that are moved, which those for {to} are not")
    if axis and modes and not any(mode.has_views for mode in modes):
        raise InputError(f"view (={view!r}): the fourier mode has no views")
    if not any(hasattr(module, "to_3d") for module in net.modules()):
        kinds = {type(module).__name__[-2:] for module in net.modules()} & {"2d", "3d"}
        if kinds and to not in kinds:
            raise InputError(
                f"the network is a plain {kinds.pop()} one, which cannot become {to}: "
                "convert it to Cross-D first"
            )
        plain = copy_of(net)
    elif to == "2d":
        poses = any(mode.predictor is not None and not mode.fixed_pose for mode in modes)
        moves = poses and not fixed_pose
        plain = of_one_rank(net, 2, axis) if moves else to_2d(net, view)
    else:
        plain = to_3d(net, align=fixed_pose)
    return contiguous(plain).cpu().float().eval()  # some formats hold no other layout


def _example(
    net: nn.Module,
    to: str,
    view: str,
    size: int | Sequence[int] | None,
    channels: int | None,
    config: WeightsConfig | None,
) -> Tensor:
    """Draw a batch of two, of the size asked for, or of the training data."""
    rank = len(AXES[to])
    if size is None:
        size = _trained(rank, view, () if config is None else config.size)
    lengths = tuple(size) if isinstance(size, Sequence) else (size,) * rank
    lengths = lengths * rank if len(lengths) == 1 else lengths
    if len(lengths) != rank or not all(isinstance(n, int) and n > 0 for n in lengths):
        raise InputError(
            f"size (={size}) must be one number, or {rank} for an export to {to}, all above 0"
        )
    if channels is None:
        found = (getattr(module, "in_channels", None) for module in net.modules())
        channels = next((number for number in found if isinstance(number, int)), None)
    if channels is None or channels < 1:
        raise InputError(f"channels (={channels}) must be the number of channels of the input")
    return _like(torch.empty(2, channels, *lengths), 2)


def _trained(rank: int, view: str, size: tuple[int, ...]) -> int | tuple[int, ...]:
    """The size of the training data in the rank asked for; depth is as large as height."""
    if len(size) == 3 and rank == 2:
        return tuple(drop_axis(VIEWS.index(view))(size))
    if len(size) == 2 and rank == 3:
        return (size[0], *size)
    return size if len(size) == rank else SIZE


def _like(example: Tensor, batch: int, step: int = 0) -> Tensor:
    """Draw an input of another batch and size, the last axis twice as much larger."""
    *others, last = (length + step for length in example.shape[2:])
    shape = (batch, example.shape[1], *others, last + step)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _answers(net: nn.Module, x: Tensor, failure: str) -> list[Tensor]:
    """Run the network itself; what it gives must be tensors."""
    try:
        with torch.no_grad():
            answers = tree_leaves(net(x))
    except Exception as error:  # of torch, of the network's own, of a layer that knows its rank
        raise InputError(f"{failure} {_show(x.shape)} ({_reason(error)})") from error
    if not all(isinstance(answer, Tensor) for answer in answers):
        raise InputError("the network must give a tensor, or several")
    return answers


def _reason(error: BaseException) -> str:
    """The first line of the error at the root."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _show(shape: Sequence[int | str | None]) -> str:
    return " x ".join("?" if length is None else str(length) for length in shape)
