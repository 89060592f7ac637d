"""A client and its consumer, for tests in which loopback is allowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IConsumer
from zope.interface import implementer

from tests.support.reactor import reactor
from tests.transfers.peers import Peer
from wingsd.http_client.download import AddressPolicy, FetchLimits, GuardedClient

#: The address that tests allow; all others of loopback are refused as usual.
ALLOWED = "127.0.0.1"
LIMITS = FetchLimits(connect=60, answer=60, idle=60, total=120)
OK = b"HTTP/1.1 200 OK\r\n"


@implementer(IConsumer)
class Collector:
    """Keeps what is written to it; `paused_at` bytes pause the producer."""

    def __init__(self, paused_at: int | None = None) -> None:
        self.data = bytearray()
        self.full: Deferred[None] = Deferred()
        self.producer: Any = None
        self._paused_at = paused_at

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self.producer = producer

    def unregisterProducer(self) -> None:
        pass

    def write(self, data: bytes) -> None:
        self.data += data
        if self._paused_at is not None and len(self.data) >= self._paused_at:
            self._paused_at = None
            self.producer.pauseProducing()
            self.full.callback(None)


@attrs.frozen
class Fetched:
    """An answer that was received as a whole."""

    status: int
    url: str
    length: int | None
    body: bytes


class Names:
    """A resolver with the answers of each name, in turn."""

    def __init__(self, answers: Mapping[str, Sequence[list[str]]]) -> None:
        self.asked: list[str] = []
        self._answers = {name: list(each) for name, each in answers.items()}

    def __call__(self, host: str, port: int) -> Deferred[list[str]]:
        self.asked.append(host)
        return succeed(self._answers[host].pop(0))


def make_client(
    names: Names | None = None, allowlist: Sequence[str] = (ALLOWED,), clock: Any = reactor
) -> GuardedClient:
    resolve = Names({}) if names is None else names
    return GuardedClient(clock, AddressPolicy.of(allowlist), "test (agent)", resolve)


async def fetch(
    url: str,
    limits: FetchLimits = LIMITS,
    client: GuardedClient | None = None,
    consumer: Collector | None = None,
) -> Fetched:
    """Return what is received from a URL."""
    answer = await (client or make_client()).get(url, limits)
    try:
        collected = consumer or Collector()
        await answer.deliver(collected)
        return Fetched(answer.status, str(answer.url), answer.length, bytes(collected.data))
    finally:
        answer.close()


def url_of(peer: Peer, path: str = "/file", host: str = ALLOWED, scheme: str = "http") -> str:
    return f"{scheme}://{host}:{peer.port}{path}"
