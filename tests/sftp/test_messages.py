"""Messages between the daemon and the SFTP process: checked in both directions."""

from __future__ import annotations

import struct

import attrs
import pytest

from wingsd.config import SftpConfig, SftpLimits
from wingsd.errors import InvalidData
from wingsd.sftp.messages import (
    MAX_FROM_SERVER,
    FrameReader,
    Granted,
    Login,
    ServerState,
    SftpMessage,
    Start,
    Transmitted,
    Unconfined,
    Used,
    decode,
    encode,
)

MESSAGES: list[SftpMessage] = [
    Login(1, 2, "password", "anna.5b0c7a6e", "pässwörd \ud800", "192.0.2.1", 5, "SSH-2.0-x"),
    Granted(1, "user", "server", "/data", ("*",), ("*.key",), ()),
    ServerState("server", -5, None, 1 << 40),
    Start("pem", "auto", 988, 988, "/srv", SftpConfig(limits=SftpLimits(max_handles_total=7))),
    Transmitted(1 << 40, 0),
    Unconfined(),
    Used("server", -(1 << 40)),
]


def test_messages_come_back_as_they_were_in_any_pieces() -> None:
    stream = b"".join(map(encode, MESSAGES))
    frames = FrameReader(MAX_FROM_SERVER)
    pieces = (stream[at : at + 1] for at in range(len(stream)))
    found = [decode(frame) for piece in pieces for frame in frames.feed(piece)]
    assert [attrs.asdict(each) for each in found] == [attrs.asdict(each) for each in MESSAGES]


@pytest.mark.promise("sftp-process-is-confined")
@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{}",
        b"nonsense",
        b'["Nothing", {}]',
        b'["Used", {"server": 5, "total": 1}]',
        b'["Used", {"server": "x"}]',
        b'["Used", {"server": "x", "total": true}]',
        b"[" * 100_000,
    ],
)
def test_what_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidData):
        decode(*FrameReader(MAX_FROM_SERVER).feed(struct.pack(">I", len(body)) + body))


def test_a_message_too_long_is_refused_by_its_length() -> None:
    with pytest.raises(InvalidData):
        list(FrameReader(MAX_FROM_SERVER).feed(struct.pack(">I", MAX_FROM_SERVER + 1)))
