"""The figures of the machine: processor, memory, network and disks, as they are now.

A Panel asks every few seconds, and waits for one. What is asked meanwhile shares one answer.
"""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from wingsd.config import Config
from wingsd.node.answers import SharedAnswer
from wingsd.node.counters import (
    Counters,
    MachineMemory,
    Processor,
    Rates,
    memory,
    processor,
    read_counters,
)
from wingsd.node.disks import MountedDisk, NodeDisks, directories
from wingsd.threadio import Workers

__all__ = ["MachineFigures", "NodeFigures"]

#: Seconds for which an answer is kept: pages that ask at almost the same time get the same, and
#: rates are over no shorter time.
KEPT = 0.5
#: Seconds to count for a rate when nobody has asked within the last minute.
_FIRST = 0.2
_STALE = 60.0


@attrs.frozen(repr=False)
class MachineFigures:
    """What the machine does now."""

    counters: Counters
    rates: Rates
    memory: MachineMemory
    disks: tuple[MountedDisk, ...]

    @property
    def data_disk(self) -> MountedDisk | None:
        """The disk with the servers' files; None if it has never answered."""
        return next((disk for disk in self.disks if "Data" in disk.tags), None)


class NodeFigures:
    """Reads the machine's figures in `workers`; `filesystems` are threads that disks may block."""

    def __init__(
        self, config: Config, workers: Workers, filesystems: Workers, reactor: IReactorTime
    ) -> None:
        self._bridge = config.docker.network.bridge_name
        self._workers = workers
        self._reactor = reactor
        self._disks = NodeDisks(directories(config), workers, filesystems, reactor)
        self._last: Counters | None = None
        self._shared = SharedAnswer(self._read, reactor, keep=KEPT)

    def now(self) -> Deferred[MachineFigures]:
        """Return the figures. Raises `FiguresUnavailable`.

        Rates are since the last question, or over a moment when that was long ago.
        """
        return self._shared.get()

    def memory(self) -> Deferred[MachineMemory]:
        """Return what is known of the machine's memory. Raises `FiguresUnavailable`."""
        return self._workers.run(memory)

    def processor(self) -> Deferred[Processor]:
        """Return the machine's processor."""
        return self._workers.run(processor)

    async def _read(self) -> MachineFigures:
        # At the same time: each may wait a little.
        reading: list[Deferred[Any]] = [
            Deferred.fromCoroutine(self._disks.look()),
            Deferred.fromCoroutine(self._count()),
            self._workers.run(memory),
        ]
        try:
            disks, (counters, rates), used = await gatherResults(reading, consumeErrors=True)
        except FirstError as first:
            first.subFailure.raiseException()
        return MachineFigures(counters, rates, used, tuple(disks))

    async def _count(self) -> tuple[Counters, Rates]:
        before = self._last
        if before is None or self._reactor.seconds() - before.time > _STALE:
            before = await self._counters()
            await deferLater(self._reactor, _FIRST)
        self._last = after = await self._counters()
        return after, Rates.between(before, after)

    def _counters(self) -> Deferred[Counters]:
        return self._workers.run(read_counters, self._reactor.seconds(), self._bridge)
