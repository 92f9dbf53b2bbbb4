"""Exported files: they answer as the network does, without crossd, at sizes not traced."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import monai.networks.nets as monai
import onnx
import onnxruntime
import pytest
import timm
import torch
from helpers import normal, some
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn

import crossd
from crossd import InputError
from crossd.conversion.registry import small_resnet
from crossd.weights import export as exporting
from crossd.weights import graph_files
from crossd.weights.export import ExportReport, export
from crossd.weights.model_card import model_card
from crossd.weights.weights_file import WeightsConfig

SUFFIXES = (".pt2", ".onnx")
VIEWS = ("axial", "coronal", "sagittal")


def noisy(net: nn.Module) -> Any:
    """Change every number of a network, so that none is what building it gives."""
    with torch.no_grad():
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                tensor.mul_(0.9).add_(torch.rand_like(tensor) * 0.1)
    return net.eval()


def separable() -> nn.Module:
    """Depthwise, grouped, dilated, strided and asymmetrically padded convolutions."""
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, stride=2, padding=1, padding_mode="reflect"),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8, bias=False),
        nn.SiLU(),
        nn.Conv2d(8, 8, 4, padding=(2, 1), groups=2),
        nn.Conv2d(8, 5, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def upsampling() -> nn.Module:
    """Transposed convolutions, grouped, dilated and with output padding; and interpolation."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        nn.InstanceNorm2d(8, affine=True),
        nn.ConvTranspose2d(8, 4, 3, 2, 1, 1, groups=2),
        nn.MaxPool2d(2),
        nn.GroupNorm(2, 4),
        nn.ConvTranspose2d(4, 4, 3, 1, 2, dilation=2, bias=False),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Conv2d(4, 2, 1),
    )


def small(channels: int = 1) -> nn.Module:
    """A network that is traced in a moment."""
    layers = [nn.Conv2d(channels, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3)]
    return nn.Sequential(*layers)


def basic_unet() -> nn.Module:
    return monai.BasicUNet(2, 1, 2, features=(4, 4, 8, 8, 8, 4))


def unet() -> nn.Module:
    return monai.UNet(2, 1, 2, (4, 8, 8), (2, 2), num_res_units=1, norm="batch")


def segresnet() -> nn.Module:
    return monai.SegResNet(
        2, 8, 1, 2, upsample_mode="nontrainable", blocks_down=(1, 1, 1), blocks_up=(1, 1)
    )


Make = Callable[[], nn.Module]
NETWORKS: dict[str, tuple[Make, int, int, int]] = {
    # network, channels, size of the example, step of the sizes
    "resnet": (lambda: small_resnet(1, 3), 1, 12, 1),
    "separable": (separable, 2, 14, 1),
    "upsampling": (upsampling, 1, 8, 1),
    "basic_unet": (basic_unet, 1, 32, 16),
    "unet": (unet, 1, 8, 4),
    "segresnet": (segresnet, 1, 8, 4),
}


def answer(path: Path, x: Tensor) -> Tensor:
    """Run a file with the libraries that a user of it would have."""
    if path.suffix == ".pt2":
        with torch.no_grad():
            return torch.export.load(path).module()(x)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"input": x.numpy()})[0])


def same(actual: Tensor, expected: Tensor) -> None:
    assert actual.shape == expected.shape
    # What the issue asks for: 1e-4. Products of matrices add in another order than convolutions.
    assert float((actual - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


def check(net: nn.Module, report: ExportReport, *shapes: tuple[int, ...]) -> None:
    """Compare a file with a network at shapes that its exporter did not see."""
    for seed, shape in enumerate(shapes):
        x = normal(*shape, dtype=torch.float32, seed=seed)
        with torch.no_grad():
            same(answer(report.path, x), net(x))


# --- networks -----------------------------------------------------------------------------------


SLOW = ("resnet", "basic_unet", "segresnet")
EVERY = list(product(NETWORKS, SUFFIXES))


def networks(slow: Callable[[str, str], bool]) -> pytest.MarkDecorator:
    marks = {True: [pytest.mark.slow], False: []}
    cases = [pytest.param(*case, marks=marks[slow(*case)]) for case in EVERY]
    return pytest.mark.parametrize(("name", "suffix"), cases)


# Tracing kernels of each image takes seconds a layer. An .onnx is made of a trace that was run too.
@networks(lambda name, suffix: True)
def test_fourier_networks_make_their_kernels_in_the_file(
    tmp_path: Path, name: str, suffix: str
) -> None:
    make, channels, size, step = NETWORKS[name]
    net = noisy(crossd.convert(make(), "fourier"))
    report = export(net, tmp_path / f"net{suffix}", "2d", size=size)
    assert report.input == ("batch", channels, "height", "width")
    assert report.step == step
    assert report.difference <= 1e-4 and len(report.checked) == 3
    more = size + 2 * step
    check(net, report, (1, channels, more, size), (5, channels, size + step, more))


@networks(lambda name, suffix: (name, suffix) != ("upsampling", ".onnx"))
def test_3d_networks(tmp_path: Path, name: str, suffix: str) -> None:
    make, channels, size, step = NETWORKS[name]
    net = noisy(crossd.convert(make()))
    report = export(net, tmp_path / f"net{suffix}", size=size)
    assert report.input == ("batch", channels, "depth", "height", "width")
    assert report.step == step
    shapes = ((1, channels, size, size + step, size), (3, channels, size, size, size))
    check(net, report, *shapes)


@pytest.mark.parametrize("suffix", some(SUFFIXES, [SUFFIXES[0]]))
@pytest.mark.parametrize(
    ("mode", "view"), [("projection", "axial"), ("projection", "sagittal"), ("slice", "coronal")]
)
def test_2d_networks_of_a_view(tmp_path: Path, mode: str, view: str, suffix: str) -> None:
    net = noisy(crossd.convert(small(2), mode))
    report = export(net, tmp_path / f"net{suffix}", "2d", size=(12, 10), view=view)
    shapes = ((1, 2, 9, 16), (3, 2, 12, 10))
    with crossd.view(view):
        check(net, report, *shapes)
    x = normal(2, 2, 12, 10, dtype=torch.float32)
    other = next(name for name in VIEWS if name != view)
    with crossd.view(other), torch.no_grad(), pytest.raises(AssertionError):
        same(answer(report.path, x), net(x))


@pytest.mark.parametrize("suffix", some(SUFFIXES, [".pt2"]))
def test_the_fixed_pose_is_the_plain_2d_network(tmp_path: Path, suffix: str) -> None:
    net = noisy(crossd.convert(small(), "fourier"))
    plain = crossd.to_2d(net)
    fixed = export(net, tmp_path / f"fixed{suffix}", "2d", size=12, fixed_pose=True)
    check(plain, fixed, (1, 1, 15, 12), (3, 1, 12, 12))
    for module in net.modules():
        if hasattr(module, "fixed_pose"):
            module.fixed_pose = True
    again = export(net, tmp_path / f"again{suffix}", "2d", size=12)
    check(net, again, (1, 1, 15, 12), (3, 1, 12, 12))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", some(SUFFIXES, [".onnx"]))
def test_each_image_has_its_own_kernels(tmp_path: Path, suffix: str) -> None:
    net = noisy(crossd.convert(nn.Sequential(nn.Conv2d(2, 4, 3, padding=1)), "fourier"))
    path = export(net, tmp_path / f"net{suffix}", "2d", size=8).path
    x = normal(4, 2, 8, 8, dtype=torch.float32)
    together = answer(path, x)
    order = torch.tensor([2, 0, 3, 1])
    same(answer(path, x[order]), together[order])
    for n in range(4):
        same(answer(path, x[n : n + 1]), together[n : n + 1])
    # At a common pose the network is linear; with poses of their own it is not.
    zero = answer(path, torch.zeros_like(x))
    assert float((answer(path, 2 * x) - 2 * together + zero).abs().max()) > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("suffix", some(SUFFIXES, [".onnx"]))
def test_plain_networks_and_acs(tmp_path: Path, suffix: str) -> None:
    two = noisy(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    report = export(two, tmp_path / f"two{suffix}", "2d", size=8)
    assert report.outputs == (("batch", 4, None, None),)
    check(two, report, (3, 3, 5, 9))
    three = crossd.inflate(two)
    check(three, export(three, tmp_path / f"three{suffix}", "3d", size=8), (1, 3, 5, 9, 7))
    both = crossd.acs(two)
    check(both, export(both, tmp_path / f"acs{suffix}", "3d", size=8), (1, 3, 5, 9, 7))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("mode", "to"), [("fourier", "2d"), ("projection", "3d")])
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_050", "convnext_atto"])
def test_networks_of_timm(tmp_path: Path, name: str, mode: str, to: str, suffix: str) -> None:
    model = timm.create_model(name, num_classes=5, in_chans=1)
    net = crossd.convert(model, mode).eval()
    report = export(net, tmp_path / f"net{suffix}", to, size=40)
    assert report.step == 1
    check(net, report, (1, 1, 40, 48) if to == "2d" else (1, 1, 40, 48, 36))


# --- without crossd -----------------------------------------------------------------------------

WITHOUT_CROSSD = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "crossd":
            raise ImportError(name + " must not be needed")

sys.meta_path.insert(0, Blocker())
import torch
from timm.layers.norm import LayerNorm2d
import onnxruntime

for folder in sys.argv[1:]:
    x = torch.load(folder + "/x.pt")
    extra = {"crossd.json": ""}
    pt2 = torch.export.load(folder + "/net.pt2", extra_files=extra).module()(x)
    session = onnxruntime.InferenceSession(folder + "/net.onnx")
    onnx, = session.run(None, {"input": x.numpy()})
    torch.save((pt2.detach(), torch.from_numpy(onnx), extra["crossd.json"]), folder + "/y.pt")
assert not any(name.partition(".")[0] == "crossd" for name in sys.modules)
"""


@pytest.mark.slow
def test_a_process_without_crossd(tmp_path: Path) -> None:
    config = WeightsConfig("resnet-small", "classification", 1, ("a", "b"), mean=0.5, std=2.0)
    cases = {
        "poses": ("fourier", "2d", False, (3, 1, 9, 11)),
        "fixed": ("fourier", "2d", True, (3, 1, 9, 11)),
        "volumes": ("projection", "3d", False, (1, 1, 9, 11, 12)),
    }
    expected = {}
    for name, (mode, to, fixed, shape) in cases.items():
        folder = tmp_path / name
        folder.mkdir()
        net = noisy(crossd.convert(nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU()), mode))
        net.config = config
        for suffix in SUFFIXES:
            export(net, folder / f"net{suffix}", to, size=10, fixed_pose=fixed)
        x = normal(*shape, dtype=torch.float32)
        torch.save(x, folder / "x.pt")
        with torch.no_grad():
            expected[name] = crossd.to_2d(net)(x) if fixed else net(x)
    command = [sys.executable, "-I", "-c", WITHOUT_CROSSD, *(str(tmp_path / c) for c in cases)]
    subprocess.run(command, check=True, cwd=tmp_path)
    for name, y in expected.items():
        pt2, by_onnx, metadata = torch.load(tmp_path / name / "y.pt")
        same(pt2, y)
        same(by_onnx, y)
        values = json.loads(metadata)
        assert (values["mean"], values["std"], values["classes"]) == (0.5, 2.0, ["a", "b"])


@pytest.mark.parametrize("mode", ["projection", "slice", "fourier"])
def test_users_may_trace_cross_d_networks_themselves(mode: str) -> None:
    """Outside of `crossd.export`, with all of torch's defaults."""
    layers = [nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(4, 2, 2, 2)]
    net = noisy(crossd.convert(nn.Sequential(*layers), mode))
    for shape in ((2, 1, 8, 8), (2, 1, 8, 8, 8)):
        x = normal(*shape, dtype=torch.float32)
        free: Any = ({0: torch.export.Dim("batch")},)
        program = torch.export.export(net, (x,), dynamic_shapes=free)
        more = normal(3, *shape[1:], dtype=torch.float32)
        with torch.no_grad():
            same(program.module()(more), net(more))
        names = {str(node.target) for node in program.graph.nodes}
        assert not any("autograd" in name or "crossd" in name for name in names)


# --- what is free, and what is said of it -------------------------------------------------------


class Pooled(nn.Module):
    """Its code asks for one size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.head = nn.Linear(2 * 8 * 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).flatten(1))


class ByRank(nn.Module):
    """Answers otherwise at sizes over ten: a program traced below would be wrong there."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) * torch.tensor(float(x.shape[2]))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_network_of_one_size_has_a_free_batch(tmp_path: Path, suffix: str) -> None:
    net = Pooled().eval()
    report = export(net, tmp_path / f"net{suffix}", "2d", size=8)
    assert report.input == ("batch", 1, 8, 8)
    assert report.outputs == (("batch", 3),)
    assert report.step == 0
    assert report.notes[0].startswith("the size is fixed: ")
    check(net, report, (1, 1, 8, 8), (5, 1, 8, 8))
    with pytest.raises(Exception, match=r"8|[Dd]imension"):
        answer(report.path, torch.zeros(2, 1, 9, 8))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("mode", ["slice", pytest.param("fourier", marks=pytest.mark.slow)])
def test_maps_of_one_pixel_do_not_fix_the_size(tmp_path: Path, mode: str, suffix: str) -> None:
    layers = [nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 6, 3, groups=2)]
    net = noisy(crossd.convert(nn.Sequential(*layers), mode))
    report = export(net, tmp_path / f"net{suffix}", "2d", size=8)  # 8, 3, 1
    assert report.step == 1
    check(net, report, (1, 1, 8, 8), (2, 1, 7, 9), (1, 1, 20, 17))


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "to"), [("fourier", "2d"), ("projection", "3d")])
def test_a_batch_of_one_where_channels_are_last_in_memory(
    tmp_path: Path, mode: str, to: str
) -> None:
    """There torch notes that the traced batch was not one, which no answer depends on."""
    layers = [nn.Conv2d(1, 4, 3, 2), LayerNorm2d(4), nn.Conv2d(4, 4, 3, groups=4)]
    net = noisy(crossd.convert(nn.Sequential(*layers), mode))
    report = export(net, tmp_path / "net.pt2", to, size=11)
    assert (report.input[0], report.step) == ("batch", 1)
    shape = (12, 9) if to == "2d" else (12, 9, 10)
    check(net, report, (1, 1, *shape), (4, 1, *shape))


@pytest.mark.slow
@pytest.mark.parametrize("to", ["2d", "3d"])
def test_windows_of_attention(tmp_path: Path, to: str) -> None:
    options: dict[str, Any] = {"depths": (1, 1), "embed_dim": 12, "num_heads": (2, 2)}
    source = timm.create_model(
        "swin_tiny_patch4_window7_224", num_classes=3, img_size=28, in_chans=1, **options
    )
    net = noisy(crossd.convert(source))
    report = export(net, tmp_path / "net.onnx", to, size=28, fixed_size=True)
    check(net, report, (2, 1, *(28,) * int(to[0])))


@pytest.mark.parametrize("suffix", some(SUFFIXES, [".pt2"]))
def test_the_size_is_fixed_where_asked(tmp_path: Path, suffix: str) -> None:
    net = noisy(crossd.convert(nn.Sequential(nn.Conv2d(1, 2, 3)), "fourier"))
    report = export(net, tmp_path / f"net{suffix}", "2d", size=(8, 9), fixed_size=True)
    assert (report.input, report.step, report.notes) == (("batch", 1, 8, 9), 0, ())
    assert report.outputs == (("batch", 2, 6, 7),)
    check(net, report, (4, 1, 8, 9))
    with pytest.raises(Exception, match=r"8|[Dd]imension"):
        answer(report.path, torch.zeros(2, 1, 9, 9))


def test_a_size_that_is_baked_in_is_found(tmp_path: Path) -> None:
    report = export(ByRank(), tmp_path / "net.pt2", "2d", size=8, channels=1)
    x = torch.ones(2, 1, 8, 8)
    same(answer(report.path, x), torch.full((2, 1), 8.0))
    assert report.step == 0 and "the size is fixed" in report.notes[0]


def test_several_outputs(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3, padding=1)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            y = self.conv(x)
            return {"mask": y, "mean": y.mean((2, 3))}

    for suffix in SUFFIXES:
        report = export(Two(), tmp_path / f"net{suffix}", "2d", size=8)
        assert report.outputs == (("batch", 2, "height", "width"), ("batch", 2))
    names = [value.name for value in onnx.load(tmp_path / "net.onnx").graph.output]
    assert names == ["output_0", "output_1"]


@pytest.mark.slow
def test_the_report_and_what_the_file_says(tmp_path: Path) -> None:
    config = WeightsConfig(
        "custom", "segmentation", 1, ("none", "organ"), mean=3.0, std=4.0, size=(8, 16, 24)
    )
    net: Any = noisy(crossd.convert(unet()))
    net.config = config
    report = export(net, tmp_path / "net.onnx", "2d", view="coronal")
    assert report.checked == ((1, 1, 8, 24), (2, 1, 8, 24), (3, 1, 12, 32))
    lines = str(report).splitlines()
    assert lines[0] == "batch x 1 x height x width -> batch x 2 x ? x ?, float32, opset " + str(
        report.opset
    )
    assert lines[1].startswith("differs by ")
    assert lines[1].endswith("checked at 1 x 1 x 8 x 24, 2 x 1 x 8 x 24, 3 x 1 x 12 x 32")
    assert lines[2:] == [
        "sizes may differ from 8 x 24 by multiples of 4",
        f"written: {tmp_path / 'net.onnx'}",
    ]
    model = onnx.load(report.path)
    onnx.checker.check_model(model)
    (given,) = model.graph.input
    assert [d.dim_param or d.dim_value for d in given.type.tensor_type.shape.dim] == list(
        report.input
    )
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    values = json.loads(metadata["crossd"])
    named = {field.name for field in dataclasses.fields(WeightsConfig)}
    assert named <= set(values)
    assert values["mean"] == 3.0 and values["classes"] == ["none", "organ"]
    assert (values["form"], values["view"], values["step"]) == ("2d", "coronal", 4)
    assert values["input"] == ["batch", 1, "height", "width"]
    assert values["example"] == [2, 1, 8, 24]
    again = export(net, tmp_path / "net.pt2", "3d")
    assert again.checked[0] == (1, 1, 8, 16, 24)


def test_sizes_that_fit_the_other_rank() -> None:
    assert exporting._trained(2, "sagittal", (8, 16, 24)) == (8, 16)
    assert exporting._trained(3, "axial", (16, 24)) == (16, 16, 24)
    assert exporting._trained(3, "axial", (8, 16, 24)) == (8, 16, 24)
    assert exporting._trained(2, "axial", ()) == exporting.SIZE


def test_the_network_stays_as_it_is(tmp_path: Path) -> None:
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)]
    net = crossd.convert(nn.Sequential(*layers), "fourier").double().train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    drawn = torch.get_rng_state()
    report = export(net, tmp_path / "net.pt2", "2d", size=8)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert net.training and all(m.training for m in net.modules())
    after = net.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(tensor.dtype == before[name].dtype for name, tensor in after.items())
    check(net.float().eval(), report, (1, 1, 8, 12))


def test_checkpointing_is_left_out(tmp_path: Path) -> None:
    block = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
    net = crossd.convert(nn.Sequential(block), "fourier")
    noisy(crossd.checkpoint_activations(net))
    report = export(net, tmp_path / "net.pt2", "2d", size=8)
    check(net, report, (1, 1, 8, 12))


# --- refusals -----------------------------------------------------------------------------------


def refused(message: str, *given: Any, **named: Any) -> None:
    with pytest.raises(InputError, match=message) as caught:
        export(*given, **named)
    assert "\n" not in str(caught.value)


def test_arguments_that_cannot_be_honoured(tmp_path: Path) -> None:
    net = crossd.convert(nn.Sequential(nn.Conv2d(1, 2, 3)))
    fourier = crossd.convert(nn.Sequential(nn.Conv2d(1, 2, 3)), "fourier")
    out = tmp_path / "net.pt2"
    refused("out .*net.pt must end in .pt2 or .onnx", net, tmp_path / "net.pt")
    refused("to .*'4d'.* must be one of 2d, 3d", net, out, "4d")
    refused("view .*'top'.* must be one of axial", net, out, "2d", view="top")
    refused("view .*'coronal'.* is for an export to 2d", net, out, "3d", view="coronal")
    refused("the fourier mode has no views", fourier, out, "2d", view="coronal")
    refused("fixed_pose is for", net, out, "2d", fixed_pose=True)
    refused("fixed_pose is for", fourier, out, "3d", fixed_pose=True)
    refused(r"size .*\(8, 8\).* one number, or 3", net, out, size=(8, 8))
    refused("size .*0.* one number, or 3", net, out, size=0)
    refused("channels .*None", nn.ReLU(), out)
    refused("channels .*0", net, out, channels=0)
    refused("cannot take 2 x 3 x 64 x 64 x 64 .RuntimeError: ", net, out, channels=3)
    refused("cannot take 2 x 1 x 2 x 2 .RuntimeError: ", net, out, "2d", size=2)
    refused("plain 2d one, which cannot become 3d: convert", nn.Conv2d(1, 2, 3), out)
    refused("plain 3d one, which cannot become 2d: convert", nn.Conv3d(1, 2, 3), out, "2d")
    assert not list(tmp_path.iterdir())


def test_files_that_are_there(tmp_path: Path) -> None:
    net, out = noisy(nn.Conv2d(1, 2, 3)), tmp_path / "net.pt2"
    out.write_text("mine")
    refused("net.pt2 exists already: name another", net, out, "2d", size=8)
    assert out.read_text() == "mine"
    check(net, export(net, out, "2d", size=8, overwrite=True), (1, 1, 8, 8))
    (tmp_path / "folder.onnx").mkdir()
    refused("folder.onnx is a folder", net, tmp_path / "folder.onnx", overwrite=True)
    refused("cannot write to out .*: (File exists|Not a directory)", net, out / "net.pt2", "2d")


def test_networks_that_cannot_be_traced(tmp_path: Path) -> None:
    class Asks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if bool(x.sum() > 0) else -x

    class Sixth(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.eigvals(x.mean((0, 1))).real

    class Text(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return ["text"]

    out = tmp_path / "net.onnx"
    refused("cannot export to .*: torch.export cannot trace", Asks(), out, "2d", channels=1, size=8)
    refused("cannot export to .*: .onnx cannot hold it", Sixth(), out, "2d", channels=1, size=8)
    refused("must give a tensor", Text(), out, "2d", channels=1, size=8)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", ["differs", "shape", "raises"])
def test_a_file_that_answers_otherwise_is_not_kept(
    tmp_path: Path, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, out = noisy(nn.Conv2d(1, 2, 3)), tmp_path / "net.pt2"
    out.write_text("the one before")
    right = graph_files.runner

    def wrong(path: Path) -> Any:
        run = right(path)

        def answer(x: Tensor) -> list[Tensor]:
            if error == "raises" and len(x) == 1:
                raise RuntimeError("a batch of one")
            (y,) = run(x)
            return [y[:, :1] if error == "shape" else y * 1.001]

        return answer

    monkeypatch.setattr(graph_files, "runner", wrong)
    words = {
        "differs": "at 1 x 1 x 8 x 8 it differs by 1.0e-03",
        "shape": "it gives 1 x 1 x 6 x 6, the network 1 x 2 x 6 x 6",
        "raises": r"it does not run at 1 x 1 x 8 x 8 \(RuntimeError: a batch of one\)",
    }[error]
    refused(f"cannot export to .*: .*{words}", net, out, "2d", size=8, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt2"]
    assert out.read_text() == "the one before"


def test_without_the_libraries_of_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, out = noisy(nn.Conv2d(1, 2, 3)), tmp_path / "net.onnx"
    monkeypatch.setattr(graph_files, "_installed", lambda name: name != "onnxruntime")
    report = export(net, out, "2d", size=8)
    assert report.checked == ()
    assert "not run, onnxruntime is not installed: pip install 'crossd[onnx]'" in str(report)
    check(net, report, (1, 1, 8, 8))
    monkeypatch.setattr(graph_files, "_installed", lambda name: False)
    message = "needs onnx and onnxscript: pip install 'crossd.onnx.'"
    refused(message, net, out, "2d", size=8, overwrite=True)


def test_a_network_that_is_too_large_for_onnx(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_files, "LARGEST", 70)
    net = nn.Conv2d(1, 2, 3)
    refused("80 bytes, of which .onnx holds 2 GiB", net, tmp_path / "net.onnx", "2d", size=8)


@pytest.mark.parametrize("suffix", some([".pt2", ".onnx"], [".pt2"]))
@pytest.mark.parametrize("mode", some(["projection", "fourier"], ["projection"]))
def test_a_network_whose_own_forward_was_rewritten(tmp_path: Path, mode: str, suffix: str) -> None:
    class Top(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.head(self.conv(x).mean((2, 3)))
            return y

    net = crossd.convert(Top(), mode).eval()
    for to, size in (("2d", (16, 16)), ("3d", (16, 16, 16))):
        report = crossd.export(net, tmp_path / f"{to}{suffix}", to=to, size=size)
        assert report.path.is_file()


def test_numbers_to_learn_are_told_to_be_standardised(tmp_path: Path) -> None:
    config = WeightsConfig(
        "resnet-small", "regression", 1, ("volume",), number_mean=(3.0,), number_std=(0.5,),
        units=("ml",), size=(8, 8),
    )  # fmt: skip
    net = config.build().eval()
    net.config = config  # type: ignore[assignment]
    report = export(net, tmp_path / "net.pt2", to="2d")
    assert "times number_std plus number_mean" in str(report)
    card = model_card(config, licence="mit", data="made", metrics={"r2": 0.5}, limits="none known")
    assert "volume [ml]" in card and "net.config.scale.restored(net(x))" in card
