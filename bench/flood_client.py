"""A client that floods a node: the clients of the kinds of floods, and their target.

`bench/flood_kinds.py` has the kinds, and runs them.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from urllib.parse import urlsplit

import asyncssh
from asyncssh.constants import MSG_USERAUTH_REQUEST
from asyncssh.packet import String
from attrs import evolve, field, frozen

from tests.support.record_client import RecordClient
from tests.support.tokens import signed_url_token

__all__ = [
    "CONNECTIONS",
    "LARGE",
    "Flood",
    "Target",
    "crawl",
    "frame_with",
    "https",
    "key_updates",
    "one_byte_records",
    "one_server",
    "sftp_handshakes",
    "sftp_requests",
    "together",
    "unread",
]

CONNECTIONS = 256
#: The file of each server that is downloaded.
LARGE = "/large"
#: Seconds for which an answer is left unread, and between two bytes of a body that crawls.
_UNREAD, _PAUSE = 60, 0.1
#: Bytes per write of repeated data.
_BLOCK = 64 << 10


@frozen
class Target:
    """The node that is flooded: its URL and authority, and the origin of its Panel's pages.

    `servers` are pairs of a UUID and a token for that server's console, `token` is the Panel's for
    the node. SFTP has an account: a user's name and password.
    """

    url: str
    ca: str
    origin: str
    servers: list[tuple[str, str]] = field(factory=list)
    token: str = ""
    sftp_port: int = 0
    sftp_user: str = ""
    sftp_password: str = ""

    @property
    def address(self) -> tuple[str, int]:
        """The host and port of the URL."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or 0

    def filled(self, template: bytes, number: int) -> bytes:
        """Return a request with the UUID of connection `number`'s server, and the origin.

        `{token}` is the Panel's, `{download}` and `{upload}` are those of signed URLs.
        """
        uuid, _ = self._server(number)
        values = {b"{server}": uuid, b"{origin}": self.origin, b"{token}": self.token}
        for name, scope in ((b"{download}", "file-download"), (b"{upload}", "file-upload")):
            if name in template:
                claims = {"file_path": LARGE} if scope == "file-download" else {}
                values[name] = signed_url_token(self.token, uuid, scope, **claims)
        for name, value in values.items():
            template = template.replace(name, value.encode())
        return template

    def console_token(self, number: int) -> str:
        """Return the token for the console of connection `number`'s server."""
        return self._server(number)[1]

    def _server(self, number: int) -> tuple[str, str]:
        return self.servers[number % len(self.servers)]


async def https(flood: Flood, target: Target, number: int) -> None:
    """Hold one connection over TLS; return when it is closed. Every second one reads answers."""
    opening, reads = target.filled(flood.opening, number), number % 2 == 0
    if flood.auth:
        opening += frame_with(
            json.dumps({"event": "auth", "args": [target.console_token(number)]})
        )
    repeated = flood.repeated * (_BLOCK // len(flood.repeated)) if flood.repeated else b""
    source = (flood.source, 0) if flood.source else None
    reader, writer = await asyncio.open_connection(
        *target.address, ssl=_context(target), local_addr=source
    )
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


async def one_server(flood: Flood, target: Target, number: int) -> None:
    """Do as `https`, all connections with the first server."""
    await https(flood, evolve(target, servers=target.servers[:1]), number)


async def unread(flood: Flood, target: Target, number: int) -> None:
    """Send a request, and read no more of its answer than arrives by itself."""
    _, writer = await asyncio.open_connection(*target.address, ssl=_context(target))
    try:
        writer.write(target.filled(flood.opening, number))
        await asyncio.sleep(_UNREAD)
    finally:
        writer.transport.abort()


async def crawl(flood: Flood, target: Target, number: int) -> None:
    """Send a request, and then one byte at a time of its body until it is answered."""
    reader, writer = await asyncio.open_connection(*target.address, ssl=_context(target))
    reading = asyncio.ensure_future(_discard(reader))
    try:
        writer.write(target.filled(flood.opening, number))
        while not (writer.is_closing() or reading.done()):
            writer.write(flood.repeated)
            await writer.drain()
            await asyncio.sleep(_PAUSE)
    finally:
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
    await _send_records(flood, target, number, RecordClient.key_update)


async def one_byte_records(flood: Flood, target: Target, number: int) -> None:
    """Send the opening, and then records with one byte of data each."""
    await _send_records(flood, target, number, lambda client: client.data(b"x"))


async def sftp_handshakes(_: Flood, target: Target, __: int) -> None:
    """Exchange keys with the SFTP server, and close the connection."""
    host, _port = target.address
    with suppress(asyncssh.Error):
        await asyncssh.get_server_host_key(host, target.sftp_port, config=None)


async def sftp_requests(flood: Flood, target: Target, _: int) -> None:
    """Send the opening, which follows the user's name, as a request to log in by SFTP.

    It is sent again after each answer, until the node closes the connection.
    """

    class Client(asyncssh.SSHClient):
        def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
            self._conn = conn

        async def password_auth_requested(self) -> str | None:
            name = String(target.sftp_user)
            self._conn.send_packet(MSG_USERAUTH_REQUEST, name, flood.opening)
            await asyncio.Event().wait()  # the answer ends it
            return None

    host, _ = target.address
    with suppress(asyncssh.Error):
        async with asyncssh.connect(
            host,
            target.sftp_port,
            username=target.sftp_user,
            client_factory=Client,
            known_hosts=None,
            client_keys=None,
            config=None,
        ):
            pass


@frozen
class Flood:
    """A kind of flood: `client` holds one of `connections` until it closes, and is called again.

    `reference` names the client that is measured meanwhile, one of `bench.floods.REFERENCES`. The
    other attributes say what `client` sends: `opening` once, then `repeated` again and again. With
    nothing to repeat `https` waits for the node to close; `once` closes as soon as there is an
    answer, and `handshake` when the TLS handshake is over. `{server}` and the like are replaced by
    `Target.filled`. One with `auth` shows a console's token after the opening. `source` is the
    address that `https` connects from, and `names` the number of files in the first server's
    directory `many`. `mib` are the MiB of memory that the node may take for it.
    """

    opening: bytes = b""
    repeated: bytes = b""
    once: bool = False
    handshake: bool = False
    auth: bool = False
    client: Callable[[Flood, Target, int], Awaitable[None]] = https
    source: str = ""
    names: int = 0
    reference: str = "request"
    connections: int = CONNECTIONS
    mib: int = 64


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


#: Records in one write.
_RECORDS = 200


async def _send_records(
    flood: Flood, target: Target, number: int, record: Callable[[RecordClient], bytes]
) -> None:
    reader, writer = await asyncio.open_connection(*target.address)
    reading, client = None, RecordClient()
    try:
        writer.write(client.handshake())
        while not client.is_ready:
            if not (received := await reader.read(_BLOCK)):
                return
            writer.write(client.handshake(received))
        reading = asyncio.ensure_future(_discard(reader))
        writer.write(client.data(target.filled(flood.opening, number)))
        while not (writer.is_closing() or reading.done()):
            writer.write(b"".join(record(client) for _ in range(_RECORDS)))
            await writer.drain()
            await asyncio.sleep(0)
    finally:
        if reading is not None:
            reading.cancel()
        writer.transport.abort()
