"""Time and memory of masks of large volumes: `crossd predict` beside nnU-Net's command and MONAI.

All three get the same network of nnU-Net with the same weights, windows that overlap by half with
Gaussian weights, no mirroring, and the same threads, and go from a compressed NIfTI file to one.
Each runs in processes of its own, from the start of Python; they take turns. The network is small,
and learns for a few steps to tell blocks of a volume by their values: what is measured hangs on its
size alone, but masks can only agree where a network is sure. nnU-Net and MONAI average logits,
crossd probabilities, and nnU-Net's windows lie a little otherwise.

    python benchmarks/large_volumes.py --sizes 256,512 --out benchmarks/results

nnU-Net's command runs in its way that takes least memory, in one process (``-npp 0 -nps 0``);
``--ways`` has its usual one too, `nnunet-pools`, which sends all logits to another process. Memory
is what all processes of a way held at once, pages that they share counted once. A way that takes
more than ``--most`` is ended, and the table says so.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import psutil
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from whole import positive, some_positive

from crossd.conversion import registry
from crossd.data.preprocessing import nnunet_plans
from crossd.utils import memory
from crossd.utils.atomic_files import atomic

HERE = Path(__file__).parent
WAYS = ("crossd", "nnunet", "nnunet-pools", "monai")
TIME, MEMORY, AGREEMENT = 1.0, 0.5, 0.95
"""Goals: of the faster other's time, of nnU-Net's memory, and of voxels that are alike."""
DATASET = "Dataset903_Large"
BLOCK, NOISE = 8, 0.1
"""Voxels of a side of what has one class, and noise, where classes are 1 apart."""

SAMPLES_A_SECOND = 5
GIB = 2**30
Row = dict[str, Any]


def plans(window: int, features: Sequence[int]) -> dict[str, Any]:
    """Write down a network and its preprocessing as nnU-Net's planner does."""
    depth = len(features)
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": depth,
            "features_per_stage": list(features),
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * depth,
            "strides": [[1, 1, 1]] + [[2, 2, 2]] * (depth - 1),
            "n_conv_per_stage": [2] * depth,
            "n_conv_per_stage_decoder": [2] * (depth - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    data, answers = (
        {"is_seg": False, "order": order, "order_z": 0, "force_separate_z": None}
        for order in (3, 1)
    )
    function = "resample_data_or_seg_to_shape"
    configuration = {
        "data_identifier": "large",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [window] * 3,
        "median_image_size_in_voxels": [256.0] * 3,
        "spacing": [1.0, 1.0, 1.0],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": function,
        "resampling_fn_seg": function,
        "resampling_fn_data_kwargs": data,
        "resampling_fn_seg_kwargs": {**answers, "is_seg": True},
        "resampling_fn_probabilities": function,
        "resampling_fn_probabilities_kwargs": answers,
        "architecture": architecture,
        "batch_dice": False,
    }
    return {
        "dataset_name": DATASET,
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": [256] * 3,
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": {"mean": 0.0, "std": 1.0, "percentile_00_5": 0.0, "percentile_99_5": 1.0}
        },
    }


def volume(side: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw blocks of a class each; returns values with noise, none of them 0, and the classes."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, classes, (-(-side // BLOCK),) * 3, generator=generator)
    wanted = blocks
    for axis in range(3):
        wanted = wanted.repeat_interleave(BLOCK, axis).narrow(axis, 0, side)
    noise = torch.randn(wanted.shape, generator=generator)
    return noise.mul_(NOISE).add_(wanted).mul_(100).add_(1000).round_(), wanted


def write_model(folder: Path, args: argparse.Namespace) -> Path:
    """Write a trained model as nnU-Net keeps it; returns its folder."""
    model = folder / "results" / DATASET / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    (model / "fold_0").mkdir(parents=True)
    labels = {"background": 0, **{f"class {k}": k for k in range(1, args.classes)}}
    dataset = {
        "channel_names": {"0": "MRI"},
        "labels": labels,
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    (model / "plans.json").write_text(json.dumps(plans(args.window, args.features)))
    (model / "dataset.json").write_text(json.dumps(dataset))
    torch.manual_seed(0)
    named = nnunet_plans.read(f"nnunet:{model / 'plans.json'}").model
    net = registry.build(named, "segmentation", 1, args.classes)
    loss = learn(net, args)
    content = {
        "network_weights": net.state_dict(),
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": "3d_fullres"},
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save(content, model / "fold_0" / "checkpoint_final.pth")
    parameters = sum(p.numel() for p in net.parameters())
    print(f"the network has {parameters:,} parameters; it learnt for {args.steps} steps, "
          f"to a loss of {loss:.2f}")  # fmt: skip
    return model


def learn(net: nn.Module, args: argparse.Namespace) -> float:
    """Teach a network which class a voxel has; returns the last loss."""
    side = max(16, min(48, args.window)) // 16 * 16
    values, wanted = volume(128, args.classes, seed=1)
    values = (values - values.mean()) / values.std()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, args.steps)
    loss = torch.zeros(())
    for _ in range(args.steps):
        z, y, x = torch.randint(0, 128 - side + 1, (3,)).tolist()
        part = (slice(z, z + side), slice(y, y + side), slice(x, x + side))
        found = net(values[part][None, None])
        found = found if isinstance(found, Tensor) else found[0]
        loss = F.cross_entropy(found, wanted[part][None])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return float(loss.detach())


def commands(way: str, folder: Path, model: Path, side: int, threads: int) -> list[str]:
    """Return the command that writes the mask of the volume of a size."""
    images, out = folder / f"images-{side}", folder / f"{way}-{side}"
    python = sys.executable
    if way == "crossd":
        weights = str(folder / "crossd.safetensors")
        given = ["--weights", weights, "--input", str(images), "--out", str(out), "--overwrite"]
        return [python, "-m", "crossd", "predict", *given]
    if way == "monai":
        out.mkdir(exist_ok=True)
        files = [str(model), str(images / "case_0000.nii.gz"), str(out / "case.nii.gz")]
        return [python, str(HERE / "nnunet" / "monai_predict.py"), *files]
    asked = f"-d {DATASET} -c 3d_fullres -f 0 -device cpu --disable_tta --disable_progress_bar"
    pools = "1" if way == "nnunet-pools" else "0"
    program = str(Path(sys.executable).parent / "nnUNetv2_predict")
    limited = [python, str(HERE / "nnunet" / "one_thread.py")] if threads == 1 else [python]
    files = ["-i", str(images), "-o", str(out), "-npp", pools, "-nps", pools]
    return [*limited, program, *asked.split(), *files]


def surroundings(folder: Path, threads: int) -> dict[str, str]:
    """Return the variables that all ways run with."""
    names = ("raw", "preprocessed", "results")
    own = {f"nnUNet_{name}": str(folder / name) for name in names}
    return {**os.environ, **own, "nnUNet_compile": "f", "OMP_NUM_THREADS": str(threads)}


def held(process: psutil.Process) -> int:
    """Return what a process and all that it started hold in memory, shared pages once [bytes]."""
    total = 0
    for one in (process, *process.children(recursive=True)):
        try:
            total += one.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return total


def run(command: Sequence[str], variables: Mapping[str, str], most: float, log: Path) -> Row:
    """Run a command; returns its seconds, those of processors, and the most memory [GiB]."""
    peak, ended = 0, False
    begin = time.perf_counter()
    with log.open("w") as file:
        running = subprocess.Popen(
            command, env=variables, stdout=file, stderr=file, start_new_session=True
        )
        watched = psutil.Process(running.pid)
        while True:
            process, status, used = os.wait4(running.pid, os.WNOHANG)
            if process:
                break
            with contextlib.suppress(psutil.NoSuchProcess):
                peak = max(peak, held(watched))
            if peak > most * GIB and not ended:
                ended = True
                os.killpg(running.pid, signal.SIGKILL)
            time.sleep(1 / SAMPLES_A_SECOND)
    took = time.perf_counter() - begin
    running.returncode = os.waitstatus_to_exitcode(status)
    if running.returncode and not ended:
        sys.exit(f"{' '.join(command)}\n{log.read_text()[-3000:]}")
    peak = max(peak, 1024 * used.ru_maxrss)  # of one process, which no sample misses
    spent = used.ru_utime + used.ru_stime
    return {"seconds": took, "processor": spent, "gib": peak / GIB, "ended": ended}


def measure(side: int, folder: Path, model: Path, args: argparse.Namespace) -> list[Row]:
    """Measure all ways at a size, in turn."""
    images = folder / f"images-{side}"
    images.mkdir()
    array = volume(side, args.classes, seed=2)[0].numpy().astype(np.int16)
    made: Any = nib.Nifti1Image(array, np.eye(4))
    made.to_filename(images / "case_0000.nii.gz")
    del made, array
    variables = surroundings(folder, args.threads)
    rows = []
    for number in range(args.rounds):
        for way in args.ways:
            command = commands(way, folder, model, side, args.threads)
            found = run(command, variables, args.most, folder / f"{way}-{side}.log")
            rows.append({"side": side, "way": way, "round": number, **found})
            show(rows[-1])
    masks = {way: read(folder / f"{way}-{side}") for way in args.ways}
    reference = masks.get("nnunet")
    for row in rows:
        own = masks[row["way"]]
        row["alike"] = None
        if own is not None and reference is not None:
            row["alike"] = float(np.equal(own, reference).mean())
    for way in args.ways:
        shutil.rmtree(folder / f"{way}-{side}", ignore_errors=True)
    return rows


def read(folder: Path) -> NDArray[np.uint8] | None:
    """Read the one mask in a folder; None where a way was ended before it wrote one."""
    found = sorted(folder.glob("case*.nii.gz"))
    if not found:
        return None
    image: Any = nib.load(found[0])
    return np.asarray(image.dataobj, np.uint8)


def show(row: Row) -> None:
    ended = "  ended: too much memory" if row["ended"] else ""
    print(
        f"  {row['side']:>4} {row['way']:<13}{row['seconds']:>9.1f} s{row['processor']:>9.1f} s of "
        f"processors{row['gib']:>8.2f} GiB{ended}",
        flush=True,
    )


def best(rows: Sequence[Row], side: int, way: str, what: str) -> float:
    """Return the least that a way took at a size, infinity where it did not come to an end."""
    own = (row[what] for row in rows if row["side"] == side and row["way"] == way)
    whole = not any(row["ended"] for row in rows if row["side"] == side and row["way"] == way)
    return min(own, default=np.inf) if whole or what == "gib" else np.inf


def table(rows: Sequence[Row], ways: Sequence[str]) -> str:
    """Write the table, with the goals and whether they are met."""
    lines = [
        "| side | way | seconds | of processors | GiB | voxels as nnU-Net's |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    ends = []
    for side in sorted({row["side"] for row in rows}):
        for way in ways:
            time_, used, gib = (
                best(rows, side, way, what) for what in ("seconds", "processor", "gib")
            )
            alike = next(r["alike"] for r in rows if (r["side"], r["way"]) == (side, way))
            more = "" if np.isfinite(time_) else "more than "
            lines.append(
                f"| {side} | {way} | {time_:.1f} | {used:.1f} | {more}{gib:.2f} | "
                f"{'' if alike is None else f'{alike:.4f}'} |"
            )
        others = [way for way in ways if way != "crossd"]
        if "crossd" in ways and others:
            least = min(best(rows, side, way, "seconds") for way in others)
            ratio = best(rows, side, "crossd", "seconds") / least
            ends.append(_goal(side, "of the faster other's time", ratio, TIME))
        if "crossd" in ways and "nnunet" in ways:
            ratio = best(rows, side, "crossd", "gib") / best(rows, side, "nnunet", "gib")
            ends.append(_goal(side, "of nnU-Net's memory", ratio, MEMORY))
    return "\n".join([*lines, "", *ends])


def _goal(side: int, what: str, ratio: float, goal: float) -> str:
    return f"{side}: {ratio:.2f} {what}, goal {goal:.2f}: {'met' if ratio <= goal else 'MISSED'}"


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    cores = multiprocessing.cpu_count()
    parser.add_argument(
        "--sizes", type=some_positive, default="256,512", help="sides of the volumes (256,512)"
    )
    parser.add_argument(
        "--classes", type=positive, default=20, help="the background among them (20)"
    )
    parser.add_argument("--window", type=positive, default=128, help="side of the windows (128)")
    parser.add_argument(
        "--features", type=some_positive, default="4,8,16,32", help="of the stages (4,8,16,32)"
    )
    parser.add_argument("--steps", type=positive, default=200, help="that the network learns (200)")
    parser.add_argument(
        "--threads", type=positive, default=cores, help=f"1, or all cores ({cores})"
    )
    parser.add_argument("--ways", default="crossd,nnunet,monai", help=f"of {', '.join(WAYS)}")
    parser.add_argument("--rounds", type=positive, default=1, help="of each way and size (1)")
    parser.add_argument("--most", type=float, help="memory of a way [GiB] (0.9 of what is free)")
    parser.add_argument("--out", type=Path, help="folder for large_volumes.json")
    args = parser.parse_args()
    if args.threads not in (1, cores):
        parser.error(f"--threads {args.threads}: nnU-Net takes all {cores} cores, or is told of 1")
    args.ways = args.ways.split(",")
    if unknown := set(args.ways) - set(WAYS):
        parser.error(f"--ways: {', '.join(sorted(unknown))} is none of {', '.join(WAYS)}")
    if args.out:
        try:
            args.out.mkdir(parents=True, exist_ok=True)  # before what takes an hour
        except OSError as error:
            parser.error(f"--out {args.out}: {error.strerror}")
    if args.most is None:
        args.most = memory.SHARE * memory.available() / GIB
    return args


def main() -> int:
    """Measure, print the table, and write it as JSON; 1 where the masks differ too much."""
    args = arguments()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = write_model(folder, args)
        checkpoint = str(model / "fold_0" / "checkpoint_final.pth")
        given = ["--weights", checkpoint, "--model", f"nnunet:{model / 'plans.json'}"]
        ready = ["--out", str(folder / "crossd.safetensors")]
        variables = surroundings(folder, args.threads)
        run([sys.executable, "-m", "crossd", "convert", *given, *ready], variables, args.most,
            folder / "convert.log")  # fmt: skip
        rows = [row for side in args.sizes for row in measure(side, folder, model, args)]
    print(f"\n{table(rows, args.ways)}")
    if args.out:
        about = {"cores": multiprocessing.cpu_count(), "torch": torch.__version__,
                 "python": platform.python_version(), "load": os.getloadavg()[0]}  # fmt: skip
        told = {name: value for name, value in vars(args).items() if name != "out"}
        with atomic(args.out / "large_volumes.json") as temporary:
            temporary.write_text(json.dumps({**about, **told, "rows": rows}, indent=1) + "\n")
    low = [row for row in rows if row["alike"] is not None and row["alike"] < AGREEMENT]
    if low:
        print(f"masks of {low[0]['way']} are as nnU-Net's in {low[0]['alike']:.4f} of the voxels, "
              f"expected {AGREEMENT}", file=sys.stderr)  # fmt: skip
    return int(bool(low))


if __name__ == "__main__":
    sys.exit(main())
