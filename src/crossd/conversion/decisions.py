"""What a conversion decided, as it stands in weights files."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from crossd.conversion.folding import attention
from crossd.conversion.folding.run import Choices, Folding
from crossd.errors import InputError, require_kinds
from crossd.nn.views import VIEWS

DEPTH_PADDING = ("zeros", "replicate")


@dataclass(frozen=True)
class Decisions(Choices):
    """All that a conversion decided; it goes into weights files, where loading finds it.

    Attributes:
        layers: Depth strides of single convolutions, by their paths.
        position: Path of the convolution that an embedding of depth is added to; may be empty.
        positions: Places of that embedding.
        spread: Whether strided layers spread their start over depth.
        plain: Whether code with layers of the other rank does what the folded network does; None
            until `crossd.to_2d` or `crossd.to_3d` found out.
    """

    layers: dict[str, int] = dataclasses.field(default_factory=dict)
    position: str = ""
    positions: int = 0
    spread: bool = True
    plain: bool | None = None

    def folding(self, rank: int, has_views: bool) -> Folding:
        """Give what the modules of the network need to know."""
        known = {field.name: getattr(self, field.name) for field in dataclasses.fields(Choices)}
        return Folding(rank=rank, has_views=has_views, **known)

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> "Decisions":
        """Read what `dataclasses.asdict` and JSON made of it.

        Raises:
            InputError: "what was decided: ..." where the record was damaged.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        known = {name: value for name, value in record.items() if name in names}
        for name in ("stages", "views"):
            if isinstance(known.get(name), list | tuple):
                pairs = [tuple(v) if isinstance(v, list) else v for v in known[name]]
                known[name] = tuple(pairs)
        made = cls(**known)
        require_kinds(made, "what was decided")
        stages = all(
            isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(v, int) for v in pair)
            for pair in made.stages
        )
        for name, right in (
            ("attention", made.attention in attention.ATTENTION),
            ("depth_padding", made.depth_padding in DEPTH_PADDING),
            ("stages", stages),
            ("views", bool(made.views) and {*made.views} <= {*range(len(VIEWS))}),
            ("repeat", made.repeat > 0),
            ("features", made.features > 1),
            ("positions", 0 <= made.positions < 2**16),
        ):
            if not right:
                raise InputError(f"what was decided: {name} (={getattr(made, name)!r}) is damaged")
        return made
