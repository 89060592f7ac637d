"""A client that sends an upload as Go's multipart writer does, a piece when it is told to."""

from __future__ import annotations

import socket
import ssl
from typing import Any
from urllib.parse import urlsplit

from twisted.internet.threads import deferToThread

from tests.daemon.daemon import TIMEOUT
from tests.daemon.house import House, sha256

__all__ = ["Sender", "as_go_packs"]

BOUNDARY = "7c9e6679b7425a0f8d1e4c3b2a190f8e7d6c5b4a3928171605f4e3d2c1b0"
ARCHIVE = (
    f"--{BOUNDARY}\r\n"
    'Content-Disposition: form-data; name="archive"; filename="archive.tar.gz"\r\n'
    "Content-Type: application/octet-stream\r\n\r\n"
)
CHECKSUM = f'\r\n--{BOUNDARY}\r\nContent-Disposition: form-data; name="checksum"\r\n\r\n'
END = f"\r\n--{BOUNDARY}--\r\n"
# What Go's gzip writer begins with (its time is Go's zero time), and in what pieces it is copied.
GZIP_HEADER = bytes.fromhex("1f8b080000096e8804ff")
GZIP_TRAILER = 8
PIECE = 32 * 1024


def as_go_packs(archive: bytes) -> bytes:
    """Return a gzip archive with the header that Go's writer gives it."""
    return GZIP_HEADER + archive[len(GZIP_HEADER) :]


class Sender:
    """One upload over a TLS socket of its own: HTTP/1.1 in chunks, no Content-Length."""

    def __init__(
        self, house: House, data: bytes, checksum: str | None = None, token: str | None = None
    ) -> None:
        self._house = house
        self._data = data
        self._checksum = sha256(data) if checksum is None else checksum
        self._token = house.token() if token is None else token
        self._socket: ssl.SSLSocket
        #: The sizes of the chunks sent so far; Go sends one for each write.
        self.chunks: list[int] = []

    async def begin(self) -> None:
        """Send the head and the first half of the archive."""
        await deferToThread(self._begin)

    async def finish(self) -> tuple[int, bytes]:
        """Send the rest, as far as it is wanted; return the answer's status and body."""
        answer: tuple[int, bytes] = await deferToThread(self._finish)
        return answer

    async def drip(self) -> None:
        """Send one more byte."""
        await deferToThread(self._chunk, b"x")

    async def answer(self) -> tuple[int, bytes]:
        """Send nothing more and wait for an answer."""
        answer: tuple[int, bytes] = await deferToThread(lambda: _answer(self._socket))
        return answer

    async def vanish(self) -> None:
        """Close the connection as a killed process would."""
        await deferToThread(self._vanish)

    def _begin(self) -> None:
        url = urlsplit(self._house.url)
        context = ssl.create_default_context(cafile=str(self._house.directory / "ca.pem"))
        assert url.hostname
        plain = socket.create_connection((url.hostname, url.port or 0), timeout=TIMEOUT)
        self._socket = context.wrap_socket(plain, server_hostname=url.hostname)
        head = [
            "POST /api/transfers HTTP/1.1",
            f"Host: {url.netloc}",
            "User-Agent: Go-http-client/1.1",
            "Transfer-Encoding: chunked",
            f"Authorization: Bearer {self._token}",
            f"Content-Type: multipart/form-data; boundary={BOUNDARY}",
            "Accept-Encoding: gzip",
        ]
        self._socket.sendall("\r\n".join([*head, "", ""]).encode())
        self._chunk(ARCHIVE.encode())
        self._chunk(self._data[: len(GZIP_HEADER)])
        self._sent = len(GZIP_HEADER)
        self._send(self._sent + (len(self._data) // 2 // PIECE) * PIECE)

    def _finish(self) -> tuple[int, bytes]:
        try:
            self._send(len(self._data) - GZIP_TRAILER)
            self._chunk(self._data[-GZIP_TRAILER:])
            for write in (CHECKSUM, self._checksum, END):
                self._chunk(write.encode())
            self._socket.sendall(b"0\r\n\r\n")
        except OSError:
            pass  # It was answered before; the answer is what counts.
        with self._socket:
            return _answer(self._socket)

    def _vanish(self) -> None:
        self._socket.close()

    def _send(self, until: int) -> None:
        while self._sent < until:
            piece = self._data[self._sent : min(self._sent + PIECE, until)]
            self._chunk(piece)
            self._sent += len(piece)

    def _chunk(self, data: bytes) -> None:
        self._socket.sendall(b"%x\r\n%s\r\n" % (len(data), data))
        self.chunks.append(len(data))


def _answer(sock: Any) -> tuple[int, bytes]:
    with sock.makefile("rb") as stream:
        status = int(stream.readline().split()[1])
        headers = {}
        while (line := stream.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            headers[name.lower()] = value
        return status, stream.read(int(headers.get(b"content-length", 0)))
