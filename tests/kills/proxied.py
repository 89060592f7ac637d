"""Scenarios of moves through a strict proxy, which breaks on either side or is started again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import attrs

from tests.kills.engine import Kill
from tests.kills.resumed import LINES, Resumed
from tests.support.http_proxy import HttpProxy
from tests.support.line import Line
from tests.support.node_process import FAST, NodeProcess, reactor

__all__ = ["Proxied"]

#: Bytes of a body that gets through: less than a batch has.
LIMIT = 700 << 10
#: Seconds that the proxy waits for an answer, and while it is late.
ANSWERED, LATE, LATE_FOR = 60.0, 0.02, 1.0
#: MiB of bodies that were too large: each stream sends a few until one gets through.
REFUSED = 8
#: What breaks: between source and proxy, behind the proxy, both, and answers that come too late.
BREAKS = (*LINES, *(f"{each}_behind" for each in LINES), "restart", "late")
CUTTING = "the proxy cuts bodies"


class Proxied(Resumed):
    """Each node is reached through a proxy, which is between two lines."""

    breaks: ClassVar[Sequence[str]] = BREAKS
    more: ClassVar[int] = Resumed.more + REFUSED

    def __init__(self, directory: Path, size: int = 48) -> None:
        super().__init__(directory, size)
        self._proxies: dict[NodeProcess, HttpProxy] = {}
        self._lines: dict[NodeProcess, Line] = {}

    async def start(self) -> None:
        """Start the nodes, and a proxy and another line before each of them."""
        await super().start()
        for node in (self.pair.source, self.pair.destination):
            proxy = HttpProxy(
                node.node.address, node.authority, body_limit=LIMIT, answer_within=ANSWERED
            )
            line = Line(reactor, int(proxy.url.rpartition(":")[2]), FAST)
            node.node.address = f"https://127.0.0.1:{line.listening_port}"
            self._proxies[node], self._lines[node] = proxy, line

    async def close(self) -> None:
        """End all that was started."""
        await super().close()
        for line in self._lines.values():
            await line.close()
        for proxy in self._proxies.values():
            await proxy.close()

    def plan(self, rng: random.Random) -> Kill:
        """Return the next kill; half of the proxies cut bodies and say nothing."""
        kill = super().plan(rng)
        cutting = [CUTTING] if rng.random() < 1 / 2 else []
        return attrs.evolve(kill, variant=", ".join(filter(None, [kill.variant, *cutting])))

    async def begin(self, variant: str = "") -> None:
        """Have the Panel move the server through the proxy."""
        for proxy in self._proxies.values():
            proxy.answer_within = ANSWERED  # by which the Panel asks as well
        self._proxies[self.nodes["destination"]].cuts_bodies = CUTTING in variant
        await super().begin(variant)

    def line_to(self, node: NodeProcess) -> Line:
        """Return the line before the proxy."""
        return self._lines[node]

    def break_line(self, node: NodeProcess, kind: str) -> None:
        """Break one of the lines, or have the proxy fail."""
        proxy, behind = self._proxies[node], node.line
        if kind.endswith("_behind"):
            self.break_at(behind, kind.removesuffix("_behind"))
        elif kind == "restart":
            self._lines[node].cut()
            behind.cut()
        elif kind == "late":
            proxy.answer_within = LATE
            reactor.callLater(LATE_FOR, setattr, proxy, "answer_within", ANSWERED)
        else:
            super().break_line(node, kind)
