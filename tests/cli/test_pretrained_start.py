"""`--pretrained` of pretrain, joint and transfer: 2D training from the weights of timm."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from files import npz
from safetensors.torch import save_file

import crossd
from crossd.cli import command_line as cli
from crossd.cli.options import JointConfig, PretrainConfig, TransferConfig
from crossd.cli.pretrain import pretrain
from crossd.cli.transfer import open_setting
from crossd.conversion import registry
from crossd.errors import InputError
from crossd.training import loop
from crossd.utils.progress import Progress

QUIET = Progress(quiet=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return npz(tmp_path_factory.mktemp("data") / "volumes.npz", (20, 24, 28))


def weights_of(name: str, folder: Path) -> tuple[dict[str, torch.Tensor], str]:
    torch.manual_seed(1)
    state = timm.create_model(name).state_dict()
    for value in state.values():
        if value.is_floating_point():
            value += 0.1 * torch.rand_like(value)
    path = folder / f"{name}.safetensors"
    save_file(state, path)
    return state, str(path)


def test_training_starts_from_the_weights_of_a_file(data: str, tmp_path: Path) -> None:
    state, path = weights_of("test_resnet", tmp_path)
    given: Any = {"model": "test_resnet", "pretrained": path, "lr": 1e-12, "epochs": 1}
    pretrain(PretrainConfig(data, size="24", out=str(tmp_path / "out"), **given), QUIET)
    net: Any = crossd.load(tmp_path / "out" / "weights.safetensors")
    flat = crossd.to_2d(net).state_dict()
    assert flat["layer2.0.conv1.weight"].shape == state["layer2.0.conv1.weight"].shape
    torch.testing.assert_close(flat["layer2.0.conv1.weight"], state["layer2.0.conv1.weight"])
    torch.testing.assert_close(flat["layer1.0.bn1.bias"], state["layer1.0.bn1.bias"])
    stem = next(name for name, value in state.items() if value.dim() == 4)
    torch.testing.assert_close(flat[stem], state[stem].sum(1, keepdim=True))


def test_classes_in_brackets_are_those_of_the_weights_and_not_of_what_is_trained(
    data: str, tmp_path: Path
) -> None:
    path, out = tmp_path / "five.safetensors", tmp_path / "out"
    save_file(timm.create_model("test_resnet", num_classes=5).state_dict(), path)
    given: Any = {"model": "test_resnet(num_classes=5)", "pretrained": str(path), "epochs": 1}
    pretrain(PretrainConfig(data, slice_step=20, out=str(out), **given), QUIET)
    net = crossd.load(out / "weights.safetensors")
    assert net(torch.randn(2, 1, 24, 24)).shape == (2, 2)


def test_a_network_that_cannot_be_built_again_is_refused_before_it_is_trained(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, path = weights_of("test_resnet", tmp_path)
    real = registry.build
    monkeypatch.setattr(registry, "build", lambda name, task, *_: real(name, task, 1, 7))
    config = PretrainConfig(
        data, model="test_resnet", pretrained=path, epochs=1, out=str(tmp_path / "out")
    )
    with pytest.raises(InputError, match="cannot be built again for 1 channels and 2 outputs"):
        pretrain(config, QUIET)
    assert not (tmp_path / "out").exists()


def test_joint_training_starts_from_the_weights_of_a_file(data: str, tmp_path: Path) -> None:
    state, path = weights_of("test_resnet", tmp_path)
    options = ["joint", "--images", data, "--volumes", data, "--epochs", "1", "--steps", "1"]
    options += ["--model", "test_resnet", "--pretrained", path, "--lr", "1e-12"]
    options += ["--slice-step", "20", "--out", str(tmp_path / "out")]
    assert cli.main(options) == 0
    flat = crossd.to_2d(crossd.load(tmp_path / "out" / "weights.safetensors")).state_dict()
    name = "layer2.0.conv1.weight"
    torch.testing.assert_close(flat[name], state[name])


def test_a_transformer_is_built_again_as_it_was_for_its_slices(data: str, tmp_path: Path) -> None:
    _, path = weights_of("test_vit", tmp_path)
    given: Any = {"model": "test_vit", "pretrained": path, "epochs": 1, "slice_step": 20}
    pretrain(PretrainConfig(data, out=str(tmp_path / "out"), **given), QUIET)
    weights = tmp_path / "out" / "weights.safetensors"
    assert "dynamic_img_size=True" in crossd.weights.weights_file.read_config(weights).model
    net = crossd.load(weights)
    with torch.no_grad():
        assert net(torch.randn(1, 1, 32, 32)).shape == (1, 2)
        assert net(torch.randn(1, 1, 32, 32, 32)).shape == (1, 2)


def test_all_arms_but_scratch_start_from_the_weights(data: str, tmp_path: Path) -> None:
    state, path = weights_of("test_resnet", tmp_path)
    arms = "projection,slices,scratch"
    config = TransferConfig(
        data, data, arms=arms, model="test_resnet", pretrained=path, out=str(tmp_path / "out")
    )
    setting = open_setting(config)
    name = "layer2.0.conv1.weight"
    plain, ours = (setting.untrained(which) for which in ("plain", "projection"))
    torch.testing.assert_close(plain.state_dict()[name], state[name])
    torch.testing.assert_close(crossd.to_2d(ours).state_dict()[name], state[name])
    options = ["transfer", "--images", data, "--volumes", data, "--arms", arms, "--limit", "6"]
    options += ["--model", "test_resnet", "--pretrained", path, "--protocols", "zero,linear"]
    options += ["--teach", "never", "--epochs", "1", "--slice-step", "20", "--jobs", "1"]
    assert cli.main([*options, "--out", str(tmp_path / "out")]) == 0
    results = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert {row["arm"] for row in results["rows"]} == set(arms.split(","))
    assert (
        f"the 2D trainings start from the weights of {path}, scratch from new weights"
        in results["notes"]
    )


def test_its_learning_rate_is_lower_unless_one_is_given() -> None:
    def rate(**given: Any) -> float:
        return loop.for_images(PretrainConfig(**given), "classification").lr

    assert rate(pretrained="timm") == 0.001 < rate()
    assert rate(pretrained="timm", lr=0.02) == 0.02
    joint = JointConfig(images="brain", volumes="brain", pretrained="timm")
    assert loop.for_images(joint, "classification").lr == 0.001


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pretrained"], "--pretrained is for networks of timm's: name one by --model"),
        (["--model", "test_resnet", "--pretrained", "gone.pth"], "no such file: gone.pth"),
        (["--model", "monai:SegResNet", "--pretrained"], "monai:SegResNet is no network of timm's"),
        (["--weights", "x.safetensors", "--pretrained"], "--pretrained is for a new network"),
    ],
)
@pytest.mark.parametrize("command", ["pretrain", "transfer"])
def test_what_cannot_be_is_refused(
    command: str,
    options: list[str],
    message: str,
    data: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sources = {"pretrain": ["--data", data], "transfer": ["--images", data, "--volumes", data]}
    if command == "transfer" and "--weights" in options:
        return
    out = tmp_path / "out"
    assert cli.main([command, *sources[command], *options, "--out", str(out)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_masks_have_another_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data", "brain", "--model", "resnet18", "--pretrained"]
    assert cli.main(["pretrain", *options, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "brain has masks" in said and "crossd convert --weights FILE" in said
