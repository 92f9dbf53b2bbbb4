"""Weights of 3D networks, each built here in the layout of its makers.

Where the layouts are looked up is said in docs/weights.md. Networks are of double precision, so
that equal means equal.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import monai.networks.nets as monai_nets
import numpy as np
import pytest
import torch
import torchvision
from files import npz
from helpers import close, normal, randomize, some
from monai.networks.nets.segresnet_ds import SegResEncoder
from torch import Tensor, nn

import crossd
from crossd.cli import command_line as cli
from crossd.conversion import registry
from crossd.conversion.building import rank_of
from crossd.errors import InputError
from crossd.weights.third_party import convert_checkpoint, load_checkpoint
from crossd.weights.weights_file import WeightsConfig

State = dict[str, Tensor]
SHAPE = (1, 1, 32, 40, 48)
WHOLE = (1, 1, 32, 32, 64)
"""What SwinUNETR takes: multiples of 32."""


def theirs(net: nn.Module) -> Any:
    """Give a network numbers of its own, in double, as if its makers had trained it."""
    net = net.double()
    randomize(net)
    for name, parameter in net.named_parameters():
        if parameter.dim() > 1 and "relative" not in name:
            parameter.data /= parameter[0].numel() ** 0.5
    return net.eval()


def named(net: nn.Module, prefix: str = "") -> State:
    return {prefix + name: tensor.clone() for name, tensor in net.state_dict().items()}


def answers_alike(net: Any, other: nn.Module, shape: tuple[int, ...] = SHAPE) -> None:
    """Compare a loaded network with its makers' one, by the classes that both have."""
    x = normal(*shape)
    with torch.no_grad():
        close(net.eval()(x), other(x))


def converted(net: nn.Module) -> Any:
    """Bring a network with new weights to both ranks."""
    torch.manual_seed(1)
    return crossd.convert(net, check=False).double()


# Networks of MONAI and torchvision, which --model names


@pytest.mark.parametrize(("block", "kind"), [("basic", "A"), ("basic", "B"), ("bottleneck", "B")])
def test_medicalnet(block: str, kind: str, tmp_path: Path) -> None:
    """`module.` before the names of a ResNet without a classifier."""
    options: dict[str, Any] = {
        "block": block,
        "layers": [1, 1, 1, 1],
        "block_inplanes": [4, 8, 8, 8],
        "n_input_channels": 1,
        "shortcut_type": kind,
        "bias_downsample": False,
        "conv1_t_stride": 2,
    }
    body = theirs(monai_nets.ResNet(**options, feed_forward=False))
    path = tmp_path / "resnet_10_23dataset.pth"
    torch.save({"state_dict": named(body, "module.")}, path)
    net = converted(monai_nets.ResNet(**options, num_classes=3))
    report = load_checkpoint(net, path)
    assert {e.name for e in report.entries if e.action == "missing"} == {"fc.weight", "fc.bias"}
    net.fc = nn.Identity()
    answers_alike(net, body)


def swin(use_v2: bool, classes: int) -> nn.Module:
    return monai_nets.SwinUNETR(in_channels=1, out_channels=classes, feature_size=12, use_v2=use_v2)


def around_the_backbone() -> nn.Module:
    """What the universal model of SuPreM has beside its backbone."""
    return nn.ModuleDict(
        {
            "precls_conv": nn.Sequential(nn.GroupNorm(4, 12), nn.ReLU(), nn.Conv3d(12, 8, 1)),
            "GAP": nn.Sequential(nn.GroupNorm(4, 16), nn.ReLU(), nn.Conv3d(16, 8, 1)),
            "controller": nn.Conv3d(16, 153, 1),
            "text_to_vision": nn.Linear(12, 8),
        }
    )


@pytest.mark.slow
def test_suprem_swin_unetr() -> None:
    body = theirs(swin(False, 25))
    inner = {name: t for name, t in named(body).items() if not name.startswith("out.")}
    state = {f"module.backbone.{name}": t for name, t in inner.items()}
    state |= named(around_the_backbone().double(), "module.")
    net = converted(swin(False, 5))
    with pytest.raises(InputError, match=r"unexpected \('module.precls_conv"):
        load_checkpoint(net, {"net": state, "epoch": 2100})
    report = load_checkpoint(net, {"net": state, "epoch": 2100}, prefix="backbone")
    assert report.note == "'net.module.backbone' of the checkpoint is the network"
    assert {e.name for e in report.entries if e.action == "missing"} == {
        "out.conv.conv.weight",
        "out.conv.conv.bias",
    }
    net.out, body.out = nn.Identity(), nn.Identity()
    answers_alike(net, body, WHOLE)


def segresnet(classes: int) -> nn.Module:
    return monai_nets.SegResNet(3, 8, 1, classes, blocks_down=(1, 2, 2, 4), blocks_up=(1, 1, 1))


def test_suprem_segresnet() -> None:
    body = theirs(segresnet(32))
    net = converted(segresnet(5))
    report = load_checkpoint(net, {"net": named(body, "module.")})
    assert {e.name for e in report.entries if e.action == "missing"} == {
        "conv_final.2.conv.weight",
        "conv_final.2.conv.bias",
    }
    net.conv_final[2], body.conv_final[2] = nn.Identity(), nn.Identity()
    answers_alike(net, body)


@pytest.mark.slow
def test_voco_encoder_and_voco_omni() -> None:
    """The first is the encoder of a SwinUNETR, the second all of one; names as MONAI's."""
    body = theirs(swin(True, 21))
    parts = ("swinViT", "encoder1.", "encoder2.", "encoder3.", "encoder4.", "encoder10.")
    encoder = {name: t for name, t in named(body).items() if name.startswith(parts)}
    net = converted(swin(True, 21))
    with pytest.raises(InputError, match="--allow-partial"):
        load_checkpoint(net, encoder)
    report = load_checkpoint(net, encoder, allow_partial=True)
    assert report.counts()["matched"] == len(encoder)
    assert all(e.name.startswith(("decoder", "out.")) for e in report.entries if e.source is None)
    x = normal(*WHOLE)
    with torch.no_grad():
        for one, other in zip(net.eval().swinViT(x), body.swinViT(x), strict=True):
            close(one, other)
    load_checkpoint(net, named(body))
    answers_alike(net, body, WHOLE)


@pytest.mark.parametrize("whole", [False, True])
def test_ct_fm(whole: bool) -> None:
    """The feature extractor is an encoder with names of its own, the SegResNet all of one."""
    options: dict[str, Any] = {"init_filters": 4, "blocks_down": (1, 2, 2), "in_channels": 1}
    net = converted(monai_nets.SegResNetDS(out_channels=3, **options))
    if whole:
        body = theirs(monai_nets.SegResNetDS(out_channels=3, **options))
        report = load_checkpoint(net, named(body))
        assert set(report.counts()) == {"matched"}
        answers_alike(net, body)
        return
    encoder = theirs(SegResEncoder(**options))
    report = load_checkpoint(net, named(encoder), allow_partial=True)
    assert report.note == "'(no prefix)' of the checkpoint is 'encoder' of the network"
    assert report.counts()["matched"] == len(named(encoder))
    x = normal(*SHAPE)
    with torch.no_grad():
        for one, other in zip(net.eval().encoder(x), encoder(x), strict=True):
            close(one, other)


@pytest.mark.parametrize("name", some(("r3d_18", "mc3_18", "r2plus1d_18"), ("r3d_18",)))
def test_kinetics(name: str, tmp_path: Path) -> None:
    """Torchvision's names, three channels, 400 classes; the channel of scans takes their sum."""
    body = theirs(torchvision.models.get_model(name, weights=None))
    torch.save(named(body), tmp_path / f"{name}.pth")
    net = converted(registry.build(f"torchvision:{name}", "classification", 3, 400))
    assert set(load_checkpoint(net, tmp_path / f"{name}.pth").counts()) == {"matched"}
    shape = (1, 3, 16, 40, 48)
    answers_alike(net, body, shape)
    grey = converted(registry.build(f"torchvision:{name}", "classification", 1, 400))
    assert load_checkpoint(grey, tmp_path / f"{name}.pth").counts()["adapted"] == 1
    x = normal(1, 1, *shape[2:])
    with torch.no_grad():
        close(grey.eval()(x), body(x.expand(shape)))


# Networks of others, which their own code builds


class Conv(nn.Module):
    """A convolution and its norm as Models Genesis names them; the norm always measures anew."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(before, after, 3, padding=1)
        self.bn1 = nn.BatchNorm3d(after)

    def forward(self, x: Tensor) -> Tensor:
        norm, x = self.bn1, self.conv1(x)
        measured = (norm.running_mean, norm.running_var, norm.weight, norm.bias, True)
        return nn.functional.batch_norm(x, *measured, norm.momentum or 0.1, norm.eps).relu()


class Stage(nn.Module):
    def __init__(self, before: int, between: int, after: int, up: int = 0) -> None:
        super().__init__()
        if up:
            self.up_conv = nn.ConvTranspose3d(up, up, 2, 2)
        self.ops = nn.Sequential(Conv(before, between), Conv(between, after))


class Genesis(nn.Module):
    """The U-Net of Models Genesis and, without its last layer, of SuPreM: a level less, narrow."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.down_tr64, self.down_tr128 = Stage(1, 2, 4), Stage(4, 4, 8)
        self.up_tr64 = Stage(12, 4, 4, up=8)
        self.out_tr = nn.ModuleDict({"final_conv": nn.Conv3d(4, classes, 1)})

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down_tr64.ops(x)
        deep = self.down_tr128.ops(nn.functional.max_pool3d(skip, 2))
        x = torch.cat((self.up_tr64.up_conv(deep), skip), 1)
        answer: Tensor = self.out_tr["final_conv"](self.up_tr64.ops(x))
        return answer


@pytest.mark.parametrize("maker", ["genesis", "suprem"])
def test_models_genesis_and_the_unet_of_suprem(maker: str) -> None:
    body = theirs(Genesis(1))
    content: Mapping[str, object] = {"state_dict": named(body, "module."), "epoch": 3}
    prefix = None
    if maker == "suprem":
        inner = {n: t for n, t in named(body).items() if not n.startswith("out_tr")}
        state = {f"module.backbone.{name}": tensor for name, tensor in inner.items()}
        content = {"net": state | named(around_the_backbone(), "module.")}
        prefix = "backbone"
    net = converted(Genesis(3))
    report = load_checkpoint(net, content, prefix=prefix)
    assert report.counts()["missing"] == 2
    for one in (net, body):
        one.out_tr["final_conv"] = nn.Identity()
    answers_alike(net, body)


class Block(nn.Module):
    """A residual block as STU-Net names it."""

    def __init__(self, before: int, after: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(before, after, 3, stride, 1)
        self.norm1 = nn.InstanceNorm3d(after, affine=True)
        self.conv2 = nn.Conv3d(after, after, 3, 1, 1)
        self.norm2 = nn.InstanceNorm3d(after, affine=True)
        self.conv3 = nn.Conv3d(before, after, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.leaky_relu(self.norm1(self.conv1(x)))
        answer: Tensor = self.conv3(x) + self.norm2(self.conv2(y))
        return nn.functional.leaky_relu(answer)


class StuNet(nn.Module):
    """STU-Net with two levels."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        blocks = [nn.Sequential(Block(1, 4)), nn.Sequential(Block(4, 8, 2))]
        self.conv_blocks_context = nn.ModuleList(blocks)
        self.upsample_layers = nn.ModuleList([nn.ModuleDict({"conv": nn.Conv3d(8, 4, 1)})])
        self.conv_blocks_localization = nn.ModuleList([nn.Sequential(Block(8, 4))])
        self.seg_outputs = nn.ModuleList([nn.Conv3d(4, classes, 1)])

    def forward(self, x: Tensor) -> Tensor:
        skip = self.conv_blocks_context[0](x)
        deep = nn.functional.interpolate(self.conv_blocks_context[1](skip), scale_factor=2.0)
        up: Any = self.upsample_layers[0]
        x = self.conv_blocks_localization[0](torch.cat((up["conv"](deep), skip), 1))
        answer: Tensor = self.seg_outputs[0](x)
        return answer


def test_stu_net(tmp_path: Path) -> None:
    """A file of nnU-Net 1, which holds numbers of numpy beside the network."""
    body = theirs(StuNet(105))
    moments = {"state": {}, "param_groups": [{"lr": 0.01, "params": [0]}]}
    content = {
        "epoch": 4000,
        "state_dict": named(body),
        "optimizer_state_dict": moments,
        "lr_scheduler_state_dict": None,
        "plot_stuff": ([np.float64(-0.5)], [np.float64(-0.4)], [], [np.mean([0.7, 0.8])]),
        "best_stuff": (np.float64(0.9), np.float64(-0.4), None),
    }
    torch.save(content, tmp_path / "small_ep4k.model")
    net = converted(StuNet(105))
    report = load_checkpoint(net, tmp_path / "small_ep4k.model")
    assert report.note == "'state_dict' of the checkpoint is the network"
    assert set(report.counts()) == {"matched"}
    answers_alike(net, body)


def residual_encoder(classes: int) -> nn.Module:
    from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet

    net: nn.Module = ResidualEncoderUNet(
        1, 3, (4, 8, 8), nn.Conv3d, 3, (1, 2, 2), (1, 2, 2), classes, (1, 1), True,
        nn.InstanceNorm3d, {"affine": True}, nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True},
    )  # fmt: skip
    return net


@pytest.mark.parametrize("whole", [True, False])
def test_nnssl(whole: bool, tmp_path: Path) -> None:
    """A residual encoder of nnU-Net, with its decoder (masked images) or not (contrasts)."""
    body = theirs(residual_encoder(1))
    state = named(body)
    if not whole:
        state = named(body.encoder, "encoder.") | {"projector.0.weight": torch.zeros(4, 8)}
    plan = {"architecture_plans": {"arch_class_name": "ResEncL"}, "key_to_stem": "encoder.stem"}
    content = {"network_weights": state, "nnssl_adaptation_plan": plan, "trainer_name": "BaseMAE"}
    torch.save(content, tmp_path / "checkpoint_final.pth")
    net = converted(residual_encoder(2))
    if whole:
        load_checkpoint(net, tmp_path / "checkpoint_final.pth")
        net.decoder.seg_layers = body.decoder.seg_layers = nn.ModuleList([nn.Identity()] * 2)
        answers_alike(net, body)
        return
    path = tmp_path / "checkpoint_final.pth"
    report = load_checkpoint(net, path, allow_partial=True, prefix="encoder")
    left = [e for e in report.entries if e.action == "missing"]
    assert left and all(e.name.startswith("decoder.") for e in left)
    x = normal(*SHAPE)
    with torch.no_grad():
        for one, other in zip(net.eval().encoder(x), body.encoder(x), strict=True):
            close(one, other)


# The way on

MEDICALNET = (
    "monai:ResNet(block='basic', layers=[1, 1, 1, 1], block_inplanes=[4, 4, 4, 4], "
    "bias_downsample=False, conv1_t_stride=2)"
)


def medicalnet(path: Path) -> nn.Module:
    """Write the file of a small MedicalNet; returns the network, with a classifier of its own."""
    body = registry.build(MEDICALNET, "classification", 1, 2)
    randomize(body)
    state = {n: t for n, t in named(body, "module.").items() if not n.startswith("module.fc.")}
    torch.save({"state_dict": state}, path)
    return body


@pytest.mark.slow
def test_images_go_on_training_them(tmp_path: Path) -> None:
    """From a file of others to a weights file, and on from it on slices: two commands."""
    body: Any = medicalnet(tmp_path / "theirs.pth")
    start, out = str(tmp_path / "start.safetensors"), tmp_path / "run"
    given = ["--weights", str(tmp_path / "theirs.pth"), "--model", MEDICALNET, "--classes", "0,1"]
    assert cli.main(["convert", *given, "--to", "cross", "--out", start]) == 0
    loaded: Any = crossd.load(start)
    torch.testing.assert_close(loaded.conv1.weight, body.conv1.weight)
    data = ["--data", npz(tmp_path / "volumes.npz", (32, 32, 32))]
    more = ["--weights", start, "--epochs", "1", "--out", str(out)]
    assert cli.main(["pretrain", *data, *more]) == 0
    net = crossd.load(out / "weights.safetensors")
    for sides in ((32, 32), (32, 32, 32)):
        assert net(torch.zeros(2, 1, *sides)).shape == (2, 2)


def test_classes_are_asked_for_where_a_file_shows_none(tmp_path: Path) -> None:
    medicalnet(tmp_path / "theirs.pth")
    config = WeightsConfig(MEDICALNET, "classification", 0, ())
    with pytest.raises(InputError, match="does not show its number of classes: give --classes"):
        convert_checkpoint(tmp_path / "theirs.pth", tmp_path / "out.safetensors", config)


@pytest.mark.slow
def test_the_networks_of_the_table_can_be_built() -> None:
    """In docs/weights.md."""
    page = Path(__file__).parents[2] / "docs" / "weights.md"
    names = set(re.findall(r"`((?:monai|torchvision):[^`]+)`", page.read_text(encoding="utf-8")))
    assert len(names) == 6
    for name in names:
        task = "segmentation" if "Seg" in name or "UNETR" in name else "classification"
        assert rank_of(registry.build(name, task, 1, 4)) == 3


def test_what_would_run_code_is_refused(tmp_path: Path) -> None:
    """Beside numbers of numpy, which run none."""
    content = {"state_dict": named(StuNet(2)), "loss": np.float32(1), "trainer": Path("here")}
    torch.save(content, tmp_path / "checkpoint.pth")
    with pytest.raises(
        InputError, match=r"it holds pathlib\S*Path, which weights_only=True"
    ) as error:
        load_checkpoint(StuNet(2), tmp_path / "checkpoint.pth")
    assert "numpy" not in str(error.value) and "save its state dict alone" in str(error.value)
