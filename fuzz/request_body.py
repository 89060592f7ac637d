"""A request's body in JSON or MessagePack: plain data that both can carry, or a reason."""

from __future__ import annotations

from collections.abc import Iterator

import msgpack

from fuzz.findings import Finding
from wingsd.errors import InvalidData
from wingsd.util.media import MediaType, decode, encode

__all__ = ["WORDS", "one", "seeds"]

WORDS = [
    *(bytes([first]) + b"\xff\xff\xff\xff" for first in b"\xc6\xc9\xdb\xdd\xdf"),
    b"\xdc\x10\x00",
    b"\x81\xa1a",
    b"\x91",
    b"\xc0",
    b"\xca\x7f\xc0\x00\x00",
    b"\xd6\xff\x00\x00\x00\x00",
    b'{"a":',
    b"[",
    b"NaN",
    b"1e999",
    b'"\\ud800"',
]


def one(data: bytes) -> None:
    """Decode `data` after its first byte, which selects the format."""
    if not data:
        return
    media = MediaType.MESSAGE_PACK if data[0] & 1 else MediaType.JSON
    try:
        decoded = decode(data[1:], media)
    except InvalidData as error:
        if not str(error):
            raise Finding("it was refused without a reason") from error
        return
    if decode(encode(decoded, MediaType.JSON), MediaType.JSON) != decoded:
        raise Finding(f"it is something else in JSON: {decoded!r}")
    # An integer of more than 64 bits becomes a text there.
    decode(encode(decoded, MediaType.MESSAGE_PACK), MediaType.MESSAGE_PACK)


def seeds() -> Iterator[bytes]:
    """Yield the bodies of calls, in both formats."""
    bodies = (
        {"user": "8d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10", "servers": []},
        {"action": "start", "wait_seconds": 30},
        {"server": {"settings": {"environment": {"A": 1.5, "B": None, "C": True}}}},
        [1, -1, 2**40, "ü" * 40, {}],
    )
    for body in bodies:
        yield b"\0" + encode(body, MediaType.JSON)
        yield b"\1" + bytes(msgpack.packb(body))
    yield b"\1" + b"\xdc\x10\x00" * 20
    yield b"\0" + b"[" * 20
