"""Which tar archives a name stands for."""

import glob
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from crossd.data.file_names import is_debris
from crossd.data.io.header import require_file
from crossd.data.sources.folder_walk import look
from crossd.data.splits import part_of, parts_in
from crossd.errors import InputError

PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tar.lz4")
BRACES = re.compile(r"\{(\d+\.\.\d+|[^{},]*,[^{}]*)\}")


def find(spec: str) -> list[Path] | None:
    """List the archives that a name stands for.

    Args:
        spec: An archive; a folder that holds some and no other folders, or has ``train``, ``val``
            and ``test`` (in any usual spelling) that do; or a pattern with ``{000..099}``,
            ``{a,b}``, ``*`` and ``?``.

    Returns:
        Their paths in order; None where the name stands for something else.

    Raises:
        InputError: When an archive of the pattern is missing, or is compressed, or a part has none
            and others have.

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
        parts = part_folders(root)
        found = {folder: _inside(folder) for folder in parts or [root]}
        if any(found.values()) and not all(found.values()):
            folder = next(folder for folder, inside in found.items() if not inside)
            raise InputError(f"{folder}: holds no archives, but other parts do; add or remove it")
        return _checked([path for inside in found.values() for path in inside]) or None
    paths: list[Path] = []
    for one in _expanded(str(Path(spec).expanduser())):
        if Path(one).is_dir():
            return None
        fitting = [one] if Path(one).is_file() else sorted(glob.glob(one))  # noqa: PTH207 - it may be absolute
        if not fitting:
            more = f" (of {spec})" if one != spec else ""
            raise InputError(f"{one}: no such archive{more}")
        paths += map(Path, fitting)
    return _checked(paths)


def part_folders(root: Path) -> list[Path]:
    """List the folders below one that are parts of a data set by their names."""
    return [root / one.name for one in look(str(root))[2] if part_of(one.name) and one.is_dir()]


def left_out(root: Path) -> list[str]:
    """List the folders and archives beside the parts of a data set, which are passed over."""
    parts = part_folders(root) if root.is_dir() else []
    inside = look(str(root))[2] if parts else []
    beside = [one for one in inside if root / one.name not in parts]
    return [
        one.name
        for one in beside
        if not is_debris(one.name) and (one.is_dir() or one.name.lower().endswith(".tar"))
    ]


def parts_of(paths: Sequence[Path]) -> list[str]:
    """Tell which part each archive is of: by a word of its name, else by its folder; "" if neither.

    The folder says nothing where all archives lie in the same.

    Raises:
        InputError: When a name has words of two parts.

    Example:
        >>> parts_of([Path("imagenet-train-000.tar"), Path("Val_0.tar"), Path("more.tar")])
        ['train', 'val', '']
    """
    several = len({path.parent for path in paths}) > 1
    found = []
    for path in paths:
        said = parts_in(path.stem)
        if len(said) > 1:
            raise InputError(
                f"{path}: its name says {' and '.join(said)}; rename it so that it says one part"
            )
        found.append(said[0] if said else part_of(path.parent.name) if several else "")
    return found


def _checked(archives: list[Path]) -> list[Path]:
    """Return archives all of which are files; refuse pipes and links that lead nowhere."""
    for path in archives:
        require_file(path)
    return archives


def _inside(folder: Path) -> list[Path]:
    """List the archives of a folder, none where it holds folders."""
    inside = look(str(folder))[2]
    entries = [folder / entry.name for entry in inside if not is_debris(entry.name)]
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
