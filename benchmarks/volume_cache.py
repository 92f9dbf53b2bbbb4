"""Time opening volumes and reading them for an epoch, with and without `--cache`.

Memory keeps no volume here, as when there are more than fit.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from crossd.data.disk_cache import DiskCache
from crossd.data.opening import open_source
from crossd.data.patches import Patches
from crossd.data.preprocessing import volume_dataset
from crossd.data.source import Given


def run(data: str, stored: DiskCache | None) -> dict[str, float]:
    """Open a source, and read a patch of every training volume."""
    took: dict[str, float] = {}
    start, used = time.perf_counter(), time.process_time()
    source = open_source(data, given=Given(stored=stored))
    took["open"], took["open_cpu"] = time.perf_counter() - start, time.process_time() - used
    patches = Patches(source.train, source.train.patch, 0)
    start, used = time.perf_counter(), time.process_time()
    for index in range(len(patches)):
        _ = patches[index]
    took["epoch"], took["epoch_cpu"] = time.perf_counter() - start, time.process_time() - used
    return {name: round(seconds, 2) for name, seconds in took.items()}


def main() -> None:
    """Measure without a cache, with an empty and with a full one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="a source of volumes that come as files")
    parser.add_argument("--out", default="benchmarks/results/volume-cache.json")
    args = parser.parse_args()
    volume_dataset.CACHE = 0.0
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, Any] = {"data": Path(args.data).name, "load": os.getloadavg()[0]}
        found["none"] = run(args.data, None)
        found["empty"] = run(args.data, DiskCache(Path(folder), 1e12))
        found["full"] = run(args.data, DiskCache(Path(folder), 1e12))
        found["bytes"] = sum(path.stat().st_size for path in Path(folder).iterdir())
    Path(args.out).write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
