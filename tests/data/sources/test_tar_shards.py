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
from made import Heard
from PIL import Image
from torch.utils.data import DataLoader

from crossd.data.dataset import Samples, in_floats
from crossd.data.disk_cache import CLOCK, user_cache
from crossd.data.file_names import Writer
from crossd.data.opening import open_source
from crossd.data.quality.checks import faults
from crossd.data.quality.survey import survey
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


def archive(
    path: Path, members: Mapping[str, bytes | str], append: bool = False, **options: Any
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "a" if append else "w", **options) as tar:
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
        f"./{name}/{i}.jpg": picture(i + 50 * (name == "dog"), "JPEG")
        for i in range(count)
        for name in ("cat", "dog")
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
    for place, (part, count) in enumerate((("train", 12), ("val", 6), ("test", 4))):
        for i in range(2):
            members = numbered(100 * i + 1000 * place, count)
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

    def images(path: Path, left: Writer) -> Any:
        scanned.append(path)
        return real(path, left)

    monkeypatch.setattr(tar_index, "_images", images)
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
    archive(tmp_path / "test-0.tar", numbered(12, 12))
    assert parts(open_source(str(tmp_path))) == (10, 2, 12)  # as of folders: val is drawn of train
    (tmp_path / "test-0.tar").rename(tmp_path / "more.tar")
    message = refused(tmp_path)
    assert "more.tar: 000012.png: is of no part, but others are of train" in message
    (tmp_path / "more.tar").unlink()
    archive(tmp_path / "val-0.tar", numbered(12, 12, classes=3))
    message = refused(tmp_path)
    assert "val-0.tar: 000014.png: its class 2 is not in those to train" in message
    (tmp_path / "train-0.tar").rename(tmp_path / "test-0.tar")
    assert "has a part to test but none to train" in refused(tmp_path)


def test_class_folders_beside_an_archive_stay_class_folders(tmp_path: Path) -> None:
    for place, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for i in range(10):
            (tmp_path / name / f"{i}.png").write_bytes(picture(i + 20 * place))
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


def opened(spec: Path | str) -> tuple[Source, list[str]]:
    """Open a source, and give what was said but for how far the scan was."""
    heard = Heard()
    source = open_source(str(spec), size=(8,), progress=heard)
    return source, [text for text in heard.said if not text.startswith("scanning")]


def test_members_that_hold_the_same_stay_together(tmp_path: Path) -> None:
    for i in range(2):  # the same pictures under other names in another archive
        members = {name.replace("/", f"/{i}_"): one for name, one in in_classes(30, 0).items()}
        archive(tmp_path / f"{i}.tar", members)
    source, said = opened(tmp_path)
    held = [{part[i]["image"].numpy().tobytes() for i in range(len(part))}
            for part in (source.train, source.val, source.test)]  # fmt: skip
    assert not (held[0] & held[1] | held[0] & held[2] | held[1] & held[2])
    assert sum(parts(source)) == 60 and sum(map(len, held)) == 30
    assert said == [f"{tmp_path}: 30 cases hold the same as another, kept together with it"]
    assert source.train.groups is not None


def in_classes(count: int, first: int, above: str = "") -> dict[str, bytes | str]:
    """Pictures in the folders a and b, each of another seed."""
    return {f"{above}{'ab'[i % 2]}/{i:03d}.png": picture(first + i) for i in range(count)}


@pytest.mark.parametrize("inside", [True, False])
def test_parts_that_share_a_picture_are_refused_but_looked_at(tmp_path: Path, inside: bool) -> None:
    for place, part in enumerate(("train", "val", "test")):
        members = in_classes(12, 100 * place, f"{part}/" * inside)
        if part == "test":
            members[f"{f'{part}/' * inside}a/copy.png"] = picture(3)
        archive(tmp_path / ("{}-0.tar".format("x" if inside else part)), members, append=inside)
    message = refused(tmp_path)
    assert "b/003.png (to train)" in message and "a/copy.png (to test)" in message
    assert "hold the same" in message
    heard = Heard()
    leaks = [one for one in faults(survey(str(tmp_path), 100, 0, heard))
             if one.what.startswith("the same sample in two parts")]  # fmt: skip
    assert [one.count for one in leaks] == [1]
    assert any(text.endswith("; a training refuses that") for text in heard.said)


def test_tests_that_are_drawn_of_the_training_images_hold_no_copies_of_these(
    tmp_path: Path,
) -> None:
    copies = {name.replace("/", "/copy_"): one for name, one in in_classes(40, 100).items()}
    archive(tmp_path / "train-0.tar", in_classes(40, 100) | copies)
    archive(tmp_path / "val-0.tar", in_classes(20, 0))
    source, _ = opened(tmp_path)
    held = [{part[i]["image"].numpy().tobytes() for i in range(len(part))}
            for part in (source.train, source.test)]  # fmt: skip
    assert sum(parts(source)) == 100 and len(source.val) == 20 and not held[0] & held[1]


@pytest.mark.parametrize("root", ["", "./", "data/"])
@pytest.mark.parametrize(
    "names", [("train", "val", "test"), ("Training", "valid", "Testing"), ("tr", "DEV", "ts")]
)
def test_parts_are_folders_in_an_archive(
    tmp_path: Path, root: str, names: tuple[str, str, str]
) -> None:
    members: dict[str, bytes | str] = {}
    for place, name in enumerate(names):
        members |= in_classes(12 + 2 * place, 100 * place, f"{root}{name}/")
    source, said = opened(archive(tmp_path / "x.tar", members))
    assert parts(source) == (12, 14, 16) and source.classes == ("a", "b") and said == []
    for name in list(members):  # classes that members say, and no folder is
        key = f"{name.rsplit('/', 2)[0]}/{name[-7:-4]}"
        members |= {f"{key}.png": members.pop(name), f"{key}.cls": str(int(name[-7:-4]) % 2)}
    members = dict(sorted(members.items()))
    source, said = opened(archive(tmp_path / "y.tar", members))
    assert parts(source) == (12, 14, 16) and source.classes == ("0", "1") and said == []


@pytest.mark.parametrize(
    "names",
    [
        ("training-0.tar", "validation-00.tar", "test_1.tar"),
        ("imagenet-train-000000.tar", "imagenet-val-000000.tar", "imagenet-test-0.tar"),
        ("TRAIN0.tar", "Val_000.tar", "TestingSet.tar"),
        ("Training/0.tar", "Validation/0.tar", "ts/0.tar"),
    ],
)
def test_parts_in_any_usual_spelling(tmp_path: Path, names: tuple[str, ...]) -> None:
    for place, name in enumerate(names):
        archive(tmp_path / "test" / name, numbered(100 * place, 12 + 2 * place))
    source, said = opened(tmp_path / "test")  # what the folder of all is called says nothing
    assert parts(source) == (12, 14, 16) and said == []


def test_names_that_say_two_parts_or_of_which_some_say_none(tmp_path: Path) -> None:
    archive(tmp_path / "a" / "train-val-0.tar", numbered(0, 12))
    assert "train-val-0.tar: its name says train and val" in refused(tmp_path / "a")
    archive(tmp_path / "b" / "x.tar", in_classes(8, 0, "train/val/"))
    assert "the folder train/val/a says train and val" in refused(tmp_path / "b")
    archive(tmp_path / "c" / "val-0.tar", in_classes(8, 0, "train/"))
    assert "its folders say train, but its archive val" in refused(tmp_path / "c")
    archive(tmp_path / "d" / "x.tar", {**in_classes(8, 0, "train/"), **in_classes(8, 50)})
    assert "is of no part, but others are of train" in refused(tmp_path / "d")
    archive(tmp_path / "e" / "x.tar", {f"{part}/{i}.png": picture(10 * k + i) for i in range(9)
                                       for k, part in enumerate(("train", "val"))})  # fmt: skip
    assert "train and val are parts of a data set, not classes" in refused(tmp_path / "e")
    archive(tmp_path / "f" / "train" / "0.tar", numbered(0, 12))
    (tmp_path / "f" / "val").mkdir()
    assert f"{tmp_path}/f/val: holds no archives, but other parts do" in refused(tmp_path / "f")
    archive(tmp_path / "f" / "val" / "0.tar", numbered(12, 12))
    archive(tmp_path / "f" / "more.tar", numbered(24, 12))
    (tmp_path / "f" / "old").mkdir()
    source, said = opened(tmp_path / "f")
    assert sum(parts(source)) == 24
    assert said[0] == f"{tmp_path / 'f'}: more.tar, old beside the parts of the data are left out"
    assert "no case is said to be for test" in said[1] and len(said) == 2


DEBRIS = (
    *("__MACOSX/a/._000.png", "a/._000.png", "a/.ipynb_checkpoints/000-checkpoint.png"),
    *("@eaDir/a/000.png", "a/@eaDir/000.png/thumb.png", ".hidden/1.png", "./.c/1.png", "a/.d.png"),
)


def test_what_systems_leave_behind_is_passed_over(tmp_path: Path) -> None:
    members = in_classes(12, 0, "./") | {name: picture(99) for name in DEBRIS}
    source, said = opened(archive(tmp_path / "x.tar", members))
    assert sum(parts(source)) == 12 and source.classes == ("a", "b") and said == []
    by_class: dict[str, bytes | str] = {}
    for name, content in numbered(0, 12).items():  # before each member, as macOS writes them
        by_class |= {f"./._{name}": "x", name: content}
    assert sum(parts(opened(archive(tmp_path / "y.tar", by_class))[0])) == 12


def test_members_that_are_left_out_are_counted(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.tar", {
        **in_classes(12, 0), "a/1.2.840.png": picture(90), "a/001.seg.png": picture(91),
        "a/001.txt": "a caption", "README": "x", "info.json": "{}", "a/lost.nii.gz": "x",
    })  # fmt: skip
    with tarfile.open(path, "a") as tar:
        for name, kind in (("a/link.png", tarfile.LNKTYPE), ("b/link.png", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a/000.png"
            tar.addfile(info)
    source, said = opened(path)
    assert sum(parts(source)) == 12
    assert said == [
        "4 members are left out: images that are links or whose names go on after the first dot, "
        f"and classes without an image (the first is {path}: a/1.2.840.png)"
    ]
    members = numbered(0, 12) | {"99.cls": "1", "99.npy": "x"}
    _, said = opened(archive(tmp_path / "y.tar", members))
    assert said[0].startswith("1 members are left out") and "y.tar: 99.cls" in said[0]
    members = {f"a/1.{i}.png": picture(i) for i in range(9)}
    message = refused(archive(tmp_path / "z.tar", members))
    assert "holds no images; expected members like key.jpg or key.png, and leaves out" in message


def test_what_is_left_out_is_said_of_a_kept_scan_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_lists, "KEEP_FROM", 1)
    members = in_classes(12, 0, "train/") | in_classes(12, 50, "val/") | {"a/b.c.png": picture(99)}
    path = archive(tmp_path / "x.tar", members)
    old = time.time_ns() - 2 * CLOCK
    os.utime(path, ns=(old, old))
    (first, said), (again, told) = opened(path), opened(path)
    assert len(said) == 2 and told == ["1 archives: 24 files, as scanned before", *said]
    assert parts(first) == parts(again) == (10, 12, 2)


CLASSES: dict[str, tuple[bytes, str]] = {
    "Latin-1": ("Café".encode("latin-1"), "its bytes are no text in UTF-8"),
    "a pickle": (pickle.dumps(3), "its bytes are no text in UTF-8"),
    "a fraction": (b"0.5", "'0.5'"),
    "below 0": (b"-1", "'-1'"),
    "several numbers": (b"1 0 1", "'1 0 1'"),
    "a list": (b"[0, 1]", "'[0, 1]'"),
    "lines": (b"cat\ndog", "'cat\\ndog'"),
    "a zero byte": (b"cat\0", "'cat\\x00'"),
    "a text": (b"x" * 300, "'xxxxxxxxxxxx...xxxxxxxxxxxxx'"),
    "very many digits": (b"9" * 5000, "'999999999999...9999999999999'"),
}


@pytest.mark.parametrize(("content", "why"), CLASSES.values(), ids=list(CLASSES))
def test_members_that_say_no_class(tmp_path: Path, content: bytes, why: str) -> None:
    path = archive(tmp_path / "x.tar", {"1.cls": content, "1.png": picture(0)})
    message = refused(path)
    assert f"{path}: 1.cls: holds no class ({why}" in message and len(message) < 400
    assert "expected one whole number from 0, or a name, in UTF-8" in message


@pytest.mark.parametrize("label", ["true", "[1]", '{"a": 1}', "0.5", "NaN", '"-2"', "[" * 9999])
def test_labels_in_json_that_are_none(tmp_path: Path, label: str) -> None:
    path = archive(tmp_path / "x.tar", {"1.json": f'{{"label": {label}}}', "1.png": picture(0)})
    assert f"{path}: 1.json: holds no class (" in refused(path)


def test_spellings_of_one_class(tmp_path: Path) -> None:
    said: list[bytes | str] = ["1", "1.0", " 01\n", b"\xef\xbb\xbf1", "1."]
    members: dict[str, bytes | str] = {}
    for i in range(20):
        members |= {f"{i}.cls": said[i // 2 % 5] if i % 2 else "2+", f"{i}.png": picture(i)}
    assert opened(archive(tmp_path / "x.tar", members))[0].classes == ("1", "2+")
    members = {}
    for i in range(12):  # what .cls says comes before what .json says, in any order
        own = {f"{i}.cls": f"{i % 2}", f"{i}.json": f'{{"label": {i + 5}.0}}'}
        members |= {f"{i}.png": picture(i), **dict(sorted(own.items(), reverse=bool(i % 3)))}
    assert opened(archive(tmp_path / "y.tar", members))[0].classes == ("0", "1")


def test_samples_whose_members_are_apart_or_twice(tmp_path: Path) -> None:
    members = dict(sorted(in_classes(12, 0).items()))
    labels = {name.replace("png", "cls"): f"{i % 3}" for i, name in enumerate(members)}
    message = refused(archive(tmp_path / "x.tar", {**labels, **members}))
    assert "x.tar: members of a/000 are there twice, or apart" in message
    path = archive(tmp_path / "y.tar", in_classes(12, 0))
    archive(path, {"a/000.png": picture(99)}, append=True)  # as tar -r does
    assert "y.tar: members of a/000 are there twice" in refused(path)


def test_classes_of_some_samples_only(tmp_path: Path) -> None:
    members = in_classes(12, 0)
    members["a/000.cls"] = "7"
    members = dict(sorted(members.items()))
    message = refused(archive(tmp_path / "x.tar", members))
    assert "a/002.png has no class next to it, but " in message and "a/000.png has" in message


@pytest.mark.parametrize("deep", [{"a": "a", "b": "b/p1"}, {"a": "a/p1", "b": "b/p1"}])
def test_folders_below_class_folders(tmp_path: Path, deep: dict[str, str]) -> None:
    """Of folders the first is the class, so that the last, in an archive, would be another."""
    members = {f"{deep[name[0]]}/{name[2:]}": one for name, one in in_classes(12, 0).items()}
    assert "in folders of different depth or place" in refused(archive(tmp_path / "x.tar", members))


def test_an_archive_without_an_image_is_refused_among_others(tmp_path: Path) -> None:
    archive(tmp_path / "train-0.tar", numbered(0, 12))
    archive(tmp_path / "val-0.tar", numbered(12, 12))
    empty = archive(tmp_path / "test-0.tar", {})
    assert f"{empty}: holds no images" in refused(tmp_path)


def test_subjects_of_bids_in_an_archive_stay_together(tmp_path: Path) -> None:
    members: dict[str, bytes | str] = {
        f"{'ab'[i // 3 % 2]}/sub-{i // 3:02d}_run-{i % 3}.png": picture(i) for i in range(60)
    }
    source, said = opened(archive(tmp_path / "x.tar", members))
    subjects = [{part.case(i).split("_")[0] for i in range(len(part))}
                for part in (source.train, source.val, source.test)]  # fmt: skip
    assert sum(map(len, subjects)) == 20
    assert "60 cases of 20 patients by subject in their paths, kept together" in said[0]


def test_a_member_whose_size_leads_back_does_not_hang(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.tar", numbered(0, 4))
    content = bytearray(path.read_bytes())
    content[124:136] = b"\xff" * 10 + (2**16 - 1024).to_bytes(2, "big")  # -1024, in base 256
    total = sum(content[:148]) + 8 * 32 + sum(content[156:512])
    content[148:156] = f"{total:06o}\0 ".encode()
    path.write_bytes(content)
    assert "cannot be read as a tar archive" in refused(path)


def damaged(rng: np.random.Generator) -> dict[str, bytes | str]:
    """Members of which some are renamed, there twice, emptied, cut or filled with noise."""
    names = list((numbered(0, 12) if rng.random() < 0.5 else in_classes(12, 0)).items())
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(len(names)))
        name, content = names[at]
        raw = content.encode() if isinstance(content, str) else content
        odd = [".", "", "x/", "../", "/", "train/", "._", ".png", ".cls", "\udce9", "é", "\n", " "]
        word = odd[rng.integers(len(odd))]
        ways: list[tuple[str, bytes | str]] = [
            (word + name, raw), (name + word, raw), (name.replace(".", word, 1) or "x", raw),
            (name, b""), (name, raw[: rng.integers(len(raw) + 1)]), (name, rng.bytes(20)),
            (names[0][0], raw), (name, picture(0)), (name.rpartition("/")[2], raw),
        ]  # fmt: skip
        names[at] = ways[rng.integers(len(ways))]
        if rng.random() < 0.3:
            names = [names[i] for i in rng.permutation(len(names))]
    return dict(names)


def test_members_that_are_damaged_in_any_way(tmp_path: Path) -> None:
    outcomes = {"read": 0, "refused": 0}
    for seed in range(200):
        path = archive(tmp_path / "x.tar", damaged(np.random.default_rng(seed)))
        try:
            source = open_source(str(path), size=(8,))
            for part in (source.train, source.val, source.test):
                assert all(part[i]["image"].isfinite().all() for i in range(len(part))), seed
            outcomes["read"] += 1
        except InputError as error:
            assert str(path) in str(error) and "\n" not in str(error), (seed, error)
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 20
