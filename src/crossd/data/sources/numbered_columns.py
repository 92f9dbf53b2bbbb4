"""Columns of findings and of numbers to learn, as tables of cases have them."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from crossd.errors import InputError

Numbered = Literal["multilabel", "regression"]

STARTS: dict[str, Numbered] = {"label_": "multilabel", "target_": "regression"}
"""How the names of the columns begin, and what is learnt of them."""

FINDINGS = {
    **dict.fromkeys(("1", "1.0", "yes", "true", "positive"), 1.0),
    **dict.fromkeys(("0", "0.0", "no", "false", "negative"), 0.0),
    "-1": math.nan,
    "-1.0": math.nan,
}
"""What may stand for a finding: it is there, or not, or that is not known."""

EMPTY = ("", "n/a", "na", "nan", "none", "null", "unknown")
"""What stands where nothing is known."""

LARGEST = 3e38
"""What numbers of 32 bits hold."""

THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?")

UNIT = re.compile(r"(.*?)\s*[\[(]([^\])]*)[\])]")
"""A name with its unit: ``volume [ml]``."""


@dataclass(frozen=True)
class Columns:
    """What the numbers of a case are.

    Attributes:
        task: "multilabel" for findings, "regression" for numbers to learn.
        names: Of each.
        units: Of numbers to learn, "" where it is not said; empty for findings.
        heads: What the columns are called in the table.
    """

    task: Numbered
    names: tuple[str, ...]
    units: tuple[str, ...]
    heads: tuple[str, ...]


def columns_of(heads: Sequence[str], where: str) -> Columns | None:
    """Find the columns of findings, ``label_NAME``, or of numbers, ``target_NAME [UNIT]``.

    Args:
        heads: The names of all columns, as they are spelled.
        where: The table, for messages.

    Returns:
        What they are; None where there are none.

    Raises:
        InputError: When there are both, a name is empty, or two are one.

    Example:
        >>> found = columns_of(["image", "target_Volume [ml]", "target_age"], "cases.csv")
        >>> found.task, found.names, found.units
        ('regression', ('Volume', 'age'), ('ml', ''))
    """
    own = {start: [h for h in heads if h.lower().startswith(start)] for start in STARTS}
    kinds = [start for start, found in own.items() if found]
    if not kinds:
        return None
    if len(kinds) > 1:
        raise InputError(
            f"{where}: has both findings ({own['label_'][0]}) and numbers ({own['target_'][0]}); "
            "keep those that are to be learnt"
        )
    task = STARTS[kinds[0]]
    told = [head[len(kinds[0]) :].strip() for head in own[kinds[0]]]
    parts = [UNIT.fullmatch(name) if task == "regression" else None for name in told]
    names = tuple(m[1] if m else name for name, m in zip(told, parts, strict=True))
    units = tuple(m[2].strip() if m else "" for m in parts) if task == "regression" else ()
    for index, (name, head) in enumerate(zip(names, own[kinds[0]], strict=True)):
        if not name:
            raise InputError(f"{where}: the column {head!r} says no name after {kinds[0]!r}")
        if name.casefold() in [other.casefold() for other in names[:index]]:
            raise InputError(
                f"{where}: has the column {kinds[0]}{name} twice; rename or remove one"
            )
    return Columns(task, names, units, tuple(own[kinds[0]]))


def numbers_in(cells: Mapping[str, str], columns: Columns, where: str) -> tuple[float, ...]:
    """Read the numbers of a case.

    Args:
        cells: What stands in each column, by its name in small letters.
        columns: The columns.
        where: Table and line, for messages.

    Returns:
        A number a column, NaN where it is not known.

    Raises:
        InputError: When something else stands there.

    Example:
        >>> columns = columns_of(["label_a", "label_b"], "cases.csv")
        >>> numbers_in({"label_a": "yes", "label_b": ""}, columns, "cases.csv, line 2")
        (1.0, nan)
    """
    found = []
    for head in columns.heads:
        text = cells[head.lower()].strip()
        if text.lower() in EMPTY:
            found.append(math.nan)
        elif columns.task == "multilabel":
            if text.lower() not in FINDINGS:
                raise InputError(
                    f"{where}: {head} is {text!r}; expected 1 or 0 (yes or no), or nothing where "
                    "it is not known"
                )
            found.append(FINDINGS[text.lower()])
        else:
            found.append(_number(text, head, where))
    return tuple(found)


def _number(text: str, head: str, where: str) -> float:
    try:
        value = math.inf if "_" in text else float(text)
    except ValueError:
        value = math.inf
    if not abs(value) <= LARGEST:
        hint = " (write 2.5, not 2,5)" if re.fullmatch(r"[+-]?\d+,\d+", text) else ""
        hint = " (write 1000, not 1,000)" if THOUSANDS.fullmatch(text) else hint
        raise InputError(
            f"{where}: {head} is {text!r}; expected a number{hint}, or nothing where it is unknown"
        )
    return value
