"""What is held against the plain network: crossd's networks, its rivals and other libraries."""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from costs import peers
from costs.cases import LAYERS, Case
from costs.networks import flat, solid
from costs.peers import Absent
from crossd import acs, channels_last, convert, inflate
from crossd.nn.conv import CrossDConv
from crossd.nn.functional import displacement
from crossd.nn.layers import laid_out

MODES = ("projection", "slice", "fourier", "fourier-projection")
IMAGES = ("plain", *MODES, "acs", "acsconv", "i3d", "fft", "plain-nhwc")
VOLUMES = (
    *("plain", "projection", "projection-laid", "acs", "acsconv", "timm_3d", "monai", "smp_3d"),
    "plain-nhwc",
)
ARMS = tuple(dict.fromkeys((*IMAGES, *VOLUMES)))
"""Those on images, and those on volumes, where all modes are the same 3D convolution."""

NAMES = {
    "plain": "plain",
    **{mode: mode for mode in MODES},
    "projection-laid": "projection, laid out as by commands",
    "acs": "ACS by crossd",
    "acsconv": "ACS by acsconv",
    "i3d": "I3D on one slice",
    "fft": "fourier by FFT",
    "timm_3d": "timm_3d",
    "monai": "MONAI",
    "smp_3d": "segmentation_models_pytorch_3d",
    "plain-nhwc": "plain, channels last",
}
"""How tables call them, in the order of their columns."""

BY_FFT = 8
"""The largest batch for the FFT, whose steps take up to 250 times the plain network's."""


def built(name: str, case: Case) -> nn.Module:
    """Build what is measured, as who calls its library gets it.

    Two are tuned: of "plain-nhwc" channels are last in memory, as they are in what `crossd.convert`
    makes, and "projection-laid" has its kernels as crossd's own commands lay them out for volumes.
    "i3d" is the inflated 3D network on images as volumes of one slice, the cheapest way for it to
    take them; "fft" is the paper's formulation.

    Raises:
        Absent: With the reason why there is nothing to measure.
    """
    torch.manual_seed(0)
    if name == "plain":
        return _plain(case)
    if name == "plain-nhwc":
        return channels_last(_plain(case))
    if name in OF_OTHERS:
        if case.rank == 3 and SOLID.get(case.network) == name:
            raise Absent("it is the plain network")
        return OF_OTHERS[name](case)
    if name == "acs":
        return acs(flat(case))
    if name == "i3d":
        return inflate(flat(case))
    if name == "fft":
        return _by_fft(case)
    transformer = case.network == "vit-small" and case.rank == 3
    mode = name.removesuffix("-laid")
    net = convert(flat(case), mode, attention="volume" if transformer else None)
    return net if mode == name else laid_out(net, True, torch.device("cpu"))


def _plain(case: Case) -> nn.Module:
    if case.rank == 2:
        return flat(case)
    return OF_OTHERS[SOLID[case.network]](case) if case.network in SOLID else solid(case)


OF_OTHERS: dict[str, Callable[[Case], nn.Module]] = {
    "acsconv": peers.acsconv,
    "timm_3d": peers.timm_3d,
    "monai": peers.monai,
    "smp_3d": peers.smp_3d,
}

SOLID = {
    "convnext-tiny": "timm_3d",
    "vit-small": "monai",
    "unet": "monai",
    "unet-resnet18": "smp_3d",
}
"""Whose network is the plain one on volumes, where 2D code does not run with 3D layers."""


def fitting(name: str, x: Tensor) -> Tensor:
    """Give a batch in the rank and memory format that an arm takes."""
    if name in ("i3d", "acsconv") and x.dim() == 4:
        return x.unsqueeze(2)
    if name == "plain-nhwc":
        last = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
        return x.contiguous(memory_format=last)
    return x


def _by_fft(case: Case) -> nn.Module:
    if case.batch > BY_FFT or case.network not in ("resnet18", *LAYERS):
        raise Absent(f"measured on ResNet18 and batches up to {BY_FFT} alone: it takes minutes")
    net = convert(flat(case), "fourier")
    for module in net.modules():
        if isinstance(module, CrossDConv) and module.kernel_size != (1, 1, 1):
            module.forward = functools.partial(_convolved, module)  # type: ignore[method-assign]
    return net


def _convolved(conv: CrossDConv, x: Tensor) -> Tensor:
    """The fourier mode as the paper writes it: spectra of every sample's own 3D kernel."""
    mode: Any = conv.mode
    axis, angle = mode.predictor(x)
    shift = displacement(axis, angle, mode.offset)
    sizes = conv.weight.shape[2:]
    grids = torch.meshgrid(
        *(torch.fft.fftfreq(size, device=x.device) for size in sizes), indexing="ij"
    )
    with torch.autocast(x.device.type, enabled=False):  # spectra have no half precision
        phase = torch.einsum("na,zyxa->nzyx", shift, torch.stack(grids, -1))
        spectrum = torch.fft.fftn(conv.weight, dim=(-3, -2, -1))
        turned = spectrum * torch.exp(-2j * torch.pi * phase)[:, None, None]  # (N, O, I, K, K, K)
        kernels = torch.fft.ifftn(turned, dim=(-3, -2, -1)).real[:, :, :, sizes[0] // 2]
    n = x.shape[0]
    stride, padding, dilation = conv.stride[-2:], conv.padding[-2:], conv.dilation[-2:]
    rows, every = x.reshape(1, -1, *x.shape[2:]), kernels.flatten(0, 1)
    y = F.conv2d(rows, every, None, stride, padding, dilation, n * conv.groups)
    return y.view(n, -1, *y.shape[2:])
