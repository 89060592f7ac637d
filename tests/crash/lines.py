"""Bad lines: a server moves through a network namespace that loses packets, or is dead for long.

Root only.
"""

from __future__ import annotations

import hashlib
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from twisted.internet.defer import maybeDeferred
from twisted.protocols.portforward import ProxyFactory

from tests.crash.engine import Broken, Campaign, place
from tests.crash.two_nodes import Transfers
from tests.support.namespace_line import NamespaceLine, namespace_line
from tests.support.node_process import reactor

KINDS = ("lossy", "dead")
MIB = 1 << 20
#: The share of lost packets, and seconds of delay one way.
LOSS, DELAY = 0.01, 0.05


class BadLine(Transfers):
    """A move of a server of `mebibytes` that do not compress; it must go well.

    The line is `dead` for so many seconds when half of the server has been sent: packets vanish,
    and neither end notices.
    """

    #: Bytes that a break may cost.
    AGAIN = 128 * MIB
    size = 1000
    settles_within = 1800.0
    configured: ClassVar[dict[str, Any]] = {
        "disk_reserve": 0,
        "moves": {"streams": 4, "batch": 4},
    }

    def __init__(self, directory: Path, line: NamespaceLine, mebibytes: int, dead: float) -> None:
        super().__init__(directory)
        self._line = line
        self._bytes = mebibytes * MIB
        self._dead = dead
        self.settles_within += dead
        self._revived: list[float] = []
        self._listening: Any = None
        self.pair.destination.names = ("127.0.0.1", line.there)
        self.pair.destination.issue_certificate()

    def fill(self, home: Path) -> None:
        for number in range(8):
            data = hashlib.shake_128(b"%d" % number).digest(self._bytes // 8)
            (home / "world" / f"r.{number}.mca").write_bytes(data)

    async def launch(self) -> None:
        """Start the nodes, and have the destination be reached through the namespace."""
        await super().launch()
        inner, line = self.pair.destination.line, self._line
        inner.delay = DELAY
        factory = ProxyFactory("127.0.0.1", inner.listening_port)
        factory.noisy = False
        self._listening = reactor.listenTCP(0, factory, interface=line.here)
        port = line.relay(self._listening.getHost().port)
        self.pair.destination.node.address = f"https://{line.there}:{port}"
        line.lose(LOSS)

    async def close(self) -> None:
        if self._listening is not None:
            await maybeDeferred(self._listening.stopListening)
        await super().close()

    def prepare(self, variant: str) -> None:
        if self._dead:
            self.pair.destination.line.after(self._bytes // 2, self._die)

    def _die(self) -> None:
        self._line.lose(1.0)
        reactor.callLater(self._dead, self._revive)

    def _revive(self) -> None:
        self._line.lose(LOSS)
        self._revived.append(reactor.seconds())

    async def trial(self, number: int) -> str:
        begun, sent = reactor.seconds(), self._line.sent
        await self.begin()
        await self.settle()
        self.check_success()
        if bool(self._revived) is not bool(self._dead):
            raise Broken("the line was never dead")
        more = self._line.sent - sent - self._bytes
        # Packets that come again, and their headers, are on the line as well.
        if more >= self.AGAIN + self._bytes * (LOSS + 0.1):
            raise Broken(f"{more} bytes too many")
        self.done = self.count
        now = reactor.seconds()
        after = f", {now - self._revived[0]:.0f} s of it afterwards" if self._revived else ""
        return (
            f"{LOSS:.0%} of all packets were lost, {2 * DELAY:g} s to and fro, dead for "
            f"{self._dead:g} s: {self._bytes / MIB:g} MiB moved in {now - begun:.0f} s{after}; "
            f"{more / MIB:.1f} MiB more on the line"
        )


def campaigns(kinds: Sequence[str], options: Namespace) -> Iterator[tuple[str, Campaign]]:
    """Yield moves over lines of these kinds."""
    for kind in kinds:
        dead = options.seconds if kind == "dead" else 0.0
        with place("lines", in_memory=False) as directory, namespace_line() as line:
            yield kind, BadLine(directory, line, options.size, dead)
