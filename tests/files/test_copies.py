"""Copies of files and directories, their names, and what counts against the limit."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.files.conftest import guard, plant, plant_special, tree
from tests.support.owner import OWNER
from wingsd.errors import (
    DiskLimitExceeded,
    FileDenied,
    FileMissing,
    FileWorkCancelled,
    NameConflict,
    NameTooLong,
    PathInvalid,
)
from wingsd.files.changes import copy, copy_names, divided
from wingsd.files.guard import Guard, Progress
from wingsd.filesystem.paths import ServerPath
from wingsd.filesystem.root import ServerRoot
from wingsd.filesystem.usage import UsageCounter

pytestmark = pytest.mark.root

p = ServerPath.parse


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (b"a.txt", (b"a", b".txt")),
        (b"a.tar.gz", (b"a", b".tar.gz")),
        (b"a.b.c", (b"a.b", b".c")),
        (b"a", (b"a", b"")),
        (b".env", (b"", b".env")),
        (b"a.tar", (b"a", b".tar")),
    ],
)
def test_names_are_divided_as_wings_does(name: bytes, parts: tuple[bytes, bytes]) -> None:
    assert divided(name) == parts


def test_the_names_of_copies_are_numbered_and_then_have_the_time() -> None:
    names = list(copy_names(b"a", b".txt", now=lambda: 0.0))
    assert names[:3] == [b"a copy.txt", b"a copy 1.txt", b"a copy 2.txt"]
    assert names[49] == b"a copy 49.txt"
    assert len(names) == 51
    assert names[50].startswith(b"a copy.19")
    assert names[50].endswith(b".txt")


def test_a_copy_is_beside_the_file_with_its_mode_and_owner(
    root: ServerRoot, home: Path, free: Guard, progress: Progress
) -> None:
    plant(home, "d/a.tar.gz")
    (home / "d/a.tar.gz").chmod(0o750)
    made = [str(copy(free, p("d/a.tar.gz"), None)[0]) for _ in range(3)]
    assert made == ["d/a copy.tar.gz", "d/a copy 1.tar.gz", "d/a copy 2.tar.gz"]
    found = (home / made[2]).stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o750, *OWNER)
    assert (home / made[2]).read_text() == "d/a.tar.gz"
    assert progress.files_done == 3


def test_names_in_use_by_anything_are_passed_over(
    root: ServerRoot, home: Path, free: Guard, progress: Progress
) -> None:
    plant(home, "a", "a copy/")
    os.mkfifo(home / "a copy 1")
    (home / "a copy 2").symlink_to("nowhere")
    path, _ = copy(free, p("a"), None)
    assert str(path) == "a copy 3"


@pytest.mark.parametrize("name", ["d", "fifo", "device", "socket", "link", "gone", "/", "link/x"])
def test_only_a_regular_file_is_copied(
    root: ServerRoot, home: Path, free: Guard, progress: Progress, name: str
) -> None:
    plant(home, "d/")
    plant_special(home)
    before = tree(home)
    with pytest.raises(FileMissing):
        copy(free, p(name), None)
    assert tree(home) == before


def test_a_copy_above_the_limit_is_refused_and_leaves_nothing(
    root: ServerRoot, home: Path, usage: UsageCounter, free: Guard, progress: Progress
) -> None:
    plant(home, "a", "d/b", "d/c")
    usage.used, usage.limit = 7, 8
    (home / "a").write_bytes(b"12")
    with pytest.raises(DiskLimitExceeded):
        copy(free, p("a"), None)
    with pytest.raises(DiskLimitExceeded):
        copy(free, p("d"), None, directories=True)
    assert tree(home) == ["a", "d", "d/b", "d/c"]
    assert usage.used == 7


def test_a_name_too_long_for_a_copy_is_refused(
    root: ServerRoot, home: Path, free: Guard, progress: Progress
) -> None:
    plant(home, "n" * 255)
    with pytest.raises(NameTooLong):
        copy(free, p("n" * 255), None)


def test_a_denied_file_is_not_copied_nor_a_copy_made_where_it_would_be_denied(
    root: ServerRoot, home: Path, progress: Progress
) -> None:
    plant(home, "a.key", "b", "hidden/c")
    (home / "link").symlink_to("hidden")
    denied = guard(root, "*.key", "/hidden/", "* copy")
    for source, target in (("a.key", None), ("link/c", None), ("b", None), ("b", p("link/d"))):
        with pytest.raises(FileDenied):
            copy(denied, p(source), target)
    assert tree(home) == ["a.key", "b", "hidden", "hidden/c", "link"]


def test_an_existing_file_is_replaced_only_on_demand(
    root: ServerRoot, home: Path, free: Guard, progress: Progress
) -> None:
    plant(home, "a", "b")
    with pytest.raises(NameConflict):
        copy(free, p("a"), p("b"))
    assert (home / "b").read_text() == "b"
    copy(free, p("a"), p("b"), overwrite=True)
    assert (home / "b").read_text() == "a"
    with pytest.raises(NameConflict):
        copy(free, p("a"), p("a"), overwrite=True)
    assert (home / "a").read_text() == "a"


def test_a_directory_is_copied_with_modes_and_links_and_without_what_is_denied(
    root: ServerRoot, home: Path, outside: Path, progress: Progress
) -> None:
    plant(home, "d/a", "d/e/f", "d/secret.key", "d/hidden/x", "d/empty/")
    plant_special(home / "d")
    (home / "d/out").symlink_to(outside)
    (home / "d/e").chmod(0o700)
    denied = guard(root, "*.key", "hidden/")
    path, entry = copy(denied, p("d"), None, directories=True)
    assert (str(path), entry.is_directory) == ("d copy", True)
    copied = home / "d copy"
    assert tree(copied) == ["a", "e", "e/f", "empty", "link", "out"]
    assert os.readlink(copied / "link") == "/etc/passwd"
    assert stat.S_IMODE((copied / "e").stat().st_mode) == 0o700
    assert (copied / "e/f").read_text() == "d/e/f"
    assert (copied / "e/f").stat().st_uid == OWNER[0]


def test_a_directory_is_not_copied_into_itself(
    root: ServerRoot, home: Path, free: Guard, progress: Progress
) -> None:
    plant(home, "d/e/a")
    (home / "link").symlink_to("d")
    for target in ("d/x", "d/e/x", "link/x"):
        with pytest.raises(PathInvalid):
            copy(free, p("d"), p(target), directories=True)
    assert tree(home) == ["d", "d/e", "d/e/a", "link"]


def test_a_copy_that_is_cancelled_leaves_nothing(
    root: ServerRoot, home: Path, usage: UsageCounter, free: Guard, progress: Progress
) -> None:
    plant(home, *(f"d/{number}/a" for number in range(3)))
    before = tree(home)
    progress.cancel()
    for directories, name in ((True, "d"), (False, "d/0/a")):
        with pytest.raises(FileWorkCancelled):
            copy(free, p(name), None, directories=directories)
    assert tree(home) == before
    assert usage.used == 0
