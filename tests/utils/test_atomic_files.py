"""A file appears whole or not at all."""

import fcntl
import os
import stat
from pathlib import Path

import pytest

from crossd.utils.atomic_files import atomic, locked


def test_it_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "note.txt"
    with atomic(path) as temporary:
        assert temporary.parent == path.parent and temporary.suffix == ".txt"
        assert temporary != path and temporary.exists()
        temporary.write_text("done")
        assert not path.exists()
    assert path.read_text() == "done"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_it_replaces_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "note"
    path.write_text("old")
    with atomic(str(path)) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_a_block_may_replace_the_temporary_file(tmp_path: Path) -> None:
    with atomic(tmp_path / "a.bin") as temporary:
        temporary.unlink()
        temporary.write_bytes(b"again")
    assert (tmp_path / "a.bin").read_bytes() == b"again"


@pytest.mark.parametrize("mask", [0o022, 0o027])
def test_permissions_follow_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        with atomic(tmp_path / "a") as temporary:
            temporary.write_text("")
        assert os.umask(mask) == mask, "atomic changed the umask"
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~mask


def test_a_file_in_the_place_of_the_folder_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(OSError), atomic(tmp_path / "a" / "b"):
        raise AssertionError("the block must not run")


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with path.open("ab") as other:
        with locked(path), pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_no_lock_where_none_can_be_made(tmp_path: Path) -> None:
    with locked(tmp_path / "nowhere" / ".lock"):
        pass
