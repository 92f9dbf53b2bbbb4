"""What a member of an archive says of the class of its sample."""

import json
import re
import reprlib

from crossd.errors import InputError

ENDINGS = ("cls", "json")
LONGEST = 255
"""Letters of the name of a class, at most."""

NUMBER = re.compile(r"[+-]?\d+(\.\d*)?")
BETWEEN = re.compile(r"[\s,;]+")


def class_in(content: bytes, ending: str, where: str) -> str | None:
    r"""Read the name of a class.

    Args:
        content: What the member holds: of ``.cls`` a whole number or a name, of ``.json`` an object
            whose "label" is one.
        ending: "cls" or "json".
        where: Archive and member, for the message.

    Returns:
        The name, of a number its digits; None where a ``.json`` has no label.

    Raises:
        InputError: When it is none.

    Example:
        >>> class_in(b"007\n", "cls", "here"), class_in(b'{"label": "2+"}', "json", "here")
        ('7', '2+')
    """
    try:
        text = content.decode("utf-8-sig").strip()
        value = text if ending == "cls" else _label(text)
    except UnicodeDecodeError as error:
        raise _none(where, "its bytes are no text in UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise _none(where, "it is no JSON") from error
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    name = str(value).strip()
    wrong = isinstance(value, bool) or not isinstance(value, str | int) or not name
    if wrong or not name.isprintable() or len(name) > LONGEST or name[0] in "[{":
        raise _none(where, reprlib.repr(value))
    if not all(map(NUMBER.fullmatch, BETWEEN.split(name))):
        return name
    whole, _, rest = name.partition(".")
    if not whole.isdecimal() or rest.strip("0"):
        raise _none(where, reprlib.repr(value))
    return str(int(whole))


def _label(text: str) -> object:
    found = json.loads(text)
    value = found.get("label") if isinstance(found, dict) else None
    return None if value == "" else value


def _none(where: str, why: str) -> InputError:
    return InputError(
        f"{where}: holds no class ({why}); expected one whole number from 0, or a name, in UTF-8"
    )
