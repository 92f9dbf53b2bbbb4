"""Masks that are known in part: listed, opened, resampled, cut into slices and patches."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import files
import numpy as np
import pytest
import torch
from files import message
from made import Heard
from PIL import Image
from torch import Tensor

from crossd.data.disk_cache import DiskCache
from crossd.data.io.agreement import IGNORED
from crossd.data.opening import open_source
from crossd.data.patches import Patches
from crossd.data.preprocessing import resample
from crossd.data.preprocessing.plan import Intensity, Plan
from crossd.data.preprocessing.volume_dataset import Cache, TensorVolumes, VolumeSamples
from crossd.data.quality.checks import faults
from crossd.data.quality.survey import survey
from crossd.data.slicing import as_images, slices
from crossd.data.source import Given, Source
from crossd.data.sources.case_files import read_entry
from crossd.data.sources.case_list import Case
from crossd.nn.views import VIEWS
from crossd.utils.progress import Progress

QUIET = Progress(quiet=True)


def partly(mask: np.ndarray, value: int, axis: int = 2, first: int = 3, step: int = 8) -> Any:
    """Leave every eighth slice (x, y, z) of a mask known."""
    found = np.full_like(mask, value)
    where = [slice(None)] * mask.ndim
    where[axis] = slice(first, None, step)
    found[tuple(where)] = mask[tuple(where)]
    return found


def cases(
    root: Path, value: int = 255, count: int = 12, column: str | None = None, **how: int
) -> Path:
    """Write a csv of volumes, known in part but for those to test on."""
    rows = []
    for i in range(count):
        image, mask = files.scan(seed=i)
        part = ("train", "val", "test")[max(0, i - count + 3)]
        files.nifti(root / f"{i}.nii.gz", image)
        mask = mask if part == "test" else partly(mask, value, **how)
        files.nifti(root / f"m{i}.nii.gz", mask)
        rows.append([f"{i}.nii.gz", f"m{i}.nii.gz", part, *([] if column is None else [column])])
    with (root / "cases.csv").open("w", newline="") as file:
        heads = ["image", "mask", "split", *([] if column is None else ["Ignore"])]
        csv.writer(file).writerows([heads, *rows])
    return root / "cases.csv"


def nnunet(root: Path, labels: dict[str, int], value: int) -> Path:
    for i in range(12):
        image, mask = files.scan(seed=i)
        files.nifti(root / "imagesTr" / f"c{i}_0000.nii.gz", image)
        files.nifti(root / "labelsTr" / f"c{i}.nii.gz", partly(mask, value))
    content = {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps({**content, "numTraining": 12}))
    return root


def opened(path: Path, ignore: int | None = None, **more: Any) -> tuple[Source, list[str]]:
    said = Heard()
    given = Given(ignore=ignore, **more)
    return open_source(str(path), given=given, progress=said), said.said


# which value it is


def test_the_option_says_it(tmp_path: Path) -> None:
    source, said = opened(cases(tmp_path), 255)
    assert (source.ignore, source.values) == (255, (0, 1, 2))
    assert said[-1].endswith("cases.csv: 255 is ignored (79% of the voxels)")
    mask = source.train[0]["mask"]
    assert set(mask.unique().tolist()) == {0, 1, 2, IGNORED}
    assert (mask != IGNORED).any(2).any(1).nonzero().flatten().tolist() == [3, 11, 19, 27]
    assert IGNORED not in source.test[0]["mask"]


@pytest.mark.parametrize("text", ["255", "255.0"])
def test_a_csv_says_it(tmp_path: Path, text: str) -> None:
    path = cases(tmp_path, column=text)
    assert opened(path)[0].ignore == 255 == opened(path, 255)[0].ignore
    assert message(lambda: opened(path, 3)).endswith("cases.csv says itself that 255 is ignored")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["255", "", "255"], "line 3: ignore is empty, but 255 above"),
        (["", "255", "255"], "line 3: ignore is 255, but empty above"),
        (["255", "9", "255"], "line 3: ignore is 9, but 255 above"),
        (["x"] * 3, "line 2: ignore is 'x'; expected a whole number"),
        (["1.5"] * 3, "line 2: ignore is '1.5'; expected a whole number"),
        (["0"] * 3, "0 cannot be ignored; expected a value from 1"),
        (["70000"] * 3, "70000 cannot be ignored"),
    ],
)
def test_a_csv_says_it_in_every_line_alike(
    tmp_path: Path, values: Sequence[str], words: str
) -> None:
    path = cases(tmp_path, count=3)
    first, *rows = path.read_text().splitlines()
    lines = [f"{row},{value}" for row, value in zip(rows, values, strict=True)]
    path.write_text("\n".join([f"{first},ignore", *lines]))
    assert words in message(lambda: opened(path))


def test_nnunet_says_it(tmp_path: Path) -> None:
    labels = {"background": 0, "anterior": 1, "posterior": 2, "ignore": 3}
    source, said = opened(nnunet(tmp_path, labels, 3))
    assert (source.ignore, source.values) == (3, (0, 1, 2))
    assert source.classes == ("background", "anterior", "posterior")
    assert "3 is ignored (86% of the voxels)" in said[-1]
    assert message(lambda: opened(tmp_path, 255)).endswith("says itself that 3 is ignored")
    found = survey(str(tmp_path), 99, 0, QUIET)
    told = "masks of the values 0, 1, 2 (2 classes: anterior, posterior); 3 is ignored (86% of the"
    assert told in found.sentence()


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"background": 0, "a": 1, "ignore": 1}, "gives 'ignore' the value 1; expected a value of"),
        ({"background": 0, "a": 1, "ignore": 2, "Ignore": 3}, "differ in capitals, spaces"),
        ({"a": 1, "b": 2, "ignore": 0}, "0 for the background"),
        ({"background": 0, "ignore": 1}, "expected a value for each name"),
    ],
)
def test_what_nnunet_cannot_mean(tmp_path: Path, labels: dict[str, int], words: str) -> None:
    assert words in message(lambda: opened(nnunet(tmp_path, labels, 3)))


def test_a_class_is_not_ignored(tmp_path: Path) -> None:
    labels = {"background": 0, "a": 1, "b": 2, "c": 255}
    assert not any("--ignore" in line for line in opened(nnunet(tmp_path, labels, 255))[1])
    assert not survey(str(tmp_path), 99, 0, QUIET).notes[1:]
    said = message(lambda: opened(tmp_path, 255))
    assert "255 is to be ignored in masks, but is also the class 'c'" in said


def test_what_is_not_declared_is_a_class_and_said_to_be(tmp_path: Path) -> None:
    path = cases(tmp_path)
    source, said = opened(path)
    assert source.ignore is None and source.values == (0, 1, 2, 255)
    assert "hold 255 beside 0 to 2, which is a class" in said[-1] and "--ignore 255" in said[-1]
    notes = survey(str(path), 99, 0, QUIET).notes
    assert any("give --ignore 255" in note for note in notes)
    assert not survey(str(path), 99, 0, QUIET, ignore=255).notes
    labels = {"background": 0, "a": 1, "b": 2}
    assert "give --ignore 255" in message(lambda: opened(nnunet(tmp_path / "n", labels, 255)))


def test_binary_masks_of_255_are_no_matter(tmp_path: Path) -> None:
    for i in range(8):
        image, mask = files.scan(seed=i)
        files.nifti(tmp_path / "images" / f"{i}.nii.gz", image)
        files.nifti(tmp_path / "labels" / f"{i}.nii.gz", np.where(mask, 255, 0).astype(np.uint8))
    source, said = opened(tmp_path)
    assert source.values == (0, 255) and not any("ignore" in line for line in said)
    assert "every training mask is empty" in message(lambda: opened(tmp_path, 255))


def test_what_weights_ignored_is_taken_where_the_classes_are_theirs(tmp_path: Path) -> None:
    path, names = cases(tmp_path), {0: "background", 1: "a", 2: "b"}
    source, said = opened(path, known_classes=names, known_ignore=255)
    assert source.ignore == 255 and source.classes == ("background", "a", "b")
    assert "255 is ignored" in said[-1]
    other = {0: "background", 1: "a"}
    said_of = message(lambda: opened(path, known_classes=other, known_ignore=255))
    assert "which the weights ignored" in said_of and "give --ignore 255 if" in said_of
    assert opened(path, 255, known_classes=other, known_ignore=255)[0].values == (0, 1, 2)


def test_labels_have_nothing_to_ignore(tmp_path: Path) -> None:
    text = "--ignore 255: is for masks, but"
    assert text in message(lambda: opened(Path(files.npz(tmp_path / "a.npz", (8, 8))), 255))
    assert text in message(lambda: survey(str(tmp_path / "a.npz"), 9, 0, QUIET, ignore=255))
    for i, label in enumerate("ababab"):
        files.nifti(tmp_path / f"{i}.nii.gz", files.scan(seed=i)[0])
        with (tmp_path / "labels.csv").open("a") as file:
            file.write(("image,label\n" if not i else "") + f"{i}.nii.gz,{label}\n")
    assert text in message(lambda: opened(tmp_path / "labels.csv", 255))
    assert text in message(lambda: survey(str(tmp_path / "labels.csv"), 9, 0, QUIET, ignore=255))


@pytest.mark.parametrize(("count", "fits"), [(255, True), (256, False)])
def test_no_class_has_the_number_of_what_is_not_known(
    tmp_path: Path, count: int, fits: bool
) -> None:
    for i in range(6):
        blocks = np.arange(256).reshape(16, 16) % count  # each fills a square of 3 x 3 pixels
        mask = np.kron(blocks + 1000 * (blocks > 0), np.ones((3, 3)))[None].repeat(8, 0)
        files.nifti(tmp_path / "images" / f"{i}.nii.gz", files.scan((8, 48, 48), seed=i)[0])
        files.nifti(tmp_path / "labels" / f"{i}.nii.gz", mask.astype(np.uint16))
    if fits:
        assert int(opened(tmp_path, 255)[0].train[0]["mask"].max()) == 254
    else:
        assert "hold 256 values; expected at most 255" in message(lambda: opened(tmp_path))


# masks of which nothing is known


def hide(path: Path, *numbers: int) -> None:
    for i in numbers:
        files.nifti(path.parent / f"m{i}.nii.gz", np.full((20, 24, 28), 255, np.uint8))


def test_cases_of_which_nothing_is_known_are_left_out(tmp_path: Path) -> None:
    path = cases(tmp_path)
    hide(path, 4, 6)
    source, said = opened(path, 255)
    assert len(source.train) == 8
    assert "2 cases are left out, as every voxel of their masks is ignored (the first is 4" in (
        " ".join(said)
    )
    found = {fault.what: fault for fault in faults(survey(str(path), 99, 0, QUIET, ignore=255))}
    fault = found["masks know nothing: every voxel is ignored"]
    assert fault.count == 2 and not fault.grave
    assert not any("no training mask holds" in what for what in found)


@pytest.mark.parametrize(("numbers", "part"), [(range(10), "training"), ([10], "validation")])
def test_parts_of_which_nothing_is_known(tmp_path: Path, numbers: Sequence[int], part: str) -> None:
    path = cases(tmp_path)
    hide(path, *numbers)
    said = message(lambda: opened(path, 255))
    assert f"every voxel of its {part} masks is ignored (255)" in said
    listed = faults(survey(str(path), 99, 0, QUIET, ignore=255))
    (fault,) = [one for one in listed if "masks know nothing" in one.what]
    assert fault.grave == (part == "training")


# what is found in volumes


def test_plans_look_at_known_labels_alone(tmp_path: Path) -> None:
    for i in range(8):
        image, mask = np.full((12, 12, 12), -1000, np.int16), np.full((12, 12, 12), 9, np.uint8)
        image[:, :, :4] = 3000  # not known
        mask[:, :, 4:] = 0
        image[4:8, 4:8, 6:9], mask[4:8, 4:8, 6:9] = 40 + np.arange(4)[:, None, None], 1
        image[0, 0, 11] = i
        files.nifti(tmp_path / "images" / f"{i}.nii.gz", image)
        files.nifti(tmp_path / "labels" / f"{i}.nii.gz", mask)
    plan = opened(tmp_path, 9)[0].plan
    assert plan is not None and plan.intensity == (Intensity("window", 40, 43),)


def test_what_is_kept_on_disk_depends_on_what_is_ignored(tmp_path: Path) -> None:
    path, stored = cases(tmp_path / "data"), DiskCache(tmp_path / "kept")
    for _ in range(2):  # made, then found
        known = opened(path, 255, stored=stored)[0]
        other = opened(path, stored=stored)[0]
        assert known.values == (0, 1, 2) and other.values == (0, 1, 2, 255)
        assert int(known.train[0]["mask"].max()) == IGNORED
        assert int(other.train[0]["mask"].max()) == 3


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 1.5, 3.1), (0.6, 0.7, 1.0)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_single_slices_are_those_of_the_whole(
    tmp_path: Path, spacing: tuple[float, float, float], axis: int
) -> None:
    image, mask = files.scan((12, 13, 14))
    mask[np.random.default_rng(0).random(mask.shape) < 0.3] = 7
    case = Case(
        "a",
        (files.nifti(tmp_path / "a.nii", image),),
        files.nifti(tmp_path / "m.nii", partly(mask, 7, axis=axis, step=3)),
        ignore=7,
    )
    plan = Plan(spacing, (8, 8, 8), (Intensity("z-score", 0.5, 99.5),))
    made = [VolumeSamples([read_entry(case)], plan, (0, 1, 2), None, Cache(0)) for _ in range(2)]
    whole = made[0][0]["mask"]
    made[1][0]  # now its limits are known, and slices are read alone
    for across in range(3):
        for position in range(whole.shape[across]):
            plane = made[1].plane(0, across, position)["mask"]
            assert torch.equal(plane, whole.select(across, position))


@pytest.mark.parametrize("target", range(1, 30))
def test_each_voxel_is_in_one_coarser_one(target: int) -> None:
    for source in range(1, 30):
        rows = [resample.covered(source, target, position) for position in range(target)]
        assert [row[0] for row in rows] == [
            resample.nearest(source, target, position) for position in range(target)
        ]
        if source >= target:
            assert sorted(voxel for row in rows for voxel in row) == list(range(source))


def test_coarser_masks_keep_what_is_known() -> None:
    mask = torch.full((16, 4, 4), IGNORED, dtype=torch.uint8)
    mask[::4] = 1  # between the voxels that would be taken
    for depth in (4, 5, 8, 11):
        found = resample.mask(mask, (depth, 4, 4))
        assert int((found == 1).any(2).any(1).sum()) == 4
    one = torch.full((1, 9, 9), IGNORED, dtype=torch.uint8)
    one[0, 0, 8] = 2
    assert resample.mask(one, (1, 3, 3))[0].tolist() == [[255, 255, 2], [255] * 3, [255] * 3]
    finer = resample.mask(one, (1, 18, 18))
    assert int((finer == 2).sum()) == 4 and int((finer == IGNORED).sum()) == 320


# slices


def volumes(*masks: Tensor, ignore: int | None = 255) -> Source:
    images = [torch.rand(1, *mask.shape) for mask in masks]
    part = TensorVolumes(images, masks, (16, 16, 16))
    names = ("background", "a")
    size = tuple(masks[0].shape)
    return Source("made", 3, "segmentation", 1, names, size, part, part, part, ignore=ignore)


def ball(side: int = 24) -> Tensor:
    return torch.from_numpy(
        files.ball((side,) * 3, (side / 2 - 0.5,) * 3, side / 3).astype(np.uint8)
    )


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("step", [None, 1, 2, 8])
def test_labelled_slices_train_in_2d(axis: int, step: int | None) -> None:
    mask = torch.full((24, 24, 24), IGNORED, dtype=torch.uint8)
    mask.movedim(axis, 0)[::8] = ball().movedim(axis, 0)[::8]
    planes = slices(volumes(mask), (VIEWS[axis],), step=step)
    train, val = (part.index.tolist() for part in (planes.train, planes.val))  # type: ignore[attr-defined]
    assert val == [[0, axis, position] for position in (0, 8, 16)]
    assert train == [[0, axis, position] for position in (8, 16)]  # the first has no label
    assert all(IGNORED not in planes.train[i]["mask"] for i in range(2))


def test_steps_go_from_known_slice_to_known_slice() -> None:
    mask = torch.full((24, 24, 24), IGNORED, dtype=torch.uint8)
    mask[[5, 6, 7, 8, 14, 15]] = ball()[[5, 6, 7, 8, 14, 15]]
    for step, places in ((1, [5, 6, 7, 8, 14, 15]), (2, [6, 8, 14]), (9, [8])):
        planes = slices(volumes(mask), ("axial",), step=step)
        assert [row[2] for row in planes.val.index.tolist()] == places  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("step", "views", "counts"),
    [
        (8, None, [2, 7, 7]),
        (8, ("axial", "sagittal"), [2, 0, 7]),
        (12, None, [1, 0, 0]),
        (12, VIEWS, [1, 8, 8]),
    ],
)
def test_lines_serve_where_there_are_enough_or_their_views_are_named(
    step: int, views: Sequence[str] | None, counts: list[int]
) -> None:
    mask = torch.full((24, 24, 24), IGNORED, dtype=torch.uint8)
    mask[::step] = ball()[::step]
    planes = slices(volumes(mask), views)
    found = np.bincount(np.asarray(planes.train.views), minlength=3)
    assert found.tolist() == counts
    tested = np.unique(np.asarray(planes.test.views)).tolist()
    assert tested == np.flatnonzero(counts).tolist()
    partly = [IGNORED in planes.train[i]["mask"] for i in range(len(planes.train))]
    assert sum(partly) == sum(counts[1:])


@pytest.mark.parametrize(
    "known",
    [
        lambda m: m[4:20, 6:18, 8:20].fill_(1),  # a box
        lambda m: m[torch.rand(m.shape, generator=torch.Generator().manual_seed(0)) < 0.1].fill_(1),
        lambda m: m[1::2].fill_(1),
    ],
    ids=["box", "scattered", "every second"],
)
def test_axes_that_are_known_alike_serve_alike(known: Callable[[Tensor], Tensor]) -> None:
    there = torch.zeros(25, 25, 25, dtype=torch.uint8)
    known(there)
    if not there.any():  # a selection by a mask is a copy
        there[torch.rand(there.shape, generator=torch.Generator().manual_seed(0)) < 0.1] = 1
    mask = torch.where(there > 0, ball(25), IGNORED)
    views = slices(volumes(mask)).train.views
    assert views is not None and set(views.tolist()) == {0, 1, 2}


def test_known_slices_are_those_of_before() -> None:
    views = [0, 1, 2]
    for step in (None, 1, 3):
        whole = slices(volumes(ball(), ball(17), ignore=None), step=step)
        index = whole.val.index.tolist()  # type: ignore[attr-defined]
        expected = [
            [volume, view, p]
            for volume, side in enumerate((24, 17))
            for view in views
            for p in range(min((step or 2) // 2, side - 1), side, step or 2)
        ]
        assert index == expected


def test_large_slices_are_cut_about_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crossd.data.slicing.LARGEST", 16)
    mask = torch.full((8, 64, 48), IGNORED, dtype=torch.uint8)
    mask[:, 40:50, 30:40] = 0
    mask[::2, 44, 36] = 1
    planes = slices(volumes(mask), ("axial",), step=1)
    for i, count in ((0, 1), (1, 0)):
        cut = planes.val[i]["mask"]
        assert cut.shape == (16, 16) and int((cut == 1).sum()) == count
        assert int((cut != IGNORED).sum()) > 50


def test_it_is_said_which_slices_are_taken(tmp_path: Path) -> None:
    source, _ = opened(cases(tmp_path, axis=1, first=11, step=30), 255)
    said = Heard()
    as_images(source, None, None, said)
    assert "give 0 axial, " in said.said[0] and "coronal, 0 sagittal slices with" in said.said[0]
    assert "--slices axial,coronal,sagittal takes those too" in said.said[0]
    as_images(source, "axial,coronal,sagittal", None, said)
    assert " 0 " not in said.said[1] and "takes those" not in said.said[1]


# patches


def test_patches_hold_what_is_known() -> None:
    mask = torch.full((40, 40, 40), IGNORED, dtype=torch.uint8)
    mask[7, 3:6, 30:33] = 0
    mask[7, 4, 31] = 1
    made = Patches(volumes(mask).train, (8, 8, 8), 0)
    starts = set()
    for epoch in range(100):
        made.set_epoch(epoch)
        found = made[0]["mask"]
        assert (found != IGNORED).any()
        starts.add(tuple((found != IGNORED).nonzero()[0].tolist()))
    assert len(starts) > 30


def test_what_is_ignored_is_no_class_to_draw() -> None:
    mask = torch.full((40, 40, 40), IGNORED, dtype=torch.uint8)
    mask[2:38, 2:38, 2:38] = 0
    mask[20, 20, 20] = 1
    made = Patches(volumes(mask).train, (8, 8, 8), 0)
    held = 0
    for epoch in range(100):
        made.set_epoch(epoch)
        held += int((made[0]["mask"] == 1).any())
    assert held > 55  # two in three are about the one label


@pytest.mark.parametrize("rank", [2, 3])
def test_augmented_masks_hold_no_other_values(rank: int) -> None:
    mask = torch.full((24,) * rank, IGNORED, dtype=torch.uint8)
    mask[4:20] = 1
    mask[8:12] = 0
    images = [torch.rand(1, *mask.shape)]
    made = Patches(TensorVolumes(images, [mask], tuple(mask.shape)), None, 0, augment=True)
    for epoch in range(10):
        made.set_epoch(epoch)
        assert set(made[0]["mask"].unique().tolist()) <= {0, 1, IGNORED}


# images


def test_images_known_in_part(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for i in range(12):
        mask = np.full((40, 48), 9, np.uint8)
        mask[::8] = 4 * rng.integers(0, 2, (5, 48))
        image = (rng.integers(0, 90, mask.shape) + 100 * (mask == 4)).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / "images" / f"{i}.png")
        Image.fromarray(mask).save(tmp_path / "masks" / f"{i}.png")
    said = Heard()
    source = open_source(str(tmp_path), size=[20, 24], given=Given(ignore=9), progress=said)
    assert (source.rank, source.values, source.ignore) == (2, (0, 4), 9)
    assert "9 is ignored (88% of the voxels)" in said.said[-1]
    found = source.train[0]["mask"]
    assert found.shape == (20, 24) and set(found.unique().tolist()) == {0, 1, IGNORED}
    assert int((found != IGNORED).any(1).sum()) == 5  # none of the rows was lost
