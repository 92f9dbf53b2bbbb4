"""The comparison of all arms, end to end on data that take a second."""

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from files import npz

from crossd.cli import transfer as command
from crossd.cli.command_line import main
from crossd.cli.options import DEFAULT_ARMS, PROTOCOLS, TransferConfig
from crossd.errors import InputError
from crossd.evaluation import summary
from crossd.evaluation.arms import ARMS, PRETRAININGS
from crossd.training import loop, validate
from crossd.utils.progress import Bar, Progress
from crossd.weights import weights_file

RNG = np.random.default_rng(0)
EVERYTHING = ",".join(ARMS)
LABELS = {"accuracy", "balanced_accuracy", "precision", "recall", "f1", "auc"}
QUICK = {"epochs": 1, "volume_epochs": 1, "volume_steps": 1, "batch_size": 32}


def pairs(root: Path, count: int = 8) -> str:
    """Write volumes with a box of the labels 1 and 2."""
    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True)
    image_type: Any = nib.Nifti1Image
    for i in range(count):
        mask = np.zeros((8, 8, 8), np.uint8)
        mask[2:5, 2:6, 1 + i % 3 :] = 1
        mask[2:5, 2:6, 5:] = 2
        image = (mask + RNG.normal(0, 0.1, mask.shape)).astype(np.float32)
        for kind, array in (("images", image), ("labels", mask)):
            image_type(array, np.eye(4)).to_filename(root / kind / f"{i}.nii.gz")
    return str(root)


class Watching(Progress):
    """Notes the tasks and lines, and interrupts before a task whose name is given."""

    def __init__(self, stop: str | None = None) -> None:
        super().__init__(quiet=True)
        self.stop = stop
        self.tasks: list[str] = []
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    @contextmanager
    def task(self, name: str, total: int | None, done: int = 0) -> Iterator[Bar]:
        if name == self.stop:
            raise KeyboardInterrupt
        self.tasks.append(name)
        with super().task(name, total, done) as bar:
            yield bar


def comparable(results: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows and the pretraining without their times."""
    return [
        {key: value for key, value in row.items() if key != "seconds"}
        for row in [*results["rows"], *results["pretraining"]]
    ]


def transfer(config: TransferConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Run the command, and read what it wrote down."""
    told = command.transfer(config, progress or Progress(quiet=True))
    found: dict[str, Any] = json.loads((Path(config.out) / "metrics.json").read_text())
    assert all(arm in told for arm in found["arms"]) and f"written: {config.out}" in told
    return found


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def config_of(data: tuple[str, str], out: Path, **more: Any) -> TransferConfig:
    return TransferConfig(
        **{"images": data[0], "volumes": data[1], "out": str(out), "jobs": 1, **QUICK, **more}
    )


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> str:
    return npz(tmp_path_factory.mktemp("data") / "volumes.npz", (8, 8, 8))


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> str:
    return pairs(tmp_path_factory.mktemp("data") / "masks")


Done = tuple[TransferConfig, Watching, dict[str, Any]]


@pytest.fixture(scope="module")
def labels_run(volumes: str, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """All arms under all protocols on volumes with labels."""
    out = tmp_path_factory.mktemp("labels") / "run"
    config, progress = config_of((volumes, volumes), out, arms=EVERYTHING), Watching()
    return config, progress, transfer(config, progress)


@pytest.fixture(scope="module")
def masks_run(masks: str, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """All arms under all protocols on volumes with masks."""
    out = tmp_path_factory.mktemp("masks") / "run"
    config = config_of((masks, masks), out, arms=EVERYTHING, teach="never")
    progress = Watching()
    return config, progress, transfer(config, progress)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("run", "metrics", "pictures"),
    [
        ("labels_run", LABELS, ["confusion.png", "ranks.png"]),
        ("masks_run", {"dice", "dice_1", "dice_2"}, []),
    ],
)
def test_every_arm_under_every_protocol(
    run: str, metrics: set[str], pictures: list[str], request: pytest.FixtureRequest
) -> None:
    config, progress, results = request.getfixturevalue(run)
    keys = [(row["arm"], row["protocol"]) for row in results["rows"]]
    protocols = [name for name in PROTOCOLS if run == "labels_run" or name != "linear"]
    every = [(arm, protocol) for arm in ARMS for protocol in protocols]
    assert keys == [key for key in every if key != ("scratch", "zero")]  # which has learnt nothing
    for row in results["rows"]:
        assert set(row["metrics"]) == metrics
        assert all(0 <= value <= 1 for value in row["metrics"].values())
        assert (row["protocol"] == "finetune") == bool(row["history"])
        assert row["parameters"] > 0 and row["seconds"] >= 0
    assert [record["name"] for record in results["pretraining"]] == list(PRETRAININGS)
    folder = Path(config.out)
    assert names(folder) == {
        "config.yaml",
        "metrics.json",
        "report.md",
        "report.html",
        "runs.csv",
        "table.tex",
        "scores.png",
        "differences.png",
        "curves.png",
        *pictures,
        *(f"pretrained-{name}.safetensors" for name in PRETRAININGS),
    }
    for path in folder.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    text = (folder / "report.md").read_text()
    assert all(f"| {arm}" in text for arm in ARMS)
    assert all(picture in text for picture in pictures)
    assert ("The first test volumes" in (folder / "report.html").read_text()) == (not pictures)
    # the pretraining is done once each; the arm 'scratch' has none
    assert [t for t in progress.tasks if t.startswith("2D")] == [
        f"2D training, {name}" for name in PRETRAININGS
    ]


@pytest.mark.slow
def test_every_arm_has_the_same_budget(labels_run: Done) -> None:
    _, _, results = labels_run
    for row in results["rows"]:
        if row["protocol"] == "finetune":
            assert [record["epoch"] for record in row["history"]] == [1]
            assert "val" not in row["history"][0]
    assert {row["train"] for row in results["rows"]} == {12}
    assert {row["test"] for row in results["rows"]} == {9}
    sizes = {row["arm"]: row["parameters"] for row in results["rows"]}
    assert sizes["slices"] == sizes["acs"] == sizes["cycle"] < sizes["scratch"]
    # A slice of a kernel cannot see every slice that a stride leaves out, as a sum of them can.
    taken = {"fourier", "fourier-aligned"}
    assert len({sizes[arm] for arm in taken}) == 1
    others = {
        *taken,
        "slices",
        "acs",
        "cycle",
        "fourier-projection",
    }  # which moves volumes' kernels too
    assert len({sizes[arm] for arm in ARMS if arm not in others}) == 1
    assert sizes["fourier-projection"] > sizes["projection"]


@pytest.mark.slow
def test_confusion_counts_the_test_volumes(labels_run: Done) -> None:
    for row in labels_run[2]["rows"]:
        assert row["parameters"] > 0
        counts = np.array(row["confusion"])
        assert counts.shape == (2, 2) and counts.sum(1).tolist() == [5, 4]
        assert row["metrics"]["accuracy"] == pytest.approx(np.trace(counts) / 9)


@pytest.mark.slow
def test_pretrained_weights_answer_on_volumes(labels_run: Done) -> None:
    path = Path(labels_run[0].out) / "pretrained-projection.safetensors"
    with torch.no_grad():
        assert weights_file.load(path)(torch.zeros(2, 1, 8, 8, 8)).shape == (2, 2)


@pytest.mark.slow
@pytest.mark.parametrize("run", ["labels_run", "masks_run"])
def test_interrupted_and_resumed_gives_the_same_rows(
    run: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    config, _, expected = request.getfixturevalue(run)
    config = replace(config, out=str(tmp_path / "run"))
    with pytest.raises(KeyboardInterrupt):
        transfer(config, Watching(stop="finetune, triplanar"))
    assert not (tmp_path / "run" / "metrics.json").exists()
    limit = 12 if run == "labels_run" else 4
    done = {f"run-finetune-{limit}-0-0-{arm}.json" for arm in ("slices", "acs", "triplanar")}
    assert done & names(tmp_path / "run") == {*done} - {f"run-finetune-{limit}-0-0-triplanar.json"}
    with pytest.raises(InputError, match="holds a run that did not end: --resume or --overwrite"):
        transfer(config)
    with pytest.raises(
        InputError,
        match=r"was started with other options \(lr .*, now .*, seed .*, now .*\): resume with",
    ):
        transfer(replace(config, resume=True, lr=0.1, seed=1))

    torch.manual_seed(99)
    progress = Watching()
    results = transfer(replace(config, resume=True), progress)
    finished = ("slices", "center", "inflate", "acs", "plain")
    assert not [task for task in progress.tasks if task.split(", ")[-1] in finished]
    assert [task for task in progress.tasks if task.endswith("triplanar")] == [
        "finetune, triplanar"
    ]
    assert comparable(results) == comparable(expected)
    assert names(tmp_path / "run") == names(Path(request.getfixturevalue(run)[0].out))


@pytest.mark.slow
def test_the_same_seed_twice_gives_the_same_rows(volumes: str, tmp_path: Path) -> None:
    """Whatever other arms and protocols run, in whatever order, and whatever was drawn before."""
    some = {"arms": "projection,slices", "protocols": "zero,finetune"}
    first = transfer(config_of((volumes, volumes), tmp_path / "a", **some))
    torch.manual_seed(99)
    more = {"arms": "slices,triplanar,projection", "protocols": "zero,probe,finetune"}
    again = transfer(config_of((volumes, volumes), tmp_path / "b", **more))
    rows = [
        row
        for row in comparable(again)
        if row.get("arm") != "triplanar" and row.get("protocol") != "probe"
    ]
    assert sorted(rows, key=str) == sorted(comparable(first), key=str)
    other = transfer(config_of((volumes, volumes), tmp_path / "c", seed=1, **some))
    assert comparable(other) != comparable(first)


def test_what_each_protocol_trains(
    volumes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: dict[str, Any] = {}
    real = loop.fit

    def spy(net: Any, source: Any, config: Any, **named: Any) -> Any:
        frozen = any(not parameter.requires_grad for parameter in net.parameters())
        average = getattr(net, "average", None)
        calls[named["name"]] = (config.lr, len(source.train), source.rank, frozen, average)
        return real(net, source, config, **named)

    monkeypatch.setattr(loop, "fit", spy)
    some = {"arms": "slices,inflate", "limit": "4", "lr": 0.002, "volume_lr": 0.0005,
            "protocols": "zero,probe,finetune", "teach": "always"}  # fmt: skip
    transfer(config_of((volumes, volumes), tmp_path / "run", **some))
    assert calls == {
        "2D training, plain": (0.002, 108, 2, False, None),
        "teaching inflate": (0.001, 12, 3, False, None),
        "probe, slices": (0.0005, 4, 3, True, "logits"),
        "finetune, slices": (0.0005, 4, 3, False, "logits"),
        "probe, inflate": (0.0005, 4, 3, True, None),
        "finetune, inflate": (0.0005, 4, 3, False, None),
    }


@pytest.mark.slow
def test_batchnorm_is_recalibrated_for_every_arm(
    volumes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    real = validate.recalibrate

    def spy(net: Any, samples: Any, *rest: Any, **named: Any) -> int:
        counts.append(len(samples))
        return real(net, samples, *rest, **named)

    monkeypatch.setattr(validate, "recalibrate", spy)
    some = {"arms": "inflate,slices,acs", "protocols": "zero"}
    transfer(config_of((volumes, volumes), tmp_path / "run", limit="4", **some))
    assert counts == [12, 12, 12]  # all training volumes, not only the labelled ones


@pytest.mark.slow
def test_images_of_other_classes(volumes: str, tmp_path: Path) -> None:
    images = npz(tmp_path / "images.npz", (8, 8), classes=3)
    progress = Watching()
    arms = "scratch,slices,acs,triplanar,fourier-aligned,projection"
    config = config_of((images, volumes), tmp_path / "run", arms=arms)
    results = transfer(config, progress)
    assert {row["protocol"] for row in results["rows"]} == {"linear", "finetune"}
    assert len(results["rows"]) == 2 * 6
    assert any("other classes" in line for line in progress.lines)
    assert "confusion.png" in names(tmp_path / "run")
    with pytest.raises(InputError, match="--protocols zero keeps the 2D head, but"):
        transfer(replace(config, protocols="zero", out=str(tmp_path / "zero")))


@pytest.mark.slow
def test_images_of_their_own(volumes: str, tmp_path: Path) -> None:
    """Images in colour become as grey as the volumes are."""
    images = npz(tmp_path / "images.npz", (8, 8, 3))
    some = {"arms": "projection,slices", "protocols": "zero"}
    results = transfer(config_of((images, volumes), tmp_path / "run", **some))
    assert [row["arm"] for row in results["rows"]] == ["projection", "slices"]


def test_a_result_is_not_overwritten_unasked(volumes: str, tmp_path: Path) -> None:
    some: dict[str, Any] = {"arms": "slices", "protocols": "zero"}
    config = config_of((volumes, volumes), tmp_path / "run", **some)
    transfer(config)
    before = (tmp_path / "run" / "metrics.json").read_bytes()
    for again in (config, replace(config, resume=True)):
        with pytest.raises(InputError, match="already holds a result: name another --out"):
            transfer(again)
    assert (tmp_path / "run" / "metrics.json").read_bytes() == before
    transfer(replace(config, overwrite=True, seed=3))
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["config"]["seed"] == 3


@pytest.mark.slow
def test_overwriting_forgets_what_an_interrupted_run_left(volumes: str, tmp_path: Path) -> None:
    some: dict[str, Any] = {"arms": "scratch,projection", "protocols": "finetune"}
    config = config_of((volumes, volumes), tmp_path / "run", **some)
    with pytest.raises(KeyboardInterrupt):
        transfer(config, Watching(stop="2D training, projection"))
    anew = replace(config, overwrite=True, seed=3)
    with pytest.raises(KeyboardInterrupt):
        transfer(anew, Watching(stop="finetune, scratch"))
    progress = Watching()
    transfer(replace(anew, overwrite=False, resume=True), progress)
    assert "finetune, scratch" in progress.tasks


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"arms": "scratch,nothing"},
            "--arms: unknown 'nothing'; known are projection, projection-both",
        ),
        ({"protocols": "one"}, "--protocols: unknown 'one'; known are zero, knn, linear, probe"),
        ({"volumes": "IMAGES"}, "--volumes IMAGES: holds 2D images, but 3D volumes are needed"),
        ({"slices": "axial,top"}, "--slices axial,top: unknown view top"),
        ({"images": "nowhere"}, "nowhere: no such file or folder"),
        ({"images": "MASKS"}, "--images is for segmentation, --volumes for classification"),
        ({"limit": "1"}, "--limit 1: "),
        ({"limit": "999"}, "--limit 999: "),
        ({"size": "8,8"}, "--size 8,8: "),
        ({"model": "resnet-smal"}, "no model called 'resnet-smal' for classification"),
        ({"model": "vit_tiny_patch16_224"}, "vit_tiny_patch16_224 cannot take images of "),
        (
            {"model": "vit_tiny_patch16_224(img_size=9)"},
            "cannot run the network on images of shape",
        ),
        ({"epochs": 0}, "--epochs (=0) must be at least 1"),
        ({"jobs": -1}, "--jobs (=-1) must be at least 1"),
        (
            {"arms": "scratch", "protocols": "zero"},
            "--protocols zero keeps the 2D head, but scratch has none: add probe or finetune",
        ),
    ],
)
def test_options_that_do_not_go_together(
    change: dict[str, Any], words: str, volumes: str, masks: str, tmp_path: Path
) -> None:
    paths = {"IMAGES": npz(tmp_path / "images.npz", (8, 8)), "MASKS": masks}
    change = {key: paths.get(value, value) for key, value in change.items()}
    for short, path in paths.items():
        words = words.replace(short, path)
    with pytest.raises(InputError) as caught:
        transfer(config_of((volumes, volumes), tmp_path / "run", **change))
    message = str(caught.value)
    assert message.startswith(words) and "\n" not in message
    assert not (tmp_path / "run").exists()


def test_arms_know_their_pretraining() -> None:
    assert set(DEFAULT_ARMS) <= set(ARMS)
    assert {name for name, (before, _) in ARMS.items() if before is None} == {"scratch"}


@pytest.mark.parametrize(
    ("arm", "way", "teacher"),
    [
        ("projection", "orientations, taught", "kept"),
        pytest.param("projection", "volume, taught", "anew", marks=pytest.mark.slow),
        ("projection", "both, BatchNorm anew", None),
        ("projection-volume", "volume, BatchNorm kept", None),
        pytest.param("center", "volume, taught", "kept", marks=pytest.mark.slow),
        pytest.param("center", "orientations, taught", "anew", marks=pytest.mark.slow),
        ("center", "orientations, BatchNorm anew", None),
        ("acs", "orientations, BatchNorm kept", None),
        pytest.param("acs", "volume, taught", "kept", marks=pytest.mark.slow),
        pytest.param("cycle", "volume, taught", "anew", marks=pytest.mark.slow),
        ("cycle", "volume, BatchNorm anew", None),
        pytest.param("triplanar", "volume, BatchNorm anew", None, marks=pytest.mark.slow),
        pytest.param("inflate", "orientations, taught", "kept", marks=pytest.mark.slow),
        ("slices", "slices, BatchNorm kept", None),
        ("slices", "slices, BatchNorm anew", None),
    ],
)
def test_the_commands_that_it_tells_work(
    arm: str,
    way: str,
    teacher: str | None,
    trained: TransferConfig,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = {"arm": arm, "way": way} | ({} if teacher is None else {"teacher": teacher})
    lines = command.commands(trained, run)
    assert sum("recalibrate" in line for line in lines) == ("anew" in f"{way} {teacher}")
    out = Path(trained.out)
    answers = out / "answers" / arm / "-".join(way.replace(",", "").split())
    for line in lines:
        new = str(Path(trained.volumes).parent / "scans")
        given = line.replace("NEW", new).replace("--out answers", f"--out {answers}")
        again = [] if "predict" in line else ["--overwrite"]
        assert main([*shlex.split(given)[1:], *again]) == 0, capsys.readouterr().err
    assert len((answers / "predictions.csv").read_text().splitlines()) == 1 + 30


def test_of_other_arms_no_command_is_told(trained: TransferConfig) -> None:
    for arm in ("scratch", "volume", "fourier-aligned"):
        assert command.commands(trained, {"arm": arm, "way": "volume, BatchNorm anew"}) == []


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TransferConfig:
    """Two 2D trainings and their comparison without labels, on files."""
    root = tmp_path_factory.mktemp("trained")
    (root / "scans").mkdir()
    image_type: Any = nib.Nifti1Image
    lines = ["image,label"]
    for i in range(30):
        array = RNG.normal(i % 2, 0.1, (8, 8, 8)).astype(np.float32)
        image_type(array, np.eye(4)).to_filename(root / "scans" / f"{i}.nii.gz")
        lines.append(f"scans/{i}.nii.gz,{'ab'[i % 2]}")
    (root / "cases.csv").write_text("\n".join(lines) + "\n")
    both = (str(root / "cases.csv"),) * 2
    config = config_of(both, root / "run", arms="projection,slices", protocols="zero")
    results = transfer(config)
    best = summary.taken(results, ("zero", 0))
    (run,) = (row for row in results["rows"] if row["arm"] == best)
    assert results["use"] == command.commands(config, run)
    return config


def test_the_commands_read_volumes_as_the_comparison_did_and_survive_a_shell(
    tmp_path: Path,
) -> None:
    config = config_of(("a b.npz", "a b.npz"), tmp_path / "my run", size="8", ignore=255)
    for way in ("volume, taught", "volume, BatchNorm anew"):
        first, last = command.commands(config, {"arm": "projection", "way": way})
        told = shlex.split(first)
        assert told[told.index("--data") + 1] == "a b.npz"
        assert told[told.index("--size") + 1] == "8"
        assert told[told.index("--ignore") + 1] == "255"
        again = shlex.split(last)
        assert again[again.index("--weights") + 1].startswith(str(tmp_path / "my run"))


def test_files_of_2d_trainings_are_for_volumes_of_another_scale_too(tmp_path: Path) -> None:
    images = npz(tmp_path / "images.npz", (8, 8))
    with np.load(images) as held:
        arrays = {name: held[name] for name in held.files}
    for part in ("train", "val", "test"):
        shape = (len(arrays[f"{part}_images"]), 8, 8, 8)
        arrays[f"{part}_images"] = RNG.integers(0, 40, shape).astype(np.uint8)
    np.savez(tmp_path / "volumes.npz", **arrays)
    both = (images, str(tmp_path / "volumes.npz"))
    config = config_of(both, tmp_path / "run", arms="acs", protocols="zero", teach="never", seed=3)
    transfer(config)
    weights = weights_file.read_config(tmp_path / "run" / "pretrained-plain.safetensors")
    volumes = command.open_setting(config, Progress(quiet=True)).volumes
    assert (weights.mean, weights.std) == (volumes.mean, volumes.std) and not weights.recalibrated
    assert weights.size == volumes.size  # so that images, of another scale, are refused
    made, measured, _ = command.commands(config, {"arm": "acs", "way": "volume, BatchNorm anew"})
    assert "--to acs" in made and measured.count("--seed 3") == 1


def test_recalibrate_does_not_pass_over_align_of_a_2d_network(
    trained: TransferConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--weights", f"{trained.out}/pretrained-plain.safetensors", "--data", trained.volumes]
    line = ["recalibrate", *given, "--answer", "slices", "--out", str(tmp_path / "w.safetensors")]
    assert main([*line, "--align"]) == 2
    assert "a plain 2D network cannot take volumes" in capsys.readouterr().err
