"""The numbers about kernels obey what the mathematics says of them."""

import pytest
import torch
from torch import nn

import crossd
from crossd.nn.functional import lift
from crossd.reports import kernel_numbers
from crossd.reports.kernel_numbers import Layer, describe, energy, layers_of, similarity


def net(mode: str, lift: str | None = "center") -> nn.Module:
    plain = nn.Sequential(
        nn.Conv2d(1, 24, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(24, 48, 3, padding=1),
        nn.Conv2d(48, 2, 1),
    )
    return crossd.convert(plain, mode, lift, check=False)


def test_energy_adds_up_and_follows_the_axes() -> None:
    weight = torch.randn(4, 2, 3, 5, 7)
    found = energy(weight)
    assert [len(found[axis]) for axis in "zyx"] == [3, 5, 7]
    assert all(sum(shares) == pytest.approx(1) for shares in found.values())
    turned = energy(weight.permute(0, 1, 4, 2, 3))  # (x, z, y)
    for new, old in ("zx", "yz", "xy"):
        assert turned[new] == pytest.approx(found[old])


@pytest.mark.parametrize("mode", ["projection", "slice", "fourier"])
def test_a_lifted_network_uses_no_depth(mode: str) -> None:
    """In the fourier mode the stored kernels are rolled, which is undone."""
    records = [describe(layer) for layer in layers_of(net(mode))]
    for record in records:
        assert record["energy"]["z"] == pytest.approx([0, 1, 0], abs=1e-9)
        assert record["similarity"]["centre lift"] == pytest.approx(1)
    assert "100 % of the energy" in kernel_numbers.depth_reading(records)
    assert "hardly used" in kernel_numbers.depth_reading(records)
    assert "just lifted: they are little more" in kernel_numbers.view_reading(records)


def test_new_kernels_are_noise() -> None:
    records = [describe(layer) for layer in layers_of(net("projection", None))[1:]]
    for record in records:
        found = list(record["similarity"].values())
        assert found == pytest.approx([1 / 3, 1 / 9, 1 / 3, 1 / 3], abs=0.04)
    assert "the depth is used" in kernel_numbers.depth_reading(records)
    assert "hardly alike" in kernel_numbers.view_reading(records)


def test_kernels_that_are_the_same_along_all_axes_are_alike_in_all_views() -> None:
    weight = torch.randn(3, 2, 3, 3, 3)
    orders = ((2, 3, 4), (2, 4, 3), (3, 2, 4), (3, 4, 2), (4, 2, 3), (4, 3, 2))
    symmetric = sum(weight.permute(0, 1, *order) for order in orders)
    assert isinstance(symmetric, torch.Tensor)
    found = similarity(symmetric)
    assert [found[f"{a} and {b}"] for a, b in (("axial", "coronal"), ("axial", "sagittal"))] == (
        pytest.approx([1, 1])
    )


def test_kernels_that_are_no_cubes_have_no_pairs() -> None:
    found = similarity(lift(torch.randn(2, 1, 5, 5), 3, "inflate"))
    assert found["axial and coronal"] is None and found["coronal and sagittal"] is not None
    flat = describe(Layer("flat", torch.randn(2, 1, 3, 3), torch.randn(1)))
    assert "energy" not in flat
    assert "no central slice" in kernel_numbers.depth_reading([flat])
    assert "No layer" in kernel_numbers.view_reading([flat])
    even = describe(Layer("up", torch.randn(2, 1, 2, 2, 2), torch.randn(1)))
    assert even["similarity"]["centre lift"] is None


def test_the_same_layers_in_every_form() -> None:
    cross = net("fourier")
    names = [layer.name for layer in layers_of(cross)]
    assert names == ["0", "2"]  # no predictor, no kernel of one voxel
    for made in (crossd.to_3d(cross), crossd.to_2d(cross), crossd.acs(crossd.to_2d(cross))):
        assert [layer.name for layer in layers_of(made)] == names
    assert not any(layer.solid for layer in layers_of(crossd.to_2d(cross)))


def test_the_strongest_come_first() -> None:
    weight = torch.arange(6.0).view(3, 2, 1, 1, 1).expand(3, 2, 3, 3, 3)
    assert kernel_numbers.strongest(weight, 2)[:, 0, 0, 0].tolist() == [5, 4]
