"""What the last layer of a network is told of samples: computed once for each, and kept."""

import copy
import dataclasses
import itertools
import re
import weakref
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from crossd import __version__
from crossd.conversion import heads
from crossd.data.dataset import Joined, Samples, Subset
from crossd.data.disk_cache import DiskCache, key_of
from crossd.errors import InputError
from crossd.training import validate
from crossd.training.config import TrainConfig
from crossd.utils.atomic_files import locked
from crossd.utils.progress import Bar, Progress

TOGETHER = 64
"""Samples after which their features are written down, so that an interrupted run goes on there."""

Told = tuple[NDArray[np.float64], NDArray[Any]]
"""Features ``(N, F)``, and what is true ``(N,)`` or ``(N, K)``."""


@dataclasses.dataclass(frozen=True)
class Kept:
    """Where the features of one way of asking a network are kept.

    Attributes:
        store: A file in it holds the features of one network with one set of weights.
        name: Of the way: equal weights that are asked otherwise have features of their own.
        model: Name of the network, with its arguments, which may not show in its layers.
    """

    store: DiskCache
    name: str
    model: str = ""


def features(
    net: nn.Module,
    samples: Samples,
    classes: int,
    config: TrainConfig,
    kept: Kept | None = None,
    progress: Progress | None = None,
) -> Told:
    """Give what a network's last layer is told of every sample, ``(N, F)``, and the labels.

    Of a network that averages several answers (an attribute `average`, as of `SliceNet`), the
    features are averaged. Features that are kept are known by the weights without the last layer,
    and by what each sample holds after it was prepared.

    Args:
        net: Gives logits of `classes` classes; it is not changed.
        samples: With labels.
        classes: Outputs of the last layer.
        config: With the samples of a batch, and the precision.
        kept: Where to look for features and to keep those that are new; None computes all.
        progress: Where to show how far it is.

    Raises:
        InputError: When the network gives more than one vector a sample without its last layer.
    """
    net = _without_last_layer(net, classes)
    progress = progress or Progress(quiet=True)
    labels = np.asarray(samples.labels)
    if kept is None:
        places = np.arange(len(samples))
        with progress.task("features", total=len(samples)) as bar:
            return _computed(net, samples, places, config, bar).astype(np.float64), labels
    marks = digests(samples)
    size = None if samples.patch is None else list(samples.patch)
    key = key_of(
        "features", __version__, kept.model, kept.name, _state(net), config.precision, size
    )
    store = kept.store
    with locked(store.folder / f"{key}.lock"):
        known = _read(store, key)
        new = {mark: place for place, mark in enumerate(marks) if mark not in known}
        if new:
            with progress.task(f"features, {kept.name}", total=len(new)) as bar:
                while new:
                    some = dict(itertools.islice(new.items(), TOGETHER))
                    rows = _computed(net, samples, np.array([*some.values()]), config, bar)
                    known |= dict(zip(some, rows, strict=True))
                    _write(store, key, known)
                    new = {mark: place for mark, place in new.items() if mark not in some}
    return np.stack([known[mark] for mark in marks]).astype(np.float64), labels


def digests(samples: Samples) -> list[bytes]:
    """Give a digest of the image of every sample, as it is after it was prepared.

    Of one object it is made once, as those that are cut from it are what it holds.
    """
    if isinstance(samples, Subset):
        inside = digests(samples.samples)
        return [inside[index] for index in samples.indices.tolist()]
    if isinstance(samples, Joined):
        return [mark for part in samples.parts for mark in digests(part)]
    if samples not in _DIGESTS:
        images = (samples[index]["image"].contiguous() for index in range(len(samples)))
        _DIGESTS[samples] = [
            sha256(
                repr((tuple(image.shape), image.dtype)).encode() + image.numpy().tobytes()
            ).digest()[:WIDTH]
            for image in images
        ]
    return _DIGESTS[samples]


WIDTH = 16
"""Bytes of the digest of a sample."""

_DIGESTS: weakref.WeakKeyDictionary[Samples, list[bytes]] = weakref.WeakKeyDictionary()


def average_logits(net: object) -> None:
    """Let a network that averages several answers average what a last layer can be trained on."""
    if hasattr(net, "average"):
        net.average = "logits"


def _without_last_layer(net: nn.Module, classes: int) -> nn.Module:
    net = copy.deepcopy(net)
    last = heads.classifier(net, classes)
    for module in net.modules():
        for name, child in module.named_children():
            if child is last:
                setattr(module, name, nn.Identity())
    average_logits(net)
    return net


def _computed(
    net: nn.Module, samples: Samples, places: NDArray[np.int64], config: TrainConfig, bar: Bar
) -> NDArray[np.float32]:
    """Ask a network without its last layer about samples; rows in the order of their places."""
    rows: dict[int, NDArray[np.float32]] = {}
    some = Subset(samples, places)
    for answer, batch in validate.answers(net, some, config, "classification", raw=True):
        if answer.dim() != 2:
            raise InputError("the protocols knn and linear are for networks that label volumes")
        for place, row in zip(batch["place"].tolist(), answer.cpu().numpy(), strict=True):
            rows[place] = row
            bar.advance(1)
    return np.stack([rows[place] for place in range(len(places))])


def _state(net: nn.Module) -> str:
    """Give a digest of the layers of a network and of all that they have learnt."""
    state = sha256(re.sub(r" at 0x\w+", "", repr(net)).encode())  # functions are named by places
    for name, tensor in net.state_dict().items():
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        state.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


def _read(store: DiskCache, key: str) -> dict[bytes, NDArray[np.float32]]:
    found = store.get(key)
    if found is None:
        return {}
    marks = [mark.tobytes() for mark in np.asarray(found["samples"])]
    return dict(zip(marks, np.array(found["features"]), strict=True))


def _write(store: DiskCache, key: str, known: dict[bytes, NDArray[np.float32]]) -> None:
    marks = np.frombuffer(b"".join(known), np.uint8).reshape(len(known), WIDTH)
    store.keep(key, {"samples": marks, "features": np.stack(list(known.values()))})
