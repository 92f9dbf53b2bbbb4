"""The error a user can mend."""

import dataclasses
from typing import Any


class InputError(ValueError):
    """Something the user gave is wrong.

    The message is one line that says what is wrong, where, what was expected and what to do.
    The command line prints it and exits with code 2, without a traceback.
    """


def require_kinds(made: Any, where: str) -> None:
    """Refuse a record, read from a file, whose values are of other kinds than its defaults.

    Args:
        made: A dataclass.
        where: Names the record in the message.

    Raises:
        InputError: naming the first such value.
    """
    for field in dataclasses.fields(made):
        default: Any = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        value = getattr(made, field.name)
        if default is dataclasses.MISSING or default is None:
            continue
        number = isinstance(default, float) and isinstance(value, int)
        wrong = isinstance(value, bool) != isinstance(default, bool)
        if wrong or not (number or isinstance(value, type(default))):
            kind = type(default).__name__
            raise InputError(f"{where}: {field.name} (={value!r}) is damaged, expected: {kind}")
