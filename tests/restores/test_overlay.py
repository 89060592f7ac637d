"""Present files are laid under restored ones, in a new directory and by hard links alone."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.archives import odd_tree, seen
from tests.support.attributes import ACCESS, DEFAULT, acl, entries
from tests.support.owner import OWNER
from tests.support.small_disk import small_disk
from wingsd.errors import StorageError
from wingsd.filesystem.walk import measure
from wingsd.restores.storage import kept_size, overlay

pytestmark = pytest.mark.root

MEMORY = 1 << 20
TIME = 1_500_000_000_000_000_000


@pytest.fixture
def present(tmp_path: Path) -> Path:
    path = tmp_path / "present"
    path.mkdir()
    return path


@pytest.fixture
def restored(tmp_path: Path) -> Path:
    path = tmp_path / "restored"
    path.mkdir()
    return path


@pytest.fixture
def target(restored: Path) -> Iterator[int]:
    fd = os.open(restored, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def test_all_that_the_backup_lacks_is_there_as_it_was(
    present: Path, restored: Path, target: int
) -> None:
    odd_tree(present)
    before = seen(present)
    overlay(str(present), target, (os.getuid(), os.getgid()), MEMORY)
    assert seen(present) == before
    # The time of the root is that of the restored one.
    assert seen(restored).keys() == before.keys()
    assert {name: entry for name, entry in seen(restored).items() if name} == {
        name: entry for name, entry in before.items() if name
    }


def test_what_was_restored_counts_whatever_is_there_now(
    present: Path, restored: Path, target: int
) -> None:
    for name in ("same", "directory/below", "kept/a", "kept/b"):
        (present / name).parent.mkdir(exist_ok=True)
        (present / name).write_text("present")
    (present / "file").write_text("present")
    (present / "link").symlink_to("same")
    for name in ("same", "file/below", "kept/a", "link"):
        (restored / name).parent.mkdir(exist_ok=True)
        (restored / name).write_text("restored")
    (restored / "directory").write_text("restored")
    assert kept_size(str(present), target) == len("present")
    overlay(str(present), target, OWNER, MEMORY)
    files = (path for path in restored.rglob("*") if path.is_file())
    assert {str(path.relative_to(restored)): path.read_text() for path in files} == {
        "same": "restored",
        "file/below": "restored",
        "kept/a": "restored",
        "kept/b": "present",
        "link": "restored",
        "directory": "restored",
    }
    assert (present / "directory/below").read_text() == "present"
    assert (present / "link").is_symlink()


def test_nothing_is_copied_and_hard_links_stay_such(
    present: Path, restored: Path, target: int
) -> None:
    (present / "a").write_text("x")
    os.link(present / "a", present / "b")
    overlay(str(present), target, OWNER, MEMORY)
    inodes = {path.stat().st_ino for path in (present / "a", restored / "a", restored / "b")}
    assert len(inodes) == 1


def test_directories_in_both_have_the_present_mode_and_the_restored_time(
    present: Path, restored: Path, target: int
) -> None:
    for root, mode in ((present, 0o750), (restored, 0o700)):
        (root / "both").mkdir()
        (root / f"both/{root.name}").write_text("x")
        os.chmod(root / "both", mode)
    os.utime(restored / "both", ns=(TIME, TIME))
    os.utime(restored, ns=(TIME, TIME))
    os.chmod(present, 0o711)
    overlay(str(present), target, OWNER, MEMORY)
    for path, mode in ((restored / "both", 0o750), (restored, 0o711)):
        found = path.stat()
        assert (stat.S_IMODE(found.st_mode), found.st_mtime_ns) == (mode, TIME)
    assert sorted(path.name for path in (restored / "both").iterdir()) == ["present", "restored"]


@pytest.mark.promise("archive-attributes-are-filtered")
def test_directories_in_both_have_the_present_attributes(
    present: Path, restored: Path, target: int
) -> None:
    """Else the mask of an ACL would become a permission of the group, and be inherited below."""
    for name in ("both", "both/kept"):
        (present / name).mkdir()
        os.setxattr(present / name, ACCESS, acl(users={4033: 7}, group=0, mask=7))
        os.setxattr(present / name, "user.note", name.encode())
    (restored / "both").mkdir()
    for kind in (ACCESS, DEFAULT):
        os.setxattr(restored / "both", kind, acl(users={4044: 7}, group=5, mask=7))
    os.chown(present, *OWNER)
    before = seen(present)
    overlay(str(present), target, OWNER, MEMORY)
    for name in ("both", "both/kept"):
        assert sorted(os.listxattr(restored / name)) == sorted(os.listxattr(present / name))
        assert (restored / name).stat().st_mode == (present / name).stat().st_mode
        found = os.getxattr(restored / name, ACCESS)
        assert entries(found) == entries(acl(users={4033: 7}, group=0, mask=7))
    assert seen(present) == before


def test_the_size_is_that_by_which_the_server_grows(
    present: Path, restored: Path, target: int
) -> None:
    odd_tree(present)
    (restored / "deep").mkdir()
    (restored / "new").write_bytes(bytes(5000))
    alone = measure(str(restored))
    kept = kept_size(str(present), target)
    overlay(str(present), target, OWNER, MEMORY)
    assert measure(str(restored)) == alone + kept


@pytest.mark.parametrize("kind", ["missing", "symlink", "file"])
def test_where_no_directory_is_present_nothing_is_added(
    tmp_path: Path, restored: Path, target: int, kind: str
) -> None:
    place = tmp_path / "place"
    if kind == "symlink":
        place.symlink_to(tmp_path)
    elif kind == "file":
        place.write_text("x")
    assert kept_size(str(place), target) == 0
    overlay(str(place), target, OWNER, MEMORY)
    assert list(restored.iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0, reason="mounts need root")
def test_files_of_another_file_system_are_refused_before_anything_is_done(
    present: Path, target: int
) -> None:
    (present / "mounted").mkdir()
    with small_disk(present / "mounted"):
        (present / "mounted/file").write_text("x")
        with pytest.raises(StorageError, match="another file system"):
            kept_size(str(present), target)
