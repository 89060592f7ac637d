"""The entries of a tree get one owner. Run as root, who can give files away."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from wingsd.errors import StorageError
from wingsd.filesystem import walk
from wingsd.filesystem.walk import LINKED_ELSEWHERE, TOO_MANY_LINKED, GivenTree, give_tree

pytestmark = [pytest.mark.root, pytest.mark.promise("files-get-their-owner")]

OWNER = (1234, 1235)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "server"
    root.mkdir()
    return root


def give(root: Path) -> GivenTree:
    return give_tree(str(root), OWNER, lambda: False)


def owner(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_uid, found.st_gid


def test_entries_of_every_kind_get_the_owner(root: Path) -> None:
    (root / "world" / "region").mkdir(parents=True)
    (root / "world" / "level.dat").touch()
    (root / "link").symlink_to("world")
    os.mkfifo(root / "pipe")
    socket.socket(socket.AF_UNIX).bind(str(root / "socket"))
    assert give(root) == GivenTree(changed=7)
    assert {owner(path) for path in (root, *root.rglob("*"))} == {OWNER}


def test_what_has_the_owner_is_not_touched(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "kept").touch()
    (root / "of another group").touch()
    for path in (root, root / "kept"):
        os.chown(path, *OWNER)
    os.chown(root / "of another group", OWNER[0], 0)
    given = []
    monkeypatch.setattr(os, "chown", lambda name, *args, **at: given.append(name))
    assert give(root).changed == 1
    assert given == [b"of another group"]


def test_symlinks_are_not_followed(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    for name, target in (("directory", outside), ("file", outside / "file")):
        (root / name).symlink_to(target)
    give(root)
    assert owner(outside) == owner(outside / "file") == (0, 0)
    assert owner(root / "directory") == owner(root / "file") == OWNER


def test_a_symlink_in_place_of_the_tree_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    with pytest.raises(StorageError):
        give(tmp_path / "link")
    assert owner(root) == (0, 0)


def test_a_file_with_a_hard_link_elsewhere_keeps_its_owner(root: Path, tmp_path: Path) -> None:
    (tmp_path / "foreign").touch()
    for name in ("one", "two"):
        (root / name).hardlink_to(tmp_path / "foreign")
    assert give(root) == GivenTree(1, 1, '"one"', LINKED_ELSEWHERE)
    assert owner(tmp_path / "foreign") == (0, 0)


def test_a_file_with_all_its_hard_links_in_the_tree_gets_the_owner(root: Path) -> None:
    (root / "a").mkdir()
    (root / "one").touch()
    (root / "a" / "two").hardlink_to(root / "one")
    assert give(root) == GivenTree(changed=3)
    assert owner(root / "one") == OWNER


def test_hard_links_take_bounded_memory(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "MAX_GIVEN_LINKED", 1)
    for name, link in (("a", "c"), ("b", "d")):
        (root / name).touch()
        (root / link).hardlink_to(root / name)
    given = give(root)
    assert owner(root / "a") == OWNER
    assert (given.example, given.why) == ('"b"', TOO_MANY_LINKED)


def test_what_cannot_be_changed_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "file").touch()
    refuse = PermissionError(1, "Operation not permitted")

    def chown(*_: object, **__: object) -> None:
        raise refuse

    monkeypatch.setattr(os, "chown", chown)
    given = give(root)
    assert (given.changed, given.kept, given.example) == (1, 1, '"file"')
    assert given.why


def test_it_ends_when_cancelled(root: Path) -> None:
    for name in ("a", "b"):
        (root / name).mkdir()
    answers = iter([False, True])
    assert give_tree(str(root), OWNER, lambda: next(answers)) == GivenTree(changed=1)
    assert owner(root / "b") == (0, 0)
