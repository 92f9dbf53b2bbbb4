"""Arrays that are kept from one run to the next, in a cache folder of the user."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file

from crossd.data.shared_arrays import Handle, mapped
from crossd.utils.atomic_files import atomic, locked

FOLDER = "CROSSD_CACHE"
"""Names the cache folder, in the environment."""

TYPES = {"U8": np.uint8, "I32": np.int32, "I64": np.int64, "F64": np.float64}
UNREADABLE = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError),
    *(RuntimeError, OverflowError, MemoryError),
)
"""What reading a damaged file raises."""


@dataclass(frozen=True)
class CachedArrays:
    """What was kept under a key.

    Attributes:
        arrays: Mapped into memory.
        facts: What else is to be known, as JSON holds it.
    """

    arrays: Mapping[str, NDArray[Any]]
    facts: Any


def folder() -> Path:
    """Return the cache folder: what CROSSD_CACHE says, or the platform's for this user."""
    if os.environ.get(FOLDER):
        return Path(os.environ[FOLDER]).expanduser()
    import platformdirs

    return platformdirs.user_cache_path("crossd", appauthor=False)


def key_of(kind: str, *parts: str) -> str:
    """Return the key of what depends on `parts`.

    Example:
        >>> key_of("index", "/data") == key_of("index", "/data"), key_of("index", "/data")[:6]
        (True, 'index-')
    """
    text = "\0".join(parts).encode(errors="surrogateescape")
    return f"{kind}-{hashlib.sha256(text).hexdigest()[:16]}"


def load(key: str) -> CachedArrays | None:
    """Return what is kept under a key, None where there is nothing that can be read."""
    try:
        file = Handle.of(_path(key))
        start = int.from_bytes(file.read(0, 8), "little")
        header = json.loads(file.read(8, start))
        facts = json.loads(header.pop("__metadata__")["facts"])
        arrays = {name: _array(file, one, 8 + start) for name, one in header.items()}
    except UNREADABLE:
        return None
    return CachedArrays(arrays, facts)


def save(key: str, arrays: Mapping[str, NDArray[Any]], facts: Any) -> None:
    """Keep arrays under a key; nothing happens where the folder cannot be written to."""
    try:
        with atomic(_path(key)) as temporary:
            save_file(dict(arrays), temporary, {"facts": json.dumps(facts)})
    except (OSError, RuntimeError, SafetensorError):  # no such folder, no home, no room
        return


@contextmanager
def one_process_at_a_time(key: str) -> Iterator[None]:
    """Let the processes that train together make what belongs to a key one after the other.

    The second then finds what the first one kept. Where files cannot be locked they do not wait.
    """
    several = any(int(os.environ.get(n, "1")) > 1 for n in ("WORLD_SIZE", "SLURM_NTASKS"))
    if not several:
        yield
        return
    with suppress(OSError):
        folder().mkdir(parents=True, exist_ok=True)
    with locked(_path(key).with_suffix(".lock")):
        yield


def _array(file: Handle, described: Any, start: int) -> NDArray[Any]:
    """Map an array as the header of a safetensors file describes it."""
    kind = np.dtype(TYPES[described["dtype"]])
    return mapped(file, kind, described["shape"], start + described["data_offsets"][0])


def _path(key: str) -> Path:
    return folder() / f"{key}.safetensors"
