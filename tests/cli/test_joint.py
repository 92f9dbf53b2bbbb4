"""Joint training: batches in turn, statistics apart, classes of their own."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from files import npz

import crossd
from crossd.cli import command_line as cli
from crossd.conversion import registry
from crossd.conversion.convert import convert
from crossd.data.opening import open_source
from crossd.training import batches as training_batches
from crossd.training import devices, loop
from crossd.weights.weights_file import read_config

QUICK = ["--epochs", "2", "--batch-size", "8", "--volume-batch-size", "4"]


@pytest.fixture
def data(tmp_path: Path) -> tuple[str, str]:
    return npz(tmp_path / "images.npz", (8, 8)), npz(tmp_path / "volumes.npz", (8, 8, 8))


def joint(images: str, volumes: str, out: Path, *more: str) -> int:
    given = ["--images", images, "--volumes", volumes, "--out", str(out)]
    return cli.main(["joint", *given, *QUICK, *more])


def test_it_trains_one_network_and_writes_it(data: tuple[str, str], tmp_path: Path) -> None:
    assert joint(*data, tmp_path / "out") == 0
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found["command"] == "joint" and found["metrics"]["accuracy"] > 0.6
    assert all({"loss", "loss_2d", "val"} <= record.keys() for record in found["history"])
    net = crossd.load(tmp_path / "out" / "weights.safetensors")
    assert net(torch.zeros(2, 1, 8, 8)).shape == net(torch.zeros(2, 1, 8, 8, 8)).shape == (2, 2)


def test_other_classes_have_rows_of_their_own(
    data: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = npz(tmp_path / "three.npz", (8, 8), classes=3)
    assert joint(images, data[1], tmp_path / "out") == 0
    said = " ".join(capsys.readouterr().err.split())
    assert f"{images} and {data[1]} have other classes: the network learns the 2 of the vol" in said
    assert "the 3 of the images by outputs of their own; 0, 1 of both are learnt apart" in said
    weights = read_config(tmp_path / "out" / "weights.safetensors")
    assert weights.classes == ("0", "1")
    net = crossd.load(tmp_path / "out" / "weights.safetensors")
    assert net(torch.zeros(2, 1, 8, 8, 8)).shape == (2, 2)


@pytest.mark.slow
def test_slices_of_the_same_volumes_and_weights_to_start_from(
    data: tuple[str, str], tmp_path: Path
) -> None:
    assert joint(data[1], data[1], tmp_path / "one", "--limit", "4") == 0
    weights = str(tmp_path / "one" / "weights.safetensors")
    assert joint(data[1], data[1], tmp_path / "two", "--weights", weights) == 0


@pytest.mark.slow
def test_batches_alternate_and_statistics_are_kept_apart(
    data: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, volumes = (open_source(path) for path in data)
    net: Any = convert(registry.build("resnet-small", "classification", 1, 2))
    ranks: list[int] = []
    net.register_forward_pre_hook(lambda _, given: ranks.append(given[0].dim()))
    config = loop.TrainConfig(epochs=1, batch_size=4, augment="none")
    loop.fit(net, volumes, config, beside=[(images, config)], validate=False)
    assert ranks == [5, 4] * 3
    assert net[1].num_batches_tracked == 3  # of volumes alone

    seen: list[int] = []
    alone: Any = convert(registry.build("resnet-small", "classification", 1, 2))
    alone.register_forward_pre_hook(lambda _, given: seen.append(given[0].dim()))
    loop.fit(alone, volumes, config, validate=False)
    assert seen == [5] * 3 and alone[1].num_batches_tracked == 3


def test_a_short_source_is_passed_through_again(data: tuple[str, str]) -> None:
    images, volumes = (open_source(path) for path in data)
    net: Any = convert(registry.build("resnet-small", "classification", 1, 2))
    feed = training_batches.Feed(volumes, loop.TrainConfig(batch_size=8), net)
    assert len(feed.loader) == 2
    batches = list(feed.take(0, 5))
    assert len(batches) == 5
    labels = [piece.batch["label"].tolist() for piece in batches]
    assert sorted(labels[0] + labels[1]) == sorted(labels[2] + labels[3])
    again = [piece.batch["label"].tolist() for piece in feed.take(0, 5)]
    assert again == labels
    config = loop.TrainConfig(epochs=2, batch_size=2, augment="none")
    fit = loop.fit(net, volumes, loop.TrainConfig(epochs=2, batch_size=8),
                    beside=[(images, config)], validate=False)  # fmt: skip
    assert len(fit.history) == 2


@pytest.mark.slow
def test_interrupted_and_resumed_it_is_the_same(data: tuple[str, str], tmp_path: Path) -> None:
    images, volumes = (open_source(path) for path in data)

    def trained(folder: Path, epochs: int, resume: bool = False) -> Any:
        folder.mkdir(exist_ok=True)
        devices.seed_everything(0)
        net = convert(registry.build("resnet-small", "classification", 1, 2))
        config = loop.TrainConfig(epochs=3, batch_size=4)

        def stop(epoch: int, _: int) -> None:
            if epoch == epochs:
                raise KeyboardInterrupt

        beside = [(images, config)]
        try:
            loop.fit(
                net, volumes, config, beside=beside, folder=folder, resume=resume, on_epoch=stop
            )
        except KeyboardInterrupt:
            return None
        return net.state_dict()

    whole = trained(tmp_path / "whole", 9)
    assert trained(tmp_path / "parts", 1) is None
    parts = trained(tmp_path / "parts", 9, resume=True)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"volumes": "IMAGES"}, "3D volumes are needed"),
        ({"images": "brain:8"}, "both must have labels"),
        ({"weights": "PLAIN"}, "takes one rank only"),
        ({"weights": "PLAIN", "model": "resnet18"}, "--model is for a new network"),
        ({"kernel_mode": "none"}, "--kernel-mode"),
        ({"slices": "axial"}, "--slices is for volumes"),
    ],
)
def test_what_does_not_go_together(
    change: dict[str, str],
    message: str,
    data: tuple[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = {"images": data[0], "volumes": data[1], "out": str(tmp_path / "out"), **change}
    if given.get("weights"):
        out = str(tmp_path / "plain")
        options = ["--data", data[0], "--epochs", "1", "--kernel-mode", "none", "--out", out]
        assert cli.main(["pretrain", *options]) == 0
        given["weights"] = f"{out}/weights.safetensors"
    given = {name: data[0] if value == "IMAGES" else value for name, value in given.items()}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    assert cli.main(["joint", *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
