"""What the fourier mode predicts is collected whole, and told apart by class."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import crossd
from crossd.reports import poses

PLAIN = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 2, 1))


def fourier() -> torch.nn.Module:
    return crossd.convert(PLAIN, "fourier", None, check=False).eval()


def test_every_image_has_a_pose_in_every_layer() -> None:
    net = fourier()
    with poses.recorded(net) as found, torch.no_grad():
        net(torch.randn(3, 1, 16, 16))
        net(torch.randn(2, 1, 16, 16))
    net(torch.randn(1, 1, 16, 16))  # nobody watches any more
    assert list(found) == ["0", "1"] and {rows.shape for rows in found.values()} == {(5, 7)}
    for rows in found.values():
        np.testing.assert_allclose(rows[:, 1:4].sum(1), 3, atol=1e-5)
        np.testing.assert_allclose((rows[:, 4:] ** 2).sum(1), 1, atol=1e-4)
        assert np.abs(rows[:, 0]).max() <= 45


def test_other_modes_have_no_poses() -> None:
    assert poses.modes_of(crossd.convert(PLAIN, check=False)) == {}


def test_poses_that_the_class_decides() -> None:
    groups = np.repeat([0, 1, 2], 20)
    told = np.zeros((60, 7))
    told[:, 1] = groups * 0.5
    free = np.random.default_rng(0).normal(size=(60, 7))
    first, second = poses.summary({"a": told, "b": free}, groups)
    share = second["told by class"]
    assert first["told by class"] == pytest.approx(1) and share is not None and share < 0.2
    assert "in good part by them" in poses.reading([first], "classes")
    assert "mostly by other things" in poses.reading([second], "classes")
    still = poses.summary({"a": np.zeros((60, 7))}, groups)
    assert still[0]["told by class"] is None
    assert "hardly depend on the image" in poses.reading(still, "views")


def test_pictures(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(60, 7))
    poses.layers({"a": rows, "b": rows}, tmp_path / "layers.png")
    names = {k: f"class {k}" for k in range(9)}
    path = tmp_path / "classes.png"
    poses.classes(rows, np.arange(60) % 9, names, "Poses", path)
    for file in tmp_path.iterdir():
        with Image.open(file) as image:
            assert image.format == "PNG" and np.ptp(np.asarray(image.convert("L"))) > 200
