"""Reading samples that may be unreadable, in processes that may hang or die."""

import numpy as np
import torch
from torch.utils.data import get_worker_info

from crossd.data.dataset import ChangedSamples, Sample, Samples
from crossd.errors import InputError

SHARE, FEWEST = 0.01, 10
"""How many samples may be unreadable: a share of them, or so many where these are more."""

PATIENCE = 600
"""Seconds after which a process that reads data counts as hung."""


class GuardedSamples(ChangedSamples):
    """Samples of which it is known which ones cannot be read, and which are being read.

    Args:
        samples: What is read.
        skip: Give another sample of the same view, and class where there are classes, in place of
            one that cannot be read.
        workers: Processes that read.

    Attributes:
        bad: Samples that could not be read, and why.
    """

    def __init__(self, samples: Samples, skip: bool, workers: int) -> None:
        super().__init__(samples)
        self.skip = skip
        self.bad: dict[int, str] = {}
        self._reading = torch.full((max(1, workers),), -1, dtype=torch.int64).share_memory_()

    def __getitem__(self, index: int) -> Sample:
        worker = get_worker_info()
        # numpy, as torch takes ten times as long to write one number
        self._reading.numpy()[0 if worker is None else worker.id] = index
        if not self.skip:
            return self.samples[index]
        try:
            return {**self.samples[index], "instead_of": -1}
        except (InputError, OSError):
            return {**self._another(index), "instead_of": index}

    def _another(self, index: int) -> Sample:
        """Read one of the next samples like this one."""
        alike = np.ones(len(self), bool)
        for known in (self.labels, self.views):
            if known is not None and known.ndim == 1:  # findings and numbers are hardly ever equal
                alike &= known == known[index]
        near = np.flatnonzero(alike)
        start = int(np.searchsorted(near, index))
        for step in range(1, FEWEST + 1):
            try:
                return self.samples[int(near[(start + step) % len(near)])]
            except (InputError, OSError):
                continue
        raise InputError(f"{self.samples.name(index)}: neither it nor {FEWEST} others can be read")

    def note(self, index: int) -> str | None:
        """Write down that a sample could not be read; returns a line on it, the first time.

        Raises:
            InputError: "... samples cannot be read ..." when these are too many.
        """
        if index in self.bad:
            return None
        try:
            self.samples[index]
            why = "could be read the second time"
        except (InputError, OSError) as error:
            why = str(error)
        self.bad[index] = why
        most = max(FEWEST, round(SHARE * len(self)))
        if len(self.bad) > most:
            raise InputError(
                f"{len(self.bad)} samples cannot be read, more than the {most} that "
                f"--on-bad-sample skip passes over; the last: {why}"
            )
        return f"skipped {self.samples.name(index)}: {why}"

    def reading(self) -> str:
        """Name the samples that the processes are reading, or read last."""
        return ", ".join(self.samples.name(int(i)) for i in self._reading if i >= 0)
