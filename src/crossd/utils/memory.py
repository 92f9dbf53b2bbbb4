"""How much memory there is, and refusing what does not fit before it is allocated."""

import re
import sys
from pathlib import Path

from crossd.errors import InputError

SHARE = 0.9
"""Share of the free memory that one volume may take."""

_GROUPS = (
    # limit, use, and what of the use can be given back, of control groups of version 2 and 1
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)


def available(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the memory that this process may still take [bytes].

    What the machine has free, or less where the process runs in a control group (a container, a
    Slurm job) with a limit.

    Args:
        root: Where the control group is described.

    Example:
        >>> available() > 0
        True
    """
    import psutil

    found = [int(psutil.virtual_memory().available)]
    for limit, used, spare in _GROUPS:
        try:
            most, now = (int((root / name).read_text()) for name in (limit, used))
            stat = ((root / used).parent / "memory.stat").read_text()
        except (OSError, ValueError):  # no group, or a limit of "max"
            continue
        cache = re.search(rf"^{spare} (\d+)$", stat, re.MULTILINE)
        found.append(max(0, most - now + (int(cache[1]) if cache else 0)))
    return min(found)


def peaks() -> dict[str, float]:
    """Return the most memory that this process, or one that it started, and its GPU held [GiB].

    Example:
        >>> peaks()["peak_memory_gib"] > 0
        True
    """
    import torch

    found = {"peak_memory_gib": _resident() / 2**30}
    if torch.cuda.is_available():
        found["peak_gpu_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return {name: round(value, 3) for name, value in found.items()}


def _resident() -> float:
    import psutil

    info = psutil.Process().memory_info()
    if sys.platform == "win32":
        return float(info.peak_wset)
    import resource

    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    most = max(resource.getrusage(one).ru_maxrss for one in who)
    return float(most if sys.platform == "darwin" else most * 1024)


def device() -> str:
    """Return the name of the GPU, or how many cores torch uses.

    Example:
        >>> isinstance(device(), str)
        True
    """
    import torch

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    count = torch.get_num_threads()
    return f"CPU, {count} thread{'s' if count > 1 else ''}"


def require(needed: float, what: str) -> None:
    """Refuse what needs more memory than there is.

    Args:
        needed: Bytes.
        what: The file that needs them, for the message.

    Raises:
        InputError: "...: needs ... GiB of memory, but ... are free".
    """
    if needed < 2**26:  # reading what is free takes longer than reading the file
        return
    free = available() * SHARE
    if needed > free:
        raise InputError(
            f"{what}: needs {needed / 2**30:,.1f} GiB of memory, but {free / 2**30:.1f} are free; "
            "crop or downsample it, or use a larger machine"
        )


def ran_out(error: BaseException) -> bool:
    """Tell whether an error says that memory, or a GPU's, did not suffice.

    Example:
        >>> ran_out(MemoryError()), ran_out(RuntimeError("shapes differ"))
        (True, False)
    """
    said = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and ("allocate memory" in said or "out of memory" in said)
    )
