"""Checkpoints of a training: written whole, checked when read, the last two kept."""

import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from crossd.errors import InputError
from crossd.utils.atomic_files import atomic
from crossd.utils.run_folder import CHECKPOINT, EARLIER_CHECKPOINT

MAGIC = b"crossd checkpoint 1 sha256 "


def keep(folder: Path, state: Mapping[str, object]) -> None:
    """Write a checkpoint of tensors, numbers, strings, lists and dictionaries.

    The one before it stays beside it.
    """
    stream = io.BytesIO()
    torch.save(state, stream)
    content = stream.getbuffer()
    last = folder / CHECKPOINT
    with atomic(last) as temporary:
        with temporary.open("wb") as file:
            file.write(MAGIC + hashlib.sha256(content).hexdigest().encode() + b"\n")
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if last.is_file():
            _also_called(last, folder / EARLIER_CHECKPOINT)


def _also_called(path: Path, name: Path) -> None:
    """Give a file a second name, which another file may have had; at no time it has none."""
    spare = name.with_suffix(".tmp")
    spare.unlink(missing_ok=True)
    try:
        spare.hardlink_to(path)
        spare.replace(name)
    except OSError:  # a file system without links: for a moment only the second name is there
        path.replace(name)


def restore(folder: Path | None) -> tuple[dict[str, Any] | None, list[str]]:
    """Read the newest good checkpoint of a folder.

    Returns:
        The state, None where there is no checkpoint; and a line on each that was not good.

    Raises:
        InputError: "nothing to resume" when there are damaged ones alone.
    """
    bad: list[str] = []
    for name in (CHECKPOINT, EARLIER_CHECKPOINT):
        path = None if folder is None else folder / name
        if path is None or not path.is_file():
            continue
        try:
            return torch.load(io.BytesIO(_content(path)), weights_only=True), bad
        except Exception as error:  # torch raises many kinds for what is not a checkpoint
            bad.append(f"{path} is damaged ({type(error).__name__}: {error}): not used")
    if bad:
        raise InputError(f"nothing to resume: {'; '.join(bad)}; start anew with --overwrite")
    return None, bad


def fault(path: Path) -> str:
    """Say what is wrong with a checkpoint; empty when it is whole."""
    try:
        _content(path)
    except ValueError as error:
        return str(error)
    return ""


def _content(path: Path) -> bytes:
    """Read what `keep` wrote; raises ValueError for anything else."""
    head, _, content = path.read_bytes().partition(b"\n")
    if not head.startswith(MAGIC):
        raise ValueError("it does not begin like a checkpoint")
    if hashlib.sha256(content).hexdigest().encode() != head.removeprefix(MAGIC):
        raise ValueError("its checksum is another")
    return content
