"""A real daemon takes moves over TLS, from a source that is written by their page alone."""

from __future__ import annotations

import hashlib
import socket
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from twisted.internet.threads import deferToThread

from tests.support.move_client import MoveClient
from tests.support.reactor import until
from tests.support.receiving_node import ReceivingNode
from tests.support.sample_server import UUID

SIZE = 3 << 20


@pytest.fixture
def server(tmp_path: Path) -> Path:
    root = tmp_path / "server"
    (root / "world").mkdir(parents=True)
    (root / "world" / "region.mca").write_bytes(hashlib.shake_128(b"seed").digest(SIZE))
    (root / "world" / "same.mca").hardlink_to(root / "world" / "region.mca")
    (root / "latest").symlink_to("world/region.mca")
    return root


def source(daemon: ReceivingNode, root: Path) -> MoveClient:
    url = f"{daemon.url}/api/transfers"
    return MoveClient(url, UUID, daemon.token(), root, str(daemon.ca))


@pytest.mark.promise("move-continues-after-breaks")
async def test_a_killed_daemon_loses_nothing_that_has_arrived(
    daemon: ReceivingNode, server: Path
) -> None:
    await daemon.start_loaded()
    client = source(daemon, server)
    assert (await client.begin(bytes=SIZE)).status == 201
    await client.resume()
    batches = client.round()
    for batch in batches[:-2]:
        assert (await client.put(batch)).status == 200
    await daemon.kill()
    await daemon.start_loaded()
    client.move_to(f"{daemon.url}/api/transfers")
    await daemon.wait_for_line("resuming an unfinished transfer: in")
    before = client.bytes
    while (await client.resume()).status == 503:
        pass
    await client.put_all(client.round())
    assert client.bytes - before < SIZE // 4
    assert (await client.close()).status == 200
    await client.finish()
    assert daemon.panel.reports() == [(UUID, "success")]
    placed = daemon.files()
    assert (placed / "world" / "same.mca").samefile(placed / "world" / "region.mca")
    data = (placed / "world" / "region.mca").read_bytes()
    assert data == (server / "world" / "region.mca").read_bytes()


@pytest.mark.promise("move-continues-after-breaks")
async def test_a_stopped_daemon_tells_no_failure(daemon: ReceivingNode, server: Path) -> None:
    await daemon.start_loaded()
    client = source(daemon, server)
    await client.begin()
    await client.send()
    daemon.signal("TERM")
    await daemon.ended()
    assert daemon.panel.reports() == []
    await daemon.start_loaded()
    client.move_to(f"{daemon.url}/api/transfers")
    before = client.bytes
    while (await client.resume()).status == 503:
        pass
    await client.put_all(client.round())
    assert client.bytes - before < 10_000
    await client.close()
    await client.finish()


async def test_a_slow_body_ends_and_another_request_for_the_batch_is_taken(
    daemon: ReceivingNode, server: Path
) -> None:
    await daemon.start_loaded()
    client = source(daemon, server)
    await client.begin()
    await client.resume()
    first = client.round()[0]
    body = b"".join(first.pieces())
    stalled = await deferToThread(half_sent, daemon, client, first.index.number, body)
    try:
        # The connection is half open: nothing more will come of it.
        answer = await client.put(first)
        assert answer.status == 200
    finally:
        stalled.close()


def half_sent(
    daemon: ReceivingNode, client: MoveClient, number: int, body: bytes
) -> ssl.SSLSocket:
    """Send a part of a batch; return the connection."""
    url = urlsplit(daemon.url)
    context = ssl.create_default_context(cafile=str(daemon.ca))
    raw = socket.create_connection((url.hostname or "", url.port or 0))
    connection = context.wrap_socket(raw, server_hostname=url.hostname)
    head = (
        f"PUT /api/transfers/{UUID}/move/{client.id}/batches/{number}?session={client.session} "
        f"HTTP/1.1\r\nHost: {url.netloc}\r\nAuthorization: Bearer {client.key}\r\n"
        f"Content-Type: application/vnd.wingsd.batch\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    connection.sendall(head.encode() + body[: len(body) // 2])
    return connection


async def test_what_is_kept_of_a_failed_move_is_listed_and_forgotten(
    daemon: ReceivingNode, server: Path
) -> None:
    await daemon.start_loaded()
    client = source(daemon, server)
    await client.begin()
    await client.send()
    await client.give_up()
    await daemon.wait_for_line(f"{UUID}: the failed transfer is cleaned up")
    listed = await daemon.wingsctl("transfers", "--json")
    (kept,) = listed.json["kept"]
    assert (kept["server"], kept["bytes"] >= SIZE) == (UUID, True)
    assert (await daemon.wingsctl("forget", UUID)).status == 0
    listed = await daemon.wingsctl("transfers", "--json")
    assert listed.json["kept"] == []
    await until(lambda: daemon.paths_of_server() == [])
