"""A store of S3's kind for parts, which enforces the time of its URLs and misbehaves when told to.

It listens on loopback, keeps what was put by upload and part, and speaks HTTP by h11, so that it
can break the rules of HTTP where a test asks for that.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

import attrs
import h11
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

#: Bytes of the parts that `PartSigner` signs.
PART_SIZE = 1 << 20
EXPIRED = b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
NO_UPLOAD = b"<Error><Code>NoSuchUpload</Code><Message>It does not exist.</Message></Error>"


@attrs.frozen
class Say:
    """An answer in place of storing the part; `early` before its bytes are read."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    early: bool = False


@attrs.frozen
class Cut:
    """The connection is cut when so many bytes of the part were read."""

    after: int = 0


@attrs.frozen
class Stall:
    """Nothing more is read, and nothing is said."""


@attrs.frozen
class Endless:
    """An answer whose body never ends."""


@attrs.frozen
class StoreAs:
    """The part is stored, with these headers in place of its ETag."""

    headers: tuple[tuple[str, str], ...] = ()


Behaviour = Say | Cut | Stall | Endless | StoreAs


@attrs.frozen
class Put:
    """A request: upload, part, and what was declared."""

    upload: str
    number: int
    content_type: str
    length: int


class S3Store:
    """The store. `clock` gives the seconds by which URLs expire after `lifetime` seconds."""

    def __init__(self, reactor: Any, lifetime: float = 3600.0) -> None:
        self._reactor = reactor
        self.lifetime = lifetime
        #: By upload and part number: the bytes of the last put.
        self.parts: dict[tuple[str, int], bytes] = {}
        self.puts: list[Put] = []
        #: How many requests there were at the same time at most.
        self.at_once = 0
        self.connections: set[_Connection] = set()
        self._behaviours: list[tuple[int | None, Behaviour]] = []
        self._signed: dict[str, float] = {}
        self._offset = 0.0
        self._port: Any = None

    def listen(self, tls: Any = None) -> None:
        """Listen on loopback; with `tls`, a context factory, by it."""
        factory = Factory.forProtocol(lambda: _Connection(self))
        factory.noisy = False
        listen = self._reactor.listenTCP if tls is None else self._reactor.listenSSL
        more = () if tls is None else (tls,)
        self._port = listen(0, factory, *more, interface="127.0.0.1")
        self.scheme = "http" if tls is None else "https"

    async def close(self) -> None:
        """Stop listening and cut every connection."""
        await self._port.stopListening()
        for connection in list(self.connections):
            connection.transport.abortConnection()

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self._port.getHost().port}"

    def behave(self, behaviour: Behaviour, times: int = 1, part: int | None = None) -> None:
        """Let the next `times` puts, of any part or one, meet `behaviour`."""
        self._behaviours += [(part, behaviour)] * times

    def expire(self) -> None:
        """Let all URLs that are signed so far be of the past."""
        self._signed = dict.fromkeys(self._signed, 0.0)

    def resume(self) -> None:
        """Read on where it was stopped, to notice the end of connections."""
        for connection in list(self.connections):
            connection.transport.resumeProducing()

    def sign(self, upload: str, numbers: Iterable[int]) -> list[str]:
        """Return URLs for these parts of an upload."""
        urls = []
        for number in numbers:
            query = f"partNumber={number}&uploadId={upload}&X-Amz-Expires={self.lifetime:.0f}"
            target = f"/bucket/backup.tar.gz?{query}&X-Amz-Signature={len(self._signed)}"
            self._signed[target] = self._reactor.seconds() + self.lifetime
            urls.append(f"{self.scheme}://{self.address}{target}")
        return urls

    def object(self, upload: str) -> bytes:
        """Return the parts of an upload, joined."""
        found = sorted((number, data) for (of, number), data in self.parts.items() if of == upload)
        return b"".join(data for _, data in found)

    def behaviour(self, number: int) -> Behaviour | None:
        """Take what is next for a part."""
        for index, (part, behaviour) in enumerate(self._behaviours):
            if part in (None, number):
                del self._behaviours[index]
                return behaviour
        return None

    def is_valid(self, target: str) -> bool:
        return bool(self._signed.get(target, 0.0) > self._reactor.seconds())


class PartSigner:
    """A Panel's side of a store: signs the parts of backups as the families' Panels do."""

    def __init__(self, store: S3Store) -> None:
        self._store = store
        #: How many uploads were begun of each backup, where each call begins one.
        self._uploads: Counter[str] = Counter()

    def __call__(self, backup: str, query: str) -> dict[str, Any]:
        """Return the answer to a call for a backup's parts."""
        asked = {name: int(values[0]) for name, values in parse_qs(query).items()}
        if "from_part" in asked:  # Calagopus
            first = asked["from_part"]
            urls = self._store.sign(backup, range(first, first + 2))
            return {"parts": urls, "part_size": PART_SIZE}
        self._uploads[backup] += 1
        count = math.ceil(asked["size"] / PART_SIZE)
        urls = self._store.sign(self.upload_of(backup), range(1, count + 1))
        return {"parts": urls, "part_size": PART_SIZE, "max_concurrent_uploads": 3}

    def upload_of(self, backup: str) -> str:
        """Return the upload of a backup that was begun last."""
        begun = self._uploads[backup]
        return f"{backup}-{begun}" if begun else backup


class _Connection(Protocol):
    transport: Any

    def __init__(self, store: S3Store) -> None:
        self._store = store
        self._http = h11.Connection(h11.SERVER)
        self._put = Put("", 0, "", 0)
        self._data = bytearray()
        self._behaviour: Behaviour | None = None
        self._stopped = False

    def connectionMade(self) -> None:
        self._store.connections.add(self)
        self._store.at_once = max(self._store.at_once, len(self._store.connections))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._store.connections.discard(self)
        self._stopped = True

    def dataReceived(self, data: bytes) -> None:
        if self._stopped:
            return
        self._http.receive_data(data)
        try:
            while not self._stopped:
                event = self._http.next_event()
                if event in (h11.NEED_DATA, h11.PAUSED):
                    return
                self._take(event)
        except h11.RemoteProtocolError:
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            self._stop(self.transport.loseConnection)

    def _take(self, event: Any) -> None:
        match event:
            case h11.Request():
                self._begin(event)
            case h11.Data():
                self._data += event.data
                if isinstance(self._behaviour, Cut) and len(self._data) >= self._behaviour.after:
                    self._stop(self.transport.abortConnection)
            case h11.EndOfMessage():
                self._end()

    def _begin(self, request: h11.Request) -> None:
        target = request.target.decode()
        query = dict(each.split("=") for each in target.partition("?")[2].split("&"))
        headers = {name.decode(): value.decode() for name, value in request.headers}
        self._put = Put(
            query["uploadId"],
            int(query["partNumber"]),
            headers["content-type"],
            int(headers["content-length"]),
        )
        self._store.puts.append(self._put)
        self._behaviour = self._store.behaviour(self._put.number)
        match self._behaviour:
            case Say(early=True):
                self._answer(self._behaviour)
            case Stall():
                self._stop(self.transport.pauseProducing)
            case None if not self._store.is_valid(target):
                self._answer(Say(403, EXPIRED))

    def _end(self) -> None:
        match self._behaviour:
            case Say():
                self._answer(self._behaviour)
            case Endless():
                self._stop(self._babble)
            case StoreAs(headers):
                self._keep(headers)
            case _:
                digest = hashlib.md5(self._data, usedforsecurity=False).hexdigest()
                self._keep((("ETag", f'"{digest}"'),))

    def _keep(self, headers: tuple[tuple[str, str], ...]) -> None:
        self._store.parts[self._put.upload, self._put.number] = bytes(self._data)
        self._answer(Say(200, headers=headers))

    def _answer(self, say: Say) -> None:
        length = ("Content-Length", str(len(say.body)))
        head = h11.Response(status_code=say.status, headers=[*say.headers, length])
        for event in (head, h11.Data(say.body), h11.EndOfMessage()):
            self.transport.write(self._http.send(event))
        self._stop(self.transport.loseConnection)

    def _babble(self) -> None:
        self.transport.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        self.transport.registerProducer(_Babbler(self.transport), False)

    def _stop(self, how: Callable[[], object]) -> None:
        self._stopped = True
        how()


class _Babbler:
    """A pull producer without an end."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def resumeProducing(self) -> None:
        self._transport.write(b"3e8\r\n" + b"x" * 1000 + b"\r\n")

    def stopProducing(self) -> None:
        self._transport.unregisterProducer()
