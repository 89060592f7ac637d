"""A server moves between two nodes through a network namespace; in the middle its line fails."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import deferLater
from twisted.protocols.portforward import ProxyFactory

from tests.support.archives import seen
from tests.support.namespace_line import NamespaceLine
from tests.support.node_process import reactor
from tests.support.sample_server import UUID
from tests.support.two_nodes import TwoNodes

__all__ = ["BadLine", "move_over"]

MIB = 1 << 20
#: Seconds that a move may take, beside those in which the line is dead.
WITHIN = 1800.0
#: Batches under way at once, and of how many MiB; what a break may cost.
STREAMS, BATCH = 4, 4
AGAIN = 128 * MIB


@attrs.frozen
class BadLine:
    """The share of packets that is lost, seconds of delay one way, and for how long it is dead.

    It is dead when half of the server has been sent: packets vanish, and nobody is told.
    """

    loss: float
    delay: float
    dead: float = 0.0


async def move_over(
    bad: BadLine, line: NamespaceLine, directory: Path, size: int, say: Callable[[str], None]
) -> None:
    """Move a server of `size` MiB that does not compress. Raises AssertionError."""
    nodes = TwoNodes(directory)
    destination = nodes.destination
    destination.names = ("127.0.0.1", line.there)
    destination.issue_certificate()
    for node in (nodes.source, destination):
        node.transfers = {
            "disk_reserve": 0,
            "moves": {"streams": STREAMS, "batch": BATCH},
        }
    nodes.add_server(1000)
    for number in range(8):
        data = hashlib.shake_128(b"%d" % number).digest(size * MIB // 8)
        (nodes.source.files() / "world" / f"r.{number}.mca").write_bytes(data)
    before = seen(nodes.source.files())
    revived: list[float] = []

    def die() -> None:
        line.lose(1.0)
        say(f"dead for {bad.dead:g} s")
        reactor.callLater(bad.dead, revive)

    def revive() -> None:
        line.lose(bad.loss)
        revived.append(reactor.seconds())

    async with AsyncExitStack() as cleanup:
        cleanup.callback(_tell, nodes, say)
        cleanup.push_async_callback(nodes.close)
        await nodes.start()
        inner = destination.line
        inner.delay = bad.delay
        factory = ProxyFactory("127.0.0.1", inner.listening_port)
        factory.noisy = False
        listening = reactor.listenTCP(0, factory, interface=line.here)
        cleanup.push_async_callback(maybeDeferred, listening.stopListening)
        port = line.relay(listening.getHost().port)
        destination.node.address = f"https://{line.there}:{port}"
        line.lose(bad.loss)
        begun, sent = reactor.seconds(), line.sent
        if bad.dead:
            inner.after(size * MIB // 2, die)
        await nodes.transfer()
        await _until(lambda: nodes.panel.reports() != [], WITHIN + bad.dead)
        assert nodes.panel.reports() == [(UUID, "success")], nodes.panel.reports()
        await nodes.source.wait_for_line(f"{UUID}: files deleted")
        assert seen(destination.files()) == before, "the copies differ"
        assert bool(revived) is bool(bad.dead), "the line was never dead"
        more = line.sent - sent - size * MIB
        # Packets that come again, and their headers, are on the line as well.
        assert more < AGAIN + size * MIB * (bad.loss + 0.1), f"{more} bytes too many"
        after = f", {reactor.seconds() - revived[0]:.0f} s of it afterwards" if revived else ""
        say(
            f"{size} MiB moved in {reactor.seconds() - begun:.0f} s{after}; "
            f"{more / MIB:.1f} MiB more on the line"
        )


def _tell(nodes: TwoNodes, say: Callable[[str], None]) -> None:
    for node in (nodes.source, nodes.destination):
        for text in (f"{UUID}: ", "Traceback"):
            for found in node.lines_with(text):
                say(f"{node.directory.name}: {found.partition(text)[2] or found}")


async def _until(condition: Callable[[], bool], seconds: float) -> None:
    end: float = reactor.seconds() + seconds
    while not condition():
        assert reactor.seconds() < end, f"nothing after {seconds:g} s"
        pausing: Deferred[Any] = deferLater(reactor, 0.2)
        await pausing
