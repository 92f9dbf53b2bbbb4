"""Exported files: they answer as the network does, without crossd, at sizes not traced."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monai.networks.nets as monai
import onnx
import onnxruntime
import pytest
import timm
import torch
from torch import Tensor, nn

import crossd
from crossd import InputError, exporting, graphfiles
from crossd.checkpoint import WeightsConfig
from crossd.exporting import ExportReport, export
from crossd.models import small_resnet
from tests.helpers import normal

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
        nn.Conv2d(8, 8, 4, padding="same", groups=2),
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


def basic_unet() -> nn.Module:
    return monai.BasicUNet(2, 1, 2, features=(4, 4, 8, 8, 8, 4))


def unet() -> nn.Module:
    return monai.UNet(2, 1, 2, (4, 8, 8), (2, 2), num_res_units=1, norm="batch")


def segresnet() -> nn.Module:
    return monai.SegResNet(
        2, 8, 1, 2, upsample_mode="nontrainable", blocks_down=(1, 1, 1), blocks_up=(1, 1)
    )


Make = Callable[[], nn.Module]
NETWORKS: dict[str, tuple[Make, int, int]] = {
    # network, size of the example, step of the sizes
    "resnet": (lambda: small_resnet(1, 3), 12, 1),
    "separable": (separable, 14, 1),
    "upsampling": (upsampling, 8, 2),
    "basic_unet": (basic_unet, 32, 16),
    "unet": (unet, 8, 4),
    "segresnet": (segresnet, 8, 4),
}


def answer(path: Path, x: Tensor) -> Tensor:
    """Run a file with the libraries that a user of it would have."""
    if path.suffix == ".pt2":
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


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", NETWORKS)
def test_fourier_networks_make_their_kernels_in_the_file(
    tmp_path: Path, name: str, suffix: str
) -> None:
    make, size, step = NETWORKS[name]
    net = noisy(crossd.convert(make(), "fourier"))
    report = export(net, tmp_path / f"net{suffix}", "2d", size=size)
    channels = 2 if name == "separable" else 1
    assert report.input == ("batch", channels, "height", "width")
    assert report.step == step
    assert report.difference <= 1e-4 and len(report.checked) == 3
    more = size + 2 * step
    check(net, report, (1, channels, more, size), (5, channels, size + step, more))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", NETWORKS)
def test_3d_networks(tmp_path: Path, name: str, suffix: str) -> None:
    make, size, step = NETWORKS[name]
    net = noisy(crossd.convert(make()))
    report = export(net, tmp_path / f"net{suffix}", size=size)
    channels = 2 if name == "separable" else 1
    assert report.input == ("batch", channels, "depth", "height", "width")
    assert report.step == step
    check(net, report, (1, channels, size, size + step, size), (3, channels, size, size, size))
