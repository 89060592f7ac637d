"""Downloads from a URL into a server's files, as each family's Panel asks for them."""

from __future__ import annotations

import stat
from typing import Any

import attrs
import pytest

from tests.api.file_node import Make
from tests.api.file_pulls import (
    BODY,
    SOURCE,
    pull,
    pulled,
    slowly,
    url_of,
)
from tests.api.node import UUID
from tests.http_client.fetching import Names
from tests.http_client.test_download import says
from tests.http_client.test_redirects import leads_to
from tests.support.owner import OWNER
from tests.support.reactor import until
from tests.transfers.peers import Peer
from wingsd.config import CALAGOPUS, PELICAN, PTERODACTYL

pytestmark = pytest.mark.promise("url-download-is-whole-or-nothing")

ALL = [PTERODACTYL, PELICAN, CALAGOPUS]

# What is downloaded


@pytest.mark.parametrize("family", ALL)
async def test_a_file_is_downloaded_in_the_foreground(make: Make, family: str) -> None:
    node = make(family)
    status, entry = await pulled(node, SOURCE + b"\r\n" + BODY, root="/x/y")
    path = node.home / "x/y/mod.jar"
    assert (status, entry["name"], entry["size"]) == (200, "mod.jar", len(BODY))
    assert path.read_bytes() == BODY
    found = path.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (*OWNER, 0o644)
    assert node.files.disk_bytes == len(BODY)
    assert node.files.said == []


@pytest.mark.parametrize(
    ("family", "agent"),
    [
        (PTERODACTYL, b"Pterodactyl Panel (https://pterodactyl.io)"),
        (PELICAN, b"Pelican Panel (https://pelican.dev)"),
        (CALAGOPUS, b"wingsd/"),
    ],
)
async def test_a_file_is_downloaded_behind_the_answer(
    make: Make, family: str, agent: bytes
) -> None:
    node = make(family)
    peer = Peer(says(SOURCE + b"\r\n" + BODY))
    status, answer = await pull(node, url_of(peer))
    assert (status, list(answer)) == (202, ["identifier"])
    assert b"User-Agent: " + agent in await peer.outcome
    await until(lambda: not node.pulls.of(UUID))
    assert (node.home / "mod.jar").read_bytes() == BODY
    assert node.files.said == ["Downloading mod.jar from 127.0.0.1 is complete."]


async def test_an_existing_file_is_replaced_when_the_new_one_is_whole(make: Make) -> None:
    node = make()
    (node.home / "mod.jar").write_bytes(b"old")
    (node.home / "mod.jar").chmod(0o600)
    server, _ = await slowly(node)
    assert (node.home / "mod.jar").read_bytes() == b"old"
    server.released.set()
    await until(lambda: not node.pulls.of(UUID))
    assert await server.peer.outcome is True
    assert node.names() == ["mod.jar"]
    assert (node.home / "mod.jar").read_bytes() == BODY
    assert stat.S_IMODE((node.home / "mod.jar").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("path", "header", "body", "name"),
    [
        ("/a/b.zip?c/d", "", {}, "b.zip"),
        ("/a%20b%2Fc.zip", "", {}, "c.zip"),
        ("/b.zip", "", {"file_name": "x/c.zip"}, "x/c.zip"),
        ("/b.zip", 'attachment; filename="h.zip"', {}, "b.zip"),
        ("/b.zip", 'attachment; filename="h.zip"', {"use_header": True}, "h.zip"),
        (
            "/b.zip",
            "attachment; filename=h; filename*=UTF-8''%C3%BC.zip",
            {"use_header": True, "file_name": "c.zip"},
            "ü.zip",
        ),
        ("/b.zip", 'attachment; filename="../../h.zip"', {"use_header": True}, "h.zip"),
        ("/b.zip", "", {"use_header": True}, "b.zip"),
        ("/", 'attachment; filename="h.zip"', {"use_header": True}, "h.zip"),
        ("/b.zip", "", {"file_name": "../c.zip", "root": "/d/e"}, "d/c.zip"),
        ("/b.zip", "", {"root": "", "directory": "/d"}, "d/b.zip"),
    ],
)
async def test_the_name_of_the_file(
    make: Make, path: str, header: str, body: dict[str, Any], name: str
) -> None:
    node = make()
    line = f"Content-Disposition: {header}\r\n" if header else ""
    status, _ = await pulled(node, SOURCE + line.encode() + b"\r\n" + BODY, path, **body)
    assert status == 200
    assert (node.home / name).read_bytes() == BODY


# What is refused


@pytest.mark.parametrize(
    "body",
    [
        {"url": "http://example.com/a", "root": ""},
        {"url": "http://example.com/a", "root": None, "directory": None},
        {"root": "/"},
    ],
)
async def test_url_and_directory_are_required(make: Make, body: dict[str, Any]) -> None:
    reply = await make().post("pull", body)
    assert reply.status == 400


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "An error occurred while parsing that URL: it must begin with http:// or https://"),
        ("http://u:p@a/b", "An error occurred while parsing that URL: "),
        ("http://example.com/", "Cannot perform that action: the file has no name."),
        ("http://example.com/a/..", "Cannot perform that action: the file has no name."),
    ],
)
async def test_a_url_is_refused_at_once(make: Make, url: str, message: str) -> None:
    status, answer = await pull(make(), url)
    assert (status, answer["error"][: len(message)]) == (400, message)


@pytest.mark.parametrize(("family", "status"), [(PTERODACTYL, 400), (CALAGOPUS, 417)])
async def test_downloads_may_be_disabled(make: Make, family: str, status: int) -> None:
    node = make(family)
    node.live.current = attrs.evolve(
        node.config, api=attrs.evolve(node.config.api, disable_remote_download=True)
    )
    for call in ("pull", "pull/query"):
        reply = await node.post(call, {"root": "/", "url": "http://example.com/a"})
        assert (reply.status, reply.json["error"]) == (
            status,
            "This functionality is not currently enabled on this instance.",
        )


@pytest.mark.parametrize("redirected", [False, True])
@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.2:8080/a",
        "http://inside.example/a",
    ],
)
async def test_networks_of_the_node_are_refused(make: Make, url: str, redirected: bool) -> None:
    node = make(names=Names({"inside.example": [["10.0.0.1", "fd00::1"]]}))
    peer = leads_to(url) if redirected else None
    status, answer = await pull(node, url_of(peer) if peer else url, foreground=True)
    assert (status, answer["code"]) == (400, "address-blocked")
    if peer:
        await peer.outcome
    assert node.names() == []


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", "status 404"),
        (b"HTTP/1.1 200 OK\r\n\r\nbody", "does not tell the length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "the file is empty"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", "ended before the file did"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nbody", "gzip"),
    ],
)
async def test_an_answer_that_is_no_whole_file_is_refused(
    make: Make, answer: bytes, why: str
) -> None:
    node = make()
    status, found = await pulled(node, answer)
    assert (status, found["error"]) == (400, "The file could not be downloaded from that URL.")
    assert why in found["detail"]
    assert node.names() == []
    assert node.files.disk_bytes == 0


@pytest.mark.parametrize(("limit", "size"), [(1000, 1001), (None, 10**17)])
async def test_a_file_above_the_limit_or_the_disk_is_refused_before_it_is_received(
    make: Make, limit: int | None, size: int
) -> None:
    node = make()
    node.files.files.usage.limit = limit
    status, answer = await pulled(node, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
    assert (status, answer["code"]) == (400, "disk-limit-exceeded")
    assert answer["error"] == "There is not enough disk space available to perform that action."
    assert limit or "do not fit on the disk of the node" in answer["detail"]
    assert node.names() == []


async def test_what_the_denylist_has_is_not_written(make: Make) -> None:
    node = make()
    node.files.deny("*.key")
    header = b'Content-Disposition: attachment; filename="a.key"\r\n'
    found = await pulled(node, SOURCE + header + b"\r\n" + BODY, use_header=True)
    assert (found[0], found[1]["code"]) == (403, "file-denied")
    found = await pulled(node, SOURCE + b"\r\n" + BODY, ignored=["mod.*"])
    assert (found[0], found[1]["code"]) == (403, "file-denied")
    assert node.names() == []


async def test_a_failure_behind_the_answer_is_told_in_the_console(make: Make) -> None:
    node = make()
    assert (await pull(node, "http://127.0.0.2/mod.jar"))[0] == 202
    await until(lambda: not node.pulls.of(UUID))
    (line,) = node.files.said
    assert line.startswith("Downloading mod.jar from 127.0.0.2 failed: This node does not connect")


# How many


async def test_a_server_has_three_downloads_at_a_time(make: Make) -> None:
    node = make()
    begun = [(await slowly(node, file_name=str(number)))[0] for number in range(3)]
    for call in ("pull", "pull/query"):
        reply = await node.post(call, {"root": "/", "url": "http://127.0.0.1:1/a"})
        assert (reply.status, reply.json["error"]) == (
            400,
            "This server has reached its limit of 3 simultaneous remote file downloads at once. "
            "Please wait for one to complete before trying again.",
        )
    begun[0].released.set()
    await until(lambda: len(node.pulls.of(UUID)) == 2)
    await begun[0].peer.outcome
    assert (await pulled(node, SOURCE + b"\r\n" + BODY))[0] == 200
    for each in begun[1:]:
        each.released.set()
        await each.peer.outcome
    await until(lambda: not node.pulls.of(UUID))
