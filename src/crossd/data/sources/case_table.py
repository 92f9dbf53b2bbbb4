"""Lists of cases in a csv."""

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath

from crossd.data.sources.case_list import Case, named, require_distinct, with_groups_alike
from crossd.data.sources.folder_walk import names_file
from crossd.data.sources.numbered_columns import columns_of, numbers_in
from crossd.data.sources.spellings import NUMBER, group_name, not_read, same_name
from crossd.data.splits import part_of
from crossd.errors import InputError

DELIMITERS = (",", ";", "\t")
"""What may stand between the fields: the first at which the names of the columns have "image"."""


def read_table(
    path: Path,
    labels: bool = True,
    strict: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> list[Case]:
    """Read a csv with the column ``image`` and ``label``, ``mask`` or columns of numbers.

    These are findings, ``label_NAME``: 1 or 0, empty or -1 where it is not known; or numbers to
    learn, ``target_NAME [UNIT]``, empty where one is not known.
    Further columns whose names begin with ``image`` are further modalities, each one channel.
    Names of columns may be in capitals. ``split`` (train, val, test), ``group`` (or ``patient``,
    ``subject_id``, ...), ``spacing`` ("z y x" in mm) and ``ignore`` (the value of masks that says
    that a voxel is not known, in every line the same) are optional. Paths are relative to the csv.
    Between fields are commas, semicolons or tabs.

    Args:
        path: The file.
        labels: Whether a column of labels or masks is needed; else there need be none.
        strict: Refuse files that do not exist, and splits that some of the lines lack.
        say: Told which columns are not read.

    Returns:
        The cases, in the order of the lines.

    Raises:
        InputError: With file and line, when a column is missing or there twice, a path is absolute
            or leads out of the folder, or some of the lines lack their split.
    """
    return cases_of(path, *lines_of(path), labels, strict, say)


def cases_of(
    path: Path,
    spelled: Sequence[str],
    rows: Sequence[tuple[int, Sequence[str]]],
    labels: bool,
    strict: bool,
    say: Callable[[str], None] = lambda text: None,
) -> list[Case]:
    """Make cases of the columns of a list, as `read_table` does.

    Args:
        path: The file, for messages; what is named in it lies at or below its folder.
        spelled: Names of the columns.
        rows: The cells of each row, with the line where it begins.
        labels: As `read_table` takes it.
        strict: As `read_table` takes it.
        say: As `read_table` takes it.
    """
    heads = [name.lower() for name in spelled]
    names = [name for name in heads if name]
    columns = [name for name in names if name.startswith("image")]
    if not rows or "image" not in names:
        lack = f"lacks the column image (it has {','.join(heads)[:100]})"
        lack = lack if rows else "holds no lines below the names of the columns"
        raise InputError(
            f"{path}: {lack}; expected image and label or mask, with commas, semicolons or tabs "
            "between them"
        )
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{path}: has the column {twice} twice; rename or remove one")
    numbered = columns_of(spelled, str(path)) if labels else None
    kinds = [name for name in names if name in ("label", "mask")]
    if numbered is not None:
        kinds.append(numbered.heads[0])
    if labels and len(kinds) != 1:
        what = f"has both {' and '.join(kinds[:2])}" if kinds else "has neither label nor mask"
        raise InputError(
            f"{path}: {what}; expected the column image and one of label, mask, label_... "
            f"(findings) and target_... (numbers), found {', '.join(names)}"
        )
    group = (group_name(names, str(path)) if labels else "group") or ""
    numbers_of = () if numbered is None else (head.lower() for head in numbered.heads)
    known = {*columns, *kinds, *numbers_of, "split", "spacing", "ignore", group}
    unread = not_read((name for name in names if name not in known), "columns")
    if unread and labels:
        say(f"{path}: {unread}")
    cases: list[Case] = []
    for number, row in rows:
        where = f"{path}, line {number}"
        if len(row) > len(heads):
            raise InputError(f"{where}: has more fields than the first line")
        cells = dict.fromkeys(names, "") | dict(zip(heads, map(str.strip, row), strict=False))
        files = tuple(file_at(path, cells[name], where, name, strict) for name in columns)
        numbers = () if numbered is None else numbers_in(cells, numbered, where)
        if labels and numbered is None and cells[kinds[0]].lower() in ("", "n/a", "nan", "<na>"):
            found = cells[kinds[0]]
            said = f"is {found!r}, as what is not known" if found else "is empty"
            raise InputError(f"{where}: the field {kinds[0]} {said}; fill it in or remove the line")
        masks = labels and kinds == ["mask"]
        mask = file_at(path, cells["mask"], where, "mask", strict) if masks else None
        said = cells.get("split", "")
        part = part_of(said)
        if said and not part:
            raise InputError(f"{where}: split is {said!r}; expected train, val or test")
        cases.append(
            Case(
                cells["image"],
                files,
                mask,
                cells.get("label"),
                part,
                cells.get(group, ""),
                _spacing(cells.get("spacing", ""), where),
                columns=numbered,
                numbers=numbers,
                ignore=_ignored(cells.get("ignore", ""), cases, where) if masks else None,
            )
        )
    if kinds == ["label"]:
        if labels and all(names_file(str(case.label)) for case in cases):
            raise InputError(
                f"{path}: the labels are files, as {cases[0].label}; name the column of masks mask"
            )
        cases = spelled_alike(cases, path)
    cases = with_groups_alike(cases)
    if strict and labels:
        _check_splits(path, cases, [number for number, _ in rows])
    return named(cases)


def spelled_alike(cases: Sequence[Case], path: Path) -> list[Case]:
    """Give labels that are one number one spelling, as 1 and 1.0, which spreadsheets write.

    Raises:
        InputError: When other names differ in capitals or spaces only.
    """
    spellings: dict[object, str] = {}
    for label in sorted({str(case.label) for case in cases}, key=lambda text: (len(text), text)):
        key = same_name(label)
        other = spellings.setdefault(key, label)
        if isinstance(key, str) and other != label:
            require_distinct((other, label), str(path))
    return [replace(case, label=spellings[same_name(str(case.label))]) for case in cases]


def lines_of(
    path: Path, delimiter: str | None = None
) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Read a table: the names of its columns, then each row with the line where it begins.

    What stands between the fields is found by the first line unless it is given.

    Blank lines do not count as rows, and a quoted field may hold line breaks.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        mark = delimiter or _delimiter(text)
        reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=mark)
        start, rows = 1, []
        for row in reader:
            if row:
                rows.append((start, row))
            start = reader.line_num + 1
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, csv.Error) as error:
        kind = "tsv" if delimiter == "\t" else "csv"
        raise InputError(
            f"{path}: cannot be read as {kind} ({error}); write it in UTF-8"
        ) from error
    heads = [name.strip() for name in rows[0][1]] if rows else []
    return heads, rows[1:]


def _delimiter(text: str) -> str:
    """Find what stands between the fields of a csv by its first line."""
    first = next(filter(str.strip, text.splitlines()), "")
    for mark in DELIMITERS:
        names = next(csv.reader([first], delimiter=mark), [])
        if "image" in (name.strip().lower() for name in names):
            return mark
    return DELIMITERS[0]


def file_at(table: Path, text: str, where: str, column: str, strict: bool) -> Path:
    """Return the file that a list names, which must lie at or below the folder of the list.

    Args:
        table: The list.
        text: What stands there.
        where: File and line, for messages.
        column: What the file is, for messages.
        strict: Refuse a file that does not exist.
    """
    absolute = PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute()
    if "\\" in text and not (table.parent / text).exists():  # written on Windows
        text = PureWindowsPath(text).as_posix()
    if absolute or ".." in Path(text).parts:
        raise InputError(
            f"{where}: the {column} {text} leads out of the folder of the {table.suffix[1:]}; "
            "write paths relative to it, and put it above the files"
        )
    found = table.parent / text
    if "\0" in text or not text or (strict and not found.exists()):
        raise InputError(f"{where}: the {column} {text!r} does not exist in {table.parent}")
    return found


def _spacing(text: str, where: str) -> tuple[float, float, float] | None:
    if not text:
        return None
    try:
        z, y, x = (float(part) for part in re.split(r"[\s,;x]+", text))
    except ValueError:
        z = y = x = float("nan")
    if not all(0 < side < float("inf") for side in (z, y, x)):
        raise InputError(f"{where}: spacing is {text!r}; expected three numbers above 0 (z y x)")
    return z, y, x


def _ignored(text: str, before: Sequence[Case], where: str) -> int | None:
    """Read which value of masks is ignored: that of the lines before, if there are any."""
    number = float(text) if NUMBER.fullmatch(text) else None
    value = int(number) if number is not None and number.is_integer() else None
    if text and value is None:
        raise InputError(f"{where}: ignore is {text!r}; expected a whole number, or nothing")
    if before and value != before[0].ignore:
        raise InputError(
            f"{where}: ignore is {text or 'empty'}, but {before[0].ignore or 'empty'} above; one "
            "value is ignored in all masks: write it into every line"
        )
    return value


def _check_splits(path: Path, cases: Sequence[Case], lines: Sequence[int]) -> None:
    said = [bool(case.split) for case in cases]
    if any(said) and not all(said):
        raise InputError(
            f"{path}, line {lines[said.index(False)]}: its split is empty, others are not; "
            "fill in every split, or none"
        )
    if any(said) and not any(case.split == "train" for case in cases):
        raise InputError(f"{path}: no line has the split train")
