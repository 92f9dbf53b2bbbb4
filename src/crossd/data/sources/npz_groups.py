"""Which samples of arrays in a file belong together: those of one patient, and equal ones."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossd.data.dataset import Labels
from crossd.data.shared_arrays import Array
from crossd.data.source import Request
from crossd.data.sources.belonging import digest_of, kept_whole
from crossd.data.sources.case_list import Case
from crossd.data.sources.spellings import same_patient
from crossd.data.splits import part_of
from crossd.errors import InputError


def groups_of_arrays(
    arrays: Mapping[str, Array],
    images: Mapping[str, Array],
    labels: Sequence[Labels],
    path: Path,
    request: Request,
) -> NDArray[np.str_] | None:
    """Group samples of one patient, and those that hold the same; None where all are alone.

    The patients of ``images`` are in ``groups``, those of ``train_images`` in ``train_groups``, and
    so on: whole numbers or text, one a sample; "" is a patient of its own.

    Args:
        arrays: Those of the file.
        images: Those of them that hold samples, one after the other, ``(N, ...)`` each.
        labels: Of each of these.
        path: The file.
        request: Says whether a group in two parts is refused, and where to say what was found.

    Returns:
        The groups of the samples of all arrays, ``(N,)``.

    Raises:
        InputError: When some parts have groups and others not, they do not fit the images, or a
            group is in two parts.
    """
    keys = {key: key.replace("images", "groups") for key in images}
    given = [key for key in keys.values() if key in arrays]
    if lack := [key for key in keys.values() if given and key not in arrays]:
        raise InputError(f"{path}: has {given[0]} but lacks {lack[0]}; give all groups, or none")
    places = [(key, i) for key, own in images.items() for i in range(len(own))]
    groups = [""] * len(places)
    if given:
        texts = [
            _texts(arrays[keys[key]], len(own), keys[key], path) for key, own in images.items()
        ]
        spellings: dict[object, str] = {}
        groups = [spellings.setdefault(same_patient(one), one) for own in texts for one in own]

    def cases() -> list[Case]:
        found = []
        told = (one for own in labels for one in own.reshape(len(own), -1).tolist())
        for (key, i), group, numbers in zip(places, groups, told, strict=True):
            place = path / f"{key}[{i}]"
            part = part_of(key.removesuffix("_images"))
            case = Case(str(place), (place,), split=part, group=group, numbers=tuple(numbers))
            found.append(case)
        return found

    def digest(index: int) -> bytes:
        key, i = places[index]
        return digest_of(images[key][i].tobytes())

    return kept_whole(
        cases,
        len(places),
        str(path),
        request.progress,
        request.given,
        [digest],
        named=bool(given),
    )


def _texts(groups: Array, count: int, key: str, path: Path) -> list[str]:
    """Check the groups and return their names."""
    if groups.shape not in ((count,), (count, 1)) or groups.dtype.kind not in "iuUS":
        raise InputError(
            f"{path}: {key} holds {groups.dtype} of the shape {groups.shape} for {count} images; "
            f"expected a whole number or a text for each, ({count},)"
        )
    listed = groups.reshape(-1).tolist()
    return [
        one.decode(errors="backslashreplace") if isinstance(one, bytes) else str(one)
        for one in listed
    ]
