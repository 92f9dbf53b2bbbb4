"""Convert every architecture of timm, torchvision, segmentation_models_pytorch and MONAI; run it.

Each is built with random weights, converted, and run forward and backward on images and on volumes,
in training mode. It counts as converted when all of that works with finite numbers and gradients,
as refused when `crossd.convert` says in one line why it cannot be, and as failed otherwise. What is
done is kept in a file, so that an interrupted run goes on. Two hours on two cores for all of timm.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import fcntl
import functools
import gc
import json
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

LIBRARIES = ("timm", "torchvision", "smp", "monai")
ATTENTION = (  # modules of timm whose architectures are made of attention, tokens or recurrence
    "beit byoanet cait coat convit cpubone crossvit csatv2 davit deepseek_vit deit edgenext "
    "efficientformer efficientformer_v2 efficientvim efficientvit_mit efficientvit_msra eva "
    "fastvit gcvit gemma4_vit hiera hieradet_sam2 iformer levit lowformer maxxvit mlp_mixer "
    "mobilenetv5 mobilevit mvitv2 naflexvit nest nextvit pit pvt_v2 qwen3_vit sequencer shvit "
    "swiftformer "
    "swin_transformer swin_transformer_v2 swin_transformer_v2_cr tiny_vit tnt twins visformer "
    "vision_transformer vision_transformer_hybrid vision_transformer_relpos vision_transformer_sam "
    "vitamin volo xcit"
).split()
SMP_DECODERS = (  # DPT takes transformers as encoders only
    "Unet UnetPlusPlus MAnet Linknet FPN PSPNet PAN DeepLabV3 DeepLabV3Plus UPerNet Segformer"
)
SMP_ENCODERS = ("resnet18", "efficientnet-b0", "timm-efficientnet-b0")
SIZES = (32, 64, 96, 128, 299)
"""Sides of images and volumes, in turn: the auxiliary head of inception_v3 wants the last."""

LARGE = 60e6
"""Parameters of a 2D network from which it is run alone."""

FROZEN = 5e8
"""Parameters of a converted network from which those of large kernels get no gradient (memory)."""


def names(library: str) -> list[str]:
    """List the architectures of a library."""
    if library == "timm":
        import timm

        return list(timm.list_models())
    if library == "torchvision":
        import torchvision

        kinds = (torchvision.models, torchvision.models.segmentation)
        return [name for kind in kinds for name in torchvision.models.list_models(module=kind)]
    if library == "smp":
        return [f"{d}/{e}" for d in SMP_DECODERS.split() for e in SMP_ENCODERS]
    return sorted(MONAI)


def build(library: str, name: str) -> Any:
    """Build an architecture with random weights."""
    if library == "timm":
        import timm

        return timm.create_model(name, num_classes=5)
    if library == "torchvision":
        import torchvision

        more = {"weights_backbone": None} if name in names_of_segmentation() else {}
        return torchvision.models.get_model(name, weights=None, num_classes=5, **more)
    if library == "smp":
        import segmentation_models_pytorch as smp

        decoder, encoder = name.split("/")
        return getattr(smp, decoder)(encoder, encoder_weights=None, classes=3)
    return MONAI[name]()


@functools.cache
def names_of_segmentation() -> frozenset[str]:
    """The names of torchvision's segmentation networks."""
    import torchvision

    return frozenset(torchvision.models.list_models(module=torchvision.models.segmentation))


def _monai(name: str, *args: Any, **kwargs: Any) -> Callable[[], Any]:
    def make() -> Any:
        from monai.networks import nets

        return getattr(nets, name)(*args, **kwargs)

    return make


MONAI: dict[str, Callable[[], Any]] = {
    "AHNet": _monai("AHNet", spatial_dims=2, upsample_mode="bilinear"),
    "AttentionUnet": _monai("AttentionUnet", 2, 1, 3, (8, 16, 32), (2, 2)),
    "BasicUNet": _monai("BasicUNet", 2, 1, 3),
    "BasicUNetPlusPlus": _monai("BasicUNetPlusPlus", 2, 1, 3),
    "Classifier": _monai("Classifier", (1, 64, 64), 3, (8, 16), (2, 2)),
    "DenseNet121": _monai("DenseNet121", 2, 1, 3),
    "DenseNet169": _monai("DenseNet169", 2, 1, 3),
    "DenseNet201": _monai("DenseNet201", 2, 1, 3),
    "DenseNet264": _monai("DenseNet264", 2, 1, 3),
    "DynUNet": _monai("DynUNet", 2, 1, 3, [3] * 4, [1, 2, 2, 2], [2] * 3),
    "EfficientNetBN": _monai("EfficientNetBN", "efficientnet-b0", False, spatial_dims=2),
    "FlexibleUNet": _monai("FlexibleUNet", 1, 3, "efficientnet-b0", spatial_dims=2),
    "FlexibleUNet resnet": _monai("FlexibleUNet", 1, 3, "resnet18", spatial_dims=2),
    "FullyConnectedNet": _monai("FullyConnectedNet", 8, 3, (8,)),
    "HighResNet": _monai("HighResNet", 2, 1, 3),
    "QuickNAT": _monai("Quicknat", 3, 1),
    "ResNet10": _monai("resnet10", spatial_dims=2, n_input_channels=1, num_classes=3),
    "ResNet18": _monai("resnet18", spatial_dims=2, n_input_channels=1, num_classes=3),
    "ResNet50": _monai("resnet50", spatial_dims=2, n_input_channels=1, num_classes=3),
    "SEResNet50": _monai("SEResNet50", spatial_dims=2, in_channels=1, num_classes=3),
    "SEResNext50": _monai("SEResNext50", spatial_dims=2, in_channels=1, num_classes=3),
    "SENet154": _monai("SENet154", spatial_dims=2, in_channels=1, num_classes=3),
    "SegResNet": _monai("SegResNet", 2),
    "SegResNetDS": _monai("SegResNetDS", 2),
    "SegResNetVAE": _monai("SegResNetVAE", (64, 64), spatial_dims=2),
    "SwinUNETR": _monai("SwinUNETR", 1, 3, spatial_dims=2, feature_size=12),
    "UNet": _monai("UNet", 2, 1, 3, (8, 16, 32), (2, 2), num_res_units=2),
    "UNETR": _monai("UNETR", 1, 3, (64, 64), spatial_dims=2),
    "VNet": _monai("VNet", 2),
    "ViT": _monai("ViT", 1, (64, 64), (16, 16), spatial_dims=2, classification=True),
}


def module_of(library: str, name: str) -> str:
    """The family: for timm the module that defines it."""
    if library != "timm":
        return name.split("/")[0] if library == "smp" else library
    import timm

    return timm.models.model_entrypoint(name).__module__.rpartition(".")[2]


def attempt(library: str, name: str, lock: str | None = None, half: bool = False) -> dict[str, Any]:
    """Build, convert and run one architecture; a large one alone, by the lock of that file.

    With `half` its weights are in bfloat16: billions of them do not fit otherwise.
    """
    import torch

    import crossd
    from crossd.allocator import give_back_memory

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.manual_seed(0)
    gc.collect()  # networks refer to themselves
    give_back_memory()
    start = time.perf_counter()
    row: dict[str, Any] = {"library": library, "name": name, "family": module_of(library, name)}
    try:
        with Path(lock or os.devnull).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            torch.set_default_dtype(torch.bfloat16 if half else torch.float32)
            with quick_weights():
                source = build(library, name)
            torch.set_default_dtype(torch.float32)
            # Attention is refused before anything is run on volumes.
            large = sum(p.numel() for p in source.parameters()) > LARGE
            if large and row["family"] not in ATTENTION:
                fcntl.flock(file, fcntl.LOCK_EX)
            row |= _run(source, crossd, torch)
    except crossd.InputError as error:
        row |= {"outcome": "refused", "why": str(error)}
    except Exception as error:  # whatever it is, it is what this script is to find
        text = " ".join(str(error).split())[:300]
        row |= {"outcome": "failed", "why": f"{type(error).__name__}: {text}"}
    row["seconds"] = round(time.perf_counter() - start, 1)
    return row


@contextlib.contextmanager
def quick_weights() -> Iterator[None]:
    """Draw truncated normal weights as uniform ones, ten times faster: billions of attention."""
    import torch
    from timm.layers import weight_init

    def draw(tensor: Any, mean: float = 0.0, std: float = 1.0, *_: Any, **__: Any) -> Any:
        with torch.no_grad():
            return tensor.uniform_(mean - 1.7 * std, mean + 1.7 * std)

    kept = weight_init._trunc_normal_, torch.nn.init.trunc_normal_
    weight_init._trunc_normal_, torch.nn.init.trunc_normal_ = draw, draw
    try:
        yield
    finally:
        weight_init._trunc_normal_, torch.nn.init.trunc_normal_ = kept


def _run(source: Any, crossd: Any, torch: Any) -> dict[str, Any]:
    parameters = sum(p.numel() for p in source.parameters())
    channels = _channels(source, torch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = crossd.convert(source)
    del source
    said = [line for line in net.conversion.checks[1:] if " by " in line]
    checks = [float(line.rpartition(" ")[2]) for line in said]
    large = sum(p.numel() for p in net.parameters()) > FROZEN
    if large:
        for parameter in net.parameters():
            parameter.requires_grad_(parameter.numel() < 1e6)
    net.train()
    sizes = {rank: _forward_backward(net, channels, rank, crossd, torch) for rank in (2, 3)}
    row = {"outcome": "converted", "parameters": parameters, "sizes": sizes, "frozen": large}
    return row | dict(zip(("image_difference", "law_difference"), checks, strict=False))


def _channels(source: Any, torch: Any) -> int:
    """Find how many channels a network takes: the first convolution may come after a reshape."""
    from crossd.recording import examples

    source.eval()
    counts = dict.fromkeys(given[0].shape[1] for given in examples(source))
    for count in counts:
        with contextlib.suppress(Exception), torch.no_grad():
            source(torch.zeros(1, count, 128, 128, dtype=next(source.parameters()).dtype))
            return int(count)
    return int(next(iter(counts)))


def _forward_backward(net: Any, channels: int, rank: int, crossd: Any, torch: Any) -> int:
    """Run forward and backward at the smallest size that works; returns the size."""
    from torch.utils._pytree import tree_leaves

    dtype = next(net.parameters()).dtype
    for size in SIZES:
        x = torch.randn(2, channels, *[size] * rank, dtype=dtype, requires_grad=True)
        net.zero_grad(set_to_none=True)
        try:
            with crossd.view("axial"):
                answers = [v for v in tree_leaves(net(x)) if isinstance(v, torch.Tensor)]
        except (RuntimeError, ValueError):
            if size == SIZES[-1]:
                raise
            continue
        sum(v.float().square().mean() for v in answers).backward()
        gradients = [x.grad, *(p.grad for p in net.parameters() if p.grad is not None)]
        if all(v.isfinite().all() for v in (*answers, *gradients)):
            return size
        if size >= 128:  # BatchNorm over two values, in hundreds of layers, is too much for smaller
            raise ArithmeticError(f"answers or gradients on {rank}D inputs are not finite")
    raise AssertionError


def work(todo: list[tuple[str, str]], jobs: int, lock: str) -> Iterable[dict[str, Any]]:
    """Attempt architectures in processes of their own, renewed now and then."""
    context = multiprocessing.get_context("spawn")
    for start in range(0, len(todo), 10 * jobs):
        left = dict.fromkeys(todo[start : start + 10 * jobs])
        with (
            contextlib.suppress(BrokenProcessPool),
            concurrent.futures.ProcessPoolExecutor(jobs, context) as pool,
        ):
            futures = {pool.submit(attempt, *one, lock): one for one in left}
            for future in concurrent.futures.as_completed(futures):
                row = future.result()
                del left[futures[future]]
                yield row
        for library, name in left:  # a process was ended, for want of memory say: one at a time
            row = {"library": library, "name": name, "family": module_of(library, name)}
            row |= {"outcome": "failed", "why": "the process was ended", "seconds": 0.0}
            for half in (False, True):
                with (
                    contextlib.suppress(BrokenProcessPool),
                    concurrent.futures.ProcessPoolExecutor(1, context) as pool,
                ):
                    row = pool.submit(attempt, library, name, None, half).result()
                    break
            yield row


def table(rows: list[dict[str, Any]]) -> str:
    """Write the counts, and the names with what became of them, as Markdown."""
    lines = [
        "# Which architectures convert",
        "",
        "Every name that timm, torchvision, segmentation_models_pytorch and MONAI list, converted",
        "with `crossd.convert` and run forward and backward on images and on volumes; made by",
        "`python benchmarks/zoo.py`.",
        "",
        "| | names | convert and run in both ranks | refused in a line | fail otherwise |",
        "|---|---:|---:|---:|---:|",
    ]
    groups: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    for row in rows:
        library = row["library"]
        groups[library].append(row)
        if library == "timm":
            kind = "attention, tokens" if row["family"] in ATTENTION else "convolutional"
            groups[f"timm, {kind}"].append(row)
    for group, own in groups.items():
        lines.append(f"| {group} | {_counts(own)} |")
    lines += ["", "## By family", "", "| family | names | convert | refused | fail |"]
    lines.append("|---|---:|---:|---:|---:|")
    families: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    for row in rows:
        library, family = row["library"], row["family"]
        families[library if family == library else f"{library}: {family}"].append(row)
    for family, own in sorted(families.items()):
        lines.append(f"| {family} | {_counts(own)} |")
    lines += ["", "## What is refused, and why", ""]
    whys: dict[str, list[str]] = collections.defaultdict(list)
    for row in rows:
        if row["outcome"] != "converted":
            family = "" if row["library"] != "timm" else f" ({row['family']})"
            whys[f"{row['outcome']}{family}: {row['why']}"].append(row["name"])
    for why, refused in sorted(whys.items()):
        lines += [f"- {', '.join(sorted(refused))}", "", f"  > {why}", ""]
    lines += ["## What converts", ""]
    for family, members in sorted(families.items()):
        good = sorted(row["name"] for row in members if row["outcome"] == "converted")
        if good:
            lines += [f"- **{family}**: {', '.join(good)}"]
    return "\n".join(lines) + "\n"


def _counts(rows: list[dict[str, Any]]) -> str:
    found = collections.Counter(row["outcome"] for row in rows)
    return " | ".join(str(n) for n in (len(rows), *(found[k] for k in OUTCOMES)))


OUTCOMES = ("converted", "refused", "failed")


def main() -> None:
    """Run what is not done yet, then write the list."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--libraries", default=",".join(LIBRARIES), help="separated by commas")
    parser.add_argument("--names", default="", help="only names with one of these in them")
    parser.add_argument("--jobs", type=int, default=2, help="processes (2)")
    parser.add_argument("--done", default="benchmarks/results/zoo.jsonl", help="finished work")
    parser.add_argument("--out", default="docs/zoo.md", help="the list (docs/zoo.md)")
    args = parser.parse_args()
    done = Path(args.done)
    done.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in done.read_text().splitlines()] if done.exists() else []
    known = {(row["library"], row["name"]) for row in rows}
    wanted = [(lib, name) for lib in args.libraries.split(",") for name in names(lib)]
    parts = [part for part in args.names.split(",") if part]
    wanted = [one for one in wanted if not parts or any(part in one[1] for part in parts)]
    todo = [one for one in wanted if one not in known]
    with done.open("a") as file:
        for row in work(todo, args.jobs, f"{done}.lock"):
            rows.append(row)
            print(json.dumps(row), file=file, flush=True)
            why = row.get("why", "")
            print(f"{row['outcome']:<10}{row['name']} ({row['seconds']} s) {why}", flush=True)
    rows = [row for row in rows if (row["library"], row["name"]) in wanted]
    rows.sort(key=lambda row: (LIBRARIES.index(row["library"]), row["name"]))
    text = table(rows)
    Path(args.out).write_text(text)
    print(text.partition("## By family")[0])


if __name__ == "__main__":
    main()
