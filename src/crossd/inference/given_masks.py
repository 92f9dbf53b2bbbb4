"""Which of the masks in a folder is that of which case."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from crossd.data.io.header import is_volume, stem
from crossd.data.sources.case_list import Case
from crossd.data.sources.folder_walk import look
from crossd.errors import InputError
from crossd.inference import results
from crossd.inference.inputs import key


def find(
    folder: Path,
    cases: Sequence[Case],
    others: Collection[str] = (),
    say: Callable[[str], None] = lambda text: None,
) -> list[Path]:
    """Find the masks of cases of volumes.

    The mask of a case is that which the table of `crossd predict` in the folder names for its first
    file; else that with the name of the case, unless the table says that it is of another file.

    Args:
        folder: Where the masks are.
        cases: Whose masks are wanted.
        others: Names of cases whose masks may be there too.
        say: Told of masks that belong to none of these.

    Returns:
        A file for each case.

    Raises:
        InputError: When there is no such folder, a mask is missing, is there twice, or is that of
            another file.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of masks")
    made = results.masks_made(folder)
    owners = {mask: image for image, mask in made.items()}
    inside = _by_name(folder, {case.name for case in cases} | set(others))
    found: list[Path] = []
    missing: list[Case] = []
    for case in cases:
        image, named = key(case.images[0]), inside.get(case.name, [])
        if image in made:
            named = [folder / made[image]]
        elif len(named) > 1:
            raise InputError(f"{named[1]}: shares its name with {named[0].name}; remove one")
        elif named:
            owner = owners.get(named[0].relative_to(folder).as_posix(), image)
            if owner != image and Path(owner).exists():
                raise InputError(
                    f"{named[0]}: is the mask of {owner}, by {results.TABLE} there, not of "
                    f"{case.images[0]}: predict that into a folder of its own"
                )
        if named and named[0].is_file():
            found.append(named[0])
        else:
            missing.append(case)
    if missing:
        raise InputError(
            f"{folder}: holds no mask named {missing[0].name}, for {missing[0].images[0]} "
            f"({len(missing):,} of {len(cases):,} are missing): crossd predict with the same "
            "source as --input writes them under the names of its cases"
        )
    known = {*found, *(folder / mask for mask in made.values())}
    names = {case.name for case in cases} | set(others)
    extra = [
        path
        for name, paths in inside.items()
        for path in paths
        if name not in names and path not in known
    ]
    if extra:
        say(f"{folder}: {len(extra):,} masks belong to no case (the first is {extra[0].name})")
    return found


def _by_name(folder: Path, names: Collection[str]) -> dict[str, list[Path]]:
    """List the volumes in the folders where masks of these names would lie, by their own names."""
    found: dict[str, list[Path]] = {}
    for parent in sorted({Path(name).parent for name in names}):
        if not (folder / parent).is_dir():
            continue
        for entry in look(str(folder / parent))[2]:
            path = folder / parent / entry.name
            if entry.is_file() and is_volume(path):
                found.setdefault((parent / stem(path)).as_posix(), []).append(path)
    return found
