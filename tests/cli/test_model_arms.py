"""`crossd evaluate --model`: a network of timm's, its ways to volumes, and what is refused."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from files import npz
from safetensors.torch import save_file

from crossd.cli import command_line as cli
from crossd.cli.model_arms import open_model, require_answers
from crossd.cli.options import EvaluateConfig
from crossd.utils.progress import Progress

SMALL = "test_vit(depth=3, embed_dim=24, num_heads=2)"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return npz(tmp_path_factory.mktemp("data") / "volumes.npz", (20, 24, 28))


@pytest.mark.slow
def test_the_command_of_the_docs_from_start_to_end(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = timm.create_model("test_vit")
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    out, cache = tmp_path / "out", tmp_path / "cache"
    options = ["--data", data, "--model", "test_vit", "--arms", "slices,volume,cycle"]
    options += ["--pretrained", str(tmp_path / "net.safetensors"), "--cache", str(cache)]
    options += ["--protocol", "knn,linear,finetune", "--epochs", "1", "--workers", "1"]
    assert cli.main(["evaluate", *options, "--out", str(out)]) == 0
    told = capsys.readouterr()
    for words in (
        "with the weights of",
        "volumes of 20 x 24 x 28 are resampled to whole patches, 32 x 32 x 32",
        "slices of 32 x 32 are 2 x 2 patches of 16 x 16; ",
        "embeddings of place are interpolated",
        "standardised by its own",
        "features, cycle: done",
    ):
        assert words in told.err
    results = json.loads((out / "metrics.json").read_text())
    assert results["arms"] == ["slices", "volume", "cycle"]
    assert len(results["rows"]) == 9
    sizes = {row["arm"]: row["parameters"] for row in results["rows"]}
    assert sizes["slices"] == sizes["cycle"] < sizes["volume"]
    assert not list(out.glob("features-*")) and len(list(cache.glob("features-*.prepared"))) == 3
    again = [*options[:-6], "--protocol", "knn", "--trials", "2", "--limit", "6"]
    assert cli.main(["evaluate", *again, "--workers", "1", "--out", str(tmp_path / "more")]) == 0
    assert "features, " not in capsys.readouterr().err


def opened(data: str, **options: Any) -> Any:
    config = EvaluateConfig(data, **{"model": SMALL, **options})
    return open_model(config, str(config.model), Progress(quiet=True))


def test_arms_are_of_one_network_and_the_source_is_as_its_weights_want_it(
    data: str, tmp_path: Path
) -> None:
    net = timm.create_model("test_vit", depth=3, embed_dim=24, num_heads=2)
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    contest = opened(data, pretrained=str(tmp_path / "net.safetensors"), arms="cycle,slices,center")
    assert list(contest.arms) == ["cycle", "slices", "center"]
    assert contest.statistics == ("kept", "anew")
    cfg: Any = net.pretrained_cfg
    assert contest.source.mean == pytest.approx(sum(cfg["mean"]) / 3)
    sample = contest.source.train[0]["image"]
    raw = contest.source.train.samples[0]["image"]
    assert raw.shape == (1, 32, 32, 32)
    torch.testing.assert_close(sample, (raw - contest.source.mean) / contest.source.std)
    own: Any = net
    made = (
        (contest.arms[name].make(0), next(iter(contest.arms[name].asked.values())))
        for name in ("cycle", "slices")
    )
    turned, sliced = (ask(net, "classification") for net, ask in made)
    for name, value in sliced.net.state_dict().items():
        torch.testing.assert_close(turned.state_dict()[name], value)
    torch.testing.assert_close(turned.blocks[0].mlp.fc1.weight, own.blocks[0].mlp.fc1.weight)
    assert not any(arm.answers or arm.drawn for arm in contest.arms.values())
    require_answers(contest, SMALL)
    fresh = opened(data)
    assert fresh.statistics == ("anew",) and list(fresh.arms) == ["slices", "volume", "cycle"]
    assert fresh.source.mean != contest.source.mean
    assert "with new weights" in fresh.notes[0]


def test_statistics_of_batch_norm_are_told(data: str) -> None:
    assert "BatchNorm are measured on the volumes" in opened(data, model="test_resnet").notes[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--arms", "slices,cycles"], r"--arms: unknown 'cycles'"),
        (["--arms", "scratch"], r"--arms: unknown 'scratch'"),
        (["--protocol", "zero"], r"--protocol zero trains nothing.*add knn, linear or finetune"),
        (["--protocol", "nearest"], r"--protocol: unknown 'nearest'"),
        (["--baselines", "slices"], r"--baselines is for --weights: leave it out beside --model"),
        (["--weights", "x.safetensors"], r"starts from --weights or from --model: give one"),
        (["--part", "val"], r"--part is not for a comparison"),
        (["--pretrained", "gone.pth"], r"no such file: gone.pth"),
        (["--model", "resnet_18"], r"no model called 'resnet_18': did you mean"),
        (
            ["--model", "mixer_s32_224", "--arms", "cycle", "--size", "32"],
            r"cannot cycle .*cycle knows",
        ),
        (["--model", "test_convnext"], r"test_convnext \(slices\) cannot take .* larger --size"),
        (["--data", "brain:8"], r"--model is a network for labels, but brain:8 has masks"),
        (["--limit", "99"], r"--limit 99: .* has 12 training samples"),
    ],
)
def test_what_does_not_go_together(
    options: list[str], message: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["evaluate", "--data", data, "--model", SMALL, "--out", str(tmp_path / "out")]
    assert cli.main([*base, *options]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(message, error), error
    assert not (tmp_path / "out").exists()


def test_options_of_a_model_need_one(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    for option in (["--pretrained"], ["--arms", "cycle"]):
        assert cli.main(["evaluate", "--data", data, "--weights", "a.safetensors", *option]) == 2
        assert f"{option[0]} is for a comparison: give --model" in capsys.readouterr().err
        more = ["--protocol", "knn"]
        assert cli.main(["evaluate", "--data", data, "--weights", "a", *option, *more]) == 2
        assert f"{option[0]} is for --model" in capsys.readouterr().err


def test_images_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = npz(tmp_path / "images.npz", (24, 28))
    assert cli.main(["evaluate", "--data", images, "--model", SMALL]) == 2
    assert "--data" in capsys.readouterr().err
