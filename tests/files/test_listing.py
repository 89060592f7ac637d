"""Directories as the pages list them."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from wingsd.errors import FileWorkCancelled
from wingsd.files import entries as listing_module
from wingsd.files.denylist import Denylist
from wingsd.files.entries import BINARY, DIRECTORY, TEXT, FileListing, Page, Sort, list_directory
from wingsd.filesystem.directory import Entry
from wingsd.filesystem.paths import ServerPath
from wingsd.filesystem.root import ServerRoot

ALL = Page()


def listed(
    root: ServerRoot, path: str = "/", page: Page = ALL, hidden: tuple[str, ...] = ()
) -> FileListing:
    denylists = (Denylist(hidden),) if hidden else ()
    return list_directory(root, ServerPath.parse(path), page, denylists, lambda: False)


def names(listing: FileListing) -> list[str]:
    return [entry["name"] for entry in listing.entries]


def test_directories_come_first_then_all_by_name(home: Path, root: ServerRoot) -> None:
    for name in ("b", "B", "a", ".c", " d"):
        (home / name).write_text("x")
    for name in ("z", "y"):
        (home / name).mkdir()
    found = listed(root)
    assert names(found) == ["y", "z", " d", ".c", "B", "a", "b"]
    assert (found.total, found.is_complete) == (7, True)


def test_every_kind_of_file_is_listed_and_none_but_regular_ones_opened(
    home: Path, root: ServerRoot, tmp_path: Path
) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    (home / "directory").mkdir()
    os.mkfifo(home / "fifo")
    (home / "link").symlink_to(tmp_path / "secret.txt")
    (home / "link to directory").symlink_to("directory")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(home / "socket"))
    (home / "text").write_text("text")
    (home / "empty").touch()
    os.mkdir(os.fsencode(home) + b"/caf\xe9")
    found = {entry["name"]: entry for entry in listed(root).entries}
    kinds = {
        name: (each["directory"], each["symlink"], each["mime"]) for name, each in found.items()
    }
    assert kinds == {
        "caf\U0010fee9": (True, False, DIRECTORY),
        "directory": (True, False, DIRECTORY),
        "empty": (False, False, TEXT),
        "fifo": (False, False, BINARY),
        "link": (False, True, BINARY),
        "link to directory": (False, True, BINARY),
        "socket": (False, False, BINARY),
        "text": (False, False, TEXT),
    }
    assert found["link"]["size"] == len(str(tmp_path / "secret.txt"))


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        (Sort.NAME_DESC, ["d", "c", "b", "a"]),
        (Sort.SIZE_ASC, ["d", "b", "a", "c"]),
        (Sort.SIZE_DESC, ["d", "c", "a", "b"]),
        (Sort.MODIFIED_ASC, ["d", "c", "a", "b"]),
        (Sort.MODIFIED_DESC, ["d", "b", "a", "c"]),
        (Sort.PHYSICAL_SIZE_ASC, ["d", "b", "a", "c"]),
    ],
)
def test_the_order_may_be_chosen(
    home: Path, root: ServerRoot, sort: Sort, expected: list[str]
) -> None:
    (home / "d").mkdir()
    for name, size, modified in (("a", 5000, 2), ("b", 1, 3), ("c", 50_000, 1)):
        (home / name).write_bytes(b"x" * size)
        os.utime(home / name, (modified, modified))
    assert names(listed(root, page=Page(sort=sort))) == expected


def test_a_page_is_cut_out_of_all(home: Path, root: ServerRoot) -> None:
    for number in range(10):
        (home / f"{number}").touch()
    second = listed(root, page=Page(2, 4))
    assert (names(second), second.total) == (["4", "5", "6", "7"], 10)
    assert names(listed(root, page=Page(3, 4))) == ["8", "9"]
    assert names(listed(root, page=Page(4, 4))) == []
    assert names(listed(root, page=Page(10**14, 10**14))) == []


def test_what_is_hidden_is_not_there(home: Path, root: ServerRoot) -> None:
    (home / "plugins/config").mkdir(parents=True)
    for name in ("a.key", "b", "config"):
        (home / "plugins" / name).mkdir(exist_ok=True)
    found = listed(root, "plugins", hidden=("*.key", "/plugins/config/"))
    assert (names(found), found.total) == (["b"], 1)


def test_a_listing_ends_when_the_client_has_gone(home: Path, root: ServerRoot) -> None:
    (home / "a").touch()
    with pytest.raises(FileWorkCancelled):
        list_directory(root, ServerPath(), Page(), (), lambda: True)


def test_only_so_many_files_are_looked_into_and_others_judged_by_their_names(
    home: Path, root: ServerRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing_module, "SNIFFED", 1)
    (home / "a").write_text("text")
    (home / "b").write_text("text")
    (home / "c.log").write_text("text")
    (home / "empty").touch()
    mimes = [entry["mime"] for entry in listed(root).entries]
    assert mimes == [TEXT, BINARY, TEXT, TEXT]


def test_of_a_huge_directory_as_many_as_are_allowed_are_listed(
    home: Path, root: ServerRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing_module, "MAX_ENTRIES", 3)
    for number in range(4):
        (home / f"{number}").touch()
    found = listed(root)
    assert (len(found.entries), found.is_complete) == (3, False)


@pytest.mark.promise("server-files-are-bounded")
def test_the_data_of_entries_is_made_piece_by_piece_when_it_is_used(
    home: Path, root: ServerRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def entry_data(entry: Entry, mime: str) -> dict[str, Any]:
        made.append(entry.text)
        return {"name": entry.text}

    monkeypatch.setattr(listing_module, "entry_data", entry_data)
    for name in ("a", "b", "c"):
        (home / name).write_text("x")
    found = listed(root).entries
    assert made == []
    assert (found[1], found[:2]) == ({"name": "b"}, [{"name": "a"}, {"name": "b"}])
    assert made == ["b", "a", "b"]


@pytest.mark.promise("server-files-are-bounded")
def test_the_names_of_a_listing_take_so_many_bytes(
    home: Path, root: ServerRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing_module, "MAX_NAMES", 4 * 20)
    for number in range(10):
        (home / os.fsdecode(b"\xff" * 9 + b"%d" % number)).touch()
    found = listed(root)
    assert (found.total, found.is_complete) == (2, False)
