"""What every way of using an arm is worth without labelled volumes, on validation and test volumes.

    python benchmarks/study/each_way.py --data FOLDER --sets adrenal --arms projection,slices

A comparison scores the way alone that the validation volumes choose. This scores each, so that the
page of results can tell what was chosen, what would have been best, and why. Raw results go to
`results/ways-SET.json`; what is there already is not done again.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from arms import OURS, RIVALS, contest
from sets import SETS, Study
from study import RESULTS

from crossd.evaluation import ways
from crossd.evaluation.contest import Contest
from crossd.evaluation.ways import Place
from crossd.training import metrics, validate
from crossd.utils.atomic_files import atomic

KEPT = ("auc", "accuracy", "dice")
"""Scores that are kept."""


def score(ready: Contest, place: Place, way: ways.Way) -> dict[str, Any]:
    """Score a way of an arm on validation and test volumes."""
    start = time.perf_counter()
    net, source = ways.network(ready, place, way), ready.source
    row: dict[str, Any] = {"arm": place.arm, "seed": place.seed, "way": str(way)}
    for name in ("val", "test"):
        scores, outputs = validate.score(net, source, getattr(source, name), ready.budget)
        row[name] = {key: round(scores[key], 4) for key in KEPT if key in scores}
        if name == "test" and source.task == "classification":
            shares = metrics.area_by_case(*outputs)
            row["cases"] = [None if math.isnan(one) else round(float(one), 4) for one in shares]
    return row | {"seconds": round(time.perf_counter() - start, 1)}


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder of all sets")
    parser.add_argument("--sets", default=",".join(SETS), help="separated by commas")
    parser.add_argument("--arms", default=",".join((OURS, *RIVALS)), help="separated by commas")
    parser.add_argument("--seeds", default="0,1,2,3,4", help="separated by commas")
    parser.add_argument("--work", type=Path, default=Path("runs/study"), help="work in progress")
    parser.add_argument("--results", type=Path, default=RESULTS, help="raw results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.sets.split(","):
        study = Study(args.data, name, args.work)
        folder = args.work / study.title
        folder.mkdir(parents=True, exist_ok=True)
        path = args.results / f"ways-{study.title}.json"
        for seed in map(int, args.seeds.split(",")):
            for arm in args.arms.split(","):
                ready = contest(study, (arm,), folder)
                place = Place(arm, 0, seed)
                if not ready.arms[arm].answers:
                    continue
                for way in ways.every(ready, place):
                    rows = json.loads(path.read_text()) if path.is_file() else []
                    mark = (arm, seed, str(way))
                    if mark in {(row["arm"], row["seed"], row["way"]) for row in rows}:
                        continue
                    row = score(ready, place, way)
                    print({k: v for k, v in row.items() if k != "cases"}, flush=True)
                    with atomic(path) as temporary:
                        lines = ",\n".join(json.dumps(one) for one in [*rows, row])
                        temporary.write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
