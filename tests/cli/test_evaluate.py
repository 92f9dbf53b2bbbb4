import csv
import dataclasses
import json
from pathlib import Path

import files
import made
import nibabel as nib
import numpy as np
import pytest
import torch

from crossd.cli import command_line as cli
from crossd.cli import evaluate
from crossd.cli.evaluate import Pair
from crossd.cli.options import EvaluateConfig
from crossd.data.io.agreement import IGNORED
from crossd.data.opening import open_source
from crossd.data.preprocessing.plan_file import to_record
from crossd.errors import InputError
from crossd.training import metrics
from crossd.utils.progress import Progress
from crossd.weights import weights_file
from crossd.weights.weights_file import WeightsConfig

QUIET = Progress(quiet=True)
CLASSES = ("background", "a", "b")


def cube(shape: tuple[int, ...], low: int, high: int) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[(slice(low, high),) * len(shape)] = True
    return mask


def test_surfaces_by_hand() -> None:
    truth, guess = cube((20, 20, 20), 5, 10), np.roll(cube((20, 20, 20), 5, 10), 2, axis=2)
    found = metrics.surfaces(guess, truth, (1.0, 1.0, 1.5), 1.0)
    assert found["dice"] == pytest.approx(0.6)
    assert found["hd95"] == pytest.approx(3.0)
    assert 0 < found["nsd"] < 1  # type: ignore[operator]
    assert metrics.surfaces(guess, truth, (1.0, 1.0, 1.5), 3.0)["nsd"] == 1
    assert metrics.surfaces(truth, truth, (1, 1, 1), 0.0) == {"dice": 1, "hd95": 0, "nsd": 1}
    nothing = np.zeros_like(truth)
    assert metrics.surfaces(nothing, truth, (1, 1, 1), 1) == {"dice": 0, "hd95": None, "nsd": 0}
    assert metrics.surfaces(nothing, nothing, (1, 1, 1), 1) == {
        "dice": None,
        "hd95": None,
        "nsd": None,
    }


def test_scores_of_one_case() -> None:
    truth = np.zeros((10, 10, 10), np.uint8)
    truth[2:6, 2:6, 2:6] = 1
    guess = truth.copy()
    guess[2, 2, 2] = 2
    image = truth.astype(np.float32)
    first, second = evaluate.score(Pair("x", guess, truth, (5.0, 2.0, 1.0), image), CLASSES, 1.0)
    assert first["true_ml"] == pytest.approx(64 * 10 / 1000)
    assert first["ml"] == pytest.approx(63 * 10 / 1000)
    assert first["dice"] == pytest.approx(2 * 63 / 127)
    assert (second["dice"], second["true_ml"]) == (0, 0)
    summary = evaluate.summarise([first, second], CLASSES)
    assert summary["a"]["cases"] == 1 and summary["b"]["cases"] == 0
    assert summary["b"]["invented"] == 1 and summary["a"]["missed"] == 0
    assert summary["mean"]["dice"] == pytest.approx((2 * 63 / 127 + 0) / 2)


def trained(root: Path, weights: Path) -> None:
    """Save a network that knows nothing but fits the data."""
    source = open_source(str(root))
    torch.manual_seed(0)
    config = WeightsConfig(
        "segresnet-small", "segmentation", 1, source.classes, mean=source.mean, std=source.std,
        size=source.size, spacing=source.spacing, plan=to_record(source.plan), values=source.values,
    )  # fmt: skip
    weights_file.save(config.build(), weights, config)


@pytest.mark.slow
def test_a_network_and_the_masks_it_made_score_the_same(tmp_path: Path) -> None:
    from crossd.cli.options import PredictConfig
    from crossd.cli.predict import predict

    root = files.pairs(tmp_path / "data", 10, (16, 18, 20))
    trained(root, tmp_path / "w.safetensors")
    weights = str(tmp_path / "w.safetensors")
    out = str(tmp_path / "scores")
    text = evaluate.evaluate(EvaluateConfig(str(root), weights, out=out), QUIET)
    assert "2 test samples: dice" in text
    predict(PredictConfig(weights, [str(root / "images")], str(tmp_path / "masks")), QUIET)
    again = EvaluateConfig(str(root), None, str(tmp_path / "masks"), out=str(tmp_path / "second"))
    evaluate.evaluate(again, QUIET)
    first, second = (
        list(csv.DictReader((tmp_path / name / "cases.csv").read_text().splitlines()))
        for name in ("scores", "second")
    )
    assert first == second and len(first) == 4
    record = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert 0 <= record["metrics"]["mean"]["dice"] <= 1
    report = (tmp_path / "scores" / "report.md").read_text()
    for one in record["worst"]:
        assert (tmp_path / "scores" / one["picture"]).stat().st_size > 5_000
        assert one["picture"] in report
    with pytest.raises(InputError, match="already holds a result"):
        evaluate.evaluate(EvaluateConfig(str(root), weights, out=out), QUIET)


def test_bad_requests(tmp_path: Path) -> None:
    root = files.pairs(tmp_path / "data", 10, (16, 18, 20))
    trained(root, tmp_path / "w.safetensors")
    weights, out = str(tmp_path / "w.safetensors"), str(tmp_path / "o")

    def message(**options: object) -> str:
        with pytest.raises(InputError) as caught:
            evaluate.evaluate(EvaluateConfig(str(root), out=out, **options), QUIET)  # type: ignore[arg-type]
        return str(caught.value)

    assert "either --weights or --predictions" in message()
    assert "either" in message(weights=weights, predictions="x")
    assert "--part" in message(weights=weights, part="all")
    assert "--tolerance" in message(weights=weights, tolerance=-1.0)
    assert "holds no mask named" in message(predictions=str(tmp_path))
    (tmp_path / "small").mkdir()
    for path in (root / "labels").iterdir():
        files.nifti(tmp_path / "small" / path.name, np.zeros((4, 4, 4), np.uint8))
    assert "image and mask must agree" in message(predictions=str(tmp_path / "small"))


def test_labelled_cases_have_their_names(tmp_path: Path) -> None:
    rows = ["image,label,split"]
    for i, split in enumerate(["train"] * 4 + ["val"] * 2 + ["test"] * 2):
        files.nifti(tmp_path / f"v{i}.nii.gz", files.scan((10, 10, 10), seed=i)[0])
        rows.append(f"v{i}.nii.gz,{'ab'[i % 2]},{split}")
    table = tmp_path / "t.csv"
    table.write_text("\n".join(rows) + "\n")
    from crossd.cli import command_line as cli

    made = ["--data", str(table), "--epochs", "1", "--out", str(tmp_path / "w")]
    assert cli.main(["pretrain", *made]) == 0
    ready, weights = str(tmp_path / "r.safetensors"), str(tmp_path / "w" / "weights.safetensors")
    assert (
        cli.main(["recalibrate", "--weights", weights, "--data", str(table), "--out", ready]) == 0
    )
    out = tmp_path / "out"
    given = ["--data", str(table), "--weights", ready, "--out", str(out)]
    assert cli.main(["evaluate", *given]) == 0
    lines = (out / "cases.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == ["v6", "v7"]


def test_scores_are_over_what_is_known() -> None:
    truth = np.full((10, 10, 10), IGNORED, np.uint8)
    truth[::5] = 0
    truth[5, 2:6, 2:6] = 1
    guess = np.ones_like(truth)
    guess[5] = truth[5]
    guess[5, 2, 2] = 2
    pair = Pair("x", guess, truth, (5.0, 2.0, 1.0), truth.astype(np.float32))
    first, second = evaluate.score(pair, CLASSES, 1.0)
    assert first["true_ml"] == pytest.approx(0.16) and first["ml"] == pytest.approx(1.15)
    assert first["dice"] == pytest.approx(2 * 15 / 131)
    assert first["hd95"] is None and first["nsd"] is None  # each slice lies beside others
    assert second["dice"] == 0 and second["ml"] == pytest.approx(0.01)


def test_masks_that_are_known_in_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = files.pairs(tmp_path / "data", 10, (10, 12, 14))
    for path in (root / "labels").iterdir():
        mask = np.asarray(nib.load(path).dataobj)  # type: ignore[attr-defined]
        files.nifti(tmp_path / "masks" / path.name, mask)
        files.nifti(tmp_path / "odd" / path.name, np.where(mask == 0, 255, mask).astype(np.uint8))
        mask[:, ::3] = 255
        files.nifti(path, mask)

    def score(*more: str, predictions: str = "masks") -> tuple[int, str]:
        out = ["--out", str(tmp_path / "out"), "--overwrite"]
        made = ["--predictions", str(tmp_path / predictions), "--data", str(root), *out]
        code = cli.main(["evaluate", *made, *more])
        return code, "".join(capsys.readouterr())

    code, said = score("--ignore", "255")
    assert code == 0 and "dice 1.000, HD95 not defined" in said
    assert "over the 67% of the voxels that are known" in said and "255 is ignored (33%" in said
    report = (tmp_path / "out" / "report.md").read_text()
    assert "67 % of the voxels are known: all scores and volumes are over these" in report
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["known"] == (
        pytest.approx(2 / 3)
    )
    code, said = score("--ignore", "255", predictions="odd")
    assert code == 2 and "holds 255, but the classes have the values 0, 1, 2" in said
    code, said = score("--ignore", "0")
    assert code == 2 and "--ignore (=0) must be at least 1" in said


@pytest.mark.parametrize("given", ["weights", "predictions"])
def test_masks_of_nothing_but_what_is_ignored(
    tmp_path: Path, given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = files.pairs(tmp_path / "data", 10, (8, 9, 10))
    weights = tmp_path / "w.safetensors"
    trained(root, weights)
    net, config = weights_file.load(weights), weights_file.read_config(weights)
    weights_file.save(net, weights, dataclasses.replace(config, ignore=255))
    for path in (root / "labels").iterdir():
        mask = np.asarray(nib.load(path).dataobj)  # type: ignore[attr-defined]
        files.nifti(path, np.where(mask > 0, 255, 0).astype(np.uint8))
        files.nifti(tmp_path / "masks" / path.name, (mask > 0).astype(np.uint8))
    out = tmp_path / "out"
    made = {"weights": [str(weights)], "predictions": [str(tmp_path / "masks"), "--ignore", "255"]}
    command = ["evaluate", "--data", str(root), "--out", str(out), f"--{given}", *made[given]]
    code, said = cli.main(command), "".join(capsys.readouterr())
    why = "they hold nothing but background and 255, which is ignored; if 255 is the object itself"
    if given == "weights":
        assert code == 0 and f"no true mask shows a class: {why}" in said
        assert f"No true mask shows a class: {why}" in (out / "report.md").read_text()
    else:
        assert code == 2 and f"every training mask is empty; {why}" in said


def test_the_interval_of_labels_is_that_of_the_score_it_names() -> None:
    rng = np.random.default_rng(0)
    truth = torch.tensor(rng.integers(0, 2, 300))
    bright = torch.sigmoid(torch.tensor(rng.normal(1.0 * truth.numpy(), 1.0)))
    said = torch.stack((1 - bright, bright), 1)
    source = made.labelled(3)
    low, high = evaluate._interval(source, (said, truth)) or (0.0, 0.0)
    drawn = []
    for _ in range(400):
        some = rng.integers(0, 300, 300)
        drawn.append(metrics.classification(said[some], truth[some])["auc"])
    assert low == pytest.approx(np.percentile(drawn, 2.5), abs=0.015)
    assert high == pytest.approx(np.percentile(drawn, 97.5), abs=0.015)
    sure = torch.stack((1.0 - truth, 1.0 * truth), 1)
    low, high = evaluate._interval(source, (sure, truth)) or (1.0, 1.0)
    assert 0.9 < low < 1 == high


def test_weights_for_volumes_refuse_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Values of images would be standardised as those of volumes, whatever their scale is."""
    images, volumes = files.npz(tmp_path / "i.npz", (8, 8)), files.npz(tmp_path / "v.npz", (8,) * 3)
    weights, ready = str(tmp_path / "2d" / "weights.safetensors"), str(tmp_path / "r.safetensors")
    run = ["pretrain", "--data", images, "--epochs", "1", "--out", str(tmp_path / "2d")]
    assert cli.main(run) == 0
    measure = ["recalibrate", "--weights", weights, "--data"]
    assert cli.main([*measure, volumes, "--out", ready]) == 0
    assert weights_file.read_config(weights).size == (8, 8) and weights_file.read_config(
        ready
    ).size == (8, 8, 8)
    ask = ["evaluate", "--out", str(tmp_path / "out")]
    assert cli.main([*ask, "--weights", ready, "--data", images]) == 2
    assert "has images, but the weights are for volumes" in capsys.readouterr().err
    again = str(tmp_path / "again.safetensors")
    assert cli.main(["recalibrate", "--weights", ready, "--data", images, "--out", again]) == 0
    config = weights_file.read_config(again)
    assert config.size == (8, 8) and config.mean == pytest.approx(
        weights_file.read_config(weights).mean
    )
    assert not config.recalibrated
    assert cli.main([*ask, "--weights", again, "--data", images]) == 0
