"""Uploads that the daemon refuses, and in which words; nothing of them is left."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from socket import create_connection

import jwt
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from tests.archive.hostile.streams import bomb
from tests.support import server_settings
from tests.support.receiving_node import ReceivingNode
from tests.support.sample_server import UUID, archive
from tests.support.small_disk import small_disk
from tests.support.two_nodes import TwoNodes
from tests.support.upload_client import begun


def get(address: tuple[str, int], path: bytes) -> None:
    """Send a request as it stands, and read until the answer ends."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with context.wrap_socket(create_connection(address)) as line:
        line.sendall(b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % path)
        while line.recv(4096):
            pass


@pytest.mark.promise("log-lines-cannot-be-forged")
async def test_requests_cannot_forge_lines_of_the_log(daemon: ReceivingNode) -> None:
    await daemon.start_loaded(debug=True)
    forged = "\x1b[2J\x85\u202e\n2026-01-01T00:00:00+0000 [wingsd.app.daemon#info] forged"
    header = {"alg": "HS256", "typ": "JWT", "crit": [forged]}
    # Newer versions of PyJWT name the extension that they do not know.
    token = jwt.encode({"sub": UUID}, "x" * 32, "HS256", headers=header)
    status, _ = await daemon.curl("-F", "archive=x", token=token)
    assert status == 401
    await daemon.wait_for_line(" refused: ")
    address = ("127.0.0.1", int(daemon.url.rpartition(":")[2]))
    # Newer versions of Twisted refuse the first path, and note nothing of it.
    for path in (b"/\x1b[2J\x85", b"/" + b"x" * 5000):
        await deferToThread(get, address, path)
    assert "x…: 404" in await daemon.wait_for_line("GET /xxx")
    assert not [line for line in daemon.log if not line.isprintable() and line[0] != "\t"]
    assert not [line for line in daemon.log if line.startswith("2026-01-01T00:00:00+0000")]


async def test_bad_requests_are_refused_in_the_documents_words(running: ReceivingNode) -> None:
    path = running.directory / "server.tar.gz"
    path.write_bytes(archive())
    for arguments, error in (
        (["-H", "Content-Type: text/plain", "--data", "x"], "invalid content type"),
        (["-F", "checksum=c", "-F", "archive=x"], "archive must be sent before the checksum"),
        (["-F", f"archive=@{path}"], "missing archive or checksum"),
        (["-F", "checksums=c"], "missing archive or checksum"),
        (["-F", f"archive=@{path}", "-F", "checksum=c"], "checksums don't match"),
    ):
        since = len(running.log)
        status, answer = await running.curl(*arguments)
        assert (status, answer["error"]) == (400, error)
        assert answer["detail"]
        await running.failure_reported(since)
        assert running.stored() == []
        await running.wait_for_line("state failure", since)
        assert running.states()[-1] == "failure"
        running.panel.open_transfer(UUID, running.node)
    assert running.panel.reports() == [(UUID, "failure")] * 5


@pytest.mark.promise("refusal-is-understood")
async def test_a_client_that_still_sends_can_read_the_refusal(running: ReceivingNode) -> None:
    sender = await begun(running, os.urandom(20_000_000), token="bad")
    status, body = await sender.finish()
    assert status == 401
    assert b"error" in body


# What goes wrong on the way, and that nothing of it is left


# Servers that are larger than their Panel or a disk allows, and a bomb, sent to real daemons


MIB = 1 << 20


def allow(daemon: ReceivingNode, disk_space: int) -> None:
    daemon.expect(UUID, build=server_settings(UUID)["build"] | {"disk_space": disk_space})


@pytest.mark.promise("archive-respects-the-disk-limit")
async def test_a_server_beyond_its_disk_limit_is_refused_with_400(running: ReceivingNode) -> None:
    for data in (archive(3 * MIB), bomb(8)):
        allow(running, 2)
        since = len(running.log)
        status, answer = await running.upload(data)
        assert (status, answer["code"]) == (400, "disk-limit-exceeded")
        assert "its disk limit is 2 MiB" in answer["detail"]
        await running.failure_reported(since)
        assert running.stored() == []
    assert running.panel.reports() == [(UUID, "failure")] * 2
    # with more, it arrives
    allow(running, 4)
    assert await running.upload(archive(3 * MIB)) == (200, None)


@pytest.fixture
def cramped(tmp_path: Path) -> Iterator[TwoNodes]:
    """Two nodes of which the destination has a disk of 40 MiB."""
    with small_disk(tmp_path / "destination", 40):
        made = TwoNodes(tmp_path)
        yield made
        pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))


@pytest.mark.promise("archive-respects-the-disk-limit", "room-is-checked-before-the-stop")
async def test_a_server_that_does_not_fit_stays_where_it_is_and_one_with_holes_moves(
    cramped: TwoNodes,
) -> None:
    source, destination = cramped.source, cramped.destination
    cramped.add_server(60 * MIB)
    await cramped.start()
    await cramped.transfer()
    line = await source.wait_for_line("transfer failed")
    assert "the disk is full: the server takes 61 MiB more" in line
    assert "2 MiB must stay free (system.transfers.disk_reserve)" in line
    await cramped.panel.called("/transfer/failure")
    assert "processing" not in source.states()
    assert destination.stored() == []
    (source.files() / "world" / "region.mca").write_bytes(b"short")
    with (source.files() / "world" / "same.mca").open("r+b") as file:
        file.truncate(64 * MIB)
    since = len(source.log)
    await cramped.transfer()
    await source.wait_for_line("done, the server has moved", since)
    assert (destination.files() / "world" / "same.mca").stat().st_size == 64 * MIB


# A Panel that does not accept the node's token has said nothing of any server


REFUSED = "the Panel does not accept this node's token"


@pytest.mark.promise("wrong-node-token-changes-nothing")
async def test_a_refused_node_token_is_logged_and_uploads_get_503(daemon: ReceivingNode) -> None:
    await daemon.start(token_id="another")
    line = await daemon.wait_for_line("the request to ")
    assert f"{REFUSED}: " in line
    status, answer = await daemon.upload(archive())
    assert (status, answer["code"]) == (503, "node-token-refused")
    assert daemon.stored() == []
    assert daemon.panel.in_transfer(UUID)


@pytest.mark.promise("wrong-node-token-changes-nothing")
async def test_a_received_server_stays_until_its_token_is_right(running: ReceivingNode) -> None:
    running.panel.hold("/transfer/success")
    uploading = Deferred.fromCoroutine(running.upload(archive()))
    uploading.addErrback(lambda _: None)  # its connection breaks
    await running.panel.called("/transfer/success")
    await running.kill()
    await uploading
    await running.start(token_id="another")
    since = len(running.log)
    await running.wait_for_line("its transfer is not known yet", since=since)
    assert running.stored() == [UUID]
    await running.kill()
    await running.start()
    await running.wait_for_line("state success", since=since)
    assert running.stored() == [UUID]
    assert running.panel.node_of(UUID) is running.node
