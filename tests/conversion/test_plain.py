"""Networks of one rank: plain where code takes the other rank as it is, folding where not."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monai.networks.nets as mn
import pytest
import timm
import torch
import torch.nn.functional as F
from helpers import close_relative, settle
from torch import Tensor, nn

import crossd
from crossd import InputError, view
from crossd.conversion.checking import law, perturbed
from crossd.conversion.folding.modules import Folded
from crossd.conversion.plain import FOLDING, PLAIN, is_plain
from crossd.nn.views import VIEWS

convert: Callable[..., Any] = crossd.convert


class Squeeze(nn.Module):
    """Names the axes of the plane in its code, and asks for the height of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)
        self.gate = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y = y * self.gate(y.mean((2, 3), keepdim=True)).sigmoid()
        answer: Tensor = self.head(F.relu(y).mean((2, 3)))
        return answer


class Pools(nn.Module):
    """Layers of torch.nn that have a rank but no kernel, and code that has none."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReflectionPad2d((1, 1, 2, 2)), nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6),
            nn.MaxPool2d(3, 2, 1), nn.Dropout2d(0.5), nn.Conv2d(6, 8, 3, 1, 1),
            nn.InstanceNorm2d(8),
            nn.AvgPool2d(2, ceil_mode=True), nn.Upsample(scale_factor=2.0, mode="bilinear"),
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 3, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.body(x)
        return answer.flatten(1)


NETS: dict[str, tuple[Callable[[], Any], bool]] = {
    "resnet": (lambda: timm.create_model("test_resnet", num_classes=3), True),
    "squeeze": (Squeeze, False),
    "vit": (lambda: timm.create_model("test_vit", img_size=32, num_classes=3), False),
    "monai UNet": (lambda: mn.UNet(2, 3, 2, (8, 16), (2,), norm="instance"), True),
}
"""How networks are made, and whether their code takes volumes as it is."""

VOLUME = (48, 32, 32)


@pytest.mark.parametrize("name", NETS)
def test_one_rank_answers_as_both_did(name: str) -> None:
    torch.manual_seed(0)
    make, plain = NETS[name]
    net = settle(convert(make()))
    images, volumes = torch.randn(2, 3, 32, 32), torch.randn(2, 3, *VOLUME)
    solid: Any = crossd.to_3d(net)
    assert is_plain(solid) == plain
    assert (PLAIN if plain else FOLDING) in solid.conversion.checks
    with torch.no_grad():
        close_relative(solid(volumes), net(volumes), 1e-5)
        for axis in net.crossd_state.folding.views:
            flat: Any = crossd.to_2d(net, VIEWS[axis])
            assert is_plain(flat) and not any(isinstance(m, Folded) for m in flat.modules())
            with view(axis):
                close_relative(flat(images), net(images), 1e-5)
    keys = [k for k in net.state_dict() if "depth_position" not in k]
    assert (
        [k for k in solid.state_dict() if "depth_position" not in k] == keys == [*flat.state_dict()]
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_training_goes_on_in_one_rank(name: str) -> None:
    net = convert(NETS[name][0]())
    for one, x in (
        (crossd.to_3d(net), torch.randn(2, 3, *VOLUME)),
        (crossd.to_2d(net), torch.randn(2, 3, 32, 32)),
    ):
        twins = [one, copy.deepcopy(one), pickle.loads(pickle.dumps(one))]
        losses = []
        for twin in twins:
            with perturbed.Still():
                loss = twin.train()(x).square().mean()
            loss.backward()
            assert all(p.grad is not None for p in twin.parameters() if p.requires_grad)
            losses.append(loss.detach())
        torch.testing.assert_close(losses[1:], losses[:1] * 2)


def test_layers_without_kernels_change_their_rank() -> None:
    torch.manual_seed(0)
    net = settle(convert(Pools()))
    solid: Any = crossd.to_3d(net)
    assert is_plain(solid)
    kinds = {type(m).__name__ for m in solid.modules()}
    assert {"MaxPool3d", "Dropout3d", "ReflectionPad3d", "InstanceNorm3d"} <= kinds
    assert not any(kind.endswith("2d") for kind in kinds)
    x = torch.randn(1, 3, 12, 20, 16)
    with torch.no_grad():
        close_relative(solid(x), net(x), 1e-5)


def test_what_folds_takes_one_rank() -> None:
    net = convert(Squeeze())
    solid = crossd.to_3d(net)
    with pytest.raises(InputError, match=r"takes volumes .* alone, got images"):
        solid(torch.randn(1, 3, 16, 16))
    with pytest.raises(InputError, match="takes images and volumes already"):
        convert(solid)
    assert net(torch.randn(1, 3, 16, 16)).shape == (1, 2)  # the other one is as it was


@pytest.mark.slow
@pytest.mark.parametrize("anisotropic", [False, True])
def test_3d_networks_come_out_as_they_went_in(anisotropic: bool) -> None:
    torch.manual_seed(0)
    kernels: Any = [[1, 3, 3], 3, 3] if anisotropic else [3, 3, 3]
    strides: Any = [1, [1, 2, 2], 2] if anisotropic else [1, 2, 2]
    source = settle(mn.DynUNet(3, 1, 2, kernels, strides, strides[1:]))
    net = convert(source)
    solid: Any = crossd.to_3d(net)
    assert is_plain(solid) and type(solid) is type(source)
    mine, theirs = solid.state_dict(), source.state_dict()
    assert {k: v.shape for k, v in mine.items()} == {k: v.shape for k, v in theirs.items()}
    x, images = torch.randn(1, 1, 16, 32, 24), torch.randn(1, 1, 32, 24)
    with torch.no_grad():
        close_relative(solid(x), source(x), 1e-5)
        for axis in net.crossd_state.folding.views:
            flat: Any = crossd.to_2d(net, VIEWS[axis])
            with view(axis):
                close_relative(flat(images), net(images), 1e-5)
    source.load_state_dict(solid.state_dict())


def test_fourier_projection_folds_unless_it_is_aligned() -> None:
    torch.manual_seed(0)
    net = settle(convert(timm.create_model("test_resnet", num_classes=3), "fourier-projection"))
    volumes, images = torch.randn(2, 3, *VOLUME), torch.randn(2, 3, 32, 32)
    solid: Any = crossd.to_3d(net)
    assert not is_plain(solid)
    aligned: Any = crossd.to_3d(net, align=True)
    assert is_plain(aligned)
    with torch.no_grad():
        close_relative(solid(volumes), net(volumes), 1e-5)
        for module in net.modules():
            if hasattr(module, "mode"):
                module.mode.fixed_pose = True
        close_relative(aligned(volumes), net(volumes), 1e-4)
        for axis, name in enumerate(VIEWS):
            with view(axis):
                close_relative(crossd.to_2d(net, name)(images), net(images), 1e-4)


@pytest.mark.parametrize(("strides", "plain"), [(1, True), ((1, 2, 2, 1, 1), False)])
def test_depth_strides_of_their_own(strides: Any, plain: bool) -> None:
    torch.manual_seed(0)
    net = settle(convert(timm.create_model("test_resnet", num_classes=3), depth_stride=strides))
    solid: Any = crossd.to_3d(net)
    assert is_plain(solid) == plain
    x = torch.randn(1, 3, 7, 64, 32)
    with torch.no_grad():
        close_relative(solid(x), net(x), 1e-5)


def test_what_was_decided_is_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = crossd.WeightsConfig("custom", "classification", 3, ("a", "b"))
    source = Squeeze()
    solid = crossd.to_3d(settle(convert(source)))
    crossd.save(solid, tmp_path / "w.safetensors", config)
    x = torch.randn(1, 3, 12, 16, 8)

    def never(*_: Any) -> Any:
        raise AssertionError("decided again")

    monkeypatch.setattr("crossd.conversion.plain._works_as_it_is", never)
    monkeypatch.setattr(law, "examine", never)
    again: Any = crossd.load(tmp_path / "w.safetensors", Squeeze())
    assert not is_plain(again)
    with torch.no_grad():
        torch.testing.assert_close(again(x), solid(x))


def test_networks_of_our_layers_and_with_converted_parts() -> None:
    own = nn.Sequential(
        crossd.CrossDConv(3, 4, 3, padding=1), nn.ReLU(), crossd.CrossDConv(4, 2, 3)
    )
    holding = nn.Sequential(convert(Squeeze()), nn.Linear(2, 5))
    for net, given in ((own, crossd.CrossDConv), (holding, type(None))):
        net.eval()
        solid: Any = crossd.to_3d(net)
        flat: Any = crossd.to_2d(net, "coronal")
        assert not any(isinstance(m, given) for m in (*solid.modules(), *flat.modules()))
        x, image = torch.randn(2, 3, 9, 12, 10), torch.randn(2, 3, 12, 10)
        with torch.no_grad():
            close_relative(solid(x), net(x), 1e-5)
            with crossd.view("coronal"):
                close_relative(flat(image), net(image), 1e-5)
        assert solid.conversion.checks and flat.conversion.checks


def test_it_refuses_in_one_line() -> None:
    with pytest.raises(InputError, match="the network has no Cross-D layer"):
        crossd.to_3d(nn.Conv3d(1, 1, 3))
    net = convert(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    with pytest.raises(InputError, match=r"view .*must be one of axial, coronal, sagittal"):
        crossd.to_2d(net, "oblique")
    with pytest.raises(InputError, match="align is for the fourier modes"):
        crossd.to_3d(net, align=True)
    net[0].register_forward_hook(lambda *_: None)
    with pytest.raises(InputError, match="forward hooks"):
        crossd.to_3d(net)


class Gate(nn.Module):
    """Weighs channels by their mean over the plane, which is written for images."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x.mean((2, 3), keepdim=True).sigmoid()


def test_what_was_found_of_a_network_is_not_kept_when_it_changes() -> None:
    net: Any = convert(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)))
    assert is_plain(crossd.to_3d(net))
    changed: Any = convert(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), Gate(), nn.Conv2d(4, 2, 1)))
    net[1] = changed[1]
    net[1].crossd_state = net.crossd_state
    solid, x = crossd.to_3d(net), torch.randn(1, 1, 6, 8, 10)
    with torch.no_grad():
        close_relative(solid(x), net(x), 1e-5)


def test_parametrized_layers_are_refused() -> None:
    net: Any = crossd.convert(nn.Sequential(nn.Conv3d(1, 2, 3)), check=False)
    nn.utils.parametrizations.weight_norm(net[0])
    for turn in (crossd.to_2d, crossd.to_3d):
        with pytest.raises(InputError, match="parameters are parametrized"):
            turn(net)
