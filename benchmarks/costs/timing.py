"""Time of inference and of training steps, in rounds in which every arm has its turn."""

import contextlib
import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

FEWEST, MOST = 5, 25
"""Rounds of a case."""

Run = Callable[[], None]


def inference(net: nn.Module, x: Tensor, precision: str) -> Run:
    """Make a function that answers on a batch, without gradients."""

    def run() -> None:
        net.eval()
        with torch.inference_mode(), _precision(x.device, precision):
            net(x)

    return run


def training_step(net: nn.Module, x: Tensor, precision: str) -> Run:
    """Make a function that runs forward, backward and a step of SGD."""
    optimizer = torch.optim.SGD(net.parameters(), 1e-3)
    x = x.detach().requires_grad_(x.requires_grad)

    def run() -> None:
        net.train()
        optimizer.zero_grad()
        x.grad = None
        with _precision(x.device, precision):
            loss = net(x).float().square().mean()
        loss.backward()
        optimizer.step()

    return run


PASSES = {"inference": inference, "training step": training_step}


def _precision(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    kinds = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    kind = kinds.get(precision)
    return torch.autocast(device.type, kind) if kind else contextlib.nullcontext()


def warmed_up(run: Run, device: str) -> Run:
    """Run it for the first time, where it fails if it does."""
    run()
    _wait(device)
    return run


def timed(runs: Mapping[str, Run], seconds: float, device: str) -> list[dict[str, Any]]:
    """Time functions that are warm, in rounds; the order within a round is drawn.

    Args:
        runs: By name; "plain", if there, is what the others are compared with in the same round.
        seconds: For all rounds together, beyond the fewest. The FFT has the fewest, and its time is
            not counted.
        device: Where they run.

    Returns:
        A row for each: "arm", median time "ms", "ratio" (median, None without "plain"), its
        quartiles "low" and "high", and the number of "rounds".
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    order, draw = list(runs), random.Random(0)
    for turn in range(MOST):
        if turn >= FEWEST and _spent(times) > seconds:
            break
        draw.shuffle(order)
        for name in order:
            if name == "fft" and turn >= FEWEST:
                continue
            begin = time.perf_counter()
            runs[name]()
            _wait(device)
            times[name].append(time.perf_counter() - begin)
    return [
        {
            "arm": name,
            "ms": 1000 * statistics.median(own),
            "rounds": len(own),
            **_ratios(own, times.get("plain")),
        }
        for name, own in times.items()
    ]


def _spent(times: Mapping[str, list[float]]) -> float:
    return sum(sum(own) for name, own in times.items() if name != "fft")


def _ratios(own: list[float], plain: list[float] | None) -> dict[str, float | None]:
    if plain is None:
        return {"ratio": None, "low": None, "high": None}
    ratios = [a / b for a, b in zip(own, plain, strict=False)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return {"ratio": middle, "low": low, "high": high}


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
