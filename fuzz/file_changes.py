"""Bodies of the calls that change a server's files, carried out on a directory in memory.

The first byte selects the call and its format. Whatever is asked for is done inside the server's
directory or refused with a reason; what is beside it stays as it is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fuzz.findings import Finding
from wingsd.api.file_changes import (
    FileCopies,
    FileModes,
    FileNames,
    FileRenames,
    NewArchive,
    NewDirectory,
    below,
)
from wingsd.errors import WingsdError
from wingsd.files.archives import Compressing, compress, kind_of_extension
from wingsd.files.changes import (
    Mode,
    copy,
    create_directory,
    delete,
    parse_mode,
    rename,
    set_modes,
)
from wingsd.files.denylist import Denylist
from wingsd.files.guard import Guard
from wingsd.filesystem.openers import directory_opener
from wingsd.filesystem.paths import ServerPath
from wingsd.filesystem.root import ServerRoot
from wingsd.filesystem.usage import UsageCounter
from wingsd.http.operations import parse
from wingsd.util.media import MediaType

__all__ = ["WORDS", "one", "seeds"]

WORDS = [
    *(f'"{name}":'.encode() for name in ("root", "files", "from", "to", "file", "mode", "name")),
    *(f'"{name}"'.encode() for name in ("a", "a/b", "out/x", "in/b", "fifo", "d.key", "755")),
    b'"recursive":true',
    b"..",
    b"\\u0000",
    b"\\udbff\\udea9",
]
_LIMIT = 10_000
_SERVER_ERROR = 500


def _rename(root: ServerRoot, guard: Guard, body: FileRenames) -> None:
    top = ServerPath.parse(body.root)
    rename(guard, [each.paths(top) for each in body.files])


def _delete(root: ServerRoot, guard: Guard, body: FileNames) -> None:
    paths = [below(body.root, name) for name in body.files]
    delete(guard, paths, missing=False)


def _chmod(root: ServerRoot, guard: Guard, body: FileModes) -> None:
    files = [
        Mode(below(body.root, each.file), parse_mode(each.mode), each.recursive)
        for each in body.files
    ]
    set_modes(guard, files)


def _create(root: ServerRoot, guard: Guard, body: NewDirectory) -> None:
    create_directory(guard, ServerPath.parse(body.root or body.path).joined(body.name))


def _copy(root: ServerRoot, guard: Guard, body: FileCopies) -> None:
    top = ServerPath.parse(body.root)
    for each in body.files:
        copy(guard, *each.paths(top), overwrite=body.overwrite, directories=True)


def _compress(root: ServerRoot, guard: Guard, body: NewArchive) -> None:
    top, kind = ServerPath.parse(body.root), kind_of_extension(body.extension)
    asked = Compressing(top, [ServerPath().joined(name) for name in body.files], kind)
    compress(guard, asked, [top.joined(body.name or "made")])


_CALLS: list[tuple[type[Any], Callable[[ServerRoot, Guard, Any], None]]] = [
    (FileRenames, _rename),
    (FileNames, _delete),
    (FileModes, _chmod),
    (NewDirectory, _create),
    (FileCopies, _copy),
    (NewArchive, _compress),
]


def one(data: bytes) -> None:
    """Carry out one call."""
    if not data:
        return
    kind, media = data[0] >> 1, MediaType.MESSAGE_PACK if data[0] & 1 else MediaType.JSON
    cls, work = _CALLS[kind % len(_CALLS)]
    try:
        body = parse(data[1:], cls, media)
    except WingsdError:
        return
    with TemporaryDirectory(dir="/dev/shm") as top:
        home = _planted(Path(top))
        usage = UsageCounter(used=10, limit=_LIMIT)
        try:
            with ServerRoot(str(home), directory_opener("auto"), None, usage) as root:
                work(root, Guard(root, Denylist(["*.key"])), body)
        except WingsdError as error:
            if error.status >= _SERVER_ERROR or not error.message:
                raise Finding(f"it is refused as {error.status}: {error}") from error
        _check(Path(top), home)


def _planted(top: Path) -> Path:
    home = top / "home"
    (home / "a").mkdir(parents=True)
    (top / "beside").write_text("beside")
    (top / "beside").chmod(0o640)
    (home / "a/b").write_text("b")
    (home / "d.key").write_text("key")
    (home / "out").symlink_to(top)
    (home / "in").symlink_to("a")
    os.mkfifo(home / "fifo")
    return home


def _check(top: Path, home: Path) -> None:
    beside = top / "beside"
    if sorted(os.listdir(top)) != ["beside", "home"] or beside.read_text() != "beside":
        raise Finding("something beside the server's directory has changed")
    if beside.stat().st_mode & 0o777 != 0o640:  # noqa: PLR2004
        raise Finding("the mode of a file beside the server's directory has changed")
    if not (home / "d.key").is_file():
        raise Finding("a denied file is gone")
    if any(name.startswith(".wingsd-") for name in os.listdir(home)):
        raise Finding("a file that was being written is left over")


def seeds() -> Iterator[bytes]:
    """Yield a body of each call."""
    bodies: list[dict[str, Any]] = [
        {"root": "/", "files": [{"from": "a", "to": "x/y"}, {"from": "fifo", "to": "in/f"}]},
        {"root": "/", "files": ["a", "in/b", "fifo", "d.key"]},
        {"root": "/", "files": [{"file": "a", "mode": "755", "recursive": True}]},
        {"name": "n/../m", "path": "in"},
        {"root": "/", "files": [{"from": "a", "to": "c"}], "overwrite": True},
        {"root": "/", "files": ["a", "out", "fifo"], "name": "x.zip", "extension": "zip"},
    ]
    for kind, body in enumerate(bodies):
        yield bytes([kind << 1]) + json.dumps(body).encode()
    yield b"\x03\x82\xa4root\xa1/\xa5files\x92\xa1a\xa2..\x00"
