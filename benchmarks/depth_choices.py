"""What conversion decides without being told, measured: attention and the ends of depth.

Networks that were trained on slices alone answer on the test volumes, without a label, under
every choice. Training on images knows none of them, so that each network is trained once:

    crossd transfer --volumes organmnist3d.npz --images organmnist3d.npz --protocols zero \\
        --arms projection --seed 0 --out runs/organs-0
    python benchmarks/depth_choices.py organmnist3d.npz runs/organs-*/pretrained-projection.*
"""

import argparse
import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file

from crossd.data.opening import open_source
from crossd.evaluation import protocols
from crossd.inference.slice_ensemble import answering
from crossd.training import validate
from crossd.training.loop import TrainConfig
from crossd.weights.weights_file import read_config

CHOICES: dict[str, tuple[str, ...]] = {
    "attention": ("volume", "slice"),
    "depth_padding": ("zeros", "replicate"),
}


def main() -> None:
    """Score every network under every choice; print the means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="labelled volumes, as crossd transfer takes them")
    parser.add_argument("weights", nargs="+", help="networks trained on slices, one of each seed")
    parser.add_argument("--choice", choices=tuple(CHOICES), action="append")
    parser.add_argument("--out", help="a JSON file with the scores of every network")
    args = parser.parse_args()
    asked = {name: CHOICES[name] for name in args.choice or CHOICES}
    found: dict[str, list[dict[str, float]]] = {}
    for path in args.weights:
        config = read_config(path)
        source = open_source(args.data, channels=config.in_channels)
        budget = TrainConfig()
        for chosen in itertools.product(*asked.values()):
            decided = {**(config.decided or {}), **dict(zip(asked, chosen, strict=True))}
            net: Any = dataclasses.replace(config, decided=decided).build()
            net.load_state_dict(load_file(path))
            validate.recalibrate(net, source.train, budget)
            for answer in ("volume", "orientations"):
                asking = answering(net, answer, config.task)
                scores = protocols.apply("zero", asking, source, budget).scores
                found.setdefault(", ".join((*chosen, answer)), []).append(scores)
    for name, rows in found.items():
        means = {score: np.mean([row[score] for row in rows]) for score in rows[0]}
        print(f"{name:<32} " + "  ".join(f"{score} {mean:.3f}" for score, mean in means.items()))
        print(f"{'':<32} each: {' '.join(f'{next(iter(row.values())):.3f}' for row in rows)}")
    if args.out:
        Path(args.out).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
