"""The arms of a comparison: how a network trained on images becomes one for volumes."""

from collections.abc import Callable

from torch import nn

from crossd.conversion import acs, center, convert, inflate, to_3d, triplanar
from crossd.slicenet import SliceNet

PRETRAININGS: dict[str, tuple[str, str, str | None]] = {
    # name: form, kernel mode, lift of the new 2D weights
    "plain": ("2d", "projection", None),
    "fourier": ("cross", "fourier", None),
    "projection": ("cross", "projection", "center"),
}

Make = Callable[[nn.Module], nn.Module]
ARMS: dict[str, tuple[str | None, Make]] = {
    # name: the pretraining it starts from, and how it becomes a network for volumes
    "scratch": (None, lambda net: to_3d(convert(net, lift=None))),
    "slices": ("plain", SliceNet),
    "center": ("plain", center),
    "inflate": ("plain", inflate),
    "acs": ("plain", acs),
    "triplanar": ("plain", triplanar),
    "fourier": ("fourier", to_3d),
    "fourier-aligned": ("fourier", lambda net: to_3d(net, align=True)),
    "projection": ("projection", to_3d),
}
RIVALS = tuple(name for name, (pretraining, _) in ARMS.items() if pretraining in (None, "plain"))
"""Arms that need no Cross-D training."""
