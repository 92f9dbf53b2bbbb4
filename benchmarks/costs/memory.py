"""Peak memory of inference and of training steps, on a CPU in a process of its own."""

import concurrent.futures
import contextlib
import gc
import multiprocessing
from pathlib import Path

import torch
from given_back import give_back_memory

from costs.arms import built, fitting
from costs.cases import Case
from costs.timing import PASSES

STEPS = 3


def peaks(arm: str, case: Case, device: str, precision: str) -> dict[str, dict[str, float]]:
    """Measure the peaks of some steps of both passes [MiB].

    Returns:
        For each pass "mib", and "network_mib", which is without what was held before the network
        was built. On a CPU these are resident pages, libraries included; on a GPU what torch
        allocated.
    """
    if device == "cuda":
        return _peaks(arm, case, device, precision)
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, spawn) as pool:
        return pool.submit(_peaks, arm, case, device, precision).result()


def _peaks(arm: str, case: Case, device: str, precision: str) -> dict[str, dict[str, float]]:
    gc.collect()
    start = torch.cuda.memory_allocated() / 2**20 if device == "cuda" else _resident("VmRSS")
    net = built(arm, case).to(device)
    found = {}
    for what, make in PASSES.items():
        run = make(net, fitting(arm, case.batch_on(device)), precision)
        _forget_peak(device)
        for _ in range(STEPS):
            run()
        cuda = device == "cuda"
        peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else _resident("VmHWM")
        found[what] = {"mib": peak, "network_mib": peak - start}
    return found


def _forget_peak(device: str) -> None:
    """Start anew with the peak: building and converting a network is no part of its steps."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    give_back_memory()
    with contextlib.suppress(OSError):  # a sandbox may forbid it: then the peak includes building
        Path("/proc/self/clear_refs").write_text("5")


def _resident(what: str) -> float:
    """This process's resident memory [MiB]: "VmRSS" now, "VmHWM" at most so far.

    (`getrusage` would do, but a child's maximum starts at that of the process it was made from.)
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"no {what} in /proc/self/status")
