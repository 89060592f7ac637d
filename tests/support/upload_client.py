"""A client that sends an upload as the nodes of one family do, piece by piece."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from twisted.internet.threads import deferToThread

from tests.support.node_process import TIMEOUT
from tests.support.receiving_node import ReceivingNode
from tests.support.sample_server import sha256
from tests.support.upload_forms import PTERODACTYL, Family


class Unanswered(Exception):
    """The connection ended without an answer."""


class UploadClient:
    """One upload over a TLS socket of its own: HTTP/1.1 in chunks, no Content-Length."""

    def __init__(
        self,
        node: ReceivingNode,
        data: bytes,
        checksum: str | None = None,
        token: str | None = None,
        family: Family = PTERODACTYL,
    ) -> None:
        self._node = node
        self._archive = family.archive(data)
        self._family = family
        self._checksum = sha256(data) if checksum is None else checksum
        self.token = node.token() if token is None else token
        self._socket: ssl.SSLSocket
        #: The sizes of the chunks sent so far; every family sends one for each write.
        self.chunks: list[int] = []

    async def begin(self) -> None:
        """Send the head and the first half of the archive."""
        await deferToThread(self._begin)

    async def finish(self) -> tuple[int, bytes]:
        """Send the rest, as far as it is wanted; return the answer's status and body."""
        answer: tuple[int, bytes] = await deferToThread(self._finish)
        return answer

    async def drip(self) -> None:
        await deferToThread(self._chunk, b"x")

    async def answer(self) -> tuple[int, bytes]:
        """Send nothing more and wait for an answer."""
        answer: tuple[int, bytes] = await deferToThread(lambda: _answer(self._socket))
        return answer

    async def vanish(self) -> None:
        """Close the connection as a killed process would."""
        await deferToThread(self._vanish)

    def _begin(self) -> None:
        url = urlsplit(self._node.url)
        context = ssl.create_default_context(cafile=str(self._node.ca))
        assert url.hostname
        plain = socket.create_connection((url.hostname, url.port or 0), timeout=TIMEOUT)
        self._socket = context.wrap_socket(plain, server_hostname=url.hostname)
        self._socket.sendall(self._family.head(url.netloc, self.token))
        self._send(self._family.before())
        self._send(self._archive[: len(self._archive) // 2])

    def _finish(self) -> tuple[int, bytes]:
        # It may be answered before; the answer is what counts.
        with suppress(OSError):
            self._send(self._archive[len(self._archive) // 2 :])
            self._send(self._family.after(self._checksum))
            self._socket.sendall(b"0\r\n\r\n")
        with self._socket:
            return _answer(self._socket)

    def _vanish(self) -> None:
        self._socket.close()

    def _send(self, writes: list[bytes]) -> None:
        for write in writes:
            self._chunk(write)

    def _chunk(self, data: bytes) -> None:
        self._socket.sendall(b"%x\r\n%s\r\n" % (len(data), data))
        self.chunks.append(len(data))


async def begun(
    node: ReceivingNode, data: bytes, *, until: str = "", **options: Any
) -> UploadClient:
    """Return an upload that has begun, when the node has logged a line with `until`."""
    client = UploadClient(node, data, **options)
    await client.begin()
    if until:
        await node.wait_for_line(until)
    return client


def _answer(sock: Any) -> tuple[int, bytes]:
    first = b""
    with sock.makefile("rb") as stream:
        with suppress(ConnectionResetError):
            first = stream.readline()
        if not first:
            raise Unanswered
        status = int(first.split()[1])
        headers = {}
        while (line := stream.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            headers[name.lower()] = value
        return status, stream.read(int(headers.get(b"content-length", 0)))
