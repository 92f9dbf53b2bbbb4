"""Checkpoints of others, each built here in the layout of its makers.

Networks are of double precision, so that equal means equal.
"""

import argparse
import copy
import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import monai.networks.nets as monai_nets
import pytest
import timm
import torch
import torchvision
from helpers import close, normal, some, sum_along
from safetensors.torch import save_file
from torch import Tensor, nn

import crossd
from crossd.conversion import registry
from crossd.conversion.heads import classifiers, first_convolution
from crossd.conversion.report import ConversionReport, Entry
from crossd.errors import InputError
from crossd.weights.third_party import convert_checkpoint, load_checkpoint, sizes, state_dicts
from crossd.weights.weights_file import read_config

IMAGES, VOLUMES = (2, 3, 40, 36), (1, 1, 18, 17, 19)


def trained(net: nn.Module) -> Any:
    """Give BatchNorm statistics, and every parameter and bias, values of its own; in double."""
    net = net.double()
    for n, (name, tensor) in enumerate(net.state_dict().items()):
        if name.endswith("running_var"):
            tensor.copy_(1 + 0.3 * normal(*tensor.shape, seed=n).abs())
        elif tensor.dim() == 1:
            tensor.copy_(0.5 + 0.1 * normal(*tensor.shape, seed=n))
        elif tensor.is_floating_point() and tensor.dim():
            tensor.copy_(normal(*tensor.shape, seed=n) / tensor[0].numel() ** 0.5)
    return net.eval()


def resnet(classes: int = 7) -> nn.Module:
    blocks = torchvision.models.resnet.BasicBlock
    return torchvision.models.ResNet(blocks, [1, 1, 1, 1], classes).double().eval()


converted = functools.partial(crossd.convert, check=False)
"""What is loaded is the question here, not whether conversion keeps the law."""


def resnet_timm(classes: int = 7, channels: int = 3) -> nn.Module:
    options: dict[str, Any] = {"num_classes": classes, "in_chans": channels}
    net: nn.Module = timm.create_model("resnet18", layers=(1, 1, 1, 1), **options)
    return net.double().eval()


def prefixed(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def same_answers(one: nn.Module, other: nn.Module, shape: tuple[int, ...] = IMAGES) -> None:
    x = normal(*shape)
    with torch.no_grad():
        close(one(x), other(x))


def by_action(report: ConversionReport) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = {}
    for entry in report.entries:
        found.setdefault(entry.action, []).append(entry)
    return found


def refused(message: str, net: nn.Module, source: Any, **options: Any) -> None:
    """Refuse in one line, and leave the network as it was."""
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(InputError, match=message) as caught:
        load_checkpoint(net, source, **options)
    assert "\n" not in str(caught.value)
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)


@pytest.fixture(scope="module")
def plain() -> Any:
    """A trained ResNet18 as torchvision names it."""
    return trained(resnet())


@pytest.fixture(scope="module")
def solid() -> Any:
    """A trained 3D ResNet18, of one input channel."""
    cross = converted(resnet_timm(channels=1), lift=None, spread=False)
    return trained(crossd.to_3d(cross))


# One test a format


@pytest.mark.slow
def test_torchvision(plain: nn.Module, tmp_path: Path) -> None:
    for path in (tmp_path / "resnet18.pth", tmp_path / "resnet18.safetensors"):
        (save_file if path.suffix == ".safetensors" else torch.save)(plain.state_dict(), path)
        for kernel_mode in ("projection", "slice", "fourier"):
            net = converted(resnet(), kernel_mode)
            report = load_checkpoint(net, path)
            same_answers(net.eval(), plain)
            assert report.note == ""
            found = by_action(report)
            assert {e.why for e in found["adapted"]} == {"lifted by 'center'"}
            assert len(found["adapted"]) == 12 and len(found["matched"]) == 74 - 12
            own = {e.name for e in found.get("missing", [])}
            assert all(".mode." in name for name in own)
            assert bool(own) == (kernel_mode == "fourier")
            assert {e.name for e in report.entries} == set(net.state_dict())


def test_timm(plain: Any, tmp_path: Path) -> None:
    """A checkpoint of timm's training script, and another number of classes."""
    state = plain.state_dict()
    optimizer = torch.optim.SGD(resnet().parameters(), momentum=0.9).state_dict()
    content = {
        "epoch": 12,
        "arch": "resnet18",
        "state_dict": state,
        "optimizer": optimizer,
        "version": 2,
        "args": argparse.Namespace(lr=0.1, model="resnet18"),
        "metric": 71.5,
    }
    torch.save(content, tmp_path / "model_best.pth.tar")
    net: Any = converted(resnet_timm(classes=11))
    head = copy.deepcopy(net.fc.state_dict())
    report = load_checkpoint(net, tmp_path / "model_best.pth.tar")
    assert report.note == "'state_dict' of the checkpoint is the network"
    missing = by_action(report)["missing"]
    assert [(e.name, e.source, e.result) for e in missing] == [
        ("fc.weight", (7, 512), (11, 512)),
        ("fc.bias", (7,), (11,)),
    ]
    assert {e.why for e in missing} == {
        "the classifier has other classes and keeps its new weights"
    }
    torch.testing.assert_close(net.fc.state_dict(), head, rtol=0, atol=0)
    features = resnet_timm(classes=0)
    features.load_state_dict({k: v for k, v in state.items() if not k.startswith("fc.")})
    x = normal(*IMAGES)
    with torch.no_grad():
        close(net.forward_head(net.forward_features(x), pre_logits=True), features(x))


class RadImageNet(nn.Module):
    """The backbone that RadImageNet publishes: all children of a ResNet but the last, numbered."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.backbone = nn.Sequential(*list(net.children())[:-1])

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.backbone(x)
        return features.flatten(1)


@pytest.mark.parametrize("build", [resnet, resnet_timm])
def test_radimagenet(build: Callable[..., nn.Module], plain: nn.Module, tmp_path: Path) -> None:
    theirs = RadImageNet(plain)
    torch.save(theirs.state_dict(), tmp_path / "ResNet18.pt")
    assert "backbone.4.0.conv1.weight" in theirs.state_dict()
    net: Any = converted(build())
    report = load_checkpoint(net, tmp_path / "ResNet18.pt")
    assert report.note.endswith(
        "0 is conv1, 1 is bn1, 4 is layer1, 5 is layer2, 6 is layer3, 7 is layer4"
    )
    assert [e.name for e in by_action(report)["missing"]] == ["fc.weight", "fc.bias"]
    net.fc = nn.Identity()
    same_answers(net.eval(), theirs)


def test_radimagenet_of_fifty_layers_in_one_channel() -> None:
    with torch.device("meta"):
        names = RadImageNet(torchvision.models.resnet50()).state_dict()
    state = {f"module.{n}": normal(*t.shape, dtype=torch.float32) for n, t in names.items()}
    net: Any = timm.create_model("resnet50", num_classes=3, in_chans=1)
    report = load_checkpoint(net, state)
    assert report.counts() == {"adapted": 1, "matched": 317, "missing": 2}
    conv: Any = net.conv1
    close(conv.weight, state["module.backbone.0.weight"].sum(1, keepdim=True))
    close(net.layer3[5].conv2.weight, state["module.backbone.6.5.conv2.weight"])
    del state["module.backbone.6.5.conv2.weight"]
    refused(r"1 missing \('layer3.5.conv2.weight' \(256, 256, 3, 3\)\)", net, state)
    state["module.backbone.6.5.conv4.weight"] = torch.zeros(1)
    refused("at most .* of the network's 320 tensors fit", net, state)


@pytest.mark.slow
def test_medicalnet(solid: Any, tmp_path: Path) -> None:
    """3D kernels are kept, and the mode makes the 2D network of them."""
    body = {k: v for k, v in solid.state_dict().items() if not k.startswith("fc.")}
    path = tmp_path / "resnet_18_23dataset.pth"
    torch.save({"state_dict": prefixed(body, "module.")}, path)
    for kernel_mode in ("projection", "slice"):
        net: Any = converted(resnet_timm(channels=1), kernel_mode)
        report = load_checkpoint(net, path)
        assert report.note == "'state_dict.module' of the checkpoint is the network"
        deeper = 3 if kernel_mode == "projection" else 0  # shortcuts that see every slice
        assert report.counts().get("adapted", 0) == deeper
        assert report.counts()["matched"] == len(body) - deeper
        why = f"3D kernel kept; images get what the {kernel_mode} mode takes of it"
        assert [e.why for e in report.entries if e.name == "conv1.weight"] == [why]
        net.fc.load_state_dict(solid.fc.state_dict())
        same_answers(net.eval(), solid, VOLUMES)
        kernel = solid.conv1.weight
        image = normal(2, 1, 20, 20)
        planar = kernel[:, :, 3] if kernel_mode == "slice" else sum_along(kernel, 0)
        close(net.conv1(image), nn.functional.conv2d(image, planar, None, 2, 3))


@pytest.mark.slow
def test_3d_kernels_enter_the_fourier_mode_centred(solid: Any) -> None:
    net: Any = converted(resnet_timm(channels=1), "fourier", lift=None)
    for layer in net.modules():  # as if it had been trained
        if isinstance(layer, crossd.CrossDConv) and layer.mode.state_dict():
            trained(layer.mode)
    report = load_checkpoint(net, prefixed(solid.state_dict(), "module."))
    net.eval()
    entries = {e.name: e for e in report.entries}
    assert entries["conv1.weight"].action == "adapted"
    assert "moved so that images see its central slice" in entries["conv1.weight"].why
    assert entries["layer2.0.downsample.0.weight"].action == "matched"  # of size 1: cannot move
    assert "starts anew" in entries["conv1.mode.predictor.3.weight"].why
    image, kernel = normal(2, 1, 20, 20), solid.conv1.weight
    close(net.conv1(image), nn.functional.conv2d(image, kernel[:, :, 3], None, 2, 3))
    same_answers(crossd.to_3d(net, align=True), solid, VOLUMES)


def test_kernels_with_their_poses_stay_where_they_stand() -> None:
    """A Cross-D network's own state dict is a checkpoint too."""
    source = trained(converted(resnet_timm(channels=1), "fourier"))
    net = converted(resnet_timm(channels=1), "fourier")
    report = load_checkpoint(net, {"net": prefixed(source.state_dict(), "ema.")})
    assert set(report.counts()) == {"matched"}
    torch.testing.assert_close(net.state_dict(), source.state_dict(), rtol=0, atol=0)


MONAI: dict[str, tuple[Callable[[int], nn.Module], int]] = {
    "SegResNet": (lambda rank: monai_nets.SegResNet(rank, 8, 2, 3), 2),
    "UNet": (
        lambda rank: monai_nets.UNet(rank, 2, 3, (4, 8, 16), (2, 2), num_res_units=2, norm="batch"),
        2,
    ),
    "BasicUNet": (lambda rank: monai_nets.BasicUNet(rank, 2, 3, (4, 4, 8, 8, 8, 4)), 2),
    "DynUNet": (
        lambda rank: monai_nets.DynUNet(
            rank, 2, 3, [3, 3, 3], [1, 2, 2], [2, 2], filters=[4, 8, 8]
        ),
        2,
    ),
}


@pytest.mark.parametrize("name", MONAI)
@pytest.mark.parametrize("rank", [2, 3])
def test_monai(name: str, rank: int, tmp_path: Path) -> None:
    """Encoder and decoder, transposed convolutions among them."""
    build, channels = MONAI[name]
    theirs = trained(build(rank))
    torch.save({"model": theirs.state_dict(), "epoch": 3}, tmp_path / "model.pt")
    net = converted(build(2).double())
    report = load_checkpoint(net, tmp_path / "model.pt")
    assert not {"missing", "unexpected"} & set(report.counts())
    assert ("adapted" in report.counts()) == (rank == 2)
    assert {e.name for e in report.entries} == set(net.state_dict())
    same_answers(net.eval(), theirs, (1, channels, *(32,) * rank))


def lightning(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """A checkpoint of Lightning's Trainer."""
    moments = {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(64, 3, 7, 7)}}
    return {
        "epoch": 4,
        "global_step": 100,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": dict(state),
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.9)}},
        "optimizer_states": [{"state": moments, "param_groups": [{"lr": 0.1, "params": [0]}]}],
        "lr_schedulers": [],
        "hyper_parameters": {"lr": 0.1, "classes": 7},
    }


@pytest.mark.parametrize("prefix", ["model.", "net.", "model._orig_mod.", "net.backbone."])
def test_lightning(prefix: str, plain: nn.Module, tmp_path: Path) -> None:
    torch.save(lightning(prefixed(plain.state_dict(), prefix)), tmp_path / "last.ckpt")
    net = converted(resnet())
    report = load_checkpoint(net, tmp_path / "last.ckpt")
    assert report.note == f"'state_dict.{prefix[:-1]}' of the checkpoint is the network"
    same_answers(net.eval(), plain)


def test_what_stands_beside_the_network_is_named_to_be_left(plain: nn.Module) -> None:
    beside = {"criterion.weight": torch.ones(7)}
    content = lightning(prefixed(plain.state_dict(), "model.") | beside)
    net = converted(resnet())
    refused(r"1 unexpected \('criterion.weight' \(7,\)\)", net, content)
    report = load_checkpoint(net, content, prefix="model")
    assert by_action(report)["unexpected"] == [
        Entry("criterion.weight", "unexpected", (7,), None, "outside of 'state_dict.model'")
    ]


def test_the_papers_implementation() -> None:
    net: Any = converted(nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 3, 1)), "fourier")
    state = {
        name.replace("0.weight", "0.weights_3d", name.startswith("0.weight"))
        .replace("1.weight", "1.weights_3d", name.startswith("1.weight"))
        .replace("mode.predictor", "rotation_params"): torch.rand(tensor.shape)
        for name, tensor in net.state_dict().items()
        if "mean_displacement" not in name
    }
    report = load_checkpoint(net, {"model": prefixed(state, "module.")})
    assert set(report.counts()) == {"matched", "missing"}
    torch.testing.assert_close(net[0].weight.detach(), state["0.weights_3d"])
    assert [e.name for e in by_action(report)["missing"]] == ["0.mode.mean_displacement"]
    assert "paper's implementation" in str(report).splitlines()[1]
    refused("no fourier mode", converted(resnet()), state)


# Into plain networks


def test_2d_into_2d(plain: nn.Module) -> None:
    net = resnet()
    report = load_checkpoint(net, {"network_weights": plain.state_dict()})
    assert set(report.counts()) == {"matched"}
    same_answers(net, plain)


@pytest.mark.slow
@pytest.mark.parametrize("lift", ["center", "inflate"])
def test_2d_into_plain_3d(lift: str, plain: nn.Module) -> None:
    net = crossd.inflate(resnet())
    report = load_checkpoint(net, plain.state_dict(), lift=lift)
    assert {e.why for e in by_action(report)["adapted"]} == {f"lifted by {lift!r}"}
    expected = {"center": crossd.center, "inflate": crossd.inflate}[lift](plain)
    torch.testing.assert_close(net.state_dict(), expected.state_dict())


@pytest.mark.parametrize("lift", ["center", "inflate", "triplanar"])
@pytest.mark.parametrize("kernel_mode", ["projection", "slice", "fourier"])
def test_a_lift_is_what_convert_does(lift: str, kernel_mode: str) -> None:
    build = MONAI["UNet"][0]
    theirs = trained(build(2))
    expected = converted(theirs, kernel_mode, lift)
    net = converted(build(2).double(), kernel_mode, lift)
    load_checkpoint(net, theirs.state_dict(), lift=lift)
    wanted = expected.state_dict()
    drawn = {name for name in wanted if ".predictor." in name}
    for name, tensor in net.state_dict().items():
        if name not in drawn:
            torch.testing.assert_close(tensor, wanted[name], rtol=0, atol=0)
    same_answers(net.eval(), expected.eval(), (1, 2, 32, 32))


def test_3d_into_plain_2d_is_refused(solid: nn.Module) -> None:
    for partial in (False, True):
        refused(
            r"holds 3D kernels \('conv1.weight'\).* load it into crossd.convert\(net\)",
            resnet_timm(channels=1),
            solid.state_dict(),
            allow_partial=partial,
        )


def test_acs_takes_2d_kernels(plain: nn.Module) -> None:
    net = crossd.acs(resnet())
    load_checkpoint(net, plain.state_dict())
    same_answers(net.eval(), plain)


# Wrapped networks


def test_a_network_that_wraps_the_checkpoints(plain: nn.Module) -> None:
    body: Any = resnet()
    body.fc = nn.Identity()
    net = converted(nn.Sequential(body, nn.Linear(512, 2).double()))
    state = {k: v for k, v in plain.state_dict().items() if not k.startswith("fc.")}
    report = load_checkpoint(net, prefixed(state, "encoder."))
    assert report.note == "'encoder' of the checkpoint is '0' of the network"
    assert [e.name for e in by_action(report)["missing"]] == ["1.weight", "1.bias"]
    assert all("keeps its new weights" in e.why for e in by_action(report)["missing"])
    load_checkpoint(net, RadImageNet(plain).state_dict())
    plain = copy.deepcopy(plain)
    plain.fc = nn.Identity()
    same_answers(net[0].eval(), plain)  # type: ignore[index]


def test_a_classifier_by_another_name(plain: nn.Module) -> None:
    state = plain.state_dict()
    state["linear.weight"], state["linear.bias"] = state.pop("fc.weight"), state.pop("fc.bias")
    report = load_checkpoint(converted(resnet(5)), state)
    left = by_action(report)["unexpected"]
    assert [e.name for e in left] == ["linear.weight", "linear.bias"]
    assert {e.why for e in left} == {"the checkpoint's classifier, by another name"}
    state["other.weight"] = torch.zeros(9, 512)
    refused("3 unexpected", converted(resnet(5)), state)


def test_a_headless_network_of_timm_leaves_the_classifier(plain: nn.Module) -> None:
    net = converted(resnet_timm(classes=0))
    report = load_checkpoint(net, plain.state_dict())
    assert [(e.name, e.why) for e in by_action(report)["unexpected"]] == [
        ("fc.weight", "of the classifier"),
        ("fc.bias", "of the classifier"),
    ]


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        (resnet(), ["fc"]),
        (torchvision.models.densenet121(), ["classifier"]),
        (torchvision.models.vgg11_bn(), ["classifier.6"]),
        (resnet_timm(), ["fc"]),
        (timm.create_model("densenet121"), ["classifier"]),
        (converted(resnet(), "fourier"), ["fc"]),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), []),
        (nn.Linear(1, 2), []),
        (MONAI["SegResNet"][0](2), ["conv_final.2.conv"]),
        (converted(MONAI["SegResNet"][0](2), "fourier"), ["conv_final.2.conv"]),
        (MONAI["BasicUNet"][0](2), ["final_conv"]),
        (MONAI["DynUNet"][0](2), ["output_block.conv.conv"]),
        (MONAI["UNet"][0](2), ["model.2.1.conv.unit0.conv"]),
    ],
)
def test_the_classifier_is_found(net: nn.Module, expected: list[str]) -> None:
    assert classifiers(net) == expected


def test_a_segmentation_head_may_have_other_classes() -> None:
    theirs = trained(monai_nets.SegResNet(3, 8, 2, 9))
    net = converted(MONAI["SegResNet"][0](2).double())
    report = load_checkpoint(net, theirs.state_dict())
    missing = by_action(report)["missing"]
    assert [(e.name, e.source) for e in missing] == [
        ("conv_final.2.conv.weight", (9, 8, 1, 1, 1)),
        ("conv_final.2.conv.bias", (9,)),
    ]


# Input channels


@pytest.mark.slow
@pytest.mark.parametrize("channels", some([(3, 1), (1, 3), (3, 4), (4, 3)], [(3, 1)]))
@pytest.mark.parametrize("rank", [2, 3])
def test_what_is_the_same_in_all_channels_gives_the_same(
    channels: tuple[int, int], rank: int
) -> None:
    theirs, ours = channels
    source = trained(resnet_timm(channels=theirs))
    if rank == 3:
        source = trained(crossd.inflate(source)).eval()
    net = converted(resnet_timm(channels=ours))
    report = load_checkpoint(net, source.state_dict())
    first = report.entries[0]
    assert (first.name, first.action) == ("conv1.weight", "adapted")
    assert f"the sum over {theirs} input channels, shared by {ours}" in first.why
    x = normal(1, 1, *(18,) * rank)
    repeats = [1] * (rank + 2)
    with torch.no_grad():
        repeats[1] = ours
        answer = net.eval()(x.repeat(repeats))
        repeats[1] = theirs
        close(answer, source(x.repeat(repeats)))


def test_a_branch_beside_the_first_convolution_is_widened_too() -> None:
    def build(channels: int, rank: int) -> nn.Module:
        return monai_nets.UNet(rank, channels, 2, (4, 8), (2,), num_res_units=2, norm="batch")

    net = converted(build(1, 2))
    report = load_checkpoint(net, build(3, 3).state_dict())
    widened = [e.name for e in report.entries if "input channels" in e.why]
    assert widened == ["model.0.conv.unit0.conv.weight", "model.0.residual.weight"]


def test_grouped_and_inner_convolutions_are_not_widened() -> None:
    def build(*channels: int, groups: int = 1) -> nn.Module:
        convs = [nn.Conv2d(a, b, 3, groups=groups) for a, b in itertools.pairwise(channels)]
        return nn.Sequential(*convs, nn.BatchNorm2d(channels[-1]), nn.Linear(channels[-1], 2))

    refused("1 of another shape", build(4, 8, groups=2), build(8, 8, groups=2).state_dict())
    refused("3 of another shape", build(1, 8, 8), build(1, 4, 8).state_dict())


# What does not fit


def test_faults_are_named_and_nothing_is_loaded(plain: nn.Module) -> None:
    net = converted(resnet())
    state = dict(plain.state_dict())
    weight = state.pop("layer1.0.conv1.weight")
    refused(
        r"does not fit: 73 tensors do, but 1 missing \('layer1.0.conv1.weight' "
        r"\(64, 64, 3, 3, 3\)\); to load .* --allow-partial",
        net,
        state,
    )
    state["layer1.0.conv9.weight"] = weight
    refused(r"1 missing .*, 1 unexpected \('layer1.0.conv9.weight' \(64, 64, 3, 3\)\)", net, state)
    state["layer1.0.conv1.weight"] = weight[:, :3]
    refused(
        r"1 of another shape \('layer1.0.conv1.weight' \(64, 3, 3, 3\), expected \(64, 64, 3, 3,",
        net,
        state,
    )
    before = net.get_parameter("layer1.0.conv1.weight").clone()
    report = load_checkpoint(net, state, allow_partial=True)
    assert report.counts() == {"adapted": 11, "matched": 62, "missing": 1, "unexpected": 1}
    torch.testing.assert_close(net.get_parameter("layer1.0.conv1.weight"), before, rtol=0, atol=0)
    close(net.get_parameter("fc.weight"), state["fc.weight"])


@pytest.mark.slow
def test_another_network_is_refused_even_in_part(plain: nn.Module) -> None:
    for partial in (False, True):
        other = torchvision.models.vgg11_bn(num_classes=2)
        refused("not of this network: at most", other, plain.state_dict(), allow_partial=partial)
    deeper = torchvision.models.resnet18(num_classes=7)
    refused("unexpected .'layer1.1.conv1.weight'", resnet(), deeper.state_dict())
    refused("missing .'layer1.1.conv1.weight'", deeper, plain.state_dict())
    refused("none of its 0 tensors", resnet(), {"epoch": 3})


def test_two_networks_in_a_checkpoint(plain: nn.Module) -> None:
    average = trained(resnet())
    for tensor in average.state_dict().values():
        tensor.mul_(2)
    content = {"state_dict": plain.state_dict(), "state_dict_ema": average.state_dict()}
    net = converted(resnet())
    refused(
        "equally well, with 74 tensors: 'state_dict' as .* prefix='state_dict_ema'", net, content
    )
    load_checkpoint(net, content, prefix="state_dict_ema")
    close(net.get_parameter("fc.weight"), average.fc.weight)
    both = prefixed(plain.state_dict(), "encoder_q.") | prefixed(average.state_dict(), "encoder_k.")
    refused("'encoder_q' as the network", net, both)
    report = load_checkpoint(net, both, prefix="encoder_q")
    assert report.counts()["unexpected"] == 74
    close(net.get_parameter("fc.weight"), plain.get_parameter("fc.weight"))


def test_counters_of_batches_may_be_missing_or_left(plain: nn.Module) -> None:
    state = {k: v for k, v in plain.state_dict().items() if "num_batches" not in k}
    report = load_checkpoint(converted(resnet()), state)
    assert {e.why for e in by_action(report)["missing"]} == {"it only counts batches"}
    counted = state | {"bn9.num_batches_tracked": torch.tensor(3)}
    report = load_checkpoint(converted(resnet()), counted)
    assert [e.name for e in by_action(report)["unexpected"]] == ["bn9.num_batches_tracked"]


def test_half_precision_is_said(plain: nn.Module) -> None:
    state = {k: v.half() if v.is_floating_point() else v for k, v in plain.state_dict().items()}
    net = converted(resnet())
    report = load_checkpoint(net, state)
    assert report.entries[0].why == "lifted by 'center'; from float16"
    assert net.get_parameter("fc.weight").dtype == torch.float64
    close(net.get_parameter("fc.weight"), state["fc.weight"].double())


def test_one_tensor_under_two_names() -> None:
    def build() -> Any:
        conv = nn.Conv2d(4, 4, 3, padding=1)
        return nn.Sequential(nn.Conv2d(1, 4, 3), conv, nn.ReLU(), conv, nn.Conv2d(4, 2, 1))

    theirs, net = build(), converted(build()).eval()
    state = {k: v for k, v in theirs.state_dict().items() if not k.startswith("3.")}
    report = load_checkpoint(net, state)
    assert [e.why for e in report.entries if e.name.startswith("3.")] == [
        "one tensor with 1.weight",
        "one tensor with 1.bias",
    ]
    x = torch.rand(1, 1, 9, 9)
    close(net(x), theirs(x))
    load_checkpoint(net, theirs.state_dict())
    close(net(x), theirs(x))


def test_a_layer_alone() -> None:
    theirs, net = nn.Conv2d(2, 3, 3), converted(nn.Conv2d(2, 3, 3), "fourier")
    load_checkpoint(net, {"conv.weight": theirs.weight, "conv.bias": theirs.bias})
    x = torch.rand(1, 2, 9, 9)
    close(net(x), theirs(x))


def test_options_are_checked(plain: nn.Module) -> None:
    refused(r"lift \(='up'\) must be one of", resnet(), plain.state_dict(), lift="up")
    flat = nn.Sequential(nn.Conv2d(1, 4, (3, 5)), nn.BatchNorm2d(4))
    refused("cannot lift '0.weight': .*cubic", converted(flat), flat.state_dict(), lift="triplanar")


class Code:
    """What runs when an unsafe loader reads it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('code of the checkpoint ran')",))


@pytest.mark.parametrize("form", ["acs", "cycle"])
def test_a_checkpoint_becomes_what_looks_at_planes(form: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    source, out = torchvision.models.resnet18(num_classes=3).eval(), tmp_path / "out.safetensors"
    config = crossd.WeightsConfig("torchvision:resnet18", "classification", 3, tuple("abc"), form)
    convert_checkpoint(source.state_dict(), out, config)
    net: Any = crossd.load(out)
    x = torch.randn(1, 3, 32, 33, 34)
    with torch.no_grad():
        torch.testing.assert_close(net(x), getattr(crossd, form)(source)(x))
    assert net.config.form == form and not net.config.recalibrated
    with pytest.raises(InputError, match=f"--lift inflate is not for --to {form}, which lifts no"):
        convert_checkpoint(source.state_dict(), out, config, lift="inflate")
    fourier = dataclasses.replace(config, kernel_mode="fourier")
    with pytest.raises(InputError, match=f"--kernel-mode fourier is not for --to {form}"):
        convert_checkpoint(source.state_dict(), out, fourier)
    flat = dataclasses.replace(config, form="2d")
    with pytest.raises(InputError, match="--lift triplanar is not for --to 2d, which lifts no"):
        convert_checkpoint(source.state_dict(), out, flat, lift="triplanar")


@pytest.mark.parametrize(
    ("name", "form", "known"),
    [
        ("resnet18", "cross", False),
        pytest.param("resnet18", "3d", False, marks=pytest.mark.slow),
        pytest.param("r3d_18", "cross", True, marks=pytest.mark.slow),
        ("r3d_18", "3d", True),
    ],
)
def test_what_batchnorm_of_a_checkpoint_knows_is_kept(
    name: str, form: str, known: bool, tmp_path: Path
) -> None:
    source = registry.build(f"torchvision:{name}", "classification", 3, 3)
    config = crossd.WeightsConfig(f"torchvision:{name}", "classification", 3, tuple("abc"))
    out = tmp_path / "out.safetensors"
    convert_checkpoint(source.state_dict(), out, dataclasses.replace(config, form=form))
    assert read_config(out).recalibrated == known


def test_files_are_read_without_running_code(plain: nn.Module, tmp_path: Path) -> None:
    net, path = resnet(), tmp_path / "checkpoint.pth"
    refused("no such file: .*checkpoint.pth", net, path)
    path.write_text("hello")
    refused("does not load with weights_only=True", net, path)
    content = {"state_dict": plain.state_dict(), "args": argparse.Namespace(), "note": Code()}
    torch.save(content, path)
    refused("it holds builtins.exec, which weights_only=True does not load", net, path)
    torch.save([1, 2], path)
    refused("it holds a list", net, path)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nothing")
    refused("broken.safetensors is not a checkpoint", net, broken)


def test_every_mapping_of_tensors_is_seen() -> None:
    one = torch.zeros(1)
    content: dict[Any, Any] = {
        "a": {"b": {"w": one}, "v": one},
        "c": 3,
        "d": [{"x": one}],
        5: one,
        "e": {},
    }
    assert {part: list(state) for part, state in state_dicts(content).items()} == {
        "": ["5"],
        "a": ["v"],
        "a.b": ["w"],
    }


def test_channels_and_classes_are_read(plain: nn.Module, solid: nn.Module) -> None:
    probe = resnet_timm(2, 2)
    assert sizes(probe, lightning(prefixed(plain.state_dict(), "model."))) == (3, 7)
    assert sizes(probe, solid.state_dict()) == (1, 7)
    assert sizes(probe, RadImageNet(plain).state_dict()) == (3, 0)
    theirs = {
        n.replace("conv1.weight", "conv1.weights_3d"): t for n, t in solid.state_dict().items()
    }
    assert sizes(probe, theirs) == (1, 7)
    assert first_convolution(probe) == "conv1" and first_convolution(nn.ReLU()) is None


def test_a_kernel_of_one_slice_is_not_taken_for_a_cube() -> None:
    """Only what conversion deepens is put into the centre; other shapes are another network."""
    flat = nn.Sequential(nn.Conv3d(2, 3, (1, 3, 3)), nn.BatchNorm3d(3), nn.Conv3d(3, 2, 1))
    solid = nn.Sequential(nn.Conv3d(2, 3, 3), nn.BatchNorm3d(3), nn.Conv3d(3, 2, 1))
    refused("1 of another shape .'0.weight' .3, 2, 1, 3, 3., expected", solid, flat.state_dict())
