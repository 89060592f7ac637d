"""Sends one part of a backup to a store of S3's kind: one PUT to a signed URL.

Redirects are not followed, and addresses in private networks are used: it is the Panel that names
the store, and many are beside the node.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Callable
from functools import cache
from http import HTTPStatus
from typing import NoReturn
from urllib.parse import urlsplit

import attrs
import h11
from OpenSSL import SSL
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionDone, ConnectionLost, DNSLookupError
from twisted.internet.error import TimeoutError as TimedOut
from twisted.python.failure import Failure

from wingsd.errors import BackupUploadFailed, StorageError
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
from wingsd.threadio import ByteSource, Workers
from wingsd.util.reactor import Reactor
from wingsd.util.retry import Budget, Watch, seconds_asked_for

__all__ = ["PartNotSent", "PartStore", "Range", "StoreLimits", "UrlRefused"]

#: Bytes of one piece: all that is in memory of a part, beside what the connection holds.
PIECE = 256 * 1024
#: Seconds for which the store may acknowledge nothing of what it is sent.
SILENT_FOR = 120.0
#: Characters that are quoted from an answer.
MAX_QUOTE = 300
#: Bytes of an ETag: S3's have 34.
MAX_ETAG = 1024
#: Statuses and S3's own codes after which a part is sent again.
_TRY_AGAIN = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)
_TRY_AGAIN_CODES = ("RequestTimeout", "SlowDown", "InternalError", "OperationAborted")
_EXPIRED = re.compile("expired", re.IGNORECASE)
_NOT_READ = "the backup's archive could not be read"


class PartNotSent(Exception):
    """One part was not taken, and is to be sent again after `retry_after` seconds or more."""

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


@attrs.frozen
class StoreLimits:
    """Seconds for a whole part, and for which nothing of it may move on."""

    part: float = 7200.0
    stall: float = 300.0


class FileRange(ByteSource):
    """The `size` bytes from `start` on of an open file; `failed` gets the error of reading them.

    The next piece is read when the connection has taken the last one. The file may be closed
    before the range is.
    """

    def __init__(
        self,
        descriptor: int,
        start: int,
        size: int,
        disk: Workers,
        failed: Callable[[Exception], object],
    ) -> None:
        super().__init__()
        self._descriptor = os.dup(descriptor)
        self._at = start
        self._stop = start + size
        self._disk = disk
        self._failed = failed
        #: A piece that was read and is not delivered yet.
        self._piece = b""
        self._reading = False
        self._closed = False

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


class PartStore:
    """Sends parts of the archive that is open as `descriptor`.

    `disk` are the threads that read it.
    """

    def __init__(
        self,
        reactor: Reactor,
        disk: Workers,
        descriptor: int,
        content_type: str,
        limits: StoreLimits,
    ) -> None:
        self._reactor = reactor
        self._disk = disk
        self._descriptor = descriptor
        self._content_type = content_type
        self._limits = limits
        self._trust = cache(system_trust)  # reading them takes 10 ms

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

        body = FileRange(self._descriptor, part.start, part.size, self._disk, abort)
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
        limits, clock = self._limits, self._reactor
        whole, moving = Budget[None](clock, limits.part), Budget[None](clock, limits.stall)
        moving.compare(0)

        def check() -> None:
            moving.compare(body.bytes_out)
            if whole.is_over:
                exchange.abort(TimeoutError(f"it took more than {limits.part:g} s"))
            elif moving.is_over:
                exchange.abort(TimeoutError(f"nothing moved on for {limits.stall:g} s"))

        return Watch(clock, limits.stall / 8, check, "watching a part failed")


def _explain(error: Exception, host: str) -> NoReturn:
    """Raise the error for the reason that there is no answer."""
    if isinstance(error, CertificateRefused):
        is_chain_valid = error.code == OTHER_NAME
        fault = "it is for another name" if is_chain_valid else "certificate verify failed"
        raise BackupUploadFailed(
            f"the certificate of {host} is not valid for this node: {fault}; install "
            "a valid one there, or add its authority to those that this node's system trusts"
        ) from error
    raise PartNotSent(f"{host}: {_network_reason(error)}") from error


def _network_reason(error: Exception) -> str:
    match error:
        case DNSLookupError():
            return "its name is not known"
        case TimedOut():
            return f"it cannot be connected to within {CONNECT_WITHIN:g} s"
        case ConnectionDone() | ConnectionLost():
            return "it closed the connection without an answer"
        case SSL.Error():
            return f"there is no TLS that this node can speak ({tls_reason(error)})"
        case h11.RemoteProtocolError():
            return f"what it says is not HTTP ({error})"
    return reason_of(error)


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
