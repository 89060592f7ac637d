"""Direct transfers as one stream, when something fails, an answer is lost, or a daemon dies.

So they go between nodes of which one does not take moves that resume.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
from twisted.internet.defer import Deferred

from tests.support import Hang
from tests.support.node_in_process import STREAMING, NodeInProcess, NodePair, running_pair
from tests.support.reactor import until
from tests.support.sample_server import UUID
from wingsd.direct_transfers import initiator as sending
from wingsd.errors import (
    DaemonRestarted,
    EnvironmentFailed,
    ServerAlreadyExists,
    StorageError,
    TransferNotActive,
    WingsdError,
)
from wingsd.http.request import StreamingRequest
from wingsd.http_client.exchange import Answer
from wingsd.transfers.peer.client import PeerClient, judge


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[NodePair]:
    yield from running_pair(tmp_path, STREAMING)


def lose_answer(node: NodeInProcess, method: str = "POST", times: int = 1) -> None:
    """Have the answer to a request cut off, so many times."""
    left = [times]

    def lose(request: StreamingRequest) -> bool:
        left[0] -= request.method == method.encode()
        return request.method == method.encode() and left[0] >= 0

    node.lose = lose


@pytest.mark.promise("destination-decides")
@pytest.mark.parametrize("remove", [False, True])
async def test_a_lost_answer_is_asked_for(nodes: NodePair, remove: bool) -> None:
    lose_answer(nodes.destination)
    await nodes.move(remove=remove)


@pytest.mark.promise("destination-decides")
@pytest.mark.parametrize(
    ("code", "kind", "body"),
    [
        (404, "text/plain", b"404 page not found"),
        (403, "text/html", b"<h1>Forbidden</h1>"),
        (302, "text/html", b""),
        (401, "application/json", b'{"error": "The token is not valid"}'),
        (200, "text/html", b'{"moved": false}'),
        (200, "application/json", b'{"moved": "false"}'),
        (202, "application/json", b'{"moved": false}'),
    ],
)
async def test_no_answer_but_the_destinations_own_decides(
    nodes: NodePair, code: int, kind: str, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy in front of it answers, or the destination with another token than before."""
    answer = Answer(code, "", [("content-type", kind)], body, False)
    ask, asked = PeerClient.ask, 0

    async def ask_proxy(self: PeerClient, method: str, content: bytes = b"") -> Answer:
        nonlocal asked
        asked += method == "DELETE"
        if method != "DELETE" or asked > 2:
            return await ask(self, method, content)
        judge(answer)
        return answer

    monkeypatch.setattr(PeerClient, "ask", ask_proxy)
    lose_answer(nodes.destination)
    await nodes.move()
    assert asked == 3


async def test_a_failure_at_the_destination_is_logged_at_the_source(nodes: NodePair) -> None:
    nodes.destination.environment.faults["create"] = EnvironmentFailed("the engine is gone")
    await nodes.send_now(remove=True)
    await nodes.assert_stayed()
    assert "the engine is gone" in nodes.source.reason
    assert nodes.destination.store.descriptions() == []
    # Its own container, which was removed to send it, is there again.
    assert UUID in nodes.source.environment.containers


@pytest.mark.promise("unwritable-database-fails-safely")
async def test_an_arrival_that_cannot_be_recorded_fails_the_transfer(
    nodes: NodePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        nodes.destination.store, "mark_arrived", Mock(side_effect=StorageError("the disk is full"))
    )
    await nodes.send_now(remove=True)
    await nodes.assert_stayed()
    assert "the disk is full" in nodes.source.reason


@pytest.mark.promise("destination-decides")
async def test_a_question_cancels_a_transfer_that_waits_for_a_slot(nodes: NodePair) -> None:
    await nodes.destination.slots.acquire("another")
    invitation = await nodes.destination.invite()
    await nodes.send(invitation)
    await until(nodes.is_sent_and_waits)
    nodes.source.sender.cancel(UUID)
    await nodes.assert_stayed()
    assert "cancelled" in nodes.source.reason
    # With that token it never comes any more.
    await nodes.send(invitation)
    await nodes.assert_stayed()
    again = "it was used for a transfer before; run wingsctl receive there again"
    assert again in nodes.source.reason


@pytest.mark.promise("cancelled-direct-server-stays-off")
async def test_a_cancel_ends_the_wait_for_a_dead_destination(nodes: NodePair) -> None:
    gone: list[bool] = []

    def lose(request: StreamingRequest) -> bool:
        gone.append(request.method == b"DELETE")
        return request.method not in (b"PUT", b"OPTIONS")

    nodes.destination.lose = lose
    await nodes.send_now(remove=True)
    await until(lambda: gone.count(True) > 2)
    assert [p.step_text for p in nodes.source.sender.progress] == [
        "asking the destination whether it has the server"
    ]
    nodes.source.sender.cancel(UUID)
    await until(lambda: not nodes.source.sender.servers)
    assert (nodes.source.hold, nodes.source.left()) == ("", [UUID])


@pytest.mark.promise("destination-decides")
async def test_a_deletion_by_the_panel_is_no_success(nodes: NodePair) -> None:
    await nodes.destination.slots.acquire("another")
    await nodes.send_now()
    await until(nodes.is_sent_and_waits)
    await nodes.source.sender.release(UUID)
    nodes.source.sender.deleted(UUID)
    await nodes.settled()
    assert nodes.source.entries() == [("out", "cancelled")]


async def test_a_server_that_is_being_received_is_not_expected(nodes: NodePair) -> None:
    await nodes.destination.slots.acquire("another")
    await nodes.send_now()
    await until(lambda: bool(nodes.destination.receiver.servers))
    with pytest.raises(ServerAlreadyExists):
        await nodes.destination.invite()
    assert nodes.destination.direct_transfers.expected == {}
    nodes.source.sender.cancel(UUID)
    await nodes.settled()


@pytest.mark.promise("destination-decides")
@pytest.mark.parametrize("at", ["SWAP", "ENVIRONMENT", "REPORT"])
async def test_a_destination_that_died_late_has_the_server(
    nodes: NodePair, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = nodes.destination
    # Asked before it has it all, it never would.
    may_ask: Deferred[None] = Deferred()
    ask = sending.DirectSending._ask

    async def ask_later(self: sending.DirectSending) -> bool:
        await may_ask
        return await ask(self)

    monkeypatch.setattr(sending.DirectSending, "_ask", ask_later)
    node.die_at(at)
    await nodes.send_now()
    await until(lambda: [e.step for e in node.store.transfers()] == [at])
    again = await nodes.next("destination")
    await until(lambda: again.entries() == [("in", "success")])
    may_ask.callback(None)
    await nodes.assert_moved()
    assert again.environment.containers.keys() == ({UUID} if at != "REPORT" else set())


@pytest.mark.promise("destination-decides")
async def test_a_starting_node_gets_503(nodes: NodePair, monkeypatch: pytest.MonkeyPatch) -> None:
    node = nodes.destination
    node.die_at("SWAP")
    asked: list[int] = []
    say = sending.DirectSending._log_unknown

    def note(self: sending.DirectSending, error: WingsdError, pause: float) -> None:
        asked.append(getattr(error, "response_status", 0))
        say(self, error, pause)

    monkeypatch.setattr(sending.DirectSending, "_log_unknown", note)
    await nodes.send_now()
    await until(lambda: [e.step for e in node.store.transfers()] == ["SWAP"])
    again = await nodes.restart("destination")
    # It listens, and has not taken up yet what was under way.
    await until(lambda: 503 in asked)
    again.environment.faults["create"] = hang = Hang()
    await again.recover()
    await nodes.assert_stayed()
    hang.release()


@pytest.mark.promise("destination-decides")
@pytest.mark.parametrize("at", ["RECEIVE", "VERIFY", "DURABLE"])
async def test_a_destination_that_died_early_has_nothing(nodes: NodePair, at: str) -> None:
    await nodes.dies_at("destination", at)
    await nodes.next("destination")
    await nodes.assert_stayed()
    assert nodes.destination.store.descriptions() == []


@pytest.mark.promise("destination-decides")
@pytest.mark.parametrize("remove", [False, True])
async def test_a_restarted_source_asks_the_destination(nodes: NodePair, remove: bool) -> None:
    node = nodes.source
    nodes.destination.lose = lambda request: request.method in (b"POST", b"DELETE")
    await nodes.send_now(remove=remove)
    await until(lambda: nodes.destination.entries() == [("in", "success")])
    await until(lambda: any(p.step.name == "SETTLE" for p in node.sender.progress))
    again = await nodes.next("source")
    # Another daemon has it in no place but the directory, until its Panel tells.
    assert again.entries() == [("out", None)]
    nodes.destination.lose = lambda _: False
    await until(lambda: again.entries() == [("out", "success")])
    await until(lambda: again.left() == ([] if remove else [UUID]))
    assert again.store.destination(1) is None
    assert again.heard.over == [("out", None, None)]


async def test_a_source_that_died_before_sending_keeps_the_server(nodes: NodePair) -> None:
    node = nodes.source
    node.environment.containers[UUID] = node.servers.get(UUID).configuration.settings
    node.die_at("RETIRE")
    await nodes.send_now(remove=True)
    await until(lambda: [e.step for e in node.store.transfers()] == ["RETIRE"])
    again = await nodes.next("source")
    await until(lambda: again.entries() == [("out", "failure")])
    assert again.reason == "this node was restarted during the transfer"
    assert again.left() == [UUID]
    ((_, error, _),) = again.heard.over
    assert isinstance(error, DaemonRestarted)


@pytest.mark.promise("cancelled-direct-server-stays-off")
async def test_a_cancel_after_a_restart_ends_the_wait(nodes: NodePair) -> None:
    nodes.destination.lose = lambda request: request.method in (b"POST", b"DELETE")
    await nodes.send_now()
    await until(lambda: any(p.step.name == "SETTLE" for p in nodes.source.sender.progress))
    again = await nodes.next("source")

    def is_cancelled() -> bool:
        with pytest.raises(TransferNotActive):  # by the Panel, which has not ordered it
            again.sender.cancel(UUID)
        return again.direct_transfers.cancel(UUID)

    await until(is_cancelled)
    await until(lambda: again.entries() == [("out", "failure")])
    assert again.left() == [UUID]
