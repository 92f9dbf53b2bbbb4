"""Running a converted network on images and volumes to see that it does what it should."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from crossd.errors import InputError
from crossd.nn.kernel_modes import KernelMode, view
from crossd.recording import buffers_kept

TOLERATED = 0.05
"""Largest difference, relative to the largest answer, that is not worth a warning."""

DEEP = 32
"""Slices of the volumes on which a network is checked, at first."""

LAW = "on a volume that repeats an image"


def both_ranks(source: nn.Module, net: nn.Module, given: Any, lift: str | None) -> tuple[str, ...]:
    """Run a converted network in both ranks, in evaluation mode.

    Args:
        source: The 2D network it was made from.
        net: The converted network.
        given: Arguments that the 2D network takes.
        lift: How its kernels were lifted.

    Returns:
        Sentences for its report.

    Raises:
        InputError: "cannot use the converted network ..." where it fails or is not finite.
    """
    modes = {module: module.training for one in (source, net) for module in one.modules()}
    source.eval(), net.eval()
    one = tree_map(lambda v: v[:1] if isinstance(v, Tensor) and v.dim() == 4 else v, given)
    with torch.no_grad(), torch.random.fork_rng(devices=[]), buffers_kept(source, net):
        try:
            flat = _answers(net, one, "images")
            try:
                solid = _answers(net, tree_map(_repeated, one), "volumes")
            except InputError:  # too few slices for what pools without padding, perhaps
                solid = _answers(net, tree_map(_as_deep_as_high, one), "volumes")
            lines = [f"runs on images {_shapes(one)} and on volumes"]
            if lift in ("center", "inflate"):
                difference = _difference(flat, _answers(source, one, "images"))
                lines.append(f"on images it differs from the 2D network by {difference:.1e}")
                _warn(difference, lines[-1])
            if lift == "center" and [v.shape for v in flat] == [_middle(v).shape for v in solid]:
                difference = _difference([_middle(v) for v in solid], flat)
                lines.append(f"{LAW} it differs from its answer on the image by {difference:.1e}")
                if _sums(net):
                    _warn(difference, lines[-1])
            elif lift == "center":
                lines.append("its answers on images and volumes differ in shape: not compared")
            _answers_in_training(net, one)
        finally:
            for module, training in modes.items():
                module.training = training
    return tuple(lines)


def _sums(net: nn.Module) -> bool:
    """Tell whether all kernel modes keep the law, as the projection does."""
    modes = [getattr(module, "mode", None) for module in net.modules()]
    return all(mode.sums for mode in modes if isinstance(mode, KernelMode))


def _warn(difference: float, line: str) -> None:
    if not difference <= TOLERATED:
        warnings.warn(
            f"crossd.convert: {line}: more than rounding. Layers that count padded zeros or "
            "standardise kernels do that, hundreds of layers with random weights too; else a "
            "forward or a rule is wrong on volumes",
            stacklevel=4,
        )


def _answers_in_training(net: nn.Module, given: tuple[Any, ...]) -> None:
    """Run it in training mode: a branch on it may work on images only."""

    def twice(value: Any) -> Any:
        planar = isinstance(value, Tensor) and value.dim() == 4
        return torch.cat((value, value)) if planar else value

    two = tree_map(twice, given)
    net.train()
    try:
        with view("axial"):
            net(*two)
    except Exception:  # what fails on images is not for volumes to do
        return
    try:
        with warnings.catch_warnings():  # a loss of its own that compares other shapes
            warnings.filterwarnings("error", "Using a target size", UserWarning)
            try:
                net(*tree_map(_repeated, two))
            except Exception:  # too few slices, perhaps
                net(*tree_map(_as_deep_as_high, two))
    except Exception as error:
        raise InputError(
            f"cannot train the converted network on volumes {_shapes(two)}: "
            f"{' '.join(str(error).split())[:200]}"
        ) from error


def _repeated(value: Any) -> Any:
    """A volume half as deep as high, 32 slices at most, that repeats an image."""
    if not isinstance(value, Tensor) or value.dim() != 4:
        return value
    return value.unsqueeze(2).repeat_interleave(max(1, min(DEEP, value.shape[2] // 2)), 2)


def _as_deep_as_high(value: Any) -> Any:
    if not isinstance(value, Tensor) or value.dim() != 4:
        return value
    return value.unsqueeze(2).repeat_interleave(value.shape[2], 2)


def _middle(value: Tensor) -> Tensor:
    """The middle slice of an answer for every voxel; answers for the whole volume as they are."""
    return value.select(2, value.shape[2] // 2) if value.dim() == 5 else value


def _answers(net: nn.Module, given: tuple[Any, ...], what: str) -> list[Tensor]:
    try:
        answers = [v for v in tree_leaves(net(*given)) if isinstance(v, Tensor)]
    except Exception as error:  # whatever a network of others may raise
        raise InputError(
            f"cannot use the converted network on {what} {_shapes(given)}: "
            f"{' '.join(str(error).split())[:200]}"
        ) from error
    if not all(v.isfinite().all() for v in answers):
        raise InputError(f"the converted network's answer on {what} {_shapes(given)} is not finite")
    return answers


def _difference(actual: list[Tensor], expected: list[Tensor]) -> float:
    """The largest difference, relative to the largest number."""
    scale = max((float(v.abs().max()) for v in expected if v.numel()), default=0.0) or 1.0
    pairs = zip(actual, expected, strict=True)
    return max((float((a - b).abs().max()) for a, b in pairs if a.numel()), default=0.0) / scale


def _shapes(given: Any) -> str:
    shapes = [tuple(v.shape) for v in tree_leaves(given) if isinstance(v, Tensor)]
    return ", ".join(map(str, shapes))
