from pathlib import Path
from typing import Any

import files
import numpy as np
import pytest
import torch
from files import PLAN, message

from crossd.data.opening import open_source
from crossd.data.preprocessing.plan import Intensity, Plan
from crossd.data.preprocessing.volume_dataset import Cache, VolumeSamples
from crossd.data.source import Given
from crossd.data.sources.case_files import read_entry
from crossd.data.sources.case_list import Case
from crossd.errors import InputError


def samples(paths: list[Path], masks: list[Path], plan: Plan, cache: float = 1e9) -> VolumeSamples:
    entries = [
        read_entry(Case(str(i), (image,), mask))
        for i, (image, mask) in enumerate(zip(paths, masks, strict=True))
    ]
    return VolumeSamples(entries, plan, (0, 1, 2), None, Cache(cache))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 1.3, 2.5)])
@pytest.mark.parametrize("axes", [None, (2, 1, 0), (0, 2, 1)])
@pytest.mark.parametrize(
    "how",
    [
        PLAN.intensity[0],
        Intensity("z-score", 0, 100, region="nonzero"),
        Intensity("z-score", 0, 100, region="box"),
        Intensity("window", 0, 150, mean=40.0, std=12.0),
        Intensity("none", 0, 1),
    ],
    ids=lambda how: f"{how.kind}-{how.region}",
)
def test_planes_are_those_of_the_whole(
    tmp_path: Path, spacing: tuple[float, ...], how: Intensity, axes: tuple[int, int, int] | None
) -> None:
    image, mask = files.scan((12, 14, 16))
    image[:3], image[6, 6, 6] = 0, 0
    affine = np.diag([-1.0, 1.2, 1.0, 1.0])
    made = samples(
        [files.nifti(tmp_path / "a.nii", image, affine)],
        [files.nifti(tmp_path / "m.nii", mask, affine)],
        Plan(spacing, (8, 8, 8), (how,), axes),  # type: ignore[arg-type]
        cache=0,
    )
    whole = made[0]
    assert whole["mask"].shape == whole["image"].shape[1:] == made.size(0)
    for axis in range(3):
        for position in range(made.size(0)[axis]):
            plane = made.plane(0, axis, position)
            expected = whole["image"].select(axis + 1, position)
            torch.testing.assert_close(plane["image"], expected, atol=1e-5, rtol=1e-5)
            assert torch.equal(plane["mask"], whole["mask"].select(axis, position))


def test_planes_of_uncompressed_files_are_read_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crossd.data.io import read as io_read

    image, mask = files.scan((12, 14, 16))
    made = samples(
        [files.nifti(tmp_path / "a.nii", image)], [files.nifti(tmp_path / "m.nii", mask)], PLAN, 0
    )
    _ = made[0]
    sizes = []
    read = io_read.read

    def spy(*args: Any) -> Any:
        array = read(*args)
        sizes.append(array.shape)
        return array

    monkeypatch.setattr(io_read, "read", spy)
    made.plane(0, 0, 3)
    assert sizes == [(1, 1, 14, 12), (1, 1, 14, 12)]


def test_volumes_are_kept_while_there_is_room(tmp_path: Path) -> None:
    image, mask = files.scan((8, 8, 8))
    paths = [files.nifti(tmp_path / f"{i}.nii", image) for i in range(3)]
    masks = [files.nifti(tmp_path / f"m{i}.nii", mask) for i in range(3)]
    size = 8**3 * 5
    made = samples(paths, masks, PLAN, cache=2.5 * size)
    for i in range(3):
        _ = made[i]
    assert sorted(made.cache.kept) == [0, 1]
    for path in (*paths[:2], *masks[:2]):
        path.unlink()
    assert made[1]["image"].shape == (1, 8, 8, 8)
    with pytest.raises(InputError):
        paths[2].write_bytes(b"gone")
        _ = made[2]


def test_values_of_masks_need_not_follow_each_other(tmp_path: Path) -> None:
    root = files.pairs(tmp_path, 10, (8, 8, 8))
    for i, path in enumerate(sorted((root / "labels").iterdir())):
        _, mask = files.scan((8, 8, 8), seed=i)
        mask[0, 0, 0] = 2
        files.nifti(path, np.array([0, 4, 205], np.uint8)[mask])
    source = open_source(str(root))
    assert source.values == (0, 4, 205) and source.classes == ("background", "4", "205")
    assert {int(v) for i in range(len(source.train)) for v in source.train[i]["mask"].unique()} == {
        0,
        1,
        2,
    }
    named = open_source(str(root), given=Given(classes={0: "air", 4: "liver", 205: "x"}))
    assert named.classes == ("air", "liver", "x")


def test_masks_that_do_not_fit(tmp_path: Path) -> None:
    image, mask = files.scan((8, 8, 8))
    a = files.nifti(tmp_path / "a.nii", image)
    entry = Case("a", (a,), files.nifti(tmp_path / "m.nii", mask[1:]))
    assert "m.nii: has the shape (7, 8, 8)" in message(lambda: read_entry(entry))
    moved = np.eye(4)
    moved[0, 3] = 1
    entry = Case("a", (a,), files.nifti(tmp_path / "m.nii", mask, moved))
    assert "their origin differs" in message(lambda: read_entry(entry))
    many = np.repeat(mask[..., None], 2, 3)
    entry = Case("a", (a,), files.nifti(tmp_path / "m.nii", many))
    assert "a mask holds one" in message(lambda: read_entry(entry))
    for value, words in ((7, "holds 7, but the classes"), (0.5, "holds 0.5"), (-1, "holds -1")):
        odd = mask.astype(np.float32)
        odd[1, 1, 1] = value
        made = samples([a], [files.nifti(tmp_path / "m.nii", odd)], PLAN)
        text = message(lambda made=made: made[0])
        assert words in text and "m.nii" in text


def test_bad_volumes_are_named_when_a_source_is_opened(tmp_path: Path) -> None:
    root = files.pairs(tmp_path, 10, (8, 8, 8))
    source = open_source(str(root), seed=0)
    name = source.train.name(0)
    path = root / "images" / f"{name}.nii.gz"
    for array, words in (
        (np.full((8, 8, 8), 3.0), "every value is 3"),
        (np.full((8, 8, 8), np.nan), "NaN"),
        (np.random.default_rng(0).normal(size=(8, 8, 8, 2)), "channels"),
        (np.zeros((8, 8, 8, 30)), "(8, 8, 8, 30)"),
    ):
        files.nifti(path, array)
        text = message(lambda: open_source(str(root)))
        assert words in text, text
        assert str(path) in text or "channels" in text


def test_a_csv_of_volumes_with_labels(tmp_path: Path) -> None:
    lines = ["image,image_2,label,group"]
    for i in range(20):
        image, _ = files.scan((10 + i % 3, 12, 9), seed=i)
        files.nifti(tmp_path / f"a{i}.nii.gz", image)
        files.itk(tmp_path / f"b{i}.nrrd", image[::-1, ::-1])
        lines.append(f"a{i}.nii.gz,b{i}.nrrd,{'ab'[i % 2]},p{i // 2}")
    (tmp_path / "cases.csv").write_text("\n".join(lines))
    with pytest.raises(InputError, match="must lie in the same place"):
        open_source(str(tmp_path / "cases.csv"))
    (tmp_path / "cases.csv").write_text("\n".join(lines).replace(",image_2", ",other"))
    source = open_source(str(tmp_path / "cases.csv"))
    assert (source.rank, source.task, source.channels) == (3, "classification", 1)
    assert source.classes == ("a", "b") and source.plan is not None
    assert source.train.labels is not None and source.train[0]["label"] in (0, 1)
    assert len(source.train) + len(source.val) + len(source.test) == 20


def test_class_folders_of_dicom_series(tmp_path: Path) -> None:
    for i in range(10):
        image, _ = files.scan((8, 8, 6), seed=i)
        files.dicom(tmp_path / "ab"[i % 2] / f"s{i}", image, modality="MR")
    source = open_source(str(tmp_path))
    assert source.rank == 3 and source.classes == ("a", "b")
    assert source.plan is not None and source.plan.intensity[0].kind == "z-score"
    assert open_source(str(tmp_path), size=[4]).plan.patch == (4, 4, 4)  # type: ignore[union-attr]


def test_modalities_are_channels(tmp_path: Path) -> None:
    for i in range(10):
        image, mask = files.scan((8, 8, 8), seed=i)
        for modality, array in enumerate((image, -image, image**2)):
            files.nifti(tmp_path / "imagesTr" / f"c{i}_{modality:04}.nii.gz", array)
        files.nifti(tmp_path / "labelsTr" / f"c{i}.nii.gz", mask)
    source = open_source(str(tmp_path))
    assert source.channels == 3 and source.train[0]["image"].shape[0] == 3
    x = source.train[0]["image"]
    assert torch.corrcoef(x[:2].flatten(1))[0, 1] < -0.99


def test_large_slices_are_cut_about_the_labels(tmp_path: Path, monkeypatch: Any) -> None:
    from crossd.data import slicing

    monkeypatch.setattr(slicing, "LARGEST", 16)
    root = files.pairs(tmp_path, 10, (20, 40, 24))
    made = slicing.slices(open_source(str(root)), ("axial",))
    assert made.size == (16, 16)
    assert all(made.train[i]["mask"].any() for i in range(len(made.train)))


def test_files_that_are_both_images_and_volumes(tmp_path: Path) -> None:
    from PIL import Image

    for i in range(5):
        files.nifti(tmp_path / f"a{i}.nii", np.full((4, 4, 4), i, np.int16))
        Image.new("L", (4, 4), i).save(tmp_path / f"b{i}.png")
    lines = "".join(f"a{i}.nii,1\nb{i}.png,2\n" for i in range(5))
    (tmp_path / "c.csv").write_text(f"image,label\n{lines}")
    assert "mixes volumes (a0.nii) and images (b0.png)" in message(
        lambda: open_source(str(tmp_path / "c.csv"))
    )
