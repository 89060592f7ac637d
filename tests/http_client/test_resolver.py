"""Names that users choose, looked up by the system's resolver."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from functools import partial
from threading import Event
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from tests.support.reactor import reactor, until
from wingsd.http_client.download import LOOKUPS, MAX_ADDRESSES, host_resolver
from wingsd.threadio import Workers

MANY = 6000


class SystemResolver:
    """The answers of `socket.getaddrinfo`; it is silent until `answers` is set."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers = Event()

    def has_been_asked(self, times: int) -> bool:
        return len(self.asked) == times

    def __call__(self, host: str, port: int, **_: Any) -> list[Any]:
        self.asked.append(host)
        assert self.answers.wait(30)
        if host == "unknown.example":
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        if host == "no-descriptor.example":
            raise OSError(24, "too many open files")
        if host == "many.example":
            found = [f"10.0.{each >> 8}.{each & 255}" for each in range(MANY)]
        else:
            found = ["192.0.2.1", "fe80::1%eth0", "192.0.2.1"]
        return [(0, 0, 0, "", (each, port)) for each in found]


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> Iterator[SystemResolver]:
    made = SystemResolver()
    monkeypatch.setattr("socket.getaddrinfo", made)
    yield made
    made.answers.set()


@pytest.fixture
def workers() -> Iterator[Workers]:
    made = Workers(reactor, "lookup", LOOKUPS)
    made.start()
    yield made
    made.stop()


async def test_addresses_are_returned_once_and_without_their_zone(
    system: SystemResolver, workers: Workers
) -> None:
    system.answers.set()
    assert await host_resolver(workers)("a.example", 80) == ["192.0.2.1", "fe80::1"]


@pytest.mark.parametrize("host", ["unknown.example", "no-descriptor.example"])
async def test_a_name_that_cannot_be_looked_up_has_no_address(
    system: SystemResolver, workers: Workers, host: str
) -> None:
    system.answers.set()
    assert await host_resolver(workers)(host, 80) == []


@pytest.mark.promise("silent-name-servers-block-none")
async def test_an_answer_of_thousands_of_addresses_is_cut(
    system: SystemResolver, workers: Workers
) -> None:
    system.answers.set()
    assert len(await host_resolver(workers)("many.example", 80)) == MAX_ADDRESSES


@pytest.mark.promise("silent-name-servers-block-none")
async def test_lookups_that_are_cancelled_keep_their_turns_and_wait_nowhere(
    system: SystemResolver, workers: Workers
) -> None:
    resolve = host_resolver(workers)
    cancelled: list[Deferred[list[str]]] = []
    for number in range(5 * LOOKUPS):
        cancelled.append(resolve(f"{number}.example", 80))
        if number < LOOKUPS:
            await until(partial(system.has_been_asked, number + 1))
        cancelled[-1].cancel()
    last = resolve("last.example", 80)
    for each in cancelled:
        with pytest.raises(CancelledError):
            await each
    assert len(system.asked) == LOOKUPS
    system.answers.set()
    assert await last == ["192.0.2.1", "fe80::1"]
    assert system.asked[LOOKUPS:] == ["last.example"]
