"""Measure what docs/scale.md starts from: speed on two cores, gradients, the order of samples.

Other work on the machine slows the wall clock, not the time of the processor: both are written.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crossd import convert
from crossd.conversion import registry
from crossd.data.opening import open_source
from crossd.training import devices, loop
from crossd.training.batches import ViewBatches
from crossd.training.checkpoints import keep
from crossd.training.loop import TrainConfig
from crossd.utils.processes import is_first

IMAGES, SIDE, BATCH = 400, 64, 32
RADIMAGENET = 1_350_000


def gradients() -> list[dict[str, Any]]:
    """Count the numbers that every process adds up in each step."""
    rows = []
    for name in ("resnet18", "resnet50"):
        plain = registry.build(name, "classification", 1, 11)
        cross = convert(registry.build(name, "classification", 1, 11), "projection")
        counts = [sum(p.numel() for p in net.parameters()) for net in (plain, cross)]
        norms = sum(isinstance(m, torch.nn.BatchNorm2d) for m in plain.modules())
        rows.append(
            {"network": name, "plain": counts[0], "projection": counts[1], "norms": norms,
             "bytes": 4 * counts[1], "ratio": counts[1] / counts[0]}
        )  # fmt: skip
    return rows


def order() -> dict[str, float]:
    """Time drawing the order of an epoch, which every process does by itself."""
    batches = ViewBatches(np.zeros(RADIMAGENET, np.int64), 64 * 256, 0, (3, 64))
    start = time.process_time()
    mine = list(batches)
    return {"images": RADIMAGENET, "batches": len(mine), "cpu_seconds": time.process_time() - start}


def checkpoint() -> dict[str, float]:
    """Time writing a checkpoint of a ResNet50, of which process 0 writes one an epoch."""
    net = convert(registry.build("resnet50", "classification", 1, 11), "projection")
    state = {str(i): net.state_dict() for i in range(4)}
    copied = {k: {n: v.clone() for n, v in one.items()} for k, one in state.items()}
    with tempfile.TemporaryDirectory() as folder:
        start, used = time.perf_counter(), time.process_time()
        keep(Path(folder), copied)
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    return {
        "bytes": size,
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - used,
    }


def speed(file: str, sync: bool) -> dict[str, Any]:
    """Time the second of two epochs of pretraining, in this process and those beside it."""
    marks: list[tuple[float, float]] = []

    def mark(epoch: int, epochs: int) -> None:
        marks.append((time.perf_counter(), time.process_time()))

    net = convert(registry.build("resnet18", "classification", 1, 3), "projection")
    config = TrainConfig(epochs=2, batch_size=BATCH, devices=1, sync_bn=sync)
    source = open_source(file)
    loop.fit(net, source, config, on_epoch=mark, validate=False)
    mark(2, 2)
    wall, used = (marks[2][i] - marks[1][i] for i in (0, 1))
    count = len(source.train)
    ranks = devices.share()[1]
    return {
        "ranks": ranks, "sync_bn": sync, "samples": count, "steps": -(-count // (BATCH * ranks)),
        "samples_per_second": count / wall, "samples_per_cpu_second": count / ranks / used,
    }  # fmt: skip


def measured(file: Path, ranks: int, sync: bool) -> dict[str, Any]:
    """Measure the speed in processes of their own, a thread each."""
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command = [sys.executable, "-m", *launcher, __file__, "--speed", str(file)]
    done = subprocess.run(
        [*command, *(["--sync-bn"] if sync else [])],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure everything, or, started by itself, the speed of one process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="benchmarks/results/scale.json", help="file to write")
    parser.add_argument("--speed", help=argparse.SUPPRESS)
    parser.add_argument("--sync-bn", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.speed:
        found = speed(args.speed, args.sync_bn)
        if is_first():
            print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "images.npz"
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (IMAGES, SIDE, SIDE), dtype=np.uint8)
        np.savez(file, images=images, labels=np.arange(IMAGES) % 3)
        speeds = [measured(file, *how) for how in ((1, False), (2, False), (2, True))]
    results = {
        "machine": {"processor": platform.processor() or platform.machine(),
                    "cores": os.cpu_count(), "torch": torch.__version__,
                    "load": os.getloadavg()[0]},
        "network": "resnet18, projection", "side": SIDE, "batch_size": BATCH,
        "speed": speeds, "gradients": gradients(), "order": order(), "checkpoint": checkpoint(),
    }  # fmt: skip
    Path(args.out).write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
