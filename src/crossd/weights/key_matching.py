"""Which tensor of a checkpoint is which of a network: found by names and shapes, never guessed.

Checkpoints name the same network with prefixes (``module.``, ``model.``, ``backbone.``), and some
with numbers for its children. Everything here looks at names and shapes only.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from crossd.errors import InputError

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Match:
    """One way of reading a checkpoint as a network's.

    Attributes:
        part: Where in the checkpoint the tensors are, such as ``"state_dict"``; may be empty.
        prefix: What the checkpoint's names begin with, such as ``"module"``; may be empty.
        place: What the network's names begin with in its stead; may be empty.
        children: The network's children by the checkpoint's numbers for them, if it numbers them.
        names: The network's name of each tensor of the checkpoint that has one.
        fits: Number of those whose shape fits too.
    """

    part: str
    prefix: str
    place: str
    children: Pairs
    names: dict[str, str]
    fits: int

    @property
    def where(self) -> str:
        """Place of the tensors in the checkpoint, such as ``"state_dict.module"``."""
        return join(self.part, self.prefix)

    def here(self, key: str) -> str | None:
        """Translate any name under the prefix, also of a tensor that the network lacks."""
        if not under(key, self.prefix):
            return None
        rest = key[len(self.prefix) + 1 :] if self.prefix else key
        if self.children:
            number, _, rest = rest.partition(".")
            if number not in dict(self.children):
                return None
            rest = join(dict(self.children)[number], rest)
        return join(self.place, rest)

    def __str__(self) -> str:
        """Say in words how the names were read; nothing where they are the network's own."""
        text = ""
        if self.where or self.place:
            text = f"'{self.where or '(no prefix)'}' of the checkpoint is "
            text += f"'{self.place}' of the network" if self.place else "the network"
        if self.children:
            pairs = ", ".join(f"{number} is {name}" for number, name in self.children)
            text += f"{', ' if text else ''}its numbered children taken in order: {pairs}"
        return text


def join(*parts: str) -> str:
    """Join the parts of a name that are not empty."""
    return ".".join(part for part in parts if part)


def under(name: str, prefix: str) -> bool:
    """Tell whether a name is the prefix, or begins with it and a dot."""
    return not prefix or name == prefix or name.startswith(f"{prefix}.")


def relation(target: Shape, source: Shape) -> str | None:
    """Compare the shape of a network's tensor with that of a checkpoint's.

    Returns:
        ``"same"``, ``"lift"`` (a 2D kernel for a 3D one), ``"flatten"`` (a 3D one for a 2D one),
        ``"deepen"`` (a 1 x 1 x 1 kernel for one that sees neighbouring slices too, as strided ones
        do in converted networks), or None when they do not fit.

    Example:
        >>> relation((8, 4, 3, 3, 3), (8, 4, 3, 3))
        'lift'
    """
    if target == source:
        return "same"
    if (len(target), len(source)) == (5, 4) and plane(target) == source:
        return "lift"
    if (len(target), len(source)) == (4, 5) and target == plane(source):
        return "flatten"
    deeper = source[2:] == (1, 1, 1) and target[3:] == (1, 1) and target[2] % 2
    if deeper and target[:2] == source[:2]:
        return "deepen"
    return None


def find(net: Shapes, parts: Mapping[str, Shapes], prefix: str | None = None) -> Match:
    """Find the part and the prefix of a checkpoint under which most tensors fit a network.

    Args:
        net: Shapes of the network's tensors, in order of registration.
        parts: Shapes of the checkpoint's tensors, by name, of every mapping in it that holds some.
        prefix: Look only where the place in the checkpoint has these names in a row.

    Returns:
        The best match.

    Raises:
        InputError: "... fit equally well", or "... at most N of M tensors fit".

    Example:
        >>> find({"conv.weight": (8, 1, 3)}, {"": {"net.conv.weight": (8, 1, 3)}}).where
        'net'
    """
    found = []
    for part, state in parts.items():
        for match in (
            *_prefixed(net, part, state),
            *_numbered(net, part, state),
            *_own(net, part, state, prefix),
        ):
            if prefix is None or f".{prefix.strip('.')}." in f".{match.where}.":
                found.append(match)
    total = max((len(state) for state in parts.values()), default=0)
    if not found:
        where = f" under {prefix!r}" if prefix else ""
        raise InputError(
            f"the checkpoint is not of this network: none of its {total} tensors{where} has the "
            f"name and shape of one of the network's {len(net)}"
        )
    best = max(found, key=_rank)
    rivals = [match for match in found if _rank(match) == _rank(best)]
    if best.fits * 2 < min(len(net), len(parts[best.part])):
        where = repr(best.where) if best.where else "its own names"
        raise InputError(
            f"the checkpoint is not of this network: at most {best.fits} of the network's "
            f"{len(net)} tensors fit, under {where}"
        )
    if len(rivals) > 1:
        ways = " and ".join(_reading(match) for match in rivals[:2])
        where = next((m.where for m in reversed(rivals) if m.where != best.where), "")
        advice = f"name the part with prefix={where!r}" if where else "load one place by itself"
        raise InputError(
            f"two readings of the checkpoint fit equally well, with {best.fits} tensors: {ways}; "
            f"{advice}"
        )
    return best


def _rank(match: Match) -> tuple[int, bool, bool]:
    """Prefer more tensors; then names to numbers, and names that need no change."""
    return match.fits, not match.children, not match.prefix and not match.place


def plane(shape: Shape) -> Shape:
    """The shape of a kernel without its depth."""
    return shape[:2] + shape[3:] if len(shape) == 5 else shape


def _reading(match: Match) -> str:
    place = repr(match.place) if match.place else "the network"
    return f"{match.where!r} as {place}"


def _match(net: Shapes, part: str, state: Shapes, prefix: str, place: str, pairs: Pairs) -> Match:
    draft = Match(part, prefix, place, pairs, {}, 0)
    names = {key: name for key in state if (name := draft.here(key)) is not None and name in net}
    fits = sum(relation(net[name], state[key]) is not None for key, name in names.items())
    return Match(part, prefix, place, pairs, names, fits)


def _prefixed(net: Shapes, part: str, state: Shapes) -> Iterator[Match]:
    """Exchange one prefix for another; of all such ways, those with the most tensors that fit.

    Two tensors that fit vote for what is left of their names without the end that they share.
    """
    alike = defaultdict(list)
    for name, shape in net.items():
        alike[name.rpartition(".")[2], plane(shape)].append(name)
    votes: Counter[tuple[str, str]] = Counter()
    for key, shape in state.items():
        for name in alike[key.rpartition(".")[2], plane(shape)]:
            if relation(net[name], shape) is not None:
                votes[_beginnings(key, name)] += 1
    most = max(votes.values(), default=0)
    for (prefix, place), count in votes.items():
        if count == most:
            yield _match(net, part, state, prefix, place, ())


def _own(net: Shapes, part: str, state: Shapes, prefix: str | None) -> Iterator[Match]:
    """Read what is asked for by the network's own names, which begin so too."""
    if prefix is not None:
        match = _match(net, part, state, prefix.strip("."), prefix.strip("."), ())
        if match.fits:
            yield match


def _beginnings(key: str, name: str) -> tuple[str, str]:
    """Cut off the end that two names share."""
    ours, theirs = name.split("."), key.split(".")
    while ours and theirs and ours[-1] == theirs[-1]:
        ours.pop()
        theirs.pop()
    return ".".join(theirs), ".".join(ours)


def _numbered(net: Shapes, part: str, state: Shapes) -> Iterator[Match]:
    """Read numbers as the network's children in order, where every name then is the network's."""
    for prefix in _places(state):
        numbers = _children(state, prefix)
        if len(numbers) < 2 or not all(number.isdecimal() for number in numbers):
            continue
        for place, count in _places(net).items():
            if count * 2 <= len(net):  # neither the network nor what it wraps
                continue
            names = _children(net, place)
            if len(names) < len(numbers) or all(name.isdecimal() for name in names):
                continue
            pairs = tuple(zip(sorted(numbers, key=int), names, strict=False))
            match = _match(net, part, state, prefix, place, pairs)
            if len(match.names) == sum(under(key, prefix) for key in state):
                yield match


def _places(shapes: Shapes) -> Counter[str]:
    """Count the tensors at every beginning of a name, the empty one first."""
    names = [name.split(".") for name in shapes]
    return Counter(".".join(parts[:n]) for parts in names for n in range(len(parts)))


def _children(shapes: Shapes, place: str) -> list[str]:
    """Names of the children with tensors at a place, in order."""
    start = len(place) + 1 if place else 0
    inside = (name[start:] for name in shapes if under(name, place) and name != place)
    return list(dict.fromkeys(rest.partition(".")[0] for rest in inside))
