"""The command line: exit codes, one line for every error, help, configuration files."""

import contextlib
import dataclasses
import importlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import crossd
from crossd.cli import command_line as cli
from crossd.cli import options as cli_options
from crossd.cli.command_line import main
from crossd.conversion import registry
from crossd.conversion.folding.state import SIZES

CONFIGS = {
    "transfer": cli_options.TransferConfig,
    "joint": cli_options.JointConfig,
    "pretrain": cli_options.PretrainConfig,
    "recalibrate": cli_options.RecalibrateConfig,
    "teach": cli_options.TeachConfig,
    "finetune": cli_options.FinetuneConfig,
    "convert": cli_options.ConvertConfig,
    "export": cli_options.ExportConfig,
    "predict": cli_options.PredictConfig,
    "evaluate": cli_options.EvaluateConfig,
    "plan": cli_options.PlanConfig,
    "status": cli_options.StatusConfig,
    "inspect": cli_options.InspectConfig,
    "doctor": cli_options.DoctorConfig,
}
PATIENCE = 120.0
"""Seconds that a process may take to start and do one epoch, on the slowest machine."""

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs signals")


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run each test in a folder of its own, with one thread, so that sums repeat."""
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    yield


def npz(name: str, shape: tuple[int, ...], classes: int = 2, **change: Any) -> str:
    """Write images of which each class has its own brightness."""
    draw = np.random.default_rng(0)
    made: dict[str, Any] = {}
    for part, count in (("train", 12), ("val", 6), ("test", 9)):
        labels = np.arange(count) % classes
        levels = (labels * 90).reshape(-1, *(1,) * len(shape))
        made[f"{part}_images"] = (draw.integers(0, 60, (count, *shape)) + levels).astype(np.uint8)
        made[f"{part}_labels"] = labels.astype(np.uint8)[:, None]
    np.savez(name, **(made | change))
    return name


def pairs(root: str, channels: int) -> str:
    """Write volumes with a box as the mask."""
    image_type: Any = nib.Nifti1Image
    for i in range(6):
        mask = np.zeros((8, 8, 8), np.uint8)
        mask[2:6, 2:6, 2:6] = 1
        image = np.random.default_rng(i).random((8, 8, 8, channels)).astype(np.float32)
        for kind, array in (("images", image), ("labels", mask)):
            path = Path(root) / kind / f"{i}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            image_type(array, np.eye(4)).to_filename(path)
    return root


def error(arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that fails; return its one line without the prefix."""
    capsys.readouterr()
    assert main(arguments.split()) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    return only_line(shown.err)


def only_line(text: str) -> str:
    prefix = "crossd: error: "
    assert text.startswith(prefix) and text.endswith("\n")
    assert text.count("\n") == 1, text
    return text.removeprefix(prefix).rstrip("\n")


def start(*arguments: str) -> subprocess.Popen[str]:
    """Start the command line as a process of its own."""
    source = str(Path(crossd.__file__).parents[1])
    path = os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-m", "crossd", *arguments],
        # A shell starts what runs in the background with this signal ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments: str) -> tuple[int, str, str]:
    process = start(*arguments)
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def stop_after_an_epoch(number: signal.Signals, *arguments: str, out: Path) -> tuple[int, str]:
    """Send a signal to a training process as soon as its first checkpoint is there."""
    process = start(*arguments, "--out", str(out))
    deadline = time.monotonic() + PATIENCE
    try:
        while not (out / "last.ckpt").exists():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        _, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()
    return process.returncode, err


def spy_on(command: str, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let a command do nothing; return the list of the options that it is given."""
    seen: list[Any] = []

    def spy(options: Any, progress: Any) -> str:
        seen.append(options)
        return "done"

    module = importlib.import_module(f"crossd.cli.{command}")
    monkeypatch.setattr(module, command, spy)
    return seen


@pytest.fixture
def weights(tmp_path: Path) -> str:
    """A network that was trained for a moment."""
    npz("slices.npz", (8, 8))
    assert main("pretrain --data slices.npz --epochs 1 --out trained".split()) == 0
    return "trained/weights.safetensors"


# --- processes ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_exit_codes_of_processes() -> None:
    assert run("--version") == (0, f"crossd {crossd.__version__}\n", "")
    code, out, err = run("nothing")
    assert (code, out) == (2, "")
    assert only_line(err).startswith("no command 'nothing': the commands are transfer, pretrain")
    code, out, err = run("pretrain", "--data", "nowhere.npz")
    assert (code, out) == (2, "")
    assert only_line(err).startswith("nowhere.npz: no such file or folder; give brain")


@pytest.mark.slow
@posix
def test_killed_and_resumed_equals_undisturbed(tmp_path: Path) -> None:
    npz("volumes.npz", (8, 8, 8))
    train = "pretrain --data volumes.npz --slices axial --epochs 15 --batch-size 16".split()
    folder = tmp_path / "killed"
    code, err = stop_after_an_epoch(signal.SIGKILL, *train, out=folder)
    assert (code, err) == (-signal.SIGKILL, "")
    assert not (folder / "metrics.json").exists()
    assert main([*train, "--out", str(folder), "--resume"]) == 0
    assert main([*train, "--out", "whole"]) == 0
    whole, killed = (load_file(p / "weights.safetensors") for p in (Path("whole"), folder))
    assert whole.keys() == killed.keys()
    assert all(torch.equal(whole[key], killed[key]) for key in whole)


@pytest.mark.slow
@posix
def test_interrupted_from_the_keyboard(tmp_path: Path) -> None:
    npz("images.npz", (8, 8))
    train = "pretrain --data images.npz --epochs 1000".split()
    code, err = stop_after_an_epoch(signal.SIGINT, *train, out=tmp_path / "run")
    assert code == 130
    assert err == "crossd: interrupted; what was finished is kept, see --resume\n"
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names - {"earlier.ckpt"} == {
        *("config.yaml", "last.ckpt", "weights.safetensors"),  # the best so far
        *("log.csv", "status.json", "tensorboard"),
    }


def test_interrupted_while_modules_are_imported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    own = types.SimpleNamespace(import_module=interrupted)  # others may keep importlib's own
    monkeypatch.setattr(cli, "importlib", own)
    assert main(["pretrain"]) == 130
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
@posix
@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_prediction_goes_on_after_an_interruption(
    tmp_path: Path, number: signal.Signals, expected: int
) -> None:
    root = pairs("data", 1)
    weights = ["--weights", "2d/weights.safetensors"]
    assert main(["pretrain", "--data", root, "--epochs", "1", "--out", "2d"]) == 0
    for i in range(60):
        (tmp_path / "data" / "images" / f"more_{i:03}.nii.gz").write_bytes(
            (tmp_path / "data" / "images" / "0.nii.gz").read_bytes()
        )
    out = tmp_path / "masks"
    predict = ["predict", *weights, "--input", f"{root}/images", "--out", str(out)]
    process = start(*predict)
    deadline = time.monotonic() + PATIENCE
    try:
        while not list(out.glob("[!.]*.nii.gz")):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        _, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == expected
    assert err.endswith("what was finished is kept, give the same command to go on\n")
    done = len(list(out.glob("*.nii.gz")))
    assert 0 < done < 66 and not set(out.glob(".*")) - {out / ".lock"}
    listed = len((out / "predictions.csv").read_text().splitlines()) - 1
    assert done - 1 <= listed <= done  # between a mask and its line it may be interrupted too
    code, said, _ = run(*predict)
    assert code == 0 and f"{66 - done} new masks" in said and f"{done} were there" in said


def test_from_files_to_masks_and_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = pairs("data", 1)
    assert main(["plan", "--data", root]) == 0
    text = (tmp_path / "plan.yaml").read_text()
    assert "patch: [8, 8, 8]" in text and text in capsys.readouterr().out
    (tmp_path / "plan.yaml").write_text(text.replace("1: '1'", "1: box"))
    given = ["--data", root, "--plan", "plan.yaml"]
    assert main(["pretrain", *given, "--task", "segmentation", "--epochs", "1", "--out", "2d"]) == 0
    weights = ["--weights", "2d/weights.safetensors"]
    assert crossd.load("2d/weights.safetensors").config.classes == ("background", "box")  # type: ignore[union-attr]
    assert main(["finetune", *weights, "--data", root, "--epochs", "1", "--out", "3d"]) == 0
    weights = ["--weights", "3d/weights.safetensors"]
    (tmp_path / "data" / "images" / "5.nii.gz").write_bytes(b"bad")
    capsys.readouterr()
    assert main(["predict", *weights, "--input", f"{root}/images", "--out", "masks"]) == 2
    shown = capsys.readouterr().err
    assert "5.nii.gz" in shown and "1 of 6 could not be predicted" in shown.splitlines()[-1]
    assert sorted(p.name for p in Path("masks").glob("*.nii.gz")) == [
        f"{i}.nii.gz" for i in range(5)
    ]
    assert len(Path("masks/predictions.csv").read_text().splitlines()) == 6
    pairs("data", 1)
    assert main(["evaluate", *weights, "--data", root, "--out", "scores", "--flips"]) == 0
    assert "test samples: dice" in capsys.readouterr().out
    assert json.loads(Path("scores/metrics.json").read_text())["classes"] == ["background", "box"]


# --- help and configuration ---------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_the_overview(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    for name, example in cli.COMMANDS.items():
        assert re.search(rf"^  {name}: [a-z].* .*\n      {re.escape(example)}$", shown, re.M)


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"crossd {crossd.__version__}\n"


@pytest.mark.parametrize("command", [name for name in cli.COMMANDS if name != "status"])
def test_help_names_every_option_and_an_example(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.suppress(SystemExit):
        assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    words = " ".join(shown.split())
    assert f"Example: crossd {command} --" in words
    for field in dataclasses.fields(CONFIGS[command]):
        option = f"--{field.name.replace('_', '-')}"
        assert f"  {option}" in shown, option
    for option in ("--config", "--print_config"):
        assert option in shown
    assert "(type: " in shown and "default: " in shown


def test_help_of_the_command_that_takes_a_folder_by_place(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with contextlib.suppress(SystemExit):
        assert main(["status", "--help"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "Example: crossd status runs/pretrain" in words
    assert "[--config CONFIG] folder" in words
    assert "folder The folder that a training writes to. (required, type: str)" in words


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_the_examples_are_understood(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = spy_on(command, monkeypatch)
    example = cli.COMMANDS[command].split()
    assert example[:2] == ["crossd", command]
    assert main(example[1:]) == 0
    assert type(seen[0]) is CONFIGS[command]


def test_every_option_reaches_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = spy_on("finetune", monkeypatch)
    given = cli_options.FinetuneConfig(
        weights="w", data="d", protocol="probe", size="3,4,5", limit=6, align=True, teach=True,
        epochs=7, steps=8, batch_size=9, lr=0.5, seed=10, workers=11, precision="bf16-mixed",
        checkpointing=True, out="o", overwrite=True, resume=True, augment="none", plan="p.yaml",
        devices=2, num_nodes=3, strategy="fsdp", sync_bn=True, accumulate=4, clip=0.5, compile=True,
        on_nan="skip", on_bad_sample="skip", loggers="csv", checkpoint_minutes=1.5,
        cache="c", cache_gb=2.5, ignore=255, accept="parts",
    )  # fmt: skip
    arguments = ["finetune"]
    for name, value in dataclasses.asdict(given).items():
        option = f"--{name.replace('_', '-')}"
        arguments += [option] if value is True else [option, str(value)]
    assert main(arguments) == 0
    assert seen == [given]


def test_a_configuration_file_is_read_and_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = spy_on("pretrain", monkeypatch)
    Path("mine.yaml").write_text("data: some.npz\nepochs: 3\nkernel_mode: fourier\n")
    assert main("pretrain --config mine.yaml --epochs 5".split()) == 0
    expected = cli_options.PretrainConfig(data="some.npz", kernel_mode="fourier", epochs=5)
    assert seen == [expected]

    capsys.readouterr()
    with contextlib.suppress(SystemExit):
        assert main("pretrain --config mine.yaml --epochs 5 --print_config".split()) == 0
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed) == dataclasses.asdict(expected)
    Path("again.yaml").write_text(printed)
    assert main("pretrain --config again.yaml".split()) == 0
    assert seen == [expected, expected]


@pytest.mark.slow
def test_the_configuration_of_a_run_repeats_it(weights: str) -> None:
    folder = Path(weights).parent
    again = ["pretrain", "--config", str(folder / "config.yaml"), "--out", "again"]
    assert main(again) == 0
    first, second = (load_file(p / "weights.safetensors") for p in (folder, Path("again")))
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("pretrian", "no command 'pretrian': did you mean pretrain? the commands are"),
        ("pretrain --epoch 3", "unrecognized arguments: --epoch 3: did you mean --epochs?"),
        (
            "pretrain --dota a --sead=1",
            "unrecognized arguments: --dota a --sead=1: did you mean --data, --seed?",
        ),
        ("pretrain --nothing-like-it 3", "unrecognized arguments: --nothing-like-it 3"),
        ("pretrain stray", "unrecognized arguments: stray"),
        ("pretrain --epochs three", "--epochs (='three') must be a whole number"),
        ("pretrain --seed 1.5", "--seed (='1.5') must be a whole number"),
        ("finetune --weights w --batch-size x", "--batch-size (='x') must be a whole number"),
        ("pretrain --lr fast", "--lr (='fast') must be a number"),
        ("pretrain --lr -1", "--lr (=-1.0) must be a positive number"),
        ("pretrain --epochs", "argument --epochs: expected one argument"),
        ("finetune", "the following arguments are required: weights"),
        ("convert --to 3d", "the following arguments are required: weights"),
        ("pretrain --config nowhere.yaml", 'Parser key "config": File does not exist: '),
        ("pretrain --config odd.yaml", "Option 'nonsense' is not accepted"),
        ("pretrain --config wrong.yaml", "--epochs (='many') must be a whole number"),
        ("pretrain --config broken.yaml", "Problems parsing config: "),
    ],
)
def test_options_that_are_wrong(
    arguments: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("odd.yaml").write_text("nonsense: 1\n")
    Path("wrong.yaml").write_text("epochs: many\n")
    Path("broken.yaml").write_text("epochs: [\n")
    assert error(arguments, capsys).startswith(words)


# --- bad input ----------------------------------------------------------------------------------


def empty_folder() -> None:
    Path("empty").mkdir()


def folder_without_images() -> None:
    for name in ("cats", "dogs"):
        Path("texts", name).mkdir(parents=True)
        Path("texts", name, "note.txt").write_text("no image")


def truncated() -> None:
    npz("half.npz", (8, 8))
    Path("half.npz").write_bytes(Path("half.npz").read_bytes()[:700])


def labels_out_of_range() -> None:
    npz("labels.npz", (8, 8), test_labels=np.full((9, 1), 7, np.uint8))
    npz("negative.npz", (8, 8), train_labels=np.full((12, 1), -1, np.int64))


def two_and_three() -> None:
    npz("images.npz", (8, 8))
    npz("volumes.npz", (8, 8, 8))


def in_the_way() -> None:
    npz("images.npz", (8, 8))
    Path("file").write_text("in the way")


@pytest.mark.parametrize(
    ("prepare", "arguments", "words"),
    [
        (empty_folder, "pretrain --data nowhere.npz", "nowhere.npz: no such file or folder; give"),
        (empty_folder, "transfer --volumes nowhere", "nowhere: no such file or folder; give"),
        (empty_folder, "pretrain --data empty", "empty: "),
        (
            folder_without_images,
            "pretrain --data texts",
            "texts: no images; expected train/ and val/",
        ),
        (truncated, "pretrain --data half.npz", "half.npz: cannot be read as .npz, it is damaged"),
        (labels_out_of_range, "pretrain --data labels.npz", "labels.npz: a test label is 7, but"),
        (
            labels_out_of_range,
            "pretrain --data negative.npz",
            "negative.npz: train_labels holds -1",
        ),
        (
            two_and_three,
            "transfer --images images.npz --volumes images.npz",
            "--volumes images.npz: holds 2D images, but 3D volumes are needed",
        ),
        (
            two_and_three,
            "pretrain --data volumes.npz --size 8,8",
            "--size 8,8: volumes.npz has 3 spatial axes",
        ),
        (
            two_and_three,
            "pretrain --data images.npz --model vit_tiny_patch16_224",
            "vit_tiny_patch16_224 cannot take images of 8 x 8 (Input height (8) doesn't match",
        ),
        (
            two_and_three,
            "transfer --volumes volumes.npz --images volumes.npz --model vit_tiny_patch16_224",
            "vit_tiny_patch16_224 cannot take images of 8 x 8 (Input height (8) doesn't match",
        ),
        (
            in_the_way,
            "pretrain --data images.npz --out file",
            "--out file is a file: name a folder",
        ),
        (
            in_the_way,
            "pretrain --data images.npz --out file/run",
            "cannot write to --out file/run: Not a directory",
        ),
    ],
)
def test_data_and_networks_that_are_wrong(
    prepare: Callable[[], None], arguments: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare()
    before = sorted(Path().rglob("*"))
    assert error(arguments, capsys).startswith(words)
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_is_none(workers: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Also in a process that reads ahead, whose error comes with a traceback."""
    for part, name in itertools.product(("train", "val", "test"), ("cats", "dogs")):
        folder = Path("pictures", part, name)
        folder.mkdir(parents=True)
        for i in range(8):
            seed = [*f"{folder}{i}".encode()]
            pixels = np.random.default_rng(seed).integers(0, 255, (64, 64), np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    Path("pictures/val/cats/0.png").write_bytes(b"no picture")
    words = error(f"pretrain --data pictures --epochs 1 --workers {workers} --out run", capsys)
    assert words == "pictures/val/cats/0.png: cannot be read as an image; replace or remove it"


@pytest.mark.slow
def test_channels_that_cannot_be_adapted(capsys: pytest.CaptureFixture[str]) -> None:
    pairs("two", 2)
    pairs("three", 3)
    train = "pretrain --data two --epochs 1 --limit 1 --slice-step 4 --out run"
    assert main(train.split()) == 0
    capsys.readouterr()
    for arguments, words in (
        ("finetune --data three --weights run/weights.safetensors", "three: has 3, 2 are wanted"),
        ("transfer --images two --volumes three", "two: has 2, 3 are wanted"),
    ):
        assert main(arguments.split()) == 2
        last = capsys.readouterr().err.splitlines()[-1]  # after the scan
        assert only_line(f"{last}\n").replace(" channels", "").startswith(words)


def test_weights_that_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    npz("volumes.npz", (8, 8, 8))
    Path("text.safetensors").write_text("no weights")
    tails = {
        "convert": "--to 3d --out o.safetensors",
        "export": "--to 3d --out o.pt2",
        "finetune": "--data volumes.npz --out run",
        "recalibrate": "--data volumes.npz --out o.safetensors",
    }
    for command, tail in tails.items():
        words = error(f"{command} --weights text.safetensors {tail}", capsys)
        assert words.startswith("text.safetensors is not a crossd weights file (SafetensorError)")
        words = error(f"{command} --weights nowhere.safetensors {tail}", capsys)
        assert words.startswith("no such file: nowhere.safetensors (a crossd weights file was exp")
    assert sorted(path.name for path in Path().iterdir()) == ["text.safetensors", "volumes.npz"]


@pytest.mark.slow
def test_plain_networks_and_data_of_the_other_rank(
    weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    npz("volumes.npz", (8, 8, 8))
    for form in ("2d", "3d"):
        convert = f"convert --weights {weights} --to {form} --out {form}.safetensors"
        assert main(convert.split()) == 0
    words = error(
        "recalibrate --weights 2d.safetensors --data volumes.npz --out o.safetensors", capsys
    )
    assert words.startswith("volumes.npz: a plain 2D network cannot take volumes: bring it")
    words = error("finetune --weights 3d.safetensors --data slices.npz --out run", capsys)
    assert words.startswith("slices.npz: a plain 3D network cannot take images: give the")
    words = error("evaluate --weights 2d.safetensors --data volumes.npz --out e", capsys)
    assert words.startswith("volumes.npz: a plain 2D network cannot take volumes: bring it")


def test_checkpoints_of_others(capsys: pytest.CaptureFixture[str]) -> None:
    net = registry.small_resnet(1, 3)
    torch.save({"state_dict": {f"net.{k}": v for k, v in net.state_dict().items()}}, "last.ckpt")
    convert = "convert --weights last.ckpt --model resnet-small --to cross --out made.safetensors"
    assert main([*convert.split(), "--classes", "liver,spleen,kidney"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[1] == "'state_dict.net' of the checkpoint is the network"
    assert said[-1] == "written: made.safetensors"
    made: Any = crossd.load("made.safetensors")
    assert made.config.classes == ("liver", "spleen", "kidney")
    words = error(convert.replace("resnet-small", "resnet18") + " --overwrite", capsys)
    assert words.startswith("the checkpoint is not of this network: ")


@pytest.mark.slow
def test_outputs_that_are_there(weights: str, capsys: pytest.CaptureFixture[str]) -> None:
    again = "pretrain --data slices.npz --epochs 1 --out trained"
    expected = "trained already holds a result: name another --out, or --overwrite it"
    assert error(again, capsys) == expected
    assert main([*again.split(), "--overwrite"]) == 0
    convert = f"convert --weights {weights} --to 3d --out plain.safetensors"
    assert main(convert.split()) == 0
    expected = "plain.safetensors exists already: name another --out, or --overwrite it"
    assert error(convert, capsys) == expected
    assert main([*convert.split(), "--overwrite"]) == 0
    Path("file").write_text("in the way")
    words = error(f"convert --weights {weights} --to 3d --out file/w.safetensors", capsys)
    assert words.startswith("cannot write to --out file/w.safetensors: ")


@pytest.mark.slow
def test_export_writes_what_runs_elsewhere(
    weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    net = crossd.load(weights)
    capsys.readouterr()
    assert main(f"export --weights {weights} --to 3d --size 8,9,10 --out new/net.onnx".split()) == 0
    shown = capsys.readouterr()
    assert shown.err == "tracing at 2 x 1 x 8 x 9 x 10, and running what is written\n"
    lines = shown.out.splitlines()
    assert lines[0].startswith("batch x 1 x depth x height x width -> batch x 2, float32, opset ")
    assert "checked at 1 x 1 x 8 x 9 x 10, 2 x 1 x 8 x 9 x 10, 3 x 1 x 9 x 10 x 12" in lines[1]
    assert lines[2:] == ["written: new/net.onnx"]
    x = torch.randn(3, 1, 12, 9, 8)
    session = onnxruntime.InferenceSession("new/net.onnx")
    with torch.no_grad():
        expected = net(x)
    torch.testing.assert_close(
        torch.from_numpy(session.run(None, {"input": x.numpy()})[0]), expected
    )

    options = "--to 2d --view coronal --fixed-size --out net.pt2"
    assert main(f"export --weights {weights} {options}".split()) == 0
    assert capsys.readouterr().out.startswith("batch x 1 x 8 x 8 -> batch x 2, float32\n")
    extra = {"crossd.json": ""}
    program = torch.export.load("net.pt2", extra_files=extra)
    x = torch.randn(5, 1, 8, 8)
    with crossd.view("coronal"), torch.no_grad():
        torch.testing.assert_close(program.module()(x), net(x))
    about = json.loads(extra["crossd.json"])
    config: Any = net.config
    assert (about["mean"], about["std"]) == (config.mean, config.std)
    assert (about["form"], about["view"]) == ("2d", "coronal")


def test_export_refuses(weights: str, capsys: pytest.CaptureFixture[str]) -> None:
    start = f"export --weights {weights}"
    for tail, words in {
        "--to 4d --out a.onnx": "--to (='4d') must be one of 2d, 3d",
        "--to 3d --out a.pt": "--out a.pt must end in .pt2 or .onnx",
        "--to 2d --view top --out a.onnx": "--view (='top') must be one of axial, coronal",
        "--to 3d --view coronal --out a.pt2": "view (='coronal') is for an export to 2d, not to 3d",
        "--to 3d --size 8,8 --out a.pt2": "size (=(8, 8)) must be one number, or 3 for an export",
        "--to 3d --size x --out a.pt2": "--size (='x') must be a number, or one an axis",
        "--to 2d --fixed-pose --out a.pt2": "fixed_pose is for kernels that are moved, which",
    }.items():
        assert error(f"{start} {tail}", capsys).startswith(words)
    Path("a.pt2").write_text("mine")
    words = "a.pt2 exists already: name another --out, or --overwrite it"
    assert error(f"{start} --to 2d --out a.pt2", capsys) == words
    assert Path("a.pt2").read_text() == "mine"
    assert main(f"{start} --to 2d --out a.pt2 --overwrite".split()) == 0
    plain = f"convert --weights {weights} --to 2d --out plain.safetensors"
    assert main(plain.split()) == 0
    words = error("export --weights plain.safetensors --to 3d --out a.onnx", capsys)
    assert words.startswith("the network is a plain 2d one, which cannot become 3d: convert it to")


def test_export_without_its_libraries(
    weights: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("crossd.weights.graph_files._installed", lambda name: False)
    words = error(f"export --weights {weights} --to 3d --out a.onnx", capsys)
    assert words == "writing a.onnx needs onnx and onnxscript: pip install 'crossd[onnx]'"
    assert not Path("a.onnx").exists()


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_transfer_prints_its_table(jobs: int, capsys: pytest.CaptureFixture[str]) -> None:
    npz("volumes.npz", (8, 8, 8))
    arguments = (
        "transfer --images volumes.npz --volumes volumes.npz --arms slices,projection "
        f"--protocols zero --epochs 1 --out run --jobs {jobs}"
    )
    assert main(arguments.split()) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("Take slices (zero: 1.000).")
    assert "Mean AUC" in shown.out and "In brackets: 95 % interval" in shown.out
    assert "projection" in shown.out and "zero" in shown.out
    assert "written: run/report.html, report.md" in shown.out
    assert "2D training, projection: " in shown.err
    assert "resnet-small: 2D training on 108 images of volumes.npz" in shown.err


def test_without_the_libraries_of_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "jsonargparse", None)
    assert "pip install 'crossd[all]'" in error("pretrain", capsys)


def test_code_that_fails_on_volumes_is_one_line(
    weights: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(notes: bool) -> Callable[..., str]:
        def run(*_: object) -> str:
            error = RuntimeError("sizes 3 and 4\ndo not meet")
            if notes:
                error.add_note(SIZES)
            raise error

        return run

    options = ["inspect", "--weights", weights, "--out", "out"]
    monkeypatch.setattr("crossd.cli.inspect.inspect", fails(notes=True))
    assert cli.main(options) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "cannot take these sizes (sizes 3 and 4 do not meet)" in told
    monkeypatch.setattr("crossd.cli.inspect.inspect", fails(notes=False))
    with pytest.raises(RuntimeError):  # a fault of ours is none of the user's
        cli.main(options)
