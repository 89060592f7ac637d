"""A peer that is there and takes nothing of a body, or hardly anything."""

from __future__ import annotations

import socket
import struct
from typing import Any

import attrs
from twisted.internet.task import Clock

from wingsd.http_client.exchange import CHECKS, PeerWatchdog

LIMIT, MOST = 120, 3600


@attrs.define
class Line:
    """A socket whose peer takes what the test says."""

    taken: int = 0

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        assert (level, option) == (socket.IPPROTO_TCP, socket.TCP_INFO)
        found = bytearray(size)
        struct.pack_into("=Q", found, size - 8, self.taken)
        return bytes(found)


class Watched:
    """A line with more to send than it takes, unless a test says otherwise."""

    def __init__(self) -> None:
        self.clock: Any = Clock()
        self.line = Line()
        line: Any = self.line
        self.is_full = True
        self.told: list[str] = []
        self.flow = PeerWatchdog(
            self.clock,
            line,
            LIMIT,
            lambda error: self.told.append(str(error)),
            LIMIT,
            lambda: self.is_full,
        )

    def pass_seconds(self, seconds: int, taken: int = 0) -> None:
        for _ in range(seconds // (LIMIT // CHECKS)):
            self.line.taken += taken
            self.clock.advance(LIMIT / CHECKS)


def test_a_peer_that_takes_nothing_is_told_of_once() -> None:
    watched = Watched()
    watched.pass_seconds(LIMIT - 15)
    assert watched.told == []
    watched.pass_seconds(1000)
    assert watched.told == ["it took nothing of what it was sent for 120 s"]


def test_what_is_not_sent_need_not_be_taken() -> None:
    watched = Watched()
    watched.is_full = False
    watched.pass_seconds(2 * MOST)
    watched.is_full = True
    watched.pass_seconds(LIMIT - 15)
    assert watched.told == []


def test_a_peer_that_takes_a_byte_now_and_then_has_an_end() -> None:
    watched = Watched()
    watched.pass_seconds(MOST - 15, taken=1)
    assert watched.told == []
    watched.pass_seconds(15, taken=1)
    assert watched.told == ["it did not take what it was sent within 3600 s"]


def test_nothing_is_watched_after_the_end() -> None:
    watched = Watched()
    for _ in range(2):
        watched.flow.stop()
    watched.pass_seconds(1000)
    assert watched.told == []
