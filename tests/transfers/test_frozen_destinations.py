"""A destination of moves whose process is frozen: its kernel answers, and its buffers are full."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.web.server import Site

from tests.support.move_node import MoveNode
from tests.support.reactor import until
from tests.support.sender import Sender, at_stop, sending
from tests.transfers.test_live_moves import _slow_to_settle, check_moved, check_runs_on
from tests.transfers.test_outgoing_moves import _quick
from wingsd.config import LiveMovesConfig, MovesConfig
from wingsd.servers.power_states import PowerState
from wingsd.transfers.outgoing import batch_size
from wingsd.transfers.peer import moves

__all__ = ["_quick", "_slow_to_settle"]

#: Bytes of a body that fills the kernel's buffers, and of a file that makes one.
BATCH, LARGE = 8 << 20, 9 << 20
#: Bytes that the kernel keeps for the node.
BUFFER = 64 << 10
SHORT = 0.5


@pytest.fixture
def node(tmp_path: Path) -> Iterator[MoveNode]:
    node = MoveNode(tmp_path / "there")
    node.limit = BATCH
    yield node
    node.close()


@pytest.fixture
def sender(tmp_path: Path, node: MoveNode, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sender]:
    monkeypatch.setattr(batch_size, "FIRST", BATCH)
    monkeypatch.setattr(moves, "ANSWERED_WITHIN", SHORT)
    for harness in sending(tmp_path, destination=node, moves=MovesConfig(patience=2)):
        uploader = attrs.evolve(harness.used_uploader, stall_timeout=SHORT)
        harness.send_with(uploader=uploader, mover=attrs.evolve(harness.mover, uploader=uploader))
        harness.follow(LiveMovesConfig(final_patience=1))
        yield harness


class Freezer:
    """Freezes the node when a large body comes and `when` holds; it reads nothing then."""

    def __init__(self, sender: Sender, when: Callable[[], bool]) -> None:
        self.is_frozen = False
        self._when = when
        self._connections: list[Any] = []
        self._site = sender._site
        sender._site.buildProtocol = self._protocol

    def thaw(self) -> None:
        self._when, self.is_frozen = (lambda: False), False
        for connection in self._connections:
            if connection.connected:
                connection.resumeProducing()

    def _protocol(self, address: Any) -> Any:
        protocol: Any = Site.buildProtocol(self._site, address)
        received, made = protocol.dataReceived, protocol.connectionMade

        def data_received(data: bytes) -> None:
            self.is_frozen = self.is_frozen or (_is_large(data) and self._when())
            if self.is_frozen:
                protocol._channel.transport.pauseProducing()
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


async def test_a_round_goes_on_when_its_destination_does(sender: Sender, node: MoveNode) -> None:
    (sender.tree / "large").write_bytes(os.urandom(LARGE))
    freezer = Freezer(sender, lambda: True)
    over = sender.start()
    await until(lambda: sender.said("it took nothing of what it was sent for 0.5 s"))
    assert sender.server.state is PowerState.RUNNING
    freezer.thaw()
    await over
    check_moved(sender, node, running=True)
    assert sender.calls == ["stop", "remove"]


async def test_a_round_fails_after_the_patience_and_the_server_runs_on(
    sender: Sender, node: MoveNode
) -> None:
    (sender.tree / "large").write_bytes(os.urandom(LARGE))
    Freezer(sender, lambda: True)
    await sender.start()
    check_runs_on(sender)


async def test_the_server_is_started_again_where_the_last_round_is_not_taken(
    sender: Sender, node: MoveNode
) -> None:
    freezer = Freezer(sender, lambda: sender.server.state is PowerState.OFFLINE)
    stopping = at_stop(sender)
    over = sender.start()
    await stopping
    (sender.tree / "large").write_bytes(os.urandom(LARGE))
    sender.waits.pop("stop").callback(None)
    await until(lambda: "start" in sender.calls)
    assert sender.said("the server is started again, and the move goes on")
    freezer.thaw()
    await over
    check_moved(sender, node, running=True)
    assert "commit" in node.asked


async def test_a_server_that_was_off_is_free_after_the_patience(
    sender: Sender, node: MoveNode
) -> None:
    sender.server.state = PowerState.OFFLINE
    (sender.tree / "large").write_bytes(os.urandom(LARGE))
    Freezer(sender, lambda: True)
    await sender.start()
    assert sender.states[-1] == "failure"
    assert sender.server.operations.hold is None
