"""Arrays that are kept in a folder from one run to the next, and shared by processes.

Lists of many files and statistics are kept in the cache folder of the user, prepared volumes in
the folder that ``--cache`` names, which is bounded in size.
"""

import json
import math
import os
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from crossd.data.shared_arrays import Array, Handle, mapped
from crossd.errors import InputError
from crossd.utils.atomic_files import atomic, locked

FOLDER = "CROSSD_CACHE"
"""Names the cache folder of the user, in the environment."""

SUFFIX = ".prepared"
"""Of all files, also of those that earlier versions wrote: these are never read, but make room."""

LOCK = ".lock"
LEFT_OVER = 3600.0
"""Seconds after which the file of a writer that was killed is removed."""

CLOCK = 2_000_000_000
"""Nanoseconds by which a file or folder must be older than a look at it. A clock of a file system
is as coarse as two seconds: what changes within them leaves the time as it is."""

TYPES = {"U8": np.uint8, "I32": np.int32, "I64": np.int64, "F32": np.float32, "F64": np.float64}


class DiskCache:
    """Arrays in files of a folder, which are mapped: reading a part reads its pages only.

    What was used longest ago makes room for what is new. What was used since this run began is
    kept, as else a run over more than fits would find nothing of its last epoch. Any number of
    processes may share the folder. Where it cannot be written to, nothing is kept.

    Args:
        folder: Made when something is kept. Other files in it are left alone.
        most: Bytes that the folder may hold of these files.

    Example:
        >>> import tempfile
        >>> cache = DiskCache(Path(tempfile.mkdtemp()))
        >>> cache.keep("key", {"numbers": np.arange(3)}), cache.get("key"), cache.get("other")
        (True, {'numbers': MappedArray([0, 1, 2])}, None)
    """

    def __init__(self, folder: Path, most: float = math.inf) -> None:
        self.folder, self.most = folder, most
        self.start = time.time()
        self._whole: dict[str, int] = {}

    def get(self, key: str) -> dict[str, Array] | None:
        """Return what is kept under a key; None when there is nothing, or it is damaged."""
        path = self._path(key)
        try:
            arrays = self._read(path, key)
        except Exception:  # a damaged file may raise anything
            return None
        with suppress(OSError):  # where the folder may only be read
            now = time.time()
            os.utime(path, (now, now))
        return arrays

    def keep(self, key: str, arrays: Mapping[str, Array]) -> bool:
        """Keep arrays under a key; returns False where there is no room, on the disk too."""
        content = save(dict(arrays), {"key": key, "crc": _crc(arrays)})
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            with locked(self.folder / LOCK):
                if self._make_room(len(content), self._path(key)):
                    with atomic(self._path(key)) as temporary:
                        temporary.write_bytes(content)
                    return True
        return False

    @contextmanager
    def one_process_at_a_time(self, key: str) -> Iterator[None]:
        """Let the processes that train together make what belongs to a key one after the other.

        The second then finds what the first one kept. Where files cannot be locked they do not
        wait.
        """
        several = any(int(os.environ.get(n, "1")) > 1 for n in ("WORLD_SIZE", "SLURM_NTASKS"))
        if not several:
            yield
            return
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self._path(key).with_suffix(LOCK)):
            yield

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{SUFFIX}"

    def _read(self, path: Path, key: str) -> dict[str, Array]:
        """Map the arrays of a safetensors file, as its header describes them."""
        file = Handle.of(path)
        start = int.from_bytes(file.read(0, 8), "little")
        header = json.loads(file.read(8, start))
        told = header.pop("__metadata__")
        arrays = {}
        for name, one in header.items():
            kind, offset = np.dtype(TYPES[one["dtype"]]), 8 + start + one["data_offsets"][0]
            arrays[name] = mapped(file, kind, one["shape"], offset)
        inode = os.fstat(file.number).st_ino
        if self._whole.get(key) != inode:  # looked at once by each process
            if told != {"key": key, "crc": _crc(arrays)}:
                raise ValueError(f"{path} is damaged")
            self._whole[key] = inode
        return arrays

    def _make_room(self, needed: int, replaced: Path) -> bool:
        """Remove what was used longest ago until so many bytes fit; returns whether they do."""
        now, total = time.time(), 0
        found: list[tuple[float, int, Path]] = []
        for path in self.folder.glob(f"*{SUFFIX}"):
            with suppress(FileNotFoundError):
                stat = path.stat()
                if path.name.startswith(".") and now - stat.st_mtime > LEFT_OVER:
                    path.unlink()
                elif path != replaced:
                    total += stat.st_size
                    found.append((stat.st_mtime, stat.st_size, path))
        for used, size, path in sorted(found):
            if total + needed <= self.most or used >= self.start:
                break
            path.unlink(missing_ok=True)
            total -= size
        return total + needed <= self.most


def user_cache() -> DiskCache:
    """Return the cache of this user: in the folder that CROSSD_CACHE names, or the platform's."""
    named = os.environ.get(FOLDER)
    if not named:
        import platformdirs

        return DiskCache(platformdirs.user_cache_path("crossd", appauthor=False))
    try:
        return DiskCache(Path(named).expanduser())
    except RuntimeError:  # of a user who does not exist: a place where nothing can be kept
        return DiskCache(Path(os.devnull, "crossd"))


def option_cache(folder: str | None, gigabytes: float) -> DiskCache | None:
    """Open the folder that the options `--cache` and `--cache-gb` describe; None without one.

    Raises:
        InputError: "cannot write to --cache".
    """
    if folder is None:
        return None
    cache = DiskCache(Path(folder).expanduser(), gigabytes * 1e9)
    try:
        cache.folder.mkdir(parents=True, exist_ok=True)
        (cache.folder / LOCK).touch()
    except OSError as error:
        raise InputError(f"cannot write to --cache {cache.folder}: {error.strerror}") from error
    return cache


def key_of(kind: str, *parts: object) -> str:
    """Return the key of what depends on `parts`, which are numbers, texts or lists of them.

    Example:
        >>> key_of("index", "/data") == key_of("index", "/data"), key_of("index", "/data")[:6]
        (True, 'index-')
    """
    text = json.dumps(parts)  # writes the odd bytes of names as \\udc.., so that all are encoded
    return f"{kind}-{sha256(text.encode()).hexdigest()[:40]}"


def state_of(path: Path) -> tuple[int, int]:
    """Return size and time of change [ns] of a file: another one where it was written anew.

    Raises:
        OSError: When it is gone.
    """
    state = path.stat()
    return state.st_size, state.st_mtime_ns


def _crc(arrays: Mapping[str, Array]) -> str:
    """Return a checksum of the names, the shapes and the values of arrays."""
    value = 0
    for name, array in sorted(arrays.items()):
        value = zlib.crc32(repr((name, str(array.dtype), array.shape)).encode(), value)
        value = zlib.crc32(np.ascontiguousarray(array).data, value)
    return f"{value:08x}"
