"""A pytest plugin that records what goes over TCP in each test: `--wire DIRECTORY`.

It takes bytes where Twisted gives them to a socket and gets them from one, and with TLS where they
are plain. All else is above that: both of the product's sides of HTTP, and what tests have in the
place of one.
"""

from __future__ import annotations

import os
import random
import re
import socket
from collections import defaultdict
from collections.abc import Callable, Generator
from itertools import count
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet.tcp import Connection, Server
from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import TLSMemoryBIOProtocol

from tests.wire.http import exchanges
from tests.wire.normal import transcript

#: Beginnings of tests in which the order of requests, and how many there are, is free, and why.
FREE = {
    "tests/transfers/test_any_await_fails.py": "each of some hundred moves fails elsewhere",
    "tests/transfers/outgoing/test_moves_through_proxies.py": "refused batches have no order",
    "tests/transfers/test_outgoing_streams.py": "streams begin in no order",
    "tests/transfers/outgoing/test_moves.py::test_nothing_gets_through_for_as_long_as_patience_last"
    "s": "questions and batches are sent again, for some time",
    "tests/transfers/outgoing/test_moves.py::test_a_destination_that_is_started_anew_gets_only_what"
    "_it_lacks": "the batches under way when it ends have no order",
    "tests/transfers/outgoing/test_moves.py::test_batches_become_smaller_than_what_is_refused": (
        "the batches under way when one is refused have no order"
    ),
    "tests/transfers/outgoing/test_live_moves_cut_off.py::test_a_server_that_cannot_be_started_waits_with_th"
    "e_next_daemon_for_the_destination": "the line breaks off again and again",
}
_TLS_HANDSHAKE = b"\x16\x03"
#: The least bytes of what is the content of a file, and no key.
_CONTENT = 256


@attrs.define
class _Traffic:
    """The bytes of one connection, as each side that is in this process has sent and received."""

    sent: dict[str, list[tuple[int, bytes]]] = attrs.Factory(lambda: defaultdict(list))
    received: dict[str, list[tuple[int, bytes]]] = attrs.Factory(lambda: defaultdict(list))

    def from_(self, side: str, other: str) -> list[tuple[int, bytes]]:
        return self.sent.get(side) or self.received.get(other) or []


class Recorder:
    """The traffic of the test that runs."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._connections: dict[tuple[int, int], _Traffic] = {}
        self._numbers = count()

    def add(self, transport: Any, way: str, data: bytes, *, is_plain: bool = False) -> None:
        """Add bytes; those of TLS only where they `is_plain`."""
        while not isinstance(transport, Connection):
            transport = transport.transport
        known = transport.__dict__
        if not data or getattr(transport, "addressFamily", None) == socket.AF_UNIX:
            return
        if not is_plain and known.setdefault("wire_is_tls", data[:2] == _TLS_HANDSHAKE):
            return
        side = "server" if isinstance(transport, Server) else "client"
        if "wire_ports" not in known:
            ports = (transport.getPeer().port, transport.getHost().port)
            known["wire_ports"] = ports if side == "server" else ports[::-1]
        traffic = self._connections.setdefault(known["wire_ports"], _Traffic())
        getattr(traffic, way)[side].append((next(self._numbers), data))

    def transcript(self, test: str = "") -> str:
        """Return the transcript of what was added in a test."""
        found = [
            each
            for traffic in self._connections.values()
            for each in exchanges(
                traffic.from_("client", "server"), traffic.from_("server", "client")
            )
        ]
        return transcript(found, in_order=not test.startswith(tuple(FREE)))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        self._connections.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("os.urandom", _repeatable(item.nodeid, os.urandom))
            done = yield
        if text := self.transcript(item.nodeid):
            name = re.sub(r"[^A-Za-z0-9_.,+=-]", "_", item.nodeid.partition("::")[2])
            path = self._directory / item.nodeid.partition(".py::")[0] / f"{name[:200]}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{item.nodeid}\n{text}", errors="backslashreplace")
        return done


def _repeatable(test: str, urandom: Callable[[int], bytes]) -> Callable[[int], bytes]:
    """Return an `os.urandom` with the same contents of files in each run; keys stay random."""
    numbers = count()

    def give(size: int) -> bytes:
        if size < _CONTENT:
            return urandom(size)
        return random.Random(f"{test} {next(numbers)}").randbytes(size)

    return give


def install(recorder: Recorder, patch: pytest.MonkeyPatch) -> None:
    """Pass all bytes sent and received by TCP to a recorder."""
    send, receive = Connection.writeSomeData, Connection._dataReceived
    write, deliver = TLSMemoryBIOProtocol.write, ProtocolWrapper.dataReceived

    def record_sent(self: Any, data: bytes) -> Any:
        sent = send(self, data)
        if isinstance(sent, int):
            recorder.add(self, "sent", bytes(data[:sent]))
        return sent

    def record_received(self: Any, data: bytes | None) -> Any:
        recorder.add(self, "received", data or b"")
        return receive(self, data)

    def record_written(self: Any, data: bytes) -> None:
        recorder.add(self, "sent", data, is_plain=True)
        write(self, data)

    def record_delivered(self: Any, data: bytes) -> None:
        if isinstance(self, TLSMemoryBIOProtocol):
            recorder.add(self, "received", data, is_plain=True)
        deliver(self, data)

    patch.setattr(Connection, "writeSomeData", record_sent)
    patch.setattr(Connection, "_dataReceived", record_received)
    patch.setattr(TLSMemoryBIOProtocol, "write", record_written)
    patch.setattr(ProtocolWrapper, "dataReceived", record_delivered)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--wire", type=Path, required=True, help="where transcripts are written")


def pytest_configure(config: pytest.Config) -> None:
    recorder = Recorder(config.getoption("--wire"))
    config.pluginmanager.register(recorder)
    install(recorder, pytest.MonkeyPatch())
