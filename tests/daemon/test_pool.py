"""Two real daemons that share a volume: a server moves without a file of it being touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater

from tests.support import Node
from tests.support.archives import seen
from tests.support.node_process import reactor
from tests.support.reactor import until
from tests.support.sample_server import UUID
from tests.support.two_nodes import TwoNodes


async def until_over(nodes: TwoNodes) -> None:
    while nodes.panel.in_transfer(UUID):
        await deferLater(reactor, 0.02)


async def moving(nodes: TwoNodes) -> Path:
    """Have the server move; return its directory."""
    await nodes.start()
    await nodes.transfer()
    await until_over(nodes)
    return nodes.source.files()


@pytest.mark.promise("pool-names-are-verified")
async def test_one_volume_by_two_pool_names_keeps_the_server_at_its_source(tmp_path: Path) -> None:
    nodes = TwoNodes(tmp_path, ("attic", "cellar"))
    try:
        files = await moving(nodes)
        assert nodes.owner is nodes.source
        assert (files / "world" / "region.mca").is_file()
        await nodes.source.wait_for_line("set system.transfers.storage_pool.pool_name to 'attic'")
    finally:
        await nodes.close()


@pytest.mark.promise("pool-names-are-verified")
async def test_a_server_is_copied_between_two_volumes_of_one_pool_name(tmp_path: Path) -> None:
    nodes = TwoNodes(tmp_path, ("attic", "attic"))
    nodes.destination.volumes = tmp_path / "other" / "volumes"
    try:
        await moving(nodes)
        assert nodes.owner is nodes.destination
        assert (nodes.destination.files() / "world" / "region.mca").is_file()
        # An ordinary copy, so the source's is deleted as ever.
        await nodes.source.wait_for_line("files deleted")
    finally:
        await nodes.close()


class PelicanNode(Protocol):
    """A node that has the pool, as Pelican's own has it: it reads nothing of an upload.

    It tells the Panel of a success as soon as it has the headers, then answers and hangs up.
    """

    transport: Any

    def __init__(self, nodes: TwoNodes, destination: Node) -> None:
        self._pair = nodes
        self._destination = destination
        self._head = b""

    def dataReceived(self, data: bytes) -> None:
        self._head += data
        if b"\r\n\r\n" not in self._head:
            return
        self.transport.pauseProducing()
        if self._head.startswith(b"POST") and b"\r\nX-Storage-Pool: attic\r\n" in self._head:
            Deferred.fromCoroutine(self._take())
        else:
            self._answer(b"404 Not Found")

    async def _take(self) -> None:
        panel = self._pair.panel
        # It tells it once, and the Panel commits the transfer when it has the source's 202.
        while not panel.in_transfer(UUID):
            await deferLater(reactor, 0.01)
        source = panel.finish_transfer(self._destination, UUID, "success")
        assert source is self._pair.source.node
        status, _ = await panel.ask(source, "DELETE", f"/api/servers/{UUID}")
        assert status == 204
        self._answer(b"200 OK")

    def _answer(self, status: bytes) -> None:
        self.transport.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
        self.transport.loseConnection()


async def test_files_taken_by_a_pelican_node_of_the_pool_are_not_deleted(tmp_path: Path) -> None:
    nodes = TwoNodes(tmp_path, ("attic", ""))
    factory = Factory.forProtocol(lambda: PelicanNode(nodes, there))
    factory.noisy = False
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    there = nodes.panel.add_node(f"http://127.0.0.1:{port.getHost().port}")
    # More than the line holds: it is still being sent when the Panel has it deleted.
    nodes.add_server(64 << 20)
    files = nodes.source.files()
    before = seen(files)
    try:
        await nodes.source.start_loaded()
        await nodes.panel.transfer(UUID, there)
        await nodes.source.wait_for_line("its files stay in")
        await until_over(nodes)
        assert nodes.panel.node_of(UUID) is there
        await nodes.source.wait_for_line(f"{UUID}: state success")
        assert not [line for line in nodes.source.log if f"{UUID}: sent" in line]
        assert seen(files) == before
        # Nor does the next daemon clear them away.
        await until(nodes.source.has_ended_transfers)
        await nodes.source.kill()
        await nodes.source.start_loaded()
        assert seen(files) == before
        assert not nodes.source.lines_with("unfinished")
    finally:
        await nodes.close()
        await port.stopListening()
