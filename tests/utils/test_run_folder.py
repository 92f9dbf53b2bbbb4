"""Output folders: claimed once, resumed only with the same options."""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from crossd import InputError
from crossd.utils import run_folder
from crossd.utils.run_folder import CONFIGURATION, LOG, RESULT, claim_folder, is_finished


@dataclass(frozen=True)
class Config:
    out: str
    lr: float = 0.1
    size: str | None = None
    workers: int = 0
    overwrite: bool = False
    resume: bool = False


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(str(tmp_path / "runs" / "a"))


def changed(config: Config, **values: object) -> Config:
    return dataclasses.replace(config, **values)  # type: ignore[arg-type]


def refused(config: Config, message: str) -> None:
    """Check that the folder is refused in one line, and left as it was."""
    folder = Path(config.out)
    before = {path: path.read_bytes() for path in folder.rglob("*")} if folder.is_dir() else {}
    with pytest.raises(InputError, match=message) as caught:
        claim_folder(config)
    assert "\n" not in str(caught.value)
    if folder.is_dir():
        assert {path: path.read_bytes() for path in folder.rglob("*")} == before


def test_a_new_folder_holds_the_configuration(config: Config) -> None:
    folder = claim_folder(config)
    assert folder == Path(config.out) and folder.is_dir()
    written = (folder / CONFIGURATION).read_text()
    assert yaml.safe_load(written) == dataclasses.asdict(config)
    assert [line.split(":")[0] for line in written.splitlines()] == list(dataclasses.asdict(config))


def test_an_empty_folder_is_taken(config: Config) -> None:
    Path(config.out).mkdir(parents=True)
    claim_folder(config)
    assert (Path(config.out) / CONFIGURATION).is_file()


def test_what_is_not_ours_is_kept(config: Config) -> None:
    """A report of the user's own must not be replaced because its name is ours."""
    folder = Path(config.out)
    folder.mkdir(parents=True)
    (folder / "report.md").write_text("mine")
    refused(config, "is not empty")
    assert (folder / "report.md").read_text() == "mine"
    (folder / "notes.txt").write_text("mine")
    (folder / "pretrained-plain.safetensors").write_text("stale")
    claim_folder(changed(config, overwrite=True))
    assert {path.name for path in folder.iterdir()} == {"notes.txt", CONFIGURATION}


def test_an_empty_name_is_refused(config: Config) -> None:
    with pytest.raises(InputError, match="--out is empty"):
        claim_folder(changed(config, out=""))


def test_a_result_is_overwritten_only_when_asked(config: Config) -> None:
    result = claim_folder(config) / RESULT
    result.write_text("{}")
    refused(config, "already holds a result")
    refused(changed(config, resume=True), "already holds a result")
    claim_folder(changed(config, overwrite=True, lr=0.2))
    assert not result.exists()
    assert yaml.safe_load((Path(config.out) / CONFIGURATION).read_text())["lr"] == 0.2


def test_a_run_that_did_not_end_is_resumed_with_the_same_options(config: Config) -> None:
    folder = claim_folder(config)
    (folder / "last.ckpt").write_text("weights")
    refused(config, "did not end")
    refused(
        changed(config, resume=True, lr=0.2, size="32"),
        r"other options \(lr 0.1, now 0.2, size not given, now 32\)",
    )
    claim_folder(changed(config, resume=True, workers=4))
    assert (folder / "last.ckpt").read_text() == "weights"
    claim_folder(changed(config, overwrite=True, lr=0.2))


def test_resuming_starts_where_there_is_nothing(config: Config) -> None:
    folder = claim_folder(changed(config, resume=True))
    assert yaml.safe_load((folder / CONFIGURATION).read_text())["lr"] == 0.1
    (Path(config.out).parent / "b").mkdir()
    (Path(config.out).parent / "b" / "mine.txt").write_text("")
    refused(changed(config, resume=True, out=str(folder.parent / "b")), "is not empty")


def test_what_has_ended_is_finished(config: Config) -> None:
    again = changed(config, resume=True)
    assert not is_finished(again)
    folder = claim_folder(config)
    assert not is_finished(again)
    (folder / RESULT).write_text("{}")
    assert is_finished(again) and is_finished(changed(again, workers=4))
    assert not is_finished(config)
    with pytest.raises(
        InputError, match=r"was started with other options \(lr .*, now .*\): resume with the same"
    ):
        is_finished(changed(again, lr=0.2))


def test_what_is_no_run_of_ours_is_not_finished(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other programs write a metrics.json too."""
    folder = Path(config.out)
    folder.mkdir(parents=True)
    (folder / RESULT).write_text("{}")
    again = changed(config, resume=True)
    assert not is_finished(again)
    refused(again, "already holds a result")
    monkeypatch.chdir(folder)
    assert not is_finished(changed(again, out=""))
    (folder / CONFIGURATION).write_text("")
    with pytest.raises(InputError, match="is damaged: start anew with --overwrite"):
        is_finished(again)
    (folder / RESULT).unlink()
    refused(again, "config.yaml is damaged")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    refused(Config(str(tmp_path / "a")), "is a file")
    refused(Config(str(tmp_path / "a" / "b")), "cannot write to --out")


def test_every_picture_of_a_report_is_cleared_by_a_new_run(config: Config) -> None:
    package = Path(run_folder.__file__).parents[1]
    files = [file for room in ("cli", "reports") for file in (package / room).glob("*.py")]
    texts = [file.read_text(encoding="utf-8") for file in files]
    drawn = {name for text in texts for name in re.findall(r'"([a-z-]+\.(?:png|gif))"', text)}
    assert {"roc.png", "scatter.png", "kernels.gif"} <= drawn
    folder = claim_folder(config)
    for name in ("worst-1.png", *drawn):
        (folder / name).touch()
    claim_folder(changed(config, overwrite=True))
    assert [path.name for path in folder.iterdir()] == [CONFIGURATION]


def test_what_printed_commands_made_is_cleared_by_a_new_run_but_nothing_else(
    config: Config,
) -> None:
    """`crossd transfer` prints commands whose answers go into its folder, a run among them."""
    folder = claim_folder(config)
    taught = folder / "use-taught"
    (taught / "tensorboard").mkdir(parents=True)
    ours = ["use-acs.safetensors", *(f"use-taught/{n}" for n in (CONFIGURATION, RESULT, LOG))]
    ours += ["use-taught/weights.safetensors", "use-taught/tensorboard/events.out.1"]
    for name in (*ours, "use-taught/notes.txt"):
        (folder / name).write_text("x")
    claim_folder(changed(config, overwrite=True))
    assert not any((folder / name).exists() for name in ours)
    assert (taught / "notes.txt").read_text() == "x"
