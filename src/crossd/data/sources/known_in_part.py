"""Masks that are known in part: which value says so, and what that means for a list of cases."""

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from crossd.data.io.agreement import HIGHEST
from crossd.data.quality.facts import SampleFacts, hint, told
from crossd.data.source import Request
from crossd.data.sources.case_list import Case
from crossd.data.splits import Parts
from crossd.errors import InputError


def ignoring(cases: Sequence[Case], asked: int | None, known: int | None, where: str) -> list[Case]:
    """Decide which value of masks says that a voxel is not known: of all cases the same.

    What the data say counts, or else what is asked for, or else what is known of weights.

    Args:
        cases: The cases, with what the data say.
        asked: The option ``--ignore``.
        known: What the weights ignored in their training.
        where: The source, for messages.

    Raises:
        InputError: When the data say another value than is asked for, or have no masks, or it is
            none that a mask can hold.

    Example:
        >>> from pathlib import Path
        >>> case = Case("a", (Path("a.png"),), Path("m.png"))
        >>> ignoring([case], 255, None, "x")[0].ignore, ignoring([case], None, 9, "x")[0].ignore
        (255, 9)
    """
    own = next((case.ignore for case in cases if case.ignore is not None), None)
    if asked is not None and not any(case.mask is not None for case in cases):
        raise InputError(f"--ignore {asked}: is for masks, but {where} has none")
    if asked is not None and own not in (None, asked):
        raise InputError(f"--ignore {asked}: but {where} says itself that {own} is ignored")
    value = next((one for one in (own, asked, known) if one is not None), None)
    if value is not None and not 1 <= value <= HIGHEST:
        raise InputError(
            f"{where}: {value} cannot be ignored; expected a value from 1 to {HIGHEST:,} (0 is the "
            "background)"
        )
    return [replace(case, ignore=value if case.mask is not None else None) for case in cases]


def hidden(ignore: int) -> str:
    """Say why masks show no class where the value that is ignored is all that they hold.

    Example:
        >>> hidden(255)
        'they hold nothing but background and 255, which is ignored; if 255 is the object ...'
    """
    return (
        f"they hold nothing but background and {ignore}, which is ignored; if {ignore} is the "
        "object itself, write it as the number of its class"
    )


def known_cases(request: Request, divided: Parts, looks: Sequence[SampleFacts]) -> Parts:
    """Leave cases out of whose masks nothing is known.

    They are so after the division into parts, which must not depend on what masks hold.

    Raises:
        InputError: When all of a part are such.
    """
    known = np.array([bool(look.voxels) for look in looks])
    if known.all():
        return divided
    train, val, test = (part[known[part]] for part in divided)
    for part, what in ((train, "training"), (val, "validation"), (test, "test")):
        if not len(part):
            raise InputError(
                f"{request.name}: every voxel of its {what} masks is ignored ({looks[0].ignore}), "
                "so that there is nothing to learn from or to score"
            )
    request.progress.say(
        f"{request.name}: {(~known).sum()} cases are left out, as every voxel of their masks is "
        f"ignored (the first is {looks[int(known.argmin())].name})"
    )
    return train, val, test


def require_apart(
    ignore: int | None, values: Sequence[int], classes: Sequence[str], name: str
) -> None:
    """Refuse a value that is ignored and also names a class."""
    if ignore in values:
        raise InputError(
            f"{name}: {ignore} is to be ignored in masks, but is also the class "
            f"{classes[values.index(ignore)]!r}; give another --ignore, or rename the class"
        )


def tell(
    request: Request,
    ignore: int | None,
    looks: Sequence[SampleFacts],
    named: Collection[int],
    guessed: bool,
) -> None:
    """Say what is ignored in masks, or looks as if it should be.

    Args:
        request: What was asked for.
        ignore: The value that is ignored.
        looks: What was found; nothing where masks were not looked at.
        named: Values that someone gave the name of a class.
        guessed: Whether only weights, of other classes, ignored the value.

    Raises:
        InputError: When masks hold a value that is guessed to be ignored.
    """
    if ignore is None:
        line = hint(looks, named)
    elif not looks:
        line = f"{ignore} is ignored in its masks"
    else:
        line = told(looks)
        if line and guessed:
            raise InputError(
                f"{request.name}: its masks hold {ignore}, which the weights ignored in their "
                f"training, but other classes than theirs; give --ignore {ignore} if it says that "
                "a voxel is not known, or else write that class as another value"
            )
        line = line or f"no voxel of its masks holds {ignore}, which is ignored"
    if line:
        request.progress.say(f"{request.name}: {line}")
