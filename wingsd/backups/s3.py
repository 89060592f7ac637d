"""Backups in S3: an archive is uploaded in parts, to URLs that the Panel has signed.

An archive that is made is uploaded, and removed when the Panel has answered. Its part, with its
catalogue beside it, stays until then: a daemon that dies goes on with it at its next start. It
never gets the name of a local backup.

Pterodactyl's and Pelican's Panels sign the parts of an archive whose size is known, and begin a
new upload with each call: parts that were sent before are not in it. Calagopus' Panel signs a
number of parts from any one on, always of the same upload. URLs are asked for again when they
expire.

A part is one PUT to its URL. Redirects are not followed, and addresses in private networks are
used: it is the Panel that names the store, and many are beside the node.
"""

from __future__ import annotations

import html
import math
import os
import re
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import cache, partial
from http import HTTPStatus
from typing import Any, NoReturn
from urllib.parse import parse_qs, urlsplit

import attrs
import h11
from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.error import ConnectionDone, ConnectionLost, DNSLookupError
from twisted.internet.error import TimeoutError as TimedOut
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from wingsd.backups.store import BackupStore, MadeArchive, UploadedPart
from wingsd.config import S3BackupsConfig
from wingsd.errors import (
    BackupSettled,
    BackupUploadFailed,
    InvalidData,
    NodeTokenRefused,
    PanelError,
    PanelRefused,
    PanelUnreachable,
    StorageError,
)
from wingsd.filesystem.open_directories import FILE_FLAGS
from wingsd.http_client.exchange import (
    CONNECT_WITHIN,
    OTHER_NAME,
    Answer,
    CertificateRefused,
    HttpExchange,
    HttpServer,
    plain,
    reason_of,
    system_trust,
    tls_reason,
)
from wingsd.http_client.urls import parse_url
from wingsd.panel.client import Panel
from wingsd.statedb import BackupRecord
from wingsd.threadio import ByteSource, Workers
from wingsd.util.deferreds import Changes
from wingsd.util.reactor import Reactor, Timer
from wingsd.util.retry import Backoff, Budget, Watch, seconds_asked_for
from wingsd.util.serialization import structure

#: Parts of an upload, of any store.
MAX_PARTS = 10_000
#: Bytes of a URL: more would not fit into a request's headers.
MAX_URL = 8 * 1024
#: Parts sent at the same time, where the Panel does not say, and the most that it may say.
AT_ONCE, MOST_AT_ONCE = 4, 32
#: Seconds that a URL is good for, where it does not say.
LIFETIME = 3600.0
#: A URL is not used in its last seconds, at most a tenth: the store judges by its own clock.
MARGIN = 30.0
#: How long the Panel is asked for URLs while it cannot be reached: as long as Panels let a backup
#: be unfinished.
ASK_PANEL_FOR = 6 * 3600.0
PANEL_BACKOFF = Backoff(1.0, 300.0)
#: The statuses after which the Panel is asked again, and a part sent again.
_TRY_AGAIN = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)

#: Those of a Panel that does not have a call.
_UNKNOWN_CALL = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED)


@attrs.frozen(eq=False, repr=False)
class PartUrl:
    """A URL of one part; `upload` is the store's name of the upload that the part goes into.

    `good_until`, when it is to be used at the latest, is in seconds of the reactor's clock.
    """

    url: str
    upload: str
    good_until: float


@attrs.frozen(eq=False, repr=False)
class SignedParts:
    """An answer of the Panel: the URLs of the parts from number `first` on.

    `part_size` is in bytes, of all parts but the last. `at_once` are to be sent at the same time.
    With `renewable`, new URLs are of the same upload.
    """

    first: int
    parts: tuple[PartUrl, ...]
    part_size: int
    at_once: int = AT_ONCE
    renewable: bool = False


@attrs.frozen(eq=False, repr=False)
class _SignedUrls:
    parts: tuple[str, ...]
    part_size: int
    max_concurrent_uploads: int = AT_ONCE


@attrs.define(eq=False, repr=False, slots=False)
class PartUrls:
    """The URLs of all parts of one backup, one answer of the Panel at a time.

    The Panel is asked for all parts of an archive of `size` bytes (Pterodactyl, Pelican). Without
    a size it is asked for some at a time, from a number on (Calagopus).
    """

    _panel: Panel
    _reactor: IReactorTime
    _backup: str
    _size: int | None = None
    _signed: SignedParts | None = attrs.field(default=None, init=False)
    _asking: DeferredLock = attrs.field(factory=DeferredLock, init=False)
    _log = Logger()

    async def ask(self, number: int) -> SignedParts:
        """Ask the Panel for a part, and others. Raises what `Panel` does."""
        path, first = f"/backups/{self._backup}?size={self._size}", 1
        if self._size is None:
            path, first = f"/backups/{self._backup}/s3/parts?from_part={number}", number
        return await self._panel.get("backup_urls", path, lambda answer: self._read(answer, first))

    def _read(self, answer: object, first: int) -> SignedParts:
        """Read an answer of the Panel. Raises `InvalidData`."""
        found, size = structure(answer, _SignedUrls), self._size
        if found.part_size < 1:
            raise InvalidData(f"part_size: it must be above 0, and is {found.part_size}")
        count = len(found.parts)
        if not 1 <= count <= MAX_PARTS:
            raise InvalidData(f"parts: 1 to {MAX_PARTS} of them are expected, not {count}")
        now = self._reactor.seconds()
        parts = tuple(part_url(url, now) for url in found.parts)
        if size is not None and count != math.ceil(size / found.part_size):
            raise InvalidData(
                f"it signed {count} parts of {found.part_size} bytes for {size} bytes"
            )
        at_once = min(max(found.max_concurrent_uploads, 1), MOST_AT_ONCE)
        return SignedParts(first, parts, found.part_size, at_once, renewable=size is None)

    async def signed(self, number: int) -> SignedParts:
        """Return an answer with a URL of the part `number` that has not expired.

        Raises `BackupSettled`, `BackupUploadFailed`.
        """
        async with self._asking:
            if self._signed is None or not self._has(self._signed, number):
                self._signed = await self._ask_until_answered(number)
            return self._signed

    async def of(self, number: int) -> PartUrl:
        """Return a URL of the part `number`. Raises `BackupSettled`, `BackupUploadFailed`."""
        signed = await self.signed(number)
        return signed.parts[number - signed.first]

    def forget(self, url: PartUrl) -> None:
        """Do not use the answer that this URL was in any more."""
        if self._signed is not None and url in self._signed.parts:
            self._signed = None

    def _has(self, signed: SignedParts, number: int) -> bool:
        index = number - signed.first
        if not 0 <= index < len(signed.parts):
            return False
        return self._reactor.seconds() < signed.parts[index].good_until

    async def _ask_until_answered(self, number: int) -> SignedParts:
        if number > MAX_PARTS:
            raise BackupUploadFailed(
                f"it has more than {MAX_PARTS} parts; make parts larger in the Panel"
            )
        deadline = self._reactor.seconds() + ASK_PANEL_FOR
        pauses = iter(PANEL_BACKOFF)
        while True:
            try:
                signed = await self.ask(number)
            except (PanelUnreachable, NodeTokenRefused) as error:
                reason: PanelError = error
            except PanelRefused as error:
                if error.response_status not in _TRY_AGAIN:
                    raise _refusal(error) from error
                reason = error
            else:
                if not signed.first <= number < signed.first + len(signed.parts):
                    raise BackupUploadFailed(f"the Panel signed no URL for part {number}")
                return signed
            pause = max(next(pauses), reason.retry_after)
            if self._reactor.seconds() + pause > deadline:
                raise BackupUploadFailed(
                    f"the Panel has signed no URLs for {ASK_PANEL_FOR / 3600:g} h: {reason}"
                ) from reason
            self._log.warn(
                "backup {backup}: no URLs from the Panel, asking it again in {seconds:.0f} s: "
                "{reason}",
                backup=self._backup,
                seconds=pause,
                reason=reason,
            )
            await deferLater(self._reactor, pause)


def _refusal(error: PanelRefused) -> Exception:
    if error.response_status == HTTPStatus.CONFLICT:
        return BackupSettled(error.detail)
    return BackupUploadFailed(
        f"the Panel signs no URLs for it: {error.detail}",
        is_unknown_call=error.response_status in _UNKNOWN_CALL,
    )


def part_url(url: str, now: float) -> PartUrl:
    """Read the URL of a part. Raises `InvalidData`, which does not quote it: it is a secret."""
    fault = ""
    if not url.isascii() or not url.isprintable() or " " in url or len(url) > MAX_URL:
        fault = f"it must be of printable ASCII, and at most {MAX_URL} bytes long"
    else:
        try:
            parts = parse_url(url)
        except ValueError as error:
            fault = str(error)
    if fault:
        raise InvalidData(f"parts: the URL of a part is invalid: {fault}")
    query = {name.lower(): values[0] for name, values in parse_qs(parts.query).items()}
    lifetime = _lifetime(query)
    margin = min(MARGIN, lifetime / 10)
    return PartUrl(url, query.get("uploadid", ""), now + lifetime - margin)


def _lifetime(query: dict[str, str]) -> float:
    """Return for how many seconds from now on a URL is good, by its query."""
    seconds, until = query.get("x-amz-expires", ""), query.get("expires", "")
    if seconds.isdecimal():  # signature version 4: since it was signed, which is now
        return float(seconds[:9])
    if until.isdecimal():  # signature version 2: seconds since the epoch
        return float(until[:12]) - time.time()
    return LIFETIME


#: Bytes of one piece: all that is in memory of a part, beside what the connection holds.
PIECE = 256 * 1024
#: Seconds for which the store may acknowledge nothing of what it is sent.
SILENT_FOR = 120.0
#: Characters that are quoted from an answer.
MAX_QUOTE = 300
#: Bytes of an ETag: S3's have 34.
MAX_ETAG = 1024
#: S3's own codes after which a part is sent again.
_TRY_AGAIN_CODES = ("RequestTimeout", "SlowDown", "InternalError", "OperationAborted")
_EXPIRED = re.compile("expired", re.IGNORECASE)
_NOT_READ = "the backup's archive could not be read"


class PartNotSent(Exception):
    """The store did not accept a part; send it again after `retry_after` seconds or more."""

    def __init__(self, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class UrlRefused(Exception):
    """The store does not accept the URL of a part (403); `is_expired` where that is why."""

    def __init__(self, reason: str, *, is_expired: bool) -> None:
        super().__init__(reason)
        self.is_expired = is_expired


@attrs.frozen
class Range:
    """The part `number` of an archive: its first byte, and how many bytes it has."""

    number: int
    start: int
    size: int


@attrs.define(eq=False, repr=False)
class FileRange(ByteSource):
    """The bytes of an open file from an offset to `stop`; `failed` gets an error of reading them.

    The next piece is read when the connection has taken the last one. The file may be closed
    before the range is.
    """

    _descriptor: int = attrs.field(converter=os.dup)
    _at: int
    _stop: int
    _disk: Workers
    _failed: Callable[[Exception], object]
    #: A piece that was read and is not delivered yet.
    _piece: bytes = attrs.field(default=b"", init=False)
    _reading: bool = attrs.field(default=False, init=False)
    _closed: bool = attrs.field(default=False, init=False)

    def __attrs_pre_init__(self) -> None:
        super().__init__()

    def close(self) -> None:
        """Deliver nothing more. May be called twice."""
        super().close()
        if not self._closed and not self._reading:
            os.close(self._descriptor)
        self._closed = True

    def _take(self) -> tuple[bytes | None, bool]:
        piece, self._piece = self._piece, b""
        if piece:
            self._at += len(piece)
            return piece, self._at == self._stop
        if not self._reading:
            self._reading = True
            size = min(PIECE, self._stop - self._at)
            reading = self._disk.run(os.pread, self._descriptor, size, self._at)
            reading.addCallbacks(self._keep, self._not_read)
        return None, False

    def _keep(self, piece: bytes) -> None:
        if not self._read_ended():
            return
        if not piece:
            self._failed(StorageError("it is shorter than it was", _NOT_READ))
            return
        self._piece = piece
        self._deliver()

    def _not_read(self, failure: Failure) -> None:
        if self._read_ended():
            self._failed(StorageError(failure.getErrorMessage(), _NOT_READ))

    def _read_ended(self) -> bool:
        """Return whether what was read is still wanted."""
        self._reading = False
        if self._closed:
            os.close(self._descriptor)
        return not self._closed


@attrs.frozen(eq=False, repr=False)
class PartStore:
    """Sends parts of the archive that is open as `descriptor`; the threads `disk` read it.

    `part_limit` and `stall_limit` are the seconds for a whole part, and for which nothing of it
    may move on.
    """

    _reactor: Reactor
    _disk: Workers
    _descriptor: int
    _content_type: str
    _part_limit: float = 7200.0
    _stall_limit: float = 300.0
    #: Reading them takes 10 ms.
    _trust: Callable[[], SSL.Context] = attrs.field(
        factory=lambda: cache(system_trust), init=False
    )

    async def put(self, url: str, part: Range) -> str:
        """Send a part from its beginning; return the ETag that the store gives it, as it is.

        Raises `UrlRefused`, `PartNotSent` where it may be sent again, `BackupUploadFailed` where
        that is of no use, `StorageError` when the archive cannot be read.
        """
        server = HttpServer(url, self._reactor, self._trust)
        headers = [
            ("Content-Type", self._content_type),
            ("Content-Length", str(part.size)),
            ("Connection", "close"),
        ]

        def abort(error: Exception) -> None:
            exchange.abort(error)

        body = FileRange(self._descriptor, part.start, part.start + part.size, self._disk, abort)
        exchange = server.send(server.request("PUT", headers), body=body, stall_timeout=SILENT_FOR)
        try:
            with self._watched(exchange, body):
                answer: Answer = await exchange.answer
        except (CancelledError, StorageError):
            raise
        except Exception as error:
            _explain(error, server.netloc)
        finally:
            body.close()
        return _etag(answer, server.netloc)

    def _watched(self, exchange: HttpExchange, body: FileRange) -> Watch:
        """Abort an upload that takes too long, or of which nothing moves on."""
        part, stall, clock = self._part_limit, self._stall_limit, self._reactor
        whole, moving = Budget[None](clock, part), Budget[None](clock, stall)
        moving.compare(0)

        def check() -> None:
            moving.compare(body.bytes_out)
            if whole.is_over:
                exchange.abort(TimeoutError(f"it took more than {part:g} s"))
            elif moving.is_over:
                exchange.abort(TimeoutError(f"nothing moved on for {stall:g} s"))

        return Watch(clock, stall / 8, check, "watching a part failed")


def _explain(error: Exception, host: str) -> NoReturn:
    """Raise the error for the reason that there is no answer."""
    if isinstance(error, CertificateRefused):
        is_chain_valid = error.code == OTHER_NAME
        fault = "it is for another name" if is_chain_valid else "certificate verify failed"
        raise BackupUploadFailed(
            f"the certificate of {host} is not valid for this node: {fault}; install "
            "a valid one there, or add its authority to those that this node's system trusts"
        ) from error
    match error:
        case DNSLookupError():
            reason = "its name is not known"
        case TimedOut():
            reason = f"it cannot be connected to within {CONNECT_WITHIN:g} s"
        case ConnectionDone() | ConnectionLost():
            reason = "it closed the connection without an answer"
        case SSL.Error():
            reason = f"there is no TLS that this node can speak ({tls_reason(error)})"
        case h11.RemoteProtocolError():
            reason = f"what it says is not HTTP ({error})"
        case _:
            reason = reason_of(error)
    raise PartNotSent(f"{host}: {reason}") from error


def _etag(answer: Answer, host: str) -> str:
    """Return the ETag of an answer of success; raise the error of any other."""
    if answer.good and not answer.early:
        etag = answer.header("etag")
        if etag and len(etag) <= MAX_ETAG and etag.isprintable():
            return etag
        raise PartNotSent(
            f"{host} answered {answer.code} without a valid ETag, as no store does: "
            f"{_quote(answer)}"
        )
    code, says = _fault(answer)
    what = f"{host} answered {answer.code}: {says}"
    if answer.code == HTTPStatus.FORBIDDEN:
        raise UrlRefused(what, is_expired=_EXPIRED.search(says) is not None)
    is_fault = answer.code >= HTTPStatus.INTERNAL_SERVER_ERROR or answer.good
    if is_fault or answer.code in _TRY_AGAIN or code in _TRY_AGAIN_CODES:
        raise PartNotSent(what, seconds_asked_for(answer.header("retry-after")))
    if HTTPStatus.MULTIPLE_CHOICES <= answer.code < HTTPStatus.BAD_REQUEST:
        what += f"; it redirects to {_redirected(answer)}, which is not followed"
    raise BackupUploadFailed(f"{what}; see the settings of the store in the Panel")


def _redirected(answer: Answer) -> str:
    """Return the host that a redirect leads to; its path may be a secret."""
    try:
        return plain(urlsplit(answer.header("location")).netloc, MAX_QUOTE) or "nowhere"
    except ValueError:
        return "an invalid URL"


def _fault(answer: Answer) -> tuple[str, str]:
    """Return the code of a store's error, empty without one, and a text for people."""
    text = answer.body.decode("utf-8", "replace")
    code, message = _element(text, "Code"), _element(text, "Message")
    return code, ": ".join(filter(None, (code, message))) or _quote(answer)


def _element(text: str, name: str) -> str:
    """Return the text of the first XML element of that name."""
    found = re.search(f"<{name}>([^<]*)</{name}>", text)
    return plain(html.unescape(found[1]), MAX_QUOTE) if found else ""


def _quote(answer: Answer) -> str:
    text = answer.body[: 4 * MAX_QUOTE].decode("utf-8", "replace")
    return plain(text, MAX_QUOTE) or plain(answer.reason, MAX_QUOTE) or "nothing more"


#: Seconds before a part is sent again.
BACKOFF = Backoff(1.0, 60.0)
#: How often the URL of one part is asked for again.
RENEWALS = 3
#: How often the whole upload begins.
BEGINNINGS = 3
#: A store looks at a URL's time when a request begins: as long as that before it has passed, all
#: parts that are left are begun, up to so many at once.
BEGIN_ALL_BEFORE, ALL_AT_ONCE = 90.0, 64


class GrowingArchive:
    """An archive that is being written, and its length so far; only for the reactor's thread.

    Its maker calls `grew` when bytes are in the file, and `complete` at the end.
    """

    def __init__(self) -> None:
        self._size = 0
        self._is_complete = False
        self._changes = Changes()

    def grew(self, size: int) -> None:
        """Note that the file has `size` bytes that do not change any more."""
        self._size = size
        self._changes.changed()

    def complete(self, size: int) -> None:
        """Note that it is made, with `size` bytes."""
        self._size, self._is_complete = size, True
        self._changes.changed()

    async def reach(self, size: int) -> int:
        """Wait until it has so many bytes, or is complete; return how many it has."""
        while self._size < size and not self._is_complete:
            await self._changes.next()
        return self._size


class _UploadReplaced(Exception):
    """The Panel has begun another upload, which has none of the parts that were sent."""


@attrs.define(eq=False, repr=False)
class MultipartUpload:
    """One backup of a server, `name` in the log, on its way to a store.

    Several parts are sent at once, until each is stored, each up to `attempts` times from its own
    beginning. With new URLs the upload goes on where it was if they are of the same upload, and
    else begins again.
    """

    _reactor: IReactorTime
    _urls: PartUrls
    _archive: GrowingArchive
    _store: PartStore
    _name: str
    _attempts: int
    _cutting: DeferredLock = attrs.field(factory=DeferredLock, init=False)
    _cut: int = attrs.field(default=0, init=False)
    _is_cut: bool = attrs.field(default=False, init=False)
    _etags: dict[int, str] = attrs.field(factory=dict, init=False)
    _log = Logger()

    async def run(self) -> tuple[UploadedPart, ...]:
        """Send all of it; return its parts.

        Raises `BackupSettled`, `BackupUploadFailed` and `StorageError`.
        """
        for _ in range(BEGINNINGS):
            try:
                await self._send_all()
            except _UploadReplaced:
                self._log.warn(
                    "{name}: the URLs have expired, all parts are sent again to new ones",
                    name=self._name,
                )
            else:
                return tuple(UploadedPart(*each[::-1]) for each in sorted(self._etags.items()))
        raise BackupUploadFailed(
            "the signed URLs expire before all parts are sent; let the Panel sign them for a "
            "longer time, or make parts larger"
        )

    async def _send_all(self) -> None:
        signed = await self._urls.signed(1)
        self._cut, self._is_cut = 0, False
        self._etags.clear()
        workers = _Workers(partial(self._work, signed))
        until = signed.parts[0].good_until - BEGIN_ALL_BEFORE - self._reactor.seconds()
        beginning_all = Timer(self._reactor)
        most = 0 if signed.renewable else ALL_AT_ONCE
        beginning_all.start(max(until, 0.0), workers.begin, most)
        workers.begin(signed.at_once)
        try:
            await workers.ended
        finally:
            beginning_all.cancel()
            workers.cancel()

    async def _work(self, signed: SignedParts) -> None:
        while (part := await self._next(signed.part_size)) is not None:
            self._etags[part.number] = await self._send(part, signed.parts[0].upload)

    async def _next(self, size: int) -> Range | None:
        """Return the next part, of `size` bytes, when the archive has it; None after the last."""
        async with self._cutting:
            if self._is_cut:
                return None
            start = self._cut * size
            length = min(await self._archive.reach(start + size) - start, size)
            self._is_cut = length < size
            if length <= 0:
                return None
            self._cut += 1
            return Range(self._cut, start, length)

    async def _send(self, part: Range, upload: str) -> str:
        """Send a part of an upload until the store has it; return its ETag."""
        pauses, attempts, renewals = iter(BACKOFF), 0, 0
        while True:
            url = await self._urls.of(part.number)
            if url.upload != upload:
                raise _UploadReplaced
            try:
                return await self._store.put(url.url, part)
            except UrlRefused as error:
                is_late = self._reactor.seconds() >= url.good_until
                renewals += 1
                if not (error.is_expired or is_late) or renewals > RENEWALS:
                    # New ones that have expired as well are those of a wrong clock.
                    raise BackupUploadFailed(
                        f"part {part.number}: {error}; see the settings of the store in the Panel"
                    ) from error
                self._urls.forget(url)
            except PartNotSent as error:
                attempts += 1
                if attempts >= self._attempts:
                    raise BackupUploadFailed(
                        f"part {part.number} was sent {attempts} times: {error}"
                    ) from error
                pause = max(next(pauses), error.retry_after)
                self._log.warn(
                    "{name}: part {number} not sent, again in {seconds:.0f} s: {reason}",
                    name=self._name,
                    number=part.number,
                    seconds=pause,
                    reason=error,
                )
                await deferLater(self._reactor, pause)


class _Workers:
    """Coroutines that share work, until all of them have ended or one has failed."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._work = work
        self._workers: list[Deferred[None]] = []
        self._open = 0
        #: Fires when all have ended; fails with the first error of one.
        self.ended: Deferred[None] = Deferred()

    def begin(self, count: int) -> None:
        """Begin so many, or as many as are not begun yet."""
        more = count - len(self._workers)
        self._open += max(more, 0)
        for _ in range(more):
            worker = Deferred.fromCoroutine(self._work())
            self._workers.append(worker)
            worker.addCallbacks(self._end, self._fail)

    def cancel(self) -> None:
        """End those that are still at work."""
        for worker in self._workers:
            worker.cancel()

    def _end(self, _: None) -> None:
        self._open -= 1
        if not self._open and not self.ended.called:
            self.ended.callback(None)

    def _fail(self, failure: Failure) -> None:
        if not self.ended.called:
            self.ended.errback(failure)


#: What the families' nodes declare archives as.
_CONTENT_TYPE, _CONTENT_TYPE_CALAGOPUS = "application/x-gzip", "application/gzip"


@attrs.define(eq=False)
class _Upload:
    """An upload under way, or one that is to begin."""

    running: Deferred[Sequence[UploadedPart] | None] | None = None
    growing: GrowingArchive | None = None
    interrupted: bool = False


@attrs.frozen(eq=False, repr=False)
class S3Adapter:
    """Uploads archives to the URLs that `panel` signs; the threads `readers` read them."""

    _panel: Panel
    _store: BackupStore
    _readers: Workers
    _reactor: Reactor
    _settings: S3BackupsConfig
    _is_calagopus: bool
    _uploads: dict[str, _Upload] = attrs.field(factory=dict, init=False)
    _log = Logger()

    def begin(self, server: str, backup: str, path: str) -> GrowingArchive | None:
        """Begin to upload an archive while it is made, where the Panel signs parts for that."""
        if not self._is_calagopus:
            return None
        upload = self._uploads[backup] = _Upload(growing=GrowingArchive())
        upload.running = Deferred.fromCoroutine(self._stream(server, backup, path, upload))
        return upload.growing

    async def keep(self, server: str, made: MadeArchive) -> Sequence[UploadedPart]:
        """Upload an archive; return its parts.

        Its part stays, for `discard`, and after a CancelledError that `interrupt` has caused.
        After another error it was removed. Raises `WingsdError`.
        """
        backup = made.catalogue.backup
        upload = self._uploads.setdefault(backup, _Upload())
        try:
            await self._readers.run(self._store.write_catalogue, made.place, made.catalogue)
            return await self._sent(server, made, upload)
        except CancelledError:
            raise
        except BaseException:
            await self.discard(made.place, backup)
            raise
        finally:
            self.abandon(backup)

    def interrupt(self, backup: str) -> None:
        """Cancel `keep` of a backup: it ends soon, with CancelledError."""
        upload = self._uploads.get(backup)
        if upload is not None:
            upload.interrupted = True
            if upload.running is not None:
                upload.running.cancel()

    def abandon(self, backup: str) -> None:
        """End what was begun of an archive, if it has not ended."""
        upload = self._uploads.pop(backup, None)
        if upload is not None and upload.running is not None:
            upload.running.addErrback(lambda _: None)
            upload.running.cancel()

    async def left_by(self, record: BackupRecord) -> MadeArchive | None:
        """Return the archive that an earlier daemon has made and not uploaded yet.

        What is left of any other is removed. Raises `StorageError`.
        """
        return await self._readers.run(self._store.made_before, record.place, record.backup)

    async def discard(self, place: str, backup: str) -> None:
        """Remove the part of an archive. A failure is logged: the next start tries again."""
        try:
            await self._readers.run(self._store.remove_leftovers, place, backup)
        except StorageError as error:
            self._log.error(
                "backup {backup}: its archive was not deleted here: {error}",
                backup=backup,
                error=error,
            )

    async def _sent(
        self, server: str, made: MadeArchive, upload: _Upload
    ) -> Sequence[UploadedPart]:
        size = made.catalogue.bytes
        if upload.growing is not None and upload.running is not None:
            upload.growing.complete(size)
            parts = await upload.running
            if parts is not None:
                return parts
        if upload.interrupted:
            raise CancelledError
        backup = made.catalogue.backup
        urls = PartUrls(self._panel, self._reactor, backup, size)
        whole = GrowingArchive()
        whole.complete(size)
        sending = self._send(server, backup, made.path, urls, whole)
        upload.running = Deferred.fromCoroutine(sending)
        sent = await upload.running
        assert sent is not None  # noqa: S101 - only `_stream` returns None
        return sent

    async def _stream(
        self, server: str, backup: str, path: str, upload: _Upload
    ) -> Sequence[UploadedPart] | None:
        """Upload an archive while it is made; None where the Panel does not know that."""
        archive = upload.growing
        assert archive is not None  # noqa: S101 - see `begin`
        urls = PartUrls(self._panel, self._reactor, backup)
        try:
            await urls.signed(1)
        except BackupUploadFailed as error:
            if error.is_unknown_call:
                return None
            raise
        await archive.reach(1)
        return await self._send(server, backup, path, urls, archive)

    async def _send(
        self, server: str, backup: str, path: str, urls: PartUrls, archive: GrowingArchive
    ) -> Sequence[UploadedPart]:
        name = f"{server}: backup {backup}"
        self._log.info("{name}: its upload begins", name=name)
        began = self._reactor.seconds()
        file = await self._readers.run(_opened, path)
        try:
            kind = _CONTENT_TYPE_CALAGOPUS if self._is_calagopus else _CONTENT_TYPE
            part_limit, attempts = self._settings.part_upload_timeout, self._settings.retry_limit
            store = PartStore(self._reactor, self._readers, file, kind, part_limit)
            upload = MultipartUpload(self._reactor, urls, archive, store, name, attempts)
            parts = await upload.run()
        finally:
            os.close(file)
        self._log.info(
            "{name}: {parts} parts are uploaded, {seconds:.1f} s",
            name=name,
            parts=len(parts),
            seconds=self._reactor.seconds() - began,
        )
        return parts


def _opened(path: str) -> int:
    """Open an archive. Raises `StorageError`."""
    try:
        return os.open(path, FILE_FLAGS)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}", _NOT_READ) from error
