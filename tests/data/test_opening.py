import hashlib
import http.server
import os
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import files
import nibabel as nib
import numpy as np
import pytest
import torch
from files import SHARED, nifti, real_data
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from crossd.data.dataset import Sample, Samples
from crossd.data.opening import open_source
from crossd.data.slicing import slices
from crossd.data.source import Source, limit, require_rank
from crossd.data.splits import pick, split
from crossd.errors import InputError
from crossd.training.batches import Feed
from crossd.training.loop import TrainConfig
from crossd.utils.progress import Progress

RNG = np.random.default_rng(0)


def arrays(
    shape: tuple[int, ...], classes: int = 3, counts: tuple[int, int, int] = (12, 6, 6)
) -> dict[str, Any]:
    """Arrays in the layout of MedMNIST."""
    made: dict[str, Any] = {}
    for part, count in zip(("train", "val", "test"), counts, strict=True):
        made[f"{part}_images"] = RNG.integers(0, 256, (count, *shape), dtype=np.uint8)
        made[f"{part}_labels"] = (np.arange(count) % classes).astype(np.uint8)[:, None]
    return made


def npz(folder: Path, **values: Any) -> str:
    path = folder / "data.npz"
    np.savez(path, **values)
    return str(path)


def pairs(root: Path, count: int = 10, shape: tuple[int, int, int] = (9, 11, 13)) -> Path:
    """Images of the given (x, y, z) shape whose mask is a box of the labels 1 and 2."""
    for i in range(count):
        mask = np.zeros(shape, np.uint8)
        mask[2:5, 3:7, 4:8] = 1
        mask[2:5, 3:7, 8:10] = 2
        noise = RNG.normal(0, 0.1, shape)
        nifti(root / "images" / f"case_{i}.nii.gz", (mask + noise).astype(np.float32))
        nifti(root / "labels" / f"case_{i}.nii.gz", mask)
    return root


def folders(root: Path, mode: str = "L", count: int = 10) -> Path:
    """Class folders of which one is dark and one is bright."""
    for name, level in (("bright", 200), ("dark", 20)):
        (root / name).mkdir(parents=True)
        for i in range(count):
            shape = (20, 30, 3) if mode == "RGB" else (20, 30)
            pixels = RNG.integers(level, level + 50, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def raised(action: Callable[[], object]) -> str:
    """Return the message of the InputError, which must be one line."""
    with pytest.raises(InputError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    return message


def same(first: Samples, second: Samples) -> bool:
    return len(first) == len(second) and all(
        torch.equal(first[i]["image"], second[i]["image"]) for i in range(len(first))
    )


# npz


@pytest.mark.parametrize(
    ("shape", "rank", "channels"),
    [
        ((10, 12), 2, 1),
        ((10, 12, 3), 2, 3),
        ((10, 12, 1), 2, 1),
        ((6, 7, 8), 3, 1),
        ((6, 7, 8, 3), 3, 3),
    ],
)
def test_npz_tells_images_from_volumes(
    tmp_path: Path, shape: tuple[int, ...], rank: int, channels: int
) -> None:
    values = arrays(shape)
    source = open_source(npz(tmp_path, **values))
    spatial = shape[:rank]
    assert (source.rank, source.channels, source.size) == (rank, channels, spatial)
    assert source.classes == ("0", "1", "2")
    sample = source.train[1]
    assert sample["image"].shape == (channels, *spatial)
    assert sample["image"].dtype == torch.float32
    assert sample["label"].dtype == torch.int64 and sample["label"].item() == 1
    assert sample.get("view") == (-1 if rank == 2 else None)
    assert source.train.labels is not None and source.train.labels.dtype == np.int64
    raw = torch.from_numpy(values["train_images"][1].reshape(*spatial, channels)).movedim(-1, 0)
    restored = sample["image"] * source.std + source.mean
    torch.testing.assert_close(restored, raw.float() / 255)


def test_npz_train_images_are_normalised(tmp_path: Path) -> None:
    source = open_source(npz(tmp_path, **arrays((10, 10))))
    images = torch.stack([source.train[i]["image"] for i in range(len(source.train))])
    torch.testing.assert_close(images.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(images.std(correction=0), torch.tensor(1.0))


def test_npz_of_floats_is_scaled_by_the_training_part(tmp_path: Path) -> None:
    values: dict[str, Any] = arrays((10, 10))
    for part in ("train", "val", "test"):
        values[f"{part}_images"] = values[f"{part}_images"].astype(np.float64) * 40 - 1000
    source = open_source(npz(tmp_path, **values))
    images = [source.train[i]["image"] * source.std + source.mean for i in range(12)]
    assert min(x.min() for x in images) == pytest.approx(0, abs=1e-6)
    assert max(x.max() for x in images) == pytest.approx(1)


def test_npz_without_splits_is_split_by_seed(tmp_path: Path) -> None:
    images = np.arange(40, dtype=np.int16)[:, None, None] * np.ones((40, 8, 8), np.int16)
    images[:, 4:] += 1  # none shows nothing
    path = npz(tmp_path, images=images, labels=np.arange(40) % 2)
    first, again, other = (open_source(path, seed=seed) for seed in (0, 0, 1))
    assert [len(part) for part in (first.train, first.val, first.test)] == [28, 4, 8]
    assert same(first.train, again.train) and not same(first.train, other.train)
    parts = (first.train, first.val, first.test)
    values = [part[i]["image"][0, 0, 0].item() for part in parts for i in range(len(part))]
    assert len({round(value, 4) for value in values}) == 40
    assert first.test.labels is not None
    assert np.bincount(first.test.labels).tolist() == [4, 4]


def test_npz_is_resized(tmp_path: Path) -> None:
    path = npz(tmp_path, **arrays((6, 7, 8)))
    assert open_source(path, size=(12,)).train[0]["image"].shape == (1, 12, 12, 12)
    assert open_source(path, size=(5, 6, 7)).size == (5, 6, 7)
    assert "--size 5,6" in raised(lambda: open_source(path, size=(5, 6)))
    assert "--size 0" in raised(lambda: open_source(path, size=(0,)))


def test_channels_are_adapted(tmp_path: Path) -> None:
    grey = npz(tmp_path, **arrays((10, 10)))
    image = open_source(grey, channels=3).train[0]["image"]
    assert image.shape == (3, 10, 10) and torch.equal(image[0], image[2])
    colour = npz(tmp_path, **arrays((10, 10, 3)))
    three, one = open_source(colour), open_source(colour, channels=1)
    assert one.channels == 1
    mean = (three.train[0]["image"] * three.std + three.mean).mean(0, keepdim=True)
    torch.testing.assert_close(one.train[0]["image"] * one.std + one.mean, mean)
    message = raised(lambda: open_source(colour, channels=2))
    assert colour in message and "has 3 channels, 2 are wanted" in message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"val_labels": None}, "lacks val_labels"),
        ({"train_labels": np.array([-1] * 12)}, "holds -1"),
        ({"train_labels": np.array([0.5] * 12)}, "holds 0.5"),
        ({"train_labels": np.array([np.nan] * 12)}, "holds nan"),
        ({"val_labels": np.array([7] * 6)}, "a val label is 7"),
        ({"train_labels": np.zeros(12)}, "two classes"),
        ({"train_labels": np.zeros((12, 14))}, "labels of several shapes"),
        ({"train_labels": np.array(["a"] * 12)}, "expected numbers"),
        ({"train_images": np.zeros((12, 3, 10, 10), np.uint8)}, "channels last"),
        ({"train_images": np.zeros((12, 10), np.uint8)}, "expected (N, H, W)"),
        ({"train_images": np.zeros((0, 10, 10), np.uint8)}, "empty"),
        ({"val_images": np.zeros((6, 9, 10), np.uint8)}, "all splits must agree"),
        ({"train_images": np.full((12, 10, 10), 9, np.uint8)}, "two labels"),
        ({"train_images": np.array([None] * 12)}, "objects"),
    ],
)
def test_bad_npz(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    values = {k: v for k, v in {**arrays((10, 10)), **change}.items() if v is not None}
    path = npz(tmp_path, **values)
    message = raised(lambda: open_source(path))
    assert path in message and words in message


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_npz_with_numbers_that_are_none(tmp_path: Path, bad: float) -> None:
    images = RNG.random((20, 8, 8))
    images[3, 4, 5] = bad
    path = npz(tmp_path, images=images, labels=np.arange(20) % 2)
    assert "NaN or infinity" in raised(lambda: open_source(path))


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_truncated_npz(tmp_path: Path, keep: float) -> None:
    path = Path(npz(tmp_path, **arrays((10, 10))))
    content = path.read_bytes()
    path.write_bytes(content[: int(keep if keep > 1 else keep * len(content))])
    message = raised(lambda: open_source(str(path)))
    assert str(path) in message and "damaged" in message


def test_corrupted_npz(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez_compressed(path, **arrays((10, 10)))
    content = bytearray(path.read_bytes())
    content[200:260] = bytes(60)
    path.write_bytes(content)
    assert "damaged" in raised(lambda: open_source(str(path)))


def test_single_array_named_npz(tmp_path: Path) -> None:
    with (tmp_path / "data.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    assert "single array" in raised(lambda: open_source(str(tmp_path / "data.npz")))


# medmnist


@pytest.fixture
def medmnist_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import medmnist.info

    root = tmp_path / "root"
    monkeypatch.setattr(medmnist.info, "DEFAULT_ROOT", str(root))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return root


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=str(folder))
    ) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", folder
        running.shutdown()
        thread.join()


def serve(monkeypatch: pytest.MonkeyPatch, url: str, md5: str, suffix: str = "") -> None:
    import medmnist

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setitem(medmnist.INFO["organmnist3d"], f"url{suffix}", url)
    monkeypatch.setitem(medmnist.INFO["organmnist3d"], f"MD5{suffix}", md5)


def test_medmnist_with_several_findings_an_image(medmnist_root: Path) -> None:
    rng = np.random.default_rng(0)
    medmnist_root.mkdir(exist_ok=True)
    made = {}
    for part, count in (("train", 30), ("val", 6), ("test", 6)):
        made[f"{part}_images"] = rng.integers(0, 255, (count, 28, 28), dtype=np.uint8)
        made[f"{part}_labels"] = rng.integers(0, 2, (count, 14), dtype=np.uint8)
    np.savez(medmnist_root / "chestmnist.npz", allow_pickle=False, **made)
    source = open_source("medmnist:chestmnist")
    assert source.task == "multilabel" and source.train[0]["label"].shape == (14,)
    assert source.classes[:2] == ("atelectasis", "cardiomegaly")


@pytest.mark.parametrize("suffix", ["", "_64"])
def test_medmnist_is_downloaded_once(
    tmp_path: Path,
    medmnist_root: Path,
    server: tuple[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
) -> None:
    url, folder = server
    content = Path(npz(tmp_path, **arrays((8, 8, 8), classes=11))).read_bytes()
    (folder / "organ.npz").write_bytes(content)
    serve(monkeypatch, f"{url}/organ.npz", hashlib.md5(content).hexdigest(), suffix)
    spec = "medmnist:organmnist3d" + suffix.replace("_", ":")
    source = open_source(spec)
    assert (source.name, source.rank, source.classes[0]) == (spec, 3, "liver")
    assert [p.name for p in medmnist_root.iterdir()] == [f"organmnist3d{suffix}.npz"]
    (folder / "organ.npz").unlink()
    assert same(open_source(spec).train, source.train)


def test_medmnist_with_a_wrong_md5_leaves_nothing(
    tmp_path: Path,
    medmnist_root: Path,
    server: tuple[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, folder = server
    shutil.copy(npz(tmp_path, **arrays((8, 8, 8))), folder / "organ.npz")
    serve(monkeypatch, f"{url}/organ.npz", "0" * 32)
    message = raised(lambda: open_source("medmnist:organmnist3d"))
    assert "organmnist3d.npz: the download failed" in message and url in message
    assert not list(medmnist_root.iterdir())


def test_medmnist_takes_a_local_file_first(tmp_path: Path, medmnist_root: Path) -> None:
    shutil.copy(npz(tmp_path, **arrays((8, 8, 8))), "organmnist3d.npz")
    source = open_source("medmnist:organmnist3d")
    assert source.classes == ("0", "1", "2")
    assert not medmnist_root.exists()


def test_unknown_medmnist() -> None:
    assert "no such data set" in raised(lambda: open_source("medmnist:nothing"))
    assert "no such size" in raised(lambda: open_source("medmnist:organmnist3d:50"))


# class folders


def test_class_folders_are_split_by_seed(tmp_path: Path) -> None:
    source = open_source(str(folders(tmp_path)), size=(16, 24))
    assert (source.rank, source.classes, source.channels) == (2, ("bright", "dark"), 1)
    assert [len(part) for part in (source.train, source.val, source.test)] == [14, 2, 4]
    assert source.val.labels is not None and sorted(source.val.labels) == [0, 1]
    sample = source.train[0]
    assert sample["image"].shape == (1, 16, 24) and sample["view"] == -1
    for i in range(len(source.train)):
        bright = source.train[i]["image"].mean() > 0
        assert bright == (source.train[i]["label"] == 0)


def test_folders_of_splits(tmp_path: Path) -> None:
    folders(tmp_path / "train")
    folders(tmp_path / "val", count=4)
    drawn = open_source(str(tmp_path))
    assert drawn.size == (64, 64)
    assert [len(part) for part in (drawn.train, drawn.val, drawn.test)] == [16, 8, 4]
    folders(tmp_path / "test", count=5)
    source = open_source(str(tmp_path))
    assert [len(part) for part in (source.train, source.val, source.test)] == [20, 8, 10]


def test_colour_is_seen(tmp_path: Path) -> None:
    source = open_source(str(folders(tmp_path / "colour", "RGB")))
    assert source.channels == 3 and source.train[0]["image"].shape == (3, 64, 64)
    grey = folders(tmp_path / "grey")
    for file in grey.rglob("*.png"):
        Image.open(file).convert("RGB").save(file)
    assert open_source(str(grey)).channels == 1


def test_16_bit_images_keep_their_values(tmp_path: Path) -> None:
    folders(tmp_path)
    for file in tmp_path.rglob("*.png"):
        with Image.open(file) as image:
            deep = np.asarray(image).astype(np.uint16) * 256
        Image.fromarray(deep).save(file)
    source = open_source(str(tmp_path), size=(8, 8))
    top = max((source.train[i]["image"] * source.std + source.mean).max() for i in range(14))
    assert 0.7 < float(top) < 1


def test_bad_image_folders(tmp_path: Path) -> None:
    assert "no such file or folder" in raised(lambda: open_source(str(tmp_path / "none")))
    empty = tmp_path / "empty"
    (empty / "a").mkdir(parents=True)
    (empty / "b").mkdir()
    assert f"{empty}: no images; expected" in raised(lambda: open_source(str(empty)))
    loose = tmp_path / "loose"
    loose.mkdir()
    Image.new("L", (8, 8)).save(loose / "x.png")
    assert "must lie in class folders" in raised(lambda: open_source(str(loose)))
    gap = folders(tmp_path / "gap")
    (gap / "void").mkdir()
    assert f"{gap / 'void'}: no images" in raised(lambda: open_source(str(gap)))
    shutil.rmtree(gap / "void")
    shutil.rmtree(gap / "dark")
    assert "one class folder" in raised(lambda: open_source(str(gap)))
    folders(tmp_path / "half" / "train")
    folders(tmp_path / "half" / "val")
    (tmp_path / "half" / "val" / "new").mkdir()
    assert "not in the training part" in raised(lambda: open_source(str(tmp_path / "half")))
    few = folders(tmp_path / "few", count=2)
    assert "too few" in raised(lambda: open_source(str(few)))
    (tmp_path / "x.txt").touch()
    assert "cannot be read as a source" in raised(lambda: open_source(str(tmp_path / "x.txt")))


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_unreadable_image_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = folders(tmp_path) / "dark" / "3.png"
    file.write_bytes(file.read_bytes()[:200] if content is None else content)
    message = raised(lambda: open_source(str(tmp_path)))
    assert str(file) in message


def test_junk_files_do_not_count(tmp_path: Path) -> None:
    folders(tmp_path)
    (tmp_path / "dark" / "._3.png").write_bytes(b"junk")
    (tmp_path / "dark" / "notes.txt").write_text("junk")
    (tmp_path / ".cache").mkdir()
    source = open_source(str(tmp_path))
    assert len(source.train) + len(source.val) + len(source.test) == 20


# NIfTI


def test_volumes(tmp_path: Path) -> None:
    source = open_source(str(pairs(tmp_path)))
    assert (source.rank, source.task, source.channels) == (3, "segmentation", 1)
    assert source.classes == ("background", "1", "2")
    assert source.size == (16, 16, 16) and source.spacing == (1.0, 1.0, 1.0)
    assert [len(part) for part in (source.train, source.val, source.test)] == [7, 1, 2]
    assert source.train.labels is None
    sample = source.train[0]
    assert source.train.patch == (16, 16, 16)
    assert sample["image"].shape == (1, 13, 11, 9) and sample["mask"].dtype == torch.int64
    inside = sample["image"][0][sample["mask"] > 0].mean()
    assert inside > sample["image"][0][sample["mask"] == 0].mean() + 1


def test_volumes_are_turned_to_ras(tmp_path: Path) -> None:
    pairs(tmp_path)
    expected = open_source(str(tmp_path))
    for file in [*tmp_path.rglob("*.nii.gz")]:
        image: Any = nib.load(file)
        array = np.asarray(image.dataobj)
        flipped = np.ascontiguousarray(array[::-1].transpose(1, 0, 2))
        turn = np.array([[0, -1, 0, array.shape[0] - 1], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        nifti(file, flipped, turn.astype(float))
    assert same(open_source(str(tmp_path)).train, expected.train)


def test_axes_are_superior_anterior_right(tmp_path: Path) -> None:
    for i in range(10):
        mask = np.zeros((8, 16, 24), np.uint8)
        mask[1, 2, 3] = 1
        nifti(tmp_path / "images" / f"{i}.nii", RNG.random((8, 16, 24), np.float32))
        nifti(tmp_path / "masks" / f"{i}.nii", mask)
    source = open_source(str(tmp_path))
    assert source.train[0]["mask"].nonzero().tolist() == [[3, 2, 1]]


def test_held_out_volumes_are_never_cropped(tmp_path: Path) -> None:
    source = open_source(str(pairs(tmp_path, shape=(9, 11, 30))), size=(8, 8, 8))
    assert source.train.patch == (8, 8, 8)
    assert source.test[0]["image"].shape == (1, 30, 11, 9)
    assert source.test[0]["mask"].shape == (30, 11, 9)


def test_volumes_of_another_spacing_are_resampled(tmp_path: Path) -> None:
    pairs(tmp_path)
    for folder in ("images", "labels"):
        file = tmp_path / folder / "case_3.nii.gz"
        image: Any = nib.load(file)
        doubled = np.asarray(image.dataobj).repeat(2, axis=2)
        nifti(file, doubled, np.diag([1, 1, 0.5, 1.0]))
    source = open_source(str(tmp_path))
    for part in (source.train, source.val, source.test):
        for i in range(len(part)):
            assert part[i]["image"].shape[1:] == (13, 11, 9)
            assert torch.bincount(part[i]["mask"].flatten()).tolist()[1:] == [48, 24]


def test_channels_of_volumes(tmp_path: Path) -> None:
    pairs(tmp_path)
    for file in (tmp_path / "images").iterdir():
        image: Any = nib.load(file)
        nifti(file, np.stack([np.asarray(image.dataobj)] * 2, -1))
    source = open_source(str(tmp_path))
    assert source.channels == 2 and source.train[0]["image"].shape == (2, 13, 11, 9)


def test_bad_volumes(tmp_path: Path) -> None:
    image, mask = (pairs(tmp_path) / kind / "case_4.nii.gz" for kind in ("images", "labels"))
    kept = mask.read_bytes()

    def problem() -> str:
        return raised(lambda: open_source(str(tmp_path)))

    mask.unlink()
    assert str(image) in problem() and "no partner" in problem()
    nifti(mask, np.zeros((9, 11, 12), np.uint8))
    assert str(mask) in problem() and "(9, 11, 12)" in problem() and "(9, 11, 13)" in problem()
    nifti(mask, np.zeros((9, 11, 13), np.uint8), np.diag([1, 1, 2, 1]))
    assert str(mask) in problem() and "their spacing (z, y, x) differs" in problem()
    for value in (0.5, -1, 100_000):
        nifti(mask, np.full((9, 11, 13), value, np.float32))
        assert str(mask) in problem() and "whole numbers" in problem()
    mask.write_bytes(kept)
    image.write_bytes(image.read_bytes()[:-200])
    assert str(image) in problem() and "damaged" in problem()
    image.write_bytes(b"")
    assert str(image) in problem()


def image_pairs(root: Path, count: int = 10) -> Path:
    """Images of which the bright half is labelled 255."""
    for folder in ("images", "masks"):
        (root / folder).mkdir()
    for i in range(count):
        pixels = RNG.integers(0, 256, (30, 44), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{i}.png")
        Image.fromarray((255 * (pixels > 127)).astype(np.uint8)).save(root / "masks" / f"{i}.png")
    return root


def test_pairs_of_images(tmp_path: Path) -> None:
    source = open_source(str(image_pairs(tmp_path)))
    assert (source.rank, source.task, source.size) == (2, "segmentation", (32, 48))
    assert source.classes == ("background", "255") and source.values == (0, 255)
    sample = source.train[0]
    assert sample["image"].shape == (1, 32, 48) and sample["mask"].shape == (32, 48)
    inside = sample["image"][0][sample["mask"] == 1].mean()
    assert inside > sample["image"][0][sample["mask"] == 0].mean() + 1
    assert open_source(str(tmp_path), size=(16, 24)).train[0]["mask"].shape == (16, 24)


def test_bad_pairs_of_images(tmp_path: Path) -> None:
    image_pairs(tmp_path)
    source = open_source(str(tmp_path))
    name = Path(source.train.samples.samples.masks[source.train.samples.indices[0]]).name  # type: ignore[attr-defined]
    mask = tmp_path / "masks" / name
    Image.new("L", (30, 44)).save(mask)
    assert "has the shape (44, 30)" in raised(lambda: open_source(str(tmp_path)))
    Image.new("RGB", (44, 30), (0, 1, 2)).save(mask)
    assert "holds colours" in raised(lambda: open_source(str(tmp_path)))
    mask.write_bytes(b"nothing")
    assert "cannot be read as an image" in raised(lambda: open_source(str(tmp_path)))


def test_empty_masks(tmp_path: Path) -> None:
    for file in (pairs(tmp_path) / "labels").iterdir():
        nifti(file, np.zeros((9, 11, 13), np.uint8))
    assert "every training mask is empty" in raised(lambda: open_source(str(tmp_path)))


def test_junk_of_macos_is_skipped(tmp_path: Path) -> None:
    pairs(tmp_path)
    (tmp_path / "images" / "._case_1.nii.gz").write_bytes(b"junk")
    source = open_source(str(tmp_path))
    assert len(source.train) == 7


def test_every_volume_is_looked_at_before_training(tmp_path: Path) -> None:
    pairs(tmp_path)
    for i in range(10):
        path = tmp_path / "images" / f"case_{i}.nii.gz"
        kept = path.read_bytes()
        nifti(path, np.full((9, 11, 13), 5, np.float32))
        message = raised(lambda: open_source(str(tmp_path)))
        assert str(path) in message and "every value is 5" in message
        path.write_bytes(kept)


# brain


@pytest.fixture(scope="module")
def brain() -> Source:
    return open_source("brain")


def test_brain(brain: Source) -> None:
    assert (brain.rank, brain.task, brain.channels) == (3, "segmentation", 1)
    assert brain.classes == ("background", "grey", "white", "CSF")
    assert brain.spacing == (4.0, 4.0, 4.0) and all(side % 8 == 0 for side in brain.size)
    assert [len(part) for part in (brain.train, brain.val, brain.test)] == [24, 4, 9]
    for part in (brain.train, brain.val, brain.test):
        for i in range(len(part)):
            sample = part[i]
            assert sample["image"].shape == (1, *brain.size)
            assert sample["mask"].unique().tolist() == [0, 1, 2, 3]
            assert sample["image"].isfinite().all()


def test_brain_tests_on_the_real_image(brain: Source) -> None:
    assert brain.test.case(8) == "MNI152 T1 average" and brain.test.case(0) == "synthetic 1"
    sample = brain.test[8]
    grey, white, fluid = (sample["image"][0][sample["mask"] == k].mean() for k in (1, 2, 3))
    assert white > grey > fluid
    litres = torch.bincount(sample["mask"].flatten()) * 4**3 / 1e6
    assert 1.7 < litres[1:].sum() < 2.1  # MNI152 is larger than most brains
    # Superior is up: the widest axial plane of a brain lies above its lowest, the brain stem.
    area = (sample["mask"] > 0).flatten(1).sum(1)
    assert area[len(area) // 2] > 4 * area[: len(area) // 5].float().mean()


@pytest.mark.slow
def test_brain_is_drawn_by_seed(brain: Source) -> None:
    again, other = open_source("brain"), open_source("brain", seed=1)
    assert same(again.train, brain.train) and same(again.val, brain.val)
    assert not same(other.train, brain.train)
    assert torch.equal(other.test[8]["mask"], brain.test[8]["mask"])
    assert not torch.equal(other.test[0]["mask"], brain.test[0]["mask"])
    assert not torch.equal(brain.train[0]["mask"], brain.train[1]["mask"])
    assert not torch.equal(brain.train[0]["mask"], brain.val[0]["mask"])


def test_brain_of_other_sizes() -> None:
    source = open_source("brain:8", size=(16, 24, 16), channels=3)
    assert source.train[0]["image"].shape == (3, 24, 24, 24)
    assert source.train.patch == source.size == (16, 24, 16)
    assert source.spacing == (8.0, 8.0, 8.0)
    for spec in ("brain:", "brain:1", "brain:x"):
        assert spec in raised(partial(open_source, spec))


# slices


class Cube(Samples):
    """One volume whose voxel at (z, y, x) is 100 z + 10 y + x."""

    def __init__(self, shape: tuple[int, int, int], mask: bool) -> None:
        z, y, x = torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")
        self.volume = 100 * z + 10 * y + x
        self.mask = mask
        self.labels = None if mask else np.array([1])

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Sample:
        image = self.volume[None].float()
        if self.mask:
            return {"image": image, "mask": (self.volume > 100).long()}
        return {"image": image, "label": torch.tensor(1)}


def cube(shape: tuple[int, int, int], mask: bool = False) -> Source:
    part = Cube(shape, mask)
    task: Any = "segmentation" if mask else "classification"
    return Source("cube", 3, task, 1, ("a", "b"), shape, part, part, part)


def test_slices_of_the_three_views() -> None:
    source = slices(cube((8, 8, 8)))
    assert (source.rank, source.size) == (2, (8, 8))
    train = source.train
    assert train.views is not None and train.labels is not None
    assert train.views.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert train.labels.tolist() == [1] * 9
    volume = cube((8, 8, 8)).train[0]["image"][0]
    for number, expected in ((1, volume[4]), (3, volume[:, 2]), (8, volume[..., 6])):
        assert torch.equal(train[number]["image"][0], expected)
        assert train[number]["view"] == train.views[number]


def test_slices_by_step_and_view() -> None:
    train = slices(cube((8, 8, 8)), ["sagittal"], step=3).train
    assert [train[i]["image"][0, 0, 0].item() for i in range(len(train))] == [1, 4, 7]


def test_slices_of_masks_are_square_and_filled() -> None:
    source = slices(cube((6, 10, 8), mask=True), ["axial", "coronal"])
    assert source.size == (16, 16)
    # The axial slice 1 holds more than 100, those of odd z alike; all coronal ones do.
    assert len(source.train) == 3 + 5
    sample = source.train[0]
    assert sample["image"].shape == (1, 16, 16) and sample["mask"].shape == (16, 16)
    volume = cube((6, 10, 8)).train[0]["image"][0]
    assert torch.equal(sample["image"][0, 3:13, 4:12], volume[1])


def test_slices_keep_splits_apart_and_normalisation(tmp_path: Path) -> None:
    volumes = open_source(str(pairs(tmp_path)))
    planes = slices(volumes)
    assert (planes.mean, planes.std) == (volumes.mean, volumes.std)
    assert all((planes.train[i]["mask"] > 0).any() for i in range(len(planes.train)))
    assert len(planes.val) == 6 + 5 + 4 and len(planes.test) == 2 * (6 + 5 + 4)
    sample = planes.val[0]["image"]
    assert sample.shape == (1, 16, 16) and sample[0, 0, 0] == sample.min()


def test_bad_slices(tmp_path: Path) -> None:
    images = open_source(npz(tmp_path, **arrays((10, 10))))
    assert "--slices" in raised(lambda: slices(images)) and "2D" in raised(lambda: slices(images))
    assert "unknown view oblique" in raised(lambda: slices(cube((8, 8, 8)), ["oblique"]))
    assert "unknown view" in raised(lambda: slices(cube((8, 8, 8)), []))
    assert "0-th" in raised(lambda: slices(cube((8, 8, 8)), step=0))
    assert "any label" in raised(lambda: slices(cube((1, 8, 8), mask=True)))


def test_require_rank(tmp_path: Path) -> None:
    images = open_source(npz(tmp_path, **arrays((10, 10))))
    assert require_rank(images, 2, "--images") is images
    message = raised(lambda: require_rank(images, 3, "--volumes"))
    assert "--volumes" in message and "data.npz" in message and "3D volumes" in message
    assert "--images cube" in raised(lambda: require_rank(cube((8, 8, 8)), 2, "--images"))


# limit and split


def test_limit_is_stratified_and_seeded(tmp_path: Path) -> None:
    source = open_source(npz(tmp_path, **arrays((8, 8), counts=(60, 6, 6))))
    cut = limit(source, 9)
    assert cut.train.labels is not None
    assert np.bincount(cut.train.labels).tolist() == [3, 3, 3]
    assert [cut.train[i]["label"].item() for i in range(9)] == cut.train.labels.tolist()
    assert same(cut.train, limit(source, 9).train)
    assert not same(cut.train, limit(source, 9, seed=1).train)
    assert cut.val is source.val and cut.test is source.test
    assert "has 60 training samples" in raised(lambda: limit(source, 61))
    assert "has 3 classes" in raised(lambda: limit(source, 2))
    assert "--limit 0" in raised(lambda: limit(source, 0))


def test_limit_of_volumes_then_slices(brain: Source) -> None:
    few = limit(brain, 2)
    assert len(few.train) == 2 and few.train.labels is None
    planes = slices(few, ["axial"])
    assert planes.train.views is not None and len(planes.train) < 2 * brain.size[0] // 2 + 1
    assert len(limit(planes, 5).train) == 5
    assert (limit(planes, 5).train.views == 0).all()  # type: ignore[union-attr]


@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    share=st.floats(0, 1),
    seed=st.integers(0, 5),
)
def test_pick_keeps_every_class(counts: list[int], share: float, seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    count = len(counts) + int(share * (len(labels) - len(counts)))
    chosen = pick(labels, count, seed)
    assert len(np.unique(chosen)) == count
    assert set(labels[chosen]) == set(labels)


@given(counts=st.lists(st.integers(1, 40), min_size=1, max_size=6), seed=st.integers(0, 5))
def test_split_shares_out_everything(counts: list[int], seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    if max(counts) < 3:
        assert "too few" in raised(lambda: split(labels, (0.7, 0.1, 0.2), seed, "x"))
        return
    parts = split(labels, (0.7, 0.1, 0.2), seed, "x")
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    assert set(labels[parts[0]]) == set(labels)


# all of it


def test_loading_in_workers(tmp_path: Path) -> None:
    source = slices(limit(open_source(npz(tmp_path, **arrays((8, 8, 8)))), 6), step=4)
    batch = next(iter(DataLoader(source.train, batch_size=4, num_workers=1)))
    assert batch["image"].shape == (4, 1, 8, 8) and batch["view"].tolist() == [0, 0, 1, 1]
    assert same(pickle.loads(pickle.dumps(source.train)), source.train)


def test_heavy_libraries_wait() -> None:
    code = (
        "import sys, crossd.data; "
        "print([m for m in ('nibabel', 'nilearn', 'monai', 'PIL', 'medmnist', 'sklearn') "
        "if m in sys.modules])"
    )
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.stdout.strip() == "[]"


@real_data
def test_real_medmnist() -> None:
    path = str(SHARED / "medmnist3d" / "organmnist3d.npz")
    source = open_source(path)
    assert (source.rank, len(source.classes), source.size) == (3, 11, (28, 28, 28))
    assert [len(part) for part in (source.train, source.val, source.test)] == [971, 161, 610]
    planes = slices(source)
    assert len(planes.train) == 9 * 971 and planes.size == (28, 28)
    assert len(limit(source, 110).train) == 110


@real_data
def test_real_image_folder() -> None:
    source = open_source(str(SHARED / "mednist" / "folder"), channels=3)
    assert source.classes[0] == "AbdomenCT" and len(source.classes) == 6
    assert [len(part) for part in (source.train, source.val, source.test)] == [558, 240, 162]
    assert source.train[0]["image"].shape == (3, 64, 64)


@real_data
def test_real_volumes() -> None:
    source = open_source(str(SHARED / "hippocampus"))
    assert [len(part) for part in (source.train, source.val, source.test)] == [182, 26, 52]
    assert len(source.classes) == 3 and all(side % 8 == 0 for side in source.size)
    planes = slices(limit(source, 8))
    assert planes.train[0]["image"].shape == (1, *planes.size)


def test_images_alone_are_a_source_where_no_label_is_needed(tmp_path: Path) -> None:
    values = arrays((8, 8, 8), counts=(20, 1, 1))["train_images"]
    bare, full = tmp_path / "bare", tmp_path / "full"
    bare.mkdir()
    full.mkdir()
    source = open_source(npz(bare, images=values), labels=False)
    assert (source.rank, source.task, source.size) == (3, "unlabelled", (8, 8, 8))
    labelled = open_source(npz(full, images=values, labels=np.arange(len(values)) % 2))
    assert len(source.train) == len(values)
    assert set(source.train[0]) == {"image"}
    restored = source.train[3]["image"] * source.std + source.mean
    torch.testing.assert_close(restored[0], torch.from_numpy(values[3] / 255).float())
    assert labelled.task == "classification"
    same_file = open_source(labelled.name, labels=False)
    assert same_file.task == "classification"
    assert "lacks labels" in raised(lambda: open_source(source.name))


def test_a_folder_of_volumes_without_masks(tmp_path: Path) -> None:
    root = pairs(tmp_path / "pairs", count=4)
    source = open_source(str(root / "images"), labels=False)
    assert (source.rank, source.task, len(source.train)) == (3, "unlabelled", 4)
    masked = open_source(str(pairs(tmp_path / "more", count=10)))
    assert source.train[0]["image"].shape == masked.test[0]["image"].shape
    (root / "images" / "broken.nii.gz").write_bytes(b"\x1f\x8b")
    assert "broken.nii.gz" in raised(lambda: open_source(str(root / "images"), labels=False))


def test_a_folder_of_images_without_classes(tmp_path: Path) -> None:
    root = folders(tmp_path / "classes")
    flat = next(path for path in sorted(root.rglob("*")) if path.is_dir() and any(path.glob("*.*")))
    source = open_source(str(flat), size=(16,), labels=False)
    assert (source.rank, source.task, source.size) == (2, "unlabelled", (16, 16))
    assert source.train[0]["image"].shape == (1, 16, 16)
    assert "class folders" in raised(lambda: open_source(str(flat)))


def table_of_masks(root: Path, splits: Sequence[str]) -> Path:
    files.pairs(root, len(splits), (8, 8, 8))
    images, masks = (sorted((root / kind).iterdir()) for kind in ("images", "labels"))
    rows = ["image,mask,split"]
    rows += [
        f"images/{image.name},labels/{mask.name},{split}"
        for image, mask, split in zip(images, masks, splits, strict=True)
    ]
    path = root / "cases.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_odd_masks_of_validation_and_test_are_found_before_training(tmp_path: Path) -> None:
    path = table_of_masks(tmp_path, ["train"] * 4 + ["val", "test"])
    odd = sorted((tmp_path / "labels").iterdir())[-1]
    files.nifti(odd, np.pad(np.full((2, 2, 2), 7, np.uint8), 3))
    with pytest.raises(InputError, match=f"{odd.name}: holds 7, but the classes have the values"):
        open_source(str(path))


def test_training_cases_that_must_test_are_announced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = table_of_masks(tmp_path, ["train"] * 10)
    open_source(str(path), progress=Progress())
    said = " ".join(capsys.readouterr().err.split())
    assert "no case is said to be for val or test: 1 validate and 2 test, drawn of the" in said


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kinds", [("L",), ("RGB",), ("L", "I;16"), ("RGB", "L")])
def test_images_finished_in_batches_are_those_finished_one_by_one(
    tmp_path: Path, kinds: tuple[str, ...], channels: int
) -> None:
    """Training normalises whole batches of 8 bits: to the last bit what each sample is."""
    rng = np.random.default_rng(0)
    for number in range(12):
        path = tmp_path / f"class_{number % 2}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        kind = kinds[number % len(kinds)]
        values = rng.integers(0, 2**16 if kind == "I;16" else 2**8, (9, 7, 3))
        if kind == "I;16":
            Image.fromarray(values[..., 0].astype(np.uint16)).save(path)
        else:
            Image.fromarray(values.astype(np.uint8)).convert(kind).save(path)
    source = open_source(str(tmp_path), size=(8, 8), channels=channels)
    feed = Feed(source, TrainConfig(batch_size=3, workers=0), nn.Conv2d(channels, 1, 1))
    seen = 0
    for piece in feed.take(0, len(feed.loader)):
        expected = torch.stack([source.train[int(i)]["image"] for i in piece.indices])
        assert piece.batch["image"].dtype == torch.float32
        assert torch.equal(piece.batch["image"], expected)
        seen += len(piece.indices)
    assert seen == len(source.train)
    if kinds in {("L",), ("RGB",)}:
        assert next(iter(feed.loader))["image"].dtype == torch.uint8
