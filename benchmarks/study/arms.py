"""The arms of the study: what becomes of a 2D training, and how it meets labelled volumes."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sets import Study
from torch import nn
from trainings import PARTIAL, THEN_PARTIAL, options_of, pretrain

from crossd.conversion import heads, registry
from crossd.conversion.plain import to_3d
from crossd.data.disk_cache import DiskCache
from crossd.data.source import Source
from crossd.evaluation.arms import ARMS as KNOWN
from crossd.evaluation.arms import BOTH, SLICES, Make
from crossd.evaluation.experiment import Arm, Contest
from crossd.inference.slice_ensemble import OrientationMean
from crossd.training import devices, loop, teach
from crossd.weights.weights_file import load

OURS = "projection"
DRAWN = "projection-drawn"
JOINT = "projection joint"
"""Ours, fitted to labelled volumes in turn with the images of its 2D training."""
PRECISION = "bf16-mixed"
"""Of all that is done with volumes, by every arm; 2D trainings are in float32."""
RIVALS = ("slices", "center", "triplanar", "acs", "cycle", "inflate", "scratch", PARTIAL)
"""The last is for masks."""


def beside_slices(net: nn.Module, source: Source, budget: Any, study: Study) -> None:
    """Fine-tune on labelled volumes in turn with the images that it was pretrained on.

    One pass over the images: on 50 labelled organs 137 steps of volumes, where others have 105.
    """
    images = study.images()
    options = loop.for_images(options_of(study, budget.seed), images.task)
    budget = dataclasses.replace(budget, epochs=1, min_steps=0)
    loop.fit(net, source, budget, beside=[(images, options)], validate=False)


@dataclasses.dataclass(frozen=True)
class Kind:
    """An arm.

    Attributes:
        way: Of 2D training; None for a new network.
        asked: In which ways it can be asked about volumes, see `crossd.evaluation.arms`.
        learn: How it is fitted to labelled volumes in place of what the protocol does.
    """

    way: str | None
    asked: Mapping[str, Make]
    learn: Callable[..., None] | None = None


def solid(net: nn.Module, task: str) -> nn.Module:
    """Make a plain 3D network."""
    return to_3d(net)


def moving(net: nn.Module, task: str) -> nn.Module:
    """Keep the network, which moves the kernel for every volume too."""
    return net


def _aligned(net: nn.Module, task: str) -> nn.Module:
    return to_3d(net, align=True)


def _one(way: str, make: Make = solid) -> Kind:
    return Kind(way, {"volume": make})


SOLID: Mapping[str, Make] = {"volume": moving, "orientations": OrientationMean}
"""Ways of asking a plain 3D network."""

ARMS: dict[str, Kind] = {
    **{name: Kind(*KNOWN[name]) for name in (OURS, DRAWN, *RIVALS) if name != PARTIAL},
    PARTIAL: Kind(PARTIAL, SOLID),
    **{way.replace("-", " "): Kind(way, SOLID) for way in THEN_PARTIAL},
    "projection one view": Kind("one-view", KNOWN[OURS][1]),
    JOINT: Kind("projection", {**BOTH, **SOLID, **SLICES}, beside_slices),
    **{f"projection {way}": _one(way) for way in ("batch", "layer", "fresh", "lifted", "decay")},
    "slice": _one("slice"),
    "slice batch": _one("slice-batch"),
    "fourier": _one("fourier"),
    "fourier aligned": _one("fourier", _aligned),
    "fourier centred": _one("fourier-centred"),
    "fourier-projection": _one("fourier-projection", moving),
    "fourier-projection mean": _one("fourier-projection", _aligned),
}


def start(study: Study, name: str, seed: int) -> nn.Module:
    """Give an arm's network, with a new last layer where the classes of the volumes are others."""
    kind, source = ARMS[name], study.volumes()
    task, classes = source.task, len(source.classes)
    devices.seed_everything(seed)
    if kind.way is None:
        return registry.build(study.model(task), task, source.channels, classes)
    pretrain(study, kind.way, seed)
    net: nn.Module = load(study.weights(kind.way, seed))
    if study.kind == "mednist":
        devices.seed_everything(seed)
        heads.new_classifier(net, len(study.images().classes), classes)
    return net


def contest(study: Study, names: tuple[str, ...], folder: Path | None = None) -> Contest:
    """Make the comparison of a set; a folder keeps features, and weights that were taught."""
    source = study.volumes()
    made = {}
    for name in names:
        kind = ARMS[name]
        learn = None if kind.learn is None else functools.partial(kind.learn, study=study)
        answers = kind.way is not None and study.kind != "mednist"
        make = functools.partial(start, study, name)
        learns = kind.asked is not SOLID and "volume" in kind.asked
        made[name] = Arm(make, answers, True, learn, kind.asked, learns)
    return Contest(
        source,
        made,
        budget_of(source),
        teaching=dataclasses.replace(teach.budget(source.task), precision=PRECISION),
        keep=folder,
        features=None if folder is None else DiskCache(folder),
    )


@dataclasses.dataclass(frozen=True)
class Volumes:
    """What the defaults of training on labelled volumes ask for."""

    seed: int = 0
    epochs: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    lr: float = 1e-3
    precision: str = PRECISION


def budget_of(source: Source) -> Any:
    """Give the budget on labelled volumes, the same for every arm."""
    return loop.for_volumes(Volumes(), source.task)
