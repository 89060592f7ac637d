"""Sources that ask late whether their servers have moved: these are somewhere else, or deleted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import time
from typing import Any, cast

import attrs
import pytest
from twisted.internet.defer import Deferred

from tests.support import Hang
from tests.support.node_in_process import STREAMING, NodeInProcess, NodePair, running_pair
from tests.support.reactor import until
from tests.support.sample_server import UUID
from wingsd.auth.tokens import transfer_token
from wingsd.config import TransfersConfig
from wingsd.direct_transfers.initiator import Invitation
from wingsd.errors import TryAgain
from wingsd.statedb import KEPT, Direction, Outcome
from wingsd.transfers.outgoing.source import MOVED

pytestmark = pytest.mark.promise("destination-decides")


@pytest.fixture(params=["stream", "move"])
def nodes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NodePair]:
    """Two nodes that send servers in this way; a source soon asks whose a server is."""
    settings, grace = STREAMING if request.param == "stream" else TransfersConfig(), cast(Any, 0.1)
    yield from running_pair(tmp_path, attrs.evolve(settings, answer_grace=grace))


async def unanswered(nodes: NodePair) -> Invitation:
    """Send the server, and lose all answers; return when it is there, and the source asks."""
    destination = nodes.destination
    invitation = await destination.invite()

    destination.environment.faults["create"] = hang = Hang()
    await nodes.send(invitation)
    await until(lambda: "create" in [name for name, *_ in destination.environment.calls])
    destination.lose = lambda _: True
    hang.release()
    await until(lambda: destination.entries() == [("in", "success")])
    await until(lambda: [each.step.name for each in nodes.source.sender.progress] == ["SETTLE"])
    return invitation


async def answered(nodes: NodePair) -> None:
    """Let the source have its answer."""
    nodes.destination.lose = lambda _: False
    await until(nodes.source.is_at_rest)


async def assert_moved_away(nodes: NodePair) -> None:
    await answered(nodes)
    assert (nodes.source.entries(), nodes.source.hold) == ([("out", "success")], MOVED)


@asynccontextmanager
async def third_node(nodes: NodePair) -> AsyncIterator[NodeInProcess]:
    directory = nodes.source.directory.parent / "third"
    directory.mkdir()
    node = NodeInProcess(directory, nodes.workers, 0, nodes.source.config.system.transfers)
    try:
        yield node
    finally:
        await node.close()


async def send_on(node: NodeInProcess, to: NodeInProcess, *, remove: bool) -> None:
    invitation = await to.invite()
    await node.direct_transfers.send(UUID, to.url, invitation.token, remove=remove)
    await until(lambda: to.entries() == [("in", "success")])


@pytest.mark.parametrize("remove", [False, True])
async def test_a_server_that_was_sent_on_has_moved(nodes: NodePair, remove: bool) -> None:
    await unanswered(nodes)
    destination = nodes.destination
    async with third_node(nodes) as third:
        await send_on(destination, third, remove=remove)
        await until(lambda: destination.entries()[-1] == ("out", "success"))
        await assert_moved_away(nodes)
        assert third.knows_server


async def test_so_has_one_whose_files_are_still_being_deleted_there(
    nodes: NodePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    await unanswered(nodes)
    destination = nodes.destination
    storage, hanging = destination.servers._storage, Deferred[None]()
    delete = storage.delete

    async def delete_later(uuid: str) -> None:
        await hanging
        await delete(uuid)

    monkeypatch.setattr(storage, "delete", delete_later)
    async with third_node(nodes) as third:
        await send_on(destination, third, remove=True)
        await until(lambda: destination.store.descriptions() == [])
        assert destination.entries()[-1] == ("out", None)
        await assert_moved_away(nodes)
        hanging.callback(None)
        await until(destination.is_at_rest)


@pytest.mark.parametrize("after", ["", "restart", "years"])
async def test_a_server_that_was_deleted_has_moved(nodes: NodePair, after: str) -> None:
    await unanswered(nodes)
    destination = nodes.destination
    await destination.servers.delete(UUID)
    await until(lambda: destination.store.descriptions() == [] and destination.left() == [])
    if after == "restart":
        await nodes.next("destination")
    elif after == "years":
        destination.store.prune(time() + 2 * KEPT)
        assert destination.entries() == []
    await assert_moved_away(nodes)


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_a_server_whose_files_are_lost_stays_at_its_source(
    nodes: NodePair, is_restarted: bool
) -> None:
    await unanswered(nodes)
    directory = nodes.destination.data / UUID
    directory.rename(directory.with_name("lost"))
    if is_restarted:
        await nodes.next("destination")
    else:
        # A question under way may have found the files: its answer is lost, the next one counts.
        nodes.destination.asked.clear()
        await until(lambda: nodes.destination.asked != [])
    await answered(nodes)
    assert (nodes.source.entries(), nodes.source.hold) == ([("out", "failure")], "")


@pytest.mark.promise("replaced-database-holds-the-server")
async def test_a_destination_whose_database_was_replaced_does_not_give_a_server_back(
    nodes: NodePair,
) -> None:
    await unanswered(nodes)
    (nodes.destination.directory / "wingsd.db").unlink()
    node = await nodes.next("destination")
    await until(lambda: sum(path.endswith("/by-hand") for path in node.asked) > 1)
    assert [each.step.name for each in nodes.source.sender.progress] == ["SETTLE"]
    assert nodes.source.hold != ""
    directory = node.data / UUID
    directory.rename(directory.with_name("away"))
    await answered(nodes)
    assert (nodes.source.entries(), nodes.source.hold) == ([("out", "failure")], "")


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_a_server_that_the_panel_has_moved_on_has_moved(
    nodes: NodePair, is_restarted: bool
) -> None:
    invitation = await unanswered(nodes)
    node = nodes.destination
    token = transfer_token(f"Bearer {invitation.token}", node.config.token, node.config.family)
    # As in a transfer to a third node whose end is not recorded; the files are in quarantine.
    entry = node.store.begin(time(), UUID, Direction.OUT, "AWAIT")
    directory = node.data / UUID
    directory.rename(directory.with_name("quarantine"))
    if is_restarted:
        node = await nodes.restart("destination")
        await node.direct_transfers.load(node.store.unfinished())
    else:
        with pytest.raises(TryAgain):
            await node.direct_transfers.conclude(token)
    node.store.end(time(), entry, Outcome.SUCCESS)
    await assert_moved_away(nodes)
