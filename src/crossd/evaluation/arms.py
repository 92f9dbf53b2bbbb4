"""The arms of a comparison: how a network trained on images becomes one for volumes."""

from collections.abc import Callable

import torch
from torch import nn

from crossd.conversion.baselines import acs, center, inflate, triplanar
from crossd.conversion.convert import convert
from crossd.conversion.cycle import cycle
from crossd.conversion.folding.attention import may_attend
from crossd.conversion.plain import to_3d
from crossd.inference.slice_ensemble import OrientationMean, answering

PRETRAININGS: dict[str, tuple[str, str, str | None]] = {
    # name: form, kernel mode, lift of the new 2D weights
    "plain": ("2d", "projection", None),
    "fourier": ("cross", "fourier", None),
    "fourier-projection": ("cross", "fourier-projection", "center"),
    "projection": ("cross", "projection", "center"),
}

Make = Callable[[nn.Module, str], nn.Module]
"""Makes a network for volumes of a trained one and its task."""


def _of(make: Callable[[nn.Module], nn.Module]) -> Make:
    return lambda net, task: make(net)


def volume(net: nn.Module) -> nn.Module:
    """Convert a 2D network; attention, where there is some, then sees the whole volume.

    One that takes images of any size is checked with small ones.
    """
    attention = "volume" if may_attend(net) else None
    patch = getattr(getattr(net, "patch_embed", None), "patch_size", None)
    if patch is None or not getattr(net, "dynamic_img_size", False):
        return convert(net, attention=attention)
    channels = next(m.in_channels for m in net.modules() if isinstance(m, nn.Conv2d))
    images = torch.randn(2, channels, 2 * patch[0], 3 * patch[1])
    return convert(net, attention=attention, example=images)


ARMS: dict[str, tuple[str | None, Make]] = {
    # name: the pretraining it starts from, and how it becomes a network for volumes
    "scratch": (None, lambda net, task: to_3d(convert(net, lift=None))),
    "slices": ("plain", lambda net, task: answering(net, "slices", task)),
    "center": ("plain", _of(center)),
    "center-orientations": ("plain", lambda net, task: OrientationMean(center(net), task)),
    "inflate": ("plain", _of(inflate)),
    "acs": ("plain", _of(acs)),
    "triplanar": ("plain", _of(triplanar)),
    "volume": ("plain", _of(volume)),
    "cycle": ("plain", _of(cycle)),
    "fourier": ("fourier", _of(to_3d)),
    "fourier-aligned": ("fourier", lambda net, task: to_3d(net, align=True)),
    "fourier-projection": ("fourier-projection", _of(to_3d)),
    "projection": ("projection", _of(to_3d)),
    "projection-orientations": ("projection", lambda net, task: OrientationMean(to_3d(net), task)),
    "projection-slices": ("projection", lambda net, task: answering(net, "slices", task)),
    "projection-both": ("projection", lambda net, task: answering(net, "both", task)),
}
RIVALS = tuple(name for name, (pretraining, _) in ARMS.items() if pretraining in (None, "plain"))
"""Arms that need no Cross-D training."""

CROSSD = tuple(name for name in ARMS if name not in RIVALS)
"""Arms that are trained as Cross-D networks."""
