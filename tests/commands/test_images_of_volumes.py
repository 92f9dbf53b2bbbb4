"""Networks that were trained on slices of volumes, asked about images."""

from pathlib import Path

import files
import numpy as np
import pytest
import torch
from PIL import Image

from crossd.cli.opening import as_trained
from crossd.cli.options import EvaluateConfig, PredictConfig, PretrainConfig, RecalibrateConfig
from crossd.cli.predict import predict
from crossd.cli.pretrain import pretrain
from crossd.cli.recalibrate import recalibrate
from crossd.errors import InputError
from crossd.utils.progress import Progress
from crossd.weights.weights_file import WeightsConfig, load, read_config, save

QUIET = Progress(quiet=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    data = files.pairs(folder / "data", 5, (16, 16, 16))
    told = PretrainConfig(data=str(data), epochs=1, batch_size=8, out=str(folder / "run"))
    pretrain(told, QUIET)
    return folder / "run" / "weights.safetensors"


def pictures(folder: Path) -> Path:
    """Write images of 8 bits with masks: slices of volumes that the network did not see."""
    for seed in range(4):
        image, mask = files.scan((16, 16, 16), seed=40 + seed)
        grey = (np.clip((image[:, :, 8] + 20) / 400, 0, 1) * 255).astype(np.uint8)
        for kind, array in (("images", grey), ("labels", mask[:, :, 8])):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(folder / kind / f"{seed}.png")
    return folder


def scaled(path: Path) -> torch.Tensor:
    """Scale an image as the plan scales volumes, step by step."""
    x = np.asarray(Image.open(path), np.float64) / 255
    x = x.clip(*np.percentile(x, (0.5, 99.5)))
    return torch.from_numpy((x - x.mean()) / x.std()).float()[None, None]


def test_images_are_scaled_as_volumes_were(trained: Path, tmp_path: Path) -> None:
    """By predict and by what evaluate opens, and unlike what the values of the file are."""
    data = pictures(tmp_path / "data")
    net, weights = load(trained), read_config(trained)
    assert weights.plan is not None and weights.size == (16, 16)
    predict(PredictConfig(str(trained), [str(data / "images")], out=str(tmp_path / "out")), QUIET)
    told = EvaluateConfig(data=str(data), weights=str(trained), part="train")
    source = as_trained(told, weights, QUIET)
    assert source.plan is not None
    seen = {source.train.case(i): source.train[i]["image"] for i in range(len(source.train))}
    for path in sorted((data / "images").iterdir()):
        x = (scaled(path) - weights.mean) / weights.std
        with torch.no_grad():
            wanted = net(x).argmax(1)[0]
        found = np.asarray(Image.open(tmp_path / "out" / path.name))
        np.testing.assert_array_equal(found, wanted.numpy())
        own = [image for name, image in seen.items() if Path(name).stem == path.stem]
        for image in own:
            torch.testing.assert_close(image, x[0], atol=1e-5, rtol=1e-5)
    assert seen


def test_windows_of_ct_have_no_meaning_in_images(trained: Path, tmp_path: Path) -> None:
    data = pictures(tmp_path / "data")
    net, weights = load(trained), read_config(trained)
    assert weights.plan is not None
    weights.plan["intensity"] = [{"kind": "window", "low": -100, "high": 240}]
    other = tmp_path / "ct.safetensors"
    save(net, other, weights)
    with pytest.raises(
        InputError,
        match=r"0.png: holds values from 0 to 1, but the plan takes .*\(from -100 to 240",
    ):
        predict(PredictConfig(str(other), [str(data / "images")], out=str(tmp_path / "o")), QUIET)
    with pytest.raises(InputError, match=r"holds values from 0 to 1, but the plan takes"):
        source = as_trained(EvaluateConfig(data=str(data), weights=str(other)), weights, QUIET)
        _ = source.test[0]


def test_volumes_of_arrays_are_scaled_as_files_were(tmp_path: Path) -> None:
    """Their slices too; and a network of CT is not told values that it does not know."""
    data = files.npz(tmp_path / "v.npz", (6, 7, 8))
    raw = torch.from_numpy(np.load(data)["test_images"]).float()
    one = [1.0, 1.0, 1.0]
    for kind, low, high in (("z-score", 0.0, 100.0), ("window", -100.0, 240.0)):
        plan = {
            "spacing": one,
            "patch": [8, 8, 8],
            "intensity": [dict(kind=kind, low=low, high=high)],
        }
        weights = WeightsConfig(
            "resnet-small", "classification", 1, ("0", "1"), size=(8, 8), plan=plan
        )
        told = EvaluateConfig(data=data, weights=str(tmp_path / "w.safetensors"))
        save(weights.build(), told.weights or "", weights)
        if kind == "window":
            with pytest.raises(InputError, match=r"values from 0 to 1, .*\(from -100 to 240"):
                as_trained(told, weights, QUIET)
            again = RecalibrateConfig(str(told.weights), str(tmp_path / "o.safetensors"), data)
            with pytest.raises(InputError, match="holds values from 0 to 1"):
                recalibrate(again, QUIET)
            continue
        source = as_trained(told, weights, QUIET)
        assert source.plan is not None
        for i in range(len(source.test)):
            wanted = (raw[i] - raw[i].mean()) / raw[i].std(unbiased=False)
            torch.testing.assert_close(source.test[i]["image"][0], wanted, atol=1e-4, rtol=1e-4)
            plane = source.test.plane(i, 1, 3)["image"][0]
            torch.testing.assert_close(plane, wanted[:, 3], atol=1e-4, rtol=1e-4)
