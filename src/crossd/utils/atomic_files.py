"""Writing files so that a reader never sees half of one, and one process at a time."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, renamed to `path` when the block ends well.

    When the block raises, the temporary file is removed and `path` stays as it was.

    Args:
        path: The final name. Its folder is made when missing.

    Yields:
        A path in the same folder, with the same suffix, to write to.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> with atomic(folder / "note.txt") as temporary:
        ...     _ = temporary.write_text("done")
        >>> (folder / "note.txt").read_text()
        'done'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    # Not of its stem: that may be as long as names can be.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".writing-", suffix=suffix[-20:])
    os.close(handle)
    temporary = Path(name)
    temporary.chmod(0o666 & ~_umask())
    try:
        with naming(path, temporary):
            yield temporary
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Let one process at a time into a block; where files cannot be locked they do not wait.

    Args:
        path: A file that is made for the purpose and stays, as removing it would let two in.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> with locked(folder / ".lock"):
        ...     _ = (folder / "note.txt").write_text("alone")
    """
    with ExitStack() as stack:
        with suppress(ImportError, OSError):  # on Windows; some network file systems refuse
            import fcntl

            file = stack.enter_context(Path(path).open("ab"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def naming(path: Path, instead_of: Path | None = None) -> Iterator[None]:
    """Name a file in errors of the block that name none, such as that the disk is full.

    Args:
        path: The file.
        instead_of: Another, whose name is replaced by this one.

    Example:
        >>> with naming(Path("log.csv")):
        ...     raise OSError(28, "No space left on device")
        Traceback (most recent call last):
        OSError: [Errno 28] No space left on device: 'log.csv'
    """
    try:
        yield
    except OSError as error:
        known = error.errno is not None  # without a number the text is the error's own
        if known and (error.filename is None or str(error.filename) == str(instead_of)):
            error.filename = str(path)
        raise


def _sync_folder(folder: Path) -> None:
    """Let the new name reach the disk too, where folders can be synced."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError:  # some network file systems refuse
            pass
        finally:
            os.close(handle)


def _umask() -> int:
    """Return the process's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
