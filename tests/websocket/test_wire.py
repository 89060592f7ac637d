"""What one connection may cost: floods, long messages, slow readers, and those who are gone."""

from __future__ import annotations

import os
from pathlib import Path
from time import process_time
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from tests.support.browser import Browser, BrowserEvent
from tests.support.logged_errors import Logged
from tests.websocket.consoles import ConsoleNode, reactor
from tests.websocket.tokens import UUID
from wingsd.websocket import protocol
from wingsd.websocket.resource import ALL_MAX

#: Each of ten long lines, figures and a status.
TURNS = 300
#: Browsers that flood at once.
FLOODS = 5


async def test_floods_of_messages_are_dropped_and_of_frames_end_it(node: ConsoleNode) -> None:
    node.listen()
    browser = await node.watch("*")
    for _ in range(100):
        browser.send("send command", "x")
    await browser.wait_for("throttled", "global")
    assert len(node.server.done) <= 10
    for _ in range(300):
        browser.send("send command", "x")
    assert await browser.wait_closed() == (1008, "too many messages")
    # Few, and more than one where this took so long that some more were let through.
    assert browser.count("throttled") < 20


@pytest.mark.promise("websocket-floods-are-closed")
async def test_browsers_that_flood_delay_nobody_and_cost_little(
    node: ConsoleNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A loaded machine may read the frames more slowly than they are allowed to come.
    monkeypatch.setattr(protocol, "FRAMES", (protocol.FRAMES[0], 0.0))
    node.listen(secure=True)
    other = await node.watch("*")
    before, begun_at = resident_mib(), reactor.seconds()

    async def flood() -> None:
        browsers = [await node.watch("*") for _ in range(FLOODS)]
        for browser in browsers:
            for _ in range(300):
                browser.send("send logs")
                browser.send("send command", "x" * 1000)
            await deferLater(reactor, 0)
        for browser in browsers:
            assert (await browser.wait_closed())[0] == 1008

    flooding = Deferred.fromCoroutine(flood())
    #: Of CPU time: other processes may delay all.
    waits: list[float] = []
    while not flooding.called:
        begun = process_time()
        name = f"turn {len(waits)}"
        node.publish("status", name)
        await other.wait_for("status", name)
        waits.append(process_time() - begun)
        await deferLater(reactor, 0.01)
    await flooding
    assert len(waits) > FLOODS
    # Of the clients' own work, too: they share the reactor.
    assert max(waits) < 2
    # Of each not more than is taken at once, and then one a second.
    assert len(node.server.done) <= FLOODS * (11 + reactor.seconds() - begun_at)
    assert resident_mib() - before < 16


def resident_mib() -> float:
    """Return the resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def test_a_flood_of_pings_or_fragments_is_closed_with_1008(node: ConsoleNode) -> None:
    node.listen()
    pinging, piecing = await node.watch(), await node.watch()
    piecing.wire.beginMessage()
    for _ in range(300):
        pinging.wire.sendPing(b"x" * 125)
        piecing.wire.sendMessageFrame(b"x")
    assert (await pinging.wait_closed())[0] == 1008
    assert (await piecing.wait_closed())[0] == 1008


async def test_a_message_too_long_is_closed_with_1009(node: ConsoleNode, logged: Logged) -> None:
    node.listen()
    browser = await node.watch("*")
    browser.send("send command", "x" * 4000)
    browser.send("send stats")
    await browser.wait_for("stats")
    assert len(node.server.done) == 1
    for _ in range(3):
        browser.send("send command", "x" * 5000)
    code, reason = await browser.wait_closed()
    assert code == 1009
    assert "limit of 4096" in str(reason)
    assert len(node.server.done) == 1
    assert sum("a message has 50" in line for line in logged.lines) == 1


async def test_a_long_token_of_calagopus_is_taken(node: ConsoleNode) -> None:
    node.listen(family="calagopus")
    ignored = [f"world/{number}/secret" for number in range(500)]
    browser = await node.open()
    await browser.auth(node.token(scope="websocket", ignored_files=ignored))
    browser.send("ping", "x" * (64 << 10))
    code, reason = await browser.wait_closed()
    assert code == 1009
    assert "limit of 65536" in str(reason)


async def test_a_message_in_fragments_is_measured_as_a_whole(node: ConsoleNode) -> None:
    node.listen()
    browser = await node.watch("*")
    browser.wire.beginMessage()
    for _ in range(3):
        browser.wire.sendMessageFrame(b"x" * 2000)
    assert (await browser.wait_closed())[0] == 1009


@pytest.mark.parametrize("secure", [False, True])
async def test_a_slow_reader_costs_bounded_memory(node: ConsoleNode, secure: bool) -> None:
    node.listen(secure=secure)
    slow = await node.watch()
    client = nodes_end(node, slow)
    slow.pause()
    # 30 MB, in pieces that a browser that reads would take.
    for turn in range(TURNS):
        for number in range(10):
            node.publish("console output", f"{turn * 10 + number} {'x' * 10_000}")
        node.publish("stats", "{}")
        node.publish("status", f"turn {turn}")
        assert held_for(client) < ALL_MAX + 200_000
        await deferLater(reactor, 0)
    assert client.buffer.paused
    slow.resume()
    await slow.wait_for("daemon message")
    node.publish("console output", f"{10 * TURNS} and on")
    await slow.wait_for("console output", f"{10 * TURNS} ")
    lines = [int(entry.args[0].split()[0]) for entry in slow.events if is_line(entry)]
    assert len(lines) > 50
    assert lines == sorted(set(lines))
    notices = [entry.args[0] for entry in slow.events if entry.event == "daemon message"]
    assert sum(int(notice.split()[0]) for notice in notices) == 10 * TURNS + 1 - len(lines) > 1_000
    states = [entry.args[0] for entry in slow.events if entry.event == "status"]
    assert states == ["running", *(f"turn {turn}" for turn in range(TURNS))]


def is_line(entry: BrowserEvent) -> bool:
    return entry.event == "console output"


def nodes_end(node: ConsoleNode, browser: Browser) -> Any:
    """Return the node's end of a browser's connection."""
    port = browser.wire.transport.getHost().port
    return next(one for one in node.clients if one._protocol.transport.getPeer().port == port)


def held_for(client: Any) -> int:
    """Return the bytes that the transport, TLS or not, holds for a client."""
    transport = client._protocol.transport.transport
    held = 0
    if hasattr(transport, "_tlsConnection"):
        held += sum(map(len, transport._appSendBuffer))
        transport = transport.transport
    return held + len(transport.dataBuffer) + int(transport._tempDataLen)


async def test_a_reader_that_never_reads_is_closed_with_1013(node: ConsoleNode) -> None:
    node.listen()
    browser = await node.watch()
    browser.pause()
    client = nodes_end(node, browser)
    transport = client._protocol.transport.transport
    message = "x" * 10_000
    for turn in range(10_000):
        node.publish("transfer status", message)
        if not node.bus._subscribers:
            break
        if turn % 50 == 0:
            await deferLater(reactor, 0)
        assert len(transport.dataBuffer) + transport._tempDataLen < ALL_MAX + 200_000
    assert not node.bus._subscribers
    browser.resume()
    assert await browser.wait_closed() == (1013, "this browser reads too slowly")


async def test_pings_find_dead_peers(node: ConsoleNode, monkeypatch: pytest.MonkeyPatch) -> None:
    # Autobahn cuts its times down to whole seconds.
    monkeypatch.setattr(protocol, "PING_INTERVAL", 1)
    monkeypatch.setattr(protocol, "PONG_TIMEOUT", 2)
    node.listen()
    alive, gone = await node.watch(), await node.watch()
    gone.pause()
    while node.sockets.count(UUID) > 1:
        await deferLater(reactor, 0.01)
    node.publish("status", "offline")
    await alive.wait_for("status", "offline")


def test_a_vanished_client_is_dropped_within_90_seconds() -> None:
    assert protocol.PING_INTERVAL + protocol.PONG_TIMEOUT <= 90
