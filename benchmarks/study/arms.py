"""The arms of the study: what becomes of a 2D training, and how it meets labelled volumes."""

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from modes import sum_what_is_moved
from sets import Study
from torch import Tensor, nn
from trainings import Options, pretrain

from crossd import device, feeding, heads, models, scoring, train
from crossd.arms import ARMS as KNOWN
from crossd.checkpoint import load
from crossd.compare import Arm, Contest
from crossd.conversion import to_3d
from crossd.data import Source
from crossd.slicenet import SliceNet

RIVALS = ("scratch", "slices", "center", "inflate", "acs", "triplanar")


class Both(nn.Module):
    """What the 3D network says and what the same weights say of slices in their views, averaged.

    Attributes:
        average: "probabilities" or "logits", as of `SliceNet`.
    """

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.slices = SliceNet(net)
        self.solid = net
        self.average = "probabilities"

    def forward(self, x: Tensor) -> Tensor:
        """Answer on volumes."""
        self.slices.average = self.average
        answers = torch.stack([self.solid(x), self.slices(x)])
        if self.average == "logits":
            return answers.mean(0)
        return answers.softmax(2).mean(0).clamp_min(1e-8).log()


def distilled(net: Any, study: Study, seed: int) -> nn.Module:
    """Teach the 3D network what both ways of asking say of the unlabelled training volumes."""
    source = study.volumes()
    budget = dataclasses.replace(budget_of(source), seed=seed, epochs=3, min_steps=0)
    teacher, student = Both(copy.deepcopy(net)), to_3d(net)
    _all_slices(teacher, source)
    scoring.recalibrate(teacher, source.train, budget)
    scoring.recalibrate(student, source.train, budget)
    device.seed_everything(seed)
    optimizer = torch.optim.AdamW(student.parameters(), lr=budget.lr / 2, weight_decay=0.01)
    for epoch in range(budget.epochs):
        loader = feeding.batches(source.train, student, budget, train=True)
        loader.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
        for batch in loader:
            image = batch["image"]
            with torch.autocast("cpu", torch.bfloat16):
                with torch.no_grad():
                    target = teacher.eval()(image)
                said = student.train()(feeding.augment(image, None)[0])
            loss = F.kl_div(said.float().log_softmax(1), target.float(), log_target=True)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return student


def beside_slices(net: nn.Module, source: Source, budget: Any, study: Study) -> None:
    """Fine-tune on labelled volumes in turn with the images that it was pretrained on."""
    images = study.images()
    options = train.for_images(Options(budget.seed), images.task)
    train.fit(net, source, budget, beside=[(images, options)], validate=False)


@dataclasses.dataclass(frozen=True)
class Kind:
    """An arm.

    Attributes:
        way: Of 2D training; None for a new network.
        make: A network for volumes, of the trained one.
        learn: How it is fitted to labelled volumes in place of what the protocol does.
        more: Whether `make` wants the study and the seed too.
    """

    way: str | None
    make: Callable[..., nn.Module]
    learn: Callable[..., None] | None = None
    more: bool = False


ARMS: dict[str, Kind] = {
    **{name: Kind(*KNOWN[name]) for name in RIVALS},
    "projection": Kind("matched", to_3d),
    **{
        f"projection {way}": Kind(way, to_3d)
        for way in ("mixed", "batch", "sample", "layer", "oblique", "fresh", "lifted", "decay")
    },
    "projection triplanar-start": Kind("triplanar-start", to_3d),
    "projection on slices": Kind("matched", SliceNet),
    "projection both": Kind("matched", Both),
    "projection mixed on slices": Kind("mixed", SliceNet),
    "projection mixed both": Kind("mixed", Both),
    "projection distilled": Kind("matched", distilled, more=True),
    "projection joint": Kind("matched", lambda net: net, beside_slices),
    "slice": Kind("slice", to_3d),
    "slice batch": Kind("slice-batch", to_3d),
    "fourier": Kind("fourier", to_3d),
    "fourier aligned": Kind("fourier", functools.partial(to_3d, align=True)),
    "fourier centred": Kind("fourier-centred", to_3d),
    "fourier-projection": Kind("fourier-projection", sum_what_is_moved),
    "fourier-projection mean": Kind("fourier-projection", functools.partial(to_3d, align=True)),
}


def start(study: Study, name: str, seed: int) -> nn.Module:
    """Make an arm's network for volumes, with a new last layer where the classes are others."""
    kind, source = ARMS[name], study.volumes()
    task, classes = source.task, len(source.classes)
    device.seed_everything(seed)
    if kind.way is None:
        return kind.make(models.build(models.DEFAULTS[task], task, source.channels, classes))
    pretrain(study, kind.way, seed)
    net: Any = load(study.weights(kind.way, seed))
    net = kind.make(net, study, seed) if kind.more else kind.make(net)
    _all_slices(net, source)
    if study.kind == "mednist":
        device.seed_everything(seed)
        heads.new_classifier(net, len(study.images().classes), classes)
    return net


def _all_slices(net: nn.Module, source: Source) -> None:
    for module in net.modules():
        if isinstance(module, SliceNet) and source.task == "segmentation":
            module.count = 0


def contest(study: Study, names: tuple[str, ...]) -> Contest:
    """Make the comparison of a set."""
    source = study.volumes()
    made = {}
    for name in names:
        kind = ARMS[name]
        learn = None if kind.learn is None else functools.partial(kind.learn, study=study)
        answers = kind.way is not None and study.kind != "mednist"
        made[name] = Arm(functools.partial(start, study, name), answers, drawn=True, learn=learn)
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
    return train.for_volumes(Volumes(), source.task)
