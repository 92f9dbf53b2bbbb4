"""What converted networks say of themselves: ranks and views."""

from collections.abc import Sequence

from torch import nn

from crossd.conversion.folding.run import Folding
from crossd.errors import InputError
from crossd.nn import conv as layers
from crossd.nn.kernel_modes import VIEWS


def _foldings(net: nn.Module) -> list[Folding]:
    """List how the converted networks fold that a module is or holds."""
    states = {id(s): s for s in (getattr(m, "crossd_state", None) for m in net.modules()) if s}
    return [state.folding for state in states.values()]


def mixes_views(net: nn.Module) -> bool:
    """Tell whether images of one batch may differ in view."""
    return layers.mixes_views(net) and all(folding.mixes for folding in _foldings(net))


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


def known_view(name: str) -> int:
    """Return the axis that a view drops.

    Raises:
        InputError: "view ..." for an unknown name.
    """
    if name not in VIEWS:
        raise InputError(f"view (={name!r}) must be one of {', '.join(VIEWS)}")
    return VIEWS.index(name)
