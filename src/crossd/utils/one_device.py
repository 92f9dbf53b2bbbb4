"""The device on which this process answers, found without the library that trains.

Lightning Fabric, which trains, takes seconds to import: answers on one file should not wait for it.
"""

import contextlib
import platform
import warnings

import torch
from torch import Tensor

_KINDS = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class OneDevice:
    """One device and a precision, with those names of Lightning's Fabric that answering needs.

    Args:
        precision: ``"32-true"``, ``"bf16-mixed"`` or ``"16-mixed"``; a CPU, which has no arithmetic
            of 16 bits, takes bfloat16 instead and warns.

    Attributes:
        device: The first GPU, of Apple's or NVIDIA's kind, or the CPU where there is none.

    Example:
        >>> here = OneDevice("32-true")
        >>> with here.autocast():
        ...     here.to_device(torch.ones(2)).device == here.device
        True
    """

    def __init__(self, precision: str) -> None:
        self.device = _found()
        self._kind = _KINDS.get(precision)
        if self.device.type == "cpu" and self._kind == torch.float16:
            warnings.warn("16-mixed is for GPUs: a CPU takes bf16-mixed instead", stacklevel=2)
            self._kind = torch.bfloat16

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Compute in the precision."""
        if self._kind is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self._kind)

    def to_device(self, x: Tensor) -> Tensor:
        """Return a tensor on the device."""
        return x.to(self.device, non_blocking=self.device.type == "cuda")


def slowness(precision: str) -> str:
    """Say that a precision is slow here: on x86 processors without AVX-512, bfloat16 is emulated.

    There a training step of the small ResNet on 8 volumes of 28 voxels took 16 times as long.

    Returns:
        One sentence; nothing where the precision is not slow.
    """
    usual = _found().type != "cpu" or platform.machine() not in ("x86_64", "AMD64")
    if usual or precision in ("32-true", "64-true"):
        return ""
    if torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "AVX2"):
        return ""
    return (
        f"--precision {precision}: this processor has no arithmetic for it (AVX-512), and takes "
        "many times as long as for 32-true"
    )


def _found() -> torch.device:
    if torch.backends.mps.is_available():
        return torch.device("mps", 0)
    if torch.cuda.is_available():
        return torch.device("cuda", 0)
    return torch.device("cpu")
