"""How many processes read data, where the user leaves it open."""

import math
import os
import shutil
from pathlib import Path

import torch

from crossd.data.dataset import Samples
from crossd.utils.memory import available

MOST = 16
"""Processes, at most: more wait for the disk and for each other."""

AHEAD = 2
"""Batches that each of them reads ahead, as torch has it."""

PROCESS = 2**29
"""Memory that a process takes before it reads anything [bytes]."""

SHARE = 0.5
"""Share of the free memory that all may take."""


def choose(wanted: int | None, samples: Samples, batch_size: int, busy: bool = False) -> int:
    """Choose how many processes read samples for this one; what is trained does not depend on it.

    None where the samples are in memory already, and none where the network is on the CPU, whose
    cores are all at work: a reader then takes from the training what it gives. Else one less than
    this process's share of the cores, as far as there is memory for the batches that they read
    ahead.

    Args:
        wanted: What the user asked for, which is taken as it is; None chooses.
        samples: What is read.
        batch_size: Samples in a batch.
        busy: Whether much is done to each sample after it is read.

    Example:
        >>> choose(3, Samples(), 8)
        3
    """
    if wanted is not None:
        return wanted
    if not torch.accelerator.is_available() or (samples.in_memory and not busy):
        return 0
    batch = 4 * batch_size * samples.channels * math.prod(samples.size(0))
    room = [available() * SHARE // (AHEAD * batch + PROCESS)]
    passed = Path("/dev/shm")  # batches come through it, and containers give it little
    if passed.is_dir():
        room.append(shutil.disk_usage(passed).free * SHARE // (AHEAD * batch))
    return max(0, int(min(MOST, cores() - 1, *room)))


def cores() -> int:
    """Return how many cores this process may keep busy, of those that its machine's runs share.

    Example:
        >>> cores() >= 1
        True
    """
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, mine // max(1, beside))
