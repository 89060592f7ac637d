"""A client that floods a node: the clients of the kinds of floods, and their target.

`bench/flood_kinds.py` has the kinds, and runs them.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from urllib.parse import urlsplit

from attrs import field, frozen
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from OpenSSL import SSL

__all__ = [
    "CONNECTIONS",
    "Flood",
    "Target",
    "frame_with",
    "https",
    "key_updates",
    "one_byte_records",
    "together",
]

CONNECTIONS = 256
#: Bytes per write of repeated data.
_BLOCK = 64 << 10


@frozen
class Target:
    """The node that is flooded: its URL and authority, and the origin of its Panel's pages.

    `servers` are pairs of a UUID and a token for that server's console. SFTP has an account: a
    user's name and password.
    """

    url: str
    ca: str
    origin: str
    servers: list[tuple[str, str]] = field(factory=list)
    sftp_port: int = 0
    sftp_user: str = ""
    sftp_password: str = ""

    @property
    def address(self) -> tuple[str, int]:
        """The host and port of the URL."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or 0

    def filled(self, template: bytes, number: int) -> bytes:
        """Return a request with the UUID of connection `number`'s server, and the origin."""
        uuid, _ = self._server(number)
        return template.replace(b"{server}", uuid.encode()).replace(
            b"{origin}", self.origin.encode()
        )

    def token(self, number: int) -> str:
        """Return the token for the console of connection `number`'s server."""
        return self._server(number)[1]

    def _server(self, number: int) -> tuple[str, str]:
        return self.servers[number % len(self.servers)]


async def https(flood: Flood, target: Target, number: int) -> None:
    """Hold one connection over TLS; return when it is closed. Every second one reads answers."""
    opening, reads = target.filled(flood.opening, number), number % 2 == 0
    if flood.auth:
        opening += frame_with(json.dumps({"event": "auth", "args": [target.token(number)]}))
    repeated = flood.repeated * (_BLOCK // len(flood.repeated)) if flood.repeated else b""
    reader, writer = await asyncio.open_connection(*target.address, ssl=_context(target))
    reading = asyncio.ensure_future(_discard(reader)) if reads or flood.once else None
    try:
        writer.write(opening)
        await writer.drain()
        if flood.once and reading is not None:
            await reading
        elif repeated:
            while not writer.is_closing():
                writer.write(repeated)
                await writer.drain()
                await asyncio.sleep(0)  # drain() returns at once when the connection is lost
        elif not flood.handshake:
            await (reading or _discard(reader))
    finally:
        if reading is not None:
            reading.cancel()
        writer.transport.abort()


async def together(flood: Flood, target: Target, number: int) -> None:
    """Send a request again and again, its last bytes when all other connections send theirs.

    That is at each full second.
    """
    request = target.filled(flood.opening, number)
    reader, writer = await asyncio.open_connection(*target.address, ssl=_context(target))
    reading = asyncio.ensure_future(_discard(reader))
    try:
        while not (writer.is_closing() or reading.done()):
            writer.write(request[:-2])
            await writer.drain()
            await asyncio.sleep(1 - time.time() % 1)
            writer.write(request[-2:])
            await writer.drain()
    finally:
        reading.cancel()
        writer.transport.abort()


async def key_updates(flood: Flood, target: Target, number: int) -> None:
    """Send the opening, and then records with a KeyUpdate each that no data comes with."""
    await _send_records(flood, target, number, _RecordKeys.key_update)


async def one_byte_records(flood: Flood, target: Target, number: int) -> None:
    """Send the opening, and then records with one byte of data each."""
    await _send_records(flood, target, number, _RecordKeys.one_byte)


@frozen
class Flood:
    """A kind of flood: `client` holds one of `connections` until it closes, and is called again.

    `reference` names the client that is measured meanwhile, one of `bench.floods.REFERENCES`. The
    other attributes say what `client` sends: `opening` once, then `repeated` again and again. With
    nothing to repeat `https` waits for the node to close; `once` closes as soon as there is an
    answer, and `handshake` when the TLS handshake is over. `{server}` is replaced by a UUID. One
    with `auth` shows a console's token after the opening.
    """

    opening: bytes = b""
    repeated: bytes = b""
    once: bool = False
    handshake: bool = False
    auth: bool = False
    client: Callable[[Flood, Target, int], Awaitable[None]] = https
    reference: str = "request"
    connections: int = CONNECTIONS


def frame_with(payload: str) -> bytes:
    """Return a frame of a WebSocket with a text."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return b"\x81" + length + bytes(4) + payload.encode()


_contexts: dict[str, ssl.SSLContext] = {}


def _context(target: Target) -> ssl.SSLContext:
    if target.ca not in _contexts:
        _contexts[target.ca] = ssl.create_default_context(cafile=target.ca)
    return _contexts[target.ca]


async def _discard(reader: asyncio.StreamReader) -> None:
    while await reader.read(_BLOCK):
        pass


class _RecordKeys:
    """The keys by which a client of TLS 1.3 encrypts, with TLS_AES_128_GCM_SHA256 (RFC 8446)."""

    def __init__(self, secret: bytes) -> None:
        self._use(secret)

    def record(self, kind: int, content: bytes) -> bytes:
        """Return `content` as a record of that content type."""
        header = b"\x17\x03\x03" + (len(content) + 17).to_bytes(2, "big")
        nonce = (self._iv ^ self._number).to_bytes(12, "big")
        self._number += 1
        return header + self._cipher.encrypt(nonce, content + bytes([kind]), header)

    def key_update(self) -> bytes:
        """Return a record with a KeyUpdate; what follows is encrypted by the next keys."""
        record = self.record(_HANDSHAKE, b"\x18\x00\x00\x01\x00")
        self._use(_expand(self._secret, b"traffic upd", 32))
        return record

    def one_byte(self) -> bytes:
        """Return a record with one byte of data."""
        return self.record(_APPLICATION_DATA, b"x")

    def _use(self, secret: bytes) -> None:
        self._secret, self._number = secret, 0
        self._cipher = AESGCM(_expand(secret, b"key", 16))
        self._iv = int.from_bytes(_expand(secret, b"iv", 12), "big")


_HANDSHAKE, _APPLICATION_DATA = 22, 23
#: Records in one write.
_RECORDS = 200


def _expand(secret: bytes, label: bytes, size: int) -> bytes:
    """Return HKDF-Expand-Label of RFC 8446 with an empty context, for up to 32 bytes."""
    name = b"tls13 " + label
    info = size.to_bytes(2, "big") + bytes([len(name)]) + name + b"\x00"
    return hmac.digest(secret, info + b"\x01", "sha256")[:size]


async def _send_records(
    flood: Flood, target: Target, number: int, record: Callable[[_RecordKeys], bytes]
) -> None:
    """Make the handshake by OpenSSL, and encrypt everything else here."""
    reader, writer = await asyncio.open_connection(*target.address)
    reading = None
    try:
        keys = await _handshake(reader, writer)
        reading = asyncio.ensure_future(_discard(reader))
        writer.write(keys.record(_APPLICATION_DATA, target.filled(flood.opening, number)))
        while not (writer.is_closing() or reading.done()):
            writer.write(b"".join(record(keys) for _ in range(_RECORDS)))
            await writer.drain()
            await asyncio.sleep(0)
    finally:
        if reading is not None:
            reading.cancel()
        writer.transport.abort()


async def _handshake(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> _RecordKeys:
    secrets: list[bytes] = []

    def keep(_: object, line: bytes) -> None:
        if line.startswith(b"CLIENT_TRAFFIC_SECRET_0 "):
            secrets.append(bytes.fromhex(line.split()[2].decode()))

    context = SSL.Context(SSL.TLS_METHOD)
    context.set_keylog_callback(keep)
    connection = SSL.Connection(context, None)
    connection.set_connect_state()
    done = False
    while not done:
        try:
            connection.do_handshake()
            done = True
        except SSL.WantReadError:
            pass
        for piece in _encrypted(connection):
            writer.write(piece)
        if not done:
            received = await reader.read(_BLOCK)
            if not received:
                raise ConnectionError("the node closed the connection in the handshake")
            connection.bio_write(received)
    (secret,) = secrets
    return _RecordKeys(secret)


def _encrypted(connection: SSL.Connection) -> Iterator[bytes]:
    with suppress(SSL.WantReadError):
        while True:
            yield connection.bio_read(_BLOCK)
