"""`python -m bench.flood_client KIND URL CA SECONDS ORIGIN SERVER...`: floods a node.

It holds 256 connections, opens each again when the node closes it, and ends after SECONDS. Half of
the connections read the answers, the others never read. A SERVER is its UUID, a colon, and a token
for its console, which only some kinds use.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
from collections.abc import Sequence
from contextlib import suppress
from urllib.parse import urlsplit

from attrs import evolve, frozen

__all__ = ["CONNECTIONS", "KINDS", "Flood"]

CONNECTIONS = 256
#: Bytes per write of repeated data.
_BLOCK = 64 << 10


@frozen
class Flood:
    """What a connection sends: `opening` once, then `repeated` again and again.

    With nothing to repeat it waits for the node to close; `once` closes as soon as there is an
    answer, and `handshake` when the TLS handshake is over. `{server}` is replaced by a UUID. One
    with `auth` shows a console's token after the opening.
    """

    opening: bytes = b""
    repeated: bytes = b""
    once: bool = False
    handshake: bool = False
    auth: bool = False


def _request(method: str, path: str, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: node", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


_BAD_TOKEN = "Authorization: Bearer a.b.c"  # noqa: S105 - a token that is refused
_FORM = "Content-Type: multipart/form-data; boundary=x"
_CHUNKED = "Transfer-Encoding: chunked"
_UPGRADE = _request(
    "GET",
    "/api/servers/{server}/ws",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Origin: {origin}",
)
_MASK = bytes(4)


def _text(payload: str) -> bytes:
    """Return a frame of a WebSocket with a text."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return b"\x81" + length + _MASK + payload.encode()


_SEND_LOGS = _text('{"event":"send logs","args":[null]}')
_SEND_COMMAND = _text('{"event":"send command","args":["say hello"]}')

KINDS = {
    "pipelined GET /openapi.json": Flood(repeated=_request("GET", "/openapi.json")),
    "pipelined HEAD": Flood(repeated=_request("HEAD", "/openapi.json")),
    "pipelined OPTIONS": Flood(repeated=_request("OPTIONS", "/api/system")),
    "pipelined 401": Flood(repeated=_request("GET", "/api/system")),
    "pipelined 404": Flood(repeated=_request("GET", "/nothing")),
    "pipelined 405": Flood(repeated=_request("PATCH", "/api/system")),
    "Expect: 100-continue": Flood(
        repeated=_request(
            "POST", "/nothing", "Expect: 100-continue", "Content-Length: 1", body=b"x"
        )
    ),
    "chunks of one byte after a 401": Flood(
        _request("POST", "/api/transfers", _BAD_TOKEN, _FORM, _CHUNKED), b"1\r\nx\r\n"
    ),
    "header lines without end": Flood(b"GET / HTTP/1.1\r\n", b"a: b\r\n"),
    "half requests": Flood(b"GET / HTTP/1.1\r\nHost: node\r\nX: "),
    "empty lines": Flood(repeated=b"\r\n"),
    "nonsense": Flood(repeated=os.urandom(_BLOCK)),
    "a connection for each request": Flood(
        _request("GET", "/openapi.json", "Connection: close"), once=True
    ),
    "TLS handshakes": Flood(handshake=True),
    "WebSocket messages without a token": Flood(_UPGRADE, _SEND_LOGS),
    "WebSocket pings": Flood(_UPGRADE, b"\x89\x80" + _MASK),
    "WebSocket fragments without end": Flood(
        _UPGRADE + b"\x01\x81" + _MASK + b"x", b"\x00\x81" + _MASK + b"x"
    ),
    "WebSocket messages with a token": Flood(_UPGRADE, _SEND_COMMAND + _SEND_LOGS, auth=True),
}


async def main(kind: str, url: str, ca: str, seconds: str, origin: str, *servers: str) -> None:
    """Send a flood for as long; `origin` and `servers` are used to open WebSockets.

    A server is its UUID, a colon and a token.
    """
    floods = [
        _for(KINDS[kind], origin, servers[number % len(servers)]) for number in range(CONNECTIONS)
    ]
    context = ssl.create_default_context(cafile=ca)
    address = urlsplit(url)
    clients = [
        _client(flood, address.hostname or "", address.port or 0, context, reads=number % 2 == 0)
        for number, flood in enumerate(floods)
    ]
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.gather(*clients), float(seconds))


def _for(flood: Flood, origin: str, server: str) -> Flood:
    uuid, _, token = server.partition(":")
    opening = flood.opening.replace(b"{server}", uuid.encode())
    opening = opening.replace(b"{origin}", origin.encode())
    if flood.auth:
        opening += _text(json.dumps({"event": "auth", "args": [token]}))
    block = flood.repeated * (_BLOCK // len(flood.repeated)) if flood.repeated else b""
    return evolve(flood, opening=opening, repeated=block)


async def _client(
    flood: Flood, host: str, port: int, context: ssl.SSLContext, *, reads: bool
) -> None:
    while True:
        with suppress(OSError, asyncio.IncompleteReadError):
            await _connection(flood, host, port, context, reads=reads)
        await asyncio.sleep(0)


async def _connection(
    flood: Flood, host: str, port: int, context: ssl.SSLContext, *, reads: bool
) -> None:
    reader, writer = await asyncio.open_connection(host, port, ssl=context)
    reading = asyncio.ensure_future(_discard(reader)) if reads or flood.once else None
    try:
        writer.write(flood.opening)
        await writer.drain()
        if flood.once and reading is not None:
            await reading
        elif flood.repeated:
            while not writer.is_closing():
                writer.write(flood.repeated)
                await writer.drain()
                await asyncio.sleep(0)  # drain() returns at once when the connection is lost
        elif not flood.handshake:
            await (reading or _discard(reader))
    finally:
        if reading is not None:
            reading.cancel()
        writer.transport.abort()


async def _discard(reader: asyncio.StreamReader) -> None:
    while await reader.read(_BLOCK):
        pass


def _arguments() -> Sequence[str]:
    return sys.argv[1:]


if __name__ == "__main__":
    asyncio.run(main(*_arguments()))
