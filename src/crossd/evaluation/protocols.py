"""How a network for volumes is fitted to labelled ones before it is scored."""

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crossd.conversion import heads
from crossd.data.source import Source
from crossd.errors import InputError
from crossd.evaluation.features import Kept, Told, average_logits, features
from crossd.tasks import task_of
from crossd.training import loop, metrics, validate
from crossd.training.loggers import Epoch
from crossd.training.loop import TrainConfig
from crossd.utils.progress import Progress

NEIGHBOURS = 5
"""Of the k nearest neighbours."""

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Inverse strengths of the linear probe's penalty; the validation samples choose."""


ON_FEATURES = ("knn", "linear")
"""Protocols that fit to frozen features."""

Learn = Callable[[nn.Module, Source, TrainConfig], None]
"""Fits a network, in place, to the training samples of a source."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a protocol gave.

    Attributes:
        net: The network as it was scored.
        scores: On the test samples.
        outputs: See `crossd.training.validate.score`.
        history: Of training.
    """

    net: nn.Module
    scores: dict[str, float]
    outputs: list[Tensor]
    history: list[Epoch]


def apply(
    protocol: str,
    net: nn.Module,
    source: Source,
    budget: TrainConfig,
    progress: Progress | None = None,
    name: str = "",
    learn: Learn | None = None,
    kept: Kept | None = None,
) -> Outcome:
    """Fit a copy of a network to the training samples as a protocol says, and score the test ones.

    Args:
        protocol: ``zero`` (as it is), ``knn`` or ``linear`` (on frozen features), ``probe``
            (convolutions frozen; BatchNorm's scales and shifts and the last layer trained),
            ``unfreeze`` (the last layer first, then stage by stage backwards) or ``finetune``.
        net: Gives logits of the source's classes.
        source: Its training samples are the labelled ones.
        budget: Of those protocols that train by gradients.
        progress: Where to show how far training is.
        name: What to call it there.
        learn: What to do in place of ``finetune``.
        kept: Where features are kept, for ``knn`` and ``linear``; None keeps none.

    Raises:
        InputError: For features of a network for masks, or a network without a last layer.
    """
    net = copy.deepcopy(net)
    history: list[Epoch] = []
    if protocol in ON_FEATURES:
        return _on_features(protocol, net, source, budget, progress, kept)
    if protocol == "finetune" and learn is not None:
        learn(net, source, budget)
    elif protocol != "zero":
        average_logits(net)
        if protocol == "probe":
            heads.freeze_convolutions(net, len(source.classes))
        thaw = _thawing(net, len(source.classes)) if protocol == "unfreeze" else None
        history = loop.fit(
            net, source, budget, validate=False, on_epoch=thaw, progress=progress, name=name
        ).history
    scores, outputs = validate.score(net, source, source.test, budget)
    return Outcome(net, scores, outputs, history)


def stages(net: nn.Module, classes: int) -> list[list[nn.Parameter]]:
    """Cut a network's parameters into its last layer and then its stages, the last first.

    A stage is a child with parameters of the outermost module that has several of them.
    """
    last = heads.classifier(net, classes)
    root = net
    while len(inside := [child for child in root.children() if list(child.parameters())]) == 1:
        root = inside[0]
    head = list(last.parameters())
    own = {id(p) for p in head}
    parts = [[p for p in child.parameters() if id(p) not in own] for child in reversed(inside)]
    seen = own | {id(p) for part in parts for p in part}
    parts.append([p for p in net.parameters() if id(p) not in seen])  # loose ones
    return [head, *(part for part in parts if part)]


def _thawing(net: nn.Module, classes: int) -> Callable[[int, int], None]:
    """Train the last layer, then stage after stage; all in the last quarter of the epochs."""
    parts = stages(net, classes)

    def thaw(epoch: int, epochs: int) -> None:
        free = 1 + epoch * len(parts) * 4 // (3 * epochs)
        for number, part in enumerate(parts):
            for parameter in part:
                parameter.requires_grad_(number < free)

    return thaw


def require_labels(protocol: str, source: Source) -> None:
    """Refuse a protocol on features where there are masks.

    Raises:
        InputError: "--protocol ...".
    """
    if protocol in ON_FEATURES and task_of(source.task).masks:
        raise InputError(f"--protocol {protocol} is for labels, but {source.name} has masks")


def _on_features(
    protocol: str,
    net: nn.Module,
    source: Source,
    config: TrainConfig,
    progress: Progress | None,
    kept: Kept | None,
) -> Outcome:
    """Fit k nearest neighbours, or a linear layer, to frozen features, and score test samples."""
    require_labels(protocol, source)
    task = task_of(source.task)
    count = len(source.classes)
    train, test = (
        features(net, part, count, config, kept, progress) for part in (source.train, source.test)
    )
    val = (train[0][:0], train[1][:0])
    if protocol == "linear":  # there is nothing to choose for nearest neighbours
        val = features(net, source.val, count, config, kept, progress)
    truth = torch.from_numpy(test[1])
    if task.kind == "one":
        said = _classes(protocol, train, val, test, count)
    else:  # a column at a time, from the samples of which it is known
        fit = _finding if task.kind == "each" else _number
        columns = (_known((train, val, test), k) for k in range(count))
        said = np.stack([fit(protocol, *column) for column in columns], axis=1)
    outputs = [torch.from_numpy(said), truth]
    return Outcome(net, metrics.of_task(source, outputs), outputs, [])


def _known(given: tuple[Told, Told, Told], column: int) -> tuple[Told, Told, Told]:
    """Take a column of findings or numbers; of all parts but the last where it is known."""
    train, val, test = ((x, y[:, column]) for x, y in given)
    train, val = ((x[np.isfinite(y)], y[np.isfinite(y)]) for x, y in (train, val))
    return train, val, test


def _classes(protocol: str, train: Told, val: Told, test: Told, count: int) -> NDArray[np.float64]:
    """Give the probabilities ``(N, K)`` of one class of several."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    near = KNeighborsClassifier(min(NEIGHBOURS, len(train[0])), metric="cosine")
    linear = [
        LogisticRegression(C=strength, max_iter=2000, class_weight="balanced")
        for strength in STRENGTHS
    ]

    def said(model: Any, x: NDArray[np.float64]) -> NDArray[np.float64]:
        probabilities = np.zeros((len(x), count))
        probabilities[:, model.classes_.astype(int)] = model.predict_proba(x)
        return probabilities

    def area(model: Any) -> float:
        both = torch.from_numpy(said(model, val[0])), torch.from_numpy(val[1])
        return metrics.classification(*both)["auc"]

    models = [near] if protocol == "knn" else linear
    return said(_best(models, train, len(val[0]), protocol == "linear", area), test[0])


def _finding(protocol: str, train: Told, val: Told, test: Told) -> NDArray[np.float64]:
    """Give the probability ``(N,)`` of a finding; its share where training knows one value."""
    if len(np.unique(train[1])) < 2:
        share = train[1].mean() if len(train[1]) else 0.5
        return np.full(len(test[0]), float(share))
    train, val = ((x, y.astype(int)) for x, y in (train, val))
    return _classes(protocol, train, val, test, 2)[:, 1]


def _number(protocol: str, train: Told, val: Told, test: Told) -> NDArray[np.float64]:
    """Give a number ``(N,)``."""
    from sklearn.linear_model import Ridge
    from sklearn.neighbors import KNeighborsRegressor

    if not len(train[0]):
        raise InputError(
            f"--protocol {protocol}: a number is known of no labelled training sample; label more"
        )
    near = KNeighborsRegressor(min(NEIGHBOURS, len(train[0])), metric="cosine")
    linear = [Ridge(alpha=1 / strength) for strength in STRENGTHS]
    models = [near] if protocol == "knn" else linear
    best = _best(models, train, len(val[0]), protocol == "linear", lambda one: one.score(*val))
    return np.asarray(best.predict(test[0]), np.float64)


def _best(
    models: Sequence[Any], train: Told, count: int, standardise: bool, score: Callable[[Any], float]
) -> Any:
    """Fit models to training samples; return the one that scores best on `count` others."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    steps = [make_pipeline(StandardScaler(), one) if standardise else one for one in models]
    if count < 2:  # nothing to choose by: the middle one of STRENGTHS
        steps = [steps[len(steps) // 2]]
    fitted = [one.fit(*train) for one in steps]
    if len(fitted) == 1:
        return fitted[0]
    scores = [score(one) for one in fitted]
    if not np.isfinite(scores).all():  # of validation samples of one class
        return fitted[len(fitted) // 2]
    return fitted[int(np.argmax(scores))]
