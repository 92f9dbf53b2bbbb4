"""Samples a second of whole trainings: `crossd pretrain` and `finetune` beside timm's and MONAI's.

Images: as many pictures are written into class folders as are asked for. They are decoded alone, in
as many processes as read for the trainings (`loading.py` has that, and the loader alone); then
`crossd pretrain`, of the plain 2D network and of the Cross-D one, and a loop of timm's parts
(`loops.py`) train on them with the same network and size of batches. Nothing is augmented, so that
all do the same to a picture.

Volumes: `crossd finetune` on NIfTI files with masks, beside a loop of MONAI's CacheDataset with the
same network, patches and random transforms.

Each training is a process of its own; its seconds are those of its steps and of its waiting for
samples, without its start and its validation. Rounds take turns, and a ratio is the median over
them. The seconds of processors are those of the whole process, with its start.

    python benchmarks/throughput.py --out benchmarks/results
"""

import argparse
import csv
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import loading
import nibabel as nib
import numpy as np
import torch
from whole import positive, some_counts

from crossd.training.workers import cores
from crossd.utils.atomic_files import atomic

HERE = Path(__file__).parent
GOAL = 0.95
CLASSES = 3
"""Of the masks of the volumes."""

Row = dict[str, Any]


def write_images(root: Path, args: argparse.Namespace) -> list[Path]:
    """Write the pictures to train on, and few to validate and to test; returns the first."""
    files = loading.write(root / "train", args.kind, args.size, args.count)
    for seed, part in enumerate(("val", "test"), start=1):
        loading.write(root / part, args.kind, args.size, 2 * args.batch, seed)
    return files


def write_volumes(root: Path, args: argparse.Namespace) -> Path:
    """Write volumes with masks of two balls, and a csv that divides them; returns the csv."""
    rng = np.random.default_rng(0)
    lines = []
    grid = np.indices((args.side,) * 3)
    for number in range(args.volumes + 2):
        mask = np.zeros((args.side,) * 3, np.uint8)
        for value in range(1, CLASSES):
            center = rng.uniform(0.3, 0.7, (3, 1, 1, 1)) * args.side
            mask[((grid - center) ** 2).sum(0) < (0.15 * args.side) ** 2] = value
        image = (300.0 * mask + rng.normal(1000, 50, mask.shape)).astype(np.int16)
        name = f"case_{number:04d}.nii.gz"
        for kind, array in (("images", image), ("labels", mask)):
            (root / kind).mkdir(parents=True, exist_ok=True)
            made: Any = nib.Nifti1Image(array, np.eye(4))
            made.to_filename(root / kind / name)
        split = {args.volumes: "val", args.volumes + 1: "test"}.get(number, "train")
        lines.append((f"images/{name}", f"labels/{name}", split))
    table = root / "cases.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([("image", "mask", "split"), *lines])
    return table


def run(command: Sequence[str], args: argparse.Namespace) -> tuple[str, float]:
    """Run a command of Python; returns what it printed, and the seconds of its processors."""
    variables = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    before = loading.processor(1)
    done = subprocess.run(
        [sys.executable, *command], env=variables, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout, loading.processor(1) - before


def crossd(command: str, out: Path, args: argparse.Namespace, **options: object) -> Row:
    """Train by a command of crossd; returns its samples a second, as its report has them."""
    given = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    shared = ["--augment=full" if command == "finetune" else "--augment=none", "--loggers=csv"]
    _, spent = run(["-m", "crossd", command, *given, *shared, f"--out={out}", "--overwrite"], args)
    text = (out / "report.md").read_text(encoding="utf-8")
    found = re.search(r"samples a second \| +([\d,.]+)", text)
    assert found is not None, f"{out}/report.md tells no samples a second"
    return {"rate": float(found[1].replace(",", "")), "processor": spent}


def other(whose: str, args: argparse.Namespace, **options: object) -> Row:
    """Train by a loop of others; returns its samples a second."""
    given = [f"--{name}={value}" for name, value in options.items()]
    said, spent = run([str(HERE / "loops.py"), whose, *given, f"--threads={args.threads}"], args)
    found = json.loads(said.strip().splitlines()[-1])
    return {"rate": found["samples"] / found["seconds"], "processor": spent}


def of_images(folder: Path, args: argparse.Namespace) -> list[Row]:
    """Measure the trainings on images, in turn."""
    root = folder / "images"
    files = write_images(root, args)
    torch.set_num_threads(1)
    rows = []
    for workers in args.workers:
        shared = {
            "data": root, "model": args.model, "size": args.size, "workers": workers,
            "epochs": args.epochs,
        }  # fmt: skip
        for number in range(args.rounds):
            alone = loading.alone(files, (args.size, args.size), workers)
            ways: dict[str, Row] = {
                "decoding alone": {"rate": alone.rate, "processor": alone.spent * len(files) / 1e3},
                "timm": other("timm", args, batch=args.batch, **shared),
            }
            for name, mode in (("crossd, plain 2D", "none"), ("crossd", "projection")):
                ways[name] = crossd(
                    "pretrain", folder / "2d", args, batch_size=args.batch, kernel_mode=mode,
                    **shared,
                )  # fmt: skip
            for way, found in ways.items():
                rows.append({"what": "images", "workers": workers, "round": number, "way": way,
                             **found})  # fmt: skip
                show(rows[-1])
    return rows


def of_volumes(folder: Path, args: argparse.Namespace) -> list[Row]:
    """Measure the trainings on volumes, in turn."""
    table = write_volumes(folder / "volumes", args)
    start = folder / "start"
    crossd(
        "pretrain", start, args, data=table, model=args.volume_model, epochs=1, limit=1, size=32,
        slice_step=args.side // 4,
    )  # fmt: skip
    rows = []
    for workers in args.workers:
        for number in range(args.rounds):
            shared = {"epochs": args.volume_epochs, "workers": workers}
            ours = crossd(
                "finetune", folder / "3d", args, data=table, batch_size=2, size=args.patch,
                weights=start / "weights.safetensors", **shared,
            )  # fmt: skip
            theirs = other(
                "monai", args, data=table.parent, model=args.volume_model, patch=args.patch,
                batch=2, count=args.volumes, classes=CLASSES, **shared,
            )  # fmt: skip
            for way, found in (("MONAI, CacheDataset", theirs), ("crossd", ours)):
                rows.append({"what": "volumes", "workers": workers, "round": number, "way": way,
                             **found})  # fmt: skip
                show(rows[-1])
    return rows


def show(row: Row) -> None:
    print(
        f"  {row['what']:<8}{row['workers']:>2} readers  {row['way']:<20}{row['rate']:>10.1f} a "
        f"second{row['processor']:>9.1f} s of processors",
        flush=True,
    )


def table(rows: Sequence[Row]) -> str:
    """Write the table: of each way the median of its samples a second, and of its ratios."""
    lines = [
        "| | readers | way | samples a second | of the rival's | goal |",
        "|---|---:|---|---:|---:|---|",
    ]
    rivals = {"images": "timm", "volumes": "MONAI, CacheDataset"}
    groups: dict[tuple[str, int, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["what"], row["workers"], row["way"]), []).append(row)
    for (what, workers, way), own in groups.items():
        rival = groups[what, workers, rivals[what]]
        ratio = statistics.median(
            a["rate"] / b["rate"] for a, b in zip(own, rival, strict=True)
        )  # of one round
        verdict = ""
        if way.startswith("crossd"):
            verdict = f"{GOAL}: {'met' if ratio >= GOAL else 'MISSED'}"
        rate = statistics.median(row["rate"] for row in own)
        lines.append(f"| {what} | {workers} | {way} | {rate:,.1f} | {ratio:.2f} | {verdict} |")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    one = parser.add_argument
    one("--parts", default="images,volumes", help="images, volumes")
    one("--count", type=positive, default=20_000, help="pictures (20000)")
    one("--kind", default="jpeg", choices=loading.KINDS, help="of the pictures (jpeg)")
    one("--size", type=positive, default=64, help="of the pictures and of the images (64)")
    one("--batch", type=positive, default=64, help="images a step (64)")
    one("--epochs", type=positive, default=1, help="passes over the pictures (1)")
    one("--model", default="test_resnet", help="network of timm for images (test_resnet)")
    one("--volumes", type=positive, default=16, help="volumes to train on (16)")
    one("--side", type=positive, default=96, help="of the volumes (96)")
    one("--patch", type=positive, default=64, help="side of the patches (64)")
    one("--volume-epochs", type=positive, default=5, help="passes over the volumes (5)")
    one("--volume-model", default="monai:SegResNet(init_filters=8, blocks_down=(1, 1, 1), "
        "blocks_up=(1, 1))", help="network of MONAI for volumes")  # fmt: skip
    one("--workers", type=some_counts, default="0,1", help="processes that read (0,1)")
    one("--threads", type=positive, default=cores(), help=f"of each training ({cores()})")
    one("--rounds", type=positive, default=3, help="of everything (3)")
    one("--out", type=Path, help="folder for throughput-images.json and throughput-volumes.json")
    args = parser.parse_args()
    args.parts = args.parts.split(",")
    if unknown := set(args.parts) - {"images", "volumes"}:
        parser.error(f"--parts {', '.join(sorted(unknown))}: must be images, volumes or both")
    return args


def main() -> None:
    """Measure, print the tables, and write them as JSON."""
    args = arguments()
    parts: Mapping[str, Any] = {"images": of_images, "volumes": of_volumes}
    with tempfile.TemporaryDirectory() as name:
        os.environ["CROSSD_CACHE"] = str(Path(name) / "cache")
        for part in args.parts:  # each has its file: both take half an hour
            rows = parts[part](Path(name), args)
            print(f"\n{table(rows)}", flush=True)
            if args.out:
                write_result(rows, args.out / f"throughput-{part}.json", args)


def write_result(rows: Sequence[Row], path: Path, args: argparse.Namespace) -> None:
    """Write what was measured, and on what."""
    about = {"cores": cores(), "torch": torch.__version__, "python": platform.python_version(),
             "load": os.getloadavg()[0]}  # fmt: skip
    told = {name: value for name, value in vars(args).items() if name not in ("out", "parts")}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        temporary.write_text(json.dumps({**about, **told, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
