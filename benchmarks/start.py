"""How long it takes to begin: importing and converting, and a whole `crossd predict` of one volume.

Every number is the median of fresh processes. Seconds are those of the clock; those of the
processor, which other work on the machine changes less, stand beside them. Building the network is
not counted.

    python benchmarks/start.py --runs 5
"""

import argparse
import functools
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from whole import positive

NETWORKS = {
    "ResNet50": "from torchvision.models import resnet50; net = resnet50()",
    "ViT-B/16": "import timm; net = timm.create_model('vit_base_patch16_224')",
    "SegResNet": "from monai.networks.nets.segresnet import SegResNet; net = SegResNet(2)",
}
CONVERT = """
import resource, time
{build}
start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
import crossd
crossd.convert(net)
after = resource.getrusage(resource.RUSAGE_SELF)
used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
print(time.perf_counter() - start, used)
"""
PREPARE = """
import numpy as np, crossd, nibabel, timm
net = timm.create_model("resnet18", num_classes=11, in_chans=1)
classes = tuple("abcdefghijk")
config = crossd.WeightsConfig("resnet18", "classification", 1, classes, size=(32, 64, 64))
crossd.save(crossd.convert(net), "weights.safetensors", config)
volume = np.random.default_rng(0).normal(size=(64, 64, 32)).astype(np.float32)
nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), "volume.nii.gz")
"""
GOALS = {**{f"convert {name}": 1.0 for name in NETWORKS}, "crossd predict": 6.0}
"""Seconds of the clock on two idle cores."""


def converting(build: str) -> tuple[float, float]:
    """Import crossd and convert in a fresh process; returns seconds of clock and processor."""
    command = [sys.executable, "-c", CONVERT.format(build=build)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    clock, processor = printed.split()[-2:]
    return float(clock), float(processor)


def predicting(folder: Path) -> tuple[float, float]:
    """Run `crossd predict` from typing to the file; returns seconds of clock and processor."""
    options = ["--weights", "weights.safetensors", "--input", "volume.nii.gz", "--out", "answers"]
    command = [sys.executable, "-m", "crossd", "predict", *options, "--overwrite"]
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, cwd=folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, used


def main() -> None:
    """Measure in turn, so that other work on the machine slows all alike, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=positive, default=5, help="fresh processes of each (5)")
    parser.add_argument("--only", choices=GOALS, help="one of them alone")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        runs: dict[str, Callable[[], tuple[float, float]]] = {
            f"convert {name}": functools.partial(converting, build)
            for name, build in NETWORKS.items()
        }
        runs["crossd predict"] = functools.partial(predicting, folder)
        runs = {name: run for name, run in runs.items() if args.only in (None, name)}
        if "crossd predict" in runs:
            subprocess.run([sys.executable, "-c", PREPARE], check=True, cwd=folder)
        turns = [{name: run() for name, run in runs.items()} for _ in range(args.runs)]
    print(f"{os.cpu_count()} cores, median of {args.runs} fresh processes")
    print("| | goal [s] | measured [s] | of the processor [s] |")
    print("|---|---:|---:|---:|")
    for name in runs:
        clock, used = zip(*(turn[name] for turn in turns), strict=True)
        numbers = f"{statistics.median(clock):.1f} | {statistics.median(used):.1f}"
        print(f"| {name} | {GOALS[name]:g} | {numbers} |")


if __name__ == "__main__":
    main()
