"""What one way of giving data refuses, its sisters refuse too, in the same words."""

from collections.abc import Callable
from pathlib import Path

import files
import numpy as np
import pytest
import torch
from files import message, nifti
from made import Heard
from PIL import Image

from crossd.data.io.images import load_case, shape_of
from crossd.data.opening import open_source
from crossd.data.quality.checks import faults
from crossd.data.quality.survey import survey
from crossd.data.source import Given
from crossd.data.sources.image_files import read_image
from crossd.utils.progress import Progress

QUIET = Progress(quiet=True)
TURNED = 6
"""In EXIF: to be turned by a quarter."""


def noise(seed: int, shape: tuple[int, ...] = (8, 9, 10)) -> np.ndarray:
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def grey(path: Path, seed: int, shape: tuple[int, int] = (12, 10)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def masked(root: Path, kind: str, count: int = 12) -> Path:
    """Write a csv of images or volumes whose masks hold 0 and 1, half of them to train on."""
    root.mkdir(exist_ok=True)
    shape = (12, 10) if kind == ".png" else (8, 9, 10)
    for i in range(count):
        mask = np.zeros(shape, np.uint8)
        mask[2:5, 3:6] = 1
        if kind == ".png":
            grey(root / f"{i}{kind}", i)
            Image.fromarray(mask).save(root / f"{i}-mask{kind}")
        else:
            nifti(root / f"{i}{kind}", noise(i))
            nifti(root / f"{i}-mask{kind}", mask)
    parts = [("train", "train", "val", "test")[i % 4] for i in range(count)]
    lines = [f"{i}{kind},{i}-mask{kind},{part}" for i, part in enumerate(parts)]
    (root / "cases.csv").write_text("\n".join(["image,mask,split", *lines]) + "\n")
    return root / "cases.csv"


def write_mask(path: Path, mask: np.ndarray) -> None:
    if path.suffix == ".png":
        Image.fromarray(mask).save(path)
    else:
        nifti(path, mask)


def told(path: Path) -> list[str]:
    """What is said of samples that cannot be read when they are looked at."""
    listed = faults(survey(str(path), 1000, 0, QUIET))
    return [text for one in listed if one.what == "cannot be read" for text in one.which]


KINDS = pytest.mark.parametrize("kind", [".png", ".nii"])


@KINDS
def test_masks_to_validate_on_are_looked_at_before_a_training(tmp_path: Path, kind: str) -> None:
    path = masked(tmp_path, kind)
    assert open_source(str(path)).values == (0, 1)
    shape = (12, 10) if kind == ".png" else (8, 9, 10)
    write_mask(tmp_path / f"2-mask{kind}", np.full(shape, 7, np.uint8))
    said = message(lambda: open_source(str(path)))
    assert said == f"{tmp_path / f'2-mask{kind}'}: holds 7, but the classes have the values 0, 1"


@KINDS
def test_masks_hold_whole_numbers_of_16_bits(tmp_path: Path, kind: str) -> None:
    path = masked(tmp_path, kind)
    shape = (12, 10) if kind == ".png" else (8, 9, 10)
    mask = np.full(shape, 40_000, np.uint16)
    write_mask(tmp_path / f"0-mask{kind}", mask)
    assert open_source(str(path)).values == (0, 1, 40_000)
    if kind == ".nii":  # no format of images has more bits for one number
        write_mask(tmp_path / f"0-mask{kind}", np.full(shape, 70_000, np.int32))
        said = message(lambda: open_source(str(path)))
        assert said.endswith("holds 70000; a mask holds whole numbers from 0 to 65,535")
        assert any(said in text for text in told(path))


@KINDS
def test_masks_of_another_shape_are_refused_before_a_training(tmp_path: Path, kind: str) -> None:
    path = masked(tmp_path, kind)
    shape = (13, 10) if kind == ".png" else (8, 9, 11)
    write_mask(tmp_path / f"3-mask{kind}", np.zeros(shape, np.uint8))
    said = message(lambda: open_source(str(path)))
    assert "has the shape" in said and said.endswith("image and mask must agree")
    assert any(said in text for text in told(path))


@KINDS
def test_modalities_have_one_shape(tmp_path: Path, kind: str) -> None:
    for i in range(10):
        for modality in (0, 1):
            odd = (i, modality) == (3, 1)
            if kind == ".png":
                grey(tmp_path / f"{i}-{modality}.png", i, (12, 11) if odd else (12, 10))
            else:
                nifti(tmp_path / f"{i}-{modality}.nii", noise(i, (8, 9, 10 + odd)))
    lines = [f"{i}-0{kind},{i}-1{kind},{'ab'[i % 2]}" for i in range(10)]
    path = tmp_path / "cases.csv"
    path.write_text("\n".join(["image,image_2,label", *lines]) + "\n")
    said = message(lambda: open_source(str(path)))
    assert f"3-1{kind}: has the shape" in said and said.endswith("modalities must agree")
    assert any(said in text for text in told(path))
    if kind == ".png":  # as predict reads them
        both = [tmp_path / "3-0.png", tmp_path / "3-1.png"]
        assert message(lambda: read_image(both, 1, (8, 8))) == said


@KINDS
def test_all_cases_have_the_same_modalities(tmp_path: Path, kind: str) -> None:
    def write(name: str, seed: int) -> Path:
        path = tmp_path / "images" / f"{name}{kind}"
        return grey(path, seed) if kind == ".png" else nifti(path, noise(seed))

    for i in range(10):
        write(f"case{i}_0000", i)
        last = write(f"case{i}_0001", i)
        mask = np.ones((12, 10) if kind == ".png" else (8, 9, 10), np.uint8)
        (tmp_path / "labels").mkdir(exist_ok=True)
        write_mask(tmp_path / "labels" / f"case{i}{kind}", mask)
    assert open_source(str(tmp_path)).channels == 2
    last.rename(last.with_name(f"case9_0002{kind}"))
    said = message(lambda: open_source(str(tmp_path)))
    assert "case9_0000" in said
    assert "modalities 0000, 0002, but case0 the modalities 0000, 0001" in said
    last.with_name(f"case9_0002{kind}").unlink()
    assert "all cases must have the same modalities" in message(lambda: open_source(str(tmp_path)))


def test_channels_agree_even_where_all_else_is_known(tmp_path: Path) -> None:
    path = masked(tmp_path, ".nii")
    source = open_source(str(path))
    nifti(tmp_path / "4.nii", noise(4, (8, 9, 10, 2)))
    given = Given(plan=source.plan, classes={0: "background", 1: "1"}, statistics=(0.0, 1.0))
    said = message(lambda: open_source(str(path), given=given))
    assert said.endswith(f"has 2 channels, but {tmp_path / '0.nii'} has 1; all volumes must agree")


def test_floating_point_images(tmp_path: Path) -> None:
    for label in "ab":
        for i in range(10):
            grey(tmp_path / label / f"{i}.png", i + 20 * ord(label))
    odd = tmp_path / "a" / "0.tiff"
    Image.fromarray(noise(0, (12, 10))).save(odd)
    text = f"{odd}: holds floating-point numbers of unknown range; expected 8 or 16 bits"
    assert message(lambda: read_image([odd], 1, (8, 8))) == text
    assert any(text in one for one in told(tmp_path))
    assert message(lambda: load_case([tmp_path / "a" / "0.png"], odd)) == text


def test_images_that_their_camera_turned(tmp_path: Path) -> None:
    image = Image.fromarray(np.zeros((12, 10), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = TURNED
    image.save(tmp_path / "turned.jpg", exif=exif)
    image.save(tmp_path / "plain.png")
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "fits.png")
    assert shape_of(tmp_path / "turned.jpg") == (10, 12)
    assert shape_of(tmp_path / "plain.png") == (
        12,
        10,
    )
    _, mask = load_case([tmp_path / "turned.jpg"], tmp_path / "fits.png")
    assert mask is not None and mask.shape == (10, 12)
    both = [tmp_path / "turned.jpg"], tmp_path / "plain.png"
    assert message(lambda: load_case(*both)).endswith("image and mask must agree")


def volumes_of_classes(root: Path, count: int = 6) -> None:
    for label in "ab":
        for i in range(count):
            nifti(root / label / f"{i}.nii", noise(i + 50 * ord(label)))


def test_class_folders_of_volumes_are_checked_as_those_of_images(tmp_path: Path) -> None:
    volumes_of_classes(tmp_path / "gap")
    (tmp_path / "gap" / "c").mkdir()
    said = message(lambda: open_source(str(tmp_path / "gap")))
    assert f"{tmp_path / 'gap' / 'c'}: no volumes in this class folder; fill or remove it" in said
    for part in ("train", "val", "test"):
        volumes_of_classes(tmp_path / "parts" / part)
    nifti(tmp_path / "parts" / "test" / "new" / "1.nii", noise(1))
    said = message(lambda: open_source(str(tmp_path / "parts")))
    assert "new: this class is not in the training part; remove or add it" in said
    (tmp_path / "parts" / "train").rename(tmp_path / "elsewhere")
    assert "none to train; add it" in message(lambda: open_source(str(tmp_path / "parts")))


def test_images_beside_volumes_of_classes_are_spoken_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    volumes_of_classes(tmp_path)
    grey(tmp_path / "a" / "preview.png", 0)
    open_source(str(tmp_path), progress=Progress())
    said = capsys.readouterr().err
    assert "1 images are left out, as its class folders hold volumes" in said
    assert f"(the first is {Path('a', 'preview.png')})" in said


def test_a_class_that_is_only_tested(tmp_path: Path) -> None:
    parts = ("train", "train", "train", "val", "val", "test", "test")
    for i, _ in enumerate(parts):
        grey(tmp_path / f"{i}.png", i)
    lines = [f"{i}.png,{'ab'[i % 2]},{part}" for i, part in enumerate(parts)]
    path = tmp_path / "cases.csv"
    path.write_text("\n".join(["image,label,split", *lines]) + "\n")
    assert open_source(str(path)).classes == ("a", "b")
    path.write_text(path.read_text().replace("6.png,a", "6.png,c"))
    said = message(lambda: open_source(str(path)))
    assert "6.png: is for test, but no training case has its class c" in said


def test_unlabelled_files_are_looked_into_like_labelled_ones(tmp_path: Path) -> None:
    def opened(folder: str) -> Callable[[], object]:
        return lambda: open_source(str(tmp_path / folder), labels=False)

    grey(tmp_path / "mixed" / "a.png", 0)
    nifti(tmp_path / "mixed" / "b.nii", noise(0))
    assert "mixes volumes (b.nii) and images (a.png)" in message(opened("mixed"))
    (tmp_path / "flat").mkdir()
    for i in range(3):
        plane = (1000 * noise(i, (10, 12))).astype(np.int16)
        files.write_slice(tmp_path / "flat" / f"{i}.dcm", plane, 0.0, **files.NOWHERE)
    flat = open_source(str(tmp_path / "flat"), labels=False)
    assert flat.rank == 2 and len(flat.train) == 3
    files.dicom(tmp_path / "series", (1000 * noise(0)).astype(np.int16))
    series = open_source(str(tmp_path / "series"), labels=False)
    assert series.rank == 3 and len(series.train) == 1
    assert len(survey(str(tmp_path / "series"), 10, 0, QUIET).looks) == 1


def test_links_to_nowhere_are_not_passed_over(tmp_path: Path) -> None:
    for i in range(4):
        grey(tmp_path / "loose" / f"{i}.png", i)
    (tmp_path / "loose" / "4.png").symlink_to(tmp_path / "nowhere.png")
    said = message(lambda: open_source(str(tmp_path / "loose"), labels=False))
    assert "4.png: is a link that leads nowhere" in said
    assert any("4.png" in text for text in told(tmp_path / "loose"))


def test_a_channel_of_one_value_is_found(tmp_path: Path) -> None:
    path = masked(tmp_path, ".nii")
    image = noise(1, (8, 9, 10, 2))
    for i in range(12):
        image[..., 1] = noise(i + 50)
        nifti(tmp_path / f"{i}.nii", image)
    image[..., 1] = 3
    nifti(tmp_path / "5.nii", image)
    assert "5.nii: every value is 3: it shows nothing" in message(lambda: open_source(str(path)))
    found = {one.what.partition(":")[0]: one for one in faults(survey(str(path), 99, 0, QUIET))}
    assert found["show nothing"].which == ["5"]


def test_a_fourth_axis_is_said_to_be_taken_as_channels(tmp_path: Path) -> None:
    for folder, shape in (("four", (8, 9, 10, 3)), ("three", (8, 9, 10))):
        for i in range(12):
            nifti(tmp_path / folder / f"{i}.nii", noise(i, shape))
        rows = "\n".join(f"{i}.nii,{'ab'[i % 2]}" for i in range(12))
        (tmp_path / folder / "cases.csv").write_text(f"image,label\n{rows}\n")
    words = "the 3 volumes along the fourth axis of 0.nii (12 such files) are taken as channels"
    what = "volumes along the axis of time are taken as channels"
    for folder, said in (("four", True), ("three", False)):
        table, heard = str(tmp_path / folder / "cases.csv"), Heard()
        open_source(table, progress=heard)
        assert any(words in line for line in heard.said) == said
        listed = [
            fault.count for fault in faults(survey(table, 100, 0, QUIET)) if fault.what == what
        ]
        assert listed == [12] * said


def test_what_is_damaged_in_an_archive_is_noted(tmp_path: Path) -> None:
    import io
    import tarfile

    for part in ("train", "val"):
        (tmp_path / "shards").mkdir(exist_ok=True)
        with tarfile.open(tmp_path / "shards" / f"{part}-0.tar", "w") as tar:
            for i in range(40):
                stream = io.BytesIO()
                pixels = np.random.default_rng(i).integers(0, 256, (12, 10), dtype=np.uint8)
                Image.fromarray(pixels).save(stream, "PNG")
                content = stream.getvalue()
                content = content[:30] if (part, i) == ("train", 7) else content
                info = tarfile.TarInfo(f"{'ab'[i % 2]}/{i:03}.png")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    found = survey(str(tmp_path / "shards"), 1000, 0, QUIET)
    assert found.total == 80 and found.counts["train"] == {"a": 16, "b": 16}
    (bad,) = told(tmp_path / "shards")
    assert "a/007.png" in bad or "b/007.png" in bad


def test_pictures_of_masks_are_what_was_read(tmp_path: Path) -> None:
    path = masked(tmp_path, ".png")
    sample = open_source(str(path), size=(12, 10)).train[0]
    with Image.open(tmp_path / "0-mask.png") as image:
        assert torch.equal(sample["mask"], torch.from_numpy(np.array(image)).long())
