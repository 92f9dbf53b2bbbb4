"""Which tar archives a name stands for."""

import glob
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from crossd.data.file_names import is_debris
from crossd.data.io.header import require_file
from crossd.data.splits import SPLITS
from crossd.errors import InputError

PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tar.lz4")
BRACES = re.compile(r"\{(\d+\.\.\d+|[^{},]*,[^{}]*)\}")


def find(spec: str) -> list[Path] | None:
    """List the archives that a name stands for.

    Args:
        spec: An archive; a folder that holds some and no other folders, or has ``train``, ``val``
            and ``test`` that do; or a pattern with ``{000..099}``, ``{a,b}``, ``*`` and ``?``.

    Returns:
        Their paths in order; None where the name stands for something else.

    Raises:
        InputError: When an archive of the pattern is missing, or is compressed.

    Example:
        >>> find("data.npz") is None
        True
    """
    low = spec.lower()
    if low.endswith(PACKED):
        raise compressed(spec)
    if not low.endswith(".tar"):
        root = Path(spec).expanduser()
        if not root.is_dir():
            return None
        parts = [root / part for part in SPLITS if (root / part).is_dir()]
        inside = [path for folder in parts or [root] for path in _inside(folder)]
        return _checked(inside) or None
    found: list[Path] = []
    for one in _expanded(str(Path(spec).expanduser())):
        if Path(one).is_dir():
            return None
        paths = [one] if Path(one).is_file() else sorted(glob.glob(one))  # noqa: PTH207 - it may be absolute
        if not paths:
            more = f" (of {spec})" if one != spec else ""
            raise InputError(f"{one}: no such archive{more}")
        found += map(Path, paths)
    return _checked(found)


def _checked(archives: list[Path]) -> list[Path]:
    """Return archives all of which are files; refuse pipes and links that lead nowhere."""
    for path in archives:
        require_file(path)
    return archives


def _inside(folder: Path) -> list[Path]:
    """List the archives of a folder, none where it holds folders."""
    entries = sorted(entry for entry in folder.iterdir() if not is_debris(entry.name))
    if any(entry.is_dir() for entry in entries):
        return []
    found = [entry for entry in entries if entry.name.lower().endswith(".tar")]
    packed = [entry for entry in entries if entry.name.lower().endswith(PACKED)]
    if packed:
        raise compressed(str(packed[0]))
    return found


def _expanded(text: str) -> Iterator[str]:
    """Write out what stands in braces, as a shell does.

    Example:
        >>> list(_expanded("{a,b}-{08..10}.tar"))[1:4]
        ['a-09.tar', 'a-10.tar', 'b-08.tar']
    """
    found = BRACES.search(text)
    if found is None:
        yield text
        return
    choices: Iterable[str] = found[1].split(",")
    if "," not in found[1]:
        first, last = found[1].split("..")
        width = max(len(first), len(last)) if "0" in (first[0], last[0]) else 0
        choices = (f"{number:0{width}d}" for number in range(int(first), int(last) + 1))
    for choice in choices:
        yield from _expanded(text[: found.start()] + choice + text[found.end() :])


def compressed(name: str) -> InputError:
    """Return the line for an archive that is compressed."""
    return InputError(
        f"{name}: is compressed, so that no image in it can be found without reading all before "
        "it; decompress it (gunzip, unzstd, ...) to .tar"
    )
