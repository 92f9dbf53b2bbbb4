"""`crossd evaluate`: how good masks and labels are, case by case."""

import csv
import dataclasses
import io
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crossd.cli.opening import as_trained, known
from crossd.cli.options import EvaluateConfig
from crossd.data.io.agreement import IGNORED, as_classes, in_same_place, require_one_number
from crossd.data.io.read import read_header
from crossd.data.opening import open_source
from crossd.data.source import Source
from crossd.data.sources.case_files import Entry, read_image, read_mask, values_of
from crossd.data.sources.case_source import entries_of
from crossd.data.sources.known_in_part import hidden
from crossd.data.splits import SPLITS
from crossd.errors import InputError
from crossd.evaluation import statistics
from crossd.inference import given_masks, predictor
from crossd.inference.slice_ensemble import answering
from crossd.reports import html, markdown, pictures, shown_cases, truth_plots
from crossd.reports.slice_viewer import Case
from crossd.tasks import task_of, with_units
from crossd.training import devices, loop, metrics, validate
from crossd.utils.atomic_files import atomic
from crossd.utils.option_values import choice, unused
from crossd.utils.progress import Progress
from crossd.utils.run_folder import claim_folder
from crossd.weights.weights_file import WeightsConfig, load, read_config, require_rank

MEASURES: tuple[Literal["dice", "hd95", "nsd"], ...] = ("dice", "hd95", "nsd")

WORST = 3
"""Cases that are pictured."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """A mask and the true one, in the grid of the true one.

    Attributes:
        name: Of the case.
        guess: Classes, uint8, ``(D, H, W)`` or ``(H, W)``.
        truth: Classes, of the same shape; `IGNORED` where they are not known.
        spacing: Size of a voxel in the order of the axes [mm]; None where it is unknown.
        image: What to picture, of the same shape.
    """

    name: str
    guess: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    spacing: tuple[float, ...] | None
    image: NDArray[np.float32]

    @property
    def known(self) -> NDArray[np.bool_]:
        """Where the truth is known."""
        return self.truth != IGNORED


Score = TypedDict(
    "Score",
    {
        "case": str,
        "class": str,
        "dice": float | None,
        "hd95": float | None,
        "nsd": float | None,
        "ml": float,
        "true_ml": float,
    },
)
"""How good a mask is in one class; see `score`."""


def evaluate(config: EvaluateConfig, progress: Progress) -> str:
    """Score samples and write the report; returns what to print.

    Raises:
        InputError: When options and data do not go together, or a file cannot be read.
    """
    if {config.protocol, config.baselines, config.model} != {None}:
        from crossd.cli.comparison import comparison

        why = "is not for a comparison, which scores the test part: leave out --protocol"
        unused(config, _OF_SCORES, why)
        return comparison(config, progress)
    why = "is for a comparison: give --model, --protocol or --baselines too"
    unused(config, _OF_COMPARISONS, why)
    choice(config.part, ("train", "val", "test"), "--part")
    if (config.weights is None) == (config.predictions is None):
        raise InputError("give either --weights or --predictions")
    if not config.tolerance >= 0:
        raise InputError(f"--tolerance (={config.tolerance}) must be at least 0 mm")
    start = time.perf_counter()
    if config.weights is None:
        source = open_source(config.data, seed=config.seed, given=known(config), progress=progress)
        net, weights = None, None
    else:
        weights = read_config(config.weights)
        net = answering(load(config.weights), config.answer or weights.answer, weights.task)
        source = as_trained(config, weights, progress)
        if source.rank == 2 or (config.answer or weights.answer) == "volume":
            require_rank(weights, source.rank, config.data)
    if not task_of(source.task).masks:
        if net is None:
            raise InputError(
                f"--predictions are masks, but {config.data} has {task_of(source.task).goal}"
            )
        return _labels(config, source, net, progress, start)
    return _masks(config, source, net, weights, progress, start)


_OF_SCORES = ("predictions", "part", "flips", "tolerance")

_OF_COMPARISONS = (
    "pretrained",
    "arms",
    "plain",
    "teach",
    "limit",
    "folds",
    "trials",
    "size",
    "epochs",
    "steps",
    "batch_size",
    "lr",
    "workers",
    "resume",
)


def _masks(
    config: EvaluateConfig,
    source: Source,
    net: nn.Module | None,
    weights: WeightsConfig | None,
    progress: Progress,
    start: float,
) -> str:

    samples = getattr(source, config.part)
    given = () if net is not None else _given_masks(config, source, progress)
    folder = claim_folder(config, resumable=False)
    rows: list[Score] = []
    worst: list[tuple[float, Pair, list[Score]]] = []
    best: list[tuple[float, Case]] = []
    known, voxels = 0, 0
    begun = time.perf_counter()
    with progress.task("evaluating", total=len(samples)) as bar:
        for pair in _pairs(config, source, net, weights, given):
            known, voxels = known + int(pair.known.sum()), voxels + pair.truth.size
            scored = score(pair, source.classes, config.tolerance)
            rows += scored
            found = [row["dice"] for row in scored if row["dice"] is not None]
            value = float(np.mean(found)) if found else 1.0
            worst.append((value, pair, scored))
            worst = sorted(worst, key=lambda one: one[0])[:WORST]
            if len(best) < WORST or best[-1][0] < value:
                best.append((value, _case(pair, source.classes, scored, shown_cases.BEST)))
                best = sorted(best, key=lambda one: -one[0])[:WORST]
            bar.advance(1)
    spent = time.perf_counter() - begun
    summary = summarise(rows, source.classes)
    shown = []
    for number, (value, pair, _) in enumerate(worst, start=1):
        picture = f"worst-{number}.png"
        shown.append({"case": pair.name, "dice": value, "picture": picture})
        pictures.answer(
            pair.image,
            pair.truth,
            pair.guess,
            source.classes,
            folder / picture,
            dice=value,
            spacing=pair.spacing,
            title=pair.name,
        )
    cases = [_case(pair, source.classes, scored, shown_cases.WORST) for _, pair, scored in worst]
    names = {case.name for case in cases}
    cases += [case for _, case in best if case.name not in names]
    told: dict[str, object] = {"metrics": summary, "worst": shown}
    over = ""
    if known < voxels:
        told["known"] = known / voxels
        over = f", over the {100 * known / voxels:.2g}% of the voxels that are known"
        if source.ignore is not None and not any(row["true_ml"] for row in rows):
            told["hidden"] = hidden(source.ignore)
            over += f"; no true mask shows a class: {told['hidden']}"
    _write(config, source, rows, told, cases, start, spent)
    first = summary["mean"]
    return (
        f"{len(samples):,} {config.part} samples: dice {_text(first['dice'])}, "
        f"HD95 {_text(first['hd95'], ' mm')}, NSD {_text(first['nsd'])}{over}\n"
        f"written: {folder}/report.html, report.md, cases.csv, metrics.json and pictures"
    )


def _pairs(
    config: EvaluateConfig,
    source: Source,
    net: nn.Module | None,
    weights: WeightsConfig | None,
    given: Sequence[Path],
) -> Iterator[Pair]:
    """Yield the mask and the true mask of every sample: of files in their own grid."""
    samples = getattr(source, config.part)
    fabric = devices.single_device(config.precision)
    entries = entries_of(samples)
    if net is None:
        for entry, path in zip(entries or (), given, strict=True):
            yield _pair(entry, _read_guess(entry, path, source.values), source.values)
    elif entries is not None:
        assert weights is not None
        net.to(fabric.device)
        for entry in entries:
            guess = predictor.segment(net, entry, weights, fabric, config.flips)
            yield _pair(entry, guess, source.values)
    else:
        options = loop.TrainConfig(batch_size=1, precision=config.precision)
        for number, (answer, batch) in enumerate(
            validate.answers(net, samples, options, source.task)
        ):
            yield Pair(
                str(number),
                answer[0].to(torch.uint8).cpu().numpy(),
                batch["mask"][0].to(torch.uint8).cpu().numpy(),
                source.spacing,
                batch["image"][0, 0].cpu().numpy(),
            )


def _pair(entry: Entry, guess: NDArray[np.uint8], values: Sequence[int]) -> Pair:
    truth = read_mask(entry, values)
    return Pair(entry.case.name, guess, truth, entry.images[0].spacing, read_image(entry)[0])


def _given_masks(config: EvaluateConfig, source: Source, progress: Progress) -> list[Path]:
    """Find the masks that were made of the samples, all before any is read."""
    parts = {part: entries_of(getattr(source, part)) for part in SPLITS}
    entries = parts.pop(config.part)
    if entries is None:
        raise InputError(f"--predictions are for volumes that come as files: {config.data}")
    others = {entry.case.name for own in parts.values() for entry in own or ()}
    folder = Path(str(config.predictions)).expanduser()
    return given_masks.find(folder, [entry.case for entry in entries], others, progress.say)


def _read_guess(entry: Entry, path: Path, values: Sequence[int]) -> NDArray[np.uint8]:
    """Read the mask that was made of a case."""
    header = read_header(path)
    first = entry.images[0]
    if entry.case.spacing is not None:  # of a csv, while masks lie where their volume's file says
        first = read_header(entry.case.images[0])
    header = in_same_place(first, header, "image and mask")
    require_one_number(header)
    return as_classes(values_of(header), values, header.path)


def score(pair: Pair, classes: Sequence[str], tolerance: float) -> list[Score]:
    """Score every class but the background of one mask.

    Args:
        pair: The masks.
        classes: Names, the background first.
        tolerance: Distance of surfaces that counts as none [mm].

    Returns:
        A record a class: ``dice`` (0 when only one of the masks has the class, None when none has),
        ``hd95`` [mm] and ``nsd`` (None without two surfaces; nsd is 0 with one), and the volumes
        ``ml`` and ``true_ml``. All of what is known; see `crossd.training.metrics.surfaces`.
    """
    spacing = pair.spacing or (1.0,) * pair.truth.ndim
    voxel = float(np.prod(spacing)) / 1000
    rows: list[Score] = []
    known = pair.known
    whole = bool(known.all())
    for k, name in enumerate(classes[1:], start=1):
        guess, truth = (pair.guess == k) & known, pair.truth == k
        found = metrics.surfaces(guess, truth, spacing, tolerance, None if whole else known)
        rows.append(
            {
                "case": pair.name,
                "class": name,
                "dice": found["dice"],
                "hd95": found["hd95"],
                "nsd": found["nsd"],
                "ml": float(guess.sum() * voxel),
                "true_ml": float(truth.sum() * voxel),
            }
        )
    return rows


def summarise(rows: Sequence[Score], classes: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Average the records of `score` over cases, for each class and over classes.

    Returns:
        For each class, and under "mean", the mean of each measure over the cases that have it, with
        its standard deviation over cases under ``dice_sd``; and the number of cases, of those where
        the class was missed and of those where it was found but is not there.
    """
    out: dict[str, dict[str, float | None]] = {}
    for name in classes[1:]:
        own = [row for row in rows if row["class"] == name]
        out[name] = {key: _mean(row[key] for row in own) for key in MEASURES}
        dices = [row["dice"] for row in own if row["dice"] is not None]
        out[name]["dice_sd"] = float(np.std(dices, ddof=1)) if len(dices) > 1 else None
        out[name]["volume_error_ml"] = _mean(abs(row["ml"] - row["true_ml"]) for row in own)
        out[name]["cases"] = sum(row["true_ml"] > 0 for row in own)
        out[name]["missed"] = sum(row["true_ml"] > 0 and row["ml"] == 0 for row in own)
        out[name]["invented"] = sum(row["true_ml"] == 0 and row["ml"] > 0 for row in own)
    out["mean"] = {key: _mean(out[n][key] for n in classes[1:]) for key in MEASURES}
    return out


def _mean(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return float(np.mean(found)) if found else None


def _case(pair: Pair, classes: Sequence[str], scored: Sequence[Score], group: str) -> Case:
    dices = np.array([row["dice"] for row in scored], float)  # None becomes NaN
    return shown_cases.segmented(
        pair.name,
        group,
        pair.image,
        pair.truth,
        {"prediction": pair.guess},
        classes,
        pair.spacing,
        {"prediction": dices},
    )


def _labels(
    config: EvaluateConfig, source: Source, net: nn.Module, progress: Progress, start: float
) -> str:
    samples = getattr(source, config.part)
    folder = claim_folder(config, resumable=False)
    options = loop.TrainConfig(batch_size=8, precision=config.precision)
    begun = time.perf_counter()
    scores, outputs = validate.score(net, source, samples, options)
    spent = time.perf_counter() - begun
    rows = [
        {"case": samples.case(index), **_row(source, said, truth)}
        for index, (said, truth) in enumerate(zip(*outputs, strict=True))
    ]
    cases = shown_cases.of_scored(net, source, samples, outputs, options)
    drawn = truth_plots.draw(source, outputs, folder)
    ends = _interval(source, outputs)
    found = {"metrics": scores, "drawn": drawn, "interval": ends}
    _write(config, source, rows, found, cases, start, spent)
    main = task_of(source.task).main
    sure = "" if ends is None else f" (95 % interval of {main} {ends[0]:.3f} to {ends[1]:.3f})"
    return (
        f"{len(samples):,} {config.part} samples: {validate.describe(scores, source.task)}{sure}\n"
        f"written: {folder}/report.html, report.md, cases.csv, metrics.json and pictures"
    )


def _interval(source: Source, outputs: Sequence[Tensor]) -> statistics.Interval | None:
    """Give the interval of the main score over samples; None where they tell none."""
    said, truth = outputs
    if source.task == "classification":
        ends = statistics.interval_over_cases(metrics.area_by_case(said, truth))
    else:
        ends = statistics.bootstrap(
            lambda places: metrics.main(source.task, said[places], truth[places]), len(truth)
        )
    return statistics.within(ends, task_of(source.task).main)


def _row(source: Source, said: Tensor, truth: Tensor) -> dict[str, object]:
    """Write the truth of a sample and what was said of it, as a line of a table."""
    if truth.dim() == 0:
        chances = {f"p_{n}": float(p) for n, p in zip(source.classes, said, strict=True)}
        best = source.classes[int(said.argmax())]
        return {"class": source.classes[int(truth)], "predicted": best, **chances}
    numbers = source.task == "regression"
    heads = with_units(source.classes, source.units) if numbers else source.classes
    row: dict[str, object] = {}
    for head, own, guess in zip(heads, truth.tolist(), said.tolist(), strict=True):
        row[head] = "" if math.isnan(own) else own
        row[f"predicted {head}" if numbers else f"p_{head}"] = guess
    return row


def _write(
    config: EvaluateConfig,
    source: Source,
    rows: Sequence[Mapping[str, object]],
    found: Mapping[str, object],
    cases: Sequence[Case],
    start: float,
    spent: float,
) -> None:
    """Write the table of cases, the record and the reports."""
    folder = Path(config.out)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    with atomic(folder / "cases.csv") as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8", errors="backslashreplace")
    results = markdown.record(
        config,
        start,
        task=source.task,
        data=config.data,
        part=config.part,
        samples=len(getattr(source, config.part)),
        classes=list(source.classes),
        units=list(source.units),
        **found,
    )
    cost = markdown.cost(results["seconds"], "samples", results["samples"], spent)
    report, headline = markdown.evaluation(results, cost), markdown.sentence(results)
    shown = html.render(report, headline, folder, cases, without=["The worst cases"])
    markdown.write(results, folder, report, {"report.html": shown})


def _text(value: float | None, unit: str = "") -> str:
    return "not defined" if value is None else f"{value:.3f}{unit}"
