"""Checking a converted network: it keeps the consistency law, whatever its weights become.

A copy in which every parameter was moved at random, gates that start at zero too, is run on images
and on the volumes that repeat them along each axis. Nothing hangs on the present values of weights.
"""

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from crossd.conversion.checking.answers import (
    LARGEST,
    SAME,
    TOLERATED,
    CannotRun,
    Refused,
    Unsteady,
    alike,
    answers_of,
    as_volumes,
    difference,
    double_all,
    images_of,
    moved_a_little,
)
from crossd.conversion.checking.examples import Given, maps_of
from crossd.conversion.checking.perturbed import (
    REACHES,
    Ends,
    Still,
    as_the_law_wants,
    perturbed,
)
from crossd.conversion.checking.places import displaced, misplaced
from crossd.conversion.checking.unwatched import unwatched_named
from crossd.conversion.folding.containers import mapped, tensors_in
from crossd.conversion.folding.modules import named, state_of
from crossd.conversion.folding.run import Folding, LayersMet, NotDeepEnough, Run, repeated
from crossd.nn.views import VIEWS, replicated_ends, view

Value = TypeVar("Value")


@dataclasses.dataclass
class Findings:
    """What the check has found.

    Attributes:
        views: The views in which the law holds.
        mixes: Whether images of one batch may have different views.
        labels: Whether answers of 3D code with four axes are maps without channels.
        lost: Why the law was not found to hold in the other views, by their axes.
        seen: What was met on volumes.
        difference: The largest difference in these views, relative to the largest answer.
        from_source: That from the network it was made from, on images; without rounding where both
            have to be the same, and None where kernels are new.
        lines: Sentences for the report.
    """

    views: tuple[int, ...] = ()
    mixes: bool = True
    labels: bool = True
    lost: dict[int, str] = dataclasses.field(default_factory=dict)
    seen: LayersMet = dataclasses.field(default_factory=LayersMet)
    difference: float = 0.0
    from_source: float | None = None
    lines: list[str] = dataclasses.field(default_factory=list)


# The law


def examine(net: nn.Module, folding: Folding, given: Given) -> Findings:
    """Hold a converted network against the consistency law, in both modes and in every view.

    Args:
        net: The converted network.
        folding: How it takes the other rank.
        given: Arguments of the rank that its code was made for, of two samples.

    Raises:
        Refused: "the law ..." naming the first module that breaks it, or what does not run.
    """
    return with_weights_moved(net, lambda copied: _examine_moved(copied, folding, given))


def with_weights_moved(net: nn.Module, check: Callable[[nn.Module], Value]) -> Value:
    """Check a copy of a network with its weights moved as far as its answers tell something.

    Args:
        net: The network.
        check: What is done with the copy.

    Returns:
        What the check gives.

    Raises:
        Unsteady: Where the check raises that, however little the weights are moved.
    """
    failed: Unsteady | None = None
    for reach in REACHES:
        try:
            return check(perturbed(net, reach))
        except Unsteady as error:
            failed = error
    assert failed is not None
    raise failed


def _examine_moved(copied: nn.Module, folding: Folding, given: Given) -> Findings:
    """Hold a copy whose weights were moved against the law."""
    findings = Findings()
    if folding.rank == 3:  # a channel alone looks like a slice alone
        solid = answers_of(copied.eval(), given, "volumes", 0)
        findings.labels = all(v.shape[1] > 1 for v in solid if v.dim() == 4)
        state_of(copied).folding = dataclasses.replace(folding, labels=findings.labels)
    for axis in range(len(VIEWS)):
        try:
            _examine_view(copied, folding, given, axis, findings)
            findings.views += (axis,)
        except Refused as error:
            if axis == 0 or isinstance(error, Unsteady):
                raise
            findings.lost[axis] = str(error)
    if folding.rank == 3:
        findings.mixes = _mixes(copied, given)
        if folding.repeat > 1:
            findings.lines.append(_at_another_depth(copied, folding, given))
    return findings


def moved(net: nn.Module, folding: Folding, given: Given) -> nn.Module:
    """Copy a network with its weights moved as far as its answers stay finite."""
    for reach in REACHES[:-1]:
        copied = perturbed(net, reach)
        try:
            answers_of(copied.eval(), given, "images" if folding.rank == 2 else "volumes", 0)
        except Unsteady:
            continue
        except Refused:  # which is found again where it is looked at
            pass
        return copied
    return perturbed(net, REACHES[-1])


def _at_another_depth(net: nn.Module, folding: Folding, given: Given) -> str:
    """Say how a network that is given repeated images answers on volumes of another depth."""
    depths = (folding.repeat, 2 * folding.repeat)
    answers, images = [], images_of(given, 3, 0)
    try:
        with replicated_ends((0,)), Ends(0):
            for count in depths:
                made = repeated(images, maps_of(images, 2), count, 0)
                answers.append(answers_of(net.eval(), made, "volumes", 0))
    except Refused:
        return f"it takes volumes of {depths[0]} slices, and not of {depths[1]}"
    if [v.shape for v in answers[0]] != [v.shape for v in answers[1]]:
        return f"volumes of other depths than {depths[0]} were not compared with images"
    return (
        f"on volumes of {depths[1]} slices it differs by {difference(*answers):.1e} from its "
        f"answer on the image, which is a volume of {depths[0]}"
    )


def _examine_view(
    net: nn.Module, folding: Folding, given: Given, axis: int, findings: Findings
) -> None:
    """Check one view: the law in both modes, and that a second call gives the same."""
    as_the_law_wants(net, axis)
    images, volumes, solid = alike(net.eval(), folding, given, axis)
    if axis == 0:
        findings.seen = state_of(net).last.seen
    flat = answers_of(net, images, "images", axis)
    _compare(net, flat, solid, images, volumes, axis, findings, "")
    if axis == 0:
        with unwatched_named(findings.lines, folding.rank):
            again = answers_of(net, volumes, "volumes", axis)
        if difference(solid, again) > TOLERATED:
            raise Refused("its answers on volumes differ from call to call")
        _examine_alone(net, images, volumes, flat, findings)
        if folding.rank == 2:
            _examine_places(net, images, volumes)
    net.train()
    with Still():
        try:
            flat = answers_of(net, images, "images", axis)
            torch.manual_seed(1)
            again = answers_of(net, images, "images", axis)
        except Refused as error:  # what fails on images is not for volumes to do
            findings.lines.append(f"training was not checked: on images {error}")
            return
        shapes = [[v.shape for v in answers] for answers in (flat, again)]
        if shapes[0] != shapes[1] or difference(flat, again) > SAME:
            findings.lines.append("in training its answers are random, and were not compared")
            return
        try:
            solid = answers_of(net, volumes, "volumes", axis)
        except Refused as error:  # an answer that is there in training alone may want more slices
            deeper = error.__cause__
            if not isinstance(deeper, NotDeepEnough):
                raise
            if deeper.enough > LARGEST:
                findings.lines.append(
                    f"in training it needs {deeper.needed} slices, which is more than were tried: "
                    "the law was not asked for there"
                )
                return
            volumes = repeated(images, maps_of(images, 2), deeper.enough, axis)
            solid = answers_of(net, volumes, "volumes", axis)
        if axis == 0 and state_of(net).last.own_draws:
            findings.lines.append(
                "in training each slice of a volume draws random numbers of its own where code "
                "makes a row of them for each sample by their shape, not by rand_like"
            )
        _compare(net, flat, solid, images, volumes, axis, findings, " in training")


def _examine_alone(
    net: nn.Module, images: Given, volumes: Given, both: list[Tensor], findings: Findings
) -> None:
    """Check a batch of one, where the network takes one image alone.

    Args:
        net: The copy whose weights were moved.
        images: That it takes.
        volumes: That repeat them.
        both: Its answers on the images.
        findings: What was found so far.
    """
    if len(maps_of(images, 2)) != 2:
        if state_of(net).folding.rank == 2:
            findings.lines.append(
                "whether what it says of a volume depends on the others of its batch was not "
                "looked at, because it does not run on two images"
            )
        return
    image, volume = mapped(_first, (images, volumes))
    try:
        flat = answers_of(net, image, "images", 0)
    except Refused:  # what fails on images is not for volumes to do
        return
    if all(len(v) == 1 for v in flat if v.dim()):  # code that squeezes drops the axis
        solid = answers_of(net, volume, "volumes", 0)
        _compare(net, flat, solid, image, volume, 0, findings, " for a batch of one")
    if _apart(both, flat) > TOLERATED:  # its code does so itself
        return
    generator = torch.Generator().manual_seed(0)

    def any_volume(value: Tensor) -> Tensor:  # slices that repeat an image hide their order
        wide = value.dim() == 5 and value.is_floating_point()
        return torch.randn(value.shape, generator=generator).to(value) if wide else value

    drawn: Given = mapped(any_volume, volumes)
    found = _mixture(net, drawn)
    if found > TOLERATED:
        found = _mixture(copy.deepcopy(net).double(), double_all(drawn))
    if found > TOLERATED:
        raise Refused(
            f"what it says of a volume depends on the others of its batch, by {found:.1e}: its "
            "code takes a batch apart or puts it in another order, and slices are in it"
        )


def _examine_places(net: nn.Module, images: Given, volumes: Given) -> None:
    """Check that slices keep their places; in volumes as deep as high, so that depths round alike.

    Raises:
        Refused: "slices lose their places ...".
    """
    where = _in_cubes(net, images, volumes, functools.partial(misplaced, net))
    if where:
        raise Refused(
            f"slices lose their places on volumes: {where} (does its code pad, cut or enlarge the "
            "plane otherwise than by torch's functions for maps (N, C, H, W)?)"
        )


def _in_cubes(
    net: nn.Module,
    images: Given,
    volumes: Given | None,
    look: Callable[[Callable[[Given], list[Tensor]], Given], str],
) -> str:
    """Look at a network on volumes as deep as high, or on those that it takes otherwise, if any."""

    def run(given: Given) -> list[Tensor]:
        return answers_of(net, given, "volumes", 0)

    height = maps_of(images, 2).shape[2]
    cubes = repeated(images, maps_of(images, 2), height, 0) if height <= LARGEST else volumes
    if cubes is None:
        raise CannotRun(f"images are more than {LARGEST} pixels high")
    try:
        return look(run, cubes)
    except Refused:
        if volumes is None:
            raise
        return look(run, volumes)


def require_slices_in_place(net: nn.Module, given: Given) -> None:
    """Check that what a slice shows is answered where it is, and not beside it.

    Args:
        net: A converted 2D network, with kernels that were just lifted.
        given: Images that it takes.

    Raises:
        Refused: "volumes come out moved ...", or what keeps that from being seen: `CannotRun` and
            `Unsteady`.
    """
    as_the_law_wants(net, 0)
    alone: Given = mapped(_first, given)  # two volumes that change places are both repeated
    where = _in_cubes(net.eval(), alone, None, displaced)
    if where:
        raise Refused(
            f"volumes come out moved along depth: {where} (does its code pad or cut one end of the "
            "plane more than the other, or put a batch in another order?)"
        )


def _first(value: Tensor) -> Tensor:
    """Take the first of two samples."""
    return value[:1] if value.dim() and len(value) == 2 else value


def _mixture(net: nn.Module, given: Given) -> float:
    """Run a network on two volumes and on the first alone; see `_apart`."""
    together = answers_of(net, given, "volumes", 0)
    return _apart(together, answers_of(net, mapped(_first, given), "volumes", 0))


def _apart(together: list[Tensor], alone: list[Tensor]) -> float:
    """Measure by how much the answer on the first of two samples differs from that on it alone."""
    together = [_first(v) for v in together]
    if [v.shape for v in together] != [v.shape for v in alone]:
        return 0.0  # nothing to compare
    return difference(alone, together)


def _compare(
    net: nn.Module,
    flat: list[Tensor],
    solid: list[Tensor],
    images: Given,
    volumes: Given,
    axis: int,
    findings: Findings,
    when: str,
) -> None:
    """Compare answers on images and on volumes that repeat them.

    Raises:
        Refused: "the law ..." where they differ.
    """
    worst = difference(solid, as_volumes(flat, solid, axis))
    if worst > TOLERATED:
        broken = (
            f"the law is broken in the {VIEWS[axis]} view{when}: on a volume that repeats an image "
            "it differs from its answer on the image by "
        )
        exact = copy.deepcopy(net).double()
        wide = double_all((images, volumes))
        try:
            flat = answers_of(exact, wide[0], "images", axis)
            solid = answers_of(exact, wide[1], "volumes", axis)
        except CannotRun as error:  # code that makes numbers of 32 bits of its own
            raise Refused(f"{broken}{worst:.1e}, and in 64 bits {error}") from error
        worst = difference(solid, as_volumes(flat, solid, axis))
        if worst > TOLERATED and _rounding(exact, wide[0], flat, axis) > worst / 10:
            hidden = "rounding alone changes its answers on the images that were tried"
            if not net.training:
                raise Unsteady(f"{hidden}: whether it keeps the law cannot be seen")
            findings.lines.append(
                f"in training {hidden} (statistics of two values?), and the law was not asked for"
            )
            return
        if worst > TOLERATED:  # not rounding that many layers made grow
            told = axis == 0 or state_of(net).folding.rank == 3  # others are only left out
            where = _first_broken(exact, wide[0], wide[1], axis) if told else ""
            raise Refused(f"{broken}{worst:.1e}{where}")
    findings.difference = max(findings.difference, worst)


def _rounding(net: nn.Module, images: Given, answers: list[Tensor], axis: int) -> float:
    """Measure what becomes of a change of the images that is as small as rounding in a layer."""
    return difference(answers_of(net, moved_a_little(images), "images", axis), answers)


def _first_broken(net: nn.Module, images: Given, volumes: Given, axis: int) -> str:
    """Name the first module, in the order in which they answer, whose answer breaks the law."""
    answers: dict[str, Tensor] = {}
    broken: list[str] = []

    def keep(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: object, answer: object) -> None:
            if isinstance(answer, Tensor) and path not in answers:
                answers[path] = answer.clone()  # it may be changed in place later

        return hook

    def hold(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: object, answer: object) -> None:
            image = answers.pop(path, None)
            if image is None or not isinstance(answer, Tensor) or broken or not path:
                return
            if _breaks(state_of(net).last, image, answer, axis):
                where = named(module, path)
                broken.append(
                    f"; the first to differ, by itself or by what is before it, is {where}"
                )

        return hook

    for how, given, what in ((keep, images, "images"), (hold, volumes, "volumes")):
        hooks = [m.register_forward_hook(how(path)) for path, m in net.named_modules()]
        try:
            answers_of(net, given, what, axis)
        except Refused:
            pass
        for hook in hooks:
            hook.remove()
    return broken[0] if broken else ""


def _breaks(run: Run, image: Tensor, answer: Tensor, axis: int) -> bool:
    """Tell whether what a module gives inside of a run on volumes differs from that on images."""
    if run.folding.rank == 3:
        pairs = (image, answer) if image.shape == answer.shape else (image, None)
        wide = image.expand_as(answer) if pairs[1] is None and image.dim() == 5 else image
        return wide.shape == answer.shape and difference([answer], [wide]) > TOLERATED
    depth = run.slices(answer)
    if depth is None or axis != 0 or image.shape[1:] != answer.shape[1:]:
        return False
    try:
        shape = (run.number, depth, -1)
        stack = answer.unflatten(0, shape)
        own = image.unflatten(0, (run.number, 1, -1)).expand_as(stack)
    except RuntimeError:
        return True
    return difference([stack], [own]) > TOLERATED


def _mixes(net: nn.Module, given: Given) -> bool:
    """Tell whether images of one batch may have different views, which share one place then."""
    first = maps_of(given, 3)
    side = min(first.shape[2:])
    images = first[:1, :, 0, :side, :side].repeat_interleave(len(VIEWS), 0)
    try:
        with torch.no_grad():
            net.eval()
            with view(range(len(VIEWS))):
                mixed = tensors_in(net(images))
            for axis in range(len(VIEWS)):
                with view(axis):
                    alone = tensors_in(net(images[:1]))
                own = [v[axis : axis + 1] for v in mixed]
                if difference(own, alone) > TOLERATED:
                    return False
    except Exception:  # of the network's own, or because views want other settings
        return False
    return True
