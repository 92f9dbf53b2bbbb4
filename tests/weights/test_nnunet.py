"""Checkpoints of nnU-Net, written for it and read from it."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data.preprocessing.test_nnunet_plans import architecture, changed, plans
from files import message, pairs
from helpers import randomize, some

from crossd.cli.convert import convert
from crossd.cli.options import ConvertConfig, PretrainConfig
from crossd.cli.pretrain import pretrain
from crossd.data.preprocessing import nnunet_plans
from crossd.utils.progress import Progress
from crossd.weights.weights_file import load, read_config, save

QUIET = Progress(quiet=True)


def theirs(made: Any, deep: bool = False, classes: int = 3) -> torch.nn.Module:
    """Build the network by nnU-Net, every parameter moved."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    net: torch.nn.Module = get_network_from_plans(
        made["network_class_name"],
        made["arch_kwargs"],
        made["_kw_requires_import"],
        1,
        classes,
        deep_supervision=deep,
    )
    with torch.no_grad():
        randomize(net)
        for parameter in net.parameters():
            parameter.mul_(0.3)
    return net.eval()


def checkpoint(path: Path, net: torch.nn.Module, **more: Any) -> Path:
    """Write what nnU-Net's trainer writes, its history in numbers of numpy."""
    content = {
        "network_weights": net.state_dict(),
        "optimizer_state": {"state": {}, "param_groups": [{"lr": np.float64(0.01)}]},
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.5)], "ema_fg_dice": [np.float32(0.25)]},
        "_best_ema": np.float64(0.5),
        "current_epoch": 3,
        "init_args": {"configuration": "3d_fullres", "device": torch.device("cpu"), "fold": 0},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
        **more,
    }
    torch.save(content, path)
    return path


def brought(tmp_path: Path, model: str, source: Path) -> Path:
    out = tmp_path / "back.safetensors"
    convert(ConvertConfig(str(source), out=str(out), model=model, overwrite=True), QUIET)
    return out


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("deep", [False, True])
def test_a_trained_network_answers_as_it_did(tmp_path: Path, residual: bool, deep: bool) -> None:
    made = architecture(residual)
    model = plans(tmp_path, architecture=made)
    net = theirs(made, deep)
    out = brought(tmp_path, model, checkpoint(tmp_path / "c.pth", net))
    ours = load(out)
    x = torch.randn(2, 1, 8, 12, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = net(x)
        torch.testing.assert_close(ours(x), wanted[0] if deep else wanted)
        assert ours(x[:, :, 0]).shape == (2, 3, 12, 16)
    config = read_config(out)
    assert config.classes == ("background", "liver", "tumour") and config.ignore == 3
    assert config.plan is not None and (config.mean, config.std) == (0, 1)


def other(content: Any, **changes: Any) -> None:
    content["configurations"]["3d_fullres"].update(changes)


@pytest.mark.parametrize(
    ("file", "change", "text"),
    [
        (
            "plans.json",
            lambda p: other(p, spacing=[3, 3, 3]),
            r"spacing is \[2.0, 1.0",
        ),
        ("plans.json", lambda p: p.update(transpose_forward=[1, 0, 2]), "axes is"),
        ("plans.json", lambda p: other(p, use_mask_for_norm=[True]), "intensity is .* 'box'"),
        (
            "dataset.json",
            lambda d: d.update(labels={"background": 0, "tumour": 1, "liver": 2, "ignore": 3}),
            "labels is",
        ),
    ],
)
def test_a_checkpoint_that_tells_of_other_plans_is_refused(
    tmp_path: Path, file: str, change: Any, text: str
) -> None:
    """Nothing of this shows in its tensors, which fit."""
    made = architecture()
    model = plans(tmp_path, architecture=made)
    content, data = (json.loads((tmp_path / f).read_text()) for f in ("plans.json", "dataset.json"))
    init = {"plans": content, "dataset_json": data, "configuration": "3d_fullres"}
    source = checkpoint(tmp_path / "c.pth", theirs(made), init_args=init)
    brought(tmp_path, model, source)
    low = message(lambda: brought(tmp_path, f"{model}:3d_lowres", source))
    assert "was trained with other plans (3d_fullres): spacing is [2.0, 1.0, 0.5] there" in low
    changed(tmp_path, file, change)
    said = message(lambda: brought(tmp_path, model, source))
    assert re.search(text, said) and "was trained with other plans" in said


def test_all_of_the_network_must_be_there(tmp_path: Path) -> None:
    """No class may start anew and no channel be shared, as with networks of others."""
    made = architecture()
    net = theirs(made, classes=4)
    model = plans(tmp_path, architecture=made)
    text = message(lambda: brought(tmp_path, model, checkpoint(tmp_path / "c.pth", net)))
    assert "'decoder.seg_layers.0.weight' (4, 8, 1, 1, 1), expected (3, 8, 1, 1, 1)" in text
    assert "allow_partial" not in text
    source = checkpoint(tmp_path / "c.pth", theirs(made))
    two = {"normalization_schemes": ["ZScoreNormalization"] * 2, "use_mask_for_norm": [False] * 2}
    model = plans(tmp_path, architecture=made, **two)
    changed(tmp_path, "dataset.json", lambda d: d.update(channel_names={"0": "T1", "1": "T2"}))
    text = message(lambda: brought(tmp_path, model, source))
    assert "'encoder.stages.0.0.convs.0.conv.weight' (4, 1, 1, 3, 3), expected (4, 2, " in text


@pytest.mark.parametrize("mode", some(["projection", "fourier"], ["projection"]))
def test_nnunet_takes_what_was_trained(tmp_path: Path, mode: str) -> None:
    """By its own function for pretrained weights, all but the segmentation layers."""
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

    made = architecture()
    config = nnunet_plans.read(plans(tmp_path, architecture=made))
    source = brought(
        tmp_path, f"nnunet:{config.path}", checkpoint(tmp_path / "c.pth", theirs(made))
    )
    if mode == "fourier":
        told = ConvertConfig(
            str(tmp_path / "c.pth"),
            out=str(source),
            model=f"nnunet:{config.path}",
            kernel_mode=mode,
            overwrite=True,
        )
        convert(told, QUIET)
    ours = load(source)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.01)
    save(ours, source)
    out = tmp_path / "start.pth"
    said = convert(ConvertConfig(str(source), "nnunet", str(out)), QUIET)
    assert "3d_fullres" in said
    net = theirs(made, deep=True)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    load_pretrained_weights(net, str(out))
    state = dict(ours.state_dict())
    for name, tensor in net.state_dict().items():
        wanted = before[name] if ".seg_layers." in name else state.get(name)
        assert wanted is not None, name
        if mode == "projection":
            torch.testing.assert_close(tensor, wanted)
    assert "exists already" in message(
        lambda: convert(ConvertConfig(str(source), "nnunet", str(out)), QUIET)
    )


def test_what_cannot_be_taken_is_refused(tmp_path: Path) -> None:
    made = architecture()
    model = plans(tmp_path, architecture=made)
    other = architecture(kernels=[[3, 3, 3]] * 3)
    source = checkpoint(tmp_path / "c.pth", theirs(other))
    text = message(lambda: brought(tmp_path, model, source))
    assert "encoder.stages.0" in text and "expected" in text
    unsafe = checkpoint(tmp_path / "c.pth", theirs(made), plans=Path("plans.json"))
    text = message(lambda: brought(tmp_path, model, unsafe))
    assert "pathlib" in text and "save its state dict alone" in text
    drawing = checkpoint(tmp_path / "c.pth", theirs(made), rng=np.random.default_rng(0))
    text = message(lambda: brought(tmp_path, model, drawing))
    assert "numpy.random" in text and "save its state dict alone" in text
    diverged = theirs(made)
    next(diverged.parameters()).data.fill_(float("nan"))
    text = message(lambda: brought(tmp_path, model, checkpoint(tmp_path / "c.pth", diverged)))
    assert "'encoder.stages.0.0.convs.0.conv.weight' holds what is not a number" in text
    out = tmp_path / "out.pth"
    small = tmp_path / "small.safetensors"
    from crossd.weights.weights_file import WeightsConfig

    plain = WeightsConfig("resnet-small", "classification", 1, ("a", "b"))
    save(plain.build(), small, plain)
    text = message(lambda: convert(ConvertConfig(str(small), "nnunet", str(out)), QUIET))
    assert "none of nnU-Net" in text and not out.exists()


def test_slices_train_the_network_of_plans(tmp_path: Path) -> None:
    data = pairs(tmp_path / "data", 6, (14, 18, 10))
    model = plans(tmp_path / "plans")
    told = PretrainConfig(
        data=str(data), model=model, epochs=1, batch_size=4, out=str(tmp_path / "run")
    )
    pretrain(told, QUIET)
    config = read_config(tmp_path / "run" / "weights.safetensors")
    assert config.classes == ("background", "liver", "tumour")
    assert config.size[0] % 4 == 0 and config.plan is not None
    assert config.plan["axes"] == [2, 1, 0] and (config.mean, config.std) == (0, 1)
    assert convert(
        ConvertConfig(
            str(tmp_path / "run" / "weights.safetensors"), "nnunet", str(tmp_path / "s.pth")
        ),
        QUIET,
    )
