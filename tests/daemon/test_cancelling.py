"""A move is cancelled, at five moments and at either node: nothing is left, nothing is lost."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.archives import seen
from tests.daemon.containers import with_engine
from tests.daemon.daemon import reactor
from tests.daemon.harness import UUID
from tests.daemon.pair import SLOW, Pair
from tests.daemon.silent_engine import SilentEngine
from tests.engine import Engine
from tests.support import Hang, process_configuration

#: Seconds in which a cancelled transfer is to be over.
AT_ONCE = 2

Moment = Callable[[Pair, Engine], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def stopping(pair: Pair, engine: Engine) -> AsyncIterator[None]:
    """The source waits for a server that does not stop."""
    stubborn = "trap '' TERM; echo listening on; while :; do sleep 1; done"
    pair.add_server(image=engine.image, invocation=stubborn)
    await pair.start(source=with_engine(engine))
    await pair.panel.power(UUID, "start")
    await pair.source.wait_for_line(f"{UUID}: running")
    await pair.transfer()
    await pair.source.wait_for_line("stopping the server")
    yield


@asynccontextmanager
async def admitting(pair: Pair, engine: Engine) -> AsyncIterator[None]:
    """The destination has not heard from the Panel yet; the small body is sent whole."""
    pair.add_server()
    await pair.start()
    hang = Hang()
    pair.panel.inject("/servers?", hang)
    asked = sum("/servers?" in call.path for call in pair.panel.calls)
    await pair.transfer()
    await pair.panel.called("/servers?", asked + 1)
    await pair.source.wait_for_line("waiting for the destination")
    yield
    hang.release()


@asynccontextmanager
async def receiving(pair: Pair, engine: Engine) -> AsyncIterator[None]:
    """The archive is on its way."""
    pair.add_server(24 << 20)
    await pair.start()
    assert pair.destination.line is not None
    pair.destination.line.bytes_per_second = SLOW
    await pair.transfer()
    await pair.destination.wait_for_line("receiving the archive")
    yield
    pair.destination.line.bytes_per_second = float("inf")


@asynccontextmanager
async def configuring(pair: Pair, engine: Engine) -> AsyncIterator[None]:
    """All is verified and in place; the destination's engine is asked and does not answer."""
    pair.add_server()
    socket = str(pair.destination.directory / "engine.sock")
    silent = SilentEngine()
    await silent.listen(socket)
    await pair.start(destination={"docker": {"socket": socket}})
    await pair.transfer()
    await pair.destination.wait_for_line("configuring the environment")
    yield
    await silent.close()


@asynccontextmanager
async def asking(pair: Pair, engine: Engine) -> AsyncIterator[None]:
    """The source asks a destination that does not answer."""
    pair.add_server()
    await pair.start()
    assert pair.destination.line is not None
    pair.destination.line.bytes_per_second = 1.0
    await pair.transfer()
    await pair.source.wait_for_line("asking the destination")
    yield
    pair.destination.line.bytes_per_second = float("inf")


def told(pair: Pair) -> list[str]:
    return [outcome for _, outcome in pair.panel.reports()]


async def as_before(pair: Pair, before: Any) -> None:
    """See that the server is the source's own again, and nothing of it at the destination."""
    await pair.panel.called("/transfer/failure")
    assert seen(pair.source.files()) == before
    assert pair.panel.node_of(UUID) is pair.source.node
    assert pair.destination.left() == []
    status, _ = await pair.panel.ask(pair.source.node, "GET", f"/api/servers/{UUID}")
    assert status == 200
    status, _ = await pair.panel.ask(pair.destination.node, "GET", f"/api/servers/{UUID}")
    assert status == 404
    assert not pair.panel.in_transfer(UUID)


async def over(pair: Pair, *peers: Any) -> None:
    """Return when the nodes have ended it, which is to be soon."""
    for peer in peers:
        waiting: Deferred[str] = peer.wait_for_line("state failure")
        await waiting.addTimeout(AT_ONCE, reactor)


@pytest.mark.parametrize("moment", [asking, stopping, admitting, receiving, configuring])
@pytest_twisted.ensureDeferred
async def test_cancelled_at_the_source(pair: Pair, engine: Engine, moment: Moment) -> None:
    async with moment(pair, engine):
        before = seen(pair.source.files())
        arrives = moment in (receiving, configuring)
        assert await pair.cancel(pair.source) == 202
        await over(pair, pair.source, *([pair.destination] if arrives else []))
        assert await pair.cancel(pair.source) == 409
    if arrives or moment is admitting:
        await pair.destination.wait_for_line("cleaned up")
    await as_before(pair, before)
    # Of two the Panel has taken the first. The other, which it denies, may be told again.
    assert set(told(pair)) == {"failure"}


@pytest.mark.parametrize("moment", [admitting, receiving, configuring])
@pytest_twisted.ensureDeferred
async def test_cancelled_at_the_destination(pair: Pair, engine: Engine, moment: Moment) -> None:
    async with moment(pair, engine):
        before = seen(pair.source.files())
        assert await pair.cancel(pair.destination) == 202
        await over(pair, pair.source)
    if moment is not admitting:
        await pair.destination.wait_for_line("cleaned up")
    await as_before(pair, before)
    assert set(told(pair)) == {"failure"}


@pytest.mark.parametrize("moment", [receiving, asking])
@pytest_twisted.ensureDeferred
async def test_after_it_the_next_attempt_succeeds(
    pair: Pair, engine: Engine, moment: Moment
) -> None:
    async with moment(pair, engine):
        before = seen(pair.source.files())
        await pair.cancel(pair.source)
        await over(pair, pair.source)
    # One of two reports comes second. The Panel denies it, and it is told again, but not when the
    # next attempt has begun: the Panel could not tell which of the two it is about.
    await pair.panel.called("/transfer/failure", times=2 if moment is receiving else 1)
    await pair.transfer()
    await pair.destination.wait_for_line("state success")
    assert seen(pair.destination.files()) == before
    assert not pair.panel.in_transfer(UUID)


@pytest_twisted.ensureDeferred
async def test_after_success_is_told_there_is_no_cancel(pair: Pair, engine: Engine) -> None:
    pair.add_server()
    await pair.start()
    hang = Hang()
    pair.panel.inject("/transfer/success", hang)
    await pair.transfer()
    await pair.panel.called("/transfer/success")
    assert await pair.cancel(pair.destination) == 409
    hang.release()
    await pair.source.wait_for_line("state success")
    assert await pair.cancel(pair.source) in (404, 409)  # gone, or just about to
    assert pair.panel.node_of(UUID) is pair.destination.node


@pytest_twisted.ensureDeferred
async def test_a_server_that_was_cancelled_while_it_stops_starts_again(
    pair: Pair, engine: Engine
) -> None:
    quick = "echo listening on; exec sleep 600"
    process = process_configuration(stop={"type": "command", "value": "nothing"})
    pair.add_server(image=engine.image, invocation=quick, process=process)
    await pair.start(source=with_engine(engine))
    await pair.panel.power(UUID, "start")
    await pair.source.wait_for_line(f"{UUID}: running")
    await pair.transfer()
    await pair.source.wait_for_line("stopping the server")
    assert await pair.cancel(pair.source) == 202
    await over(pair, pair.source)
    await pair.panel.power(UUID, "kill")
    await pair.source.wait_for_line(f"{UUID}: offline")
    started = len(pair.source.log)
    await pair.panel.power(UUID, "start")
    await pair.source.wait_for_line(f"{UUID}: running", since=started)
