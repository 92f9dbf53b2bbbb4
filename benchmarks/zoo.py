"""Convert every architecture of timm, torchvision, segmentation_models_pytorch and MONAI; run it.

Each is built with random weights and converted: `crossd.convert` moves every parameter of a copy at
random and holds it against the consistency law, in both modes and in every view that its shape
allows. Then the network is trained for a step on images and on volumes. It counts as converted when
all of that works with finite numbers and gradients, as refused when `crossd.convert` says in one
line why it cannot be, and as failed otherwise. 3D networks of MONAI, torchvision and nnU-Net
(dynamic_network_architectures, if it is installed) go the other way. What is done is kept in a
file, so that an interrupted run goes on. Some hours on two cores for all of timm.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import functools
import gc
import hashlib
import json
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

LIBRARIES = ("timm", "torchvision", "smp", "monai", "monai3d", "torchvision3d", "nnunet")
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
SMALL = (64, 84, 96, 112, 128, 160)
"""Sides of the images for which networks of one size are built, the first that they take."""

ALONE = 2e8
"""Parameters of a network from which it is run alone."""

LARGE = 3e7
"""Parameters from which a network is built with two blocks in each stage, where it can be: the
others are like these, and it is checked in a fifth of the time."""


SIZES = {"Inception3": (299, 299)}
"""Sizes for networks that take smaller ones in evaluation only."""


def names(library: str) -> list[str]:
    """List the architectures of a library."""
    if library == "timm":
        import timm

        return list(timm.list_models())
    if library == "torchvision":
        import torchvision

        kinds = (torchvision.models, torchvision.models.segmentation)
        return [name for kind in kinds for name in torchvision.models.list_models(module=kind)]
    if library == "torchvision3d":
        import torchvision

        video = torchvision.models.list_models(module=torchvision.models.video)
        return [name for name in video if not name.startswith(("mvit", "swin"))]  # attention
    if library == "smp":
        return [f"{d}/{e}" for d in SMP_DECODERS.split() for e in SMP_ENCODERS]
    return sorted({"monai": MONAI, "monai3d": MONAI_3D, "nnunet": NNUNET}[library])


def build(library: str, name: str) -> tuple[Any, str]:
    """Build an architecture with random weights; says how it differs from the one of that name."""
    if library == "timm":
        return _of_timm(name)
    if library.startswith("torchvision"):
        import torchvision

        more: dict[str, Any] = {}
        if name in names_of_segmentation():
            more["weights_backbone"] = None
        if name in ("googlenet", "inception_v3"):
            more["init_weights"] = False
        if name == "inception_v3":  # whose second classifier needs about 299 slices to train
            more["aux_logits"] = False
            return torchvision.models.inception_v3(num_classes=5, **more), "aux_logits False"
        return torchvision.models.get_model(name, weights=None, num_classes=5, **more), ""
    if library == "smp":
        import segmentation_models_pytorch as smp

        decoder, encoder = name.split("/")
        return getattr(smp, decoder)(encoder, encoder_weights=None, classes=3), ""
    return {"monai": MONAI, "monai3d": MONAI_3D, "nnunet": NNUNET}[library][name](), ""


def _of_timm(name: str) -> tuple[Any, str]:
    """Build a network of timm; for small images where it has one size, large with few blocks."""
    import timm
    import torch

    with torch.device("meta"):
        plain = timm.create_model(name, num_classes=5)
    count = sum(p.numel() for p in plain.parameters())
    config: Any = plain.pretrained_cfg
    fixed = config.get("fixed_input_size") or hasattr(plain, "pos_embed")
    options: list[dict[str, Any]] = [{"img_size": side} for side in SMALL if fixed] + [{}]
    if count > LARGE:
        two = (2, 2, 2, 2)
        fewer: list[dict[str, Any]] = [{"depth": 2}, {"depths": two}, {"layers": two}, {}]
        options = [{**one, **few} for few in fewer for one in options]
    for one in options:
        with contextlib.suppress(Exception):
            net = timm.create_model(name, num_classes=5, **one)
            if one:
                side = one.get("img_size", 64)
                with torch.no_grad():
                    net.eval()(torch.zeros(1, config["input_size"][0], side, side))
            return net, ", ".join(f"{key} {value}" for key, value in one.items())
    return timm.create_model(name, num_classes=5), ""


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


MONAI_3D: dict[str, Callable[[], Any]] = {
    "AttentionUnet": _monai("AttentionUnet", 3, 1, 3, (8, 16, 32), (2, 2)),
    "BasicUNet": _monai("BasicUNet", 3, 1, 3, (8, 8, 16, 16, 32, 8)),
    "DenseNet121": _monai("DenseNet121", 3, 1, 3),
    "DynUNet": _monai("DynUNet", 3, 1, 3, [3] * 4, [1, 2, 2, 2], [2] * 3, [8, 16, 32, 32]),
    "DynUNet anisotropic": _monai(
        *("DynUNet", 3, 1, 3, [[1, 3, 3], [3] * 3, [3] * 3], [[1] * 3, [1, 2, 2], [2] * 3]),
        *([[1, 2, 2], [2] * 3], [8, 16, 32]),
    ),
    "EfficientNetBN": _monai(
        "EfficientNetBN", "efficientnet-b0", False, spatial_dims=3, in_channels=1, num_classes=3
    ),
    "HighResNet": _monai("HighResNet", 3, 1, 3),
    "MedNeXt": _monai("MedNeXt", 3, 8, 1, 3),
    "ResNet18": _monai("resnet18", spatial_dims=3, n_input_channels=1, num_classes=3),
    "ResNet50": _monai("resnet50", spatial_dims=3, n_input_channels=1, num_classes=3),
    "SEResNet50": _monai("SEResNet50", spatial_dims=3, in_channels=1, num_classes=3),
    "SegResNet": _monai("SegResNet", 3),
    "SegResNetDS": _monai("SegResNetDS", 3, 16),
    "SwinUNETR": _monai("SwinUNETR", 1, 3, spatial_dims=3, feature_size=12),
    "UNet": _monai("UNet", 3, 1, 3, (8, 16, 32), (2, 2), num_res_units=2),
    "UNETR": _monai("UNETR", 1, 3, (96, 96, 96), 16, 96, 192, 4, spatial_dims=3),
    "VNet": _monai("VNet", 3),
    "ViT": _monai(
        *("ViT", 1, (96, 96, 96), (16, 16, 16), 96, 192, 3, 4), classification=True, spatial_dims=3
    ),
}


def _unet(kind: str, **more: Any) -> Callable[[], Any]:
    """A network of nnU-Net with anisotropic kernels and strides, as its plans have them."""

    def make() -> Any:
        from dynamic_network_architectures.architectures import unet
        from torch import nn

        norm = {"norm_op": nn.InstanceNorm3d, "norm_op_kwargs": {"affine": True}}
        kernels = [[1, 3, 3], [1, 3, 3], [3, 3, 3], [3, 3, 3]]
        strides = [[1, 1, 1], [1, 2, 2], [2, 2, 2], [1, 2, 2]]
        shape = (1, 4, [8, 16, 32, 32], nn.Conv3d, kernels, strides, [1, 2, 2, 2], 3, [1, 1, 1])
        return getattr(unet, kind)(*shape, conv_bias=True, nonlin=nn.LeakyReLU, **norm, **more)

    return make


NNUNET = {
    "PlainConvUNet": _unet("PlainConvUNet"),
    "PlainConvUNet deep supervision": _unet("PlainConvUNet", deep_supervision=True),
    "ResidualEncoderUNet": _unet("ResidualEncoderUNet"),
    "ResidualEncoderUNet deep supervision": _unet("ResidualEncoderUNet", deep_supervision=True),
}


def module_of(library: str, name: str) -> str:
    """The family: for timm the module that defines it."""
    if library != "timm":
        return name.split("/")[0] if library == "smp" else library
    import timm

    return timm.models.model_entrypoint(name).__module__.rpartition(".")[2]


def likeness(net: Any) -> str:
    """Sum up a network in a line: classes, settings and shapes, everything but the weights.

    Names of timm that differ in the size of images, say, give one network when built for small
    ones: what one of them does, the others do.
    """
    import torch

    kinds = (int, float, str, bool, type(None), complex, torch.dtype)
    unlike = {"pretrained_cfg", "default_cfg", "_parameters", "_buffers", "_modules"}

    def told(value: Any, depth: int = 0) -> Any:
        if isinstance(value, kinds):
            return repr(value)
        if isinstance(value, (tuple, list)) and depth < 4:
            return [told(one, depth + 1) for one in value]
        if isinstance(value, dict) and depth < 4:
            return {str(key): told(one, depth + 1) for key, one in value.items()}
        if isinstance(value, torch.Tensor):
            return [*value.shape, str(value.dtype)]
        return getattr(value, "__qualname__", type(value).__qualname__)

    parts = []
    for path, module in net.named_modules(remove_duplicate=False):
        own = {k: told(v) for k, v in vars(module).items() if k not in unlike}
        held = [*module._parameters.items(), *module._buffers.items()]
        parts.append((path, str(type(module)), own, [(k, told(v)) for k, v in held]))
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def attempt(
    library: str, name: str, lock: str | None = None, done: str = os.devnull
) -> dict[str, Any]:
    """Build, convert and run one architecture, unless one that is like it was before.

    Args:
        library: Where it is from.
        name: What it is called there.
        lock: A file by whose lock large ones work alone.
        done: The rows of those that were attempted.
    """
    import fcntl

    import torch
    from given_back import give_back_memory

    import crossd

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.manual_seed(0)
    gc.collect()  # networks refer to themselves
    give_back_memory()
    start = time.perf_counter()
    row: dict[str, Any] = {"library": library, "name": name, "family": module_of(library, name)}
    try:
        with Path(lock or os.devnull).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            with quick_weights():
                source, differs = build(library, name)
            if differs:
                row["built_with"] = differs
            row["likeness"] = likeness(source)
            for line in Path(done).read_text().splitlines():
                other = json.loads(line)
                if other.get("likeness") == row["likeness"] and other["outcome"] != "failed":
                    seconds = round(time.perf_counter() - start, 1)
                    return {**other, **row, "same_as": other["name"], "seconds": seconds}
            if sum(p.numel() for p in source.parameters()) > ALONE:
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
    """Convert a network, and train it for a step in both ranks."""
    from crossd.conversion.building import rank_of
    from crossd.conversion.checking.examples import example_for, maps_of

    parameters = sum(p.numel() for p in source.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rank = rank_of(source)
        size = SIZES.get(type(source).__name__)
        example = None if size is None else torch.randn(2, 3, *size)
        given = maps_of(example_for(source, rank, example), rank)
        net = crossd.convert(source, example=given)
        del source
        decided = net.crossd_recipe["decided"]
        images = given if rank == 2 else given[:, :, 0]
        volumes = [given]
        if rank == 2:
            depths = (8, 16, 32, 64, 96)
            volumes = [images.unsqueeze(2).repeat_interleave(d, 2) for d in depths]
        for tried in ([images], volumes):
            _forward_backward(net, tried, crossd, torch)
    law = next(line for line in net.conversion.checks if line.startswith("on volumes"))
    row = {"outcome": "converted", "parameters": parameters, "size": list(given.shape[2:])}
    row |= {"law": float(law.partition(" by ")[2].split()[0]), "views": decided["views"]}
    row |= {"depth_stride": decided["stages"][0][1] if decided["stages"] else None}
    row |= {"attention": decided["attention"], "repeat": decided["repeat"]}
    row["said"] = [line for line in net.conversion.checks if " see " in line or "training" in line]
    return row


def _forward_backward(net: Any, inputs: list[Any], crossd: Any, torch: Any) -> None:
    """Run forward and backward in training mode on the first input that is deep enough."""
    from torch.utils._pytree import tree_leaves

    net.train()
    for number, x in enumerate(inputs):
        x = x.clone().requires_grad_()
        net.zero_grad(set_to_none=True)
        try:
            with crossd.view("axial"):
                answers = [v for v in tree_leaves(net(x)) if isinstance(v, torch.Tensor)]
        except (RuntimeError, ValueError):
            if number + 1 == len(inputs):
                raise
            continue
        floats = [v for v in answers if v.is_floating_point()]
        sum(v.float().square().mean() for v in floats).backward()
        gradients = [x.grad, *(p.grad for p in net.parameters() if p.grad is not None)]
        if not all(v.isfinite().all() for v in (*floats, *gradients)):
            raise ArithmeticError(f"answers or gradients at {tuple(x.shape)} are not finite")
        return


def work(todo: list[tuple[str, str]], jobs: int, done: str) -> Iterable[dict[str, Any]]:
    """Attempt architectures in processes of their own, renewed now and then."""
    context, lock = multiprocessing.get_context("spawn"), f"{done}.lock"
    for start in range(0, len(todo), 30 * jobs):
        left = dict.fromkeys(todo[start : start + 30 * jobs])
        with (
            contextlib.suppress(BrokenProcessPool),
            concurrent.futures.ProcessPoolExecutor(jobs, context) as pool,
        ):
            futures = {pool.submit(attempt, *one, lock, done): one for one in left}
            for future in concurrent.futures.as_completed(futures):
                row = future.result()
                del left[futures[future]]
                yield row
        for library, name in left:  # a process was ended, for want of memory say: one at a time
            row = {"library": library, "name": name, "family": module_of(library, name)}
            row |= {"outcome": "failed", "why": "the process was ended", "seconds": 0.0}
            with (
                contextlib.suppress(BrokenProcessPool),
                concurrent.futures.ProcessPoolExecutor(1, context) as pool,
            ):
                row = pool.submit(attempt, library, name, None, done).result()
            yield row


def table(rows: list[dict[str, Any]], missing: int = 0) -> str:
    """Write the counts, and the names with what became of them, as Markdown.

    Args:
        rows: One a name.
        missing: Names that were not tried.
    """
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
    if missing:
        lines += ["", f"**{missing} more names were not tried yet.**"]
    alike = sum("same_as" in row for row in rows)
    smaller = [row["built_with"] for row in rows if row.get("built_with")]
    fewer = sum("depth" in how or "layers" in how for how in smaller)
    lines += [
        "",
        f"{len(smaller)} large ones were built smaller than their names say: for small images, and "
        f"{fewer} with two blocks in each stage, which are alike. So built, {alike} are the same "
        "network as another name, module by module, and were not run again. "
        "`benchmarks/results/zoo.jsonl` "
        "says which, and of each the size that it was run on, how far the law was off, in which "
        "views, and what was decided.",
    ]
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
        for row in work(todo, args.jobs, str(done)):
            rows.append(row)
            print(json.dumps(row), file=file, flush=True)
            why = row.get("why", "")
            print(f"{row['outcome']:<10}{row['name']} ({row['seconds']} s) {why}", flush=True)
    rows = [row for row in rows if (row["library"], row["name"]) in wanted]
    rows.sort(key=lambda row: (LIBRARIES.index(row["library"]), row["name"]))
    text = table(rows, len(wanted) - len(rows))
    Path(args.out).write_text(text)
    print(text.partition("## By family")[0])


if __name__ == "__main__":
    main()
