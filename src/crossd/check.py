"""Running a converted network on images and volumes to see that it does what it should."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from crossd.errors import InputError

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
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            flat = _answers(net, one, "images")
            try:
                solid = _answers(net, tree_map(lambda v: _repeated(v, 2), one), "volumes")
            except InputError:  # too few slices for what pools without padding, perhaps
                solid = _answers(net, tree_map(lambda v: _repeated(v, 1), one), "volumes")
            lines = [f"runs on images {_shapes(one)} and on volumes"]
            if lift in ("center", "inflate"):
                difference = _difference(flat, _answers(source, one, "images"))
                lines.append(f"on images it differs from the 2D network by {difference:.1e}")
            if lift == "center" and [v.shape for v in flat] == [_middle(v).shape for v in solid]:
                difference = _difference([_middle(v) for v in solid], flat)
                lines.append(f"{LAW} it differs from its answer on the image by {difference:.1e}")
        finally:
            for module, training in modes.items():
                module.training = training
    return tuple(lines)


def _repeated(value: Any, flatness: int) -> Any:
    if not isinstance(value, Tensor) or value.dim() != 4:
        return value
    return value.unsqueeze(2).repeat_interleave(max(1, value.shape[2] // flatness), 2)


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
