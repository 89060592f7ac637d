"""Files whose permissions a daemon without root does not have, as its own user meets them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wingsd.errors import FileNotPermitted, StorageError
from wingsd.files.archives import Chosen, Selection
from wingsd.files.changes import copy
from wingsd.files.guard import Guard
from wingsd.filesystem.openers import Openat2Opener
from wingsd.filesystem.paths import ServerPath, file_error
from wingsd.filesystem.root import ServerRoot

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change to another user")

p = ServerPath.parse
USER = 4711


@pytest.fixture
def rootless(home: Path) -> Iterator[ServerRoot]:
    """A server of a user who has shut a file and a directory; the test is that user."""
    (home / "a/below").mkdir(parents=True)
    (home / "locked").write_text("x")
    (home / "a/below/file").write_text("x")
    for path in (home, *home.rglob("*")):
        os.chown(path, USER, USER)
    with ServerRoot(str(home), Openat2Opener()) as root:
        os.seteuid(USER)
        try:
            root.set_mode(p("locked"), 0)
            root.set_mode(p("a/below"), 0)
            yield root
        finally:
            os.seteuid(0)


def copied(root: ServerRoot, name: str) -> None:
    copy(Guard(root), p(name), None, directories=True)


def packed(root: ServerRoot, name: str) -> None:
    list(Selection(Guard(root), p("/"), Chosen([p(name)]), ServerPath()).members())


ACTIONS: list[tuple[Callable[[ServerRoot], object], str]] = [
    (lambda root: root.open_file(p("locked")), "locked"),
    (lambda root: root.directory(p("a/below")), "a/below"),
    (lambda root: root.write(p("a/below/new"), [b"x"]), "new"),
    (lambda root: root.remove(p("a/below")), "a/below"),
    (lambda root: copied(root, "locked"), "locked"),
    (lambda root: copied(root, "a"), "below"),
    (lambda root: packed(root, "locked"), "locked"),
    (lambda root: packed(root, "a"), "a/below"),
]


@pytest.mark.parametrize(("action", "name"), ACTIONS)
def test_a_user_is_told_to_set_the_permissions_first(
    rootless: ServerRoot, action: Callable[[ServerRoot], object], name: str
) -> None:
    with pytest.raises(FileNotPermitted) as caught:
        action(rootless)
    error = caught.value
    assert (error.status, error.message) == (403, "Cannot perform that action: permission denied.")
    assert error.detail.startswith(f'"{name}": set its permissions first')


def test_what_the_user_has_shut_is_opened_by_the_user(rootless: ServerRoot) -> None:
    rootless.set_mode(p("locked"), 0o644)
    rootless.set_mode(p("a/below"), 0o755)
    with rootless.open_file(p("locked")) as file:
        assert file.read(2) == b"x"
    copied(rootless, "a")
    rootless.remove(p("a"))


def test_an_immutable_file_is_for_an_administrator() -> None:
    error = file_error(PermissionError(errno.EPERM, "Operation not permitted"), b"a")
    assert isinstance(error, FileNotPermitted)
    assert error.detail.startswith('"a": it is immutable, or belongs to a user')
    assert isinstance(file_error(OSError(errno.EIO, "I/O error"), b"a"), StorageError)
