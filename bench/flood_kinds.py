"""`python -m bench.flood_kinds KIND SECONDS TARGET`: floods a node with what that kind sends.

It holds the connections of the kind, opens each again when it is closed, and ends after SECONDS.
TARGET is a `Target` in JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import suppress

import cattrs
from asyncssh.packet import Boolean, MPInt, String

from bench.flood_client import (
    Flood,
    Target,
    crawl,
    frame_with,
    key_updates,
    one_byte_records,
    one_server,
    sftp_handshakes,
    sftp_requests,
    together,
    unread,
)

__all__ = ["KINDS"]


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


_SEND_LOGS = frame_with('{"event":"send logs","args":[null]}')
_SEND_COMMAND = frame_with('{"event":"send command","args":["say hello"]}')

#: A character that the preparation of a password makes 18 of: 250 KB.
_LONG_PASSWORD = "\ufdfa" * 83_333
_SFTP_PASSWORD = String("ssh-connection") + String("password")
_SFTP_KEY = String("ssh-connection") + String("publickey") + Boolean(False) + String("ssh-rsa")
#: 200 KB.
_LONG_KEY = String("ssh-rsa") + MPInt(65537) + MPInt((1 << 1_600_000) + 1)


def _of_sftp(request: bytes, reference: str) -> Flood:
    return Flood(request, client=sftp_requests, reference=reference, connections=20)


_SFTP_PASSWORDS = _SFTP_PASSWORD + Boolean(False) + String(_LONG_PASSWORD)

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
    "nonsense": Flood(repeated=os.urandom(64 << 10)),
    "a connection for each request": Flood(
        _request("GET", "/openapi.json", "Connection: close"), once=True
    ),
    "TLS handshakes": Flood(handshake=True),
    "connections closed before their answer": Flood(
        _request("GET", "/openapi.json"), handshake=True
    ),
    "KeyUpdates": Flood(_request("GET", "/nothing"), client=key_updates),
    "records of one byte": Flood(
        _request("POST", "/api/transfers", _BAD_TOKEN, _FORM, "Content-Length: 1000000000"),
        client=one_byte_records,
    ),
    "Accept of commas": Flood(
        _request("GET", "/nothing", f"Accept: {',' * 15_000}"), client=together
    ),
    "query of ampersands": Flood(_request("GET", f"/nothing?{'&' * 15_000}"), client=together),
    "path of slashes": Flood(_request("GET", "/" * 15_000), client=together),
    "WebSocket messages without a token": Flood(_UPGRADE, _SEND_LOGS),
    "WebSocket pings": Flood(_UPGRADE, b"\x89\x80" + _MASK),
    "WebSocket fragments without end": Flood(
        _UPGRADE + b"\x01\x81" + _MASK + b"x", b"\x00\x81" + _MASK + b"x"
    ),
    "WebSockets of one server without a token": Flood(
        _UPGRADE, client=one_server, source="127.0.0.2", reference="console login"
    ),
    "WebSocket messages with a token": Flood(_UPGRADE, _SEND_COMMAND + _SEND_LOGS, auth=True),
    "SFTP: saslprep of 250 KB": _of_sftp(_SFTP_PASSWORDS, "SFTP login"),
    "SFTP: saslprep of 250 KB, a session": _of_sftp(_SFTP_PASSWORDS, "SFTP listing"),
    "SFTP: changes of a password of 125 KB": _of_sftp(
        _SFTP_PASSWORD + Boolean(True) + String(_LONG_PASSWORD[:41_666]) * 2, "SFTP login"
    ),
    "SFTP: exchanges of keys": Flood(
        client=sftp_handshakes, reference="SFTP login", connections=64
    ),
    "SFTP: keys of 200 KB": _of_sftp(_SFTP_KEY + String(_LONG_KEY), "SFTP login"),
    "downloads by signed URLs, not read": Flood(
        _request("GET", "/download/file?token={download}"), client=unread, mib=128
    ),
    "uploads by signed URLs, a byte at a time": Flood(
        _request("POST", "/upload/file?token={upload}", _FORM, "Content-Length: 1000000")
        + b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n',
        b"x",
        client=crawl,
    ),
    "listings of 100,000 names, by the Panel": Flood(
        _request(
            "GET",
            "/api/servers/{server}/files/list-directory?directory=many",
            "Authorization: Bearer {token}",
            "Connection: close",
        ),
        once=True,
        client=one_server,
        names=100_000,
        connections=16,
        mib=192,
    ),
}


async def main(kind: str, seconds: str, target: str) -> None:
    """Send a flood for as long."""
    flood = KINDS[kind]
    to = cattrs.structure(json.loads(target), Target)
    clients = [_again_and_again(flood, to, number) for number in range(flood.connections)]
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.gather(*clients), float(seconds))


async def _again_and_again(flood: Flood, target: Target, number: int) -> None:
    while True:
        with suppress(OSError, asyncio.IncompleteReadError):
            await flood.client(flood, target, number)
        await asyncio.sleep(0)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
