"""Weights files that version 0.1.0 wrote answer as they did there.

The files hold small networks with every number moved at random, and `answers.safetensors` what
0.1.0 said of the same images and volumes.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from timm.layers.global_context import GlobalContext
from torch import Tensor, nn

import crossd
from crossd.weights import weights_file
from crossd.weights.weights_file import WeightsConfig, load, read_config

FILES = Path(__file__).parent / "files_of_0_1"
NAMES = sorted(path.stem for path in FILES.glob("*-*.safetensors"))
IMAGE = torch.linspace(-1, 1, 2 * 16 * 20).sin().view(2, 1, 16, 20)
VOLUME = torch.linspace(-9, 9, 2 * 12 * 16 * 20).sin().view(2, 1, 12, 16, 20)


def classifier() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, 2, 1, bias=False), nn.GroupNorm(2, 6), nn.GELU(),
        nn.Conv2d(6, 4, 1, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(4, 3),
    )  # fmt: skip


def segmenter() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, 1), nn.InstanceNorm2d(4, affine=True), nn.LeakyReLU(),
        nn.ConvTranspose2d(4, 3, 2, 2), nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.AvgPool2d(2),
    )  # fmt: skip


def answers(name: str) -> dict[str, Tensor]:
    """What 0.1.0 said, by view or "volume"."""
    with safe_open(FILES / "answers.safetensors", framework="pt") as file:
        keys = [key for key in file.keys() if key.startswith(f"{name}-")]
        return {key.rpartition("-")[2]: file.get_tensor(key) for key in keys}


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_those_of_0_1(name: str) -> None:
    path = FILES / f"{name}.safetensors"
    assert read_config(path).version == "0.1.0"
    net = load(path, classifier() if name.startswith("classifier") else segmenter())
    expected = answers(name)
    assert expected
    with torch.no_grad():
        for what, answer in expected.items():
            if what == "volume":
                found = net(VOLUME)
            else:
                with crossd.view(what):
                    found = net(IMAGE)
            torch.testing.assert_close(found, answer, rtol=1e-4, atol=1e-5)


def test_a_network_that_0_1_answered_for_otherwise_is_named(tmp_path: Path) -> None:
    """Its attention pool weighed the places of one slice; now it weighs those of the volume."""
    source = nn.Sequential(nn.Conv2d(1, 4, 3), GlobalContext(4))
    config = WeightsConfig("custom", "segmentation", 1, ("a", "b"))
    net, path = crossd.convert(source), tmp_path / "net.safetensors"
    crossd.save(net, path, config)
    load(path, source)
    content: Any = path.read_bytes().replace(b'"version\\": \\"0.2.0', b'"version\\": \\"0.1.0')
    content = content.replace(b'\\"version\\": \\"0.2.0', b'\\"version\\": \\"0.1.0')
    path.write_bytes(content)
    assert read_config(path).version == "0.1.0"
    with pytest.warns(
        UserWarning, match=r"net\.safetensors is of version 0\.1.*'1' .*GlobalContext"
    ):
        load(path, source)
    assert weights_file.OTHERWISE_IN_0_1


def test_a_3d_network_that_0_1_pooled_otherwise_is_named() -> None:
    """Where depth is no multiple of the places, its pool cut it in another way."""
    source = nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(1),
        nn.Linear(16, 3),
    )  # fmt: skip
    with pytest.warns(UserWarning, match=r"pooled\.safetensors .*'2' .AdaptiveAvgPool"):
        load(FILES / "pooled.safetensors", source)
