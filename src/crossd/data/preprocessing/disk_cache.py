"""Prepared volumes in a folder that stays, bounded in size, shared by processes and runs."""

import hashlib
import json
import os
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from crossd.errors import InputError
from crossd.utils.atomic_files import atomic, locked

PREPARATION = 1
"""To be raised when volumes are prepared in another way: what was stored before is not used."""

SUFFIX = ".prepared"
LOCK = ".lock"
LEFT_OVER = 3600.0
"""Seconds after which the file of a writer that was killed is removed."""


def fingerprint(files: Sequence[Path], *options: Any) -> str:
    """Name what is prepared from files: another file or another option gives another name.

    Args:
        files: What is read; their places, sizes and times of change count.
        *options: How it is prepared, as JSON can hold it.

    Raises:
        OSError: When a file is gone.

    Example:
        >>> one = fingerprint([Path(__file__)], 1.0)
        >>> one == fingerprint([Path(__file__)], 1.0), one == fingerprint([Path(__file__)], 2.0)
        (True, False)
    """
    stats = [(os.fsencode(file.absolute()).hex(), file.stat()) for file in files]
    read = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    versions = (PREPARATION, torch.__version__, np.__version__)
    text = json.dumps([read, options, versions])
    return hashlib.sha256(text.encode()).hexdigest()[:40]


class DiskCache:
    """Tensors in files of a folder, which are mapped: reading a part reads its pages only.

    What was used longest ago makes room for what is new. What was used since this run began is
    kept, as else a run over more than fits would find nothing of its last epoch. Any number of
    processes may share the folder.

    Args:
        folder: Made when missing. Other files in it are left alone.
        most: Bytes that the folder may hold of these files.

    Raises:
        InputError: "cannot write to --cache".

    Example:
        >>> import tempfile
        >>> stored = DiskCache(Path(tempfile.mkdtemp()), 1e6)
        >>> stored.keep("name", (torch.arange(3),)), stored.get("name"), stored.get("other")
        (True, (tensor([0, 1, 2]),), None)
    """

    def __init__(self, folder: Path, most: float) -> None:
        self.folder, self.most = folder, most
        self.start = time.time()
        self._whole: dict[str, int] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / LOCK).touch()
        except OSError as error:
            raise InputError(f"cannot write to --cache {folder}: {error.strerror}") from error

    def get(self, name: str) -> tuple[Tensor, ...] | None:
        """Return what is stored under a name; None when there is nothing, or it is damaged."""
        path = self._path(name)
        try:
            found = self._read(path, name)
            now = time.time()
            os.utime(path, (now, now))
        except (OSError, SafetensorError, RuntimeError, ValueError):  # torch's, where it maps files
            return None
        return found

    def keep(self, name: str, tensors: Sequence[Tensor]) -> bool:
        """Store tensors under a name; returns False where there is no room, on the disk too."""
        named = {str(i): tensor.contiguous() for i, tensor in enumerate(tensors)}
        content = save(named, {"name": name, "crc": _crc(list(named.values()))})
        with suppress(OSError), locked(self.folder / LOCK):
            if self._make_room(len(content), self._path(name)):
                with atomic(self._path(name)) as temporary:
                    temporary.write_bytes(content)
                return True
        return False

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{SUFFIX}"

    def _read(self, path: Path, name: str) -> tuple[Tensor, ...]:
        inode = path.stat().st_ino
        with safe_open(path, "pt") as file:
            told = file.metadata()
            tensors = tuple(file.get_tensor(key) for key in sorted(file.keys()))
        if self._whole.get(name) != inode:  # looked at once by each process
            if told != {"name": name, "crc": _crc(tensors)}:
                raise ValueError(f"{path} is damaged")
            self._whole[name] = inode
        return tensors

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


def open_disk_cache(options: Any) -> DiskCache | None:
    """Open the folder that the options `cache` and `cache_gb` of a command name."""
    if options.cache is None:
        return None
    return DiskCache(Path(options.cache).expanduser(), options.cache_gb * 1e9)


def _crc(tensors: Sequence[Tensor]) -> str:
    """Return a checksum of the shapes and the values of tensors."""
    value = zlib.crc32(repr([(str(t.dtype), tuple(t.shape)) for t in tensors]).encode())
    for tensor in tensors:
        value = zlib.crc32(tensor.numpy().data, value)
    return f"{value:08x}"
