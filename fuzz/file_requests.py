"""Requests for a server's files: bodies and queries, carried out on a directory of the disk.

The first byte selects the call and its format. Whatever is asked for is refused with a reason, or
answered with files of the server's directory; never with those beside it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import attrs

from fuzz.findings import Finding, fields
from wingsd.api.files import FileSearch, search_filter
from wingsd.errors import WingsdError
from wingsd.files.denylist import Denylist
from wingsd.files.entries import Page, list_directory
from wingsd.files.search import Search, SearchLimits, name_matcher
from wingsd.filesystem.openers import directory_opener
from wingsd.filesystem.paths import ServerPath
from wingsd.filesystem.root import ServerRoot
from wingsd.http.operations import parse
from wingsd.util.media import MediaType

__all__ = ["WORDS", "one", "seeds"]

WORDS = [
    *(f'"{name}":'.encode() for name in attrs.fields_dict(FileSearch)),
    *(f'"{name}":'.encode() for name in ("include", "exclude", "min", "max", "max_search_size")),
    b'["*"]',
    b"**/",
    b"!",
    b"[a-",
    b"..",
    b"\\\\",
    b"\0",
]
#: A file beside the server's directory, which no answer may be about.
_BESIDE = "outside"
_LIMITS = SearchLimits(results=20, seconds=5)


@cache
def _home() -> str:
    top = Path(mkdtemp(dir="/dev/shm"))
    home = top / "home"
    (home / "a/b").mkdir(parents=True)
    (top / _BESIDE).touch()
    (home / "out").symlink_to(top)
    (home / "a/in").symlink_to("b")
    for name in ("a/text.yml", "a/b/x.log", "empty"):
        (home / name).write_text("needle\n" if name != "empty" else "")
    return str(home)


def one(data: bytes) -> None:
    """Carry out a request: a search by a body, a search by a name, or a listing."""
    if not data:
        return
    kind, rest = data[0] % 4, data[1:]
    calls: list[Callable[[ServerRoot, bytes], list[dict[str, Any]]]] = [
        lambda root, body: _search(root, body, MediaType.JSON),
        lambda root, body: _search(root, body, MediaType.MESSAGE_PACK),
        _names,
        _list,
    ]
    try:
        with ServerRoot(_home(), directory_opener("auto")) as root:
            found = calls[kind](root, rest)
    except WingsdError as error:
        if error.status >= 500 or not error.message:  # noqa: PLR2004
            raise Finding(f"it is refused as {error.status}: {error}") from error
        return
    if any(_BESIDE in entry["name"] for entry in found):
        raise Finding("a file beside the server's directory is found")


def _search(root: ServerRoot, body: bytes, media: MediaType) -> list[dict[str, Any]]:
    request = parse(body, FileSearch, media)
    wanted, results = search_filter(request)
    limits = attrs.evolve(_LIMITS, results=max(1, min(results, _LIMITS.results)))
    start = ServerPath.parse(request.root)
    return Search(root, start, limits, lambda: False).by_content(wanted, ())


def _names(root: ServerRoot, data: bytes) -> list[dict[str, Any]]:
    directory, pattern = (each.decode("utf-8", "replace") for each in fields(data, 1))
    start = ServerPath.parse(directory)
    return Search(root, start, _LIMITS, lambda: False).by_name(name_matcher(pattern))


def _list(root: ServerRoot, data: bytes) -> list[dict[str, Any]]:
    directory, ignored = (each.decode("utf-8", "replace") for each in fields(data, 1))
    hidden = (Denylist(ignored.split("\n")),)
    start = ServerPath.parse(directory)
    listing = list_directory(root, start, Page(1, 20), hidden, lambda: False)
    return [*listing.entries]


def seeds() -> Iterator[bytes]:
    """Yield one request of each kind."""
    body = {
        "root": "/a",
        "path_filter": {"include": ["*.yml", "b/"], "exclude": ["!x"], "case_insensitive": True},
        "size_filter": {"min": 0, "max": 100},
        "content_filter": {"query": "NEEDLE", "max_search_size": 10, "case_insensitive": True},
        "per_page": 5,
    }
    yield b"\0" + json.dumps(body).encode()
    yield b"\0" + json.dumps({"query": "text", "include_content": True, "limit": 3}).encode()
    yield b"\1\x82\xa4root\xa1/\xa8per_page\x05"
    yield b"\2/a\0*.y?l"
    yield b"\3a/../a\0*.log\n!x.log\n/b/"
