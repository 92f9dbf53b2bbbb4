"""The arms of a comparison: how a network trained on images is used on volumes, in which ways."""

from collections.abc import Callable, Mapping

import torch
from torch import nn

from crossd.conversion.baselines import acs, center, inflate, triplanar
from crossd.conversion.convert import convert
from crossd.conversion.cycle import cycle
from crossd.conversion.folding.attention import may_attend
from crossd.conversion.plain import to_3d
from crossd.inference.slice_ensemble import OrientationMean, answering

PRETRAININGS: dict[str, tuple[str, str, str | None, str]] = {
    # name: form, kernel mode, lift of the new 2D weights, views of slices
    "plain": ("2d", "projection", None, "own"),
    "fourier": ("cross", "fourier", None, "own"),
    "fourier-projection": ("cross", "fourier-projection", "center", "own"),
    "projection": ("cross", "projection", "center", "own"),
    "projection-drawn": ("cross", "projection", "center", "drawn"),
}

Make = Callable[[nn.Module, str], nn.Module]
"""Makes a network for volumes of a trained one and its task."""


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


def _lifted(make: Callable[[nn.Module], nn.Module]) -> Mapping[str, Make]:
    """Ask a 3D network about the volume, or about its three orientations."""
    return {
        "volume": lambda net, task: make(net),
        "orientations": lambda net, task: OrientationMean(make(net), task),
    }


SLICES: Mapping[str, Make] = {"slices": lambda net, task: answering(net, "slices", task)}
BOTH: Mapping[str, Make] = {"both": lambda net, task: answering(net, "both", task)}
SOLID = _lifted(lambda net: net)
"""Ways of asking a network that takes volumes as it is."""
OURS = {**BOTH, **_lifted(to_3d), **SLICES}

ARMS: dict[str, tuple[str | None, Mapping[str, Make]]] = {
    # name: the pretraining it starts from, and the ways in which it can be asked about volumes
    "projection": ("projection", OURS),
    **{f"projection-{way}": ("projection", {way: make}) for way, make in OURS.items()},
    "projection-drawn": ("projection-drawn", OURS),
    "fourier": ("fourier", _lifted(to_3d)),
    "fourier-aligned": ("fourier", _lifted(lambda net: to_3d(net, align=True))),
    "fourier-projection": ("fourier-projection", _lifted(to_3d)),
    "slices": ("plain", SLICES),
    "center": ("plain", _lifted(center)),
    "inflate": ("plain", _lifted(inflate)),
    "acs": ("plain", _lifted(acs)),
    "triplanar": ("plain", _lifted(triplanar)),
    "volume": ("plain", _lifted(volume)),
    "cycle": ("plain", _lifted(cycle)),
    "scratch": (None, {"volume": lambda net, task: to_3d(convert(net, lift=None))}),
}
RIVALS = tuple(name for name, (pretraining, _) in ARMS.items() if pretraining in (None, "plain"))
"""Arms that need no Cross-D training."""

CROSSD = tuple(name for name in ARMS if name not in RIVALS)
"""Arms that are trained as Cross-D networks."""
