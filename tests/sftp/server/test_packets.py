"""Packets of SFTP: what is parsed, and what is refused without being believed."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wingsd.errors import InvalidData
from wingsd.sftp.server import packets
from wingsd.sftp.server.packets import Attributes, Request

pytestmark = pytest.mark.promise("sftp-survives-any-bytes")


def string(text: bytes) -> bytes:
    return struct.pack(">I", len(text)) + text


def request(kind: int, *fields: bytes, number: int = 7) -> bytes:
    return struct.pack(">BI", kind, number) + b"".join(fields)


def read(data: bytes) -> list[object]:
    """Return the fields of a request, as the operation of its type reads them."""
    found = Request(data)
    return [getattr(found, each)() for each in FIELDS.get(found.kind, ())]


FIELDS = {
    packets.OPEN: ("string", "long", "attributes"),
    packets.READ_DATA: ("string", "long_long", "long"),
    packets.WRITE_DATA: ("string", "long_long", "view"),
    packets.RENAME: ("string", "string"),
    packets.SETSTAT: ("string", "attributes"),
    packets.STAT: ("string",),
    packets.EXTENDED: ("string", "string"),
}


def test_the_fields_of_requests_are_read() -> None:
    attributes = struct.pack(">IQIIIII", 0xF, 5, 1000, 1000, 0o644, 10, 20)
    opened = request(packets.OPEN, string(b"/a"), struct.pack(">I", 0x1A), attributes)
    assert (Request(opened).id, Request(opened).kind) == (7, packets.OPEN)
    assert read(opened) == [b"/a", 0x1A, Attributes(5, 0o644, 10, 20)]
    reading = request(packets.READ_DATA, string(b"h"), struct.pack(">QI", 1 << 40, 9))
    assert read(reading) == [b"h", 1 << 40, 9]
    writing = request(packets.WRITE_DATA, string(b"h"), struct.pack(">Q", 3), string(b"xyz"))
    assert read(writing) == [b"h", 3, b"xyz"]
    assert read(request(packets.RENAME, string(b"a"), string(b"b"))) == [b"a", b"b"]
    assert read(request(packets.EXTENDED, string(b"fsync@openssh.com"), string(b"h"))) == [
        b"fsync@openssh.com",
        b"h",
    ]


def test_extended_attributes_are_passed_over() -> None:
    more = struct.pack(">II", 0x80000000, 1) + string(b"name") + string(b"value")
    found = Request(request(packets.SETSTAT, string(b"/a"), more, string(b"next")))
    assert (found.string(), found.attributes()) == (b"/a", Attributes(None, None, None, None))
    assert found.string() == b"next"


@given(st.binary(max_size=300))
def test_any_bytes_are_a_request_or_refused(data: bytes) -> None:
    with suppress(InvalidData):
        read(data)
