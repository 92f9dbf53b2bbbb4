"""What a folder of `crossd predict` holds: a table of the answers, and how they were made."""

import csv
import hashlib
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crossd.data.io.header import stem
from crossd.errors import InputError
from crossd.inference.inputs import key
from crossd.tasks import task_of, with_units
from crossd.utils.atomic_files import atomic, locked
from crossd.weights.weights_file import WeightsConfig

TABLE = "predictions.csv"
RECORD = "predictions.yaml"
LOCK = ".lock"
COMPARED = {
    "sha256": "--weights",
    "answer": "--answer",
    "flips": "--flips",
    "precision": "--precision",
}
"""What decides on an answer, and the option it comes from."""

Rows = dict[str, list[str]]


@dataclass(frozen=True)
class Answers:
    """The answers in a folder, by the table of them.

    Attributes:
        folder: Where they are.
        heads: Names of the columns of the table, but for the first.
        rows: The cells of every line below its first, the path of the image.
        gone: The first cells of lines that do not stay.
    """

    folder: Path
    heads: Sequence[str]
    rows: Rows
    gone: set[str] = field(default_factory=set)

    def write(self) -> None:
        """Write the table, whole or not at all; lines that others have written meanwhile stay."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["image", *self.heads])
        with locked(self.folder / LOCK):
            there = _read_table(self.folder / TABLE, self.heads, overwrite=True)
            stay = {name: cells for name, cells in there.items() if name not in self.gone}
            writer.writerows([name, *cells] for name, cells in (stay | self.rows).items())
            with atomic(self.folder / TABLE) as temporary:
                temporary.write_text(text.getvalue(), encoding="utf-8", errors="surrogateescape")


def columns(weights: WeightsConfig) -> list[str]:
    """Return the names of the columns of the table, but for the first."""
    task = task_of(weights.task)
    if task.masks:
        return ["mask"]
    if task.kind == "number":
        return with_units(weights.classes, weights.units)
    chances = [f"p_{name}" for name in weights.classes]
    return ["class", *chances] if task.kind == "one" else chances


def settings(weights: str | Path, answer: str, flips: bool, precision: str) -> dict[str, object]:
    """Return what is written down of how answers are made: by which weights and which options."""
    from crossd import __version__

    with Path(weights).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "weights": str(weights),
        "sha256": digest,
        "answer": answer,
        "flips": flips,
        "precision": precision,
        "crossd": __version__,
    }


def claim(
    folder: Path,
    own: Mapping[str, object],
    heads: Sequence[str],
    asked: Collection[str],
    overwrite: bool,
) -> Answers:
    """Make the folder ready for answers, beside those that an earlier run made in the same way.

    With `overwrite`, answers that were made in another way are removed, if all of them are asked
    for: the folder never holds answers of two kinds.

    Args:
        folder: Where answers are written.
        own: The `settings` of this run.
        heads: The `columns` of its table.
        asked: What is to be answered, by `key`.
        overwrite: Whether what is there may be replaced.

    Returns:
        The answers that stay.

    Raises:
        InputError: When the folder holds anything else and nothing may be replaced, or when answers
            of two kinds would lie side by side.
    """
    import yaml

    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder} is a file: name a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _read_record(folder, overwrite)  # refuses a folder of others before a lock is left there
        with locked(folder / LOCK):
            before = _read_record(folder, overwrite) or {}
            changed = [name for name in COMPARED if before and before.get(name) != own[name]]
            if changed and not overwrite:
                options = ", ".join(COMPARED[name] for name in changed)
                raise InputError(
                    f"--out {folder} holds answers that were made with another {options} "
                    f"({RECORD} there tells): name another --out, or --overwrite them"
                )
            if before and not changed:
                return Answers(folder, heads, _read_table(folder / TABLE, heads, overwrite))
            if before:
                _remove(folder, asked)
            (folder / TABLE).unlink(missing_ok=True)
            with atomic(folder / RECORD) as temporary:
                temporary.write_text(yaml.safe_dump(dict(own), sort_keys=False), encoding="utf-8")
            return Answers(folder, heads, {})
    except OSError as error:
        raise InputError(f"cannot write to --out {folder}: {error.strerror or error}") from error


def _read_record(folder: Path, overwrite: bool) -> dict[str, object] | None:
    """Read how the answers in a folder were made; None where it is empty or may be overwritten."""
    import yaml

    path = folder / RECORD
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (ValueError, yaml.YAMLError):
        found = None
    if isinstance(found, dict):
        return found
    if not overwrite and any(not one.name.startswith(".") for one in folder.iterdir()):
        raise InputError(
            f"--out {folder} is not empty, and no {RECORD} of crossd predict tells how what is "
            "there was made: name another, or --overwrite in it"
        )
    return None


def _read_table(path: Path, heads: Sequence[str], overwrite: bool) -> Rows:
    """Read the lines that an earlier run wrote."""
    try:
        lines = _lines(path)
        if lines and lines[0] != ["image", *heads]:
            raise ValueError
        if any(len(line) != len(heads) + 1 for line in lines):
            raise ValueError
    except (ValueError, csv.Error) as error:
        if overwrite:
            return {}
        raise InputError(
            f"{path}: is not what crossd predict wrote with these weights (expected the columns "
            f"image, {', '.join(heads)[:100]}): name another --out, or --overwrite it"
        ) from error
    return {line[0]: line[1:] for line in lines[1:]}


def masks_made(folder: Path) -> dict[str, str]:
    """Return the masks in a folder by the images they were made of; {} where no table says it.

    Example:
        >>> masks_made(Path("no such folder"))
        {}
    """
    try:
        lines = _lines(folder / TABLE)
    except (ValueError, csv.Error):
        return {}
    if not lines or lines[0] != ["image", "mask"]:
        return {}
    return {line[0]: line[1] for line in lines[1:] if len(line) == 2}


def _lines(path: Path) -> list[list[str]]:
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    return [line for line in csv.reader(io.StringIO(text, newline=""), strict=True) if line]


def _remove(folder: Path, asked: Collection[str]) -> None:
    """Remove answers that were made in another way, so that none is taken for a new one."""
    try:
        lines = _lines(folder / TABLE)
    except csv.Error:
        lines = []
    others = [line[0] for line in lines[1:] if line[0] not in asked]
    if others:
        raise InputError(
            f"--out {folder} also holds answers of other settings for {len(others):,} files that "
            f"are not in --input ({others[0]}): name another --out, or give these files too"
        )
    if lines and lines[0] == ["image", "mask"]:
        for line in lines[1:]:
            mask = folder / line[-1]
            if Path(key(folder)) in Path(key(mask)).parents:
                mask.unlink(missing_ok=True)
                (mask.parent / f"{stem(mask)}.dcm").unlink(missing_ok=True)
