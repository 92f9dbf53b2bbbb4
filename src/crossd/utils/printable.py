"""Text as a terminal may have it: names of files may hold what would move its cursor."""

import unicodedata

HIDDEN = {"Cc", "Cs", "Zl", "Zp"}
"""Categories of Unicode: control characters, bytes that are no UTF-8, and breaks of lines."""

BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
"""Marks that turn the direction of what follows, by which a name shows as another."""


def printable(text: str, kept: str = "\n\t") -> str:
    r"""Escape what a terminal would obey instead of showing, but for the signs that are kept.

    Everything that the command line prints goes through here: its outcome, its complaints, and what
    `crossd.utils.progress.Progress` says.

    Example:
        >>> print(printable("a\x1b[2Jb\udcf6se\n\u202egnp"))
        a\x1b[2Jb\xf6se
        \u202egnp
    """
    return "".join(
        _escaped(sign) if _is_hidden(sign) and sign not in kept else sign for sign in text
    )


def _is_hidden(sign: str) -> bool:
    if sign.isprintable():
        return False
    return unicodedata.category(sign) in HIDDEN or unicodedata.bidirectional(sign) in BIDI


def _escaped(sign: str) -> str:
    if "\udc80" <= sign <= "\udcff":  # a byte of a name that is no UTF-8
        return f"\\x{ord(sign) - 0xDC00:02x}"
    return sign.encode("unicode_escape").decode()
