"""The ways in which an arm may be used on volumes, and the one that validation samples choose.

The same weights can be asked about a volume in several ways (`crossd.inference.slice_ensemble`),
their BatchNorm can be measured anew or kept, and their 3D kernels can be taught what they say of
slices. Which is best differs from data to data (docs/results). So every arm is tried in each of its
ways on the validation samples as it is, before anything is fitted to labelled samples, and the one
that scores best is used on the test samples under every protocol: what a few labelled samples make
of each way hangs on which samples they are. An arm that cannot answer yet, as its last layer is
new, is tried with a linear layer on the features of the labelled samples, or by nearest neighbours
where that is the protocol.
"""

import math
from dataclasses import dataclass, replace

from safetensors.torch import load_file, save_file
from torch import nn

from crossd.conversion.adapt import norms_with_statistics
from crossd.data.source import Source
from crossd.evaluation import protocols
from crossd.evaluation.contest import Arm, Contest, part
from crossd.evaluation.features import Kept
from crossd.inference.slice_ensemble import OrientationMean, answering
from crossd.tasks import task_of
from crossd.training import devices, teach, validate
from crossd.training.loop import TrainConfig
from crossd.training.teacher import Teacher
from crossd.utils.atomic_files import atomic
from crossd.utils.progress import Progress

ENOUGH = {False: 10, True: 2}
"""Fewest validation samples that choose, by whether these have masks."""

NETWORKS = 16
"""Networks that are at hand at a time."""

TAUGHT = ("volume", "orientations")
"""Ways in which 3D kernels that were taught are asked."""


@dataclass(frozen=True)
class Place:
    """What an arm starts from in a run.

    Attributes:
        arm: Its name.
        fold: Number of the fold.
        seed: Of what is drawn.
    """

    arm: str
    fold: int
    seed: int

    def __str__(self) -> str:
        """Name it, for files."""
        return f"{self.arm}-{self.fold}-{self.seed}"


@dataclass(frozen=True)
class Way:
    """A way of using an arm.

    Attributes:
        asked: One of the arm's ways of being asked.
        statistics: Of BatchNorm, ``"anew"`` or ``"kept"``; empty for a network without.
        taught: Whether the 3D kernels were taught what the network says of slices.
    """

    asked: str
    statistics: str = ""
    taught: bool = False

    def __str__(self) -> str:
        """Say it.

        Example:
            >>> print(Way("volume", "anew"), Way("orientations", taught=True), sep="; ")
            volume, BatchNorm anew; orientations, taught
        """
        norm = f", BatchNorm {self.statistics}" if self.statistics else ""
        return f"{self.asked}{norm}{', taught' if self.taught else ''}"


def every(contest: Contest, place: Place) -> tuple[Way, ...]:
    """List the ways of an arm, the one first that is taken where nothing tells them apart."""
    arm = contest.arms[place.arm]
    found = [Way(asked, one) for asked in arm.asked for one in _statistics(contest, place)]
    if contest.teaching is not None and can_learn(arm):
        taught = [Way(asked, taught=True) for asked in arm.asked if asked in TAUGHT]
        found = [*([] if contest.always and taught else found), *taught]
    return tuple(found)


def can_learn(arm: Arm) -> bool:
    """Tell whether an arm has 3D kernels that can be taught, and what they could be taught."""
    return arm.learns and arm.answers and any(asked in TAUGHT for asked in arm.asked)


def _statistics(contest: Contest, place: Place) -> tuple[str, ...]:
    """List the BatchNorm that an arm may have; one without a name for a network that has none."""
    if place.arm not in contest.made:
        net = contest.arms[place.arm].make(place.seed)
        contest.made[place.arm] = bool(norms_with_statistics(net))
    return contest.statistics if contest.made[place.arm] else ("",)


def choose(
    contest: Contest,
    place: Place,
    protocol: str,
    source: Source,
    budget: TrainConfig,
    progress: Progress | None = None,
) -> tuple[Way, dict[str, float | None]]:
    """Choose the way in which an arm is used.

    Args:
        contest: What is compared.
        place: The arm, the fold and the seed.
        protocol: See `crossd.evaluation.protocols.apply`.
        source: Of the fold; its training samples are the labelled ones.
        budget: Of trainings.
        progress: Where to show how far teaching is.

    Returns:
        The way that scores best, of equal ones the first; and the score of each on the validation
        samples (None where it is not defined), nothing where there is one way alone, where an arm
        for masks cannot answer yet, or where there are too few samples.
    """
    possible = every(contest, place)
    masks = task_of(source.task).masks
    answers = contest.arms[place.arm].answers
    fitted = protocol if protocol in protocols.ON_FEATURES else "linear"
    by = "zero" if answers else fitted
    unknown = not answers and (masks or protocol == "zero")
    if len(possible) == 1 or unknown or len(source.val) < ENOUGH[masks]:
        return possible[0], {}
    scores = {}
    for way in possible:
        key = (place, way, by, *(() if by == "zero" else (len(source.train), budget.seed)))
        if key not in contest.made:
            net, seen = network(contest, place, way, progress), replace(source, test=source.val)
            outcome = protocols.apply(by, net, seen, budget, kept=kept(contest, place, way))
            contest.made[key] = _finite(outcome.scores[task_of(source.task).main])
        scores[way] = contest.made[key]
    best = max(possible, key=scores.__getitem__)
    return best, {str(w): score if math.isfinite(score) else None for w, score in scores.items()}


def kept(contest: Contest, place: Place, way: Way) -> Kept | None:
    """Say where the features of an arm are kept."""
    store = contest.features
    return None if store is None else Kept(store, f"{place.arm}, {way}", contest.model)


def network(
    contest: Contest, place: Place, way: Way, progress: Progress | None = None
) -> nn.Module:
    """Make an arm's network as a way says, or take the one that is at hand.

    Args:
        contest: What is compared.
        place: The arm, the fold and the seed.
        way: One of `every`.
        progress: Where to show how far teaching is.
    """
    known = [key for key, made in contest.made.items() if isinstance(made, nn.Module)]
    if (place, way) not in known:
        for key in known[: len(known) + 1 - NETWORKS]:
            del contest.made[key]
        contest.made[place, way] = _made(contest, place, way, progress)
    net: nn.Module = contest.made[place, way]
    return net


def _made(contest: Contest, place: Place, way: Way, progress: Progress | None) -> nn.Module:
    arm, source = contest.arms[place.arm], part(contest, place.fold)
    devices.seed_everything(place.seed)
    if way.taught and way.asked != "volume":
        inside = network(contest, place, Way("volume", taught=True), progress)
        return OrientationMean(inside, source.task)
    if way.taught:
        return _taught(contest, place, progress)
    net = arm.asked[way.asked](arm.make(place.seed), source.task)
    if way.statistics == "anew":
        validate.recalibrate(net, source.train, contest.budget)
    return net


def _taught(contest: Contest, place: Place, progress: Progress | None) -> nn.Module:
    """Teach an arm's 3D kernels, or read what they were taught before."""
    assert contest.teaching is not None
    arm, source = contest.arms[place.arm], part(contest, place.fold)
    student = arm.asked["volume"](arm.make(place.seed), source.task)
    path = None if contest.keep is None else contest.keep / f"taught-{place}.safetensors"
    if path is not None and path.is_file():
        student.load_state_dict(load_file(path))
        return student
    validate.recalibrate(student, source.train, contest.budget)
    teacher = Teacher(_asked_about_slices(contest, place, taught_by(contest, place)), source.task)
    budget = replace(contest.teaching, seed=place.seed)
    teach.taught(student, teacher, source, budget, progress=progress, name=f"teaching {place.arm}")
    if path is not None:
        with atomic(path) as temporary:
            state = {name: value.contiguous() for name, value in student.state_dict().items()}
            save_file(state, temporary)
    return student


def taught_by(contest: Contest, place: Place) -> str:
    """Choose the BatchNorm with which an arm, asked about slices, teaches its 3D kernels.

    Returns:
        The one of the contest's statistics that answers the validation samples best.
    """
    source = part(contest, place.fold)
    on_validation, main = replace(source, test=source.val), task_of(source.task).main
    if (place, "teacher") not in contest.made:
        scores = {}
        for one in _statistics(contest, place):
            net = _asked_about_slices(contest, place, one)
            score = protocols.apply("zero", net, on_validation, contest.budget).scores[main]
            scores[one] = _finite(score)
        contest.made[place, "teacher"] = max(scores, key=scores.__getitem__)
    best: str = contest.made[place, "teacher"]
    return best


def _asked_about_slices(contest: Contest, place: Place, statistics: str) -> nn.Module:
    """Make the network that an arm learns from."""
    source = part(contest, place.fold)
    net = answering(contest.arms[place.arm].make(place.seed), "slices", source.task)
    if statistics == "anew":
        validate.recalibrate(net, source.train, contest.budget)
    return net


def _finite(score: float) -> float:
    """Take a score that is not defined for the worst."""
    return score if math.isfinite(score) else -math.inf
