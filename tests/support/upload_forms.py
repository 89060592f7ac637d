"""The forms in which the three families of nodes write an upload, byte for byte.

Recorded from the libraries that they are made of: net/http and mime/multipart of Go 1.24, reqwest
0.12 of Rust. Each list is of writes, and each write goes out as one chunk.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import attrs

#: Bytes copied at once, by all of them.
PIECE = 32 * 1024
MIB = 1024 * 1024
# What Go's gzip writer begins with (its time is Go's zero time), and what it writes last.
GZIP_HEADER = bytes.fromhex("1f8b080000096e8804ff")
GZIP_TRAILER = 8
NO_BACKUPS: Mapping[str, bytes] = MappingProxyType({})


@attrs.frozen
class Part:
    """A part of a form. Without a `filename` it is what Go calls a field."""

    name: str
    data: bytes
    filename: str = ""
    content_type: str = "application/octet-stream"


class Family(Protocol):
    """How one family's nodes write an upload."""

    def head(self, host: str, token: str) -> bytes:
        """Return the request's head."""

    def before(self) -> list[bytes]:
        """Return what precedes the archive."""

    def archive(self, data: bytes) -> list[bytes]:
        """Return the archive in pieces."""

    def after(self, checksum: str | None) -> list[bytes]:
        """Return what follows the archive, to the form's end; None leaves its checksum out."""


@attrs.frozen
class Go:
    """Pterodactyl's and Pelican's nodes; `parts` follow the one named `checksum`."""

    checksum: str
    parts: tuple[Part, ...] = ()
    headers: tuple[str, ...] = ()
    boundary: str = "7c9e6679b7425a0f8d1e4c3b2a190f8e7d6c5b4a3928171605f4e3d2c1b0"

    def head(self, host: str, token: str) -> bytes:
        return _head(
            f"Host: {host}",
            "User-Agent: Go-http-client/1.1",
            "Transfer-Encoding: chunked",
            f"Authorization: Bearer {token}",
            f"Content-Type: multipart/form-data; boundary={self.boundary}",
            *self.headers,
            "Accept-Encoding: gzip",
        )

    def before(self) -> list[bytes]:
        return [self._header(Part("archive", b"", "archive.tar.gz")).removeprefix(b"\r\n")]

    def archive(self, data: bytes) -> list[bytes]:
        """Return a gzip file as Go's writer hands it on: its header and trailer by themselves."""
        head, tail = len(GZIP_HEADER), len(data) - GZIP_TRAILER
        return [data[:head], *_pieces(data[head:tail]), data[tail:]]

    def after(self, checksum: str | None) -> list[bytes]:
        """Return the checksum's part, the others, and the end."""
        writes = []
        first = [] if checksum is None else [Part(self.checksum, checksum.encode())]
        for part in (*first, *self.parts):
            writes += [self._header(part), *_pieces(part.data)]
        return [*writes, f"\r\n--{self.boundary}--\r\n".encode()]

    def _header(self, part: Part) -> bytes:
        of_file = f'; filename="{part.filename}"\r\nContent-Type: {part.content_type}'
        return (
            f'\r\n--{self.boundary}\r\nContent-Disposition: form-data; name="{part.name}"'
            f"{of_file if part.filename else ''}\r\n\r\n"
        ).encode()


@attrs.frozen
class Calagopus:
    """Calagopus' nodes, where every part is a file."""

    header: str
    filename: str
    parts: tuple[Part, ...]
    boundary: str = "868f80e769ac54cf-852aa36e6d310bc5-71179a94cf42350d-93acbab1e403ef26"

    def head(self, host: str, token: str) -> bytes:
        return _head(
            f"authorization: Bearer {token}",
            self.header,
            f"content-type: multipart/form-data; boundary={self.boundary}",
            "accept: */*",
            f"host: {host}",
            "transfer-encoding: chunked",
        )

    def before(self) -> list[bytes]:
        return self._header(Part("archive", b"", self.filename, "application/x-tar"))

    def archive(self, data: bytes) -> list[bytes]:
        return _pieces(data)

    def after(self, checksum: str | None) -> list[bytes]:
        """Return the archive's end, the checksum's part, the others, and the form's end."""
        writes = [b"\r\n"]
        first = []
        if checksum is not None:
            first = [Part("checksum", checksum.encode(), "checksum", "text/plain")]
        for part in (*first, *self.parts):
            writes += [*self._header(part), *_pieces(part.data), b"\r\n"]
        return [*writes, f"--{self.boundary}--\r\n".encode()]

    def _header(self, part: Part) -> list[bytes]:
        text = (
            f'Content-Disposition: form-data; name="{part.name}"; filename="{part.filename}"\r\n'
            f"Content-Type: {part.content_type}\r\n\r\n"
        )
        return [f"--{self.boundary}\r\n".encode(), text.encode()]


PTERODACTYL = Go("checksum")


def pelican(log: bytes = b"", backups: Mapping[str, bytes] = NO_BACKUPS, pool: str = "") -> Go:
    """Return the form of Pelican's nodes, with backups by their UUID, then an installation's log.

    A node with a storage pool names it, and sends the same as any other.
    """
    parts: list[Part] = []
    for name, data in ((f"{uuid}.tar.gz", data) for uuid, data in backups.items()):
        parts.append(Part(f"backup_{name}", data, name))
        parts.append(Part(f"checksum_backup_{name}", _sha256(data)))
    if log:
        parts.append(Part("install_logs", log, "install.log"))
    headers = (f"X-Storage-Pool: {pool}",) if pool else ()
    return Go("checksum_archive", tuple(parts), headers)


def calagopus(
    log: bytes = b"",
    backups: Mapping[str, bytes] = NO_BACKUPS,
    *,
    suffix: str = "tar.gz",
    stream: str = "multiplex-stream-count: 0",
) -> Calagopus:
    """Return the form of Calagopus' nodes, with an installation's log, then backups.

    `stream` is the header that numbers the requests one server is sent in.
    """
    parts = [Part("install-logs", log, "install.log", "text/plain")] if log else []
    for uuid, data in backups.items():
        name = f"backup-checksum-{uuid}"
        parts.append(Part(f"backup-{uuid}", data, f"{uuid}.tar.gz", "backup/wings"))
        parts.append(Part(name, _sha256(data), name, "text/plain"))
    return Calagopus(stream, f"archive.{suffix}", tuple(parts))


def as_go_packs(tar: bytes) -> bytes:
    """Return it compressed as on Go nodes: with their header, flushed after each MiB."""
    gzip = zlib.compressobj(1, wbits=31)
    blocks = [tar[at : at + MIB] for at in range(0, len(tar), MIB)]
    packed = b"".join(gzip.compress(block) + gzip.flush(zlib.Z_SYNC_FLUSH) for block in blocks)
    return GZIP_HEADER + (packed + gzip.flush())[len(GZIP_HEADER) :]


def _head(*lines: str) -> bytes:
    return "\r\n".join(["POST /api/transfers HTTP/1.1", *lines, "", ""]).encode()


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


def _pieces(data: bytes) -> list[bytes]:
    return [data[at : at + PIECE] for at in range(0, len(data), PIECE)]
