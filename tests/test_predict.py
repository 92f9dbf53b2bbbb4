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
from PIL import Image

from crossd import checkpoint, segmenting
from crossd.checkpoint import WeightsConfig
from crossd.configs import PredictConfig
from crossd.data import formats, plan
from crossd.data.plan import Intensity, Plan
from crossd.errors import InputError
from crossd.predict import inputs, predict
from crossd.progress import Progress

QUIET = Progress(quiet=True)
PLAN = Plan((1.5, 1.5, 1.5), (16, 16, 16), (Intensity("z-score", 0.5, 99.5),))


def weights(path: Path, task: str = "segmentation", **more: Any) -> str:
    """A network with weights as drawn; its answers mean nothing but are the same each time."""
    model = "segresnet-small" if task == "segmentation" else "resnet-small"
    given = {"plan": plan.to_record(PLAN), "values": (0, 2, 5), "size": (16, 16, 16), **more}
    config = WeightsConfig(model, task, 1, ("background", "a", "b"), **given)
    torch.manual_seed(0)
    checkpoint.save(config.build(), path, config)
    return str(path)


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
    found = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*"))
    assert found == ["a.nii.gz", "deep/b.nrrd", "deep/c.dcm", "deep/c.nii.gz"]
    for name, source in (
        ("a.nii.gz", "a.nii.gz"),
        ("deep/b.nrrd", "deep/b.nrrd"),
        ("deep/c.nii.gz", "deep/c"),
    ):
        mask = formats.read_header(tmp_path / "out" / name)
        volume = formats.read_header(folder / source)
        assert mask.shape == volume.shape
        np.testing.assert_allclose(mask.affine, volume.affine, atol=1e-3)
        assert set(np.unique(formats.read(mask))) <= {0, 2, 5}


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
    assert "1 of 3 could not be read" in message and "b.nii.gz" in message
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.nii.gz", "c.nii.gz"]
    bad.write_bytes(whole)
    calls = []
    segment = segmenting.segment

    def counted(*args: Any) -> Any:
        calls.append(args)
        return segment(*args)

    monkeypatch.setattr(segmenting, "segment", counted)
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
    (tmp_path / "out" / "predictions.csv").write_text("image,class\nx,y,z\n")
    with pytest.raises(InputError, match="is not what crossd predict wrote"):
        predict(config, QUIET)


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
    assert "2 new lines" in predict(PredictConfig(labels, both, str(tmp_path / "out")), QUIET)
    solid = weights(tmp_path / "v.safetensors", "classification", values=())
    with pytest.raises(InputError, match="is an image, but the weights are for volumes"):
        predict(PredictConfig(solid, both[:1], str(tmp_path / "o2")), QUIET)


def test_what_cannot_be_predicted(tmp_path: Path) -> None:
    def message(*paths: Path | str) -> str:
        with pytest.raises(InputError) as caught:
            inputs([str(path) for path in paths], 1)
        return str(caught.value)

    assert "no such file" in message(tmp_path / "none")
    assert "no such file" in message("")
    assert "holds no image or volume" in message(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    assert "cannot be predicted" in message(tmp_path / "a.txt")
    for name in ("a.nii", "a.nii.gz"):
        files.nifti(tmp_path / name, np.ones((4, 4, 4)))
    assert "would be answered as a, like a.nii" in message(tmp_path)
    assert "would be answered as a" in message(tmp_path / "a.nii", tmp_path / "a.nii.gz")


def test_inputs_of_tables_and_modalities(tmp_path: Path) -> None:
    for name in ("x_0000", "x_0001", "y_0000", "y_0001"):
        files.nifti(tmp_path / "in" / f"{name}.nii", np.ones((4, 4, 4)))
    assert [len(c.images) for c in inputs([str(tmp_path / "in")], 2)] == [2, 2]
    assert len(inputs([str(tmp_path / "in")], 1)) == 4
    (tmp_path / "t.csv").write_text("image,image2\nin/x_0000.nii,in/x_0001.nii\n")
    assert [case.name for case in inputs([str(tmp_path / "t.csv")], 2)] == ["in/x_0000"]


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
    assert not list((tmp_path / "out").iterdir())


@files.real_data
@pytest.mark.parametrize("name", ["head_t1", "hippocampus_crop"])
def test_masks_of_real_series_lie_where_simpleitk_puts_them(tmp_path: Path, name: str) -> None:
    import SimpleITK as sitk

    from crossd.data.dicom import series_folders

    folder = next(iter(series_folders(files.SHARED / "dicom" / name)))
    coarse = dataclasses.replace(PLAN, spacing=(4.0, 3.0, 3.0), patch=(32, 48, 48))
    path = weights(tmp_path / "w.safetensors", plan=plan.to_record(coarse))
    out = tmp_path / "out"
    predict(PredictConfig(path, [str(folder)], str(out)), QUIET)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    written = sitk.ReadImage(str(out / f"{folder.name}.nii.gz"))
    assert written.GetSize() == image.GetSize()
    for name in ("GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(written, name)(), getattr(image, name)(), atol=1e-3)
