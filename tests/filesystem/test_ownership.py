"""The entries of a tree get one owner. Run as root, who can give files away."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.filesystem.places import owner
from wingsd.errors import StorageError
from wingsd.filesystem import walk
from wingsd.filesystem.walk import LINKED_ELSEWHERE, TOO_MANY_LINKED, GivenTree, give_tree

pytestmark = [pytest.mark.root, pytest.mark.promise("files-get-their-owner")]

OWNER = (1234, 1235)


def give(root: Path) -> GivenTree:
    return give_tree(str(root), OWNER, lambda: False)


def test_entries_of_every_kind_get_the_owner(home: Path) -> None:
    (home / "world" / "region").mkdir(parents=True)
    (home / "world" / "level.dat").touch()
    (home / "link").symlink_to("world")
    os.mkfifo(home / "pipe")
    socket.socket(socket.AF_UNIX).bind(str(home / "socket"))
    assert give(home) == GivenTree(changed=7)
    assert {owner(path) for path in (home, *home.rglob("*"))} == {OWNER}


def test_what_has_the_owner_is_not_touched(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "kept").touch()
    (home / "of another group").touch()
    for path in (home, home / "kept"):
        os.chown(path, *OWNER)
    os.chown(home / "of another group", OWNER[0], 0)
    given = []
    monkeypatch.setattr(os, "chown", lambda name, *args, **at: given.append(name))
    assert give(home).changed == 1
    assert given == [b"of another group"]


def test_a_symlink_in_place_of_the_tree_is_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(home)
    with pytest.raises(StorageError):
        give(tmp_path / "link")
    assert owner(home) == (0, 0)


def test_a_file_with_a_hard_link_elsewhere_keeps_its_owner(home: Path, tmp_path: Path) -> None:
    (tmp_path / "foreign").touch()
    for name in ("one", "two"):
        (home / name).hardlink_to(tmp_path / "foreign")
    assert give(home) == GivenTree(1, 1, '"one"', LINKED_ELSEWHERE)
    assert owner(tmp_path / "foreign") == (0, 0)


def test_a_file_with_all_its_hard_links_in_the_tree_gets_the_owner(home: Path) -> None:
    (home / "a").mkdir()
    (home / "one").touch()
    (home / "a" / "two").hardlink_to(home / "one")
    assert give(home) == GivenTree(changed=3)
    assert owner(home / "one") == OWNER


def test_hard_links_take_bounded_memory(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "MAX_GIVEN_LINKED", 1)
    for name, link in (("a", "c"), ("b", "d")):
        (home / name).touch()
        (home / link).hardlink_to(home / name)
    given = give(home)
    assert owner(home / "a") == OWNER
    assert (given.example, given.why) == ('"b"', TOO_MANY_LINKED)


def test_what_cannot_be_changed_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "file").touch()
    refuse = PermissionError(1, "Operation not permitted")

    def chown(*_: object, **__: object) -> None:
        raise refuse

    monkeypatch.setattr(os, "chown", chown)
    given = give(home)
    assert (given.changed, given.kept, given.example) == (1, 1, '"file"')
    assert given.why


def test_it_ends_when_cancelled(home: Path) -> None:
    for name in ("a", "b"):
        (home / name).mkdir()
    answers = iter([False, True])
    assert give_tree(str(home), OWNER, lambda: next(answers)) == GivenTree(changed=1)
    assert owner(home / "b") == (0, 0)
