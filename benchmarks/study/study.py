"""Which way from images to volumes is best: every way, set, protocol and number of labels, thrice.

    python benchmarks/study/study.py --data FOLDER               all of it (hours; it goes on)
    python benchmarks/study/study.py --data FOLDER --sets organ --arms projection,slices
    python benchmarks/study/study.py --data FOLDER --row organ,projection,zero,0,0

FOLDER holds `medmnist3d/NAME.npz` (organmnist3d, fracturemnist3d, adrenalmnist3d), `hippocampus/`
with `images` and `labels` (Medical Segmentation Decathlon, Task04) and `mednist/mednist_64.npz`;
`brain` needs nothing. Networks are small, so that two cores do it. Each seed has its own 2D
training, labelled volumes and order; all arms of a seed share them, the budget, and the
recalibration of BatchNorm on the unlabelled training volumes. Raw results go to
`benchmarks/study/results`, one file a set, from which `write.py` makes docs/results.md.
"""

import argparse
import concurrent.futures
import dataclasses
import functools
import json
import multiprocessing
import os
from pathlib import Path

import torch
from arms import ARMS, RIVALS, contest
from sets import IMAGES, LIMITS, SETS, Study
from trainings import pretrain

from crossd.evaluation import experiment
from crossd.evaluation.experiment import Run
from crossd.utils.atomic_files import atomic
from crossd.utils.progress import Progress

RESULTS = Path(__file__).parent / "results"


def study_set(study: Study, args: argparse.Namespace) -> None:
    """Do what is asked of one set and is not among its raw results yet, and add it to them."""
    progress = Progress()
    arms = tuple(args.arms.split(",") if args.arms else ("projection", *RIVALS))
    limits = [int(n) for n in args.limits.split(",")] if args.limits else LIMITS[study.name]
    folder = study.work / study.title
    folder.mkdir(exist_ok=True)
    make = functools.partial(contest, study, arms, folder)
    ready = make()
    limits = [n for n in limits if n <= len(ready.source.train)]
    runs = experiment.plan(ready, args.protocols.split(","), limits, args.first + args.seeds)
    runs = [run for run in runs if run.trial >= args.first]
    put_back(args.results / f"{study.title}.json", study, folder)
    todo = [run for run in runs if not (folder / run.file).is_file()]
    needed = {(way, run.trial) for run in todo if (way := ARMS[run.arm].way) is not None}
    pretrain_all(study, sorted(needed), args.jobs, progress)
    try:
        experiment.contest_all(make, todo, folder, args.jobs, progress, ready)
    finally:
        collect(study, folder, args.results)


def pretrain_all(
    study: Study, needed: list[tuple[str, int]], jobs: int, progress: Progress
) -> None:
    """Train in 2D what is not there yet, each way and seed in a process of its own."""
    todo = [(way, seed) for way, seed in needed if not study.weights(way, seed).is_file()]
    context = multiprocessing.get_context("spawn")
    with (
        concurrent.futures.ProcessPoolExecutor(jobs, context, torch.set_num_threads, (1,)) as pool,
        progress.task(f"2D training, {study.title}", total=len(todo)) as bar,
    ):
        pending = [pool.submit(pretrain, study, way, seed) for way, seed in todo]
        for one in concurrent.futures.as_completed(pending):
            one.result()
            bar.advance(1)


def put_back(path: Path, study: Study, folder: Path) -> None:
    """Write the records that the raw results hold to the folder of work in progress."""
    if not path.is_file():
        return
    raw = json.loads(path.read_text())
    for row in raw["rows"]:
        run = Run(*(row[field.name] for field in dataclasses.fields(Run)))
        if not (folder / run.file).is_file():
            (folder / run.file).write_text(json.dumps(row))
    for row in raw["images"]:
        file = study.weights(row["way"], row["seed"]).with_suffix(".json")
        if not file.is_file():
            file.write_text(json.dumps(row))


def collect(study: Study, folder: Path, results: Path) -> None:
    """Gather all records of a set into its file of raw results."""
    rows = [json.loads(path.read_text()) for path in sorted(folder.glob("run-*.json"))]
    for row in rows:
        row.pop("history", None)
        row["metrics"] = {name: round(value, 4) for name, value in row["metrics"].items()}
    flat = [json.loads(p.read_text()) for p in sorted(study.work.glob(f"{study.title}--*.json"))]
    results.mkdir(exist_ok=True)
    with atomic(results / f"{study.title}.json") as temporary:
        lines = ",\n".join(json.dumps(row) for row in rows)
        images = ",\n".join(json.dumps(row) for row in flat)
        temporary.write_text(f'{{"rows": [\n{lines}\n], "images": [\n{images}\n]}}\n')


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder of all sets")
    parser.add_argument("--sets", default=",".join(SETS), help="separated by commas")
    parser.add_argument("--images", choices=IMAGES, default="own", help="of 2D training")
    parser.add_argument("--arms", default="", help="separated by commas (projection and rivals)")
    parser.add_argument("--protocols", default="zero,probe,finetune")
    parser.add_argument("--limits", default="", help="labelled volumes (those of each set)")
    parser.add_argument("--seeds", type=int, default=3, help="repetitions (3)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (0)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--work", type=Path, default=Path("runs/study"), help="work in progress")
    parser.add_argument("--results", type=Path, default=RESULTS, help="raw results")
    parser.add_argument("--row", default="", help="one run: SET,ARM,PROTOCOL,LABELS,SEED")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    args.work.mkdir(parents=True, exist_ok=True)
    if args.row:
        name, arm, protocol, labels, seed = args.row.split(",")
        torch.set_num_threads(1)
        study = Study(args.data, name, args.work, args.images)
        run = Run(arm, protocol, int(labels), 0, int(seed))
        record = experiment.perform(contest(study, (arm,)), run)
        print(json.dumps({k: v for k, v in record.items() if k not in ("cases", "history")}))
        return
    for name in args.sets.split(","):
        study_set(Study(args.data, name, args.work, args.images), args)


if __name__ == "__main__":
    main()
