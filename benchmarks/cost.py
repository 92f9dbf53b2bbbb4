"""What Cross-D costs on this machine, beside the plain networks, its rivals and other libraries.

All networks of a case are measured in turn within each round of one run, so that whatever else the
machine does slows all of them; a ratio is a network's time by the plain network's in the same
round, and its median and quartiles over the rounds are shown. So a run that takes hours may be
interrupted between cases, and goes on with `--resume`.

    python benchmarks/cost.py --networks resnet18,unet --tables images,volumes --out runs/cost
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from costs import arms, cases, memory, tables, timing
from costs.cases import Case
from costs.peers import PACKAGES, Absent
from jsonargparse import ArgumentError

from crossd.errors import InputError
from crossd.reports.markdown import versions
from crossd.training.signals import INTERRUPTED
from crossd.utils.atomic_files import atomic
from crossd.utils.option_values import check, choice, names
from crossd.utils.progress import Progress
from crossd.utils.run_folder import RESULT, claim_folder, is_finished

MEASURED = ("layers", "images", "volumes", "growth", "memory")


@dataclasses.dataclass(frozen=True)
class CostConfig:
    """Measure what Cross-D costs here, beside plain networks, rivals and other libraries.

    Attributes:
        networks: What to measure, separated by commas: resnet18, resnet50, efficientnet-b0,
            convnext-tiny, vit-small, unet (MONAI's BasicUNet), unet-resnet18.
        sizes: Sides of the images [pixels], separated by commas.
        batch_sizes: Images a batch, separated by commas; layers take the first.
        volumes: Volumes a batch, depth, height and width [voxels], as in 2x32x64x64, separated by
            commas.
        arms: What is measured, separated by commas: plain (the others are compared with it),
            projection, slice, fourier, fourier-projection, acs, acsconv, i3d, fft (the paper's
            formulation), timm_3d, monai, smp_3d; tuned are projection-laid (kernels laid out as
            crossd's commands do for volumes) and plain-nhwc (channels last in memory).
        tables: layers (of a ResNet18, one by one), images, volumes, growth (with batch, size, depth
            and classes), and memory (peaks of images and volumes, each in a process of its own),
            separated by commas.
        seconds: Time for the rounds of one pass of one case; there are at least five.
        device: cpu or cuda.
        precision: 32-true, bf16-mixed or 16-mixed.
        out: Folder for metrics.json, report.md and bench.png.
        overwrite: Replace a result that is there.
        resume: Go on with a run that was interrupted; start where there is none, and do nothing
            where it has ended.
    """

    networks: str = "resnet18"
    sizes: str = "224,64"
    batch_sizes: str = "8"
    volumes: str = "2x32x64x64,1x96x96x96"
    arms: str = ",".join(name for name in arms.ARMS if name != "fourier-projection")
    tables: str = "layers,images,volumes,memory"
    seconds: float = 8.0
    device: str = "cpu"
    precision: str = "32-true"
    out: str = "runs/bench"
    overwrite: bool = False
    resume: bool = False


def measure(config: CostConfig, progress: Progress) -> str:
    """Measure and write tables, a picture and `metrics.json`; returns the tables to print."""
    check(config)
    chosen = names(config.arms, arms.ARMS, "--arms")
    wanted = names(config.tables, MEASURED, "--tables")
    if "plain" not in chosen:
        raise InputError("--arms must hold plain: the others are measured against it")
    if "memory" in wanted and not {"images", "volumes"} & set(wanted):
        raise InputError("--tables memory is of images or volumes: name one of them too")
    choice(config.device, ("cpu", "cuda"), "--device")
    if "memory" in wanted and config.device == "cpu" and not Path("/proc/self/status").exists():
        raise InputError("--tables memory reads /proc, which this system has not: leave it out")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no CUDA device")
    listed = [(table, case) for table in wanted for case in _cases(table, config)]
    if not listed:
        raise InputError(f"--tables {config.tables} has nothing of --networks {config.networks}")
    if is_finished(config):
        return f"already finished: the result is in {config.out}"
    folder = claim_folder(config)
    results: dict[str, Any] = {"about": about(config), "rows": [], "absent": []}
    with progress.task("cost", len(listed)) as bar:
        for number, (table, case) in enumerate(listed):
            path = folder / f"run-{number:03d}.json"
            if not path.is_file():
                found = _measured(table, case, chosen, "memory" in wanted, config)
                progress.say(_step_ratios(case, found["rows"]))
                with atomic(path) as temporary:
                    temporary.write_text(json.dumps({"on": _on(results["about"]), **found}))
            try:
                found = json.loads(path.read_text())
            except ValueError as error:
                raise InputError(f"{path} is damaged: remove it, and give --resume") from error
            if found["on"] != _on(results["about"]):
                raise InputError(
                    f"{path} was measured on another machine or with other versions: start anew "
                    "with --overwrite"
                )
            results["rows"] += found["rows"]
            results["absent"] += found["absent"]
            with atomic(folder / "report.md") as temporary:  # of what there is until now
                temporary.write_text(text := tables.markdown(results))
            bar.advance(1)
    drawn = tables.picture(results, folder / "bench.png")
    with atomic(folder / RESULT) as temporary:
        temporary.write_text(json.dumps(results, indent=1))
    return f"{text}\nwritten: {folder}/report.md, metrics.json{' and bench.png' if drawn else ''}"


def _measured(
    table: str, case: Case, chosen: Sequence[str], memory: bool, config: CostConfig
) -> dict[str, Any]:
    """Measure a case: its rows, and of which arms there is nothing."""
    rows, absent = _times(case, chosen, config)
    if memory and table in ("images", "volumes"):
        measured = [row["arm"] for row in rows if row["pass"] == "inference"]
        more, failed = _memory(case, measured, config)
        rows, absent = rows + more, absent + failed
    parts = {"rows": rows, "absent": absent}
    return {name: [{"table": table, **row} for row in part] for name, part in parts.items()}


def _on(about: dict[str, Any]) -> dict[str, Any]:
    """Take of `about` what has to be the same for all cases of a table."""
    return {name: about[name] for name in ("machine", "gpu", "system", "versions")}


def _cases(table: str, config: CostConfig) -> list[Case]:
    networks = names(config.networks, cases.NETWORKS, "--networks")
    sizes = _numbers(config.sizes, "--sizes", 32)
    batches = _numbers(config.batch_sizes, "--batch-sizes", 1)
    shapes = _shapes(config.volumes)
    if table == "layers":
        return cases.layers(batches[0])
    if table == "images":
        return cases.images(networks, sizes, batches)
    if table == "volumes":
        return cases.volumes(networks, shapes)
    return [case for case in cases.GROWTH if table == "growth" and case.network in networks]


def _step_ratios(case: Case, rows: Sequence[dict[str, Any]]) -> str:
    steps = [row for row in rows if row["pass"] == "training step" and row.get("ratio")]
    shown = ", ".join(f"{row['arm']} {row['ratio']:.2f}" for row in steps if "ms" in row)
    return f"{case.name}, batch {case.batch}, training step: {shown}"


def about(config: CostConfig) -> dict[str, Any]:
    """What the numbers depend on: machine, versions, date and options."""
    others = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            others[name] = importlib.metadata.version(name)
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": _processor(),
        "gpu": torch.cuda.get_device_name() if config.device == "cuda" else None,
        "system": platform.platform(),
        "versions": {**versions(), **others},
        "config": dataclasses.asdict(config),
    }


Rows = list[dict[str, Any]]


def _times(case: Case, chosen: Sequence[str], config: CostConfig) -> tuple[Rows, Rows]:
    """Time both passes of every arm; the second list says of which there is nothing, and why."""
    about_it = {"case": case.name, "batch": case.batch}
    nets, rows, absent = {}, [], []
    for name in chosen:
        if name not in (arms.IMAGES if case.rank == 2 else arms.VOLUMES):
            continue
        try:
            net = arms.built(name, case).to(config.device)
            x = arms.fitting(name, case.batch_on(config.device))
            made = {w: make(net, x, config.precision) for w, make in timing.PASSES.items()}
            nets[name] = {w: timing.warmed_up(run, config.device) for w, run in made.items()}
        except Exception as error:  # whatever the code of others may raise
            absent.append({**about_it, "arm": name, "why": _reason(error)})
    for what in timing.PASSES:
        runs = {name: own[what] for name, own in nets.items()}
        timed = timing.timed(runs, config.seconds, config.device)
        rows += [{**about_it, "pass": what, **row} for row in timed]
    return rows, absent


def _memory(case: Case, measured: Sequence[str], config: CostConfig) -> tuple[Rows, Rows]:
    """Measure the peaks of both passes of what was timed."""
    about_it = {"case": case.name, "batch": case.batch}
    peaks, absent = {}, []
    for name in measured:
        try:
            peaks[name] = memory.peaks(name, case, config.device, config.precision)
        except Exception as error:  # as of a process that the system ended for its memory
            absent.append({**about_it, "arm": name, "why": f"memory: {_reason(error)}"})
    rows = []
    for name, own in peaks.items():
        for what, peak in own.items():
            row = {**about_it, "pass": f"peak memory, {what}", "arm": name, **peak}
            if "plain" in peaks:
                plain = peaks["plain"][what]
                row["ratio"] = peak["mib"] / plain["mib"]
                row["network_ratio"] = peak["network_mib"] / plain["network_mib"]
            rows.append(row)
    return rows, absent


def _reason(error: Exception) -> str:
    if isinstance(error, Absent):
        return str(error)
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


def _numbers(text: str, option: str, least: int) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < least:
        raise InputError(
            f"{option} (={text!r}) must be whole numbers of at least {least}, with commas between"
        )
    return numbers


def _shapes(text: str) -> list[tuple[int, ...]]:
    try:
        shapes = [tuple(int(side) for side in part.split("x")) for part in text.split(",")]
    except ValueError:
        shapes = []
    if not shapes or any(len(shape) != 4 or min(shape) < 1 for shape in shapes):
        raise InputError(
            f"--volumes (={text!r}) must be like 2x32x64x64 (volumes a batch, depth, height, "
            "width), with commas between"
        )
    return shapes


def _processor() -> str:
    """The processor's name and the cores that this process may use."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        name = models[0] if models else name
    return f"{name}, {torch.get_num_threads()} threads"


def main() -> int:
    """Measure what the command line asks for."""
    from crossd.cli.parser import build

    parser = build("cost", CostConfig, "python benchmarks/cost.py --networks unet --out runs/unet")
    parser.prog = "python benchmarks/cost.py"
    try:
        given = parser.parse_args().as_dict()
        known = {field.name: given[field.name] for field in dataclasses.fields(CostConfig)}
        print(measure(CostConfig(**known), Progress()))
    except (InputError, ArgumentError) as error:
        print(f"cost.py: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("cost.py: interrupted; finished cases are kept, see --resume", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
