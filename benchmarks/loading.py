"""Measure what a loader gives beside the decoding of the same files alone.

For every kind of file the same images are read in as many plain processes, which decode and resize
them and throw them away, and through the loader of a training, which makes batches of them and
hands them over. Both are done in turn, several times. The target is a ratio of 0.9.

Where other work goes on, the clock says little: so the time of the processor that readers take for
an image is measured as well, and compared with that of decoding alone.
"""

import argparse
import io
import json
import multiprocessing
import os
import platform
import resource
import statistics
import tarfile
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn

from crossd.data.opening import open_source
from crossd.data.source import Source
from crossd.data.sources.image_files import read_image
from crossd.training.batches import Feed
from crossd.training.devices import seed_everything
from crossd.training.loop import TrainConfig
from crossd.training.workers import cores
from crossd.utils.atomic_files import atomic

TARGET = 0.9
KINDS = ("png", "jpeg")
SIDES = (64, 256, 512)


def picture(side: int, rng: np.random.Generator) -> Image.Image:
    """Draw an image with structure of several scales, so that it compresses as photographs do."""
    image = np.zeros((side, side, 3), np.float32)
    for scale in (4, 16, side):
        noise = rng.normal(0, 60 / scale**0.25, (min(scale, side),) * 2 + (3,)).astype(np.float32)
        for channel in range(3):
            plane = Image.fromarray(noise[:, :, channel]).resize(
                (side, side), Image.Resampling.BICUBIC
            )
            image[:, :, channel] += np.asarray(plane)
    return Image.fromarray((image + 128).clip(0, 255).astype(np.uint8))


def write(root: Path, kind: str, side: int, count: int, seed: int = 0) -> list[Path]:
    """Write class folders of images, many of the same few pictures; returns the files."""
    rng = np.random.default_rng(seed)
    contents = []
    for _ in range(16):
        stream = io.BytesIO()
        picture(side, rng).save(stream, kind, **({"quality": 90} if kind == "jpeg" else {}))
        contents.append(stream.getvalue())
    files = []
    for i in range(count):
        path = root / f"class_{i % 2}" / f"{seed}_{i:06d}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents[i % len(contents)])
        files.append(path)
    return files


def archived(files: Iterable[Path], root: Path, shards: int = 4) -> None:
    """Write the files into archives, each with its folder in its name."""
    listed = list(files)
    for shard in range(shards):
        with tarfile.open(root / f"{shard:03d}.tar", "w") as tar:
            for path in listed[shard::shards]:
                tar.add(path, f"{path.parent.name}/{path.name}")


def decode(files: list[Path], size: tuple[int, ...], start: Any) -> None:
    torch.set_num_threads(1)
    start.wait()
    for path in files:
        read_image([path], 3, size)


class Speed(NamedTuple):
    """Images a second by the clock, and milliseconds of the readers' processors an image."""

    rate: float
    spent: float


def processor(processes: int) -> float:
    """Return the seconds of this process, or of its children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN if processes else resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def alone(files: list[Path], size: tuple[int, ...], processes: int) -> Speed:
    """Measure plain processes that decode."""
    before, begin = processor(processes), time.perf_counter()
    if processes == 0:
        decode(files, size, multiprocessing.Barrier(1))
    else:
        begin = _apart(files, size, processes)
    taken = time.perf_counter() - begin
    return Speed(len(files) / taken, 1e3 * (processor(processes) - before) / len(files))


def _apart(files: list[Path], size: tuple[int, ...], processes: int) -> float:
    """Decode in processes; returns when they began."""
    context: Any = multiprocessing.get_context("fork" if "fork" in methods() else "spawn")
    start = context.Barrier(processes + 1)
    running = [
        context.Process(target=decode, args=(files[i::processes], size, start))
        for i in range(processes)
    ]
    for process in running:
        process.start()
    start.wait()
    begin = time.perf_counter()
    for process in running:
        process.join()
    return begin


def methods() -> list[str]:
    return multiprocessing.get_all_start_methods()


def loaded(source: Source, processes: int, batch: int) -> Speed:
    """Measure a training's loader, by the clock without the start of its processes."""
    before = processor(processes)
    config = TrainConfig(batch_size=batch, workers=processes, augment="none")
    feed = Feed(source, config, nn.Conv2d(3, 1, 1))
    pieces = feed.take(0, len(feed.loader))
    # The first batch of each process is there when it has started: they are not counted.
    first = sum(len(next(pieces).indices) for _ in range(max(1, processes)))
    begin = time.perf_counter()
    count = sum(len(piece.indices) for piece in pieces)
    taken = time.perf_counter() - begin
    return Speed(count / taken, 1e3 * (processor(processes) - before) / (first + count))


def measure(kind: str, side: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure one kind of file, as files and in archives."""
    rows = []
    target = (min(side, args.size),) * 2
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ["CROSSD_CACHE"] = str(root / "cache")
        files = write(root / "files", kind, side, args.count)
        (root / "tars").mkdir()
        archived(files, root / "tars")
        sources = {
            name: open_source(str(root / name), size=target, channels=3)
            for name in ("files", "tars")
        }
        for processes in args.workers:
            speeds: dict[str, list[Speed]] = {"alone": [], **{name: [] for name in sources}}
            for _ in range(args.rounds):
                speeds["alone"].append(alone(files, target, processes))
                for name, source in sources.items():
                    speeds[name].append(loaded(source, processes, args.batch))
            for name in sources:
                pairs = list(zip(speeds[name], speeds["alone"], strict=True))
                ratios = [loader.rate / decoding.rate for loader, decoding in pairs]
                rows.append(
                    {
                        "kind": kind,
                        "side": side,
                        "bytes": files[0].stat().st_size,
                        "size": target[0],
                        "from": name,
                        "workers": processes,
                        "decoding": round(statistics.median(s.rate for s in speeds["alone"]), 1),
                        "loader": round(statistics.median(s.rate for s in speeds[name]), 1),
                        "processor": round(
                            statistics.median(d.spent / loader.spent for loader, d in pairs), 3
                        ),
                        "ratio": round(statistics.median(ratios), 3),
                        "ratios": [round(ratio, 3) for ratio in ratios],
                    }
                )
                show(rows[-1])
    return rows


def show(row: dict[str, Any]) -> None:
    print(
        f"{row['kind']:<6}{row['side']:>5}{row['bytes']:>9,}{row['size']:>6}  {row['from']:<7}"
        f"{row['workers']:>7}{row['decoding']:>11,.0f}{row['loader']:>11,.0f}{row['ratio']:>8.2f}"
        f"{row['processor']:>11.2f}",
        flush=True,
    )


def main() -> None:
    """Measure, print the table, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kinds", default=",".join(KINDS), help="png, jpeg")
    parser.add_argument("--sides", default=",".join(map(str, SIDES)), help="of the files")
    parser.add_argument("--size", type=int, default=224, help="of the samples, at most (224)")
    parser.add_argument("--count", type=int, default=1024, help="files of a kind (1024)")
    parser.add_argument("--batch", type=int, default=32, help="images a batch (32)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (3)")
    parser.add_argument("--workers", default="", help="processes (0, and one a core less one)")
    parser.add_argument("--out", type=Path, help="folder for loading.json")
    args = parser.parse_args()
    chosen = args.workers or f"0,{max(1, cores() - 1)}"
    args.workers = sorted({int(text) for text in chosen.split(",")})
    seed_everything(0)
    torch.set_num_threads(1)
    print(f"{'kind':<6}{'side':>5}{'bytes':>9}{'size':>6}  {'from':<7}{'workers':>7}"
          f"{'decoding':>11}{'loader':>11}{'ratio':>8}{'processor':>11}   [images/s], "
          f"{cores()} cores")  # fmt: skip
    rows = [
        row
        for kind in args.kinds.split(",")
        for side in map(int, args.sides.split(","))
        for row in measure(kind, side, args)
    ]
    below = [row for row in rows if row["ratio"] < TARGET]
    print(f"{len(rows) - len(below)} of {len(rows)} at {TARGET} or more")
    if args.out:
        facts = {"cores": cores(), "python": platform.python_version(), "torch": torch.__version__}
        with atomic(args.out / "loading.json") as temporary:
            temporary.write_text(json.dumps({**facts, "target": TARGET, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
