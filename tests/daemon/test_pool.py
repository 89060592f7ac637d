"""Two real daemons that share a volume: a server moves without a file of it being touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater

from tests.kills.engine import Injector
from tests.kills.moves import Pooled
from tests.support import Node
from tests.support.archives import seen
from tests.support.node_process import reactor
from tests.support.receiving_node import ReceivingNode
from tests.support.sample_server import UUID, archive
from tests.support.two_nodes import TwoNodes
from tests.support.upload_client import begun
from tests.support.upload_forms import pelican

ONE = "5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c11"
NODE = "9d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10"


async def until_over(nodes: TwoNodes) -> None:
    while nodes.panel.in_transfer(UUID):
        await deferLater(reactor, 0.02)


async def moving(nodes: TwoNodes) -> Path:
    """Have the server move; return its directory."""
    await nodes.start()
    await nodes.transfer()
    await until_over(nodes)
    return nodes.source.files()


async def test_a_server_moves_to_and_fro_and_is_never_copied(tmp_path: Path) -> None:
    scenario = Pooled(tmp_path)
    try:
        await scenario.start()
        for _ in range(2):
            await Injector(scenario).succeed()
    finally:
        await scenario.close()
    log = "\n".join(line for node in scenario.nodes.values() for line in node.log)
    assert log.count("its files stay in") == 2
    assert "files deleted" not in log


async def test_one_volume_by_two_pool_names_keeps_the_server_at_its_source(tmp_path: Path) -> None:
    nodes = TwoNodes(tmp_path, ("attic", "cellar"))
    try:
        files = await moving(nodes)
        assert nodes.owner is nodes.source
        assert (files / "world" / "region.mca").is_file()
        await nodes.source.wait_for_line("set system.transfers.storage_pool.pool_name to 'attic'")
    finally:
        await nodes.close()


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
        await nodes.source.kill()
        await nodes.source.start_loaded()
        assert seen(files) == before
        assert not nodes.source.lines_with("unfinished")
    finally:
        await nodes.close()
        await port.stopListening()


@pytest.mark.parametrize("pool", ["ATTIC", "cellar"])
async def test_backups_sent_within_a_pool_are_kept(daemon: ReceivingNode, pool: str) -> None:
    files = daemon.volumes / UUID
    if pool == "ATTIC":
        files.mkdir(parents=True)
        (files / "world").write_bytes(b"what the nodes share")
        before = seen(files)
    daemon.transfers = {"storage_pool": {"enabled": True, "pool_name": "attic"}}
    await daemon.start_loaded(uuid=NODE)
    sender = await begun(daemon, archive(), family=pelican(b"log\n", {ONE: b"b"}, pool))
    status, _ = await sender.finish()
    assert status == 200
    assert daemon.panel.node_of(UUID) is daemon.node
    assert (daemon.directory / "backups" / UUID / f"{ONE}.tar.gz").read_bytes() == b"b"
    if pool == "ATTIC":
        assert seen(files) == before
    else:
        assert (files / "server.properties").is_file()
