"""Bad input: every field of every call that changes files, with what a client must not send."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.api.file_node import FILES, FileNode, Make
from wingsd.config import CALAGOPUS, PELICAN

pytestmark = [pytest.mark.root, pytest.mark.promise("files-stay-inside-the-server")]

#: A valid body of each call, with each of its fields.
BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "rename": ("PUT", {"root": "/", "files": [{"from": "a", "to": "b"}], "ignored": ["x"]}),
    "copy": (
        "POST",
        {"location": "a", "path": "a", "name": "b", "overwrite": True, "foreground": True},
    ),
    "copy-many": (
        "POST",
        {"root": "/", "files": [{"from": "a", "to": "b"}], "overwrite": True, "foreground": True},
    ),
    "delete": ("POST", {"root": "/", "files": ["a"], "ignored": ["x"]}),
    "create-directory": ("POST", {"name": "n", "path": "/", "root": "/"}),
    "create-symlink": ("POST", {"root": "/", "path": "/", "link": "l", "target": "a"}),
    "chmod": ("POST", {"root": "/", "files": [{"file": "a", "mode": "644", "recursive": True}]}),
    "compress": (
        "POST",
        {
            "root": "/",
            "files": ["a"],
            "name": "n",
            "extension": "zip",
            "format": "zip",
            "foreground": True,
            "ignored": ["x"],
        },
    ),
}
TEXTS = [
    "",
    "..",
    "../../outside/secret",
    "/etc/passwd",
    "/../outside",
    "out/secret",
    "loop/x",
    "a\0b",
    "n" * 256,
    "n/" * 3000 + "x",
    "\udcff",
    "\U0010feff",
    "a\n\x1b[2J",
    "a/x",
    "d",
    "fifo",
]
OTHERS: list[Any] = [None, 0, -1, 1e300, True, [], {}, [[]], ["a", 5], [{"from": 1}], 2**70]


def places(body: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each value in a body."""
    if path:
        yield path
    for key in (
        body if isinstance(body, dict) else range(len(body) if isinstance(body, list) else 0)
    ):
        yield from places(body[key], (*path, key))


def replaced(body: Any, path: tuple[Any, ...], value: Any) -> Any:
    copy = json.loads(json.dumps(body))
    target = copy
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return copy


def value_at(body: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        body = body[key]
    return body


def prepare(node: FileNode, outside: Path) -> None:
    # Those that are there are left: ext4 flushes a truncated file when it is closed.
    node.plant(*(name for name in ("a", "d/e") if not (node.home / name).is_file()))
    for name, target in (("out", outside), ("loop", "loop"), ("link", outside / "secret")):
        if not (node.home / name).is_symlink():
            (node.home / name).symlink_to(target)
    if not (node.home / "fifo").exists():
        os.mkfifo(node.home / "fifo")


@pytest.mark.parametrize("call", BODIES)
async def test_each_field_with_anything_is_done_inside_or_refused_with_a_reason(
    make: Make, outside: Path, call: str
) -> None:
    # Of a file by `location` a copy is made for other families.
    node = make(PELICAN if call in ("compress", "copy") else CALAGOPUS)
    method, body = BODIES[call]
    for place in places(body):
        values = [*OTHERS, *(TEXTS if isinstance(value_at(body, place), str) else [])]
        for value in values:
            prepare(node, outside)
            reply = await node.post(call, replaced(body, place, value), method)
            assert reply.status < 500, (place, value, reply.text)
            if reply.status >= 400:
                assert reply.json["error"], (place, value)
            assert [each.name for each in outside.iterdir()] == ["secret"], (place, value)
            assert (outside / "secret").read_text() == "secret"
            assert (outside / "secret").stat().st_mode & 0o777 == 0o644


async def test_a_file_is_written_inside_or_refused(make: Make, outside: Path) -> None:
    node = make()
    for text in TEXTS:
        prepare(node, outside)
        name = quote(text.encode("utf-8", "surrogateescape"))
        for path in (name, f"d/{name}", f"{name}/x"):
            reply = await node.call("POST", f"{FILES}/write?file={path}", b"x")
            assert reply.status in (204, 400, 404), (path, reply.text)
    assert (outside / "secret").read_text() == "secret"
    assert [each.name for each in outside.iterdir()] == ["secret"]


async def test_what_is_no_body_is_refused_with_a_reason(make: Make) -> None:
    node = make()
    for call, (method, _) in BODIES.items():
        for body in (b"", b"{", b"5", b'"x"', b"null", b"\xff", b"[" * 100_000):
            reply = await node.call(method, f"{FILES}/{call}", body)
            assert (reply.status, bool(reply.json["error"])) == (400, True), (call, body[:9])
    reply = await node.call("POST", f"{FILES}/delete", b'{"files": [' + b"1," * 400_000)
    assert reply.status in (400, 413)


async def test_a_long_list_of_files_is_done(make: Make) -> None:
    node = make()
    node.plant("a")
    files = [f"gone {number}" for number in range(10_000)] + ["a"]
    reply = await node.post("delete", {"root": "/", "files": files})
    assert (reply.status, node.names()) == (204, [])
