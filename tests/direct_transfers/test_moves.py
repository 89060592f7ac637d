"""Direct transfers between nodes that take moves: they resume, and what has arrived is kept."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import Hang
from tests.support.logged_errors import Logged
from tests.support.node_in_process import LEVEL, NodeInProcess, NodePair, running_pair
from tests.support.reactor import until
from tests.support.sample_server import UUID
from wingsd.config import TransfersConfig
from wingsd.direct_transfers.initiator import MOVED_AWAY
from wingsd.errors import EnvironmentFailed
from wingsd.http.request import StreamingRequest


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[NodePair]:
    """Two nodes, of which a source asks whose the server is after a moment of silence."""
    grace: Any = 0.1
    yield from running_pair(tmp_path, TransfersConfig(answer_grace=grace))


def kept(node: NodeInProcess) -> list[int]:
    """Return the sizes of what is kept of moves that have failed."""
    return [copy.bytes for copy in node.partial_copies.kept()]


def loses(node: NodeInProcess, *words: str) -> None:
    """Have the node's answers to requests be lost that have one of these words in them."""

    def lose(request: StreamingRequest) -> bool:
        asked = f"{request.method.decode()} {request.path.decode()}"
        return any(word in asked for word in words)

    node.lose = lose


async def sent_until_container(nodes: NodePair) -> Hang:
    """Send the server; return when its container is made, what that hangs at."""
    environment = nodes.destination.environment
    environment.faults["create"] = hang = Hang()
    await nodes.send_now()
    await until(lambda: "create" in [name for name, *_ in environment.calls])
    return hang


def is_asked(node: NodeInProcess, word: str) -> bool:
    return any(word in path for path in node.asked)


def is_settling(node: NodeInProcess) -> bool:
    return any(each.step.name == "SETTLE" for each in node.sender.progress)


async def failed(nodes: NodePair) -> None:
    """Have a move fail when all has arrived, and see that it is kept."""
    destination = nodes.destination
    destination.environment.faults["create"] = EnvironmentFailed("the engine is gone")
    await nodes.send(await destination.invite())
    await nodes.settled()
    assert (nodes.source.entries()[-1], nodes.source.hold) == (("out", "failure"), "")
    assert "the engine is gone" in nodes.source.reason
    assert kept(destination) == [len(LEVEL)]
    assert destination.store.descriptions() == []
    del destination.environment.faults["create"]


@pytest.mark.promise("arrived-data-is-kept")
async def test_the_next_transfer_goes_on_with_what_a_failed_one_has_left(
    nodes: NodePair, logged: Logged
) -> None:
    await failed(nodes)
    await nodes.move()
    assert any("resumed: " in line for line in logged.lines)
    assert kept(nodes.destination) == []
    assert nodes.destination.entries() == [("in", "failure"), ("in", "success")]


@pytest.mark.promise("arrived-data-is-kept")
async def test_a_cancelled_transfer_leaves_nothing(nodes: NodePair) -> None:
    loses(nodes.destination, "batches")
    await nodes.send_now()
    await until(lambda: is_asked(nodes.destination, "batches"))
    nodes.source.sender.cancel(UUID)
    nodes.destination.lose = lambda _: False
    await nodes.assert_stayed()
    assert "cancelled" in nodes.source.reason
    assert kept(nodes.destination) == []


@pytest.mark.promise("destination-decides")
async def test_a_silent_destination_is_asked_whether_it_has_the_server(nodes: NodePair) -> None:
    hang = await sent_until_container(nodes)
    loses(nodes.destination, "GET", "POST", "DELETE")
    hang.release()
    await until(lambda: nodes.destination.entries() == [("in", "success")])
    await until(lambda: is_settling(nodes.source))
    nodes.destination.lose = lambda _: False
    await nodes.assert_moved()


@pytest.mark.promise("destination-decides")
async def test_a_question_ends_a_move_that_is_not_complete_and_keeps_it(nodes: NodePair) -> None:
    hang = await sent_until_container(nodes)
    loses(nodes.destination, "GET")
    await nodes.settled()
    assert (nodes.source.entries(), nodes.source.hold) == ([("out", "failure")], "")
    assert not nodes.destination.knows_server
    assert kept(nodes.destination) == [len(LEVEL)]
    hang.release()


@pytest.mark.promise("destination-decides")
async def test_a_cancel_ends_the_wait_for_a_destination_that_is_lost(nodes: NodePair) -> None:
    hang = await sent_until_container(nodes)
    loses(nodes.destination, "DELETE")
    nodes.source.sender.cancel(UUID)
    await until(lambda: is_settling(nodes.source))
    nodes.source.sender.cancel(UUID)
    await until(lambda: not nodes.source.sender.servers)
    assert nodes.source.hold == ""
    nodes.destination.lose = lambda _: False
    hang.release()
    await nodes.settled()
    assert nodes.source.entries() == [("out", "cancelled")]


@pytest.mark.promise("arrived-data-is-kept")
async def test_a_server_whose_source_fell_silent_may_be_expected_again(nodes: NodePair) -> None:
    loses(nodes.destination, "batches")
    await nodes.send_now()
    await until(lambda: is_asked(nodes.destination, "batches"))
    # Its record is lost with it: it never comes back to this move.
    (nodes.source.directory / "wingsd.db").unlink()
    again = await nodes.restart("source")
    nodes.destination.lose = lambda _: False
    invitation = await nodes.destination.invite()
    again.servers.get_or_add(nodes.configuration)
    await nodes.send(invitation)
    await nodes.assert_moved()
    assert nodes.destination.entries() == [("in", "failure"), ("in", "success")]


@pytest.mark.promise("direct-move-continues")
@pytest.mark.parametrize("at", ["ASK", "STOP", "RETIRE", "SEND", "AWAIT"])
async def test_a_source_without_a_panel_goes_on_after_a_restart(
    nodes: NodePair, at: str, logged: Logged
) -> None:
    source = nodes.source
    source.environment.containers[UUID] = source.servers.get(UUID).configuration.settings
    if at == "ASK":
        loses(nodes.destination, "POST", "GET")
    source.die_at(at)
    await nodes.send_now(remove=True)
    if at == "ASK":
        await until(lambda: nodes.destination.entries() == [("in", None)])
    await until(lambda: [each.step for each in source.store.transfers()] == [at])
    again = await nodes.restart("source")
    nodes.destination.lose = lambda _: False
    await again.recover()
    await until(lambda: again.knows_server)
    assert again.servers.get(UUID).configuration.settings.meta.name == "Lobby"
    await nodes.assert_moved_and_deleted()
    assert again.entries() == [("out", "success")]
    assert again.store.destination(1) is None
    assert again.panel.calls == []
    assert not any("transfer failed" in line for line in logged.lines)


@pytest.mark.promise("direct-move-continues")
async def test_a_restarted_source_learns_that_its_move_was_cancelled(nodes: NodePair) -> None:
    await nodes.dies_at("source", "SEND", remove=True)
    again = await nodes.restart("source")
    nodes.destination.receiver.cancel(UUID)
    await until(nodes.destination.is_at_rest)
    await again.recover()
    await nodes.assert_stayed()
    assert "the transfer was cancelled" in again.reason
    assert again.entries() == [("out", "cancelled")]


@pytest.mark.promise("moved-server-is-not-started")
@pytest.mark.parametrize("is_replaced", [False, True])
async def test_a_server_that_has_moved_away_is_not_started_here_after_a_restart(
    nodes: NodePair, is_replaced: bool
) -> None:
    """Although its Panel has not been told, and still has it here."""
    await nodes.move()
    files = nodes.source.data / UUID
    if is_replaced:  # by an operator who wants it here again
        shutil.copytree(files, files.with_name("copied"))
        files.rename(files.with_name("before"))
        files.with_name("copied").rename(files)
    node = await nodes.next("source")
    node.servers.get_or_add(nodes.configuration)
    assert node.hold == ("" if is_replaced else MOVED_AWAY)


@pytest.mark.promise("moved-server-is-not-started")
async def test_one_whose_files_were_deleted_here_is_not_started_here_either(
    nodes: NodePair,
) -> None:
    await nodes.move(remove=True)
    node = await nodes.next("source")
    node.servers.get_or_add(nodes.configuration)
    assert node.hold == MOVED_AWAY
