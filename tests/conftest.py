import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def _repeatable() -> Iterator[None]:
    """Start each test from the same seed, and give back the thread count it found."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries draw from the global state
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what tests cache away from the user's own folder, and from other tests."""
    monkeypatch.setenv("CROSSD_CACHE", str(tmp_path_factory.mktemp("cache") / "crossd"))
