"""Denylists: git's semantics, and patterns and lists that are made to be slow."""

from __future__ import annotations

import gc
import time
from types import SimpleNamespace
from typing import Any
from weakref import ref

import pytest

from tests.support.logged_errors import Logged
from wingsd.files.denylist import Denylist, denylist_lines
from wingsd.files.tasks import FileWork
from wingsd.filesystem.paths import ServerPath

pytestmark = pytest.mark.promise("files-stay-inside-the-server")


def denied(path: str, *lines: str) -> bool:
    is_directory = path.endswith("/")
    return Denylist(lines).denies(ServerPath.parse(path), is_directory=is_directory)


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("secret.txt", "secret.txt"),
        ("secret.txt", "deep/down/secret.txt"),
        ("secret.txt", "secret.txt/below"),
        ("/secret.txt", "secret.txt"),
        ("*.key", "a/b.key"),
        ("config/*.yml", "config/a.yml"),
        ("config/", "config/a"),
        ("config/", "config/"),
        ("config/", "a/config/b/c"),
        ("**/logs", "a/b/logs"),
        ("a/**/z", "a/b/c/z"),
        ("a/**", "a/b"),
        ("?.txt", "a.txt"),
        ("[ab].txt", "b.txt"),
        ("[!ab].txt", "c.txt"),
        ("\\#x", "#x"),
        ("\\!x", "!x"),
        ("  spaced  ", "spaced"),
        ("plugin folder/", "plugin folder/a"),
        ("ümlaut", "ümlaut"),
        ("*", "anything"),
        ("*", "with\nnewline"),
        ("secret*", "secret\nx/below"),
    ],
)
def test_a_path_is_denied(line: str, path: str) -> None:
    assert denied(path, line)


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("secret.txt", "secret.txt.bak"),
        ("secret.txt", "SECRET.TXT"),
        ("/secret.txt", "a/secret.txt"),
        ("config/*.yml", "config/a/b.yml"),
        ("config/*.yml", "a/config/b.yml"),
        ("config/", "config"),
        ("?.txt", "/.txt"),
        ("# comment", "# comment"),
        ("", "a"),
        ("/", "a"),
        ("!a", "a"),
        ("*", "/"),
    ],
)
def test_a_path_is_not_denied(line: str, path: str) -> None:
    assert not denied(path, line)


@pytest.mark.parametrize(
    ("lines", "path", "expected"),
    [
        (("*", "!server.properties"), "server.properties", False),
        (("*", "!server.properties"), "other", True),
        (("!a", "a"), "a", True),
        (("a", "!a", "a"), "a", True),
        (("*.txt", "!docs/"), "docs/a.txt", True),
        (("logs/", "!logs/keep"), "logs/keep", False),
        (("logs/", "!logs/keep"), "logs/a", True),
        (("logs/", "!logs/"), "logs/a", False),
    ],
)
def test_the_last_line_that_matches_decides(
    lines: tuple[str, ...], path: str, expected: bool
) -> None:
    assert denied(path, *lines) is expected


def test_a_name_that_is_not_utf_8_is_matched() -> None:
    path = ServerPath((b"caf\xe9.key",))
    assert Denylist(["*.key"]).denies(path)
    assert not Denylist(["caf.key"]).denies(path)


@pytest.mark.parametrize(
    "lines",
    [
        ["*a" * 500 + "b"],
        ["**/a/" * 200 + "b"],
        ["?*" * 500],
        ["[a-z]*" * 170 + "!"],
    ],
)
def test_a_pattern_made_to_be_slow_is_matched_in_linear_time(lines: list[str]) -> None:
    denylist = Denylist(lines)
    path = ServerPath.parse("/".join(["a" * 200] * 15))
    denylist.denies(path)
    begun = time.process_time()
    denylist.denies(path)
    assert time.process_time() - begun < 0.5


def test_ten_thousand_lines_are_matched_quickly_once_they_are_compiled() -> None:
    denylist = Denylist([f"directory{number}/**/*.log" for number in range(10_000)])
    assert denylist.denies(ServerPath.parse("directory9999/a/b.log"))
    begun = time.process_time()
    for number in range(100):
        assert not denylist.denies(ServerPath.parse(f"other/a/{number}.log"))
    assert time.process_time() - begun < 1


def test_lines_that_cannot_be_used_are_left_out_and_logged(logged: Logged) -> None:
    denylist = Denylist(["a" * 5000, "!", "good"])
    assert denylist.denies(ServerPath.parse("good"))
    assert any("too long" in line for line in logged.lines)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ()),
        (["a", "", " ", "b", 5, None], ("a", "b")),
        ({"0": "a", "1": "b"}, ("a", "b")),
        ("a\r\nb", ("a", "b")),
        (7, ()),
    ],
)
def test_the_setting_may_have_any_form(value: object, expected: tuple[str, ...]) -> None:
    assert denylist_lines(value) == expected


class GameServer:
    """A server, as far as its egg's denylist goes."""

    def __init__(self) -> None:
        self.egg = SimpleNamespace(file_denylist=["x"])
        self.configuration = SimpleNamespace(settings=SimpleNamespace(egg=self.egg))


def denylist_of() -> Any:
    unused: Any = None
    return FileWork(*[unused] * 9).denylist


def test_a_servers_denylist_is_kept_until_it_changes() -> None:
    denylist, server, other = denylist_of(), GameServer(), GameServer()
    first = denylist(server)
    assert denylist(server) is first
    assert denylist(other) is not first
    server.egg.file_denylist = ["y"]
    changed = denylist(server)
    assert changed.denies(ServerPath.parse("y"))
    assert not changed.denies(ServerPath.parse("x"))
    other.egg.file_denylist = None
    assert denylist(other).is_empty


def test_the_denylist_of_a_server_that_has_gone_is_forgotten() -> None:
    denylist, server = denylist_of(), GameServer()
    kept = ref(denylist(server))
    assert kept() is not None
    del server
    gc.collect()
    assert kept() is None
