"""The account of a conversion: what became of every parameter and buffer."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from crossd.conversion.checking import law
from crossd.conversion.decisions import Decisions
from crossd.conversion.views import has_views
from crossd.nn.conv import CrossDConv
from crossd.nn.conv_transpose import CrossDConvTranspose
from crossd.nn.views import VIEWS

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Entry:
    """What became of one tensor.

    Attributes:
        name: Its key, the same in both networks.
        action: ``"copied"``, ``"changed"`` (for example lifted), ``"added"`` or ``"dropped"``;
            of a loaded checkpoint ``"matched"``, ``"adapted"``, ``"missing"`` or ``"unexpected"``.
        source: Shape before, None when it is new.
        result: Shape after, None when it is gone.
        why: A short reason; empty for copies.
    """

    name: str
    action: str
    source: Shape | None
    result: Shape | None
    why: str = ""


@dataclass(frozen=True)
class ConversionReport:
    """Every parameter and buffer of both networks, once. Prints as a table.

    Attributes:
        entries: In the order of the source, then of the result.
        checks: What running the result has shown, a sentence each.
        note: What holds for all of them, on a line below the summary; may be empty.
    """

    entries: tuple[Entry, ...]
    checks: tuple[str, ...] = ()
    note: str = ""

    def counts(self) -> dict[str, int]:
        """Count the tensors by what became of them."""
        return dict(Counter(entry.action for entry in self.entries))

    def summary(self) -> str:
        """Render the checks and what became of how many tensors."""
        counts = ", ".join(f"{count} {action}" for action, count in self.counts().items())
        return "\n".join([*self.checks, f"{len(self.entries)} tensors: {counts or 'nothing'}"])

    def __str__(self) -> str:
        """Render the summary, the note, and a line a tensor."""
        return self._table(self.entries)

    def without_partner(self) -> str:
        """Render the summary, the note, and a line for each tensor that one side alone has.

        Of the others that were changed, the reasons are given, with how many each holds for.
        """
        alone = [e for e in self.entries if e.source is None or e.result is None]
        both = [e for e in self.entries if e.source is not None and e.result is not None]
        why = Counter((e.action, e.why) for e in both if e.why)
        told = [f"{count} {action}: {reason}" for (action, reason), count in why.items()]
        return "\n".join([self._table(alone), *told])

    def _table(self, entries: Sequence[Entry]) -> str:
        width = max((len(entry.name) for entry in entries), default=0)
        lines = [self.summary(), *filter(None, [self.note])]
        for entry in entries:
            shapes = f"{_show(entry.source)} -> {_show(entry.result)}"
            line = f"{entry.name:<{width}}  {entry.action:<10} {shapes:<40} {entry.why}"
            lines.append(line.rstrip())
        return "\n".join(lines)


def account(
    source: nn.Module, result: nn.Module, why: str, checks: Sequence[str] = ()
) -> ConversionReport:
    """Compare two networks tensor by tensor.

    Args:
        source: The network before.
        result: The network after; what has the same name is the same tensor.
        why: The reason to give for kernels whose shape or mode of use changed.
        checks: Sentences on what was decided and found.

    Returns:
        The report.
    """
    before, after = tensors(source), tensors(result)
    entries = []
    for name, tensor in before.items():
        shape = tuple(tensor.shape)
        if name not in after:
            reason = (
                "the pose predictor has no use in a plain network" if ".mode." in f".{name}" else ""
            )
            entries.append(Entry(name, "dropped", shape, None, reason))
            continue
        new = after[name]
        same = shape == tuple(new.shape) and (tensor.is_meta or bool((tensor == new).all()))
        action = "copied" if same else "changed"
        entries.append(Entry(name, action, shape, tuple(new.shape), "" if same else why))
    for name, tensor in after.items():
        if name not in before:
            reason = "new: the kernel mode's own" if ".mode." in f".{name}" else "new"
            entries.append(Entry(name, "added", None, tuple(tensor.shape), reason))
    return ConversionReport(tuple(entries), tuple(checks))


def tensors(net: nn.Module) -> dict[str, Tensor]:
    """Give every parameter and buffer by name, shared ones under each of their names."""
    named = dict(net.named_parameters(remove_duplicate=False))
    return {**named, **dict(net.named_buffers(remove_duplicate=False))}


def _show(shape: Shape | None) -> str:
    return "-" if shape is None else "x".join(map(str, shape)) or "scalar"


def sentences(
    net: nn.Module,
    rank: int,
    choice: Decisions,
    found: law.Findings,
    refused: Exception | None,
) -> list[str]:
    """Say what was decided and found."""
    lines = []
    seen = found.seen
    if rank == 2:
        count = seen.convolutions + seen.flat_convolutions
        lines.append(f"{seen.convolutions} of {count} convolutions see depth")
        lines += [f"{name} works within slices" for name in sorted(seen.foreign)]
        count = seen.attentions + seen.flat_attentions
        if count:
            rest = "; the others work within slices" if seen.flat_attentions else ""
            lines.append(
                f"{seen.attentions} of {count} attentions see the tokens of all slices{rest}"
            )
        if choice.stages:
            strides = ", ".join(str(stride) for _, stride in choice.stages)
            asked = "" if refused is None else f", because as the plane does {refused}"
            lines.append(f"depth is strided by {strides}{asked}")
        else:
            lines.append("depth follows the plane")
        if choice.position:
            lines.append(f"an embedding of depth is added to {choice.position!r}, zero at first")
        if found.from_source is not None:
            lines.append(f"on images it differs from the 2D network by {found.from_source:.1e}")
    elif choice.repeat > 1:
        lines.append(
            f"images are repeated to {choice.repeat} slices, because the code does not run on one "
            f"({refused}): they cost what volumes cost"
        )
    names = ", ".join(VIEWS[axis] for axis in found.views)
    what = "view" if len(found.views) == 1 else "views"
    lines.append(
        f"on volumes that repeat an image along depth it differs from its answer on the image by "
        f"{found.difference:.1e} at most, with every weight moved at random ({what}: {names})"
    )
    cross = [m for m in net.modules() if isinstance(m, CrossDConv | CrossDConvTranspose)]
    modes = {layer.mode.name: layer.mode.sums for layer in cross}
    lawless = " and ".join(name for name, sums in modes.items() if not sums)
    if lawless:
        lines[-1] += f", and kernels summed as by projection: those of {lawless} keep no such law"
    if has_views(net):
        lines += [f"it has no {VIEWS[axis]} view: {why}" for axis, why in found.lost.items()]
    ups = [m for m in net.modules() if isinstance(m, CrossDConvTranspose) and max(m.stride) > 1]
    if ups:
        lines.append(f"{len(ups)} strided transposed convolutions do so on average over depth only")
    return [*lines, *dict.fromkeys(found.lines)]
