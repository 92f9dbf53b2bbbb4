"""Kernel modes: how a 2D kernel is taken from a 3D one, and the view it is taken in.

A mode is a small module that says how the 2D kernel is made of the 3D one: a `fixed_kernel` that
the whole batch shares, or a linear map for each sample (`maps`). To add one, write such a class
and put it in `KERNEL_MODES`; nothing else changes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from crossd.nn.functional import (
    central,
    displacement,
    fourier_kernels,
    map_kernel,
    project,
    shift_kernel,
    shift_map,
)

VIEWS = ("axial", "coronal", "sagittal")
"""A view is named after the plane that stays; its index is the axis that goes (z, y, x)."""

View = int | tuple[int, ...]
"""The axis that goes, for all samples or one a sample."""

_view: ContextVar[View | None] = ContextVar("crossd_view", default=None)


def _axis(name: str | int) -> int:
    if isinstance(name, str) and name in VIEWS:
        return VIEWS.index(name)
    if not isinstance(name, str) and 0 <= int(name) < len(VIEWS):
        return int(name)
    raise ValueError(f"view (={name!r}) must be one of {', '.join(VIEWS)} or 'random'")


@contextmanager
def view(name: str | int | Sequence[str | int]) -> Iterator[None]:
    """Set the view in which the projection and slice modes take 2D kernels.

    The view is the same in all layers. Match it to the orientation of the images where that is
    known (an axial slice of a volume has the axial view). Outside of this context manager a
    network made by `crossd.convert` draws a view for every batch in training, and uses the
    axial one in evaluation.

    Args:
        name: ``"axial"``, ``"coronal"``, ``"sagittal"`` (or the axis that goes: 0, 1, 2), a
            sequence with one of these per sample, or ``"random"``, which draws one on entering.

    Raises:
        ValueError: "view ..." for any other name.

    Example:
        >>> with view("coronal"):
        ...     current_view()
        1
    """
    value: View
    if name == "random":
        value = _draw()
    elif isinstance(name, str | int):
        value = _axis(name)
    else:
        value = tuple(_axis(part) for part in name)
        if not value:
            raise ValueError("view (=[]) must name at least one view")
        if len(set(value)) == 1:  # one shared kernel is an ordinary convolution
            value = value[0]
    token = _view.set(value)
    try:
        yield
    finally:
        _view.reset(token)


def current_view() -> View:
    """Return the view that is set, or the axial one."""
    value = _view.get()
    return 0 if value is None else value


def shared(view: View) -> int:
    """Give the view of a whole batch; the first where a mode does not look at views."""
    return view if isinstance(view, int) else view[0]


def view_is_set() -> bool:
    """Tell whether a surrounding `view` context chose the view."""
    return _view.get() is not None


def _draw() -> int:
    return int(torch.randint(len(VIEWS), ()))


def in_plane(values: Sequence[int]) -> tuple[int, int]:
    """Take from one value per axis (z, y, x) the two of the axes that stay in the current view.

    Raises:
        ValueError: "samples of one batch ..." when the samples' views would need different values.
    """
    current = current_view()
    axes = set(current) if isinstance(current, tuple) else {current}
    pairs = {(values[1 if axis == 0 else 0], values[1 if axis == 2 else 2]) for axis in axes}
    if len(pairs) > 1:
        raise ValueError(
            f"samples of one batch have different views, but {tuple(values)} is not the same on "
            "all axes: put one view in a batch"
        )
    return pairs.pop()


class KernelMode(nn.Module):
    """Base of the modes.

    Attributes:
        name: The name `crossd.convert` knows it by.
        has_views: Whether the current view matters; if not, the axial plane is used.
        sums: Whether the 2D kernel is the sum of all slices (then it agrees with the 3D use).
        options: Names of further arguments of the constructor.

    Args:
        in_channels: Channels of the layer's images.
        kernel_size: Size (z, y, x) of the layer's kernel.
        device: As in torch.nn.
        dtype: As in torch.nn.
    """

    name: ClassVar[str]
    has_views: ClassVar[bool]
    sums: ClassVar[bool]
    options: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        in_channels: int,
        kernel_size: tuple[int, int, int],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()

    def maps(self, weight: Tensor, x: Tensor, view: View) -> Tensor | None:
        """Give the linear map from the 3D to the 2D kernel of each image, ``(N, K^2, K^3)``.

        None where all images share the `fixed_kernel`: then the layer is one plain convolution.
        """
        return None

    def fixed_kernel(self, weight: Tensor, view: int) -> Tensor:
        """Take the one 2D kernel, shape ``(O, I, K, K)``, that a plain 2D layer would use."""
        raise NotImplementedError

    def kernels(self, weight: Tensor, x: Tensor, view: View) -> Tensor:
        """Take 2D kernels, shape ``(N or 1, O, I, K, K)``, for images `x` in `view`."""
        maps = self.maps(weight, x, view)
        if maps is None:
            return self.fixed_kernel(weight, shared(view)).unsqueeze(0)
        return map_kernel(weight, maps).unflatten(-1, weight.shape[3:])

    def aligned(self, weight: Tensor) -> Tensor:
        """Move a 3D kernel to where it stood, on average, in 2D training."""
        return weight

    def unshifted(self, weight: Tensor) -> Tensor:
        """Undo what the mode does to a kernel at its start, so that a lift keeps its function."""
        return weight


class OneOfThree(KernelMode):
    """A mode whose 2D kernel is a function of the weight and the view alone."""

    has_views = True

    def maps(self, weight: Tensor, x: Tensor, view: View) -> Tensor | None:
        """See `KernelMode.maps`: one row of 0 and 1 a place, where samples differ in view."""
        if isinstance(view, int):
            return None
        self.check(weight, x, view)
        places = weight[0, 0].numel()
        every = torch.eye(places, dtype=weight.dtype, device=weight.device)
        cubes = every.unflatten(1, weight.shape[2:]).unsqueeze(1)  # (K^3, 1, K, K, K)
        each = [self.fixed_kernel(cubes, axis).flatten(1).t() for axis in range(len(VIEWS))]
        return torch.stack([each[axis] for axis in view])

    def check(self, weight: Tensor, x: Tensor, view: tuple[int, ...]) -> tuple[int, ...]:
        """Return one view a sample, or raise where these do not fit the images or the kernel."""
        if len(view) != x.shape[0]:
            raise ValueError(f"view has {len(view)} entries for a batch of {x.shape[0]} images")
        if len(set(weight.shape[2:])) > 1:
            size = tuple(weight.shape[2:])
            raise ValueError(f"one view a sample needs a cubic kernel, got size {size}")
        return view


class Projection(OneOfThree):
    """The sum of the 3D kernel along the axis of the view.

    On a volume that does not vary along that axis, the 3D convolution gives what the 2D one
    gives on the image: training on images is training on such volumes, at the cost of 2D.
    """

    name = "projection"
    sums = True

    def fixed_kernel(self, weight: Tensor, view: int) -> Tensor:
        """See `KernelMode.fixed_kernel`."""
        return project(weight, view)


class Slice(OneOfThree):
    """The central slice of the 3D kernel across the axis of the view. Kept for comparison."""

    name = "slice"
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
        """Predict poses of images ``(N, C, H, W)``: unit axes ``(N, 3)``, angles ``(N,)`` [rad]."""
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
        offset: Displacement at angle 0 [voxels]: 1 in the paper, 0 keeps the kernel centred.

    Attributes:
        mean_displacement: Running mean over training [voxels], shape ``(3,)``.
        fixed_pose: Set it to use the mean displacement for all images in evaluation, at the
            price of a plain convolution; False at first.
    """

    name = "fourier"
    has_views = False
    sums = False
    options = frozenset({"offset"})
    momentum = 0.1
    mean_displacement: Tensor
    fixed_pose = False

    def __init__(
        self,
        in_channels: int,
        kernel_size: tuple[int, int, int],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        offset: float = 1.0,
    ) -> None:
        super().__init__(in_channels, kernel_size)
        self.offset = offset
        self.predictor: PosePredictor | None = None
        if max(kernel_size) > 1:
            self.predictor = PosePredictor(in_channels, device, dtype)
            mean = torch.full((3,), float(offset), device=device, dtype=dtype)
            self.register_buffer("mean_displacement", mean)

    def extra_repr(self) -> str:
        """Show the offset."""
        return f"offset={self.offset}"

    def maps(self, weight: Tensor, x: Tensor, view: View) -> Tensor | None:
        """See `KernelMode.maps`; `view` plays no part."""
        if self.predictor is None or (self.fixed_pose and not self.training):
            return None
        axis, angle = self.predictor(x)
        shift = displacement(axis, angle, self.offset)
        if self.training and x.shape[0]:
            with torch.no_grad():
                mean = shift.mean(0).to(self.mean_displacement.dtype)
                self.mean_displacement.lerp_(mean, self.momentum)
        size = (weight.shape[2], weight.shape[3], weight.shape[4])
        return shift_map(shift, size, depth=size[0] // 2)

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


KERNEL_MODES: dict[str, type[KernelMode]] = {
    mode.name: mode for mode in (Projection, Slice, Fourier)
}


def make_mode(
    name: str,
    in_channels: int,
    kernel_size: tuple[int, int, int],
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **options: Any,
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
