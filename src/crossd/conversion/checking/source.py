"""Holding a converted network against the one it was made from.

On what that takes both answer alike: in evaluation, and in training without chance, where what they
leave in buffers is compared too.
"""

import copy
import dataclasses
import math

import torch
from torch import Tensor, nn

from crossd.conversion.checking.answers import (
    TOLERATED,
    CannotRun,
    Refused,
    Unsteady,
    difference,
    double_all,
    moved_a_little,
)
from crossd.conversion.checking.examples import Given, left_as_it_was, one_line, shapes
from crossd.conversion.checking.perturbed import Still, project
from crossd.conversion.folding.containers import is_measured, tensors_in
from crossd.conversion.folding.modules import state_of
from crossd.nn.conv import CrossDConv
from crossd.nn.conv_transpose import CrossDConvTranspose
from crossd.nn.views import view

Answers = tuple[list[Tensor], dict[str, Tensor]]
"""The tensors that a network answers, and its buffers after that, in training."""


def require_same(source: nn.Module, net: nn.Module, given: Given) -> tuple[float, float]:
    """Refuse a network that answers otherwise than its source where both are one computation.

    On what the source takes, in the axial view; in training nothing is said where the source fails,
    or its answers are random.

    Args:
        source: The network of one rank.
        net: The converted one, whose kernels sum to those of the source, or are the same.
        given: What the source takes.

    Returns:
        The difference relative to the largest answer in evaluation, and that in float64 where it is
        large.

    Raises:
        Refused: "it answers otherwise ...".
        Unsteady: Where rounding alone would do that, or answers are not finite.
    """
    own = net
    if state_of(own).folding.rank == 3:
        own = copy.deepcopy(net)
        state = state_of(own)
        state.folding = dataclasses.replace(state.folding, depth_padding="zeros")
        for module in own.modules():
            if isinstance(module, CrossDConv | CrossDConvTranspose):
                project(module)  # volumes that choose their own kernels have others
    expected = _run(source, given, training=False)
    found, exact, rounding = _differences(source, own, given, expected, training=False)
    if exact > TOLERATED and rounding > exact / 10:
        raise Unsteady("rounding alone changes the answers of the network it was made from")
    if exact > TOLERATED:
        raise Refused(_otherwise("", exact))
    try:
        expected = _run(source, given, training=True)
    except CannotRun:
        return found, exact
    try:
        _, in_training, rounding = _differences(source, own, given, expected, training=True)
        if in_training > TOLERATED and rounding <= in_training / 10:
            raise Refused(_otherwise("in training ", in_training))
    except Refused:
        if not _by_chance(source, given, expected):
            raise
    return found, exact


def _otherwise(when: str, by: float) -> str:
    how = f"by {by:.1e}" if math.isfinite(by) else "in number, shape or finiteness of its tensors"
    return (
        f"{when}it answers otherwise than the network it was made from, {how}: its code asks for "
        "the classes of its layers, reads their kernels, or keeps layers or weights in another "
        "place too"
    )


def _differences(
    source: nn.Module, net: nn.Module, given: Given, expected: Answers, training: bool
) -> tuple[float, float, float]:
    """Compare two networks; also in float64 where they differ, with what rounding does there.

    Args:
        source: The network of one rank.
        net: The converted one.
        given: What both take.
        expected: What the source answers.
        training: Whether they are compared in training.
    """
    rounding = 0.0
    if not all(v.isfinite().all() for v in expected[0]):
        raise Unsteady("the answers of the network it was made from are not finite")
    found = exact = _unlike(_run(net, given, training), expected)
    if found > TOLERATED:  # not rounding that many layers made grow
        wide, twin = double_all(given), copy.deepcopy(source).double()
        expected = _run(twin, wide, training)
        exact = _unlike(_run(copy.deepcopy(net).double(), wide, training), expected)
        rounding = _unlike(_run(twin, moved_a_little(wide), training), expected)
    return found, exact, rounding


def _run(net: nn.Module, given: Given, training: bool, seed: int = 0) -> Answers:
    """Run a network without chance and without a trace."""
    try:
        with left_as_it_was(net), torch.no_grad(), view(0), Still():
            torch.manual_seed(seed)
            found = tensors_in(net.train(training)(*given))
            kept = {name: buffer.clone() for name, buffer in net.named_buffers() if training}
    except Exception as error:  # whatever a network of others may raise
        when = "in training" if training else "in evaluation"
        raise CannotRun(f"{when} it cannot run on {shapes(given)} ({one_line(error)})") from error
    return [v for v in found if is_measured(v)] or found, kept


def _unlike(one: Answers, other: Answers) -> float:
    """Give the largest difference of answers, and of buffers that both have in one shape."""
    if [v.shape for v in one[0]] != [v.shape for v in other[0]]:
        return math.inf
    both = [(v, other[1][k]) for k, v in one[1].items() if k in other[1]]
    both = [(a, b) for a, b in both if a.shape == b.shape and b.isfinite().all()]
    buffers = [pair[0] for pair in both], [pair[1] for pair in both]
    return max(difference(one[0], other[0]), difference(*buffers))


def _by_chance(source: nn.Module, given: Given, expected: Answers) -> bool:
    """Tell whether the source answers otherwise in training, asked again, or not at all."""
    try:
        again = _run(source, given, training=True, seed=1)
    except CannotRun:
        return True
    return _unlike(again, expected) > TOLERATED
