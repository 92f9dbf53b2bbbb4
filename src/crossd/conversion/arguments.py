"""What `convert` may be asked for: names and numbers, refused where they make no sense."""

from typing import TypeGuard

from torch import nn

from crossd.conversion.decisions import DEPTH_PADDING
from crossd.conversion.folding import attention
from crossd.errors import InputError
from crossd.nn.kernel_modes import KERNEL_MODES

LIFTS = ("center", "inflate", "triplanar")


BATCH_NORM = ("keep", "reset", "recalibrate")


def check_choices(
    model: object,
    kernel_mode: str,
    lift: str | None,
    attention_kind: str | None,
    depth_padding: str | None,
    batch_norm: str,
    given_volumes: object,
) -> None:
    """Refuse unknown names."""
    for name, value, known, none in (
        ("kernel_mode", kernel_mode, tuple(KERNEL_MODES), False),
        ("lift", lift, LIFTS, True),
        ("attention", attention_kind, attention.ATTENTION, True),
        ("depth_padding", depth_padding, DEPTH_PADDING, True),
        ("batch_norm", batch_norm, BATCH_NORM, False),
    ):
        if value not in known and not (none and value is None):
            more = " or None" if none else ""
            raise InputError(f"{name} (={value!r}) must be one of {', '.join(known)}{more}")
    if not isinstance(model, nn.Module):
        raise InputError(f"model is a {type(model).__name__}: give a torch.nn.Module")
    if batch_norm != "recalibrate" and given_volumes != ():
        raise InputError(f"volumes are for batch_norm='recalibrate', not for {batch_norm!r}")


def check_numbers(
    depth_stride: object,
    depth_kernel: object,
    positions: object,
    size: object,
    spacing: object,
    channels: object,
    classes: object,
) -> None:
    """Refuse options that are no numbers, or would have no effect."""

    def whole(value: object) -> TypeGuard[int]:
        return isinstance(value, int) and not isinstance(value, bool)

    for name, value, least in (
        ("in_channels", channels, 1),
        ("num_classes", classes, 1),
        ("depth_position", positions, 0),
    ):
        if value is not None and not (whole(value) and value >= least):
            raise InputError(f"{name} (={value!r}) must be a whole number of at least {least}")
    for name, value in (("size", size), ("spacing", spacing)):
        if value is not None and not (
            isinstance(value, list | tuple) and all(isinstance(v, int | float) for v in value)
        ):
            raise InputError(f"{name} (={value!r}) must be three numbers (z, y, x)")
    if depth_kernel is not None and not (
        whole(depth_kernel) and depth_kernel > 0 and depth_kernel % 2
    ):
        raise InputError(f"depth_kernel (={depth_kernel!r}) must be odd and positive")
    strides = depth_stride if isinstance(depth_stride, list | tuple) else (depth_stride,)
    if depth_stride is not None and depth_stride != "auto" and not all(map(whole, strides)):
        raise InputError(
            f"depth_stride (={depth_stride!r}) must be one positive whole number, one a stage, or "
            "'auto'"
        )
    if depth_stride is None and not (size is None and spacing is None):
        raise InputError("size and spacing are for depth_stride='auto', which was not asked for")


def require_unasked(**options: object) -> None:
    """Refuse options that have no effect on 3D networks, which keep their code and kernels."""
    for name, value in options.items():
        if value is not None:
            raise InputError(f"{name} (={value!r}) is for 2D networks; this one is a 3D network")
