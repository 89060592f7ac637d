"""Nodes in Go: one that takes uploads, its archives, and how it restores backups."""

from __future__ import annotations

import json
import os
import posixpath
import tarfile
from collections.abc import Coroutine, Iterable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

import attrs
import h11
import treq
from OpenSSL import SSL
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import DefaultOpenSSLContextFactory
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers

from tests.support import Node
from tests.support.archives import END, member, pax_record
from tests.support.node_process import NodeProcess, reactor
from tests.support.sample_server import UUID
from wingsd.backups.store import Backup
from wingsd.transfers.upload_form import UploadForm

FILE, FIFO, EXTENDED = b"0", b"6", b"x"
NAME, PREFIX = 100, 155
#: Octal digits of ustar's numbers.
DIGITS = {b"gid": 7, b"mtime": 11, b"size": 11, b"uid": 7}
SECOND = 1_000_000_000
TIME = 1_700_000_000 * SECOND


@attrs.frozen
class GoFile:
    """What a Go node sees of a file. `mtime` is in nanoseconds; `owner` names user and group."""

    name: bytes
    data: bytes = b""
    mode: int = 0o644
    mtime: int = TIME
    kind: bytes = FILE
    uid: int = 0
    gid: int = 0
    owner: bytes = b""

    @property
    def seconds(self) -> int:
        return (self.mtime + SECOND // 2) // SECOND


#: One file for each thing that has a form of its own.
ODD = [
    GoFile(b"server.properties", b"server-port=25565\n"),
    GoFile(b"world/level.dat", b"down", 0o640, TIME + 499_999_999),
    GoFile(b"world/session.lock", b"", 0o600, TIME + 500_000_000),
    GoFile(b"start.sh", b"#!/bin/sh\n", 0o4755, TIME + 999_999_999),
    GoFile(b"n" * 100, b"fits"),
    GoFile(b"d" * 60 + b"/" + b"f" * 60, b"split"),
    GoFile(b"p" * 155 + b"/" + b"s" * 100, b"splits at its longest"),
    GoFile(b"n" * 101, b"does not"),
    GoFile((b"d" * 49 + b"/") * 6 + b"f", b"too long"),
    GoFile("plugins/карта/日本.yml".encode(), b"foreign"),
    GoFile(f"плагин/{'ж' * 60}/x".encode(), b"foreign and long"),
    GoFile(b"not-utf8-\xff", b"bytes"),
    GoFile(b"old", b"before 1970", mtime=-2 * SECOND + 250_000_000),
    GoFile(b"console.fifo", kind=FIFO),
    GoFile(b"owned", b"by name", 0o664, owner=b"root"),
    GoFile(b"owned-far", b"by number", 0o664, uid=3_000_000, gid=8**7),
    GoFile(
        (b"e" * 49 + b"/") * 3 + b"f", b"late", mtime=8**11 * SECOND, uid=3_000_000, gid=8**7 - 1
    ),
]


def go_tar(files: Iterable[GoFile]) -> bytes:
    """Return the archive, which ends with two blocks of zeros and no padding."""
    return b"".join(map(_member, files)) + END


def _member(file: GoFile) -> bytes:
    numbers = {b"gid": file.gid, b"mtime": file.seconds, b"size": len(file.data), b"uid": file.uid}
    # Three bits to a digit; of a negative number something is always left.
    records = {key: b"%d" % n for key, n in numbers.items() if n >> 3 * DIGITS[key]}
    fields = {
        key: b"%0*o" % (DIGITS[key], 0 if key in records else n) for key, n in numbers.items()
    }
    prefix, name = _split(file.name)
    if len(name) > NAME or not name.isascii() or (prefix and records):
        records[b"path"] = file.name
        prefix, name = b"", _cut(file.name)
    texts = [(265, file.owner), (297, file.owner), (329, b"0000000\x000000000")]
    header = member(
        name,
        file.data,
        file.kind,
        mode=file.mode,
        size=fields[b"size"],
        mtime=fields[b"mtime"],
        prefix=prefix,
        raw=[(108, fields[b"uid"]), (116, fields[b"gid"]), *texts],
    )
    return _extension(file.name, records) + header


def _extension(path: bytes, records: dict[bytes, bytes]) -> bytes:
    if not records:
        return b""
    folder, base = posixpath.split(path)
    name = _cut(posixpath.join(folder, b"PaxHeaders.0", base))
    data = b"".join(pax_record(key, records[key]) for key in sorted(records))
    return member(name, data, EXTENDED, mode=0, mtime=b"0" * 11)


def _split(path: bytes) -> tuple[bytes, bytes]:
    """Return the path's prefix and name: all in the name where it fits or cannot be split."""
    prefix, _, name = path[: PREFIX + 1].rpartition(b"/")
    name += path[PREFIX + 1 :]
    if len(path) > NAME >= len(name) > 0 and prefix and path.isascii():
        return prefix, name
    return b"", path


def _cut(path: bytes) -> bytes:
    """Return what of a path goes into the name's field when a record holds the whole of it."""
    return bytes(byte for byte in path if byte < 0x80)[:NAME].rstrip(b"/")


# A restore as `RestoreBackup` of the nodes in Go does it, for tests


_UMASK = 0o022


class GoRestoreFailed(Exception):
    """The restore ended in the middle, at the member of this name."""


def restore_as_go(archive: Path, root: Path) -> list[str]:
    """Restore an archive in `root`; return the names of its members in order."""
    names = []
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            names.append(member.name)
            _write(tar, member, root / os.path.normpath(member.name))
    return names


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    if path.is_dir():  # Stat, which follows symlinks
        raise GoRestoreFailed(f"{member.name}: is a directory")
    try:
        path.parent.mkdir(0o755, parents=True, exist_ok=True)
        mode = member.mode & 0o777 & ~_UMASK
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, mode)
    except OSError as error:
        raise GoRestoreFailed(f"{member.name}: {error.strerror}") from error
    with open(fd, "wb") as file:
        if member.isreg() and member.size:  # links and directories have a size of 0
            content = tar.extractfile(member)
            assert content is not None
            while piece := content.read(1 << 20):
                file.write(piece)
    os.utime(path, (member.mtime, member.mtime))


# A destination that is a Go Wings node, by its protocol: it answers as Go, gin and Wings do


# What net/http does with a body that its handler has not read: it answers, reads so many more
# bytes, says that it will send no more, and closes after so many seconds.
READS_ON = 256 * 1024
LINGERS = 0.5


# What gin's middleware puts on every answer of Wings.
HEADERS = [
    ("Access-Control-Allow-Credentials", "true"),
    ("Access-Control-Allow-Headers", "Accept, Accept-Encoding, Authorization"),
    ("Access-Control-Allow-Methods", "GET, POST, PATCH, PUT, DELETE, OPTIONS"),
    ("Access-Control-Allow-Origin", "http://panel.invalid"),
    ("X-Request-Id", "6e4c9a1e-59d5-4b8e-9e0c-0d5a8f4a7f60"),
    ("Connection", "close"),
    ("Date", "Wed, 25 Nov 2026 10:00:00 GMT"),
]


# Of nearly all that fails in a transfer Wings says this and no more; the rest is in its log.
UNEXPECTED = {
    "error": "An unexpected error was encountered while processing this request",
    "request_id": "6e4c9a1e-59d5-4b8e-9e0c-0d5a8f4a7f60",
}


class GoNode:
    """The node. `fails` says when it refuses: never (""), "early", "late", or "dying".

    When it is dying, its connections end with its early answer, and the unread body resets them.
    """

    def __init__(self, replaced: NodeProcess) -> None:
        """It takes the place of a node that is not started, and shows its certificate."""
        self.panel = replaced.panel
        self.fails = ""
        self.requests: list[h11.Request] = []
        self._works: list[Deferred[None]] = []
        self.archive = bytearray()
        #: The backups that came with it, by their UUIDs.
        self.backups: dict[str, bytearray] = {}
        self.checksum = ""
        factory: Any = Factory.forProtocol(lambda: _Connection(self))
        factory.noisy = False
        certificate = DefaultOpenSSLContextFactory(
            str(replaced.key), str(replaced.cert), SSL.TLS_METHOD
        )
        self._port = reactor.listenSSL(0, factory, certificate, interface="127.0.0.1")
        address = f"https://127.0.0.1:{self._port.getHost().port}"
        self.node: Node = self.panel.add_node(address, ca=str(replaced.ca), port=25566)

    async def report(self, outcome: str) -> None:
        url = f"{self.panel.url}/api/remote/servers/{UUID}/transfer/{outcome}"
        headers = Headers({"Authorization": [f"Bearer {self.node.token_id}.{self.node.token}"]})
        answer = await treq.post(url, headers=headers, persistent=False)
        await answer.content()

    def work(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Do something of the node's own; `close` waits for it."""
        self._works.append(Deferred.fromCoroutine(coroutine))

    async def close(self) -> None:
        await DeferredList(self._works)
        await maybeDeferred(self._port.stopListening)


class _Connection(Protocol):
    transport: Any

    def __init__(self, node: GoNode) -> None:
        self._node = node
        self._part = node.archive
        self._http = h11.Connection(h11.SERVER)
        self._form: UploadForm | None = None
        self._unread = 0
        self._closing: Any = None

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._closing is not None and self._closing.active():
            self._closing.cancel()

    def dataReceived(self, data: bytes) -> None:
        self._http.receive_data(data)
        while True:
            event = self._http.next_event()
            if event in (h11.NEED_DATA, h11.PAUSED) or isinstance(event, h11.ConnectionClosed):
                return
            self._take(event)

    def _take(self, event: Any) -> None:
        node = self._node
        if isinstance(event, h11.Request):
            node.requests.append(event)
            if event.method == b"OPTIONS":
                self._answer(204)
            elif node.fails in ("early", "dying"):
                self.transport.pauseProducing()
                node.work(self._refuse())
            else:
                headers = dict(event.headers)
                self._form = UploadForm(headers[b"content-type"].decode())
        elif isinstance(event, h11.Data) and self._form is not None:
            self._receive(self._form, bytes(event.data))
        elif isinstance(event, h11.Data) and self._http.our_state is h11.MUST_CLOSE:
            self._unread += len(event.data)
            if self._unread >= READS_ON and self._closing is None:
                self._close_slowly()
        elif isinstance(event, h11.EndOfMessage) and self._http.our_state is h11.MUST_CLOSE:
            self.transport.loseConnection()
        elif isinstance(event, h11.EndOfMessage) and self._form is not None:
            node.checksum = self._form.close().archive
            node.work(self._refuse() if node.fails else self._succeed())

    def _receive(self, form: UploadForm, data: bytes) -> None:
        for piece in form.receive(data):
            if isinstance(piece, bytes):
                self._part += piece
                continue
            self._part = bytearray()
            if isinstance(piece, Backup):
                self._node.backups[piece.uuid] = self._part

    async def _succeed(self) -> None:
        # It tells it once. A real one has a container to make before, which takes longer than the
        # Panel's commit of the transfer.
        while not self._node.panel.in_transfer(UUID):
            await deferLater(reactor, 0.01)
        await self._node.report("success")
        self._answer(200, [("Content-Length", "0")])

    async def _refuse(self) -> None:
        await self._node.report("failure")
        body = json.dumps(UNEXPECTED).encode()
        kind = ("Content-Type", "application/json; charset=utf-8")
        self._answer(500, [kind, ("Content-Length", str(len(body)))], body)

    def _answer(
        self, status: int, headers: Sequence[tuple[str, str]] = (), body: bytes = b""
    ) -> None:
        reason = HTTPStatus(status).phrase
        answer = h11.Response(status_code=status, reason=reason, headers=[*HEADERS, *headers])
        self.transport.write(self._http.send(answer))
        if body:
            self.transport.write(self._http.send(h11.Data(data=body)))
        self.transport.write(self._http.send(h11.EndOfMessage()))
        if self._http.their_state is not h11.SEND_BODY:
            self.transport.loseConnection()
        elif self._node.fails == "dying":
            self.transport.transport.loseConnection()
        else:
            self.transport.resumeProducing()

    def _close_slowly(self) -> None:
        self.transport.loseConnection()  # TLS alone: that is over when the client closes as well
        self.transport.pauseProducing()
        self._closing = reactor.callLater(LINGERS, self.transport.transport.loseConnection)
