"""What started this process: alone, or as one of several that train together."""

import os


def is_first() -> bool:
    """Tell whether this process writes and prints: the first of those that train together.

    It is known before they have found each other: torchrun sets ``RANK``, Lightning Fabric
    ``LOCAL_RANK`` and ``NODE_RANK``, and Slurm ``SLURM_PROCID``.
    """
    if "RANK" not in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        return os.environ.get("SLURM_PROCID", "0") == "0"
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK"))
