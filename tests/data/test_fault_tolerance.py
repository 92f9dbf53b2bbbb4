"""Samples that cannot be read, and processes that die or hang over one."""

import dataclasses
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made import Heard, Made, assert_same, labelled, odd, tiny

from crossd.data.dataset import Sample
from crossd.data.fault_tolerance import FEWEST, GuardedSamples
from crossd.data.source import Source
from crossd.errors import InputError
from crossd.training import loop
from crossd.training.loop import TrainConfig


class Bad(Made):
    """Samples of which some cannot be read."""

    bad: frozenset[int] = frozenset()
    fault = "error"

    def __getitem__(self, index: int) -> Sample:
        if index in self.bad:
            if self.fault == "die":
                os._exit(1)
            if self.fault == "hang":
                threading.Event().wait()
            raise InputError(f"file {index}: is cut off")
        return super().__getitem__(index)


def source(*bad: int, fault: str = "error", count: int = 24) -> Source:
    made = labelled(2, count, views=True)
    samples = Bad(made.train.images, list(made.train.labels), views=list(made.train.views))  # type: ignore[attr-defined,arg-type]
    samples.bad, samples.fault = frozenset(bad), fault
    return dataclasses.replace(made, train=samples)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_sample_is_passed_over_and_listed(workers: int) -> None:
    config = TrainConfig(epochs=2, batch_size=4, workers=workers, on_bad_sample="skip")
    said = Heard()
    fit = loop.fit(tiny(), source(7), config, validate=False, progress=said)
    assert len(fit.history) == 2
    assert [line for line in said.said if "skipped" in line] == [
        "skipped sample 7: file 7: is cut off"
    ]


def test_another_of_the_same_class_and_view_stands_in() -> None:
    samples = source(7).train
    watched = GuardedSamples(samples, True, 0)
    instead = watched[7]
    assert instead["instead_of"] == 7 and int(instead["label"]) == samples.labels[7]  # type: ignore[index]
    assert instead["view"] == samples.views[7]  # type: ignore[index]
    assert watched[8]["instead_of"] == -1


def test_too_many_unreadable_samples() -> None:
    watched = GuardedSamples(source(*range(FEWEST + 1)).train, True, 0)
    for index in range(FEWEST):
        assert watched.note(index) is not None and watched.note(index) is None
    with pytest.raises(InputError, match=r"11 samples cannot be read, more than the 10 .* cut off"):
        watched.note(FEWEST)


def test_without_skipping_it_is_an_error() -> None:
    with pytest.raises(InputError, match="file 7: is cut off"):
        loop.fit(tiny(), source(7), TrainConfig(epochs=1), validate=False)


DISTURBED = """
import sys
from test_fault_tolerance import source, tiny
from crossd.training import batches, loop
batches.PATIENCE = 3
config = loop.TrainConfig(epochs=1, batch_size=4, workers=1)
loop.fit(tiny(), source(7, fault=sys.argv[1]), config, validate=False)
"""


@pytest.mark.parametrize(
    ("fault", "what"), [("die", "died"), pytest.param("hang", "hangs", marks=pytest.mark.slow)]
)
def test_a_process_that_dies_or_hangs_is_reported_with_its_sample(fault: str, what: str) -> None:
    # In a process of its own: torch raises at whatever is being done when a reader dies.
    done = subprocess.run(
        [sys.executable, "-c", DISTURBED, fault],
        cwd=Path(__file__).parent, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert f"a process that reads data {what}" in done.stderr, done.stderr
    assert "sample 7; try --workers 0" in done.stderr, done.stderr


# --- losses that are no numbers -----------------------------------------------------------------


def test_a_loss_that_is_no_number_stops_with_the_samples(tmp_path: Path) -> None:
    config = TrainConfig(epochs=1, batch_size=4)
    with pytest.raises(InputError, match=r"loss is nan in epoch 1 .*bad-batches.jsonl.*skip"):
        loop.fit(tiny(), odd(5), config, validate=False, folder=tmp_path)
    assert '"sample 5"' in (tmp_path / "bad-batches.jsonl").read_text()
    with pytest.raises(InputError, match=r"on sample \d+, sample \d+"):
        loop.fit(tiny(), odd(5), config, validate=False)


@pytest.mark.parametrize("mode", ["projection", "fourier"])
def test_steps_are_skipped_and_nothing_is_poisoned(mode: str, tmp_path: Path) -> None:
    config = TrainConfig(epochs=3, batch_size=4, on_nan="skip")
    net: Any = tiny(mode)
    fit = loop.fit(net, odd(5), config, validate=False, folder=tmp_path)
    assert fit.skipped == 3
    assert (tmp_path / "bad-batches.jsonl").read_text().count("\n") == 3
    assert all(np.isfinite(record["loss"]) for record in fit.history)
    assert all(value.isfinite().all() for value in net.state_dict().values())


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_skipped_step_leaves_the_statistics_of_every_source(accumulate: int) -> None:
    config = TrainConfig(epochs=1, batch_size=4, on_nan="skip", accumulate=accumulate)
    net: Any = tiny()
    beside = [(labelled(2), config)]
    fit = loop.fit(net, labelled(3, bad=np.nan), config, beside=beside, validate=False)
    assert fit.skipped == 3
    assert_same(net[1].state_dict()["running_var"], torch.ones(4))
    assert net[1].num_batches_tracked == 0
