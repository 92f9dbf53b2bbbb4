"""Reading the values of options that are lists or sizes."""

from collections.abc import Sequence

from crossd.errors import InputError


def names(text: str, known: Sequence[str], option: str) -> tuple[str, ...]:
    """Split a list separated by commas and check every name.

    Raises:
        InputError: "OPTION: unknown ..." with what is known.

    Example:
        >>> names("probe, zero", ("zero", "probe"), "--protocols")
        ('probe', 'zero')
    """
    given = tuple(name.strip() for name in text.split(",") if name.strip())
    unknown = [name for name in given if name not in known]
    if unknown or not given:
        shown = ", ".join(map(repr, unknown)) or "empty list"
        raise InputError(f"{option}: unknown {shown}; known are {', '.join(known)}")
    return tuple(dict.fromkeys(given))


def sizes(text: str | None) -> tuple[int, ...] | None:
    """Read a size: one number, or one an axis.

    Raises:
        InputError: "--size ..." for anything else.

    Example:
        >>> sizes("32,48,48")
        (32, 48, 48)
    """
    if text is None:
        return None
    try:
        values = tuple(int(part) for part in str(text).split(","))
    except ValueError:
        values = ()
    if not values or min(values) < 1:
        raise InputError(f"--size (={text!r}) must be a number, or one an axis such as 32,48,48")
    return values
