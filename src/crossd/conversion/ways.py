"""Ways in which a network may take the other rank, the wished or likeliest first."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from crossd.conversion import depth_stride as depth_strides
from crossd.conversion.checking import examples, perturbed
from crossd.conversion.copying import copy_of
from crossd.conversion.decisions import Decisions
from crossd.conversion.folding import attention
from crossd.conversion.rules import Options
from crossd.nn.layers import channels_last

POSITIONS = 16
"""Places along depth of an embedding of depth, between which it is interpolated."""


@dataclass(frozen=True)
class Wish:
    """What the user wants; None leaves it to what is found."""

    depth: depth_strides.Wish
    attention: str | None
    depth_padding: str | None
    depth_position: int | None


def must_run(model: nn.Module, wish: Wish) -> bool:
    """Tell whether something that is asked for shows only when the network runs."""
    stride = wish.depth.stride
    stages = stride is not None and not isinstance(stride, int)
    return stages or attention.may_attend(model) or hasattr(model, "forward_head")


def ways_of(
    model: nn.Module, rank: int, options: Options, wish: Wish, given: examples.Given | None
) -> Iterable[Decisions]:
    """List ways of taking the other rank, the wished or likeliest first."""
    if rank == 3:
        padding, last = wish.depth_padding or "zeros", _takes_channels_last(model, given)
        yield Decisions(depth_padding=padding, laid_last=last)
        if given is not None:
            depth = examples.maps_of(given, 3).shape[2]
            yield Decisions(depth_padding=padding, laid_last=last, repeat=depth)
        return
    run = None if given is None else functools.partial(examples.evaluated, model, given)
    features = _features(model, given)
    features["laid_last"] = _takes_channels_last(model, given)
    wishes = [wish.depth]
    if wish.depth.stride is None:
        wishes.append(depth_strides.Wish(1))
    kind = wish.attention or "slice"
    count = POSITIONS if wish.depth_position is None else wish.depth_position
    position = ""
    if run is not None and kind == "volume" and count > 0:
        position = attention.first_convolution(model, run)
    for one in wishes:
        strides = depth_strides.decide(one, run or (lambda: None), model)
        yield Decisions(
            attention=kind,
            depth_padding=wish.depth_padding or "zeros",
            stages=strides.stages,
            layers=strides.layers,
            position=position,
            positions=count if position else 0,
            spread=options.spread,
            **features,
        )


def _takes_channels_last(model: nn.Module, given: examples.Given | None) -> bool:
    """Tell whether code runs on maps with channels last in memory; some makes views of others."""
    if given is None:
        return True
    laid = channels_last(copy_of(model))  # what fails by itself is not for its layout to mend
    return all(
        _runs(laid, given, training) or not _runs(model, given, training)
        for training in (False, True)
    )


def _runs(model: nn.Module, given: examples.Given, training: bool) -> bool:
    try:
        with examples.left_as_it_was(model), torch.no_grad(), perturbed.Still():
            model.train(training)(*given)
    except Exception:  # whatever code of others may raise
        return False
    return True


def _features(model: Any, given: examples.Given | None) -> dict[str, Any]:
    """See what features look like, in networks that give them and take them back (timm's)."""
    last = getattr(model, "output_fmt", None) == "NHWC"
    if given is None or not all(hasattr(model, n) for n in ("forward_features", "forward_head")):
        return {"channels_last": last}
    with examples.left_as_it_was(model), torch.no_grad():
        features = model.eval().forward_features(*given)
    axes = features.dim() if isinstance(features, Tensor) else 4
    return {"channels_last": last, "features": axes}
