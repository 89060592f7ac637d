"""Files renamed, deleted, made, and their modes, with a denylist and without."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.files.conftest import guard, plant, plant_special, tree
from wingsd.errors import (
    BadRequest,
    FileDenied,
    FileMissing,
    FileTypeRefused,
    FileWorkCancelled,
    InvalidMode,
    NameConflict,
    PathInvalid,
    WingsdError,
)
from wingsd.files import guard as guards
from wingsd.files.changes import (
    Mode,
    create_directory,
    delete,
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
    root: ServerRoot, home: Path, free: Guard, progress: Progress
) -> None:
    plant(home, "a", "b/c")
    files = [renaming("a", "x/y/a"), renaming("gone", "z"), renaming("b", "d")]
    assert rename(free, files) == 2
    assert tree(home) == ["d", "d/c", "x", "x/y", "x/y/a"]


def test_renaming_to_a_name_in_use_changes_nothing(
    root: ServerRoot, home: Path, free: Guard, progress: Progress
) -> None:
    plant(home, "a", "b")
    with pytest.raises(NameConflict):
        rename(free, [renaming("a", "b")])
    assert (home / "b").read_text() == "b"


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
    root: ServerRoot, home: Path, progress: Progress, source: str, target: str
) -> None:
    plant(home, "secret.key", "a", "config/deep/secret.key", "hidden/inner", "harmless/cache/b")
    (home / "link").symlink_to("hidden")
    before = tree(home)
    denied = guard(root, "*.key", "*.key2", "/hidden/", "/config2/cache/")
    with pytest.raises(FileDenied):
        rename(denied, [renaming(source, target)])
    assert tree(home) == before


def test_deleting_follows_no_links_and_counts_at_once(
    root: ServerRoot,
    home: Path,
    outside: Path,
    free: Guard,
    progress: Progress,
    usage: UsageCounter,
) -> None:
    usage.used = 1000
    plant(home, "d/e/f", "kept")
    plant_special(home)
    (home / "d/out").symlink_to(outside)
    paths = [p(name) for name in ("d", "fifo", "device", "socket", "link")]
    assert delete(free, paths) == 5
    assert tree(home) == ["kept"]
    assert (outside / "secret").exists()
    assert usage.used == 1000 - len("d/e/f")


@pytest.mark.parametrize("path", ["", "/", ".", "..", "d/.."])
def test_the_servers_directory_is_not_deleted(
    root: ServerRoot, home: Path, free: Guard, progress: Progress, path: str
) -> None:
    plant(home, "d/e")
    with pytest.raises(PathInvalid):
        delete(free, [p(path)])
    assert tree(home) == ["d", "d/e"]


def test_deleting_leaves_what_is_denied_and_its_directories(
    root: ServerRoot, home: Path, progress: Progress
) -> None:
    plant(home, "d/a", "d/b/secret.key", "d/b/x", "d/c/y", "d/hidden/z", "e/f")
    (home / "link").symlink_to("d")
    denied = guard(root, "*.key", "hidden/")
    assert delete(denied, [p("link/c"), p("d"), p("e")]) == 3
    assert tree(home) == ["d", "d/b", "d/b/secret.key", "d/hidden", "d/hidden/z", "link"]


def test_deleting_only_what_is_denied_is_an_error(
    root: ServerRoot, home: Path, progress: Progress
) -> None:
    plant(home, "hidden/z")
    (home / "link").symlink_to("hidden")
    for path in ("hidden", "hidden/z", "link/z"):
        with pytest.raises(FileDenied):
            delete(guard(root, "/hidden/"), [p(path)])
    assert tree(home) == ["hidden", "hidden/z", "link"]


@pytest.mark.parametrize(("bound", "most"), [("MAX_KEPT", 3), ("MAX_KEPT_NAMES", 6)])
def test_directories_with_denied_files_are_bounded(
    root: ServerRoot,
    home: Path,
    progress: Progress,
    monkeypatch: pytest.MonkeyPatch,
    bound: str,
    most: int,
) -> None:
    monkeypatch.setattr(guards, bound, most)
    plant(home, *(f"d/{number}/a.key" for number in range(5)))
    before = tree(home)
    with pytest.raises(BadRequest):
        delete(guard(root, "*.key"), [p("d")])
    assert tree(home) == before


def test_what_is_missing_is_an_error_or_is_passed_over(
    root: ServerRoot, home: Path, free: Guard, progress: Progress
) -> None:
    plant(home, "a")
    with pytest.raises(FileMissing):
        delete(free, [p("gone")])
    assert delete(free, [p("gone"), p("a")], missing=False) == 1
    assert tree(home) == []


def test_work_that_is_cancelled_ends(
    root: ServerRoot, home: Path, free: Guard, progress: Progress
) -> None:
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


def test_modes_are_set_and_what_is_missing_is_passed_over(
    root: ServerRoot, home: Path, free: Guard, progress: Progress
) -> None:
    plant(home, "a", "d/b")
    files = [Mode(p("a"), 0o600), Mode(p("gone"), 0o600), Mode(p("d"), 0o700)]
    assert set_modes(free, files) == 2
    assert modes(home) == {"a": 0o600, "d": 0o700, "d/b": modes(home)["d/b"]}


def test_recursive_modes_follow_no_links_and_leave_what_is_denied(
    root: ServerRoot, home: Path, outside: Path, progress: Progress
) -> None:
    plant(home, "d/a", "d/e/f", "d/secret.key")
    plant_special(home / "d")
    (home / "d/out").symlink_to(outside)
    before = stat.S_IMODE((outside / "secret").stat().st_mode)
    os.chmod(home / "d/secret.key", 0o604)
    files = [Mode(p("d"), 0o711, recursive=True)]
    assert set_modes(guard(root, "*.key"), files) == 4
    found = modes(home)
    assert {found[name] for name in ("d", "d/a", "d/e", "d/e/f")} == {0o711}
    assert found["d/secret.key"] == 0o604
    assert stat.S_IMODE((outside / "secret").stat().st_mode) == before


def test_what_has_no_mode_and_what_is_denied_are_refused(
    root: ServerRoot, home: Path, progress: Progress
) -> None:
    plant(home, "secret.key")
    plant_special(home)
    errors: list[WingsdError] = []
    for name in ("fifo", "device", "socket", "link", "secret.key"):
        with pytest.raises((FileTypeRefused, FileDenied)) as caught:
            set_modes(guard(root, "*.key"), [Mode(p(name), 0o777)])
        errors.append(caught.value)
    assert [type(each) for each in errors] == [FileTypeRefused] * 4 + [FileDenied]


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
