"""Files renamed, deleted, made, and their modes, with a denylist and without."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.files.conftest import guard, plant, tree
from tests.filesystem.places import special
from tests.support.owner import OWNER
from wingsd.errors import (
    BadRequest,
    DiskLimitExceeded,
    FileDenied,
    FileMissing,
    FileWorkCancelled,
    InvalidMode,
    NameConflict,
    PathInvalid,
)
from wingsd.files import guard as guards
from wingsd.files.changes import (
    Mode,
    copy,
    copy_names,
    create_directory,
    delete,
    divided,
    parse_mode,
    rename,
    set_modes,
)
from wingsd.files.guard import Guard, Progress
from wingsd.filesystem.paths import ServerPath
from wingsd.filesystem.root import ServerRoot
from wingsd.filesystem.usage import UsageCounter

pytestmark = pytest.mark.root


p = ServerPath.parse


def renaming(source: str, target: str) -> tuple[ServerPath, ServerPath]:
    return p(source), p(target)


def test_renaming_makes_directories_and_passes_over_what_is_missing(
    home: Path, free: Guard
) -> None:
    plant(home, "a", "b/c")
    files = [renaming("a", "x/y/a"), renaming("gone", "z"), renaming("b", "d")]
    assert rename(free, files) == 2
    assert tree(home) == ["d", "d/c", "x", "x/y", "x/y/a"]
    with pytest.raises(NameConflict):
        rename(free, [renaming("d/c", "x/y/a")])
    assert (home / "x/y/a").read_text() == "a"


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("secret.key", "x"),
        ("a", "secret.key2"),
        ("link/inner", "x"),
        ("a", "link/inner2"),
        # The directories that hold them, and one that would.
        ("config", "x"),
        ("harmless", "config2"),
    ],
)
def test_what_is_denied_is_not_renamed_whichever_path_leads_there(
    root: ServerRoot, home: Path, source: str, target: str
) -> None:
    plant(home, "secret.key", "a", "config/deep/secret.key", "hidden/inner", "harmless/cache/b")
    (home / "link").symlink_to("hidden")
    before = tree(home)
    denied = guard(root, "*.key", "*.key2", "/hidden/", "/config2/cache/")
    with pytest.raises(FileDenied):
        rename(denied, [renaming(source, target)])
    assert tree(home) == before


def test_deleting_leaves_what_is_denied_and_its_directories(root: ServerRoot, home: Path) -> None:
    plant(home, "d/a", "d/b/secret.key", "d/b/x", "d/c/y", "d/hidden/z", "e/f")
    (home / "link").symlink_to("d")
    denied = guard(root, "*.key", "hidden/")
    assert delete(denied, [p("link/c"), p("d"), p("e")]) == 3
    assert tree(home) == ["d", "d/b", "d/b/secret.key", "d/hidden", "d/hidden/z", "link"]


def test_deleting_only_what_is_denied_is_an_error(root: ServerRoot, home: Path) -> None:
    plant(home, "hidden/z")
    (home / "link").symlink_to("hidden")
    for path in ("hidden", "hidden/z", "link/z"):
        with pytest.raises(FileDenied):
            delete(guard(root, "/hidden/"), [p(path)])
    assert tree(home) == ["hidden", "hidden/z", "link"]


@pytest.mark.parametrize(("bound", "most"), [("MAX_KEPT", 3), ("MAX_KEPT_NAMES", 6)])
def test_directories_with_denied_files_are_bounded(
    root: ServerRoot, home: Path, monkeypatch: pytest.MonkeyPatch, bound: str, most: int
) -> None:
    monkeypatch.setattr(guards, bound, most)
    plant(home, *(f"d/{number}/a.key" for number in range(5)))
    before = tree(home)
    with pytest.raises(BadRequest):
        delete(guard(root, "*.key"), [p("d")])
    assert tree(home) == before


def test_what_is_missing_is_an_error_or_is_passed_over(home: Path, free: Guard) -> None:
    plant(home, "a")
    with pytest.raises(FileMissing):
        delete(free, [p("gone")])
    assert delete(free, [p("gone"), p("a")], missing=False) == 1
    assert tree(home) == []


def test_work_that_is_cancelled_ends(home: Path, free: Guard, progress: Progress) -> None:
    plant(home, "a")
    progress.cancel()
    with pytest.raises(FileWorkCancelled):
        delete(free, [p("a")])
    with pytest.raises(FileWorkCancelled):
        rename(free, [renaming("a", "b")])
    with pytest.raises(FileWorkCancelled):
        set_modes(free, [Mode(p("a"), 0o600)])
    assert tree(home) == ["a"]


def test_a_denied_directory_is_not_made(root: ServerRoot, home: Path) -> None:
    denied = guard(root, "hidden/")
    plant(home, "d/")
    (home / "link").symlink_to("d")
    for path in ("hidden", "d/hidden", "hidden/below", "link/hidden"):
        with pytest.raises(FileDenied):
            create_directory(denied, p(path))
    create_directory(denied, p("link/x/y"))
    assert tree(home) == ["d", "d/x", "d/x/y", "link"]


def modes(home: Path) -> dict[str, int]:
    return {name: stat.S_IMODE((home / name).lstat().st_mode) for name in tree(home)}


def test_modes_are_set_and_what_is_missing_is_passed_over(home: Path, free: Guard) -> None:
    plant(home, "a", "d/b")
    files = [Mode(p("a"), 0o600), Mode(p("gone"), 0o600), Mode(p("d"), 0o700)]
    assert set_modes(free, files) == 2
    assert modes(home) == {"a": 0o600, "d": 0o700, "d/b": modes(home)["d/b"]}


def test_recursive_modes_follow_no_links_and_leave_what_is_denied(
    root: ServerRoot, home: Path, outside: Path
) -> None:
    plant(home, "d/a", "d/e/f", "d/secret.key")
    special(home / "d", "/etc/passwd")
    (home / "d/out").symlink_to(outside)
    before = stat.S_IMODE((outside / "secret").stat().st_mode)
    os.chmod(home / "d/secret.key", 0o604)
    files = [Mode(p("d"), 0o711, recursive=True)]
    assert set_modes(guard(root, "*.key"), files) == 4
    with pytest.raises(FileDenied):
        set_modes(guard(root, "*.key"), [Mode(p("d/secret.key"), 0o777)])
    found = modes(home)
    assert {found[name] for name in ("d", "d/a", "d/e", "d/e/f")} == {0o711}
    assert found["d/secret.key"] == 0o604
    assert stat.S_IMODE((outside / "secret").stat().st_mode) == before


@pytest.mark.parametrize(
    ("text", "mode"),
    [("755", 0o755), ("0644", 0o644), ("0o600", 0o600), ("0", 0), ("4755", 0o755)],
)
def test_modes_are_octal(text: str, mode: int) -> None:
    assert parse_mode(text) == mode


@pytest.mark.parametrize(
    "text", ["", "8", "rwx", "-1", "7777777", "٧٥٥", " 755", "0x1ff", "7_5", "755\n", "1e2"]
)
def test_other_modes_are_refused(text: str) -> None:
    with pytest.raises(InvalidMode):
        parse_mode(text)


# Copies of files and directories, their names, and what counts against the limit


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
    home: Path, free: Guard, progress: Progress
) -> None:
    plant(home, "d/a.tar.gz")
    (home / "d/a.tar.gz").chmod(0o750)
    made = [str(copy(free, p("d/a.tar.gz"), None)[0]) for _ in range(3)]
    assert made == ["d/a copy.tar.gz", "d/a copy 1.tar.gz", "d/a copy 2.tar.gz"]
    found = (home / made[2]).stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o750, *OWNER)
    assert (home / made[2]).read_text() == "d/a.tar.gz"
    assert progress.files_done == 3


def test_only_a_regular_file_is_copied(home: Path, free: Guard) -> None:
    plant(home, "d/")
    special(home, "/etc/passwd")
    for name in ("d", "fifo", "device", "link", "gone", "/"):
        with pytest.raises(FileMissing):
            copy(free, p(name), None)


def test_a_copy_above_the_limit_is_refused_and_leaves_nothing(
    home: Path, usage: UsageCounter, free: Guard
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


def test_a_denied_file_is_not_copied_nor_a_copy_made_where_it_would_be_denied(
    root: ServerRoot, home: Path
) -> None:
    plant(home, "a.key", "b", "hidden/c")
    (home / "link").symlink_to("hidden")
    denied = guard(root, "*.key", "/hidden/", "* copy")
    for source, target in (("a.key", None), ("link/c", None), ("b", None), ("b", p("link/d"))):
        with pytest.raises(FileDenied):
            copy(denied, p(source), target)
    assert tree(home) == ["a.key", "b", "hidden", "hidden/c", "link"]


def test_an_existing_file_is_replaced_only_on_demand(home: Path, free: Guard) -> None:
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
    root: ServerRoot, home: Path, outside: Path
) -> None:
    plant(home, "d/a", "d/e/f", "d/secret.key", "d/hidden/x", "d/empty/")
    special(home / "d", "/etc/passwd")
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


def test_a_directory_is_not_copied_into_itself(home: Path, free: Guard) -> None:
    plant(home, "d/e/a")
    (home / "link").symlink_to("d")
    for target in ("d/x", "d/e/x", "link/x"):
        with pytest.raises(PathInvalid):
            copy(free, p("d"), p(target), directories=True)
    assert tree(home) == ["d", "d/e", "d/e/a", "link"]


def test_a_copy_that_is_cancelled_leaves_nothing(
    home: Path, usage: UsageCounter, free: Guard, progress: Progress
) -> None:
    plant(home, *(f"d/{number}/a" for number in range(3)))
    before = tree(home)
    progress.cancel()
    for directories, name in ((True, "d"), (False, "d/0/a")):
        with pytest.raises(FileWorkCancelled):
            copy(free, p(name), None, directories=directories)
    assert tree(home) == before
    assert usage.used == 0
