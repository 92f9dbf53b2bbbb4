"""PlaneCycle: 2D networks whose blocks, or convolutions, look at the planes of a volume in turn."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from crossd.conversion.building import built, rank_of
from crossd.conversion.convert import recipe
from crossd.conversion.decisions import Decisions
from crossd.conversion.folding.attention import may_attend
from crossd.conversion.folding.torch_private import ConvBase
from crossd.conversion.folding.turns import BLOCKS, Turn
from crossd.conversion.heads import layers_of
from crossd.conversion.report import account
from crossd.conversion.rules import Options
from crossd.errors import InputError
from crossd.nn.planar import PLANES

__all__ = ["cycle"]

OF_BLOCKS = ("HW", "DW", "DH", "HW")
"""The authors' order of planes for transformers."""

KNOWN = (
    "cycle knows the blocks of timm's ViT, DINOv2, DINOv3 and EVA, and networks of at least "
    f"{len(PLANES)} convolutions larger than a pixel and no attention"
)


def cycle(model: nn.Module, order: Sequence[str] | None = None) -> nn.Module:
    """Let the blocks or the convolutions of a 2D network look at the planes of volumes in turn.

    No parameter is added or changed, and images are answered as before. A transformer cuts each
    slice into patches as it does with images. Each block then attends to the tokens that lie in its
    plane (HW: a slice across depth, DW: across height, DH: across width), its rotations by place,
    if it has such, being those of the plane. Class and register tokens, of which every slice of
    a plane has its own, are averaged over neighbours (adaptive average pooling) to as many as the
    next plane has slices. Embeddings of place that are added to patches are those of HW. What the
    network says is averaged over the slices of the last plane.

    Of a network of convolutions each one larger than a pixel has its kernel in one plane, in order
    of registration. All strides are along depth too, and strided layers leave no slice out (see
    `crossd.nn.planar.PlanarConv`); pools and norms look at the volume as `crossd.convert` says.

    Args:
        model: A 2D network: timm's ViT, DINOv2, DINOv3 or EVA, or one of convolutions. It is
            not changed.
        order: Planes, ``"HW"``, ``"DW"`` or ``"DH"``, that are gone through again and again.
            Default: for blocks the authors' HW, DW, DH, HW; for convolutions HW, DW, DH.

    Returns:
        A network of the same keys that takes ``(N, C, H, W)`` and ``(N, C, D, H, W)``.

    Raises:
        InputError: "cannot cycle ..." for other networks, or "order ..." for unknown planes.

    Source: PlaneCycle, arXiv 2603.04165, for blocks; that single kernels take turns is ours.

    Example:
        >>> import torch
        >>> net = nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=1) for _ in range(3)))
        >>> [layer.plane for layer in cycle(net)]
        ['HW', 'DW', 'DH']
        >>> cycle(net)(torch.zeros(2, 1, 5, 6, 7)).shape
        torch.Size([2, 1, 5, 6, 7])
    """
    if order is not None and (not order or not set(order) <= set(PLANES)):
        raise InputError(f"order (={order!r}) must list some of {', '.join(PLANES)}")
    if rank_of(model) != 2:
        raise InputError(f"cannot cycle {_named(model)}: it is a 3D network")
    blocks = _blocks(model)
    planes = {} if blocks else _planes(model, order or PLANES)
    choice = Decisions(spread=False)
    if blocks:  # whose patches are of single slices
        choice = Decisions(spread=False, features=3, stages=((1, 1),))
    net: Any = built(model, 2, Options("cycle", planes=planes), choice)
    for block, turn in zip(_blocks(net), _turns(net, order or OF_BLOCKS), strict=True):
        block.crossd_turn = turn
    given = {} if order is None else {"order": order}
    net.crossd_recipe = recipe("cycle", "projection", given, choice)
    net.conversion = account(model, net, "kept in 2D")
    return net


def _named(model: nn.Module) -> str:
    return f"{type(model).__module__}.{type(model).__qualname__}"


def _blocks(model: Any) -> list[Any]:
    """List the blocks of a transformer; none where it has others, or is one of convolutions."""
    blocks = getattr(model, "blocks", None)
    found = list(blocks) if isinstance(blocks, nn.Sequential | nn.ModuleList) else []
    return found if {*map(_named, found)} <= {*BLOCKS} else []


def _turns(net: Any, order: Sequence[str]) -> list[Turn]:
    """Say in which plane each block attends; nothing for a network of convolutions.

    Raises:
        InputError: "cannot cycle ..." where tokens do not tell which patch they are of.
    """
    blocks = _blocks(net)
    if not blocks:
        return []
    rope, name = getattr(net, "rope", None), _named(net)
    if rope is not None and rope.get_embed([2, 3]).shape[-2] != 6:
        raise InputError(
            f"cannot cycle {name}: its rotations are of one size of images; create it with "
            "dynamic_img_size=True"
        )
    if not hasattr(net.patch_embed, "dynamic_feat_size"):
        raise InputError(f"cannot cycle {name}: its patches are of {_named(net.patch_embed)}")
    axes = [PLANES.index(order[i % len(order)]) for i in range(len(blocks))]
    own = getattr(net, "rope_mixed", False)
    return [
        Turn(axis, before, net.num_prefix_tokens, net.patch_embed, rope, number if own else None)
        for number, (axis, before) in enumerate(zip(axes, [0, *axes], strict=False))
    ]


def _planes(model: nn.Module, order: Sequence[str]) -> dict[str, str]:
    """Choose the plane of every convolution: those larger than a pixel take turns."""
    layers = {path: m for path, m in layers_of(model).items() if isinstance(m, ConvBase)}
    large = [path for path, layer in layers.items() if max(layer.kernel_size) > 1]
    if may_attend(model) or len(large) < len(PLANES):
        raise InputError(f"cannot cycle {_named(model)}: {KNOWN}")
    turns = {path: order[i % len(order)] for i, path in enumerate(large)}
    return {path: turns.get(path, PLANES[0]) for path in layers}
