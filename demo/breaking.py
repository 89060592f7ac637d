"""The line between two nodes is cut in the middle of a move, which goes on where it was."""

from __future__ import annotations

import re

import attrs

from demo.node import RunningNode
from demo.output import check, mib
from demo.watch import Watch

__all__ = ["BrokenLine"]

#: The share of the server after which the line is cut.
_AFTER = 0.5
_SENT_AGAIN = re.compile(r"sent (\d+) bytes, (\d+) of them twice")


@attrs.define
class BrokenLine:
    """The line from `source` to `destination`, and the page `watch` of a server of some size."""

    server: str
    size: int
    source: RunningNode
    destination: RunningNode
    watch: Watch
    _cut_at: int = 0

    def cut_halfway(self) -> None:
        """Cut the line when half of the server has gone over it."""
        wire = self.destination.line
        before = wire.sent

        def cut() -> None:
            self._cut_at = wire.sent - before
            wire.cut()

        wire.after(int(self.size * _AFTER), cut)

    def verify(self) -> None:
        """Check that the line was cut, and that the move went on there. Raises `Failed`."""
        told = self.watch.has_seen("transfer logs", "the move goes on, after")
        text = f"cut after {mib(self._cut_at)} of {mib(self.size)}; the move went on where it was"
        check("line", self._cut_at and told, text)
        found = _SENT_AGAIN.search(self.source.log)
        sent, again = (int(found[1]), int(found[2])) if found else (0, 0)
        check("sent twice", found and again < self._cut_at, f"{mib(again)} of {mib(sent)}")
