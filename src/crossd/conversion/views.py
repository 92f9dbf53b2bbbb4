"""What converted networks say of themselves: ranks, views, and how they take the other rank."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from crossd.conversion.folding.run import Folding
from crossd.conversion.folding.torch_private import ConvBase
from crossd.errors import InputError
from crossd.nn.conv import CrossDConv
from crossd.nn.conv_transpose import CrossDConvTranspose
from crossd.nn.views import VIEWS


def _foldings(net: nn.Module) -> list[Folding]:
    """List how the converted networks fold that a module is or holds."""
    states = {id(s): s for s in (getattr(m, "crossd_state", None) for m in net.modules()) if s}
    return [state.folding for state in states.values()]


def has_views(net: nn.Module) -> bool:
    """Tell whether the view matters to a network."""
    kinds = (CrossDConv, CrossDConvTranspose)
    return any(isinstance(m, kinds) and m.mode.has_views for m in net.modules())


def mixes_views(net: nn.Module) -> bool:
    """Tell whether images of one batch may differ in view: maps have one size in all views."""
    kinds = (CrossDConv, CrossDConvTranspose)
    cubic = all(_is_cubic(m) for m in net.modules() if isinstance(m, kinds))
    return cubic and all(folding.mixes for folding in _foldings(net))


def _is_cubic(conv: Any) -> bool:
    """Tell whether a layer changes the size of all axes alike."""
    if isinstance(conv, CrossDConv):
        sums: list[int] = [before + after for before, after in conv.margins()]
    else:
        pairs = zip(conv.padding, conv.output_padding, strict=True)
        sums = [2 * padding - extra for padding, extra in pairs]
    reach = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    fits = [total - own for total, own in zip(sums, reach, strict=True)]
    return len(set(conv.stride)) == 1 and len(set(fits)) == 1


def views_of(net: nn.Module) -> tuple[int, ...]:
    """List the views in which a network keeps the law, as the axes that they drop."""
    common = set(range(len(VIEWS))).intersection(*(folding.views for folding in _foldings(net)))
    return tuple(sorted(common))


def seen_in(net: nn.Module, axes: Sequence[int]) -> list[int]:
    """Give the views in which a network sees images: their own where it keeps the law, or axial."""
    lawful = views_of(net)
    return [axis if axis in lawful else 0 for axis in axes]


def ranks_of(net: nn.Module) -> tuple[int, ...]:
    """List what a network takes: images (2), volumes (3), or both; by its layers."""
    if foldings := _foldings(net):
        return (2, 3) if not foldings[0].only else (foldings[0].only,)
    if any(hasattr(module, "to_3d") for module in net.modules()):
        return 2, 3
    kinds = {kind.__name__ for module in net.modules() for kind in type(module).__mro__}
    found = tuple(rank for rank in (2, 3) if f"Conv{rank}d" in kinds)
    return found if len(found) == 1 else (2, 3)


def traits(net: nn.Module) -> dict[str, str]:
    """Say in words for which rank a network was made, and how it takes the other one.

    Args:
        net: A network that `crossd.convert` made; of others nothing is known.

    Returns:
        What there is to say of it by what it is about: "made for", "folding", "depth" and "views".

    Example:
        >>> from crossd import convert
        >>> net = convert(nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.Conv2d(4, 2, 1)))
        >>> traits(net)["depth"]
        '2 of 2 convolutions have 3D kernels; depth follows the plane'
    """
    foldings = _foldings(net)
    if not foldings or foldings[0].only:
        return {}
    folding = foldings[0]
    convolutions = [m for m in net.modules() if isinstance(m, ConvBase)]
    solid = sum(isinstance(m, CrossDConv | CrossDConvTranspose) for m in convolutions)
    depth = [f"{solid} of {len(convolutions)} convolutions have 3D kernels"]
    if folding.rank == 3:
        made, fold = "volumes (a 3D network)", "an image is a volume one voxel deep"
        if folding.repeat > 1:
            fold = f"an image is repeated to a volume of {folding.repeat} slices"
        depth.append("strides of depth are those of the 3D network")
    else:
        made, fold = "images (a 2D network)", "a volume is a batch of slices"
        strides = ", ".join(str(stride) for _, stride in folding.stages)
        depth.append(f"depth is strided by {strides}" if strides else "depth follows the plane")
        if folding.attention == "volume":
            depth.append("attention sees the tokens of all slices")
    views = ", ".join(VIEWS[axis] for axis in folding.views) if has_views(net) else "none"
    return {"made for": made, "folding": fold, "depth": "; ".join(depth), "views": views}


def known_view(name: str) -> int:
    """Return the axis that a view drops.

    Raises:
        InputError: "view ..." for an unknown name.
    """
    if name not in VIEWS:
        raise InputError(f"view (={name!r}) must be one of {', '.join(VIEWS)}")
    return VIEWS.index(name)
