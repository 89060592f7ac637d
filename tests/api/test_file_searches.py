"""The calls that search a server's files and take their fingerprints, over HTTP."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.web.client import ResponseNeverReceived

from tests.api.file_server import FILES, FileServer, get, serving_files
from tests.api.node import ApiNode, reactor
from wingsd.errors import FileWorkCancelled
from wingsd.filesystem.root import ServerRoot
from wingsd.threadio import Workers

pytestmark = pytest.mark.promise("files-stay-inside-the-server")


@pytest.fixture
def node(home: Path) -> Iterator[ApiNode]:
    with serving_files(home) as made:
        yield made


@pytest.fixture
def server(node: ApiNode) -> FileServer:
    found = node.server
    assert isinstance(found, FileServer)
    return found


async def test_a_search_ends_when_its_client_goes(
    node: ApiNode, server: FileServer, home: Path
) -> None:
    begun: Deferred[None] = Deferred()
    ended: Deferred[None] = Deferred()

    async def run(work: Callable[[ServerRoot], Any], **options: Any) -> Any:
        # The search itself, which waits for nothing but the client.
        workers: Workers = options["workers"]

        def until_gone(root: ServerRoot) -> None:
            reactor.callFromThread(begun.callback, None)
            while True:
                try:
                    work(root)
                except FileWorkCancelled:
                    reactor.callFromThread(ended.callback, None)
                    raise

        return await workers.run(server.files._with_root, until_gone)

    server.files.run = run  # type: ignore[method-assign]
    asking = Deferred.fromCoroutine(get(node, "search?pattern=abc"))
    asking.addErrback(lambda failure: failure.trap(CancelledError, ResponseNeverReceived))
    await begun
    asking.cancel()
    await ended


async def test_names_are_searched(node: ApiNode, home: Path) -> None:
    (home / "plugins/a").mkdir(parents=True)
    (home / "plugins/a/Config.yml").write_text("x")
    (home / "node_modules").mkdir()
    (home / "node_modules/config.yml").touch()
    for directory, expected in (
        ("", "plugins/a/Config.yml"),
        ("/", "plugins/a/Config.yml"),
        ("/plugins/", "/plugins/a/Config.yml"),
        ("plugins", "plugins/a/Config.yml"),
    ):
        reply = await get(node, f"search?directory={directory}&pattern=*.YML")
        assert (reply.status, [entry["name"] for entry in reply.json]) == (200, [expected])
    short = await get(node, "search?pattern=ab")
    assert (short.status, short.json["error"]) == (
        400,
        "Pattern must be at least 3 characters long",
    )


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"per_page": 10}, ["a.txt", "b.log", "deep/c.txt"]),
        ({"per_page": 10, "root": "/deep"}, ["c.txt"]),
        ({"per_page": 1, "path_filter": {"include": ["b*"], "exclude": []}}, ["b.log"]),
        (
            {"per_page": 10, "path_filter": {"include": ["*.TXT"], "case_insensitive": True}},
            ["a.txt", "deep/c.txt"],
        ),
        ({"per_page": 10, "size_filter": {"min": 2, "max": 10}}, ["a.txt"]),
        (
            {"per_page": 10, "content_filter": {"query": "NEE", "max_search_size": 100}},
            [],
        ),
        (
            {
                "per_page": 10,
                "content_filter": {
                    "query": "NEE",
                    "max_search_size": 100,
                    "case_insensitive": True,
                },
            },
            ["a.txt"],
        ),
        ({"query": "deep"}, ["deep/c.txt"]),
        ({"query": "need", "include_content": True}, ["a.txt"]),
    ],
)
async def test_files_are_searched(
    node: ApiNode, home: Path, content: dict[str, Any], expected: list[str], packed: bool
) -> None:
    (home / "deep").mkdir()
    (home / "a.txt").write_text("needle")
    (home / "b.log").write_text("b")
    (home / "deep/c.txt").write_text("c")
    form = "application/msgpack"
    headers = {"Accept": form, "Content-Type": form} if packed else {}
    body: Any = msgpack.packb(content) if packed else content
    reply = await node.call("POST", f"{FILES}/search", body, **headers)
    assert reply.status == 200
    answer = msgpack.unpackb(reply.content) if packed else reply.json
    assert sorted(entry["name"] for entry in answer["results"]) == expected


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"nonsense",
        {"per_page": "many"},
        {"per_page": 10, "root": 5},
        {"per_page": 10, "path_filter": "*"},
        {"per_page": 10, "path_filter": {"include": [5]}},
        {"per_page": 10, "size_filter": {"min": 5}},
        {"per_page": 10, "content_filter": {"query": "x"}},
        {"per_page": 10, "root": "a\0b"},
        {"per_page": 10, "root": "\ud800"},
        json.dumps({"per_page": 10, "root": "x" * 5000}).encode(),
    ],
)
async def test_an_invalid_search_is_refused(node: ApiNode, content: object) -> None:
    reply = await node.call("POST", f"{FILES}/search", content)
    assert reply.status == 400
    assert reply.json["code"] in ("bad-request", "file-path-invalid", "file-name-too-long")


async def test_fingerprints_are_of_the_files_that_may_be_read(
    node: ApiNode, server: FileServer, home: Path
) -> None:
    (home / "deep").mkdir()
    (home / "deep/a").write_bytes(b"abc")
    (home / "deep/b.key").write_bytes(b"abc")
    (home / "link").symlink_to("deep/a")
    os.mkfifo(home / "fifo")
    server.deny("*.key")
    files = "&files=".join(["deep/a", "deep/b.key", "missing", "link", "fifo", "deep", "../x"])
    reply = await get(node, f"fingerprints?algorithm=md5&files={files}")
    assert reply.json == {"fingerprints": {"deep/a": "900150983cd24fb0d6963f7d28e17f72"}}
    below = await get(node, "fingerprints?algorithm=CRC32&root=deep&files[]=a&files[]=./a")
    assert below.json == {"fingerprints": {"a": "352441c2", "./a": "352441c2"}}
    unknown = await get(node, "fingerprints?algorithm=whirlpool&files=a")
    assert (unknown.status, unknown.json["code"]) == (400, "bad-request")
