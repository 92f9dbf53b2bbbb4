"""Names of files in the Brain Imaging Data Structure (BIDS), and where these files lie."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from crossd.data.file_names import is_debris
from crossd.data.io.header import NIFTI, stem
from crossd.data.sources.folder_walk import folders_in, look
from crossd.errors import InputError

IGNORE = ".bidsignore"


@dataclass(frozen=True)
class Name:
    """What the name of a file says, of ``sub-01_ses-1_acq-fast_T1w.nii.gz`` for example.

    Attributes:
        subject: ``sub-01``.
        session: ``ses-1``, "" without.
        others: What else is said, ``("acq-fast",)``.
        suffix: What the file is, ``T1w``.
    """

    subject: str
    session: str
    others: tuple[str, ...]
    suffix: str

    @classmethod
    def of(cls, path: Path) -> "Name | None":
        """Read the name of a file; None where it is no NIfTI file that is named so.

        Example:
            >>> Name.of(Path("sub-01_desc-brain_mask.nii.gz"))
            Name(subject='sub-01', session='', others=('desc-brain',), suffix='mask')
        """
        subject, *others = stem(path).split("_")
        if not path.name.lower().endswith(NIFTI) or not others or not is_subject(subject):
            return None
        session = next((part for part in others if part.startswith("ses-")), "")
        kept = tuple(part for part in others[:-1] if part != session)
        return cls(subject, session, kept, others[-1])

    @property
    def owner(self) -> str:
        """Subject and session."""
        return f"{self.subject}_{self.session}" if self.session else self.subject


def is_subject(name: str) -> bool:
    """Tell whether a file or folder is called as a subject."""
    return name.startswith("sub-") and name[4:].isalnum()


def subjects_in(root: Path) -> list[Path]:
    """List the folders of subjects."""
    return [one for one in folders_in(root) if is_subject(one.name)]


def sessions_of(subject: Path) -> list[Path]:
    """List the folders of a subject that hold folders such as ``anat``: of sessions, or its own."""
    return [subject, *(one for one in folders_in(subject) if one.name.startswith("ses-"))]


def anat_files(subjects: Sequence[Path]) -> list[Path]:
    """List the NIfTI files in the folders ``anat`` of subjects.

    Raises:
        InputError: When a file of one subject lies in the folder of another.
    """
    found = []
    for subject in subjects:
        for session in sessions_of(subject):
            if not (session / "anat").is_dir():
                continue
            for entry in look(str(session / "anat"))[2]:
                path = Path(entry.path)
                name = Name.of(path)
                if name is not None:
                    _require_own(path, name, subject.name, session.name)
                if not is_debris(entry.name) and entry.name.lower().endswith(NIFTI):
                    found.append(path)
    return found


def _require_own(path: Path, name: Name, subject: str, session: str) -> None:
    said = session if session != subject else ""
    if (name.subject, name.session) != (subject, said):
        raise InputError(
            f"{path}: is named as one of {name.owner}, but lies in the folder of "
            f"{subject}{said and '/'}{said}; rename or move it"
        )


def ignored(root: Path, paths: Sequence[Path]) -> set[Path]:
    """Return the paths that ``.bidsignore`` names, whose lines are written as in ``.gitignore``.

    Raises:
        InputError: When it cannot be read, or a line begins with "!".
    """
    file = root / IGNORE
    if not file.is_file():
        return set()
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read ({error}); write it in UTF-8") from error
    patterns = [line for line in lines if line and not line.startswith("#")]
    if any(line.startswith("!") for line in patterns):
        raise InputError(f"{file}: has a line that begins with !, which is not understood")
    return {path for path in paths if any(_matches(path.relative_to(root), p) for p in patterns)}


def _matches(path: Path, pattern: str) -> bool:
    """Tell whether a pattern names a path, or a folder that it lies in."""
    below = PurePosixPath(path.as_posix())
    places = [below, *below.parents][:-1]
    if "/" not in pattern.rstrip("/"):
        return any(fnmatchcase(one.name, pattern.rstrip("/")) for one in places)
    anchored = pattern.strip("/").replace("**/", "*")
    return any(fnmatchcase(str(one), anchored) for one in places)
