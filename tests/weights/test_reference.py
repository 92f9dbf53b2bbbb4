"""Checkpoints of the paper's implementation: the same answers, and every tensor accounted for."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import crossd
from crossd import InputError, load_checkpoint, load_reference


def refused(message: str, source: Any, net: nn.Module) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_reference(source, net)
    assert "\n" not in str(caught.value)


class ReferenceConv(nn.Module):
    """The layer of design section 2.1 step by step, with the names of the reference."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        out, inner, size = *conv.weight.shape[:2], conv.kernel_size[0]
        std = (2 / (inner * size**2)) ** 0.5
        self.weights_3d = nn.Parameter(torch.randn(out, inner, size, size, size) * std)
        self.rotation_params = nn.Sequential(
            nn.Conv2d(conv.in_channels, 16, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 1)
        )
        self.stride, self.padding = conv.stride, conv.padding

    def forward(self, x: Tensor) -> Tensor:
        size = self.weights_3d.shape[-1]
        r = self.rotation_params(x).flatten(2)
        pooled = (r.softmax(2) * r).sum(2)
        outputs = []
        for image, (kz, ky, kx, angle) in zip(x, pooled, strict=True):
            length = (kz**2 + ky**2 + kx**2) ** 0.5 + 1e-8
            kz, ky, kx = kz / length, ky / length, kx / length
            zero = x.new_zeros(())
            rows = [[zero, -kx, ky], [kx, zero, -kz], [-ky, kz, zero]]
            cross = torch.stack([torch.stack(row) for row in rows])
            rotation = torch.eye(3, dtype=x.dtype) + torch.pi / 4 * angle.tanh() * cross
            f = torch.fft.fftfreq(size, dtype=x.dtype)
            grid = torch.stack(torch.meshgrid(f, f, f, indexing="ij"))
            turned = torch.einsum("ab,bzyx->azyx", rotation, grid)
            phase = torch.exp(-2j * torch.pi * turned.sum(0))
            spectrum = torch.fft.fftn(self.weights_3d, dim=(2, 3, 4)) * phase
            kernel = torch.fft.ifftn(spectrum, dim=(2, 3, 4)).real[:, :, size // 2]
            outputs.append(F.conv2d(image[None], kernel, None, self.stride, self.padding))
        return torch.cat(outputs)


def plain_resnet() -> nn.Module:
    return timm.create_model("resnet18", channels=(16, 32, 48, 64), in_chans=2, num_classes=7)


@pytest.fixture(scope="module")
def reference() -> nn.Module:
    """A ResNet18 of reference layers, with the numbers of a trained network."""
    torch.manual_seed(11)
    net = plain_resnet()
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d) and not isinstance(parent, ReferenceConv):
                setattr(parent, name, ReferenceConv(child))
    for name, module in net.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # statistics of the one pass below
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            if name.endswith("bn2"):  # branches smaller than what they are added to
                module.weight.data.mul_(0.3)
        if isinstance(module, ReferenceConv):  # angles from nothing to nearly pi / 4
            last: Any = module.rotation_params[3]
            nn.init.normal_(last.weight, std=0.1)
            nn.init.normal_(last.bias, std=1)
    with torch.no_grad():
        net.train()(torch.randn(4, 2, 40, 40))
    return net.eval()


@pytest.fixture(scope="module")
def empty() -> nn.Module:
    return crossd.convert(plain_resnet(), "fourier").eval()


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def test_the_checkpoint_is_named_as_the_reference_names_it(reference: nn.Module) -> None:
    names = set(reference.state_dict())
    assert {
        "conv1.weights_3d",
        "layer1.0.conv1.weights_3d",
        "layer1.0.conv1.rotation_params.0.weight",
        "layer1.0.conv1.rotation_params.1.running_mean",
        "layer1.0.conv1.rotation_params.1.num_batches_tracked",
        "layer1.0.conv1.rotation_params.3.bias",
        "layer2.0.downsample.0.rotation_params.0.weight",
    } <= names


def test_outputs_equal_the_formula_network_wide(reference: nn.Module, empty: nn.Module) -> None:
    net = copy.deepcopy(empty)
    load_reference({"model": reference.state_dict()}, net)
    images = torch.randn(3, 2, 40, 40)
    with torch.no_grad():
        expected = reference(images)
        scale = float(expected.abs().max())
        # Relative to the largest logit: 20 layers round, in the reference as here.
        torch.testing.assert_close(net(images), expected, rtol=0, atol=1e-5 * scale)
        assert float(expected.std(0).min()) > 0.01 * scale, "the images must matter"
        solid = crossd.to_3d(net)(torch.randn(1, 2, 32, 32, 32))
    assert solid.shape == (1, 7) and solid.isfinite().all()
    loaded: Any = net
    torch.testing.assert_close(
        loaded.layer1[0].conv1.weight, reference.state_dict()["layer1.0.conv1.weights_3d"]
    )


def test_outputs_equal_the_formula_exactly_also_for_wild_poses(
    reference: nn.Module, empty: nn.Module
) -> None:
    # Large predictor weights magnify rounding by 1000, in the reference too: hence float64.
    wild, net = copy.deepcopy(reference).double(), copy.deepcopy(empty).double()
    for module in wild.modules():
        if isinstance(module, ReferenceConv):
            last: Any = module.rotation_params[3]
            last.weight.data.mul_(10)
    load_reference({"model": wild.state_dict()}, net)
    images = torch.randn(1, 2, 40, 40, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(net(images), wild(images), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": prefixed(state, "module."), "epoch": 3},
        lambda state: {"model": prefixed(state, "_orig_mod.")},
        lambda state: {"model": prefixed(state, "_orig_mod.module.")},
        lambda state: {"model": prefixed(state, "module._orig_mod."), "args": {"lr": 0.1}},
    ],
)
def test_wrappings_and_prefixes_are_removed(
    tmp_path: Path,
    reference: nn.Module,
    empty: nn.Module,
    wrap: Callable[[dict[str, Tensor]], dict[str, Any]],
) -> None:
    net = copy.deepcopy(empty)
    torch.save(wrap(reference.state_dict()), tmp_path / "checkpoint.pth")
    report = load_reference(tmp_path / "checkpoint.pth", net)
    assert {e.name for e in report.entries if e.action != "unexpected"} == set(net.state_dict())
    loaded, state = net.state_dict(), reference.state_dict()
    torch.testing.assert_close(loaded["conv1.weight"], state["conv1.weights_3d"])
    torch.testing.assert_close(loaded["fc.bias"], state["fc.bias"])


def test_the_report_accounts_for_every_tensor_of_both(
    reference: nn.Module, empty: nn.Module
) -> None:
    net = copy.deepcopy(empty)
    report = load_reference(reference.state_dict(), net)
    assert report.note == "a checkpoint of the paper's implementation"
    entries = {entry.name: entry for entry in report.entries}
    assert len(entries) == len(report.entries)
    found: dict[str, set[str]] = {}
    for entry in report.entries:
        found.setdefault(entry.action, set()).add(entry.name)
    theirs = {n for n in reference.state_dict() if ".downsample.0.rotation_params." in n}
    predictors = {n.replace("rotation_params", "mode.predictor") for n in theirs}
    assert set(found) == {"matched", "missing", "unexpected"}
    assert found["unexpected"] == predictors
    assert all("size 1" in entries[name].why for name in predictors)
    assert found["matched"] | found["missing"] == set(net.state_dict())
    assert len(found["matched"]) + len(predictors) == len(reference.state_dict())
    assert all(name.endswith(".mode.mean_displacement") for name in found["missing"])


def test_the_mean_displacement_starts_anew(reference: nn.Module, empty: nn.Module) -> None:
    net: Any = copy.deepcopy(empty)
    net.conv1.mode.mean_displacement.fill_(0.3)
    load_reference(reference.state_dict(), net)
    torch.testing.assert_close(net.conv1.mode.mean_displacement, torch.ones(3))


def without(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda state: state.pop(name)


def with_tensor(name: str, *shape: int) -> Callable[[dict[str, Any]], Any]:
    return lambda state: state.update({name: torch.zeros(shape)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("layer4.1.conv2.weights_3d"), "1 missing .'layer4.1.conv2.weight'"),
        (
            without("layer1.0.conv1.rotation_params.3.bias"),
            "1 missing .'layer1.0.conv1.mode.predictor.3.bias'",
        ),
        (without("fc.bias"), "1 missing .'fc.bias'"),
        (without("bn1.running_var"), "1 missing .'bn1.running_var'"),
        (with_tensor("layer9.weight", 2, 3), r"1 unexpected \('layer9.weight' \(2, 3\)"),
        (
            with_tensor("fc.rotation_params.0.weight", 1),
            "1 unexpected .'fc.mode.predictor.0.weight'",
        ),
        (with_tensor("conv1.weights_3d", 64, 2, 3, 3, 3), r"expected \(64, 2, 7, 7, 7\)"),
        (
            with_tensor("fc.weight", 9, 64),
            r"\('fc.weight' \(9, 64\), expected \(7, 64",
        ),
    ],
)
def test_what_does_not_fit_leaves_the_network_untouched(
    reference: nn.Module,
    empty: nn.Module,
    change: Callable[[dict[str, Any]], Any],
    message: str,
) -> None:
    before = {name: tensor.clone() for name, tensor in empty.state_dict().items()}
    state = dict(reference.state_dict())
    change(state)
    refused(message, {"model": state}, empty)
    torch.testing.assert_close(empty.state_dict(), before, rtol=0, atol=0)


def without_predictor(layer: str) -> Callable[[dict[str, Any]], Any]:
    def change(state: dict[str, Any]) -> None:
        for name in [n for n in state if n.startswith(f"{layer}.rotation_params.")]:
            del state[name]

    return change


def test_a_kernel_without_its_predictor_is_a_fault_for_both(
    reference: nn.Module, empty: nn.Module
) -> None:
    state = dict(reference.state_dict())
    without_predictor("layer1.0.conv1")(state)
    refused("missing .'layer1.0.conv1.mode.predictor.0.weight'", state, empty)
    with pytest.raises(InputError, match=r"missing .'layer1.0.conv1.mode.predictor.0.weight'"):
        load_checkpoint(empty, state)


def test_load_checkpoint_lets_the_classifier_differ_and_reads_the_part_it_is_told(
    reference: nn.Module, empty: nn.Module
) -> None:
    net = copy.deepcopy(empty)
    state = dict(reference.state_dict())
    with_tensor("fc.weight", 9, 64)(state)
    average = {name: tensor + 1 for name, tensor in state.items()}
    report = load_checkpoint(net, {"model": state, "ema": average}, prefix="ema")
    torch.testing.assert_close(net.get_parameter("fc.weight"), empty.get_parameter("fc.weight"))
    torch.testing.assert_close(net.state_dict()["conv1.weight"], average["conv1.weights_3d"])
    assert report.note.startswith("a checkpoint of the paper's implementation; 'ema' of the")
    with pytest.raises(InputError, match="fit equally well"):
        load_checkpoint(net, {"model": state, "ema": average})


def test_only_the_papers_mode_takes_a_reference_checkpoint(reference: nn.Module) -> None:
    state = reference.state_dict()
    refused("no fourier mode", state, plain_resnet())
    refused("no fourier mode", state, crossd.convert(plain_resnet()))
    centred = crossd.convert(plain_resnet(), "fourier", offset=0.0)
    refused("offset 1", state, centred)


class Code:
    """What runs when an unsafe loader reads it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('code of the checkpoint ran')",))


def test_what_is_no_checkpoint_is_refused(tmp_path: Path, empty: nn.Module) -> None:
    path = tmp_path / "checkpoint.pth"
    refused("no such file: .*checkpoint.pth", path, empty)
    path.write_text("hello")
    refused("does not load with weights_only=True", path, empty)
    torch.save({"model": {"conv1.weights_3d": Code()}}, path)
    refused("it holds builtins.exec, which weights_only=True does not load", path, empty)
    path.write_bytes(pickle.dumps(Code()))
    refused("does not load with weights_only=True", path, empty)
    torch.save([1, 2], path)
    refused("it holds a list", path, empty)
    refused("no tensor 'weights_3d'", {"model": [torch.zeros(1)]}, empty)
    refused("no tensor 'weights_3d'", {"model": {"a": "text"}, "epoch": 1}, empty)
    refused("no tensor 'weights_3d'", {"model": {"a": torch.zeros(1)}}, empty)
    refused("no tensor 'weights_3d'", plain_resnet().state_dict(), empty)
