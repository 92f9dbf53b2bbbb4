"""Names that are one in several spellings: of classes, of patients, and of what names these."""

import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence

from crossd.errors import InputError

NUMBER = re.compile(r"[+-]?\d+(\.\d*)?", re.ASCII)
"""A number as tables write classes and patients: without an exponent, which names may have."""

GROUPS = tuple(
    f"{who}{what}" for who in ("patient", "subject", "participant") for what in ("", "id")
)
"""What names patients in tables and lists, beside "group": in small letters, without marks."""

MINUS = "\N{MINUS SIGN}"


def plain(text: str) -> str:
    r"""Give a name in small letters, with one way to write spaces, dashes and accents.

    Example:
        >>> plain("Cafe\u0301\u00a0\u2013 A") == plain("caf\u00e9  - a")
        True
    """
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    kinds = [unicodedata.category(letter) for letter in text]
    written = [
        "-" if kind == "Pd" or letter == MINUS else letter
        for letter, kind in zip(text, kinds, strict=True)
        if kind != "Cf"  # shows nothing
    ]
    return " ".join("".join(written).split())


def same_name(text: str) -> object:
    """Give what the spellings of one name have in common: a number's value, else `plain` text.

    Example:
        >>> same_name("007") == same_name("7.0"), same_name("P 1") == same_name("p  1")
        (True, True)
    """
    return float(text) if NUMBER.fullmatch(text) else plain(text)


def spelled_as(names: Sequence[str], known: Collection[str]) -> dict[str, str]:
    """Give names that are numbers the spelling that others have for these, as 1 for 1.0.

    Args:
        names: No two of one number.
        known: The others.

    Returns:
        The spelling of each name; its own where no other is the same number, or two are.

    Example:
        >>> spelled_as(["0.0", "2.0", "b"], ["0", "1", "B"])
        {'0.0': '0', '2.0': '2.0', 'b': 'b'}
    """
    numbers = {same_name(one): one for one in known if NUMBER.fullmatch(one)}
    found = {name: name if name in known else numbers.get(same_name(name), name) for name in names}
    return found if len({*found.values()}) == len(names) else {name: name for name in names}


def same_patient(text: str) -> object:
    """Give what the spellings of one patient have in common: as `same_name`, without marks.

    Spaces, dashes and underscores are one mark, which does not count between a letter and a digit;
    between digits it does, as 1-2 and 12 are two.

    Example:
        >>> same_patient("P_0") == same_patient("p 0") == same_patient("P0")
        True
        >>> same_patient("1-2") == same_patient("12")
        False
    """
    name = same_name(text)
    if not isinstance(name, str):
        return name
    marked = re.sub(r"[\s_-]+", "-", name)
    return re.sub(r"(?<=[^\W\d_])-(?=\d)|(?<=\d)-(?=[^\W\d_])", "", marked)


def group_name(names: Iterable[str], where: str) -> str | None:
    """Find the column, or the key, that names the patient of each case.

    Args:
        names: Of the columns or keys.
        where: The list, for the message.

    Returns:
        "group" if there is one, in any capitals; else what is called as a patient, a subject or a
        participant, or the ID of one; None without.

    Raises:
        InputError: When two are called so.

    Example:
        >>> group_name(["image", "label", "Patient ID", "age"], "here")
        'Patient ID'
    """
    spelled = {name: re.sub(r"[\W_]+", "", name).casefold() for name in names}
    found = [name for name, bare in spelled.items() if bare == "group"]
    found = found or [name for name, bare in spelled.items() if bare in GROUPS]
    if len(found) > 1:
        raise InputError(
            f"{where}: {' and '.join(found)} both name patients; call the one that says which "
            "cases stay together group"
        )
    return found[0] if found else None


def not_read(names: Iterable[str], what: str) -> str:
    """Say which columns or keys nobody reads; "" where there are none.

    Example:
        >>> not_read(["age", "sex"], "columns")
        'the columns age, sex are not read'
    """
    listed = list(names)
    more = f", ... ({len(listed)} of them)" if len(listed) > 8 else ""
    return f"the {what} {', '.join(listed[:8])}{more} are not read" if listed else ""
