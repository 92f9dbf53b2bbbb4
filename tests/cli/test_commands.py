"""The commands that train, adapt and convert one network, from file to file."""

import json
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from helpers import some
from torch import nn

import crossd
from crossd.cli import command_line as cli
from crossd.cli.convert import convert
from crossd.cli.finetune import finetune
from crossd.cli.options import ConvertConfig, FinetuneConfig, PretrainConfig, RecalibrateConfig
from crossd.cli.pretrain import pretrain
from crossd.cli.recalibrate import recalibrate
from crossd.conversion import registry
from crossd.data.opening import open_source
from crossd.errors import InputError
from crossd.training import loop, validate
from crossd.utils.progress import Progress
from crossd.weights import weights_file

RNG = np.random.default_rng(0)
QUIET = Progress(quiet=True)


def npz(path: Path, shape: tuple[int, ...], classes: int = 2) -> str:
    """Write images of which each class has its own brightness."""
    made: dict[str, Any] = {}
    for part, count in (("train", 12), ("val", 6), ("test", 9)):
        labels = np.arange(count) % classes
        levels = (labels * 90).reshape(-1, *(1,) * len(shape))
        made[f"{part}_images"] = (RNG.integers(0, 60, (count, *shape)) + levels).astype(np.uint8)
        made[f"{part}_labels"] = labels.astype(np.uint8)[:, None]
    np.savez(path, **made)
    return str(path)


def pairs(root: Path, channels: int = 1, top: int = 1) -> str:
    """Write volumes with a box of the labels 1 to `top`."""
    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True)
    image_type: Any = nib.Nifti1Image
    for i in range(8):
        mask = np.zeros((8, 8, 8), np.uint8)
        mask[2:5, 2:6, 1 + i % 3 :] = 1
        mask[2:5, 2:6, 6:] = top
        image = mask[..., None] + RNG.normal(0, 0.1, (*mask.shape, channels))
        for kind, array in (("images", image.astype(np.float32).squeeze()), ("labels", mask)):
            image_type(array, np.eye(4)).to_filename(root / kind / f"{i}.nii.gz")
    return str(root)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Sources by a short name."""
    root = tmp_path_factory.mktemp("data")
    return {
        "images": npz(root / "images.npz", (8, 8)),
        "volumes": npz(root / "volumes.npz", (8, 8, 8)),
        "three": npz(root / "three.npz", (8, 8, 8), classes=3),
        "masks": pairs(root / "masks"),
        "more": pairs(root / "more", top=2),
        "two": pairs(root / "two", channels=2),
        "triple": pairs(root / "triple", channels=3),
    }


Pretrained = Callable[..., str]


@pytest.fixture(scope="module")
def pretrained(data: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Pretrained:
    """Train once for every kind of data and mode that is asked for."""
    root = tmp_path_factory.mktemp("pretrained")

    def weights(source: str = "volumes", mode: str = "projection") -> str:
        folder = root / f"{source}-{mode}"
        if not folder.exists():
            config = PretrainConfig(data=data[source], kernel_mode=mode, epochs=1, out=str(folder))
            pretrain(config, QUIET)
        return str(folder / "weights.safetensors")

    return weights


def raised(action: Callable[[], object]) -> str:
    """Return the message of the InputError, which must be one line."""
    with pytest.raises(InputError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    return message


def stops(steps: int) -> Progress:
    """Interrupt like Ctrl-C after so many steps of training."""
    progress = Progress(quiet=True)
    task = progress.task

    @contextmanager
    def stopping(name: str, total: int, done: int = 0) -> Any:
        with task(name, total, done) as bar:
            advance = bar.advance

            def count(samples: int, loss: Any = None, waited: float | None = None) -> None:
                nonlocal steps
                advance(samples, loss)
                steps -= 1
                if steps == 0:
                    raise KeyboardInterrupt

            bar.advance = count  # type: ignore[method-assign]
            yield bar

    progress.task = stopping  # type: ignore[method-assign, assignment]
    return progress


def state(path: str | Path) -> dict[str, torch.Tensor]:
    return dict(crossd.load(path).state_dict())


# --- the whole way ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "answer", "scores"),
    [("volumes", (2,), "accuracy "), ("masks", (2, 8, 8, 8), "dice ")],
)
def test_from_slices_to_volumes(
    source: str, answer: tuple[int, ...], scores: str, data: dict[str, str], tmp_path: Path
) -> None:
    spec, volume = data[source], torch.randn(3, 1, 8, 8, 8)
    config = PretrainConfig(data=spec, epochs=2, out=str(tmp_path / "2d"))
    assert scores in pretrain(config, QUIET)
    first = tmp_path / "2d" / "weights.safetensors"

    ready = tmp_path / "ready.safetensors"
    said = recalibrate(RecalibrateConfig(str(first), str(ready), data=spec), QUIET)
    assert scores in said and f"written: {ready}" in said
    if source == "volumes":
        assert "9 BatchNorm layers recalibrated on 12 unlabelled samples" in said
    else:
        assert "the network has no BatchNorm statistics: nothing to recalibrate" in said
    before = state(first)
    for name, tensor in state(ready).items():
        statistic = name.endswith(("running_mean", "running_var", "num_batches_tracked"))
        assert torch.equal(tensor, before[name]) != statistic, name

    out = tmp_path / "3d"
    tuned = FinetuneConfig(str(ready), spec, epochs=1, steps=1, limit=4, out=str(out))
    assert scores in finetune(tuned, QUIET)

    plain = tmp_path / "plain.safetensors"
    said = convert(ConvertConfig(str(out / "weights.safetensors"), "3d", str(plain)), QUIET)
    assert f"written: {plain}" in said and "tensors: " in said
    net = crossd.load(plain)
    assert not any(type(m).__module__.startswith("crossd") for m in net.modules())
    with torch.no_grad():
        assert net(volume).shape == (3, *answer)
        expected = crossd.load(out / "weights.safetensors")(volume)
        torch.testing.assert_close(net(volume), expected, rtol=1e-4, atol=1e-4)

    for folder, command in ((tmp_path / "2d", "pretrain"), (out, "finetune")):
        names = {path.name for path in folder.iterdir()}
        assert names - {"earlier.ckpt"} == {  # which one epoch has not
            *("config.yaml", "metrics.json", "report.md", "report.html", "curves.png"),
            "weights.safetensors",
            *("last.ckpt", "log.csv", "status.json", "tensorboard"),
            *(["plan.yaml"] if scores == "dice " else ["roc.png"]),
        }
        found = json.loads((folder / "metrics.json").read_text())
        assert found["command"] == command and found["history"]
        assert 0 <= found["metrics"][scores.strip()] <= 1
        assert (folder / "report.md").read_text().startswith(f"# crossd {command}: ")


def test_a_network_trained_on_slices_answers_on_volumes_before_a_label_was_seen(
    tmp_path: Path,
) -> None:
    """The classes differ by brightness, so that there is no excuse."""
    spec = npz(tmp_path / "volumes.npz", (8, 8, 8))
    pretrain(PretrainConfig(data=spec, epochs=4, out=str(tmp_path / "2d")), QUIET)
    weights, ready = tmp_path / "2d" / "weights.safetensors", tmp_path / "ready.safetensors"
    said = recalibrate(RecalibrateConfig(str(weights), str(ready), data=spec), QUIET)
    assert "9 test samples: auc 1.000, accuracy 1.000" in said
    net: Any = crossd.load(ready)
    source = open_source(spec)
    assert (net.config.mean, net.config.std) == (source.mean, source.std)
    images = torch.stack([source.test[i]["image"] for i in range(9)])
    assert source.test.labels is not None
    with torch.no_grad():
        assert net(images).argmax(1).tolist() == source.test.labels.tolist()


def test_the_best_epoch_is_what_is_scored_and_written(
    data: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[dict[str, torch.Tensor]] = []
    real = loop.fit

    def spy(net: Any, *rest: Any, **named: Any) -> Any:
        fit = real(net, *rest, **named)
        assert fit.state is not None
        kept.append(fit.state)
        with torch.no_grad():
            for parameter in net.parameters():  # as if later epochs had spoilt it
                parameter.zero_()
        return fit

    monkeypatch.setattr(loop, "fit", spy)
    config = PretrainConfig(data=data["images"], epochs=2, out=str(tmp_path / "run"))
    pretrain(config, QUIET)
    written = state(tmp_path / "run" / "weights.safetensors")
    assert all(torch.equal(written[name], tensor) for name, tensor in kept[0].items())
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    source = open_source(data["images"])
    net = crossd.load(tmp_path / "run" / "weights.safetensors")
    assert validate.score(net, source, source.test, loop.TrainConfig())[0] == found["metrics"]


def test_what_the_network_saw_last_is_how_its_input_is_scaled(
    pretrained: Pretrained, data: dict[str, str], tmp_path: Path
) -> None:
    other = npz(tmp_path / "dark.npz", (8, 8, 8), classes=3)
    source, ready = open_source(other), tmp_path / "ready.safetensors"
    assert source.mean != weights_file.read_config(pretrained()).mean
    recalibrate(RecalibrateConfig(pretrained(), str(ready), data=other), QUIET)
    tuned = FinetuneConfig(pretrained(), other, epochs=1, steps=1, out=str(tmp_path / "run"))
    finetune(tuned, QUIET)
    for path in (ready, tmp_path / "run" / "weights.safetensors"):
        config = weights_file.read_config(path)
        assert (config.mean, config.std) == (source.mean, source.std)
    assert config.classes == ("0", "1", "2") and config.size == (8, 8, 8)


def test_the_options_are_written_beside_the_result(data: dict[str, str], tmp_path: Path) -> None:
    config = PretrainConfig(data=data["images"], epochs=1, seed=7, out=str(tmp_path / "run"))
    pretrain(config, QUIET)
    assert PretrainConfig(**yaml.safe_load((tmp_path / "run/config.yaml").read_text())) == config
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert found["config"]["seed"] == 7 and found["versions"]["torch"]


@pytest.mark.parametrize(
    "mode", some(["projection", "slice", "fourier", "none"], ["projection", "none"])
)
def test_every_kernel_mode(mode: str, pretrained: Pretrained, tmp_path: Path) -> None:
    path = pretrained("images", mode)
    config: Any = crossd.load(path).config
    assert config.form == ("2d" if mode == "none" else "cross")
    assert mode in ("none", config.kernel_mode)
    if mode == "none":
        assert "written" in convert(
            ConvertConfig(path, "cross", str(tmp_path / "cross.safetensors")), QUIET
        )
        path = str(tmp_path / "cross.safetensors")
    with torch.no_grad():
        assert crossd.load(path)(torch.zeros(1, 1, 8, 8, 8)).shape == (1, 2)
    assert "written" in convert(ConvertConfig(path, "2d", str(tmp_path / "p.safetensors")), QUIET)
    assert type(crossd.load(tmp_path / "p.safetensors")[0]) is nn.Conv2d  # type: ignore[index]


@pytest.mark.slow
def test_lifts_differ_where_training_starts(data: dict[str, str], tmp_path: Path) -> None:
    found = []
    for lift in ("center", "inflate", "triplanar", "none"):
        out = str(tmp_path / lift)
        pretrain(PretrainConfig(data["images"], lift=lift, epochs=1, lr=1e-9, out=out), QUIET)
        found.append(state(tmp_path / lift / "weights.safetensors")["0.weight"])
    center, inflate, triplanar, fresh = found
    assert float(center[:, :, 0].abs().max()) < 1e-6 < float(center[:, :, 1].abs().max())
    torch.testing.assert_close(inflate[:, :, 0], center[:, :, 1] / 3, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(triplanar, center) and float(fresh[:, :, 0].abs().max()) > 0.01


@pytest.mark.slow
def test_limits_count_volumes(data: dict[str, str], tmp_path: Path) -> None:
    class Counting(Progress):
        total = 0

        def task(self, name: str, total: int | None, done: int = 0) -> Any:
            self.total = total or 0
            return super().task(name, total, done)

    progress = Counting(quiet=True)
    config = PretrainConfig(
        data["volumes"], limit=4, epochs=1, batch_size=1, out=str(tmp_path / "a")
    )
    pretrain(config, progress)
    assert progress.total == 4 * 9  # three slices in three views
    one = replace(config, slices="axial", slice_step=2, out=str(tmp_path / "b"))
    pretrain(one, progress)
    assert progress.total == 4 * 4


@pytest.mark.parametrize(("start", "source"), [("volumes", "images"), ("volumes", "three")])
def test_training_on_images_goes_on_from_weights(
    start: str, source: str, pretrained: Pretrained, data: dict[str, str], tmp_path: Path
) -> None:
    config = PretrainConfig(
        data=data[source], weights=pretrained(start), epochs=1, lr=1e-12, out=str(tmp_path / "run")
    )
    pretrain(config, QUIET)
    before, after = state(pretrained(start)), state(tmp_path / "run" / "weights.safetensors")
    same = {name for name, tensor in before.items() if tensor.shape == after[name].shape}
    assert len(before) - len(same) == (2 if source == "three" else 0)  # the last layer
    for name in same:
        if "running" not in name and "num_batches" not in name:  # BatchNorm sees the new images
            torch.testing.assert_close(after[name], before[name])
    weights = weights_file.read_config(tmp_path / "run" / "weights.safetensors")
    assert weights.form == "cross" and weights.answer == "both" and not weights.recalibrated


def test_going_on_refuses(pretrained: Pretrained, data: dict[str, str], tmp_path: Path) -> None:
    config = PretrainConfig(data=data["images"], weights=pretrained(), out=str(tmp_path / "run"))

    def words(**change: Any) -> str:
        return raised(lambda: pretrain(replace(config, **change), QUIET))

    plain = str(tmp_path / "plain.safetensors")
    convert(ConvertConfig(pretrained(), "3d", plain), QUIET)
    assert "a plain 3d network takes one rank only" in words(weights=plain)
    assert words(model="resnet18") == "--model is for a new network: leave out --weights"
    assert words(kernel_mode="slice").startswith("--kernel-mode is for a new network")
    assert words(lift="inflate").startswith("--lift is for a new network")
    assert "is for classification, but" in words(data=data["masks"])
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_finetuning_for_other_classes(
    pretrained: Pretrained, data: dict[str, str], tmp_path: Path
) -> None:
    for source, other, classes in (("volumes", "three", 3), ("masks", "more", 3)):
        out = tmp_path / other
        config = FinetuneConfig(
            pretrained(source), data[other], epochs=1, steps=1, out=str(out), protocol="probe"
        )
        finetune(config, QUIET)
        net = crossd.load(out / "weights.safetensors")
        with torch.no_grad():
            assert net(torch.zeros(1, 1, 8, 8, 8)).shape[1] == classes
        said = recalibrate(
            RecalibrateConfig(
                pretrained(source), str(tmp_path / f"{other}.safetensors"), data=data[other]
            ),
            QUIET,
        )
        assert f"{data[other]} has other classes than the network: not scored" in said


def test_probing_keeps_the_convolutions(
    pretrained: Pretrained, data: dict[str, str], tmp_path: Path
) -> None:
    before = crossd.load(pretrained())
    for protocol in ("probe", "finetune"):
        config = FinetuneConfig(
            pretrained(), data["volumes"], protocol, epochs=1, steps=2, out=str(tmp_path / protocol)
        )
        finetune(config, QUIET)
        after = crossd.load(tmp_path / protocol / "weights.safetensors")
        same = torch.equal(after[0].weight, before[0].weight)  # type: ignore[index]
        assert same == (protocol == "probe")
        assert not torch.equal(after[1].weight, before[1].weight)  # type: ignore[index]


def test_finetuning_on_images(pretrained: Pretrained, data: dict[str, str], tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    config = FinetuneConfig(pretrained(), data["images"], epochs=1, steps=1, out=out)
    assert "9 test samples" in finetune(config, QUIET)


@pytest.mark.slow
def test_alignment_is_for_the_fourier_mode_on_volumes(
    pretrained: Pretrained, data: dict[str, str], tmp_path: Path
) -> None:
    fourier, out = pretrained("volumes", "fourier"), str(tmp_path / "run")
    config = FinetuneConfig(fourier, data["volumes"], align=True, epochs=1, steps=1, out=out)
    finetune(config, QUIET)
    tuned: Any = crossd.load(Path(out) / "weights.safetensors")
    assert tuned.config.form == "3d"
    aligned, raw = (tmp_path / f"{name}.safetensors" for name in ("aligned", "raw"))
    convert(ConvertConfig(fourier, "3d", str(aligned), align=True), QUIET)
    convert(ConvertConfig(fourier, "3d", str(raw)), QUIET)
    assert not torch.equal(state(aligned)["0.weight"], state(raw)["0.weight"])

    def words(weights: str, source: str) -> str:
        config = FinetuneConfig(weights, data[source], align=True, out=str(tmp_path / "no"))
        return raised(lambda: finetune(config, QUIET))

    assert "not for projection" in words(pretrained(), "volumes")
    assert "not for a 3d network" in words(str(raw), "volumes")
    assert "--align is for volumes, but" in words(fourier, "images")
    away = ConvertConfig(fourier, "2d", str(tmp_path / "no.safetensors"), align=True)
    assert "align" in raised(lambda: convert(away, QUIET))


# --- interruptions ------------------------------------------------------------------------------


@pytest.mark.slow
def test_interrupted_and_resumed_equals_undisturbed(data: dict[str, str], tmp_path: Path) -> None:
    config = PretrainConfig(data["volumes"], epochs=3, batch_size=16, out=str(tmp_path / "whole"))
    pretrain(config, QUIET)
    parts = replace(config, out=str(tmp_path / "parts"))
    with pytest.raises(KeyboardInterrupt):
        pretrain(parts, stops(10))  # nine batches an epoch
    assert (tmp_path / "parts" / "last.ckpt").is_file()
    assert not (tmp_path / "parts" / "metrics.json").exists()
    assert "holds a run that did not end" in raised(lambda: pretrain(parts, QUIET))
    other = replace(parts, resume=True, lr=0.5)
    assert "was started with other options (lr not given, now 0.5)" in raised(
        lambda: pretrain(other, QUIET)
    )
    pretrain(replace(parts, resume=True, workers=0), QUIET)
    first, second = (state(tmp_path / name / "weights.safetensors") for name in ("whole", "parts"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert "already holds a result" in raised(lambda: pretrain(replace(parts, resume=True), QUIET))


def test_resuming_starts_goes_on_and_ends(
    data: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scripts of clusters pass --resume always."""
    config = PretrainConfig(data["images"], epochs=2, out=str(tmp_path / "run"), resume=True)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config, stops(1))
    given = ["pretrain", "--data", data["images"], "--epochs", "2", "--out", config.out, "--resume"]
    assert cli.main(given) == 0
    before = (tmp_path / "run" / "weights.safetensors").stat().st_mtime_ns
    assert "already finished" not in capsys.readouterr().out
    assert cli.main(given) == 0
    assert f"already finished: the result is in {config.out}" in capsys.readouterr().out
    assert (tmp_path / "run" / "weights.safetensors").stat().st_mtime_ns == before
    assert cli.main([*given, "--seed", "3"]) == 2
    assert "was started with other options (seed 0, now " in capsys.readouterr().err


@pytest.mark.slow
def test_what_is_overwritten_is_never_resumed(data: dict[str, str], tmp_path: Path) -> None:
    config = PretrainConfig(data["images"], epochs=2, out=str(tmp_path / "run"))
    pretrain(config, QUIET)
    anew = replace(config, overwrite=True, seed=3)
    with pytest.raises(KeyboardInterrupt):
        pretrain(anew, stops(1))
    seeds = pretrain(replace(anew, resume=True), QUIET)  # from nothing
    alone = pretrain(replace(anew, overwrite=False, out=str(tmp_path / "alone")), QUIET)
    assert seeds.splitlines()[0] == alone.splitlines()[0]


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": "nowhere.npz"}, "nowhere.npz: no such file or folder"),
        ({"data": "images", "kernel_mode": "cubic"}, "--kernel-mode (='cubic') must be one of pro"),
        ({"data": "images", "kernel_mode": "slice,fourier"}, "--kernel-mode (='slice,fourier')"),
        ({"data": "images", "lift": "up"}, "--lift (='up') must be one of center, inflate"),
        ({"data": "volumes", "slices": "axial,top"}, "--slices axial,top: unknown view top"),
        ({"data": "volumes", "slices": ""}, "--slices : unknown view"),
        ({"data": "volumes", "slice_step": 0}, "--slice-step (=0) must be at least 1"),
        ({"data": "images", "size": "8,8,8"}, "--size 8,8,8: "),
        ({"data": "images", "size": "big"}, "--size (='big') must be a number"),
        ({"data": "images", "limit": 1}, "--limit 1: "),
        ({"data": "images", "limit": 500}, "--limit 500: "),
        ({"data": "images", "model": "resnte18"}, "no model called 'resnte18' for classification"),
        ({"data": "masks", "model": "resnet18"}, "no model called 'resnet18' for segmentation"),
        (
            {"data": "images", "model": "vit_tiny_patch16_224"},
            "vit_tiny_patch16_224 cannot take images of 8 x 8 (Input height (8) doesn't match "
            "model (224).); it takes 224 x 224: give its size in brackets, as in --model",
        ),
        ({"data": "images", "precision": "17"}, "--precision (='17') must be one of"),
        ({"data": "images", "out": "FILE"}, "--out FILE is a file: name a folder"),
        ({"data": "images", "out": "FILE/run"}, "cannot write to --out FILE/run: Not a directory"),
    ],
)
def test_pretraining_refuses(
    change: dict[str, Any], words: str, data: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    change = {"out": str(tmp_path / "run")} | change
    change["data"] = data.get(change["data"], change["data"])
    change["out"] = change["out"].replace("FILE", str(tmp_path / "file"))
    message = raised(lambda: pretrain(PretrainConfig(**{"epochs": 1, **change}), QUIET))
    assert message.startswith(words.replace("FILE", str(tmp_path / "file")))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("weights", "source", "words"),
    [
        ("volumes", "masks", "is for classification, but"),
        ("masks", "volumes", "is for segmentation, but"),
        ("two", "triple", "has 3 channels, 2 are wanted"),
        ("plain2d", "volumes", "a plain 2D network cannot take volumes"),
        ("plain3d", "images", "a plain 3D network cannot take images"),
        ("nowhere", "volumes", "no such file: "),
        ("text", "volumes", "is not a crossd weights file (SafetensorError)"),
        ("foreign", "volumes", "is not a crossd weights file (KeyError)"),
        ("half", "volumes", "is not a crossd weights file (SafetensorError)"),
    ],
)
def test_weights_and_data_that_do_not_go_together(
    weights: str,
    source: str,
    words: str,
    pretrained: Pretrained,
    data: dict[str, str],
    tmp_path: Path,
) -> None:
    from safetensors.torch import save_file

    path = str(tmp_path / "weights.safetensors")
    if weights in data:
        path = pretrained(weights)
    elif weights.startswith("plain"):
        convert(ConvertConfig(pretrained(), weights[5:], path), QUIET)
    elif weights == "text":
        Path(path).write_text("no weights")
    elif weights == "foreign":
        save_file({"weight": torch.zeros(2)}, path)
    elif weights == "half":
        Path(path).write_bytes(Path(pretrained()).read_bytes()[:5000])
    out = tmp_path / "out.safetensors"
    for action in (
        lambda: finetune(FinetuneConfig(path, data[source], out=str(tmp_path / "run")), QUIET),
        lambda: recalibrate(RecalibrateConfig(path, str(out), data=data[source]), QUIET),
    ):
        message = raised(action)
        assert words in message
    if weights in ("nowhere", "text", "foreign", "half"):
        assert words in raised(lambda: convert(ConvertConfig(path, "3d", str(out)), QUIET))
    assert not out.exists() and not (tmp_path / "run").exists()


def test_finetuning_refuses(pretrained: Pretrained, data: dict[str, str], tmp_path: Path) -> None:
    config = FinetuneConfig(pretrained(), data["volumes"], out=str(tmp_path / "run"))

    def words(**change: Any) -> str:
        return raised(lambda: finetune(replace(config, **change), QUIET))

    assert words(protocol="zero") == "--protocol (='zero') must be one of finetune, probe"
    assert words(protocol="finetune,probe").startswith("--protocol (='finetune,probe')")
    assert words(steps=0) == "--steps (=0) must be at least 1"
    assert words(limit=99).startswith("--limit 99: ")
    assert words(data="nowhere").startswith("nowhere: no such file or folder")
    assert not (tmp_path / "run").exists()


def test_files_are_not_overwritten_unasked(
    pretrained: Pretrained, data: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out.safetensors"
    adapt = RecalibrateConfig(pretrained(), str(out), data=data["volumes"])
    change = ConvertConfig(pretrained(), "3d", str(out))
    convert(change, QUIET)
    before = out.read_bytes()
    for action in (lambda: recalibrate(adapt, QUIET), lambda: convert(change, QUIET)):
        assert "exists already: name another --out, or --overwrite it" in raised(action)
    assert out.read_bytes() == before
    recalibrate(replace(adapt, overwrite=True), QUIET)
    assert out.read_bytes() != before
    convert(replace(change, overwrite=True), QUIET)
    assert out.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out.safetensors"]
    wrong = replace(change, out=str(tmp_path / "weights"))
    assert "must end in .safetensors" in raised(lambda: convert(wrong, QUIET))
    folder = tmp_path / "folder.safetensors"
    folder.mkdir()
    onto = replace(change, out=str(folder), overwrite=True)
    assert "folder.safetensors is a folder: name a file" in raised(lambda: convert(onto, QUIET))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"to": "4d"}, "--to (='4d') must be one of cross, 2d, 3d"),
        ({"to": "2d", "view": "top"}, "--view (='top') must be one of axial, coronal, sagittal"),
        ({"to": "3d", "view": "coronal"}, "view (='coronal') is for a conversion to 2d, not to 3d"),
        ({"to": "3d", "align": True}, "align is for a conversion from the fourier modes to 3d"),
        ({"to": "cross"}, "holds a cross network already"),
    ],
)
def test_converting_refuses(
    change: dict[str, Any], words: str, pretrained: Pretrained, tmp_path: Path
) -> None:
    config = ConvertConfig(weights=pretrained(), out=str(tmp_path / "o.safetensors"), **change)
    assert words in raised(lambda: convert(config, QUIET))
    assert not list(tmp_path.iterdir())


def test_views_give_2d_networks_of_their_own(pretrained: Pretrained, tmp_path: Path) -> None:
    found = []
    for view in ("axial", "coronal", "sagittal"):
        path = tmp_path / f"{view}.safetensors"
        convert(ConvertConfig(pretrained(), "2d", str(path), view=view), QUIET)
        found.append(state(path)["0.weight"])
        weight = state(pretrained())["0.weight"]
        torch.testing.assert_close(found[-1], weight.sum(2 + len(found) - 1))
    back = ConvertConfig(str(tmp_path / "axial.safetensors"), "3d", str(tmp_path / "b.safetensors"))
    assert "holds a 2d network, which cannot become 3d" in raised(lambda: convert(back, QUIET))


def test_a_damaged_network_is_named(pretrained: Pretrained, tmp_path: Path) -> None:
    """The configuration says one network, the tensors are another's."""
    path = tmp_path / "w.safetensors"
    config = replace(weights_file.read_config(pretrained()), classes=("a", "b", "c"))
    weights_file.save(crossd.load(pretrained()), path, config)
    words = raised(lambda: convert(ConvertConfig(str(path), "3d", str(path)), QUIET))
    assert "exists already" in words
    out = str(tmp_path / "o.safetensors")
    words = raised(lambda: convert(ConvertConfig(str(path), "3d", out), QUIET))
    assert "does not fit the network 'resnet-small': 2 tensors differ" in words


def test_recalibration_needs_no_label(
    pretrained: Pretrained, data: dict[str, str], tmp_path: Path
) -> None:
    with np.load(data["volumes"]) as file:
        values = next(file[name] for name in file.files if name.endswith("images"))
    bare, out, weights = tmp_path / "bare.npz", tmp_path / "ready.safetensors", pretrained()
    np.savez(bare, images=values)
    said = recalibrate(RecalibrateConfig(weights, str(out), data=str(bare)), QUIET)
    assert "no labels: not scored" in said
    before, after = state(weights), state(out)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.endswith(("mean", "var", "tracked")) for name in changed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slices": "coronal"}, "--slices is for volumes"),
        ({"slice_step": 2}, "--slice-step is for volumes"),
        ({"kernel_mode": "none", "lift": "inflate"}, "--lift is for 3D kernels"),
    ],
)
def test_options_that_would_have_no_effect_are_refused(
    options: dict[str, Any], message: str, data: dict[str, str], tmp_path: Path
) -> None:
    config = PretrainConfig(data=data["images"], out=str(tmp_path / "run"), **options)
    assert message in raised(lambda: pretrain(config, QUIET))
    assert not (tmp_path / "run").exists()


def test_given_epochs_are_not_exceeded(
    pretrained: Pretrained, data: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    finetune(FinetuneConfig(pretrained(), data=data["volumes"], epochs=1, out=str(out)), QUIET)
    assert len(json.loads((out / "metrics.json").read_text())["history"]) == 1


# Checkpoints of others


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, torch.nn.Module]:
    """A checkpoint in Lightning's layout, of a network for three channels and five classes."""
    net = registry.build("resnet18", "classification", 3, 5).eval()
    state = {f"model.{name}": tensor for name, tensor in net.state_dict().items()}
    path = tmp_path_factory.mktemp("foreign") / "last.ckpt"
    torch.save({"state_dict": state, "epoch": 3}, path)
    return str(path), net


@pytest.mark.slow
@pytest.mark.parametrize("to", some(["2d", "cross", "3d"], ["cross"]))
def test_a_checkpoint_of_others_becomes_a_weights_file(
    to: str, foreign: tuple[str, torch.nn.Module], tmp_path: Path
) -> None:
    path, net = foreign
    out = tmp_path / "made.safetensors"
    said = convert(ConvertConfig(path, to, str(out), model="resnet18", mean=2, std=3), QUIET)
    lines = said.splitlines()
    assert lines[0] == "122 tensors: 20 adapted, 102 matched"
    assert lines[1] == "'state_dict.model' of the checkpoint is the network"
    assert [line.split(":")[0] for line in lines[2:-1]] == ["20 adapted"]  # none is without partner
    assert lines[-1] == f"written: {out}"
    made: Any = crossd.load(out)
    config = made.config
    assert (config.in_channels, config.classes, config.form) == (3, ("0", "1", "2", "3", "4"), to)
    assert (config.model, config.mean, config.std) == ("resnet18", 2, 3)
    shape = (1, 3, 33, 34, 35) if to == "3d" else (2, 3, 40, 36)
    expected = crossd.center(net) if to == "3d" else net
    x = torch.randn(shape)
    with torch.no_grad():
        # Kernels of size 7 whose other slices are zero add up in another order.
        torch.testing.assert_close(made(x), expected(x), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_options_shape_the_network_of_a_checkpoint(
    foreign: tuple[str, torch.nn.Module], tmp_path: Path
) -> None:
    out = tmp_path / "made.safetensors"
    config = ConvertConfig(
        foreign[0],
        "cross",
        str(out),
        model="resnet18",
        classes="liver, spleen",
        channels=1,
        kernel_mode="fourier",
        lift="inflate",
    )
    said = convert(config, QUIET)
    assert "lifted by 'inflate'" in said and "the sum over 3 input channels, shared by 1" in said
    assert "the classifier has other classes and keeps its new weights" in said
    made: Any = crossd.load(out).config
    assert (made.in_channels, made.classes) == (1, ("liver", "spleen"))
    assert made.kernel_mode == "fourier"


@pytest.mark.slow
def test_a_segmentation_checkpoint_of_volumes(tmp_path: Path) -> None:
    solid: Any = crossd.to_3d(crossd.convert(registry.build("basicunet", "segmentation", 2, 3)))
    out = tmp_path / "made.safetensors"
    torch.save({"model": solid.state_dict()}, tmp_path / "bundle.pt")
    config = ConvertConfig(
        str(tmp_path / "bundle.pt"), "3d", str(out), model="basicunet", task="segmentation"
    )
    assert "3D kernel kept" in convert(config, QUIET)
    torch.testing.assert_close(state(out), dict(solid.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": None, "classes": "3"}, "--classes is for a checkpoint of others: name its net"),
        ({"model": None, "allow_partial": True}, "--allow-partial is for a checkpoint of others"),
        ({"model": None}, "`crossd convert --model NAME` turns those of others into one"),
        ({"model": "resnet19"}, "no model called 'resnet19' for classification"),
        ({"model": "vgg11"}, "the checkpoint is not of this network: at most"),
        ({"task": "detection"}, "--task (='detection') must be one of"),
        ({"kernel_mode": "none"}, "--kernel-mode (='none') must be one of"),
        ({"lift": "up"}, "--lift (='up') must be one of"),
        ({"classes": "a,,b"}, "--classes (='a,,b') must be a number, or names"),
        ({"classes": "a,a"}, "--classes (='a,a') must be a number, or names"),
        ({"channels": 0}, "--channels (=0) must be at least 1"),
        ({"std": 0.0}, "--std (=0.0) must be a positive number"),
        ({"view": "coronal"}, "view (='coronal') is for a conversion to 2d, not to cross"),
        ({"align": True}, "align is for a conversion from the fourier modes to 3d"),
        ({"weights": "nowhere.pth"}, "no such file: nowhere.pth (a checkpoint was expected)"),
        ({"prefix": "ema"}, "none of its 122 tensors under 'ema' has the name"),
    ],
)
def test_checkpoints_that_do_not_fit(
    change: dict[str, Any],
    words: str,
    foreign: tuple[str, torch.nn.Module],
    tmp_path: Path,
) -> None:
    config = ConvertConfig(foreign[0], "cross", str(tmp_path / "o.safetensors"), model="resnet18")
    assert words in raised(lambda: convert(replace(config, **change), QUIET))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_part_of_a_checkpoint(foreign: tuple[str, torch.nn.Module], tmp_path: Path) -> None:
    content = torch.load(foreign[0], weights_only=True)
    for name in ("model.layer4.1.bn2.weight", "model.fc.weight", "model.fc.bias"):
        del content["state_dict"][name]
    path = str(tmp_path / "part.ckpt")
    torch.save(content, path)
    config = ConvertConfig(path, "cross", str(tmp_path / "o.safetensors"), model="resnet18")
    words = "the checkpoint does not show its number of classes: give --classes"
    assert raised(lambda: convert(config, QUIET)) == words
    config = replace(config, classes="4")
    words = "1 missing ('layer4.1.bn2.weight' (512,)); to load what fits all the same"
    assert words in raised(lambda: convert(config, QUIET))
    assert "3 missing" in convert(replace(config, allow_partial=True), QUIET)
    again = replace(config, weights=config.out, out=str(tmp_path / "p.safetensors"))
    assert "is a weights file of crossd: leave out --model" in raised(lambda: convert(again, QUIET))
