"""A network whose weights were moved at random, and whose layers keep the law whole."""

import copy
import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from crossd.nn.conv import CrossDConv
from crossd.nn.conv_transpose import CrossDConvTranspose
from crossd.nn.kernel_modes import make_mode
from crossd.nn.layers import Size
from crossd.nn.views import view

# The copy that is checked


def perturbed(net: nn.Module, reach: float = 1.0) -> nn.Module:
    """Copy a network and move every parameter and statistic, as far as a training might.

    What is close to zero, as softmaxes that are nearly flat and gates that are nearly closed, would
    hide what it multiplies: kernels and matrices move by as much as new ones have, vectors as far.
    Embeddings of depth stay at zero: what is learnt along depth is not there on images.

    Args:
        net: The network.
        reach: 1 for that far, less for a part of the way; 0 to keep signs, and what is zero.
    """
    copied = copy.deepcopy(net)
    noise = _Noise()

    with torch.no_grad():
        for name, parameter in copied.named_parameters():
            if not parameter.is_floating_point() or name.endswith("depth_position"):
                continue
            if not reach:
                parameter.mul_(1 + 0.3 * torch.tanh(noise(parameter)))
                continue
            if parameter.numel() == 1:  # a gate, a temperature, an exponent
                parameter.add_(reach * (0.2 + parameter.abs() / 2))
            elif parameter.dim() <= 1 or parameter.shape[0] == 1:
                parameter.mul_(1 - 0.5 * reach).add_(0.5 * reach * noise(parameter))
            else:
                fan_in = max(1, parameter.numel() // max(parameter.shape[:2]))
                parameter.add_(noise(parameter), alpha=reach * fan_in**-0.5)
        for module in copied.modules():
            mean, variance = (getattr(module, f"running_{n}", None) for n in ("mean", "var"))
            if isinstance(mean, Tensor) and isinstance(variance, Tensor):
                mean.add_(0.1 * variance.sqrt() * noise(mean))
                variance.mul_(1 + 0.3 * torch.tanh(noise(variance)))
    return copied


class _Noise:
    """Gives normal numbers in the shape of a tensor: stretches of those that were drawn.

    Each begins at a random place, so that no two parameters, or rows of one, get the same, nor
    numbers of the same sum. To draw the 69 million of a ResNet50 anew took 0.5 s.
    """

    LONGEST = 2**16

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(0)
        self._drawn = torch.randn(2 * self.LONGEST, generator=self._generator)

    def __call__(self, like: Tensor) -> Tensor:
        """Give numbers on the device and of the type of a tensor."""
        times, rest = divmod(like.numel(), self.LONGEST)
        lengths = [self.LONGEST] * times + [rest]
        starts = torch.randint(self.LONGEST, (len(lengths),), generator=self._generator).tolist()
        pairs = zip(starts, lengths, strict=True)
        numbers = torch.cat([self._drawn[start : start + length] for start, length in pairs])
        return numbers.view(like.shape).to(like)


REACHES = (1.0, 0.3, 0.1, 0.0)
"""How far weights are moved: the first where the network's answers are finite."""


def as_the_law_wants(net: nn.Module, axis: int) -> nn.Module:
    """Give layers that keep the law in part what keeps it whole, in place: how code folds is asked.

    Other kernel modes than the projection do not sum, and strided transposed convolutions keep the
    law on average over depth.

    Args:
        net: A converted network.
        axis: Of the view in which the law is asked for.
    """
    for module in net.modules():
        if isinstance(module, CrossDConv | CrossDConvTranspose):
            project(module)
        if isinstance(module, CrossDConvTranspose) and max(module.stride) > 1:
            module.__dict__["_volumes"] = functools.partial(_transposed_alike, module, axis)
    return net


def project(layer: CrossDConv | CrossDConvTranspose) -> None:
    """Let a layer sum its kernel, whatever its mode was."""
    layer.mode = make_mode("projection", layer.in_channels, layer.kernel_size)


def _transposed_alike(
    self: CrossDConvTranspose, axis: int, x: Tensor, output_size: list[int] | None
) -> Tensor:
    """Enlarge every slice across an axis by the 2D kernel, and repeat slices."""
    if self.stride[axis] == 1:
        return CrossDConvTranspose._volumes(self, x, output_size)
    slices = x.movedim(2 + axis, 1)
    with view(axis):
        images = CrossDConvTranspose.forward(self, slices.flatten(0, 1))
    whole = images.unflatten(0, slices.shape[:2]).repeat_interleave(self.stride[axis], 1)
    count: int = CrossDConvTranspose._volumes(self, x, output_size).shape[2 + axis]
    places = torch.arange(count).clamp(max=whole.shape[1] - 1)
    return whole[:, places].movedim(1, 2 + axis)


class Still(TorchFunctionMode):
    """Takes chance out of training: nothing is dropped."""

    KEEPING = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        """Call a function, or give its input where it would drop some of it."""
        if func in self.KEEPING:
            return args[0] if args else (kwargs or {})["input"]
        if func in (torch.rand, torch.rand_like):  # of which floors are taken
            return func(*args, **(kwargs or {})).fill_(0.999)
        if func is Tensor.bernoulli_:
            ones: Tensor = args[0].fill_(1.0)
            return ones
        if func is F.scaled_dot_product_attention:
            named = dict(zip(("dropout_p", "is_causal", "scale"), args[4:], strict=False))
            args, kwargs = args[:4], {**(kwargs or {}), **named, "dropout_p": 0.0}
        return func(*args, **(kwargs or {}))


class Ends(TorchFunctionMode):
    """Continues volumes by their last slice where code that was made for volumes adds zeros.

    Args:
        axis: Along which it does so.
    """

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        """Call a function, on what was padded before where it pads."""
        own = {F.conv3d: self._conv, F.avg_pool3d: self._avg_pool, F.pad: self._pad}.get(func)
        if own is None or not args or args[0].dim() != 5 or (own == self._pad and len(args[1]) > 6):
            return func(*args, **(kwargs or {}))
        call: Any = own
        return call(*args, **(kwargs or {}))

    def _continued(self, x: Tensor, padding: Size) -> tuple[Tensor, list[int]]:
        margins = [padding] * 3 if isinstance(padding, int) else [*padding]
        sides = [0] * 6
        sides[4 - 2 * self.axis] = sides[5 - 2 * self.axis] = margins[self.axis]
        margins[self.axis] = 0
        return (F.pad(x, sides, "replicate") if any(sides) else x), margins

    def _conv(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Size = 1,
        padding: Size | str = 0,
        *rest: Any,
        **named: Any,
    ) -> Tensor:
        if not isinstance(padding, str):
            input, padding = self._continued(input, padding)
        return F.conv3d(input, weight, bias, stride, padding, *rest, **named)

    def _avg_pool(
        self,
        input: Tensor,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        *rest: Any,
        **named: Any,
    ) -> Tensor:
        stride = kernel_size if stride is None else stride
        input, padding = self._continued(input, padding)
        return F.avg_pool3d(input, kernel_size, stride, padding, *rest, **named)

    def _pad(
        self, input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None
    ) -> Tensor:
        place = 4 - 2 * self.axis
        sides = [*pad, *[0] * (6 - len(pad))]
        own = [side if place <= i < place + 2 else 0 for i, side in enumerate(sides)]
        rest = [a - b for a, b in zip(sides, own, strict=True)]
        if min(own) >= 0 and any(own):
            input = F.pad(input, own, "replicate")
        else:
            rest = sides
        return F.pad(input, rest, mode, value) if any(rest) else input
