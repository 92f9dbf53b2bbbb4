"""Kernel modes: how a 2D kernel is taken from a 3D one.

A mode is a small module that says how the 2D kernel is made of the 3D one: a `fixed_kernel` that
the whole batch shares, or a linear map for each sample (`maps`) that its displacement gives. To add
one, write such a class and put it in `KERNEL_MODES`; nothing else changes.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from crossd.nn.functional import (
    central,
    displacement,
    fourier_kernels,
    moved_kernels,
    project,
    shift_kernel,
    shift_kernels,
    shift_map,
)


class KernelMode(nn.Module):
    """Base of the modes.

    Attributes:
        name: The name `crossd.convert` knows it by.
        has_views: Whether the current view matters; if not, the axial plane is used.
        sums: Whether the 2D kernel is the sum of all slices: only then does a volume that repeats
            an image get the image's answer.
        displaces: Whether a displacement of the kernel is predicted for each image.
        moves_volumes: Whether it is for each volume, too.
        options: Names of further arguments of the constructor.

    Args:
        in_channels: Channels of the layer's images.
        kernel_size: Size (z, y, x) of the layer's kernel.
        device: Where parameters are made.
        dtype: Of the parameters.
    """

    name: ClassVar[str]
    has_views: ClassVar[bool]
    sums: ClassVar[bool]
    displaces: ClassVar[bool] = False
    moves_volumes: ClassVar[bool] = False
    options: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        in_channels: int,
        kernel_size: tuple[int, ...],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()

    def displacements(self, x: Tensor) -> Tensor | None:
        """Predict how far each image or volume moves the kernel [voxels], shape ``(N, 3)``.

        None where all share the kernel as it stands: then the layer is one plain convolution.
        """
        return None

    def fixed_kernel(self, weight: Tensor, view: int) -> Tensor:
        """Take the one 2D kernel, shape ``(O, I, K, K)``, that a plain 2D layer would use."""
        raise NotImplementedError

    def maps(self, weight: Tensor, shift: Tensor, view: int) -> Tensor:
        """Give the linear map from the 3D to the 2D kernel of each image, ``(N, K^2, K^3)``.

        Args:
            weight: The 3D kernel, shape ``(O, I, K, K, K)``.
            shift: What `displacements` gave for the images.
            view: The axis that is dropped.
        """
        raise NotImplementedError

    def kernels(self, weight: Tensor, shift: Tensor, view: int) -> Tensor:
        """Give the 2D kernel of each image, ``(N, O, I, K, K)``, without a map of all taps.

        That takes less for kernels of many taps, see `crossd.nn.per_sample.by_axes`. The arguments
        are those of `maps`.
        """
        raise NotImplementedError

    def solid_kernels(self, weight: Tensor, shift: Tensor) -> Tensor:
        """Give the 3D kernel of each volume, ``(N, O, I, K, K, K)``."""
        return shift_kernels(weight, shift)

    def aligned(self, weight: Tensor) -> Tensor:
        """Move a 3D kernel to where it stood, on average, in 2D training."""
        return weight

    def unshifted(self, weight: Tensor) -> Tensor:
        """Undo what the mode does to a kernel at its start, so that a lift keeps its function."""
        return weight


class Projection(KernelMode):
    """The sum of the 3D kernel along the axis of the view.

    On a volume that does not vary along that axis, the 3D convolution gives what the 2D one
    gives on the image: training on images is training on such volumes, at the cost of 2D.
    """

    name = "projection"
    has_views = True
    sums = True

    def fixed_kernel(self, weight: Tensor, view: int) -> Tensor:
        """See `KernelMode.fixed_kernel`."""
        return project(weight, view)


class Slice(KernelMode):
    """The central slice of the 3D kernel across the axis of the view. Kept for comparison."""

    name = "slice"
    has_views = True
    sums = False

    def fixed_kernel(self, weight: Tensor, view: int) -> Tensor:
        """See `KernelMode.fixed_kernel`."""
        return central(weight, view)


class PosePredictor(nn.Sequential):
    """Predicts an axis and an angle from each image.

    1x1 convolution, BatchNorm, ReLU, 1x1 convolution to 4 channels, each pooled over space by
    its own softmax; the first three make the unit axis, the last the angle in (-pi/4, pi/4).

    Args:
        in_channels: Channels of the images.
        device: As in torch.nn.
        dtype: As in torch.nn.

    Source: Yavuz & Yang, arXiv 2411.02441.
    """

    def __init__(
        self,
        in_channels: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            nn.Conv2d(in_channels, 16, 1, device=device, dtype=dtype),
            nn.BatchNorm2d(16, device=device, dtype=dtype),
            nn.ReLU(inplace=True),
            nn.Conv2d(16, 4, 1, device=device, dtype=dtype),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Predict poses of images ``(N, C, H, W)``: unit axes ``(N, 3)``, angles ``(N,)`` [rad].

        Volumes ``(N, C, D, H, W)`` have poses too: 1x1 convolutions and pooling know no rank.
        """
        if x.dim() == 5:
            x = x.flatten(2, 3)
        if x.device.type == "cpu" and not torch.compiler.is_exporting():
            # Products over channels want them last in memory.
            x = x.contiguous(memory_format=torch.channels_last)
        r = super().forward(x).flatten(2)  # (n, 4, hw)
        r = r.to(torch.promote_types(r.dtype, torch.float32))
        pooled = (r.softmax(dim=-1) * r).sum(dim=-1)
        axis = pooled[:, :3]
        axis = axis / (axis.norm(dim=-1, keepdim=True) + 1e-8)
        return axis, torch.pi / 4 * pooled[:, 3].tanh()

    @torch.no_grad()
    def start_at_zero(self) -> None:
        """Make every angle zero, leaving the axes: all four at zero would be a dead point."""
        last: Any = self[3]
        last.weight[3] = 0
        last.bias[3] = 0


class Fourier(KernelMode):
    """The paper's mode: the central slice of the 3D kernel moved by a predicted displacement.

    Args:
        in_channels: Channels of the images.
        kernel_size: Size (z, y, x). A kernel of size 1 cannot be moved, so it has no predictor.
        device: As in torch.nn.
        dtype: As in torch.nn.
        offset: Displacement at angle 0 [voxels]; None takes 1 for ``"fourier"``, as in the paper,
            and 0 for ``"fourier-projection"``, whose kernels stay centred.

    Attributes:
        mean_displacement: Running mean over training [voxels], shape ``(3,)``.
        fixed_pose: Set it to use the mean displacement for all images in evaluation, at the
            price of a plain convolution; False at first.
    """

    name = "fourier"
    has_views = False
    sums = False
    displaces = True
    options = frozenset({"offset"})
    momentum = 0.1
    offset = 1.0
    mean_displacement: Tensor
    fixed_pose = False

    def __init__(
        self,
        in_channels: int,
        kernel_size: tuple[int, ...],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        offset: float | None = None,
    ) -> None:
        super().__init__(in_channels, kernel_size)
        self.offset = type(self).offset if offset is None else offset
        self.predictor: PosePredictor | None = None
        if max(kernel_size) > 1:
            self.predictor = PosePredictor(in_channels, device, dtype)
            mean = torch.full((3,), float(self.offset), device=device, dtype=dtype)
            self.register_buffer("mean_displacement", mean)

    def extra_repr(self) -> str:
        """Show the offset."""
        return f"offset={self.offset}"

    def displacements(self, x: Tensor) -> Tensor | None:
        """See `KernelMode.displacements`; in training their running mean follows.

        None for kernels of one voxel, and at the mean pose.
        """
        if self.predictor is None or (self.fixed_pose and not self.training):
            return None
        axis, angle = self.predictor(x)
        shift = displacement(axis, angle, self.offset)
        if self.training and x.shape[0]:
            with torch.no_grad():
                mean = shift.mean(0).to(self.mean_displacement.dtype)
                self.mean_displacement.lerp_(mean, self.momentum)
        return shift

    def maps(self, weight: Tensor, shift: Tensor, view: int) -> Tensor:
        """See `KernelMode.maps`: the central slice of the moved kernel; `view` plays no part."""
        size = (weight.shape[2], weight.shape[3], weight.shape[4])
        return shift_map(shift, size, depth=size[0] // 2)

    def kernels(self, weight: Tensor, shift: Tensor, view: int) -> Tensor:
        """See `KernelMode.kernels`."""
        return moved_kernels(weight, shift, 0, weight.shape[2] // 2)

    def fixed_kernel(self, weight: Tensor, view: int) -> Tensor:
        """The kernel at the mean displacement of training; `view` plays no part."""
        if self.predictor is None:
            return weight[:, :, 0]
        return fourier_kernels(weight, self.mean_displacement[None])[0]

    def aligned(self, weight: Tensor) -> Tensor:
        """See `KernelMode.aligned`."""
        return weight if self.predictor is None else shift_kernel(weight, self.mean_displacement)

    def unshifted(self, weight: Tensor) -> Tensor:
        """Roll back by the offset and start every angle at zero."""
        if self.predictor is None:
            return weight
        self.predictor.start_at_zero()
        self.mean_displacement.fill_(self.offset)
        return shift_kernel(weight, weight.new_full((3,), -self.offset))


class FourierProjection(Fourier):
    """The paper's learned displacement with a sum along the view: moved, and then projected.

    Each image moves the 3D kernel by its own displacement, and the moved kernel is summed along
    the axis of the view. The predictor has no rank, so each volume moves the 3D kernel in the
    same way, and a volume that repeats an image gets the image's answer.
    """

    name = "fourier-projection"
    has_views = True
    sums = True
    moves_volumes = True
    offset = 0.0

    def maps(self, weight: Tensor, shift: Tensor, view: int) -> Tensor:
        """See `KernelMode.maps`: the moved kernel, summed along the axis of the view."""
        size = (weight.shape[2], weight.shape[3], weight.shape[4])
        cubes = shift_map(shift, size).unflatten(1, size)  # (n, z, y, x, K^3)
        return cubes.sum(1 + view).flatten(1, 2)

    def kernels(self, weight: Tensor, shift: Tensor, view: int) -> Tensor:
        """See `KernelMode.kernels`: summed along the axis of the view."""
        return moved_kernels(weight, shift, view)

    def fixed_kernel(self, weight: Tensor, view: int) -> Tensor:
        """The kernel at the mean displacement of training, summed along the axis of the view."""
        return project(self.aligned(weight), view)


KERNEL_MODES: dict[str, type[KernelMode]] = {
    mode.name: mode for mode in (Projection, Slice, Fourier, FourierProjection)
}


def make_mode(
    name: str,
    in_channels: int,
    kernel_size: tuple[int, ...],
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **options: object,
) -> KernelMode:
    """Build the mode called `name` for a layer.

    Raises:
        ValueError: "kernel_mode ..." for an unknown name, or an option that the mode lacks.
    """
    if name not in KERNEL_MODES:
        raise ValueError(f"kernel_mode (={name!r}) must be one of {', '.join(KERNEL_MODES)}")
    kind = KERNEL_MODES[name]
    unknown = sorted(set(options) - kind.options)
    if unknown:
        raise ValueError(f"kernel_mode {name!r} has no option {', '.join(unknown)}")
    return kind(in_channels, kernel_size, device=device, dtype=dtype, **options)
