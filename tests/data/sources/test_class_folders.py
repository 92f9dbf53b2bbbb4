import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import files
import layouts
import numpy as np
import psutil
import pytest
import torch
from made import Heard
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from crossd.data.dataset import ChangedSamples, Sample, Samples
from crossd.data.disk_cache import CLOCK, user_cache
from crossd.data.fault_tolerance import GuardedSamples
from crossd.data.opening import open_source
from crossd.data.patches import Patches
from crossd.data.preprocessing.normalise import Normalised
from crossd.data.quality.survey import survey
from crossd.data.sources import class_folders, folder_walk, kept_lists
from crossd.errors import InputError
from crossd.utils.progress import Progress

QUIET = Progress(quiet=True)
NAMES = ("cat/1.png", "cat/a/b.JPG", "cat/a.png", "dog/x.png", "dog/notes.txt", "dog/._x.png")


def tree(root: Path, names: tuple[str, ...] = NAMES) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def aged(root: Path) -> Path:
    """Let all folders be older than the clock of a file system is coarse."""
    for folder, _, _ in os.walk(root):
        os.utime(folder, ns=(0, time.time_ns() - 2 * CLOCK))
    return root


@pytest.fixture
def remembering(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keep the index of small folders too; returns the folders that are looked through."""
    monkeypatch.setattr(kept_lists, "KEEP_FROM", 1)
    looked: list[str] = []
    look = folder_walk.look

    def noted(path: str) -> Any:
        looked.append(path)
        return look(path)

    monkeypatch.setattr(folder_walk, "look", noted)
    return looked


def images(root: Path) -> list[str]:
    return list(class_folders.scan(root, QUIET).images)


def test_images_of_class_folders(tmp_path: Path) -> None:
    found = class_folders.scan(tree(tmp_path), QUIET)
    assert list(found.parts) == [""] and found.classes == ("cat", "dog")
    assert list(found.images) == ["cat/1.png", "cat/a/b.JPG", "cat/a.png", "dog/x.png"]
    assert not len(found.volumes) and found.counts.tolist() == [[3, 0], [1, 0]]


def test_the_order_is_that_of_sorted_paths(tmp_path: Path) -> None:
    names = ("a/b/1.png", "a/b.png", "a/b-c.png", "a/B.png", "a/b/é.png", "a/b/ö/1.png", "b/1.png")
    assert images(tree(tmp_path, names)) == [str(path) for path in sorted(map(Path, names))]


def test_parts_hidden_folders_links_and_series(tmp_path: Path) -> None:
    tree(tmp_path, ("train/a/1.png", "val/a/2.png", "other/b/3.png", "train/.x/4.png"))
    tree(tmp_path / "train" / "a", (".hidden/5.png", ".hidden/6.nii", "s/7.dcm", "s/8.nii"))
    outside = tree(tmp_path / "outside", ("9.png", "10.nii.gz"))
    (tmp_path / "train" / "a" / "linked").symlink_to(outside)
    (tmp_path / "train" / "a" / "round").symlink_to(tmp_path / "train")
    (tmp_path / "train" / "c").symlink_to(outside)
    found = class_folders.scan(tmp_path, QUIET)
    assert list(found.parts) == ["train", "val"]
    assert found.places == [("train", "a"), ("train", "c"), ("val", "a")]
    assert list(found.images) == ["train/a/1.png", "train/c/9.png", "val/a/2.png"]
    assert class_folders.left_out(tmp_path, found) == ["other", "outside"]
    assert list(found.volumes) == ["train/a/linked/10.nii.gz", "train/a/s", "train/c/10.nii.gz"]
    assert folder_walk.below(tmp_path / "train" / "a" / "s")[1] == [tmp_path / "train" / "a" / "s"]


def test_files_without_a_suffix_are_opened(tmp_path: Path) -> None:
    tree(tmp_path, ("a/1.2.840", "a/README", "b/1.png"))
    (tmp_path / "a" / "1.2.840").write_bytes(bytes(128) + b"DICM")
    found = class_folders.scan(tmp_path, QUIET)
    assert list(found.volumes) == ["a/1.2.840"] and list(found.images) == ["b/1.png"]


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match=r"this folder cannot be read \(Permission denied\)"):
        class_folders.scan(tree(tmp_path), QUIET)


def test_odd_bytes_in_names(tmp_path: Path, remembering: list[str]) -> None:
    odd = os.fsdecode(b"cat/\xff\xfe.png")
    try:
        tree(tmp_path, (odd, "dog/1.png"))
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    aged(tmp_path)
    for _ in range(2):
        assert images(tmp_path) == [odd, "dog/1.png"]
    assert len(remembering) == 3


def test_what_is_kept_is_what_was_scanned(tmp_path: Path, remembering: list[str]) -> None:
    tree(tmp_path, ("train/a/1.png", "train/b/2.png", "val/a/3.png", "train/a/v.nii"))
    aged(tmp_path)
    first = class_folders.scan(tmp_path, QUIET)
    looked = len(remembering)
    again = class_folders.scan(tmp_path, QUIET)
    assert looked == 8 and len(remembering) == looked  # parts are looked at twice
    for name in ("visited", "states", "parts", "folders", "images", "volumes", "counts"):
        assert np.array_equal(list(getattr(first, name)), list(getattr(again, name))), name


CHANGES: dict[str, Callable[[Path], object]] = {
    "a file is added": lambda root: (root / "cat" / "new.png").touch(),
    "a file is added deep down": lambda root: (root / "cat" / "a" / "new.png").touch(),
    "a file is removed": lambda root: (root / "cat" / "1.png").unlink(),
    "a folder is renamed": lambda root: (root / "dog").rename(root / "wolf"),
    "a file is renamed": lambda root: (root / "dog" / "x.png").rename(root / "dog" / "y.png"),
    "a class is added": lambda root: tree(root, ("new/1.png",)),
    "a class is removed": lambda root: shutil.rmtree(root / "dog"),
    "a folder is touched": lambda root: os.utime(root / "dog"),
    "the folders become parts": lambda root: (root / "cat").rename(root / "train"),
    "a folder is older": lambda root: os.utime(root / "dog", ns=(0, 0)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_changes_are_seen(
    tmp_path: Path, remembering: list[str], change: Callable[[Path], object]
) -> None:
    aged(tree(tmp_path))
    images(tmp_path)
    change(tmp_path)
    remembering.clear()
    found = images(tmp_path)
    assert remembering
    shutil.rmtree(user_cache().folder)
    assert found == images(tmp_path)


def test_what_changed_just_before_is_not_trusted(tmp_path: Path, remembering: list[str]) -> None:
    # A file that is added now could leave the time of its folder as it is.
    images(tree(tmp_path))
    assert not user_cache().folder.exists()
    aged(tmp_path)
    os.utime(tmp_path / "cat" / "a")
    images(tmp_path)
    assert not user_cache().folder.exists()


def test_few_files_are_not_kept(tmp_path: Path) -> None:
    images(aged(tree(tmp_path)))
    assert not user_cache().folder.exists()


@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "noise", "other"])
def test_an_index_that_cannot_be_read_is_made_anew(
    tmp_path: Path, remembering: list[str], damage: str
) -> None:
    root = aged(tree(tmp_path / "data"))
    expected = images(root)
    (file,) = user_cache().folder.glob("index-*.prepared")
    content = file.read_bytes()
    rng = np.random.default_rng(0)
    damaged = {
        "empty": b"",
        "cut": content[:-40],
        "noise": rng.integers(0, 256, len(content), np.uint8).tobytes(),
        "other": (64).to_bytes(8, "little") + b'{"__metadata__":{"crc":"0"}}'.ljust(64),
    }
    file.unlink() if damage == "gone" else file.write_bytes(damaged[damage])
    remembering.clear()
    assert images(root) == expected and remembering


def test_a_cache_that_cannot_be_written(
    tmp_path: Path, remembering: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CROSSD_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    root = aged(tree(tmp_path / "data"))
    assert images(root) == images(root) and len(remembering) == 8


def test_an_index_in_use_may_be_replaced(tmp_path: Path, remembering: list[str]) -> None:
    root = tree(tmp_path, tuple(f"{c}/{i:060d}.png" for c in "ab" for i in range(2000)))
    aged(root)
    images(root)
    names = class_folders.scan(root, QUIET).images
    (root / "a" / "0.png").touch()
    aged(root)
    assert len(images(root)) == 4001
    loader: Any = DataLoader(Named(names), num_workers=1, multiprocessing_context="forkserver")
    assert [name for (name,) in loader] == [names[0], names[1]]


class Named(Dataset[str]):
    def __init__(self, names: Any) -> None:
        self.names = names

    def __len__(self) -> int:
        return 2

    def __getitem__(self, number: int) -> str:
        return str(self.names[number])


def test_processes_that_start_together_scan_once(
    tmp_path: Path, remembering: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    root = aged(tree(tmp_path))
    loader: Any = DataLoader(Scanning(root), num_workers=2, multiprocessing_context="fork")
    assert sorted(int(count) for count in loader) == [0, 4]


class Scanning(Dataset[int]):
    """Counts the folders that are looked through, in several processes at once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __len__(self) -> int:
        return 2

    def __getitem__(self, number: int) -> int:
        count = 0
        look = folder_walk.look

        def counted(path: str) -> Any:
            nonlocal count
            count += 1
            return look(path)

        folder_walk.look = counted
        assert len(images(self.root)) == 4
        return count


def pictures(root: Path, count: int, classes: int = 2) -> Path:
    """Class folders of tiny images; of very many, names lead to the same few files."""
    rng = np.random.default_rng(0)
    for c in range(classes):
        (root / f"class_{c}").mkdir(parents=True)
        for i in range(count // classes):
            path = root / f"class_{c}" / f"picture_{i:07d}.png"
            if count <= 2000 or i % 20_000 == 0:
                pixels = rng.integers(0, 256, (8, 8), np.uint8)
                Image.fromarray(pixels).save(path)
                first = path
            else:
                os.link(first, path)
    return aged(root)


def test_statistics_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from crossd.data.preprocessing import normalise
    from crossd.data.sources.image_files import FileSamples

    monkeypatch.setattr(normalise, "ENOUGH", 8)
    read: list[int] = []
    real = FileSamples.load_case

    def noted(self: FileSamples, index: int) -> Any:
        read.append(index)
        return real(self, index)

    monkeypatch.setattr(FileSamples, "load_case", noted)
    pictures(tmp_path, 24)
    first = open_source(str(tmp_path))
    assert len(read) == 8
    again = open_source(str(tmp_path))
    assert len(read) == 8 and (again.mean, again.std) == (first.mean, first.std)
    changes: list[dict[str, Any]] = [{"size": (16,)}, {"seed": 1}, {"channels": 3}]
    for options in changes:
        read.clear()
        open_source(str(tmp_path), **options)
        assert len(read) == 8
    for path in tmp_path.rglob("*.png"):
        os.utime(path, ns=(0, 0))
    read.clear()
    open_source(str(tmp_path))
    assert len(read) == 8


class Weighed(ChangedSamples):
    """Samples that tell the memory that the process which reads them has to itself [bytes]."""

    def __getitem__(self, number: int) -> Sample:
        sample: Any = self.samples[number]
        sample["own"] = 0
        if number % 25 == 0:
            sample["own"] = psutil.Process().memory_full_info().uss
        weighed: Sample = sample
        return weighed


def weigh(samples: Samples, way: str) -> list[float]:
    """Read three times in a worker; returns its memory at the end of each pass [MiB]."""
    chain = Weighed(Patches(GuardedSamples(samples, True, 1), None, 0))
    chosen = np.random.default_rng(0).choice(len(samples), 1000, replace=False).tolist()
    loader = DataLoader(
        chain,
        batch_size=50,
        sampler=chosen,
        num_workers=1,
        multiprocessing_context=way,
        persistent_workers=True,
    )
    return [max(int(batch["own"].max()) for batch in list(loader)[-5:]) / 2**20 for _ in range(3)]


@pytest.mark.slow
def test_two_hundred_thousand_files(tmp_path: Path) -> None:
    """Print how long the first and the second start take, and what a worker takes."""
    few, many = pictures(tmp_path / "few", 2_000), pictures(tmp_path / "many", 200_000, 200)
    start = time.perf_counter()
    first = open_source(str(many))
    middle = time.perf_counter()
    again = open_source(str(many))
    print(f"\nfirst start {middle - start:.2f} s, then {time.perf_counter() - middle:.2f} s")
    assert len(first.train) == len(again.train) > 139_000
    for i in (0, 70_000, 139_000):
        assert first.train.name(i) == again.train.name(i)
        assert torch.equal(first.train[i]["image"], again.train[i]["image"])
    assert isinstance(again.train, Normalised)
    small = open_source(str(few)).train
    for way in ("fork", "forkserver"):
        little, much = weigh(small, way), weigh(again.train, way)
        print(f"{way}: {little} MiB with 2,000 files, {much} with 200,000")
        assert much[0] - little[0] < 8
        assert much[2] - much[0] < 4


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("train", "test"), "are parts of a data set, not classes"),
        (("seg_train", "seg_test"), "are parts of a data set, not classes"),
        (("TrainingSet", "TestSet", "valid_images"), "are parts of a data set, not classes"),
        (("train/images", "train/masks"), "are folders of images and masks, not classes"),
        (("Images/a", "Images/b", "Masks/a", "Masks/b"), "Images: holds no images or volumes"),
    ],
)
def test_folders_that_are_no_classes(tmp_path: Path, names: tuple[str, ...], words: str) -> None:
    for seed, name in enumerate(names):
        (tmp_path / name).mkdir(parents=True)
        for i in range(6):
            pixels = np.random.default_rng([seed, i]).integers(0, 255, (8, 8), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    with pytest.raises(InputError, match=words):
        open_source(str(tmp_path))


def drawn(root: Path, places: tuple[str, ...], each: int = 6) -> Path:
    """Write images that differ into folders."""
    for seed, place in enumerate(places):
        (root / place).mkdir(parents=True, exist_ok=True)
        for i in range(each):
            pixels = np.random.default_rng([seed, i]).integers(0, 256, (8, 8), np.uint8)
            Image.fromarray(pixels).save(root / place / f"{seed}-{i}.png")
    return root


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Training", "valid", "TESTING")])
def test_parts_in_class_folders(tmp_path: Path, names: tuple[str, str, str]) -> None:
    root = drawn(tmp_path, tuple(f"{label}/{part}" for label in ("cat", "dog") for part in names))
    found = class_folders.scan(root, QUIET)
    assert list(found.parts) == ["train", "val", "test"] and found.classes == ("cat", "dog")
    source = open_source(str(root))
    assert source.classes == ("cat", "dog")
    for own, part in zip(names, (source.train, source.val, source.test), strict=True):
        assert len(part) == 12 and part.labels is not None
        for i in range(12):
            label, folder, _ = Path(part.name(i)).relative_to(root).parts
            assert folder == own and source.classes[part.labels[i]] == label


def test_parts_in_class_folders_of_volumes(tmp_path: Path) -> None:
    for seed, place in enumerate(f"{label}/{part}" for label in "ab" for part in ("train", "test")):
        for i in range(4):
            voxels = np.random.default_rng([seed, i]).normal(size=(6, 7, 8)).astype(np.float32)
            files.nifti(tmp_path / place / f"{i}.nii.gz", voxels)
    source = open_source(str(tmp_path))
    assert source.classes == ("a", "b")
    assert {source.test.name(i)[:6] for i in range(len(source.test))} == {"a/test", "b/test"}
    assert len(source.test) == 8 and len(source.train) + len(source.val) == 8


@pytest.mark.parametrize(
    ("places", "words"),
    [
        (("cat/train", "cat/test", "dog"), "dog/2-0.png: lies in no part of its class"),
        (
            ("cat/train", "cat/other", "dog/train"),
            "cat/other/1-0.png: lies in no part of its class",
        ),
        (("cat/train", "dog/train", "dog/training"), "train and training are both parts to train"),
        (("cat/test", "dog/test"), "has a part to test but none to train"),
        (
            ("cat/train", "fox/train", "cat/test", "dog/test"),
            "this class is not in the training part",
        ),
        (("train/cat/test", "train/dog"), "cat/test: is called as a part of the data, but lies in"),
        (("val/train", "cat/train", "dog/train"), "val/train: both are called as parts"),
    ],
)
def test_parts_that_are_not_clear(tmp_path: Path, places: tuple[str, ...], words: str) -> None:
    assert words in files.message(lambda: open_source(str(drawn(tmp_path, places))))


def test_parts_in_class_folders_are_kept_in_the_list(
    tmp_path: Path, remembering: list[str]
) -> None:
    root = aged(drawn(tmp_path, ("cat/train", "cat/val", "dog/train", "dog/val")))
    (root / "cat" / "train" / "x.mgz").touch()
    aged(root)
    first, looked = class_folders.scan(root, QUIET), len(remembering)
    again = class_folders.scan(root, QUIET)
    assert len(remembering) == looked and first.places == again.places
    assert list(again.others) == ["cat/train/x.mgz"] and again.counts.tolist() == [[6, 0]] * 4


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_radiographs_beside_pictures_in_class_folders(tmp_path: Path, mode: str) -> None:
    for i in range(24):
        folder = tmp_path / "ab"[i % 2]
        folder.mkdir(exist_ok=True)
        rng = np.random.default_rng(i)
        if i % 3:
            shape = (8, 9) if mode == "L" else (8, 9, 3)
            Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(folder / f"{i}.png")
        else:
            tags: dict[str, Any] = {"PatientID": f"P{i}", "SeriesInstanceUID": f"1.{i}"}
            plane = rng.integers(0, 900, (9, 8))
            path = folder / (f"{i}.dcm" if i % 2 else f"1.2.{i}")
            files.write_slice(path, plane, 0, modality="MR", **tags, **files.NOWHERE)
    source = open_source(str(tmp_path))
    assert (source.rank, source.channels) == (2, 1 if mode == "L" else 3)
    parts = (source.train, source.val, source.test)
    assert sum(map(len, parts)) == 24
    for part in parts:
        for i in range(len(part)):
            assert torch.isfinite(part[i]["image"]).all()
            assert part.labels is not None
            assert source.classes[part.labels[i]] in Path(part.name(i)).parts
    counts = survey(str(tmp_path), 100, 0, QUIET).counts
    assert sum(sum(own.values()) for own in counts.values()) == 24


def test_series_beside_pictures_in_class_folders(tmp_path: Path) -> None:
    drawn(tmp_path, ("a", "b"))
    for i in range(12):
        voxels = np.random.default_rng(i).integers(0, 99, (6, 7, 4))
        files.dicom(tmp_path / "ab"[i % 2] / f"s{i}", voxels, PatientID=f"P{i}")
    source = open_source(str(tmp_path))
    assert source.rank == 3 and len(source.train) + len(source.val) + len(source.test) == 12


@pytest.mark.parametrize("kind", ["images", "volumes", "csv"])
def test_a_part_that_is_missing_is_drawn_of_the_training_part(tmp_path: Path, kind: str) -> None:
    lines = ["image,label,split"]
    for i in range(40):
        part, label = ("train", "val")[i >= 30], "ab"[i % 2]
        path = tmp_path / part / label / f"{i}.png"
        rng = np.random.default_rng(i)
        if kind == "volumes":
            files.nifti(path.with_suffix(".nii"), rng.normal(size=(5, 6, 7)).astype(np.float32))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(path)
        lines.append(f"{part}/{label}/{i}.png,{label},{part}")
    (tmp_path / "cases.csv").write_text("\n".join(lines))
    root = tmp_path / "cases.csv" if kind == "csv" else tmp_path
    heard = Heard()
    source = open_source(str(root), progress=heard)
    assert (len(source.train), len(source.val), len(source.test)) == (24, 10, 6)
    text = "no case is said to be for test: 6 test, drawn of the training cases by --seed 0"
    assert f"{root}: {text}" in heard.said
    found = survey(str(root), 100, 0, QUIET)
    assert {part: sum(own.values()) for part, own in found.counts.items()} == {
        "train": 24,
        "val": 10,
        "test": 6,
    }


def test_patients_are_whole_where_a_part_is_drawn(tmp_path: Path) -> None:
    for i in range(40):
        part = ("train", "val")[i >= 28]
        folder = tmp_path / part / "ab"[(i // 2) % 2]
        folder.mkdir(parents=True, exist_ok=True)
        tags: dict[str, Any] = {"PatientID": f"P{i // 2}", "SeriesInstanceUID": f"1.{i}"}
        plane = np.random.default_rng(i).integers(0, 900, (9, 8))
        path = folder / f"{i}.dcm"
        files.write_slice(path, plane, 0, modality="MR", **tags, **files.NOWHERE)
    source = open_source(str(tmp_path))
    parts = (source.train, source.val, source.test)
    found = [{int(Path(one.name(i)).stem) // 2 for i in range(len(one))} for one in parts]
    assert not (found[0] & found[1] | found[0] & found[2] | found[1] & found[2])


@pytest.mark.parametrize("kind", ["classes", "pairs", "loose", "archives", "bids"])
def test_folders_that_may_not_be_read(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "classes":
        drawn(tmp_path, ("cat", "dog"))
    elif kind == "pairs":
        files.pairs(tmp_path, 3, (6, 6, 6))
    elif kind == "loose":
        drawn(tmp_path, ("",))
    elif kind == "bids":
        layouts.bids(tmp_path, 3, masks={"x/dseg": 0})
    closed = tmp_path / {"classes": "dog", "pairs": "labels"}.get(kind, "")

    def refusing(listing: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def refuse(path: Any = ".") -> Any:
            if Path(path) == closed:
                raise PermissionError(13, "Permission denied", str(path))
            return listing(path)

        return refuse

    for name in ("scandir", "listdir"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
    for labels in (True, False):
        said = files.message(lambda labels=labels: open_source(str(tmp_path), labels=labels))
        assert said.startswith(f"{closed}: this folder cannot be read (Permission denied)")


@pytest.mark.parametrize("suffix", [".png", ".nii.gz", ".csv"])
def test_files_that_may_not_be_read(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(20):
        path = tmp_path / "ab"[i % 2] / f"{i}{'.png' if suffix == '.csv' else suffix}"
        path.parent.mkdir(exist_ok=True)
        rng = np.random.default_rng(i)
        if suffix == ".nii.gz":
            files.nifti(path, rng.normal(size=(5, 6, 7)).astype(np.float32))
        else:
            Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(path)
    (tmp_path / "cases.csv").write_text("image,label\na/0.png,a\n")
    closed = tmp_path / ("cases.csv" if suffix == ".csv" else f"a/4{suffix}")
    opened, access = Path.open, os.access

    def refuse(self: Path, *args: Any, **options: Any) -> Any:
        if self == closed:
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(os, "access", lambda path, way: path != closed and access(path, way))
    root = closed if suffix == ".csv" else tmp_path
    said = files.message(lambda: [open_source(str(root)).train[i] for i in range(14)])
    assert said.startswith(f"{closed}: ") and "ermission denied" in said and "damaged" not in said


def test_names_of_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert files.message(lambda: open_source("")).startswith("empty name: no such file or folder")
    monkeypatch.chdir(tmp_path)
    assert ".: no images" in files.message(lambda: open_source("."))
    assert len(open_source(str(drawn(tmp_path, ("cat", "dog")))).classes) == 2
    assert open_source(".").classes == ("cat", "dog")
    (tmp_path / "zips").mkdir()
    (tmp_path / "zips" / "a.tar.gz").touch()
    assert "is compressed" in files.message(lambda: open_source("zips"))
