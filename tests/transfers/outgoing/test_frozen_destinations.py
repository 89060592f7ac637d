"""A destination of moves whose process is frozen: its kernel answers, and its buffers are full."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.web.server import Site

from tests.support.move_node import MoveNode, Mover
from tests.support.reactor import until
from tests.support.sender import KnownBudget, at_stop, running_sender
from wingsd.config import LiveMovesConfig, MovesConfig
from wingsd.http_client.exchange import Answer
from wingsd.servers.power_states import PowerState
from wingsd.transfers.outgoing import attached
from wingsd.transfers.peer import moves
from wingsd.transfers.peer.moves import MoveClient

pytestmark = pytest.mark.usefixtures("slow_to_settle")

#: Bytes of a body that fills the kernel's buffers, and of a file that makes one.
BATCH, LARGE = 6 << 20, 7 << 20
#: Bytes that the kernel keeps for the node.
BUFFER = 64 << 10
#: Seconds of each limit while the destination is frozen, and where a move is not to fail by it.
SHORT, LONG = 0.5, 60


class Limits:
    """The limits that a frozen destination exceeds: short until it is not frozen any more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self._allow(SHORT)
        send = MoveClient._send

        async def send_within(client: MoveClient, asked: Any) -> Answer:
            client._stall_timeout = moves.ANSWERED_WITHIN
            return await send(client, asked)

        monkeypatch.setattr(MoveClient, "_send", send_within)

    def lift(self) -> None:
        self._allow(LONG)

    def _allow(self, seconds: float) -> None:
        self._monkeypatch.setattr(moves, "ANSWERED_WITHIN", seconds)


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Limits:
    monkeypatch.setattr(attached, "FIRST", BATCH)
    return Limits(monkeypatch)


@pytest.fixture
def sender(request: pytest.FixtureRequest, tmp_path: Path, limits: Limits) -> Iterator[Mover]:
    config = MovesConfig(patience=getattr(request, "param", LONG))
    live = LiveMovesConfig()
    for made in running_sender(Mover, tmp_path, regions=0, moves=config, live=live):
        made.there.limit = BATCH
        yield made


class Freezer:
    """Freezes the node when a large body comes and `when` holds; it reads nothing then."""

    def __init__(self, sender: Mover, when: Callable[[], bool]) -> None:
        self.is_frozen = False
        self._when = when
        self._connections: list[Any] = []
        #: What was read when it froze, and is handed on after that.
        self._read: list[tuple[Any, Callable[[bytes], object], bytes]] = []
        self._site = sender._site
        sender._site.buildProtocol = self._protocol

    def thaw(self) -> None:
        self._when, self.is_frozen = (lambda: False), False
        for connection, received, data in self._read:
            if connection.connected:
                received(data)
        for connection in self._connections:
            if connection.connected:
                connection.resumeProducing()

    def _protocol(self, address: Any) -> Any:
        protocol: Any = Site.buildProtocol(self._site, address)
        received, made = protocol.dataReceived, protocol.connectionMade

        def data_received(data: bytes) -> None:
            self.is_frozen = self.is_frozen or (_is_large(data) and self._when())
            if self.is_frozen:
                transport = protocol._channel.transport
                transport.pauseProducing()
                self._read.append((transport, received, data))
            else:
                received(data)

        def connection_made() -> None:
            made()
            self._connections.append(protocol._channel.transport)
            handle = protocol._channel.transport.getHandle()
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
            if self.is_frozen:
                protocol._channel.transport.pauseProducing()

        protocol.dataReceived, protocol.connectionMade = data_received, connection_made
        return protocol


def _is_large(head: bytes) -> bool:
    length = re.match(rb"PUT .*\r\nContent-Length: (\d+)", head, re.DOTALL)
    return length is not None and int(length[1]) >= BATCH - (1 << 20)


async def test_a_round_goes_on_when_its_destination_does(sender: Mover, limits: Limits) -> None:
    (sender.tree / "large").write_bytes(os.urandom(LARGE))
    freezer = Freezer(sender, lambda: True)
    over = sender.start()
    await until(lambda: sender.said("it took nothing of what it was sent for 0.5 s"))
    assert sender.server.state is PowerState.RUNNING
    limits.lift()
    freezer.thaw()
    await over
    sender.check_moved(running=True)
    assert sender.calls == ["stop", "remove"]


@pytest.mark.parametrize("sender", [2], indirect=True)
async def test_a_round_fails_after_the_patience_and_the_server_runs_on(sender: Mover) -> None:
    (sender.tree / "large").write_bytes(os.urandom(LARGE))
    Freezer(sender, lambda: True)
    await sender.start()
    sender.check_runs_on()


async def test_the_server_is_started_again_where_the_last_round_is_not_taken(
    sender: Mover, node: MoveNode, limits: Limits
) -> None:
    freezer = Freezer(sender, lambda: sender.server.state is PowerState.OFFLINE)
    stopping = at_stop(sender)
    over = sender.start()
    await stopping
    (sender.tree / "large").write_bytes(os.urandom(LARGE))
    sender.waits.pop("stop").callback(None)
    await until(lambda: freezer.is_frozen)
    KnownBudget.give_up()
    await until(lambda: "start" in sender.calls)
    assert sender.said("the server is started again, and the move goes on")
    limits.lift()
    freezer.thaw()
    await over
    sender.check_moved(running=True)
    assert "commit" in node.asked


@pytest.mark.parametrize("sender", [2], indirect=True)
async def test_a_server_that_was_off_is_free_after_the_patience(sender: Mover) -> None:
    sender.server.state = PowerState.OFFLINE
    (sender.tree / "large").write_bytes(os.urandom(LARGE))
    Freezer(sender, lambda: True)
    await sender.fails()
    assert sender.server.operations.hold is None
