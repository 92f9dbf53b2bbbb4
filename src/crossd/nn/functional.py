"""The mathematics of Cross-D convolution as pure functions of tensors.

Kernels are indexed ``(out, in / groups, z, y, x)`` and displacements ``(z, y, x)`` in voxels.
Nothing here keeps state, needs complex numbers or looks at modules.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SPATIAL = 3
"""Axes of a volume: depth, height, width."""


def displacement(axis: Tensor, angle: Tensor, offset: float = 1.0) -> Tensor:
    r"""Displacement of a kernel whose spectrum is multiplied by the paper's phase.

    The phase :math:`\exp(-2\pi i\,1^T R f)` with the linearised rotation
    :math:`R = I + \theta [k]_\times` is a translation by
    :math:`d = R^T 1 = 1 - \theta (k \times 1)`, not a rotation.
    `offset` replaces the leading 1; with 0 the kernel stays centred.

    Args:
        axis: Axes k, shape ``(..., 3)``, on the kernel axes (z, y, x).
        angle: Angles theta [rad], shape ``(...)``.
        offset: Displacement at angle 0 [voxels].

    Returns:
        Displacements [voxels], shape ``(..., 3)``. Their three parts sum to ``3 * offset``.

    Source: Yavuz & Yang, arXiv 2411.02441.

    Example:
        >>> displacement(torch.tensor([0.0, 0.0, 1.0]), torch.tensor(0.5))
        tensor([1.5000, 0.5000, 1.0000])
    """
    cross = axis.roll(-1, -1) - axis.roll(1, -1)  # k x 1
    return offset - angle.unsqueeze(-1) * cross


def shift_matrix(shift: Tensor, size: int) -> tuple[Tensor, Tensor | None]:
    r"""Matrices that translate a periodic signal of `size` samples by `shift` samples.

    The real part is :math:`S[p, q] = \frac1K \sum_f \cos 2\pi f (p - q - d)`. For odd sizes there
    is no imaginary part; for even sizes the Nyquist bin leaves
    :math:`\frac1K (-1)^{p-q} \sin \pi d`, which cancels only where a product of several axes
    has its real part taken.

    Args:
        shift: Displacements d [samples], any shape.
        size: Number of samples K.

    Returns:
        Real part, shape ``(*shift.shape, K, K)``, and imaginary part, the same shape or None.

    Example:
        >>> real, imaginary = shift_matrix(torch.tensor(1.0), 3)
        >>> (real @ torch.tensor([1.0, 2.0, 3.0])).round()
        tensor([3., 1., 2.])
    """
    place = torch.arange(size, device=shift.device, dtype=shift.dtype)
    difference = place[:, None] - place
    phase = (difference - shift[..., None, None]) * (2 * torch.pi / size)  # of frequency 1
    if size % 2:  # frequencies f and -f have one cosine
        if size == 3:
            return (1 + 2 * phase.cos()) / size, None
        frequency = torch.arange(1, size // 2 + 1, device=shift.device, dtype=shift.dtype)
        return (1 + 2 * (phase[..., None] * frequency).cos().sum(-1)) / size, None
    frequency = torch.arange(size, device=shift.device, dtype=shift.dtype) - size // 2
    real = (phase[..., None] * frequency).cos().mean(-1)  # (..., K, K)
    sign = 1 - 2 * (difference.abs() % 2)
    return real, sign * (torch.pi * shift[..., None, None]).sin() / size


def shift_map(shift: Tensor, size: tuple[int, int, int], depth: int | None = None) -> Tensor:
    r"""Linear maps from a flattened 3D kernel to the translated one, or to one slice of it.

    The map is the Kronecker product of the three axes' shift matrices (the translation is
    separable), with the real part taken of the product, as an inverse FFT would.

    Args:
        shift: Displacements [voxels], shape ``(N, 3)``.
        size: Kernel size (z, y, x).
        depth: The depth slice to keep; None keeps all.

    Returns:
        Shape ``(N, P, z * y * x)``, where P is ``y * x``, or ``z * y * x`` when `depth` is None.
    """
    exact = shift.to(torch.promote_types(shift.dtype, torch.float32))
    if size[0] == size[1] == size[2] and size[0] % 2:
        z, y, x = shift_matrix(exact, size[0])[0].unbind(1)
        z = z if depth is None else z[:, depth : depth + 1]
        return _kronecker(z, _kronecker(y, x))
    real, imaginary = shift_matrix(exact[:, 0], size[0])
    if depth is not None:
        real = real[:, depth : depth + 1]
        imaginary = None if imaginary is None else imaginary[:, depth : depth + 1]
    for axis in (1, 2):
        next_real, next_imaginary = shift_matrix(exact[:, axis], size[axis])
        product = _kronecker(real, next_real)
        rest: list[Tensor] = []
        if imaginary is not None and next_imaginary is not None:
            product = product - _kronecker(imaginary, next_imaginary)
        if next_imaginary is not None:
            rest.append(_kronecker(real, next_imaginary))
        if imaginary is not None:
            rest.append(_kronecker(imaginary, next_real))
        real, imaginary = product, (sum(rest[1:], rest[0]) if rest else None)
    return real


def _kronecker(a: Tensor, b: Tensor) -> Tensor:
    """Kronecker product of each pair of matrices of two batches."""
    product = a[:, :, None, :, None] * b[:, None, :, None, :]  # (n, p, r, q, s)
    return product.flatten(1, 2).flatten(2, 3)


def map_kernel(weight: Tensor, maps: Tensor) -> Tensor:
    """Apply a linear map per sample to a kernel's spatial axes.

    Args:
        weight: Kernel, shape ``(O, I, z, y, x)``.
        maps: Shape ``(N, P, z * y * x)``.

    Returns:
        Shape ``(N, O, I, P)``. No tensor of ``N * O * I * z * y * x`` numbers is made.
    """
    if torch.compiler.is_exporting():  # samples not mixed with places: a batch of one stays free
        rows = F.linear(maps.to(weight.dtype), weight.flatten(2).flatten(0, 1))  # (n, p, oi)
        return rows.transpose(1, 2).unflatten(1, weight.shape[:2])
    n, places, _ = maps.shape
    columns = weight.flatten(2).flatten(0, 1) @ maps.to(weight.dtype).flatten(0, 1).T  # (oi, np)
    return columns.view(*weight.shape[:2], n, places).permute(2, 0, 1, 3)


def shift_kernel(weight: Tensor, shift: Tensor) -> Tensor:
    """Translate a 3D kernel periodically, by whole or broken voxels.

    Args:
        weight: Kernel, shape ``(O, I, z, y, x)``.
        shift: Displacement [voxels], shape ``(3,)``.

    Returns:
        The moved kernel, shape ``(O, I, z, y, x)``.

    Example:
        >>> weight = torch.arange(27.0).view(1, 1, 3, 3, 3)
        >>> moved = shift_kernel(weight, torch.tensor([1.0, 0.0, 0.0]))
        >>> torch.allclose(moved, weight.roll(1, dims=2), atol=1e-5)
        True
    """
    return shift_kernels(weight, shift[None])[0]


LARGE = 512
"""Taps beyond which a kernel is moved axis by axis, as a map of all taps has their square. Graphs
that are exported take maps, in which the batch stays free."""


def shift_kernels(weight: Tensor, shift: Tensor) -> Tensor:
    """Translate a 3D kernel periodically for every sample.

    Args:
        weight: Kernel, shape ``(O, I, z, y, x)``.
        shift: One displacement a sample [voxels], shape ``(N, 3)``.

    Returns:
        Shape ``(N, O, I, z, y, x)``.

    Example:
        >>> weight, shift = torch.randn(4, 2, 3, 3, 3), torch.randn(5, 3)
        >>> kernels = shift_kernels(weight, shift)
        >>> kernels.shape, torch.allclose(kernels[1], shift_kernel(weight, shift[1]), atol=1e-5)
        (torch.Size([5, 4, 2, 3, 3, 3]), True)
    """
    size = (weight.shape[2], weight.shape[3], weight.shape[4])
    if math.prod(size) > LARGE and not torch.compiler.is_exporting():
        return moved_kernels(weight, shift)
    return map_kernel(weight, shift_map(shift, size)).unflatten(-1, size)


def fourier_kernels(weight: Tensor, shift: Tensor) -> Tensor:
    """2D kernels of the paper: the central depth slice of the translated 3D kernel.

    Args:
        weight: Kernel, shape ``(O, I, z, y, x)``.
        shift: One displacement a sample [voxels], shape ``(N, 3)``.

    Returns:
        Shape ``(N, O, I, y, x)``.
    """
    size = (weight.shape[2], weight.shape[3], weight.shape[4])
    maps = shift_map(shift, size, depth=size[0] // 2)
    return map_kernel(weight, maps).unflatten(-1, size[1:])


def moved_kernels(
    weight: Tensor, shift: Tensor, axis: int | None = None, place: int | None = None
) -> Tensor:
    """Translate a 3D kernel for every sample, one axis after the other; one axis may be dropped.

    The same as `map_kernel` by `shift_map`, which takes K^5 multiplications for every pair of
    channels where this takes some K^3: for kernels of many taps a side.

    Args:
        weight: Kernel, shape ``(O, I, z, y, x)``.
        shift: One displacement a sample [voxels], shape ``(N, 3)``.
        axis: The axis that is dropped, 0 for z; None keeps all.
        place: The slice across it that is kept; None sums over all.

    Returns:
        Shape ``(N, O, I, z, y, x)``, without the axis that is dropped.

    Example:
        >>> weight, shift = torch.randn(4, 2, 5, 5, 5), torch.randn(3, 3)
        >>> kernels = moved_kernels(weight, shift, axis=0, place=2)
        >>> kernels.shape, torch.allclose(kernels, fourier_kernels(weight, shift), atol=1e-5)
        (torch.Size([3, 4, 2, 5, 5]), True)
    """
    exact = shift.to(torch.promote_types(shift.dtype, torch.float32))
    real, nyquist = [], []
    for one, size in enumerate(weight.shape[2:]):
        # For even sizes there is an imaginary part: its first column times signs that alternate.
        parts = [m.to(weight.dtype) for m in shift_matrix(exact[:, one], size) if m is not None]
        if one == axis:
            keep = slice(place, None if place is None else place + 1)
            parts = [m[:, keep].sum(1, keepdim=True) for m in parts]
        real.append(parts[0])
        nyquist.append(parts[1][..., 0] if len(parts) > 1 else None)
    weight = weight.contiguous()  # once, for all products
    order = sorted(range(SPATIAL), key=lambda one: one != axis)  # what makes it smaller goes first
    moved = _along_shared(real[order[0]], weight, order[0])
    for one in order[1:]:
        moved = _along(real[one], moved, one)
    for one, other in ((0, 1), (0, 2), (1, 2)):  # of the product of axes the real part is taken
        first, second, rest = nyquist[one], nyquist[other], SPATIAL - one - other
        if first is not None and second is not None:
            line = weight
            for own in (other, one):
                signs = 1 - 2 * (torch.arange(weight.shape[2 + own], device=weight.device) % 2)
                line = _along_shared(signs.to(weight.dtype).view(1, 1, -1), line, own)[0]
            part = _along_shared(real[rest], line, rest)
            moved = moved - part * _standing(first, one) * _standing(second, other)
    return moved if axis is None else moved.squeeze(3 + axis)


def _standing(rows: Tensor, axis: int) -> Tensor:
    """Let numbers ``(N, P)`` stand along an axis of kernels, ``(N, 1, 1, z, y, x)``."""
    shape = [len(rows), 1, 1, 1, 1, 1]
    shape[3 + axis] = rows.shape[1]
    return rows.view(shape)


def _along_shared(matrix: Tensor, weight: Tensor, axis: int) -> Tensor:
    """Multiply an axis of one kernel by a matrix ``(N, P, K)`` for each sample."""
    n, places, taps = matrix.shape
    sizes = weight.shape[: 2 + axis], weight.shape[3 + axis :]
    if axis == SPATIAL - 1:
        rows = weight.reshape(-1, taps) @ matrix.flatten(0, 1).T
    else:
        rows = matrix.flatten(0, 1) @ weight.flatten(0, 1 + axis).flatten(2)
    return rows.view(*sizes[0], n, places, *sizes[1]).movedim(2 + axis, 0)


def _along(matrix: Tensor, kernels: Tensor, axis: int) -> Tensor:
    """Multiply an axis of kernels ``(N, O, I, z, y, x)`` by a matrix ``(N, P, K)`` for each."""
    if axis == SPATIAL - 1:
        rows = kernels.flatten(1, -2) @ matrix.mT
    else:
        rows = matrix.unsqueeze(1) @ kernels.flatten(1, 2 + axis).flatten(3)
    shape = [*kernels.shape]
    shape[3 + axis] = matrix.shape[1]
    return rows.reshape(shape)


class _Project(torch.autograd.Function):
    """Sum of slices: a few additions of whole slices, where `torch.sum` walks over single taps.

    The gradient is an expanded view, so that nothing is written before the parameter's own.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor, dim: int) -> Tensor:
        first, *rest = weight.unbind(dim)
        if not rest:
            return first.clone()
        total = first + rest[0]
        for part in rest[1:]:
            total += part
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.dim, ctx.length = inputs[1], inputs[0].shape[inputs[1]]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        shape = [-1] * (grad.dim() + 1)
        shape[ctx.dim] = ctx.length
        return grad.unsqueeze(ctx.dim).expand(shape), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: Any) -> Tensor:
        return tangent.sum(ctx.dim)


class _Central(torch.autograd.Function):
    """The middle slice, with a gradient in the memory format of the kernel."""

    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor, dim: int) -> Tensor:
        return weight.select(dim, weight.shape[dim] // 2).clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        weight, ctx.dim = inputs
        ctx.like = weight.shape, weight.stride()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        whole = grad.new_empty_strided(*ctx.like).zero_()
        whole.select(ctx.dim, whole.shape[ctx.dim] // 2).copy_(grad)
        return whole, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: Any) -> Tensor:
        return tangent.select(ctx.dim, tangent.shape[ctx.dim] // 2).clone()


def project(weight: Tensor, axis: int) -> Tensor:
    """Sum a 3D kernel along one of its axes: the central plane of its spectrum.

    Args:
        weight: Kernel, shape ``(O, I, z, y, x)``.
        axis: 0 for z (axial), 1 for y (coronal), 2 for x (sagittal).

    Returns:
        The 2D kernel on the two axes that stay, in their order.
    """
    if torch.compiler.is_compiling():
        return weight.sum(dim=2 + axis)
    total: Tensor = _Project.apply(weight, 2 + axis)
    return total


def central(weight: Tensor, axis: int) -> Tensor:
    """Central slice of a 3D kernel across one of its axes; see `project` for the arguments."""
    if torch.compiler.is_compiling():
        return weight.select(2 + axis, weight.shape[2 + axis] // 2)
    middle: Tensor = _Central.apply(weight, 2 + axis)
    return middle


def depth_taps(size: int, stride: int, padding: int = 0) -> tuple[int, int]:
    """Choose the size and padding along depth of a kernel that strides along depth.

    A kernel smaller than its stride would drop slices. It gets as many taps more on both sides as
    make its windows overlap; the number of slices that it gives stays the same.

    Args:
        size: Taps of the 2D kernel along the axis that depth copies.
        stride: Stride along depth.
        padding: Padding of the 2D kernel along that axis.

    Returns:
        Size and padding along depth.

    Example:
        >>> depth_taps(1, 2), depth_taps(3, 2, 1)
        ((3, 1), (3, 1))
    """
    more = max(0, stride - size)
    return size + 2 * more, padding + more


def depth_profile(size: int, stride: int) -> Tensor:
    """Weights that spread a 2D kernel over depth where a layer strides, so that no slice is lost.

    Binomial weights, or the mean for patches (kernel = stride). They sum to one.

    Args:
        size: Taps along depth.
        stride: Stride along depth, above 1.

    Returns:
        Weights, shape ``(size,)``, in float64.

    Example:
        >>> depth_profile(3, 2).tolist(), depth_profile(2, 2).tolist()
        ([0.25, 0.5, 0.25], [0.5, 0.5])
    """
    counts = [1] * size if size == stride else [math.comb(size - 1, i) for i in range(size)]
    return torch.tensor(counts, dtype=torch.float64) / sum(counts)


def lift(
    weight: Tensor,
    depth: int,
    how: str = "center",
    stride: int = 1,
    transposed: bool = False,
    spread: bool = True,
) -> Tensor:
    """Place a 2D kernel in a 3D one so that the sum over depth gives it back.

    ``"center"`` puts it at the central slice, ``"inflate"`` spreads it evenly over all slices
    (Carreira & Zisserman 2017), ``"triplanar"`` is the mean of its central placements in the
    three planes, whose sum over depth is not the 2D kernel. Of an even number of slices each of the
    two in the middle gets a half: one alone would move volumes by a slice. Where the layer strides
    along depth, a central placement would leave slices out that nothing looks at: `depth_profile`
    takes its place.

    Args:
        weight: 2D kernel, shape ``(O, I, y, x)``.
        depth: Depth of the 3D kernel.
        how: ``"center"``, ``"inflate"`` or ``"triplanar"``.
        stride: Stride along depth.
        transposed: Whether the convolution is transposed. Its outputs at different depths meet
            different taps, so every class of taps modulo the stride receives the whole kernel.
        spread: False places the kernel at one slice of strided and even layers too.

    Returns:
        Shape ``(O, I, depth, y, x)``.

    Raises:
        ValueError: "lift ..." for an unknown name, or triplanar of a kernel that is no cube.

    Example:
        >>> lift(torch.ones(1, 1, 1, 1), 3, "center").flatten()
        tensor([0., 1., 0.])
        >>> lift(torch.ones(1, 1, 1, 1), 3, "center", stride=2).flatten()
        tensor([0.2500, 0.5000, 0.2500])
    """
    if how not in ("center", "inflate", "triplanar"):
        raise ValueError(f"lift (={how!r}) must be 'center', 'inflate' or 'triplanar'")
    place = torch.arange(depth, device=weight.device)
    phases = min(stride, depth) if transposed else 1
    if how == "inflate":
        shares = torch.bincount(place % phases, minlength=phases)[place % phases]
        profile = 1 / shares.to(weight.dtype)
    elif stride > 1 and spread and not transposed and depth >= stride:
        profile = depth_profile(depth, stride).to(weight, non_blocking=True)
    elif spread and phases == 1 and depth % 2 == 0:
        profile = ((place - (depth - 1) / 2).abs() < 1).to(weight.dtype) / 2
    else:
        start = (depth - phases + 1) // 2
        profile = ((place >= start) & (place < start + phases)).to(weight.dtype)
    axial = weight.unsqueeze(2) * profile.view(-1, 1, 1)  # (o, i, z, y, x)
    if how != "triplanar" or weight[0, 0].numel() == 1:  # one pixel lies in all planes alike
        return axial
    if not depth == weight.shape[2] == weight.shape[3]:
        size = (depth, *weight.shape[2:])
        raise ValueError(f"lift 'triplanar' needs a cubic kernel, got size {size}")
    coronal = weight.unsqueeze(3) * profile.view(-1, 1)
    sagittal = weight.unsqueeze(4) * profile
    return (axial + coronal + sagittal) / SPATIAL


def conv_transpose2d_per_sample(
    x: Tensor,
    kernels: Tensor,
    bias: Tensor | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    output_padding: tuple[int, int] = (0, 0),
    groups: int = 1,
    dilation: tuple[int, int] = (1, 1),
) -> Tensor:
    """Transposed 2D convolution of every image with its own kernel.

    Args:
        x: Images, shape ``(N, C, H, W)``.
        kernels: Shape ``(N, C, O / groups, y, x)``; with a first size of 1 all share one.
        bias: Shape ``(O,)``.
        stride: Steps between the places of one pixel's and the next one's outputs.
        padding: Pixels that are cut from both ends of each axis.
        output_padding: Pixels that are added at the end of each axis.
        groups: Groups of channels within an image.
        dilation: Steps between the taps of the kernel.

    Returns:
        Shape ``(N, O, H', W')``.
    """
    n = x.shape[0]
    shape = (stride, padding, output_padding)
    one = isinstance(kernels.shape[0], int) and kernels.shape[0] == 1  # not to ask a free batch
    if torch.compiler.is_exporting() and not one:
        return _spread_and_add(x, kernels, bias, shape, groups, dilation)
    if n == 0:
        kernels = kernels.sum(0, keepdim=True)
    if kernels.shape[0] == 1:
        return F.conv_transpose2d(x, kernels[0], bias, *shape, groups, dilation)
    rows = x.reshape(1, -1, *x.shape[2:])
    every = None if bias is None else bias.repeat(n)
    y = F.conv_transpose2d(rows, kernels.flatten(0, 1), every, *shape, n * groups, dilation)
    return y.view(n, -1, *y.shape[2:])


Shape = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""Stride, padding and output padding."""


def _spread_and_add(
    x: Tensor,
    kernels: Tensor,
    bias: Tensor | None,
    shape: Shape,
    groups: int,
    dilation: tuple[int, int],
) -> Tensor:
    """A transposed convolution as a product, for graphs whose batch stays free.

    Each pixel is multiplied with its sample's kernel; a transposed convolution with constant
    kernels of one tap each then adds up what falls on the same place. (The groups of a
    convolution are a constant in ONNX, so one group a sample would fix the batch.)
    """
    matrices = kernels.flatten(2).unflatten(1, (groups, -1)).transpose(2, 3)  # (n, g, o y x, c)
    rows = matrices @ x.flatten(2).unflatten(1, (groups, -1))  # (n, g, o * y * x, places)
    spread = rows.flatten(1, 2).unflatten(2, x.shape[2:])
    size = kernels.shape[3:]
    channels = spread.shape[1] // (size[0] * size[1])
    taps = torch.eye(size[0] * size[1], dtype=x.dtype, device=x.device).view(-1, 1, *size)
    taps = taps.repeat(channels, 1, 1, 1)
    stride, padding, output_padding = shape
    return F.conv_transpose2d(
        spread, taps, bias, stride, padding, output_padding, channels, dilation
    )
