"""Blocks of tokens that attend in one plane of a volume each, the planes in turn (PlaneCycle).

Source: PlaneCycle, arXiv 2603.04165. A block gets the tokens of all slices that lie in its plane,
as a batch; class and register tokens, of which every slice has its own, are pooled from as many as
the plane of the block before had to as many as there are slices now.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from crossd.conversion.folding.modules import FORMS
from crossd.conversion.folding.run import Function, Run
from crossd.errors import InputError

BLOCKS = (
    "timm.models.vision_transformer.Block",
    "timm.models.vision_transformer.ResPostBlock",
    "timm.models.vision_transformer.ParallelScalingBlock",
    "timm.models.vision_transformer.ParallelThingsBlock",
    "timm.models.eva.EvaBlock",
    "timm.models.eva.EvaBlockPostNorm",
)
"""Blocks from tokens ``(N, L, C)`` to tokens, perhaps with a `rope` for the patches among them."""


@dataclass(frozen=True, eq=False)
class Turn:
    """In which plane a block attends; kept at the block as `crossd_turn`.

    Attributes:
        axis: The axis that its plane leaves out: 0 depth, 1 height, 2 width.
        before: That of the block before, in whose order tokens come.
        prefix: Class and register tokens before the patches.
        patches: What cuts images into patches (timm's `PatchEmbed`).
        rope: What rotates queries and keys by the places of patches (timm's), if anything does.
        number: Of the block in its network, where each block has rotations of its own.
    """

    axis: int
    before: int
    prefix: int
    patches: Any
    rope: Any = None
    number: int | None = None

    def grid(self, run: Run) -> tuple[int, int, int]:
        """Tell how many tokens a volume has along depth, height and width."""
        height, width, depth = run.planes[0]
        rows, columns = self.patches.dynamic_feat_size((height, width))
        return depth, rows, columns

    def turned(self, x: Tensor, number: int, grid: tuple[int, int, int]) -> Tensor:
        """Bring tokens from the plane of the block before into this one's.

        Args:
            x: ``(N P, prefix + L, C)``: P slices across the axis `before`, of L patches each.
            number: N.
            grid: As `grid` gives it.

        Returns:
            ``(N Q, prefix + M, C)``: Q slices across `axis`, of M patches each.

        Raises:
            InputError: Where patches were left out.
        """
        first, rest = x[:, : self.prefix], x[:, self.prefix :]
        before = _without(grid, self.before)
        if rest.shape[1] != before[0] * before[1]:
            raise InputError(
                f"crossd.cycle: a block is given {rest.shape[1]} patches a slice, expected "
                f"{before[0]} x {before[1]}: patches cannot be dropped"
            )
        volumes = rest.unflatten(1, before).unflatten(0, (number, -1)).movedim(1, 1 + self.before)
        patches = volumes.movedim(1 + self.axis, 1).flatten(0, 1).flatten(1, 2)
        own = first.unflatten(0, (number, -1)).permute(0, 2, 3, 1).flatten(0, 1)  # (n g, c, p)
        if self.prefix and own.shape[2] != grid[self.axis]:
            own = F.adaptive_avg_pool1d(own, grid[self.axis])
        own = own.unflatten(0, (number, -1)).permute(0, 3, 1, 2).flatten(0, 1)  # (n q, g, c)
        return torch.cat((own, patches), 1) if self.prefix else patches

    def rotations(self, grid: tuple[int, int, int]) -> Tensor:
        """Give what rotates the patches of a slice in this plane, in the form that blocks take."""
        every: Tensor = self.rope.get_embed(list(_without(grid, self.axis)))
        return every if self.number is None else every[self.number]


def _without(grid: tuple[int, int, int], axis: int) -> tuple[int, int]:
    """Give the sizes along the two axes of the plane that leaves one out, rows first."""
    first, second = [size for place, size in enumerate(grid) if place != axis]
    return first, second


def _in_its_plane(
    run: Run, block: Any, method: Function, x: Tensor, *args: object, **kwargs: Any
) -> Tensor:
    """Let a block attend in the plane that is its turn; blocks without one work as they are."""
    turn: Turn | None = getattr(block, "crossd_turn", None)
    if turn is None or not run.folds:
        return method(block, x, *args, **kwargs)
    grid = turn.grid(run)
    run.paused = True
    try:
        tokens = turn.turned(x, run.number, grid)
        if turn.rope is not None:
            kwargs["rope"] = turn.rotations(grid)
    finally:
        run.paused = False
    return method(block, run.mark(tokens, grid[turn.axis]), *args, **kwargs)


FORMS.update(dict.fromkeys(BLOCKS, _in_its_plane))
