"""Grad-CAM finds the place that decides."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import crossd
from crossd.errors import InputError
from crossd.nn.views import VIEWS
from crossd.reports import gradcam
from crossd.reports.gradcam import CamOfSample


@pytest.mark.parametrize("rank", [2, 3])
def test_the_place_that_decides(rank: int) -> None:
    conv = (nn.Conv2d, nn.Conv3d)[rank - 2](1, 2, 1, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, *(1,) * rank))
    pool = (nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[rank - 2](1)
    net = nn.Sequential(conv, pool, nn.Flatten()).eval()
    x = torch.zeros(1, 1, *(5, 6, 7)[:rank])
    where = (3, 1, 4)[:rank]
    x[0, 0][where] = 1.0
    assert gradcam.last_map(net, x) == "0"
    heat, probabilities = gradcam.look(net, x, "0")
    assert heat.shape == x.shape[2:] and heat.max() == 1
    assert np.unravel_index(heat.argmax(), heat.shape) == where
    assert int(probabilities.argmax()) == 0 and float(probabilities.sum()) == pytest.approx(1)


def test_every_form_of_a_network() -> None:
    plain = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(1)
    )
    cross = crossd.convert(plain, check=False).eval()
    volume = torch.randn(1, 1, 10, 12, 14)
    for net, x in (
        (cross, volume),
        (cross, volume[:, :, 0]),
        (crossd.to_3d(cross), volume),
        (crossd.to_2d(cross), volume[:, :, 0]),
    ):
        assert gradcam.last_map(net, x) == "1"
        heat, _ = gradcam.look(net, x, "1")
        assert heat.shape == x.shape[2:] and 0 <= heat.min() <= heat.max() <= 1


def test_a_folded_network_is_weighed_as_one_of_its_rank() -> None:
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
    cross = crossd.convert(plain, check=False).eval()
    volume = torch.randn(1, 1, 10, 12, 14)
    solid: Any = crossd.to_3d(cross)
    assert type(solid[0]) is nn.Conv3d
    (heat, said), (expected, answer) = (gradcam.look(net, volume, "1") for net in (cross, solid))
    np.testing.assert_allclose(heat, expected, atol=1e-5)
    torch.testing.assert_close(said, answer)


def test_images_in_a_network_made_for_volumes() -> None:
    plain = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.AdaptiveAvgPool3d(1), nn.Flatten(1))
    cross = crossd.convert(plain).eval()
    for name in VIEWS:
        image = torch.randn(1, 1, 12, 14)
        flat = crossd.to_2d(cross, name)
        with crossd.view(name):
            assert gradcam.last_map(cross, image) == "0"
            heat = gradcam.look(cross, image, "0")[0]
        np.testing.assert_allclose(heat, gradcam.look(flat, image, "0")[0], atol=1e-5, err_msg=name)


def test_a_network_without_places() -> None:
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(1, 2, 1), nn.Flatten())
    with pytest.raises(InputError, match="no layer of the network keeps"):
        gradcam.last_map(net, torch.zeros(1, 1, 4, 4))


@pytest.mark.parametrize("shape", [(6, 7), (5, 6, 7)])
def test_pictures_and_readings(shape: tuple[int, ...], tmp_path: Path) -> None:
    image = np.random.default_rng(0).random(shape).astype(np.float32)
    heat = np.zeros(shape, np.float32)
    heat[0] = 1.0
    seen = [
        CamOfSample("a", image, heat, "cat", "cat", 0.9),
        CamOfSample("b", image, 0 * heat, "cat", "dog", 1),
    ]
    gradcam.draw(seen, "5", tmp_path / "cam.png", (2.0, 1.0, 1.0))
    with Image.open(tmp_path / "cam.png") as drawn:
        assert drawn.format == "PNG"
    assert gradcam.reading(seen).startswith("1 of the 2 answers shown are right.")
    assert "a part of it" in gradcam.reading(seen)
    assert "Grad-CAM is zero" in gradcam.reading(seen[1:])
