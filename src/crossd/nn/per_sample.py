r"""2D convolution of every image with its own kernel, a linear map of one 3D kernel.

With the patches X[n] that an image shows its kernel, the layer's kernel W and the sample's map T[n]

    y[n] = X[n] (T[n] W) = (X[n] T[n]) W

Both ways to set the brackets are exact. The first makes a 2D kernel per sample, which costs the
same for every size of image; the second makes wider patches and one product for the whole batch,
which costs nothing per weight. `chosen` picks by the shape of the layer. Nothing that can be
recomputed is kept for the backward pass, and temporary tensors are made for a part of the batch
at a time.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from crossd.nn.functional import map_kernel

BLOCK = 24 * 2**20
"""Bytes of temporary tensors made at a time on a CPU: glibc returns blocks over 32 MiB to the
system at once, and fresh pages cost more than the arithmetic on them."""

MAP_COST = 4.0
"""Time of one multiplication in making kernels, over that of one in a convolution (measured; see
docs/performance.md): skinny products of N * K^2 rows and K^3 columns are bound by memory."""

ALONE = 2 * 10**7
"""Multiplications of one sample from which a CPU does better with a convolution for each than with
one grouped convolution (a call costs some 20 microseconds; groups use a core each)."""

MANY = 3
"""Taps a side beyond which kernels may be made axis by axis."""

FEW = 64
"""Rows under which a product is better done as a weight gradient than as a data gradient."""

Compute = Callable[[Tensor, Tensor, Tensor, "Settings"], Tensor]
"""Convolves images, given a 3D kernel and the maps of it."""

convolution_backward: Any = torch.ops.aten.convolution_backward


class Settings(NamedTuple):
    """How a convolution walks over its images, as in `torch.nn.functional.conv2d`."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def places(self, x: Tensor, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of what a kernel of `size` makes of images `x`."""
        height, width = (
            (length + 2 * pad - step * (k - 1) - 1) // stride + 1
            for length, pad, step, k, stride in zip(
                x.shape[2:], self.padding, self.dilation, size, self.stride, strict=True
            )
        )
        return height, width


def mapped_conv2d(
    x: Tensor,
    weight: Tensor,
    maps: Tensor,
    bias: Tensor | None = None,
    settings: Settings | None = None,
    way: str | None = None,
) -> Tensor:
    """Convolve every image with a 2D kernel that its own linear map makes of the 3D kernel.

    Args:
        x: Images, shape ``(N, C, H, W)``.
        weight: Kernel, shape ``(O, C / groups, z, y, x)``.
        maps: Shape ``(N, y * x, z * y * x)``; kept in float32 under autocast.
        bias: Shape ``(O,)``.
        settings: Stride, padding, dilation and groups.
        way: ``"kernels"``, ``"patches"``, or None for the cheaper by `chosen`.

    Returns:
        Shape ``(N, O, H', W')``.

    Example:
        >>> x, weight = torch.randn(2, 4, 8, 8), torch.randn(6, 4, 3, 3, 3)
        >>> maps = torch.randn(2, 9, 27)
        >>> a = mapped_conv2d(x, weight, maps, way="kernels")
        >>> b = mapped_conv2d(x, weight, maps, way="patches")
        >>> a.shape, torch.allclose(a, b, atol=1e-3)
        (torch.Size([2, 6, 6, 6]), True)
    """
    settings = settings or Settings()
    if way is None and torch.compiler.is_exporting():
        compute: Compute = _exported
    elif x.shape[0] == 0:  # a loop over nothing has no shape
        kernel = weight.sum(2)
        return F.conv2d(x, kernel, bias, *settings)
    else:
        function: Any = _Patches if (way or chosen(x, weight, settings)) == "patches" else _Kernels
        compute = function.plain if torch.compiler.is_compiling() else function.apply
    kind = x.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        x = x.to(torch.get_autocast_dtype(kind))
    with unrounded(x):  # the maps stay in float32
        y: Tensor = compute(x, weight, maps, settings)
    return y if bias is None else y + bias.to(y.dtype).view(-1, 1, 1)


def unrounded(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """Compute in the precision of the tensors, whatever autocast asks for on this device."""
    on = torch.amp.is_autocast_available(x.device.type)  # not on the meta device
    if not on or not torch.is_autocast_enabled(x.device.type):
        return contextlib.nullcontext()
    return torch.autocast(x.device.type, enabled=False)


def by_axes(weight: Tensor) -> bool:
    """Tell whether kernels are better made axis by axis than by one map from all taps.

    A map costs K^5 multiplications for a pair of channels, the axes some K^3, but their kernels are
    kept for the backward pass. So this is for many taps and few channels, as of stems, patches of
    transformers and depthwise layers. Graphs that are exported take maps.
    """
    taps = max(weight.shape[2:])
    return taps > MANY and weight.shape[1] <= taps**2 and not torch.compiler.is_exporting()


def conv2d_per_sample(
    x: Tensor, kernels: Tensor, bias: Tensor | None, settings: Settings
) -> Tensor:
    """Convolve every image with a kernel of its own.

    Args:
        x: Images, shape ``(N, C, H, W)``.
        kernels: Shape ``(N, O, C / groups, y, x)``.
        bias: Shape ``(O,)``.
        settings: Stride, padding, dilation and groups.

    Returns:
        Shape ``(N, O, H', W')``.
    """
    if x.shape[0] == 0:  # groups of nothing have no shape
        return F.conv2d(x, kernels.sum(0), bias, *settings)
    each = _alone(x, kernels[0, :, :, None], settings) and not torch.compiler.is_compiling()
    y = (_convolve_each if each else _convolve_grouped)(x, kernels, settings)
    return y if bias is None else y + bias.to(y.dtype).view(-1, 1, 1)


def conv3d_per_sample(
    x: Tensor,
    kernels: Tensor,
    bias: Tensor | None,
    *settings: Any,
    convolve: Callable[..., Tensor] = F.conv3d,
) -> Tensor:
    """Convolve every volume with a 3D kernel of its own.

    Args:
        x: Volumes, shape ``(N, C, D, H, W)``.
        kernels: Shape ``(N, O, C / groups, z, y, x)``.
        bias: Shape ``(O,)`` or None.
        *settings: The arguments of `convolve` after the bias.
        convolve: `torch.nn.functional.conv3d` or `conv_transpose3d`.

    Returns:
        Shape ``(N, O, D', H', W')``.
    """
    if torch.compiler.is_exporting():
        if convolve is not F.conv3d:
            raise ValueError(
                "a transposed convolution that moves its kernel for every volume cannot be exported"
            )
        y = _products(x, kernels.flatten(3), kernels.shape[3:], Settings(*settings))
        return y if bias is None else y + bias.to(y.dtype).view(-1, 1, 1, 1)
    if x.shape[0] == 0:  # a loop over nothing has no shape
        return convolve(x, kernels.sum(0), bias, *settings)
    moved = kernels.to(x.dtype)
    answers = [convolve(x[i : i + 1], moved[i], bias, *settings) for i in range(x.shape[0])]
    return torch.cat(answers)


def _exported(x: Tensor, weight: Tensor, maps: Tensor, settings: Settings) -> Tensor:
    return _products(x, map_kernel(weight, maps), weight.shape[3:], settings)


def _products(x: Tensor, kernels: Tensor, size: Sequence[int], settings: Settings) -> Tensor:
    """Multiply kernels and patches, in graphs whose batch and size stay free.

    Of images with kernels ``(N, O, I, y * x)``, and of volumes with those of all taps. The groups
    of a convolution are a constant in ONNX, so one group a sample would fix the batch; and to
    choose a way by the size would fix the size.
    """
    stride, padding, dilation, groups = settings
    channels = x.shape[1]
    # Kernels of one tap each cut out patches in one operator that every format has.
    taps = torch.eye(math.prod(size), dtype=x.dtype, device=x.device).view(-1, 1, *size)
    each = taps.repeat(channels, *[1] * (x.dim() - 1))
    convolve: Callable[..., Tensor] = F.conv2d if x.dim() == 4 else F.conv3d
    patches = convolve(x, each, None, stride, padding, dilation, channels)
    rows = patches.flatten(2).unflatten(1, (groups, -1))  # (n, g, i * taps, places)
    y = kernels.to(x.dtype).flatten(2).unflatten(1, (groups, -1)) @ rows
    return y.flatten(1, 2).unflatten(2, patches.shape[2:])


def chosen(x: Tensor, weight: Tensor, settings: Settings) -> str:
    """Name the cheaper way for a layer.

    In multiplications per sample and pair of channels, with P places of output, making kernels
    costs P K^2 + MAP_COST * K^2 K^3, and mapping patches P K^3 (and some that no pair counts).
    """
    depth, height, width = weight.shape[2:]
    rows, columns = settings.places(x, (height, width))
    fewer = (depth - 1) * rows * columns <= MAP_COST * depth * height * width
    return "patches" if fewer and settings.groups == 1 else "kernels"


def _matrix(weight: Tensor) -> Tensor:
    """A 3D kernel as (O, z * y * x * I): a view where channels are last in memory."""
    return weight.permute(0, 2, 3, 4, 1).flatten(1)


def _as_kernel(matrix: Tensor, weight: Tensor) -> Tensor:
    """Undo `_matrix`."""
    o, i, z, y, x = weight.shape
    return matrix.view(o, z, y, x, i).permute(0, 4, 1, 2, 3)


def _taps_first(weight: Tensor) -> Tensor:
    """A 3D kernel as a batch of matrices with z * y * x rows.

    One matrix (z * y * x, I) per output channel where there are many input channels, so that
    nothing is copied; one matrix (z * y * x, O * I) where products with so few columns are slow.
    """
    taps = weight[0, 0].numel()
    if weight.shape[1] >= taps:
        return _matrix(weight).unflatten(1, (taps, -1))
    return weight.permute(2, 3, 4, 0, 1).reshape(1, taps, -1)


def _from_taps_first(flat: Tensor, weight: Tensor) -> Tensor:
    """Undo `_taps_first`."""
    o, i, z, y, x = weight.shape
    if flat.shape[0] == o:
        return _as_kernel(flat, weight)
    return flat.view(z, y, x, o, i).permute(3, 4, 0, 1, 2)


def _parts(n: int, bytes_each: int, device: torch.device) -> list[slice]:
    """Cut a batch so that a part's temporary tensors fit the block."""
    step = max(1, BLOCK // max(1, bytes_each)) if device.type == "cpu" else n
    return [slice(start, start + step) for start in range(0, n, step)]


class _Kernels(torch.autograd.Function):
    """y[n] = X[n] (T[n] W)."""

    @staticmethod
    def plain(x: Tensor, weight: Tensor, maps: Tensor, settings: Settings) -> Tensor:
        return _convolve_grouped(x, _sample_kernels(weight, maps).to(x.dtype), settings)

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, maps: Tensor, settings: Settings) -> Tensor:
        ctx.save_for_backward(x, weight, maps)
        ctx.settings = settings
        images = _channels_last(x)
        convolve = _convolve_each if _alone(x, weight, settings) else _convolve_grouped
        answers = [
            convolve(images[part], _sample_kernels(weight, maps[part]).to(x.dtype), settings)
            for part in _Kernels.parts(weight, maps)
        ]
        return answers[0] if len(answers) == 1 else torch.cat(answers)

    @staticmethod
    def parts(weight: Tensor, maps: Tensor) -> list[slice]:
        each = weight[:, :, 0].numel() * weight.element_size()
        return _parts(maps.shape[0], each, weight.device)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, maps = ctx.saved_tensors
        need_x, need_weight, need_maps, _ = ctx.needs_input_grad
        flat = _taps_first(weight)
        images, grad = _channels_last(x), _channels_last(grad)
        convolve = _grads_each if _alone(x, weight, ctx.settings) else _grads_grouped
        mask = [need_x, need_weight or need_maps, False]
        of_x, of_maps, of_weight = [], [], None
        for part in _Kernels.parts(weight, maps):
            kernels = _sample_kernels(weight, maps[part]).to(x.dtype)
            a, b = convolve(grad[part], images[part], kernels, ctx.settings, mask)
            if a is not None:
                of_x.append(a)
            if b is None:
                continue
            rows = b.permute(0, 3, 4, 1, 2).to(flat.dtype)  # (n, y, x, O, I)
            if flat.shape[0] == 1:
                rows = rows.reshape(1, -1, flat.shape[2])
            else:
                rows = rows.permute(3, 0, 1, 2, 4).flatten(1, 3)  # (O, n * y * x, I)
            if need_weight:
                more = torch.bmm(_wide(maps[part], flat).transpose(1, 2), rows)
                of_weight = more if of_weight is None else of_weight + more
            if need_maps:
                product = torch.bmm(rows, flat.transpose(1, 2)).sum(0)
                of_maps.append(product.view_as(maps[part]))
        return (
            torch.cat(of_x) if need_x else None,
            None if of_weight is None else _from_taps_first(of_weight, weight),
            torch.cat(of_maps).to(maps.dtype) if need_maps else None,
            None,
        )


def _alone(x: Tensor, weight: Tensor, settings: Settings) -> bool:
    """Tell whether each sample is to be convolved by itself."""
    rows, columns = settings.places(x, _size(weight))
    return x.device.type == "cpu" and rows * columns * weight[:, :, 0].numel() >= ALONE


def _wide(maps: Tensor, flat: Tensor) -> Tensor:
    """All samples' maps one under the other, once for each output channel."""
    rows = maps.to(flat.dtype).flatten(0, 1)
    return rows.expand(flat.shape[0], *rows.shape)


def _sample_kernels(weight: Tensor, maps: Tensor) -> Tensor:
    """The 2D kernels T[n] W, shape (N, O, I, y, x), in some memory order."""
    flat = _taps_first(weight)
    rows = torch.bmm(_wide(maps, flat), flat)  # (O or 1, N * y * x, I or O * I)
    rows = rows.unflatten(1, (maps.shape[0], *weight.shape[3:]))
    rows = rows.unflatten(4, (-1, weight.shape[1]))  # (O or 1, N, y, x, 1 or O, I)
    return rows.permute(1, 0, 4, 5, 2, 3).flatten(1, 2)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _convolve_each(x: Tensor, kernels: Tensor, settings: Settings) -> Tensor:
    """One convolution a sample: on a CPU each finds enough work for all cores."""
    pairs = zip(x.split(1), kernels, strict=True)
    return torch.cat([F.conv2d(one, _own(k), None, *settings) for one, k in pairs])


def _own(kernel: Tensor) -> Tensor:
    """One sample's kernel, copied: as a view with one output channel it may have odd strides."""
    return kernel.clone(memory_format=torch.channels_last)


def _grads_each(
    grad: Tensor, x: Tensor, kernels: Tensor, settings: Settings, mask: list[bool]
) -> tuple[Tensor | None, Tensor | None]:
    of_x: list[Tensor] = []
    of_kernels: list[Tensor] = []
    stride, padding, dilation, groups = settings
    for g, one, k in zip(grad.split(1), x.split(1), kernels, strict=True):
        walk = (None, stride, padding, dilation, False, (0, 0), groups, mask)
        a, b, _ = convolution_backward(g, one, _own(k), *walk)
        of_x.append(a)
        if b is not None:
            of_kernels.append(b.permute(0, 2, 3, 1))
    return (
        torch.cat(of_x) if mask[0] else None,
        torch.stack(of_kernels, 1).permute(1, 0, 4, 2, 3) if mask[1] else None,
    )


def _as_one(x: Tensor) -> Tensor:
    """All samples' images as the channels of one.

    The copy matters for a single sample with channels last: for such a view of it torch 2.15 gives
    wrong gradients of kernels in float64.
    """
    return x.contiguous().view(1, -1, *x.shape[2:])


def _convolve_grouped(x: Tensor, kernels: Tensor, settings: Settings) -> Tensor:
    """One convolution with a group a sample: one launch, and no loop for a compiler to unroll."""
    stride, padding, dilation, groups = settings
    n = x.shape[0]
    y = F.conv2d(_as_one(x), kernels.flatten(0, 1), None, stride, padding, dilation, n * groups)
    # A custom function whose output is a view could not be changed in place (x += identity).
    answer: Tensor = torch.ops.aten._unsafe_view(y, (n, y.shape[1] // n, *y.shape[2:]))
    return answer


def _grads_grouped(
    grad: Tensor, x: Tensor, kernels: Tensor, settings: Settings, mask: list[bool]
) -> tuple[Tensor | None, Tensor | None]:
    stride, padding, dilation, groups = settings
    walk = (None, stride, padding, dilation, False, (0, 0), x.shape[0] * groups, mask)
    a, b, _ = convolution_backward(_as_one(grad), _as_one(x), kernels.flatten(0, 1), *walk)
    return None if a is None else a.view_as(x), None if b is None else b.view(kernels.shape)


class _Patches(torch.autograd.Function):
    """y[n] = (X[n] T[n]) W, with one product for all samples."""

    @staticmethod
    def plain(x: Tensor, weight: Tensor, maps: Tensor, settings: Settings) -> Tensor:
        patches = _patches(x, weight, settings)
        rows = _mapped(patches, maps).flatten(2) @ _matrix(weight).to(x.dtype).t()  # (N, P, O)
        places = settings.places(x, _size(weight))
        return rows.unflatten(1, places).permute(0, 3, 1, 2)

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, maps: Tensor, settings: Settings) -> Tensor:
        ctx.save_for_backward(x, weight, maps)
        ctx.settings = settings
        matrix = _matrix(weight).to(x.dtype)
        shape = (x.shape[0], weight.shape[0], *settings.places(x, _size(weight)))
        answer = x.new_empty(shape).contiguous(memory_format=torch.channels_last)
        for part in _Patches.parts(x, weight, settings):
            mapped = _mapped(_patches(x[part], weight, settings), maps[part])
            rows = _times_transposed(mapped.flatten(0, 1).flatten(1), matrix)
            answer[part].permute(0, 2, 3, 1).copy_(rows.view(-1, *shape[2:], shape[1]))
        return answer

    @staticmethod
    def parts(x: Tensor, weight: Tensor, settings: Settings) -> list[slice]:
        rows, columns = settings.places(x, _size(weight))
        each = rows * columns * weight[0].numel() * x.element_size()
        return _parts(x.shape[0], each, x.device)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, maps = ctx.saved_tensors
        need_x, need_weight, need_maps, _ = ctx.needs_input_grad
        matrix = _matrix(weight).to(x.dtype)
        of_x, of_maps, of_weight = [], [], None
        for part in _Patches.parts(x, weight, ctx.settings):
            rows = _channels_last(grad[part]).permute(0, 2, 3, 1).flatten(0, 2)  # (n P, O)
            patches = _patches(x[part], weight, ctx.settings)
            if need_weight:
                mapped = _mapped(patches, maps[part]).flatten(0, 1).flatten(1)
                more = _times(rows.t().contiguous(), mapped)
                of_weight = more if of_weight is None else of_weight + more
            if need_x or need_maps:
                of_mapped = _times(rows, matrix).view(*patches.shape[:2], -1, patches.shape[3])
                if need_x:
                    back = torch.matmul(maps[part].to(x.dtype).unsqueeze(1), of_mapped)
                    of_x.append(_fold(back, x[part], weight, ctx.settings))
                if need_maps:
                    product = torch.matmul(patches, of_mapped.transpose(2, 3))
                    of_maps.append(product.to(maps.dtype).sum(1))
        return (
            torch.cat(of_x) if need_x else None,
            None if of_weight is None else _as_kernel(of_weight.to(weight.dtype), weight),
            torch.cat(of_maps) if need_maps else None,
            None,
        )


def _size(weight: Tensor) -> tuple[int, int]:
    return (weight.shape[3], weight.shape[4])


def _taps(
    padded: Tensor, places: tuple[int, int], size: tuple[int, int], settings: Settings
) -> Iterator[Tensor]:
    """For each place in the kernel the pixels (N, H', W', C) it meets, views of (N, H, W, C)."""
    (down, right), (skip_y, skip_x) = settings.stride, settings.dilation
    for y in range(size[0]):
        rows = slice(y * skip_y, y * skip_y + (places[0] - 1) * down + 1, down)
        for x in range(size[1]):
            columns = slice(x * skip_x, x * skip_x + (places[1] - 1) * right + 1, right)
            yield padded[:, rows, columns]


def _pad(x: Tensor, settings: Settings) -> Tensor:
    """Padded images with channels last: (N, H, W, C)."""
    (top, left) = settings.padding
    return F.pad(x.permute(0, 2, 3, 1), (0, 0, left, left, top, top))


def _patches(x: Tensor, weight: Tensor, settings: Settings) -> Tensor:
    """What each place of the output sees: (N, H' * W', y * x, C)."""
    size = _size(weight)
    places = settings.places(x, size)
    return torch.stack(list(_taps(_pad(x, settings), places, size, settings)), 3).flatten(1, 2)


def _mapped(patches: Tensor, maps: Tensor) -> Tensor:
    """Patches as the 3D kernel meets them: (N, H' * W', z * y * x, C)."""
    return torch.matmul(maps.to(patches.dtype).transpose(1, 2).unsqueeze(1), patches)


def _fold(patches: Tensor, x: Tensor, weight: Tensor, settings: Settings) -> Tensor:
    """Add patches up into images: the transpose of `_patches`."""
    size = _size(weight)
    places = settings.places(x, size)
    (top, left) = settings.padding
    n, c, height, width = x.shape
    padded = patches.new_zeros(n, height + 2 * top, width + 2 * left, c)
    pieces = patches.view(n, *places, -1, c).unbind(3)
    for tap, piece in zip(_taps(padded, places, size, settings), pieces, strict=True):
        tap += piece
    return padded[:, top : top + height, left : left + width].permute(0, 3, 1, 2)


# Products of matrices. On CPUs whose BLAS does not use the widest vectors (MKL on AMD), the
# 1x1 convolutions of oneDNN are up to twice as fast; they are the same sums. With one thread torch
# does not give such convolutions to oneDNN.


def _by_convolution(a: Tensor) -> bool:
    fast = torch.backends.mkldnn.is_available() and torch.get_num_threads() > 1
    return fast and a.device.type == "cpu" and a.dtype == torch.float32


def _image(a: Tensor) -> Tensor:
    """A matrix (m, k) as an image of m pixels and k channels."""
    return a.contiguous().view(1, a.shape[0], 1, a.shape[1]).permute(0, 3, 1, 2)


def _times_transposed(a: Tensor, b: Tensor) -> Tensor:
    """The product of (m, k) and the transpose of (n, k); the smaller is taken as the kernel."""
    if not _by_convolution(a):
        return a @ b.t()
    if a.shape[0] > b.shape[0]:
        return F.conv2d(_image(a), b[:, :, None, None])[0, :, :, 0].t()
    return F.conv2d(_image(b), a[:, :, None, None])[0, :, :, 0]


def _times(a: Tensor, b: Tensor) -> Tensor:
    """The product of (m, k) and (k, n)."""
    m, n = a.shape[0], b.shape[1]
    if not _by_convolution(a):
        return a @ b
    walk = (None, (1, 1), (0, 0), (1, 1), False, (0, 0), 1)
    if m <= FEW:  # the gradient of the kernel (m, n) of a convolution from n to m channels
        kernel = a.new_empty(m, n, 1, 1)
        grad = convolution_backward(_image(a.t()), _image(b), kernel, *walk, [False, True, False])
        product: Tensor = grad[1][:, :, 0, 0]
        return product
    image = a.new_empty(1, m, 1, n).permute(0, 3, 1, 2)
    kernel = b[:, :, None, None]
    grad = convolution_backward(_image(a), image, kernel, *walk, [True, False, False])
    product = grad[0][0, :, :, 0].t()
    return product
