"""The arms of the study: what becomes of a 2D training, and how it meets labelled volumes."""

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from sets import Study
from torch import nn
from trainings import Options, pretrain

from crossd.conversion import heads, registry
from crossd.conversion.plain import to_3d
from crossd.data.source import Source
from crossd.evaluation.arms import ARMS as KNOWN
from crossd.evaluation.experiment import Arm, Contest
from crossd.inference.slice_ensemble import answering
from crossd.training import batches, devices, loop, validate
from crossd.weights.weights_file import load

OURS = "projection"
RIVALS = ("scratch", "slices", "center", "inflate", "acs", "triplanar")


def distilled(net: Any, study: Study, seed: int) -> nn.Module:
    """Teach the 3D network what both ways of asking say of the unlabelled training volumes."""
    source = study.volumes()
    budget = dataclasses.replace(budget_of(source), seed=seed, epochs=3, min_steps=0)
    teacher, student = answering(copy.deepcopy(net), "both", source.task), to_3d(net)
    validate.recalibrate(teacher, source.train, budget)
    validate.recalibrate(student, source.train, budget)
    devices.seed_everything(seed)
    optimizer = torch.optim.AdamW(student.parameters(), lr=budget.lr / 2, weight_decay=0.01)
    for epoch in range(budget.epochs):
        loader = batches.batches(source.train, student, budget, train=True)
        loader.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
        for batch in loader:
            image = batch["image"]
            with torch.no_grad():
                target = teacher.eval()(image)
            said = student.train()(batches.augment(image, None)[0])
            loss = F.kl_div(said.log_softmax(1), target, reduction="batchmean", log_target=True)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return student


def beside_slices(net: nn.Module, source: Source, budget: Any, study: Study) -> None:
    """Fine-tune on labelled volumes in turn with the images that it was pretrained on.

    One pass over the images: on 50 labelled organs 137 steps of volumes, where others have 105.
    """
    images = study.images()
    options = loop.for_images(Options(budget.seed), images.task)
    budget = dataclasses.replace(budget, epochs=1, min_steps=0)
    loop.fit(net, source, budget, beside=[(images, options)], validate=False)


def as_volumes(net: Any, source: Source, budget: Any, study: Study) -> None:
    """Fine-tune the 3D kernels on labelled volumes, of a network that answers by slices too."""
    loop.fit(net.net, source, budget, validate=False)
    validate.recalibrate(net, source.train, budget)


@dataclasses.dataclass(frozen=True)
class Kind:
    """An arm.

    Attributes:
        way: Of 2D training; None for a new network.
        make: A network for volumes, of the trained one and its task.
        learn: How it is fitted to labelled volumes in place of what the protocol does.
        fitted: What is fitted to labelled volumes, where it is another network than `make`'s.
        more: Whether `make` wants the study and the seed in place of the task.
    """

    way: str | None
    make: Callable[..., nn.Module]
    learn: Callable[..., None] | None = None
    more: bool = False
    fitted: Callable[..., nn.Module] | None = None


def _answer(answer: str) -> Callable[..., nn.Module]:
    return lambda net, task: answering(net, answer, task)


def solid(net: nn.Module, task: str) -> nn.Module:
    """Make a plain 3D network."""
    return to_3d(net)


def moving(net: nn.Module, task: str) -> nn.Module:
    """Keep the network, which moves the kernel for every volume too."""
    return net


def _aligned(net: nn.Module, task: str) -> nn.Module:
    return to_3d(net, align=True)


ARMS: dict[str, Kind] = {
    **{name: Kind(*KNOWN[name]) for name in RIVALS},
    "projection": Kind("projection", _answer("both"), fitted=solid),
    "projection volume": Kind("projection", solid),
    "projection slices": Kind("projection", _answer("slices")),
    "projection both": Kind("projection", _answer("both")),
    "projection asked both": Kind("projection", _answer("both"), as_volumes),
    "projection one view": Kind("one-view", solid),
    "projection one view slices": Kind("one-view", _answer("slices")),
    "projection one view both": Kind("one-view", _answer("both")),
    **{
        f"projection {way}": Kind(way, solid)
        for way in ("batch", "sample", "layer", "oblique", "fresh", "lifted", "decay")
    },
    "projection triplanar-start": Kind("triplanar-start", solid),
    "projection distilled": Kind("projection", distilled, more=True),
    "projection joint": Kind("projection", lambda net, task: net, beside_slices),
    "slice": Kind("slice", solid),
    "slice batch": Kind("slice-batch", solid),
    "fourier": Kind("fourier", solid),
    "fourier aligned": Kind("fourier", _aligned),
    "fourier centred": Kind("fourier-centred", solid),
    "fourier-projection": Kind("fourier-projection", moving),
    "fourier-projection mean": Kind("fourier-projection", _aligned),
}


def start(study: Study, name: str, seed: int, fitted: bool = False) -> nn.Module:
    """Make an arm's network for volumes, with a new last layer where the classes are others."""
    kind, source = ARMS[name], study.volumes()
    if fitted and kind.fitted is not None:
        kind = dataclasses.replace(kind, make=kind.fitted)
    task, classes = source.task, len(source.classes)
    devices.seed_everything(seed)
    if kind.way is None:
        return kind.make(
            registry.build(registry.DEFAULTS[task], task, source.channels, classes), task
        )
    pretrain(study, kind.way, seed)
    net: Any = load(study.weights(kind.way, seed))
    net = kind.make(net, study, seed) if kind.more else kind.make(net, task)
    if study.kind == "mednist":
        devices.seed_everything(seed)
        heads.new_classifier(net, len(study.images().classes), classes)
    return net


def contest(study: Study, names: tuple[str, ...]) -> Contest:
    """Make the comparison of a set."""
    source = study.volumes()
    made = {}
    for name in names:
        kind = ARMS[name]
        learn = None if kind.learn is None else functools.partial(kind.learn, study=study)
        answers = kind.way is not None and study.kind != "mednist"
        make = functools.partial(start, study, name)
        fitted = functools.partial(make, fitted=True) if kind.fitted else None
        made[name] = Arm(make, answers, drawn=True, learn=learn, fitted=fitted)
    return Contest(source, made, budget_of(source))


@dataclasses.dataclass(frozen=True)
class Volumes:
    """What the defaults of training on labelled volumes ask for."""

    seed: int = 0
    epochs: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    lr: float = 1e-3
    precision: str = "32-true"


def budget_of(source: Source) -> Any:
    """Give the budget on labelled volumes, the same for every arm."""
    return loop.for_volumes(Volumes(), source.task)
