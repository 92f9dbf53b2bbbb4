import io
import json
import os
import pickle
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from crossd.data.dataset import Samples, in_floats
from crossd.data.disk_cache import CLOCK, user_cache
from crossd.data.opening import open_source
from crossd.data.source import Source
from crossd.data.sources import kept_lists, tar_index, tar_shards
from crossd.data.sources.image_files import read_image
from crossd.errors import InputError
from crossd.utils.progress import Progress

QUIET = Progress(quiet=True)


def picture(seed: int, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (10, 12), np.uint8)
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def archive(path: Path, members: Mapping[str, bytes | str], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, content in members.items():
            content = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def numbered(first: int, count: int, classes: int = 2) -> dict[str, bytes | str]:
    """As webdataset writes them: an image and a class a key."""
    made: dict[str, bytes | str] = {}
    for i in range(first, first + count):
        made[f"{i:06d}.cls"] = str(i % classes)
        made[f"{i:06d}.png"] = picture(i)
    return made


def in_folders(count: int) -> dict[str, bytes | str]:
    return {
        f"./{name}/{i}.jpg": picture(i, "JPEG") for i in range(count) for name in ("cat", "dog")
    }


def parts(source: Source) -> tuple[int, ...]:
    return len(source.train), len(source.val), len(source.test)


def base(samples: Samples) -> tar_shards.ShardSamples:
    while not isinstance(samples, tar_shards.ShardSamples):
        samples = samples.samples  # type: ignore[attr-defined]
    return samples


def refused(spec: Path | str) -> str:
    with pytest.raises(InputError) as caught:
        open_source(str(spec))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_folder_of_archives_holds_what_the_files_hold(tmp_path: Path) -> None:
    for i in range(2):
        archive(tmp_path / "shards" / f"{i:03d}.tar", numbered(20 * i, 20))
    source = open_source(str(tmp_path / "shards"), size=(8,))
    assert (source.rank, source.channels, source.classes) == (2, 1, ("0", "1"))
    assert parts(source) == (28, 4, 8)
    whole = base(source.train)
    assert whole.name(21) == f"{tmp_path / 'shards' / '001.tar'}: 000021.png"
    for i in (0, 21, 39):
        (tmp_path / "one.png").write_bytes(picture(i))
        sample = whole[i]
        assert torch.equal(
            in_floats(sample["image"]), read_image([tmp_path / "one.png"], 1, (8, 8))
        )
        assert sample["label"].item() == i % 2 and sample["view"] == -1
    assert source.test.case(0).endswith(".png")
    again = open_source(str(tmp_path / "shards"), size=(8,))
    assert torch.equal(again.test[3]["image"], source.test[3]["image"])


def test_classes_from_json_from_names_and_from_folders(tmp_path: Path) -> None:
    made: dict[str, bytes | str] = {}
    for i in range(12):
        made[f"a/{i}.jpg"] = picture(i, "JPEG")
        made[f"a/{i}.json"] = json.dumps({"label": ("cat", "dog")[i % 2]})
        made[f"a/{i}.txt"] = "a caption"
    assert open_source(str(archive(tmp_path / "x.tar", made))).classes == ("cat", "dog")
    of_folders = open_source(str(archive(tmp_path / "y.tar", in_folders(8))))
    assert of_folders.classes == ("cat", "dog") and sum(parts(of_folders)) == 16
    made = {f"{i}.{end}": f" {10 * (i % 2) + 2}\n" if end == "cls" else picture(i)
            for i in range(12) for end in ("png", "cls")}  # fmt: skip
    assert open_source(str(archive(tmp_path / "z.tar", made))).classes == ("2", "12")


def test_parts_by_name_and_by_folder(tmp_path: Path) -> None:
    for part, count in (("train", 12), ("val", 6), ("test", 4)):
        for i in range(2):
            members = numbered(100 * i, count)
            archive(tmp_path / "named" / f"{part}-{i:02d}.tar", members)
            archive(tmp_path / "folders" / part / f"{i}.tar", members)
    for spec in ("named", "folders", "named/{train,val,test}-{00..01}.tar", "named/*.tar"):
        assert parts(open_source(str(tmp_path / spec))) == (24, 12, 8)
    assert parts(open_source(str(tmp_path / "named" / "{train,val}-*.tar"))) == (18, 12, 6)
    alone = open_source(str(tmp_path / "named" / "train-{00..01}.tar"))
    assert sum(parts(alone)) == 24 and parts(alone)[0] < 24


def test_long_names_and_other_formats(tmp_path: Path) -> None:
    long = {f"{'deep' * 40}/{name}": content for name, content in numbered(0, 12).items()}
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        source = open_source(str(archive(tmp_path / "x.tar", long, format=form)))
        assert sum(parts(source)) == 12
    assert base(source.train).name(1).endswith("deep/000001.png")


def test_the_scan_is_kept_until_an_archive_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_lists, "KEEP_FROM", 1)
    scanned: list[Path] = []
    real = tar_index._images
    monkeypatch.setattr(tar_index, "_images", lambda path: scanned.append(path) or real(path))  # type: ignore[func-returns-value]
    path = archive(tmp_path / "x.tar", numbered(0, 12))
    tar_index.scan([path], QUIET)
    assert not user_cache().folder.exists()  # too new to be trusted
    old = time.time_ns() - 2 * CLOCK
    os.utime(path, ns=(old, old))
    first = tar_index.scan([path], QUIET)
    assert len(scanned) == 2
    again = tar_index.scan([path], QUIET)
    assert len(scanned) == 2
    for name in ("names", "classes", "archive", "start", "size", "labels"):
        assert np.array_equal(list(getattr(again, name)), list(getattr(first, name)))
    os.utime(path, ns=(old, old + 1))
    tar_index.scan([path], QUIET)
    archive(path, numbered(0, 40))
    os.utime(path, ns=(old, old + 1))
    assert len(tar_index.scan([path], QUIET).names) == 40 and len(scanned) == 4


def test_reading_in_workers(tmp_path: Path) -> None:
    source = open_source(str(archive(tmp_path / "x.tar", numbered(0, 40))), size=(8,))
    first = source.train[0]["image"]  # the archive is open when the workers start
    loader = DataLoader(source.train, batch_size=14, num_workers=2)
    together = torch.cat([batch["image"] for batch in loader])
    assert torch.equal(together[0], first)
    for i in range(28):
        assert torch.equal(together[i], source.train[i]["image"])
    again = pickle.loads(pickle.dumps(source.train))
    assert torch.equal(again[5]["image"], source.train[5]["image"])


def test_few_archives_are_open_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_shards, "OPEN", 2)
    for i in range(5):
        archive(tmp_path / f"{i}.tar", numbered(10 * i, 10))
    samples = base(open_source(str(tmp_path)).train)
    for i in range(50):
        samples.load(i)
    assert samples.archives.opened.cache_info().currsize == 2


DAMAGE: dict[str, tuple[Mapping[str, bytes | str], str]] = {
    "nothing": ({}, "x.tar: holds no images"),
    "no images": ({"a/1.txt": "x"}, "x.tar: holds no images"),
    "no class": ({"1.png": picture(0)}, "1.png has no class: expected 1.cls"),
    "one class": ({"a/1.png": picture(0), "a/2.png": picture(1)}, "has one class, a"),
    "an empty class": ({"1.cls": " ", "1.png": picture(0)}, "1.cls: holds no class"),
    "a class that is no text": ({"1.cls": b"\xff\xfe", "1.png": b""}, "1.cls: holds no class"),
    "a label that is none": ({"1.json": '{"label": 0.5}', "1.png": b""}, "1.json: holds no class"),
    "json that is none": ({"1.json": "{", "1.png": b""}, "1.json: holds no class"),
    "two images": ({"a/1.png": b"", "a/1.jpg": b""}, "a/1.png and a/1.jpg share a key"),
    "an image that is none": (
        {**numbered(0, 8), "9.cls": "1", "9.png": b"none"},
        "9.png: cannot be read as an image",
    ),
}


@pytest.mark.parametrize(("members", "words"), DAMAGE.values(), ids=list(DAMAGE))
def test_bad_members(tmp_path: Path, members: Mapping[str, bytes | str], words: str) -> None:
    path = archive(tmp_path / "x.tar", members)
    message = refused(path)
    assert words in message and str(path) in message


@pytest.mark.parametrize("keep", [0, 100, 512, 700, 0.3, 0.5, 0.8])
def test_truncated_archives(tmp_path: Path, keep: float) -> None:
    path = archive(tmp_path / "x.tar", numbered(0, 30))
    content = path.read_bytes()
    path.write_bytes(content[: int(keep if keep >= 1 or keep == 0 else keep * len(content))])
    assert f"{path}: cannot be read as a tar archive" in refused(path)


def test_an_archive_that_ends_between_two_members(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.tar", numbered(0, 30))
    with tarfile.open(path) as tar:
        end = tar.getmembers()[40].offset
    path.write_bytes(path.read_bytes()[:end])
    assert "it is cut off" in refused(path)


def test_noise_between_members(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.tar", numbered(0, 30))
    with tarfile.open(path) as tar:
        start = tar.getmembers()[40].offset
    content = bytearray(path.read_bytes())
    content[start : start + 512] = b"x" * 512
    path.write_bytes(content)
    assert f"no member begins at byte {start:,}" in refused(path)


@pytest.mark.parametrize("mode", ["gz", "bz2", "xz"])
def test_compressed_archives(tmp_path: Path, mode: str) -> None:
    with tarfile.open(tmp_path / f"x.tar.{mode}", f"w:{mode}") as tar:  # type: ignore[call-overload]
        tar.addfile(tarfile.TarInfo("a/1.png"))
    assert "is compressed" in refused(tmp_path / f"x.tar.{mode}")
    assert "is compressed" in refused(tmp_path)
    (tmp_path / f"x.tar.{mode}").rename(tmp_path / "x.tar")
    assert "decompress it" in refused(tmp_path / "x.tar")


def test_patterns_and_parts_that_do_not_fit(tmp_path: Path) -> None:
    archive(tmp_path / "train-0.tar", numbered(0, 12))
    missing = refused(tmp_path / "train-{0..1}.tar")
    assert f"{tmp_path / 'train-1.tar'}: no such archive" in missing
    assert "no such archive" in refused(tmp_path / "x-*.tar")
    archive(tmp_path / "test-0.tar", numbered(0, 12))
    assert "has archives of test, train; expected train and val" in refused(tmp_path)
    (tmp_path / "test-0.tar").rename(tmp_path / "more.tar")
    assert "has archives of others, train" in refused(tmp_path)
    (tmp_path / "more.tar").unlink()
    archive(tmp_path / "val-0.tar", numbered(0, 12, classes=3))
    message = refused(tmp_path)
    assert "val-0.tar: 000002.png: its class 2 is not in the archives of train" in message


def test_class_folders_beside_an_archive_stay_class_folders(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(10):
            (tmp_path / name / f"{i}.png").write_bytes(picture(i))
    archive(tmp_path / "backup.tar", numbered(0, 4))
    assert open_source(str(tmp_path)).classes == ("cat", "dog")


def test_an_archive_that_is_cut_or_removed_while_it_is_used(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.tar", numbered(0, 40))
    samples = base(open_source(str(path)).train)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"x.tar: 000039.png: the archive ends in it"):
        samples[39]
    path.unlink()
    with pytest.raises(InputError, match=r"x.tar: cannot be read"):
        pickle.loads(pickle.dumps(samples))[0]


def test_names_of_classes_that_are_no_utf_8_or_one_by_mistake(tmp_path: Path) -> None:
    members = {f"caf\udce9/{i}.png": picture(i) for i in range(9)}
    members |= {f"tea/{i}.png": picture(20 + i) for i in range(9)}
    source = open_source(str(archive(tmp_path / "a.tar", members)))
    assert source.classes == (r"caf\xe9", "tea")
    members = {f"{name}/{i}.png": picture(i) for name in ("Tea", "tea") for i in range(9)}
    path = archive(tmp_path / "b.tar", members)
    assert "'Tea' and 'tea' differ in capitals, spaces" in refused(path)
