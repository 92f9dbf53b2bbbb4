"""How far 3D kernels agree with the slices that taught them, on volumes as they are and distorted.

    python benchmarks/study/teaching.py --data FOLDER --sets adrenal,organ,fracture
    python benchmarks/study/teaching.py --data FOLDER --sets adrenal64 --start imagenet

Each is taught twice: on the volumes as they are, and with the augmentation that trainings have by
default (shift, brightness, contrast and noise). Both are asked about volumes as they are. Raw
results go to `results/teaching.json`.
"""

import argparse
import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arms import OURS, contest
from sets import STARTS, Study
from study import RESULTS, read_rows, scored, write_rows
from torch import Tensor, nn

from crossd.evaluation import ways
from crossd.evaluation.contest import Contest
from crossd.evaluation.ways import Place, Way
from crossd.training import validate
from crossd.training.teach import agreement

AUGMENTED = ("none", "light")


def networks(ready: Contest, place: Place) -> dict[str, nn.Module]:
    """Make the teacher, and the 3D kernels before and after they were taught."""
    return {
        "teacher": ways.network(ready, place, Way("slices", ways.taught_by(ready, place))),
        "untaught": ways.network(ready, place, Way("volume", "anew")),
        "volume": ways.network(ready, place, Way("volume", taught=True)),
        "orientations": ways.network(ready, place, Way("orientations", taught=True)),
    }


def said(net: nn.Module, ready: Contest) -> list[Tensor]:
    """Give the probabilities of every validation volume."""
    source = ready.source
    answers = validate.answers(net, source.val, ready.budget, source.task)
    return [one.float() for some, _ in answers for one in some]


def taught_once(study: Study, seed: int, augment: str) -> list[dict[str, Any]]:
    """Teach once, and say how far each network agrees with the teacher, and how good it is."""
    usual = contest(study, (OURS,))
    assert usual.teaching is not None
    keep = study.work / study.title / augment
    keep.mkdir(parents=True, exist_ok=True)
    taught = dataclasses.replace(usual.teaching, augment=augment)
    ready = dataclasses.replace(usual, teaching=taught, keep=keep)
    made = networks(ready, Place(OURS, 0, seed))
    right = said(made["teacher"], ready)
    rows = []
    for asked, net in made.items():
        same = agreement(ready.source.task, said(net, ready), right)
        found = {part: scores["auc"] for part, scores in scored(net, ready).items()}
        rows.append({"asked": asked, "agreement": round(float(np.mean(same)), 4), **found})
    return rows


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder of all sets")
    parser.add_argument("--sets", default="adrenal", help="separated by commas")
    parser.add_argument("--start", choices=STARTS, default="new", help="of 2D training")
    parser.add_argument("--seeds", default="0", help="separated by commas")
    parser.add_argument("--work", type=Path, default=Path("runs/study"), help="work in progress")
    parser.add_argument("--results", type=Path, default=RESULTS, help="raw results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    path = args.results / "teaching.json"
    rows = read_rows(path)
    every = itertools.product(args.sets.split(","), map(int, args.seeds.split(",")), AUGMENTED)
    for name, seed, augment in every:
        study = Study(args.data, name, args.work, start=args.start)
        mark = {"set": study.title, "seed": seed, "augment": augment}
        if any(mark.items() <= row.items() for row in rows):
            continue
        rows += [{**mark, **row} for row in taught_once(study, seed, augment)]
        write_rows(path, rows)


if __name__ == "__main__":
    main()
