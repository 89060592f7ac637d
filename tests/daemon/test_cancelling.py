"""A move is cancelled, at five moments and at either node: nothing is left, nothing is lost."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.daemon.silent_engine import SilentEngine
from tests.support import process_configuration
from tests.support.archives import seen
from tests.support.docker_engine import Engine
from tests.support.node_process import FAST, SLOW, reactor
from tests.support.sample_server import UUID
from tests.support.two_nodes import TwoNodes

#: Seconds in which a cancelled transfer is to be over: the nodes' own waits are of 30 and more.
AT_ONCE = 25

Moment = Callable[[TwoNodes], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def admitting(nodes: TwoNodes) -> AsyncIterator[None]:
    """The destination has not heard from the Panel yet, and so has not taken the server."""
    await nodes.start()
    hang = nodes.panel.hold("/servers?")
    asked = sum("/servers?" in call.path for call in nodes.panel.calls)
    await nodes.transfer()
    await nodes.panel.called("/servers?", asked + 1)
    yield
    hang.release()


@asynccontextmanager
async def receiving(nodes: TwoNodes) -> AsyncIterator[None]:
    """The archive is on its way."""
    nodes.add_server(24 << 20)
    await nodes.start()
    nodes.destination.throttle(SLOW)
    await nodes.transfer()
    await nodes.destination.wait_for_line("receiving the archive")
    yield
    nodes.destination.throttle(FAST)


@asynccontextmanager
async def configuring(nodes: TwoNodes) -> AsyncIterator[None]:
    """All is verified and in place; the destination's engine is asked and does not answer."""
    nodes.add_server()
    socket = str(nodes.destination.directory / "engine.sock")
    silent = SilentEngine()
    await silent.listen(socket)
    await nodes.start(destination={"docker": {"enabled": True, "socket": socket}})
    await nodes.transfer()
    await nodes.destination.wait_for_line("configuring the environment")
    yield
    await silent.close()


@asynccontextmanager
async def asking(nodes: TwoNodes) -> AsyncIterator[None]:
    """The source asks a destination that does not answer."""
    await nodes.start()
    nodes.destination.throttle(1.0)
    await nodes.transfer()
    await nodes.source.wait_for_line("asking the destination")
    yield
    nodes.destination.throttle(FAST)


def told(nodes: TwoNodes) -> list[str]:
    return [outcome for _, outcome in nodes.panel.reports()]


async def as_before(nodes: TwoNodes, before: Any) -> None:
    """See that the server is the source's own again, and nothing of it at the destination."""
    await nodes.panel.called("/transfer/failure")
    assert seen(nodes.source.files()) == before
    assert nodes.panel.node_of(UUID) is nodes.source.node
    assert nodes.destination.paths_of_server() == []
    status, _ = await nodes.panel.ask(nodes.source.node, "GET", f"/api/servers/{UUID}")
    assert status == 200
    status, _ = await nodes.panel.ask(nodes.destination.node, "GET", f"/api/servers/{UUID}")
    assert status == 404
    assert not nodes.panel.in_transfer(UUID)


async def over(nodes: TwoNodes, *peers: Any) -> None:
    """Return when the nodes have ended it, which is to be soon."""
    for peer in peers:
        waiting: Deferred[str] = peer.wait_for_line("state failure")
        await waiting.addTimeout(AT_ONCE, reactor)


@pytest.mark.promise("cancel-is-quick-and-safe")
@pytest.mark.parametrize("moment", [asking, configuring])
async def test_a_transfer_cancelled_at_the_source_leaves_the_server_there(
    nodes: TwoNodes, moment: Moment
) -> None:
    await cancelled_at_the_source(nodes, moment)


async def cancelled_at_the_source(nodes: TwoNodes, moment: Moment) -> None:
    async with moment(nodes):
        before = seen(nodes.source.files())
        arrives = moment in (receiving, configuring)
        assert await nodes.cancel(nodes.source) == 202
        await over(nodes, nodes.source, *([nodes.destination] if arrives else []))
        assert await nodes.cancel(nodes.source) == 409
    if moment is not asking:
        await nodes.destination.wait_for_line("cleaned up")
    await as_before(nodes, before)
    # Of two the Panel has taken the first. The other, which it denies, may be told again.
    assert set(told(nodes)) == {"failure"}


@pytest.mark.promise("cancel-is-quick-and-safe")
@pytest.mark.parametrize("moment", [admitting, receiving, configuring])
async def test_a_transfer_cancelled_at_the_destination_leaves_nothing_there(
    nodes: TwoNodes, moment: Moment
) -> None:
    async with moment(nodes):
        before = seen(nodes.source.files())
        assert await nodes.cancel(nodes.destination) == 202
        await over(nodes, nodes.source)
    # It had not taken the server yet.
    ended = "transfer refused" if moment is admitting else "cleaned up"
    await nodes.destination.wait_for_line(ended)
    await as_before(nodes, before)
    assert set(told(nodes)) == {"failure"}


@pytest.mark.promise("next-transfer-is-not-ended")
@pytest.mark.parametrize("moment", [receiving, asking])
async def test_the_next_transfer_after_a_cancel_succeeds(nodes: TwoNodes, moment: Moment) -> None:
    async with moment(nodes):
        before = seen(nodes.source.files())
        await nodes.cancel(nodes.source)
        await over(nodes, nodes.source)
    await nodes.panel.called("/transfer/failure")
    await nodes.transfer()
    await nodes.destination.wait_for_line("state success")
    assert seen(nodes.destination.files()) == before
    assert not nodes.panel.in_transfer(UUID)


async def test_a_server_can_start_again_when_its_transfer_was_cancelled_while_it_stopped(
    engine: Engine, nodes: TwoNodes
) -> None:
    quick = "echo listening on; exec sleep 600"
    process = process_configuration(stop={"type": "command", "value": "nothing"})
    nodes.add_server(image=engine.image, invocation=quick, process=process)
    await nodes.start(source=engine.for_node(UUID))
    await nodes.panel.power(UUID, "start")
    await nodes.source.wait_for_line(f"{UUID}: running")
    await nodes.transfer()
    await nodes.source.wait_for_line("stopping the server")
    assert await nodes.cancel(nodes.source) == 202
    await over(nodes, nodes.source)
    await nodes.panel.power(UUID, "kill")
    await nodes.source.wait_for_line(f"{UUID}: offline")
    started = len(nodes.source.log)
    await nodes.panel.power(UUID, "start")
    await nodes.source.wait_for_line(f"{UUID}: running", since=started)
