"""`crossd status`: how far a training is, whether it still runs, and what it has kept."""

import json
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crossd.cli.options import StatusConfig
from crossd.errors import InputError
from crossd.training import checkpoints
from crossd.training.loggers import Epoch
from crossd.utils.progress import Progress
from crossd.utils.run_folder import BAD_BATCHES, CHECKPOINT, EARLIER_CHECKPOINT, RESULT, STATUS

Status = Mapping[str, Any]
"""What `crossd.training.loggers.TrainingLog` writes."""

SILENCE = 120.0
"""Seconds without a word after which a training on another machine counts as dead."""


def status(config: StatusConfig, progress: Progress) -> str:
    """Read a folder; returns what to print.

    Raises:
        InputError: When it holds no training.
    """
    folder = Path(config.folder)
    path = folder / STATUS
    try:
        state = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        if (folder / RESULT).is_file():
            return f"{folder}: ended; the result is in {folder / RESULT}"
        why = f"no {STATUS} that can be read"
        raise InputError(
            f"{folder}: no training writes there ({why}); a transfer or a comparison has no "
            "status, and goes on by --resume"
        ) from error
    lines = [f"{folder}: {_life(state)}", _where(state)]
    lines += [_epoch(record) for record in state.get("history", [])[-3:]]
    for name in (CHECKPOINT, EARLIER_CHECKPOINT):
        if (folder / name).is_file():
            lines.append(_checkpoint(folder / name))
    if (folder / BAD_BATCHES).is_file():
        count = len((folder / BAD_BATCHES).read_text().splitlines())
        lines.append(f"{count} batches gave no loss: {folder / BAD_BATCHES}")
    return "\n".join(lines)


def is_alive(state: Status) -> bool:
    """Tell whether the process that wrote a status still runs, as far as this machine knows."""
    import psutil

    if state["state"] != "running":
        return False
    if state["host"] == socket.gethostname():
        return bool(psutil.pid_exists(state["pid"]))
    return time.time() - state["updated"] < SILENCE


def _life(state: Status) -> str:
    ago = f"last heard of {_span(time.time() - state['updated'])} ago"
    if state["state"] == "failed":
        return f"failed ({state.get('error', 'no reason known')}), {ago}"
    if state["state"] != "running":
        return f"{state['state']}, {ago}"
    if is_alive(state):
        left = _span(state["seconds_left"])
        return f"running as process {state['pid']} on {state['host']}, about {left} left, {ago}"
    return f"dead: process {state['pid']} on {state['host']} is gone, {ago}; go on with --resume"


def _where(state: Status) -> str:
    parts = [f"batch {state['done']:,} of {state['batches']:,}"]
    if "epoch" in state:
        parts.insert(0, f"epoch {state['epoch']} of {state['epochs']}")
        parts.append(f"{state['samples_per_second']:,.0f} samples/s")
        parts.append(f"{state['data_wait']:.0%} waiting for data")
        parts.append(f"{state['memory_gib']:.1f} GiB")
    if "loss" in state:
        parts.append(f"loss {state['loss']:.4f}")
    return ", ".join(parts)


def _epoch(record: Epoch) -> str:
    scores = ", ".join(f"{name} {value:.3f}" for name, value in record.get("val", {}).items())
    return f"epoch {record['epoch']}: loss {record['loss']:.4f}" + (scores and f"; {scores}")


def _checkpoint(path: Path) -> str:
    size, age = path.stat().st_size / 2**20, time.time() - path.stat().st_mtime
    fault = checkpoints.fault(path)
    return f"{path}: {size:,.1f} MiB, {_span(age)} old, {fault or 'whole'}"


def _span(seconds: float) -> str:
    """Put a time in words.

    Example:
        >>> _span(75), _span(7300)
        ('75 s', '2 h 2 min')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
