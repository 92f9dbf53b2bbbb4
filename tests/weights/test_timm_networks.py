"""timm's networks: sized for slices, with weights of files, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from helpers import close_relative, randomize
from safetensors.torch import save_file
from torch import nn

import crossd
from crossd.errors import InputError
from crossd.weights import timm_networks
from crossd.weights.timm_networks import build, statistics


def weights_of(name: str, path: Path, **options: Any) -> tuple[Any, str]:
    """Write weights that hide no mistake, as timm names them; returns their network too."""
    net = timm.create_model(name, **options)
    randomize(net)
    save_file(net.state_dict(), path)
    return net.eval(), str(path)


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_a_file_gives_the_weights_and_grey_images_the_answer_of_three_channels(
    ending: str, tmp_path: Path
) -> None:
    theirs, path = weights_of("test_vit", tmp_path / "net.safetensors", dynamic_img_size=True)
    if ending == "pth":
        path = str(tmp_path / "net.pth")
        state = {f"module.{name}": value for name, value in theirs.state_dict().items()}
        torch.save({"state_dict": state, "epoch": 3}, path)
    net, _, said = build("test_vit", path, (32, 48), 1, 2)
    images = torch.randn(2, 1, 32, 48, dtype=torch.float64)
    with torch.no_grad():
        ours = net.eval().double().forward_features(images)  # type: ignore[operator]
        three = images.expand(-1, 3, -1, -1)
        close_relative(ours, theirs.double().forward_features(three), 1e-5)
        assert net(images).shape == (2, 2)
    assert said[0].startswith("slices of 32 x 48 are 2 x 3 patches of 16 x 16; embeddings of place")
    assert "each of 1 channels has the sum over 3 by 1" in said[1]


def test_networks_of_any_size_take_slices_of_all_views_and_others_their_own() -> None:
    net, _, said = build("test_vit", None, (28, 40), 1, 2)
    assert "2 x 3 patches of 16 x 16 (padded)" in said[0]
    for size in ((28, 40), (12, 40), (12, 28)):
        assert net(torch.randn(1, 1, *size)).shape == (1, 2)
    net, _, said = build(
        "swin_tiny_patch4_window7_224(embed_dim=12, depths=(1, 1, 1, 1))", None, (64, 64), 1, 2
    )
    assert said[0] == "built for slices of 64 x 64"
    assert net(torch.randn(1, 1, 64, 64)).shape == (1, 2)
    net, _, said = build("test_resnet", None, (28, 40), 3, 5)
    assert len(said) == 1 and "5 classes" in said[0]
    assert net(torch.randn(1, 3, 28, 40)).shape == (1, 5)


def test_what_was_asked_for_in_brackets_stays() -> None:
    net, _, said = build("test_vit(dynamic_img_size=False, img_size=32)", None, (28, 28), 1, 2)
    assert not any("slices of" in sentence for sentence in said)
    assert net(torch.randn(1, 1, 32, 32)).shape == (1, 2)


def test_a_folder_holds_a_network_and_its_weights(tmp_path: Path) -> None:
    theirs, _ = weights_of("test_resnet", tmp_path / "model.safetensors", num_classes=7)
    config = {"architecture": "test_resnet", "num_classes": 7, "pretrained_cfg": {"num_classes": 7}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    net, _, _ = build(f"local-dir:{tmp_path}", timm_networks.FROM_TIMM, (28, 28), 3, 2)
    images = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        ours = net.eval().forward_features(images)  # type: ignore[operator]
        torch.testing.assert_close(ours, theirs.forward_features(images))


def test_statistics_are_means_over_the_channels() -> None:
    mean, std = statistics(build("test_resnet", None, (28, 28), 1, 2)[0])
    known: Any = timm.create_model("test_resnet").pretrained_cfg
    assert mean == pytest.approx(sum(known["mean"]) / 3)
    assert std == pytest.approx(sum(known["std"]) / 3)


def _of_another(path: Path) -> str:
    return weights_of("test_vit2", path / "net.safetensors")[1]


def _of_crossd(path: Path) -> str:
    config = crossd.WeightsConfig("resnet-small", "classification", 1, ("a", "b"))
    crossd.save(config.build(), path / "ours.safetensors", config)
    return str(path / "ours.safetensors")


def _of_two(path: Path) -> str:
    state = nn.Linear(2, 2).state_dict()
    torch.save({"model": state, "ema": state}, path / "two.pth")
    return str(path / "two.pth")


def _of_none(path: Path) -> str:
    torch.save({"epoch": 3}, path / "none.pth")
    return str(path / "none.pth")


def _of_text(path: Path) -> str:
    (path / "text.pth").write_text("no weights")
    return str(path / "text.pth")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            _of_another,
            r"does not fit test_vit: (size mismatch for|Missing key)",
        ),
        (_of_crossd, r"ours.safetensors is a weights file of crossd: give it as --weights"),
        (_of_two, r"holds the weights of several networks \(model, ema\)"),
        (_of_none, r"none.pth is not a checkpoint: it holds no tensor"),
        (_of_text, r"text.pth is not a checkpoint of tensors"),
        (lambda path: str(path / "gone.pth"), r"no such file: .*gone.pth"),
    ],
)
def test_other_files_are_refused_in_a_line(
    make: Callable[[Path], str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        build("test_vit", make(tmp_path), (32, 32), 1, 2)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("resnet1", None, r"no model called 'resnet1': did you mean"),
        ("monai:SegResNet", None, r"monai:SegResNet is no network of timm's"),
        ("test_vit(deep=3)", None, r"cannot be made of \{'deep': 3\}.*unexpected keyword"),
        ("test_vit(", None, r"no model called"),
        (
            "hf-hub:nobody/nothing",
            None,
            r"nobody/nothing cannot be fetched .*--pretrained FILE",
        ),
        (
            "test_vit",
            timm_networks.FROM_TIMM,
            r"test_vit cannot be fetched .*--pretrained FILE",
        ),
        ("local-dir:/nowhere", None, r"local-dir:/nowhere cannot be fetched"),
    ],
)
def test_other_names_and_an_unreachable_hub_are_refused_in_a_line(
    name: str, weights: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=message) as caught:
        build(name, weights, (32, 32), 1, 2)
    assert "\n" not in str(caught.value)


def test_a_network_without_weights_is_not_left_random() -> None:
    bare = "vit_base_patch8_224(pretrained_cfg_overlay={'hf_hub_id': None, 'url': ''}, depth=1)"
    with pytest.raises(InputError, match=r"timm has no weights of .*: leave --pretrained out"):
        build(bare, timm_networks.FROM_TIMM, (32, 32), 1, 2)
