"""Two real daemons that share a volume: a server moves without a file of it being touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater

from tests.archives import seen
from tests.daemon.daemon import reactor
from tests.daemon.families import pelican
from tests.daemon.house import UUID, House, archive
from tests.daemon.pair import Pair
from tests.daemon.pool_kills import PoolHarness
from tests.daemon.uploads import Sender
from wingsd.testing import Node

ONE = "5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c11"
NODE = "9d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10"


async def until_over(pair: Pair) -> None:
    while pair.panel.in_transfer(UUID):
        await deferLater(reactor, 0.02)


async def moving(pair: Pair) -> Path:
    """Have the server move; return its directory."""
    pair.add_server()
    await pair.start()
    await pair.transfer()
    await until_over(pair)
    return pair.source.files()


@pytest_twisted.ensureDeferred
async def test_a_server_moves_to_and_fro_and_is_never_copied(tmp_path: Path) -> None:
    harness = PoolHarness(tmp_path)
    try:
        await harness.start()
        await harness.move()
        await harness.move()
    finally:
        await harness.close()
    log = "\n".join((*harness.pair.source.log, *harness.pair.destination.log))
    assert log.count("its files stay in") == 2
    assert "its files are deleted" not in log


@pytest_twisted.ensureDeferred
async def test_one_volume_by_two_names_keeps_the_server_where_it_is(tmp_path: Path) -> None:
    pair = Pair(tmp_path, ("attic", "cellar"))
    try:
        files = await moving(pair)
        assert pair.has_it is pair.source
        assert (files / "world" / "region.mca").is_file()
        await pair.source.wait_for_line("set system.transfers.storage_pool.pool_name to 'attic'")
    finally:
        await pair.close()


@pytest_twisted.ensureDeferred
async def test_one_name_for_two_volumes_is_found_out_and_the_server_copied(
    tmp_path: Path,
) -> None:
    pair = Pair(tmp_path, ("attic", "attic"))
    pair.destination.volumes = tmp_path / "other" / "volumes"
    try:
        await moving(pair)
        assert pair.has_it is pair.destination
        assert (pair.destination.files() / "world" / "region.mca").is_file()
        # An ordinary copy, so the source's is deleted as ever.
        await pair.source.wait_for_line("its files are deleted")
    finally:
        await pair.close()


# To a node of Pelican, and from one


class PelicanNode(Protocol):
    """A node that has the pool, as Pelican's own has it: it reads nothing of an upload.

    It tells the Panel of a success as soon as it has the headers, then answers and hangs up.
    """

    transport: Any

    def __init__(self, pair: Pair, destination: Node) -> None:
        self._pair = pair
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


@pytest_twisted.ensureDeferred
async def test_a_node_that_takes_the_files_unasked_has_them_left(tmp_path: Path) -> None:
    pair = Pair(tmp_path, ("attic", ""))
    factory = Factory.forProtocol(lambda: PelicanNode(pair, there))
    factory.noisy = False
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    there = pair.panel.add_node(f"http://127.0.0.1:{port.getHost().port}")
    # More than the line holds: it is still being sent when the Panel has it deleted.
    pair.add_server(64 << 20)
    files = pair.source.files()
    before = seen(files)
    try:
        await pair.panel.listen(reactor)
        await pair.source.start()
        await pair.panel.transfer(UUID, there)
        await pair.source.wait_for_line("its files stay in")
        await until_over(pair)
        assert pair.panel.node_of(UUID) is there
        await pair.source.wait_for_line(f"{UUID}: state success")
        assert not [line for line in pair.source.log if f"{UUID}: sent" in line]
        assert seen(files) == before
        # Nor does the next daemon clear them away.
        pair.source.signal("KILL")
        await pair.source.ended()
        await pair.source.start()
        assert seen(files) == before
        assert not [line for line in pair.source.log if "unfinished" in line]
    finally:
        await pair.close()
        await port.stopListening()


@pytest.mark.parametrize("pool", ["ATTIC", "cellar"])
@pytest_twisted.ensureDeferred
async def test_a_node_that_sends_everything_has_its_backups_kept(house: House, pool: str) -> None:
    files = house.volumes / UUID
    if pool == "ATTIC":
        files.mkdir(parents=True)
        (files / "world").write_bytes(b"what the nodes share")
        before = seen(files)
    usual = house.configuration()
    shared = {"storage_pool": {"enabled": True, "pool_name": "attic"}}
    await house.start(system=usual["system"] | {"transfers": shared}, uuid=NODE)
    await house.loaded()
    sender = Sender(house, archive(), family=pelican(b"log\n", {ONE: b"b"}, pool))
    await sender.begin()
    status, _ = await sender.finish()
    assert status == 200
    assert house.panel.node_of(UUID) is house.node
    assert (house.directory / "backups" / UUID / f"{ONE}.tar.gz").read_bytes() == b"b"
    if pool == "ATTIC":
        assert seen(files) == before
    else:
        assert (files / "server.properties").is_file()
