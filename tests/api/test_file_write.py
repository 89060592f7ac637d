"""`write`: the body becomes the file when it is complete, and never before."""

from __future__ import annotations

import os
import socket
import stat
import struct
from urllib.parse import quote

import pytest

from tests.api.file_node import FILES, FileNode, Make
from tests.api.node import TOKEN
from tests.support.owner import OWNER
from tests.support.reactor import until
from wingsd.config import CALAGOPUS, PELICAN, PTERODACTYL
from wingsd.servers.operations import Operation

OLD, NEW = b"old content", b"new content, which is longer"


async def write(node: FileNode, path: str, data: bytes, **headers: str) -> tuple[int, object]:
    reply = await node.call("POST", f"{FILES}/write?file={quote(path)}", data, **headers)
    return reply.status, reply.json


def head(length: int | None, path: str = "a", *more: str) -> bytes:
    lines = [
        f"POST /api/{FILES}/write?file={path} HTTP/1.1",
        "Host: node",
        f"Authorization: Bearer {TOKEN}",
        *([] if length is None else [f"Content-Length: {length}"]),
        *more,
    ]
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


def connected(node: FileNode) -> socket.socket:
    return socket.create_connection(("127.0.0.1", node.port))


def temporary(node: FileNode) -> list[str]:
    return [name for name in node.names() if name.startswith(".wingsd-")]


async def answer(client: socket.socket) -> bytes:
    """Return the beginning of an answer, as far as its error; the reactor goes on meanwhile."""
    client.setblocking(False)
    received = bytearray()

    def answered() -> bool:
        try:
            received.extend(client.recv(65536))
        except BlockingIOError:
            return False
        return b'"error"' in received

    await until(answered)
    return bytes(received)


@pytest.mark.parametrize("family", [PTERODACTYL, PELICAN])
async def test_a_file_is_written_with_its_directories_and_owner(make: Make, family: str) -> None:
    node = make(family)
    assert await write(node, "/x/y/ a\u00fc.txt", NEW) == (204, None)
    path = node.home / "x/y/ a\u00fc.txt"
    found = path.stat()
    assert (path.read_bytes(), stat.S_IMODE(found.st_mode)) == (NEW, 0o644)
    assert (found.st_uid, found.st_gid) == OWNER
    assert node.files.disk_bytes == len(NEW)


async def test_calagopus_panel_gets_no_revision(make: Make) -> None:
    node = make(CALAGOPUS)
    reply = await node.call("POST", f"{FILES}/write?file=a&user=x", NEW)
    assert (reply.status, reply.json) == (200, {"revision_id": None})


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/msgpack", ""])
@pytest.mark.parametrize("data", [b"", b"{", b"\0\xff", b"a" * 3_000_000])
async def test_the_body_is_the_content_whatever_it_is(make: Make, kind: str, data: bytes) -> None:
    node = make()
    reply = await node.call("POST", f"{FILES}/write?file=a", data, Content_Type=kind)
    assert reply.status in (200, 204)
    assert (node.home / "a").read_bytes() == data


async def test_a_file_that_is_replaced_keeps_its_mode_and_a_hard_link_its_content(
    make: Make,
) -> None:
    node = make()
    (node.home / "a").write_bytes(OLD)
    (node.home / "a").chmod(0o751)
    os.link(node.home / "a", node.home / "other")
    assert (await write(node, "a", NEW))[0] == 204
    assert stat.S_IMODE((node.home / "a").stat().st_mode) == 0o751
    assert (node.home / "a").read_bytes() == NEW
    assert (node.home / "other").read_bytes() == OLD


async def test_until_the_body_is_complete_the_old_file_is_there(make: Make) -> None:
    node = make()
    (node.home / "a").write_bytes(OLD)
    with connected(node) as client:
        client.sendall(head(1_000_000) + b"x" * 600_000)
        await until(lambda: temporary(node))
        await until(lambda: (node.home / temporary(node)[0]).stat().st_size)
        assert (node.home / "a").read_bytes() == OLD
        assert node.files.disk_bytes == 1_000_000  # beside the old one
        assert node.files.operations.runs(Operation.CHANGE_FILES)
        client.sendall(b"x" * 400_000)
        await until(lambda: not temporary(node))
    assert (node.home / "a").read_bytes() == b"x" * 1_000_000


@pytest.mark.promise("files-are-old-or-new")
@pytest.mark.parametrize("how", ["closes", "resets"])
async def test_a_client_that_breaks_off_leaves_the_old_file(make: Make, how: str) -> None:
    node = make()
    (node.home / "a").write_bytes(OLD)
    client = connected(node)
    client.sendall(head(1_000_000) + b"x" * 600_000)
    await until(lambda: temporary(node))
    if how == "resets":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    await until(lambda: node.names() == ["a"])
    assert (node.home / "a").read_bytes() == OLD
    await until(lambda: not node.files.operations.runs(Operation.CHANGE_FILES))
    assert node.files.disk_bytes == 0


async def test_a_body_without_its_length_is_refused(make: Make) -> None:
    node = make()
    with connected(node) as client:
        client.sendall(head(None, "a", "Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n")
        received = await answer(client)
    assert received.startswith(b"HTTP/1.1 400")
    assert b"Missing Content-Length" in received
    assert node.names() == []


async def test_a_file_above_the_limit_is_refused_before_its_first_byte(make: Make) -> None:
    node = make()
    node.files.files.usage.limit = 1000
    (node.home / "a").write_bytes(OLD)
    with connected(node) as client:
        client.sendall(head(10**12, "a", "Expect: 100-continue"))
        received = await answer(client)
    assert received.startswith(b"HTTP/1.1 400")
    assert b"not enough disk space" in received
    assert b"100 Continue" not in received
    assert (node.names(), node.files.disk_bytes) == (["a"], 0)


async def test_a_smaller_file_can_be_written_above_the_limit(make: Make) -> None:
    node = make()
    (node.home / "a").write_bytes(OLD)
    usage = node.files.files.usage
    usage.used, usage.limit = 2000, 1000
    assert (await write(node, "a", b"x"))[0] == 204
    assert usage.used == 2000 - len(OLD) + 1


async def test_what_cannot_be_written_is_refused(make: Make) -> None:
    node = make()
    node.files.deny("*.key", "/hidden/")
    (node.home / "d").mkdir()
    (node.home / "hidden").mkdir()
    (node.home / "link").symlink_to("/etc/passwd")
    (node.home / "way").symlink_to("hidden")
    os.mkfifo(node.home / "fifo")
    (node.home / "file").write_bytes(OLD)
    before = node.names()
    conflict = "Cannot write file, name conflicts with an existing directory by the same name."
    expected = {
        "d": (400, conflict),
        "": (400, conflict),
        "/": (400, conflict),
        "a.key": (403, "This file cannot be modified: present in egg denylist."),
        "way/x": (403, "This file cannot be modified: present in egg denylist."),
        "link": (400, "Cannot open files of this type."),
        "fifo": (400, "Cannot open files of this type."),
        "file/x": (400, "Part of the path being created is not a directory (ENOTDIR)."),
        "n" * 256: (400, "Cannot perform that action: file name is too long."),
    }
    for path, answer in expected.items():
        status, data = await write(node, path, NEW)
        assert isinstance(data, dict)
        assert (status, data["error"]) == answer
    assert node.names() == before
    assert node.files.disk_bytes == 0


async def test_a_write_ends_when_the_server_is_taken(make: Make) -> None:
    node = make()
    (node.home / "a").write_bytes(OLD)
    with connected(node) as client:
        client.sendall(head(1_000_000) + b"x" * 600_000)
        await until(lambda: temporary(node))
        operations = node.files.operations
        operations.place_hold(Operation.TRANSFER_OUT, "why")
        await operations.ended(Operation.CHANGE_FILES)
        assert node.names() == ["a"]
        assert (await answer(client)).startswith(b"HTTP/1.1 409")
    assert (node.home / "a").read_bytes() == OLD


async def test_an_unauthorized_body_is_not_read(make: Make) -> None:
    node = make()
    reply = await node.call(
        "POST", f"{FILES}/write?file=a", b"x" * 2_000_000, Authorization="Bearer x"
    )
    assert (reply.status, node.names()) == (403, [])
