import dataclasses
import itertools
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from fake_cuda import FakeCuda
from torch import nn

from crossd.conversion import convert as conversion
from crossd.conversion.building import built
from crossd.training import teach
from crossd.training.config import TrainConfig


@pytest.fixture(autouse=True)
def _repeatable() -> Iterator[None]:
    """Start each test from the same seed, and give back the thread count it found."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries draw from the global state
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


CACHES = itertools.count()
"""Numbers of the caches of tests."""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what tests cache away from the user's own folder, and from other tests."""
    folder = tmp_path_factory.getbasetemp() / "caches" / str(next(CACHES))
    monkeypatch.setenv("CROSSD_CACHE", str(folder))


@pytest.fixture(autouse=True)
def _taught_in_few_steps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Teach in a few steps, in comparisons and before fine-tuning; slow tests do as users do."""
    if request.node.get_closest_marker("slow"):
        return
    usual = teach.budget

    def few(*given: Any) -> TrainConfig:
        return dataclasses.replace(usual(*given), min_steps=10)

    monkeypatch.setattr(teach, "budget", few)


@pytest.fixture
def gpu() -> FakeCuda:
    """Give a CUDA device that computes nothing."""
    return FakeCuda()


DECIDED: dict[tuple[Any, ...], list[Any]] = {}
"""What conversions decided, by all that decisions hang on."""


@pytest.fixture(autouse=True)
def _checked_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold networks of one structure against the law once, not again in every test.

    The check takes most of the time of a conversion, and its outcome does not hang on the weights.
    Tests of conversions themselves do without this.
    """
    if {"conversion", "nn"} & set(request.path.parts):
        return
    decide = conversion._decide

    def once(model: nn.Module, *asked: Any) -> Any:
        rank, options, _, example, check = asked
        if example is not None or not check:
            return decide(model, *asked)
        key = (structure(model), repr(asked))
        if key not in DECIDED:
            net, *found = decide(model, *asked)
            DECIDED[key] = found
            return net, *found
        choice, lines = DECIDED[key]
        own = dataclasses.replace(options, spread=choice.spread)
        return built(model, rank, own, choice), choice, list(lines)

    monkeypatch.setattr(conversion, "_decide", once)


def structure(net: nn.Module) -> tuple[Any, ...]:
    """Give what decides how a network computes: its classes, settings and shapes."""
    plain = (bool, int, float, str, tuple)
    modules = [
        (name, type(own), repr({k: v for k, v in vars(own).items() if isinstance(v, plain)}))
        for name, own in net.named_modules()
    ]
    return (*modules, *((name, tuple(t.shape)) for name, t in net.state_dict().items()))
