"""What Cross-D costs on this machine: each way of convolving images against the plain network.

All networks of a case are measured in turn within each round of one run, so that whatever else the
machine does slows all of them; a ratio is the median over the rounds of a network's time by the
plain network's in the same round.

    python benchmarks/cost.py --networks resnet18,unet --batch-sizes 8,32 --out runs/bench
"""

import concurrent.futures
import contextlib
import copy
import dataclasses
import functools
import gc
import itertools
import json
import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cost_tables
import torch
import torch.nn.functional as F
from given_back import give_back_memory
from jsonargparse import ArgumentError
from torch import Tensor, nn

from crossd import acs, channels_last, convert, inflate, to_3d
from crossd.cli.parser import build
from crossd.errors import InputError
from crossd.nn.conv import CrossDConv
from crossd.nn.functional import displacement
from crossd.utils.allocator import keep_freed_memory
from crossd.utils.atomic_files import atomic
from crossd.utils.option_values import check, choice, names
from crossd.utils.progress import Progress
from crossd.utils.run_folder import claim_folder

ARMS = (
    *("plain", "plain-nhwc", "projection", "slice", "fourier", "fourier-projection"),
    *("acs", "i3d", "fft"),
)
NETWORKS = ("resnet18", "resnet50", "unet")
TABLES = ("layers", "networks", "volumes", "memory")
LAYERS = {  # the distinct convolutions of a ResNet18 on 224 x 224: in, out, kernel, stride, size
    "3 to 64, 7x7/2, 224": (3, 64, 7, 2, 224),
    "64, 3x3, 56": (64, 64, 3, 1, 56),
    "64 to 128, 3x3/2, 56": (64, 128, 3, 2, 56),
    "128, 3x3, 28": (128, 128, 3, 1, 28),
    "128 to 256, 3x3/2, 28": (128, 256, 3, 2, 28),
    "256, 3x3, 14": (256, 256, 3, 1, 14),
    "256 to 512, 3x3/2, 14": (256, 512, 3, 2, 14),
    "512, 3x3, 7": (512, 512, 3, 1, 7),
}
FEWEST, MOST = 3, 25
"""Rounds of a case."""

Run = Callable[[], None]


@dataclasses.dataclass(frozen=True)
class CostConfig:
    """Measure what Cross-D costs on this machine, beside the plain network and the rivals.

    Attributes:
        networks: What to measure, separated by commas: resnet18, resnet50, unet.
        sizes: Sides of the images [pixels], separated by commas.
        batch_sizes: Images a batch, separated by commas; layers take the first.
        arms: plain, plain-nhwc (channels last in memory), projection, slice, fourier,
            fourier-projection, acs, i3d, and fft (the paper's formulation), separated by commas.
        tables: layers (of a ResNet18, one by one), networks, volumes (beside networks of torch.nn's
            3D layers), memory (the peak of training steps, each in a process of its own), separated
            by commas.
        seconds: Time for the rounds of one case; there are at least three.
        device: cpu or cuda.
        precision: 32-true, bf16-mixed or 16-mixed.
        out: Folder for metrics.json, report.md and bench.png.
        overwrite: Replace a result that is there.
    """

    networks: str = "resnet18"
    sizes: str = "224,64"
    batch_sizes: str = "8"
    arms: str = "plain,plain-nhwc,projection,slice,fourier,acs,i3d,fft"
    tables: str = "layers,networks,volumes,memory"
    seconds: float = 8.0
    device: str = "cpu"
    precision: str = "32-true"
    out: str = "runs/bench"
    overwrite: bool = False


def measure(config: CostConfig, progress: Progress) -> str:
    """Measure and write tables, a picture and `metrics.json`; returns the tables to print."""
    check(config)
    arms = names(config.arms, ARMS, "--arms")
    networks = names(config.networks, NETWORKS, "--networks")
    tables = names(config.tables, TABLES, "--tables")
    if "plain" not in arms:
        raise InputError("--arms must hold plain: the others are measured against it")
    choice(config.device, ("cpu", "cuda"), "--device")
    if "memory" in tables and config.device == "cpu" and not Path("/proc/self/status").exists():
        raise InputError("--tables memory reads /proc, which this system has not: leave it out")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no CUDA device")
    sizes = _numbers(config.sizes, "--sizes", 32)
    batch_sizes = _numbers(config.batch_sizes, "--batch-sizes", 1)
    folder = claim_folder(config)
    keep_freed_memory()
    results: dict[str, Any] = {"about": about(config), "layers": [], "networks": [], "volumes": []}
    cases = [Case(None, layer, batch_sizes[0], config) for layer in LAYERS]
    cases = cases if "layers" in tables else []
    cases += [
        Case(network, str(size), batch, config)
        for network in networks
        for size in sizes
        for batch in batch_sizes
    ]
    with progress.task("benchmark", len(cases)) as bar:
        for case in cases:
            key = "networks" if case.network else "layers"
            if key in tables:
                results[key] += _measure(case, arms)
                progress.say(_step_ratios(case, results[key]))
            if case.network and "memory" in tables:
                results["networks"] += _memory(case, arms)
            _write(results, folder)  # what is measured is kept, should the rest be interrupted
            bar.advance(1)
    if "volumes" in tables:
        results["volumes"] = _volumes(config, progress)
    text = _write(results, folder)
    drawn = cost_tables.picture(results, folder / "bench.png")
    return f"{text}\nwritten: {folder}/report.md, metrics.json{' and bench.png' if drawn else ''}"


def _write(results: dict[str, Any], folder: Path) -> str:
    """Write the tables and the numbers; returns the tables."""
    text = cost_tables.markdown(results)
    with atomic(folder / "report.md") as temporary:
        temporary.write_text(text)
    with atomic(folder / "metrics.json") as temporary:
        temporary.write_text(json.dumps(results, indent=1))
    return text


def _step_ratios(case: "Case", rows: list[dict[str, Any]]) -> str:
    own = [r for r in rows if (r["case"], r["batch"]) == (case.name, case.batch)]
    steps = [f"{r['arm']} {r['ratio']:.2f}" for r in own if r["pass"] == "training step"]
    return f"{case.name}, batch {case.batch}, training step: {', '.join(steps)}"


def about(config: CostConfig) -> dict[str, Any]:
    """What the numbers depend on: machine, versions, date and options."""
    from crossd.reports import markdown

    gpu = torch.cuda.get_device_name() if config.device == "cuda" else None
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": _processor(),
        "gpu": gpu,
        "system": platform.platform(),
        "versions": markdown.versions(),
        "config": dataclasses.asdict(config),
    }


@dataclasses.dataclass(frozen=True)
class Case:
    """One layer, or one network at one size, with one batch size.

    Attributes:
        network: A name, or None for a layer.
        what: The name of the layer, or the size of the images.
        batch: Images a batch.
        config: The options of the run.
    """

    network: str | None
    what: str
    batch: int
    config: CostConfig

    @property
    def name(self) -> str:
        """How tables call it."""
        return f"{self.network}, {self.what}" if self.network else self.what

    def plain(self) -> nn.Module:
        """The plain 2D network, the same weights every time."""
        torch.manual_seed(0)
        return network(self.network) if self.network else _layer(self.what)

    def images(self) -> Tensor:
        """A batch that every arm gets; the input of a layer has a gradient too, as in a network."""
        generator = torch.Generator().manual_seed(1)
        channels, size = 3, int(self.what) if self.network else 0
        if not self.network:
            channels, _, _, _, size = LAYERS[self.what]
        shape = (self.batch, channels, size, size)
        images = torch.randn(shape, generator=generator).to(self.config.device)
        return images.requires_grad_(self.network is None)


def network(name: str) -> nn.Module:
    """Build a plain 2D network with three input channels.

    Args:
        name: ``"resnet18"``, ``"resnet50"`` (torchvision) or ``"unet"`` (MONAI's BasicUNet).
    """
    if name == "unet":
        from monai.networks.nets.basic_unet import BasicUNet

        return BasicUNet(2, 3, 4, norm="batch")
    import torchvision

    builder: Callable[[], nn.Module] = getattr(torchvision.models, name)
    return builder()


def _layer(name: str) -> nn.Module:
    channels, out, kernel, stride, _ = LAYERS[name]
    return nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False)


def arm(name: str, plain: nn.Module) -> nn.Module:
    """Build what is measured from the plain network.

    Cross-D networks have their kernels channels-last in memory, as crossd's training lays them;
    "plain-nhwc" is the plain network so laid out. "i3d" is the inflated 3D network on images as
    volumes of one slice, the cheapest way for it to take them; "fft" is the paper's formulation.
    """
    if name == "plain":
        return plain
    if name == "plain-nhwc":
        return channels_last(plain)
    if name == "acs":
        return acs(plain)
    if name == "i3d":
        return channels_last(inflate(plain))
    net = convert(plain, "fourier" if name == "fft" else name)
    if name == "fft":
        for module in net.modules():
            if isinstance(module, CrossDConv) and module.kernel_size != (1, 1, 1):
                module.forward = functools.partial(_by_fft, module)  # type: ignore[method-assign]
        return net
    return channels_last(net)


def _built(name: str, case: "Case") -> nn.Module:
    """Build what is measured: a network once for all sizes, as converting takes seconds."""
    key = name, case.network or case.what
    if key not in BUILT:
        BUILT[key] = arm(name, case.plain())
    return copy.deepcopy(BUILT[key])


BUILT: dict[tuple[str, str], nn.Module] = {}
"""Networks and layers as they were built, by the arm and their name."""


def _by_fft(conv: CrossDConv, x: Tensor) -> Tensor:
    """The fourier mode as the paper writes it: spectra of every sample's own 3D kernel."""
    mode: Any = conv.mode
    axis, angle = mode.predictor(x)
    shift = displacement(axis, angle, mode.offset)
    sizes = conv.weight.shape[2:]
    grids = torch.meshgrid(
        *(torch.fft.fftfreq(size, device=x.device) for size in sizes), indexing="ij"
    )
    with torch.autocast(x.device.type, enabled=False):  # spectra have no half precision
        phase = torch.einsum("na,zyxa->nzyx", shift, torch.stack(grids, -1))
        spectrum = torch.fft.fftn(conv.weight, dim=(-3, -2, -1))
        turned = spectrum * torch.exp(-2j * torch.pi * phase)[:, None, None]  # (N, O, I, K, K, K)
        kernels = torch.fft.ifftn(turned, dim=(-3, -2, -1)).real[:, :, :, sizes[0] // 2]
    n = x.shape[0]
    stride, padding, dilation = conv.stride[-2:], conv.padding[-2:], conv.dilation[-2:]
    rows, every = x.reshape(1, -1, *x.shape[2:]), kernels.flatten(0, 1)
    y = F.conv2d(rows, every, None, stride, padding, dilation, n * conv.groups)
    return y.view(n, -1, *y.shape[2:])


def _worth(arms: tuple[str, ...], case: Case) -> list[str]:
    """Leave out the FFT where its N * O * I * K^3 complex numbers would take minutes.

    And I3D where one slice is too thin: the U-Net halves its depth four times.
    """
    without = {"fft": case.batch > 8, "i3d": case.network == "unet"}
    return [name for name in arms if not without.get(name)]


def _measure(case: Case, arms: tuple[str, ...]) -> list[dict[str, Any]]:
    nets = {name: _built(name, case).to(case.config.device) for name in _worth(arms, case)}
    images = case.images()
    rows = []
    for what, make in (("forward", forward), ("training step", training_step)):
        runs = {
            name: make(net, fitting(name, images), case.config.precision)
            for name, net in nets.items()
        }
        about_it = {"case": case.name, "batch": case.batch, "pass": what}
        rows += [{**about_it, **row} for row in timed(runs, case.config)]
    return rows


def _memory(case: Case, arms: tuple[str, ...]) -> list[dict[str, Any]]:
    peaks = {name: peak_memory(name, case) for name in _worth(arms, case)}
    plain, plain_start = peaks["plain"]["peak"], peaks["plain"]["start"]
    return [
        {
            "case": case.name,
            "batch": case.batch,
            "pass": "peak memory",
            "arm": name,
            "mib": peak["peak"],
            "ratio": peak["peak"] / plain,
            "network_mib": peak["peak"] - peak["start"],
            "network_ratio": (peak["peak"] - peak["start"]) / (plain - plain_start),
        }
        for name, peak in peaks.items()
    ]


def fitting(name: str, images: Tensor) -> Tensor:
    """Give a batch in the rank and memory format in which an arm is at its best."""
    if name == "i3d":
        return images.unsqueeze(2)
    if name == "plain-nhwc":
        return images.contiguous(memory_format=torch.channels_last)
    return images


def forward(net: nn.Module, x: Tensor, precision: str) -> Run:
    """Make a function that answers on a batch, without gradients."""

    def run() -> None:
        net.eval()
        with torch.inference_mode(), _precision(x.device, precision):
            net(x)

    return run


def training_step(net: nn.Module, x: Tensor, precision: str) -> Run:
    """Make a function that runs forward, backward and a step of SGD."""
    optimizer = torch.optim.SGD(net.parameters(), 1e-3)
    x = x.detach().requires_grad_(x.requires_grad)

    def run() -> None:
        net.train()
        optimizer.zero_grad()
        x.grad = None
        with _precision(x.device, precision):
            loss = net(x).float().square().mean()
        loss.backward()
        optimizer.step()

    return run


def _precision(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    kinds = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    kind = kinds.get(precision)
    return torch.autocast(device.type, kind) if kind else contextlib.nullcontext()


def timed(runs: Mapping[str, Run], config: CostConfig) -> list[dict[str, Any]]:
    """Time functions in turn.

    Args:
        runs: By name; "plain" is what the others are compared with.
        config: Its `seconds` bound the time of all rounds together, beyond the fewest.

    Returns:
        A row for each: name, median time [ms], median ratio, and the number of rounds.
    """
    for run in runs.values():
        run()
        _wait(config.device)
    times: dict[str, list[float]] = {name: [] for name in runs}
    start = time.perf_counter()
    for turn in range(MOST):
        late = time.perf_counter() - start > config.seconds
        if late and turn >= FEWEST:
            break
        for name, run in runs.items():
            if name == "fft" and turn >= FEWEST:
                continue
            begin = time.perf_counter()
            run()
            _wait(config.device)
            times[name].append(time.perf_counter() - begin)
    return [
        {
            "arm": name,
            "ms": 1000 * statistics.median(own),
            "ratio": statistics.median(a / b for a, b in zip(own, times["plain"], strict=False)),
            "rounds": len(own),
        }
        for name, own in times.items()
    ]


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def peak_memory(name: str, case: Case) -> dict[str, float]:
    """Measure the peak of three training steps [MiB], on a CPU in a process of its own.

    Returns:
        "peak", and "start", what was held before the network was built. On a CPU these are resident
        pages, libraries included; on a GPU what torch allocated.
    """
    if case.config.device == "cuda":
        return _peak(name, case)
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, spawn) as pool:
        return pool.submit(_peak, name, case).result()


def _peak(name: str, case: Case) -> dict[str, float]:
    keep_freed_memory()
    gc.collect()
    cuda = case.config.device == "cuda"
    start = torch.cuda.memory_allocated() / 2**20 if cuda else _resident("VmRSS")
    run = training_step(
        _built(name, case).to(case.config.device),
        fitting(name, case.images()),
        case.config.precision,
    )
    _forget_peak(case.config.device)
    for _ in range(3):
        run()
    if cuda:
        return {"start": start, "peak": torch.cuda.max_memory_allocated() / 2**20}
    return {"start": start, "peak": _resident("VmHWM")}


def _forget_peak(device: str) -> None:
    """Start anew with the peak: building and converting a network is no part of its steps."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    give_back_memory()
    with contextlib.suppress(OSError):  # a sandbox may forbid it: then the peak includes building
        Path("/proc/self/clear_refs").write_text("5")


def _resident(what: str) -> float:
    """This process's resident memory [MiB]: "VmRSS" now, "VmHWM" at most so far.

    (`getrusage` would do, but a child's maximum starts at that of the process it was made from.)
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"no {what} in /proc/self/status")


def _solid_resnet() -> tuple[nn.Module, nn.Module]:
    import timm

    net = convert(timm.create_model("resnet18", in_chans=1, num_classes=11))
    return to_3d(net), net


def _solid_efficientnet() -> tuple[nn.Module, nn.Module]:
    from monai.networks.nets.efficientnet import EfficientNetBN

    solid, flat = (EfficientNetBN("efficientnet-b0", False, True, d, 1, 11) for d in (3, 2))
    return solid, convert(flat)


def _solid_segresnet() -> tuple[nn.Module, nn.Module]:
    from monai.networks.nets.segresnet import SegResNet

    solid, flat = (SegResNet(d, 8, 1, 3, upsample_mode="nontrainable") for d in (3, 2))
    return solid, convert(flat)


def _solid_unet() -> tuple[nn.Module, nn.Module]:
    from monai.networks.nets.basic_unet import BasicUNet

    solid, flat = (BasicUNet(d, 1, 4, norm="batch") for d in (3, 2))
    return solid, convert(flat)


VOLUMES: dict[str, Callable[[], tuple[nn.Module, nn.Module]]] = {
    "resnet18": _solid_resnet,
    "efficientnet-b0": _solid_efficientnet,
    "segresnet": _solid_segresnet,
    "unet": _solid_unet,
}
"""Make a network of torch.nn's 3D layers, and one for images that was converted."""

SHAPES = ((2, 1, 32, 64, 64), (1, 1, 96, 96, 96))
"""What both are given: small volumes, where what surrounds the layers shows, and a patch."""


def _volumes(config: CostConfig, progress: Progress) -> list[dict[str, Any]]:
    """Compare converted networks on volumes with such as were written for volumes."""
    rows = []
    with progress.task("benchmark of volumes", len(VOLUMES) * len(SHAPES)) as bar:
        for (name, make), shape in itertools.product(VOLUMES.items(), SHAPES):
            arms = ("plain", "folded")
            nets = {
                a: channels_last(n).to(config.device) for a, n in zip(arms, make(), strict=True)
            }
            x = torch.randn(shape, device=config.device)
            for what, runs in (("forward", forward), ("training step", training_step)):
                about_it = {"case": f"{name}, {shape[2]}x{shape[3]}x{shape[4]}", "batch": shape[0]}
                made = {key: runs(net, x, config.precision) for key, net in nets.items()}
                rows += [{**about_it, "pass": what, **row} for row in timed(made, config)]
            bar.advance(1)
    return rows


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
    parser = build("cost", CostConfig, "python benchmarks/cost.py --networks unet --out runs/unet")
    parser.prog = "python benchmarks/cost.py"
    try:
        given = parser.parse_args().as_dict()
        known = {field.name: given[field.name] for field in dataclasses.fields(CostConfig)}
        print(measure(CostConfig(**known), Progress()))
    except (InputError, ArgumentError) as error:
        print(f"cost.py: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
