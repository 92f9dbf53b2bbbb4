"""Arrays in a file: what is the same, or of one patient, stays in one part."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from files import message
from made import Heard

from crossd.data.opening import open_source
from crossd.data.quality.checks import faults
from crossd.data.quality.survey import survey
from crossd.data.source import Source
from crossd.data.sources import belonging
from crossd.data.splits import split
from crossd.utils.progress import Progress


def noise(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8), dtype=np.uint8)


def parted(**changes: Any) -> dict[str, Any]:
    """Arrays in the layout of MedMNIST, all of them different."""
    values: dict[str, Any] = {}
    for seed, part in enumerate(("train", "val", "test")):
        values |= {f"{part}_images": noise(12, seed), f"{part}_labels": np.arange(12) % 3}
    return {key: value for key, value in {**values, **changes}.items() if value is not None}


def saved(folder: Path, **values: Any) -> str:
    np.savez(folder / "data.npz", **values)
    return str(folder / "data.npz")


def opened(path: str, **options: Any) -> tuple[Source, list[str]]:
    heard = Heard()
    return open_source(path, progress=heard, **options), heard.said


def held(source: Source) -> list[set[bytes]]:
    """What the parts hold."""
    parts = (source.train, source.val, source.test)
    return [{part[i]["image"].numpy().tobytes() for i in range(len(part))} for part in parts]


def apart(found: list[set[Any]]) -> bool:
    return not (found[0] & found[1] | found[0] & found[2] | found[1] & found[2])


def test_equal_images_of_one_array_stay_together(tmp_path: Path) -> None:
    images = np.repeat(noise(30), 2, axis=0)
    path = saved(tmp_path, images=images, labels=np.arange(60) // 2 % 2)
    source, said = opened(path)
    assert apart(held(source)) and sum(map(len, held(source))) == 30
    assert said == [f"{path}: 30 cases hold the same as another, kept together with it"]
    assert source.train.groups is not None  # folds keep them whole too


def test_arrays_without_equal_images_are_split_as_before(tmp_path: Path) -> None:
    path = saved(tmp_path, images=noise(60), labels=np.arange(60) % 2)
    source, said = opened(path)
    assert said == [] and source.train.groups is None
    expected = split(np.arange(60) % 2, (0.7, 0.1, 0.2), 0, path)
    for part, indices in zip((source.train, source.val, source.test), expected, strict=True):
        assert part.samples.indices.tolist() == indices.tolist()  # type: ignore[attr-defined]


def test_parts_that_share_an_image_are_refused_but_looked_at(tmp_path: Path) -> None:
    values = parted()
    values["test_images"][3] = values["train_images"][5]
    values["val_images"][0] = values["train_images"][5]
    values["test_images"][4] = values["train_images"][6]
    path = saved(tmp_path, **values)
    said = message(lambda: open_source(path))
    assert f"{path}/train_images[5] (to train) and {path}/val_images[0] (to val) hold" in said
    assert "and 2 more such: what is tested must not be trained on" in said
    heard = Heard()
    found = survey(path, 100, 0, heard)
    leaks = [one for one in faults(found) if one.what.startswith("the same sample in two parts")]
    assert [one.count for one in leaks] == [2]
    assert any(one.endswith("and 2 more such; a training refuses that") for one in heard.said)


def test_an_image_twice_in_a_part_that_is_given_is_no_fault(tmp_path: Path) -> None:
    values = parted()
    values["test_images"][1] = values["test_images"][4]  # of one class
    source, said = opened(saved(tmp_path, **values))
    assert said == [] and source.test.groups is not None
    assert source.test.groups[1] == source.test.groups[4] != source.test.groups[5]


def test_published_parts_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = parted()
    values["test_images"][3] = values["train_images"][5]
    values["test_labels"][3] = values["train_labels"][5]
    np.savez(tmp_path / "breastmnist.npz", **values)
    monkeypatch.chdir(tmp_path)
    source, said = opened("medmnist:breastmnist")
    assert (len(source.train), len(source.val), len(source.test)) == (12, 12, 12)
    assert len(said) == 1 and "train_images[5] (to train) and breastmnist.npz/test_i" in said[0]
    assert said[0].endswith("and what is tested is in part trained on")


def test_of_very_many_images_contents_are_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(belonging, "MOST_COMPARED", 10)
    values = {"images": noise(30), "labels": np.arange(30) % 2}
    path = saved(tmp_path, **values)
    source, said = opened(path)
    assert source.train.groups is None
    assert said == [f"{path}: contents are not compared, of more than 100,000 samples"]
    source, said = opened(saved(tmp_path, **values, groups=np.arange(30) // 3))
    assert len(said) == 1 and source.train.groups is not None  # what is named is kept


@pytest.mark.parametrize("kind", ["numbers", "text", "bytes", "spellings", "column"])
def test_patients_stay_together(tmp_path: Path, kind: str) -> None:
    numbers = np.arange(60) // 4
    groups = {
        "numbers": numbers,
        "text": numbers.astype(str),
        "bytes": numbers.astype("S3"),
        "spellings": np.array([("P %d", "p  %d")[i % 2] % n for i, n in enumerate(numbers)]),
        "column": numbers[:, None],
    }[kind]
    images = noise(60)
    images[:, 0, 0] = numbers
    path = saved(tmp_path, images=images, labels=np.arange(60) // 4 % 3, groups=groups)
    source, said = opened(path)
    assert said == []
    parts = (source.train, source.val, source.test)
    patients = [{round(part[i]["image"][0, 0, 0].item(), 4) for i in range(len(part))}
                for part in parts]  # fmt: skip
    assert apart(patients) and sum(map(len, patients)) == 15
    assert survey(path, 100, 0, Progress(quiet=True)).groups == 15


def test_a_patient_without_a_name_is_alone(tmp_path: Path) -> None:
    groups = np.array(["", "p"])[np.arange(60) // 50]
    path = saved(tmp_path, images=noise(60), labels=np.arange(60) % 2, groups=groups)
    source = open_source(path)
    assert source.train.groups is not None
    assert len(np.unique(source.train.groups)) in (len(source.train), len(source.train) - 9)


def test_a_patient_in_two_parts_that_are_given_is_refused(tmp_path: Path) -> None:
    groups = {f"{part}_groups": np.arange(12) + 12 * i
              for i, part in enumerate(("train", "val", "test"))}  # fmt: skip
    assert len(open_source(saved(tmp_path, **parted(**groups))).train) == 12
    groups["test_groups"] = groups["test_groups"] - 24
    path = saved(tmp_path, **parted(**groups))
    said = message(lambda: open_source(path))
    assert f"{path}/train_images[0] (to train) and {path}/test_images[0] (to test) are of 0" in said
    found = faults(survey(path, 100, 0, Progress(quiet=True)))
    assert any(one.what.startswith("patients in two parts") for one in found)


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ({"train_groups": np.arange(12)}, "has train_groups but lacks val_groups"),
        ({f"{part}_groups": np.arange(11) for part in ("train", "val", "test")}, "shape (11,)"),
        ({f"{part}_groups": np.ones(12) for part in ("train", "val", "test")}, "holds float64"),
    ],
)
def test_groups_that_do_not_fit(tmp_path: Path, groups: dict[str, Any], words: str) -> None:
    path = saved(tmp_path, **parted(**groups))
    said = message(lambda: open_source(path))
    assert words in said and path in said


def test_arrays_that_are_not_used_are_named(tmp_path: Path) -> None:
    path = saved(tmp_path, **parted(), patients=np.arange(36), age=np.arange(36))
    assert opened(path)[1] == [f"{path}: holds age, patients too, which is not used"]
    assert opened(saved(tmp_path, **parted()))[1] == []


def test_labels_with_gaps(tmp_path: Path) -> None:
    values = parted()
    for part in ("train", "val", "test"):
        values[f"{part}_labels"] = np.array([0, 1, 5])[np.arange(12) % 3]
    path = saved(tmp_path, **values)
    source, said = opened(path)
    assert len(source.classes) == 6
    assert said == [f"{path}: no image has the label 2, 3, 4: 3 of the 6 classes are not trained; "
                    "labels without gaps have no such classes"]  # fmt: skip
    none = [one for one in faults(survey(path, 100, 0, Progress(quiet=True)))
            if one.what == "classes without a training sample"]  # fmt: skip
    assert [one.which for one in none] == [["2", "3", "4"]]
    values["test_labels"] = np.arange(12) % 3
    assert "a test label is 2, but no training label is" in message(
        lambda: open_source(saved(tmp_path, **values))
    )
    for far in (70_000, 2.0**40, np.uint64(2**63 + 5)):
        values["train_labels"] = np.array([0, 1, far])[np.arange(12) % 3]
        said_of = message(lambda: open_source(saved(tmp_path, **values)))
        assert "labels must be whole numbers from 0 to 65,535" in said_of


def test_numbers_that_32_bits_do_not_hold(tmp_path: Path) -> None:
    values = parted()
    for part in ("train", "val", "test"):
        values[f"{part}_images"] = values[f"{part}_images"].astype(np.float64)
    values["test_images"][0, 0, 0] = 1e39
    said = message(lambda: open_source(saved(tmp_path, **values)))
    assert "numbers beyond those of 32 bits" in said


def damaged(rng: np.random.Generator) -> dict[str, Any]:
    """Arrays of which one is wrong in some way."""
    values = parted() if rng.random() < 0.6 else {"images": noise(24), "labels": np.arange(24) % 3}
    if rng.random() < 0.5:
        for i, key in enumerate([key for key in values if "images" in key]):
            values[key.replace("images", "groups")] = np.arange(len(values[key])) + 100 * i
    key = list(values)[rng.integers(len(values))]
    own = values[key]
    ways: list[Any] = [
        None,
        own[:0],
        own[:-1],
        own[: len(own) // 2],
        np.concatenate([own, own]),
        own[..., None],
        own[None],
        own.reshape(-1),
        own.sum(),
        own[rng.permutation(len(own))],
        own[np.zeros(len(own), int)],
        own.astype(np.float64) * rng.choice([np.nan, np.inf, 1e300, -1, 0, 0.5]),
        own.astype(str),
        own.astype("S4"),
        own.astype(bool),
        own.astype(complex),
        own.astype(np.int64) - 2**62,
        own.astype(">f4"),
        own.astype("M8[s]"),
        own.astype([("a", own.dtype)]),
        np.full(own.shape, None),
        np.full(own.shape, 7, own.dtype),
    ]
    values[key] = ways[rng.integers(len(ways))]
    if rng.random() < 0.2:
        values[f"{key}_"] = values.pop(key)
    return {name: value for name, value in values.items() if value is not None}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of making the damage
def test_arrays_that_are_wrong_in_any_way_are_refused_in_a_line(tmp_path: Path) -> None:
    outcomes = {"read": 0, "refused": 0}
    for seed in range(250):
        path = saved(tmp_path, **damaged(np.random.default_rng(seed)))
        try:
            source = open_source(path)
        except Exception as error:
            assert type(error).__name__ == "InputError", (seed, error)
            assert "\n" not in str(error) and path in str(error), (seed, error)
            outcomes["refused"] += 1
        else:
            for part in (source.train, source.val, source.test):
                assert all(part[i]["image"].isfinite().all() for i in range(len(part))), seed
            outcomes["read"] += 1
    assert min(outcomes.values()) > 40
