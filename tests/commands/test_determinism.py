"""The page on determinism names a test for each claim; here are those that no other file has."""

import re
from pathlib import Path

from made import assert_same, labelled, tiny

from crossd.training import loop
from crossd.training.loop import TrainConfig

PAGE = Path(__file__).parents[2] / "docs" / "determinism.md"


def test_the_number_of_readers_changes_no_bit() -> None:
    found = []
    for workers in (0, 1, 2):
        net = tiny(dropout=0.2)
        config = TrainConfig(epochs=2, batch_size=5, augment="full", workers=workers)
        fit = loop.fit(net, labelled(3), config)
        found.append((net.state_dict(), fit.history))
    assert_same(found[1], found[0])
    assert_same(found[2], found[0])


def test_every_test_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"`([\w/]*test_\w+)\.py::(test_\w+)`", PAGE.read_text(encoding="utf-8")))
    assert len(named) >= 10
    for module, name in named:
        text = (Path(__file__).parents[1] / f"{module}.py").read_text(encoding="utf-8")
        assert f"\ndef {name}(" in text, f"{module}.py has no {name}"
