"""All that is known of the node, in the form that Prometheus reads.

`prometheus_client.twisted` has a resource for that. It makes the answer in a thread of the
reactor's pool, while the reactor changes what is being read, and it needs the installed reactor to
be imported.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    Info,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as TimedOut
from twisted.logger import Logger

from wingsd import __version__
from wingsd.bridge import Workers
from wingsd.diskadvice import reading_advice
from wingsd.metrics.gauges import Gauges, Sources
from wingsd.metrics.recorder import Recorder

__all__ = ["Exposition"]

#: Seconds for the filesystem to tell its size: a network's may be gone.
DISK_WITHIN = 2


class Exposition:
    """What `recorder` has counted, what `sources` know, and what the process is.

    `data` is the directory of the servers' files, looked at in the threads of `disk`.
    """

    _log = Logger()

    def __init__(
        self, recorder: Recorder, sources: Sources, disk: Workers, data: str, reactor: Any
    ) -> None:
        self._disk = disk
        self._data = data
        self._reactor = reactor
        self._registry = registry = recorder.registry
        # Who waits for the one look at the disk that there is at a time: each takes a thread, and
        # keeps it while the disk hangs.
        self._looking: set[Deferred[os.statvfs_result]] = set()
        self._is_asked = False
        self._has_told = True
        self._gauges = Gauges(recorder, sources)
        registry.register(self._gauges)
        build = Info("wingsd_build", "What is running.", registry=registry)
        build.info({"version": __version__})
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

    async def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return the exposition and its content type, as the header `accept` wants it."""
        self._gauges.disk = await self._look_at_disk()
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):
            # Of a version that is none; RFC 9110 leaves it to the server what to answer then.
            encode, content_type = choose_encoder("")
        registry: Any = _WithoutCreated(self._registry)
        return encode(registry), content_type

    async def _look_at_disk(self) -> os.statvfs_result | None:
        looking: Deferred[os.statvfs_result] = Deferred()
        self._looking.add(looking)
        if not self._is_asked:
            self._is_asked = True
            self._disk.run(os.statvfs, self._data).addBoth(self._disk_told)
        try:
            found = await looking.addTimeout(DISK_WITHIN, self._reactor)
        except TimedOut:
            self._say_untold(f"no answer within {DISK_WITHIN} s")
        except OSError as error:
            self._say_untold(reading_advice(error))
        else:
            self._has_told = True
            return found
        finally:
            self._looking.discard(looking)
        return None

    def _disk_told(self, found: Any) -> None:
        self._is_asked = False
        for looking in tuple(self._looking):
            looking.callback(found)

    def _say_untold(self, why: str) -> None:
        # Once: it is asked every few seconds.
        if self._has_told:
            self._has_told = False
            self._log.warn("{data} does not tell its size: {why}", data=self._data, why=why)


class _WithoutCreated:
    """A registry without the library's own series of when each of the others was first made.

    They double the number of series, and the process's start tells the same. To have the library
    leave them out is a setting for the whole process.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            created = f"{metric.name}_created"
            metric.samples = [sample for sample in metric.samples if sample.name != created]
            yield metric
