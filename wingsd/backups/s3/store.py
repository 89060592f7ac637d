"""Sends one part of a backup to a store of S3's kind: one PUT to a signed URL.

Redirects are not followed, and addresses in private networks are used: it is the Panel that names
the store, and many are beside the node.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import NoReturn
from urllib.parse import SplitResult, urlsplit

import h11
from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.defer import CancelledError
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectionDone, ConnectionLost, DNSLookupError
from twisted.internet.error import TimeoutError as TimedOut
from twisted.internet.interfaces import (
    IDelayedCall,
    IOpenSSLClientConnectionCreator,
    IStreamClientEndpoint,
)
from twisted.internet.ssl import optionsForClientTLS, platformTrust

from wingsd import __version__
from wingsd.backups.s3.errors import PartNotSent, UrlRefused
from wingsd.backups.s3.file_range import FileRange
from wingsd.backups.s3.parts import Range, StoreLimits
from wingsd.errors import BackupUploadFailed, StorageError
from wingsd.http_upload.exchange import Answer, HttpExchange
from wingsd.threadio import Workers
from wingsd.util.reactor import Reactor
from wingsd.util.retry import seconds_asked_for

__all__ = ["Store"]

#: Seconds to connect in, TLS included.
CONNECT_WITHIN = 30.0
#: Seconds for which the store may acknowledge nothing of what it is sent.
SILENT_FOR = 120.0
#: Characters that are quoted from an answer.
MAX_QUOTE = 300
#: Bytes of an ETag: S3's have 34.
MAX_ETAG = 1024
PORTS = {"http": 80, "https": 443}
#: Statuses and S3's own codes after which a part is sent again.
_TRY_AGAIN = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)
_TRY_AGAIN_CODES = ("RequestTimeout", "SlowDown", "InternalError", "OperationAborted")
_EXPIRED = re.compile("expired", re.IGNORECASE)


class Store:
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
        #: By host: the authorities that are trusted take 10 ms to read.
        self._tls: dict[str, IOpenSSLClientConnectionCreator] = {}

    async def put(self, url: str, part: Range) -> str:
        """Send a part from its beginning; return the ETag that the store gives it, as it is.

        Raises `UrlRefused`, `PartNotSent` where it may be sent again, `BackupUploadFailed` where
        that is of no use, `StorageError` when the archive cannot be read.
        """
        target = urlsplit(url)

        def abort(error: Exception) -> None:
            exchange.abort(error)

        body = FileRange(self._descriptor, part.start, part.size, self._disk, abort)
        exchange = HttpExchange(
            self._reactor,
            self._request(target, part.size),
            body,
            _trusted if target.scheme == "https" else None,
            SILENT_FOR,
        )
        watch = _Progress(self._reactor, self._limits, lambda: body.bytes_out, abort)
        try:
            answer = await exchange.start(self._endpoint(target), CONNECT_WITHIN)
        except (CancelledError, StorageError):
            raise
        except Exception as error:
            _explain(error, target.netloc)
        finally:
            watch.stop()
            body.close()
        return _etag(answer, target.netloc)

    def _request(self, target: SplitResult, size: int) -> h11.Request:
        path = (target.path or "/") + (f"?{target.query}" if target.query else "")
        headers = [
            ("Host", target.netloc),
            ("User-Agent", f"wingsd/{__version__}"),
            ("Content-Type", self._content_type),
            ("Content-Length", str(size)),
            ("Connection", "close"),
        ]
        return h11.Request(method="PUT", target=path, headers=headers)

    def _endpoint(self, target: SplitResult) -> IStreamClientEndpoint:
        host = target.hostname or ""
        port = target.port or PORTS[target.scheme]
        endpoint: IStreamClientEndpoint = HostnameEndpoint(
            self._reactor, host, port, CONNECT_WITHIN
        )
        if target.scheme == "https":
            if host not in self._tls:
                self._tls[host] = optionsForClientTLS(host, trustRoot=platformTrust())
            endpoint = wrapClientTLS(self._tls[host], endpoint)
        return endpoint


def _trusted(_: object) -> None:
    """Do nothing: Twisted has verified the store's certificate in the handshake."""


class _Progress:
    """Ends the upload of a part that takes too long, or of which nothing moves on."""

    def __init__(
        self,
        reactor: Reactor,
        limits: StoreLimits,
        moved: Callable[[], int],
        abort: Callable[[Exception], object],
    ) -> None:
        self._reactor = reactor
        self._limits = limits
        self._moved = moved
        self._abort = abort
        self._began = self._since = reactor.seconds()
        self._last = 0
        self._next: IDelayedCall = self._schedule()

    def stop(self) -> None:
        """Stop watching."""
        if self._next.active():
            self._next.cancel()

    def _schedule(self) -> IDelayedCall:
        later: IDelayedCall = self._reactor.callLater(self._limits.stall / 8, self._check)
        return later

    def _check(self) -> None:
        now, moved = self._reactor.seconds(), self._moved()
        if moved != self._last:
            self._last, self._since = moved, now
        if now - self._began >= self._limits.part:
            self._abort(TimeoutError(f"it took more than {self._limits.part:g} s"))
        elif now - self._since >= self._limits.stall:
            self._abort(TimeoutError(f"nothing moved on for {self._limits.stall:g} s"))
        else:
            self._next = self._schedule()


def _explain(error: Exception, host: str) -> NoReturn:
    """Raise the error for the reason that there is no answer."""
    if isinstance(error, VerificationError) or _is_untrusted(error):
        raise BackupUploadFailed(
            f"the certificate of {host} is not valid for this node: {_tls_reason(error)}; install "
            "a valid one there, or add its authority to those that this node's system trusts"
        ) from error
    raise PartNotSent(f"{host}: {_network_reason(error)}") from error


def _is_untrusted(error: Exception) -> bool:
    return isinstance(error, SSL.Error) and "certificate verify failed" in _tls_reason(error)


def _tls_reason(error: Exception) -> str:
    if isinstance(error, SSL.Error):
        return "; ".join(each[-1] for each in error.args[0]) if error.args else "no reason"
    return "it is for another name"


def _network_reason(error: Exception) -> str:
    match error:
        case DNSLookupError():
            return "its name is not known"
        case TimedOut():
            return f"it cannot be connected to within {CONNECT_WITHIN:g} s"
        case ConnectionDone() | ConnectionLost():
            return "it closed the connection without an answer"
        case SSL.Error():
            return f"there is no TLS that this node can speak ({_tls_reason(error)})"
        case h11.RemoteProtocolError():
            return f"what it says is not HTTP ({error})"
    return _plain(str(error)) or type(error).__name__


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
        return _plain(urlsplit(answer.header("location")).netloc) or "nowhere"
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
    return _plain(html.unescape(found[1])) if found else ""


def _quote(answer: Answer) -> str:
    text = answer.body[: 4 * MAX_QUOTE].decode("utf-8", "replace")
    return _plain(text) or _plain(answer.reason) or "nothing more"


def _plain(text: str) -> str:
    """Return the beginning of `text` as one line without control characters."""
    printable = "".join(each if each.isprintable() else " " for each in text[: 4 * MAX_QUOTE])
    line = " ".join(printable.split())
    return line if len(line) <= MAX_QUOTE else f"{line[:MAX_QUOTE]}…"
