import csv
import dataclasses
import os
from pathlib import Path
from typing import Any

import files
import nibabel as nib
import numpy as np
import pytest
import torch
from helpers import some
from PIL import Image

from crossd.cli.options import PredictConfig
from crossd.cli.predict import predict
from crossd.data.io import read
from crossd.data.preprocessing import plan_file
from crossd.data.preprocessing.plan import Intensity, Plan
from crossd.errors import InputError
from crossd.inference import predictor
from crossd.utils.progress import Progress
from crossd.weights import weights_file
from crossd.weights.weights_file import WeightsConfig

QUIET = Progress(quiet=True)
PLAN = Plan((1.5, 1.5, 1.5), (16, 16, 16), (Intensity("z-score", 0.5, 99.5),))


def weights(path: Path, task: str = "segmentation", **more: Any) -> str:
    """A network with weights as drawn; its answers mean nothing but are the same each time."""
    model = "segresnet-small" if task == "segmentation" else "resnet-small"
    given = {"plan": plan_file.to_record(PLAN), "values": (0, 2, 5), "size": (16, 16, 16), **more}
    config = WeightsConfig(model, task, 1, ("background", "a", "b"), **given)
    torch.manual_seed(0)
    weights_file.save(config.build(), path, config)
    return str(path)


def answers(folder: Path) -> list[str]:
    """List what lies in a folder, but for the table and how it was made."""
    kept = {"predictions.csv", "predictions.yaml", ".lock"}
    found = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return sorted(set(found) - kept)


def table(folder: Path) -> dict[str, list[str]]:
    """Read predictions.csv: the cells below each image's path."""
    with (folder / "predictions.csv").open(newline="") as file:
        return {line[0]: line[1:] for line in list(csv.reader(file))[1:]}


def refusal(config: PredictConfig) -> str:
    """Return the line that refuses a run."""
    with pytest.raises(InputError) as caught:
        predict(config, QUIET)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_every_kind_of_volume_gets_its_mask(tmp_path: Path) -> None:
    image, _ = files.scan((18, 20, 22))
    folder = tmp_path / "in"
    files.nifti(folder / "a.nii.gz", image, np.diag([-1.0, 1, 2, 1]))
    files.itk(folder / "deep" / "b.nrrd", image, (1, 1, 2))
    files.dicom(folder / "deep" / "c", image, (1, 1, 2))
    (folder / "notes.txt").write_text("x")
    text = predict(
        PredictConfig(
            weights(tmp_path / "w.safetensors"), [str(folder)], str(tmp_path / "out"),
            dicom_seg=True,
        ),
        QUIET,
    )  # fmt: skip
    assert text.startswith("3 new masks")
    found = answers(tmp_path / "out")
    assert found == ["a.nii.gz", "deep/b.nrrd", "deep/c.dcm", "deep/c.nii.gz"]
    for name, source in (
        ("a.nii.gz", "a.nii.gz"),
        ("deep/b.nrrd", "deep/b.nrrd"),
        ("deep/c.nii.gz", "deep/c"),
    ):
        mask = read.read_header(tmp_path / "out" / name)
        volume = read.read_header(folder / source)
        assert mask.shape == volume.shape
        np.testing.assert_allclose(mask.affine, volume.affine, atol=1e-3)
        assert set(np.unique(read.read(mask))) <= {0, 2, 5}


def test_the_orientation_of_the_file_does_not_matter(tmp_path: Path) -> None:
    image, _ = files.scan((18, 20, 22))
    affine = np.diag([1.0, 1.2, 1.4, 1])
    straight: Any = nib.Nifti1Image(image, affine)
    turned = straight.as_reoriented(nib.orientations.axcodes2ornt(("S", "L", "P")))
    for name, one in (("a", straight), ("b", turned)):
        (tmp_path / "in").mkdir(exist_ok=True)
        one.to_filename(tmp_path / "in" / f"{name}.nii.gz")
    path = weights(tmp_path / "w.safetensors")
    predict(PredictConfig(path, [str(tmp_path / "in")], str(tmp_path / "out")), QUIET)
    one, other = (
        np.asarray(nib.as_closest_canonical(nib.load(tmp_path / "out" / f"{n}.nii.gz")).dataobj)
        for n in "ab"
    )
    assert (one == other).mean() > 0.995
    assert len(np.unique(one)) > 1


def test_a_bad_file_is_skipped_and_a_second_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, _ = files.scan((10, 10, 10))
    for name in "abc":
        files.nifti(tmp_path / "in" / f"{name}.nii.gz", image)
    bad = tmp_path / "in" / "b.nii.gz"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:300])
    config = PredictConfig(
        weights(tmp_path / "w.safetensors"), [str(tmp_path / "in")], str(tmp_path / "out")
    )
    with pytest.raises(InputError) as caught:
        predict(config, QUIET)
    message = str(caught.value)
    assert "1 of 3 could not be predicted" in message and "b.nii.gz" in message
    assert answers(tmp_path / "out") == ["a.nii.gz", "c.nii.gz"]
    bad.write_bytes(whole)
    calls = []
    segment = predictor.segment

    def counted(*args: Any) -> Any:
        calls.append(args)
        return segment(*args)

    monkeypatch.setattr(predictor, "segment", counted)
    assert "1 new masks" in predict(config, QUIET) and len(calls) == 1
    assert "0 new masks" in predict(config, QUIET) and len(calls) == 1


def test_labels_become_a_table(tmp_path: Path) -> None:
    for i in range(3):
        files.nifti(tmp_path / "in" / f"{i}.nii.gz", files.scan((10, 12, 14), seed=i)[0])
    path = weights(tmp_path / "w.safetensors", "classification", values=())
    config = PredictConfig(path, [str(tmp_path / "in")], str(tmp_path / "out"))
    assert "3 new lines" in predict(config, QUIET)
    rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").read_text().splitlines()))
    assert len(rows) == 3
    for row in rows:
        values = [float(row[f"p_{name}"]) for name in ("background", "a", "b")]
        assert sum(values) == pytest.approx(1, abs=1e-5)
        assert row["class"] == ("background", "a", "b")[int(np.argmax(values))]
    files.nifti(tmp_path / "in" / "3.nii.gz", files.scan((10, 12, 14), seed=3)[0])
    assert "1 new lines" in predict(config, QUIET)
    found = tmp_path / "out" / "predictions.csv"
    found.write_text(found.read_text().replace(",a,", ",other,"))
    assert "with these weights" not in predict(config, QUIET)
    found.write_text(found.read_text().replace("p_a", "p_other"))
    assert "predictions.csv: is not what crossd predict wrote with these weights" in refusal(config)
    found.write_text("image,class\nx,y,z\n")
    with pytest.raises(InputError, match="is not what crossd predict wrote"):
        predict(config, QUIET)


def test_batchnorm_that_knows_images_only_is_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for recalibrated in (True, False):
        config = labels_of(tmp_path, 1, f"w{recalibrated}", recalibrated=recalibrated)
        out = str(tmp_path / f"out{recalibrated}")
        assert "1 new lines" in predict(dataclasses.replace(config, out=out), Progress())
        assert ("crossd recalibrate" in capsys.readouterr().err) is not recalibrated


def test_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    Image.fromarray(rng.integers(0, 255, (30, 50), dtype=np.uint8)).save(tmp_path / "in" / "a.png")
    files.write_slice(tmp_path / "in" / "b.dcm", rng.integers(0, 900, (20, 24)), 0.0)
    flat: dict[str, Any] = {"plan": None, "size": (16, 24)}
    path = weights(tmp_path / "w.safetensors", **flat)
    both = [str(tmp_path / "in" / "a.png"), str(tmp_path / "in" / "b.dcm")]
    predict(PredictConfig(path, both, str(tmp_path / "out")), QUIET)
    with Image.open(tmp_path / "out" / "a.png") as mask:
        assert mask.size == (50, 30) and set(np.unique(np.asarray(mask))) <= {0, 2, 5}
    with Image.open(tmp_path / "out" / "b.png") as mask:
        assert mask.size == (20, 24)
    labels = weights(tmp_path / "c.safetensors", "classification", values=(), **flat)
    assert "2 new lines" in predict(PredictConfig(labels, both, str(tmp_path / "o3")), QUIET)
    solid = weights(tmp_path / "v.safetensors", "classification", values=())
    with pytest.raises(InputError, match="is an image, but the weights are for volumes"):
        predict(PredictConfig(solid, both[:1], str(tmp_path / "o2")), QUIET)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    files.nifti(tmp_path / "a.nii", files.scan((10, 10, 10))[0])
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    config = PredictConfig(
        weights(tmp_path / "w.safetensors"), [str(tmp_path / "a.nii")], str(closed)
    )
    with pytest.raises(OSError, match="denied"):
        predict(config, QUIET)


def test_a_full_disk_leaves_no_half_written_mask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.nifti(tmp_path / "a.nii", files.scan((10, 10, 10))[0])

    def full(self: Any, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    config = PredictConfig(
        weights(tmp_path / "w.safetensors"), [str(tmp_path / "a.nii")], str(tmp_path / "out")
    )
    monkeypatch.setattr(nib.Nifti1Image, "to_filename", full)
    with pytest.raises(OSError, match="No space left"):
        predict(config, QUIET)
    assert not answers(tmp_path / "out")


@files.real_data
@pytest.mark.parametrize("name", some(["head_t1", "hippocampus_crop"], ["hippocampus_crop"]))
def test_masks_of_real_series_lie_where_simpleitk_puts_them(tmp_path: Path, name: str) -> None:
    import SimpleITK as sitk

    from crossd.data.sources.folder_walk import below

    folder = below(files.SHARED / "dicom" / name)[1][0]
    coarse = dataclasses.replace(PLAN, spacing=(4.0, 3.0, 3.0), patch=(32, 48, 48))
    path = weights(tmp_path / "w.safetensors", plan=plan_file.to_record(coarse))
    out = tmp_path / "out"
    predict(PredictConfig(path, [str(folder)], str(out)), QUIET)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    written = sitk.ReadImage(str(out / f"{folder.name}.nii.gz"))
    assert written.GetSize() == image.GetSize()
    for name in ("GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(written, name)(), getattr(image, name)(), atol=1e-3)


def labels_of(tmp_path: Path, count: int, name: str = "w", **more: Any) -> PredictConfig:
    """Options for volumes that get labels."""
    for i in range(count):
        files.nifti(tmp_path / "in" / f"{i}.nii.gz", files.scan((10, 12, 14), seed=i)[0])
    path = weights(tmp_path / f"{name}.safetensors", "classification", values=(), **more)
    return PredictConfig(path, [str(tmp_path / "in")], str(tmp_path / "out"))


def other_weights(path: Path, classes: tuple[str, ...] = ("background", "a", "b")) -> str:
    """Weights for labels that are drawn with another seed."""
    config = WeightsConfig(
        "resnet-small", "classification", 1, classes, plan=plan_file.to_record(PLAN)
    )
    torch.manual_seed(1)
    weights_file.save(config.build(), path, config)
    return str(path)


@pytest.mark.slow
def test_answers_of_other_settings_are_not_taken_for_new_ones(tmp_path: Path) -> None:
    config = labels_of(tmp_path, 2)
    predict(config, QUIET)
    before = table(tmp_path / "out")
    for classes in (("background", "a", "b"), ("x", "y", "z"), ("x", "y"), tuple("12345")):
        path = other_weights(tmp_path / "other.safetensors", classes)
        message = refusal(dataclasses.replace(config, weights=path))
        assert "made with another --weights" in message and "--overwrite" in message
    assert "another --answer" in refusal(dataclasses.replace(config, answer="both"))
    assert "another --precision" in refusal(dataclasses.replace(config, precision="bf16-mixed"))
    assert table(tmp_path / "out") == before
    moved = tmp_path / "same.safetensors"
    moved.write_bytes(Path(config.weights).read_bytes())
    assert "0 new lines" in predict(dataclasses.replace(config, weights=str(moved)), QUIET)
    other = dataclasses.replace(config, weights=path, overwrite=True)
    one = dataclasses.replace(other, input=[str(tmp_path / "in" / "0.nii.gz")])
    assert "answers of other settings for 1 files that are not in --input" in refusal(one)
    assert "2 new lines" in predict(other, QUIET)
    with (tmp_path / "out" / "predictions.csv").open() as file:
        assert file.readline() == "image,class,p_1,p_2,p_3,p_4,p_5\n"


def test_masks_of_other_settings_are_not_taken_for_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        files.nifti(tmp_path / "in" / f"{name}.nii.gz", files.scan((10, 10, 10))[0])
    path = weights(tmp_path / "w.safetensors")
    config = PredictConfig(path, [str(tmp_path / "in")], str(tmp_path / "out"))
    predict(config, QUIET)
    flipped = dataclasses.replace(config, flips=True)
    assert "another --flips" in refusal(flipped)

    def interrupted(*args: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(predictor, "segment", interrupted)
        predict(dataclasses.replace(flipped, overwrite=True), QUIET)
    assert "2 new masks" in predict(flipped, QUIET)  # none of the earlier ones is taken
    assert "another --flips" in refusal(config)


def test_one_file_overwritten_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = labels_of(tmp_path, 3)
    predict(config, QUIET)
    monkeypatch.chdir(tmp_path / "in")
    for text in ("0.nii.gz", "./0.nii.gz", "../in/0.nii.gz"):
        one = dataclasses.replace(config, input=[text], overwrite=True)
        assert "1 new lines" in predict(one, QUIET)
        assert "1 were there already" in predict(dataclasses.replace(one, overwrite=False), QUIET)
    assert list(table(tmp_path / "out")) == [str(tmp_path / "in" / f"{i}.nii.gz") for i in range(3)]
    both = dataclasses.replace(config, input=["0.nii.gz", "./0.nii.gz", "."])
    assert "0 new lines" in predict(both, QUIET)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    config = labels_of(tmp_path, 1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "predictions.csv").write_text("mine")
    assert "is not empty, and no predictions.yaml" in refusal(config)
    (tmp_path / "out" / "predictions.yaml").write_text("[")
    assert "is not empty" in refusal(config)
    assert (tmp_path / "out" / "predictions.csv").read_text() == "mine"
    assert "1 new lines" in predict(dataclasses.replace(config, overwrite=True), QUIET)
    assert "--out is empty" in refusal(dataclasses.replace(config, out=""))
    file = dataclasses.replace(config, out=str(tmp_path / "w.safetensors"))
    assert "is a file: name a folder" in refusal(file)


def test_masks_never_replace_what_they_are_made_of(tmp_path: Path) -> None:
    image = files.nifti(tmp_path / "in" / "a.nii.gz", files.scan((10, 10, 10))[0])
    before = image.read_bytes()
    path = weights(tmp_path / "w.safetensors")
    config = PredictConfig(path, [str(tmp_path / "in")], str(tmp_path / "in"), overwrite=True)
    assert "its mask would replace" in refusal(config) and image.read_bytes() == before
    inside = dataclasses.replace(config, out=str(tmp_path / "in" / "masks"), overwrite=False)
    assert "1 new masks" in predict(inside, QUIET)
    assert "0 new masks" in predict(inside, QUIET)  # masks are no input
    assert answers(tmp_path / "in" / "masks") == ["a.nii.gz"]


def test_a_mask_of_another_volume_is_not_taken_for_this_one(tmp_path: Path) -> None:
    for i, name in enumerate("xy"):
        files.nifti(tmp_path / name / "t1.nii.gz", files.scan((10, 10, 10), seed=i)[0])
    path = weights(tmp_path / "w.safetensors")
    config = PredictConfig(path, [str(tmp_path / "x" / "t1.nii.gz")], str(tmp_path / "out"))
    predict(config, QUIET)
    other = dataclasses.replace(config, input=[str(tmp_path / "y" / "t1.nii.gz")])
    assert f"which is that of {tmp_path}/x/t1.nii.gz" in refusal(other)
    predict(dataclasses.replace(other, overwrite=True), QUIET)
    assert table(tmp_path / "out") == {f"{tmp_path}/y/t1.nii.gz": ["t1.nii.gz"]}


def test_options_of_masks_are_refused_for_labels(tmp_path: Path) -> None:
    config = labels_of(tmp_path, 1)
    assert "--flips is for masks" in refusal(dataclasses.replace(config, flips=True))


def test_what_no_file_of_many_has_is_said_once(tmp_path: Path) -> None:
    for name in "ab":
        files.nifti(tmp_path / "in" / f"{name}.nii.gz", files.scan((10, 10, 10))[0])
    blind = weights(tmp_path / "w.safetensors", plan=None, size=(16, 16))
    config = PredictConfig(blind, [str(tmp_path / "in")], str(tmp_path / "out"))
    message = refusal(config)
    assert "a.nii.gz: is a volume, but the weights know no spacing" in message
    assert "could not be predicted" not in message and not (tmp_path / "out").exists()
    flat = weights(tmp_path / "f.safetensors", form="2d", size=(16, 16))
    assert refusal(dataclasses.replace(config, weights=flat)).startswith(f"{tmp_path}/in/a.nii.gz")


def test_a_volume_that_does_not_fit_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = files.scan((10, 10, 10))[0]
    files.nifti(tmp_path / "in" / "a.nii.gz", image, np.diag([9000.0, 9000, 9000, 1]))
    files.nifti(tmp_path / "in" / "b.nii.gz", image)
    path = weights(tmp_path / "w.safetensors")
    config = PredictConfig(path, [str(tmp_path / "in")], str(tmp_path / "out"))
    message = refusal(config)
    assert "1 of 2" in message and "voxels of 9000 x 9000 x 9000 mm, resampled to 1.5" in message
    assert answers(tmp_path / "out") == ["b.nii.gz"]

    def greedy(*args: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes")

    monkeypatch.setattr(predictor, "segment", greedy)
    again = dataclasses.replace(config, input=[f"{tmp_path}/in/b.nii.gz"], overwrite=True)
    assert "b.nii.gz: memory ran out" in refusal(again)


@pytest.mark.parametrize("known", [True, False])
def test_it_says_how_volumes_are_scaled_where_the_weights_keep_no_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], known: bool
) -> None:
    files.nifti(tmp_path / "a.nii.gz", files.scan((10, 10, 10))[0])
    more = {} if known else {"plan": None, "spacing": (1.0, 1.0, 1.0)}
    path = weights(tmp_path / "w.safetensors", "classification", **more)
    given = PredictConfig(path, [str(tmp_path / "a.nii.gz")], str(tmp_path / "out"))
    predict(given, Progress())
    said = capsys.readouterr()
    assert ("keeps no plan" in said.out + said.err) != known
