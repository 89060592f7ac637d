"""Packets of SFTP: what is parsed, and what is refused without being believed."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wingsd.sftp.server import packets
from wingsd.sftp.server.packets import (
    MAX_PACKET,
    Attributes,
    Extended,
    FrameReader,
    Init,
    NotUnderstood,
    Open,
    PacketError,
    ReadRequest,
    Request,
    TwoPaths,
    WriteRequest,
    parse,
)


def string(text: bytes) -> bytes:
    return struct.pack(">I", len(text)) + text


def request(kind: int, *fields: bytes, number: int = 7) -> bytes:
    return struct.pack(">BI", kind, number) + b"".join(fields)


def test_requests_are_parsed() -> None:
    attributes = struct.pack(">IQIIIII", 0xF, 5, 1000, 1000, 0o644, 10, 20)
    opened = parse(request(packets.OPEN, string(b"/a"), struct.pack(">I", 0x1A), attributes))
    assert opened == Open(7, packets.OPEN, b"/a", 0x1A, Attributes(5, (1000, 1000), 0o644, 10, 20))
    read = parse(request(packets.READ_DATA, string(b"h"), struct.pack(">QI", 1 << 40, 9)))
    assert read == ReadRequest(7, packets.READ_DATA, b"h", 1 << 40, 9)
    write = parse(request(packets.WRITE_DATA, string(b"h"), struct.pack(">Q", 3), string(b"xyz")))
    assert isinstance(write, WriteRequest)
    assert (bytes(write.data), write.offset) == (b"xyz", 3)
    assert parse(request(packets.RENAME, string(b"a"), string(b"b"))) == TwoPaths(
        7, packets.RENAME, b"a", b"b"
    )
    assert parse(struct.pack(">BI", packets.INIT, 3)) == Init(3)
    assert parse(request(99)) == NotUnderstood(7, 99)
    assert parse(request(packets.EXTENDED, string(b"fsync@openssh.com"), string(b"h"))) == (
        Extended(7, packets.EXTENDED, b"fsync@openssh.com", (b"h",))
    )


def test_extended_attributes_are_passed_over() -> None:
    more = struct.pack(">II", 0x80000000, 1) + string(b"name") + string(b"value")
    parsed = parse(request(packets.SETSTAT, string(b"/a"), more))
    assert isinstance(parsed, Request)


@pytest.mark.parametrize(
    "packet",
    [
        request(packets.OPEN, struct.pack(">I", 0xFFFFFFFF), b"/a"),
        request(packets.READ_DATA, string(b"h"), b"\0\0"),
        request(packets.SETSTAT, string(b"/a"), struct.pack(">II", 0x80000000, 0xFFFFFFFF)),
        request(packets.STAT),
    ],
)
def test_a_length_that_lies_is_refused_with_the_number_of_its_request(packet: bytes) -> None:
    with pytest.raises(PacketError) as caught:
        parse(packet)
    assert caught.value.request == 7


@pytest.mark.parametrize("length", [0, MAX_PACKET + 1, 0xFFFFFFFF])
def test_a_packet_of_no_possible_length_is_refused_at_once(length: int) -> None:
    with pytest.raises(PacketError):
        list(FrameReader().feed(struct.pack(">I", length)))


def test_packets_are_found_wherever_the_stream_is_divided() -> None:
    wanted = [b"a", b"bc" * 1000, b"d"]
    stream = b"".join(string(each) for each in wanted)
    for size in (1, 3, 7, len(stream)):
        reader = FrameReader()
        pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
        assert [packet for piece in pieces for packet in reader.feed(piece)] == wanted


@given(st.binary(max_size=300))
def test_any_bytes_are_a_request_or_refused(data: bytes) -> None:
    try:
        found = parse(data)
    except PacketError:
        return
    assert isinstance(found, Init | Request)
