"""Shared by the tests: one tolerance table, and slow references that are obviously right.

The references take every formula as design and paper state it, one sample and one tap at a time,
with complex numbers and explicit matrices where the library has none.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import settings
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from crossd.nn.views import replicated_ends, view

TOLERANCE: dict[torch.dtype, tuple[float, float]] = {
    torch.float64: (1e-7, 1e-7),  # the defaults of torch.testing
    torch.float32: (1.3e-6, 1e-5),  # the defaults of torch.testing
    # Kernels are rounded before they are used, so errors add up over the taps: 2^-8 each.
    torch.bfloat16: (1.6e-2, 5e-2),
}
"""Relative and absolute."""

law = settings(deadline=None, max_examples=25, derandomize=True)
"""Property tests draw the same examples every time."""


def some(values: Iterable[Any], quick: Sequence[Any]) -> list[Any]:
    """Mark the parameters of a test slow, but those that stand for all."""
    return [v if v in quick else pytest.param(v, marks=pytest.mark.slow) for v in values]


def close(actual: Tensor, expected: Tensor, dtype: torch.dtype | None = None) -> None:
    """Compare with the tolerance of `dtype`, by default of the less exact of the two."""
    if dtype is None:
        dtype = max(actual.dtype, expected.dtype, key=lambda kind: TOLERANCE[kind])
    rtol, atol = TOLERANCE[dtype]
    torch.testing.assert_close(actual.double(), expected.double(), rtol=rtol, atol=atol)


def normal(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Normal numbers that depend on the arguments only, so that hypothesis can replay them."""
    generator = torch.Generator().manual_seed(seed + 1000 * len(shape))
    return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)


def randomize(module: nn.Module) -> None:
    """Give parameters and statistics values that hide no mistake, as zeros and ones would."""
    for i, (name, tensor) in enumerate(sorted(module.state_dict().items())):
        if tensor.is_floating_point():
            values = normal(*tensor.shape, seed=i + 1)
            tensor.copy_(values.abs() + 0.5 if name.endswith("running_var") else values)


def gradient_of(function: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
    """Gradients, by every input, of a sum in which every output has a weight of its own."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    y = function(*leaves)
    return torch.autograd.grad((y * normal(*y.shape, dtype=y.dtype)).sum(), leaves)


# --- the paper's mode, step by step -------------------------------------------------------------


def rotation_matrix(axis: Tensor, angle: Tensor) -> Tensor:
    """The linearised rotation R = I + angle * [axis]x of one sample, shape (3, 3)."""
    k0, k1, k2 = (float(k) for k in axis)
    cross = torch.tensor([[0, -k2, k1], [k2, 0, -k0], [-k1, k0, 0]], dtype=torch.float64)
    return torch.eye(3, dtype=torch.float64) + angle.double() * cross


def fft_translate(weight: Tensor, shift: Tensor) -> Tensor:
    """Multiply a kernel's spectrum by exp(-2 pi i shift . f) and return the real part."""
    grids = torch.meshgrid(
        *(torch.fft.fftfreq(size, dtype=torch.float64) for size in weight.shape[2:]),
        indexing="ij",
    )
    frequency = torch.stack(grids, dim=-1)  # (z, y, x, 3)
    spectrum = torch.fft.fftn(weight.double(), dim=(-3, -2, -1))
    phase = torch.exp(-2j * torch.pi * (frequency @ shift.double()))
    return torch.fft.ifftn(spectrum * phase, dim=(-3, -2, -1)).real


def fft_kernels(weight: Tensor, axis: Tensor, angle: Tensor, offset: float = 1.0) -> Tensor:
    """2D kernels of the fourier mode by complex FFT, one sample at a time: (N, O, I, y, x)."""
    solid = fft_moved(weight, axis, angle, offset)
    return torch.stack([kernel[:, :, weight.shape[2] // 2] for kernel in solid])


def fft_moved(weight: Tensor, axis: Tensor, angle: Tensor, offset: float = 1.0) -> list[Tensor]:
    """The 3D kernel as each sample's pose moves it, (O, I, z, y, x)."""
    ones, identity = torch.ones(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    kernels = []
    for k, theta in zip(axis, angle, strict=True):
        moved = rotation_matrix(k, theta) - identity + offset * identity
        kernels.append(fft_translate(weight, ones @ moved).to(weight.dtype))
    return kernels


def predict_pose(predictor: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Axes (N, 3) and angles (N,) by the formulas, from the predictor's state dict."""
    p = predictor.state_dict()
    r = torch.einsum("oi,nihw->nohw", p["0.weight"][:, :, 0, 0], x)
    r = r + p["0.bias"].view(-1, 1, 1)
    if predictor.training:
        mean, variance = r.mean((0, 2, 3)), r.var((0, 2, 3), unbiased=False)
    else:
        mean, variance = p["1.running_mean"], p["1.running_var"]
    r = (r - mean.view(-1, 1, 1)) / (variance.view(-1, 1, 1) + 1e-5).sqrt()
    r = (r * p["1.weight"].view(-1, 1, 1) + p["1.bias"].view(-1, 1, 1)).clamp(min=0)
    r = torch.einsum("oi,nihw->nohw", p["3.weight"][:, :, 0, 0], r)
    r = r + p["3.bias"].view(-1, 1, 1)
    axes, angles = [], []
    for sample in r:
        pooled = []
        for channel in sample:
            weights = channel.exp() / channel.exp().sum()
            pooled.append((weights * channel).sum())
        k = torch.stack(pooled[:3])
        axes.append(k / (k.square().sum().sqrt() + 1e-8))
        angles.append(torch.pi / 4 * pooled[3].tanh())
    return torch.stack(axes), torch.stack(angles)


# --- the other modes ----------------------------------------------------------------------------


def sum_along(weight: Tensor, axis: int) -> Tensor:
    """The 3D kernel added up along an axis, slice by slice."""
    total = torch.zeros_like(weight.select(2 + axis, 0))
    for index in range(weight.shape[2 + axis]):
        total = total + weight.select(2 + axis, index)
    return total


def plane(values: Sequence[int], axis: int) -> tuple[int, int]:
    """The two of (z, y, x) that stay when `axis` goes."""
    first, second = (values[a] for a in range(3) if a != axis)
    return first, second


def repeat_along(x: Tensor, axis: int, length: int) -> Tensor:
    """A volume (N, C, D, H, W) that repeats images (N, C, H, W) along an axis."""
    return torch.stack([x] * length, dim=2 + axis)


def kernels_of(conv: Any, x: Tensor, axes: Sequence[int]) -> list[Tensor]:
    """The 2D kernel of every sample by the formula of the layer's mode."""
    if conv.mode.name == "projection":
        return [sum_along(conv.weight, axis) for axis in axes]
    if conv.mode.name == "slice":
        return [conv.weight.select(2 + a, conv.weight.shape[2 + a] // 2) for a in axes]
    if conv.mode.predictor is None:
        return [conv.weight[:, :, 0] for _ in axes]
    axis, angle = predict_pose(conv.mode.predictor, x)
    if conv.mode.name == "fourier-projection":
        solid = fft_moved(conv.weight, axis, angle, conv.mode.offset)
        return [sum_along(kernel, a) for kernel, a in zip(solid, axes, strict=True)]
    return list(fft_kernels(conv.weight, axis, angle, conv.mode.offset))


def conv_volumes(conv: Any, x: Tensor, **more: Any) -> Tensor:
    """What a Cross-D layer gives on volumes, one sample at a time."""
    solid = [conv.weight] * len(x)
    if conv.mode.name == "fourier-projection" and conv.mode.predictor is not None:
        axis, angle = predict_pose(conv.mode.predictor, x.flatten(2, 3))
        solid = fft_moved(conv.weight, axis, angle, conv.mode.offset)
    base = nn.ConvTranspose3d if conv.transposed else nn.Conv3d
    twin = copy.deepcopy(conv)
    outputs = []
    for volume, kernel in zip(x, solid, strict=True):
        twin.weight = nn.Parameter(kernel)
        outputs.append(base.forward(twin, volume[None], **more))
    return torch.cat(outputs)


def conv_images(conv: Any, x: Tensor, axes: Sequence[int]) -> Tensor:
    """What a CrossDConv gives on images, one sample at a time, `axes` being their views."""
    outputs = []
    for n, (axis, kernel) in enumerate(zip(axes, kernels_of(conv, x, axes), strict=True)):
        gone = axis if conv.mode.has_views else 0
        stride, dilation = plane(conv.stride, gone), plane(conv.dilation, gone)
        size = plane(conv.kernel_size, gone)
        margins: list[int] = []
        for a in (1, 0):
            if conv.padding == "valid":
                margins += [0, 0]
            elif conv.padding == "same":
                total = dilation[a] * (size[a] - 1)
                margins += [total // 2, total - total // 2]
            else:
                margins += [plane(conv.padding, gone)[a]] * 2
        mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
        padded = F.pad(x[n : n + 1], margins, mode)
        outputs.append(F.conv2d(padded, kernel, conv.bias, stride, 0, dilation, conv.groups))
    return torch.cat(outputs)


def conv_transpose_images(
    conv: Any, x: Tensor, axes: Sequence[int], output_padding: tuple[int, int] | None = None
) -> Tensor:
    """What a CrossDConvTranspose gives on images, one sample at a time."""
    outputs = []
    for n, (axis, kernel) in enumerate(zip(axes, kernels_of(conv, x, axes), strict=True)):
        gone = axis if conv.mode.has_views else 0
        if conv.mode.sums:  # the mean over the classes of taps
            kernel = kernel / min(conv.stride[gone], conv.kernel_size[gone])
        outputs.append(
            F.conv_transpose2d(
                x[n : n + 1],
                kernel,
                conv.bias,
                plane(conv.stride, gone),
                plane(conv.padding, gone),
                output_padding or plane(conv.output_padding, gone),
                conv.groups,
                plane(conv.dilation, gone),
            )
        )
    return torch.cat(outputs)


# --- ACS ----------------------------------------------------------------------------------------


def acs_weight(weight: Tensor, channel_dim: int, stride: int = 1) -> Tensor:
    """The dense kernel of an ACS layer, one output channel at a time."""
    size = weight.shape[-1]
    solid = weight.new_zeros(*weight.shape[:2], size, size, size)
    channels = weight.shape[channel_dim]
    sizes = [(channels + 2) // 3, (channels + 1) // 3, channels // 3]
    axes = [axis for axis, count in enumerate(sizes) for _ in range(count)]
    phases = min(stride, size)
    start = (size - phases + 1) // 2
    for channel, axis in enumerate(axes):
        for place in range(start, start + phases):
            target = solid.select(channel_dim, channel).select(1 + axis, place)
            target.copy_(weight.select(channel_dim, channel))
    return solid


def settle(net: nn.Module) -> Any:
    """Move every parameter and statistic, as a training might: no gate stays at zero.

    In place; evaluation mode.
    """
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() <= 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
            elif not parameter.any():
                parameter.normal_(std=0.05)
            else:
                scale = parameter.square().mean().sqrt()
                parameter.add_(0.2 * scale * torch.randn_like(parameter))
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                statistics: Any = module
                nn.init.normal_(statistics.running_mean, std=0.2)
                nn.init.uniform_(statistics.running_var, 0.5, 1.5)
    return net.eval()


def on_repeated(net: Any, images: Tensor, axis: int, length: int) -> Any:
    """Give what a network says of volumes that repeat images along an axis, ends continued."""
    with replicated_ends((axis,)):
        return net(repeat_along(images, axis, length))


def keeps_the_law(
    net: Any, images: Tensor, axis: int = 0, length: int = 8, tolerance: float = 1e-4
) -> None:
    """Hold a network against the law in one view, in the mode that it is in."""
    state = getattr(net, "crossd_state", None)
    repeats = state is not None and state.folding.repeat > 1  # images are such volumes themselves
    with torch.no_grad(), view(axis):
        flat = [v for v in tree_leaves(net(images)) if isinstance(v, Tensor)]
        volumes = repeat_along(images, axis, length)
        answer = net(volumes) if repeats else on_repeated(net, images, axis, length)
        solid = tree_leaves(answer)
    assert flat and len(flat) == len(solid)
    for image, volume in zip(flat, solid, strict=True):
        if volume.dim() == 5 and repeats:  # of which they get the mean
            volume = volume.mean(2 + axis)
        elif volume.dim() == 5:
            image = image.unsqueeze(2 + axis).expand_as(volume)
        close_relative(volume, image, tolerance)


def close_relative(actual: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """Compare relative to the largest number, since logits pass through zero."""
    scale = float(expected.detach().abs().max())
    assert scale > 0
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * scale)
