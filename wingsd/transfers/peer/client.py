"""A client of another node: its address, requests and uploads to it, and errors of its answers.

Each request is one `HttpExchange`; each way it can fail is a class in `wingsd.errors`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from http import HTTPStatus
from math import ceil
from typing import Any, NoReturn
from urllib.parse import SplitResult, urlsplit

import h11
from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, ConnectionDone, ConnectionLost, DNSLookupError
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.error import TimeoutError as TimedOut
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.python.failure import Failure

from wingsd import __version__
from wingsd.errors import (
    DestinationDisconnected,
    DestinationRefused,
    DestinationUnreachable,
    InvalidDestination,
)
from wingsd.http_upload.exchange import Answer, HttpExchange, PersistentConnections
from wingsd.panel.http_client import MAX_HEAD
from wingsd.threadio import Outflow
from wingsd.transfers.peer.peers import PeerTls, PeerVerifier
from wingsd.util.reactor import Reactor
from wingsd.util.retry import seconds_asked_for

__all__ = [
    "CONNECT_WITHIN",
    "GATEWAYS",
    "MAX_QUOTE",
    "PeerAddress",
    "PeerClient",
    "PeerUpload",
    "explanation",
    "judge",
    "plain",
]

#: Characters that are quoted from an answer.
MAX_QUOTE = 500
#: Statuses of a proxy that has no answer of the node's, which may still be at work. 520 to 524 are
#: Cloudflare's.
GATEWAYS = frozenset({408, 502, 503, 504, *range(520, 525)})


def judge(answer: Answer, *, may_be_early: bool = False) -> None:
    """Raise `DestinationRefused` for an answer that is not one of success."""
    status = f"{answer.code} {plain(answer.reason)}".rstrip()
    if answer.good and answer.early and not may_be_early:
        raise DestinationRefused(
            "the destination node answered before it had received everything",
            f"{status} came while the server was still being sent; see its log, and whether a "
            "proxy in front of it answers in its place",
            answer.code,
        )
    if answer.good:
        return
    if HTTPStatus.MULTIPLE_CHOICES <= answer.code < HTTPStatus.BAD_REQUEST:
        where = plain(answer.header("location")) or "nowhere"
        raise DestinationRefused(
            "the destination node redirects the upload",
            f"{status} points to {where}; give the node its right address in the Panel",
            answer.code,
        )
    error, detail = explanation(answer.body, status)
    # The text is about "this node", and is read in the console of another one.
    says = f"says: {error}" if error else f"answered {status}"
    if answer.code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE and not detail:
        detail = "a proxy in front of it limits how much may be sent; lift that limit"
    wait = ceil(seconds_asked_for(answer.header("retry-after")))
    again = f"try again in {wait} s" if wait else ""
    detail = "; ".join(filter(None, (detail, again)))
    raise DestinationRefused(
        f"the destination node {says}",
        detail,
        answer.code,
        may_complete=not error and answer.code in GATEWAYS,
    )


def explanation(body: bytes, status: str) -> tuple[str, str]:
    """Return `error` and `detail` of a node's answer; of any other, "" and its text.

    Go nodes do not answer with the reason, but with how to find it in their log.
    """
    text = body.decode("utf-8", "replace")
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        return "", plain(text)
    if not isinstance(answer, dict) or not isinstance(answer.get("error"), str):
        return "", plain(text)
    detail, request = answer.get("detail"), answer.get("request_id")
    if not detail and isinstance(request, str):
        detail = f"{status}; the reason is in its log, with request_id {request}"
    return plain(answer["error"]), plain(detail) if isinstance(detail, str) else ""


def plain(text: str) -> str:
    """Return the beginning of `text` as one line without control characters."""
    printable = "".join(each if each.isprintable() else " " for each in text)
    line = " ".join(printable.split())
    return line if len(line) <= MAX_QUOTE else f"{line[:MAX_QUOTE]}…"


#: Seconds to connect in, TLS included; for a question, to be answered in.
CONNECT_WITHIN = 30
PORTS = {"http": 80, "https": 443}
#: What to do when there is no connection.
HINTS: tuple[tuple[type[Exception], str], ...] = (
    (DNSLookupError, "the name {host} is not known; correct it {there}, or this node's DNS"),
    (Refused, "nothing listens at {address}; start that node, or correct its port {there}"),
    (TimedOut, "{address} is silent; let this node through the firewall in front of it"),
    (ConnectError, "there is no way to {address} ({error}); see this node's network"),
    (ConnectionDone, "{address} closed the connection before anything could be sent"),
    (ConnectionLost, "{address} closed the connection before anything could be sent"),
)


class PeerAddress:
    """The node at `url`. `source` is where the address was given, and can be corrected."""

    def __init__(self, url: str, reactor: Reactor, tls: PeerTls, source: str) -> None:
        """Raise `BadRequest` for an invalid URL.

        Raises `DestinationUnreachable` when the certificates to trust cannot be read.
        """
        self._url = _parse(url)
        self._host = self._url.hostname or ""
        self._reactor = reactor
        self._source = source
        self._context = tls.context() if self._url.scheme == "https" else None

    @property
    def netloc(self) -> str:
        """Host and port, as in the URL."""
        return self._url.netloc

    def target(self, below: str = "") -> str:
        """Return the target of a request: the URL's path with its query, or what is below it."""
        path = self._url.path
        if below:
            return path.rstrip("/") + below
        return (path or "/") + (f"?{self._url.query}" if self._url.query else "")

    def start(
        self,
        request: h11.Request,
        timeout: float,
        connections: PersistentConnections | None = None,
        **options: Any,
    ) -> tuple[HttpExchange, Deferred[Answer]]:
        """Begin to send a request, with the `options` of its `HttpExchange`; see its `start`.

        Requests of moves are sent on `connections`. Without an answer there is an error of
        `DestinationUnreachable`, `DestinationDisconnected`, or `CancelledError` after an abort.
        """
        port = self._url.port or PORTS[self._url.scheme]
        endpoint: IStreamClientEndpoint = HostnameEndpoint(
            self._reactor, self._host, port, CONNECT_WITHIN
        )
        verifier = None
        if self._context is not None:
            verifier = PeerVerifier(self._context, self._host)
            endpoint = wrapClientTLS(verifier, endpoint)
            options["verify"] = verifier.verify_name
        exchange = HttpExchange(self._reactor, request, **options)
        if connections is None:
            answer = exchange.start(endpoint, timeout)
        else:
            answer = connections.start(exchange, endpoint, timeout)
        is_upload = options.get("body") is not None
        is_question = self._context is None and connections is None and not is_upload

        def explain(failure: Failure) -> NoReturn:
            error = failure.value
            if isinstance(error, CancelledError | DestinationUnreachable):
                raise error
            if exchange.begun:
                reason = _ending(error)
                if is_question:
                    reason += "; if it serves TLS, its address begins with https://"
                sent = is_upload and connections is None and exchange.request_sent
                raise DestinationDisconnected(reason, body_sent=sent) from error
            if verifier is not None and verifier.fault is not None:
                raise verifier.fault from error
            raise DestinationUnreachable(
                "the destination node cannot be reached",
                _why_unreachable(error, self._host, self._url.netloc, self._source),
            ) from error

        answer.addErrback(explain)
        return exchange, answer


def _parse(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        fault = _fault(url, parts, parts.port)
    except ValueError as error:  # of brackets or of the port
        fault = str(error)
    if fault:
        raise InvalidDestination(
            "the destination's URL is invalid", f"{url[:MAX_QUOTE]!r}: {fault}"
        )
    return parts


def _fault(url: str, parts: SplitResult, port: int | None) -> str:
    if parts.scheme not in PORTS or not parts.hostname:
        return "it must be an http or https URL with a host"
    if port == 0:
        return "nothing listens at port 0"
    if parts.username is not None:
        return "it must not have a user in it"
    if not url.isascii() or not url.isprintable() or " " in url:
        return "write it in ASCII alone, an international name in its xn-- form"
    return ""


def _ending(error: object) -> str:
    match error:
        case ConnectionDone():
            return "it closed the connection"
        case ConnectionLost():
            return "the connection to it broke"
        case TimedOut():
            return str(error.args[0])
        case h11.RemoteProtocolError(error_status_hint=431):
            return f"the headers of its answer are longer than {MAX_HEAD // 1024} KiB"
        case h11.RemoteProtocolError():
            return f"what it said is not HTTP ({error})"
    return plain(str(error)) or type(error).__name__


def _why_unreachable(error: object, host: str, address: str, source: str) -> str:
    if isinstance(error, SSL.Error):
        reason = "; ".join(each[-1] for each in error.args[0]) if error.args else ""
        return (
            f"there is no TLS at {address} that this node can speak ({reason or 'no reason'}); "
            "see whether that is the node's port, and whether it serves HTTPS there"
        )
    for kind, hint in HINTS:
        if isinstance(error, kind):
            return hint.format(host=host, address=address, error=error, there=source)
    return f"{address}: {plain(str(error)) or type(error).__name__}"


class PeerClient:
    """A client of the node at `url`, with the whole value of the header `Authorization`.

    `address_source` is where the address was given, and can be corrected.
    """

    def __init__(
        self,
        url: str,
        authorization: str,
        reactor: Reactor,
        tls: PeerTls,
        address_source: str = "in the Panel",
    ) -> None:
        """Raise `BadRequest` for an invalid URL or header.

        Raises `DestinationUnreachable` when the certificates to trust cannot be read.
        """
        self._address = PeerAddress(url, reactor, tls, address_source)
        self._headers = [
            ("Host", self._address.netloc),
            ("User-Agent", f"wingsd/{__version__}"),
            ("Authorization", authorization),
            ("Connection", "close"),
        ]
        try:
            self._request("OPTIONS")
        except (h11.LocalProtocolError, UnicodeEncodeError) as error:
            raise InvalidDestination(
                "the destination's URL or token has invalid characters", "start the transfer again"
            ) from error

    async def features(self, headers: Iterable[tuple[str, str]] = ()) -> frozenset[str]:
        """Return the features of the node, by which it keeps more of a server than others.

        wingsd answers OPTIONS with them, in the header `Transfer-Features`, a comma list, and in
        the body, which every proxy passes on; other nodes give some other answer, and no
        features. `headers` are those of the request.
        Raises `DestinationUnreachable`, `DestinationDisconnected` without an answer, and
        `DestinationRefused` for that of a proxy which has none of the node's: it may have any.
        """
        answer = await self._address.start(self._request("OPTIONS", headers), CONNECT_WITHIN)[1]
        if answer.code in (*GATEWAYS, HTTPStatus.TOO_MANY_REQUESTS):
            judge(answer)
        if not answer.good:
            return frozenset()
        features = [*answer.header("transfer-features").split(","), *_listed(answer.body)]
        return frozenset(each.strip().lower() for each in features if each.strip())

    async def ask(self, method: str, content: bytes = b"") -> Answer:
        """Return the answer of success to a request with the JSON `content`.

        Raises `DestinationUnreachable`, `DestinationDisconnected`, and `DestinationRefused` for
        any other.
        """
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(content)))]
        request = self._request(method, headers)
        answer = await self._address.start(request, CONNECT_WITHIN, content=content)[1]
        judge(answer)
        return answer

    def upload(
        self,
        content_type: str,
        body: Outflow,
        stall_timeout: float,
        headers: Iterable[tuple[str, str]] = (),
        *,
        may_be_early: bool = False,
    ) -> PeerUpload:
        """Begin to send `body`, which is closed if the upload ends before it does.

        The node may leave data unacknowledged for `stall_timeout` seconds. `headers` are further
        ones of the request. With `may_be_early` the answer may come before the body was sent.
        """
        usual = [("Content-Type", content_type), ("Transfer-Encoding", "chunked")]
        request = self._request("POST", [*usual, *headers])
        exchange, answer = self._address.start(
            request, CONNECT_WITHIN, body=body, stall_timeout=stall_timeout
        )
        return PeerUpload(exchange, answer, may_be_early=may_be_early)

    def _request(self, method: str, headers: Iterable[tuple[str, str]] = ()) -> h11.Request:
        target = self._address.target()
        return h11.Request(method=method, target=target, headers=[*self._headers, *headers])


class PeerUpload:
    """An upload in progress.

    `answer` gives None when the node has accepted it: a 2xx after the whole body was sent, or at
    any time where it `may_be_early`. It fails with `DestinationUnreachable`, `DestinationRefused`
    (any other answer, whenever it comes), `DestinationDisconnected` (none), and with
    `CancelledError` after `abort`.
    """

    def __init__(
        self, exchange: HttpExchange, answer: Deferred[Answer], *, may_be_early: bool = False
    ) -> None:
        self._exchange = exchange
        self.answer: Deferred[None] = answer.addCallback(judge, may_be_early=may_be_early)

    @property
    def begun(self) -> bool:
        """Whether the node may have the headers."""
        return self._exchange.begun

    @property
    def body_sent(self) -> bool:
        """Whether the last byte was handed over for sending: before, the node cannot have all."""
        return self._exchange.request_sent

    def abort(self) -> None:
        """Close the connection at once."""
        self._exchange.abort(CancelledError())


def _listed(body: bytes) -> list[str]:
    """Return the features in the body of an answer."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return []
    listed = found.get("features") if isinstance(found, dict) else None
    if not isinstance(listed, list):
        return []
    return [each for each in listed if isinstance(each, str)]
