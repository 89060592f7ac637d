"""Bad lines: a server moves through a network namespace that loses packets, or is dead for long.

Root only.
"""

from __future__ import annotations

import hashlib
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from twisted.internet.defer import maybeDeferred
from twisted.internet.task import deferLater
from twisted.protocols.portforward import ProxyFactory

from tests.crash.engine import Broken, Campaign, place
from tests.support.archives import seen
from tests.support.namespace_line import NamespaceLine, namespace_line
from tests.support.node_process import reactor
from tests.support.sample_server import UUID
from tests.support.two_nodes import TwoNodes

__all__ = ["KINDS", "campaigns"]

KINDS = ("lossy", "dead")
MIB = 1 << 20
#: The share of lost packets, and seconds of delay one way.
LOSS, DELAY = 0.01, 0.05
#: Seconds that a move may take, beside those in which the line is dead.
WITHIN = 1800.0
#: Batches under way at once, and of how many MiB; the cost that a break may have.
STREAMS, BATCH = 4, 4
AGAIN = 128 * MIB


class BadLine(Campaign):
    """A move of a server of `size` MiB that does not compress.

    The line is `dead` for so many seconds when half of the server has been sent: packets vanish,
    and neither end notices. It must move, and be the same afterwards.
    """

    def __init__(self, line: NamespaceLine, directory: Path, size: int, dead: float) -> None:
        self._line = line
        self._size = size * MIB
        self._dead = dead
        self._revived: list[float] = []
        self._nodes = nodes = TwoNodes(directory)
        nodes.destination.names = ("127.0.0.1", line.there)
        nodes.destination.issue_certificate()
        for node in (nodes.source, nodes.destination):
            moves = {"streams": STREAMS, "batch": BATCH}
            node.transfers = {"disk_reserve": 0, "moves": moves}
        nodes.add_server(1000)
        for number in range(8):
            data = hashlib.shake_128(b"%d" % number).digest(self._size // 8)
            (nodes.source.files() / "world" / f"r.{number}.mca").write_bytes(data)

    def _die(self) -> None:
        self._line.lose(1.0)
        reactor.callLater(self._dead, self._revive)

    def _revive(self) -> None:
        self._line.lose(LOSS)
        self._revived.append(reactor.seconds())

    async def trial(self, number: int) -> str:
        nodes, line, size = self._nodes, self._line, self._size
        before = seen(nodes.source.files())
        async with AsyncExitStack() as cleanup:
            cleanup.push_async_callback(nodes.close)
            await nodes.start()
            inner = nodes.destination.line
            inner.delay = DELAY
            factory = ProxyFactory("127.0.0.1", inner.listening_port)
            factory.noisy = False
            listening = reactor.listenTCP(0, factory, interface=line.here)
            cleanup.push_async_callback(maybeDeferred, listening.stopListening)
            port = line.relay(listening.getHost().port)
            nodes.destination.node.address = f"https://{line.there}:{port}"
            line.lose(LOSS)
            begun, sent = reactor.seconds(), line.sent
            if self._dead:
                inner.after(size // 2, self._die)
            await nodes.transfer()
            await _until(lambda: nodes.panel.reports() != [], WITHIN + self._dead)
            _check(nodes.panel.reports() == [(UUID, "success")], f"{nodes.panel.reports()}")
            await nodes.source.wait_for_line(f"{UUID}: files deleted")
            _check(seen(nodes.destination.files()) == before, "the copies differ")
            _check(bool(self._revived) is bool(self._dead), "the line was never dead")
            more = line.sent - sent - size
            # Packets that come again, and their headers, are on the line as well.
            _check(more < AGAIN + size * (LOSS + 0.1), f"{more} bytes too many")
        self.done = self.count
        now = reactor.seconds()
        after = f", {now - self._revived[0]:.0f} s of it afterwards" if self._revived else ""
        return (
            f"{LOSS:.0%} of all packets were lost, {2 * DELAY:g} s to and fro, dead for "
            f"{self._dead:g} s: {size / MIB:g} MiB moved in {now - begun:.0f} s{after}; "
            f"{more / MIB:.1f} MiB more on the line"
        )

    def evidence(self) -> list[str]:
        return [
            f"{node.directory.name}: {found}"
            for node in (self._nodes.source, self._nodes.destination)
            for text in (f"{UUID}: ", "Traceback")
            for found in node.lines_with(text)
        ]


def _check(holds: bool, text: str) -> None:
    if not holds:
        raise Broken(text)


async def _until(condition: Callable[[], bool], seconds: float) -> None:
    end: float = reactor.seconds() + seconds
    while not condition():
        _check(reactor.seconds() < end, f"nothing after {seconds:g} s")
        await deferLater(reactor, 0.2)


def campaigns(kinds: Sequence[str], options: Namespace) -> Iterator[tuple[str, Campaign]]:
    """Yield moves over lines of these kinds."""
    for kind in kinds:
        dead = options.seconds if kind == "dead" else 0.0
        with place("lines", in_memory=False) as directory, namespace_line() as line:
            yield kind, BadLine(line, directory, options.size, dead)
