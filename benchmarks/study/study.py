"""Which way from images to volumes is best: every way, set, protocol and number of labels, thrice.

    python benchmarks/study/study.py --data FOLDER                     all of it (hours; it goes on)
    python benchmarks/study/study.py --data FOLDER --sets organ --arms projection,slices
    python benchmarks/study/study.py --data FOLDER --row organ,projection,probe,50,0    one number

FOLDER holds `medmnist3d/NAME.npz` (organmnist3d, fracturemnist3d, adrenalmnist3d) and
`hippocampus/images` and `labels` (Medical Segmentation Decathlon, Task04); `brain` needs nothing.
Networks are small, so that two cores do it. Each seed has its own 2D training, labelled volumes and
order; all arms of a seed share them, the budget, and the recalibration of BatchNorm on the
unlabelled training volumes. Raw results go to `benchmarks/study/results`, one file a set, from
which `write.py` makes docs/results.md.
"""

import argparse
import concurrent.futures
import dataclasses
import functools
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from crossd import compare, models, train
from crossd.arms import ARMS as KNOWN
from crossd.checkpoint import WeightsConfig, load, save
from crossd.compare import Arm, Contest, Run
from crossd.conversion import convert, to_3d
from crossd.data import Source, as_images, open_source
from crossd.data.source import Sample, Samples, Subset, Wrapped
from crossd.data.splits import pick
from crossd.files import atomic
from crossd.kernels import view
from crossd.nn import CrossDConv
from crossd.progress import Progress
from crossd.slicenet import SliceNet

HERE = Path(__file__).parent
SETS = {
    "organ": "medmnist3d/organmnist3d.npz",
    "fracture": "medmnist3d/fracturemnist3d.npz",
    "adrenal": "medmnist3d/adrenalmnist3d.npz",
    "hippocampus": "hippocampus",
    "brain": "brain",
}
LIMITS = {
    "organ": (20, 50, 110, 971),
    "fracture": (10, 20, 50, 100, 1027),
    "adrenal": (10, 20, 50, 100, 1188),
    "hippocampus": (5, 10, 20, 50, 182),
    "brain": (4, 8),
}


@dataclasses.dataclass(frozen=True)
class Way:
    """How a network is trained on images.

    Attributes:
        mode: Kernel mode; None for the plain 2D network.
        lift: Where its new 2D weights start in the 3D kernels; None for new 3D kernels.
        views: "matched" to each slice, or drawn per "batch", "sample" or "layer".
        options: Of the kernel mode.
        after: Share of the epochs in which it was a plain network first.
    """

    mode: str | None = "projection"
    lift: str | None = "center"
    views: str = "matched"
    options: tuple[tuple[str, Any], ...] = ()
    after: float = 0.0


WAYS = {
    "plain": Way(None),
    "matched": Way(),
    "batch": Way(views="batch"),
    "sample": Way(views="sample"),
    "layer": Way(views="layer"),
    "fresh": Way(lift=None),
    "triplanar-start": Way(lift="triplanar"),
    "lifted": Way(after=0.5),
    "slice": Way("slice"),
    "slice-batch": Way("slice", views="batch"),
    "fourier": Way("fourier", None),
    "fourier-centred": Way("fourier", "center", options=(("offset", 0.0),)),
}


class Both(nn.Module):
    """What the 3D network says and what the same weights say of slices in their views, averaged."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.slices = SliceNet(net)
        self.solid = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Answer on volumes."""
        answers = [self.solid(x).softmax(1), self.slices(x).softmax(1)]
        return torch.stack(answers).mean(0).clamp_min(1e-8).log()


ARMS: dict[str, tuple[str | None, Callable[[Any], nn.Module]]] = {
    **{n: KNOWN[n] for n in ("scratch", "slices", "center", "inflate", "acs", "triplanar")},
    "projection": ("matched", to_3d),
    **{f"projection {w}": (w, to_3d) for w in ("batch", "sample", "layer", "fresh", "lifted")},
    "projection triplanar-start": ("triplanar-start", to_3d),
    "projection on slices": ("matched", SliceNet),
    "projection both": ("matched", Both),
    "slice": ("slice", to_3d),
    "slice batch": ("slice-batch", to_3d),
    "fourier": ("fourier", to_3d),
    "fourier aligned": ("fourier", functools.partial(to_3d, align=True)),
    "fourier centred": ("fourier-centred", to_3d),
}


class Viewed(Wrapped):
    """Slices that say another view than their own: none, or one drawn for each."""

    def __init__(self, samples: Samples, drawn: bool) -> None:
        super().__init__(samples)
        self.views = None
        self.drawn = drawn

    def _changed(self, sample: Sample) -> Sample:
        sample["view"] = int(torch.randint(3, ())) if self.drawn else -1
        return sample


def view_per_layer(net: nn.Module) -> nn.Module:
    """Let every layer draw a view of its own for every batch of images in training."""
    for module in net.modules():
        if isinstance(module, CrossDConv):
            module.forward = functools.partial(_in_any_view, module, module.forward)  # type: ignore[method-assign]
    return net


def _in_any_view(module: nn.Module, forward: Any, x: torch.Tensor) -> Any:
    with view("random" if module.training else "axial"):
        return forward(x)


@dataclasses.dataclass(frozen=True)
class Study:
    """Where the data are and where work in progress is kept.

    Attributes:
        data: The folder of all sets.
        name: Of the set.
        work: Folder for weights and records of runs.
        apart: Whether 2D training sees slices of other volumes than the labelled ones.
    """

    data: Path
    name: str
    work: Path
    apart: bool = False

    def volumes(self) -> Source:
        """Open the set; apart, with the second half of the training volumes."""
        return self._halves()[1]

    def images(self) -> Source:
        """Slices of the training volumes; apart, of the first half."""
        return as_images(self._halves()[0], None, None)

    def _halves(self) -> tuple[Source, Source]:
        spec = SETS[self.name]
        source = open_source(spec if spec == "brain" else str(self.data / spec))
        if not self.apart:
            return source, source
        labels = source.train.labels
        strata = np.zeros(len(source.train), np.int64) if labels is None else labels
        first = pick(strata, len(strata) // 2, seed=1)
        second = np.setdiff1d(np.arange(len(strata)), first)
        one, two = (
            dataclasses.replace(source, train=Subset(source.train, i)) for i in (first, second)
        )
        return one, two

    def weights(self, way: str, seed: int) -> Path:
        """The file of a 2D training."""
        return self.work / f"{self.name}{'-apart' if self.apart else ''}-{way}-{seed}.safetensors"


@dataclasses.dataclass(frozen=True)
class Options:
    """What the defaults of 2D training ask for."""

    seed: int
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    workers: int = 0
    precision: str = "32-true"
    checkpointing: bool = False


def pretrain(study: Study, way: str, seed: int) -> None:
    """Train on slices, and write the weights and what they are worth in 2D."""
    path = study.weights(way, seed)
    if path.is_file():
        return
    start = time.perf_counter()
    how, source = WAYS[way], study.images()
    masks = source.task == "segmentation"
    options = train.for_images(Options(seed), source.task)
    train.seed_everything(seed)
    net = models.build(
        models.DEFAULTS[source.task], source.task, source.channels, len(source.classes)
    )
    if how.after:
        first = max(1, round(how.after * options.epochs))
        before = dataclasses.replace(
            options, epochs=first, min_steps=round(how.after * options.min_steps)
        )
        train.fit(net, source, before, validate=False)
        options = dataclasses.replace(
            options,
            epochs=max(1, options.epochs - first),
            min_steps=options.min_steps - before.min_steps,
            lr=options.lr / 2,
        )
    if how.mode is not None:
        more: dict[str, Any] = dict(how.options)
        net = convert(net, how.mode, how.lift, **more)
    shown = source
    if how.views in ("batch", "sample"):
        shown = dataclasses.replace(source, train=Viewed(source.train, how.views == "sample"))
    if how.views == "layer":
        shown = dataclasses.replace(source, train=Viewed(source.train, False))
        net = view_per_layer(net)
    train.fit(net, shown, options, validate=False)
    for module in net.modules():
        module.__dict__.pop("forward", None)
    scores = train.score(net, source, source.test, options)[0]
    record = {"set": study.name, "way": way, "seed": seed, "apart": study.apart, "metrics": scores,
              "masks": masks, "seconds": round(time.perf_counter() - start, 1)}  # fmt: skip
    config = WeightsConfig(
        models.DEFAULTS[source.task], source.task, source.channels, source.classes,
        form="2d" if how.mode is None else "cross", kernel_mode=how.mode or "projection",
    )  # fmt: skip
    with atomic(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(record))
    save(net, path, config)


def start(study: Study, arm: str, seed: int) -> nn.Module:
    """Make an arm's network for volumes."""
    way, make = ARMS[arm]
    if way is None:
        source = study.volumes()
        train.seed_everything(seed)
        task = source.task
        net: Any = models.build(models.DEFAULTS[task], task, source.channels, len(source.classes))
    else:
        pretrain(study, way, seed)
        net = load(study.weights(way, seed))
    net = make(net)
    for module in net.modules():
        if isinstance(module, SliceNet) and SETS[study.name] in ("hippocampus", "brain"):
            module.count = 0
    return net


def contest(study: Study, arms: tuple[str, ...]) -> Contest:
    """Make the comparison of a set."""
    source = study.volumes()
    made = {
        arm: Arm(functools.partial(start, study, arm), answers=arm != "scratch", drawn=True)
        for arm in arms
    }
    return Contest(source, made, train.for_volumes(Volumes(), source.task))


@dataclasses.dataclass(frozen=True)
class Volumes:
    """What the defaults of training on labelled volumes ask for."""

    seed: int = 0
    epochs: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    lr: float = 1e-3
    precision: str = "bf16-mixed"  # for all arms alike; 1.9 times as fast on the CPU of the study


def study_set(study: Study, args: argparse.Namespace) -> None:
    """Do what is asked of one set, and write its raw results."""
    progress = Progress()
    arms = tuple(a for a in (args.arms.split(",") if args.arms else ARMS))
    ways = sorted({way for arm in arms if (way := ARMS[arm][0]) is not None})
    seeds = range(args.seeds)
    todo = [(w, s) for w in ways for s in seeds if not study.weights(w, s).is_file()]
    context = multiprocessing.get_context("spawn")
    with (
        concurrent.futures.ProcessPoolExecutor(
            args.jobs, context, torch.set_num_threads, (1,)
        ) as pool,
        progress.task(f"2D training, {study.name}", total=len(todo)) as bar,
    ):
        for _ in concurrent.futures.as_completed(
            [pool.submit(pretrain, study, way, seed) for way, seed in todo]
        ):
            bar.advance(1)
    limits = [int(n) for n in args.limits.split(",")] if args.limits else LIMITS[study.name]
    make = functools.partial(contest, study, arms)
    ready = make()
    limits = [n for n in limits if n <= len(ready.source.train)]
    runs = compare.plan(ready, args.protocols.split(","), limits, args.seeds)
    folder = study.work / f"{study.name}{'-apart' if study.apart else ''}"
    folder.mkdir(exist_ok=True)
    compare.contest_all(make, runs, folder, args.jobs, progress)
    collect(study, folder)


def collect(study: Study, folder: Path) -> None:
    """Gather all records of a set into its file of raw results."""
    rows = [json.loads(path.read_text()) for path in sorted(folder.glob("run-*.json"))]
    for row in rows:
        row.pop("cases")
        row.pop("loss")
        row["metrics"] = {name: round(value, 4) for name, value in row["metrics"].items()}
    prefix = f"{study.name}{'-apart' if study.apart else ''}-"
    flat = [
        json.loads(path.read_text())
        for path in sorted(study.work.glob(f"{prefix}*.json"))
        if study.apart or not path.name.startswith(f"{study.name}-apart")
    ]
    out = HERE / "results" / f"{study.name}{'-apart' if study.apart else ''}.json"
    out.parent.mkdir(exist_ok=True)
    with atomic(out) as temporary:
        lines = ",\n".join(json.dumps(row) for row in rows)
        images = ",\n".join(json.dumps(row) for row in flat)
        temporary.write_text(f'{{"rows": [\n{lines}\n], "images": [\n{images}\n]}}\n')


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder of all sets")
    parser.add_argument("--sets", default=",".join(SETS), help="separated by commas")
    parser.add_argument("--arms", default="", help="separated by commas (all)")
    parser.add_argument("--protocols", default="zero,probe,finetune")
    parser.add_argument("--limits", default="", help="labelled volumes (those of each set)")
    parser.add_argument("--seeds", type=int, default=3, help="repetitions (3)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--apart", action="store_true", help="slices of other volumes")
    parser.add_argument("--work", type=Path, default=Path("runs/study"), help="work in progress")
    parser.add_argument("--row", default="", help="one run: SET,ARM,PROTOCOL,LABELS,SEED")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    args.work.mkdir(parents=True, exist_ok=True)
    if args.row:
        name, arm, protocol, labels, seed = args.row.split(",")
        torch.set_num_threads(1)
        study = Study(args.data, name, args.work, args.apart)
        run = Run(arm, protocol, int(labels), 0, int(seed))
        record = compare.perform(contest(study, (arm,)), run)
        print(json.dumps({k: v for k, v in record.items() if k not in ("cases", "loss")}))
        return
    for name in args.sets.split(","):
        study_set(Study(args.data, name, args.work, args.apart), args)


if __name__ == "__main__":
    main()
